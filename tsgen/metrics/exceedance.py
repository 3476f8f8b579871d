r"""Scores of statements about thresholds and quantiles: "more than x", and "at most q with probability p".

For draws :math:`x_1, .., x_S` of an entry with truth y and a threshold x there are

* the probability of more than x, :math:`P = \frac1S \sum_i 1\{x_i > x\}`, and its fair Brier score,
  :math:`(P - 1\{y > x\})^2 - P (1 - P) / (S - 1)`;
* the threshold-weighted CRPS, which only scores the law above x: the CRPS of max(draws, x) and max(y, x);
* a reliability table: entries grouped by deciles of P, with the share of them that exceeded x.

For levels p there is the quantile (pinball) score of the quantile q, :math:`(1\{y \le q\} - p)(q - y)`.

References:
    Comparing density forecasts using threshold- and quantile-weighted scoring rules (Gneiting & Ranjan,
        2011);
    Evaluating forecasts for high-impact events using transformed kernel scores (Allen, Ginsbourger & Ziegel,
        2023);
    Fair scores for ensemble forecasts (Ferro, 2014).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module
from torchmetrics import Metric

from tsgen.argument_types import check_shapes
from tsgen.data.precision import at_least
from tsgen.metrics.ensemble import calibrated_quantiles, crps
from tsgen.metrics.rounding import rounded

BINS = 10
"""The number of bins of predicted probabilities in a reliability table."""

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
"""The levels of the quantile scores."""


@check_shapes
def threshold_weighted_crps(
    samples: Float[Tensor, "samples *entries"], truth: Float[Tensor, "*entries"], threshold: float
) -> Float[Tensor, "*entries"]:
    r"""Returns the fair CRPS of each entry with weight 1 above a threshold x and 0 below, in data units.

    It estimates :math:`\int_x^\infty (F(z) - 1\{y \le z\})^2 dz`.

    Args:
        samples: Draws, in data units.
        truth: The true values.
        threshold: The threshold x, in data units.
    """
    return crps(samples.clamp(min=threshold), truth.clamp(min=threshold))


@check_shapes
def brier_score(
    samples: Float[Tensor, "samples *entries"], truth: Float[Tensor, "*entries"], threshold: float
) -> Float[Tensor, "*entries"]:
    """Returns the Brier score of "more than the threshold" of each entry, fair for two draws or more.

    Args:
        samples: Draws, in data units.
        truth: The true values.
        threshold: The threshold, in data units.

    Raises:
        ValueError: If there are no draws.
    """
    size = len(samples)
    if not size:
        raise ValueError("samples must have at least one draw of each entry; they have none.")
    probability = (samples > threshold).to(truth.dtype).mean(dim=0)
    error = probability - (truth > threshold).to(truth.dtype)
    return error.square() - probability * (1 - probability) / max(size - 1, 1)


class _Sums(Metric):
    """A metric whose states are sums in float64, whatever the precision of the model."""

    full_state_update = False

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> Module:
        """Moves the sums to another device; bfloat16 cannot count beyond 256."""
        return super()._apply(at_least(torch.float64, fn), exclude_state)

    def _add_sum(self, name: str, *shape: int) -> None:
        self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")


@check_shapes
class ExceedanceScores(_Sums):
    """Brier score, threshold-weighted CRPS and reliability table of "more than x" for some thresholds x.

    Args:
        thresholds: The thresholds, in data units.

    Raises:
        ValueError: If there are none or one is not finite.
    """

    sums: Tensor
    bins: Tensor

    def __init__(self, thresholds: Sequence[float]) -> None:
        super().__init__()
        if not thresholds or not all(math.isfinite(x) for x in thresholds):
            raise ValueError(
                f"thresholds must be one or more finite numbers; they are {[*thresholds]!s:.60}."
            )
        self.thresholds = [float(x) for x in thresholds]
        # the sums of Brier scores and of CRPS; the sums of entries, probabilities and events of each bin
        self._add_sum("sums", len(self.thresholds), 2)
        self._add_sum("bins", len(self.thresholds), BINS, 3)

    @check_shapes
    def update(self, samples: Float[Tensor, "samples entries"], truth: Float[Tensor, "entries"]) -> None:
        """Adds entries.

        Args:
            samples: Draws, in data units.
            truth: The true values, in data units.
        """
        size = len(samples)
        for row, threshold in enumerate(self.thresholds):
            brier = brier_score(samples.double(), truth.double(), threshold)
            weighted = threshold_weighted_crps(samples, truth, threshold)
            self.sums[row] += torch.stack([brier.sum(), weighted.sum(dtype=torch.float64)])
            above = (samples > threshold).sum(dim=0)
            # integer arithmetic, so that rounding does not decide about a probability on a border
            decile = (above * BINS // size).clamp(max=BINS - 1)
            events = (truth > threshold).double()
            each = torch.stack([torch.ones_like(events), above / size, events], dim=1)
            self.bins[row].index_add_(0, decile, each.to(self.bins.dtype))

    def compute(self) -> dict[str, Tensor]:
        """Returns ``brier`` and ``crps_above``, the means of each threshold, and ``bins``.

        The means are NaN if nothing was scored. ``bins`` has the sums of entries, probabilities and events by
        deciles of the probability.
        """
        means = self.sums / self.bins[..., 0].sum(dim=1, keepdim=True)
        return {"brier": means[:, 0], "crps_above": means[:, 1], "bins": self.bins.clone()}

    def table(self) -> list[dict[str, Any]]:
        """Returns one row per threshold; a score is None if nothing was scored.

        ``probability`` is the mean probability of more than the threshold, ``frequency`` the share of entries
        that exceeded it, and ``reliability`` has the same by deciles of the probability.
        """
        rows = []
        # compute() adds the sums of all processes, and makes one number a scalar
        computed = self.compute()
        for i, (threshold, bins) in enumerate(zip(self.thresholds, computed["bins"], strict=True)):
            row: dict[str, Any] = {"threshold": threshold, **_shares(bins.sum(dim=0))}
            row |= {name: _number(float(computed[name].view(-1)[i])) for name in ("brier", "crps_above")}
            edges = [{"from": i / BINS, "to": (i + 1) / BINS} for i in range(BINS)]
            row["reliability"] = [edge | _shares(b) for edge, b in zip(edges, bins, strict=True)]
            rows.append(row)
        return rows


def _shares(sums: Tensor) -> dict[str, Any]:
    """Returns the number of entries, their mean probability and the frequency of their events."""
    entries, probability, events = sums.tolist()
    if not entries:
        return {"entries": 0, "probability": None, "frequency": None}
    return {
        "entries": int(entries),
        "probability": rounded(probability / entries),
        "frequency": rounded(events / entries),
    }


def _number(x: float) -> float | None:
    return None if math.isnan(x) else rounded(x)


@check_shapes
class QuantileScores(_Sums):
    """Quantile (pinball) scores for some levels, with the shares of truths below and at most the quantiles.

    For a law without atoms both shares equal the level. For one with atoms the level lies between them.

    Args:
        levels: The levels, in (0, 1).

    Raises:
        ValueError: If there are none or one is out of range.
    """

    higher_is_better = False
    sums: Tensor
    count: Tensor

    def __init__(self, levels: Sequence[float] = LEVELS) -> None:
        super().__init__()
        if not levels or not all(0 < level < 1 for level in levels):
            raise ValueError(f"levels must be one or more numbers in (0, 1); they are {[*levels]!s:.60}.")
        self.levels = [float(level) for level in levels]
        self._add_sum("sums", len(self.levels), 3)
        self._add_sum("count")

    @check_shapes
    def update(self, samples: Float[Tensor, "samples entries"], truth: Float[Tensor, "entries"]) -> None:
        """Adds entries.

        Args:
            samples: Draws, in data units.
            truth: The true values, in data units.
        """
        quantile = calibrated_quantiles(samples.sort(dim=0).values, self.levels).double()
        level = quantile.new_tensor(self.levels)[:, None]
        at_most = (truth <= quantile).double()
        score = (at_most - level) * (quantile - truth)
        each = torch.stack([score, (truth < quantile).double(), at_most], dim=-1)
        self.sums += each.sum(dim=1).to(self.sums)
        self.count += truth.numel()

    def compute(self) -> Float[Tensor, "levels 3"]:
        """Returns the mean score of each level, in data units, and the shares of truths below and at most the
        quantile; NaN if nothing was scored."""
        return self.sums / self.count

    def table(self) -> list[dict[str, Any]]:
        """Returns one row per level: the score, and the shares of truths below and at most the quantile."""
        return [
            {"level": level, "score": _number(score), "below": _number(below), "at_most": _number(at_most)}
            for level, (score, below, at_most) in zip(self.levels, self.compute().tolist(), strict=True)
        ]
