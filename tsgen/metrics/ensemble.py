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
  quantiles of most libraries, at 1 + p (S - 1), would cover only level (S - 1) / (S + 1);
* both in one, the interval score of the interval [l, u] of level :math:`1 - \alpha`,

  .. math:: u - l + \frac2\alpha (l - y)_+ + \frac2\alpha (y - u)_+;

* the rank of the truth among the draws, uniform on 0, .., S if truth and draws follow the same law.

References:
    Strictly proper scoring rules, prediction, and estimation (Gneiting & Raftery, 2007);
    Fair scores for ensemble forecasts (Ferro, 2014);
    Interpretation of rank histograms for verifying ensemble forecasts (Hamill, 2001);
    CSDI: conditional score-based diffusion models for probabilistic time series imputation (Tashiro et al.,
        2021).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from tsgen.data.series import SeriesBatch
from tsgen.metrics.mean import Mean
from tsgen.metrics.ranks import rank_edges


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


def calibrated_quantiles(
    ordered: Float[Tensor, "samples *entries"], levels: Sequence[float]
) -> Float[Tensor, "levels *entries"]:
    """Values that a calibrated truth falls below with just these probabilities.

    They are the order statistics at p (S + 1), linear between neighbours.

    Args:
        ordered: Draws, sorted along their first axis. With too few for a level the outermost one is taken.
        levels: Probabilities, in (0, 1).
    """
    size = len(ordered)
    place = (torch.tensor(levels, dtype=torch.float64) * (size + 1) - 1) / max(size - 1, 1)
    return empirical_quantiles(ordered, place.clamp(0, 1))


def central_interval(
    ordered: Float[Tensor, "samples *entries"], level: float
) -> tuple[Float[Tensor, "*entries"], Float[Tensor, "*entries"]]:
    """Ends of the central interval that a calibrated truth lies in with probability ``level``.

    Args:
        ordered: Draws, sorted along their first axis. With too few for the level the interval is their range.
        level: Nominal coverage, in (0, 1).
    """
    low, high = calibrated_quantiles(ordered, ((1 - level) / 2, (1 + level) / 2))
    return low, high


def enough_samples(num_samples: int, level: float) -> bool:
    """Whether draws have order statistics as far out as the ends of the central interval of a level.

    With fewer than 2 / (1 - level) - 1 (19 for 90 %) their range is narrower than the interval.
    """
    # whole numbers, which the level's rounding would miss
    return (num_samples + 1) * (1 - level) / 2 > 1 - 1e-9


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


def interval_score(
    low: Float[Tensor, "*entries"],
    high: Float[Tensor, "*entries"],
    truth: Float[Tensor, "*entries"],
    level: float,
) -> Float[Tensor, "*entries"]:
    """The interval (Winkler) score of central intervals, in data units: the width and, where the truth lies
    outside, the distance to it, weighed so that the true quantiles are the best ends.

    Args:
        low: The lower ends.
        high: The upper ends.
        truth: The values that came true.
        level: The intervals' nominal coverage, in (0, 1).
    """
    outside = (low - truth).clamp(min=0) + (truth - high).clamp(min=0)
    return high - low + 2 / (1 - level) * outside


def ranks(
    samples: Float[Tensor, "samples *entries"],
    truth: Float[Tensor, "*entries"],
    noise: Float[Tensor, "*entries"],
) -> Int64[Tensor, "*entries"]:
    """How many draws lie below the truth, in 0, .., S. Of draws that equal it a random number counts as
    below, so that ranks are uniform for values on a grid, too.

    Args:
        samples: Draws, in data units.
        truth: The values that came true.
        noise: Uniform numbers in (0, 1).
    """
    below, equal = (samples < truth).sum(dim=0), (samples == truth).sum(dim=0)
    return below + (noise * (equal + 1)).long()


