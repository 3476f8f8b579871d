"""Draws the figure of docs/multistep.md: the growth of the forecast error with the lead time.

    tsgen fit --config multistep
    tsgen test --config multistep
    python -m experiments.figures.multistep

Writes docs/images/multistep.png. The last of its three panels shows runs/multistep.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from experiments.figures import IMAGES
from tsgen.exact.ar import ARProcess
from tsgen.figures import BLUE, GREY, INK, PALE, STYLE, VERMILLION

IMAGE = IMAGES / "multistep.png"
RUN = Path("runs") / "multistep"
HORIZON = 12
SLOW = (0.5, 0.4)
"""The coefficients of an AR(2) that no AR(1) can reproduce."""

SHOWN = {
    "sampling-linear": ("scheduled sampling", "#CC79A7", "-"),
    "input-noise": ("input noise", "#E69F00", "-"),
    "rollout-1-path": ("rollout, 1 path", "#009E73", ":"),
    "teacher-forcing": ("teacher forcing", BLUE, "-"),
    "rollout-16-paths": ("rollout, 16 paths", VERMILLION, "-"),
    "neighbours": ("teacher forcing, right model", BLUE, "--"),
}
"""The variants that are drawn: their names, colours and lines."""


def growth(ax: Axes) -> None:
    """Draws the variance k steps ahead as a share of the stationary one."""
    lead = torch.arange(1, HORIZON + 1)
    for coefficients, style in (((0.5,), ":"), ((0.8,), "--"), ((0.95,), "-"), (SLOW, "-.")):
        process = ARProcess(list(coefficients), 0.0, 1.0)
        law = process.forecast(torch.zeros(len(coefficients)), HORIZON)
        label = f"({', '.join(map(str, coefficients))})"
        ax.plot(lead, law.variance / process.autocovariance(0), ls=style, color=INK, lw=1.3, label=label)
    ax.set(ylabel="variance / stationary variance", ylim=(0, 1.02), title="The law itself, by coefficients")
    ax.legend(fontsize=8, loc="lower right")


def squared_error(phi: Tensor | float) -> Float[Tensor, "lead"]:
    """Returns the mean squared error of an AR(1)'s forecasts of the AR(2), relative to the variance."""
    covariance = ARProcess(list(SLOW), 0.0, 1.0).autocovariance(HORIZON)
    correlation = covariance[1:] / covariance[0]
    power = torch.as_tensor(phi, dtype=torch.float64)[..., None] ** torch.arange(1, HORIZON + 1)
    return 1 - correlation.square() + (power - correlation).square()


def wrong_model(ax: Axes) -> None:
    """Draws the forecast errors of an AR(1) on the AR(2), fitted one step ahead and over all steps."""
    covariance, lead = ARProcess(list(SLOW), 0.0, 1.0).autocovariance(HORIZON), torch.arange(1, HORIZON + 1)
    one_step = float(covariance[1] / covariance[0])
    grid = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    all_steps = float(grid[squared_error(grid).sum(dim=-1).argmin()])
    process = ARProcess(list(SLOW), 0.0, 1.0)
    exact = process.forecast(torch.zeros(2), HORIZON).variance / covariance[0]
    ax.plot(
        lead, squared_error(one_step), color=BLUE, lw=1.4, label=f"AR(1), best one step ahead: {one_step:.3f}"
    )
    ax.plot(
        lead, squared_error(all_steps), color=VERMILLION, lw=1.4, label=f"best over all 12: {all_steps:.3f}"
    )
    ax.plot(lead, exact, color=INK, lw=1.2, ls=(0, (4, 2)), label="the AR(2) itself")
    ax.set(ylabel="squared error / variance", ylim=(0, 1.02), title="A wrong model of the AR(2) (0.5, 0.4)")
    ax.legend(fontsize=8, loc="lower right")


def measured(ax: Axes) -> None:
    """Draws the CRPS of each variant over that of the exact law."""
    for name, (label, color, style) in SHOWN.items():
        table = json.loads((RUN / name / "scores.json").read_text("utf-8"))
        crps, exact = (
            torch.tensor([row["crps"] for row in table[key]])
            for key in ("by_lead_time", "by_lead_time_exact")
        )
        ax.plot(torch.arange(1, len(crps) + 1), crps / exact, color=color, ls=style, lw=1.4, label=label)
    ax.axhline(1, color=INK, lw=1.2, ls=(0, (4, 2)), label="exact law")
    ax.set(ylabel="CRPS / CRPS of the exact law", title="The study")
    ax.legend(fontsize=8, loc="upper right")


def main() -> None:
    """Draws the three panels and writes the figure."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12, 4), layout="constrained")
        for ax, draw in zip(figure.subplots(1, 3), (growth, wrong_model, measured), strict=True):
            draw(ax)
            ax.set_xlabel("lead time [steps]")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.grid(axis="y", color=PALE, lw=0.5)
            ax.tick_params(colors=GREY)
        figure.savefig(IMAGE, dpi=100)
    print(f"wrote {IMAGE}")


if __name__ == "__main__":
    main()
