"""Means and standard deviations of data that does not fit into memory at once."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDING = 8
"""Values whose standard deviation is at most this many units in the last place of their mean are constant."""


PRIOR_VALUES = 2
"""The typical variance of a column counts as much as this many values in :meth:`RunningMoments.shrunk`."""


class RunningMoments:
    """Count, mean and squared deviations of each column, accumulated chunk by chunk in float64.

    Sums are taken relative to the first value of each column. The deviation of equal values is therefore
    exactly zero, and values far from zero lose no digits of their differences.

    Attributes:
        count: The number of values so far.
        squares: The sum of their squared deviations from the mean.

    References:
        Algorithms for computing the sample variance: analysis and recommendations (Chan, Golub & LeVeque,
        1983).
    """

    def __init__(self) -> None:
        zero = torch.zeros((), dtype=torch.float64)
        self.count = self.squares = self._origin = self._mean = zero
        self._resolution = 0.0

    def add(self, numbers: Tensor, mask: Tensor) -> None:
        """Adds further values.

        Args:
            numbers: Rows of values in columns; anything, NaN included, outside the mask.
            mask: Which values count.
        """
        self._resolution = torch.finfo(numbers.dtype).eps
        count = mask.sum(dim=0).double()
        first = numbers.gather(0, mask.byte().argmax(dim=0, keepdim=True))[0].double()
        new = (self.count == 0) & (count > 0)
        self._origin = torch.where(new, first, self._origin)
        numbers = torch.where(mask, numbers.double() - self._origin, 0)
        mean = numbers.sum(dim=0) / count.clamp(min=1)
        self._merge(count, mean, torch.where(mask, numbers - mean, 0).square().sum(dim=0))

    def _merge(self, count: Tensor, mean: Tensor, squares: Tensor) -> None:
        total = self.count + count
        share, difference = count / total.clamp(min=1), mean - self._mean
        self.squares = self.squares + squares + difference.square() * self.count * share
        self._mean = self._mean + difference * share
        self.count = total

    def pooled(self) -> RunningMoments:
        """Returns the moments of the values pooled over the first axis of the columns."""
        pooled = RunningMoments()
        pooled.count = self.count.sum(dim=0)
        pooled._mean = (self.count * self.mean).sum(dim=0) / pooled.count.clamp(min=1)
        pooled.squares = (self.squares + self.count * (self.mean - pooled.mean).square()).sum(dim=0)
        return pooled

    @property
    def mean(self) -> Tensor:
        """The mean of the values; zero where there are none."""
        return self._origin + self._mean

    @property
    def deviation(self) -> Tensor:
        """The population standard deviation (divided by the count); zero where there are no values."""
        return (self.squares / self.count.clamp(min=1)).sqrt()

    def constant(self, loc: Tensor, scale: Tensor) -> Tensor:
        """Returns where a scale is no more than the rounding error of a location in the values' precision.

        Args:
            loc: Locations.
            scale: Scales.
        """
        return scale <= ROUNDING * self._resolution * loc.abs()

    def shrunk(self) -> tuple[Tensor, Tensor]:
        r"""Returns locations and scales in which columns with few values rely on the other columns.

        With n values of mean m and deviation s in a column, the location is the posterior mean
        :math:`(n m / v + M / \tau^2) / (n / v + 1 / \tau^2)`, v being the typical variance of a column and M,
        :math:`\tau` the mean and deviation of the columns' means. The squared scale is
        :math:`(n s^2 + k v) / (n + k)`, k = :data:`PRIOR_VALUES`. The scale is 1 where no value varies.
        """
        there = self.count > 0
        columns = there.sum(dim=0).clamp(min=1)
        many = self.count > 1
        variance = self.squares / self.count.clamp(min=1)
        typical = torch.where(many, variance, torch.nan).nanmedian(dim=0).values.nan_to_num()
        centre = torch.where(there, self.mean, 0).sum(dim=0) / columns
        spread = torch.where(there, self.mean - centre, 0).square().sum(dim=0) / columns
        typical = torch.where(typical > 0, typical, spread)
        typical = torch.where(typical > 0, typical, 1.0)
        weight = self.count * spread / (self.count * spread + typical)
        loc = centre + weight * torch.where(there, self.mean - centre, 0)
        scale = ((self.squares + PRIOR_VALUES * typical) / (self.count + PRIOR_VALUES)).sqrt()
        return loc, scale
