"""Comparison of two runs: the difference of each score, and whether it is significant.

:func:`compare` takes the evaluations of two runs (from their ``evaluation.nc``), checks that both scored the
same entries, and returns the difference of each score with a confidence interval over windows, for all
entries and for groups of them (see :mod:`tsgen.evaluation.bootstrap`). Of so many intervals some exclude zero
by chance: a run is called better only if the p-value, adjusted by Holm's method, is significant, and
:func:`adjust` adjusts those of several pairs of runs together. :func:`baseline` extracts the evaluation of a
baseline from that of a run, so that it can be compared in the same way. :func:`intervals` returns the
intervals of one run's scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from jaxtyping import Bool

from tsgen.data.interpolation import GAPS, gap_class
from tsgen.evaluation.bootstrap import Ratio, WindowBootstrap
from tsgen.evaluation.holm import holm
from tsgen.metrics.rounding import rounded

ENTRY_SCORES = ("mae", "rmse", "mre", "crps", "nll", "coverage_90")
WINDOW_SCORES = ("energy_score", "variogram_score")
GROUP_SCORES = ("mae", "crps", "nll")
"""The scores that are also compared by gap length and lead time."""

MAX_LEAD_GROUPS = 12
"""The maximum number of groups of lead times. With a longer horizon neighbouring lead times share a group."""

OTHER_CONDITIONING = (
    "One conditions on the past (filtering), the other on the past and the future (posterior). They answer "
    "different questions: a difference may be due to that alone, and neither has the better NLL."
)
"""The remark on two runs of different conditioning."""


@dataclass(frozen=True)
class Difference:
    """The difference of one score between two runs, over all entries or a group of them.

    Attributes:
        score: The name of the score.
        group: ``gap`` for entries of one gap length, ``lead`` for entries of one lead time; None for all
            entries.
        label: The gap length or lead time of the group, in steps; None for all entries.
        entries: The number of scored entries.
        windows: The number of windows that contain them.
        a: The score of the first run.
        b: The score of the second run.
        difference: ``b - a``.
        interval: The confidence interval of the difference; None if there are too few windows.
        relative: The difference as a fraction of ``a``; None for scores without a natural zero, or if ``a``
            is not positive.
        p_value: The p-value of a difference of zero: at most 0.05 if the 95 % interval excludes zero. None if
            there are too few windows.
        adjusted: The p-value adjusted by Holm's method for all rows that may name a better run. None for
            rows that may not: coverage (neither larger nor smaller is better), the NLL if the conditionings
            differ, and every group.
        better: The run that is significantly better, ``"a"`` or ``"b"``: the adjusted p-value is at most 0.05
            for intervals of 95 %. None if neither is.
    """

    score: str
    group: str | None
    label: str | None
    entries: int
    windows: int
    a: float
    b: float
    difference: float
    interval: tuple[float, float] | None
    relative: float | None
    p_value: float | None
    adjusted: float | None
    better: str | None


def compare(a: xr.Dataset, b: xr.Dataset, bootstrap: WindowBootstrap | None = None) -> list[Difference]:
    """Returns the differences of all scores that both runs have.

    The differences over all entries come first, then those by gap length and, for forecasts, by lead time.

    Args:
        a: The evaluation of the first run.
        b: The evaluation of the second run, on the same entries.
        bootstrap: The resamples of windows. If not given, 9,999 resamples in blocks, for 95 % intervals.

    Raises:
        ValueError: If the runs scored different entries, or none.
    """
    reason = difference(a, b)
    if reason:
        raise ValueError(f"both runs must have scored the same entries; {reason}.")
    if not a["target"].any():
        raise ValueError("both runs must have scored hidden entries; neither scored any.")
    resamples = bootstrap or WindowBootstrap(a.sizes["window"])
    unranked = {"coverage_90", *(["nll"] if other_conditioning(a, b) else [])}
    found = [
        _difference((score, group, label), sums[0][score], sums[1][score], resamples, mask, unranked)
        for group, label, mask in _groups(a)
        for sums in [[_sums(data, mask) for data in (a, b)]]
        for score in (GROUP_SCORES if group else (*ENTRY_SCORES, *WINDOW_SCORES))
        if score in sums[0] and score in sums[1]
    ]
    return adjust([found], resamples.level)[0]


def adjust(pairs: Sequence[Sequence[Difference]], level: float = 0.95) -> list[list[Difference]]:
    """Returns the differences of several pairs of runs, with their better runs named anew.

    The p-values of all rows that may name a better run are adjusted together, by Holm's method: if all runs
    are equally good, any is called better with a probability of at most 1 - level.

    Args:
        pairs: The differences of each pair, as returned by :func:`compare`.
        level: The level of the intervals.
    """
    family = [
        row.p_value for rows in pairs for row in rows if row.adjusted is not None and row.p_value is not None
    ]
    adjusted = iter(holm(family))
    return [
        [row if row.adjusted is None else _with_winner(row, next(adjusted), level) for row in rows]
        for rows in pairs
    ]


def _with_winner(row: Difference, adjusted: float, level: float) -> Difference:
    """Returns a row with an adjusted p-value and, if it is significant, the better run."""
    better = None if adjusted > 1 - level + 1e-9 else "a" if row.difference > 0 else "b"
    return replace(row, adjusted=adjusted, better=better)


def other_conditioning(a: xr.Dataset, b: xr.Dataset) -> bool:
    """Returns whether the two runs differ in their conditioning."""
    conditionings = {data.attrs.get("conditioning") for data in (a, b)} - {None}
    return len(conditionings) > 1


def difference(a: xr.Dataset, b: xr.Dataset) -> str | None:
    """Describes the first difference in what two evaluations scored, or returns None.

    The masks must be equal. Truths may differ by a rounding error of one part in 100,000.
    """
    for name in ("node", "channel"):
        first, second = (data[name].values.tolist() for data in (a, b))
        if first != second:
            return f"the {name}s of the first are {_brief(first)}, those of the second {_brief(second)}"
    for axis in ("window", "step"):
        if a.sizes[axis] != b.sizes[axis]:
            return f"the first has {a.sizes[axis]} {axis}s, the second {b.sizes[axis]}"
    if not np.array_equal(a["time"].values, b["time"].values):
        return "their windows have different times"
    for name, what in (("target", "the mask of scored entries"), ("context", "the mask of visible entries")):
        count = int((a[name].values != b[name].values).sum())
        if count:
            return f"{what} differs at {count:,} entries"
    first, second = (data["truth"].values[a["target"].values] for data in (a, b))
    count = int((~np.isclose(first, second, rtol=1e-5, atol=0)).sum())
    return f"the truth differs at {count:,} of them" if count else None


def baseline(evaluation: xr.Dataset, name: str) -> xr.Dataset:
    """Returns the evaluation of a baseline that was scored together with a run.

    The law of a baseline is conditional on the whole window (``"posterior"``), so that its NLL is not ranked
    with that of a model that filters. In files of earlier versions a baseline is a point estimate, whose CRPS
    is its absolute error.

    Args:
        evaluation: The run's evaluation.
        name: The baseline's name.

    Raises:
        ValueError: If the evaluation has no baseline of that name.
    """
    names = evaluation["baseline"].values.tolist() if "baseline" in evaluation else []
    if name not in names:
        raise ValueError(f"the baseline must be one of {', '.join(names) or 'none'}; it is {name!r}.")
    scores = {
        score: evaluation[f"baseline_{score}"].sel(baseline=name, drop=True)
        for score in ("error", "crps", "nll", "covered_90")
        if f"baseline_{score}" in evaluation
    }
    error = scores.pop("error")
    kept = evaluation[["truth", "context", "target", *({"gap_length"} & set(evaluation))]]
    attributes = {"run": name, "model": name, "horizon": evaluation.attrs.get("horizon", 0)}
    attributes |= {"conditioning": "posterior"} if "nll" in scores else {}
    return kept.assign({"absolute_error": error, "crps": error, **scores}).assign_attrs(attributes)


def intervals(evaluation: xr.Dataset, bootstrap: WindowBootstrap | None = None) -> dict[str, list[float]]:
    """Returns the confidence interval of each score of an evaluation that has enough windows.

    Args:
        evaluation: The evaluation.
        bootstrap: The resamples of windows. If not given, 9,999 in blocks, for 95 % intervals.
    """
    resamples = bootstrap or WindowBootstrap(evaluation.sizes["window"])
    ends = {}
    for score, sums in _sums(evaluation, evaluation["target"].values).items():
        if interval := resamples.interval(sums):
            ends[score] = [rounded(end) for end in interval]
    return ends


def _sums(data: xr.Dataset, mask: Bool[np.ndarray, "window step node channel"]) -> dict[str, Ratio]:
    """Returns the sums of each score that an evaluation has, over the entries of a mask."""
    error, truth = _absolute_error(data)[mask].astype(float), data["truth"].values[mask].astype(float)
    window, size = mask.nonzero()[0], len(mask)

    def sums(score: np.ndarray, weight: np.ndarray | None = None, rooted: bool = False) -> Ratio:
        return Ratio(
            np.bincount(window, score, size), np.bincount(window, weight, size).astype(float), rooted
        )

    result = {"mae": sums(error), "rmse": sums(error**2, rooted=True), "mre": sums(error, abs(truth))}
    for score, name in (("crps", "crps"), ("nll", "nll"), ("coverage_90", "covered_90")):
        if name in data and not np.isnan(each := data[name].values[mask].astype(float)).all():
            result[score] = sums(each)
    if "coverage_90" in result:
        result["coverage_90"] = result["coverage_90"]._replace(largest=1)
    for score in WINDOW_SCORES:
        if score in data:
            each = data[score].values.astype(float)
            scored = np.isfinite(each)
            result[score] = Ratio(np.where(scored, each, 0), scored.astype(float))
    return {score: pair for score, pair in result.items() if pair.weight.any()}


def _absolute_error(data: xr.Dataset) -> np.ndarray:
    if "absolute_error" in data:
        return data["absolute_error"].values
    return abs(data["quantiles"].sel(quantile=0.5).values - data["truth"].values)


def _groups(data: xr.Dataset) -> Iterator[tuple[str | None, str | None, np.ndarray]]:
    """Iterates over group, label and mask: first all scored entries, then each gap length and lead time."""
    scored = data["target"].values
    yield None, None, scored
    classes = gap_class(data["gap_length"].values) if "gap_length" in data else np.full(scored.shape, -1)
    for number, label in enumerate(GAPS):
        if (mask := scored & (classes == number)).any():
            yield "gap", label, mask
    horizon, step = int(data.attrs.get("horizon", 0)), np.arange(data.sizes["step"])
    lead = step - (len(step) - horizon) + 1
    for leads in np.array_split(np.arange(1, horizon + 1), min(horizon, MAX_LEAD_GROUPS)) if horizon else []:
        mask = scored & np.isin(lead, leads)[:, None, None]
        if mask.any():
            yield "lead", str(leads[0]) if len(leads) == 1 else f"{leads[0]}-{leads[-1]}", mask


def _difference(
    key: tuple[str, str | None, str | None],
    a: Ratio,
    b: Ratio,
    bootstrap: WindowBootstrap,
    mask: Bool[np.ndarray, "window step node channel"],
    unranked: Set[str],
) -> Difference:
    """Returns the difference of a score.

    Args:
        key: The score, the group and its label.
        a: The sums of the first run.
        b: The sums of the second run.
        bootstrap: The resamples of windows.
        mask: The entries of the group.
        unranked: The scores for which no run is better.
    """
    score, group, label = key
    change = b.score - a.score
    estimate = bootstrap.estimate(b, a)
    ranked = group is None and score not in unranked
    return Difference(
        score=score,
        group=group,
        label=label,
        entries=int(mask.sum()),
        windows=int(mask.any(axis=(1, 2, 3)).sum()),
        a=a.score,
        b=b.score,
        difference=change,
        interval=estimate and estimate.interval(bootstrap.level),
        relative=change / a.score if score not in ("nll", "coverage_90") and a.score > 0 else None,
        p_value=estimate and estimate.p_value,
        adjusted=estimate.p_value if estimate and ranked else None,
        better=None,
    )


def _brief(names: list[str]) -> str:
    """Returns the number of names and the first three of them."""
    return f"{len(names)} ({', '.join(map(str, names[:3]))}{', ...' if len(names) > 3 else ''})"
