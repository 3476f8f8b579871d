"""A table whose missing values are filled, in its own layout, and a table of the intervals of these values.

Cells with a measured value stay as they are, character for character in a CSV. Rows that the table leaves out
are inserted where they belong if the rows are sorted by time, or by node and time; otherwise they follow at
the end. In a CSV, numbers have as many decimals as the measured ones of their column, and times are written
as those of the table are.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from jaxtyping import Float, Int64
from pyarrow import parquet

from tsgen.metrics import calibrated_quantiles
from tsgen.readers.excel import EXCEL, write_sheet
from tsgen.readers.layouts import Reading
from tsgen.readers.tables import CSV, Table, ends_in
from tsgen.storage.atomic import replacing
from tsgen.storage.netcdf import open_netcdf

MAX_VALUES = 2**24
"""The largest number of draws in memory at a time."""


class Bands(NamedTuple):
    """What is written of the draws of each entry.

    Attributes:
        lower: The lower end of the central interval.
        median: The median.
        upper: The upper end of the interval.
        mean: The mean.
    """

    lower: Float[np.ndarray, "time nodes channels"]
    median: Float[np.ndarray, "time nodes channels"]
    upper: Float[np.ndarray, "time nodes channels"]
    mean: Float[np.ndarray, "time nodes channels"]


class Rows(NamedTuple):
    """The rows of a completed table: those of the table, then those that it leaves out.

    Attributes:
        step: The step of each row.
        node: The node of each row of a long table; zeros for a wide one.
        given: The number of rows of the table.
        order: The order in which they are written.
    """

    step: Int64[np.ndarray, "rows"]
    node: Int64[np.ndarray, "rows"]
    given: int
    order: Int64[np.ndarray, "rows"]

    @classmethod
    def of(cls, reading: Reading) -> Rows:
        """Returns the rows that complete a table.

        Args:
            reading: What was read from the table.
        """
        long, steps = reading.layout == "long", len(reading.contents.time)
        nodes = len(reading.contents.nodes) if long else 1
        node = reading.node if reading.node is not None else np.zeros(len(reading.step), dtype=np.int64)
        absent = np.ones((steps, nodes), dtype=bool)
        absent[reading.step, node] = False
        added = np.nonzero(absent)
        given = len(reading.step)
        step, node = np.concatenate([reading.step, added[0]]), np.concatenate([node, added[1]])
        return cls(step, node, given, _order(step, node, given))


def _order(
    step: Int64[np.ndarray, "rows"], node: Int64[np.ndarray, "rows"], given: int
) -> Int64[np.ndarray, "rows"]:
    """Returns the order of rows in which the given ones keep theirs, and the others lie where they belong."""
    first = pd.factorize(node[:given])[1]  # nodes in the order in which they occur
    rank = np.argsort(first)[node] if given else node
    steps, nodes = step.max(initial=0) + 1, len(first)
    for key in (step * nodes + rank, rank * steps + step, step, -step):
        if (np.diff(key[:given]) >= 0).all():
            return np.argsort(key, kind="stable")
    return np.arange(len(step))


def complete(
    table: Table,
    reading: Reading,
    values: Float[np.ndarray, "time nodes channels"],
    insert: bool = True,
) -> pd.DataFrame:
    """Returns a table with a value in every cell that was missing.

    Args:
        table: The table.
        reading: What was read from it.
        values: The value of each entry that is missing, in data units; others are not read.
        insert: Whether rows that the table leaves out are inserted.
    """
    frame, rows = table.frame(), Rows.of(reading)
    if not insert:
        rows = rows._replace(
            step=reading.step, node=rows.node[: rows.given], order=np.arange(rows.given, dtype=np.int64)
        )
    columns, contents = reading.columns, reading.contents
    made = {}
    for j, name in enumerate(table.header):
        column = frame.iloc[:, j].reset_index(drop=True)
        if name == columns.time:
            labels = _time_labels(column, reading, rows.step[rows.given :])
            made[j] = _followed(column, labels)
        elif reading.layout == "long" and name == columns.node:
            made[j] = _followed(column, np.array(contents.nodes, dtype=object)[rows.node[rows.given :]])
        elif (place := _place(reading, rows, name)) is not None:
            made[j] = _filled(column, contents.values[place], values[place])
        else:
            made[j] = column.reindex(range(len(rows.step)))
    completed = pd.DataFrame(made).iloc[rows.order]
    completed.columns = frame.columns
    return completed.reset_index(drop=True)


def _place(reading: Reading, rows: Rows, name: str) -> tuple | None:
    """Returns where the values of a column lie in the series; None for a column that was not read."""
    names = reading.contents.channels if reading.layout == "long" else reading.contents.nodes
    if name not in names:
        return None
    number = names.index(name)
    return (rows.step, rows.node, number) if reading.layout == "long" else (rows.step, number, 0)


def _is_text(column: pd.Series) -> bool:
    return pd.api.types.infer_dtype(column, skipna=True) == "string"


def _followed(column: pd.Series, labels: Sequence | np.ndarray | pd.Index) -> pd.Series:
    """Returns a column with further entries at its end."""
    if not len(labels):
        return column
    return pd.concat([column, pd.Series(labels).astype(column.dtype)], ignore_index=True)


def _filled(
    column: pd.Series, measured: Float[np.ndarray, "rows"], values: Float[np.ndarray, "rows"]
) -> pd.Series:
    """Returns a column of numbers with a value in every cell that was missing."""
    missing = np.isnan(measured)
    if not missing.any():
        return column
    if _is_text(column):
        cells = column.reindex(range(len(missing))).to_numpy(dtype=object, copy=True)
        cells[missing] = _as_written(values[missing], column[~missing[: len(column)]])
        return pd.Series(cells)
    if pd.api.types.is_integer_dtype(column.dtype) and len(column) == len(missing):
        filled = column.copy()  # large integers are not exact in floating point
        filled[missing] = np.rint(values[missing]).astype(np.int64)
        return filled
    numbers = np.where(missing, values, measured)
    kind = column.dtype if pd.api.types.is_float_dtype(column.dtype) else np.float64
    return pd.Series(numbers).astype(kind)


def _as_written(values: Float[np.ndarray, "values"], measured: pd.Series) -> np.ndarray:
    """Returns numbers as text with as many decimals as the measured ones of the column."""
    decimals = measured.str.strip().str.extract(r"^[+-]?\d*(?:\.(\d*))?$", expand=False)
    plain = measured.str.strip().str.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)")
    if not len(measured) or not plain.all():  # nothing to go by, or exponents
        return np.char.mod("%.6g", values)
    most = int(decimals.fillna("").str.len().max())
    return np.char.mod(f"%.{most}f", np.round(values, most) + 0.0)  # + 0.0: no "-0"


def _time_labels(
    column: pd.Series, reading: Reading, step: Int64[np.ndarray, "steps"]
) -> Sequence | np.ndarray | pd.Index:
    """Returns the times of some steps in the form of the table's column of times."""
    time = reading.contents.time
    if not len(step):
        return []
    if time.dtype.kind != "M":
        return np.array(list(map(str, time[step].tolist())), dtype=object) if _is_text(column) else time[step]
    dates = pd.DatetimeIndex(time, tz="UTC")
    if isinstance(column.dtype, pd.PeriodDtype):
        return dates[step].tz_localize(None).to_period(column.dtype.freq.freqstr)
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        return dates[step].tz_convert(column.dtype.tz)
    if not isinstance(column.iloc[0], str):
        return dates[step].tz_localize(None)
    return _written_dates(column, dates[reading.step], dates[step])


