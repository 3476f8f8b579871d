"""Scores of groups of entries (by node, gap length, lead time or month), and the groups that stand out.

The CRPS of different nodes and channels is comparable only relative to their variability. The scale is the
standard deviation of a node's visible values, :func:`deviation`. For a Gaussian node, its own mean and
deviation as prediction give a relative CRPS of 0.56 (the CRPS of a standard Gaussian against its own draws is
:math:`1/\\sqrt{\\pi}`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int

from tsgen.data.interpolation import GAPS, gap_class

NOMINAL = 0.9
"""The level of the interval used to judge groups."""

MIN_ENTRIES = 50
"""Groups with fewer scored entries than this are not judged."""

EXCESS = 1.5
"""A group stands out if its miss rate or its relative CRPS is at least this many times the expected one."""


def _deviations(
    x: Float[np.ndarray, "window step node channel"], where: Bool[np.ndarray, "window step node channel"]
) -> Float[np.ndarray, "node channel"]:
    """Returns standard deviations over windows and steps; NaN where fewer than two distinct values exist."""
    count = where.sum(axis=(0, 1))
    mean = np.where(where, x, 0).sum(axis=(0, 1)) / np.maximum(count, 1)
    square = np.where(where, x - mean, 0) ** 2
    deviations = np.sqrt(square.sum(axis=(0, 1)) / np.maximum(count - 1, 1))
    return np.where((count > 1) & (deviations > 0), deviations, np.nan)


def fill_deviation(deviations: Float[np.ndarray, "node channel"]) -> Float[np.ndarray, "node channel"]:
    """Returns the deviations with NaN replaced by the median over the nodes of the channel, or by 1 if all
    are NaN."""
    finite = np.isfinite(deviations)
    median = np.array(
        [np.median(x[use]) if use.any() else 1.0 for x, use in zip(deviations.T, finite.T, strict=True)]
    )
    return np.where(finite, deviations, median)


def deviation(evaluation: xr.Dataset) -> Float[np.ndarray, "node channel"]:
    """Returns the standard deviation of each node's visible values, in data units.

    If the visible values of a node do not vary, the deviation is that of all its observed values; if these do
    not vary either, it is the median over the other nodes of the channel.
    """
    truth = evaluation["truth"].values.astype(np.float64)
    observed = np.isfinite(truth)
    visible = _deviations(truth, observed & evaluation["context"].values.astype(bool))
    return fill_deviation(np.where(np.isfinite(visible), visible, _deviations(truth, observed)))


def relative_crps(evaluation: xr.Dataset) -> Float[np.ndarray, "window step node channel"]:
    """Returns the CRPS of each scored entry divided by its node's :func:`deviation`; NaN elsewhere."""
    target = evaluation["target"].values.astype(bool)
    return np.where(target, evaluation["crps"].values / deviation(evaluation), np.nan)


class Groups(NamedTuple):
    """Scores of groups of entries; NaN for a group without scored entries.

    Attributes:
        entries: Number of scored entries.
        crps: Mean CRPS, in data units.
        relative: Mean CRPS relative to each node's deviation.
        error: Standard error of ``relative``, under the assumption that entries are independent.
        covered: Share of truths inside the 90 % interval; also NaN if there were too few samples for one.
    """

    entries: Int[np.ndarray, " groups"]
    crps: Float[np.ndarray, " groups"]
    relative: Float[np.ndarray, " groups"]
    error: Float[np.ndarray, " groups"]
    covered: Float[np.ndarray, " groups"]


