r"""Scores of samples against the truth.

Every score takes draws ``[samples, entries]`` and truth ``[entries]`` (see :func:`entries`). For draws
:math:`x_1, .., x_S` of an entry with truth y there are:

* the absolute and squared error of their median;
* the fair CRPS, whose expectation does not depend on the number of samples, computed in O(S log S) from the
  sorted draws,

  .. math:: \frac1S \sum_i |x_i - y| - \frac{1}{2 S (S - 1)} \sum_{i,j} |x_i - x_j|;

* the normalised quantile CRPS of the imputation papers, :math:`\operatorname{mean}_q 2 \sum |(x_q - y)(1\{y
  \le x_q\} - q)| / \sum |y|` over q = 0.05, 0.10, .., 0.95;
* coverage and width of the central interval of a given level. Its ends are the order statistics at position
  p (S + 1), between which a calibrated truth lies with exactly that probability; the quantiles of most
  libraries, at 1 + p (S - 1), would cover the truth only with probability level * (S - 1) / (S + 1);
* the interval score, which combines the two, of the interval [l, u] of level :math:`1 - \alpha`,

  .. math:: u - l + \frac2\alpha (l - y)_+ + \frac2\alpha (y - u)_+;

* the rank of the truth among the draws, uniform on 0, .., S if truth and draws have the same distribution.

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

from tsgen.argument_types import check_shapes
from tsgen.data.series import SeriesBatch
from tsgen.metrics.mean import Mean
from tsgen.metrics.ranks import rank_edges


@check_shapes
def entries(
    samples: Float[Tensor, "samples batch time nodes channels"], batch: SeriesBatch
) -> tuple[Float[Tensor, "samples entries"], Float[Tensor, "entries"]]:
    """Returns draws and truth of the hidden entries, which are scored.

    Args:
        samples: Draws of the windows.
        batch: The windows.

    Raises:
        ValueError: If the draws do not have the shape of the windows.
    """
    if samples.shape[1:] != batch.values.shape:
        raise ValueError(
            f"after their first axis, samples must have the shape of the windows, "
            f"{list(batch.values.shape)}; their shape is {list(samples.shape)}."
        )
    return samples[:, batch.hidden], batch.values[batch.hidden]


@check_shapes
def empirical_quantiles(
    ordered: Float[Tensor, "samples *entries"], levels: Float[Tensor, "levels"]
) -> Float[Tensor, "levels *entries"]:
    """Returns quantiles of sorted draws, with linear interpolation.

    ``torch.quantile`` returns the same, but sorts again and rejects more than 16 million numbers.

    Args:
        ordered: Draws, sorted along their first axis.
        levels: Probabilities, in [0, 1].
    """
    if not len(ordered) or not ((levels >= 0) & (levels <= 1)).all():
        raise ValueError(
            f"there must be draws, and levels in [0, 1]; there are {len(ordered)} draws, and the levels are "
            f"{levels.tolist()!s:.60}."
        )
    place = levels.to(ordered) * (len(ordered) - 1)
    below = place.floor().long()
    above = (below + 1).clamp(max=len(ordered) - 1)
    share = (place - below).view(-1, *[1] * (ordered.dim() - 1))
    return torch.lerp(ordered[below], ordered[above], share)


@check_shapes
def calibrated_quantiles(
    ordered: Float[Tensor, "samples *entries"], levels: Sequence[float]
) -> Float[Tensor, "levels *entries"]:
    """Returns the values below which a calibrated truth falls with exactly the given probabilities.

    These are the order statistics at position p (S + 1), with linear interpolation.

    Args:
        ordered: Draws, sorted along their first axis. If they are too few for a level, the outermost draw is
            used.
        levels: Probabilities, in (0, 1).
    """
    size = len(ordered)
    place = (torch.tensor(levels, dtype=torch.float64) * (size + 1) - 1) / max(size - 1, 1)
    return empirical_quantiles(ordered, place.clamp(0, 1))


def central_interval(
    ordered: Float[Tensor, "samples *entries"], level: float
) -> tuple[Float[Tensor, "*entries"], Float[Tensor, "*entries"]]:
    """Returns the ends of the central interval that contains a calibrated truth with probability ``level``.

    Args:
        ordered: Draws, sorted along their first axis. If they are too few for the level, the interval is
            their range.
        level: Nominal coverage, in (0, 1).
    """
    low, high = calibrated_quantiles(ordered, ((1 - level) / 2, (1 + level) / 2))
    return low, high


def enough_samples(num_samples: int, level: float) -> bool:
    """Returns whether there are enough draws for the ends of the central interval of a level.

    With fewer than 2 / (1 - level) - 1 draws (19 for 90 %), their range is narrower than the interval.
    """
    # the tolerance: level is rounded, so that an exact 1 may come out slightly smaller
    return (num_samples + 1) * (1 - level) / 2 > 1 - 1e-9


@check_shapes
def crps(
    samples: Float[Tensor, "samples *entries"], truth: Float[Tensor, "*entries"]
) -> Float[Tensor, "*entries"]:
    """Returns the fair CRPS of each entry, in data units; for a single draw, its absolute error."""
    size = len(samples)
    if not size:
        raise ValueError("samples must have at least one draw of each entry; they have none.")
    errors = samples - truth
    error = errors.abs().mean(dim=0)
    if size == 1:
        return error
    ordered = errors.sort(dim=0).values
    # sum over pairs i<j of x_j - x_i = sum over i of (2 i - S + 1) x_i, i from 0
    weight = 2 * torch.arange(size, device=ordered.device, dtype=ordered.dtype) - (size - 1)
    return error - torch.tensordot(weight, ordered, dims=1) / (size * (size - 1))


@check_shapes
def interval_score(
    low: Float[Tensor, "*entries"],
    high: Float[Tensor, "*entries"],
    truth: Float[Tensor, "*entries"],
    level: float,
) -> Float[Tensor, "*entries"]:
    """Returns the interval (Winkler) score of central intervals, in data units.

    It is the width plus, if the truth lies outside, its distance to the interval, with a weight for which the
    true quantiles are the optimal ends.

    Args:
        low: The lower ends.
        high: The upper ends.
        truth: The true values.
        level: Nominal coverage of the intervals, in (0, 1).

    Raises:
        ValueError: If the level is out of range.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1; it is {level}.")
    outside = (low - truth).clamp(min=0) + (truth - high).clamp(min=0)
    return high - low + 2 / (1 - level) * outside


