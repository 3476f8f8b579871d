"""Scores of all methods, and the training curve."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tsgen.argument_types import check_arguments
from tsgen.figures.style import BLUE, GREY, INK, PALE, STEPS, axes_grid, in_style, printable


@check_arguments
def is_exact(row: Mapping[str, Any]) -> bool:
    """Returns whether a row is that of an exact distribution, which no method beats except by chance."""
    return str(row.get("name", "")).lower().startswith("exact")


@check_arguments
def number(value: Any) -> float:
    """Returns a score as a float; NaN if it is not a number."""
    return float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else float("nan")


def rows_of(scores: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """Returns the rows of a table of ``scores.json``.

    Args:
        scores: The content of ``scores.json``.
        key: The table.

    Raises:
        ValueError: If there is no such table.
    """
    rows = scores.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise ValueError(f"scores must have a list of rows {key!r}, as scores.json has; it has none.")
    return rows


@check_arguments
@in_style
def score_bars(scores: Mapping[str, Any], columns: int = 2) -> Figure:
    """Draws CRPS and MAE of the model (the first row) and the other methods; hollow bars are exact.

    Args:
        scores: The content of ``scores.json``.
        columns: The number of panels per row.
    """
    rows = rows_of(scores, "rows")
    names = [printable(row["name"], 26) for row in rows]
    figure, axes = axes_grid(2, columns, 4.2, 1.0 + 0.32 * len(rows))
    for i, (ax, key) in enumerate(zip(axes, ("crps", "mae"), strict=True)):
        value = np.array([number(row.get(key)) for row in rows])
        highest = np.max(value[np.isfinite(value)], initial=0)
        for y, row in enumerate(rows):
            _draw_bar(ax, y, float(value[y]), is_exact(row))
        ax.set_yticks(range(len(rows)), labels=names if i % columns == 0 else [""] * len(rows))
        ax.tick_params(axis="y", length=0, labelcolor=INK, labelsize=8.5)
        ax.invert_yaxis()
        ax.set_xlim(0, max(1.18 * highest, 1e-12))
        ax.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        ax.spines["left"].set_visible(False)
        ax.set_title(key.upper())
    return figure


def _draw_bar(ax: Axes, y: int, value: float, exact: bool) -> None:
    """Draws the bar of one method with its value, or a dash if the value is NaN."""
    shown = np.isfinite(value)
    length = value if shown else 0.0
    colour = BLUE if y == 0 else "#B5B5B5"
    look: dict[str, Any] = {"fc": "white", "ec": INK, "lw": 1} if exact else {"color": colour}
    ax.barh(y, length, height=0.62, **look)
    if exact and shown:
        ax.axvline(value, color=INK, lw=0.8, ls=(0, (2, 3)), zorder=0)
    ax.annotate(
        f"{value:#.4g}".rstrip(".") if shown else "–",
        (length, y),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        bbox={"fc": "white", "ec": "none", "pad": 0.6},
    )


@check_arguments
def read_curves(metrics: Path) -> dict[str, pd.Series]:
    """Returns the logged curves of a training run: ``"train, each step"``, ``"train"``, ``"validation"``.

    Args:
        metrics: A table as written by Lightning's ``CSVLogger``; cells may be empty.

    Returns:
        The negative log-likelihood by step (series named ``"nll"``) or, if it was not logged, the loss
        (``"loss"``). Empty if the table has neither.

    Raises:
        ValueError: If the file is not such a table.
    """
    try:
        table = pd.read_csv(metrics)
        step = pd.to_numeric(table["step"])
    except (OSError, ValueError, KeyError) as error:  # pandas' own errors are ValueErrors
        raise ValueError(
            f"{metrics} must be a table with a column 'step', as written by CSVLogger."
        ) from error
    for score in ("nll", "loss"):
        columns = {
            "train, each step": [f"train/{score}_step"],
            "train": [f"train/{score}_epoch", f"train/{score}"],
            "validation": [f"val/{score}_epoch", f"val/{score}"],
        }
        curves = {}
        for name, choices in columns.items():
            found = [column for column in choices if column in table]
            if found:
                curve = pd.to_numeric(table[found[0]], errors="coerce").set_axis(step).rename(score)
                curve = curve[np.isfinite(curve)].sort_index(kind="stable")
                if len(curve):
                    curves[name] = curve
        if curves:
            return curves
    return {}


@check_arguments
@in_style
def training_curve(metrics: Path) -> Figure:
    """Draws the negative log-likelihood, or the loss, of training and validation by step.

    Args:
        metrics: A table as written by Lightning's ``CSVLogger``.

    Raises:
        ValueError: If the file is not such a table, or has no curve.
    """
    curves = read_curves(metrics)
    if not curves:
        raise ValueError(f"{metrics} must have a column train/nll or val/nll (or loss); got none.")
    figure, (ax,) = axes_grid(1, 1, 6.4, 3.2)
    looks = {
        "train, each step": (PALE, 0.8),
        "train": (GREY, 1.4),
        "validation": (BLUE, 1.8),
    }
    for name, curve in curves.items():
        marks = "o" if len(curve) < 30 and name != "train, each step" else None
        colour, width = looks[name]
        ax.plot(
            curve.index.to_numpy(), curve.to_numpy(), color=colour, lw=width, label=name, marker=marks, ms=3
        )
    if "validation" in curves:
        _mark_best(ax, curves["validation"])
    _limit(ax, np.concatenate([curve.to_numpy() for curve in curves.values()]))
    kind = next(iter(curves.values())).name
    ax.set(xlabel="step", ylabel="NLL [nats per scored entry]" if kind == "nll" else kind)
    ax.grid(axis="y", color=PALE, lw=0.5)
    ax.legend(loc="upper right", fontsize=8.5)
    return figure


def _mark_best(ax: Axes, curve: pd.Series) -> None:
    """Marks the lowest point of a curve with a ring and its value."""
    best = curve.index.to_numpy()[curve.argmin()], curve.min()
    ax.plot(*best, "o", mfc="white", mec=BLUE, ms=7, mew=1.6)
    below: dict[str, Any] = {"xytext": (0, -15), "textcoords": "offset points", "ha": "center"}
    ax.annotate(f"{best[1]:.4g}", best, color=BLUE, fontsize=8, **below)


def _limit(ax: Axes, values: np.ndarray) -> None:
    """Sets the vertical axis so that a few extreme values do not flatten the rest."""
    low, usual = values.min(), np.quantile(values, 0.98)
    room = max(usual - low, 1e-12)
    if values.max() > usual + 2 * room:
        above = int((values > usual + 0.2 * room).sum())
        ax.set_ylim(low - 0.12 * room, usual + 0.2 * room)
        points = f"{above} point{'s' * (above != 1)} above the axis"
        ax.set_title(points, loc="right", color=GREY, fontsize=8, fontweight="normal")
    else:
        ax.margins(y=0.14)
