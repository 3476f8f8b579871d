"""``tsgen impute``: fills the missing values of a table, without a configuration."""

from __future__ import annotations

import json
import math
import sys
import warnings
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import numpy as np

from tsgen.cli import interruption
from tsgen.cli.announcements import announced
from tsgen.data.series import GraphSeries
from tsgen.evaluation.columns import COLUMNS, format_number
from tsgen.evaluation.selfcheck import TooLittleObservedError
from tsgen.evaluation.terminal import print_table
from tsgen.imputer import check_steps, checked, draw, graph_of, weights_for
from tsgen.inference.completion import bands_of, complete, intervals, write_table
from tsgen.inference.conventions import add_places
from tsgen.inference.imputation import FarDrawsWarning
from tsgen.metrics.ensemble import enough_samples
from tsgen.models import AnyOrderModel
from tsgen.readers.excel import EXCEL
from tsgen.readers.layouts import Reading, read_table
from tsgen.readers.regular_times import format_spacing
from tsgen.readers.tables import CSV, PARQUET, Table, ends_in, open_table
from tsgen.report import write_report
from tsgen.storage.atomic import write_text
from tsgen.storage.display import print_line
from tsgen.training.fine_tuning import Progress

HEADINGS = {key: COLUMNS[key] for key in ("crps", "mae", "coverage_90")}
"""The scores of the check and their headings."""


def main(given: Namespace) -> None:
    """Reads the table, draws its missing values and writes the results.

    Args:
        given: ``table``, ``coordinates``, ``edges``, ``layout``, ``time_column``, ``node_column``,
            ``value_columns``, ``step``, ``out``, ``num_samples``, ``seed``, ``minutes``,
            ``support`` and ``level``.

    Raises:
        ValueError: If an option or something in a file is wrong.
    """
    _check_numbers(given)
    table = open_table(given.table)
    reading = read_table(
        table, given.layout, given.time_column, given.node_column, given.value_columns, given.step
    )
    check_steps(str(table.path), reading.contents)
    graph, origin = graph_of(reading.contents, given.coordinates, given.edges)
    print_line(f"Read {table.path}: {_size(reading)}; {origin}.")
    folder = given.out or Path(f"{table.name}_imputed")
    _prepare(folder, table)
    completed = folder / _completed(table)
    if not np.isnan(reading.contents.values).any():
        _write(table, reading, reading.contents.values, completed)
        print_line(f"No value is missing, so nothing was imputed. The same table: {completed}")
        return
    interruption.begin(folder)
    series = reading.series(graph)
    with warnings.catch_warnings(record=True) as caught, announced():
        warnings.simplefilter("always", FarDrawsWarning)
        model = _checked(given, series, folder)
        caught.clear()  # warnings of the check: those of all data follow
        draw(model, series, given.num_samples, given.seed, folder / "imputation.nc").close()
    if given.coordinates is not None and series.graph.pos is not None:
        add_places(folder / "imputation.nc", series.graph.pos.numpy())
    bands = bands_of(folder / "imputation.nc", given.level)
    _write(table, reading, bands.median, completed)
    write_table(intervals(table, reading, bands), folder / "intervals.csv")
    report = write_report(folder)
    for warning in caught:
        print_line(f"Warning: {warning.message}")
    print_line(f"Completed table: {completed}")
    if not enough_samples(given.num_samples, given.level):
        least = math.ceil(2 / (1 - given.level) - 1 - 1e-9)
        print_line(
            f"Warning: an interval of {100 * given.level:g} % needs at least {least:,} draws; that of "
            f"{given.num_samples:,} is their range, which is narrower. Give --num_samples {least}."
        )
    what = f"Median, mean and {100 * given.level:g} % interval of each value that was missing"
    print_line(f"{what}: {folder / 'intervals.csv'}")
    print_line(f"Draws: {folder / 'imputation.nc'}")
    print_line(f"Report: {report}")


