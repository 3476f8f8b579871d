r"""Figures of an evaluation.

Each function takes the evaluation (an :class:`xarray.Dataset` with dimensions quantile, window, step, node
and channel, as ``evaluation.nc`` holds it), the scores or the training log, and returns a
:class:`matplotlib.figure.Figure`. None touches pyplot: there is no display, no figure to close and no setting
that outlives the call.

Calibration is read off ranks. Let r be the number of the S samples of an entry that lie below its truth. If
truth and samples come from the same law, r is uniform on 0, ..., S. Hence

* the histogram of ranks is flat. Its bins are made of whole ranks, so that a bin of m ranks holds a binomial
  count of probability :math:`m / (S + 1)`;
* the interval from the k-th lowest to the k-th highest sample holds the truth, which is to say
  :math:`k \le r \le S - k`, with probability exactly :math:`1 - 2k / (S + 1)`. Coverage is compared at these
  levels, so that a finite S brings no bias.

References:
    Interpretation of Rank Histograms for Verifying Ensemble Forecasts (Hamill, 2001).
"""

from __future__ import annotations

import functools
import numbers
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec

import matplotlib
import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colorbar import Colorbar
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, MultipleLocator, PercentFormatter

# Okabe & Ito's colours, which the colour-blind tell apart
BLUE, VERMILLION, INK, GREY, PALE = "#0072B2", "#D55E00", "#222222", "#666666", "#DDDDDD"
BAND_50, BAND_90 = "#8DBFE0", "#D3E6F3"

