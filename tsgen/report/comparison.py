"""The page on two runs that scored the same entries; its template is ``comparison.html.j2``."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from tsgen import figures
from tsgen.argument_types import check_arguments
from tsgen.evaluation.comparison import OTHER_CONDITIONING, Difference, compare, other_conditioning
from tsgen.figures.compared import compared_calibration, compared_fans, differing_panels
from tsgen.metrics.breakdown import by_group
from tsgen.report.page import write_page
from tsgen.report.pictures import Picture, picture
from tsgen.report.reading import read_evaluation, read_scores, require_run
from tsgen.report.scores import PERCENT, SCORES
from tsgen.report.tables import MAX_NODES, Cell, Row, column, count, name
from tsgen.storage.privacy import scrubbed_text


@check_arguments
def write_comparison(first: Path, second: Path, path: Path | None = None) -> Path:
    """Writes a page that compares two runs.

    Args:
        first: The folder of a tested run.
        second: The folder of another tested run.
        path: The file of the page; ``FIRST_vs_SECOND.html`` beside the first folder if not given.

    Returns:
        The path of the page.

    Raises:
        ValueError: If a folder or one of its files is missing or damaged, or the runs did not score the same
            entries.
    """
    folders = [Path(first), Path(second)]
    if folders[0].resolve() == folders[1].resolve():
        raise ValueError(f"the two runs must differ; both are {first}. Name two different runs.")
    scores, evaluations = [], []
    for run in folders:
        require_run(run)
        scores.append(read_scores(run / "scores.json"))
        evaluations.append(read_evaluation(run / "evaluation.nc"))
    try:
        found = compare(evaluations[0], evaluations[1])
    except ValueError as error:
        raise ValueError(f"{first} and {second}: {error} Test both runs with the same options.") from error
    names = _names(folders, scores)
    runs, tables = dict(zip(names, evaluations, strict=True)), dict(zip(names, scores, strict=True))
    stem = "_vs_".join(run.resolve().name for run in folders)
    return write_page(
        Path(path or folders[0].parent / f"{stem}.html"),
        "comparison.html.j2",
        title=" and ".join(map(name, names)),
        names=[name(run, 32) for run in names],
        **_sections(runs, tables, found),
        files=configuration_differences(names, folders),
    )


def _names(folders: list[Path], scores: list[dict[str, Any]]) -> list[str]:
    """Returns the runs' names or, if these look the same, the shortest ends of their paths that differ."""
    names = [str(table.get("run") or run.resolve().name) for run, table in zip(folders, scores, strict=True)]
    shown = [name(run, 20) for run in names]
    if shown[0] != shown[1]:
        return names
    ends = [str(Path(*run.resolve().parts[-k:])) for k in range(1, 99) for run in folders]
    pairs = zip(ends[::2], ends[1::2], strict=True)
    return next([f"{i}: {end}" for i, end in enumerate(pair, 1)] for pair in pairs if pair[0] != pair[1])


def _sections(
    runs: Mapping[str, xr.Dataset], tables: Mapping[str, Any], found: Sequence[Difference]
) -> dict[str, Any]:
    first, second = runs.values()
    return {
        "runs": [_described(run, evaluation, tables[run]) for run, evaluation in runs.items()],
        "entries": int(first["target"].sum()),
        "windows": first.sizes["window"],
        "warning": OTHER_CONDITIONING if other_conditioning(first, second) else "",
        "scores": _score_rows(tables, found),
        "gaps": _gaps(first, tables),
        "leads": _leads(runs, tables),
        "fans": [_fan(runs, i) for i in range(min(first.sizes["channel"], figures.MAX_CHANNELS))],
        "calibration": _calibration(runs),
        "nodes": _nodes(runs),
    }


def _described(run: str, evaluation: xr.Dataset, table: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name(run),
        "model": name(evaluation.attrs.get("model") or table["rows"][0]["name"]),
        "conditioning": str(evaluation.attrs["conditioning"]),
        "samples": int(evaluation.attrs["num_samples"]),
    }


def _score_rows(tables: Mapping[str, Any], found: Sequence[Difference]) -> list[Row]:
    """Returns one row per score that either run has.

    Args:
        tables: The content of ``scores.json`` by run name.
        found: The differences, with their intervals.
    """
    overall = {row.score: row for row in found if row.group is None}
    rows = []
    for key in SCORES:
        pair = [figures.number(table["rows"][0].get(key)) for table in tables.values()]
        if any(math.isfinite(value) for value in pair):
            rows.append(_score_row(key, pair, overall.get(key)))
    return rows


