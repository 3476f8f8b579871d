r"""Which samplers draw from the law that their model implies: simulation-based calibration.

    python -m experiments.benchmarks.calibration

Windows of 12 steps and 6 nodes are drawn from a law, some entries are hidden (three in ten at random: *gaps*;
or the last 6 steps: *forecast*), and the rank of the truth among 99 draws is tested for uniformity, for six
test quantities. Prints each case's p-values and writes docs/images/sbc.png. Then, for a single entry whose
draws are too narrow, how often so many windows show it.

One thread. Everything is seeded.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import time
import warnings
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from lightning import Trainer, seed_everything

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

IMAGE = Path(__file__).parents[2] / "docs" / "images" / "sbc.png"
NODES, STEPS, WINDOWS, DRAWS, EPOCHS = 6, 12, 600, 99, 15
SHOWN = ("entry", "log-density")
"""The quantities of the figure."""


class Case(NamedTuple):
    """A question: are these draws from the law of these windows?"""

    name: str
    model: DensityModel
    truth: VARProcess | None
    forecast: bool


def windows(data: SyntheticDataModule, forecast: bool) -> SeriesBatch:
    """Windows of which the second half, or three in ten entries at random, is hidden."""
    shape = (STEPS, NODES, 1)
    position = STEPS * torch.arange(WINDOWS)[:, None] + torch.arange(STEPS)
    if forecast:
        context = (torch.arange(STEPS) < STEPS // 2)[:, None, None].expand(WINDOWS, *shape).clone()
    else:
        context = uniforms(streams(1, position[:, 0]), shape) >= 0.3
    return SeriesBatch(torch.zeros(WINDOWS, *shape), context, ~context, data.graph, position)


def trained(data: SyntheticDataModule) -> AutoregressiveModel:
    """A model of the demo's kind, trained on a simulated series."""
    seed_everything(0, verbose=False)
    model = AutoregressiveModel(
        data.spec,
        partial(GraphGRUEncoder, hidden=16),
        partial(MixtureHead, components=3),
        sampler=Ancestral(DRAWS),
    )
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(
        max_epochs=EPOCHS, accelerator="cpu", logger=False, use_distributed_sampler=False, **quiet
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on workers
        trainer.fit(model, data)
    return model.eval()


def linear(data: SyntheticDataModule, shrunk: float = 1.0) -> GraphVAR:
    """The process that the series is drawn from as a model, the deviation of its noise times a factor."""
    law = data.exact
    assert law is not None
    model = GraphVAR(data.spec, order=law.order, sampler=Exact(DRAWS))
    model.process = VARProcess(law.coefficients, law.intercept, shrunk**2 * law.covariance)
    return model


def cases(data: SyntheticDataModule) -> list[Case]:
    """What is asked: of samplers, and of models."""
    law, neural = data.exact, trained(data)
    return [
        Case("exact posterior, gaps", linear(data), law, forecast=False),
        Case("the same, noise 20 % too small", linear(data, 0.8), law, forecast=False),
        Case("trained model, its own windows, ancestral, forecast", neural, None, forecast=True),
        Case("the same, gaps: what is visible later is ignored", neural, None, forecast=False),
        Case("trained model, windows of the process, forecast", neural, law, forecast=True),
    ]


@in_style
def draw(found: dict[str, RankTest]) -> None:
    """Draws, by case, the ranks of one entry and the distribution of two quantities' ranks."""
    figure, axes = axes_grid(3 * len(found), 3, 3.6, 1.9)
    for row, (name, ranks) in enumerate(found.items()):
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


def power(factor: float, count: int, times: int = 200) -> float:
    """How often ranks of single entries are told from uniform at a level of 1 %, the draws being Gaussian
    with a deviation that is off by a factor."""
    random = torch.Generator().manual_seed(0)
    truth = torch.randn(times, count, generator=random, dtype=torch.float64)
    below = torch.special.ndtr(truth / factor)
    ranks = torch.binomial(torch.full_like(below, DRAWS), below, generator=random).long()
    return sum(ecdf_p_value(row, DRAWS) < 0.01 for row in ranks) / times


def main() -> None:
    """Runs all cases, prints their p-values and draws the figure."""
    torch.set_num_threads(1)
    data = SyntheticDataModule(
        num_nodes=NODES, steps=4000, missing=PointMask(0.0), window=STEPS, thinning=PointMask((0.0, 0.5))
    )
    found = {}
    for case in cases(data):
        start = time.perf_counter()
        result = simulation_based_calibration(case.model, windows(data, case.forecast), truth=case.truth)
        found[case.name] = result
        shown = "  ".join(f"{name} {p:.2g}" for name, p in result.p_values.items())
        verdict = "uniform" if result.uniform() else "NOT uniform"
        print(f"{case.name}: {verdict} ({time.perf_counter() - start:.1f} s)\n    {shown}", flush=True)
    draw(found)
    print("\nShare of 200 repetitions in which one entry's ranks are significant at 1 %:")
    print("deviation   " + "  ".join(f"{count:5d}" for count in (100, 200, 400, 800, 1600)) + "  windows")
    for factor in (1.0, 0.9, 0.8, 0.7):
        shares = (power(factor, count) for count in (100, 200, 400, 800, 1600))
        print(f"x {factor}       " + "  ".join(f"{share:5.2f}" for share in shares), flush=True)


if __name__ == "__main__":
    main()
