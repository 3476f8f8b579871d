"""A user's own data: a table or a netCDF file of measurements, and the graph between their nodes.

A table (CSV or Parquet) is long: one row for each time and node, one column for each quantity::

    time,node,pm25,no2
    2024-01-01T00:00,north,12.5,30
    2024-01-01T00:00,south,,41
    2024-01-01T01:00,north,11.0,28

An empty cell is a missing value, and so is a row that is absent. Times lie on a regular grid; steps that no
row names are put in, unobserved. The order of the rows means nothing: the nodes are sorted by name. The graph
is a second table, of edges or of coordinates; a netCDF file may carry it itself.

Columns are read and placed whole (pyarrow, numpy), never row by row. A column of times or nodes is reduced to
its distinct entries first, so that each is parsed once, however many rows name it. What is wrong in a file
ends in a ``ValueError`` of one line that names file, row and column: a line of a CSV is counted as an editor
does, the header being line 1; a row of Parquet and a step of netCDF are counted from 0.
"""

from __future__ import annotations

import csv
import difflib
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch
import xarray as xr
from jaxtyping import Float, Int64
from pandas.tseries.frequencies import to_offset
from pyarrow import csv as arrow_csv
from pyarrow import parquet
from torch_geometric.data import Data

from datamodules.base import SeriesDataModule, Split, split_in_time
from tsgen.graphs import check_graph, from_coordinates, from_edges, nearest_neighbours
from tsgen.masks import Mask, PointMask, hold_out
from tsgen.series import GraphSeries

NO_VALUE = ["", "NA", "N/A", "n/a", "NaN", "nan", "-nan", "NULL", "Null", "null", "None", "<NA>", "#N/A"]
"""What a cell of numbers may hold instead of one."""

MAX_ENTRIES = 2**30
"""A series larger than this (4 GiB) is taken for a mistake in its times."""

SPARSE = 10
"""One step in so many must occur, unless the step is given: otherwise times are jittered, not regular."""

WHOLE = r"[+-]?\d{1,18}"
"""A whole number that int64 holds."""

Fault = Callable[[int, str], ValueError]
"""Makes the error for one of several entries, from its number and what is wrong with it."""


