"""The data of a page's sections on an evaluation; their template is ``evaluation.html.j2``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from tsgen import figures
from tsgen.evaluation.baselines import BASELINES
from tsgen.evaluation.columns import NLL_HEADINGS, lowest_crps, of_one_measure
from tsgen.metrics import breakdown
from tsgen.report.pictures import Draw, Picture, picture
from tsgen.report.scores import PERCENT, SCORES, best
from tsgen.report.tables import MAX_NODES, Cell, Row, column, count, name

_MAX_DOUBTS = 12

Drawings = Mapping[str, Draw]


def evaluation_sections(evaluation: xr.Dataset, scores: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the data of all sections on an evaluation; None for a section without content.

    Args:
        evaluation: The content of ``evaluation.nc``.
        scores: The content of ``scores.json``.
    """
    draws = figures.drawings(evaluation, scores)
    return {
        "introduction": _introduction(evaluation, scores),
        "scores": _scores(evaluation, scores),
        "doubts": _doubts(evaluation, scores),
        "fans": _fans(evaluation, draws),
        "gaps": _gaps(scores, draws),
        "leads": _optional(draws, "lead_time", 2),
        "calibration": _calibration(evaluation, draws),
        "thresholds": _thresholds(scores, draws),
        "quantiles": _quantiles(scores),
        "particles": _optional(draws, "particles", 1),
        "network": _network(evaluation, draws),
        "missing": picture(draws["missingness"], 2),
        "nodes": _nodes(evaluation, scores),
    }


def _optional(draws: Drawings, figure: str, columns: int) -> Picture | None:
    return picture(draws[figure], columns) if figure in draws else None


def _introduction(evaluation: xr.Dataset, scores: Mapping[str, Any]) -> dict[str, Any]:
    sizes, target = evaluation.sizes, evaluation["target"]
    entries = int(target.sum())
    return {
        "windows": sizes["window"],
        "steps": sizes["step"],
        "nodes": sizes["node"],
        "channels": sizes["channel"],
        "dates": _dates(evaluation["time"].values),
        "entries": entries,
        "unknown": int(target.size) - entries - int(evaluation["context"].sum()),
        "samples": int(evaluation.attrs["num_samples"]),
        "model": name(evaluation.attrs.get("model") or scores.get("model") or scores["rows"][0]["name"]),
        "conditioning": evaluation.attrs["conditioning"],
    }


def _dates(time: np.ndarray) -> list[str] | None:
    """Returns the first and the last day; None if times are not dates."""
    if not np.issubdtype(time.dtype, np.datetime64) or np.isnat(time).all():
        return None
    days = [np.datetime_as_string(end(time), unit="D") for end in (np.nanmin, np.nanmax)]
    return [str(day).replace("-", "\u2011") for day in days]  # non-breaking hyphens


def _scores(evaluation: xr.Dataset, scores: Mapping[str, Any]) -> dict[str, Any] | None:
    rows, remarks = of_one_measure(scores["rows"])
    nll = NLL_HEADINGS[rows[0].get("measure", "density")]
    used = [key for key in SCORES if any(not math.isnan(figures.number(row.get(key))) for row in rows)]
    if not used:
        return None
    bars = {"crps", "mae"} & set(used)
    units = {str(unit) for unit in evaluation["unit"].values}
    return {
        "headings": [nll if key == "nll" else SCORES[key].heading for key in used],
        "rows": _score_rows(rows, used),
        "unit": name(units.pop()) if len(units) == 1 else "",
        "exact": any(figures.is_exact(row) for row in rows),
        "laws": any(row["name"] in BASELINES and row.get("nll") is not None for row in rows),
        "lowest": name(lowest_crps(rows) or "", 200),
        "baselines": [name(remark, 300) for remark in [*remarks, *scores.get("baselines", [])]],
        "meanings": [(SCORES[key].heading, SCORES[key].meaning) for key in used],
        "bars": picture(lambda columns: figures.score_bars(scores, columns), 2) if bars else None,
    }


def _score_rows(rows: Sequence[Mapping[str, Any]], used: Sequence[str]) -> list[Row]:
    """Returns one row per method; the best of each column is bold, not counting exact distributions."""
    exact = [figures.is_exact(row) for row in rows]
    columns = []
    for key in used:
        values = [figures.number(row.get(key)) for row in rows]
        bold = best(key, [math.nan if bound else v for v, bound in zip(values, exact, strict=True)])
        shown = column(values, key in PERCENT)
        columns.append([Cell(text, i in bold) for i, text in enumerate(shown)])
    table = []
    for i, row in enumerate(rows):
        method = name(row["name"]) + (" (bound)" if exact[i] else "")
        conditioning = name(row.get("conditioning") or "–")
        cells = [Cell(method), Cell(conditioning), *(shown[i] for shown in columns)]
        table.append(Row(cells, "exact" if exact[i] else "model" if i == 0 else ""))
    return table


