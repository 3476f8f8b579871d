"""Compares two ways to train with missing inputs: marking them, and the particle bound.

    python -m experiments.benchmarks.missing_inputs

The data is a linear-Gaussian process on a graph of 6 nodes, in windows of 20 steps, with entries missing at
random at the same rate in training and test. Every model has the same encoder and head and takes the same
number of optimiser steps, except for one that marks missing inputs and takes six times as many. Two scores
are taken on test windows: the negative log-density of each hidden entry given what is visible in the slices
before it, and the joint one of the visible entries, per entry. The same scores of the process itself, by the
Kalman filter, are subtracted from both; the standard error of the difference is over windows. A model that
marks missing inputs is scored in one pass, and one trained by the particle bound by a filter of 1,000 paths.

The second table shows the gap of the bound against the number of nodes, with the process itself as the model.

Uses one thread. Everything is seeded: a second run prints the same, except for the seconds.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from functools import partial

import torch
from lightning import seed_everything
from torch import Tensor

from experiments.benchmarks.harness import (
    arguments,
    exact_model,
    unit_noise_process,
    unit_noise_windows,
    unit_spec,
)
from tsgen.counter_random import streams
from tsgen.data.series import SeriesBatch
from tsgen.encoders import Encoder, GraphGRUEncoder, WindowEncoder
from tsgen.heads import GaussianHead
from tsgen.heads.likelihood import masked_log_prob
from tsgen.models import AutoregressiveModel
from tsgen.objectives import MaskedNLL, Objective, ParticleBound
from tsgen.sampling.particles import particle_filter

NODES, TIME, TRAIN, TEST = 6, 20, 3000, 64
STEPS, BATCH, RATE = 400, 32, 0.01
PATHS = 1000
"""Paths of the filters that score a model."""

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


def train(model: AutoregressiveModel, windows: SeriesBatch, steps: int) -> float:
    """Trains on the visible entries and returns the seconds that it took."""
    windows = dataclasses.replace(windows, target=windows.context)
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
    """Returns for each window the sum of log-densities of hidden entries and the joint one of the others."""
    if isinstance(model.objective, MaskedNLL):
        return model.log_prob(windows).sum(dim=(1, 2, 3)), model.log_likelihood(windows)
    results = []
    for i in range(0, TEST, 8):
        rows = windows.rows(slice(i, i + 8))
        found = particle_filter(model, rows, PATHS, streams(3, rows.position[:, 0]))
        assert found.log_prob is not None
        results.append((found.log_prob.sum(dim=(1, 2, 3)), found.log_evidence))
    hidden, visible = zip(*results, strict=True)
    return torch.cat(hidden), torch.cat(visible)


def excess(exact: Tensor, found: Tensor, entries: Tensor) -> str:
    """Returns by how much a sum of log-densities falls short, in nats per entry, with its standard error."""
    share = (exact - found) / entries.double().mean()
    return f"{share.mean():+.4f} ± {share.std() / len(share) ** 0.5:.4f}"


def compare(missing: float) -> None:
    """Trains and scores every model at one rate of missing entries."""
    process = unit_noise_process(NODES)
    train_on = unit_noise_windows(process, TRAIN, TIME, missing, seed=10)
    test_on = unit_noise_windows(process, TEST, TIME, missing, seed=20)
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
        model = AutoregressiveModel(unit_spec(NODES), ENCODERS[encoder], GaussianHead, objective=objective)
        seconds = train(model.train(), train_on, steps)
        found_hidden, found_visible = densities(model.eval(), test_on)
        print(
            f"| {missing:.0%} | {encoder}, {name} | {excess(exact_hidden, found_hidden.double(), hidden)} | "
            f"{excess(exact_visible, found_visible.double(), visible)} | {seconds:.0f} |",
            flush=True,
        )


@torch.no_grad()
def degenerate(nodes: int, particles: int) -> str:
    """Returns a row of the second table: the gap of the bound and the least effective share of the paths.

    Half of the entries are missing, and the model is the process itself. The gap is in nats per entry.
    """
    process = unit_noise_process(nodes)
    windows = unit_noise_windows(process, 16, TIME, 0.5, seed=30)
    found = particle_filter(
        exact_model(nodes), windows, particles, streams(4, torch.arange(16)), predictive=False
    )
    exact = process.log_prob(windows.values[..., 0], windows.context[..., 0])
    entries = windows.context.sum(dim=(1, 2, 3))
    least = float(found.ess.amin(dim=1).mean()) / particles
    return (
        f"| {nodes} | {particles:,} | {excess(exact, found.log_evidence.double(), entries)} | {least:.1%} |"
    )


def main() -> None:
    """Prints both tables."""
    arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    print(
        "| missing | trained | hidden entries | visible entries | seconds |\n| --- | --- | --- | --- | --- |"
    )
    for missing in (0.2, 0.5, 0.8):
        compare(missing)
    print("\n| nodes | paths | below the likelihood | least effective share |\n| --- | --- | --- | --- |")
    for nodes in (6, 20, 60):
        for particles in (8, 32, 1000):
            print(degenerate(nodes, particles), flush=True)
    print(f"\n{time.perf_counter() - start:.0f} seconds in all")


if __name__ == "__main__":
    main()