class FilesDataModule(SeriesDataModule):
    """Windows of a user's own series: a long table or a netCDF file, with a graph.

    The splits follow each other in time: training, validation, test.

    Args:
        path: The measurements. A ``.csv`` or ``.parquet`` table with a column of times, one of nodes and one
            for each channel; or a ``.nc`` file, either one that :meth:`tsgen.series.GraphSeries.to_xarray`
            made or any with variables of dimensions time and node, and perhaps a third of channels.
        edges: Table with columns ``source``, ``target`` and perhaps ``weight`` (positive). The target hears
            from the source.
        coordinates: Table with columns ``node``, ``latitude`` and ``longitude``, in degrees. Give this or
            ``edges``; neither if the netCDF file has edges of its own.
        time_column: Column (netCDF: dimension) of the times: ISO dates, or whole numbers. Dates with a time
            zone are converted to UTC.
        node_column: Column (netCDF: dimension) of the nodes' names. They are text: ``007`` stays ``007``.
        value_columns: Columns (netCDF: variables or channels) to model; by default all that are left.
        covariate_columns: Columns (netCDF: variables) known beforehand at every time and node. By default
            none, or what a netCDF file has as ``covariates``.
        units: Unit of each value column.
        step: The sampling step, such as ``1h`` or ``15min``, or a whole number if times are numbers; by
            default the smallest difference between times.
        val: Share of the steps for validation.
        test: Share of the steps for the test.
        held_out: Which observed entries of validation and test are hidden and scored; by default one in four
            at random.
        undirected: Add the reverse of every edge.
        kernel_scale_km: Length of the Gaussian kernel of the distances between coordinates, in km; by
            default their standard deviation.
        threshold: Kernel weights below it make no edge.
        neighbours: Instead of the kernel, every node hears from this many nearest ones, with weight 1.
        window: Length of a window, in steps.
        stride: Steps between the starts of training windows.
        batch_size: Windows in a batch of one process.
        thinning: What is hidden from the model while it trains, so that it learns to do without; None hides
            nothing.
        seed: Fixes the order of windows, what training hides and what is held out.
        num_workers: Processes that gather batches; 0 gathers in the main process.
        predict_on: What ``predict`` imputes: one split or the whole series.

    Raises:
        ValueError: If options contradict each other. What is wrong in a file comes once data is asked for.
    """

    def __init__(
        self,
        path: str | Path,
        edges: str | Path | None = None,
        coordinates: str | Path | None = None,
        time_column: str = "time",
        node_column: str = "node",
        value_columns: list[str] | None = None,
        covariate_columns: list[str] | None = None,
        units: list[str] | None = None,
        step: str | int | None = None,
        val: float = 0.1,
        test: float = 0.2,
        held_out: Mask | None = None,
        undirected: bool = False,
        kernel_scale_km: float | None = None,
        threshold: float = 0.1,
        neighbours: int | None = None,
        window: int = 24,
        stride: int = 1,
        batch_size: int = 32,
        thinning: Mask | None = None,
        seed: int = 0,
        num_workers: int = 0,
        predict_on: Literal["train", "val", "test", "all"] = "all",
    ) -> None:
        super().__init__(
            window=window,
            stride=stride,
            batch_size=batch_size,
            thinning=thinning,
            seed=seed,
            num_workers=num_workers,
            predict_on=predict_on,
        )
        self.path, self.edges, self.coordinates = path, edges, coordinates
        self.columns = _Columns(time_column, node_column, value_columns, covariate_columns or [])
        self.units, self.step, self.val, self.test = units, step, val, test
        self.held_out = PointMask(0.25) if held_out is None else held_out
        self.undirected, self.kernel_scale_km = undirected, kernel_scale_km
        self.threshold, self.neighbours = threshold, neighbours
        self._check_graph_options()

    def _check_graph_options(self) -> None:
        if self.edges is not None and self.coordinates is not None:
            raise ValueError("edges and coordinates both make a graph; give one of them.")
        if self.edges is None and self.coordinates is None and Path(self.path).suffix.lower() != ".nc":
            raise ValueError(
                f"{self.path} must come with a graph; give edges, a table of source and target, or "
                "coordinates, a table of node, latitude and longitude."
            )
        if self.undirected and self.edges is None:
            raise ValueError("undirected goes with edges, which are not given; leave it out.")
        for name in ("kernel_scale_km", "neighbours"):
            number = getattr(self, name)
            if number is not None and self.coordinates is None:
                raise ValueError(f"{name} goes with coordinates, which are not given; leave it out.")
            if number is not None and not number > 0:
                raise ValueError(f"{name} must be positive; it is {number}.")
        if self.kernel_scale_km is not None and self.neighbours is not None:
            raise ValueError("kernel_scale_km and neighbours make different graphs; give one of them.")

    def load(self) -> Split:
        """Reads the files.

        Raises:
            ValueError: If something in a file is wrong: one line that says where, and what to do.
        """
        path = _checked_path(self.path, (".csv", ".parquet", ".nc"))
        read = _read_netcdf if path.suffix.lower() == ".nc" else _read_table
        contents = read(path, self.columns, self.step)
        series = GraphSeries(
            values=torch.from_numpy(contents.values),
            observed=torch.from_numpy(np.isfinite(contents.values)),
            graph=self._graph(path, contents),
            covariates=None if contents.covariates is None else torch.from_numpy(contents.covariates),
            time=contents.time,
            nodes=contents.nodes,
            channels=contents.channels,
            units=self._units(path, contents),
            covariate_names=contents.covariate_names,
        )
        train, val, test = split_in_time(len(series.values), self.val, self.test)
        held_out = hold_out(self.held_out, series.observed, self.seed)
        for stretch in train:
            held_out[stretch] = False
        return Split(series, train, val, test, held_out)

    def _graph(self, path: Path, contents: _Contents) -> Data:
        if self.edges is not None:
            return _graph_of_edges(self.edges, contents.nodes, self.undirected)
        if self.coordinates is not None:
            return _graph_of_coordinates(
                self.coordinates, contents.nodes, self.kernel_scale_km, self.threshold, self.neighbours
            )
        if contents.graph is None:
            raise ValueError(
                f"{path} has no graph of its own; give edges, a table of source and target, or coordinates, "
                "a table of node, latitude and longitude."
            )
        return contents.graph

    def _units(self, path: Path, contents: _Contents) -> Sequence[str]:
        if self.units is None:
            return contents.units
        if len(self.units) != len(contents.channels):
            raise ValueError(
                f"units must be as many as the value columns of {path}, {len(contents.channels)} "
                f"({_few(contents.channels)}); there are {len(self.units)}."
            )
        return self.units


@dataclass
class _Columns:
    """Names of the columns to read."""

    time: str
    node: str
    values: list[str] | None
    covariates: list[str]

    def __post_init__(self) -> None:
        if self.values is not None and not self.values:
            raise ValueError("value_columns must name at least one column; leave it out to read all.")
        twice = [name for name in self.named if self.named.count(name) > 1]
        if twice:
            raise ValueError(
                f"the column {twice[0]!r} is named {len(twice)} times among time_column, node_column, "
                "value_columns and covariate_columns; name it once."
            )

    @property
    def named(self) -> list[str]:
        return [self.time, self.node, *(self.values or []), *self.covariates]


class _Contents(NamedTuple):
    """What a file of measurements holds, on a regular grid of times; NaN where there is no value."""

    time: np.ndarray
    nodes: list[str]
    channels: list[str]
    values: Float[np.ndarray, "time nodes channels"]
    covariates: Float[np.ndarray, "time nodes covariates"] | None
    covariate_names: Sequence[str] = ()
    units: Sequence[str] = ()
    graph: Data | None = None


