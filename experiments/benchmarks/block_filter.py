"""Compares a particle filter of the whole graph, and block filters, with the exact posterior.

    python -m experiments.benchmarks.block_filter

The data is a weakly coupled linear-Gaussian process of order 2 on graphs of growing size, 40 % of the entries
missing at random. The model is the process itself, so that all error is that of the filter. Every filter has
the same number of particles. Two numbers are taken:

* the error at the last slice of each window, where the filtering law is the posterior: the distance from the
  weighted mean of the particles to the exact mean, root mean squared over the missing entries, in exact
  standard deviations, with its standard error over windows;
* the least effective sample size of any step and block as a share of the particles, averaged over windows.

Writes ``docs/images/block_filter.png``. The last rows repeat this on one graph whose nodes are as strongly
coupled as those of the synthetic data: they show what blocks cost.

Everything is seeded: a second run prints the same, except for the seconds.
"""

from __future__ import annotations

import math
import time

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from experiments.benchmarks.harness import (
    SYNTHETIC_LAGS,
    Lags,
    arguments,
    exact_model,
    unit_noise_process,
    unit_noise_windows,
)
from experiments.figures import IMAGES
from tsgen.counter_random import streams
from tsgen.data.graphs import partition
from tsgen.data.series import SeriesBatch
from tsgen.figures import GREY, STYLE
from tsgen.models import AutoregressiveModel
from tsgen.sampling.particles import ParticleFilter

NODES = (10, 25, 50, 100, 200)
BLOCK_NODES = (1, 5)
"""Nodes per block."""
PARTICLES, WINDOWS, TIME, MISSING = 500, 16, 16, 0.4
WEAK: Lags = ((0.6, 0.15), (-0.2, 0.05))
STRONG_NODES = 50
IMAGE = IMAGES / "block_filter.png"


@torch.no_grad()
def filtered(model: AutoregressiveModel, batch: SeriesBatch, blocks: int) -> tuple[Tensor, Tensor]:
    """Returns for each window the weighted mean of the last slice and the least effective share."""
    means, shares = [], []
    for i in range(WINDOWS):  # one at a time, so that memory does not grow with the number of windows
        rows, block = batch.rows(slice(i, i + 1)), partition(batch.graph, blocks)
        moves = ParticleFilter(model, rows, PARTICLES, streams(12, rows.position[:, 0]), block)
        share = []
        for moved in moves.run(ess_threshold=0.5):
            share.append(moved.ess.amin(dim=1) / PARTICLES)
        weight = moved.log_weight.exp()[:, :, None, block, None]
        means.append((weight * moved.step.values.unflatten(0, (PARTICLES, 1))).sum(dim=0)[:, 0])
        shares.append(torch.stack(share).amin(dim=0))
    return torch.cat(means), torch.cat(shares)


Results = dict[int | None, list[tuple[float, float, float]]]
"""For each number of nodes per block (None for one filter), one row per graph: error, its standard error, and
effective share."""


def compare(nodes: int, lags: Lags, results: Results) -> None:
    """Runs every filter on one graph, prints its row and adds it to the results."""
    process, model = unit_noise_process(nodes, lags), exact_model(nodes, lags)
    batch = unit_noise_windows(process, WINDOWS, TIME, MISSING, seed=10)
    exact, hidden = process.posterior(batch), (~batch.context)[:, -1]
    for kind in (None, *reversed(BLOCK_NODES)):
        start = time.perf_counter()
        mean, share = filtered(model, batch, 1 if kind is None else nodes // kind)
        seconds = time.perf_counter() - start
        square = ((mean - exact.mean[:, -1]) / exact.stddev[:, -1]).square().where(hidden, 0)
        ratio = square.sum(dim=(1, 2)) / hidden.sum(dim=(1, 2)).double().mean()
        error = float(ratio.mean().sqrt())
        spread = float(ratio.std() / math.sqrt(WINDOWS) / (2 * error))
        results.setdefault(kind, []).append((error, spread, float(share.mean())))
        name = "one filter" if kind is None else f"blocks of {kind}"
        coupling = "weak" if lags is WEAK else "strong"
        print(
            f"| {coupling} | {nodes} | {name} | {error:.3f} ± {spread:.3f} | {share.mean():.1%} | "
            f"{seconds:.0f} |",
            flush=True,
        )


def main() -> None:
    """Prints the table and draws the figure."""
    arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    print("| coupling | nodes | filter | error | least effective share | seconds |")
    print("| --- | --- | --- | --- | --- | --- |")
    results: Results = {}
    for nodes in NODES:
        compare(nodes, WEAK, results)
    draw(results)
    compare(STRONG_NODES, SYNTHETIC_LAGS, {})


def draw(results: Results) -> None:
    """Draws errors and effective shares against the number of nodes."""
    colours = {None: "#c44e52", 5: "#4c72b0", 1: "#55a868"}
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.9), layout="constrained")
        for kind, rows in results.items():
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
