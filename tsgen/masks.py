r"""Patterns of hidden entries: seeded, composable, drawn for many windows at once.

A pattern answers True where an entry is hidden. The same classes thin what a model may read while it trains
(a new draw for each window and epoch) and hold entries out for evaluation (one draw over the whole series).
What is drawn for a window depends on its stream alone (see :mod:`tsgen.counter_random`), never on the batch
that it lies in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from tsgen.counter_random import streams, uniforms


def _check_rate(name: str, rate: float) -> None:
    if not 0 <= rate <= 1:
        raise ValueError(f"{name} must lie in 0..1; it is {rate}.")


class Mask(ABC):
    """A law of hidden entries."""

    @abstractmethod
    def hidden(
        self, stream: Int64[Tensor, "batch"], shape: Sequence[int]
    ) -> Bool[Tensor, "batch time nodes channels"]:
        """Draws which entries are hidden.

        Args:
            stream: One random stream for each window.
            shape: The window's time steps, nodes and channels.
        """


@dataclass
class PointMask(Mask):
    """Every entry is hidden on its own.

    Args:
        rate: The probability of being hidden; or two numbers, between which each window draws its own.
    """

    rate: float | tuple[float, float] = 0.25

    def __post_init__(self) -> None:
        if not isinstance(self.rate, (int, float)):
            low, high = self.rate
            self.rate = (low, high)
        for rate in self._bounds():
            _check_rate("rate", rate)

    def _bounds(self) -> tuple[float, float]:
        return self.rate if isinstance(self.rate, tuple) else (self.rate, self.rate)

    def hidden(
        self, stream: Int64[Tensor, "batch"], shape: Sequence[int]
    ) -> Bool[Tensor, "batch time nodes channels"]:
        low, high = self._bounds()
        rate = low + (high - low) * uniforms(streams(1, stream), (1, 1, 1))
        return uniforms(streams(2, stream), shape) < rate


@dataclass
class BlockMask(Mask):
    """Failures: runs of consecutive steps of one node and channel.

    A failure starts at each entry with a given probability and lasts a uniformly drawn number of steps.
    Failures that began before the window reach into it, so that its first steps are hidden as often as its
    last.

    Args:
        rate: The probability that a failure starts at an entry.
        min_length: The shortest failure, in steps.
        max_length: The longest failure, in steps.
    """

    rate: float = 0.01
    min_length: int = 4
    max_length: int = 24

    def __post_init__(self) -> None:
        _check_rate("rate", self.rate)
        if not 1 <= self.min_length <= self.max_length:
            raise ValueError(
                "lengths must be 1 <= min_length <= max_length; they are "
                f"{self.min_length} and {self.max_length} steps."
            )

    def hidden(
        self, stream: Int64[Tensor, "batch"], shape: Sequence[int]
    ) -> Bool[Tensor, "batch time nodes channels"]:
        before = self.max_length - 1
        padded = (shape[0] + before, *shape[1:])
        starts = uniforms(streams(3, stream), padded) < self.rate
        spread = self.max_length - self.min_length + 1
        length = self.min_length + (uniforms(streams(4, stream), padded) * spread).long()
        step = torch.arange(padded[0], device=stream.device)[:, None, None]
        end = torch.where(starts, step + length, 0).cummax(dim=1).values
        return (end > step)[:, before:]


@dataclass
class AnyOf(Mask):
    """An entry is hidden where any of several patterns hides it.

    Args:
        masks: The patterns; each draws from a stream of its own.
    """

    masks: list[Mask]

    def __post_init__(self) -> None:
        if not self.masks:
            raise ValueError("masks must name at least one pattern; the list is empty.")

    def hidden(
        self, stream: Int64[Tensor, "batch"], shape: Sequence[int]
    ) -> Bool[Tensor, "batch time nodes channels"]:
        drawn = [mask.hidden(streams(10 + i, stream), shape) for i, mask in enumerate(self.masks)]
        return torch.stack(drawn).any(dim=0)


def hold_out(mask: Mask, observed: Bool[Tensor, "time nodes channels"], seed: int) -> Bool[Tensor, "..."]:
    """The observed entries of a whole series that a pattern hides, to be scored later.

    Args:
        mask: The pattern, drawn once over the whole series.
        observed: Which entries are known.
        seed: Fixes the draw.
    """
    return mask.hidden(streams(seed, torch.zeros(1, dtype=torch.int64)), observed.shape)[0] & observed
