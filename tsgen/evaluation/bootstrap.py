r"""Confidence intervals and p-values of scores, by a studentised block bootstrap over windows.

A score is a ratio of two sums over windows, :math:`\hat r = \sum_w a_w / \sum_w b_w` (errors over entries),
or the square root of one. Entries of a window depend on each other, and neighbouring windows do too, though
less. The bootstrap therefore resamples blocks of neighbouring windows. With W windows a block has
:math:`W^{1/3}` of them, the optimal rate for the variance of a mean. Blocks wrap around from the last window
to the first, so that every window is drawn equally often. Two models are compared in the same resamples, so
that the difficulty that a window has for both cancels.

The sum of the influences :math:`u_w = (a_w - \hat r b_w) / \sum_w b_w` in a block varies as the score does.
With K blocks the standard error s of the score is :math:`\sqrt K` times the root mean square of these sums.
Each resample has its own score and its own standard error, and

.. math:: t^* = (\hat r^* - \hat r) / s^*

shows how the score varies in units of a standard error that is itself estimated: skewed errors give a skewed
t. The interval is :math:`[\hat r - s\, t^*_{1-\alpha/2},\ \hat r - s\, t^*_{\alpha/2}]`. A positive score is
resampled on the scale of its logarithm, which keeps the ends positive; beyond e times the score the upper end
continues linearly.

A heavy tail is rarely in a sample of few windows, so that resamples vary too little. The quantiles of t* are
therefore stretched by the ratio of quantiles of Student's distribution with :math:`\nu` and with W - 1
degrees of freedom, where

.. math:: \nu = 2 W / (\kappa - 1 + 4\, \gamma^2 W / W_e)

are the degrees of freedom of a variance estimated from W windows whose influences have kurtosis
:math:`\kappa`. The term with their skewness :math:`\gamma` only counts toward the end on the side of the long
tail; :math:`W_e = (\sum b_w)^2 / \sum b_w^2` is the effective number of windows. Its factor 4 was chosen by
simulation: ``docs/scores.md`` has the coverage for normal, exponential and log-normal errors.

What is assumed: windows depend on none but those within a block of them, and the test windows are like those
that the score is wanted for. The intervals do not include the variation between trainings, seeds or years. If
windows depend on each other over more than a block, intervals are too short (``docs/scores.md``).

References:
    A circular block-resampling procedure for stationary data (Politis & Romano, 1992);
    On blocking rules for the bootstrap with dependent data (Hall, Horowitz & Jing, 1995);
    The Bootstrap and Edgeworth Expansion (Hall, 1992), on studentised intervals;
    Second-order correctness of the blockwise bootstrap (Götze & Künsch, 1996);
    Bootstrap confidence intervals (DiCiccio & Efron, 1996);
    An approximate distribution of estimates of variance components (Satterthwaite, 1946).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.lib.stride_tricks import sliding_window_view

from tsgen.counter_random import streams, uniforms

MIN_WINDOWS = 20
"""The minimum number of scored windows for an interval: fewer do not show how scores vary between windows."""

SKEWNESS_FACTOR = 4
"""The weight of the squared skewness in the degrees of freedom; chosen by simulation."""

MIN_FREEDOM = 2
"""The minimum degrees of freedom, so that quantiles stay bounded."""

BLOCKS_AT_ONCE = 2**20
"""The maximum number of blocks that are drawn at once; bounds the memory, to about 100 MB."""


class Ratio(NamedTuple):
    """A score as a ratio of two sums over windows.

    Attributes:
        total: Each window's contribution to the numerator.
        weight: Each window's contribution to the denominator; zero if nothing is scored in it.
        rooted: Whether the score is the square root of the ratio.
        largest: The largest possible score.
    """

    total: Float[np.ndarray, "*resamples windows"]
    weight: Float[np.ndarray, "*resamples windows"]
    rooted: bool = False
    largest: float = np.inf

    @property
    def score(self) -> float:
        """The score over all windows."""
        return float(self.linearised()[0].item())

    def linearised(
        self, log: bool = False
    ) -> tuple[Float[np.ndarray, "*resamples 1"], Float[np.ndarray, "*resamples windows"]]:
        """Returns the score, or its logarithm, and the influence of each window on it."""
        weight = self.weight.sum(axis=-1, keepdims=True)
        ratio = self.total.sum(axis=-1, keepdims=True) / weight
        influence = (self.total - ratio * self.weight) / weight
        score = np.sqrt(ratio) if self.rooted else ratio
        if log:
            score, influence = np.log(score), influence / ratio / (2 if self.rooted else 1)
        elif self.rooted:
            # a score of zero has no error, and no influence
            influence = influence / np.where(score > 0, 2 * score, np.inf)
        return score, influence


class Estimate(NamedTuple):
    """A score, or a difference of scores, with the distribution of its error.

    Attributes:
        value: The score, its logarithm or the difference.
        error: Its standard error.
        t: The sorted deviations of resamples in units of their standard error, stretched for few windows.
    """

    value: float
    error: float
    t: Float[np.ndarray, " resamples"]

    def interval(self, level: float) -> tuple[float, float]:
        """Returns the confidence interval of a level."""
        tail = max(1, int((len(self.t) + 1) * (1 - level) / 2 + 1e-9))
        low, high = self.value - self.error * self.t[[-tail, tail - 1]]
        return float(low), float(high)

    @property
    def p_value(self) -> float:
        """The p-value of zero: the smallest 1 - level whose interval excludes zero."""
        if self.value == 0:
            return 1.0
        t = self.value / self.error if self.error > 0 else np.copysign(np.inf, self.value)
        further = min(np.count_nonzero(self.t <= t), np.count_nonzero(self.t >= t))
        return float(min(1, 2 * (1 + further) / (len(self.t) + 1)))


class WindowBootstrap:
    """Resamples of windows in blocks of neighbours.

    Args:
        windows: The number of windows, which are ordered in time.
        resamples: The number of resamples. The smallest p-value is 2 / (resamples + 1).
        block: The number of neighbouring windows in a block. If not given, the rounded cube root of the
            number of windows.
        level: Nominal coverage of the intervals, in (0, 1).
        seed: Fixes the resamples.

    Raises:
        ValueError: If a number is below 1, a block is longer than all windows, or the level is out of range.
    """

    def __init__(
        self,
        windows: int,
        resamples: int = 9999,
        block: int | None = None,
        level: float = 0.95,
        seed: int = 0,
    ) -> None:
        self.block = max(1, round(windows ** (1 / 3))) if block is None else block
        for name, number in (("windows", windows), ("resamples", resamples), ("block", self.block)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1; it is {number}.")
        if self.block > windows:
            raise ValueError(f"block must be at most windows = {windows}; it is {self.block}.")
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1; it is {level}.")
        self.windows, self.resamples, self.level, self.seed = windows, resamples, level, seed
        self.blocks = round(windows / self.block)

    def interval(self, ratio: Ratio) -> tuple[float, float] | None:
        """Returns the confidence interval of a score, or None, as :meth:`estimate` does."""
        log = bool((ratio.total[ratio.weight != 0] > 0).all())
        estimate = self.estimate(ratio, log=log)
        if estimate is None:
            return None
        low, high = estimate.interval(self.level)
        if log:
            # beyond e times the score the scale is linear: few windows would give ends of any size
            above = high - estimate.value
            high = float(np.exp(estimate.value) * (np.exp(above) if above <= 1 else np.e * above))
            low = float(np.exp(low))
        elif (ratio.total >= 0).all() and (ratio.weight >= 0).all():
            low = max(low, 0.0)
        return low, min(high, ratio.largest)

    def estimate(self, ratio: Ratio, minus: Ratio | None = None, log: bool = False) -> Estimate | None:
        """Returns a score, or the difference of two scores, with the distribution of its error.

        Args:
            ratio: The score.
            minus: A score to subtract, of the same windows.
            log: Estimate the logarithm of the score, or of the quotient of both; all scores are positive.

        Returns:
            The estimate, or None if fewer than :data:`MIN_WINDOWS` windows are scored, or a score is not
            finite.
        """
        ratios = (ratio,) if minus is None else (ratio, minus)
        scored = np.logical_and.reduce([each.weight != 0 for each in ratios])
        if np.count_nonzero(scored) < MIN_WINDOWS:
            return None
        value, influence = _difference(ratios, log)
        if not np.isfinite(influence).all():
            return None
        error = np.sqrt(np.square(self._block_sums(influence)).mean() * self.windows / self.block)
        blocks = [(self._block_sums(each.total), self._block_sums(each.weight)) for each in ratios]
        t = []
        for start in self._starts():
            drawn = [
                each._replace(total=total[start], weight=weight[start])
                for each, (total, weight) in zip(ratios, blocks, strict=True)
            ]
            resampled, influences = _difference(drawn, log)
            # a resample of equal windows has no error of its own
            own_error = np.maximum(np.sqrt(np.square(influences).sum(axis=-1)), error / 10)
            t.append((resampled - value)[:, 0] / np.where(own_error > 0, own_error, 1))
        finite = np.concatenate(t)
        finite = np.sort(finite[np.isfinite(finite)])
        effective = min(each.weight.sum() ** 2 / np.square(each.weight).sum() for each in ratios)
        stretch = _stretch(influence[scored], effective, len(finite))
        return Estimate(value.item(), float(error), np.sort(finite * stretch))

    def _starts(self) -> Iterator[np.ndarray]:
        """Iterates over the first window of each block, for some resamples at once."""
        step = max(1, BLOCKS_AT_ONCE // self.blocks)
        for resample in torch.arange(self.resamples).split(step):
            first = uniforms(streams(self.seed, resample), (self.blocks,), dtype=torch.float64)
            yield (first * self.windows).long().numpy()

    def _block_sums(self, each: Float[np.ndarray, " windows"]) -> Float[np.ndarray, " windows"]:
        """Returns the sum of the block that begins at each window."""
        return sliding_window_view(np.append(each, each[: self.block - 1]), self.block).sum(axis=-1)


def _difference(
    ratios: Sequence[Ratio], log: bool
) -> tuple[Float[np.ndarray, "*resamples 1"], Float[np.ndarray, "*resamples windows"]]:
    """Returns the first score, minus the second if there is one, and the influence of each window on it."""
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample may have no scored window
        value, influence = ratios[0].linearised(log)
        for ratio in ratios[1:]:
            other, its_influence = ratio.linearised(log)
            value, influence = value - other, influence - its_influence
    return value, influence


def _stretch(
    influence: Float[np.ndarray, " windows"], effective: float, resamples: int
) -> Float[np.ndarray, " resamples"]:
    """Returns the factor of each sorted t, which corrects for the few windows that t is estimated from.

    Args:
        influence: The influence of each scored window.
        effective: The effective number of windows, given their weights.
        resamples: The number of resamples.
    """
    count, square = len(influence), np.square(influence).mean()
    if square == 0:
        return np.ones(resamples)
    kurtosis, skewness = (influence**4).mean() / square**2, (influence**3).mean() / square**1.5
    probability = np.arange(1, resamples + 1) / (resamples + 1)
    lower = probability < 0.5
    factors = []
    for half, tail in ((lower, max(skewness, 0)), (~lower, min(skewness, 0))):
        freedom = 2 * count / (kurtosis - 1 + SKEWNESS_FACTOR * tail**2 * count / effective)
        # at the median both quantiles are zero, and their ratio is not defined
        beyond = np.maximum(np.maximum(probability, 1 - probability)[half], 0.5 + 1e-6)
        longer = student_quantile(beyond, min(max(freedom, MIN_FREEDOM), count - 1))
        factors.append(longer / student_quantile(beyond, count - 1))
    return np.concatenate(factors)


def student_quantile(
    probability: Float[np.ndarray, "*shape"] | float, freedom: float
) -> Float[np.ndarray, "*shape"] | float:
    r"""Returns quantiles of Student's t distribution.

    With :math:`t = \sqrt\nu \tan\theta` the density of :math:`\theta` is proportional to
    :math:`\cos^{\nu - 1}\theta`, which is integrated on a grid.

    Args:
        probability: The probabilities below the quantiles, in [0.5, 1).
        freedom: The degrees of freedom :math:`\nu`, at least 1.
    """
    angle, below = _student_grid(freedom)
    return np.sqrt(freedom) * np.tan(np.interp(2 * np.asarray(probability) - 1, below, angle))


@lru_cache(maxsize=64)
def _student_grid(freedom: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns angles and the distribution function at them."""
    angle = np.linspace(0, np.pi / 2, 20_001)
    below = np.append(0, np.cumsum(np.cos((angle[1:] + angle[:-1]) / 2) ** (freedom - 1)))
    return angle, below / below[-1]
