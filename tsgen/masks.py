r"""Patterns of hidden entries: seeded, composable, drawn for many windows at once.

A pattern answers True where an entry is hidden. The same classes thin what a model may read while it trains
(a new draw for each window and epoch) and hold entries out for evaluation (one draw over the whole series).
What is drawn for a window depends on its stream alone (see :mod:`tsgen.counter_random`), never on the batch
that it lies in.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tsgen.counter_random import streams, uniforms

Rate = float | tuple[float, float]
"""A probability, or two between which each window draws its own."""


def _check_rate(rate: Rate, name: str = "rate") -> Rate:
    """The rate, its bounds a tuple; raises unless all of it lies in 0..1."""
    rate = rate if isinstance(rate, (int, float)) else (rate[0], rate[1])
    for bound in _bounds(rate):
        if not 0 <= bound <= 1:
            raise ValueError(f"{name} must lie in 0..1; it is {bound}.")
    return rate


def _bounds(rate: Rate) -> tuple[float, float]:
    return rate if isinstance(rate, tuple) else (rate, rate)


def _draw_rate(rate: Rate, stream: Int64[Tensor, "batch"]) -> Float[Tensor, "batch 1 1 1"]:
    """Each window's own rate."""
    low, high = _bounds(rate)
    return low + (high - low) * uniforms(streams(1, stream), (1, 1, 1))


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

    def replaying(self, observed: list[Bool[Tensor, "_ nodes channels"]]) -> Mask:
        """The pattern once the data's own gaps are known: itself, unless it replays them.

        Args:
            observed: What was observed in each of the stretches whose gaps may be replayed.
        """
        return self


@dataclass
class PointMask(Mask):
    """Every entry is hidden on its own.

    Args:
        rate: The probability of being hidden; or two numbers, between which each window draws its own.
    """

    rate: float | tuple[float, float] = 0.25

    def __post_init__(self) -> None:
        self.rate = _check_rate(self.rate)

    def hidden(
        self, stream: Int64[Tensor, "batch"], shape: Sequence[int]
    ) -> Bool[Tensor, "batch time nodes channels"]:
        return uniforms(streams(2, stream), shape) < _draw_rate(self.rate, stream)


@dataclass
class BlockMask(Mask):
    """Failures: runs of consecutive steps of one node and channel, or of all of them at once.

    A failure starts at each entry (or slice) with a given probability and lasts a uniformly drawn number of
    steps. Failures that began before the window reach into it, so that its first steps are hidden as often
    as its last.

    Args:
        rate: The probability that a failure starts at an entry; or two numbers, between which each window
            draws its own.
        min_length: The shortest failure, in steps.
        max_length: The longest failure, in steps.
        over: What fails as one: a single node and channel, or the whole slice (an outage).

    Raises:
        ValueError: If the rate leaves 0..1, the lengths are out of order or ``over`` is neither.
    """

    rate: float | tuple[float, float] = 0.01
    min_length: int = 4
    max_length: int = 24
    over: Literal["entry", "slice"] = "entry"

    def __post_init__(self) -> None:
        self.rate = _check_rate(self.rate)
        if not 1 <= self.min_length <= self.max_length:
            raise ValueError(
                "lengths must be 1 <= min_length <= max_length; they are "
                f"{self.min_length} and {self.max_length} steps."
            )
        if self.over not in ("entry", "slice"):
            raise ValueError(f"over must be one of entry, slice; it is {self.over!r}.")

    def hidden(
        self, stream: Int64[Tensor, "batch"], shape: Sequence[int]
    ) -> Bool[Tensor, "batch time nodes channels"]:
        before = self.max_length - 1
        width = shape[1:] if self.over == "entry" else (1, 1)
        padded = (shape[0] + before, *width)
        starts = uniforms(streams(3, stream), padded) < _draw_rate(self.rate, stream)
        spread = self.max_length - self.min_length + 1
        length = self.min_length + (uniforms(streams(4, stream), padded) * spread).long()
        step = torch.arange(padded[0], device=stream.device)[:, None, None]
        end = torch.where(starts, step + length, 0).cummax(dim=1).values
        return (end > step)[:, before:].expand(-1, *shape)


