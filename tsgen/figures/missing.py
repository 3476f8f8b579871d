"""A map of visible, hidden and unknown entries by time and node."""

from __future__ import annotations

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from tsgen.argument_types import check_arguments
from tsgen.figures.style import (
    BAND_50,
    BLUE,
    GREY,
    INK,
    VERMILLION,
    axes_grid,
    few_ticks,
    in_style,
    name_of_time,
    printable,
)

_COLOURS = {"visible": BAND_50, "hidden and scored": VERMILLION, "unknown": "#FFFFFF"}


def states(evaluation: xr.Dataset) -> tuple[np.ndarray, Float[np.ndarray, "time node 3"]]:
    """Returns the shares of visible, hidden and unknown entries by time and node.

    Args:
        evaluation: The evaluation. If windows overlap, an entry that is scored in one of them counts as
            hidden.

    Returns:
        The times in ascending order, and for each time and node the three shares of its channels.
    """
    time = evaluation["time"].values
    context, target = (evaluation[name].values.astype(bool) for name in ("context", "target"))
    times, index = np.unique(time, return_inverse=True)
    index = index.reshape(-1)
    shape = (len(times), *context.shape[2:])
    visible, hidden = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    np.logical_or.at(visible, index, context.reshape(-1, *shape[1:]))
    np.logical_or.at(hidden, index, target.reshape(-1, *shape[1:]))
    kinds = np.stack([visible & ~hidden, hidden, ~visible & ~hidden], axis=-1)
    return times, kinds.mean(axis=2, dtype=np.float32)


def _coarsened(x: np.ndarray, axis: int, most: int) -> np.ndarray:
    """Returns means of neighbours along an axis, at most ``most`` of them."""
    size = x.shape[axis]
    left = min(size, most)
    starts = np.arange(left) * size // left
    counts = np.diff(np.append(starts, size))
    shape = [1] * x.ndim
    shape[axis] = left
    return np.add.reduceat(x, starts, axis=axis) / counts.reshape(shape)


@check_arguments
@in_style
def missingness(evaluation: xr.Dataset, columns: int = 2) -> Figure:
    """Draws visible, hidden and unknown entries by time and node, and the share missing of each node.

    Nodes are in their given order, from the top. Steps that were not evaluated are omitted; a line marks
    where. In a long series, or with many nodes, a cell is the mean of several entries.

    Args:
        evaluation: The evaluation.
        columns: The number of panels per row; with one, the share missing is omitted.
    """
    time, shares = states(evaluation)
    nodes = evaluation.sizes["node"]
    height = float(np.clip(0.9 + 0.16 * nodes, 2.2, 6.5))
    figure, axes = axes_grid(1, 1, 9.0 if columns > 1 else 4.6, height)
    ax = axes[0]
    palette = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in _COLOURS.values()]) / 255
    pixels = _coarsened(_coarsened(shares, 0, 900), 1, 500) @ palette
    extent = (-0.5, len(time) - 0.5, nodes - 0.5, -0.5)
    ax.imshow(pixels.transpose(1, 0, 2), extent=extent, aspect="auto", interpolation="nearest")
    _draw_jumps(ax, time, nodes)
    _label_times(ax, time, 6 if columns > 1 else 3)
    _label_nodes(ax, evaluation["node"].values)
    ax.spines[["top", "right"]].set_visible(True)
    handles = [Patch(fc=colour, ec=GREY, lw=0.6, label=name) for name, colour in _COLOURS.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=3, fontsize=8.5)
    if columns > 1:
        _draw_missing(ax, evaluation["share_missing"].values)
    return figure


def _draw_jumps(ax: Axes, time: np.ndarray, nodes: int) -> None:
    """Draws a line where steps are omitted, unless there are more than 100 such places."""
    if len(time) > 2 and time.dtype.kind in "Miuf":
        step = np.diff(time)
        jumps = np.flatnonzero(step > step.min())
        if len(jumps) <= 100:
            ax.vlines(jumps + 0.5, -0.5, nodes - 0.5, color=INK, lw=1.2)


def _label_times(ax: Axes, time: np.ndarray, most: int) -> None:
    ticks = np.unique(np.linspace(0, len(time) - 1, most).round().astype(int))
    long = time.dtype.kind == "M" and time[-1] - time[0] > np.timedelta64(5, "D")
    names = [name_of_time(t)[: 10 if long else None] for t in time[ticks]]
    ax.set_xticks(ticks, labels=names, fontsize=8)
    for label, end in zip(ax.get_xticklabels()[:: max(len(ticks) - 1, 1)], ("left", "right"), strict=False):
        label.set(horizontalalignment=end)


def _label_nodes(ax: Axes, nodes: np.ndarray) -> None:
    """Labels the nodes with their names, or with numbers if there are more than 40."""
    if len(nodes) <= 40:
        ax.set_yticks(range(len(nodes)), labels=[printable(name, 18) for name in nodes], fontsize=7)
    else:
        few_ticks(ax, integer=True)
        ax.set_ylabel("node, counted from 0")


def _draw_missing(ax: Axes, share: Float[np.ndarray, " node"]) -> None:
    """Draws the share of each node's entries that were never observed, on the right of the map."""
    side = ax.inset_axes((1.03, 0, 0.12, 1))
    side.barh(np.arange(len(share)), share, height=1.0, color=BLUE, ec="none")
    side.set(ylim=ax.get_ylim(), yticks=[], xlim=(0, 1))
    side.tick_params(colors=GREY, labelsize=8, length=3, width=0.8)
    side.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    side.set_xticks([0, 1])
    side.set_title("never observed", fontsize=8, fontweight="normal", color=GREY)