_STYLE: dict[Any, Any] = {
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

_STEPS = [1, 2, 5, 10]  # between ticks, so that their labels are short
_P = ParamSpec("_P")


def in_style(draw: Callable[_P, Figure]) -> Callable[_P, Figure]:
    """The function with this module's style in force while it draws."""

    @functools.wraps(draw)
    def styled(*args: _P.args, **kwargs: _P.kwargs) -> Figure:
        with matplotlib.rc_context(_STYLE):
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


def _of_channel(evaluation: xr.Dataset, channel: int) -> str:
    unit = printable(evaluation["unit"].values[channel], 24)
    name = printable(evaluation["channel"].values[channel], 32)
    return f"{name} [{unit}]" if unit else name


# ------------------------------------------------------------------------------------------------ calibration


def rank_histogram(
    rank: Int[np.ndarray, "..."], num_samples: int, bins: int = 20
) -> tuple[Int[np.ndarray, " bins"], Int[np.ndarray, " edges"]]:
    """Counts how often the truth had each rank among its samples, in bins of whole ranks.

    Args:
        rank: How many samples lie below the truth; negative where there is no truth.
        num_samples: The number S of samples, so that ranks run from 0 to S.
        bins: The number of bins, fewer if there are fewer ranks. They differ by at most one rank.

    Returns:
        The count of each bin, and the edges: bin b holds the ranks from ``edges[b]`` to ``edges[b + 1] - 1``.

    Raises:
        ValueError: If a rank exceeds the number of samples.
    """
    ranks = rank[rank >= 0]
    if ranks.size and ranks.max() > num_samples:
        raise ValueError(f"ranks must lie in 0 to num_samples = {num_samples}; there is {ranks.max()}.")
    number = min(bins, num_samples + 1)
    edges = np.arange(number + 1) * (num_samples + 1) // number
    every = np.bincount(ranks, minlength=num_samples + 1)
    return np.add.reduceat(every, edges[:-1]), edges


def central_coverage(
    rank: Int[np.ndarray, "..."], num_samples: int
) -> tuple[Float[np.ndarray, " levels"], Float[np.ndarray, " levels"]]:
    r"""How often central intervals hold the truth, at every level that S samples can express.

    The interval from the k-th lowest to the k-th highest sample has the level :math:`1 - 2k / (S + 1)`.

    Args:
        rank: How many samples lie below the truth; negative where there is no truth.
        num_samples: The number S of samples.

    Returns:
        The levels, falling from 1, and the share of truths inside; NaN if there is no truth.
    """
    counts, _ = rank_histogram(rank, num_samples, bins=num_samples + 1)
    below = np.concatenate([[0], np.cumsum(counts)])  # below[r]: the truths of a rank less than r
    k = np.arange((num_samples + 1) // 2 + 1)
    inside = np.maximum(below[num_samples - k + 1] - below[k], 0)
    total = counts.sum()
    share = inside / total if total else np.full(len(k), np.nan)
    return 1 - 2 * k / (num_samples + 1), share


@in_style
def calibration(evaluation: xr.Dataset, columns: int = 2) -> Figure:
    """Draws the histogram of ranks, and the coverage of central intervals against their level.

    The grey bands hold 95 % of what calibrated samples give if entries are independent of each other
    (binomial counts, in the normal approximation). Entries near in time or space are not, so small excursions
    mean little.

    Args:
        evaluation: The evaluation; ``rank`` and ``num_samples`` are read.
        columns: How many panels stand side by side.
    """
    samples = int(evaluation.attrs["num_samples"])
    rank = evaluation["rank"].values
    bins = int(np.clip((rank >= 0).sum() // 10, 5, 20))
    counts, edges = rank_histogram(rank, samples, bins)
    total = max(int(counts.sum()), 1)
    figure, (left, right) = axes_grid(2, columns, 4.2, 3.3)

    share = np.diff(edges) / (samples + 1)
    place = edges / (samples + 1)
    spread = 1.96 * np.sqrt((1 - share) / (share * total))  # of a density that is 1 when calibrated
    left.bar(
        place[:-1], counts / (total * share), np.diff(place), align="edge", color=BAND_50, ec="white", lw=0.8
    )
    low, high = (np.append(band, band[-1]) for band in (np.maximum(1 - spread, 0), 1 + spread))
    left.fill_between(place, low, high, step="post", color=INK, alpha=0.14, lw=0, zorder=3)
    left.axhline(1, color=INK, lw=1, ls=(0, (4, 3)), zorder=4)
    left.set(xlim=(0, 1), ylim=(0, None), xlabel="place of the truth among the samples", ylabel="density")
    left.set_title("Rank of the truth")

    level, inside = central_coverage(rank, samples)
    line = np.linspace(0, 1, 201)
    band = 1.96 * np.sqrt(line * (1 - line) / total)
    right.fill_between(
        line, np.maximum(line - band, 0), np.minimum(line + band, 1), color=INK, alpha=0.14, lw=0
    )
    right.plot(line, line, color=INK, lw=1, ls=(0, (4, 3)))
    right.plot(level, inside, color=BLUE, lw=1.8, marker="o" if samples < 20 else None, ms=4)
    right.set(xlim=(0, 1), ylim=(0, 1.005), aspect="equal")
    right.set(xlabel="level of the central interval", ylabel="share of truths inside")
    right.set_title("Coverage of central intervals")
    for axis in (right.xaxis, right.yaxis):
        axis.set_major_locator(MultipleLocator(0.25))
        axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    return figure


# ------------------------------------------------------------------------------------------------- fan charts


class Panel(NamedTuple):
    """What one panel of a fan chart shows: one channel of one node over a stretch of one window.

    Attributes:
        window: Which window.
        node: Which node.
        channel: Which channel.
        start: The stretch's first step.
        stop: The step after its last; None for the window's end.
        place: Where the panel stands among all, in words for its title.
    """

    window: int
    node: int
    channel: int = 0
    start: int = 0
    stop: int | None = None
    place: str = ""


def choose_panels(evaluation: xr.Dataset, channel: int = 0, count: int = 6, longest: int = 96) -> list[Panel]:
    """Chooses panels spread evenly over the score, from the lowest mean CRPS to the highest.

    Candidates are all nodes in all windows that have at least half as many scored entries as the median one:
    one lucky entry makes no best window. If nothing at all is scored, panels are spread evenly over the data.

    Args:
        evaluation: The evaluation.
        channel: Which channel to show; scores of different channels do not compare.
        count: The number of panels, fewer if there are fewer candidates.
        longest: Windows of more steps than this are cut into stretches, each a candidate.
    """
    crps = evaluation["crps"].values[..., channel]
    windows, steps, nodes = crps.shape
    pieces = -(-steps // longest)
    starts = np.arange(pieces) * steps // pieces
    stops = np.append(starts[1:], steps)
    scored = evaluation["target"].values[..., channel] & np.isfinite(crps)
    entries = np.add.reduceat(scored, starts, axis=1, dtype=np.int64)
    total = np.add.reduceat(np.where(scored, crps, 0), starts, axis=1, dtype=np.float64)
    score = total / np.maximum(entries, 1)
    if scored.any():
        usual = entries >= max(np.median(entries[entries > 0]) / 2, 1)
        candidates = np.flatnonzero(usual)[np.argsort(score[usual], kind="stable")]
    else:
        candidates = np.arange(windows * pieces * nodes)
    shares = np.linspace(0, 1, min(count, len(candidates)))
    panels = []
    for share in shares:
        at = candidates[round(share * (len(candidates) - 1))]
        window, piece, node = (int(i) for i in np.unravel_index(at, entries.shape))
        words = {0: "best", 1: "worst"}.get(share, f"{100 * share:.0f} % are better")
        place = words if scored.any() else ""
        panels.append(Panel(window, node, channel, int(starts[piece]), int(stops[piece]), place))
    return panels


@in_style
def fan_chart(evaluation: xr.Dataset, panels: Sequence[Panel] | None = None, columns: int = 3) -> Figure:
    """Draws what the model makes of hidden entries: median and bands, the visible and the truth.

    The bands close on what is visible, since a sample has the data's own value there. They go on where
    nothing is known, and break where the evaluation has no quantiles.

    Args:
        evaluation: The evaluation.
        panels: What to show, one panel each; :func:`choose_panels` chooses if not given.
        columns: How many panels stand side by side.
    """
    panels = choose_panels(evaluation) if panels is None else list(panels)
    figure, axes = axes_grid(len(panels), columns, 3.6, 2.7)
    for ax, panel in zip(axes, panels, strict=True):
        _draw_fan(ax, evaluation, panel)
    for ax in axes[:: min(columns, len(panels))]:
        ax.set_ylabel(_of_channel(evaluation, panels[0].channel))
    handles = [
        Line2D([], [], color=INK, marker="o", ls="", ms=3.5, label="visible"),
        Line2D([], [], mec=VERMILLION, mfc="white", marker="o", ls="", ms=5, label="hidden truth"),
        Line2D([], [], color=BLUE, lw=1.5, label="median"),
        Patch(color=BAND_50, label="50 %"),
        Patch(color=BAND_90, label="90 %"),
    ]
    narrow = min(columns, len(panels)) == 1
    figure.legend(handles=handles, loc="outside upper left", ncols=3 if narrow else 5, fontsize=8.5)
    return figure


def _draw_fan(ax: Axes, evaluation: xr.Dataset, panel: Panel) -> None:
    part = evaluation[["truth", "context", "target", "crps", "quantiles", "time"]].isel(
        window=panel.window, node=panel.node, channel=panel.channel, step=slice(panel.start, panel.stop)
    )
    time, truth = part["time"].values, part["truth"].values
    if time.dtype.kind not in "Miuf":  # a calendar that cannot be drawn
        time = np.arange(panel.start, panel.start + len(time))
    context, target = part["context"].values.astype(bool), part["target"].values.astype(bool)
    levels = part["quantiles"].sel(quantile=[0.05, 0.25, 0.5, 0.75, 0.95], method="nearest").values
    lowest, low, middle, high, highest = np.where(context, truth, levels)

    size = float(np.clip(60 / max(len(time), 1), 0.25, 1))  # long stretches want small marks
    if len(time) > 1:
        ax.fill_between(time, lowest, highest, color=BAND_90, lw=0)
        ax.fill_between(time, low, high, color=BAND_50, lw=0)
        ax.plot(time, middle, color=BLUE, lw=0.3 + 1.2 * size)
    else:  # an area over one step has no width
        ax.vlines(time, lowest, highest, color=BAND_90, lw=16)
        ax.vlines(time, low, high, color=BAND_50, lw=16)
        ax.plot(time, middle, "_", color=BLUE, ms=16, mew=1.5)
    ax.plot(time[context], truth[context], "o", color=INK, ms=1 + 2.5 * size, mew=0)
    ring: dict[str, Any] = {"mfc": "white", "mec": VERMILLION, "ms": 2 + 2.6 * size, "mew": 0.6 + 0.5 * size}
    ax.plot(time[target], truth[target], "o", **ring)
    ax.margins(x=0.02)

    dated = np.issubdtype(time.dtype, np.datetime64)
    if len(time) == 1:
        ax.set_xticks([])  # the title says when
    elif dated:
        locator = AutoDateLocator(minticks=3, maxticks=6)
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(6, steps=_STEPS))
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
    ax.grid(axis="y", color=PALE, lw=0.5)
    when = str(np.datetime_as_string(time[0], unit="m")).replace("T", " ") if dated else f"time {time[0]}"
    crps = part["crps"].values[target]
    crps = crps[np.isfinite(crps)]
    words = [when, f"CRPS {crps.mean():.3g}" if crps.size else "not scored", panel.place]
    name = printable(evaluation["node"].values[panel.node], 36)
    ax.set_title(f"node {name}" if name.isdecimal() else name, pad=17)
    ax.annotate(
        " · ".join(filter(None, words)),
        (0, 1),
        xytext=(0, 5),
        xycoords="axes fraction",
        textcoords="offset points",
        color=GREY,
        fontsize=8,
    )


# ---------------------------------------------------------------------------------------------------- network


def node_scores(crps: Float[np.ndarray, "window step node channel"]) -> Float[np.ndarray, " node"]:
    """The mean CRPS of each node, NaN where none of its entries is scored.

    With several channels, each is divided by its mean over all nodes first, since their units differ.
    """
    found = np.isfinite(crps)
    filled = np.where(found, crps, 0).astype(np.float64)
    total, count = filled.sum(axis=(0, 1)), found.sum(axis=(0, 1))
    if crps.shape[-1] > 1:
        mean = total.sum(axis=0) / np.maximum(count.sum(axis=0), 1)
        total = total / np.where(mean > 0, mean, 1)
    return np.where(count.sum(axis=1) > 0, total.sum(axis=1) / np.maximum(count.sum(axis=1), 1), np.nan)


@in_style
def network(evaluation: xr.Dataset, columns: int = 2) -> Figure:
    """Draws the graph, its nodes coloured by the share never observed and, if any are scored, by their CRPS.

    Nodes stand at their positions, or on a circle if these are not known. A graph with few edges that are not
    all mutual shows their direction; the width of an edge follows its weight.

    Args:
        evaluation: The evaluation.
        columns: How many panels stand side by side.
    """
    score = node_scores(evaluation["crps"].values)
    missing = evaluation["share_missing"].values.astype(float)
    scored = bool(np.isfinite(score).any())
    figure, axes = axes_grid(1 + scored, columns, 4.6, 4.0)
    # a scale from zero, and wide: where nothing is missing, no node is to look worst
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
        unit = printable(evaluation["unit"].values[0], 24)
        label = f"mean CRPS [{unit}]" if unit else "mean CRPS"
        single = evaluation.sizes["channel"] == 1
        bar.set_label(label if single else "CRPS, relative to its channel's mean", color=GREY)
        axes[1].set_title("CRPS by node" + ("" if np.isfinite(score).all() else " (white: not scored)"))
    return figure


def _draw_network(
    ax: Axes, evaluation: xr.Dataset, colour: np.ndarray, colours: str, limits: tuple[float, float]
) -> Colorbar:
    """Draws the graph, its nodes coloured by a number, white where it is NaN."""
    place, aspect = _layout(evaluation)
    names: Any = evaluation["node"].values if len(place) <= 12 else []
    middle, extent = (place.max(axis=0) + place.min(axis=0)) / 2, np.ptp(place, axis=0)
    # names want room; and nodes may stand in a line, or be one
    reach = np.maximum((0.72 if len(names) else 0.56) * extent, 0.3 * (extent.max() or 1))
    ax.set(xlim=middle[0] + reach[0] * np.array([-1, 1]), ylim=middle[1] + reach[1] * np.array([-1, 1]))
    ax.set_aspect(aspect)
    ax.set_axis_off()
    _draw_edges(ax, evaluation, place)
    size = float(np.clip(3000 / len(place), 10, 110))
    for v in range(len(names)):
        out = place[v] - middle
        out = out / np.hypot(*out) if out.any() else np.array([0, 1])  # away from the middle
        ax.annotate(
            printable(names[v], 18),
            place[v],
            xytext=(np.sqrt(size) / 2 + 5) * out,
            textcoords="offset points",
            ha="center" if abs(out[0]) < 0.5 else "left" if out[0] > 0 else "right",
            va="center" if abs(out[1]) < 0.5 else "bottom" if out[1] > 0 else "top",
            fontsize=7.5,
        )
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
    bar.locator = MaxNLocator(5, steps=_STEPS)
    bar.update_ticks()
    return bar


def has_positions(evaluation: xr.Dataset) -> bool:
    """Whether every node has a known place in the plane."""
    known = "position" in evaluation and evaluation["position"].shape[1] >= 2
    return known and bool(np.isfinite(evaluation["position"].values[:, :2]).all())


def _layout(evaluation: xr.Dataset) -> tuple[np.ndarray, float]:
    """Where the nodes stand, and how much longer a unit upwards is drawn than one to the right."""
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
    """Draws arrows if edges are few and not all mutual, else a line for each pair, the strongest if many."""
    source, target, weight = (evaluation[f"edge_{name}"].values for name in ("source", "target", "weight"))
    source, target, weight = (x[source != target] for x in (source, target, np.abs(weight)))
    if not len(source):
        return
    width = 0.3 + 0.9 * weight / max(float(weight.max()), 1e-30)
    pairs = set(zip(source.tolist(), target.tolist(), strict=True))
    mutual = all((t, s) in pairs for s, t in pairs)
    if not mutual and len(pairs) <= arrows:
        for s, t, w in zip(source, target, width, strict=True):
            bend = 0.14 if (t, s) in pairs else 0.0  # the two of a pair side by side
            look = {"arrowstyle": "-|>", "mutation_scale": 8, "lw": w, "color": "#8A8A8A"}
            look |= {"shrinkA": 5, "shrinkB": 6, "connectionstyle": f"arc3,rad={bend}"}
            ax.annotate("", place[t], xytext=place[s], arrowprops=look, zorder=1)
        return
    strongest = np.argsort(-width, kind="stable")
    ends = np.sort(np.stack([source, target], axis=1), axis=1)[strongest]
    _, first = np.unique(ends, axis=0, return_index=True)  # the stronger of a pair comes first
    chosen = np.sort(first)[:most]
    lines = place[ends[chosen]]
    dense = float(np.clip(30 / np.sqrt(len(lines)), 0.15, 1))
    thickness = width[strongest][chosen]
    collection = LineCollection(list(lines), linewidths=thickness, colors="#8A8A8A", alpha=dense, zorder=1)
    collection.set_rasterized(len(lines) > 600)  # or a vector file grows by each line
    ax.add_collection(collection)


# ------------------------------------------------------------------------------------------- scores, training


def is_exact(row: Mapping[str, Any]) -> bool:
    """Whether a row of the scores is an exact law's: what no method of its kind can beat but by chance."""
    return str(row.get("name", "")).lower().startswith("exact")


def number(value: Any) -> float:
    """A score as a float, NaN where there is none."""
    return float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else float("nan")


@in_style
def score_bars(scores: Mapping[str, Any], columns: int = 2) -> Figure:
    """Draws CRPS and MAE of the model (the first row), of the baselines, and of exact laws as hollow bars.

    Args:
        scores: What ``scores.json`` holds.
        columns: How many panels stand side by side.
    """
    rows = scores["rows"]
    names = [printable(row["name"], 26) for row in rows]
    figure, axes = axes_grid(2, columns, 4.2, 1.0 + 0.32 * len(rows))
    for i, (ax, key) in enumerate(zip(axes, ("crps", "mae"), strict=True)):
        value = np.array([number(row.get(key)) for row in rows])
        shown = np.isfinite(value)
        length = np.where(shown, value, 0)
        for y, row in enumerate(rows):
            colour = BLUE if y == 0 else "#B5B5B5"
            look: dict[str, Any] = {"fc": "white", "ec": INK, "lw": 1} if is_exact(row) else {"color": colour}
            ax.barh(y, length[y], height=0.62, **look)
            if is_exact(row) and shown[y]:
                ax.axvline(value[y], color=INK, lw=0.8, ls=(0, (2, 3)), zorder=0)
            ax.annotate(
                f"{value[y]:#.4g}".rstrip(".") if shown[y] else "–",
                (length[y], y),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                bbox={"fc": "white", "ec": "none", "pad": 0.6},
            )
        ax.set_yticks(range(len(rows)), labels=names if i % columns == 0 else [""] * len(rows))
        ax.tick_params(axis="y", length=0, labelcolor=INK, labelsize=8.5)
        ax.invert_yaxis()
        ax.set_xlim(0, max(1.18 * length.max(initial=0), 1e-12))
        ax.xaxis.set_major_locator(MaxNLocator(5, steps=_STEPS))
        ax.spines["left"].set_visible(False)
        ax.set_title(key.upper())
    return figure


def read_curves(metrics: Path) -> dict[str, pd.Series]:
    """Reads the curves of a training run: ``"train, each step"``, ``"train"``, ``"validation"``, if logged.

    Args:
        metrics: A table as Lightning's ``CSVLogger`` writes it, with holes where a step logged other things.

    Returns:
        The negative log-likelihoods over the steps (series named ``"nll"``), or the losses (``"loss"``) if
        there are none; empty if the table has neither.

    Raises:
        ValueError: If the file is no such table.
    """
    try:
        table = pd.read_csv(metrics)
        step = pd.to_numeric(table["step"])
    except (OSError, ValueError, KeyError) as error:  # pandas' own errors are ValueErrors
        raise ValueError(
            f"{metrics} must be a table with a column 'step', as CSVLogger writes it."
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


@in_style
def training_curve(metrics: Path) -> Figure:
    """Draws how the negative log-likelihood fell in training and validation.

    Args:
        metrics: A table as Lightning's ``CSVLogger`` writes it.

    Raises:
        ValueError: If the file is no such table or holds no curve.
    """
    curves = read_curves(metrics)
    if not curves:
        raise ValueError(f"{metrics} must have a column train/nll or val/nll (or loss); it has none.")
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
        curve = curves["validation"]
        best = curve.index.to_numpy()[curve.argmin()], curve.min()
        ax.plot(*best, "o", mfc="white", mec=BLUE, ms=7, mew=1.6)
        below: dict[str, Any] = {"xytext": (0, -15), "textcoords": "offset points", "ha": "center"}
        ax.annotate(f"{best[1]:.4g}", best, color=BLUE, fontsize=8, **below)
    values = np.concatenate([curve.to_numpy() for curve in curves.values()])
    low, usual = values.min(), np.quantile(values, 0.98)
    room = max(usual - low, 1e-12)
    if values.max() > usual + 2 * room:  # a few wild first steps would press the rest flat
        above = int((values > usual + 0.2 * room).sum())
        ax.set_ylim(low - 0.12 * room, usual + 0.2 * room)
        ax.set_title(f"{above} points lie above", loc="right", color=GREY, fontsize=8, fontweight="normal")
    else:
        ax.margins(y=0.14)
    kind = next(iter(curves.values())).name
    ax.set(xlabel="step", ylabel="nll, nats per scored entry" if kind == "nll" else kind)
    ax.grid(axis="y", color=PALE, lw=0.5)
    ax.legend(loc="upper right", fontsize=8.5)
    return figure
