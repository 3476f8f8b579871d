"""The style of all figures: colours, fonts, a grid of panels, ticks, formatting of names and times."""

from __future__ import annotations

import functools
import math
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

from tsgen.argument_types import check_arguments
from tsgen.storage.display import printable

# the palette of Okabe and Ito, which colour-blind readers can distinguish
BLUE, VERMILLION, INK, GREY, PALE = "#0072B2", "#D55E00", "#222222", "#666666", "#DDDDDD"
BAND_50, BAND_90 = "#8DBFE0", "#D3E6F3"

WIDTH_50, WIDTH_90 = 0.6745, 1.6449
"""Half the width of a central interval of a Gaussian, in standard deviations."""

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "text.usetex": False,
    "text.parse_math": False,  # a name may contain dollar signs
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
"""Matplotlib's settings for all figures; :func:`in_style` applies them."""

STEPS = [1, 2, 5, 10]  # between ticks, so that their labels are short
_P = ParamSpec("_P")


def check_evaluation(evaluation: xr.Dataset) -> None:
    """Raises ``ValueError`` if an evaluation has no window, step, node or channel, or edges of other nodes.

    Args:
        evaluation: The evaluation.
    """
    empty = [name for name in ("window", "step", "node", "channel") if not evaluation.sizes.get(name)]
    if empty:
        raise ValueError(f"the evaluation must have at least one {empty[0]}; it has none.")
    for end in {"edge_source", "edge_target"} & set(evaluation):
        if not np.isin(evaluation[end].values, np.arange(evaluation.sizes["node"])).all():
            raise ValueError(f"{end} of the evaluation must be numbers of nodes, counted from 0.")


@check_arguments
def in_style(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """Returns the function with :data:`STYLE` in effect during the call; its evaluations are not empty."""

    @functools.wraps(draw)
    def styled(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        for value in (*args, *kwargs.values()):
            if isinstance(value, xr.Dataset):
                check_evaluation(value)
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return styled


@check_arguments
def axes_grid(panels: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Returns a figure and its panels, filled row by row.

    Args:
        panels: The number of panels.
        columns: The maximum number of panels per row.
        width: Width of a panel, in inches.
        height: Height of a panel, in inches.

    Raises:
        ValueError: If a number is not positive.
    """
    for name, number in (("panels", panels), ("columns", columns)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1; it is {number}.")
    if not (0 < width < math.inf and 0 < height < math.inf):
        raise ValueError(f"width and height must be positive numbers of inches; they are {width}, {height}.")
    columns = min(columns, panels)
    rows = -(-panels // columns)
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=(columns * width, rows * height), layout=layout)
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(panels)]
    for ax in axes:
        # rcParams do not reach ticks: they are created after the style has been reset
        ax.tick_params(colors=GREY, labelsize=8, length=3, width=0.8)
    return figure, axes


def of_channel(evaluation: xr.Dataset, channel: int) -> str:
    """Returns a channel's name and unit."""
    unit = printable(evaluation["unit"].values[channel], 24)
    name = printable(evaluation["channel"].values[channel], 32)
    return f"{name} [{unit}]" if unit else name


def unit_of(evaluation: xr.Dataset) -> str:
    """Returns " [UNIT]" if all channels have the same unit, else an empty text."""
    units = {str(unit) for unit in evaluation["unit"].values}
    unit = printable(units.pop(), 24) if len(units) == 1 else ""
    return f" [{unit}]" if unit else ""


def date_ticks(ax: Axes) -> None:
    """Sets three to six date ticks with short labels."""
    locator = AutoDateLocator(minticks=3, maxticks=6)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))


def few_ticks(ax: Axes, axis: str = "y", most: int = 5, integer: bool = False) -> None:
    """Sets at most ``most`` intervals between ticks, with short labels."""
    getattr(ax, f"{axis}axis").set_major_locator(MaxNLocator(most, steps=STEPS, integer=integer))


def name_of_time(time: Any) -> str:
    """Returns a date to the minute, or a number, as text."""
    if np.issubdtype(time.dtype, np.datetime64):
        return str(np.datetime_as_string(time, unit="m")).replace("T", " ")
    return str(time)