def _written_dates(column: pd.Series, given: pd.DatetimeIndex, dates: pd.DatetimeIndex) -> np.ndarray:
    """Returns dates as text in the form of a column of texts, or else in ISO form.

    Args:
        column: The texts of the given dates.
        given: The given dates, in UTC.
        dates: The dates to write, in UTC.
    """
    zone = pd.Timestamp(column.iloc[0].strip()).tzinfo
    form = pd.tseries.api.guess_datetime_format(column.iloc[0].strip()) or ""
    written = given.tz_convert(zone).strftime(form.replace("%z", "")) if form else None
    suffix = column.iloc[0].strip()[len(written[0]) :] if written is not None and "%z" in form else ""
    if written is None or not (written + suffix == column.str.strip()).all():
        form, suffix = "%Y-%m-%dT%H:%M:%S" + ".%f" * bool((dates.microsecond != 0).any()), ""
        suffix = "" if zone is None else "Z"
        zone = None
    return (dates.tz_convert(zone or "UTC").strftime(form.replace("%z", "")) + suffix).to_numpy(dtype=object)


def intervals(table: Table, reading: Reading, bands: Bands) -> pd.DataFrame:
    """Returns median, mean and interval of each value that was missing, one per row.

    Args:
        table: The table.
        reading: What was read from it.
        bands: Median, mean and interval of each entry.
    """
    contents = reading.contents
    place = np.nonzero(np.isnan(contents.values))
    step, node, channel = place
    column = table.frame().iloc[:, table.header.index(reading.columns.time)].reset_index(drop=True)
    time = np.empty(len(contents.time), dtype=object)
    time[reading.step[::-1]] = column.to_numpy(dtype=object)[::-1]
    absent = np.setdiff1d(np.arange(len(time)), reading.step)
    time[absent] = list(_time_labels(column, reading, absent))
    named = {
        "time": time[step],
        "node": np.array(contents.nodes, dtype=object)[node],
        "quantity": np.array(contents.channels, dtype=object)[channel],
    }
    columns = ("median", "mean", "lower", "upper")
    return pd.DataFrame(named | {name: getattr(bands, name)[place] for name in columns})


