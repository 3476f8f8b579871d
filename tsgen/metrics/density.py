"""Scores of densities."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric


class NLL(Metric):
    """Mean negative log-likelihood of the scored entries, in nats an entry. NaN if nothing was scored."""

    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, log_prob: Float[Tensor, "*entries"], mask: Bool[Tensor, "*entries"]) -> None:
        """Adds entries.

        Args:
            log_prob: Log-density of each entry in nats; zero outside the mask.
            mask: Which entries are scored.
        """
        self.total -= log_prob.sum(dtype=torch.float64)
        self.count += mask.sum()

    def compute(self) -> Tensor:
        """The mean."""
        return (self.total / self.count).float()