@dataclass
class HistoricalMask(Mask):
    """The data's own gaps: what was missing in some other stretch as long as the window is hidden.

    The stretches come from the data module, by :meth:`replaying`; a stretch begins at any step from which a
    whole window follows, each as likely as any other.

    Raises:
        ValueError: When drawn from before it knows the data, or where no stretch is as long as a window.
    """

    def __post_init__(self) -> None:
        # the gaps of all stretches, one after another, and the stretches' lengths
        self.gaps, self.lengths = torch.empty(0, dtype=torch.bool), list[int]()

    def replaying(self, observed: list[Bool[Tensor, "_ nodes channels"]]) -> Mask:
        """The pattern that replays these gaps."""
        mask = copy.copy(self)
        mask.gaps, mask.lengths = ~torch.cat(observed), [len(stretch) for stretch in observed]
        return mask

    def hidden(
        self, stream: Int64[Tensor, "batch"], shape: Sequence[int]
    ) -> Bool[Tensor, "batch time nodes channels"]:
        starts, offset = [torch.arange(0)], 0
        for length in self.lengths:
            starts.append(offset + torch.arange(max(0, length - shape[0] + 1)))
            offset += length
        start = torch.cat(starts)
        if not len(start):
            raise ValueError(
                f"HistoricalMask needs a stretch of at least {shape[0]} steps to replay; it knows "
                f"{len(self.lengths)} stretches, of {offset} steps in all. Choose a shorter window; only "
                "data.thinning is told the data's gaps."
            )
        chosen = start[(uniforms(streams(6, stream), (1,), dtype=torch.float64) * len(start)).long()]
        return self.gaps[chosen + torch.arange(shape[0])]


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

    def replaying(self, observed: list[Bool[Tensor, "_ nodes channels"]]) -> Mask:
        """The patterns once the data's own gaps are known."""
        return replace(self, masks=[mask.replaying(observed) for mask in self.masks])


@dataclass
class OneOf(Mask):
    """Each window draws one of several patterns.

    Args:
        masks: The patterns; each draws from a stream of its own.
        weights: How often each is drawn, as shares of their sum; all alike if not given.
    """

    masks: list[Mask]
    weights: list[float] | None = None

    def __post_init__(self) -> None:
        if not self.masks:
            raise ValueError("masks must name at least one pattern; the list is empty.")
        weights = self._weights()
        if len(weights) != len(self.masks) or min(weights) < 0 or not 0 < sum(weights) < math.inf:
            raise ValueError(
                f"weights must be {len(self.masks)} numbers, one for each mask, none negative and not all "
                f"zero; they are {weights}."
            )

    def _weights(self) -> list[float]:
        return len(self.masks) * [1.0] if self.weights is None else self.weights

    def hidden(
        self, stream: Int64[Tensor, "batch"], shape: Sequence[int]
    ) -> Bool[Tensor, "batch time nodes channels"]:
        share = torch.tensor(self._weights()).cumsum(dim=0)
        chosen = (uniforms(streams(5, stream), (1,)) * share[-1] >= share[:-1]).sum(dim=1)
        drawn = [mask.hidden(streams(10 + i, stream), shape) for i, mask in enumerate(self.masks)]
        return torch.stack(drawn)[chosen, torch.arange(len(stream))]

    def replaying(self, observed: list[Bool[Tensor, "_ nodes channels"]]) -> Mask:
        """The patterns once the data's own gaps are known."""
        return replace(self, masks=[mask.replaying(observed) for mask in self.masks])


@dataclass
class PartOf(Mask):
    """A random part of what another pattern hides: each of its entries on its own.

    What an any-order model meets while it fills a gap in groups: the gap, some of it filled already.

    Args:
        mask: The pattern.
        share: The probability that an entry which it hides stays hidden; or two numbers, between which each
            window draws its own.

    Raises:
        ValueError: If the share leaves 0..1.
    """

    mask: Mask
    share: float | tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        self.share = _check_rate(self.share, "share")

    def hidden(
        self, stream: Int64[Tensor, "batch"], shape: Sequence[int]
    ) -> Bool[Tensor, "batch time nodes channels"]:
        part = uniforms(streams(7, stream), shape) < _draw_rate(self.share, stream)
        return self.mask.hidden(streams(10, stream), shape) & part

    def replaying(self, observed: list[Bool[Tensor, "_ nodes channels"]]) -> Mask:
        """The pattern once the data's own gaps are known."""
        return replace(self, mask=self.mask.replaying(observed))


def hold_out(mask: Mask, observed: Bool[Tensor, "time nodes channels"], seed: int) -> Bool[Tensor, "..."]:
    """The observed entries of a whole series that a pattern hides, to be scored later.

    Args:
        mask: The pattern, drawn once over the whole series.
        observed: Which entries are known.
        seed: Fixes the draw.
    """
    return mask.hidden(streams(seed, torch.zeros(1, dtype=torch.int64)), observed.shape)[0] & observed
