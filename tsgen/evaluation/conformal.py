r"""Prediction intervals with guaranteed coverage: conformalised quantile regression on the validation split.

A model's interval :math:`[l, u]` of a hidden entry is widened (or narrowed) by an amount that is estimated on
the validation split. The score of an entry whose truth is y,

.. math:: s = \frac{\max(l - y, y - u)}{u - l},

is the amount, in widths of the interval, by which each end must move out for the interval just to contain the
truth. With :math:`\hat s` a quantile of the validation scores, the adjusted interval is
:math:`[l - \hat s (u - l),\ u + \hat s (u - l)]`.

**The guarantee.** Let the scores of K validation windows and of the test window be exchangeable. Each of the
K windows has a weight of :math:`1 / (K + 1)`, divided equally among its scores; the remaining weight lies at
infinity. Let :math:`\hat s` be the smallest number such that the weight at or below it is at least the level.
Then the adjusted interval of a random entry of the test window contains its truth with a probability of at
least the level, on average over validation and test windows, for any model and any data. Entries of a window
may depend on each other in any way. (With one entry per window :math:`\hat s` is the :math:`\lceil (K +
1)\,\text{level} \rceil`-th smallest score, and without ties the probability exceeds the level by at most
:math:`1 / (K + 1)`.) With ``unit="entry"`` the entries themselves are taken to be exchangeable, so that there
are as many scores as entries. That is exact if entries of a window are independent; otherwise coverage can
fall short.

**The limits.** Coverage is not guaranteed for a given node, hour or window. It is guaranteed for each group
of gap lengths (Mondrian), provided that the group has enough validation windows. The guarantee does not hold
if validation and test differ: in season, in the pattern of hidden entries, or because the checkpoint was
selected on the validation split.

References:
    Conformalized quantile regression (Romano, Patterson & Candès, 2019);
    Algorithmic learning in a random world (Vovk, Gammerman & Shafer, 2005), on Mondrian prediction;
    Distribution-free inference with hierarchical data (Lee, Barber & Willett, 2023), on windows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int

from tsgen.argument_types import check_arguments
from tsgen.data.interpolation import GAPS, Nearest, gap_class
from tsgen.data.support import bounds_of

AXES = ("window", "step", "node", "channel")

Unit = Literal["window", "entry"]
"""The unit that is taken to be exchangeable."""


@dataclass(frozen=True)
class Group:
    """The adjustment of the intervals of entries whose gap length lies in a range.

    Attributes:
        shortest: The shortest gap, in steps.
        longest: The longest gap, in steps; None if unbounded.
        windows: The number of validation windows with such entries.
        entries: The number of such entries in the validation split.
        adjustment: The amount by which each end is moved out, in widths of the interval (or in data units);
            infinite if there are too few windows or entries to determine it.
    """

    shortest: int
    longest: int | None
    windows: int
    entries: int
    adjustment: float

    @property
    def name(self) -> str:
        """The range of gap lengths in words, such as ``2 to 5 steps``."""
        if self.longest is None:
            return f"over {self.shortest - 1} steps" if self.shortest > 1 else "all"
        if self.longest == self.shortest:
            return f"{self.shortest} step" + "s" * (self.shortest > 1)
        return f"{self.shortest} to {self.longest} steps"


def conformal_quantile(
    scores: Float[np.ndarray, " entries"],
    level: float,
    windows: Int[np.ndarray, " entries"] | None = None,
) -> float:
    """Returns the smallest bound that a new score does not exceed with a probability of at least the level.

    Args:
        scores: Scores that are exchangeable with the new one, or whose windows are.
        level: The probability, in (0, 1).
        windows: The window number of each score. If not given, each score is a window of its own.

    Returns:
        The bound. Infinity if there are too few windows: fewer than ``level / (1 - level)``.

    Raises:
        ValueError: If the level is out of range, or a score is NaN.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1; it is {level}.")
    if np.isnan(scores).any():
        raise ValueError(f"scores must be numbers; {int(np.isnan(scores).sum())} of them are NaN.")
    if not len(scores):
        return math.inf
    labels = np.arange(len(scores)) if windows is None else windows
    _, window, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.argsort(scores, kind="stable")
    below = np.cumsum(1 / sizes[window[order]])  # the weight at or below each score, in windows
    # (K + 1) level may be an integer, which sums of fractions miss by rounding
    index = int(np.searchsorted(below, (len(sizes) + 1) * level - 1e-9))
    return float(scores[order[index]]) if index < len(scores) else math.inf


