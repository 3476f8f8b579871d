"""Tables and remarks, printed to the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table

WIDTH = 150
"""Characters of a line where the output is not a terminal, such as a file."""


def print_table(
    title: str,
    headings: Sequence[str],
    *sections: Iterable[Sequence[str]],
    remarks: Iterable[str] = (),
) -> None:
    """Prints a table: text on the left, numbers to the right of it, a line between sections.

    Args:
        title: The text above it.
        headings: The headings of the columns. The first column is text, the others are numbers.
        sections: The rows of each section, as texts of the cells. An empty section is left out.
        remarks: Sentences below it, each on a line of its own.
    """
    # names of runs and nodes may hold brackets and colons: they are neither markup nor emoji
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    table = Table(title=title)
    table.add_column(headings[0])
    for heading in headings[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    for section in sections:
        for row in section:
            table.add_row(*row)
        table.add_section()
    console.print(table)
    for remark in remarks:
        console.print(remark, soft_wrap=not console.is_terminal)
