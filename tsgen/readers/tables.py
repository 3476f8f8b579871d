"""Tables, CSV or Parquet: their columns as they stand in a file, and words for what is wrong in them.

Columns are read whole (pyarrow), never row by row, and only those that are asked for. A column of times or
nodes is reduced to its distinct entries first, so that each is parsed once, however many rows name it. A CSV
is in UTF-8, with commas and a header, packed by gzip or not, and its cells are read as text; numbers are made
of them afterwards.

What is wrong in a file ends in a ``ValueError`` of one line that names file, row and column: a line of a CSV
is counted as an editor does, the header being line 1; a row of Parquet is counted from 0.

What is packed is counted before it is held (:mod:`tsgen.readers.unpacking`): a CSV is unpacked once and
thrown away, and of Parquet, which may say "a million times this text" in a few bytes, each text is held once.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int64
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from tsgen.readers.unpacking import check_unpacked

CSV, PARQUET = (".csv", ".csv.gz"), (".parquet",)
"""Endings of the tables that can be read."""

AT_ONCE = 2**20
"""Bytes that are unpacked at once."""

ROWS = 2**20
"""Rows of Parquet that are read at once."""

NO_VALUE = ["", "NA", "N/A", "n/a", "NaN", "nan", "-nan", "NULL", "Null", "null", "None", "<NA>", "#N/A"]
"""What a cell of numbers may hold instead of one."""


# ----------------------------------------------------------------------------------- words and paths


def few(names: Sequence[str]) -> str:
    """The first ten of some names, for a message.

    Args:
        names: Names in a file, of columns or nodes.

    Returns:
        The names between commas, each as :func:`shown` gives it.
    """
    return ", ".join(shown(name) for name in names[:10]) + (", ..." if len(names) > 10 else "")


def more(wrong: np.ndarray) -> str:
    """Tells how many others are wrong, if any, for a message about the first.

    Args:
        wrong: True where an entry is wrong.

    Returns:
        Words in brackets after a blank; nothing if at most one is wrong.
    """
    return f" ({wrong.sum() - 1} more like it)" if wrong.sum() > 1 else ""


def shown(entry: Any) -> str:
    """An entry of a file as it can stand in a message: short and on one line.

    Args:
        entry: What the file holds there.

    Returns:
        Its text in quotation marks, cut after 40 characters.
    """
    text = str(entry)
    return repr(text if len(text) <= 40 else text[:40] + "...")


def close(name: str, names: Sequence[str]) -> str:
    """A hint at the name that is most alike, if one is.

    Args:
        name: A name that is not there.
        names: Those that are; upper and lower case count as the same.

    Returns:
        A question after a blank; nothing if no name is close.
    """
    known = {other.lower(): other for other in names}
    match = difflib.get_close_matches(name.lower(), known, n=1)
    return f" Did you mean {known[match[0]]!r}?" if match else ""


def first_line(error: Exception) -> str:
    """The first line of what an error of some library tells.

    Args:
        error: The error.

    Returns:
        That line without its full stop, bytes of the file that cannot be shown replaced; the error's class if
        it tells nothing.
    """
    line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in line)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what the readers of files raise into a ``ValueError`` of one line."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or first_line(error)}.") from error
    except (pa.ArrowException, csv.Error, UnicodeError, EOFError, zlib.error) as error:
        damaged = isinstance(error, (EOFError, zlib.error))
        place = (_not_utf8(path) or _ragged(path)) if ends_in(path, CSV) and not damaged else None
        told = (
            f", {place}"
            if place
            else f" is not a well-formed {path.suffix.lower()} file: {first_line(error)}."
        )
        raise ValueError(f"{path}{told}") from error


def ends_in(path: str | Path, endings: Sequence[str]) -> bool:
    """Whether a file is of one of some kinds, by its name.

    Args:
        path: The file; upper and lower case count as the same.
        endings: Such as ``.csv``, in lower case.
    """
    return Path(path).name.lower().endswith(tuple(endings))


def checked_path(path: str | Path, suffixes: Sequence[str]) -> Path:
    """The path, after making sure that a file of one of these kinds is there.

    Args:
        path: Where the file should be; ``~`` is the home folder.
        suffixes: Endings of the kinds that can be read, such as ``.csv``, in lower case.

    Returns:
        The path of a file that is not empty.

    Raises:
        ValueError: If there is none: what is there instead, and perhaps what was meant.
    """
    path = Path(path).expanduser()
    with _reading(path):
        if path.is_dir():
            raise ValueError(f"{path} is a folder; name a file in it.")
        if not ends_in(path, suffixes):
            raise ValueError(f"{path} must end in {' or '.join(suffixes)}; convert or unpack it.")
        if not path.parent.is_dir():
            raise ValueError(f"{path} does not exist, nor does the folder {path.parent}; correct the path.")
        if not path.exists():
            hint = close(path.name, [other.name for other in path.parent.iterdir()])
            raise ValueError(f"{path} does not exist.{hint or ' Correct the path.'}")
        if not path.stat().st_size:
            raise ValueError(f"{path} is empty; it must hold a header and rows.")
    return path


# -------------------------------------------------------------------------------------------- tables


@dataclass
class Columns:
    """Names of the columns to read; in netCDF, of dimensions and variables.

    Attributes:
        time: The column of times.
        node: The column of the nodes' names.
        values: The channels; None for all columns that are left.
        covariates: What is known beforehand at every time and node.

    Raises:
        ValueError: If a column is named twice, or ``values`` is empty.
    """

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
        """All names that are given."""
        return [self.time, self.node, *(self.values or []), *self.covariates]


class Table(ABC):
    """A CSV or Parquet file, of which chosen columns are read as they stand.

    Attributes:
        path: The file.
        header: The names of all columns.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: list[str] = []
        self._entries = pa.table({})

    @abstractmethod
    def where(self, row: int) -> str:
        """A row's place in the file, in words."""

    @abstractmethod
    def _load(self, names: list[str]) -> pa.Table:
        """The columns of these names, as the file has them."""

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
                    f"{shown(','.join(self.header))}. Save it with commas, and numbers with points."
                )
        raise ValueError(
            f"{self.path} has no column {name!r}; its columns are {few(self.header)}."
            f"{close(name, self.header)}"
        )

    def fault(self, column: str, row: int | None, what: str) -> ValueError:
        """The error for something wrong in a column, at a row if it lies at one."""
        at = "" if row is None else f", {self.where(row)}"
        return ValueError(f"{self.path}{at}, column {column!r}: {what}")

    def entry(self, column: str, row: int) -> str:
        """An entry as it stands in the file, for a message."""
        return shown(self._entries[column][row].as_py())

    def numbers(self, column: str, needed: str | None = None) -> Float[np.ndarray, "rows"]:
        """A column of numbers, NaN where there is none.

        Args:
            column: Its name.
            needed: If there must be no hole, what to tell someone who left one.
        """
        entries = self._entries[column]
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
        coded = self._entries[column].dictionary_encode().combine_chunks()
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
        kind = self._entries[column].type
        if not (_is_text(kind) or pa.types.is_integer(kind)):
            raise self.fault(column, None, f"names must be text or whole numbers, not {kind}. Convert them.")
        codes, labels = self.distinct(column)
        numbers, names = pd.factorize(np.array([str(label) for label in labels], dtype=object), sort=True)
        return numbers[codes], list(names)


