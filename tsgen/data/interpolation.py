r"""What the nearest visible values in time say of an entry.

With a steps since the last visible value of the same node and channel, b steps until the next one and y those
values, the straight line between the two and the variance of a random walk that is tied to both,

.. math:: \frac{b\, y_{t-a} + a\, y_{t+b}}{a + b}, \qquad v = \frac{a b}{a + b} \text{ times that of a step.}

Where only one of the two exists the line is constant and v the distance to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

GAPS = {"1": 1, "2-5": 2, "6-24": 6, "> 24": 25}
"""Classes of gaps, by which scores are told apart, and the shortest gap of each in steps."""


def gap_class(
    length: Int[np.ndarray, "*entries"], shortest: Sequence[int] = tuple(GAPS.values())
) -> Int[np.ndarray, "*entries"]:
    """The number of each gap's class; -1 where there is no gap.

    Args:
        length: Lengths of gaps in steps, zero for none.
        shortest: The shortest gap of each class, rising.
    """
    return np.searchsorted(shortest, length, side="right") - 1


class Nearest(NamedTuple):
    """Where the nearest visible values before and after each entry are. A visible entry is its own nearest.

    Attributes:
        before: The step of the last visible value up to here; -1 if there is none.
        after: The step of the next visible value from here on; the window's length if there is none.
    """

    before: Int64[Tensor, "batch time nodes channels"]
    after: Int64[Tensor, "batch time nodes channels"]

    @classmethod
    def of(cls, context: Bool[Tensor, "batch time nodes channels"]) -> Nearest:
        """The nearest visible values.

        Args:
            context: Which entries are visible.
        """
        length, step = context.shape[1], _step(context)
        before = torch.where(context, step, -1).cummax(dim=1).values
        after = torch.where(context, step, length).flip(1).cummin(dim=1).values.flip(1)
        return cls(before, after)

    @property
    def nothing(self) -> Bool[Tensor, "batch time nodes channels"]:
        """Whether nothing is visible on either side."""
        return self.before.eq(-1) & self.after.eq(self.after.shape[1])

    @property
    def gap(self) -> Int64[Tensor, "batch time nodes channels"]:
        """The length in steps of the run of hidden entries of the same node and channel that an entry lies
        in; zero where it is visible. A run ends with the window."""
        return (self.after - self.before - 1).clamp(min=0)

    def distances(self) -> tuple[Float[Tensor, "*entries"], Float[Tensor, "*entries"]]:
        """Steps since the one and until the other; infinite where there is none."""
        step = _step(self.before)
        since, until = (step - self.before).double(), (self.after - step).double()
        since = since.masked_fill(self.before.eq(-1), torch.inf)
        return since, until.masked_fill(self.after.eq(self.after.shape[1]), torch.inf)

    def walked(self) -> Float[Tensor, "batch time nodes channels"]:
        """The variance of a random walk tied to both, in that of its steps: zero where visible, infinite
        where nothing is."""
        since, until = self.distances()
        # 1 / (1/a + 1/b) is right at zero and at infinity
        return 1 / (1 / since + 1 / until)

    def ends(self) -> tuple[Int64[Tensor, "*entries"], Int64[Tensor, "*entries"], Float[Tensor, "*entries"]]:
        """The steps that the line through an entry ends at, and how far from the first to the second the
        entry is, in 0..1. Both are the one that exists where there is but one, and the entry's own where
        there is none."""
        step, length = _step(self.before), self.before.shape[1]
        left = torch.where(self.before < 0, self.after, self.before)
        right = torch.where(self.after == length, self.before, self.after)
        left, right = (torch.where(self.nothing, step, end) for end in (left, right))
        return left, right, (step - left) / (right - left).clamp(min=1)

    def line(
        self, values: Float[Tensor, "batch time nodes channels"], otherwise: Float[Tensor, "nodes channels"]
    ) -> Float[Tensor, "batch time nodes channels"]:
        """The straight line between the two.

        Args:
            values: The windows' values.
            otherwise: What it is where nothing is visible on either side.
        """
        left, right, share = self.ends()
        y_left, y_right = values.gather(1, left), values.gather(1, right)
        return torch.where(self.nothing, otherwise.expand_as(values), y_left + share * (y_right - y_left))


def _step(entries: Tensor) -> Int64[Tensor, "batch time nodes channels"]:
    """The number of each entry's step."""
    step = torch.arange(entries.shape[1], device=entries.device)
    return step[:, None, None].expand(entries.shape)
