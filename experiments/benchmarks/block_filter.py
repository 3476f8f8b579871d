"""One filter for the whole graph, and one for each block of it, beside the exact answer.

    python -m experiments.benchmarks.block_filter

A weakly coupled linear-Gaussian process of order 2 on graphs of growing size, 40 % of the entries missing at
random, and the process' own law as the model: whatever is wrong is the filter's. Every filter has as many
particles. At the last slice of each window, where the filtering law is the posterior: the distance of the
weighted mean of the particles to the exact mean, root mean squared over the missing entries, in exact
standard deviations, with its standard error over windows; and the least effective sample size of any step
and block as a share of the particles, the mean over windows. Writes ``docs/images/block_filter.png``. Then
the same on one graph whose nodes are strongly coupled, as those of the synthetic data are: what blocks cost.

Everything is seeded: a second run prints the same but for the seconds.
"""

from __future__ import annotations

import math
import time
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from tsgen.counter_random import streams, uniforms
from tsgen.data.graphs import partition
from tsgen.data.series import SeriesBatch, SeriesSpec
from tsgen.datamodules.synthetic import COUPLING, OWN, geometric_graph
from tsgen.encoders import WindowEncoder
from tsgen.encoders.propagation import Propagation
from tsgen.exact.kalman import simulate
from tsgen.exact.linear import Start, VARProcess
from tsgen.figures import GREY, STYLE
from tsgen.heads import GaussianHead
from tsgen.models import AutoregressiveModel
from tsgen.sampling.particles import ParticleFilter

NODES = (10, 25, 50, 100, 200)
BLOCK_NODES = (1, 5)
"""Nodes in a block."""
PARTICLES, WINDOWS, TIME, MISSING = 500, 16, 16, 0.4
Lags = tuple[tuple[float, float], ...]
"""At lags 1 and 2, what a node takes of itself and of its neighbours' mean, in units of the noise."""
WEAK: Lags = ((0.6, 0.15), (-0.2, 0.05))
STRONG: Lags = tuple(zip(OWN, COUPLING, strict=True))
STRONG_NODES = 50
IMAGE = Path("docs/images/block_filter.png")


def process_on(nodes: int, lags: Lags) -> VARProcess:
    """The process; before a window lie zeros, so that the entries of its first slice are independent."""
    mean, unit = Propagation(geometric_graph(nodes, 0)).mean.to_dense().double(), torch.eye(nodes).double()
    zero = torch.zeros(2 * nodes).double()
    start = Start(zero, torch.block_diag(unit, 0 * unit))
    return VARProcess(torch.stack([own * unit + by * mean for own, by in lags]), zero[:nodes], unit, start)


