"""The base class of scores that are means: a ratio of two sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import Module
from torchmetrics import Metric

from tsgen.data.precision import at_least


class Mean(Metric):
    """A sum of scores divided by a sum of weights; several processes add both sums before the division."""

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("weight", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Module:
        """Moves the sums to another device; they stay in float64, as bfloat16 cannot count beyond 256."""
        return super()._apply(at_least(torch.float64, fn), exclude_state)

    def _add(self, score: Tensor, weight: Tensor) -> None:
        """Adds scores and their weights; the weight of a plain mean is 1 per score."""
        self.total += score.sum(dtype=torch.float64)
        self.weight += weight.sum(dtype=torch.float64)

    def compute(self) -> Tensor:
        """Returns the mean; NaN if nothing was scored."""
        return (self.total / self.weight).float()
