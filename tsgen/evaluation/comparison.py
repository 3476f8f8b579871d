"""Two answers to the same questions: how much better is one, and is it more than chance?

:func:`compare` takes the evaluations of two runs (as ``evaluation.nc`` holds them), makes sure that the very
same entries were scored, and gives the difference of each score with a confidence interval over windows, in
all and by groups of entries (see :mod:`tsgen.evaluation.bootstrap`). :func:`baseline` makes an evaluation of
a baseline that a run was scored beside, so that it is compared in the same way. :func:`intervals` gives the
intervals of one run's scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from tsgen.data.interpolation import GAPS, gap_class
from tsgen.evaluation.bootstrap import WindowBootstrap
from tsgen.metrics.rounding import rounded

OF_ENTRIES = ("mae", "rmse", "mre", "crps", "nll", "coverage_90")
OF_WINDOWS = ("energy_score", "variogram_score")
IN_GROUPS = ("mae", "crps", "nll")
MOST_LEADS = 12
"""Groups of lead times; of a longer horizon neighbouring leads share one."""

OTHER_CONDITIONING = (
    "One conditions on the past (filtering), the other on the past and the future (posterior). They answer "
    "different questions: a difference may be due to that alone, and neither has the better NLL."
)
"""What is said of two answers of which one is filtering, the other the posterior."""


@dataclass(frozen=True)
class Difference:
    """One score of two answers, over all entries or a group of them.

    Attributes:
        score: Which score.
        group: What entries are grouped by: ``gap`` or ``lead``, in steps; None for all entries.
        label: Which group.
        entries: How many entries are scored.
        windows: How many windows they lie in.
        a: The score of the one answer.
        b: That of the other.
        difference: ``b - a``.
        interval: The difference's confidence interval; None where windows are too few.
        relative: The difference in units of ``a``; None for scores without a natural zero, and where ``a`` is
            not above it.
        better: Which of the two is better by more than chance: the interval over all entries excludes zero.
            None if neither is, the score has no better end, or it is the NLL of different laws; and always of
            a group: there are so many of them that some intervals exclude zero by chance.
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
    better: str | None


def compare(a: xr.Dataset, b: xr.Dataset, bootstrap: WindowBootstrap | None = None) -> list[Difference]:
    """The differences of all scores that both answers have: first over all entries, then by gap length and,
    of forecasts, by lead time.

    Args:
        a: The evaluation of one answer.
        b: That of the other, on the same entries.
        bootstrap: How windows are drawn again; 2,000 times in blocks, for intervals of 95 %, if not given.

    Raises:
        ValueError: If other entries were scored, or none at all.
    """
    reason = difference(a, b)
    if reason:
        raise ValueError(f"both runs must have scored the same entries; {reason}.")
    if not a["target"].any():
        raise ValueError("something must have been hidden and scored; nothing was.")
    drawn = bootstrap or WindowBootstrap(a.sizes["window"])
    unjudged = {"coverage_90", *(["nll"] if other_conditioning(a, b) else [])}
    return [
        _difference((score, group, label), sums[0][score], sums[1][score], drawn, mask, unjudged)
        for group, label, mask in _groups(a)
        for sums in [[_sums(data, mask) for data in (a, b)]]
        for score in (IN_GROUPS if group else (*OF_ENTRIES, *OF_WINDOWS))
        if score in sums[0] and score in sums[1]
    ]


def other_conditioning(a: xr.Dataset, b: xr.Dataset) -> bool:
    """Whether one answer is filtering and the other the posterior."""
    found = {data.attrs.get("conditioning") for data in (a, b)} - {None}
    return len(found) > 1


def difference(a: xr.Dataset, b: xr.Dataset) -> str | None:
    """In what two evaluations differ that were to be of the same entries, in words; None if in nothing.

    Truths may differ by rounding, one part in 100,000. What is visible must be the same at every entry.
    """
    for name in ("node", "channel"):
        mine, its = (data[name].values.tolist() for data in (a, b))
        if mine != its:
            return f"the {name}s of the first are {_few(mine)}, those of the second {_few(its)}"
    for axis in ("window", "step"):
        if a.sizes[axis] != b.sizes[axis]:
            return f"the first has {a.sizes[axis]} {axis}s, the second {b.sizes[axis]}"
    if not np.array_equal(a["time"].values, b["time"].values):
        return "their windows lie at different times"
    for name, what in (("target", "what is scored"), ("context", "what is visible")):
        apart = int((a[name].values != b[name].values).sum())
        if apart:
            return f"{what} differs at {apart:,} entries"
    mine, its = (data["truth"].values[a["target"].values] for data in (a, b))
    apart = int((~np.isclose(mine, its, rtol=1e-5, atol=0)).sum())
    return f"the truth differs at {apart:,} of them" if apart else None


