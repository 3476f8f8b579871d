"""One page on a run: what was evaluated, the scores, the figures, the configuration.

The page needs nothing beside it: style and images lie inside, and it runs no script. Whatever a user may have
named (nodes, channels, units, the run, its files) is escaped.

A run's folder holds ``evaluation.nc`` and ``scores.json``, which ``tsgen test`` writes, and may hold
``logs/fit/metrics.csv`` (training) and the configurations ``config_fit.yaml`` and ``config_test.yaml``.
"""

from __future__ import annotations

import base64
import functools
import html
import io
import json
import math
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from tsgen.report import figures

_REMEDY = "Write it with: tsgen test --config EXPERIMENT.yaml"
_ENTRY = ("window", "step", "node", "channel")
_VARIABLES = {
    "truth": _ENTRY,
    "context": _ENTRY,
    "target": _ENTRY,
    "rank": _ENTRY,
    "crps": _ENTRY,
    "quantiles": ("quantile", *_ENTRY),
    "quantile": ("quantile",),
    "node": ("node",),
    "channel": ("channel",),
    "unit": ("channel",),
    "time": ("window", "step"),
    "share_missing": ("node",),
    "edge_source": ("edge",),
    "edge_target": ("edge",),
    "edge_weight": ("edge",),
}
_LAWS = {
    "filtering": (
        "each hidden entry is drawn given what came before it in the window, and what is observed later "
        "is not seen. For a forecast nothing is observed later, so nothing is lost; a gap that ends could be "
        "filled better by a method that sees both of its sides"
    ),
    "posterior": "each hidden entry is drawn given everything visible in the window, before it and after it",
}
_SCORES = {  # key: heading, what is best (None: nothing by itself), what it means
    "mae": ("MAE", 0.0, "mean absolute error of the median of the samples"),
    "rmse": ("RMSE", 0.0, "root of the mean squared error of the median"),
    "mre": ("MRE", 0.0, "sum of absolute errors over the sum of absolute truths"),
    "crps": ("CRPS", 0.0, "continuous ranked probability score: the absolute error of a whole distribution"),
    "crps_quantile": ("CRPS, normalised", 0.0, "from 19 quantiles, over the mean absolute truth"),
    "nll": ("NLL", -math.inf, "negative log-likelihood of the truth, in nats per scored entry"),
    "coverage_50": ("50 % coverage", 0.5, "share of truths inside the central 50 % interval: best at 50 %"),
    "coverage_90": ("90 % coverage", 0.9, "share of truths inside the central 90 % interval: best at 90 %"),
    "width_50": ("50 % width", None, "mean width of the 50 % interval: narrow is good if coverage is right"),
    "width_90": ("90 % width", None, "mean width of the 90 % interval"),
    "from_exact": (
        "from exact",
        0.0,
        "root mean squared distance of the median to the exact posterior mean, in its standard deviations",
    ),
}
_PERCENT = {"mre", "coverage_50", "coverage_90", "share_missing"}
_MOST_NODES, _MOST_CHANNELS = 30, 4

_STYLE = """
:root { color-scheme: light dark;
  --ink: #1f2328; --soft: #59636e; --line: #d8dee4; --back: #fff; --tint: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --soft: #9aa4af; --line: #39414a; --back: #14181d; --tint: #1d232a; }
}
body { margin: 0 auto; max-width: 66rem; padding: 1.5rem 1rem 4rem;
  background: var(--back); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .2rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: .6rem 0; }
.soft, figcaption, summary, dl { color: var(--soft); font-size: .9rem; }
figure { margin: 1rem 0; }
figcaption { max-width: 46rem; margin-top: .5rem; }
img { display: block; width: 100%; height: auto; }
picture { display: block; box-sizing: border-box; padding: .5rem; background: #fff; border-radius: 6px; }
.table { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; overflow-wrap: normal;
  font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .9rem .35rem 0; text-align: right; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
th { font-weight: 600; color: var(--soft); vertical-align: bottom; }
.text { text-align: left; }
tr.model td { background: var(--tint); }
tr.exact td { color: var(--soft); font-style: italic; }
pre { overflow-x: auto; padding: .8rem; background: var(--tint); border-radius: 6px; font-size: .8rem; }
dt { float: left; clear: left; margin-right: .5rem; font-weight: 600; }
dd { margin: 0; }
details { margin: .8rem 0; }
summary { cursor: pointer; }
"""