@check_shapes
def ranks(
    samples: Float[Tensor, "samples *entries"],
    truth: Float[Tensor, "*entries"],
    noise: Float[Tensor, "*entries"],
) -> Int64[Tensor, "*entries"]:
    """Returns the number of draws below the truth, in 0, .., S.

    Ties are broken at random: a uniformly drawn number of the draws that equal the truth counts as below, so
    that ranks are uniform for values on a grid, too.

    Args:
        samples: Draws, in data units.
        truth: The true values.
        noise: Uniform numbers in (0, 1) that break ties.
    """
    below, equal = (samples < truth).sum(dim=0), (samples == truth).sum(dim=0)
    return below + (noise * (equal + 1)).long()


@check_shapes
def entry_scores(
    samples: Float[Tensor, "samples *entries"],
    truth: Float[Tensor, "*entries"],
    log_prob: Float[Tensor, "*entries"] | None = None,
) -> dict[str, Float[Tensor, "*entries"]]:
    """Returns the scores of each entry that are reported for groups of entries.

    They are ``mae`` and ``crps``; ``coverage_90`` if there are enough draws; and ``nll`` if ``log_prob`` is
    given.

    Args:
        samples: Draws, in data units.
        truth: The true values.
        log_prob: Log-density of each entry in nats; None if there is no density.
    """
    ordered = samples.sort(dim=0).values
    by_name = {
        "mae": (empirical_quantiles(ordered, torch.tensor([0.5]))[0] - truth).abs(),
        "crps": crps(samples, truth),
    }
    if enough_samples(len(samples), 0.9):
        low, high = central_interval(ordered, 0.9)
        by_name["coverage_90"] = ((low <= truth) & (truth <= high)).to(truth.dtype)
    return by_name if log_prob is None else by_name | {"nll": -log_prob}


class _MeanScore(Mean):
    """A score that is the ratio of two sums over entries."""

    @abstractmethod
    def _score(self, samples: Tensor, truth: Tensor) -> Tensor:
        """Returns the score of each entry."""

    def _weight(self, truth: Tensor) -> Tensor:
        """Returns the weight of each entry; their sum divides the sum of the scores."""
        return torch.ones_like(truth)

    @check_shapes
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