def by_group(evaluation: xr.Dataset, label: Int[np.ndarray, "..."], groups: int) -> Groups:
    """Returns the scores of each group of entries.

    Args:
        evaluation: The evaluation.
        label: The number of each entry's group, negative for none; it is broadcast to all entries.
        groups: The number of groups.
    """
    relative = relative_crps(evaluation)
    label = np.broadcast_to(label, relative.shape)
    where = np.isfinite(relative) & (label >= 0)
    group, relative = label[where], relative[where]
    has_intervals = "covered_90" in evaluation
    inside = evaluation["covered_90"].values[where] if has_intervals else np.full(len(group), np.nan)
    entries = np.bincount(group, minlength=groups)
    divisor = np.where(entries > 0, entries, np.nan)

    def mean(x: np.ndarray) -> np.ndarray:
        return np.bincount(group, weights=x, minlength=groups) / divisor

    average = mean(relative)
    variance = mean((relative - average[group]) ** 2)
    return Groups(
        entries,
        mean(evaluation["crps"].values[where]),
        average,
        np.sqrt(variance / divisor),
        mean(inside),
    )


def by_lead_time(evaluation: xr.Dataset, leads: int) -> Groups:
    """Returns the scores of the last ``leads`` steps of a window, in time order."""
    steps = evaluation.sizes["step"]
    lead = np.arange(steps) - (steps - leads)
    return by_group(evaluation, lead[:, None, None], leads)


class Doubt(NamedTuple):
    """A group of entries whose results are less reliable than the rest.

    Attributes:
        kind: The kind of group: a node, a gap length, a month, a lead time, or all entries.
        name: The name of the group.
        entries: The number of its scored entries.
        covered: Share of its truths inside the 90 % interval; NaN if none was scored.
        ratio: Its relative CRPS divided by that of all entries; NaN if none was scored.
        reasons: The reasons, as sentences for a report.
        weight: The factor by which the group stands out, which sorts the groups.
    """

    kind: str
    name: str
    entries: int
    covered: float
    ratio: float
    reasons: list[str]
    weight: float


def doubts(evaluation: xr.Dataset, scores: Mapping[str, Any]) -> list[Doubt]:
    """Returns the groups on which the model is worst, worst first.

    All entries together come first if their 90 % interval misses as often as that of a group that stands out,
    or if a baseline has a lower CRPS. A group of at least 50 entries stands out if its 90 % interval misses
    at least 1.5 times as often as it should, or its relative CRPS is at least 1.5 times that of all entries.
    The difference must also exceed two standard errors, under the assumption that entries are independent. A
    node stands out, too, if more than half of it was never observed, or if none of its entries was scored
    while others were.

    Args:
        evaluation: The evaluation.
        scores: The scores of the run, whose table ``by_lead_time`` gives the number of lead times.
    """
    overall = by_group(evaluation, np.zeros((1, 1, 1, 1), dtype=np.int64), 1)
    if not overall.entries[0]:
        return []
    found = _judge_all(evaluation, overall)
    for kind, names, groups, missing in _groupings(evaluation, scores):
        for i, name in enumerate(names):
            doubt = _judge(
                kind, name, Groups(*(x[i] for x in groups)), float(overall.relative[0]), missing[i]
            )
            found += [doubt] if doubt else []
    return sorted(found, key=lambda doubt: -doubt.weight)


def _judge_all(evaluation: xr.Dataset, overall: Groups) -> list[Doubt]:
    """Returns a doubt about all entries, or none, in a list.

    The model is doubted if it misses as :func:`_judge` says or if a baseline has a lower CRPS.
    """
    group = Groups(*(x[0] for x in overall))
    doubt = _judge("all", "entries", group, float(group.relative), 0.0)
    reasons = doubt.reasons if doubt else []
    reasons += [
        f"CRPS is {better.model / better.baseline:.3g} times that of the baseline {better.name}"
        for better in better_baselines(evaluation)
    ]
    # first: it concerns every group
    weight = float("inf")
    all_entries = Doubt("all", "entries", int(group.entries), float(group.covered), 1.0, reasons, weight)
    return [all_entries] if reasons else []


class BetterBaseline(NamedTuple):
    """A baseline with a lower CRPS than the model.

    Attributes:
        name: The name of the baseline.
        baseline: Its mean CRPS.
        model: The mean CRPS of the model.
    """

    name: str
    baseline: float
    model: float


