"""``tsgen conformal``: prediction intervals of a run, adjusted by its errors on the validation split."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import xarray as xr

from tsgen.evaluation.columns import format_number
from tsgen.evaluation.conformal import conformal
from tsgen.evaluation.terminal import print_table
from tsgen.report.reading import read_evaluation
from tsgen.storage.atomic import replacing
from tsgen.storage.display import print_line

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
"""The columns of the table and their headings."""


def main(given: Namespace) -> None:
    """Adjusts the intervals of a run that was tested on both splits.

    Args:
        given: ``run``, ``level`` and ``unit``.

    Raises:
        ValueError: If the run was not tested on both splits.
    """
    folder = given.run
    validation, test = _read(folder / "val", " --data.test_on val"), _read(folder, "")
    adjusted, rows = conformal(validation, test, given.level, unit=given.unit)
    print_table(
        f"{folder}: the {100 * given.level:g} % interval, by length of the gap",
        ["gaps", *COLUMNS.values()],
        ([row["gaps"], *(format_number(row.get(key)) for key in COLUMNS)] for row in rows),
    )
    with replacing(folder / "conformal.nc") as unfinished:
        adjusted.to_netcdf(unfinished)
    print_line(f"Adjusted intervals: {folder / 'conformal.nc'}")


def _read(folder: Path, option: str) -> xr.Dataset:
    path = folder / "evaluation.nc"
    if not path.is_file():
        raise ValueError(f"{path} must exist; it does not. Run `tsgen test --config NAME{option}` first.")
    return read_evaluation(path)
