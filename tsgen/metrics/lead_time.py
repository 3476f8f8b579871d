"""Scores by lead time: how an error grows with the steps ahead."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric

from tsgen.metrics.ensemble import crps, empirical_quantiles


class LeadTimeScores(Metric):
    """The absolute error of the median, the fair CRPS and the negative log-likelihood of each of a window's
    last steps.

    Args:
        horizon: The number of steps; the first of them has lead time 1.
    """

    full_state_update = False
    sums: Tensor
    counts: Tensor

    NAMES = ("mae", "crps", "nll")

    def __init__(self, horizon: int) -> None:
        super().__init__()
        self.horizon = horizon
        for name in ("sums", "counts"):
            zeros = torch.zeros(horizon, len(self.NAMES), dtype=torch.float64)
            self.add_state(name, zeros, dist_reduce_fx="sum")

    def update(
        self,
        samples: Float[Tensor, "samples batch time nodes channels"],
        truth: Float[Tensor, "batch time nodes channels"],
        mask: Bool[Tensor, "batch time nodes channels"],
        log_prob: Float[Tensor, "batch time nodes channels"] | None = None,
    ) -> None:
        """Adds windows.

        Args:
            samples: Draws, in data units.
            truth: The true values; anything outside the mask.
            mask: Which entries are scored.
            log_prob: Log-density of each of them in nats; None where the answer has no density.
        """
        last = slice(-self.horizon, None)
        samples, truth, mask = samples[:, :, last], truth[:, last], mask[:, last]
        truth = torch.where(mask, truth, 0)
        density = torch.zeros_like(truth) if log_prob is None else log_prob[:, last]
        scores = (
            (empirical_quantiles(samples.sort(dim=0).values, torch.tensor([0.5]))[0] - truth).abs(),
            crps(samples, truth),
            -density,
        )
        per_step = [torch.where(mask, score, 0).sum(dim=(0, 2, 3), dtype=torch.float64) for score in scores]
        count = mask.sum(dim=(0, 2, 3)).double()
        self.sums += torch.stack(per_step, dim=1)
        self.counts += torch.stack([count, count, count * (log_prob is not None)], dim=1)

    def compute(self) -> Float[Tensor, "horizon columns"]:
        """The mean scores, in data units and nats an entry, NaN where nothing was scored; and, last, how many
        entries each is a mean of."""
        return torch.cat([self.sums / self.counts, self.counts[:, :1]], dim=1)

    def table(self) -> list[dict[str, float | int | None]]:
        """One row a lead time, with the scores by their names; None where nothing was scored."""
        return [
            {"lead": lead, "entries": int(entries)}
            | {name: None if x != x else round(x, 6) for name, x in zip(self.NAMES, row, strict=True)}
            for lead, (*row, entries) in enumerate(self.compute().tolist(), start=1)
        ]