def better_baselines(evaluation: xr.Dataset) -> list[BetterBaseline]:
    """Returns the baselines whose mean CRPS is lower than the model's, the lowest first.

    As for groups, there must be at least 50 entries, and the difference must exceed two standard errors. In
    files of earlier versions a baseline is a point estimate, whose CRPS is its absolute error.

    Args:
        evaluation: The evaluation.
    """
    target, found = evaluation["target"].values.astype(bool), list[BetterBaseline]()
    crps = evaluation["crps"].values[target].astype(np.float64)
    score = "baseline_crps" if "baseline_crps" in evaluation else "baseline_error"
    if score not in evaluation or "baseline" not in evaluation.coords or len(crps) < MIN_ENTRIES:
        return []
    for i, name in enumerate(evaluation["baseline"].values):
        of_baseline = evaluation[score].isel(baseline=i).transpose(*evaluation["target"].dims)
        excess = crps - of_baseline.values[target]
        if excess.mean() > 2 * excess.std(ddof=1) / np.sqrt(len(excess)):
            found.append(BetterBaseline(str(name), (crps - excess).mean(), crps.mean()))
    return sorted(found, key=lambda better: better.baseline)


def _groupings(evaluation: xr.Dataset, scores: Mapping[str, Any]) -> list[tuple[str, list[str], Groups, Any]]:
    """Returns the kind, the names, the scores and the never-observed shares of all groups to judge."""
    nodes = [str(name) for name in evaluation["node"].values]
    number = np.arange(len(nodes))[:, None]
    missing = evaluation["share_missing"].values.astype(float)
    found = [("node", nodes, by_group(evaluation, number, len(nodes)), missing)]
    if "gap_length" in evaluation:
        label = gap_class(evaluation["gap_length"].values)
        names = [f"{name} step{'s' * (name != '1')}" for name in GAPS]
        found.append(("gap length", names, by_group(evaluation, label, len(GAPS)), np.zeros(len(GAPS))))
    time = evaluation["time"].values
    if np.issubdtype(time.dtype, np.datetime64) and not np.isnat(time).any():
        months, label = np.unique(time.astype("datetime64[M]"), return_inverse=True)
        groups = by_group(evaluation, label.reshape(time.shape)[:, :, None, None], len(months))
        if len(months) > 1:
            found.append(("month", [str(m) for m in months], groups, np.zeros(len(months))))
    leads = len(scores.get("by_lead_time") or [])
    if 1 < leads <= evaluation.sizes["step"]:
        names = [f"step {i + 1}" for i in range(leads)]
        found.append(("lead time", names, by_lead_time(evaluation, leads), np.zeros(leads)))
    return found


def _judge(kind: str, name: str, group: Groups, overall: float, missing: float) -> Doubt | None:
    """Returns a doubt about a group, or None if it does not stand out.

    Args:
        kind: The kind of group.
        name: Its name.
        group: Its scores.
        overall: The relative CRPS of all entries.
        missing: The share of the group that was never observed.
    """
    entries = int(group.entries)
    reasons, weight = [], 0.0
    missed = 1 - float(group.covered)
    ratio = float(group.relative) / overall if overall > 0 else float("nan")
    if entries >= MIN_ENTRIES:
        two_errors = 2 * np.sqrt(NOMINAL * (1 - NOMINAL) / entries)
        if missed >= EXCESS * (1 - NOMINAL) and missed > 1 - NOMINAL + two_errors:
            reasons.append(
                f"the truth lies outside the 90 % interval for {100 * missed:.0f} % of its entries, not 10 %"
            )
            weight = max(weight, missed / (1 - NOMINAL))
        if ratio >= EXCESS and float(group.relative) - 2 * float(group.error) > overall:
            reasons.append(f"CRPS is {ratio:.1f} times that of all entries, relative to the node's deviation")
            weight = max(weight, ratio)
    if missing > 0.5:
        reasons.append(f"{100 * missing:.0f} % was never observed, so there was little to learn from")
        weight = max(weight, EXCESS * missing)
    if kind == "node" and not entries:
        reasons.append("no entry was scored, so its errors are unknown")
        weight = max(weight, EXCESS)
    return Doubt(kind, name, entries, float(group.covered), ratio, reasons, weight) if reasons else None
