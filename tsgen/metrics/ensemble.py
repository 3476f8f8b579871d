r"""Scores of samples against the truth.

Every score takes draws ``[samples, entries]`` and truth ``[entries]`` (see :func:`entries`). With draws
:math:`x_1, .., x_S` of an entry whose truth is y:

* the absolute and squared error of their median;
* the fair CRPS, unbiased in the number of samples, in O(S log S) from the sorted draws,

  .. math:: \frac1S \sum_i |x_i - y| - \frac{1}{2 S (S - 1)} \sum_{i,j} |x_i - x_j|;

* the normalised quantile CRPS of the imputation papers, :math:`\operatorname{mean}_q 2 \sum |(x_q - y)(1\{y
  \le x_q\} - q)| / \sum |y|` over q = 0.05, 0.10, .., 0.95;
* how often the central interval of a level covers the truth, and how wide it is. Its ends are order
  statistics at position p (S + 1), between which a calibrated truth lies with exactly that probability; the
  quantiles of most libraries, at 1 + p (S - 1), would cover only level (S - 1) / (S + 1).

References:
    Strictly proper scoring rules, prediction, and estimation (Gneiting & Raftery, 2007);
    Fair scores for ensemble forecasts (Ferro, 2014);
    CSDI: conditional score-based diffusion models for probabilistic time series imputation (Tashiro et al.,
        2021).
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from tsgen.series import SeriesBatch


def entries(
    samples: Float[Tensor, "samples batch time nodes channels"], batch: SeriesBatch
) -> tuple[Float[Tensor, "samples entries"], Float[Tensor, "entries"]]:
    """Draws and truth of the entries that are hidden and scored."""
    return samples[:, batch.hidden], batch.values[batch.hidden]


def empirical_quantiles(
    ordered: Float[Tensor, "samples *entries"], levels: Float[Tensor, "levels"]
) -> Float[Tensor, "levels *entries"]:
    """Quantiles of draws that are sorted along their first axis, linear between neighbours.

    torch.quantile gives the same, but sorts again and refuses more than 16 million numbers.
    """
    at = levels.to(ordered) * (len(ordered) - 1)
    below = at.floor().long()
    above = (below + 1).clamp(max=len(ordered) - 1)
    share = (at - below).view(-1, *[1] * (ordered.dim() - 1))
    return torch.lerp(ordered[below], ordered[above], share)


def central_interval(
    ordered: Float[Tensor, "samples *entries"], level: float
) -> tuple[Float[Tensor, "*entries"], Float[Tensor, "*entries"]]:
    """Ends of the central interval that a calibrated truth lies in with probability ``level``.

    Args:
        ordered: Draws, sorted along their first axis. With too few for the level the interval is their range.
        level: Nominal coverage, in (0, 1).
    """
    size = len(ordered)
    place = [((1 + side * level) / 2 * (size + 1) - 1) / max(size - 1, 1) for side in (-1, 1)]
    low, high = empirical_quantiles(ordered, torch.tensor(place, dtype=torch.float64).clamp(0, 1))
    return low, high


def crps(
    samples: Float[Tensor, "samples *entries"], truth: Float[Tensor, "*entries"]
) -> Float[Tensor, "*entries"]:
    """The fair CRPS of each entry, in data units; of a single draw, its absolute error."""
    errors = samples - truth
    error = errors.abs().mean(dim=0)
    size = len(samples)
    if size == 1:
        return error
    ordered = errors.sort(dim=0).values
    # sum over pairs i<j of x_j - x_i = sum over i of (2 i - S + 1) x_i, i from 0
    weight = 2 * torch.arange(size, device=ordered.device, dtype=ordered.dtype) - (size - 1)
    return error - torch.tensordot(weight, ordered, dims=1) / (size * (size - 1))


class _MeanScore(Metric):
    """A score that is a ratio of two sums over entries."""

    full_state_update = False
    total: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("weight", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    @abstractmethod
    def _score(self, samples: Tensor, truth: Tensor) -> Tensor:
        """The score of each entry."""

    def _weight(self, truth: Tensor) -> Tensor:
        """What the sum of the scores is divided by."""
        return torch.ones_like(truth)

    def update(self, samples: Float[Tensor, "samples entries"], truth: Float[Tensor, "entries"]) -> None:
        """Adds entries.

        Args:
            samples: Draws, in data units.
            truth: The true values, in data units.
        """
        self.total += self._score(samples, truth).sum(dtype=torch.float64)
        self.weight += self._weight(truth).sum(dtype=torch.float64)

    def compute(self) -> Tensor:
        """The score; NaN if nothing was scored."""
        return (self.total / self.weight).float()


def _median(samples: Tensor) -> Tensor:
    return empirical_quantiles(samples.sort(dim=0).values, torch.tensor([0.5]))[0]


class MAE(_MeanScore):
    """Mean absolute error of the median, in data units."""

    higher_is_better = False

    def _score(self, samples: Tensor, truth: Tensor) -> Tensor:
        return (_median(samples) - truth).abs()


class RMSE(_MeanScore):
    """Root mean squared error of the median, in data units."""

    higher_is_better = False

    def _score(self, samples: Tensor, truth: Tensor) -> Tensor:
        return (_median(samples) - truth).square()

    def compute(self) -> Tensor:
        """The score; NaN if nothing was scored."""
        return super().compute().sqrt()


class MRE(MAE):
    """Mean relative error of the median: the sum of absolute errors over the sum of absolute truths."""

    def _weight(self, truth: Tensor) -> Tensor:
        return truth.abs()


class CRPS(_MeanScore):
    """Mean fair continuous ranked probability score, in data units."""

    higher_is_better = False

    def _score(self, samples: Tensor, truth: Tensor) -> Tensor:
        return crps(samples, truth)


class QuantileCRPS(_MeanScore):
    """The imputation papers' normalised CRPS: the mean quantile loss at 19 levels over the sum of absolute
    truths."""

    higher_is_better = False

    def _score(self, samples: Tensor, truth: Tensor) -> Tensor:
        levels = torch.linspace(0.05, 0.95, 19, device=samples.device)
        error = empirical_quantiles(samples.sort(dim=0).values, levels) - truth
        return (2 * error * ((error >= 0).to(error.dtype) - levels[:, None])).abs().mean(dim=0)

    def _weight(self, truth: Tensor) -> Tensor:
        return truth.abs()


class _CentralInterval(_MeanScore):
    """A score of the central interval of a level.

    Args:
        level: The interval's nominal coverage, in (0, 1).

    Raises:
        ValueError: If the level is out of range.
    """

    def __init__(self, level: float) -> None:
        super().__init__()
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1; it is {level}.")
        self.level = level

    def _bounds(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        return central_interval(samples.sort(dim=0).values, self.level)


class Coverage(_CentralInterval):
    """Share of the truths that lie in the central interval. It should be the level."""

    def _score(self, samples: Tensor, truth: Tensor) -> Tensor:
        low, high = self._bounds(samples)
        return ((low <= truth) & (truth <= high)).to(truth.dtype)


class Width(_CentralInterval):
    """Mean width of the central interval, in data units."""

    higher_is_better = False

    def _score(self, samples: Tensor, truth: Tensor) -> Tensor:
        low, high = self._bounds(samples)
        return high - low


def scores() -> MetricCollection:
    """All scores of samples, by their short names."""
    return MetricCollection(
        {
            "mae": MAE(),
            "rmse": RMSE(),
            "mre": MRE(),
            "crps": CRPS(),
            "crps_quantile": QuantileCRPS(),
            "coverage_50": Coverage(0.5),
            "coverage_90": Coverage(0.9),
            "width_50": Width(0.5),
            "width_90": Width(0.9),
        },
        # groups would merge scores whose states happen to be equal after the first batch
        compute_groups=False,
    )
