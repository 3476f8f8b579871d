"""The scores of an evaluation as columns of a table: headings, selection for print, number format."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

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
    "log_likelihood": "log-lik. per window",
}
"""The heading of each score, in the order of the table.

* ``crps_law`` needs draws from a law with a closed-form CRPS.
* ``from_exact`` needs an exact posterior: the root mean squared distance of the median to the exact posterior
  mean, in exact posterior standard deviations.
* ``log_likelihood`` is computed if nothing is hidden: the mean joint log-density of a window, in nats.
"""

Measure = Literal["density", "probability", "mixed"]
"""The measure that an NLL refers to. NLLs of different measures cannot be compared: a density has a unit and
no upper bound, a probability is at most 1. A mixed one is a probability at atoms and a density elsewhere, or
differs between channels."""

NLL_HEADINGS: dict[str, str] = {
    "density": COLUMNS["nll"],
    "probability": "NLL (probability)",
    "mixed": "NLL (mixed)",
}
"""The heading of the NLL by its measure."""


@runtime_checkable
class HasAtoms(Protocol):
    """The part of a channel's support that determines the measure of its NLL.

    Attributes:
        step: The difference between adjacent values; 0 for a continuum.
        has_atoms: Whether some values have a positive probability.
    """

    step: float

    @property
    def has_atoms(self) -> bool:
        """Whether some values have a positive probability."""


def measure_of(supports: Iterable[HasAtoms]) -> Measure:
    """Returns the measure that the NLL of channels with these supports refers to.

    Args:
        supports: The support of each channel.
    """
    supports = list(supports)
    if not any(support.has_atoms for support in supports):
        return "density"
    return "probability" if all(support.step > 0 for support in supports) else "mixed"


def of_one_measure(rows: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Returns the rows with the NLLs of the first row's measure only, and a remark if others were left out.

    Args:
        rows: The scores of each row by name; ``measure`` is the measure of its NLL, by default a density.
    """
    measure = rows[0].get("measure", "density")
    other = {i for i, row in enumerate(rows) if row.get("measure", "density") != measure}
    dropped = [rows[i]["name"] for i in sorted(other) if rows[i].get("nll") is not None]
    kept = [{**row, "nll": None} if i in other else dict(row) for i, row in enumerate(rows)]
    if measure == "density" and not dropped:
        return kept, []
    words = "probability at atoms and of density elsewhere" if measure == "mixed" else measure
    remark = f"The NLL is in nats of {words}."
    if dropped:
        remark += f" Those of other measures are left out: {', '.join(dropped)}."
    return kept, [remark]


NOT_PRINTED = {"crps_law", "coverage_50", "width_50", "interval_50", "interval_90"}
"""Scores that are only written to files, so that a row of the printed table fits on one line."""


def printed_columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Returns the headings of the scores to print: those that any row has, except :data:`NOT_PRINTED`.

    Args:
        rows: The scores of each row by name; a row lacks a score whose key is missing or whose value is None.
    """
    present = {key for row in rows for key, value in row.items() if value is not None}
    return {key: heading for key, heading in COLUMNS.items() if key in present and key not in NOT_PRINTED}


def lowest_crps(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Returns a sentence that names the method with the lowest CRPS, or None if fewer than two have one.

    Exact distributions do not count: they are bounds, not methods.

    Args:
        rows: The scores of each row by name.
    """
    known = [row for row in rows if row.get("crps") is not None and not row["name"].startswith("exact")]
    if len(known) < 2:
        return None
    best = min(known, key=lambda row: row["crps"])
    return f"Lowest CRPS: {best['name']} ({format_number(best['crps'])})."


def format_number(value: float | None, sign: str = "") -> str:
    """Formats a number for a table: 4 significant digits, an integer in full, – for None.

    Args:
        value: A score, or a count if it is an ``int``.
        sign: ``+`` to show the sign of positive numbers too.

    Example:
        >>> format_number(0.123456), format_number(12345), format_number(None), format_number(2.5, "+")
        ('0.1235', '12,345', '–', '+2.5')
    """
    if value is None:
        return "–"
    return f"{value:{sign},}" if isinstance(value, int) else f"{value:{sign}.4g}"
