"""Draws the figure of docs/gaussian.md: a noisy observation, and a path given some of its entries.

    python -m experiments.figures.gaussian

Writes docs/images/gaussian.png.
"""

from __future__ import annotations

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures import IMAGES
from tsgen.exact.gaussian import Gaussian
from tsgen.figures import BAND_50, BAND_90, BLUE, GREY, INK, STYLE, VERMILLION, WIDTH_50, WIDTH_90

IMAGE = IMAGES / "gaussian.png"


def observation(ax: Axes) -> None:
    """Draws X before and after Y = X + noise is observed, over the joint density of both."""
    law = Gaussian(torch.zeros(1).double(), torch.ones(1, 1).double())
    pair = torch.ones(1, 1).double(), 0.0, torch.full((1, 1), 0.3).double()
    observed = torch.tensor([1.5]).double()
    x, y = torch.linspace(-3, 3, 241).double(), torch.linspace(-3, 3, 241).double()
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    density = law.joint(*pair).log_prob(grid).exp()
    # these levels enclose 90, 50 and 10 % of the probability
    levels = [share * float(density.max()) for share in (0.1, 0.5, 0.9)]
    ax.contour(x, y, density, levels=levels, colors=[BAND_90, BAND_50, BLUE], linewidths=1.5)
    ax.axhline(float(observed), color=INK, lw=1, ls=(0, (4, 3)))
    ax.text(-2.95, float(observed) + 0.08, "Y = 1.5 is observed", color=INK, fontsize=8)
    posterior = law.observe(*pair, observed)
    for distribution, color, label in ((law, GREY, "X"), (posterior, VERMILLION, "X given Y = 1.5")):
        height = distribution.log_prob(x[:, None]).exp()
        ax.fill_between(x, -3, -3 + 1.6 * height, color=color, alpha=0.15, lw=0)
        ax.plot(x, -3 + 1.6 * height, color=color, lw=1.5, label=label)
    ax.set(xlim=(-3, 3), ylim=(-3, 3), xlabel="x", ylabel="y", title="The joint law and an observation")
    ax.legend(loc="upper left", fontsize=8)


def path(ax: Axes) -> None:
    """Draws a stationary path of 80 steps, observed at some of them."""
    steps = torch.arange(80)
    distance = (steps[:, None] - steps).abs().double()
    law = Gaussian(torch.zeros(80).double(), 0.95**distance)
    torch.manual_seed(4)
    truth = law.sample()
    observed = torch.tensor([*range(12), 25, 26, 27, *range(45, 55), 68])
    rest = law.condition(observed, truth[observed])
    hidden = torch.ones(80, dtype=torch.bool)
    hidden[observed] = False

    def whole(values: torch.Tensor, at_observed: torch.Tensor) -> torch.Tensor:
        filled = torch.empty(80).double()
        filled[hidden], filled[observed] = values, at_observed
        return filled

    mean = whole(rest.mean, truth[observed])
    deviation = whole(rest.stddev, torch.zeros(len(observed)).double())
    for width, color, label in ((WIDTH_90, BAND_90, "90 %"), (WIDTH_50, BAND_50, "50 %")):
        ax.fill_between(
            steps, mean - width * deviation, mean + width * deviation, color=color, lw=0, label=label
        )
    for draw in rest.sample((3,)):
        ax.plot(steps, whole(draw, truth[observed]), color=GREY, lw=0.6)
    ax.plot([], [], color=GREY, lw=0.6, label="draws")
    ax.plot(steps, mean, color=BLUE, lw=1.5, label="mean")
    ax.plot(observed, truth[observed], "o", color=INK, ms=3.5, mew=0, label="observed")
    ax.set(xlabel="step", xlim=(-1, 80), title="80 entries given 26 of them")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=5, fontsize=8, handlelength=1.5)


def main() -> None:
    """Draws both panels and writes the figure."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 4), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.7))
        observation(left)
        path(right)
        figure.savefig(IMAGE, dpi=100)
    print(f"wrote {IMAGE}")


if __name__ == "__main__":
    main()
