"""Reads and writes the first sheet of an Excel workbook (.xlsx), if openpyxl is installed.

Formulas count as the values that Excel last computed for them. Formats of cells are not kept.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

EXCEL = (".xlsx",)
"""Endings of the names of workbooks."""

CELL = 64
"""The bytes that a cell is taken to need in memory."""


def check_openpyxl() -> None:
    """Raises ``ValueError`` if openpyxl is not installed."""
    if find_spec("openpyxl") is None:
        raise ValueError(
            "an .xlsx file needs openpyxl, which is not installed. Install it: pip install 'tsgen[excel]', "
            "or save the sheet as CSV."
        )


def read_sheet(
    path: Path, check_size: Callable[[Path, int], None], no_value: Collection[str]
) -> pd.DataFrame:
    """Returns the first sheet of a workbook; its first row are the names of the columns.

    A column of numbers or of dates has this type; any other column with entries is text, as typed.

    Args:
        path: The workbook.
        check_size: Raises if a number of bytes is too large; called before they are held in memory.
        no_value: Texts that stand for a missing number among numbers.

    Raises:
        ValueError: If openpyxl is not installed, or the file is not a workbook or too large.
    """
    check_openpyxl()
    rows: list[tuple[Any, ...]] = []
    cells = 0
    with _reading(path):
        with zipfile.ZipFile(path) as archive:
            check_size(path, sum(member.file_size for member in archive.infolist()))
        import openpyxl

        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        try:
            sheet = book.worksheets[0]
            sheet.reset_dimensions()  # the file may claim more rows and columns than it has
            for row in sheet.iter_rows(values_only=True):
                cells += len(row) + 1
                check_size(path, CELL * cells)
                rows.append(row)
        finally:
            book.close()
    while rows and not any(cell is not None for cell in rows[-1]):
        rows.pop()
    width = max((i + 1 for row in rows for i, cell in enumerate(row) if cell is not None), default=0)
    header, *body = [[*row[:width], *[None] * (width - len(row))] for row in rows] or [[]]
    names = ["" if name is None else str(name).strip() for name in header]
    columns = {i: _column([row[i] for row in body], no_value) for i in range(width)}
    frame = pd.DataFrame(columns, index=range(len(body)))
    frame.columns = pd.Index(names, dtype=object)
    return frame


def _column(cells: list[Any], no_value: Collection[str]) -> pd.Series:
    """Returns a column as numbers or dates if all its entries are, else as text."""
    entries = [cell for cell in cells if cell is not None]
    numbers = [cell for cell in entries if not (isinstance(cell, str) and cell.strip() in no_value)]
    if all(isinstance(cell, (int, float)) and not isinstance(cell, bool) for cell in numbers):
        cells, entries = [None if isinstance(cell, str) else cell for cell in cells], numbers
        whole = len(entries) == len(cells) and all(isinstance(cell, int) for cell in entries)
        return pd.Series(cells, dtype="int64" if whole and entries else "float64")
    if all(isinstance(cell, date) for cell in entries):  # a datetime is a date, too
        return pd.Series(pd.to_datetime(cells)).astype("datetime64[us]")
    return pd.Series([None if cell is None else str(cell) for cell in cells], dtype=object)


def write_sheet(frame: pd.DataFrame, path: Path) -> None:
    """Writes a table as the only sheet of a workbook.

    Args:
        frame: The table.
        path: The workbook.
    """
    with path.open("wb") as file:  # a temporary name may end otherwise
        frame.to_excel(file, index=False, engine="openpyxl")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Converts the exceptions of the readers to a ``ValueError`` of one line."""
    try:
        yield
    except ValueError:
        raise
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # a damaged workbook may raise any
        raise ValueError(f"{path} is not a well-formed .xlsx file; save it again in Excel.") from error
