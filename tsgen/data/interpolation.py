r"""Interpolation of an entry from its nearest visible values in time, and its uncertainty.

Let a be the number of steps since the last visible value of the same node and channel, b the number of steps
until the next one, and y these values. The interpolation is the straight line between the two; its
uncertainty is the variance of a random walk tied down at both (a Brownian bridge), in units of the variance
of one step,

.. math:: \frac{b\, y_{t-a} + a\, y_{t+b}}{a + b}, \qquad v = \frac{a b}{a + b}.

If only one of the two exists, the line is constant and v is the distance to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

GAPS = {"1": 1, "2-5": 2, "6-24": 6, "> 24": 25}
"""Classes of gap lengths used to group scores, each with its shortest gap in steps."""


def gap_class(
    length: Int[np.ndarray, "*entries"], shortest: Sequence[int] = tuple(GAPS.values())
) -> Int[np.ndarray, "*entries"]:
    """Returns the number of each gap's class; -1 where there is no gap.

    Args:
        length: Lengths of gaps in steps, zero for none.
        shortest: The shortest gap of each class, in increasing order.
    """
    return np.searchsorted(shortest, length, side="right") - 1


class Nearest(NamedTuple):
    """Steps of the nearest visible values before and after each entry; a visible entry is its own nearest.

    Attributes:
        before: The step of the last visible value up to and including the entry; -1 if there is none.
        after: The step of the first visible value from the entry on; the length of the window if there is
            none.
    """

    before: Int64[Tensor, "batch time nodes channels"]
    after: Int64[Tensor, "batch time nodes channels"]

    @classmethod
    def of(cls, context: Bool[Tensor, "batch time nodes channels"]) -> Nearest:
        """Returns the nearest visible values of every entry.

        Args:
            context: Which entries are visible.
        """
        length, step = context.shape[1], _step(context)
        before = torch.where(context, step, -1).cummax(dim=1).values
        after = torch.where(context, step, length).flip(1).cummin(dim=1).values.flip(1)
        return cls(before, after)

    @property
    def nothing(self) -> Bool[Tensor, "batch time nodes channels"]:
        """True where no value is visible on either side."""
        return self.before.eq(-1) & self.after.eq(self.after.shape[1])

    @property
    def gap(self) -> Int64[Tensor, "batch time nodes channels"]:
        """The length in steps of the gap around each entry; zero where the entry is visible.

        A gap is a run of consecutive steps outside the context, of one node and channel and within one
        window.
        """
        return (self.after - self.before - 1).clamp(min=0)

    def distances(self) -> tuple[Float[Tensor, "*entries"], Float[Tensor, "*entries"]]:
        """Returns the numbers of steps since ``before`` and until ``after``; infinite without a value."""
        step = _step(self.before)
        since, until = (step - self.before).double(), (self.after - step).double()
        since = since.masked_fill(self.before.eq(-1), torch.inf)
        return since, until.masked_fill(self.after.eq(self.after.shape[1]), torch.inf)

    def walked(self) -> Float[Tensor, "batch time nodes channels"]:
        """Returns the variance of a random walk tied to both values, relative to the variance of one step.

        It is zero where the entry is visible and infinite where no value is visible on either side.
        """
        since, until = self.distances()
        # 1 / (1/a + 1/b) is also correct if a or b is zero or infinite
        return 1 / (1 / since + 1 / until)

    def ends(self) -> tuple[Int64[Tensor, "*entries"], Int64[Tensor, "*entries"], Float[Tensor, "*entries"]]:
        """Returns the first and last step of the line through each entry, and the entry's position on it, in
        0..1.

        If only one visible value exists, both ends are its step; if none exists, both are the entry's own
        step.
        """
        step, length = _step(self.before), self.before.shape[1]
        left = torch.where(self.before < 0, self.after, self.before)
        right = torch.where(self.after == length, self.before, self.after)
        left, right = (torch.where(self.nothing, step, end) for end in (left, right))
        return left, right, (step - left).double() / (right - left).clamp(min=1)

    def line(
        self, values: Float[Tensor, "batch time nodes channels"], otherwise: Float[Tensor, "nodes channels"]
    ) -> Float[Tensor, "batch time nodes channels"]:
        """Returns the linear interpolation between the nearest visible values.

        Args:
            values: The values of the windows.
            otherwise: The value used where no value is visible on either side.
        """
        left, right, share = self.ends()
        y_left, y_right = values.gather(1, left), values.gather(1, right)
        line = y_left + share.to(values.dtype) * (y_right - y_left)
        return torch.where(self.nothing, otherwise.expand_as(values), line)


def _step(entries: Tensor) -> Int64[Tensor, "batch time nodes channels"]:
    """Returns the number of each entry's step."""
    step = torch.arange(entries.shape[1], device=entries.device)
    return step[:, None, None].expand(entries.shape)
