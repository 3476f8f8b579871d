"""Figures that compare two runs on the same entries."""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr
from matplotlib.figure import Figure

from tsgen.figures.calibration import draw_coverage, draw_ranks
from tsgen.figures.fans import Panel, draw_fans, fan_of, stretches
from tsgen.figures.style import BLUE, VERMILLION, axes_grid, in_style, of_channel, printable
from tsgen.metrics.breakdown import deviation, relative_crps


def differing_panels(
    first: xr.Dataset, second: xr.Dataset, channel: int = 0, longest: int = 96
) -> list[Panel]:
    """Chooses the panels with the second run's largest gain, median difference and largest loss.

    Args:
        first: The first run's evaluation.
        second: The second run's evaluation.
        channel: The index of the channel to show.
        longest: The maximum number of steps of a panel. Longer windows are cut into stretches, each a
            candidate.
    """
    difference = relative_crps(second)[..., channel] - relative_crps(first)[..., channel]
    return stretches(difference, longest).panels(channel, {0: "", 0.5: "", 1: ""})


@in_style
def compared_fans(runs: Mapping[str, xr.Dataset], panels: list[Panel], columns: int = 2) -> Figure:
    """Draws the samples of two runs in the same windows, one row per window.

    Args:
        runs: The evaluations, by the runs' names.
        panels: The windows.
        columns: The number of panels per row.
    """
    fans = []
    first = next(iter(runs.values()))
    scale = deviation(first)
    for panel in panels:
        for name, evaluation in runs.items():
            fan = fan_of(evaluation, panel, float(scale[panel.node, panel.channel]))
            fans.append(fan._replace(place=printable(name, 24)))
    return draw_fans(fans, of_channel(first, panels[0].channel), columns, shared=columns == len(runs))


@in_style
def compared_calibration(runs: Mapping[str, xr.Dataset], columns: int = 3) -> Figure:
    """Draws the histograms of ranks of two runs, and the coverage of both.

    Args:
        runs: The evaluations, by the runs' names.
        columns: The number of panels per row.
    """
    figure, axes = axes_grid(len(runs) + 1, columns, 3.6, 3.0)
    colours = (BLUE, VERMILLION)
    for ax, (name, evaluation), colour in zip(axes[:-1], runs.items(), colours, strict=True):
        draw_ranks(ax, evaluation, colour)
        ax.set_title(printable(name, 32))
    highest = max(ax.get_ylim()[1] for ax in axes[:-1])
    for ax in axes[:-1]:
        ax.set_ylim(0, highest)
    draw_coverage(axes[-1], {printable(name, 20): e for name, e in runs.items()}, colours)
    axes[-1].set_title("Coverage")
    axes[-1].legend(fontsize=8, loc="lower right")
    return figure
