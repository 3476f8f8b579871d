"""One page on a run: what was evaluated, the scores, the figures, the configuration.

The page needs nothing beside it: style and images lie inside, and it runs no script. Whatever a user may have
named (nodes, channels, units, the run, its files) is escaped.

A run's folder holds ``evaluation.nc`` and ``scores.json``, which ``tsgen test`` writes, or
``imputation.nc``, which ``tsgen predict`` writes, or all three. It may hold ``logs/fit/metrics.csv``
(training) and the configurations ``config_fit.yaml``, ``config_test.yaml`` and ``config_predict.yaml``.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from tsgen import figures
from tsgen.metrics import breakdown
from tsgen.report import page
from tsgen.report.imputation import imputation_section
from tsgen.report.reading import REMEDY, read_evaluation, read_scores
from tsgen.report.scores import PERCENT, SCORES, best
from tsgen.storage.privacy import scrubbed_text

_CONDITIONING = {
    "filtering": (
        "each hidden entry is drawn given what came before it in the window, and what is observed later "
        "is not seen. For a forecast nothing is observed later, so nothing is lost; a gap that ends could be "
        "filled better by a method that sees both of its sides"
    ),
    "posterior": "each hidden entry is drawn given everything visible in the window, before it and after it",
}
_MOST_NODES, _MOST_DOUBTS = 30, 12

Drawings = Mapping[str, Callable[[int], Figure]]


def write_report(run: Path, path: Path | None = None) -> Path:
    """Writes the report of a run that was tested, or that imputed.

    Args:
        run: The folder, with ``evaluation.nc`` and ``scores.json``, with ``imputation.nc``, or with all.
        path: The page; ``report.html`` in the folder if not given.

    Returns:
        The page's path.

    Raises:
        ValueError: If the folder or one of its files is missing or damaged, or nothing was hidden in the
            test.
    """
    run = Path(run)
    if not run.is_dir():
        raise ValueError(f"{run} must be the folder of a run; there is none. {REMEDY}")
    name, body = run.resolve().name, []
    training = _training_section(run / "logs" / "fit" / "metrics.csv")
    imputed = run / "imputation.nc"
    if (run / "evaluation.nc").exists() or not imputed.exists():
        scores = read_scores(run / "scores.json")
        evaluation = read_evaluation(run / "evaluation.nc")
        name = scores.get("run") or evaluation.attrs.get("run") or name
        body = evaluation_sections(evaluation, scores)
    if imputed.exists():
        body.append(imputation_section(imputed, scored=bool(body)))
    title = page.text(name)
    body = [f"<h1>{title}</h1>", *body, training, _configuration_section(run)]
    return page.write_page(path or run / "report.html", title, body)


def evaluation_sections(evaluation: xr.Dataset, scores: Mapping[str, Any]) -> list[str]:
    """All that is said of an evaluation, as HTML."""
    draws = figures.drawings(evaluation, scores)
    return [
        _introduction(evaluation, scores),
        _score_section(scores, evaluation),
        _doubt_section(evaluation, scores),
        _fan_section(evaluation, draws),
        _group_section(scores, draws),
        _calibration_section(evaluation, draws),
        _particle_section(draws),
        _network_section(evaluation, draws),
        _missing_section(draws),
        _node_section(scores, evaluation),
    ]


def _introduction(evaluation: xr.Dataset, scores: Mapping[str, Any]) -> str:
    sizes, conditioning = evaluation.sizes, evaluation.attrs["conditioning"]
    time = evaluation["time"].values
    dates = ""
    if np.issubdtype(time.dtype, np.datetime64) and not np.isnat(time).all():
        first, last = (np.datetime_as_string(end(time), unit="D") for end in (np.nanmin, np.nanmax))
        dates = f", between {first} and {last}".replace("-", "\u2011")  # hyphens that no line breaks at
    target = evaluation["target"]
    entries = int(target.sum())
    unknown = int(target.size) - entries - int(evaluation["context"].sum())
    samples = int(evaluation.attrs["num_samples"])
    model = page.text(evaluation.attrs.get("model") or scores.get("model") or scores["rows"][0]["name"])
    channels = f" with {sizes['channel']} channels each" if sizes["channel"] > 1 else ""
    draws = "one sample" if samples == 1 else f"{samples:,} joint samples"
    hidden = "one entry of known truth was" if entries == 1 else f"{entries:,} entries of known truth were"
    rest = ""
    if unknown:
        rest = f" Another {unknown:,} were drawn but not scored, since their truth is not known."
    return (
        f"<p>On {page.plural(sizes['window'], 'window')} of {page.plural(sizes['step'], 'step')} and "
        f"{page.plural(sizes['node'], 'node')}{channels}{dates}, {hidden} hidden from "
        f"<strong>{model}</strong> "
        f"and scored against {draws} of each window.{rest}</p>\n"
        f"<p>Its draws are <strong>{conditioning}</strong> draws: {_CONDITIONING[conditioning]}.</p>"
    )


def _score_section(scores: Mapping[str, Any], evaluation: xr.Dataset) -> str:
    rows = scores["rows"]
    exact = [figures.is_exact(row) for row in rows]
    columns, used = [], []
    for key in SCORES:
        values = [figures.number(row.get(key)) for row in rows]
        if all(math.isnan(v) for v in values):
            continue
        bold = best(key, [math.nan if bound else v for v, bound in zip(values, exact, strict=True)])
        shown = page.column(values, key in PERCENT)
        columns.append([f"<strong>{cell}</strong>" if i in bold else cell for i, cell in enumerate(shown)])
        used.append(key)
    if not used:
        return "<h2>Scores</h2>\n<p>Nothing was scored: no hidden entry has a known truth.</p>"
    cells = []
    for i, row in enumerate(rows):
        name = page.text(row["name"]) + (" (bound)" if exact[i] else "")
        cells.append([name, page.text(row.get("conditioning") or "–"), *(column[i] for column in columns)])
    classes = ["exact" if bound else "model" if i == 0 else "" for i, bound in enumerate(exact)]
    units = {str(unit) for unit in evaluation["unit"].values}
    unit = (
        f" in {page.text(units.pop())}" if len(units) == 1 and units != {""} else " in the units of the data"
    )
    note = f"MAE, RMSE, CRPS and widths are{unit}. Bold: best of its column."
    if any(exact):
        note += (
            " Rows marked as a bound are exact laws of the process that made the data, and are not ranked. "
            "Except by chance, no method beats the exact posterior, and none that does not see later "
            "observations beats exact filtering. One that does has seen what it should not."
        )
    terms = (
        "<dt>conditioning</dt><dd>filtering: an entry given what came before it, later observations unseen; "
        "posterior: given all that is visible</dd>"
    )
    terms += "".join(f"<dt>{SCORES[key][0]}</dt><dd>{SCORES[key][2]}</dd>" for key in used)
    bars = ""
    if {"crps", "mae"} & set(used):
        caption = "Lower is better. A dash: the method has no such score."
        if any(exact):
            caption += " Hollow bars and dotted lines: the exact laws."
        bars = page.picture(
            lambda n: figures.score_bars(scores, n), 2, "CRPS and MAE of all methods", caption
        )
    return "\n".join(
        [
            "<h2>Scores</h2>",
            page.table(["method", "conditioning", *(SCORES[key][0] for key in used)], cells, 2, classes),
            f'<p class="soft">{note}</p>',
            f"<details><summary>What the columns mean</summary><dl>{terms}</dl></details>",
            bars,
        ]
    )


def _doubt_section(evaluation: xr.Dataset, scores: Mapping[str, Any]) -> str:
    if not evaluation["target"].values.any():
        return ""
    heading = "<h2>Where not to trust it</h2>\n"
    rule = (
        f"A node, gap length, month or lead time of at least {breakdown.FEW} scored entries is listed if its "
        "90 % interval misses the truth at least 1.5 times as often as it should, or if its CRPS, "
        "relative to "
        "each node's deviation, is at least 1.5 times that of all entries; and either by more than two "
        "standard errors of independent entries. Entries near each other are not independent, so some are "
        "listed by chance. Nodes of which more than half was never observed, or nothing scored, are "
        "listed too. What is not listed is not thereby right."
    )
    found = breakdown.doubts(evaluation, scores)
    if not found:
        return f'{heading}<p>Nothing stands out.</p>\n<p class="soft">{rule}</p>'
    cells = [
        [
            f"{doubt.kind} <strong>{page.text(doubt.name)}</strong>",
            page.text("; ".join(doubt.reasons), 200),
            f"{doubt.entries:,}",
            page.column([doubt.covered], percent=True)[0],
            f"{doubt.ratio:.2f}" if math.isfinite(doubt.ratio) else "–",
        ]
        for doubt in found[:_MOST_DOUBTS]
    ]
    columns = ["where", "why", "scored entries", "in 90 %", "CRPS over that of all"]
    more = f"The first {_MOST_DOUBTS} of {len(found):,}. " if len(found) > _MOST_DOUBTS else ""
    table = page.table(columns, cells, 2).replace('class="table"', 'class="table words"')
    return f'{heading}{table}\n<p class="soft">{more}Worst first. {rule}</p>'


def _fan_section(evaluation: xr.Dataset, draws: Drawings) -> str:
    parts = ["<h2>Hidden entries and what the model makes of them</h2>"]
    scored = bool(evaluation["target"].any())
    channels = evaluation.sizes["channel"]
    for channel in range(min(channels, figures.MOST_CHANNELS)):
        name = figures.printable(evaluation["channel"].values[channel])
        caption = f"<strong>{page.text(name)}</strong>"
        if scored:
            caption += (
                " at the quantiles of the score, from the best to the worst of all pairs of a node "
                "and a window "
                "with at least half the usual number of scored entries. The score is the mean CRPS "
                "in standard "
                "deviations (sd) of the node's visible values, so that a node that varies much is not the "
                "worst for that alone"
            )
        caption += ". Bands are central intervals of the samples; they close on what is visible."
        draw = draws["imputation" + f"_{channel}" * (channel > 0)]
        parts.append(page.picture(draw, 3, f"Fan charts of {name}: best, median and worst", caption))
    if channels > figures.MOST_CHANNELS:
        shown = f"The first {figures.MOST_CHANNELS} of {channels} channels are shown."
        parts.append(f'<p class="soft">{shown}</p>')
    return "\n".join(parts)


def _group_section(scores: Mapping[str, Any], draws: Drawings) -> str:
    parts = []
    if "gap_length" in draws:
        caption = (
            "Entries by the length of the gap that they lie in: steps in a row at which the node is "
            "not visible. "
            "The dashed line is where calibrated intervals lie."
        )
        alt = "CRPS and coverage of the 90 % interval by gap length: "
        alt += "; ".join(
            f"{row['gap']} steps: CRPS {figures.number(row.get('crps')):.3g}"
            + (f", {100 * covered:.0f} % covered" * math.isfinite(covered))
            for row in scores["by_gap_length"]
            for covered in [figures.number(row.get("coverage_90"))]
        )
        parts += ["<h2>By gap length</h2>", page.picture(draws["gap_length"], 2, alt, caption)]
    if "lead_time" in draws:
        caption = "Entries by how many steps ahead they are forecast."
        alt = "CRPS and coverage of the 90 % interval by lead time"
        parts += ["<h2>By lead time</h2>", page.picture(draws["lead_time"], 2, alt, caption)]
    return "\n".join(parts)


def _calibration_section(evaluation: xr.Dataset, draws: Drawings) -> str:
    samples, entries = int(evaluation.attrs["num_samples"]), int((evaluation["rank"] >= 0).sum())
    if not entries:
        return ""
    if samples == 1:
        return "<h2>Calibration</h2>\n<p>Not shown: one sample has no spread to calibrate.</p>"
    caption = (
        f"From {page.plural(entries, 'rank')} among {samples:,} samples. A flat histogram and a curve on the "
        "diagonal are calibrated. A histogram high at both ends, or a curve below the diagonal: intervals "
        "are too narrow. A hump, or a curve above: too wide. A slope: biased. At each place the grey band "
        "holds 95 % of calibrated results if entries are independent. Those near in time or space are not, "
        "so the band is narrower than it should be, and small excursions mean little."
    )
    alt = "Histogram of the truth's rank, and coverage of central intervals"
    return "<h2>Calibration</h2>\n" + page.picture(draws["calibration"], 2, alt, caption)


def _particle_section(draws: Drawings) -> str:
    if "particles" not in draws:
        return ""
    caption = (
        "How many particles carry the weights at a step, as a share of all. Where few do, a "
        "posterior interval "
        "rests on a handful of draws: more particles are needed there."
    )
    alt = "Effective sample size by step: median and worst window"
    return "<h2>Particles</h2>\n" + page.picture(draws["particles"], 1, alt, caption)


def _network_section(evaluation: xr.Dataset, draws: Drawings) -> str:
    nodes, edges = evaluation.sizes["node"], evaluation.sizes["edge"]
    caption = f"{page.plural(nodes, 'node')}, {page.plural(edges, 'edge')}."
    if not figures.has_positions(evaluation):
        caption += " The nodes have no positions and stand on a circle."
    alt = "The graph, its nodes coloured by share never observed and by CRPS"
    return "<h2>Network</h2>\n" + page.picture(draws["network"], 2, alt, caption)


def _missing_section(draws: Drawings) -> str:
    caption = (
        "The evaluated stretch; nodes from the top in their given order. A line marks where steps "
        "were left out. "
        "A cell that stands for several entries mixes their colours. The bars count the whole series."
    )
    alt = "Map of time and nodes: visible, hidden and scored, or not known"
    return "<h2>What was seen</h2>\n" + page.picture(draws["missingness"], 2, alt, caption)


def _node_section(scores: Mapping[str, Any], evaluation: xr.Dataset) -> str:
    rows = scores["by_node"]
    if not rows:
        return ""
    keys = [
        key for key in ("crps", "mae") if any(math.isfinite(figures.number(row.get(key))) for row in rows)
    ]
    order = keys[0] if keys else None

    def badness(row: Mapping[str, Any]) -> float:
        value = figures.number(row.get(order)) if order else math.nan
        return -math.inf if math.isnan(value) else value

    worst = sorted(rows, key=badness, reverse=True)[:_MOST_NODES]
    names = [str(name) for name in evaluation["node"].values]
    missing = dict(zip(names, evaluation["share_missing"].values.tolist(), strict=True))
    columns = [page.column([figures.number(row.get(key)) for row in worst]) for key in keys]
    columns.append(
        page.column([figures.number(missing.get(str(row["node"]))) for row in worst], percent=True)
    )
    cells = [
        [page.text(row["node"]), page.count(row.get("entries")), *(column[i] for column in columns)]
        for i, row in enumerate(worst)
    ]
    which = (
        f"The {_MOST_NODES} worst of {len(rows):,} nodes"
        if len(rows) > _MOST_NODES
        else "All nodes, worst first"
    )
    if order:
        which += f", by {order.upper()}"
    heading = ["node", "scored entries", *(key.upper() for key in keys), "never observed"]
    return f'<h2>By node</h2>\n<p class="soft">{which}.</p>\n{page.table(heading, cells, 1)}'


def _training_section(metrics: Path) -> str:
    if not metrics.is_file() or not figures.read_curves(metrics):
        return ""
    caption = "The ring marks the best validation." if "validation" in figures.read_curves(metrics) else ""
    return "<h2>Training</h2>\n" + page.picture(
        lambda n: figures.training_curve(metrics), 1, "Training curve", caption
    )


def _configuration_section(run: Path) -> str:
    parts = []
    for name in ("config_fit.yaml", "config_test.yaml", "config_predict.yaml"):
        if (run / name).is_file():
            text = (run / name).read_text(encoding="utf-8", errors="replace")
            parts.append(
                f"<details><summary>{name}</summary><pre>{html.escape(scrubbed_text(text))}</pre></details>"
            )
    return "<h2>Configuration</h2>\n" + "\n".join(parts) if parts else ""
