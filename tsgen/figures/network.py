"""The graph, with nodes coloured by score, by share missing, or by the difference of two runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from tsgen.argument_types import check_shapes
from tsgen.figures.style import (
    BLUE,
    GREY,
    INK,
    STEPS,
    VERMILLION,
    axes_grid,
    in_style,
    printable,
    unit_of,
)


@check_shapes
def node_scores(crps: Float[np.ndarray, "window step node channel"]) -> Float[np.ndarray, " node"]:
    """Returns the mean CRPS of each node; NaN if none of its entries is scored.

    If there are several channels, each is first divided by its mean over all nodes, because units differ.
    """
    found = np.isfinite(crps)
    filled = np.where(found, crps, 0).astype(np.float64)
    total, count = filled.sum(axis=(0, 1)), found.sum(axis=(0, 1))
    if crps.shape[-1] > 1:
        mean = total.sum(axis=0) / np.maximum(count.sum(axis=0), 1)
        total = total / np.where(mean > 0, mean, 1)
    return np.where(count.sum(axis=1) > 0, total.sum(axis=1) / np.maximum(count.sum(axis=1), 1), np.nan)


@check_shapes
@in_style
def network(evaluation: xr.Dataset, columns: int = 2) -> Figure:
    """Draws the graph, with nodes coloured by share never observed and, if any is scored, by CRPS.

    Nodes are drawn at their positions, or on a circle if positions are unknown. Edges are drawn as arrows if
    they are few and not all mutual; the width of an edge follows its weight.

    Args:
        evaluation: The evaluation.
        columns: The number of panels per row.
    """
    score = node_scores(evaluation["crps"].values)
    missing = evaluation["share_missing"].values.astype(float)
    scored = bool(np.isfinite(score).any())
    figure, axes = axes_grid(1 + scored, columns, 4.6, 4.0)
    # the scale starts at zero, so that no node looks worst if nothing is missing
    highest = max(float(np.nanmax(np.append(missing, 0.01))), 0.01)
    bar = _draw_network(axes[0], evaluation, missing, "YlGnBu", (0.0, highest))
    bar.formatter = PercentFormatter(1, decimals=0 if highest >= 0.03 else 1, symbol=" %")
    bar.update_ticks()
    bar.set_label("share of all entries", color=GREY)
    axes[0].set_title("Never observed")
    if scored:
        lowest, highest = float(np.nanmin(score)), float(np.nanmax(score))
        margin = 0.1 * abs(lowest) + 1e-12 if lowest == highest else 0.0
        bar = _draw_network(axes[1], evaluation, score, "YlOrBr", (lowest - margin, highest + margin))
        single = evaluation.sizes["channel"] == 1
        bar.set_label(
            "mean CRPS" + unit_of(evaluation) if single else "CRPS, relative to its channel's mean",
            color=GREY,
        )
        axes[1].set_title("CRPS by node" + ("" if np.isfinite(score).all() else " (white: not scored)"))
    return figure


@check_shapes
@in_style
def network_difference(
    evaluation: xr.Dataset, difference: Float[np.ndarray, " node"], columns: int = 1
) -> Figure:
    """Draws the graph, with nodes coloured by the difference of two runs: blue where the second is worse.

    Args:
        evaluation: The evaluation of either run, for the graph.
        difference: CRPS of the second run minus that of the first, by node; NaN where nothing is scored. With
            several channels it is relative to the node's standard deviation.
        columns: Unused: there is one panel.
    """
    if len(difference) != evaluation.sizes["node"]:
        raise ValueError(
            f"difference must have one number per node, {evaluation.sizes['node']}; it has {len(difference)}."
        )
    figure, (ax,) = axes_grid(1, 1, 5.2, 4.2)
    absolute = np.abs(difference[np.isfinite(difference)])
    limit = float(absolute.max(initial=0)) or 1e-12
    # each end has the colour of the better run
    colours = LinearSegmentedColormap.from_list("better", [VERMILLION, "#F7F7F7", BLUE])
    bar = _draw_network(ax, evaluation, difference, colours, (-limit, limit))
    single = evaluation.sizes["channel"] == 1
    label = "mean CRPS" + unit_of(evaluation) if single else "mean CRPS / deviation"
    bar.set_label(f"{label}, second minus first", color=GREY)
    ax.set_title("Difference by node")
    return figure


def _draw_network(
    ax: Axes, evaluation: xr.Dataset, colour: np.ndarray, colours: str | Colormap, limits: tuple[float, float]
) -> Colorbar:
    """Draws the graph, with nodes coloured by value, white where it is NaN, and returns the colour bar."""
    place, aspect = _layout(evaluation)
    names: Any = evaluation["node"].values if len(place) <= 12 else []
    middle, extent = (place.max(axis=0) + place.min(axis=0)) / 2, np.ptp(place, axis=0)
    # names need room; nodes may lie on a line, or there may be only one
    reach = np.maximum((0.72 if len(names) else 0.56) * extent, 0.3 * (extent.max() or 1))
    ax.set(xlim=middle[0] + reach[0] * np.array([-1, 1]), ylim=middle[1] + reach[1] * np.array([-1, 1]))
    ax.set_aspect(aspect)
    ax.set_axis_off()
    _draw_edges(ax, evaluation, place)
    size = float(np.clip(3000 / len(place), 10, 110))
    for v in range(len(names)):
        # of nodes close together only the first is named
        if not (np.hypot(*(place[:v] - place[v]).T) < 0.13 * extent.max()).any():
            _draw_name(ax, names[v], place[v], place[v] - middle, np.sqrt(size) / 2 + 5)
    known = np.isfinite(colour)
    look: dict[str, Any] = {"s": size, "lw": 0.6, "zorder": 3, "rasterized": len(place) > 2000}
    ax.scatter(place[~known, 0], place[~known, 1], c="white", ec=GREY, **look)
    look |= {"cmap": colours, "vmin": limits[0], "vmax": limits[1], "ec": INK}
    dots = ax.scatter(place[known, 0], place[known, 1], c=colour[known], **look)
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    bar = figure.colorbar(dots, ax=ax, shrink=0.75, aspect=28, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=GREY, labelsize=8, length=2)
    bar.locator = MaxNLocator(5, steps=STEPS)
    bar.update_ticks()
    return bar


def _draw_name(ax: Axes, name: Any, place: np.ndarray, outwards: np.ndarray, distance: float) -> None:
    """Writes a node's name beside it, ``distance`` points away from the centre of the graph."""
    out = outwards / np.hypot(*outwards) if outwards.any() else np.array([0, 1])
    ax.annotate(
        printable(name, 18),
        (place[0], place[1]),
        xytext=(distance * out[0], distance * out[1]),
        textcoords="offset points",
        ha="center" if abs(out[0]) < 0.5 else "left" if out[0] > 0 else "right",
        va="center" if abs(out[1]) < 0.5 else "bottom" if out[1] > 0 else "top",
        fontsize=7.5,
    )


