r"""Baselines: distributions of hidden entries that a trained model should beat.

Each baseline is fitted in seconds and returns a normal law of each entry in data units, so that it has every
score that a model has. :math:`\mu` and :math:`\sigma` are the mean and deviation of a node and channel in the
data that it is fitted on, and z are values in these units.

* :class:`LinearInterpolation`: the straight line between the nearest visible values of the node, with the
  deviation of a random walk that is tied down at both (:mod:`tsgen.data.interpolation`).
* :class:`NetworkMean`: a regression of the node on the mean of the visible entries of the other nodes at the
  same step.
* :class:`Climatology`: mean and deviation of the node at that hour of the day or in that month of the year.
* :class:`GaussianRegression`: a regression on all visible entries within one or two steps, of all nodes
  (:mod:`tsgen.exact.gaussian_regression`).

None of them has a joint law of several entries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.distributions import Distribution, Normal

from tsgen.argument_types import check_arguments
from tsgen.data.interpolation import Nearest
from tsgen.data.moments import RunningMoments
from tsgen.data.series import GraphSeries, Series, SeriesBatch
from tsgen.exact.gaussian_regression import StackedGaussian, Stacks
from tsgen.metrics import law_crps

MAX_NUMBERS = 2**26
"""The maximum number of entries that a baseline is fitted on; of longer series, evenly spaced parts."""

PARTS = 64
"""The number of parts that are taken of such a series."""

PRIOR_COUNT = 10.0
"""How many values the prior of an estimate counts for: with fewer, a node's estimate is mostly that of the
network, and a phase's that of the node."""

SMALLEST_DEVIATION = 1e-3
"""Lower bound of a law's deviation, in deviations of the node: a constant node has a density, too."""

MAX_ENTRIES = 640
"""The maximum number of entries of a stack of slices: its covariance is factorised."""

MAX_STACKS = 2500
"""The maximum number of stacks that a Gaussian regression is fitted on, or four per entry of a stack."""

SHRINKAGE = (0.05, 0.7)
"""Bounds of the weight of the exchangeable network in the EM of a Gaussian regression. In between it is the
number of entries of a stack per step: with few steps the sample covariance is noise."""

WEIGHTS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5)
"""The weights of the exchangeable network that a Gaussian regression tries after EM."""


class Fitted:
    """Mean and deviation of each node and channel in some stretches of a series, and its chunks.

    A node without a value has those of the channel, and a constant node the deviation of the channel.

    Args:
        series: The series.
        stretches: The stretches; the whole series if not given.
    """

    def __init__(self, series: Series, stretches: Sequence[slice] | None = None) -> None:
        self.series, self.stretches = series, _evenly(series, stretches)
        moments = RunningMoments()
        for chunk in series.chunks(self.stretches):
            moments.add(chunk.values, chunk.observed)
        self.count = moments.count.expand(series.sizes[:2])
        channel = moments.pooled()
        self.loc = torch.where(self.count > 0, moments.mean, channel.mean).expand(series.sizes[:2])
        scale = torch.where(self.count > 0, moments.deviation, channel.deviation)
        scale = torch.where(moments.constant(self.loc, scale), channel.deviation, scale)
        self.scale = torch.where(moments.constant(self.loc, scale), 1.0, scale).expand(series.sizes[:2])

    @property
    def steps(self) -> int:
        """The number of steps in the stretches."""
        return sum(stretch.stop - stretch.start for stretch in self.stretches)

    def standard(self, chunk: GraphSeries) -> Float[Tensor, "time nodes channels"]:
        """Returns the values of a chunk in standard units, zero where nothing was observed."""
        return torch.where(chunk.observed, (chunk.values.double() - self.loc) / self.scale, 0)


