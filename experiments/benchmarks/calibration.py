"""Tests which samplers draw from the law of their model, by simulation-based calibration.

    python -m experiments.benchmarks.calibration

Windows of 12 steps and 6 nodes are drawn from a law, some entries are hidden (30 % at random: *gaps*; or the
last 6 steps: *forecast*), and the rank of the truth among 99 draws is tested for uniformity, for six test
quantities. Prints the p-values of each case and writes docs/images/sbc.png. The last table is the power of
the test: how often it detects that the draws of a single entry are too narrow, by the number of windows.

Uses one thread. Everything is seeded.
"""

from __future__ import annotations

import time
import warnings
from functools import partial
from typing import NamedTuple

import torch
from lightning import seed_everything
from matplotlib.figure import Figure

from experiments.benchmarks.harness import arguments, quiet_trainer
from experiments.figures import IMAGES
from tsgen.counter_random import streams, uniforms
from tsgen.data.masks import PointMask
from tsgen.data.series import SeriesBatch
from tsgen.datamodules import SyntheticDataModule
from tsgen.encoders import GraphGRUEncoder
from tsgen.evaluation.calibration import RankTest, ecdf_p_value, simulation_based_calibration
from tsgen.exact.linear import VARProcess
from tsgen.figures import axes_grid, in_style
from tsgen.figures.calibration import draw_histogram
from tsgen.heads import MixtureHead
from tsgen.models import AutoregressiveModel, DensityModel, GraphVAR
from tsgen.report.calibration_figures import draw_difference
from tsgen.sampling import Ancestral, Exact

IMAGE = IMAGES / "sbc.png"
NODES, STEPS, WINDOWS, DRAWS, EPOCHS = 6, 12, 600, 99, 15
SHOWN = ("entry", "log-density")
"""Test quantities that the figure shows."""


class Case(NamedTuple):
    """A model whose draws are tested.

    Attributes:
        name: The name of the case in the table and the figure.
        model: The model, with its sampler.
        truth: The law that windows are drawn from; None for the model's own.
        forecast: Hide the second half of each window; else three in ten entries at random.
    """

    name: str
    model: DensityModel
    truth: VARProcess | None
    forecast: bool


def windows(data: SyntheticDataModule, forecast: bool) -> SeriesBatch:
    """Returns windows of which the second half, or three in ten entries at random, is hidden."""
    shape = (STEPS, NODES, 1)
    position = STEPS * torch.arange(WINDOWS)[:, None] + torch.arange(STEPS)
    if forecast:
        context = (torch.arange(STEPS) < STEPS // 2)[:, None, None].expand(WINDOWS, *shape).clone()
    else:
        context = uniforms(streams(1, position[:, 0]), shape) >= 0.3
    return SeriesBatch(torch.zeros(WINDOWS, *shape), context, ~context, data.graph, position)


def trained(data: SyntheticDataModule) -> AutoregressiveModel:
    """Returns a model as in the demo, but smaller, trained on a simulated series."""
    seed_everything(0, verbose=False)
    model = AutoregressiveModel(
        data.spec,
        partial(GraphGRUEncoder, hidden=16),
        partial(MixtureHead, components=3),
        sampler=Ancestral(DRAWS),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on workers
        quiet_trainer(max_epochs=EPOCHS).fit(model, data)
    return model.eval()


def linear(data: SyntheticDataModule, shrunk: float = 1.0) -> GraphVAR:
    """Returns the process of the series as a model, with the deviation of its noise times a factor."""
    law = data.exact
    assert isinstance(law, VARProcess)
    model = GraphVAR(data.spec, order=law.order, sampler=Exact(DRAWS))
    model.process = VARProcess(law.coefficients, law.intercept, shrunk**2 * law.covariance)
    return model


def cases(data: SyntheticDataModule) -> list[Case]:
    """Returns all cases."""
    law, neural = data.exact, trained(data)
    assert isinstance(law, VARProcess)
    return [
        Case("exact posterior, gaps", linear(data), law, forecast=False),
        Case("the same, noise 20 % too small", linear(data, 0.8), law, forecast=False),
        Case("trained model, its own windows, ancestral, forecast", neural, None, forecast=True),
        Case("the same, gaps: later visible entries are ignored", neural, None, forecast=False),
        Case("trained model, windows of the process, forecast", neural, law, forecast=True),
    ]


@in_style
def draw(tests: dict[str, RankTest]) -> Figure:
    """Draws, for each case, the ranks of one entry and the distribution of two quantities' ranks.

    The figure is also written to the documentation.
    """
    figure, axes = axes_grid(3 * len(tests), 3, 3.6, 1.9)
    for row, (name, ranks) in enumerate(tests.items()):
        histogram, *differences = axes[3 * row : 3 * row + 3]
        by_name = dict(zip(ranks.quantities, ranks.ranks.numpy(), strict=True))
        draw_histogram(histogram, by_name["entry"], DRAWS)
        histogram.set_title(name)
        histogram.set_ylabel("density of entry")
        for ax, quantity in zip(differences, SHOWN, strict=True):
            draw_difference(ax, by_name[quantity], DRAWS)
            ax.set_title(f"{quantity}: p = {ranks.p_values[quantity]:.2g}", loc="right", fontweight="normal")
    for ax in axes[-3:]:
        ax.set_xlabel("place of the truth among the draws")
    figure.savefig(IMAGE, dpi=100)
    print(f"wrote {IMAGE}")
    return figure


def power(factor: float, count: int, times: int = 200) -> float:
    """Returns the power of the test at a level of 1 %, for a single entry and draws that are too narrow.

    Args:
        factor: The standard deviation of the Gaussian draws, relative to that of the truth.
        count: The number of windows.
        times: The number of repetitions.
    """
    random = torch.Generator().manual_seed(0)
    truth = torch.randn(times, count, generator=random, dtype=torch.float64)
    below = torch.special.ndtr(truth / factor)
    ranks = torch.binomial(torch.full_like(below, DRAWS), below, generator=random).long()
    return sum(ecdf_p_value(row, DRAWS) < 0.01 for row in ranks) / times


def main() -> None:
    """Runs all cases, prints their p-values and draws the figure."""
    arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    data = SyntheticDataModule(
        num_nodes=NODES, steps=4000, missing=PointMask(0.0), window=STEPS, thinning=PointMask((0.0, 0.5))
    )
    tests = {}
    for case in cases(data):
        start = time.perf_counter()
        result = simulation_based_calibration(case.model, windows(data, case.forecast), truth=case.truth)
        tests[case.name] = result
        shown = "  ".join(f"{name} {p:.2g}" for name, p in result.p_values.items())
        verdict = "uniform" if result.uniform() else "NOT uniform"
        print(f"{case.name}: {verdict} ({time.perf_counter() - start:.1f} s)\n    {shown}", flush=True)
    draw(tests)
    print("\nShare of 200 repetitions in which the ranks of one entry are significant at 1 %:")
    print("deviation   " + "  ".join(f"{count:5d}" for count in (100, 200, 400, 800, 1600)) + "  windows")
    for factor in (1.0, 0.9, 0.8, 0.7):
        shares = (power(factor, count) for count in (100, 200, 400, 800, 1600))
        print(f"x {factor}       " + "  ".join(f"{share:5.2f}" for share in shares), flush=True)


if __name__ == "__main__":
    main()
