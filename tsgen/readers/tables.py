"""Readers of the columns of CSV and Parquet tables, and helpers for error messages about files.

Only the requested columns are read, and each as a whole (pyarrow), never row by row. A column of times or
nodes is reduced to its distinct entries first, so each entry is parsed once, however often it occurs.
A CSV is in UTF-8, with commas and a header, and may be compressed by gzip. Its cells are read as text and
converted to numbers afterwards.

A mistake in a file raises a ``ValueError`` of one line that names file, row and column. Lines of a CSV are
counted as in an editor, the header being line 1; rows of Parquet are counted from 0.

The decompressed size is checked before a table is held in memory (:mod:`tsgen.storage.unpacking`): a CSV is
decompressed once to count its bytes; a Parquet file, which can store "this text a million times" in a few
bytes, is read with each distinct text held once until the total size is known.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import zlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import TextIOWrapper
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int64
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from tsgen.data.series import LARGEST
from tsgen.readers.excel import EXCEL, read_sheet
from tsgen.storage.display import printable, quoted
from tsgen.storage.unpacking import check_unpacked

CSV, PARQUET = (".csv", ".csv.gz"), (".parquet",)
"""Endings of the file names of tables that can be read."""

BLOCK = 2**20
"""Bytes that are decompressed at a time."""

ROWS = 2**20
"""Rows of Parquet that are read at a time."""

NO_VALUE = ["", "NA", "N/A", "n/a", "NaN", "nan", "-nan", "NULL", "Null", "null", "None", "<NA>", "#N/A"]
"""Cells that stand for a missing number."""


# -------------------------------------------------------------------------------- messages and paths


def name_list(names: Sequence[str]) -> str:
    """Returns the first ten names as text, for a message.

    Args:
        names: Names of columns or nodes in a file.

    Returns:
        The names, each in quotation marks by :func:`quoted`, separated by commas.
    """
    return ", ".join(quoted(name) for name in names[:10]) + (", ..." if len(names) > 10 else "")


def count_more(wrong: np.ndarray) -> str:
    """Returns text for the number of further wrong entries, for a message about the first.

    Args:
        wrong: True where an entry is wrong.

    Returns:
        A space and text in parentheses; empty if at most one entry is wrong.
    """
    return f" ({wrong.sum() - 1} more like it)" if wrong.sum() > 1 else ""


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """Returns a suggestion of a similar name, for a message.

    Args:
        name: A name that does not exist.
        names: The names that exist; case is ignored.

    Returns:
        A space and a question; empty if no name is similar.
    """
    by_lower_case = {other.lower(): other for other in names}
    match = difflib.get_close_matches(name.lower(), by_lower_case, n=1)
    return f" Did you mean {by_lower_case[match[0]]!r}?" if match else ""


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message.

    Args:
        error: An error raised by a library.

    Returns:
        The line without its full stop, with unprintable characters replaced; the name of the error's class if
        the message is empty.
    """
    line = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return printable(line)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Converts the exceptions of file readers to a ``ValueError`` of one line."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or first_line(error)}.") from error
    except (pa.ArrowException, csv.Error, UnicodeError, EOFError, zlib.error) as error:
        damaged = isinstance(error, (EOFError, zlib.error))
        place = (_not_utf8(path) or _ragged(path)) if ends_in(path, CSV) and not damaged else None
        details = (
            f", {place}"
            if place
            else f" is not a well-formed {path.suffix.lower()} file: {first_line(error)}."
        )
        raise ValueError(f"{path}{details}") from error


def ends_in(path: str | Path, endings: Sequence[str]) -> bool:
    """Returns whether the name of a file has one of the endings.

    Args:
        path: The file; case is ignored.
        endings: Endings such as ``.csv``, in lower case.
    """
    return Path(path).name.lower().endswith(tuple(endings))


