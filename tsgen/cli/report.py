"""``tsgen report``: a page on one run, or a page that compares two runs."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from tsgen.report import write_comparison, write_report
from tsgen.storage.display import print_line


def main(given: Namespace) -> None:
    """Writes the page.

    Args:
        given: ``run``, ``other`` and ``out``.

    Raises:
        ValueError: If a folder is not that of one run, or the folder of the page does not exist.
    """
    _check_one_run(given.run)
    if given.out is not None and not given.out.parent.is_dir():
        raise ValueError(f"--out must lie in a folder that exists; {given.out.parent} does not exist.")
    if given.other is None:
        page = write_report(given.run, given.out)
    else:
        _check_one_run(given.other)
        page = write_comparison(given.run, given.other, given.out)
    print_line(f"Report: {page}")


def _check_one_run(folder: Path) -> None:
    """Raises ``ValueError`` if the folder is that of a study."""
    results = ("evaluation.nc", "imputation.nc")
    variants = sorted({str(path.parent) for name in results for path in folder.glob(f"*/{name}")})
    if variants and not any((folder / name).exists() for name in results):
        raise ValueError(
            f"{folder} must be the folder of one run; it is that of a study. Give one of its variants: "
            f"{', '.join(variants)}."
        )
