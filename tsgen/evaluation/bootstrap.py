r"""Confidence intervals of scores, by a block bootstrap over windows.

A score is a ratio of two sums over windows, :math:`\sum_w a_w / \sum_w b_w` (errors over entries). Entries
of a window depend on each other, and neighbouring windows do too, though less. The bootstrap therefore
resamples blocks of neighbouring windows. With W windows a block has :math:`W^{1/3}` of them, the optimal rate
for the variance of a mean. Blocks wrap around from the last window to the first, so that every window is
drawn equally often. The interval is the central part of the ratios of all resamples. Two models are compared
in the same resamples, so that the difficulty that a window has for both cancels.

Resamples vary less than the windows they are drawn from, and a variance estimated from few blocks is itself
uncertain. As for a mean of W numbers, the interval is therefore stretched about the estimate by
:math:`\sqrt{W / (W - 1)}\, t / z`, where t is a quantile of Student's t distribution with W / block - 1
degrees of freedom and z the same quantile of the normal distribution (Hesterberg, 2015).

The intervals do not include the variation between trainings, seeds or years. With few windows, or blocks
shorter than the range of their dependence, they are somewhat too short (see ``docs/scores.md``).

References:
    A circular block-resampling procedure for stationary data (Politis & Romano, 1992);
    On blocking rules for the bootstrap with dependent data (Hall, Horowitz & Jing, 1995);
    What teachers should know about the bootstrap (Hesterberg, 2015), on intervals from small samples.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import torch
from jaxtyping import Float
from numpy.lib.stride_tricks import sliding_window_view

from tsgen.counter_random import streams, uniforms

MIN_WINDOWS = 20
"""The minimum number of scored windows for an interval: fewer do not show how scores vary between windows."""


class WindowBootstrap:
    """Resamples of windows in blocks of neighbours.

    Args:
        windows: The number of windows, which are ordered in time.
        resamples: The number of resamples.
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
        resamples: int = 2000,
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
        self.windows, self.level, blocks = windows, level, -(-windows // self.block)
        first = uniforms(streams(seed, torch.arange(resamples)), (blocks,), dtype=torch.float64)
        self.start = (first * windows).long().numpy()  # of each block

    def ratios(
        self, total: Float[np.ndarray, " windows"], weight: Float[np.ndarray, " windows"]
    ) -> Float[np.ndarray, " resamples"]:
        """Returns the ratio of two sums in each resample; NaN where the denominator is zero.

        Args:
            total: Each window's contribution to the numerator.
            weight: Each window's contribution to the denominator; zero if nothing is scored in it.
        """
        with np.errstate(invalid="ignore"):
            return self._sums(total) / self._sums(weight)

    def _sums(self, each: Float[np.ndarray, " windows"]) -> Float[np.ndarray, " resamples"]:
        """Returns the sum over the windows of each resample."""
        last = self.windows - (self.start.shape[1] - 1) * self.block  # the last block is shortened
        full, shortened = (
            sliding_window_view(np.append(each, each[: size - 1]), size).sum(axis=-1)
            for size in (self.block, last)
        )
        return full[self.start[:, :-1]].sum(axis=1) + shortened[self.start[:, -1]]

    def interval(
        self,
        estimate: float,
        ratios: Float[np.ndarray, " resamples"],
        weight: Float[np.ndarray, " windows"],
    ) -> tuple[float, float] | None:
        """Returns the confidence interval of a score, or of a difference of scores.

        The interval is the central part of the resamples, stretched to correct for a small number of windows.

        Args:
            estimate: The score over all windows.
            ratios: The score in each resample.
            weight: Each window's contribution to the denominator; zero if nothing is scored in it.

        Returns:
            The lower and the upper end, or None if fewer than :data:`MIN_WINDOWS` windows are scored.
        """
        count = int(np.count_nonzero(weight))
        if count < MIN_WINDOWS or not np.isfinite(ratios).any():
            return None
        ends = np.nanquantile(ratios, [(1 - self.level) / 2, (1 + self.level) / 2])
        low, high = estimate + self._stretch(count) * (ends - estimate)
        return float(low), float(high)

    def _stretch(self, windows: int) -> float:
        """Returns the factor by which the interval is longer than the central part of the resamples."""
        upper = (1 + self.level) / 2
        student = student_quantile(upper, max(windows / self.block - 1, 1))
        return float(np.sqrt(windows / (windows - 1)) * student / NormalDist().inv_cdf(upper))


def student_quantile(probability: float, freedom: float) -> float:
    r"""Returns a quantile of Student's t distribution.

    With :math:`t = \sqrt\nu \tan\theta` the density of :math:`\theta` is proportional to
    :math:`\cos^{\nu - 1}\theta`, which is integrated on a grid.

    Args:
        probability: The probability below the quantile, in [0.5, 1).
        freedom: The degrees of freedom :math:`\nu`, at least 1.
    """
    angle = np.linspace(0, np.pi / 2, 20_001)
    below = np.append(0, np.cumsum(np.cos((angle[1:] + angle[:-1]) / 2) ** (freedom - 1)))
    return float(np.sqrt(freedom) * np.tan(np.interp(2 * probability - 1, below / below[-1], angle)))