def baseline(evaluation: xr.Dataset, name: str) -> xr.Dataset:
    """The evaluation of a baseline that a run was scored beside: certain of itself, it has an absolute error,
    which is its CRPS too.

    Args:
        evaluation: The run's evaluation.
        name: The baseline's name.

    Raises:
        ValueError: If there is no baseline of that name.
    """
    known = evaluation["baseline"].values.tolist() if "baseline" in evaluation else []
    if name not in known:
        raise ValueError(f"the baseline must be one of {', '.join(known) or 'none'}; it is {name!r}.")
    error = evaluation["baseline_error"].sel(baseline=name, drop=True)
    kept = evaluation[["truth", "context", "target", *({"gap_length"} & set(evaluation))]]
    about = {"run": name, "model": name, "horizon": evaluation.attrs.get("horizon", 0)}
    return kept.assign(absolute_error=error, crps=error).assign_attrs(about)


def intervals(evaluation: xr.Dataset, bootstrap: WindowBootstrap | None = None) -> dict[str, list[float]]:
    """The confidence interval of each score of an evaluation, where there are windows enough.

    Args:
        evaluation: The evaluation.
        bootstrap: How windows are drawn again; 2,000 times in blocks, for intervals of 95 %, if not given.
    """
    drawn = bootstrap or WindowBootstrap(evaluation.sizes["window"])
    found = {}
    for score, sums in _sums(evaluation, evaluation["target"].values).items():
        interval = drawn.interval(sums.whole, sums.of(drawn), sums.weight)
        if interval:
            found[score] = [rounded(end) for end in interval]
    return found


class _Sums(NamedTuple):
    """What each window adds to the two sums that a score is the ratio of."""

    total: Float[np.ndarray, " windows"]
    weight: Float[np.ndarray, " windows"]
    rooted: bool = False

    @property
    def whole(self) -> float:
        """The score."""
        ratio = self.total.sum() / self.weight.sum()
        return float(np.sqrt(ratio) if self.rooted else ratio)

    def of(self, drawn: WindowBootstrap) -> Float[np.ndarray, " resamples"]:
        """The score in each resample."""
        ratios = drawn.ratios(self.total, self.weight)
        return np.sqrt(ratios) if self.rooted else ratios


def _sums(data: xr.Dataset, mask: Bool[np.ndarray, "window step node channel"]) -> dict[str, _Sums]:
    """The sums of each score that an evaluation has, over the entries of a mask."""
    error, truth = _absolute_error(data)[mask].astype(float), data["truth"].values[mask].astype(float)
    window, size = mask.nonzero()[0], len(mask)

    def sums(score: np.ndarray, weight: np.ndarray | None = None, rooted: bool = False) -> _Sums:
        return _Sums(
            np.bincount(window, score, size), np.bincount(window, weight, size).astype(float), rooted
        )

    found = {"mae": sums(error), "rmse": sums(error**2, rooted=True), "mre": sums(error, abs(truth))}
    for score, name in (("crps", "crps"), ("nll", "nll"), ("coverage_90", "covered_90")):
        if name in data and not np.isnan(each := data[name].values[mask].astype(float)).all():
            found[score] = sums(each)
    for score in OF_WINDOWS:
        if score in data:
            each = data[score].values.astype(float)
            scored = np.isfinite(each)
            found[score] = _Sums(np.where(scored, each, 0), scored.astype(float))
    return {score: pair for score, pair in found.items() if pair.weight.any()}


def _absolute_error(data: xr.Dataset) -> np.ndarray:
    if "absolute_error" in data:
        return data["absolute_error"].values
    return abs(data["quantiles"].sel(quantile=0.5).values - data["truth"].values)


def _groups(data: xr.Dataset) -> Iterator[tuple[str | None, str | None, np.ndarray]]:
    """All scored entries, then those of each gap length and lead time that has any."""
    scored = data["target"].values
    yield None, None, scored
    classes = gap_class(data["gap_length"].values) if "gap_length" in data else np.full(scored.shape, -1)
    for number, label in enumerate(GAPS):
        if (mask := scored & (classes == number)).any():
            yield "gap", label, mask
    horizon, step = int(data.attrs.get("horizon", 0)), np.arange(data.sizes["step"])
    lead = step - (len(step) - horizon) + 1
    for few in np.array_split(np.arange(1, horizon + 1), min(horizon, MOST_LEADS)) if horizon else []:
        mask = scored & np.isin(lead, few)[:, None, None]
        if mask.any():
            yield "lead", str(few[0]) if len(few) == 1 else f"{few[0]}-{few[-1]}", mask


def _difference(
    about: tuple[str, str | None, str | None],
    a: _Sums,
    b: _Sums,
    drawn: WindowBootstrap,
    mask: Bool[np.ndarray, "window step node channel"],
    unjudged: Set[str],
) -> Difference:
    """The difference of a score."""
    score, group, label = about
    change = b.whole - a.whole
    interval = drawn.interval(change, b.of(drawn) - a.of(drawn), np.minimum(abs(a.weight), abs(b.weight)))
    better = None
    if interval and group is None and score not in unjudged and not interval[0] <= 0 <= interval[1]:
        better = "a" if change > 0 else "b"
    return Difference(
        score=score,
        group=group,
        label=label,
        entries=int(mask.sum()),
        windows=int(mask.any(axis=(1, 2, 3)).sum()),
        a=a.whole,
        b=b.whole,
        difference=change,
        interval=interval,
        relative=change / a.whole if score not in ("nll", "coverage_90") and a.whole > 0 else None,
        better=better,
    )


def _few(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(map(str, names[:3]))}{', ...' if len(names) > 3 else ''})"