# ----------------------------------------------------------------------------------- words and paths


def _few(names: Sequence[str]) -> str:
    return ", ".join(_shown(name) for name in names[:10]) + (", ..." if len(names) > 10 else "")


def _more(wrong: np.ndarray) -> str:
    """How many others are wrong, if any."""
    return f" ({wrong.sum() - 1} more like it)" if wrong.sum() > 1 else ""


def _shown(entry: Any) -> str:
    """An entry of a file as it can stand in a message: short and on one line."""
    text = str(entry)
    return repr(text if len(text) <= 40 else text[:40] + "...")


def _moment(moment: Any) -> str:
    return str(pd.Timestamp(moment)) if isinstance(moment, np.datetime64) else str(moment)


def _close(name: str, names: Sequence[str]) -> str:
    """A hint at the name that is most alike, if one is."""
    known = {other.lower(): other for other in names}
    match = difflib.get_close_matches(name.lower(), known, n=1)
    return f" Did you mean {known[match[0]]!r}?" if match else ""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what the readers of files raise into a ``ValueError`` of one line."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or _first_line(error)}.") from error
    except (pa.ArrowException, csv.Error, UnicodeError) as error:
        kind = path.suffix.lower()
        place = (_not_utf8(path) or _ragged(path)) if kind == ".csv" else None
        told = f", {place}" if place else f" is not a well-formed {kind} file: {_first_line(error)}."
        raise ValueError(f"{path}{told}") from error


def _checked_path(path: str | Path, suffixes: Sequence[str]) -> Path:
    """The path, after making sure that a file of one of these kinds is there."""
    path = Path(path).expanduser()
    with _reading(path):
        if path.is_dir():
            raise ValueError(f"{path} is a folder; name a file in it.")
        if path.suffix.lower() not in suffixes:
            raise ValueError(f"{path} must end in {' or '.join(suffixes)}; convert or unpack it.")
        if not path.parent.is_dir():
            raise ValueError(f"{path} does not exist, nor does the folder {path.parent}; correct the path.")
        if not path.exists():
            hint = _close(path.name, [other.name for other in path.parent.iterdir()])
            raise ValueError(f"{path} does not exist.{hint or ' Correct the path.'}")
        if not path.stat().st_size:
            raise ValueError(f"{path} is empty; it must hold a header and rows.")
    return path


# -------------------------------------------------------------------------------------------- tables


