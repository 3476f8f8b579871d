r"""Confidence intervals of scores, by drawing windows again.

A score is a ratio of two sums over windows, :math:`\sum_w a_w / \sum_w b_w` (errors over entries). Entries
of a window depend on each other, and so do neighbouring windows, though less: what is drawn again are
therefore windows, in blocks of neighbours. Of W windows the blocks have :math:`W^{1/3}`, the rate that is
best for the variance of a mean, and go on from the last window to the first, so that every window is drawn as
often as any other. The interval holds the middle of the ratios of all resamples. Two answers to the same
windows are compared in the same resamples: what makes a window hard for both cancels.

Resamples vary less than what they are drawn from, and a variance known from few blocks is itself uncertain.
As for a mean of W numbers, the interval is therefore made longer about the estimate, by :math:`\sqrt{W / (W -
1)}\, t / z`, with the quantiles t of Student's law with W / block - 1 degrees of freedom and z of the normal
one (Hesterberg, 2015).

What windows cannot show is not in the intervals: another training, another seed, another year. With few
windows, or blocks shorter than what they depend on, they are somewhat too short (see ``docs/scores.md``).

References:
    A circular block-resampling procedure for stationary data (Politis & Romano, 1992);
    On blocking rules for the bootstrap with dependent data (Hall, Horowitz & Jing, 1995);
    What teachers should know about the bootstrap (Hesterberg, 2015), on intervals of few numbers.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import torch
from jaxtyping import Float
from numpy.lib.stride_tricks import sliding_window_view

from tsgen.counter_random import streams, uniforms

FEWEST_WINDOWS = 20
"""Windows with something to score below which there is no interval: fewer say little of how they vary."""


class WindowBootstrap:
    """Resamples of windows.

    Args:
        windows: The number of windows, in the order of time.
        resamples: The number of resamples.
        block: Neighbouring windows that are drawn together; the rounded cube root of the number of windows if
            not given.
        level: The intervals' nominal coverage, in (0, 1).
        seed: Fixes the resamples.

    Raises:
        ValueError: If a number is below 1 or the level is out of range.
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
        place = uniforms(streams(seed, torch.arange(resamples)), (blocks,), dtype=torch.float64)
        self.start = (place * windows).long().numpy()  # of each block

    def ratios(
        self, total: Float[np.ndarray, " windows"], weight: Float[np.ndarray, " windows"]
    ) -> Float[np.ndarray, " resamples"]:
        """The ratio of two sums in each resample; NaN where the lower one is zero.

        Args:
            total: What each window adds to the upper sum.
            weight: What it adds to the lower one; zero if nothing is scored in it.
        """
        with np.errstate(invalid="ignore"):
            return self._sums(total) / self._sums(weight)

    def _sums(self, each: Float[np.ndarray, " windows"]) -> Float[np.ndarray, " resamples"]:
        """The sum over the windows of each resample."""
        last = self.windows - (self.start.shape[1] - 1) * self.block  # the last block is cut
        whole, cut = (
            sliding_window_view(np.append(each, each[: size - 1]), size).sum(axis=-1)
            for size in (self.block, last)
        )
        return whole[self.start[:, :-1]].sum(axis=1) + cut[self.start[:, -1]]

    def interval(
        self,
        estimate: float,
        ratios: Float[np.ndarray, " resamples"],
        weight: Float[np.ndarray, " windows"],
    ) -> tuple[float, float] | None:
        """The middle of the resamples of a score, or of a difference of scores, made longer for few windows.

        Args:
            estimate: The score of all windows.
            ratios: The score in each resample.
            weight: What each window adds to its weight: there is no interval if too few add anything.
        """
        count = int(np.count_nonzero(weight))
        if count < FEWEST_WINDOWS or not np.isfinite(ratios).any():
            return None
        ends = np.nanquantile(ratios, [(1 - self.level) / 2, (1 + self.level) / 2])
        low, high = estimate + self._lengthening(count) * (ends - estimate)
        return float(low), float(high)

    def _lengthening(self, windows: int) -> float:
        """How many times longer than the middle of the resamples the interval of so many windows is."""
        upper = (1 + self.level) / 2
        student = student_quantile(upper, max(windows / self.block - 1, 1))
        return float(np.sqrt(windows / (windows - 1)) * student / NormalDist().inv_cdf(upper))


def student_quantile(probability: float, freedom: float) -> float:
    r"""The quantile of Student's t: with :math:`t = \sqrt\nu \tan\theta` the density of :math:`\theta` is
    proportional to :math:`\cos^{\nu - 1}\theta`, which is summed up on a grid.

    Args:
        probability: In [0.5, 1).
        freedom: The degrees of freedom :math:`\nu`, at least 1.
    """
    angle = np.linspace(0, np.pi / 2, 20_001)
    below = np.append(0, np.cumsum(np.cos((angle[1:] + angle[:-1]) / 2) ** (freedom - 1)))
    return float(np.sqrt(freedom) * np.tan(np.interp(2 * probability - 1, below / below[-1], angle)))
