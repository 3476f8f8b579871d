"""What pages are made of: their style, tables, pictures and words, all escaped."""

from __future__ import annotations

import base64
import html
import io
import math
import statistics
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from tsgen import figures
from tsgen.storage.atomic import write_text

_STYLE = """
:root { color-scheme: light dark;
  --ink: #1f2328; --soft: #59636e; --line: #d8dee4; --back: #fff; --tint: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --soft: #9aa4af; --line: #39414a; --back: #14181d; --tint: #1d232a; }
}
body { margin: 0 auto; max-width: 66rem; padding: 1.5rem 1rem 4rem;
  background: var(--back); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .2rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: .6rem 0; }
.soft, figcaption, summary, dl { color: var(--soft); font-size: .9rem; }
figure { margin: 1rem 0; }
figcaption { max-width: 46rem; margin-top: .5rem; }
img { display: block; width: 100%; height: auto; }
picture { display: block; box-sizing: border-box; padding: .5rem; background: #fff; border-radius: 6px; }
.table { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; overflow-wrap: normal;
  font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .9rem .35rem 0; text-align: right; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
.words td:nth-child(2) { white-space: normal; min-width: 15rem; }
th { font-weight: 600; color: var(--soft); vertical-align: bottom; }
.text { text-align: left; }
tr.model td { background: var(--tint); }
tr.exact td { color: var(--soft); font-style: italic; }
pre { overflow-x: auto; padding: .8rem; background: var(--tint); border-radius: 6px; font-size: .8rem; }
dt { float: left; clear: left; margin-right: .5rem; font-weight: 600; }
dd { margin: 0; }
details { margin: .8rem 0; }
summary { cursor: pointer; }
"""


def write_page(path: Path, title: str, body: Sequence[str]) -> Path:
    """Writes a page.

    Args:
        path: The file.
        title: Its title, as HTML.
        body: Its sections, as HTML; empty ones are left out.
    """
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # nothing is loaded and nothing runs, whatever the page may hold
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(filter(None, body))
        + "\n</body>\n</html>\n"
    )
    write_text(path, page, errors="replace")  # half a surrogate pair has no encoding
    return path


def text(value: Any, length: int = 80) -> str:
    """Any name as HTML that shows it, cut to a length."""
    return html.escape(figures.printable(value, length))


def count(value: Any) -> str:
    """A whole number, or a dash."""
    return f"{figures.number(value):,.0f}" if math.isfinite(figures.number(value)) else "–"


def plural(number: int, noun: str) -> str:
    """So many of them."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def column(values: Sequence[float], percent: bool = False) -> list[str]:
    """The numbers of a table's column, all to one decimal place: four digits in the middle one."""
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


def table(
    heading: Sequence[str], rows: Sequence[Sequence[str]], words: int, classes: Sequence[str] | None = None
) -> str:
    """A table of cells that are HTML already; the first columns are words, the others numbers."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}{' class=text' * (i < words)}>{cell}</{tag}>" for i, cell in enumerate(cells))

    lines = [f"<tr>{line(heading, 'th')}</tr>"]
    for row, name in zip(rows, classes or [""] * len(rows), strict=True):
        lines.append(f'<tr class="{name}">{line(row, "td")}</tr>')
    return '<div class="table"><table>\n' + "\n".join(lines) + "\n</table></div>"


def _encode(figure: Figure) -> str:
    buffer = io.BytesIO()
    # text stays text, so that the browser finds the letters of any script; the salt makes writing repeatable
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tsgen"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="svg", dpi=160, metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def picture(draw: Callable[[int], Figure], columns: int, alt: str, caption: str) -> str:
    """A figure in two layouts: side by side, and one panel under the other for a narrow screen."""
    wide, narrow = draw(columns), draw(1)
    width, height = (round(96 * inches) for inches in wide.get_size_inches())
    source = ""
    if tuple(narrow.get_size_inches()) != tuple(wide.get_size_inches()):
        source = f'<source media="(max-width: 640px)" srcset="{_encode(narrow)}">'
    return (
        f'<figure><picture style="max-width: {width}px">{source}'
        f'<img alt="{html.escape(alt)}" width="{width}" height="{height}" src="{_encode(wide)}"></picture>'
        f"<figcaption>{caption}</figcaption></figure>"
    )