class _Table:
    """A CSV or Parquet file, of which chosen columns are read as they stand.

    Attributes:
        header: The names of all columns.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: list[str] = []
        self._entries = pa.table({})

    def where(self, row: int) -> str:
        """A row's place in the file, in words."""
        raise NotImplementedError

    def _load(self, names: list[str]) -> pa.Table:
        raise NotImplementedError

    def read(self, names: list[str]) -> None:
        """Reads these columns.

        Raises:
            ValueError: If one is not there, or there are no rows.
        """
        for name in names:
            self.check_column(name)
        self._entries = self._load(names)
        if not self._entries.num_rows:
            raise ValueError(f"{self.path} has a header but no rows; add the data.")

    def check_column(self, name: str) -> None:
        """Raises unless there is one column of this name."""
        if self.header.count(name) > 1:
            raise ValueError(f"{self.path} has {self.header.count(name)} columns {name!r}; keep one.")
        if name in self.header:
            return
        for separator, word in ((";", "semicolons"), ("\t", "tabs")):
            if any(separator in other for other in self.header):
                raise ValueError(
                    f"{self.path} seems to be separated by {word}: its header is "
                    f"{_shown(','.join(self.header))}. Save it with commas, and numbers with points."
                )
        raise ValueError(
            f"{self.path} has no column {name!r}; its columns are {_few(self.header)}."
            f"{_close(name, self.header)}"
        )

    def fault(self, column: str, row: int | None, what: str) -> ValueError:
        """The error for something wrong in a column, at a row if it lies at one."""
        at = "" if row is None else f", {self.where(row)}"
        return ValueError(f"{self.path}{at}, column {column!r}: {what}")

    def entry(self, column: str, row: int) -> str:
        """An entry as it stands in the file, for a message."""
        return _shown(self._entries[column][row].as_py())

    def _column(self, name: str) -> pa.ChunkedArray:
        """A column without categories: those may include some that no row has."""
        entries = self._entries[name]
        return entries.cast(entries.type.value_type) if pa.types.is_dictionary(entries.type) else entries

    def numbers(self, column: str, needed: str | None = None) -> Float[np.ndarray, "rows"]:
        """A column of numbers, NaN where there is none.

        Args:
            column: Its name.
            needed: If there must be no hole, what to tell someone who left one.
        """
        entries = self._column(column)
        if _is_text(entries.type):
            text = pc.utf8_trim_whitespace(entries)
            entries = pc.if_else(pc.is_in(text, pa.array(NO_VALUE, text.type)), None, text)
        elif not _is_number(entries.type):
            raise self.fault(column, None, f"it must hold numbers, not {entries.type}. Leave it out.")
        try:
            wide = entries.cast(pa.float64(), safe=False).to_numpy()
        except pa.ArrowInvalid as error:
            row = _first_unreadable(entries)
            what = f"{self.entry(column, row)} is no number. Write 12.5; leave missing values empty."
            raise self.fault(column, row, what) from error
        with np.errstate(over="ignore"):
            numbers = wide.astype(np.float32)
        self._check_numbers(column, numbers, needed)
        return numbers

    def _check_numbers(self, column: str, numbers: Float[np.ndarray, "rows"], needed: str | None) -> None:
        if np.isinf(numbers).any():
            row = int(np.isinf(numbers).argmax())
            what = f"{self.entry(column, row)} is infinite or beyond 3e38"
            raise self.fault(column, row, f"{what}; {needed or 'leave missing values empty'}.")
        if needed and np.isnan(numbers).any():
            raise self.fault(column, int(np.isnan(numbers).argmax()), f"no value; {needed}.")

    def distinct(self, column: str) -> tuple[Int64[np.ndarray, "rows"], np.ndarray]:
        """For each row the number of its entry among the distinct ones, and those in the file's order.

        Text has lost its outer blanks.
        """
        coded = self._column(column).dictionary_encode().combine_chunks()
        codes = coded.indices.cast(pa.int64()).fill_null(-1).to_numpy()
        labels = coded.dictionary.to_numpy(zero_copy_only=False)
        empty = np.zeros(len(labels) + 1, dtype=bool)
        empty[-1] = True  # where code -1 leads
        if _is_text(coded.dictionary.type):
            labels = np.array([label.strip() for label in labels], dtype=object)
            empty[:-1] = labels == ""
        if empty[codes].any():
            raise self.fault(column, int(empty[codes].argmax()), "no entry; fill it in or delete the row.")
        return codes, labels

    def names(self, column: str) -> tuple[Int64[np.ndarray, "rows"], list[str]]:
        """For each row the number of its name among all names, and those, sorted."""
        kind = self._column(column).type
        if not (_is_text(kind) or pa.types.is_integer(kind)):
            raise self.fault(column, None, f"names must be text or whole numbers, not {kind}. Convert them.")
        codes, labels = self.distinct(column)
        numbers, names = pd.factorize(np.array([str(label) for label in labels], dtype=object), sort=True)
        return numbers[codes], list(names)

    def grid(
        self, column: str, step: str | int | None, width: int
    ) -> tuple[Int64[np.ndarray, "rows"], np.ndarray]:
        """For each row its step on the regular grid of times, and the times of the grid."""
        codes, labels = self.distinct(column)

        def fault(label: int, what: str) -> ValueError:
            return self.fault(column, int((codes == label).argmax()), what)

        position, time = _regular(_moments(labels, fault), step, width, fault)
        return position[codes], time


class _CsvTable(_Table):
    """A table in a CSV file: UTF-8, commas, a header."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with _reading(path), path.open(encoding="utf-8-sig", newline="") as file:
            records = filter(None, csv.reader(file))
            self._raw_header = next(records, [])
            has_rows = next(records, None) is not None
        self.header = [name.strip() for name in self._raw_header]
        if not has_rows:
            what = (
                "has a header but no rows; add the data" if self.header else "is empty; add header and data"
            )
            raise ValueError(f"{path} {what}.")

    def where(self, row: int) -> str:
        # blank lines and line breaks inside quotes shift lines against rows: go through the file once more
        with _reading(self.path), self.path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            reader = csv.reader(file)
            next(islice(filter(None, reader), row + 1, None))
            return f"line {reader.line_num}"

    def _load(self, names: list[str]) -> pa.Table:
        raw = [self._raw_header[self.header.index(name)] for name in names]
        convert = arrow_csv.ConvertOptions(include_columns=raw, column_types=dict.fromkeys(raw, pa.string()))
        parse = arrow_csv.ParseOptions(newlines_in_values=True)
        with _reading(self.path):
            table = arrow_csv.read_csv(self.path, parse_options=parse, convert_options=convert)
        return table.rename_columns(names)


class _ParquetTable(_Table):
    """A table in a Parquet file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with _reading(path), parquet.ParquetFile(path) as file:
            # an index without a name, which pandas writes along, is no column of the user's
            self.header = [name for name in file.schema_arrow.names if not name.startswith("__index_level_")]

    def where(self, row: int) -> str:
        return f"row {row} (counted from 0)"

    def _load(self, names: list[str]) -> pa.Table:
        with _reading(self.path), parquet.ParquetFile(self.path) as file:
            table = file.read(columns=names)
            table.validate(full=True)  # text that is not UTF-8 is let through otherwise
        return table


def _open_table(path: str | Path) -> _Table:
    path = _checked_path(path, (".csv", ".parquet"))
    return _CsvTable(path) if path.suffix.lower() == ".csv" else _ParquetTable(path)


