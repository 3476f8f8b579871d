"""Prints tables and remarks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

from tsgen.storage.display import printable

WIDTH = 150
"""The number of characters per line if the output is not a terminal but, for example, a file."""


def print_table(
    title: str,
    headings: Sequence[str],
    *sections: Iterable[Sequence[str]],
    remarks: Iterable[str] = (),
) -> None:
    """Prints a table whose first column is text and whose other columns are numbers.

    Args:
        title: The title above the table.
        headings: The headings of the columns.
        sections: The rows of each section; a row is a list of cell texts. Sections are separated by a line.
        remarks: Sentences below the table, one per line.
    """
    # names of runs and nodes may contain brackets and colons, which are neither markup nor emoji
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    table = Table(title=printable(title))
    table.add_column(printable(headings[0]))
    for heading in headings[1:]:
        table.add_column(printable(heading), justify="right", no_wrap=True)
    for section in sections:
        for row in section:
            table.add_row(*map(printable, row))
        table.add_section()
    console.print(table)
    for remark in remarks:
        console.print(printable(remark), soft_wrap=not console.is_terminal)