@check_shapes
class RMSE(_MeanScore):
    """Root mean squared error of the median, in data units."""

    higher_is_better = False

    def _score(self, samples: Tensor, truth: Tensor) -> Tensor:
        # float64: the square of 1e-21 is zero in float32, that of 1e25 infinite
        return (_median(samples) - truth).double().square()

    def compute(self) -> Tensor:
        """Returns the score; NaN if nothing was scored."""
        return (self.total / self.weight).sqrt().float()


class MRE(MAE):
    """Mean relative error of the median: the sum of absolute errors over the sum of absolute true values."""

    def _weight(self, truth: Tensor) -> Tensor:
        return truth.abs()


class CRPS(_MeanScore):
    """Mean fair continuous ranked probability score, in data units."""

    higher_is_better = False

    def _score(self, samples: Tensor, truth: Tensor) -> Tensor:
        return crps(samples, truth)


class QuantileCRPS(_MeanScore):
    """The normalised CRPS of the imputation papers: the mean quantile loss at 19 levels over the sum of
    absolute true values."""

    higher_is_better = False

    def _score(self, samples: Tensor, truth: Tensor) -> Tensor:
        levels = torch.linspace(0.05, 0.95, 19, device=samples.device)
        error = empirical_quantiles(samples.sort(dim=0).values, levels) - truth
        return (2 * error * ((error >= 0).to(error.dtype) - levels[:, None])).abs().mean(dim=0)

    def _weight(self, truth: Tensor) -> Tensor:
        return truth.abs()


class _CentralInterval(_MeanScore):
    """A score of the central interval of a level; NaN if there are too few draws for the level.

    Args:
        level: Nominal coverage of the interval, in (0, 1).

    Raises:
        ValueError: If the level is out of range.
    """

    @check_shapes
    def __init__(self, level: float) -> None:
        super().__init__()
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1; it is {level}.")
        self.level = level

    @abstractmethod
    def _of_ends(self, low: Tensor, high: Tensor, truth: Tensor) -> Tensor:
        """Returns the score of each entry, given the ends of its interval."""

    def _score(self, samples: Tensor, truth: Tensor) -> Tensor:
        if not enough_samples(len(samples), self.level):
            return torch.full_like(truth, torch.nan)
        return self._of_ends(*central_interval(samples.sort(dim=0).values, self.level), truth)


class Coverage(_CentralInterval):
    """Share of the true values inside the central interval; equal to the level for calibrated draws."""

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


@check_shapes
class RankHistogram(Metric):
    """Counts of the ranks of the true values among their draws, in at most 20 bins of whole ranks.

    Bins differ by at most one rank. For calibrated draws, counts are proportional to the number of ranks per
    bin: see :meth:`table`.

    Args:
        num_samples: The number S of draws: ranks run from 0 to S.

    Raises:
        ValueError: If ``num_samples`` is below 1.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_samples: int) -> None:
        super().__init__()
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1; it is {num_samples}.")
        self.num_samples = num_samples
        self.add_state("counts", torch.zeros(num_samples + 1, dtype=torch.int64), dist_reduce_fx="sum")

    @check_shapes
    def update(self, rank: Int64[Tensor, "*entries"]) -> None:
        """Adds entries.

        Args:
            rank: Ranks, from :func:`ranks`; negative where nothing is scored.

        Raises:
            ValueError: If a rank exceeds the number of samples.
        """
        if rank.numel() and rank.max() > self.num_samples:
            raise ValueError(
                f"ranks must not exceed num_samples = {self.num_samples}; the highest is {int(rank.max())}."
            )
        self.counts += torch.bincount(rank[rank >= 0], minlength=self.num_samples + 1)

    def compute(self) -> Int64[Tensor, "bins"]:
        """Returns the number of entries in each bin."""
        edge = torch.from_numpy(rank_edges(self.num_samples)[1:]).to(self.counts.device)
        return self.counts.cumsum(dim=0)[edge - 1].diff(prepend=self.counts.new_zeros(1))

    def table(self) -> dict[str, list[int]]:
        """Returns the ``counts`` of the bins and the number of ``ranks`` in each.

        The two are proportional, up to chance, if draws are calibrated.
        """
        return {"counts": self.compute().tolist(), "ranks": np.diff(rank_edges(self.num_samples)).tolist()}


@check_shapes
def scores() -> MetricCollection:
    """Returns all scores of samples, by their short names."""
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
        # compute groups would merge scores whose states happen to be equal after the first batch
        compute_groups=False,
    )