def write_report(run: Path) -> Path:
    """Writes ``report.html`` into the folder of an evaluated run.

    Args:
        run: The folder, with ``evaluation.nc`` and ``scores.json``.

    Returns:
        The page's path.

    Raises:
        ValueError: If the folder or one of its files is missing or damaged, or nothing was hidden in the
            test.
    """
    run = Path(run)
    if not run.is_dir():
        raise ValueError(f"{run} must be the folder of a run; there is none. {_REMEDY}")
    scores = _read_scores(run / "scores.json")
    evaluation = _read_evaluation(run / "evaluation.nc")
    name = _text(scores.get("run") or evaluation.attrs.get("run") or run.resolve().name)
    body = [
        f"<h1>{name}</h1>",
        _introduction(evaluation, scores),
        _score_section(scores, evaluation),
        _fan_section(evaluation),
        _calibration_section(evaluation),
        _network_section(evaluation),
        _node_section(scores, evaluation),
        _training_section(run / "logs" / "fit" / "metrics.csv"),
        _configuration_section(run),
    ]
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # nothing is loaded and nothing runs, whatever the page may hold
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{name}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(filter(None, body))
        + "\n</body>\n</html>\n"
    )
    path = run / "report.html"
    path.write_text(page, encoding="utf-8", errors="replace")  # half a surrogate pair has no encoding
    return path


# ---------------------------------------------------------------------------------------------------- reading


def _read_evaluation(path: Path) -> xr.Dataset:
    if not path.is_file():
        raise ValueError(f"{path} is missing. {_REMEDY}")
    try:
        evaluation = xr.load_dataset(path, engine="netcdf4")
    except Exception as error:  # a damaged file fails wherever it happens to be damaged
        raise ValueError(f"{path} is damaged: it cannot be read as netCDF. {_REMEDY}") from error
    for name, dims in _VARIABLES.items():
        if name not in evaluation.variables:
            raise ValueError(f"{path} must have a variable {name!r}; it has none. {_REMEDY}")
        if evaluation[name].dims != dims:
            came = ", ".join(map(str, evaluation[name].dims))
            raise ValueError(
                f"{name!r} in {path} must run over {', '.join(dims)}; it runs over {came}. {_REMEDY}"
            )
    empty = [dim for dim in _ENTRY if evaluation.sizes[dim] == 0]
    if empty:
        raise ValueError(f"{path} must have at least one {empty[0]}; it has none. {_REMEDY}")
    levels = evaluation["quantile"].values
    if levels.shape != (5,) or not np.allclose(levels, [0.05, 0.25, 0.5, 0.75, 0.95], atol=1e-6):
        raise ValueError(f"{path} must have the quantiles 0.05, 0.25, 0.5, 0.75 and 0.95. {_REMEDY}")
    law, samples = evaluation.attrs.get("law"), evaluation.attrs.get("num_samples", 0)
    if law not in _LAWS:
        raise ValueError(f"law in {path} must be filtering or posterior; it is {str(law)[:40]!r}. {_REMEDY}")
    if not isinstance(samples, (int, np.integer)) or samples < 1:
        raise ValueError(f"num_samples in {path} must be an integer, at least 1. {_REMEDY}")
    # a writer with a fill value leaves floats
    evaluation["rank"] = evaluation["rank"].fillna(-1).astype(np.int64)
    if evaluation["rank"].max() > samples:
        raise ValueError(f"ranks in {path} must not exceed num_samples = {samples}. {_REMEDY}")
    for end in ("edge_source", "edge_target"):
        if not np.isin(evaluation[end].values, np.arange(evaluation.sizes["node"])).all():
            raise ValueError(f"{end!r} in {path} must number nodes from 0. {_REMEDY}")
    for mask in ("context", "target"):
        evaluation[mask] = evaluation[mask].astype(bool)
    return evaluation