@check_shapes
def has_positions(evaluation: xr.Dataset) -> bool:
    """Returns whether every node has a known position in the plane."""
    known = "position" in evaluation and evaluation["position"].shape[1] >= 2
    return known and bool(np.isfinite(evaluation["position"].values[:, :2]).all())


def _layout(evaluation: xr.Dataset) -> tuple[np.ndarray, float]:
    """Returns the positions of the nodes, and the length of a vertical unit relative to a horizontal one."""
    if has_positions(evaluation):
        place = evaluation["position"].values[:, :2].astype(float)
        longitude, latitude = np.abs(place).max(axis=0)
        degrees = longitude <= 180 and latitude <= 80
        return place, float(1 / np.cos(np.radians(place[:, 1].mean()))) if degrees else 1.0
    angle = np.pi / 2 - 2 * np.pi * np.arange(evaluation.sizes["node"]) / evaluation.sizes["node"]
    return np.stack([np.cos(angle), np.sin(angle)], axis=1), 1.0


def _draw_edges(
    ax: Axes, evaluation: xr.Dataset, place: np.ndarray, most: int = 20_000, arrows: int = 80
) -> None:
    """Draws the edges: arrows if they are few and not all mutual, else one line per pair of nodes.

    Args:
        ax: The axes to draw on.
        evaluation: The evaluation.
        place: The positions of the nodes.
        most: The maximum number of lines; the strongest are drawn.
        arrows: The maximum number of arrows.
    """
    source, target, weight = (evaluation[f"edge_{name}"].values for name in ("source", "target", "weight"))
    source, target, weight = (x[source != target] for x in (source, target, np.abs(weight)))
    if not len(source):
        return
    width = 0.3 + 0.9 * weight / max(float(weight.max()), 1e-30)
    pairs = set(zip(source.tolist(), target.tolist(), strict=True))
    mutual = all((t, s) in pairs for s, t in pairs)
    if not mutual and len(pairs) <= arrows:
        for s, t, w in zip(source, target, width, strict=True):
            bend = 0.14 if (t, s) in pairs else 0.0  # both edges of a pair, side by side
            look = {"arrowstyle": "-|>", "mutation_scale": 8, "lw": w, "color": "#8A8A8A"}
            look |= {"shrinkA": 5, "shrinkB": 6, "connectionstyle": f"arc3,rad={bend}"}
            ax.annotate("", place[t], xytext=place[s], arrowprops=look, zorder=1)
        return
    strongest = np.argsort(-width, kind="stable")
    ends = np.sort(np.stack([source, target], axis=1), axis=1)[strongest]
    _, first = np.unique(ends, axis=0, return_index=True)  # the stronger edge of a pair comes first
    chosen = np.sort(first)[:most]
    lines = place[ends[chosen]]
    dense = float(np.clip(30 / np.sqrt(len(lines)), 0.15, 1))
    thickness = width[strongest][chosen]
    collection = LineCollection(list(lines), linewidths=thickness, colors="#8A8A8A", alpha=dense, zorder=1)
    collection.set_rasterized(len(lines) > 600)  # each line would enlarge a vector file
    ax.add_collection(collection)
