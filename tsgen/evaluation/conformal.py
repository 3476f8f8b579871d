r"""Intervals that cover as often as they say: conformalised quantile regression on the validation split.

A model's interval :math:`[l, u]` of a hidden entry is moved out (or in) by what validation found to be
needed. The score of an entry whose truth is y,

.. math:: s = \frac{\max(l - y, y - u)}{u - l},

says by how many of its own widths the interval would have to grow at each end to hold the truth just so. With
:math:`\hat s` a quantile of the validation scores, the adjusted interval is
:math:`[l - \hat s (u - l),\ u + \hat s (u - l)]`.

**What is guaranteed.** Let the scores of K validation windows and of the test window be exchangeable. Give
each of the K a weight of :math:`1 / (K + 1)`, which its scores share equally, and leave the rest at infinity.
With :math:`\hat s` the smallest number that a weight of at least the level lies at or below, the adjusted
interval of an entry chosen at random of the test window holds its truth with a probability of at least the
level: on average over validation and test windows, whatever the model and the data. Entries of a window may
depend on each other as they like. (With one entry a window this is the
:math:`\lceil (K + 1)\,\text{level} \rceil`-th smallest score, and the probability exceeds the level by at
most :math:`1 / (K + 1)` where no scores tie.)
Taking the entries themselves as exchangeable, ``unit="entry"``, uses as many scores as there are entries.
That is exact where entries of a window are independent; otherwise coverage can fall short.

What is not guaranteed: coverage of a given node, hour or window; it holds for each group of gap lengths
(Mondrian), so long as a group has validation windows enough. And none of it holds where validation and test
differ: in the season, in the pattern that hides entries, or because the checkpoint was chosen on validation.

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

from tsgen.data.interpolation import GAPS, Nearest, gap_class

AXES = ("window", "step", "node", "channel")

Unit = Literal["window", "entry"]
"""What is taken as exchangeable."""


@dataclass(frozen=True)
class Group:
    """What validation found of the entries in gaps of some lengths.

    Attributes:
        shortest: The shortest gap, in steps.
        longest: The longest; None without a bound.
        windows: Validation windows that have such entries.
        entries: Such entries of validation.
        adjustment: What is added at each end, in widths of the interval (or in data units); infinite where
            there are too few to say.
    """

    shortest: int
    longest: int | None
    windows: int
    entries: int
    adjustment: float

    @property
    def name(self) -> str:
        """The lengths, in words."""
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
    """The smallest number that a new score is at most with a probability of the level.

    Args:
        scores: Scores that are exchangeable with the new one, or those of windows that are.
        level: The probability, in (0, 1).
        windows: The number of the window that each score belongs to; each is a window of its own if not
            given.

    Returns:
        Infinity if there are too few: below ``level / (1 - level)`` windows.

    Raises:
        ValueError: If the level is out of range, or a score is NaN.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1; it is {level}.")
    if np.isnan(scores).any():
        raise ValueError(f"scores must be numbers; {int(np.isnan(scores).sum())} of them are NaN.")
    if not len(scores):
        return math.inf
    own = np.arange(len(scores)) if windows is None else windows
    _, of, sizes = np.unique(own, return_inverse=True, return_counts=True)
    order = np.argsort(scores, kind="stable")
    below = np.cumsum(1 / sizes[of[order]])  # of the K + 1 windows, how many lie at or below
    # (K + 1) level may be a whole number, which sums of fractions miss by rounding
    at = int(np.searchsorted(below, (len(sizes) + 1) * level - 1e-9))
    return float(scores[order[at]]) if at < len(scores) else math.inf