def checked_path(path: str | Path, suffixes: Sequence[str]) -> Path:
    """Returns the path of a file after checking that it exists, has one of the endings and is not empty.

    Args:
        path: The file; ``~`` is the home folder.
        suffixes: Allowed endings such as ``.csv``, in lower case.

    Returns:
        The path, with ``~`` expanded.

    Raises:
        ValueError: If the file does not exist (the message suggests a similar name), is empty or a folder, or
            has another ending.
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
            hint = did_you_mean(path.name, [other.name for other in path.parent.iterdir()])
            raise ValueError(f"{path} does not exist.{hint or ' Correct the path.'}")
        if not path.is_file():
            raise ValueError(f"{path} is a pipe or a device; save its content as a file.")
        if not path.stat().st_size:
            raise ValueError(f"{path} is empty; it must hold a header and rows.")
    return path


# -------------------------------------------------------------------------------------------- tables


@dataclass
class Columns:
    """Names of the columns to read; in netCDF, of dimensions and variables.

    Attributes:
        time: The column of times.
        node: The column of node names.
        values: The channels; None for all remaining columns.
        covariates: The covariates, known beforehand at every time and node.

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
        counts = Counter(self.named)
        repeated = next((name for name, count in counts.items() if count > 1), None)
        if repeated is not None:
            raise ValueError(
                f"the column {repeated!r} is named {counts[repeated]} times among time_column, node_column, "
                "value_columns and covariate_columns; name it once."
            )

    @property
    def named(self) -> list[str]:
        """The names of all columns that were given."""
        return [self.time, self.node, *(self.values or []), *self.covariates]