class _CsvTable(Table):
    """A table in a CSV file: UTF-8, commas, a header."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if _packed(path):
            _check_packed(path)
        with _reading(path), _open_csv(path) as file:
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
        with _reading(self.path), _open_csv(self.path, errors="replace") as file:
            reader = csv.reader(file)
            next(islice(filter(None, reader), row + 1, None))
            return f"line {reader.line_num}"

    def _load(self, names: list[str]) -> pa.Table:
        raw = [self._raw_header[self.header.index(name)] for name in names]
        convert = arrow_csv.ConvertOptions(include_columns=raw, column_types=dict.fromkeys(raw, pa.string()))
        parse = arrow_csv.ParseOptions(newlines_in_values=True)
        compression = "gzip" if _packed(self.path) else None
        with _reading(self.path), pa.input_stream(self.path, compression=compression) as file:
            table = arrow_csv.read_csv(file, parse_options=parse, convert_options=convert)
        return table.rename_columns(names)


class _ParquetTable(Table):
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
            kinds = {name: file.schema_arrow.field(name).type for name in names}
        for name, kind in kinds.items():
            if pa.types.is_nested(kind) or pa.types.is_fixed_size_binary(kind):
                raise self.fault(
                    name, None, f"it must hold numbers, text or times, not {kind}. Leave it out."
                )
        with _reading(self.path), parquet.ParquetFile(self.path, read_dictionary=names) as file:
            parts, size = [], 0
            for part in file.iter_batches(ROWS, columns=names):
                part.validate(full=True)  # text that is not UTF-8 is let through otherwise
                size += sum(map(_size, part.columns))
                _check_size(self.path, size)
                # without categories: those may include some that no row has
                columns = [_written_out(column) for column in part.columns]
                parts.append(pa.record_batch(columns, names=part.schema.names))
        return pa.Table.from_batches(parts) if parts else pa.table({name: [] for name in names})


def open_table(path: str | Path) -> Table:
    """The table in a file, with its header read.

    Args:
        path: A file that ends in ``.csv``, ``.csv.gz`` or ``.parquet``.

    Returns:
        The table; its columns come with :meth:`Table.read`.

    Raises:
        ValueError: If there is no such file, or it is not well formed.
    """
    path = checked_path(path, (*CSV, *PARQUET))
    return _CsvTable(path) if ends_in(path, CSV) else _ParquetTable(path)


def _packed(path: Path) -> bool:
    return ends_in(path, (".gz",))


def _open_csv(path: Path, errors: str = "strict") -> TextIOWrapper:
    """A CSV's text, unpacked if need be."""
    if _packed(path):
        return gzip.open(path, "rt", encoding="utf-8-sig", errors=errors, newline="")
    return path.open(encoding="utf-8-sig", errors=errors, newline="")