def _not_utf8(path: Path) -> str | None:
    """Where a file's bytes are no UTF-8, in words; None if they are."""
    raw = path.read_bytes()
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        number = raw.count(b"\n", 0, error.start) + 1
        line = raw[raw.rfind(b"\n", 0, error.start) + 1 :].split(b"\n", 1)[0].decode("utf-8", "replace")
        return f"line {number}: {_shown(line.strip())} is not UTF-8. Save the file as UTF-8."
    return None


def _ragged(path: Path) -> str | None:
    """Where a line of a CSV has more or fewer fields than the header, in words; None if none has."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        start, width = 1, 0
        try:
            for fields in reader:  # gone through only once parsing has failed
                width = width or len(fields)
                if fields and len(fields) != width:
                    open_quote = " Is a quotation mark not closed?" if reader.line_num > start else ""
                    return (
                        f"line {start}: it has {len(fields)} fields, the header has {width}. Give every line "
                        f"as many, and put text with commas in quotation marks.{open_quote}"
                    )
                start = reader.line_num + 1
        except csv.Error as error:
            return f"line {start}: {_first_line(error)}. Is a quotation mark not closed?"
    return None


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_number(kind: pa.DataType) -> bool:
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return numeric or pa.types.is_boolean(kind) or pa.types.is_null(kind)


def _first_unreadable(text: pa.ChunkedArray) -> int:
    """The first row whose text is no number, by halving."""
    low, high = 0, len(text)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            text.slice(low, middle - low).cast(pa.float64())
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low


def _read_table(path: Path, columns: _Columns, step: str | int | None) -> _Contents:
    """The series in a long table."""
    table = _open_table(path)
    channels = columns.values or _rest(table, columns)
    table.read([columns.time, columns.node, *channels, *columns.covariates])
    node, nodes = table.names(columns.node)
    width = len(nodes) * (len(channels) + len(columns.covariates))
    position, time = table.grid(columns.time, step, width)
    place = position * len(nodes) + node
    _check_unique(table, columns, place, len(time) * len(nodes))

    def spread(names: list[str], needed: str | None = None) -> Float[np.ndarray, "time nodes columns"]:
        filled = np.full((len(time) * len(nodes), len(names)), np.nan, dtype=np.float32)
        for c, name in enumerate(names):
            filled[place, c] = table.numbers(name, needed)
        return filled.reshape(len(time), len(nodes), len(names))

    values = spread(channels)
    _check_values(path, values, channels)
    covariates = None
    if columns.covariates:
        covariates = spread(columns.covariates, "a covariate must be known at every time and node")
        _check_complete(path, covariates, columns.covariates, time, nodes)
    return _Contents(time, nodes, channels, values, covariates, columns.covariates)


def _rest(table: _Table, columns: _Columns) -> list[str]:
    """The columns of a table that are not named as something else."""
    for name in columns.named:
        table.check_column(name)
    rest = [name for name in table.header if name not in columns.named]
    if "" in rest:
        raise ValueError(
            f"{table.path}: column {table.header.index('') + 1} has no name. Name it, leave it out (pandas: "
            "index=False), or say with value_columns what to read."
        )
    if not rest:
        raise ValueError(
            f"{table.path} has no value column beside {_few(columns.named)}; add one for each quantity."
        )
    return rest


def _check_unique(table: _Table, columns: _Columns, place: Int64[np.ndarray, "rows"], places: int) -> None:
    taken = np.zeros(places, dtype=bool)
    taken[place] = True
    if np.count_nonzero(taken) < len(place):
        second = int(pd.Series(place).duplicated().to_numpy().argmax())
        first = int((place == place[second]).argmax())
        raise ValueError(
            f"{table.path}, {table.where(second)}, columns {columns.time!r} and {columns.node!r}: duplicate "
            f"row for {table.entry(columns.time, second)} and {table.entry(columns.node, second)}, which "
            f"{table.where(first)} has too. Keep one."
        )


# --------------------------------------------------------------------------------------------- times


def _moments(labels: np.ndarray, fault: Fault) -> np.ndarray:
    """Times as int64 numbers or as dates, datetime64[ns] in UTC.

    Args:
        labels: The times as a file has them: numbers, dates or text.
        fault: Makes the error for a label.
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
        raise fault(0, f"{_shown(text[0])} may be a date or a number. Write dates as 2024-01-31.")
    return text.astype(np.int64).to_numpy()


