"""Draws the figure of docs/ar.md: approval of US presidents, with missing quarters and a forecast.

    python -m experiments.figures.ar

Writes docs/images/ar_presidents.png. The series is in tests/ar_references.json.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import matplotlib
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import pad

from experiments.figures import IMAGES
from tsgen.exact.ar import ARProcess
from tsgen.figures import BAND_50, BAND_90, BLUE, GREY, INK, STYLE, VERMILLION, WIDTH_50, WIDTH_90

SERIES = Path(__file__).parents[2] / "tests" / "ar_references.json"
IMAGE = IMAGES / "ar_presidents.png"
ORDER, HORIZON, DRAWS, MARGIN = 3, 12, 5, 4
FIRST_YEAR = 1945

MISSING: dict[str, Any] = {"marker": "o", "color": VERMILLION, "mfc": "white", "ms": 4.5, "mew": 1.2, "lw": 0}


def draw(
    ax: Axes, process: ARProcess, y: Float[Tensor, "time"], paths: Float[Tensor, "samples time"]
) -> None:
    """Draws the law of every quarter given the observed ones."""
    year = FIRST_YEAR + torch.arange(len(y)) / 4
    mean, variance = process.smooth(y)
    for width, color in ((WIDTH_90, BAND_90), (WIDTH_50, BAND_50)):
        half = width * variance.sqrt()
        ax.fill_between(year, mean - half, mean + half, color=color, lw=0, zorder=1)
    ax.plot(year, paths.T, color=GREY, lw=0.6, zorder=2)
    ax.plot(year, mean, color=BLUE, lw=1.2, zorder=3)
    ax.plot(year, y, "o", color=INK, ms=2.5, mew=0, zorder=4)
    missing = y.isnan() & (torch.arange(len(y)) < len(y) - HORIZON)
    ax.plot(year[missing], mean[missing], **MISSING, zorder=4)
    ax.set_ylim(15, 105)  # a Gaussian law also covers values above 100 %


def main() -> None:
    """Fits the process, draws the whole series and each gap, and writes the figure."""
    values = json.loads(SERIES.read_text("utf-8"))["series"]["presidents"]
    y = torch.tensor([math.nan if x is None else x for x in values], dtype=torch.float64)
    process = ARProcess.fit(y, ORDER, "exact").process
    longer = pad(y, (0, HORIZON), value=math.nan)
    paths = process.impute(longer, DRAWS, seed=0)
    missing = y.isnan().nonzero()[:, 0].tolist()
    gaps = [
        (t, next(s for s in range(t, len(y)) if s not in missing) - 1)
        for t in missing
        if t - 1 not in missing
    ]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 6), layout="constrained")
        axes = figure.subplot_mosaic("wwww;0123", height_ratios=(1.3, 1))
        whole = axes["w"]
        draw(whole, process, longer, paths[:0])
        whole.set(xlim=(FIRST_YEAR - 0.3, FIRST_YEAR + (len(longer) - 1) / 4), ylabel="approval [%]")
        whole.set_title(
            f"Approval of US presidents: {len(missing)} of {len(y)} quarters are missing, {HORIZON} lie ahead"
        )
        for i, (first, last) in enumerate(gaps):
            ax, quarters = axes[str(i)], range(max(first - MARGIN, 0), last + MARGIN + 1)
            draw(ax, process, longer, paths)
            ax.set_xlim(FIRST_YEAR + quarters[0] / 4 - 0.15, FIRST_YEAR + quarters[-1] / 4 + 0.15)
            ax.set_xticks([FIRST_YEAR + q / 4 for q in quarters if q % 4 == 0])
            ax.set_title(" and ".join(f"Q{q % 4 + 1} {FIRST_YEAR + q // 4}" for q in sorted({first, last})))
        axes["0"].set_ylabel("approval [%]")
        legend = {
            "observed": {"marker": "o", "color": INK, "ms": 3.5, "mew": 0, "lw": 0},
            "missing quarter": MISSING,
            "90 %": {"color": BAND_90, "lw": 6},
            "50 %": {"color": BAND_50, "lw": 6},
            "mean": {"color": BLUE, "lw": 1.2},
            "draws": {"color": GREY, "lw": 0.6},
        }
        for label, look in legend.items():
            whole.plot([], [], label=label, **look)
        figure.legend(*whole.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
        figure.savefig(IMAGE, dpi=100)
    print(f"wrote {IMAGE}")


if __name__ == "__main__":
    main()