def _read_scores(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} is missing. {_REMEDY}")
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: it cannot be read as JSON. {_REMEDY}") from error
    if isinstance(scores, dict) and "by_node" not in scores:
        raise ValueError(
            f"{path} must have scores by node; it has none, for nothing was hidden in the test: densities "
            "alone were scored, and there is nothing to draw. To hide the last steps: tsgen test --config "
            "EXPERIMENT.yaml --data.horizon STEPS"
        )
    for key, label in (("rows", "name"), ("by_node", "node")):
        rows = scores.get(key) if isinstance(scores, dict) else None
        whole = isinstance(rows, list) and all(isinstance(row, dict) and label in row for row in rows)
        if not whole or (key == "rows" and not rows):
            raise ValueError(f"{path} must have a list {key!r} whose items have a {label!r}. {_REMEDY}")
    return scores


# ---------------------------------------------------------------------------------------------------- writing


def _text(value: Any) -> str:
    """Any name as HTML that shows it."""
    return html.escape(figures.printable(value, 80))


def _count(value: Any) -> str:
    return f"{figures.number(value):,.0f}" if math.isfinite(figures.number(value)) else "–"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _column(values: Sequence[float], percent: bool = False) -> list[str]:
    """The numbers of a table's column, all to one decimal place: four digits in the middle one."""
    known = [abs(v) for v in values if math.isfinite(v) and v != 0]
    middle = statistics.median_low(known) if known else 1.0
    decimals = 1 if percent else min(max(3 - math.floor(math.log10(middle)), 0), 9)

    def show(value: float) -> str:
        if math.isinf(value):
            return "∞" if value > 0 else "−∞"
        if math.isnan(value):
            return "–"
        if not percent and not 1e-6 < abs(value) < 1e9 and value != 0:
            return f"{value:.3e}".replace("-", "−")
        shown = f"{100 * value:,.1f} %" if percent else f"{value:,.{decimals}f}"
        return shown.replace("-", "−")

    return [show(value) for value in values]


def _table(
    heading: Sequence[str], rows: Sequence[Sequence[str]], words: int, classes: Sequence[str] | None = None
) -> str:
    """A table of cells that are HTML already; the first columns are words, the others numbers."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}{' class=text' * (i < words)}>{cell}</{tag}>" for i, cell in enumerate(cells))

    lines = [f"<tr>{line(heading, 'th')}</tr>"]
    for row, name in zip(rows, classes or [""] * len(rows), strict=True):
        lines.append(f'<tr class="{name}">{line(row, "td")}</tr>')
    return '<div class="table"><table>\n' + "\n".join(lines) + "\n</table></div>"


def _encode(figure: Figure) -> str:
    buffer = io.BytesIO()
    # text stays text, so that the browser finds the letters of any script; the salt makes writing repeatable
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tsgen"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="svg", dpi=160, metadata={"Date": None, "Creator": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _picture(draw: Callable[[int], Figure], columns: int, alt: str, caption: str) -> str:
    """A figure in two layouts: side by side, and one panel under the other for a narrow screen."""
    wide, narrow = draw(columns), draw(1)
    width, height = (round(96 * inches) for inches in wide.get_size_inches())
    source = ""
    if tuple(narrow.get_size_inches()) != tuple(wide.get_size_inches()):
        source = f'<source media="(max-width: 640px)" srcset="{_encode(narrow)}">'
    return (
        f'<figure><picture style="max-width: {width}px">{source}'
        f'<img alt="{html.escape(alt)}" width="{width}" height="{height}" src="{_encode(wide)}"></picture>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _introduction(evaluation: xr.Dataset, scores: Mapping[str, Any]) -> str:
    sizes, law = evaluation.sizes, evaluation.attrs["law"]
    time = evaluation["time"].values
    dates = ""
    if np.issubdtype(time.dtype, np.datetime64) and not np.isnat(time).all():
        first, last = (np.datetime_as_string(end(time), unit="D") for end in (np.nanmin, np.nanmax))
        dates = f", between {first} and {last}".replace("-", "\u2011")  # hyphens that no line breaks at
    target = evaluation["target"]
    entries = int(target.sum())
    unknown = int(target.size) - entries - int(evaluation["context"].sum())
    samples = int(evaluation.attrs["num_samples"])
    model = _text(evaluation.attrs.get("model") or scores.get("model") or scores["rows"][0]["name"])
    channels = f" with {sizes['channel']} channels each" if sizes["channel"] > 1 else ""
    draws = "one sample" if samples == 1 else f"{samples:,} joint samples"
    hidden = "one entry of known truth was" if entries == 1 else f"{entries:,} entries of known truth were"
    rest = ""
    if unknown:
        rest = f" Another {unknown:,} were drawn but not scored, since their truth is not known."
    return (
        f"<p>On {_plural(sizes['window'], 'window')} of {_plural(sizes['step'], 'step')} and "
        f"{_plural(sizes['node'], 'node')}{channels}{dates}, {hidden} hidden from <strong>{model}</strong> "
        f"and scored against {draws} of each window.{rest}</p>\n"
        f"<p>Its law is <strong>{law}</strong>: {_LAWS[law]}.</p>"
    )


def _best(key: str, values: Sequence[float]) -> set[int]:
    """Which of the values show as the best: those nearest to what the score's best is."""
    ideal = _SCORES[key][1]
    known = [i for i, v in enumerate(values) if not math.isnan(v)]
    if ideal is None or len(known) < 2:
        return set()
    distance = {i: values[i] if math.isinf(ideal) else abs(values[i] - ideal) for i in known}
    return {i for i in known if distance[i] == min(distance.values())}


