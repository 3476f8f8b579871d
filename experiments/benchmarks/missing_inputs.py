"""Two ways to train with missing inputs, marking them and the particle bound, beside the exact answer.

    python -m experiments.benchmarks.missing_inputs

A linear-Gaussian process on a graph of 6 nodes, windows of 20 steps, entries missing at random at the same
rate in training and test. Every model has the same encoder and head and takes as many steps of the optimiser,
or, marking, six times as many. On test windows: the negative log-density of each hidden entry given what is
visible in the slices before it, and the joint one of what is visible, per entry; both less those of the
process itself, by the Kalman filter, with the standard error of the difference over windows. Marking answers
in one pass; a model trained by the particle bound by a filter of 1,000 paths.

Then, with the process' own law as the model, how the bound falls short as nodes are added.

One thread. Everything is seeded: a second run prints the same but for the seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from lightning import seed_everything
from torch import Tensor

from tsgen.counter_random import streams, uniforms
from tsgen.data.series import SeriesBatch, SeriesSpec
from tsgen.datamodules.synthetic import COUPLING, OWN, geometric_graph
from tsgen.encoders import Encoder, GraphGRUEncoder
from tsgen.encoders.propagation import Propagation
from tsgen.encoders.window import WindowEncoder
from tsgen.exact.kalman import simulate
from tsgen.exact.linear import Start, VARProcess
from tsgen.heads import GaussianHead
from tsgen.heads.likelihood import masked_log_prob
from tsgen.models import AutoregressiveModel
from tsgen.objectives import MaskedNLL, Objective, ParticleBound
from tsgen.sampling.particles import particle_filter

NODES, TIME, TRAIN, TEST = 6, 20, 3000, 64
STEPS, BATCH, RATE = 400, 32, 0.01
PATHS = 1000
"""Of the filters that judge."""

ENCODERS: dict[str, Callable[[int], Encoder]] = {
    "recurrent": partial(GraphGRUEncoder, hidden=16),
    "lags": partial(WindowEncoder, order=2, layers=0),
}
RUNS: list[tuple[str, str, Objective, int]] = [
    ("recurrent", "marked", MaskedNLL(), STEPS),
    ("recurrent", "marked, 6 times the steps", MaskedNLL(), 6 * STEPS),
    ("recurrent", "bound, K = 1", ParticleBound(1), STEPS),
    ("recurrent", "bound, K = 8", ParticleBound(8), STEPS),
    ("recurrent", "bound, K = 32", ParticleBound(32), STEPS),
    ("lags", "marked", MaskedNLL(), STEPS),
    ("lags", "bound, K = 8", ParticleBound(8), STEPS),
]


def process_on(nodes: int) -> VARProcess:
    """The synthetic process of order 2 in units of its noise. Before a window lie zeros: the entries of its
    first slice are independent, as heads have them."""
    mean, unit = Propagation(geometric_graph(nodes, 0)).mean.to_dense().double(), torch.eye(nodes).double()
    coefficients = torch.stack([a * unit + b * mean for a, b in zip(OWN, COUPLING, strict=True)])
    zero = torch.zeros(2 * nodes).double()
    return VARProcess(coefficients, zero[:nodes], unit, Start(zero, torch.block_diag(unit, 0 * unit)))


def windows_of(process: VARProcess, count: int, missing: float, seed: int) -> SeriesBatch:
    """Windows with entries missing at random: what is visible is context, what is not is target."""
    number = torch.arange(count)
    values = simulate(process.state_space(), TIME, streams(seed, number))[..., None].float()
    context = uniforms(streams(seed + 1, number), values.shape[1:]) >= missing
    graph, position = geometric_graph(process.num_nodes, 0), TIME * number[:, None] + torch.arange(TIME)
    return SeriesBatch(values, context, ~context, graph, position)


def spec_of(batch: SeriesBatch) -> SeriesSpec:
    """Units of the process itself."""
    nodes = batch.values.shape[2]
    return SeriesSpec(
        loc=torch.zeros(nodes, 1),
        scale=torch.ones(nodes, 1),
        edge_index=batch.graph.edge_index,
        edge_weight=batch.graph.edge_weight,
        num_covariates=0,
        nodes=[str(v) for v in range(nodes)],
        channels=["value"],
    )


def train(model: AutoregressiveModel, windows: SeriesBatch, steps: int) -> float:
    """Trains on what is visible; the seconds that it took."""
    windows = windows._changed(target=windows.context)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.cat([torch.randperm(TRAIN) for _ in range(1 + steps * BATCH // TRAIN)])
    start = time.perf_counter()
    for step, chosen in enumerate(order[: steps * BATCH].split(BATCH)):
        batch = windows.rows(chosen)
        stream = streams(2, torch.full_like(chosen, step), chosen)
        optimizer.zero_grad()
        model.objective.loss(model, batch, stream, step).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return time.perf_counter() - start


@torch.no_grad()
def densities(model: AutoregressiveModel, windows: SeriesBatch) -> tuple[Tensor, Tensor]:
    """Of each window, the summed log-density of hidden entries, and the joint one of what is visible."""
    if isinstance(model.objective, MaskedNLL):
        return model.log_prob(windows).sum(dim=(1, 2, 3)), model.log_likelihood(windows)
    parts = []
    for i in range(0, TEST, 8):
        rows = windows.rows(slice(i, i + 8))
        found = particle_filter(model, rows, PATHS, streams(3, rows.position[:, 0]))
        assert found.log_prob is not None
        parts.append((found.log_prob.sum(dim=(1, 2, 3)), found.log_evidence))
    hidden, visible = zip(*parts, strict=True)
    return torch.cat(hidden), torch.cat(visible)


def excess(exact: Tensor, found: Tensor, entries: Tensor) -> str:
    """By how much a sum of log-densities falls short, in nats an entry, with its standard error."""
    share = (exact - found) / entries.double().mean()
    return f"{share.mean():+.4f} ± {share.std() / len(share) ** 0.5:.4f}"


def compare(missing: float) -> None:
    """Trains and judges every model at one rate."""
    process = process_on(NODES)
    train_on, test_on = (windows_of(process, n, missing, seed) for n, seed in ((TRAIN, 10), (TEST, 20)))
    hidden, visible = (mask.sum(dim=(1, 2, 3)) for mask in (test_on.target, test_on.context))
    law = process.predictive(test_on)
    exact_hidden = masked_log_prob(law, test_on.values, test_on.target).sum(dim=(1, 2, 3)).double()
    exact_visible = process.log_prob(test_on.values[..., 0], test_on.context[..., 0])
    print(
        f"| {missing:.0%} | the process itself | {-exact_hidden.sum() / hidden.sum():.4f} | "
        f"{-exact_visible.sum() / visible.sum():.4f} | |",
        flush=True,
    )
    for encoder, name, objective, steps in RUNS:
        seed_everything(0, verbose=False)
        model = AutoregressiveModel(spec_of(test_on), ENCODERS[encoder], GaussianHead, objective=objective)
        seconds = train(model.train(), train_on, steps)
        found_hidden, found_visible = densities(model.eval(), test_on)
        print(
            f"| {missing:.0%} | {encoder}, {name} | {excess(exact_hidden, found_hidden.double(), hidden)} | "
            f"{excess(exact_visible, found_visible.double(), visible)} | {seconds:.0f} |",
            flush=True,
        )


@torch.no_grad()
def degenerate(nodes: int, particles: int) -> str:
    """How far the bound falls short in nats an entry, and the least effective share of the paths: half of the
    entries are missing, and the model is the process' own law."""
    process = process_on(nodes)
    windows = windows_of(process, 16, 0.5, 30)
    model = AutoregressiveModel(spec_of(windows), ENCODERS["lags"], partial(GaussianHead, scale=1.0))
    for parameter in model.parameters():
        parameter.zero_()
    (convolution,) = (m for m in model.encoder.modules() if type(m).__name__ == "GraphConvolution")
    convolution.linear.weight.copy_(torch.eye(2))
    # of each lag: the value, its flag, and both as heard
    weight = [[own, 0, coupling, 0] for own, coupling in zip(OWN, COUPLING, strict=True)]
    model.head.linear.weight.copy_(torch.tensor(weight).flatten())
    found = particle_filter(model, windows, particles, streams(4, torch.arange(16)), predictive=False)
    exact = process.log_prob(windows.values[..., 0], windows.context[..., 0])
    entries = windows.context.sum(dim=(1, 2, 3))
    least = float(found.ess.amin(dim=1).mean()) / particles
    return (
        f"| {nodes} | {particles:,} | {excess(exact, found.log_evidence.double(), entries)} | {least:.1%} |"
    )


def main() -> None:
    """Prints both tables."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    print(
        "| missing | trained | hidden entries | visible entries | seconds |\n| --- | --- | --- | --- | --- |"
    )
    for missing in (0.2, 0.5, 0.8):
        compare(missing)
    print("\n| nodes | paths | short of the likelihood | least effective share |\n| --- | --- | --- | --- |")
    for nodes in (6, 20, 60):
        for particles in (8, 32, 1000):
            print(degenerate(nodes, particles), flush=True)
    print(f"\n{time.perf_counter() - start:.0f} seconds in all")


if __name__ == "__main__":
    main()
