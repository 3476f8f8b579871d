"""Figures of an imputation without known truth: gap lengths and the widths of the model's intervals."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure

from tsgen.figures.style import BAND_50, BLUE, GREY, WIDTH_90, axes_grid, few_ticks, in_style


@in_style
def gap_lengths(length: Int[np.ndarray, " gap"], columns: int = 2) -> Figure:
    """Draws histograms of the gaps and of the entries in them by gap length.

    Args:
        length: The length of each gap, in steps.
        columns: The number of panels per row.
    """
    longest = int(length.max())
    # one bar for each short length, then bins of growing width
    edges = np.unique(np.ceil(np.geomspace(1, longest + 1, 24)).astype(int))
    edges = np.append(edges, longest + 1) if edges[-1] <= longest else edges
    edges = edges if len(edges) > 1 else np.array([1, longest + 1])
    gaps, _ = np.histogram(length, edges)
    entries, _ = np.histogram(length, edges, weights=length)
    figure, axes = axes_grid(2, columns, 4.2, 3.0)
    titles = ("Gaps", "Entries in them")
    for ax, count, title in zip(axes, (gaps, entries), titles, strict=True):
        ax.bar(edges[:-1] - 0.5, count, np.diff(edges), align="edge", color=BAND_50, ec="white", lw=0.5)
        if longest > 12:
            ax.set_xscale("log")
            ax.minorticks_off()
            ticks = [
                tick for tick in (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 100_000) if tick <= longest
            ]
            ax.set_xticks(ticks, labels=[f"{tick:,}" for tick in ticks])
        else:
            few_ticks(ax, "x", 8, integer=True)
        few_ticks(ax, integer=True)
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        ax.set(xlabel="length of the gap in steps", ylabel="number")
        ax.set_title(title)
    return figure


@in_style
def widths(
    by_gap: Mapping[str, tuple[float, int]], by_node: Float[np.ndarray, " node"], columns: int = 2
) -> Figure:
    """Draws the width of the 90 % interval over the node's standard deviation, by gap length and by node.

    Args:
        by_gap: Mean relative width and number of entries by class of gap lengths.
        by_node: Mean relative width of each node; NaN where nothing was imputed.
        columns: The number of panels per row.
    """
    figure, (left, right) = axes_grid(2, columns, 4.2, 3.2)
    value = np.array([width for width, _ in by_gap.values()])
    bars = left.bar(range(len(value)), np.nan_to_num(value), 0.6, color=BAND_50)
    shown = [f"{width:.2f}" if np.isfinite(width) else "–" for width in value]
    left.bar_label(bars, shown, fontsize=8, padding=2)
    left.set_xticks(
        range(len(value)), labels=[f"{name}\nn = {count:,}" for name, (_, count) in by_gap.items()]
    )
    left.set(xlabel="length of the gap in steps, and its entries", ylabel="width / deviation")
    left.set_title("90 % interval by gap length")
    few_ticks(left)
    ordered = np.sort(by_node[np.isfinite(by_node)])
    right.plot(np.arange(1, len(ordered) + 1), ordered, "o", color=BLUE, ms=4, mew=0)
    right.set(xlabel="nodes, from the narrowest to the widest", ylabel="width / deviation")
    right.set_title("90 % interval by node")
    few_ticks(right)
    few_ticks(right, "x", 6, integer=True)
    reference = 2 * WIDTH_90  # a Gaussian with the node's own mean and standard deviation
    highest = max([reference, *value[np.isfinite(value)], *ordered])
    for ax in (left, right):
        ax.axhline(reference, color=GREY, lw=1, ls=(0, (4, 3)))
        ax.set_ylim(0, 1.15 * highest)
    return figure