def _score_section(scores: Mapping[str, Any], evaluation: xr.Dataset) -> str:
    rows = scores["rows"]
    exact = [figures.is_exact(row) for row in rows]
    columns, used = [], []
    for key in _SCORES:
        values = [figures.number(row.get(key)) for row in rows]
        if all(math.isnan(v) for v in values):
            continue
        best = _best(key, [math.nan if bound else v for v, bound in zip(values, exact, strict=True)])
        shown = _column(values, key in _PERCENT)
        columns.append([f"<strong>{cell}</strong>" if i in best else cell for i, cell in enumerate(shown)])
        used.append(key)
    if not used:
        return "<h2>Scores</h2>\n<p>Nothing was scored: no hidden entry has a known truth.</p>"
    cells = []
    for i, row in enumerate(rows):
        name = _text(row["name"]) + (" (bound)" if exact[i] else "")
        cells.append([name, _text(row.get("law") or "–"), *(column[i] for column in columns)])
    classes = ["exact" if bound else "model" if i == 0 else "" for i, bound in enumerate(exact)]
    units = {str(unit) for unit in evaluation["unit"].values}
    unit = f" in {_text(units.pop())}" if len(units) == 1 and units != {""} else " in the units of the data"
    note = f"MAE, RMSE, CRPS and widths are{unit}. Bold: best of its column."
    if any(exact):
        note += (
            " Rows marked as a bound are exact laws of the process that made the data, and are not ranked. "
            "Except by chance, no method beats the exact posterior, and none that does not see later "
            "observations beats exact filtering. One that does has seen what it should not."
        )
    terms = (
        "<dt>law</dt><dd>filtering: an entry given what came before it, later observations unseen; "
        "posterior: given all that is visible</dd>"
    )
    terms += "".join(f"<dt>{_SCORES[key][0]}</dt><dd>{_SCORES[key][2]}</dd>" for key in used)
    bars = ""
    if {"crps", "mae"} & set(used):
        caption = "Lower is better. A dash: the method has no such score."
        if any(exact):
            caption += " Hollow bars and dotted lines: the exact laws."
        bars = _picture(lambda n: figures.score_bars(scores, n), 2, "CRPS and MAE of all methods", caption)
    return "\n".join(
        [
            "<h2>Scores</h2>",
            _table(["method", "law", *(_SCORES[key][0] for key in used)], cells, 2, classes),
            f'<p class="soft">{note}</p>',
            f"<details><summary>What the columns mean</summary><dl>{terms}</dl></details>",
            bars,
        ]
    )


