r"""The regular grid of a file's times, and the content of the file on that grid.

Times are ISO dates or integers, in any order. With the first time :math:`t_0` and the step :math:`s`, the
grid is :math:`t_0 + k s` for :math:`k = 0, 1, 2, \dots` up to the last time. Every time must lie on the grid;
steps that the file leaves out are inserted. By default the step is the smallest difference between times.
Dates are stored in nanoseconds, in UTC if they have time zones.

Tables and netCDF files have the same content on the grid (:class:`Contents`) and pass the same checks.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64
from pandas.tseries.frequencies import to_offset
from torch_geometric.data import Data

from tsgen.readers.tables import quoted

MAX_ENTRIES = 2**30
"""Largest number of entries in a series (4 GiB): more are assumed to be a mistake in the times."""

MAX_SPARSITY = 10
"""Largest number of grid steps per time in the file, unless the step is given: beyond it the times are
assumed to be jittered, not regular."""

INTEGER = r"[+-]?\d{1,18}"
"""An integer that fits into int64."""

ErrorAt = Callable[[int, str], ValueError]
"""Returns the error for one of several entries, given its index and a description of the mistake."""


# --------------------------------------------------------------------------------------------- times


def parse_times(labels: np.ndarray, error_at: ErrorAt) -> np.ndarray:
    """Returns times as int64 or, if they are dates, as datetime64[ns] in UTC.

    Args:
        labels: The times as stored in the file: numbers, dates or text.
        error_at: Returns the error for a label.

    Returns:
        The times, in the order of the labels.

    Raises:
        ValueError: If a label is not a time, or some labels are dates and others numbers.
    """
    if labels.dtype.kind in "iu":
        return labels.astype(np.int64)
    if labels.dtype.kind == "M":
        dates = pd.DatetimeIndex(labels)
    elif isinstance(labels[0], str):
        text = pd.Series(labels, dtype=object)
        if text.str.fullmatch(INTEGER).all():
            return _integers(text, error_at)
        dates = _dates(text, error_at)
    else:
        kind = type(labels[0]).__name__ if labels.dtype.kind == "O" else labels.dtype
        what = f"times must be dates of the standard calendar or integers, not {kind}. Convert them."
        raise error_at(0, what)
    if dates.isna().any():
        raise error_at(int(dates.isna().argmax()), "the time is missing; fill it in or leave it out.")
    try:
        return dates.as_unit("ns").to_numpy()
    except ValueError as error:  # the range of int64 nanoseconds
        raise error_at(int(np.abs(dates.year - 1970).argmax()), "the year must lie in 1678..2261.") from error


def _integers(text: pd.Series, error_at: ErrorAt) -> Int64[np.ndarray, "labels"]:
    dates = pd.to_datetime(text, format="%Y%m%d", errors="coerce")
    if text.str.fullmatch(r"(19|20)\d{6}").all() and dates.notna().all():
        raise error_at(0, f"{quoted(text[0])} is a date or a number. Write dates as 2024-01-31.")
    return text.astype(np.int64).to_numpy()


def _dates(text: pd.Series, error_at: ErrorAt) -> pd.DatetimeIndex:
    """Returns dates from ISO text, in UTC if they have time zones."""
    dates = pd.DatetimeIndex(pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce"))
    if dates.isna().any():
        neither = dates.isna() & ~text.str.fullmatch(INTEGER).to_numpy(dtype=bool)
        label = int((neither if neither.any() else dates.isna()).argmax())
        what = "is not a time. Write all times as 2024-01-31T13:00, or all as integers."
        raise error_at(label, f"{quoted(text[label])} {what}")
    zoned = text.str.contains(r"[T ].*(?:Z|[+-]\d{2}(?::?\d{2})?)$").to_numpy(dtype=bool)
    if zoned.any() and not zoned.all():
        label = int((~zoned).argmax())
        what = "has no time zone while others have one. Give all times one, or none."
        raise error_at(label, f"{quoted(text[label])} {what}")
    return dates.tz_localize(None)


def regular_grid(
    times: np.ndarray, step: str | int | None, width: int, error_at: ErrorAt
) -> tuple[Int64[np.ndarray, "times"], np.ndarray]:
    """Returns the regular grid on which times lie.

    Args:
        times: Integers or dates, in any order.
        step: The step of the grid, a duration such as ``1h`` or an integer; the smallest difference between
            times if not given.
        width: The number of entries per step, which bounds the length of the grid.
        error_at: Returns the error for a time.

    Returns:
        The index of each time on the grid, and the times of the grid.

    Raises:
        ValueError: If a time lies off the grid, or the grid is too long for memory or mostly empty.
    """
    dated = times.dtype.kind == "M"
    given = None if step is None else _spacing(step, dated)
    ordered, first = np.unique(times, return_index=True)
    if len(ordered) == 1:
        return np.zeros(len(times), dtype=np.int64), ordered
    ticks = ordered.astype(np.int64) - ordered[:1].astype(np.int64)
    spacing = given or int(np.diff(ticks).min())
    position, rest = np.divmod(ticks, spacing)
    steps = int(position[-1]) + 1

    if rest.any() or (given is None and steps > MAX_SPARSITY * len(ordered)):
        at, what = _irregularity(ordered, ticks, given)
        raise error_at(int(first[at]), what)
    if steps * width > MAX_ENTRIES:
        span = f"{steps} steps of {_length(spacing, dated)}"
        what = f"too large for memory: the times span {span}, each of {width} numbers."
        raise error_at(int(first[-1]), f"{what} Give a larger step, or leave out nodes or columns.")
    grid = ordered[0] + (spacing * np.arange(steps)).astype("timedelta64[ns]" if dated else np.int64)
    return position[np.searchsorted(ordered, times)], grid


def _irregularity(
    ordered: np.ndarray, ticks: Int64[np.ndarray, "times"], given: int | None
) -> tuple[int, str]:
    """Returns the index of the first ordered time that breaks the grid, and a description of the mistake."""
    dated = ordered.dtype.kind == "M"
    gaps, counts = np.unique(np.diff(ticks), return_counts=True)
    usual = given or int(gaps[counts.argmax()])
    source = "as given" if given else "the most frequent difference"
    off = ticks % usual != 0
    if off.any():
        at = int(off.argmax())
        irregular = f"irregular time: {format_time(ordered[at])}"
        what = f"{irregular} does not follow the first, {format_time(ordered[0])}, in"
        return at, f"{what} steps of {_length(usual, dated)} ({source}). Correct it, round all, or give step."
    at = int(np.diff(ticks).argmax()) + 1
    gap = ticks[at] // usual - ticks[at - 1] // usual
    what = f"irregular time: {format_time(ordered[at])} is {gap} steps of"
    return at, f"{what} {_length(usual, dated)} after the one before. Correct it, or give step to allow it."


def _length(spacing: int, dated: bool) -> str:
    return re.sub(r"^0 days | 00:00:00$", "", str(pd.Timedelta(spacing))) if dated else str(spacing)


def _spacing(step: str | int, dated: bool) -> int:
    """Returns the sampling step: in nanoseconds if times are dates, else in the unit of the times."""
    text = str(step).strip()
    if not dated:
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
    return int(length.as_unit("ns").value)


def format_time(time: Any) -> str:
    """Returns a time of a grid as text, for messages.

    Args:
        time: A date or an integer.

    Returns:
        The date without trailing zero digits, or the number.
    """
    return str(pd.Timestamp(time)) if isinstance(time, np.datetime64) else str(time)


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