def _score_row(key: str, pair: list[float], found: Difference | None) -> Row:
    """Returns the row of one score: both values, their difference, its interval and the relative difference.

    Args:
        key: The key of the score.
        pair: The values of the two runs; NaN if a run lacks the score.
        found: The difference with its interval, if known. The value of the better run is bold.
    """
    percent = key in PERCENT
    change = pair[1] - pair[0]
    share = change / pair[0] if SCORES[key].best == 0 and pair[0] > 0 else math.nan
    bold = (None, "a", "b").index(found.better) - 1 if found else -1
    span = found.interval if found else None
    *shown, difference = column([*pair, change], percent)
    relative = column([share], percent=True)[0]
    return Row(
        [
            SCORES[key].heading,
            *(Cell(text, i == bold) for i, text in enumerate(shown)),
            "+" * (change > 0) + difference,
            " to ".join(column(list(span), percent)) if span else "–",
            "+" * (share > 0) + relative,
        ]
    )


def _gaps(first: xr.Dataset, tables: Mapping[str, Any]) -> Picture | None:
    """Returns the figure of scores by gap length; None unless both runs have the same gap lengths."""
    gaps = [[row["gap"] for row in table.get("by_gap_length", [])] for table in tables.values()]
    if not gaps[0] or gaps[0] != gaps[1]:
        return None
    return picture(lambda columns: figures.by_gap(tables, first, columns), 2)


def _leads(runs: Mapping[str, xr.Dataset], tables: Mapping[str, Any]) -> Picture | None:
    """Returns the figure of scores by lead time; None unless both runs have the same lead times."""
    steps = next(iter(runs.values())).sizes["step"]
    leads = [[row["lead"] for row in table.get("by_lead_time", [])] for table in tables.values()]
    if not leads[0] or leads[0] != leads[1] or len(leads[0]) > steps:
        return None
    both = {run: (runs[run], tables[run]) for run in runs}
    return picture(lambda columns: figures.by_lead(both, columns), 2)


def _fan(runs: Mapping[str, xr.Dataset], channel: int) -> dict[str, Any]:
    first, second = runs.values()
    panels = differing_panels(first, second, channel)
    return {
        "name": name(first["channel"].values[channel]),
        "picture": picture(partial(compared_fans, runs, panels), 2),
    }


def _calibration(runs: Mapping[str, xr.Dataset]) -> Picture | None:
    """Returns the calibration figure of both runs; None if one of them has a single sample."""
    if any(int(evaluation.attrs["num_samples"]) == 1 for evaluation in runs.values()):
        return None
    return picture(lambda columns: compared_calibration(runs, columns), 3)


def _nodes(runs: Mapping[str, xr.Dataset]) -> dict[str, Any]:
    """Returns the nodes ordered by their difference in CRPS, the largest first.

    If there are several channels, the CRPS is relative to the standard deviation of each node and channel.
    """
    first = next(iter(runs.values()))
    nodes, single = first.sizes["node"], first.sizes["channel"] == 1
    groups = [by_group(e, np.arange(nodes)[:, None], nodes) for e in runs.values()]
    pair = [group.crps if single else group.relative for group in groups]
    change = pair[1] - pair[0]
    order = np.argsort(-np.abs(np.nan_to_num(change)), kind="stable")[:MAX_NODES]
    columns = [
        [name(node) for node in first["node"].values[order]],
        [count(int(entries)) for entries in groups[0].entries[order]],
        *(column(values[order].tolist()) for values in (*pair, change)),
    ]
    score = "CRPS" if single else "relative CRPS"
    return {
        "picture": picture(lambda columns: figures.network_difference(first, change, columns), 1),
        "rows": [Row(cells) for cells in zip(*columns, strict=True)],
        "total": nodes,
        "headings": [f"{score}: {name(run, 24)}" for run in runs],
        "unscored": bool(np.isnan(change).any()),
        "positions": figures.has_positions(first),
    }


def configuration_differences(names: list[str], folders: list[Path]) -> list[tuple[str, str]]:
    """Returns the file name and the difference, without secrets, of each configuration that both runs have.

    Args:
        names: The runs' names.
        folders: The runs' folders.
    """
    found = []
    for file in ("config_fit.yaml", "config_test.yaml"):
        if all((run / file).is_file() for run in folders):
            texts = [(run / file).read_text(encoding="utf-8", errors="replace") for run in folders]
            first, second = (text.splitlines() for text in texts)
            difference = difflib.unified_diff(first, second, names[0], names[1], n=2, lineterm="")
            found.append((file, scrubbed_text("\n".join(difference))))
    return found