@dataclass(frozen=True)
class ConformalIntervals:
    """Central intervals of a level, adjusted by what validation found (see the module).

    Args:
        level: The probability that an interval is to hold the truth with.
        groups: What was found of each group of gap lengths.
        relative: Whether adjustments are in widths of the interval, rather than in data units.
    """

    level: float
    groups: tuple[Group, ...]
    relative: bool = True

    @classmethod
    def fit(
        cls,
        validation: xr.Dataset,
        level: float = 0.9,
        gaps: Sequence[int] = tuple(GAPS.values()),
        relative: bool = True,
        unit: Unit = "window",
    ) -> ConformalIntervals:
        """Learns the adjustment of each group.

        Args:
            validation: The evaluation of the validation split, as ``tsgen test --data.test_on val`` leaves
                it.
            level: Nominal coverage; its two quantiles must be among those of the evaluation.
            gaps: The shortest gap of each group, in steps, rising from 1; ``(1,)`` for one group.
            relative: Adjust by widths of the interval, rather than by data units: what suits nodes of
                different scale, and times of different uncertainty.
            unit: What is exchangeable: windows, or single entries.

        Raises:
            ValueError: If the evaluation lacks the quantiles or has nothing hidden, or an option is out of
                range.
        """
        if list(gaps) != sorted(set(gaps)) or not gaps or gaps[0] != 1:
            raise ValueError(f"gaps must rise from 1, the shortest gap there is; they are {list(gaps)}.")
        if unit not in ("window", "entry"):
            raise ValueError(f"unit must be one of window, entry; it is {unit!r}.")
        low, high = interval(validation, level)
        truth, hidden = validation["truth"].values, validation["target"].values
        if not hidden.any():
            raise ValueError("the validation evaluation must have hidden entries; it has none.")
        score = np.maximum(low - truth, truth - high)[hidden].astype(np.float64)
        if relative:
            # an interval without width can grow by no multiple of itself: it holds the truth or never will
            width = (high - low)[hidden].astype(np.float64)
            with np.errstate(divide="ignore", invalid="ignore"):
                score = np.where(width > 0, score / width, np.where(score > 0, np.inf, 0))
        group, window = _group(validation, gaps)[hidden], np.nonzero(hidden)[0]
        found = []
        for number, shortest in enumerate(gaps):
            mine = group == number
            quantile = conformal_quantile(score[mine], level, window[mine] if unit == "window" else None)
            longest = gaps[number + 1] - 1 if number + 1 < len(gaps) else None
            windows = len(np.unique(window[mine]))
            found.append(Group(shortest, longest, windows, int(mine.sum()), quantile))
        return cls(level, tuple(found), relative)

    def __call__(self, evaluation: xr.Dataset) -> xr.Dataset:
        """The evaluation with ``lower`` and ``upper``, the ends of the adjusted interval of each entry that
        is not visible, and ``gap``, the length of the gap that it lies in, in steps.

        Args:
            evaluation: The evaluation of the test split.

        Raises:
            ValueError: If it lacks the quantiles.
        """
        low, high = (end.astype(np.float64) for end in interval(evaluation, self.level))
        adjustments = np.array([group.adjustment for group in self.groups])
        by = adjustments[_group(evaluation, [group.shortest for group in self.groups])]
        if self.relative:
            width = high - low
            by = np.where(width > 0, by * np.where(width > 0, width, 1), np.where(by < np.inf, 0, np.inf))
        # an interval that would shrink past its middle is that point
        by = np.maximum(by, (low - high) / 2)
        visible = evaluation["context"].transpose(*AXES).values
        added = {
            "lower": (AXES, np.where(visible, np.nan, low - by)),
            "upper": (AXES, np.where(visible, np.nan, high + by)),
            "gap": (AXES, gap_length(visible)),
        }
        return evaluation.assign(added).assign_attrs(conformal_level=self.level)

    def table(self, adjusted: xr.Dataset) -> list[dict[str, Any]]:
        """Coverage and mean width of the hidden entries before and after, by group and of all.

        Coverage is a share of entries. ``window_coverage`` weighs every window alike: the mean of its own
        share, which the guarantee is about.

        Args:
            adjusted: What calling this returned.
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
                continue  # the only group: the last row
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
    """Adjusts the intervals of a test by those of the validation split.

    Args:
        validation: The evaluation of the validation split.
        test: The evaluation of the test split.
        level: Nominal coverage.
        options: Of :meth:`ConformalIntervals.fit`.

    Returns:
        The test with its adjusted intervals, and coverage and width before and after.

    Raises:
        ValueError: If the two are not of the same model, sampled alike, on the same nodes, channels and
            horizon, if they score the same times, or as :meth:`ConformalIntervals.fit` does.
    """
    for name in ("model", "conditioning", "num_samples", "horizon"):
        found, wanted = validation.attrs.get(name), test.attrs.get(name)
        if found != wanted:
            raise ValueError(
                f"validation and test must be of one model, sampled alike; {name} is {found} and {wanted}. "
                "Test both again with the same options."
            )
    for name in ("node", "channel"):
        if validation[name].values.tolist() != test[name].values.tolist():
            raise ValueError(
                f"validation and test must have the same {name}s; theirs differ. Test both again."
            )
    shared = np.intersect1d(_scored_times(validation), _scored_times(test))
    if len(shared):
        raise ValueError(
            f"validation and test must score different stretches; they share {len(shared):,} times, "
            f"the first {shared[0]}. Test once with --data.test_on val, once without."
        )
    intervals = ConformalIntervals.fit(validation, level, **options)
    adjusted = intervals(test)
    return adjusted, intervals.table(adjusted)


def _scored_times(evaluation: xr.Dataset) -> np.ndarray:
    """The times at which anything is scored; none if they are not known."""
    if "time" not in evaluation:
        return np.empty(0)
    return evaluation["time"].values[evaluation["target"].transpose(*AXES).values.any(axis=(2, 3))]


def interval(evaluation: xr.Dataset, level: float) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the central interval, from the quantiles of an evaluation.

    Args:
        evaluation: The evaluation.
        level: Nominal coverage.

    Raises:
        ValueError: If the evaluation lacks one of the two quantiles.
    """
    kept = evaluation["quantile"].values
    ends = []
    for wanted in ((1 - level) / 2, (1 + level) / 2):
        near = np.flatnonzero(np.isclose(kept, wanted))
        if not len(near):
            levels = sorted({round(abs(2 * q - 1), 6) for q in kept.tolist()} - {0.0})
            raise ValueError(
                f"level must be one that the evaluation has quantiles for, {', '.join(map(str, levels))}; it "
                f"is {level}."
            )
        ends.append(evaluation["quantiles"].isel(quantile=int(near[0])).transpose(*AXES).values)
    return ends[0], ends[1]


def gap_length(context: np.ndarray) -> Int[np.ndarray, "windows steps nodes channels"]:
    """The number of consecutive steps of a window, node and channel that are not visible around each entry;
    zero where it is visible.

    Args:
        context: What is visible, ``[windows, steps, nodes, channels]``.
    """
    return Nearest.of(torch.from_numpy(np.ascontiguousarray(context))).gap.numpy()


def _group(evaluation: xr.Dataset, gaps: Sequence[int]) -> np.ndarray:
    """The number of the group that each entry is in; of a visible one the first."""
    gap = gap_length(evaluation["context"].transpose(*AXES).values)
    return np.maximum(gap_class(gap, gaps), 0)


def _mean(x: np.ndarray) -> float | None:
    return float(x.mean(dtype=np.float64)) if x.size else None


def _by_window(inside: np.ndarray, window: np.ndarray) -> float | None:
    """The mean over windows of each one's share."""
    count = np.bincount(window)
    share = np.bincount(window, weights=inside)[count > 0] / count[count > 0]
    return _mean(share)
