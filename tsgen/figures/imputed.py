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


@in_style
def values_compared(
    measured: Float[np.ndarray, " measured"],
    drawn: Float[np.ndarray, " drawn"],
    label: str,
    columns: int = 2,
) -> Figure:
    """Draws histograms of measured and drawn values, and their quantiles against each other.

    Args:
        measured: Measured values, in data units.
        drawn: Drawn values, in data units.
        label: The name and unit of the channel.
        columns: The number of panels per row.
    """
    figure, (left, right) = axes_grid(2, columns, 4.2, 3.2)
    levels = np.linspace(0.01, 0.99, 99)
    quantiles = [np.quantile(values, levels) for values in (measured, drawn)]
    low, high = (
        end(ends) for end, ends in ((min, [q[0] for q in quantiles]), (max, [q[-1] for q in quantiles]))
    )
    edges = _edges(measured, low, high)
    shares = [np.histogram(values, edges)[0] / max(1, len(values)) for values in (measured, drawn)]
    left.stairs(shares[0], edges, fill=True, color=BAND_50, label="measured")
    left.stairs(shares[1], edges, color=BLUE, lw=1.5, label="drawn")
    left.legend(frameon=False, fontsize=8)
    left.set(xlabel=label, ylabel="share of values")
    left.set_title("Measured and drawn values")
    right.plot([low, high], [low, high], color=GREY, lw=1, ls=(0, (4, 3)))
    right.plot(*quantiles, "o", color=BLUE, ms=3, mew=0)
    right.set(xlabel=f"measured, {label}", ylabel="drawn")
    right.set_title("Quantiles")
    for ax in (left, right):
        few_ticks(ax)
        few_ticks(ax, "x", 6)
    return figure


def _edges(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Returns the edges of the bins of a histogram: one for each of a few whole numbers, else 40."""
    if high - low <= 60 and (values == np.round(values)).all():
        return np.arange(np.floor(low), np.ceil(high) + 2) - 0.5
    return np.linspace(low, high, 41) if high > low else np.array([low - 0.5, low + 0.5])
