"""Figures of an evaluation, an imputation or a training.

Each function takes the evaluation (an :class:`xarray.Dataset` with dimensions quantile, window, step, node
and channel, the content of ``evaluation.nc``), the scores, an imputation or the training log, and returns a
:class:`matplotlib.figure.Figure`. No function uses pyplot: none needs a display, leaves a figure open or
changes a global setting.

* ``style``: colours, fonts, a grid of panels, formatting of names and times.
* ``scores``: the scores of all methods, and the training curve.
* ``fans``: samples of hidden entries. ``calibration``: ranks and coverage.
* ``groups``: scores by gap length and lead time; effective sample sizes.
* ``network``: scores by node. ``missing``: visible and hidden entries by time and node.
* ``compared``: two runs side by side. ``imputed``: gaps and interval widths where no truth is known.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from tsgen.argument_types import check_arguments
from tsgen.figures.calibration import calibration, central_coverage, rank_histogram, reliability
from tsgen.figures.fans import Panel, choose_panels, fan_chart
from tsgen.figures.groups import by_gap, by_lead, particles
from tsgen.figures.missing import missingness
from tsgen.figures.network import has_positions, network, network_difference, node_scores
from tsgen.figures.scores import is_exact, number, read_curves, rows_of, score_bars, training_curve
from tsgen.figures.style import (
    BAND_50,
    BAND_90,
    BLUE,
    GREY,
    INK,
    PALE,
    STYLE,
    VERMILLION,
    WIDTH_50,
    WIDTH_90,
    axes_grid,
    check_evaluation,
    in_style,
    printable,
)

MAX_CHANNELS = 4
"""The maximum number of channels whose fan charts are drawn."""


@check_arguments
def drawings(evaluation: xr.Dataset, scores: Mapping[str, Any]) -> dict[str, Callable[[int], Figure]]:
    """Returns the functions that draw the figures of an evaluation, by figure name.

    Each function takes the number of panels per row. Figures without data are omitted.

    Args:
        evaluation: The content of ``evaluation.nc``.
        scores: The content of ``scores.json``.
    """
    found: dict[str, Callable[[int], Figure]] = {}
    check_evaluation(evaluation)
    rows = rows_of(scores, "rows")
    if any(np.isfinite(number(row.get(key))) for row in rows for key in ("crps", "mae")):
        found["score_bars"] = lambda n: score_bars(scores, n)
    for channel in range(min(evaluation.sizes["channel"], MAX_CHANNELS)):
        name = "imputation" + f"_{channel}" * (channel > 0)
        found[name] = partial(fan_chart, evaluation, choose_panels(evaluation, channel))
    if int(evaluation.attrs["num_samples"]) > 1 and (evaluation["rank"].values >= 0).any():
        found["calibration"] = lambda n: calibration(evaluation, n)
    if scores.get("exceedance"):
        found["reliability"] = lambda n: reliability(scores["exceedance"], n)
    if scores.get("by_gap_length"):
        found["gap_length"] = lambda n: by_gap({"": scores}, evaluation, n)
    if 0 < len(scores.get("by_lead_time") or []) <= evaluation.sizes["step"]:
        found["lead_time"] = lambda n: by_lead({"": (evaluation, scores)}, n)
    if "ess" in evaluation and np.isfinite(evaluation["ess"].values).any():
        found["particles"] = lambda n: particles(evaluation, n)
    found["network"] = lambda n: network(evaluation, n)
    found["missingness"] = lambda n: missingness(evaluation, n)
    return found


__all__ = [
    "BAND_50",
    "BAND_90",
    "BLUE",
    "GREY",
    "INK",
    "MAX_CHANNELS",
    "PALE",
    "STYLE",
    "VERMILLION",
    "WIDTH_50",
    "WIDTH_90",
    "Panel",
    "axes_grid",
    "by_gap",
    "by_lead",
    "calibration",
    "central_coverage",
    "choose_panels",
    "drawings",
    "fan_chart",
    "has_positions",
    "in_style",
    "is_exact",
    "missingness",
    "network",
    "network_difference",
    "node_scores",
    "number",
    "particles",
    "printable",
    "rank_histogram",
    "read_curves",
    "reliability",
    "score_bars",
    "training_curve",
]