def _dates(text: pd.Series, fault: Fault) -> pd.DatetimeIndex:
    """Dates from ISO text, in UTC if they have time zones."""
    dates = pd.DatetimeIndex(pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce"))
    if dates.isna().any():
        neither = dates.isna() & ~text.str.fullmatch(WHOLE).to_numpy(dtype=bool)
        label = int((neither if neither.any() else dates.isna()).argmax())
        what = "is no time. Write all times as 2024-01-31T13:00, or all as whole numbers."
        raise fault(label, f"{_shown(text[label])} {what}")
    zoned = text.str.contains(r"[T ].*(?:Z|[+-]\d{2}(?::?\d{2})?)$").to_numpy(dtype=bool)
    if zoned.any() and not zoned.all():
        label = int((~zoned).argmax())
        what = "has no time zone while others have one. Give all times one, or none."
        raise fault(label, f"{_shown(text[label])} {what}")
    return dates.tz_localize(None)


def _regular(
    moments: np.ndarray, step: str | int | None, width: int, fault: Fault
) -> tuple[Int64[np.ndarray, "moments"], np.ndarray]:
    """The regular grid that some moments lie on.

    Args:
        moments: Whole numbers or dates, in any order.
        step: The grid's step; the smallest difference if not given.
        width: How many numbers there are to hold at each step.
        fault: Makes the error for a moment.

    Returns:
        The place of each moment on the grid, and the grid's times.
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
        what = f"irregular time: {_moment(ordered[at])} does not follow the first, {_moment(ordered[0])}, in"
        return at, f"{what} steps of {_length(usual, dated)} ({source}). Correct it, round all, or give step."
    at = int(np.diff(ticks).argmax()) + 1
    what = f"irregular time: {_moment(ordered[at])} is {ticks[at] // usual - ticks[at - 1] // usual} steps of"
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


# -------------------------------------------------------------------------------------------- checks


def _check_values(path: Path, values: Float[np.ndarray, "time nodes channels"], channels: list[str]) -> None:
    """Raises unless every channel has a value somewhere."""
    without = np.isnan(values).all(axis=(0, 1))
    if without.any():
        others = "" if without.all() else ", or leave it out of value_columns"
        raise ValueError(
            f"{path}, column {channels[int(without.argmax())]!r}: all values are missing. Fill it in{others}."
        )


def _check_complete(
    path: Path,
    covariates: Float[np.ndarray, "time nodes covariates"],
    names: list[str],
    time: np.ndarray,
    nodes: list[str],
) -> None:
    if np.isnan(covariates).any():
        t, v, f = np.unravel_index(int(np.isnan(covariates).argmax()), covariates.shape)
        raise ValueError(
            f"{path}, column {names[f]!r}: no value for time {_moment(time[t])} and node {nodes[v]!r}; a "
            "covariate must be known at every time and node. Add it, with a row of its own if need be."
        )


# -------------------------------------------------------------------------------------------- graphs


def _numbered(table: _Table, column: str, nodes: list[str]) -> Int64[np.ndarray, "rows"]:
    """For each row the number of the node that it names."""
    codes, names = table.names(column)
    number = pd.Index(nodes, dtype=object).get_indexer(pd.Index(names, dtype=object))
    if (number < 0).any():
        row = int((number[codes] < 0).argmax())
        name = names[codes[row]]
        what = f"the data has no node {_shown(name)}{_more(number < 0)}; it has {_few(nodes)}."
        raise table.fault(column, row, f"{what}{_close(name, nodes)}")
    return number[codes]


def _graph_of_edges(path: str | Path, nodes: list[str], undirected: bool) -> Data:
    """The graph in a table of edges."""
    table = _open_table(path)
    weighted = "weight" in table.header
    table.read(["source", "target"] + ["weight"] * weighted)
    source, target = _numbered(table, "source", nodes), _numbered(table, "target", nodes)
    weight = np.ones(len(source), dtype=np.float32)
    if weighted:
        weight = table.numbers("weight", needed="give every edge a finite weight")
    if not (weight > 0).all():
        row = int((weight <= 0).argmax())
        what = f"a weight must be positive; it is {table.entry('weight', row)}. Delete edges of weight 0."
        raise table.fault("weight", row, what)
    _check_edges(table, source, target, weight, undirected)
    return from_edges(source, target, weight, num_nodes=len(nodes), undirected=undirected)


def _check_edges(
    table: _Table, source: np.ndarray, target: np.ndarray, weight: np.ndarray, undirected: bool
) -> None:
    """Raises if an edge is listed twice, or both ways in different weights where it has no direction."""
    ends = pd.DataFrame({"source": source, "target": target, "weight": weight})
    twice, what = ends.duplicated(["source", "target"]).to_numpy(), "listed twice"
    if undirected and not twice.any():
        ends["low"], ends["high"] = np.minimum(source, target), np.maximum(source, target)
        twice = (ends.duplicated(["low", "high"]) & ~ends.duplicated(["low", "high", "weight"])).to_numpy()
        what = "undirected, but listed both ways with different weights"
    if twice.any():
        row = int(twice.argmax())
        edge = f"{table.entry('source', row)} to {table.entry('target', row)}"
        raise ValueError(
            f"{table.path}, {table.where(row)}, columns 'source' and 'target': the edge {edge} is {what}. "
            "Keep one."
        )


def _graph_of_coordinates(
    path: str | Path, nodes: list[str], scale: float | None, threshold: float, neighbours: int | None
) -> Data:
    """The graph of the nodes' positions in a table."""
    table = _open_table(path)
    table.read(["node", "latitude", "longitude"])
    number = _numbered(table, "node", nodes)
    twice = pd.Series(number).duplicated().to_numpy()
    if twice.any():
        row = int(twice.argmax())
        raise table.fault("node", row, f"the node {table.entry('node', row)} is listed twice. Keep one.")
    missing = np.isin(np.arange(len(nodes)), number, invert=True)
    if missing.any():
        name = _shown(nodes[int(missing.argmax())])
        what = f"{name}, which the data has, is not listed{_more(missing)}. Add it."
        raise table.fault("node", None, what)
    order = np.argsort(number)
    latitude = _degrees(table, "latitude", -90, 90)[order]
    longitude = _degrees(table, "longitude", -180, 360)[order]
    if neighbours is not None:
        if neighbours >= len(nodes):
            raise ValueError(
                f"neighbours must be less than the number of nodes, {len(nodes)}; it is {neighbours}."
            )
        return nearest_neighbours(latitude, longitude, neighbours)
    if scale is None and not (np.ptp(latitude) or np.ptp(longitude)):
        raise ValueError(f"{table.path}: all nodes lie at one place. Give the kernel its kernel_scale_km.")
    return from_coordinates(latitude, longitude, scale, threshold)


def _degrees(table: _Table, column: str, low: int, high: int) -> Float[np.ndarray, "rows"]:
    degrees = table.numbers(column, needed="give every node its place")
    wrong = (degrees < low) | (degrees > high)
    if wrong.any():
        row = int(wrong.argmax())
        what = f"{table.entry(column, row)} is not in {low}..{high} degrees. Are the two columns swapped?"
        raise table.fault(column, row, what)
    return degrees.astype(np.float64)


# -------------------------------------------------------------------------------------------- netCDF


def _open_netcdf(path: Path) -> xr.Dataset:
    try:
        return xr.load_dataset(path, engine="netcdf4", decode_timedelta=False)
    # what decoding a broken file raises is anyone's guess
    except (OSError, RuntimeError, ValueError, TypeError, ArithmeticError, LookupError) as error:
        raise ValueError(f"{path} cannot be read as netCDF: {_first_line(error)}.") from error


def _read_netcdf(path: Path, columns: _Columns, step: str | int | None) -> _Contents:
    """The series in a netCDF file."""
    data = _open_netcdf(path)
    found = _channels(path, data, columns)
    known = _covariates(path, data, columns)
    nodes = _node_names(path, data, columns.node)
    width = len(nodes) * (len(found) + len(known))
    position, time = _netcdf_grid(path, data, columns.time, step, width)

    def spread(variables: dict[str, xr.DataArray]) -> Float[np.ndarray, "time nodes columns"]:
        filled = np.full((len(time), len(nodes), len(variables)), np.nan, dtype=np.float32)
        for c, (name, variable) in enumerate(variables.items()):
            filled[position, :, c] = _numbers(path, name, variable.transpose(columns.time, columns.node))
        return filled

    values = spread(found)
    _check_values(path, values, list(found))
    covariates = spread(known) if known else None
    if covariates is not None:
        _check_complete(path, covariates, list(known), time, nodes)
    return _Contents(
        time=time,
        nodes=nodes,
        channels=list(found),
        values=values,
        covariates=covariates,
        covariate_names=list(known),
        units=[str(channel.attrs.get("units", "")) for channel in found.values()],
        graph=_own_graph(path, data, len(nodes)),
    )


def _netcdf_grid(
    path: Path, data: xr.Dataset, dimension: str, step: str | int | None, width: int
) -> tuple[Int64[np.ndarray, "steps"], np.ndarray]:
    """For each step of a file its place on the regular grid of times, and the times of the grid."""

    def fault(index: int, what: str) -> ValueError:
        return ValueError(f"{path}, step {index} (counted from 0), dimension {dimension!r}: {what}")

    labels = data[dimension].values  # 0, 1, 2, ... if the file gives none
    if labels.dtype.kind == "M" and np.dtype(data[dimension].encoding.get("dtype", "i8")).kind == "f":
        # days since some day as floats are off by a microsecond
        labels = pd.DatetimeIndex(labels).round("ms").to_numpy()
    position, time = _regular(_moments(labels, fault), step, width, fault)
    twice = pd.Series(position).duplicated().to_numpy()
    if twice.any():
        index = int(twice.argmax())
        raise fault(index, f"duplicate time {_moment(time[position[index]])}. Keep one.")
    return position, time


def _node_names(path: Path, data: xr.Dataset, dimension: str) -> list[str]:
    labels = data[dimension].values
    if labels.dtype.kind not in "iuOSUT":
        raise ValueError(
            f"{path}, dimension {dimension!r}: names must be text or whole numbers, not {labels.dtype}."
        )
    names = pd.Index([label.decode() if isinstance(label, bytes) else str(label) for label in labels])
    if names.has_duplicates:
        raise ValueError(
            f"{path}, dimension {dimension!r}: the node {_shown(names[names.duplicated()][0])} comes twice."
        )
    return list(names)


def _channels(path: Path, data: xr.Dataset, columns: _Columns) -> dict[str, xr.DataArray]:
    """The channels of a dataset, each with dimensions time and node."""
    plane = {columns.time, columns.node}
    fitting = {
        str(name): variable
        for name, variable in data.data_vars.items()
        if plane <= set(variable.dims)
        and variable.ndim <= 3
        and variable.dtype.kind in "fiub"
        and name not in ("observed", "covariates", *columns.covariates)
    }
    if not fitting:
        there = [
            f"{name} ({', '.join(map(str, variable.dims))})" for name, variable in data.data_vars.items()
        ]
        raise ValueError(
            f"{path} has no variable of numbers with dimensions {columns.time!r} and {columns.node!r}; it "
            f"has {', '.join(there[:10]) or 'none'}. Tell with time_column and node_column what yours are."
        )
    if not all(data.sizes[dimension] for dimension in plane):
        raise ValueError(f"{path} has no {'nodes' if data.sizes[columns.time] else 'steps'}; add the data.")
    if "values" in fitting and "observed" in data:
        fitting["values"] = fitting["values"].where(data["observed"].astype(bool))
    if columns.values is None:
        return _apart({"values": fitting["values"]} if "values" in fitting else fitting, plane)
    return _chosen(path, "channel", _apart(fitting, plane), columns.values)


def _covariates(path: Path, data: xr.Dataset, columns: _Columns) -> dict[str, xr.DataArray]:
    """The covariates of a dataset, each with dimensions time and node."""
    plane = {columns.time, columns.node}
    own = {}
    if "covariates" in data and data["covariates"].ndim == 3 and plane < set(data["covariates"].dims):
        own = _apart({"covariates": data["covariates"]}, plane)
    if not columns.covariates:
        return own
    single = {
        str(name): variable
        for name, variable in data.data_vars.items()
        if variable.dims and set(variable.dims) <= plane and variable.dtype.kind in "fiub"
    }
    sizes = {dimension: data.sizes[dimension] for dimension in plane}
    return {
        name: variable.expand_dims({d: n for d, n in sizes.items() if d not in variable.dims})
        for name, variable in _chosen(path, "covariate", own | single, columns.covariates).items()
    }


def _apart(variables: dict[str, xr.DataArray], plane: set[str]) -> dict[str, xr.DataArray]:
    """The channels that variables consist of, named by label; by variable too if there are several."""
    found = {}
    for name, variable in variables.items():
        third = next((dimension for dimension in variable.dims if dimension not in plane), None)
        if third is None:
            found[name] = variable
            continue
        for i in range(variable.sizes[third]):
            channel = variable.isel({third: i})
            label = str(channel.coords[third].item()) if third in channel.coords else f"{third}_{i}"
            if "unit" in channel.coords:
                channel = channel.assign_attrs(units=str(channel.coords["unit"].item()))
            found[label if len(variables) == 1 else f"{name}_{label}"] = channel
    return found


def _chosen(
    path: Path, kind: str, variables: dict[str, xr.DataArray], names: list[str]
) -> dict[str, xr.DataArray]:
    for name in names:
        if name not in variables:
            there = list(variables)
            hint = _close(name, there)
            raise ValueError(f"{path} has no {kind} {name!r}; it has {_few(there) or 'none'}.{hint}")
    return {name: variables[name] for name in names}


def _numbers(path: Path, name: str, variable: xr.DataArray) -> Float[np.ndarray, "time nodes"]:
    """A variable's numbers, NaN where there is none."""
    with np.errstate(over="ignore"):
        numbers = variable.values.astype(np.float32)
    if np.isinf(numbers).any():
        t, v = np.unravel_index(int(np.isinf(numbers).argmax()), numbers.shape)
        raise ValueError(
            f"{path}, step {t} and node {v} (counted from 0), variable {name!r}: "
            f"{float(variable.values[t, v])} is infinite or beyond 3e38; use NaN for missing values."
        )
    return numbers


def _own_graph(path: Path, data: xr.Dataset, nodes: int) -> Data | None:
    """The graph that a dataset carries, if it carries one."""
    if not {"edge_source", "edge_target"} <= set(data.variables):
        return None
    ends = np.stack([data["edge_source"].values, data["edge_target"].values]).astype(np.int64)
    graph = Data(edge_index=torch.from_numpy(ends), num_nodes=nodes)
    if "edge_weight" in data:
        graph.edge_weight = torch.from_numpy(data["edge_weight"].values.astype(np.float32))
    if "position" in data:
        graph.pos = torch.from_numpy(data["position"].values.astype(np.float32))
    try:
        return check_graph(graph)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
