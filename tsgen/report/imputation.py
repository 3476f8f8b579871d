"""The part of a page on what was imputed where no truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tsgen.data.interpolation import GAPS
from tsgen.figures import MOST_CHANNELS
from tsgen.figures.fans import draw_fans
from tsgen.figures.imputed import gap_lengths, widths
from tsgen.figures.style import in_style, name_of_time, of_channel
from tsgen.report import page
from tsgen.report.gaps import LONGEST_SHOWN, Imputation, gap_fans, read_imputation

_MOST_NODES, _MOST_GAPS = 30, 10


def imputation_section(path: Path, scored: bool) -> str:
    """What is said of an imputation, as HTML.

    Args:
        path: The file ``imputation.nc``; it is read in slices.
        scored: Whether the page has scores of a test too.

    Raises:
        ValueError: If the file is damaged.
    """
    found = read_imputation(path)
    with found.data:
        parts = ["<h2>Imputation</h2>", _introduction(found, scored)]
        if len(found.gaps.start):
            parts += [_fans(found), _lengths(found), _widths(found), _nodes(found)]
    return "\n".join(parts)


def _introduction(found: Imputation, scored: bool) -> str:
    data, gaps = found.data, found.gaps
    time = data["time"].values
    model, conditioning = (page.text(data.attrs.get(name, "unknown")) for name in ("model", "conditioning"))
    observed, imputed = int(found.observed.sum()), int(found.imputed.sum())
    share = 100 * imputed / (observed + imputed)
    text = (
        f"<p>From {name_of_time(time[0])} to {name_of_time(time[-1])}, "
        f"{page.plural(data.sizes['time'], 'step')} of {page.plural(data.sizes['node'], 'node')}: "
        f"{observed:,} entries were observed and are as they were; {imputed:,} ({share:.1f} %), in "
        f"{page.plural(len(gaps.start), 'gap')}, were imputed by <strong>{model}</strong> "
        f"({page.plural(data.sizes['sample'], 'draw')}, {conditioning}).</p>"
    )
    where = "the scores above are of a test" if scored else "to score the model, hide some: tsgen test"
    return text + (
        f"\n<p>No truth is known of them, so nothing here is a score: {where}. What can be shown is "
        "where the "
        "model itself says that it does not know.</p>"
    )


def _fans(found: Imputation) -> str:
    parts = []
    for channel in range(min(found.data.sizes["channel"], MOST_CHANNELS)):
        fans = gap_fans(found, channel)
        if not fans:
            continue
        label = of_channel(found.data, channel)
        draw = in_style(lambda n, fans=fans, label=label: draw_fans(fans, label, n))
        caption = (
            f"<strong>{page.text(label)}</strong>: gaps from the shortest to the longest, of which at most "
            f"{LONGEST_SHOWN} steps are shown. Bands are central intervals of the draws."
        )
        parts.append(
            page.picture(draw, 3, f"Fan charts of gaps of {label}, the shortest to the longest", caption)
        )
    return "\n".join(parts)


def _lengths(found: Imputation) -> str:
    gaps = found.gaps
    alt = f"Histogram of gap lengths; the longest has {int(gaps.length.max()):,} steps"
    caption = "A gap is a run of steps at which a channel of a node was not observed."
    longest = np.lexsort((gaps.start, gaps.node, -gaps.length))[:_MOST_GAPS]
    time = found.data["time"].values
    several = found.data.sizes["channel"] > 1
    cells = []
    for gap in longest:
        start, length = int(gaps.start[gap]), int(gaps.length[gap])
        name = page.text(found.data["node"].values[gaps.node[gap]])
        if several:
            name += f", {page.text(found.data['channel'].values[gaps.channel[gap]])}"
        ends = [page.text(name_of_time(time[at])) for at in (start, start + length - 1)]
        cells.append([name, *ends, f"{length:,}"])
    return "\n".join(
        [
            "<h3>Gaps</h3>",
            page.picture(lambda n: gap_lengths(gaps.length, n), 2, alt, caption),
            '<p class="soft">The longest gaps:</p>',
            page.table(["node", "first step", "last step", "steps"], cells, 3),
        ]
    )


def _widths(found: Imputation) -> str:
    by_gap = {
        name: (float(width), int(count))
        for name, width, count in zip(
            GAPS, found.relative_width((1, 2)), found.imputed.sum((1, 2)), strict=True
        )
    }
    by_node = found.relative_width((0, 2))
    caption = (
        "Mean width of the 90 % interval over the standard deviation of the node's observed values. "
        "The dashed "
        "line, 3.29, is that of a Gaussian about the node's mean with the node's own deviation: near it the "
        "model knows no more than how the node usually varies."
    )
    alt = "Relative width of the 90 % interval by gap length: "
    alt += "; ".join(f"{name} steps: {width:.2f}" for name, (width, _) in by_gap.items())
    draw = page.picture(lambda n: widths(by_gap, by_node, n), 2, alt, caption)
    return f"<h3>Where the model does not know</h3>\n{draw}"


def _nodes(found: Imputation) -> str:
    relative = found.relative_width((0, 2))
    observed, imputed = found.observed.sum(1), found.imputed.sum((0, 2))
    longest = np.zeros(len(relative), dtype=np.int64)
    np.maximum.at(longest, found.gaps.node, found.gaps.length)
    order = np.argsort(-np.nan_to_num(relative, nan=-1), kind="stable")[:_MOST_NODES]
    share = page.column((imputed / (observed + imputed))[order].tolist(), percent=True)
    width = page.column(relative[order].tolist())
    names = found.data["node"].values
    cells = [
        [page.text(names[v]), f"{observed[v]:,}", f"{imputed[v]:,}", share[i], f"{longest[v]:,}", width[i]]
        for i, v in enumerate(order)
    ]
    many = len(names) > _MOST_NODES
    which = f"{_MOST_NODES} of {len(names):,} nodes" if many else "All nodes"
    heading = ["node", "observed", "imputed", "share imputed", "longest gap", "90 % width / deviation"]
    return (
        f'<p class="soft">{which}, the widest intervals relative to their deviation first.</p>\n'
        + page.table(heading, cells, 1)
    )