def _fan_section(evaluation: xr.Dataset) -> str:
    parts = ["<h2>Hidden entries and what the model makes of them</h2>"]
    scored = bool(evaluation["target"].any())
    channels = evaluation.sizes["channel"]
    for channel in range(min(channels, _MOST_CHANNELS)):
        panels = figures.choose_panels(evaluation, channel)
        name = figures.printable(evaluation["channel"].values[channel])
        caption = f"<strong>{_text(name)}</strong> in {_plural(len(panels), 'window')}"
        if scored and len(panels) > 1:
            caption += (
                ", from the lowest mean CRPS to the highest, evenly spread over all pairs of a node and a "
                "window with at least half the usual number of scored entries"
            )
        caption += ". Bands are central intervals of the samples; they close on what is visible."
        draw = functools.partial(figures.fan_chart, evaluation, panels)
        parts.append(_picture(draw, 3, f"Fan charts of {name}", caption))
    if channels > _MOST_CHANNELS:
        parts.append(f'<p class="soft">The first {_MOST_CHANNELS} of {channels} channels are shown.</p>')
    return "\n".join(parts)


def _calibration_section(evaluation: xr.Dataset) -> str:
    samples, entries = int(evaluation.attrs["num_samples"]), int((evaluation["rank"] >= 0).sum())
    if not entries:
        return ""
    if samples == 1:
        return "<h2>Calibration</h2>\n<p>Not shown: one sample has no spread to calibrate.</p>"
    caption = (
        f"From {_plural(entries, 'rank')} among {samples:,} samples. A flat histogram and a curve on the "
        "diagonal are calibrated. A histogram high at both ends, or a curve below the diagonal: intervals "
        "are too narrow. A hump, or a curve above: too wide. A slope: biased. The grey bands hold 95 % of "
        "calibrated results if entries are independent; those near in time or space are not, so small "
        "excursions mean little."
    )
    draw = figures.calibration
    alt = "Histogram of the truth's rank, and coverage of central intervals"
    return "<h2>Calibration</h2>\n" + _picture(lambda n: draw(evaluation, n), 2, alt, caption)


def _network_section(evaluation: xr.Dataset) -> str:
    nodes, edges = evaluation.sizes["node"], evaluation.sizes["edge"]
    caption = f"{_plural(nodes, 'node')}, {_plural(edges, 'edge')}."
    if not figures.has_positions(evaluation):
        caption += " The nodes have no positions and stand on a circle."
    draw = figures.network
    return "<h2>Network</h2>\n" + _picture(lambda n: draw(evaluation, n), 2, "The graph", caption)


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
    columns = [_column([figures.number(row.get(key)) for row in worst]) for key in keys]
    columns.append(_column([figures.number(missing.get(str(row["node"]))) for row in worst], percent=True))
    cells = [
        [_text(row["node"]), _count(row.get("entries")), *(column[i] for column in columns)]
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
    return f'<h2>By node</h2>\n<p class="soft">{which}.</p>\n{_table(heading, cells, 1)}'


def _training_section(metrics: Path) -> str:
    if not metrics.is_file() or not figures.read_curves(metrics):
        return ""
    caption = "The ring marks the best validation." if "validation" in figures.read_curves(metrics) else ""
    return "<h2>Training</h2>\n" + _picture(
        lambda n: figures.training_curve(metrics), 1, "Training curve", caption
    )


def _configuration_section(run: Path) -> str:
    parts = []
    for name in ("config_fit.yaml", "config_test.yaml"):
        if (run / name).is_file():
            text = (run / name).read_text(encoding="utf-8", errors="replace")
            parts.append(f"<details><summary>{name}</summary><pre>{html.escape(text)}</pre></details>")
    return "<h2>Configuration</h2>\n" + "\n".join(parts) if parts else ""
