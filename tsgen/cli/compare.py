"""``tsgen compare``: differences between runs on the same entries, with confidence intervals over windows."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tsgen.evaluation.bootstrap import WindowBootstrap
from tsgen.evaluation.columns import COLUMNS, format_number
from tsgen.evaluation.comparison import (
    OTHER_CONDITIONING,
    Difference,
    adjust,
    baseline,
    compare,
    other_conditioning,
)
from tsgen.evaluation.terminal import print_table
from tsgen.figures import BLUE, GREY, INK, PALE, VERMILLION, in_style
from tsgen.metrics.rounding import rounded
from tsgen.report.reading import REMEDY, read_evaluation
from tsgen.storage.atomic import replacing, write_text
from tsgen.storage.display import print_line

COLOURS = (BLUE, VERMILLION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GROUPS = {"gap": "gap length [steps]", "lead": "lead time [steps]"}
REQUIRED = ("nll", "energy_score", "variogram_score", "gap_length")
"""Variables of an evaluation that a comparison needs and a report does not."""

MAIN_SCORES = ("crps", "mae", "nll")
"""Scores that are printed by group and also compared in a sentence."""


class Pair(NamedTuple):
    """Two runs, or a baseline and a run, and their differences.

    Attributes:
        a: The name of the first.
        b: The name of the second.
        found: Their differences.
        other_conditioning: Whether they differ in their conditioning.
    """

    a: str
    b: str
    found: list[Difference]
    other_conditioning: bool = False


def main(given: Namespace) -> None:
    """Compares the runs, prints the differences and writes them to files.

    Args:
        given: ``runs`` and ``out``.

    Raises:
        ValueError: If a folder is not that of a tested run, or the runs did not score the same entries.
    """
    runs = given.runs
    names = [run.name for run in runs] if len({run.name for run in runs}) == len(runs) else [*map(str, runs)]
    data = [_read(run) for run in runs]
    bootstrap = WindowBootstrap(data[0].sizes["window"])
    pairs = _pairs(names, data, bootstrap)
    adjusted = adjust([pair.found for pair in pairs], bootstrap.level)
    pairs = [pair._replace(found=found) for pair, found in zip(pairs, adjusted, strict=True)]
    compared = [run.name for run in runs] if len(runs) > 1 else [runs[0].name, "baselines"]
    folder = given.out or runs[0].parent / "_vs_".join(compared)
    folder.mkdir(parents=True, exist_ok=True)
    for pair in pairs:
        print_pair(pair)
    tested = sum(row.adjusted is not None for pair in pairs for row in pair.found)
    if tested:
        print(
            f"A run is called better if p, adjusted for the {tested} rows that have one (Holm), is at most "
            f"{1 - bootstrap.level:.2g}."
        )
    table = {"level": bootstrap.level, "windows": data[0].sizes["window"], "block": bootstrap.block}
    table["comparisons"] = [as_table(pair) for pair in pairs]
    write_text(folder / "comparison.json", json.dumps(table, indent=1, ensure_ascii=False) + "\n")
    units = {str(unit) for unit in data[0]["unit"].values}
    figure = draw(pairs, units.pop() if len(units) == 1 else "")
    with replacing(folder / "comparison.png") as unfinished:
        figure.savefig(unfinished, dpi=150, format="png")
    print_line(f"Comparison: {folder}")


def _read(run: Path) -> xr.Dataset:
    """Returns the evaluation of a tested run.

    Raises:
        ValueError: If the file is missing, damaged or of an earlier version.
    """
    path = run / "evaluation.nc"
    if not path.is_file():
        variants = [str(found.parent) for found in sorted(run.glob("*/evaluation.nc"))]
        if variants:
            raise ValueError(
                f"{run} must be the folder of one run; it is that of a study. Give some of its variants: "
                f"{', '.join(variants)}."
            )
        raise ValueError(f"{run} must be the folder of a tested run; it has no evaluation.nc. {REMEDY}")
    return read_evaluation(path, *REQUIRED)


def _pairs(names: Sequence[str], data: Sequence[xr.Dataset], bootstrap: WindowBootstrap) -> list[Pair]:
    """Compares each run with the first, or a single one with its baselines."""
    if len(names) == 1:
        baselines = data[0]["baseline"].values.tolist() if "baseline" in data[0] else []
        others = [(name, baseline(data[0], name)) for name in baselines]
        return [
            Pair(name, names[0], compare(other, data[0], bootstrap), other_conditioning(other, data[0]))
            for name, other in others
        ]
    pairs = []
    for name, other in zip(names[1:], data[1:], strict=True):
        try:
            found = compare(data[0], other, bootstrap)
        except ValueError as error:
            raise ValueError(f"{names[0]} and {name}: {error}") from error
        pairs.append(Pair(names[0], name, found, other_conditioning(data[0], other)))
    return pairs


def as_table(pair: Pair) -> dict[str, Any]:
    """Returns the differences over all entries and by group, as written to ``comparison.json``."""
    about = {"a": pair.a, "b": pair.b, "other_conditioning": pair.other_conditioning}
    table: dict[str, Any] = {**about, "scores": [], "by_gap_length": [], "by_lead_time": []}
    for row in pair.found:
        values = {key: _rounded(value) for key, value in asdict(row).items() if key not in ("group", "label")}
        key = {"gap": "by_gap_length", "lead": "by_lead_time"}.get(row.group or "", "scores")
        table[key].append(({row.group: row.label} if row.group else {}) | values)
    return table


def _rounded(value: Any) -> Any:
    if isinstance(value, tuple):
        return [rounded(end) for end in value]
    return rounded(value) if isinstance(value, float) else value


def print_pair(pair: Pair) -> None:
    """Prints the differences of a pair, and a sentence on each main score."""
    overall = pair.found[0]
    sections = [[row for row in pair.found if row.group is None]]
    sections += [
        [row for row in pair.found if row.group == group and row.score == score]
        for group in GROUPS
        for score in MAIN_SCORES
    ]
    remarks = [
        sentence(pair, row)
        for row in pair.found
        if row.group is None
        and row.score in MAIN_SCORES
        and not (pair.other_conditioning and row.score == "nll")
    ]
    print_table(
        f"{pair.b} (B) compared with {pair.a} (A): the same {overall.entries:,} entries in "
        f"{overall.windows:,} windows",
        ["", "entries", "A", "B", "B - A", "95 % interval", "relative", "p", "better"],
        *([_cells(row) for row in section] for section in sections if section),
        remarks=remarks + [OTHER_CONDITIONING] * pair.other_conditioning,
    )


def _cells(row: Difference) -> list[str]:
    """Returns a row of the table."""
    name = COLUMNS[row.score]
    if row.group:
        name += f", {row.group} {row.label}"
    return [
        name,
        format_number(row.entries),
        format_number(row.a),
        format_number(row.b),
        format_number(row.difference, "+"),
        "–" if row.interval is None else " to ".join(map(format_number, row.interval)),
        "–" if row.relative is None else f"{100 * row.relative:+.1f} %",
        "–" if row.adjusted is None else f"{row.adjusted:.2g}",
        (row.better or "–").upper(),
    ]


def sentence(pair: Pair, row: Difference) -> str:
    """Returns one difference as a sentence."""
    score = COLUMNS[row.score]
    if row.interval is None:
        return f"{score}: too few windows to tell whether the difference is due to chance."
    low, high = row.interval
    if row.better is not None:
        verdict = f"{pair.a if row.better == 'a' else pair.b} is better by {abs(row.difference):.3g}"
    else:
        verdict = "the difference is not significant"
    if low <= 0 <= high:
        zero = "contains zero"
    elif row.better is not None:
        zero = "excludes zero"
    else:
        zero = f"excludes zero, but of many intervals some do so by chance (adjusted p = {row.adjusted:.2g})"
    return f"{score}: {verdict}; the interval {low:.3g} to {high:.3g} {zero}."


# --------------------------------------------------------------------------------------------------- figure


@in_style
def draw(pairs: Sequence[Pair], unit: str = "") -> Figure:
    """Draws the differences with their intervals.

    The first panel has the relative differences over all entries; the others have the differences in CRPS by
    group, in the unit of the data.

    Args:
        pairs: The pairs that were compared.
        unit: The unit of the data.
    """
    groups = [group for group in GROUPS if any(row.group == group for pair in pairs for row in pair.found)]
    figure = Figure(figsize=(3.4 * (1 + len(groups)), 3.4), layout="constrained")
    axes = figure.subplots(1, 1 + len(groups), squeeze=False)[0]
    _draw_all(axes[0], pairs)
    for ax, group in zip(axes[1:], groups, strict=True):
        _draw_group(ax, group, pairs)
        ax.set_ylabel(f"difference in CRPS [{unit or 'units of the data'}]")
    for ax in axes:
        ax.tick_params(colors=GREY)
    lines, labels = axes[0].get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=2, fontsize=8)
    return figure


def _draw_all(ax: Axes, pairs: Sequence[Pair]) -> None:
    """Draws the relative differences over all entries."""
    tables = [
        {row.score: row for row in pair.found if row.group is None and row.relative is not None}
        for pair in pairs
    ]
    # only scores that all pairs have
    scores = [score for score in tables[0] if all(score in rows for rows in tables)]
    for i, (pair, rows) in enumerate(zip(pairs, tables, strict=True)):
        place = np.arange(len(scores)) + _offset(i, len(pairs))
        centre, spread = _bars([rows[score] for score in scores], relative=True)
        ax.errorbar(centre, place, xerr=spread, **_look(i), label=f"{pair.b} − {pair.a}")
    ax.axvline(0, color=INK, lw=1)
    ax.set_yticks(range(len(scores)), [COLUMNS[score] for score in scores])
    ax.invert_yaxis()
    ax.grid(axis="x", color=PALE, lw=0.5)
    ax.set(xlabel="difference [% of what is subtracted]", title="All entries")


def _draw_group(ax: Axes, group: str, pairs: Sequence[Pair]) -> None:
    """Draws the differences in CRPS by one grouping."""
    labels = [row.label for row in pairs[0].found if row.group == group and row.score == "crps"]
    for i, pair in enumerate(pairs):
        rows = [row for row in pair.found if row.group == group and row.score == "crps"]
        centre, spread = _bars(rows, relative=False)
        ax.errorbar(np.arange(len(rows)) + _offset(i, len(pairs)), centre, yerr=spread, **_look(i))
    ax.axhline(0, color=INK, lw=1)
    ax.set_xticks(range(len(labels)), [str(label) for label in labels])
    ax.grid(axis="y", color=PALE, lw=0.5)
    ax.set(xlabel=GROUPS[group], title=f"By {GROUPS[group].partition(' [')[0]}")


def _look(number: int) -> dict[str, Any]:
    colour = COLOURS[number % len(COLOURS)]
    return {"fmt": "o", "ms": 4, "lw": 1.4, "capsize": 2.5, "color": colour}


def _offset(number: int, count: int) -> float:
    """Returns an offset that keeps the marks of several pairs apart."""
    return 0.6 * ((number + 0.5) / count - 0.5)


def _bars(rows: Sequence[Difference], relative: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns the differences and the distances to the lower and upper ends of their intervals.

    If ``relative``, both are in percent. Both distances are zero if there is no interval.
    """
    unit = np.array([abs(row.a) / 100 if relative else 1.0 for row in rows])
    centre = np.array([row.difference for row in rows])
    ends = np.array([row.interval or (row.difference, row.difference) for row in rows]).reshape(-1, 2)
    reach = np.array([centre - ends[:, 0], ends[:, 1] - centre])
    # if a score is skewed, both ends of the interval may lie on the same side of the difference
    return centre / unit, reach.clip(min=0) / unit
