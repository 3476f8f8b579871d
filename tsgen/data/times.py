"""Times of the steps of a series, as numbers or dates of one kind.

Times arrive as numbers, dates, periods or ISO text, from tables, netCDF files and Python. Here they become
int64, floating point or datetime64. Dates are in UTC if they have time zones, in nanoseconds if all of them
lie in 1678..2261 and in microseconds otherwise. A period is dated by its start.
"""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from tsgen.storage.display import quoted

INTEGER = r"[+-]?\d{1,18}"
"""An integer that fits into int64."""

NUMBER = rf"{INTEGER}(?:\.\d*)?(?:[eE][+-]?\d{{1,3}})?"
"""A number in decimal notation."""

GREGORIAN = ("standard", "gregorian", "proleptic_gregorian")
"""Names of calendars in which a date since 1583 means the same as in datetime64."""

ErrorAt = Callable[[int, str], ValueError]
"""Returns the error for one of several entries, given its index and a description of the mistake."""


def parse_times(labels: Any, error_at: ErrorAt) -> np.ndarray:
    """Returns times as numbers (int64 or floating point) or dates (datetime64, in UTC).

    Args:
        labels: The times, in one dimension: numbers, dates, periods or text.
        error_at: Returns the error for a label.

    Returns:
        The times, in the order of the labels.

    Raises:
        ValueError: If a label is not a time, or the labels are of different kinds.
    """
    times = np.asarray(labels)
    if times.ndim != 1:
        raise error_at(0, f"times must be in one dimension; their shape is {times.shape}.")
    if not len(times):
        return times.astype(np.int64)
    if times.dtype.kind in "iuf":
        return _numbers(times, error_at)
    if times.dtype.kind == "M":
        return _in_utc(pd.DatetimeIndex(times), error_at)
    if times.dtype.kind == "m":
        what = "times must be dates or numbers, not durations. Add the date of the start, or number them."
        raise error_at(0, what)
    return _objects(times, error_at)


def _objects(times: np.ndarray, error_at: ErrorAt) -> np.ndarray:
    """Returns times from Python's objects, all of the class of the first or a subclass."""
    objects = times.tolist()
    if isinstance(objects[0], bytes):
        objects = [time.decode("utf-8", "replace") for time in objects]
    for kind, convert in (
        (str, _text),
        (bool, _neither),
        (Real, lambda given, error_at: _numbers(np.array(given), error_at)),
        (pd.Period, lambda given, error_at: _in_utc(pd.PeriodIndex(given).to_timestamp(), error_at)),
        (datetime.date, _dates),
    ):
        if isinstance(objects[0], kind):
            other = next((i for i, label in enumerate(objects) if not isinstance(label, kind)), None)
            if other is not None:
                what = f"the first is {type(objects[0]).__name__}, this one {type(objects[other]).__name__}"
                raise error_at(other, f"times must be of one kind; {what}. Convert them.")
            return convert(objects, error_at)
    if hasattr(objects[0], "calendar"):
        return _dates_of_calendar(objects, error_at)
    return _neither(objects, error_at)


def _neither(objects: list, error_at: ErrorAt) -> np.ndarray:
    kind = type(objects[0]).__name__
    raise error_at(
        0, f"times must be dates or numbers, not {kind}. Convert them, or number them 0, 1, 2, ..."
    )


def _numbers(times: np.ndarray, error_at: ErrorAt) -> np.ndarray:
    """Returns integers as int64 and floating-point numbers unchanged."""
    if times.dtype.kind == "O" or (times.dtype == np.uint64 and times.max() >= 2**63):
        raise error_at(0, "times that are integers must fit into int64. Subtract the first from all of them.")
    if times.dtype.kind == "f":
        if not np.isfinite(times).all():
            index = int((~np.isfinite(times)).argmax())
            raise error_at(index, f"the time is {times[index]}; fill it in or leave it out.")
        return times
    return times.astype(np.int64)


def _in_utc(dates: pd.DatetimeIndex, error_at: ErrorAt) -> np.ndarray:
    """Returns dates in nanoseconds or, if a year lies outside 1678..2261, in microseconds."""
    if dates.isna().any():
        raise error_at(int(dates.isna().argmax()), "the time is missing; fill it in or leave it out.")
    if dates.tz is not None:
        dates = dates.tz_convert("UTC").tz_localize(None)
    for unit in ("ns", "us"):
        try:
            return dates.as_unit(unit).to_numpy()
        except ValueError:  # the range of int64 in this unit
            continue
    raise error_at(int(np.abs(dates.year).argmax()), "the year must lie in -290000..290000.")


