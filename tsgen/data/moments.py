"""Means and standard deviations of data that does not fit into memory at once."""

from __future__ import annotations

import torch
from torch import Tensor


class RunningMoments:
    """Count, mean and squared deviations of each column, accumulated chunk by chunk in float64.

    Attributes:
        count: The number of values so far.
        mean: Their mean; zero where there are none.
        squares: The sum of their squared deviations from the mean.

    References:
        Algorithms for computing the sample variance: analysis and recommendations (Chan, Golub & LeVeque,
        1983).
    """

    def __init__(self) -> None:
        self.count = self.mean = self.squares = torch.zeros((), dtype=torch.float64)

    def add(self, numbers: Tensor, mask: Tensor) -> None:
        """Adds further values.

        Args:
            numbers: Rows of values in columns; anything, NaN included, outside the mask.
            mask: Which values count.
        """
        count, numbers = mask.sum(dim=0).double(), torch.where(mask, numbers, 0).double()
        mean = numbers.sum(dim=0) / count.clamp(min=1)
        self._merge(count, mean, torch.where(mask, numbers - mean, 0).square().sum(dim=0))

    def _merge(self, count: Tensor, mean: Tensor, squares: Tensor) -> None:
        total = self.count + count
        share, difference = count / total.clamp(min=1), mean - self.mean
        self.squares = self.squares + squares + difference.square() * self.count * share
        self.mean = self.mean + difference * share
        self.count = total

    def pooled(self) -> RunningMoments:
        """Returns the moments of the values pooled over the first axis of the columns."""
        pooled = RunningMoments()
        pooled.count = self.count.sum(dim=0)
        pooled.mean = (self.count * self.mean).sum(dim=0) / pooled.count.clamp(min=1)
        pooled.squares = (self.squares + self.count * (self.mean - pooled.mean).square()).sum(dim=0)
        return pooled

    @property
    def deviation(self) -> Tensor:
        """The population standard deviation (divided by the count); zero where there are no values."""
        return (self.squares / self.count.clamp(min=1)).sqrt()