class Table(ABC):
    """A CSV, Parquet or Excel file, or a data frame, of which selected columns are read.

    Attributes:
        path: The file; for a data frame, what messages call it.
        header: Names of all columns.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: list[str] = []
        self._entries = pa.table({})

    @property
    def name(self) -> str:
        """The name of the file without its endings."""
        return self.path.name.split(".")[0]

    @abstractmethod
    def where(self, row: int) -> str:
        """Returns the position of a row in the file as text."""

    @abstractmethod
    def _load(self, names: list[str]) -> pa.Table:
        """Returns the columns of these names, unchanged."""

    @abstractmethod
    def frame(self) -> pd.DataFrame:
        """Returns all columns as they are in the file; those of a CSV as text."""

    def read(self, names: list[str]) -> None:
        """Reads these columns.

        Raises:
            ValueError: If a column does not exist, or there are no rows.
        """
        for name in names:
            self.check_column(name)
        self._entries = self._load(names)
        if not self._entries.num_rows:
            raise ValueError(f"{self.path} has a header but no rows; add the data.")

    @cached_property
    def _counts(self) -> Counter[str]:
        """How many columns have each name."""
        return Counter(self.header)

    def check_column(self, name: str, advice: str = "") -> None:
        """Raises unless there is exactly one column of this name.

        Args:
            name: The column.
            advice: A space and what to do if there is none, for the end of the message.
        """
        if self._counts[name] == 1:
            return
        if self._counts[name]:
            raise ValueError(f"{self.path} has {self._counts[name]} columns {name!r}; keep one.")
        self.check_separator()
        raise ValueError(
            f"{self.path} has no column {name!r}; its columns are {name_list(self.header)}."
            f"{did_you_mean(name, self.header)}{advice}"
        )

    def check_separator(self) -> None:
        """Raises if the header seems to be separated by something else than commas."""
        for separator, word in ((";", "semicolons"), ("\t", "tabs")):
            if any(separator in name for name in self.header):
                raise ValueError(
                    f"{self.path} seems to be separated by {word}: its header is "
                    f"{quoted(','.join(self.header))}. Save it with commas between cells and decimal points."
                )

    def error_at(self, column: str, row: int | None, what: str) -> ValueError:
        """Returns the error for a mistake in a column, or in one row of the column."""
        at = "" if row is None else f", {self.where(row)}"
        return ValueError(f"{self.path}{at}, column {column!r}: {what}")

    def entry(self, column: str, row: int) -> str:
        """Returns an entry in quotation marks, for a message."""
        return quoted(self._entries[column][row].as_py())

    def numbers(self, column: str, needed: str | None = None) -> Float[np.ndarray, "rows"]:
        """Returns a column of numbers; missing values are NaN.

        Args:
            column: The name of the column.
            needed: Advice for the message if a number is missing; None if numbers may be missing.
        """
        entries = self._entries[column]
        if _is_text(entries.type):
            text = pc.utf8_trim_whitespace(entries)
            entries = pc.if_else(pc.is_in(text, pa.array(NO_VALUE, text.type)), None, text)
        elif not _is_number(entries.type):
            raise self.error_at(column, None, f"it must hold numbers, not {entries.type}. Leave it out.")
        try:
            numbers = np.array(entries.cast(pa.float64(), safe=False).to_numpy())  # a writable copy
        except pa.ArrowInvalid as error:
            row = _first_unreadable(entries)
            what = f"{self.entry(column, row)} is not a number. Write 12.5; leave missing values empty."
            raise self.error_at(column, row, what) from error
        self._check_numbers(column, numbers, needed)
        return numbers

    def _check_numbers(self, column: str, numbers: Float[np.ndarray, "rows"], needed: str | None) -> None:
        too_large = np.abs(numbers) > LARGEST
        if too_large.any():
            row = int(too_large.argmax())
            what = f"{self.entry(column, row)} is infinite or beyond 3e38"
            raise self.error_at(column, row, f"{what}; {needed or 'leave missing values empty'}.")
        if needed and np.isnan(numbers).any():
            raise self.error_at(column, int(np.isnan(numbers).argmax()), f"the value is missing; {needed}.")

    def distinct(self, column: str) -> tuple[Int64[np.ndarray, "rows"], np.ndarray]:
        """Returns for each row the index of its entry among the distinct entries, and the distinct entries.

        Distinct entries are in the order of the file, text without leading and trailing spaces.
        """
        coded = self._entries[column].dictionary_encode().combine_chunks()
        codes = coded.indices.cast(pa.int64()).fill_null(-1).to_numpy()
        labels = coded.dictionary.to_numpy(zero_copy_only=False)
        empty = np.zeros(len(labels) + 1, dtype=bool)
        empty[-1] = True  # code -1, a missing entry
        if _is_text(coded.dictionary.type):
            labels = np.array([label.strip() for label in labels], dtype=object)
            empty[:-1] = labels == ""
        if empty[codes].any():
            raise self.error_at(
                column, int(empty[codes].argmax()), "the entry is missing; fill it in or delete the row."
            )
        return codes, labels

    def names(self, column: str) -> tuple[Int64[np.ndarray, "rows"], list[str]]:
        """Returns for each row the index of its name among the sorted distinct names, and those names."""
        kind = self._entries[column].type
        if not (_is_text(kind) or pa.types.is_integer(kind)):
            raise self.error_at(column, None, f"names must be text or integers, not {kind}. Convert them.")
        codes, labels = self.distinct(column)
        numbers, names = pd.factorize(np.array([str(label) for label in labels], dtype=object), sort=True)
        return numbers[codes], list(names)


class _CsvTable(Table):
    """A table in a CSV file: UTF-8, commas, a header."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if _compressed(path):
            _check_compressed(path)
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
        # blank lines and line breaks inside quotes: a line number needs the file to be read again
        with _reading(self.path), _open_csv(self.path, errors="replace") as file:
            reader = csv.reader(file)
            next(islice(filter(None, reader), row + 1, None))
            return f"line {reader.line_num}"

    def _load(self, names: list[str]) -> pa.Table:
        raw_names = dict(zip(self.header, self._raw_header, strict=True))
        raw = [raw_names[name] for name in names]
        convert = arrow_csv.ConvertOptions(include_columns=raw, column_types=dict.fromkeys(raw, pa.string()))
        parse = arrow_csv.ParseOptions(newlines_in_values=True)
        compression = "gzip" if _compressed(self.path) else None
        with _reading(self.path), pa.input_stream(self.path, compression=compression) as file:
            table = arrow_csv.read_csv(file, parse_options=parse, convert_options=convert)
        return table.rename_columns(names)

    def frame(self) -> pd.DataFrame:
        with _reading(self.path), _open_csv(self.path) as file:
            return pd.read_csv(file, dtype=str, keep_default_na=False, header=0, names=self.header)