def _dates(objects: list, error_at: ErrorAt) -> np.ndarray:
    """Returns dates from objects of the standard library or of pandas."""
    zoned = [getattr(date, "tzinfo", None) is not None for date in objects]
    _check_zones(zoned, objects, error_at)
    try:
        dates = pd.DatetimeIndex(pd.to_datetime(pd.Series(objects, dtype=object), utc=all(zoned)))
    except pd.errors.OutOfBoundsDatetime:  # pandas 2
        dates = pd.DatetimeIndex(np.array(objects, dtype="datetime64[us]"))
    return _in_utc(dates, error_at)


def _check_zones(zoned: Sequence[bool], labels: Sequence, error_at: ErrorAt) -> None:
    """Raises if some labels have a time zone and others have none."""
    if any(zoned) and not all(zoned):
        label = list(zoned).index(False)
        what = "has no time zone while others have one. Give all times one, or none."
        raise error_at(label, f"{quoted(labels[label])} {what}")


def _dates_of_calendar(objects: list, error_at: ErrorAt) -> np.ndarray:
    """Returns dates from objects of cftime, which xarray makes of other calendars and distant years."""
    calendar = objects[0].calendar
    if calendar not in GREGORIAN:
        what = f"times must be dates of the standard calendar or numbers; the calendar is {calendar!r}"
        raise error_at(0, f"{what}. Number them 0, 1, 2, ..., or use xarray's convert_calendar.")
    early = [date.year < 1583 and calendar != "proleptic_gregorian" for date in objects]
    if any(early):  # the Julian calendar
        what = "lies before 1583, where the standard calendar has other dates"
        raise error_at(
            early.index(True), f"{objects[early.index(True)]} {what}. Number the times 0, 1, 2, ..."
        )
    dates = np.array([date.isoformat() for date in objects], dtype="datetime64[us]")
    return _in_utc(pd.DatetimeIndex(dates), error_at)


def _text(objects: list[str], error_at: ErrorAt) -> np.ndarray:
    """Returns integers, decimal numbers or dates from text."""
    text = pd.Series([label.strip() for label in objects], dtype=object)
    if text.str.fullmatch(INTEGER).all():
        dates = pd.to_datetime(text, format="%Y%m%d", errors="coerce")
        if text.str.fullmatch(r"(19|20)\d{6}").all() and dates.notna().all():
            raise error_at(0, f"{quoted(text[0])} is a date or a number. Write dates as 2024-01-31.")
        return text.astype(np.int64).to_numpy()
    if text.str.fullmatch(NUMBER).all():
        return _numbers(text.astype(np.float64).to_numpy(), error_at)
    return _in_utc(_iso_dates(text, error_at), error_at)


def _iso_dates(text: pd.Series, error_at: ErrorAt) -> pd.DatetimeIndex:
    """Returns dates from ISO text, in UTC if they have time zones."""
    dates = pd.DatetimeIndex(pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce"))
    if dates.isna().any():
        neither = dates.isna() & ~text.str.fullmatch(NUMBER).to_numpy(dtype=bool)
        label = int((neither if neither.any() else dates.isna()).argmax())
        what = "is not a time. Write all times as 2024-01-31T13:00, or all as numbers."
        raise error_at(label, f"{quoted(text[label])} {what}")
    zoned = text.str.contains(r"[T ].*(?:Z|[+-]\d{2}(?::?\d{2})?)$").to_numpy(dtype=bool)
    _check_zones(zoned.tolist(), list(text), error_at)
    return dates


@contextmanager
def distant_years() -> Iterator[None]:
    """Suppresses the warning with which xarray decodes years outside 1678..2261 as objects of cftime, from
    which :func:`parse_times` makes dates."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Unable to decode time axis", xr.SerializationWarning)
        yield


def resolution(times: np.ndarray) -> float:
    """Returns how far times may be from a regular grid because of rounding: zero for dates and integers."""
    return 4 * float(np.spacing(np.abs(times).max())) if times.dtype.kind == "f" and len(times) else 0.0


def check_regular(times: np.ndarray) -> None:
    """Raises unless times increase in equal steps; steps of floating-point times may differ by rounding, and
    by a millionth.

    Args:
        times: The times, as :func:`parse_times` returns them.

    Raises:
        ValueError: If two steps differ, or a step is not positive.
    """
    if len(times) < 2:
        return
    steps = np.diff(times)
    deviation = np.abs(steps - steps[0])
    allowed = resolution(times) + 1e-6 * abs(steps[0]) if times.dtype.kind == "f" else steps[0] - steps[0]
    irregular = np.flatnonzero((deviation > allowed) | (steps <= steps[0] - steps[0]))
    if len(irregular):
        step = int(irregular[0]) + 1
        raise ValueError(
            f"time must be strictly increasing in equal steps; {times[step - 1]} is followed by "
            f"{times[step]}. Insert the missing steps and leave them unobserved, or number the steps 0, 1, "
            "2, ... if they are months or years."
        )