def bands_of(path: Path, level: float) -> Bands:
    """Returns median, mean and interval of the draws in ``imputation.nc``, some steps in memory at a time.

    Args:
        path: The file.
        level: The probability of the central interval.
    """
    probabilities = ((1 - level) / 2, 0.5, (1 + level) / 2)
    with open_netcdf(path, read_later=("sample", "time", "node", "channel")) as data:
        draws = data["imputation"]
        samples, steps, *rest = draws.shape
        block = max(16, MAX_VALUES // max(1, samples * int(np.prod(rest))) // 16 * 16)
        bands = Bands(*np.empty((len(Bands._fields), steps, *rest)))
        for first in range(0, steps, block):
            values = draws[:, first : first + block].values
            ordered = torch.from_numpy(values).sort(dim=0).values
            found = [*calibrated_quantiles(ordered, probabilities).numpy(), values.mean(0, dtype=np.float64)]
            for whole, part in zip(bands, found, strict=True):
                whole[first : first + block] = part
    return bands


def write_table(frame: pd.DataFrame, path: Path, like: Path | None = None) -> None:
    """Writes a table as CSV or, if the name of the file ends so, as Parquet or Excel.

    Args:
        frame: The table.
        path: The file.
        like: A Parquet file whose metadata is copied, by which pandas finds the index among the columns.
    """
    with replacing(path) as unfinished:
        if ends_in(path, CSV):
            packed: Any = "gzip" if ends_in(path, (".gz",)) else None  # the temporary name ends otherwise
            frame.to_csv(unfinished, index=False, compression=packed, float_format="%.6g")
            return
        if ends_in(path, EXCEL):
            write_sheet(frame, unfinished)
            return
        table = pa.Table.from_pandas(frame, preserve_index=False)
        if like is not None:
            table = table.replace_schema_metadata(parquet.read_schema(like).metadata)
        parquet.write_table(table, unfinished)