def _checked(given: Namespace, series: GraphSeries, folder: Path) -> AnyOrderModel:
    """Returns the model; prints and writes how well it imputes a hidden tenth of what is observed."""
    path = folder / "selfcheck.json"
    if given.minutes:
        print_line(f"Training on the table for at most {given.minutes:g} minutes; --minutes 0 leaves it out.")
    try:
        model, check = checked(
            series, given.minutes, given.num_samples, given.seed, given.support, _Line().show
        )
    except TooLittleObservedError as error:
        path.unlink(missing_ok=True)
        print_line(f"No check on hidden values: {error}")
        return weights_for(series, 0, given.seed, given.support)
    how = "Train longer" if given.minutes else "Train on the table"
    advice = f"{how}: the same command with --minutes {max(5, 2 * given.minutes):g}."
    remarks = [*(f"{warning} {advice}" for warning in check.warnings), *check.remarks]
    names = sorted(check.scores, key=lambda name: check.scores[name]["crps_relative"])
    print_table(
        f"Check: {check.entries:,} measured values hidden and imputed",
        ["", *HEADINGS.values()],
        ([name, *(format_number(check.scores[name].get(key)) for key in HEADINGS)] for name in names),
        remarks=remarks,
    )
    content = {**asdict(check), "best": check.best, "warnings": check.warnings}
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return model


class _Line:
    """A line of a terminal that shows how far the training has come; shows nothing elsewhere."""

    def __init__(self) -> None:
        self.width = 0

    def show(self, progress: Progress) -> None:
        """Writes the line anew, or removes it at the end."""
        if not sys.stdout.isatty():
            return
        left = f"{progress.left // 60:.0f}:{progress.left % 60:02.0f}"
        loss = f"loss on hidden values {progress.best:.4g} (at the start {progress.start:.4g})"
        text = "" if progress.ended else f"Training: {loss}, {left} left"
        print("\r" + text.ljust(self.width), end="\r", flush=True)
        self.width = len(text)


def _check_numbers(given: Namespace) -> None:
    """Raises ``ValueError`` unless the numbers among the options are in their ranges."""
    if given.num_samples < 1:
        raise ValueError(f"--num_samples must be at least 1; got {given.num_samples}.")
    if not 0 < given.level < 1:
        raise ValueError(f"--level must be between 0 and 1, such as 0.9; got {given.level}.")
    if not 0 <= given.minutes < float("inf"):
        raise ValueError(f"--minutes must be 0 or more; got {given.minutes}.")


def _size(reading: Reading) -> str:
    """Returns the size of a series, its step and its share of missing values as text."""
    contents = reading.contents
    time = contents.time
    ticks = time.astype(np.int64) if time.dtype.kind == "M" else time
    step = format_spacing((ticks[1] - ticks[0]).item(), time.dtype)
    channels = f" x {len(contents.channels)} quantities" * (len(contents.channels) > 1)
    nodes = f"{len(contents.nodes):,} node{'s' * (len(contents.nodes) > 1)}"
    size = f"{len(time):,} steps of {step} x {nodes}{channels}"
    return f"a {reading.layout} table of {size}, {100 * np.isnan(contents.values).mean():.3g} % missing"


def _completed(table: Table) -> str:
    """Returns the name of the completed table: that of a file of the same kind."""
    endings = [ending for ending in (*CSV, *PARQUET, *EXCEL) if ends_in(table.path, (ending,))]
    return f"completed{max(endings, key=len)}"


def _write(table: Table, reading: Reading, values: np.ndarray, path: Path) -> None:
    """Writes the completed table."""
    like = Path(table.path) if ends_in(path, PARQUET) else None
    write_table(complete(table, reading, values), path, like)


def _prepare(folder: Path, table: Table) -> None:
    """Creates the folder of the results; raises ``ValueError`` if they would replace the table."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out must be a folder; {folder} is a file.")
    if (folder / _completed(table)).resolve() == Path(table.path).resolve():
        raise ValueError(f"the results would replace {table.path}; give another folder with --out.")
    folder.mkdir(parents=True, exist_ok=True)
