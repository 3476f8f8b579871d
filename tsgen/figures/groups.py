"""Scores by gap length and by lead time, and the effective sample sizes of a particle filter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, PercentFormatter

from tsgen.argument_types import check_arguments
from tsgen.figures.scores import number, rows_of
from tsgen.figures.style import (
    BAND_50,
    BLUE,
    INK,
    PALE,
    VERMILLION,
    axes_grid,
    few_ticks,
    in_style,
    printable,
    unit_of,
)
from tsgen.metrics.breakdown import by_lead_time
from tsgen.sampling.smc import MIN_EFFECTIVE_PARTICLES

_RUN_LOOKS = ((BLUE, "o"), (VERMILLION, "s"))


def column(rows: Sequence[Mapping[str, Any]], key: str) -> Float[np.ndarray, " row"]:
    """Returns one score of all rows; NaN if a row lacks it."""
    return np.array([number(row.get(key)) for row in rows])


def _nominal(ax: Axes, lowest: float) -> None:
    """Draws the line at 90 % and scales the vertical axis to show both it and the lowest coverage."""
    ax.axhline(0.9, color=INK, lw=1, ls=(0, (4, 3)), zorder=1)
    low = np.nanmin([lowest, 0.9])
    ax.set_ylim(max(np.floor(20 * (low - 0.04)) / 20, -0.01), 1.005)
    ax.yaxis.set_major_locator(MultipleLocator(0.05 if low > 0.7 else 0.1 if low > 0.4 else 0.2))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    ax.set_ylabel("share of truths inside")
    ax.set_title("Coverage of the 90 % interval")
    ax.grid(axis="y", color=PALE, lw=0.5)


def _check_runs(name: str, runs: Mapping[str, Any]) -> None:
    if not 1 <= len(runs) <= len(_RUN_LOOKS):
        raise ValueError(f"{name} must hold one or two runs; it holds {len(runs)}.")


def _legend(ax: Axes, names: Sequence[str]) -> None:
    if len(names) > 1:
        ax.legend(fontsize=8, loc="best")


@check_arguments
@in_style
def by_gap(scores: Mapping[str, Mapping[str, Any]], evaluation: xr.Dataset, columns: int = 2) -> Figure:
    """Draws CRPS and coverage of the 90 % interval by gap length.

    Args:
        scores: The content of ``scores.json`` by the name of the run, of one or two runs.
        evaluation: The evaluation, for its unit.
        columns: The number of panels per row.
    """
    _check_runs("scores", scores)
    figure, (left, right) = axes_grid(2, columns, 4.2, 3.2)
    lowest = 1.0
    width = 0.62 / len(scores)
    for i, (name, table) in enumerate(scores.items()):
        rows = rows_of(table, "by_gap_length")
        place = np.arange(len(rows)) + (i - (len(scores) - 1) / 2) * width
        colour, marker = _RUN_LOOKS[i]
        crps, covered = column(rows, "crps"), column(rows, "coverage_90")
        face = BAND_50 if len(scores) == 1 else colour
        bars = left.bar(place, np.nan_to_num(crps), 0.94 * width, color=face, label=printable(name, 32))
        shown = [f"{value:.3g}" if np.isfinite(value) else "–" for value in crps]
        left.bar_label(bars, shown, fontsize=8, padding=2)
        right.plot(place, covered, marker, color=colour, ms=7, label=printable(name, 32))
        lowest = min(lowest, np.nanmin([*covered, 1.0]))
    labels = [f"{printable(r['gap'], 12)}\n{_short(number(r.get('entries')))}" for r in rows]
    for ax in (left, right):
        ax.set_xticks(range(len(rows)), labels=labels)
        ax.set(xlabel="length of the gap in steps, and its scored entries", xlim=(-0.6, len(rows) - 0.4))
    left.margins(y=0.12)
    left.set_ylabel("mean CRPS" + unit_of(evaluation))
    left.set_title("CRPS by gap length")
    _legend(left, list(scores))
    few_ticks(left)
    _nominal(right, lowest)
    return figure


def _short(entries: float) -> str:
    return f"n = {entries:,.0f}" if np.isfinite(entries) else ""


@check_arguments
@in_style
def by_lead(runs: Mapping[str, tuple[xr.Dataset, Mapping[str, Any]]], columns: int = 2) -> Figure:
    """Draws CRPS and coverage of the 90 % interval by the number of steps ahead.

    Args:
        runs: Evaluation and scores by the name of the run, of one or two runs. The CRPS of the exact
            posterior is drawn too if known.
        columns: The number of panels per row.
    """
    _check_runs("runs", runs)
    figure, (left, right) = axes_grid(2, columns, 4.2, 3.2)
    lowest = 1.0
    for i, (name, (evaluation, scores)) in enumerate(runs.items()):
        rows = rows_of(scores, "by_lead_time")
        lead, covered = column(rows, "lead"), by_lead_time(evaluation, len(rows)).covered
        colour, marker = _RUN_LOOKS[i]
        look: dict[str, Any] = {"color": colour, "lw": 1.6, "marker": marker if len(rows) <= 50 else None}
        label = printable(name, 32) or "model"
        left.plot(lead, column(rows, "crps"), ms=4, label=label, **look)
        right.plot(lead, covered, ms=4, **look)
        lowest = min(lowest, np.nanmin([*covered, 1.0]))
    exact = scores.get("by_lead_time_exact")
    if exact:
        dashed: dict[str, Any] = {"color": INK, "lw": 1, "ls": (0, (2, 2)), "label": "exact posterior"}
        left.plot(column(exact, "lead"), column(exact, "crps"), **dashed)
    if exact or len(runs) > 1:
        left.legend(fontsize=8, loc="best")
    for ax in (left, right):
        ax.set_xlabel("steps ahead")
        few_ticks(ax, "x", 8, integer=True)
    left.set_ylim(0, None)
    left.set_ylabel("mean CRPS" + unit_of(evaluation))
    left.set_title("CRPS by lead time")
    left.grid(axis="y", color=PALE, lw=0.5)
    few_ticks(left)
    _nominal(right, lowest)
    return figure


@check_arguments
@in_style
def particles(evaluation: xr.Dataset, columns: int = 1) -> Figure:
    """Draws the effective sample size by step: the median, the 10 to 90 % range and the minimum over windows.

    Args:
        evaluation: The evaluation; reads the variable ``ess``, as a share of the particles, and the attribute
            ``particles``, their number.
        columns: Unused: there is one panel.
    """
    share = evaluation["ess"].values
    figure, (ax,) = axes_grid(1, 1, 6.4, 3.2)
    step = np.arange(share.shape[1])
    defined = np.isfinite(share).any(axis=0)
    share = share[:, defined]
    low, high = np.nanquantile(share, [0.1, 0.9], axis=0)
    ax.fill_between(step[defined], low, high, color=BAND_50, alpha=0.6, lw=0, label="10 to 90 % of windows")
    mark = "o" if defined.sum() < 30 else None
    ax.plot(step[defined], np.nanmedian(share, axis=0), color=BLUE, lw=1.8, marker=mark, ms=4, label="median")
    worst: dict[str, Any] = {"color": VERMILLION, "lw": 1.4, "ls": (0, (4, 2)), "label": "worst window"}
    ax.plot(step[defined], np.nanmin(share, axis=0), marker=mark, ms=3, **worst)
    if "particles" in evaluation.attrs:
        few = min(MIN_EFFECTIVE_PARTICLES / evaluation.attrs["particles"], 0.5)
        limit: dict[str, Any] = {
            "ls": (0, (2, 2)),
            "label": f"{MIN_EFFECTIVE_PARTICLES} particles: not reliable below",
        }
        ax.axhline(few, color=INK, lw=1.2, **limit)
    ax.set(xlabel="step of the window", ylabel="effective sample size", ylim=(0, 1.02))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    few_ticks(ax, "x", 8, integer=True)
    ax.set_title("Effective sample size, as a share of the particles", pad=34)
    ax.legend(fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(-0.02, 0.985))
    ax.grid(axis="y", color=PALE, lw=0.5)
    return figure
