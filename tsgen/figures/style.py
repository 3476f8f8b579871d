"""What the report's figures share: colours, type, a grid of panels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

# Okabe & Ito's colours, which the colour-blind tell apart
BLUE, VERMILLION, INK, GREY, PALE = "#0072B2", "#D55E00", "#222222", "#666666", "#DDDDDD"
BAND_50, BAND_90 = "#8DBFE0", "#D3E6F3"

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "text.usetex": False,
    "text.parse_math": False,  # a name may hold dollar signs
    "axes.labelcolor": GREY,
    "axes.edgecolor": "#999999",
    "axes.linewidth": 0.8,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "lines.solid_capstyle": "round",
}

STEPS = [1, 2, 5, 10]  # between ticks, so that their labels are short
_P = ParamSpec("_P")


def in_style(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """The function with this module's style in force while it draws."""

    @functools.wraps(draw)
    def styled(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return styled


def printable(text: Any, length: int | None = None) -> str:
    """The text on one line, without control characters, and cut to a length if one is given."""
    plain = "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in str(text))
    return plain if length is None or len(plain) <= length else plain[: length - 1].rstrip() + "…"


def axes_grid(panels: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with that many panels of one size in inches, filled row by row."""
    columns = min(columns, panels)
    rows = -(-panels // columns)
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=(columns * width, rows * height), layout=layout)
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(panels)]
    for ax in axes:
        # not by rcParams: ticks are made late, when the style is no longer in force
        ax.tick_params(colors=GREY, labelsize=8, length=3, width=0.8)
    return figure, axes


def of_channel(evaluation: xr.Dataset, channel: int) -> str:
    """A channel's name and unit."""
    unit = printable(evaluation["unit"].values[channel], 24)
    name = printable(evaluation["channel"].values[channel], 32)
    return f"{name} [{unit}]" if unit else name


def unit_of(evaluation: xr.Dataset) -> str:
    """The unit of all channels in brackets, with a space before; empty if they have none or differ."""
    units = {str(unit) for unit in evaluation["unit"].values}
    unit = printable(units.pop(), 24) if len(units) == 1 else ""
    return f" [{unit}]" if unit else ""


def date_ticks(ax: Axes) -> None:
    """Few and short dates below a panel."""
    locator = AutoDateLocator(minticks=3, maxticks=6)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))


def few_ticks(ax: Axes, axis: str = "y", most: int = 5, integer: bool = False) -> None:
    """Few ticks with short labels."""
    getattr(ax, f"{axis}axis").set_major_locator(MaxNLocator(most, steps=STEPS, integer=integer))


def name_of_time(time: Any) -> str:
    """A date to the minute, or a number."""
    if np.issubdtype(time.dtype, np.datetime64):
        return str(np.datetime_as_string(time, unit="m")).replace("T", " ")
    return str(time)
