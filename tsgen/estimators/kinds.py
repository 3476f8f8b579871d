"""The kinds of data that an estimator reads, and results of the same kind.

Data frames of pandas and polars, arrays and labelled arrays each become a data frame that the readers of
tables read. A completed table becomes data of the kind that came: what was measured is copied from it, bit
for bit, with its type and in its order.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float

from tsgen.inference.completion import Rows, complete
from tsgen.readers.layouts import Reading, read_long, read_wide
from tsgen.readers.tables import Columns, Table, name_list, open_table

TIME, NODE, CHANNEL = "time", "node", "channel"
"""Names of columns and dimensions."""


class Given(ABC):
    """Data as a user holds it, and the series in it.

    Attributes:
        table: The data as a table.
        reading: The series in the table.
        names: The names of the features: the columns that scikit-learn counts.
        labelled: Whether the data has names for them.
    """

    table: Table
    reading: Reading
    names: list[str]
    labelled: bool = True

    @property
    def missing(self) -> Bool[np.ndarray, "time nodes channels"]:
        """Which entries of the series are missing."""
        return np.isnan(self.reading.contents.values)

    def _read(self, frame: pd.DataFrame, name: str, long: bool) -> None:
        """Reads the series in a frame with a column of times."""
        self.table = open_table(frame, name)
        columns = Columns(TIME, NODE, None, [])
        self.reading = (read_long if long else read_wide)(self.table, columns)

    def filled(self, values: Float[np.ndarray, "time nodes channels"]) -> Any:
        """Returns the data with a value in every cell that was missing.

        Args:
            values: The value of each entry that is missing; others are not read.
        """
        if not self.missing.any():
            return self.copy()
        return self._like(complete(self.table, self.reading, values, insert=False))

    def continued(self, values: Float[np.ndarray, "horizon nodes channels"]) -> Any:
        """Returns data of this kind that follows the last time.

        Args:
            values: The values of the steps to come.
        """
        contents = self.reading.contents
        step = contents.time[-1] - contents.time[-2]
        time = np.concatenate([contents.time, contents.time[-1] + step * np.arange(1, len(values) + 1)])
        longer = np.concatenate([contents.values, np.full(values.shape, np.nan)])
        reading = self.reading._replace(contents=contents._replace(time=time, values=longer))
        completed = complete(self.table, reading, np.concatenate([np.zeros(contents.values.shape), values]))
        rows = Rows.of(reading)
        new = rows.step[rows.order] >= len(contents.time)
        return self._after(completed[new].reset_index(drop=True))

    @abstractmethod
    def copy(self) -> Any:
        """Returns a copy of the data."""

    @abstractmethod
    def _like(self, completed: pd.DataFrame) -> Any:
        """Returns data of this kind from a completed table with the same rows."""

    @abstractmethod
    def _after(self, rows: pd.DataFrame) -> Any:
        """Returns data of this kind from rows of a table that are not in the data."""


class Frame(Given):
    """A data frame of pandas: times in a column ``time``, or in the index if there is no such column.

    With a column ``node`` beside ``time`` it has one row per time and node; else each column is a node.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame, columns = frame, list(map(str, frame.columns))
        self.indexed = TIME not in columns
        long = not self.indexed and NODE in columns
        self.names, self.labelled = columns, all(isinstance(name, str) for name in frame.columns)
        if not self.indexed:
            self._read(frame.reset_index(drop=True), "the data frame", long)
            return
        _check_size("the data frame", frame.shape)
        if frame.index.nlevels > 1:
            raise ValueError(
                f"the index of the data frame must have one level, the times; it has {frame.index.nlevels}. "
                "Unstack the others, so that each column is a node; or make columns 'time' and 'node' of "
                "them with reset_index()."
            )
        for name, column in frame.items():
            if not pd.api.types.is_numeric_dtype(column.dtype):
                raise ValueError(
                    "the data frame must have times in its index and numbers in its columns; column "
                    f"{name!r} holds {column.dtype}. Set the index with df.set_index({name!r}), or convert "
                    "the column."
                )
        self._read(frame.rename_axis(index=TIME), "the data frame", False)

    def copy(self) -> pd.DataFrame:
        """Returns a copy of the frame."""
        return self.frame.copy()

    def _like(self, completed: pd.DataFrame) -> pd.DataFrame:
        completed = completed.iloc[:, 1:] if self.indexed else completed
        completed.index, completed.columns = self.frame.index, self.frame.columns
        return completed

    def _after(self, rows: pd.DataFrame) -> pd.DataFrame:
        if not self.indexed:
            return rows
        rows = rows.set_index(rows.columns[0])
        rows.index.name, rows.columns = self.frame.index.name, self.frame.columns
        return rows