def entry_scores(
    samples: Float[Tensor, "samples *entries"],
    truth: Float[Tensor, "*entries"],
    log_prob: Float[Tensor, "*entries"] | None = None,
) -> dict[str, Float[Tensor, "*entries"]]:
    """The scores of each entry that are told by groups of entries: ``mae``, ``crps``, with draws enough
    ``coverage_90`` and, where there is a density, ``nll``.

    Args:
        samples: Draws, in data units.
        truth: The values that came true.
        log_prob: Log-density of each entry in nats; None where the answer has no density.
    """
    ordered = samples.sort(dim=0).values
    scored = {
        "mae": (empirical_quantiles(ordered, torch.tensor([0.5]))[0] - truth).abs(),
        "crps": crps(samples, truth),
    }
    if enough_samples(len(samples), 0.9):
        low, high = central_interval(ordered, 0.9)
        scored["coverage_90"] = ((low <= truth) & (truth <= high)).to(truth.dtype)
    return scored if log_prob is None else scored | {"nll": -log_prob}


class _MeanScore(Mean):
    """A score that is a ratio of two sums over entries."""

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
        self._add(self._score(samples, truth), self._weight(truth))


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
    """A score of the central interval of a level; NaN of draws too few for it.

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

    @abstractmethod
    def _of_ends(self, low: Tensor, high: Tensor, truth: Tensor) -> Tensor:
        """The score of each entry, from the ends of its interval."""

    def _score(self, samples: Tensor, truth: Tensor) -> Tensor:
        if not enough_samples(len(samples), self.level):
            return torch.full_like(truth, torch.nan)
        return self._of_ends(*central_interval(samples.sort(dim=0).values, self.level), truth)


class Coverage(_CentralInterval):
    """Share of the truths that lie in the central interval. It should be the level."""

    def _of_ends(self, low: Tensor, high: Tensor, truth: Tensor) -> Tensor:
        return ((low <= truth) & (truth <= high)).to(truth.dtype)


class Width(_CentralInterval):
    """Mean width of the central interval, in data units."""

    higher_is_better = False

    def _of_ends(self, low: Tensor, high: Tensor, truth: Tensor) -> Tensor:
        return high - low


class IntervalScore(_CentralInterval):
    """Mean interval score of the central interval, in data units."""

    higher_is_better = False

    def _of_ends(self, low: Tensor, high: Tensor, truth: Tensor) -> Tensor:
        return interval_score(low, high, truth, self.level)


class RankHistogram(Metric):
    """How many truths had each rank among their draws, in at most 20 bins of whole ranks.

    Bins differ by at most one rank, and calibrated counts are as the numbers of their ranks are: see
    :meth:`table`.

    Args:
        num_samples: The number S of draws: ranks run from 0 to S.

    Raises:
        ValueError: If there are no draws.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_samples: int) -> None:
        super().__init__()
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1; it is {num_samples}.")
        self.num_samples = num_samples
        self.add_state("counts", torch.zeros(num_samples + 1, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, rank: Int64[Tensor, "*entries"]) -> None:
        """Adds entries.

        Args:
            rank: What :func:`ranks` returned; negative where nothing is scored.
        """
        self.counts += torch.bincount(rank[rank >= 0], minlength=self.num_samples + 1)

    def compute(self) -> Int64[Tensor, "bins"]:
        """The number of entries in each bin."""
        edge = torch.from_numpy(rank_edges(self.num_samples)[1:]).to(self.counts.device)
        return self.counts.cumsum(dim=0)[edge - 1].diff(prepend=self.counts.new_zeros(1))

    def table(self) -> dict[str, list[int]]:
        """The ``counts`` of the bins and how many ``ranks`` each holds, in proportion where calibrated."""
        return {"counts": self.compute().tolist(), "ranks": np.diff(rank_edges(self.num_samples)).tolist()}


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
            "interval_50": IntervalScore(0.5),
            "interval_90": IntervalScore(0.9),
        },
        # groups would merge scores whose states happen to be equal after the first batch
        compute_groups=False,
    )