def model_of(nodes: int, lags: Lags) -> AutoregressiveModel:
    """The same law as an autoregressive model."""
    graph = geometric_graph(nodes, 0)
    spec = SeriesSpec(
        loc=torch.zeros(nodes, 1),
        scale=torch.ones(nodes, 1),
        edge_index=graph.edge_index,
        edge_weight=graph.edge_weight,
        num_covariates=0,
        nodes=[str(v) for v in range(nodes)],
        channels=["value"],
    )
    model = AutoregressiveModel(
        spec, partial(WindowEncoder, order=2, layers=0), partial(GaussianHead, scale=1.0)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        (convolution,) = (m for m in model.encoder.modules() if type(m).__name__ == "GraphConvolution")
        convolution.linear.weight.copy_(torch.eye(2))
        # of each lag: the value, its flag, and both as heard
        model.head.linear.weight.copy_(torch.tensor([[a, 0, b, 0] for a, b in lags]).flatten())
    return model.eval()


def windows_of(process: VARProcess) -> SeriesBatch:
    """Windows with entries missing at random."""
    number = torch.arange(WINDOWS)
    values = simulate(process.state_space(), TIME, streams(10, number))[..., None].float()
    context = uniforms(streams(11, number), values.shape[1:]) >= MISSING
    position = TIME * number[:, None] + torch.arange(TIME)
    return SeriesBatch(values, context, ~context, geometric_graph(process.num_nodes, 0), position)


@torch.no_grad()
def filtered(model: AutoregressiveModel, batch: SeriesBatch, blocks: int) -> tuple[Tensor, Tensor]:
    """The weighted mean of the last slice, and the least effective share of the particles, of each window."""
    means, shares = [], []
    for i in range(WINDOWS):  # one at a time: little memory at any size
        rows, block = batch.rows(slice(i, i + 1)), partition(batch.graph, blocks)
        moves = ParticleFilter(model, rows, PARTICLES, streams(12, rows.position[:, 0]), block)
        share = []
        for moved in moves.run(ess_threshold=0.5):
            share.append(moved.ess.amin(dim=1) / PARTICLES)
        weight = moved.log_weight.exp()[:, :, None, block, None]
        means.append((weight * moved.step.values.unflatten(0, (PARTICLES, 1))).sum(dim=0)[:, 0])
        shares.append(torch.stack(share).amin(dim=0))
    return torch.cat(means), torch.cat(shares)


Found = dict[int | None, list[tuple[float, float, float]]]
"""By nodes in a block, None for one filter: errors, their standard errors and effective shares."""


def compare(nodes: int, lags: Lags, found: Found) -> None:
    """Runs every filter on one graph."""
    process, model = process_on(nodes, lags), model_of(nodes, lags)
    batch = windows_of(process)
    exact, hidden = process.posterior(batch), (~batch.context)[:, -1]
    for kind in (None, *reversed(BLOCK_NODES)):
        start = time.perf_counter()
        mean, share = filtered(model, batch, 1 if kind is None else nodes // kind)
        seconds = time.perf_counter() - start
        square = ((mean - exact.mean[:, -1]) / exact.stddev[:, -1]).square().where(hidden, 0)
        ratio = square.sum(dim=(1, 2)) / hidden.sum(dim=(1, 2)).double().mean()
        error = float(ratio.mean().sqrt())
        spread = float(ratio.std() / math.sqrt(WINDOWS) / (2 * error))
        found.setdefault(kind, []).append((error, spread, float(share.mean())))
        name = "one filter" if kind is None else f"blocks of {kind}"
        coupling = "weak" if lags is WEAK else "strong"
        print(
            f"| {coupling} | {nodes} | {name} | {error:.3f} ± {spread:.3f} | {share.mean():.1%} | "
            f"{seconds:.0f} |",
            flush=True,
        )


def main() -> None:
    """Prints the table and draws the figure."""
    torch.set_num_threads(1)
    print("| coupling | nodes | filter | error | least effective share | seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    found: Found = {}
    for nodes in NODES:
        compare(nodes, WEAK, found)
    draw(found)
    compare(STRONG_NODES, STRONG, {})


def draw(found: Found) -> None:
    """The figure: errors and effective shares against the number of nodes."""
    colours = {None: "#c44e52", 5: "#4c72b0", 1: "#55a868"}
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.9), layout="constrained")
        for kind, rows in found.items():
            error, spread, share = zip(*rows, strict=True)
            name = {None: "one filter", 1: "blocks of 1 node"}.get(kind, f"blocks of {kind} nodes")
            left.errorbar(NODES, error, yerr=spread, color=colours[kind], marker="o", ms=3.5, label=name)
            right.plot(NODES, share, color=colours[kind], marker="o", ms=3.5, label=name)
        left.set(title="error, exact standard deviations", xlabel="nodes", ylim=(0, None))
        right.set(title=f"least effective share of {PARTICLES} particles", xlabel="nodes", yscale="log")
        for axes in (left, right):
            axes.set_xscale("log")
            axes.set_xticks(NODES, [str(n) for n in NODES])
            axes.minorticks_off()
            axes.grid(axis="y", color=GREY, alpha=0.15)
        left.legend(loc="upper left")
        figure.savefig(IMAGE, dpi=200)


if __name__ == "__main__":
    main()
