"""Rows, names and numbers of a page's tables, formatted as plain text."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from tsgen.figures import number, printable

MAX_NODES = 30
"""The maximum number of nodes in a table."""


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        text: The text.
        bold: Whether the text is bold.
        before: Words before the text, never bold.
    """

    text: str
    bold: bool = False
    before: str = ""


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        cells: The cells; a string is a cell that is not bold.
        kind: The CSS class: ``model``, ``exact`` or empty.
    """

    cells: Sequence[str | Cell]
    kind: str = ""


def name(value: Any, length: int = 80) -> str:
    """Returns a name on one line, without control characters, cut to a length."""
    return printable(value, length)


def count(value: Any) -> str:
    """Returns an integer with thousands separators, or a dash if the value is not a number."""
    return f"{number(value):,.0f}" if math.isfinite(number(value)) else "–"


def plural(size: int, noun: str) -> str:
    """Returns a number with its noun, as in "1 node" and "2 nodes"."""
    return f"{size:,} {noun}" + ("" if size == 1 else "s")


def column(values: Sequence[float], percent: bool = False) -> list[str]:
    """Formats the numbers of a column to the same number of decimals: four digits for the median.

    Args:
        values: The numbers; a dash stands for NaN.
        percent: Whether to show them as percentages with one decimal.
    """
    known = [abs(v) for v in values if math.isfinite(v) and v != 0]
    middle = statistics.median_low(known) if known else 1.0
    decimals = 1 if percent else min(max(3 - math.floor(math.log10(middle)), 0), 9)

    def show(value: float) -> str:
        if math.isinf(value):
            return "∞" if value > 0 else "−∞"
        if math.isnan(value):
            return "–"
        if not percent and not 1e-6 < abs(value) < 1e9 and value != 0:
            return f"{value:.3e}".replace("-", "−")
        shown = f"{100 * value:,.1f} %" if percent else f"{value:,.{decimals}f}"
        return shown.replace("-", "−")

    return [show(value) for value in values]
