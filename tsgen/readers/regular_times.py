"""The regular grid that a file's times lie on, and what the file holds there.

Times are ISO dates or whole numbers, in any order. With the first of them, :math:`t_0`, and the step
:math:`s`, the grid is :math:`t_0 + k s` for whole numbers :math:`k` from 0 on, up to the last time. Every
time must lie on it; steps that none names are put in. Unless it is given, the step is the smallest difference
between times. Dates are held in nanoseconds, in UTC if they have time zones.

What a file holds on its grid is the same whether it was a table or netCDF, and so are the checks of it.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64
from pandas.tseries.frequencies import to_offset
from torch_geometric.data import Data

from tsgen.readers.tables import shown

MAX_ENTRIES = 2**30
"""A series larger than this (4 GiB) is taken for a mistake in its times."""

SPARSE = 10
"""One step in so many must occur, unless the step is given: otherwise times are jittered, not regular."""

WHOLE = r"[+-]?\d{1,18}"
"""A whole number that int64 holds."""

Fault = Callable[[int, str], ValueError]
"""Makes the error for one of several entries, from its number and what is wrong with it."""


# --------------------------------------------------------------------------------------------- times


def moments(labels: np.ndarray, fault: Fault) -> np.ndarray:
    """Times as int64 numbers or as dates, datetime64[ns] in UTC.

    Args:
        labels: The times as a file has them: numbers, dates or text.
        fault: Makes the error for a label.

    Returns:
        The times, each where its label is.

    Raises:
        ValueError: If a label is no time, or goes with the others neither as a date nor as a number.
    """
    if labels.dtype.kind in "iu":
        return labels.astype(np.int64)
    if labels.dtype.kind == "M":
        dates = pd.DatetimeIndex(labels)
    elif isinstance(labels[0], str):
        text = pd.Series(labels, dtype=object)
        if text.str.fullmatch(WHOLE).all():
            return _whole_numbers(text, fault)
        dates = _dates(text, fault)
    else:
        kind = type(labels[0]).__name__ if labels.dtype.kind == "O" else labels.dtype
        what = f"times must be dates of the standard calendar or whole numbers, not {kind}. Convert them."
        raise fault(0, what)
    if dates.isna().any():
        raise fault(int(dates.isna().argmax()), "no time; fill it in or leave it out.")
    try:
        return dates.as_unit("ns").to_numpy()
    except ValueError as error:  # int64 nanoseconds reach that far
        raise fault(int(np.abs(dates.year - 1970).argmax()), "the year must lie in 1678..2261.") from error


def _whole_numbers(text: pd.Series, fault: Fault) -> Int64[np.ndarray, "labels"]:
    dates = pd.to_datetime(text, format="%Y%m%d", errors="coerce")
    if text.str.fullmatch(r"(19|20)\d{6}").all() and dates.notna().all():
        raise fault(0, f"{shown(text[0])} may be a date or a number. Write dates as 2024-01-31.")
    return text.astype(np.int64).to_numpy()


def _dates(text: pd.Series, fault: Fault) -> pd.DatetimeIndex:
    """Dates from ISO text, in UTC if they have time zones."""
    dates = pd.DatetimeIndex(pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce"))
    if dates.isna().any():
        neither = dates.isna() & ~text.str.fullmatch(WHOLE).to_numpy(dtype=bool)
        label = int((neither if neither.any() else dates.isna()).argmax())
        what = "is no time. Write all times as 2024-01-31T13:00, or all as whole numbers."
        raise fault(label, f"{shown(text[label])} {what}")
    zoned = text.str.contains(r"[T ].*(?:Z|[+-]\d{2}(?::?\d{2})?)$").to_numpy(dtype=bool)
    if zoned.any() and not zoned.all():
        label = int((~zoned).argmax())
        what = "has no time zone while others have one. Give all times one, or none."
        raise fault(label, f"{shown(text[label])} {what}")
    return dates.tz_localize(None)


def regular(
    moments: np.ndarray, step: str | int | None, width: int, fault: Fault
) -> tuple[Int64[np.ndarray, "moments"], np.ndarray]:
    """The regular grid that some moments lie on.

    Args:
        moments: Whole numbers or dates, in any order.
        step: The grid's step, a length of time such as ``1h`` or a whole number; the smallest difference if
            not given.
        width: How many numbers there are to hold at each step.
        fault: Makes the error for a moment.

    Returns:
        The place of each moment on the grid, and the grid's times.

    Raises:
        ValueError: If a moment lies off the grid, or the grid is too long to hold or mostly empty.
    """
    dated = moments.dtype.kind == "M"
    given = None if step is None else _spacing(step, dated)
    ordered, which = np.unique(moments, return_index=True)
    if len(ordered) == 1:
        return np.zeros(len(moments), dtype=np.int64), ordered
    ticks = ordered.astype(np.int64) - ordered[:1].astype(np.int64)
    near = int(np.diff(ticks).argmin())
    spacing = given or int(ticks[near + 1] - ticks[near])
    place, rest = np.divmod(ticks, spacing)
    steps = int(place[-1]) + 1

    if rest.any() or (given is None and steps > SPARSE * len(ordered)):
        at, what = _irregularity(ordered, ticks, given)
        raise fault(int(which[at]), what)
    if steps * width > MAX_ENTRIES:
        span = f"{steps} steps of {_length(spacing, dated)}"
        what = f"too much to hold: the times span {span}, each of {width} numbers."
        raise fault(int(which[-1]), f"{what} Give a larger step, or leave out nodes or columns.")
    grid = ordered[0] + (spacing * np.arange(steps)).astype("timedelta64[ns]" if dated else np.int64)
    return place[np.searchsorted(ordered, moments)], grid


def _irregularity(
    ordered: np.ndarray, ticks: Int64[np.ndarray, "moments"], given: int | None
) -> tuple[int, str]:
    """Which of some ordered moments breaks the rule, and what to tell."""
    dated = ordered.dtype.kind == "M"
    gaps, counts = np.unique(np.diff(ticks), return_counts=True)
    usual = given or int(gaps[counts.argmax()])
    source = "as given" if given else "the most frequent difference"
    off = ticks % usual != 0
    if off.any():
        at = int(off.argmax())
        what = f"irregular time: {moment(ordered[at])} does not follow the first, {moment(ordered[0])}, in"
        return at, f"{what} steps of {_length(usual, dated)} ({source}). Correct it, round all, or give step."
    at = int(np.diff(ticks).argmax()) + 1
    what = f"irregular time: {moment(ordered[at])} is {ticks[at] // usual - ticks[at - 1] // usual} steps of"
    return at, f"{what} {_length(usual, dated)} after the one before. Correct it, or give step to insist."


def _length(spacing: int, dated: bool) -> str:
    return re.sub(r"^0 days | 00:00:00$", "", str(pd.Timedelta(spacing))) if dated else str(spacing)


def _spacing(step: str | int, dated: bool) -> int:
    """A sampling step: in nanoseconds if times are dates, else in their own unit."""
    text = str(step).strip()
    if not dated:
        if not re.fullmatch(r"\d{1,18}", text) or not int(text):
            raise ValueError(f"step must be a positive whole number, as times are numbers; it is {step!r}.")
        return int(text)
    wanted = f"step must be a length of time such as 1h, 15min or 1D, as times are dates; it is {step!r}."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # units that pandas is about to rename
            length = pd.Timedelta(to_offset(text))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{wanted} Months differ in length: number them 0, 1, 2, ...") from error
    if not length > pd.Timedelta(0):
        raise ValueError(wanted)
    return int(length.as_unit("ns").value)


def moment(time: Any) -> str:
    """A time of a grid as it can stand in a message.

    Args:
        time: A date or a whole number.

    Returns:
        The date to the digits that it needs, or the number.
    """
    return str(pd.Timestamp(time)) if isinstance(time, np.datetime64) else str(time)


# ------------------------------------------------------------------------------------------ contents


class Contents(NamedTuple):
    """What a file of measurements holds, on a regular grid of times; NaN where there is no value.

    Attributes:
        time: The grid's times, as dates in UTC or whole numbers.
        nodes: The nodes' names.
        channels: The channels' names.
        values: The channels, in the file's units.
        covariates: What is known at every time and node; None if nothing is.
        covariate_names: The covariates' names.
        units: Unit of each channel, as far as the file tells.
        graph: The graph that the file carries itself, if it does.
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
    """Raises unless every channel has a value somewhere.

    Args:
        path: The file, for the message.
        values: The channels, NaN where there is no value.
        channels: Their names.

    Raises:
        ValueError: If a channel is missing throughout.
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
        covariates: The covariates, NaN where there is no value.
        names: Their names.
        time: The grid's times.
        nodes: The nodes' names.

    Raises:
        ValueError: If a covariate has a hole; it names the first.
    """
    if np.isnan(covariates).any():
        t, v, f = np.unravel_index(int(np.isnan(covariates).argmax()), covariates.shape)
        raise ValueError(
            f"{path}, column {names[f]!r}: no value for time {moment(time[t])} and node {nodes[v]!r}; a "
            "covariate must be known at every time and node. Add it, with a row of its own if need be."
        )