def _evenly(series: Series, stretches: Sequence[slice] | None) -> list[slice]:
    """Returns the stretches or, if they hold too many entries, evenly spaced parts of them."""
    given = [slice(0, len(series))] if stretches is None else stretches
    ranges = [range(*stretch.indices(len(series))) for stretch in given]
    steps, most = sum(map(len, ranges)), MAX_NUMBERS // max(1, series.sizes.nodes * series.sizes.channels)
    if steps <= most:
        return [slice(r.start, r.stop) for r in ranges if len(r)]
    parts = []
    for r in ranges:
        count = -(-PARTS * len(r) // steps)
        length = max(1, most * len(r) // (steps * count))
        starts = np.linspace(r.start, r.stop - length, count).astype(int)
        parts += [slice(int(start), int(start) + length) for start in starts]
    return parts


@dataclass(frozen=True)
class Baseline(ABC):
    """A law of each entry given the visible entries of its window, fitted to a series.

    Args:
        loc: Mean of each node and channel, in data units.
        scale: Deviation of each node and channel, in data units.
    """

    loc: Float[Tensor, "nodes channels"]
    scale: Float[Tensor, "nodes channels"]

    @classmethod
    @abstractmethod
    def fit(cls, series: Series, stretches: Sequence[slice] | None = None) -> Baseline:
        """Fits the baseline to what is observed of a series.

        Args:
            series: The series; entries that are to be scored must not be observed there.
            stretches: The stretches to fit on, such as those of the training split; the whole series if not
                given.

        Raises:
            ValueError: If the baseline cannot be fitted to such a series; the message says why.
        """

    @abstractmethod
    def standard_law(
        self, batch: SeriesBatch
    ) -> tuple[Float[Tensor, "*#entries"], Float[Tensor, "*#entries"]]:
        """Returns the mean and deviation of each entry in standard units of its node.

        Args:
            batch: Windows of the series with all its nodes.
        """

    def law(self, batch: SeriesBatch) -> Normal:
        """Returns the law of each entry in data units, in float64; that of a visible entry has no meaning.

        Args:
            batch: Windows of the series with all its nodes.
        """
        mean, deviation = self.standard_law(batch)
        loc, scale = self.loc.to(mean), self.scale.to(mean)
        shape = batch.values.shape
        deviation = deviation.clamp(min=SMALLEST_DEVIATION)
        return Normal((loc + scale * mean).expand(shape), (scale * deviation).expand(shape))


@check_arguments
@dataclass(frozen=True)
class LinearInterpolation(Baseline):
    r"""The straight line between the nearest visible values, with the spread of a random walk tied to both.

    The deviation is :math:`\sigma \sqrt{1 - e^{-v / \rho}}`, where v is the variance of a walk with steps of
    variance 1 and :math:`\rho = \sigma^2 / s^2`. The variance :math:`s^2` of a step is the mean squared
    difference of consecutive values. In short gaps the variance is therefore :math:`s^2 v`, and in long ones
    it approaches that of the node. Where nothing is visible the law is that of the node.

    Args:
        loc: Mean of each node and channel, in data units.
        scale: Deviation of each node and channel, in data units.
        step_variance: The variance of a step in standard units.
    """

    step_variance: Float[Tensor, "nodes channels"]

    @classmethod
    def fit(cls, series: Series, stretches: Sequence[slice] | None = None) -> LinearInterpolation:
        """Fits the variance of a step to the differences of consecutive values."""
        fitted = Fitted(series, stretches)
        count = squares = torch.zeros_like(fitted.loc)
        for chunk in series.chunks(fitted.stretches):
            z, both = fitted.standard(chunk), chunk.observed[1:] & chunk.observed[:-1]
            count = count + both.sum(dim=0)
            squares = squares + torch.where(both, z.diff(dim=0), 0).square().sum(dim=0)
        # if no two consecutive values exist: those of independent values
        network = (squares.sum(dim=0) + 2) / (count.sum(dim=0) + 1)
        variance = (squares + PRIOR_COUNT * network) / (count + PRIOR_COUNT)
        return cls(fitted.loc, fitted.scale, variance.clamp(min=SMALLEST_DEVIATION**2))

    def standard_law(self, batch: SeriesBatch) -> tuple[Tensor, Tensor]:
        """Returns the line and the deviation of the walk."""
        nearest = Nearest.of(batch.context)
        loc, scale, variance = (x.to(batch.values.device) for x in (self.loc, self.scale, self.step_variance))
        line = nearest.line(torch.where(batch.context, batch.values.double(), loc), loc)
        return (line - loc) / scale, (-torch.expm1(-nearest.walked() * variance)).sqrt()


@check_arguments
@dataclass(frozen=True)
class Climatology(Baseline):
    """Mean and deviation of the node at that phase of the day or year, whatever is visible.

    If times are dates, a phase is an hour of the day (UTC) for steps shorter than a day, and a month of the
    year for longer ones of a series of more than two years. Otherwise there is a single phase. The estimates
    of a phase are shrunk towards those of the node, as far as the phase has few values.

    Args:
        loc: Mean of each node and channel, in data units.
        scale: Deviation of each node and channel, in data units.
        mean: Mean of each phase in standard units.
        deviation: Deviation of each phase in standard units.
        phase: The phase of each step of the series.
    """

    mean: Float[Tensor, "phases nodes channels"]
    deviation: Float[Tensor, "phases nodes channels"]
    phase: Int64[Tensor, "time"]

    @classmethod
    def fit(cls, series: Series, stretches: Sequence[slice] | None = None) -> Climatology:
        """Fits mean and deviation of each phase."""
        fitted, phase = Fitted(series, stretches), phases(series.time)
        phases_of = torch.cat([phase[stretch] for stretch in fitted.stretches])
        shape = (int(phase.max()) + 1, *fitted.loc.shape)
        count, total, squares = (torch.zeros(shape, dtype=torch.float64) for _ in range(3))
        first = 0
        for chunk in series.chunks(fitted.stretches):
            z, of = fitted.standard(chunk), phases_of[first : first + len(chunk)]
            first += len(chunk)
            count.index_add_(0, of, chunk.observed.double())
            total.index_add_(0, of, z)
            squares.index_add_(0, of, z.square())
        mean = total / (count + PRIOR_COUNT)
        around = squares - 2 * mean * total + count * mean.square()
        variance = (around + PRIOR_COUNT) / (count + PRIOR_COUNT)
        return cls(fitted.loc, fitted.scale, mean, variance.sqrt(), phase)

    def standard_law(self, batch: SeriesBatch) -> tuple[Tensor, Tensor]:
        """Returns mean and deviation of each step's phase."""
        device = batch.values.device
        phase = self.phase.to(device)[batch.position]
        return self.mean.to(device)[phase], self.deviation.to(device)[phase]


def phases(time: np.ndarray | pd.Index | Sequence) -> Int64[Tensor, "time"]:
    """Returns the phase of each step: its hour of the day, its month of the year, or 0 (see
    :class:`Climatology`).

    Args:
        time: Label of each step, dates or numbers.
    """
    labels = np.asarray(time)
    none = np.zeros(len(labels), dtype=np.int64)
    if labels.dtype.kind == "M" and len(labels) > 1:
        dates, day = pd.DatetimeIndex(labels), pd.Timedelta(days=1)
        step, span = dates[1] - dates[0], dates[-1] - dates[0]
        if step < day:
            return torch.from_numpy(dates.hour.to_numpy().astype(np.int64))
        if span > 2 * 365 * day and step < 300 * day:
            return torch.from_numpy(dates.month.to_numpy().astype(np.int64) - 1)
    return torch.from_numpy(none)


@check_arguments
@dataclass(frozen=True)
class NetworkMean(Baseline):
    r"""A regression on the mean of the visible entries of the other nodes, in their standard units.

    .. math:: z_{tv} \sim N(a_v + b_v \bar z_{t,-v}, s_v^2), \qquad
              \bar z_{t,-v} = \text{mean of the visible } z_{tu}, u \ne v, \text{ of the same channel}.

    Where no other node is visible the law is that of the climatology.

    Args:
        loc: Mean of each node and channel, in data units.
        scale: Deviation of each node and channel, in data units.
        intercept: The intercepts a.
        slope: The slopes b.
        deviation: The residual deviations s.
        climatology: The law where no other node is visible.
    """

    intercept: Float[Tensor, "nodes channels"]
    slope: Float[Tensor, "nodes channels"]
    deviation: Float[Tensor, "nodes channels"]
    climatology: Climatology

    @classmethod
    def fit(cls, series: Series, stretches: Sequence[slice] | None = None) -> NetworkMean:
        """Fits the regression of each node and channel by least squares."""
        fitted = Fitted(series, stretches)
        sums: list[Tensor] = [torch.zeros_like(fitted.loc) for _ in range(6)]
        for chunk in series.chunks(fitted.stretches):
            z = fitted.standard(chunk)
            mean, exists = _others(z, chunk.observed)
            both = (chunk.observed & exists).double()
            products = (torch.ones_like(z), mean, z, mean.square(), mean * z, z.square())
            sums = [old + (new * both).sum(dim=0) for old, new in zip(sums, products, strict=True)]
        count, x, y, xx, xy, yy = sums
        mean_x, mean_y = x / (count + 1), y / (count + 1)
        variance, covariance = xx - x * mean_x, xy - x * mean_y
        # one pseudo-value of variance 1: without data the slope is zero
        slope = covariance / (variance + 1)
        residual = (yy - y * mean_y) - 2 * slope * covariance + slope.square() * variance
        deviation = ((residual.clamp(min=0) + PRIOR_COUNT) / (count + PRIOR_COUNT)).sqrt()
        climatology = Climatology.fit(series, fitted.stretches)
        return cls(fitted.loc, fitted.scale, mean_y - slope * mean_x, slope, deviation, climatology)

    def standard_law(self, batch: SeriesBatch) -> tuple[Tensor, Tensor]:
        """Returns the regression where another node is visible, and the climatology elsewhere."""
        loc, scale = self.loc.to(batch.values.device), self.scale.to(batch.values.device)
        z = torch.where(batch.context, (batch.values.double() - loc) / scale, 0)
        mean, exists = _others(z, batch.context)
        intercept, slope, deviation = (x.to(z) for x in (self.intercept, self.slope, self.deviation))
        otherwise, spread = self.climatology.standard_law(batch)
        return (
            torch.where(exists, intercept + slope * mean, otherwise),
            torch.where(exists, deviation.expand_as(spread), spread),
        )


def _others(z: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean of the other nodes that are seen, and whether there is one; z is zero elsewhere."""
    count = seen.sum(dim=-2, keepdim=True) - seen.long()
    return (z.sum(dim=-2, keepdim=True) - z) / count.clamp(min=1), count > 0


@check_arguments
@dataclass(frozen=True)
class GaussianRegression(Baseline):
    """The law of an entry given all visible entries of all nodes and channels within L steps.

    Mean and covariance of 2 L + 1 neighbouring slices are fitted by EM to at most 2,500 stacks of them, and
    shrunk towards an exchangeable network with the weight that has the lowest CRPS on hidden entries of a
    fifth of the stacks. L is 2, or 1 or 0 if the stack would have more than 640 entries. Steps outside the
    window are not visible.

    Args:
        loc: Mean of each node and channel, in data units.
        scale: Deviation of each node and channel, in data units.
        stacked: The law of a stack in standard units.
    """

    stacked: StackedGaussian

    @classmethod
    def fit(cls, series: Series, stretches: Sequence[slice] | None = None) -> GaussianRegression:
        """Fits the law of stacked slices by EM.

        Raises:
            ValueError: If a slice has more than 213 entries.
        """
        columns = series.sizes.nodes * series.sizes.channels
        lags = next((lags for lags in (2, 1) if (2 * lags + 1) * columns <= MAX_ENTRIES), 0)
        if not lags:
            raise ValueError(
                f"it needs slices of at most {MAX_ENTRIES // 3} entries (nodes times "
                f"channels); they have {columns}."
            )
        fitted = Fitted(series, stretches)
        stacks = _stacks(fitted, lags)
        lowest, highest = SHRINKAGE
        per_step = (2 * lags + 1) * columns / max(1, fitted.steps)
        em = partial(StackedGaussian.fit, columns=columns, shrinkage=min(highest, max(lowest, per_step)))
        held_out = _fifth(len(stacks.values))
        weight, law = WEIGHTS[len(WEIGHTS) // 2], None
        if held_out.any():
            law = em(stacks.at(~held_out), iterations=6)
            weight = _best_weight(law, stacks.at(held_out), fitted.scale)
        law = em(stacks, iterations=2 if law else 8, start=law)
        return cls(fitted.loc, fitted.scale, law.shrunk(weight))

    def standard_law(self, batch: SeriesBatch) -> tuple[Tensor, Tensor]:
        """Returns mean and deviation of the conditional law."""
        device = batch.values.device
        stacked = self.stacked.to(device)
        z = (batch.values.double() - self.loc.to(device)) / self.scale.to(device)
        found = stacked.conditional(z.flatten(2), batch.context.flatten(2))
        shape = batch.values.shape
        return found.mean.view(shape), found.variance.sqrt().view(shape)


def _stacks(fitted: Fitted, lags: int) -> Stacks:
    """Returns evenly spaced stacks of the series in standard units."""
    nodes, channels, _ = fitted.series.sizes
    most = max(MAX_STACKS, 4 * (2 * lags + 1) * nodes * channels)
    every = max(1, -(-fitted.steps // most))
    found = []
    for chunk in fitted.series.chunks(fitted.stretches):
        rows = torch.arange(min(every, len(chunk)) // 2, len(chunk), every)
        stacks = Stacks.of(fitted.standard(chunk).flatten(1), chunk.observed.flatten(1), lags, rows)
        found.append(stacks.at(stacks.observed.any(dim=1)))
    return Stacks(*(torch.cat(tensors) for tensors in zip(*found, strict=True)))


def _fifth(count: int) -> Tensor:
    """Returns a mask of every fifth block of stacks; nothing if there are too few."""
    block = max(1, count // 25)
    chosen = torch.arange(count) // block % 5 == 2
    return chosen if count >= 50 else torch.zeros_like(chosen)


def _best_weight(law: StackedGaussian, stacks: Stacks, scale: Float[Tensor, "nodes channels"]) -> float:
    """Returns the weight of the exchangeable network with the lowest CRPS on entries of other stacks.

    A tenth of the entries is hidden from the slice in the middle, and another tenth from the whole stack. The
    CRPS is in data units, divided by the mean deviation of the channel.
    """
    columns, slices = len(law.mean), 2 * law.lags + 1
    noise = torch.rand(len(stacks.values), 1, columns, generator=torch.Generator().manual_seed(0))
    middle = torch.arange(slices)[:, None] == law.lags
    hidden = ((noise < 0.1) | ((noise < 0.2) & middle)).flatten(1) & stacks.observed
    scored = hidden.view(-1, slices, columns)[:, law.lags]
    given = Stacks(torch.where(hidden, 0, stacks.values), stacks.observed & ~hidden)
    truth = stacks.values.view(-1, slices, columns)[:, law.lags][scored]
    importance = (scale / scale.mean(dim=0)).flatten().expand_as(scored)[scored]
    found = []
    for weight in WEIGHTS:
        mean, variance = law.shrunk(weight).centre(given)
        deviation = variance[scored].sqrt().clamp(min=SMALLEST_DEVIATION)
        found.append(float((importance * law_crps(Normal(mean[scored], deviation), truth)).sum()))
    return WEIGHTS[int(np.argmin(found))]


def median(law: Distribution) -> Float[Tensor, "*entries"]:
    """Returns the median of each entry.

    Args:
        law: One law per entry.
    """
    return law.icdf(torch.tensor(0.5).to(law.mean))


def law_scores(
    law: Distribution, truth: Float[Tensor, "*entries"], scored: Bool[Tensor, "*entries"]
) -> dict[str, Tensor]:
    """Returns the scores of each entry under its law, without draws.

    They are ``error`` (of the median), ``crps`` and ``nll``, NaN where nothing is scored, and ``covered_90``,
    whether the truth lies in the central 90 % interval.

    Args:
        law: One law per entry, in data units.
        truth: The true values; anything where nothing is scored.
        scored: The entries to score.
    """
    safe = torch.where(scored, truth, law.mean)
    below = law.cdf(safe)
    scores = {"error": (median(law) - safe).abs(), "crps": law_crps(law, safe), "nll": -law.log_prob(safe)}
    found = {name: score.where(scored, torch.nan).to(truth.dtype) for name, score in scores.items()}
    return found | {"covered_90": scored & (below >= 0.05) & (below <= 0.95)}


BASELINES: dict[str, type[Baseline]] = {
    "climatology": Climatology,
    "linear interpolation": LinearInterpolation,
    "network mean": NetworkMean,
    "Gaussian regression": GaussianRegression,
}
"""The baselines by name."""


@check_arguments
def fit_baselines(
    series: Series, stretches: Sequence[slice] | None = None
) -> tuple[dict[str, Baseline], list[str]]:
    """Fits all baselines to what is observed of a series.

    Args:
        series: The series; entries that are to be scored must not be observed in the stretches.
        stretches: The stretches to fit on, such as those of the training split; the whole series if not
            given.

    Returns:
        The baselines by name, and a remark on each that cannot be fitted.
    """
    fitted, remarks = {}, []
    for name, kind in BASELINES.items():
        try:
            fitted[name] = kind.fit(series, stretches)
        except ValueError as error:
            remarks.append(f"No row for {name}: {error}")
    return fitted, remarks