class Array(Given):
    """An array (time, node) whose rows are consecutive steps; nodes are called x0, x1 and so on."""

    labelled = False

    def __init__(self, array: np.ndarray) -> None:
        kind, name = array.dtype.kind, "the array"
        if isinstance(array, np.ma.MaskedArray):
            raise ValueError(f"{name} must be without a mask; it is masked. Use array.filled(numpy.nan).")
        if kind == "c":
            raise ValueError(f"Complex data not supported: {name} must be real; it is {array.dtype}.")
        if kind not in "iufb":
            raise ValueError(
                f"{name} must hold numbers; it holds {array.dtype}. Convert it with array.astype(float)."
            )
        if array.ndim != 2:
            raise ValueError(
                f"{name} must have two axes, times and nodes; its shape is {array.shape}. Reshape your data, "
                "or use an xarray.DataArray with the dimensions time, node and channel."
            )
        _check_size(name, array.shape)
        self.array, self.names = array, [f"x{number}" for number in range(array.shape[1])]
        frame = pd.DataFrame(array.astype(np.float64), columns=self.names)
        self._read(frame.rename_axis(index=TIME), name, False)

    def copy(self) -> np.ndarray:
        """Returns a copy of the array."""
        return self.array.copy()

    def _like(self, completed: pd.DataFrame) -> np.ndarray:
        return _put(self.array, completed.iloc[:, 1:].to_numpy())

    def _after(self, rows: pd.DataFrame) -> np.ndarray:
        return rows.iloc[:, 1:].to_numpy().astype(_floating(self.array.dtype))


class Labelled(Given):
    """A DataArray of xarray with the dimensions time and node, in any order, and channel if needed."""

    def __init__(self, array: xr.DataArray) -> None:
        name, dims = "the DataArray", set(array.dims)
        if not {TIME, NODE} <= dims <= {TIME, NODE, CHANNEL}:
            raise ValueError(
                f"{name} must have the dimensions time and node, and channel if there are several "
                f"quantities; it has {name_list(list(map(str, array.dims)))}. Rename them."
            )
        if array.dtype.kind not in "iuf":
            raise ValueError(f"{name} must hold numbers; it holds {array.dtype}. Convert it.")
        self.array = array.compute()
        self.order = tuple(dim for dim in (TIME, NODE, CHANNEL) if dim in dims)
        ordered = self.array.transpose(*self.order)
        _check_size(name, ordered.shape[:2])
        values = ordered.values.astype(np.float64)
        # to_index: positions stand for coordinates that are not there
        time, nodes = (ordered[dim].to_index() for dim in (TIME, NODE))
        self.names = list(map(str, nodes))
        if CHANNEL not in dims:
            frame = pd.DataFrame(values, index=time.rename(TIME), columns=self.names)
            self._read(frame, name, False)
            return
        channels = list(map(str, ordered[CHANNEL].to_index()))
        frame = pd.DataFrame(values.reshape(-1, len(channels)), columns=channels)
        frame.insert(0, TIME, time.repeat(len(nodes)))
        frame.insert(1, NODE, np.tile(np.array(self.names, dtype=object), len(time)))
        self._read(frame, name, True)

    def copy(self) -> xr.DataArray:
        """Returns a copy of the array."""
        return self.array.copy(deep=True)

    def _values(self, rows: pd.DataFrame) -> np.ndarray:
        """Returns the values in rows of the table, in the order of the dimensions."""
        sizes = (-1, len(self.names), *(self.array.sizes[dim] for dim in self.order[2:]))
        return rows.iloc[:, len(self.order) - 1 :].to_numpy().reshape(sizes)

    def _like(self, completed: pd.DataFrame) -> xr.DataArray:
        ordered = self.array.transpose(*self.order)
        filled = ordered.copy(data=_put(ordered.values, self._values(completed)))
        return filled.transpose(*self.array.dims)

    def _after(self, rows: pd.DataFrame) -> xr.DataArray:
        if len(self.order) == 3:
            rows = rows.set_index([TIME, NODE]).reindex(self.names, level=NODE).reset_index()
        time = rows[rows.columns[0]].drop_duplicates()
        coordinates = {dim: self.array[dim] for dim in self.order[1:] if dim in self.array.coords}
        values = self._values(rows).astype(_floating(self.array.dtype))
        drawn = xr.DataArray(values, coordinates | {TIME: time.to_numpy()}, self.order, self.array.name)
        return drawn.transpose(*self.array.dims)


