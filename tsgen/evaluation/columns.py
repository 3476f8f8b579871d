"""The scores of an evaluation as columns of a table: their headings, which of them are printed, and how."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

COLUMNS = {
    "mae": "MAE",
    "rmse": "RMSE",
    "mre": "MRE",
    "crps": "CRPS",
    "crps_law": "CRPS of law",
    "crps_quantile": "CRPS (norm.)",
    "nll": "NLL",
    "coverage_50": "in 50 %",
    "coverage_90": "in 90 %",
    "width_50": "width 50",
    "width_90": "width 90",
    "interval_50": "interval 50",
    "interval_90": "interval 90",
    "energy_score": "energy",
    "variogram_score": "variogram",
    "from_exact": "from exact",
    "log_likelihood": "log-lik. a window",
}
"""The table's scores and their headings. ``crps_law`` is there where the law that draws follow is known in
closed form. ``from_exact`` is there where the exact posterior is known: the root mean squared distance of the
median to the exact posterior mean, in exact posterior standard deviations. ``log_likelihood`` is there where
nothing is hidden: the mean joint log-density of a window, in nats."""

IN_FILE_ONLY = {"crps_law", "coverage_50", "width_50", "interval_50", "interval_90"}
"""Scores that are written to files but not printed, so that a row of the table fits on one line."""


def printed_columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Returns the scores to print, with their headings: those that any row has, except :data:`IN_FILE_ONLY`.

    Args:
        rows: Scores by name; one that is missing or None is absent.
    """
    present = {key for row in rows for key, value in row.items() if value is not None}
    return {key: heading for key, heading in COLUMNS.items() if key in present and key not in IN_FILE_ONLY}


def formatted(value: float | None, sign: str = "") -> str:
    """Returns a number as the text of a table's cell: 4 significant digits, counts in full, – for None.

    Args:
        value: A score, or a count if it is an ``int``.
        sign: ``+`` to show the sign of positive numbers too.

    Example:
        >>> formatted(0.123456), formatted(12345), formatted(None), formatted(2.5, "+")
        ('0.1235', '12,345', '–', '+2.5')
    """
    if value is None:
        return "–"
    return f"{value:{sign},}" if isinstance(value, int) else f"{value:{sign}.4g}"
