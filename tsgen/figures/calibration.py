r"""Calibration: the rank of each truth among its samples.

Let r be the number of the S samples of an entry that lie below its truth. If truth and samples come from the
same distribution, r is uniform on 0, ..., S. Hence

* the histogram of ranks is flat. Each bin holds a whole number m of ranks, and its count is binomial with
  probability :math:`m / (S + 1)`;
* the interval from the k-th lowest to the k-th highest sample contains the truth, that is
  :math:`k \le r \le S - k`, with probability exactly :math:`1 - 2k / (S + 1)`. Coverage is compared at these
  levels, so that a finite S causes no bias.

References:
    Interpretation of Rank Histograms for Verifying Ensemble Forecasts (Hamill, 2001).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, PercentFormatter

from tsgen.argument_types import check_shapes
from tsgen.figures.style import BAND_50, BLUE, INK, axes_grid, in_style
from tsgen.metrics.ranks import rank_edges


@check_shapes
def rank_histogram(
    rank: Int[np.ndarray, "..."], num_samples: int, bins: int = 20
) -> tuple[Int[np.ndarray, " bins"], Int[np.ndarray, " edges"]]:
    """Returns the histogram of the ranks of truths among their samples.

    Args:
        rank: How many samples lie below the truth; negative where there is no truth.
        num_samples: The number S of samples, so that ranks run from 0 to S.
        bins: The maximum number of bins. The number of ranks per bin differs by at most one.

    Returns:
        The count of each bin, and the edges: bin b contains the ranks ``edges[b]`` to ``edges[b + 1] - 1``.

    Raises:
        ValueError: If a rank exceeds the number of samples.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1; it is {num_samples}.")
    ranks = rank[rank >= 0]
    if ranks.size and ranks.max() > num_samples:
        raise ValueError(f"ranks must lie in 0 to num_samples = {num_samples}; got {ranks.max()}.")
    edges = rank_edges(num_samples, bins)
    every = np.bincount(ranks, minlength=num_samples + 1)
    return np.add.reduceat(every, edges[:-1]), edges


@check_shapes
def central_coverage(
    rank: Int[np.ndarray, "..."], num_samples: int
) -> tuple[Float[np.ndarray, " levels"], Float[np.ndarray, " levels"]]:
    r"""Returns how often central intervals contain the truth, at every level that S samples can express.

    The interval from the k-th lowest to the k-th highest sample has the level :math:`1 - 2k / (S + 1)`.

    Args:
        rank: How many samples lie below the truth; negative where there is no truth.
        num_samples: The number S of samples.

    Returns:
        The levels, decreasing from 1, and for each the share of truths inside; NaN if there is no truth.
    """
    counts, _ = rank_histogram(rank, num_samples, bins=num_samples + 1)
    below = np.concatenate([[0], np.cumsum(counts)])  # below[r]: number of truths with a rank below r
    k = np.arange((num_samples + 1) // 2 + 1)
    inside = np.maximum(below[num_samples - k + 1] - below[k], 0)
    total = counts.sum()
    share = inside / total if total else np.full(len(k), np.nan)
    return 1 - 2 * k / (num_samples + 1), share


def draw_histogram(
    ax: Axes, rank: Int[np.ndarray, "..."], num_samples: int, bins: int = 20, colour: str = BAND_50
) -> None:
    """Draws the histogram of ranks as a density, and a 95 % band for each bar of a calibrated model.

    The band is a normal approximation that assumes independent entries.

    Args:
        ax: The axes to draw on.
        rank: How many samples lie below the truth; negative where there is no truth.
        num_samples: The number of samples.
        bins: The maximum number of bins.
        colour: The colour of the bars.
    """
    counts, edges = rank_histogram(rank, num_samples, bins)
    draw_bins(ax, counts, np.diff(edges), colour)


def draw_bins(
    ax: Axes, counts: Int[np.ndarray, " bins"], ranks: Int[np.ndarray, " bins"], colour: str = BAND_50
) -> None:
    """Draws a histogram of ranks as :func:`draw_histogram` does.

    Args:
        ax: The axes to draw on.
        counts: The number of truths in each bin.
        ranks: The number of ranks that each bin holds.
        colour: The colour of the bars.
    """
    total, share = max(int(counts.sum()), 1), ranks / ranks.sum()
    place = np.concatenate([[0], np.cumsum(ranks)]) / ranks.sum()
    spread = 1.96 * np.sqrt((1 - share) / (share * total))  # of a density that is 1 if calibrated
    bar = counts / (total * share)
    ax.bar(place[:-1], bar, np.diff(place), align="edge", color=colour, ec="white", lw=0.8)
    low, high = (np.append(band, band[-1]) for band in (np.maximum(1 - spread, 0), 1 + spread))
    ax.fill_between(place, low, high, step="post", color=INK, alpha=0.14, lw=0, zorder=3)
    ax.axhline(1, color=INK, lw=1, ls=(0, (4, 3)), zorder=4)
    ax.set(xlim=(0, 1), ylim=(0, None), ylabel="density")


def draw_ranks(ax: Axes, evaluation: xr.Dataset, colour: str = BAND_50) -> None:
    """Draws the histogram of an evaluation's ranks in 5 to 20 bins, if possible of at least ten entries."""
    rank = evaluation["rank"].values
    bins = int(np.clip((rank >= 0).sum() // 10, 5, 20))
    draw_histogram(ax, rank, int(evaluation.attrs["num_samples"]), bins, colour)
    ax.set_xlabel("place of the truth among the samples")


def draw_coverage(ax: Axes, evaluations: Mapping[str, xr.Dataset], colours: Sequence[str]) -> None:
    """Draws the coverage of central intervals against their level, one curve per evaluation."""
    total = max(*(int((e["rank"] >= 0).sum()) for e in evaluations.values()), 1)
    line = np.linspace(0, 1, 201)
    band = 1.96 * np.sqrt(line * (1 - line) / total)
    ax.fill_between(line, np.maximum(line - band, 0), np.minimum(line + band, 1), color=INK, alpha=0.14, lw=0)
    ax.plot(line, line, color=INK, lw=1, ls=(0, (4, 3)))
    for (name, evaluation), colour in zip(evaluations.items(), colours, strict=True):
        samples = int(evaluation.attrs["num_samples"])
        level, inside = central_coverage(evaluation["rank"].values, samples)
        ax.plot(level, inside, color=colour, lw=1.8, marker="o" if samples < 20 else None, ms=4, label=name)
    ax.set(xlim=(0, 1), ylim=(0, 1.005), aspect="equal")
    ax.set(xlabel="level of the central interval", ylabel="share of truths inside")
    ax.set_title("Coverage of central intervals")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MultipleLocator(0.25))
        axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))


