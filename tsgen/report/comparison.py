"""One page on two runs that scored the same entries."""

from __future__ import annotations

import difflib
import html
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from tsgen import figures
from tsgen.evaluation.comparison import OTHER_CONDITIONING, Difference, compare, other_conditioning
from tsgen.figures.compared import compared_calibration, compared_fans, differing_panels
from tsgen.metrics.breakdown import by_group
from tsgen.report import page
from tsgen.report.reading import REMEDY, read_evaluation, read_scores
from tsgen.report.scores import PERCENT, SCORES, best
from tsgen.storage.privacy import scrubbed_text

_MOST_NODES = 30


def write_comparison(first: Path, second: Path, path: Path | None = None) -> Path:
    """Writes one page on two runs side by side.

    Args:
        first: The folder of a run that was tested.
        second: The folder of another one.
        path: The page; ``FIRST_vs_SECOND.html`` beside the first folder if not given.

    Returns:
        The page's path.

    Raises:
        ValueError: If a folder or one of its files is missing or damaged, or the two did not score the same
            entries.
    """
    folders = [Path(first), Path(second)]
    if folders[0].resolve() == folders[1].resolve():
        raise ValueError(f"two runs must be compared; both are {first}. Name another one.")
    scores, evaluations = [], []
    for run in folders:
        if not run.is_dir():
            raise ValueError(f"{run} must be the folder of a run; there is none. {REMEDY}")
        scores.append(read_scores(run / "scores.json"))
        evaluations.append(read_evaluation(run / "evaluation.nc"))
    try:
        found = compare(evaluations[0], evaluations[1])
    except ValueError as error:
        raise ValueError(f"{first} and {second}: {error} Test both alike.") from error
    names = _names(folders, scores)
    runs = dict(zip(names, evaluations, strict=True))
    tables = dict(zip(names, scores, strict=True))
    title = f"{page.text(names[0])} and {page.text(names[1])}"
    body = [
        f"<h1>{title}</h1>",
        _introduction(runs, tables),
        _score_section(tables, found, other_conditioning(evaluations[0], evaluations[1])),
        _group_section(runs, tables),
        _fan_section(runs),
        _calibration_section(runs),
        _node_section(runs),
        _configuration_section(names, folders),
    ]
    stem = "_vs_".join(run.resolve().name for run in folders)
    return page.write_page(path or folders[0].parent / f"{stem}.html", title, body)


def _names(folders: list[Path], scores: list[dict[str, Any]]) -> list[str]:
    """What the runs are called: their names, or their paths if these are the same."""
    names = [str(table.get("run") or run.resolve().name) for run, table in zip(folders, scores, strict=True)]
    shown = [figures.printable(name, 20) for name in names]
    if shown[0] != shown[1]:
        return names
    # the ends of their paths, as long as it takes to tell them apart
    ends = [str(Path(*run.resolve().parts[-k:])) for k in range(1, 99) for run in folders]
    pairs = zip(ends[::2], ends[1::2], strict=True)
    return next([f"{i}: {end}" for i, end in enumerate(pair, 1)] for pair in pairs if pair[0] != pair[1])


def _introduction(runs: Mapping[str, xr.Dataset], tables: Mapping[str, Any]) -> str:
    words = []
    for name, evaluation in runs.items():
        conditioning = str(evaluation.attrs["conditioning"])
        model = page.text(evaluation.attrs.get("model") or tables[name]["rows"][0]["name"])
        samples = page.plural(int(evaluation.attrs["num_samples"]), "sample")
        words.append(f"<strong>{page.text(name)}</strong> ({model}, {conditioning}, {samples})")
    evaluation = next(iter(runs.values()))
    text = (
        f"<p>{words[0]} and {words[1]} answered the same questions: "
        f"{int(evaluation['target'].sum()):,} hidden entries in "
        f"{page.plural(evaluation.sizes['window'], 'window')} of "
        f"{page.plural(evaluation.sizes['node'], 'node')}."
        "</p>"
    )
    return text + f"\n<p>{OTHER_CONDITIONING}</p>" * other_conditioning(*runs.values())


def _score_section(tables: Mapping[str, Any], found: Sequence[Difference], conditioning_differs: bool) -> str:
    rows = [table["rows"][0] for table in tables.values()]
    spans = {row.score: row.interval for row in found if row.group is None and row.interval}
    cells = []
    for key, (heading, ideal, _) in SCORES.items():
        pair = [figures.number(row.get(key)) for row in rows]
        if not any(math.isfinite(value) for value in pair):
            continue
        change = pair[1] - pair[0]
        share = change / pair[0] if ideal == 0 and pair[0] > 0 else math.nan
        span = spans.get(key)
        *shown, gap = page.column([*pair, change], key in PERCENT)
        chance = span is not None and span[0] <= 0 <= span[1]
        bold = set() if chance or (key == "nll" and conditioning_differs) else best(key, pair)
        shown = [f"<strong>{cell}</strong>" if i in bold else cell for i, cell in enumerate(shown)]
        sign = "+" * (change > 0)
        relative = (
            ("+" * (share > 0) + page.column([share], percent=True)[0]) if math.isfinite(share) else "–"
        )
        interval = " to ".join(page.column(list(span), key in PERCENT)) if span else "–"
        cells.append([heading, *shown, sign + gap, interval, relative])
    names = (page.text(name, 32) for name in tables)
    heading_row = ["score", *names, "difference", "its 95 % interval", "relative"]
    note = (
        "The difference is that of the second to the first, its interval is over windows. Bold: better, "
        "unless the interval holds zero. Without an interval a difference may be chance; and with one it may "
        "be another with another seed or another year."
    )
    return f'<h2>Scores</h2>\n{page.table(heading_row, cells, 1)}\n<p class="soft">{note}</p>'


