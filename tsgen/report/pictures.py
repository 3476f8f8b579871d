"""Figures as data URIs, which a page contains in place of links to files."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable
from typing import NamedTuple

import matplotlib
from matplotlib.figure import Figure

Draw = Callable[[int], Figure]
"""A function that draws a figure, given the number of panels per row."""


class Picture(NamedTuple):
    """A figure in two layouts: panels side by side, and stacked for a narrow screen.

    Attributes:
        width: Width of the wide layout in CSS pixels.
        height: Height of the wide layout in CSS pixels.
        wide: The wide layout as a data URI.
        narrow: The narrow layout as a data URI; None if it has the size of the wide one.
    """

    width: int
    height: int
    wide: str
    narrow: str | None


def picture(draw: Draw, columns: int) -> Picture:
    """Draws a figure in both layouts.

    Args:
        draw: The function that draws the figure.
        columns: The number of panels per row on a wide screen.
    """
    wide, narrow = draw(columns), draw(1)
    width, height = (round(96 * inches) for inches in wide.get_size_inches())
    alike = tuple(narrow.get_size_inches()) == tuple(wide.get_size_inches())
    return Picture(width, height, _encode(wide), None if alike else _encode(narrow))


def _encode(figure: Figure) -> str:
    """Returns a figure as the data URI of an SVG image."""
    buffer = io.BytesIO()
    # keep text as text, so that the browser finds glyphs of any script; the salt makes output reproducible
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tsgen"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="svg", dpi=160, metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