def _not_utf8(path: Path) -> str | None:
    """Where a file's bytes are no UTF-8, in words; None if they are."""
    with gzip.open(path) if _packed(path) else path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                text = line.decode("utf-8", "replace").strip()
                return f"line {number}: {shown(text)} is not UTF-8. Save the file as UTF-8."
    return None


def _check_packed(path: Path) -> None:
    """Raises if a file unpacks to too much, after unpacking it into nothing."""
    size = 0
    with _reading(path), gzip.open(path) as file:
        while some := len(file.read(AT_ONCE)):
            size += some
            _check_size(path, size)


def _check_size(path: Path, size: int) -> None:
    """Raises if that is too much to unpack a table to."""
    try:
        check_unpacked(path, size)
    except ValueError as error:
        raise ValueError(f"{path} is too large: {error}.") from error


def _size(column: pa.Array) -> int:
    """The bytes of a column once each text is written out where it stands."""
    least = 8 * len(column)  # as a number, or the place of a text
    if not pa.types.is_dictionary(column.type):
        return max(least, column.nbytes)
    lengths = pc.binary_length(column.dictionary).cast(pa.int64())
    return least + (pc.sum(lengths.take(column.indices)).as_py() or 0)


def _written_out(column: pa.Array) -> pa.Array:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _ragged(path: Path) -> str | None:
    """Where a line of a CSV has more or fewer fields than the header, in words; None if none has."""
    with _open_csv(path) as file:
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
            return f"line {start}: {first_line(error)}. Is a quotation mark not closed?"
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