class Polars(Given):
    """A data frame of polars: as one of pandas, with times in a column ``time``, or rows as steps."""

    def __init__(self, frame: Any) -> None:
        self.frame, self.names = frame, list(frame.columns)
        _check_size("the data frame", frame.shape)
        self.timed = TIME in frame.columns
        plain = frame.to_pandas()
        if not self.timed:
            plain = plain.rename_axis(index=TIME)
        self._read(plain, "the data frame", self.timed and NODE in frame.columns)

    def copy(self) -> Any:
        """Returns the frame, which does not change."""
        return self.frame.clone()

    def _like(self, completed: pd.DataFrame) -> Any:
        contents, changed = self.reading.contents, []
        for name in contents.channels if self.reading.layout == "long" else contents.nodes:
            given = self.frame[name]
            missing = given.is_null() | (given.is_nan() if given.dtype.is_float() else False)
            if missing.any():
                numbers = completed[name].to_numpy(dtype=np.float64)
                numbers = numbers if given.dtype.is_float() else np.rint(numbers)
                changed.append(type(given)(name, numbers).cast(given.dtype).zip_with(missing, given))
        return self.frame.with_columns(changed)

    def _after(self, rows: pd.DataFrame) -> Any:
        rows = rows if self.timed else rows.iloc[:, 1:]
        new = type(self.frame)({name: rows[name].to_numpy() for name in rows.columns if name != TIME})
        if self.timed:
            polars = sys.modules["polars"]
            new = new.insert_column(0, polars.from_pandas(rows[TIME]).cast(self.frame.schema[TIME]))
        return new.select(self.frame.columns)


def given(data: Any) -> Given:
    """Returns data of one of the kinds, read.

    Args:
        data: A data frame of pandas or polars, an array, or a DataArray of xarray.

    Raises:
        ValueError: If it is of another kind, or something in it is wrong: one line that says where and what
            to do.
    """
    polars = sys.modules.get("polars")
    if isinstance(data, pd.DataFrame):
        return Frame(data)
    if isinstance(data, xr.DataArray):
        return Labelled(data)
    if polars is not None and isinstance(data, polars.DataFrame):
        return Polars(data)
    if hasattr(data, "toarray"):
        raise TypeError("the data must be dense, with NaN where values are missing; it is a sparse matrix.")
    if isinstance(data, list | tuple) or hasattr(data, "__array__"):
        try:
            return Array(data if isinstance(data, np.ndarray) else np.asarray(data))
        except ValueError as error:
            if "inhomogeneous" not in str(error):
                raise
    raise ValueError(
        "the data must be a data frame of pandas or polars, an array (time, node) or an xarray.DataArray; "
        f"got {type(data).__name__}."
    )


def _check_size(name: str, shape: tuple[int, ...]) -> None:
    """Raises ``ValueError`` unless there are rows and columns."""
    rows, columns = shape
    if not columns:
        raise ValueError(
            f"{name} must have columns of numbers; it has 0 feature(s) (shape={shape}) while a minimum of 1 "
            "is required."
        )
    if not rows:
        raise ValueError(f"{name} must have rows, one per time; it has 0 sample(s). Add the data.")


def _floating(dtype: np.dtype) -> np.dtype:
    """Returns a floating-point type for numbers like those of an array."""
    return dtype if dtype.kind == "f" else np.dtype(np.float64)


def _put(array: np.ndarray, completed: np.ndarray) -> np.ndarray:
    """Returns an array with the completed values in place of NaN."""
    filled, missing = array.copy(), np.isnan(array)
    filled[missing] = completed[missing]
    return filled