def _doubts(evaluation: xr.Dataset, scores: Mapping[str, Any]) -> dict[str, Any] | None:
    if not evaluation["target"].values.any():
        return None
    found = breakdown.doubts(evaluation, scores)
    return {
        "rows": [_doubt_row(doubt) for doubt in found[:_MAX_DOUBTS]],
        "found": len(found),
        "far_draws": name(scores.get("far_draws") or "", 500),
        "fewest": breakdown.MIN_ENTRIES,
        "excess": breakdown.EXCESS,
    }


def _doubt_row(doubt: breakdown.Doubt) -> Row:
    return Row(
        [
            Cell(name(doubt.name), bold=True, before=f"{doubt.kind} "),
            name("; ".join(doubt.reasons), 200),
            count(doubt.entries),
            column([doubt.covered], percent=True)[0],
            f"{doubt.ratio:.2f}" if math.isfinite(doubt.ratio) else "–",
        ]
    )


def _fans(evaluation: xr.Dataset, draws: Drawings) -> dict[str, Any]:
    channels = evaluation["channel"].values
    shown = [
        {"name": name(channel), "picture": picture(draws["imputation" + f"_{i}" * (i > 0)], 3)}
        for i, channel in enumerate(channels[: figures.MAX_CHANNELS])
    ]
    return {"channels": shown, "total": len(channels), "scored": bool(evaluation["target"].any())}


def _gaps(scores: Mapping[str, Any], draws: Drawings) -> dict[str, Any] | None:
    if "gap_length" not in draws:
        return None
    return {
        "picture": picture(draws["gap_length"], 2),
        "summary": "; ".join(_gap_summary(row) for row in scores["by_gap_length"]),
    }


def _gap_summary(row: Mapping[str, Any]) -> str:
    covered = figures.number(row.get("coverage_90"))
    crps = f"{row['gap']} steps: CRPS {figures.number(row.get('crps')):.3g}"
    return f"{crps}, {100 * covered:.0f} % covered" if math.isfinite(covered) else crps


def _calibration(evaluation: xr.Dataset, draws: Drawings) -> dict[str, Any] | None:
    ranks = int((evaluation["rank"] >= 0).sum())
    if not ranks:
        return None
    return {"picture": _optional(draws, "calibration", 2), "ranks": ranks}


def _thresholds(scores: Mapping[str, Any], draws: Drawings) -> dict[str, Any] | None:
    """Returns the scores of "more than x" for each threshold x; None if none were asked for."""
    rows = scores.get("exceedance")
    if not rows:
        return None
    thresholds = [f"> {figures.number(row['threshold']):g}" for row in rows]
    columns = [
        column([figures.number(row.get(key)) for row in rows], percent)
        for key, percent in (
            ("frequency", True),
            ("probability", True),
            ("brier", False),
            ("crps_above", False),
        )
    ]
    cells = zip(thresholds, *columns, strict=True)
    return {"rows": [Row([*row]) for row in cells], "picture": _optional(draws, "reliability", 3)}


def _quantiles(scores: Mapping[str, Any]) -> list[Row]:
    """Returns the quantile scores by level."""
    rows = scores.get("quantile_scores") or []
    columns = [
        [f"{100 * figures.number(row['level']):g} %" for row in rows],
        *(
            column([figures.number(row.get(key)) for row in rows], key != "score")
            for key in ("score", "below", "at_most")
        ),
    ]
    return [Row([*cells]) for cells in zip(*columns, strict=True)]


def _network(evaluation: xr.Dataset, draws: Drawings) -> dict[str, Any]:
    return {
        "picture": picture(draws["network"], 2),
        "edges": evaluation.sizes["edge"],
        "positions": figures.has_positions(evaluation),
    }


def _nodes(evaluation: xr.Dataset, scores: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the nodes ordered by CRPS, or by MAE if no CRPS is known, the highest first."""
    rows = scores["by_node"]
    if not rows:
        return None
    keys = [k for k in ("crps", "mae") if any(math.isfinite(figures.number(row.get(k))) for row in rows)]

    def sort_key(row: Mapping[str, Any]) -> float:
        value = figures.number(row.get(keys[0])) if keys else math.nan
        return -math.inf if math.isnan(value) else value

    worst = sorted(rows, key=sort_key, reverse=True)[:MAX_NODES]
    names = [str(node) for node in evaluation["node"].values]
    missing = dict(zip(names, evaluation["share_missing"].values.tolist(), strict=True))
    columns = [column([figures.number(row.get(key)) for row in worst]) for key in keys]
    columns.append(column([figures.number(missing.get(str(row["node"]))) for row in worst], percent=True))
    cells = zip(worst, zip(*columns, strict=True), strict=True)
    return {
        "rows": [Row([name(row["node"]), count(row.get("entries")), *numbers]) for row, numbers in cells],
        "total": len(rows),
        "headings": [key.upper() for key in keys],
    }