@check_arguments
@dataclass(frozen=True)
class ConformalIntervals:
    """Central intervals with adjustments that were estimated on the validation split.

    The module's docstring explains the method and its guarantee.

    Args:
        level: Nominal coverage of the intervals.
        groups: The adjustment of each group of gap lengths.
        relative: Whether adjustments are in widths of the interval, rather than in data units.
    """

    level: float
    groups: tuple[Group, ...]
    relative: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.level < 1:
            raise ValueError(f"level must lie between 0 and 1; it is {self.level}.")

    @classmethod
    def fit(
        cls,
        validation: xr.Dataset,
        level: float = 0.9,
        gaps: Sequence[int] = tuple(GAPS.values()),
        relative: bool = True,
        unit: Unit = "window",
    ) -> ConformalIntervals:
        """Estimates the adjustment of each group.

        Args:
            validation: The evaluation of the validation split, as ``tsgen test --data.test_on val`` writes
                it.
            level: Nominal coverage; the evaluation must have its two quantiles.
            gaps: The shortest gap of each group, in steps, increasing from 1; ``(1,)`` for a single group.
            relative: Adjust in widths of the interval, rather than in data units. This suits nodes of
                different scale and times of different uncertainty.
            unit: The exchangeable unit: windows, or single entries.

        Raises:
            ValueError: If the evaluation lacks the quantiles or has no hidden entries, or an option is out of
                range.
        """
        gaps = [int(gap) for gap in gaps]
        if gaps != sorted(set(gaps)) or not gaps or gaps[0] != 1:
            raise ValueError(f"gaps must increase from 1, the shortest gap; they are {gaps}.")
        low, high = interval(validation, level)
        truth, hidden = validation["truth"].values, validation["target"].values
        if not hidden.any():
            raise ValueError("the validation evaluation must have hidden entries; it has none.")
        score = np.maximum(low - truth, truth - high)[hidden].astype(np.float64)
        if relative:
            # no multiple widens an interval of zero width: its score is 0 (truth inside) or infinite
            width = (high - low)[hidden].astype(np.float64)
            with np.errstate(divide="ignore", invalid="ignore"):
                score = np.where(width > 0, score / width, np.where(score > 0, np.inf, 0))
        group, window = _group(validation, gaps)[hidden], np.nonzero(hidden)[0]
        groups = []
        for number, shortest in enumerate(gaps):
            mask = group == number
            quantile = conformal_quantile(score[mask], level, window[mask] if unit == "window" else None)
            longest = gaps[number + 1] - 1 if number + 1 < len(gaps) else None
            windows = len(np.unique(window[mask]))
            groups.append(Group(shortest, longest, windows, int(mask.sum()), quantile))
        return cls(level, tuple(groups), relative)

    def __call__(self, evaluation: xr.Dataset) -> xr.Dataset:
        """Returns the evaluation with the adjusted intervals.

        It has three more variables: ``lower`` and ``upper``, the ends of the interval of each entry that is
        not visible, within the support of its channel, and ``gap``, the length in steps of the gap around
        each entry.

        Args:
            evaluation: The evaluation of the test split.

        Raises:
            ValueError: If the evaluation lacks the quantiles.
        """
        low, high = (end.astype(np.float64) for end in interval(evaluation, self.level))
        adjustments = np.array([group.adjustment for group in self.groups])
        shift = adjustments[_group(evaluation, [group.shortest for group in self.groups])]
        if self.relative:
            width = high - low
            shift = np.where(
                width > 0, shift * np.where(width > 0, width, 1), np.where(shift < np.inf, 0, np.inf)
            )
        # an interval never shrinks past its midpoint
        shift = np.maximum(shift, (low - high) / 2)
        visible = evaluation["context"].transpose(*AXES).values
        lowest, highest = (np.array(ends) for ends in bounds_of(evaluation.attrs.get("support", "real")))
        added = {
            "lower": (AXES, np.where(visible, np.nan, np.maximum(low - shift, lowest))),
            "upper": (AXES, np.where(visible, np.nan, np.minimum(high + shift, highest))),
            "gap": (AXES, gap_length(visible)),
        }
        return evaluation.assign(added).assign_attrs(conformal_level=self.level)

    def table(self, adjusted: xr.Dataset) -> list[dict[str, Any]]:
        """Returns coverage and mean width of the intervals before and after adjustment, by group and overall.

        Coverage is the fraction of hidden entries whose interval contains the truth. The guarantee is about
        ``window_coverage``: the mean over windows of each window's coverage.

        Args:
            adjusted: The evaluation that :meth:`__call__` returned.
        """
        hidden, truth = adjusted["target"].values, adjusted["truth"].values
        ends = {
            "before": interval(adjusted, self.level),
            "after": (adjusted["lower"].values, adjusted["upper"].values),
        }
        group = _group(adjusted, [group.shortest for group in self.groups])
        rows = []
        for number, name in [*enumerate(g.name for g in self.groups), (None, "all")]:
            chosen = hidden if number is None else hidden & (group == number)
            if name == "all" and number is not None:
                continue  # the only group is the last row
            row: dict[str, Any] = {"gaps": name, "entries": int(chosen.sum())}
            if number is not None:
                row["adjustment"] = self.groups[number].adjustment
            for when, (low, high) in ends.items():
                inside = ((low <= truth) & (truth <= high))[chosen]
                row |= {
                    f"coverage_{when}": _mean(inside),
                    f"window_coverage_{when}": _by_window(inside, np.nonzero(chosen)[0]),
                    f"width_{when}": _mean((high - low)[chosen]),
                }
            rows.append(row)
        return rows