@in_style
def rank_bins(counts: Int[np.ndarray, " bins"], ranks: Int[np.ndarray, " bins"]) -> Figure:
    """Draws a histogram of the ranks of truths among their samples.

    Args:
        counts: The number of truths in each bin.
        ranks: The number of ranks that each bin holds.
    """
    figure, [ax] = axes_grid(1, 1, 4.2, 2.4)
    draw_bins(ax, counts, ranks)
    ax.set_xlabel("place of the truth among the samples")
    return figure


@check_shapes
@in_style
def calibration(evaluation: xr.Dataset, columns: int = 2) -> Figure:
    """Draws the histogram of ranks, and the coverage of central intervals against their level.

    If the model is calibrated and entries are independent, each bar and each point of the curve lies in its
    grey band with a probability of 95 % (binomial counts, in the normal approximation). Entries near in time
    or space are dependent, so the bands are too narrow, and small deviations mean little.

    Args:
        evaluation: The evaluation; reads ``rank`` and ``num_samples``.
        columns: The number of panels per row.
    """
    figure, (left, right) = axes_grid(2, columns, 4.2, 3.3)
    draw_ranks(left, evaluation)
    left.set_title("Rank of the truth")
    draw_coverage(right, {"": evaluation}, [BLUE])
    return figure


@in_style
def reliability(rows: Sequence[Mapping[str, Any]], columns: int = 3) -> Figure:
    """Draws the frequency of "more than x" against its predicted probability, for each threshold x.

    Args:
        rows: The rows of :meth:`tsgen.metrics.ExceedanceScores.table`.
        columns: The number of panels per row.
    """
    figure, axes = axes_grid(len(rows), columns, 2.8, 2.8)
    for ax, row in zip(axes, rows, strict=True):
        bins = [one for one in row["reliability"] if one["entries"]]
        entries = np.array([one["entries"] for one in bins])
        ax.plot([0, 1], [0, 1], color=INK, lw=1, ls=(0, (4, 3)))
        ax.scatter(
            [one["probability"] for one in bins],
            [one["frequency"] for one in bins],
            s=10 + 110 * entries / max(1, entries.max(initial=0)),
            color=BLUE,
            lw=0,
        )
        ax.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05), xlabel="predicted probability", ylabel="frequency")
        ax.set_title(f"> {row['threshold']:g}")
    return figure
