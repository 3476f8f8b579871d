"""Fan charts: the samples of hidden entries as a median and bands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from tsgen.argument_types import check_arguments
from tsgen.figures.style import (
    BAND_50,
    BAND_90,
    BLUE,
    GREY,
    INK,
    PALE,
    VERMILLION,
    axes_grid,
    check_evaluation,
    date_ticks,
    few_ticks,
    in_style,
    name_of_time,
    of_channel,
    printable,
)
from tsgen.metrics.breakdown import deviation, relative_crps

LEVELS = [0.05, 0.25, 0.5, 0.75, 0.95]
SHARES = (0, 0.25, 0.5, 0.75, 0.95, 1)
_QUANTILE_NAMES = {0: "best", 0.5: "median", 1: "worst"}


class Panel(NamedTuple):
    """The selection that a panel of a fan chart shows: one channel of one node in a stretch of one window.

    Attributes:
        window: Index of the window.
        node: Index of the node.
        channel: Index of the channel.
        start: First step of the stretch.
        stop: The step after its last step; None for the window's end.
        place: The panel's place in the order of scores, for the title, such as "median".
    """

    window: int
    node: int
    channel: int = 0
    start: int = 0
    stop: int | None = None
    place: str = ""


class Fan(NamedTuple):
    """The data of one panel: a stretch of one channel of one node, in data units.

    Attributes:
        name: The node's name.
        place: The panel's place in the order of scores, such as "median".
        about: The line below the title.
        time: The time of each step.
        truth: The values, NaN where unknown.
        context: Where the values are visible.
        target: Where they are hidden and scored.
        levels: The 5, 25, 50, 75 and 95 % quantiles of the samples; NaN where missing.
    """

    name: str
    place: str
    about: str
    time: np.ndarray
    truth: Float[np.ndarray, " step"]
    context: Bool[np.ndarray, " step"]
    target: Bool[np.ndarray, " step"]
    levels: Float[np.ndarray, "5 step"]


class Stretches(NamedTuple):
    """The candidate stretches for panels, with their scores.

    Attributes:
        starts: First step of each stretch.
        stops: The step after the last step of each stretch.
        entries: Number of scored entries by window, stretch and node.
        score: Mean score of these entries; 0 if there are none.
    """

    starts: np.ndarray
    stops: np.ndarray
    entries: np.ndarray
    score: np.ndarray

    def panels(self, channel: int, places: dict[float, str]) -> list[Panel]:
        """Chooses stretches by quantiles of the score, from the lowest to the highest.

        Candidates have at least half as many scored entries as the median stretch, so that a single well
        imputed entry does not make a best window. If nothing is scored, panels are spread evenly over the
        data.

        Args:
            channel: The index of the channel.
            places: The name of each quantile, by its level from 0 to 1.
        """
        scored = self.entries > 0
        if scored.any():
            enough = self.entries >= max(np.median(self.entries[scored]) / 2, 1)
            candidates = np.flatnonzero(enough)[np.argsort(self.score[enough], kind="stable")]
        else:
            candidates = np.arange(self.entries.size)
        found = []
        for share, place in places.items():
            at = candidates[round(share * (len(candidates) - 1))]
            window, piece, node = (int(i) for i in np.unravel_index(at, self.entries.shape))
            start, stop = int(self.starts[piece]), int(self.stops[piece])
            found.append(Panel(window, node, channel, start, stop, place if scored.any() else ""))
        # with few candidates several quantiles choose the same panel: keep the first
        first = {panel[:5]: panel for panel in reversed(found)}
        return [panel for panel in found if first[panel[:5]] is panel]


def stretches(score: Float[np.ndarray, "window step node"], longest: int) -> Stretches:
    """Cuts windows into stretches and computes the mean score of each.

    Args:
        score: The score of each entry; NaN where it is not scored.
        longest: The maximum number of steps of a stretch.
    """
    steps = score.shape[1]
    pieces = -(-steps // longest)
    starts = np.arange(pieces) * steps // pieces
    scored = np.isfinite(score)
    entries = np.add.reduceat(scored, starts, axis=1, dtype=np.int64)
    total = np.add.reduceat(np.where(scored, score, 0), starts, axis=1, dtype=np.float64)
    return Stretches(starts, np.append(starts[1:], steps), entries, total / np.maximum(entries, 1))


@check_arguments
def choose_panels(evaluation: xr.Dataset, channel: int = 0, longest: int = 96) -> list[Panel]:
    """Chooses six panels at quantiles of the score, including the best, the median and the worst.

    The score is the mean CRPS relative to the node's standard deviation, so that one noisy node does not
    fill all panels. Candidates are the pairs of a node and a window that have at least half as many scored
    entries as the median pair. The choice is deterministic.

    Args:
        evaluation: The evaluation.
        channel: The index of the channel to show.
        longest: The maximum number of steps of a panel. Longer windows are cut into stretches, each a
            candidate.

    Raises:
        ValueError: If there is no such channel, or ``longest`` is below 1.
    """
    check_evaluation(evaluation)
    if not 0 <= channel < evaluation.sizes["channel"] or longest < 1:
        raise ValueError(
            f"channel must be below {evaluation.sizes['channel']}, the number of channels, and longest at "
            f"least 1; they are {channel} and {longest}."
        )
    places = {share: _QUANTILE_NAMES.get(share, f"{100 * share:.0f} % are better") for share in SHARES}
    return stretches(relative_crps(evaluation)[..., channel], longest).panels(channel, places)


@check_arguments
@in_style
def fan_chart(evaluation: xr.Dataset, panels: Sequence[Panel] | None = None, columns: int = 3) -> Figure:
    """Draws median and bands of the samples, with the visible values and the hidden truths.

    The bands have no width at visible entries, because every sample equals the data there. They continue
    where the truth is unknown, and have gaps where the evaluation has no quantiles. Each panel states its
    mean CRPS, in data units and in standard deviations (sd) of the node.

    Args:
        evaluation: The evaluation.
        panels: The panels; those of :func:`choose_panels` if not given.
        columns: The number of panels per row.
    """
    panels = choose_panels(evaluation) if panels is None else list(panels)
    if not panels:
        raise ValueError("panels must hold at least one panel; it is empty.")
    scale = deviation(evaluation)
    fans = [fan_of(evaluation, panel, float(scale[panel.node, panel.channel])) for panel in panels]
    return draw_fans(fans, of_channel(evaluation, panels[0].channel), columns)


def fan_of(evaluation: xr.Dataset, panel: Panel, scale: float) -> Fan:
    """Returns the data of a panel.

    Args:
        evaluation: The evaluation.
        panel: The selection.
        scale: The node's standard deviation, in data units.
    """
    selected = evaluation[["truth", "context", "target", "crps", "quantiles", "time"]].isel(
        window=panel.window, node=panel.node, channel=panel.channel, step=slice(panel.start, panel.stop)
    )
    time, truth = selected["time"].values, selected["truth"].values
    if time.dtype.kind not in "Miuf":  # a calendar that cannot be drawn
        time = np.arange(panel.start, panel.start + len(time))
    context, target = (selected[name].values.astype(bool) for name in ("context", "target"))
    levels = selected["quantiles"].sel(quantile=LEVELS, method="nearest").values
    crps = selected["crps"].values[target]
    crps = crps[np.isfinite(crps)]
    score = f"CRPS {crps.mean():.3g} = {crps.mean() / scale:.2g} sd" if crps.size else "not scored"
    when = name_of_time(time[0]) if time.dtype.kind == "M" else f"time {time[0]}"
    name = str(evaluation["node"].values[panel.node])
    return Fan(name, panel.place, f"{when} · {score}", time, truth, context, target, levels)


def draw_fans(fans: Sequence[Fan], label: str, columns: int, shared: bool = False) -> Figure:
    """Draws one panel per fan, with a common legend.

    Args:
        fans: The data of the panels.
        label: The label of the vertical axes: channel and unit.
        columns: The number of panels per row.
        shared: Whether the panels of a row share their vertical limits.
    """
    columns = min(columns, len(fans))
    figure, axes = axes_grid(len(fans), columns, 3.6, 2.7)
    for ax, fan in zip(axes, fans, strict=True):
        _draw_fan(ax, fan)
    for row in range(0, len(axes), columns):
        axes[row].set_ylabel(label)
        limits = np.array([ax.get_ylim() for ax in axes[row : row + columns]])
        for ax in axes[row : row + columns] if shared else []:
            ax.set_ylim(limits.min(), limits.max())
    handles = [Line2D([], [], color=INK, marker="o", ls="", ms=3.5, label="visible")]
    if any(fan.target.any() for fan in fans):
        ring: dict[str, Any] = {"mec": VERMILLION, "mfc": "white", "ls": "", "ms": 5}
        handles.append(Line2D([], [], marker="o", label="hidden truth", **ring))
    handles.append(Line2D([], [], color=BLUE, lw=1.5, label="median"))
    bands = [Patch(color=BAND_50, label="50 %"), Patch(color=BAND_90, label="90 %")]
    narrow = 3 if columns == 1 else 5
    figure.legend(handles=[*handles, *bands], loc="outside upper left", ncols=narrow, fontsize=8.5)
    return figure


def _draw_fan(ax: Axes, fan: Fan) -> None:
    time, truth, context, target = fan.time, fan.truth, fan.context, fan.target
    lowest, low, middle, high, highest = np.where(context, truth, fan.levels)
    size = float(np.clip(60 / max(len(time), 1), 0.25, 1))  # long stretches need small marks
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
    if len(time) == 1:
        ax.set_xticks([])  # the title says when
    elif time.dtype.kind == "M":
        date_ticks(ax)
    else:
        few_ticks(ax, "x", 6)
    few_ticks(ax)
    ax.grid(axis="y", color=PALE, lw=0.5)
    name = printable(fan.name, 22 if fan.place else 36)
    ax.set_title(f"node {name}" if name.isdecimal() else name, pad=17)
    ax.set_title(fan.place, loc="right", pad=17, color=GREY, fontsize=8.5, fontweight="normal")
    above: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    ax.annotate(fan.about, (0, 1), xytext=(0, 5), color=GREY, fontsize=8, **above)