def conformal(
    validation: xr.Dataset, test: xr.Dataset, level: float = 0.9, **options: Any
) -> tuple[xr.Dataset, list[dict[str, Any]]]:
    """Adjusts the intervals of the test split by the errors on the validation split.

    Args:
        validation: The evaluation of the validation split.
        test: The evaluation of the test split.
        level: Nominal coverage.
        options: Further options of :meth:`ConformalIntervals.fit`.

    Returns:
        The evaluation of the test split with adjusted intervals, and the table of coverage and width (see
        :meth:`ConformalIntervals.table`).

    Raises:
        ValueError: If the two differ in model, sampling, nodes, channels or horizon, if they score the same
            times, or for the reasons of :meth:`ConformalIntervals.fit`.
    """
    for name in ("model", "conditioning", "num_samples", "horizon"):
        values = [data.attrs.get(name) for data in (validation, test)]
        if values[0] != values[1]:
            raise ValueError(
                f"validation and test must use the same model and sampling options; {name} is {values[0]} "
                f"and {values[1]}. Test both again with the same options."
            )
    for name in ("node", "channel"):
        if validation[name].values.tolist() != test[name].values.tolist():
            raise ValueError(f"validation and test must have the same {name}s; they differ. Test both again.")
    shared = np.intersect1d(_scored_times(validation), _scored_times(test))
    if len(shared):
        raise ValueError(
            f"validation and test must score different times; they share {len(shared):,} of them, "
            f"the first {shared[0]}. Test once with --data.test_on val, once without."
        )
    intervals = ConformalIntervals.fit(validation, level, **options)
    adjusted = intervals(test)
    return adjusted, intervals.table(adjusted)


def _scored_times(evaluation: xr.Dataset) -> np.ndarray:
    """Returns the times at which any entry is scored; an empty array if they are unknown."""
    if "time" not in evaluation:
        return np.empty(0)
    return evaluation["time"].values[evaluation["target"].transpose(*AXES).values.any(axis=(2, 3))]


def interval(evaluation: xr.Dataset, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ends of the central interval, from the quantiles of an evaluation.

    Args:
        evaluation: The evaluation.
        level: Nominal coverage.

    Raises:
        ValueError: If the evaluation lacks one of the two quantiles.
    """
    available = evaluation["quantile"].values
    if set(evaluation["quantiles"].dims) != {"quantile", *AXES}:
        raise ValueError(
            f"quantiles must have the dimensions quantile, {', '.join(AXES)}; they have "
            f"{', '.join(map(str, evaluation['quantiles'].dims))}."
        )
    ends = []
    for probability in ((1 - level) / 2, (1 + level) / 2):
        matches = np.flatnonzero(np.isclose(available, probability))
        if not len(matches):
            levels = sorted({round(abs(2 * q - 1), 6) for q in available.tolist()} - {0.0})
            raise ValueError(
                f"level must be one that the evaluation has quantiles for, {', '.join(map(str, levels))}; it "
                f"is {level}."
            )
        ends.append(evaluation["quantiles"].isel(quantile=int(matches[0])).transpose(*AXES).values)
    return ends[0], ends[1]


def gap_length(context: np.ndarray) -> Int[np.ndarray, "windows steps nodes channels"]:
    """Returns the length of the gap that contains each entry, in steps; zero where the entry is visible.

    A gap is a run of consecutive steps of a window, node and channel that are not visible.

    Args:
        context: The mask of visible entries, ``[windows, steps, nodes, channels]``.
    """
    return Nearest.of(torch.from_numpy(np.ascontiguousarray(context))).gap.numpy()


def _group(evaluation: xr.Dataset, gaps: Sequence[int]) -> np.ndarray:
    """Returns the number of each entry's group; visible entries are in the first."""
    gap = gap_length(evaluation["context"].transpose(*AXES).values)
    return np.maximum(gap_class(gap, gaps), 0)


def _mean(x: np.ndarray) -> float | None:
    """Returns the mean, or None if there are no numbers."""
    return float(x.mean(dtype=np.float64)) if x.size else None


def _by_window(inside: np.ndarray, window: np.ndarray) -> float | None:
    """Returns the mean over windows of the fraction inside in each window."""
    count = np.bincount(window)
    fraction = np.bincount(window, weights=inside)[count > 0] / count[count > 0]
    return _mean(fraction)
