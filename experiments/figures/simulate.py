"""Draws the figure of docs/simulate.md: twelve draws of the prior, with their gaps.

    python -m experiments.figures.simulate

Writes docs/images/simulate.png.
"""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures import IMAGES
from tsgen.figures import BAND_50, BLUE, STYLE
from tsgen.simulate import NetworkPrior, Simulation

IMAGE = IMAGES / "simulate.png"
NODES = 4
"""The number of nodes that a panel shows."""


def panel(ax: Axes, draw: Simulation) -> None:
    """Draws one window of some nodes, each in standard units and above the one before."""
    window = int(draw.visible.float().mean(dim=(1, 2, 3)).sub(0.6).abs().argmin())
    truth, visible = (x[window, :, :NODES, 0].numpy() for x in (draw.series, draw.visible))
    steps = np.arange(len(truth))
    standard = (truth - truth.mean(axis=0)) / np.maximum(truth.std(axis=0), 1e-9)
    lines = standard + 4.5 * np.arange(truth.shape[1])
    ax.plot(steps, lines, color=BAND_50, lw=1)
    ax.plot(steps, np.where(visible, lines, np.nan), "-o", color=BLUE, lw=1, ms=2, mew=0)
    nodes, edges = draw.series.shape[2], draw.graph.num_edges
    kinds = list(dict.fromkeys(type(part).__name__ for part in draw.made_of))
    kinds = [name for name in kinds if name not in ("NodeNoise", "Unchanged", "Units")]
    ax.set_title(f"{nodes} nodes, {edges} edges", fontsize=8, loc="left")
    ax.set_xlabel(", ".join(kinds), fontsize=6.5)
    ax.set(xlim=(-1, len(steps)), xticks=[], yticks=[])


def main() -> None:
    """Draws the panels and writes the figure."""
    prior = NetworkPrior(nodes=(4, 60), steps=(48,), channels=(1, 1))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 8), layout="constrained")
        for number, ax in enumerate(figure.subplots(3, 4).flat):
            panel(ax, prior.draw(0, number))
        figure.savefig(IMAGE, dpi=100)
    print(f"wrote {IMAGE}")


if __name__ == "__main__":
    main()
