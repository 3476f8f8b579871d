"""Scores of groups of entries: by node, by gap length, by lead time, by month; and what they warn of.

CRPS of different nodes and channels compare only relative to how much these vary. The scale is the standard
deviation of a node's visible values, :func:`deviation`: a relative CRPS of 0.56 is what the node's own mean
and deviation would have if it were Gaussian (the CRPS of a standard Gaussian against its own draws is
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
"""The level of the interval that groups are judged by."""

FEW = 50
"""A group of fewer scored entries than this is not judged."""

EXCESS = 1.5
"""A group stands out if it misses, or scores, this many times what it should."""


def _spread(
    x: Float[np.ndarray, "window step node channel"], where: Bool[np.ndarray, "window step node channel"]
) -> Float[np.ndarray, "node channel"]:
    """Standard deviations over windows and steps; NaN where there are not two values that differ."""
    count = where.sum(axis=(0, 1))
    mean = np.where(where, x, 0).sum(axis=(0, 1)) / np.maximum(count, 1)
    square = np.where(where, x - mean, 0) ** 2
    spread = np.sqrt(square.sum(axis=(0, 1)) / np.maximum(count - 1, 1))
    return np.where((count > 1) & (spread > 0), spread, np.nan)


def fill_deviation(spread: Float[np.ndarray, "node channel"]) -> Float[np.ndarray, "node channel"]:
    """Where a node has no deviation of its own: the median node's of its channel, 1 if none has any."""
    known = np.isfinite(spread)
    usual = np.array([np.median(x[k]) if k.any() else 1.0 for x, k in zip(spread.T, known.T, strict=True)])
    return np.where(known, spread, usual)


def deviation(evaluation: xr.Dataset) -> Float[np.ndarray, "node channel"]:
    """The standard deviation of each node's visible values, in data units.

    Of all known values where the visible ones do not differ; the median node's where these do not either.
    """
    truth = evaluation["truth"].values.astype(np.float64)
    known = np.isfinite(truth)
    visible = _spread(truth, known & evaluation["context"].values.astype(bool))
    return fill_deviation(np.where(np.isfinite(visible), visible, _spread(truth, known)))


def relative_crps(evaluation: xr.Dataset) -> Float[np.ndarray, "window step node channel"]:
    """The CRPS of each scored entry over its node's :func:`deviation`; NaN where nothing is scored."""
    scored = evaluation["target"].values.astype(bool)
    return np.where(scored, evaluation["crps"].values / deviation(evaluation), np.nan)


class Groups(NamedTuple):
    """Scores of groups of entries, NaN where a group has none.

    Attributes:
        entries: Number of scored entries.
        crps: Mean CRPS, in data units.
        relative: Mean CRPS relative to each node's deviation.
        error: Standard error of ``relative``, as if entries were independent.
        covered: Share of truths inside the 90 % interval; NaN, too, where samples were too few for one.
    """

    entries: Int[np.ndarray, " groups"]
    crps: Float[np.ndarray, " groups"]
    relative: Float[np.ndarray, " groups"]
    error: Float[np.ndarray, " groups"]
    covered: Float[np.ndarray, " groups"]


def by_group(evaluation: xr.Dataset, label: Int[np.ndarray, "..."], groups: int) -> Groups:
    """Scores the entries of each group.

    Args:
        evaluation: The evaluation.
        label: The number of each entry's group, negative where it has none; it is broadcast to all entries.
        groups: How many groups there are.
    """
    relative = relative_crps(evaluation)
    label = np.broadcast_to(label, relative.shape)
    where = np.isfinite(relative) & (label >= 0)
    at, relative = label[where], relative[where]
    covered = "covered_90" in evaluation
    inside = evaluation["covered_90"].values[where] if covered else np.full(len(at), np.nan)
    entries = np.bincount(at, minlength=groups)
    divisor = np.where(entries > 0, entries, np.nan)

    def mean(x: np.ndarray) -> np.ndarray:
        return np.bincount(at, weights=x, minlength=groups) / divisor

    average = mean(relative)
    variance = mean((relative - average[at]) ** 2)
    return Groups(
        entries,
        mean(evaluation["crps"].values[where]),
        average,
        np.sqrt(variance / divisor),
        mean(inside),
    )


def by_lead_time(evaluation: xr.Dataset, leads: int) -> Groups:
    """Scores of the last steps of a window, the first of them first."""
    steps = evaluation.sizes["step"]
    lead = np.arange(steps) - (steps - leads)
    return by_group(evaluation, lead[:, None, None], leads)


class Doubt(NamedTuple):
    """A group of entries that is not to be trusted as the rest is.

    Attributes:
        kind: What the group is: a node, a gap length, a month or a lead time.
        name: Which one.
        entries: How many of its entries were scored.
        covered: Share of its truths inside the 90 % interval; NaN if none is scored.
        ratio: Its relative CRPS over that of all entries; NaN if none is scored.
        reasons: Why, in words.
        weight: How far it stands out, by which doubts are sorted.
    """

    kind: str
    name: str
    entries: int
    covered: float
    ratio: float
    reasons: list[str]
    weight: float


def doubts(evaluation: xr.Dataset, scores: Mapping[str, Any]) -> list[Doubt]:
    """Where the model is worst, the worst first.

    A group of at least 50 entries stands out if its 90 % interval misses at least 1.5 times as often as it
    should, or its relative CRPS is at least 1.5 times that of all entries; and by more than two standard
    errors, as if entries were independent. A node stands out, too, if more than half of it was never observed
    or if none of it was scored while others were.
    """
    every = by_group(evaluation, np.zeros((1, 1, 1, 1), dtype=np.int64), 1)
    if not every.entries[0]:
        return []
    found = []
    for kind, names, groups, missing in _groupings(evaluation, scores):
        for i, name in enumerate(names):
            doubt = _judge(kind, name, Groups(*(x[i] for x in groups)), float(every.relative[0]), missing[i])
            found += [doubt] if doubt else []
    return sorted(found, key=lambda doubt: -doubt.weight)


def _groupings(evaluation: xr.Dataset, scores: Mapping[str, Any]) -> list[tuple[str, list[str], Groups, Any]]:
    """Kind, names, scores and shares never observed of all groups that are judged."""
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


def _judge(kind: str, name: str, group: Groups, usual: float, missing: float) -> Doubt | None:
    entries = int(group.entries)
    reasons, weight = [], 0.0
    missed, ratio = 1 - float(group.covered), float(group.relative) / usual if usual > 0 else float("nan")
    if entries >= FEW:
        chance = 2 * np.sqrt(NOMINAL * (1 - NOMINAL) / entries)
        if missed >= EXCESS * (1 - NOMINAL) and missed > 1 - NOMINAL + chance:
            reasons.append(
                f"the truth lies outside the 90 % interval in {100 * missed:.0f} % of them, not in 10 %"
            )
            weight = max(weight, missed / (1 - NOMINAL))
        if ratio >= EXCESS and float(group.relative) - 2 * float(group.error) > usual:
            reasons.append(f"CRPS is {ratio:.1f} times that of all entries, relative to the node's deviation")
            weight = max(weight, ratio)
    if missing > 0.5:
        reasons.append(f"{100 * missing:.0f} % was never observed, so there was little to learn from")
        weight = max(weight, EXCESS * missing)
    if kind == "node" and not entries:
        reasons.append("not one entry was scored: nothing is known of its errors")
        weight = max(weight, EXCESS)
    return Doubt(kind, name, entries, float(group.covered), ratio, reasons, weight) if reasons else None
