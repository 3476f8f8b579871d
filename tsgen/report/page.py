"""Renders a template of ``templates/`` as a self-contained HTML page.

The templates contain the markup and the sentences; Python computes the data. Jinja2's autoescape escapes
every value, so the name of a node or a file cannot become markup, and control characters are replaced. No
template marks a value as safe.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tsgen.report.tables import plural
from tsgen.storage.atomic import write_text
from tsgen.storage.display import printable


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("tsgen.report"),
        autoescape=True,
        finalize=_shown,
        undefined=StrictUndefined,  # a misspelt name raises instead of vanishing from the page
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"plural": plural, "thousands": "{:,}".format}
    return environment


def _shown(value: Any) -> Any:
    """Returns what a page shows of a value: its text, each line made :func:`printable`."""
    return value if isinstance(value, Markup) else "\n".join(map(printable, str(value).split("\n")))


def write_page(path: Path, template: str, **data: Any) -> Path:
    """Writes a page and returns its path.

    Args:
        path: The file to write.
        template: The name of a template in ``templates/``.
        data: The variables of the template.
    """
    text = _environment().get_template(template).render(data)
    write_text(path, text, errors="replace")  # half a surrogate pair has no encoding
    return path
