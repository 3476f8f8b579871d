"""Means and deviations of what does not fit into memory at once."""

from __future__ import annotations

import torch
from torch import Tensor


class RunningMoments:
    """Count, mean and squared deviations of each column, of numbers that come in parts, in float64.

    Attributes:
        count: Numbers so far.
        mean: Their mean; zero where there are none.
        squares: The sum of their squared distances from it.

    References:
        Algorithms for computing the sample variance: analysis and recommendations (Chan, Golub & LeVeque,
        1983).
    """

    def __init__(self) -> None:
        self.count = self.mean = self.squares = torch.zeros((), dtype=torch.float64)

    def add(self, numbers: Tensor, mask: Tensor) -> None:
        """Takes in further numbers.

        Args:
            numbers: Rows of columns; anything, NaN included, where they do not count.
            mask: Where they count.
        """
        count, numbers = mask.sum(dim=0).double(), torch.where(mask, numbers, 0).double()
        mean = numbers.sum(dim=0) / count.clamp(min=1)
        self._merge(count, mean, torch.where(mask, numbers - mean, 0).square().sum(dim=0))

    def _merge(self, count: Tensor, mean: Tensor, squares: Tensor) -> None:
        total = self.count + count
        share, apart = count / total.clamp(min=1), mean - self.mean
        self.squares = self.squares + squares + apart.square() * self.count * share
        self.mean = self.mean + apart * share
        self.count = total

    def pooled(self) -> RunningMoments:
        """Those of all columns along the first axis together."""
        every = RunningMoments()
        every.count = self.count.sum(dim=0)
        every.mean = (self.count * self.mean).sum(dim=0) / every.count.clamp(min=1)
        every.squares = (self.squares + self.count * (self.mean - every.mean).square()).sum(dim=0)
        return every

    @property
    def deviation(self) -> Tensor:
        """The standard deviation, of all numbers rather than of a sample; zero where there are none."""
        return (self.squares / self.count.clamp(min=1)).sqrt()
