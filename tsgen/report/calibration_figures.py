"""Figures of simulation-based calibration: the ranks of the truth among draws, for each test quantity."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from tsgen.evaluation.calibration import RankTest, ecdf_envelope
from tsgen.figures import BLUE, INK, VERMILLION, axes_grid, in_style
from tsgen.figures.calibration import draw_histogram

LEVEL = 0.95
"""The probability that the grey bands contain the result if ranks are uniform."""


@in_style
def rank_figure(test: RankTest, bins: int = 20, title: str = "") -> Figure:
    """Draws, for each quantity, the histogram of ranks and their distribution minus the uniform one.

    If ranks are uniform, the grey band of a histogram contains each single bar with a probability of 95 % (a
    normal approximation), and the grey band of a distribution contains the whole line with a probability of
    95 % (exact). A line that leaves its band is vermillion. If draws are too narrow, the line rises at both
    ends and falls between; if they are biased, it lies on one side of zero.

    Args:
        test: The ranks.
        bins: The maximum number of bins.
        title: The title, if any.
    """
    figure, axes = axes_grid(2 * len(test.quantities), 2, 3.9, 1.9)
    for left, right, name, ranks in zip(axes[::2], axes[1::2], test.quantities, test.ranks, strict=True):
        draw_histogram(left, ranks.numpy(), test.num_draws, bins)
        left.yaxis.set_major_locator(MaxNLocator(4))
        draw_difference(right, ranks.numpy(), test.num_draws)
        left.set_title(name)
        right.set_title(f"p = {test.p_values[name]:.2g}", fontweight="normal", loc="right")
    axes[-2].set_xlabel("place of the truth among the draws")
    axes[-1].set_xlabel("place of the truth among the draws")
    if title:
        figure.suptitle(title, fontsize=10, fontweight="bold")
    return figure


def draw_difference(ax: Axes, ranks: np.ndarray, num_draws: int, level: float = LEVEL) -> None:
    """Draws the empirical distribution of ranks minus the uniform one, with the simultaneous envelope.

    Args:
        ax: The axes to draw on.
        ranks: The ranks, 0 to ``num_draws``.
        num_draws: The number of draws.
        level: The probability that the distribution of uniform ranks lies in the envelope everywhere.
    """
    envelope = ecdf_envelope(len(ranks), num_draws, level)
    place, low, high = (x.numpy() for x in envelope)
    below = np.cumsum(np.bincount(ranks, minlength=num_draws + 1)) / len(ranks)
    share = below[np.rint(place * (num_draws + 1)).astype(int) - 1]
    outside = ((share < low - 1e-9) | (share > high + 1e-9)).any()
    ends = np.concatenate([[0], place, [1]])
    lower, upper = (np.concatenate([[0], bound - place, [0]]) for bound in (low, high))
    ax.fill_between(ends, lower, upper, color=INK, alpha=0.14, lw=0)
    ax.axhline(0, color=INK, lw=0.9, ls=(0, (4, 3)))
    line = np.concatenate([[0], share - place, [0]])
    ax.plot(ends, line, color=VERMILLION if outside else BLUE, lw=1.5)
    ax.set(xlim=(0, 1), ylabel="ECDF − uniform")
    ax.yaxis.set_major_locator(MaxNLocator(4))