class _ParquetTable(Table):
    """A table in a Parquet file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with _reading(path), parquet.ParquetFile(path) as file:
            # pandas writes an index without a name as a column; the user did not define it
            self.header = [name for name in file.schema_arrow.names if not name.startswith("__index_level_")]

    def where(self, row: int) -> str:
        return f"row {row} (counted from 0)"

    def _load(self, names: list[str]) -> pa.Table:
        with _reading(self.path), parquet.ParquetFile(self.path) as file:
            kinds = {name: file.schema_arrow.field(name).type for name in names}
        for name, kind in kinds.items():
            extension = isinstance(kind, pa.BaseExtensionType) and not _is_period(kind)
            if extension or pa.types.is_nested(kind) or pa.types.is_fixed_size_binary(kind):
                raise self.error_at(
                    name, None, f"it must hold numbers, text or times, not {kind}. Leave it out."
                )
        with _reading(self.path), parquet.ParquetFile(self.path, read_dictionary=names) as file:
            batches, size = [], 0
            for batch in file.iter_batches(ROWS, columns=names):
                batch.validate(full=True)  # otherwise text that is not UTF-8 passes
                size += sum(map(_size, batch.columns))
                _check_size(self.path, size)
                columns = [_plain(column) for column in batch.columns]
                batches.append(pa.record_batch(columns, names=batch.schema.names))
        return pa.Table.from_batches(batches) if batches else pa.table({name: [] for name in names})

    def frame(self) -> pd.DataFrame:
        with _reading(self.path), parquet.ParquetFile(self.path) as file:
            # times and nodes may be in pandas' index, which is a column of the file
            return file.read(columns=self.header).to_pandas(ignore_metadata=True)


class _FrameTable(Table):
    """A table in a data frame; an index with names is its first columns."""

    def __init__(self, frame: pd.DataFrame, name: str) -> None:
        super().__init__(Path(name))
        named = any(level is not None for level in frame.index.names)
        self._frame = frame.reset_index() if named else frame
        self.header = [str(column) for column in self._frame.columns]

    @property
    def name(self) -> str:
        return "value"

    def where(self, row: int) -> str:
        return f"row {row} (counted from 0)"

    def frame(self) -> pd.DataFrame:
        return self._frame

    def _load(self, names: list[str]) -> pa.Table:
        columns = [self._frame.iloc[:, self.header.index(name)] for name in names]
        arrays = [_arrow(self, name, column) for name, column in zip(names, columns, strict=True)]
        return pa.Table.from_arrays(arrays, names)


class _ExcelTable(_FrameTable):
    """A table in the first sheet of an Excel workbook."""

    def __init__(self, path: Path) -> None:
        frame = read_sheet(path, _check_size, NO_VALUE)
        if not len(frame):
            raise ValueError(f"{path} has no rows below the header in its first sheet; add the data.")
        super().__init__(frame, str(path))

    @property
    def name(self) -> str:
        return Table.name.fget(self)  # type: ignore[attr-defined]

    def where(self, row: int) -> str:
        return f"row {row + 2}"


def _arrow(table: Table, name: str, column: pd.Series) -> pa.ChunkedArray:
    """Returns a column of a data frame in pyarrow's form."""
    if isinstance(column.dtype, pd.PeriodDtype):
        column = column.dt.to_timestamp()
    try:
        made = pa.array(column, from_pandas=True)
        # the text of joined frames comes in several chunks
        whole = made.combine_chunks() if isinstance(made, pa.ChunkedArray) else made
        return pa.chunked_array([_plain(whole)])
    except (pa.ArrowException, OverflowError) as error:
        raise table.error_at(name, None, f"it must be of one kind: {first_line(error)}.") from error