def _group_section(runs: Mapping[str, xr.Dataset], tables: Mapping[str, Any]) -> str:
    parts = []
    evaluation = next(iter(runs.values()))
    gaps = [[row["gap"] for row in table.get("by_gap_length", [])] for table in tables.values()]
    if gaps[0] and gaps[0] == gaps[1]:
        draw = page.picture(
            lambda n: figures.by_gap(tables, evaluation, n),
            2,
            "CRPS and coverage of the 90 % interval of both runs by gap length",
            "Entries by the length of the gap that they lie in.",
        )
        parts += ["<h2>By gap length</h2>", draw]
    leads = [[row["lead"] for row in table.get("by_lead_time", [])] for table in tables.values()]
    if leads[0] and leads[0] == leads[1] and len(leads[0]) <= evaluation.sizes["step"]:
        both = {name: (runs[name], tables[name]) for name in runs}
        draw = page.picture(
            lambda n: figures.by_lead(both, n),
            2,
            "CRPS and coverage of the 90 % interval of both runs by lead time",
            "Entries by how many steps ahead they are forecast.",
        )
        parts += ["<h2>By lead time</h2>", draw]
    return "\n".join(parts)


def _fan_section(runs: Mapping[str, xr.Dataset]) -> str:
    parts = ["<h2>The same windows</h2>"]
    first, second = runs.values()
    names = [page.text(name) for name in runs]
    for channel in range(min(first.sizes["channel"], figures.MOST_CHANNELS)):
        panels = differing_panels(first, second, channel)
        name = figures.printable(first["channel"].values[channel])
        caption = (
            f"<strong>{page.text(name)}</strong>: the pair of a node and a window where {names[1]} "
            "gains most "
            f"on {names[0]}, the pair of the median difference, and the one where it loses most. The "
            "difference "
            "is that of the mean CRPS in standard deviations (sd) of the node's visible values."
        )
        alt = f"Fan charts of {name}: the same windows as both runs see them"
        parts.append(page.picture(partial(compared_fans, runs, panels), 2, alt, caption))
    return "\n".join(parts)


def _calibration_section(runs: Mapping[str, xr.Dataset]) -> str:
    if any(int(evaluation.attrs["num_samples"]) == 1 for evaluation in runs.values()):
        return "<h2>Calibration</h2>\n<p>Not shown: one sample has no spread to calibrate.</p>"
    caption = (
        "A flat histogram and a curve on the diagonal are calibrated. At each place the grey band "
        "holds 95 % of "
        "calibrated results if entries are independent; those near in time or space are not, so the band is "
        "narrower than it should be."
    )
    alt = "Histograms of the truth's rank for both runs, and the coverage of both"
    return "<h2>Calibration</h2>\n" + page.picture(lambda n: compared_calibration(runs, n), 3, alt, caption)


def _node_section(runs: Mapping[str, xr.Dataset]) -> str:
    first = next(iter(runs.values()))
    nodes = first.sizes["node"]
    groups = [by_group(e, np.arange(nodes)[:, None], nodes) for e in runs.values()]
    one = first.sizes["channel"] == 1
    pair = [group.crps if one else group.relative for group in groups]
    change = pair[1] - pair[0]
    order = np.argsort(-np.abs(np.nan_to_num(change)), kind="stable")[:_MOST_NODES]
    columns = [page.column(values[order].tolist()) for values in (*pair, change)]
    cells = [
        [page.text(first["node"].values[v]), f"{groups[0].entries[v]:,}", *(column[i] for column in columns)]
        for i, v in enumerate(order)
    ]
    score = "CRPS" if one else "relative CRPS"
    heading = ["node", "scored entries", *(f"{score}: {page.text(n, 24)}" for n in runs), "difference"]
    which = f"{_MOST_NODES} of {nodes:,} nodes" if nodes > _MOST_NODES else "All nodes"
    names = list(runs)
    caption = f"Blue: {page.text(names[0])} is better. Orange: {page.text(names[1])} is better."
    caption += " White ring: not scored." * bool(np.isnan(change).any())
    if not figures.has_positions(first):
        caption += " The nodes have no positions and stand on a circle."
    alt = "The graph, its nodes coloured by the difference of the mean CRPS of the two runs"
    draw = page.picture(lambda n: figures.network_difference(first, change, n), 1, alt, caption)
    words = f'<p class="soft">{which}, the largest differences first.</p>'
    return f"<h2>By node</h2>\n{draw}\n{words}\n{page.table(heading, cells, 1)}"


def _configuration_section(names: list[str], folders: list[Path]) -> str:
    parts = []
    for name in ("config_fit.yaml", "config_test.yaml"):
        files = [run / name for run in folders]
        if all(file.is_file() for file in files):
            lines = [file.read_text(encoding="utf-8", errors="replace").splitlines() for file in files]
            found = "\n".join(difflib.unified_diff(lines[0], lines[1], names[0], names[1], n=2, lineterm=""))
            shown = f"<pre>{html.escape(scrubbed_text(found))}</pre>" if found else "<p>No difference.</p>"
            parts.append(f"<details><summary>{name}: what differs</summary>{shown}</details>")
    return "<h2>Configuration</h2>\n" + "\n".join(parts) if parts else ""
