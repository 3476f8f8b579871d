"""``tsgen conformal RUN``: a run's intervals, adjusted by its validation split."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import xarray as xr
from rich.console import Console
from rich.table import Table

from tsgen.evaluation.conformal import conformal
from tsgen.report.reading import read_evaluation
from tsgen.storage.atomic import replacing

COLUMNS = {
    "entries": "entries",
    "adjustment": "adjusted by",
    "coverage_before": "covered before",
    "coverage_after": "after",
    "window_coverage_before": "mean of windows before",
    "window_coverage_after": "after",
    "width_before": "width before",
    "width_after": "after",
}
"""The table's numbers and their headings."""


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """A mistake is one line."""
        raise ValueError(f"{message}. See `tsgen conformal --help`.")


def main(words: Sequence[str]) -> int:
    """Adjusts the intervals of a run that was tested on both splits.

    Args:
        words: The run's folder and options.

    Raises:
        ValueError: If the run was not tested on both.
    """
    parser = _Parser(prog="tsgen conformal", description="Adjust a run's intervals by its validation split.")
    parser.add_argument("run", help="the folder of a run that was tested, once with --data.test_on val")
    parser.add_argument("--level", type=float, default=0.9, help="nominal coverage: 0.9 (default) or 0.5")
    parser.add_argument(
        "--unit",
        choices=("window", "entry"),
        default="window",
        help="what is exchangeable: windows (default), or single entries, which is approximate",
    )
    given = parser.parse_args(list(words))
    folder = Path(given.run)
    validation, test = _read(folder / "val", " --data.test_on val"), _read(folder, "")
    adjusted, rows = conformal(validation, test, given.level, unit=given.unit)
    show(f"{folder}: the {100 * given.level:g} % interval, by length of the gap", rows)
    with replacing(folder / "conformal.nc") as unfinished:
        adjusted.to_netcdf(unfinished)
    print(f"Adjusted intervals: {folder / 'conformal.nc'}")
    return 0


def _read(folder: Path, option: str) -> xr.Dataset:
    path = folder / "evaluation.nc"
    if not path.is_file():
        raise ValueError(f"{path} must be there; it is not. Run `tsgen test --config NAME{option}` first.")
    return read_evaluation(path)


def show(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints coverage and width before and after.

    Args:
        title: What stands above.
        rows: What :func:`~tsgen.evaluation.conformal.conformal` returned.
    """
    console, table = Console(), Table(title=title)
    table.add_column("gaps")
    for heading in COLUMNS.values():
        table.add_column(heading, justify="right")
    for row in rows:
        numbers = (row.get(key) for key in COLUMNS)
        table.add_row(row["gaps"], *(_shown(x) for x in numbers))
    if not console.is_terminal:
        console.width = 150
    console.print(table)


def _shown(x: float | None) -> str:
    return "–" if x is None else f"{x:,}" if isinstance(x, int) else f"{x:.4g}"
