r"""The regular grid of a file's times, and the content of the file on that grid.

Times are dates or numbers (:mod:`tsgen.data.times`), in any order. With the first time :math:`t_0` and the
step :math:`s`, the grid is :math:`t_0 + k s` for :math:`k = 0, 1, 2, \dots` up to the last time. Every time
must lie on the grid; steps that the file leaves out are inserted. By default the step is the smallest
difference between times. Floating-point times may be off the grid by rounding, and by a millionth of a step.

Tables and netCDF files have the same content on the grid (:class:`Contents`) and pass the same checks.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int64, Shaped
from pandas.tseries.frequencies import to_offset
from torch_geometric.data import Data

from tsgen.data.times import NUMBER, ErrorAt, resolution

MAX_ENTRIES = 2**30
"""Largest number of entries in a series (8 GiB in float64): more are assumed to be a mistake in the times."""

MAX_SPARSITY = 10
"""Largest number of grid steps per time in the file, unless the step is given: beyond it the times are
assumed to be jittered, not regular."""


# --------------------------------------------------------------------------------------------- times


def regular_grid(
    times: np.ndarray, step: str | int | float | None, width: int, error_at: ErrorAt
) -> tuple[Int64[np.ndarray, "times"], np.ndarray]:
    """Returns the regular grid on which times lie.

    Args:
        times: Numbers or dates, in any order.
        step: The step of the grid, a duration such as ``1h`` or a number; the smallest difference between
            times if not given.
        width: The number of entries per step, which bounds the length of the grid.
        error_at: Returns the error for a time.

    Returns:
        The index of each time on the grid, and the times of the grid.

    Raises:
        ValueError: If a time lies off the grid, or the grid is too long for memory or mostly empty.
    """
    given = None if step is None else _spacing(step, times.dtype)
    ordered, first = np.unique(times, return_index=True)
    if len(ordered) == 1:
        return np.zeros(len(times), dtype=np.int64), ordered
    ticks = _ticks(ordered)
    spacing = given or _smallest(ticks)
    position, off = _on_grid(ticks, spacing, resolution(ordered))
    steps = int(position[-1]) + 1

    if off.any() or (given is None and steps > MAX_SPARSITY * len(ordered)):
        at, what = _irregularity(ordered, ticks, given)
        raise error_at(int(first[at]), what)
    if steps * width > MAX_ENTRIES:
        span = f"{steps} steps of {format_spacing(spacing, times.dtype)}"
        what = f"too large for memory: the times span {span}, each of {width} numbers."
        raise error_at(int(first[-1]), f"{what} Give a larger step, or leave out nodes or columns.")
    grid = ordered[0] + (spacing * np.arange(steps)).astype(np.diff(ordered).dtype)
    return position[np.searchsorted(ordered, times)], grid


def _ticks(ordered: np.ndarray) -> Shaped[np.ndarray, "times"]:
    """Returns the differences from the first time: numbers, or integers in the unit of the dates."""
    numbers = ordered.astype(np.int64) if ordered.dtype.kind == "M" else ordered
    return numbers - numbers[0]


def _smallest(ticks: Shaped[np.ndarray, "times"]) -> int | float:
    """Returns the smallest step; if it is rounded, the one that divides the whole span."""
    smallest = np.diff(ticks).min().item()
    return smallest if ticks.dtype.kind == "i" else float(ticks[-1]) / round(float(ticks[-1]) / smallest)


def _on_grid(
    ticks: Shaped[np.ndarray, "times"], spacing: int | float, rounding: float
) -> tuple[Int64[np.ndarray, "times"], Bool[np.ndarray, "times"]]:
    """Returns the nearest step of each time, and which times are off the grid by more than rounding."""
    if ticks.dtype.kind == "i":
        position, rest = np.divmod(ticks, spacing)
        return position, rest != 0
    position = np.rint(ticks / spacing).clip(0, 2.0**62)
    return position.astype(np.int64), np.abs(ticks - spacing * position) > rounding + 1e-6 * spacing


def _irregularity(
    ordered: np.ndarray, ticks: Shaped[np.ndarray, "times"], given: int | float | None
) -> tuple[int, str]:
    """Returns the index of the first ordered time that breaks the grid, and a description of the mistake."""
    usual = given or _most_frequent(np.diff(ticks))
    source = "as given" if given else "the most frequent difference"
    position, off = _on_grid(ticks, usual, resolution(ordered))
    length = format_spacing(usual, ordered.dtype)
    if off.any():
        at = int(off.argmax())
        irregular = f"irregular time: {format_time(ordered[at])}"
        what = f"{irregular} does not follow the first, {format_time(ordered[0])}, in"
        return at, f"{what} steps of {length} ({source}). Correct it, round all, or give step."
    at = int(np.diff(ticks).argmax()) + 1
    what = f"irregular time: {format_time(ordered[at])} is {position[at] - position[at - 1]} steps of"
    return at, f"{what} {length} after the one before. Correct it, or give step to allow it."


def _most_frequent(gaps: Shaped[np.ndarray, "gaps"]) -> int | float:
    """Returns the most frequent difference, or the median of rounded ones."""
    if gaps.dtype.kind == "f":
        return float(np.median(gaps))
    values, counts = np.unique(gaps, return_counts=True)
    return int(values[counts.argmax()])


def format_spacing(spacing: int | float, kind: np.dtype) -> str:
    """Returns a difference of times as text, for messages: a duration such as ``01:00:00``, or a number.

    Args:
        spacing: The difference: a number, or an integer in the unit of the dates.
        kind: The type of the times.
    """
    if kind.kind != "M":
        return str(spacing)
    length = pd.Timedelta(np.timedelta64(int(spacing), cast("Any", np.datetime_data(kind)[0])))
    return re.sub(r"^0 days | 00:00:00$", "", str(length))


def _spacing(step: str | int | float, kind: np.dtype) -> int | float:
    """Returns the sampling step, in the unit of the times."""
    text = str(step).strip()
    if kind.kind == "f":
        if not re.fullmatch(NUMBER, text) or not float(text) > 0:
            raise ValueError(f"step must be a positive number, because times are numbers; got {step!r}.")
        return float(text)
    if kind.kind == "i":
        if not re.fullmatch(r"\d{1,18}", text) or not int(text):
            raise ValueError(f"step must be a positive integer, because times are numbers; got {step!r}.")
        return int(text)
    wanted = f"step must be a duration such as 1h, 15min or 1D, because times are dates; got {step!r}."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pandas warns about units that it will rename
            length = pd.Timedelta(cast("Any", to_offset(text)))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{wanted} Months differ in length: number them 0, 1, 2, ...") from error
    if not length > pd.Timedelta(0):
        raise ValueError(wanted)
    return int(length.as_unit(cast("Any", np.datetime_data(kind)[0])).value)


def format_time(time: Any) -> str:
    """Returns a time of a grid as text, for messages.

    Args:
        time: A date or an integer.

    Returns:
        The date without trailing zero digits, or the number.
    """
    return str(pd.Timestamp(time)) if isinstance(time, np.datetime64) else str(time.item())


# ------------------------------------------------------------------------------------------ contents


class Contents(NamedTuple):
    """The content of a file of measurements on a regular grid of times; missing values are NaN.

    Attributes:
        time: The times of the grid, as dates in UTC or integers.
        nodes: Names of the nodes.
        channels: Names of the channels.
        values: The channels, in the units of the file.
        covariates: The covariates, known at every time and node; None if there are none.
        covariate_names: Names of the covariates.
        units: Unit of each channel, if the file states them.
        graph: The graph in the file, or None.
    """

    time: np.ndarray
    nodes: list[str]
    channels: list[str]
    values: Float[np.ndarray, "time nodes channels"]
    covariates: Float[np.ndarray, "time nodes covariates"] | None
    covariate_names: Sequence[str] = ()
    units: Sequence[str] = ()
    graph: Data | None = None


def check_values(path: Path, values: Float[np.ndarray, "time nodes channels"], channels: list[str]) -> None:
    """Raises unless every channel has at least one value.

    Args:
        path: The file, for the message.
        values: The channels; missing values are NaN.
        channels: Names of the channels.

    Raises:
        ValueError: If all values of a channel are missing.
    """
    without = np.isnan(values).all(axis=(0, 1))
    if without.any():
        others = "" if without.all() else ", or leave it out of value_columns"
        raise ValueError(
            f"{path}, column {channels[int(without.argmax())]!r}: all values are missing. Fill it in{others}."
        )


def check_complete(
    path: Path,
    covariates: Float[np.ndarray, "time nodes covariates"],
    names: list[str],
    time: np.ndarray,
    nodes: list[str],
) -> None:
    """Raises unless every covariate is known at every time and node.

    Args:
        path: The file, for the message.
        covariates: The covariates; missing values are NaN.
        names: Names of the covariates.
        time: The times of the grid.
        nodes: Names of the nodes.

    Raises:
        ValueError: If a value of a covariate is missing; the message names the first.
    """
    if np.isnan(covariates).any():
        t, v, f = np.unravel_index(int(np.isnan(covariates).argmax()), covariates.shape)
        raise ValueError(
            f"{path}, column {names[f]!r}: no value for time {format_time(time[t])} and node {nodes[v]!r}; a "
            "covariate must be known at every time and node. Add it, in a new row if necessary."
        )