def open_table(source: str | Path | pd.DataFrame, name: str = "the data frame") -> Table:
    """Returns the table in a file after reading its header, or the table in a data frame.

    Args:
        source: A file that ends in ``.csv``, ``.csv.gz``, ``.parquet`` or ``.xlsx``, or a data frame.
        name: What messages call a data frame.

    Returns:
        The table; :meth:`Table.read` reads its columns.

    Raises:
        ValueError: If there is no such file, or it is not well formed.
    """
    if isinstance(source, pd.DataFrame):
        return _FrameTable(source, name)
    path = checked_path(source, (*CSV, *PARQUET, *EXCEL))
    if ends_in(path, EXCEL):
        return _ExcelTable(path)
    return _CsvTable(path) if ends_in(path, CSV) else _ParquetTable(path)


def _compressed(path: Path) -> bool:
    return ends_in(path, (".gz",))


def _open_csv(path: Path, errors: str = "strict") -> TextIOWrapper:
    """Opens a CSV as text, decompressed if necessary."""
    if _compressed(path):
        return gzip.open(path, "rt", encoding="utf-8-sig", errors=errors, newline="")
    return path.open(encoding="utf-8-sig", errors=errors, newline="")


def _not_utf8(path: Path) -> str | None:
    """Returns where a file is not UTF-8, as text; None if all of it is."""
    with gzip.open(path) if _compressed(path) else path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                text = line.decode("utf-8", "replace").strip()
                return f"line {number}: {quoted(text)} is not UTF-8. Save the file as UTF-8."
    return None


def _check_compressed(path: Path) -> None:
    """Raises if a file decompresses to too many bytes; decompresses it to count them, keeping none."""
    size = 0
    with _reading(path), gzip.open(path) as file:
        while count := len(file.read(BLOCK)):
            size += count
            _check_size(path, size)


def _check_size(path: Path, size: int) -> None:
    """Raises if a table decompresses to too many bytes."""
    try:
        check_unpacked(path, size)
    except ValueError as error:
        raise ValueError(f"{path} is too large: {error}.") from error


def _size(column: pa.Array) -> int:
    """Returns the bytes of a column when each row has its own copy of its text."""
    fixed = 8 * len(column)  # of the numbers, or of the offsets of text
    if not pa.types.is_dictionary(column.type):
        return max(fixed, column.nbytes)
    lengths = pc.binary_length(column.dictionary).cast(pa.int64())
    return fixed + (pc.sum(lengths.take(column.indices)).as_py() or 0)


def _plain(column: pa.Array) -> pa.Array:
    """Returns a column without categories, some of which may occur in no row, and periods as their starts."""
    if _is_period(column.type):
        return pa.array(column.to_pandas().dt.to_timestamp())
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _is_period(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.BaseExtensionType) and kind.extension_name == "pandas.period"


def _ragged(path: Path) -> str | None:
    """Returns where a line of a CSV has more or fewer fields than the header, as text; None if none has."""
    with _open_csv(path) as file:
        reader = csv.reader(file)
        start, width = 1, 0
        try:
            for fields in reader:  # slow, but runs only after parsing has failed
                width = width or len(fields)
                if fields and len(fields) != width:
                    open_quote = " Is a quotation mark not closed?" if reader.line_num > start else ""
                    return (
                        f"line {start}: it has {len(fields)} fields, the header has {width}. Give every line "
                        f"the same number, and put text with commas in quotation marks.{open_quote}"
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
    """Returns the first row whose text is not a number, by bisection."""
    low, high = 0, len(text)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            text.slice(low, middle - low).cast(pa.float64())
            low = middle
        except pa.ArrowInvalid:
            high = middle
    return low
