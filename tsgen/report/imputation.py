"""The data of a page's sections on an imputation; their template is ``imputation.html.j2``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tsgen.data.interpolation import GAPS
from tsgen.figures import MAX_CHANNELS
from tsgen.figures.fans import draw_fans
from tsgen.figures.imputed import gap_lengths, widths
from tsgen.figures.style import in_style, name_of_time, of_channel
from tsgen.report.gaps import MAX_SHOWN_STEPS, Imputation, gap_fans, read_imputation
from tsgen.report.pictures import picture
from tsgen.report.tables import MAX_NODES, Row, column, name
from tsgen.report.values import value_sections

_MAX_GAPS = 10


def imputation_sections(path: Path) -> dict[str, Any]:
    """Returns the data of all sections on an imputation; None for a section without content.

    Args:
        path: The file ``imputation.nc``; it is read in blocks.

    Raises:
        ValueError: If the file is damaged.
    """
    found = read_imputation(path)
    with found.data:
        any_gap = len(found.gaps.start) > 0
        return {
            "introduction": _introduction(found),
            "fans": _fans(found),
            "longest_shown": MAX_SHOWN_STEPS,
            "values": value_sections(found.data) if any_gap else [],
            "gaps": _gaps(found) if any_gap else None,
            "widths": _widths(found) if any_gap else None,
            "nodes": _nodes(found) if any_gap else None,
        }


def _introduction(found: Imputation) -> dict[str, Any]:
    data, time = found.data, found.data["time"].values
    observed, imputed = int(found.observed.sum()), int(found.imputed.sum())
    return {
        "first": name_of_time(time[0]),
        "last": name_of_time(time[-1]),
        "steps": data.sizes["time"],
        "nodes": data.sizes["node"],
        "observed": observed,
        "imputed": imputed,
        "share": f"{100 * imputed / (observed + imputed):.1f}",
        "gaps": len(found.gaps.start),
        "model": name(data.attrs.get("model", "unknown")),
        "conditioning": name(data.attrs.get("conditioning", "unknown")),
        "draws": data.sizes["sample"],
        "far_draws": name(data.attrs.get("far_draws", ""), 500),
    }


def _fans(found: Imputation) -> list[dict[str, Any]]:
    """Returns the fan charts of the first channels; a channel without gaps is omitted."""
    channels = range(min(found.data.sizes["channel"], MAX_CHANNELS))
    charts = []
    for channel in channels:
        fans, label = gap_fans(found, channel), of_channel(found.data, channel)
        if fans:
            draw = in_style(lambda columns, fans=fans, label=label: draw_fans(fans, label, columns))
            charts.append({"name": label, "picture": picture(draw, 3)})
    return charts


def _gaps(found: Imputation) -> dict[str, Any]:
    gaps = found.gaps
    longest = np.lexsort((gaps.start, gaps.node, -gaps.length))[:_MAX_GAPS]
    return {
        "picture": picture(lambda columns: gap_lengths(gaps.length, columns), 2),
        "longest": f"{gaps.length.max():,}",
        "rows": [_gap_row(found, int(gap)) for gap in longest],
    }


def _gap_row(found: Imputation, gap: int) -> Row:
    start, length, node, channel = (int(x[gap]) for x in found.gaps)
    place = name(found.data["node"].values[node])
    if found.data.sizes["channel"] > 1:
        place += f", {name(found.data['channel'].values[channel])}"
    time = found.data["time"].values
    ends = [name(name_of_time(time[step])) for step in (start, start + length - 1)]
    return Row([place, *ends, f"{length:,}"])


def _widths(found: Imputation) -> dict[str, Any]:
    relative, entries = found.relative_width((1, 2)), found.imputed.sum((1, 2))
    by_gap = {
        gap: (float(width), int(count)) for gap, width, count in zip(GAPS, relative, entries, strict=True)
    }
    by_node = found.relative_width((0, 2))
    return {
        "picture": picture(lambda columns: widths(by_gap, by_node, columns), 2),
        "summary": "; ".join(f"{gap} steps: {width:.2f}" for gap, (width, _) in by_gap.items()),
    }


def _nodes(found: Imputation) -> dict[str, Any]:
    """Returns the nodes ordered by the relative width of their intervals, the widest first."""
    relative = found.relative_width((0, 2))
    observed, imputed = found.observed.sum(1), found.imputed.sum((0, 2))
    longest = np.zeros(len(relative), dtype=np.int64)
    np.maximum.at(longest, found.gaps.node, found.gaps.length)
    order = np.argsort(-np.nan_to_num(relative, nan=-1), kind="stable")[:MAX_NODES]
    columns = [
        [name(node) for node in found.data["node"].values[order]],
        [f"{entries:,}" for entries in observed[order]],
        [f"{entries:,}" for entries in imputed[order]],
        column((imputed / (observed + imputed))[order].tolist(), percent=True),
        [f"{length:,}" for length in longest[order]],
        column(relative[order].tolist()),
    ]
    return {"rows": [Row(cells) for cells in zip(*columns, strict=True)], "total": len(relative)}
