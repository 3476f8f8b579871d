"""Every encoder with every head: speed of training, parameters, memory, and the speed of drawing for some.

    python -m experiments.benchmarks.models

Prints one table for 36 nodes and one for 207, both with windows of 24 steps: training steps per second
(forward, backward, optimiser), parameters, and the peak memory that training takes. Times are medians over
rounds in which each model takes one step in turn, so that a busy machine is the same to all. Memory is the
growth of a process' peak from before the model is made to after two training steps, each model in a fresh
process. Then, for all encoders with one head and for all heads with one encoder, sampled paths per second.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from experiments.benchmarks.devices import HIDDEN, STEPS, make
from tsgen.data.series import SeriesBatch
from tsgen.encoders import AttentionEncoder, ConvolutionEncoder, GraphGRUEncoder, WindowEncoder
from tsgen.heads import GaussianHead, MixtureHead, MixtureNADEHead
from tsgen.heads.likelihood import masked_nll
from tsgen.models import AutoregressiveModel

ENCODERS: dict[str, Callable] = {
    "linear window, 2 slices": partial(WindowEncoder, order=2, layers=0),
    "window, 6 slices": partial(WindowEncoder, order=6, hidden=HIDDEN),
    "convolution, 16 slices": partial(ConvolutionEncoder, hidden=HIDDEN, layers=4),
    "GRU": partial(GraphGRUEncoder, hidden=HIDDEN),
    "attention, 2 blocks": partial(AttentionEncoder, hidden=HIDDEN),
}
HEADS: dict[str, Callable] = {
    "Gaussian": GaussianHead,
    "mixture": partial(MixtureHead, components=5),
    "NADE": partial(MixtureNADEHead, components=5, over="slice"),
}
SIZES = {36: (32, 20), 207: (16, 10)}
"""Windows in a batch and paths drawn of each, for each number of nodes."""


def build(nodes: int, encoder: str, messages: bool, head: str) -> tuple[AutoregressiveModel, SeriesBatch]:
    """A model of the matrix and a batch for it."""
    some, batch = make(nodes, *SIZES[nodes])
    chosen = ENCODERS[encoder] if messages else partial(ENCODERS[encoder], convolution=None)
    return AutoregressiveModel(some.spec, chosen, HEADS[head], sampler=some.sampler), batch


def training_step(model: AutoregressiveModel, batch: SeriesBatch) -> Callable[[], None]:
    """What one step of training does."""
    optimizer = model.configure_optimizers()

    def step() -> None:
        masked_nll(model(batch), batch.values, batch.target).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def interleaved(works: list[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of each work, all of them done in turn; the first round warms up."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(repeats + 1):
        for work, its in zip(works, times, strict=True):
            start = time.perf_counter()
            work()
            its.append(time.perf_counter() - start)
    return [statistics.median(its[1:]) for its in times]


def in_a_fresh_process(work: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """What a function returns, and the MiB by which it raises the peak memory of a process of its own."""
    # each process is a copy of one that has imported everything and done nothing
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["experiments.benchmarks.devices"])
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(there, torch.get_num_threads(), work, *arguments))
    process.start()
    there.close()
    result = here.recv()
    process.join()
    return result


def _measured(pipe: Any, threads: int, work: Callable[..., Any], *arguments: Any) -> None:
    torch.set_num_threads(threads)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = work(*arguments)
    pipe.send((result, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))


def train_twice(nodes: int, encoder: str, messages: bool, head: str) -> None:
    """Two training steps: the second has the optimiser's memory too."""
    step = training_step(*build(nodes, encoder, messages, head))
    step()
    step()


def matrix(nodes: int, repeats: int) -> None:
    """Prints the table of all encoders and heads."""
    rows = [(encoder, messages) for encoder in ENCODERS for messages in (True, False)]
    cells = [(*row, head) for row in rows for head in HEADS]
    memory = {cell: in_a_fresh_process(train_twice, nodes, *cell)[1] for cell in cells}
    built = {cell: build(nodes, *cell) for cell in cells}
    seconds = dict(
        zip(cells, interleaved([training_step(*built[cell]) for cell in cells], repeats), strict=True)
    )
    print(f"\n{nodes} nodes, batches of {SIZES[nodes][0]} windows of {STEPS} steps: ", end="")
    print("steps/s · parameters · MiB\n")
    print(f"| encoder | messages | {' | '.join(HEADS)} |")
    print("|" + " --- |" * (2 + len(HEADS)))
    for encoder, messages in rows:
        told = []
        for head in HEADS:
            cell = (encoder, messages, head)
            count = sum(parameter.numel() for parameter in built[cell][0].parameters())
            told.append(f"{1 / seconds[cell]:.1f} · {count:,} · {memory[cell]:,.0f}")
        print(f"| {encoder} | {'yes' if messages else 'no'} | {' | '.join(told)} |", flush=True)


def paths(repeats: int) -> None:
    """Prints how fast some of the models draw."""
    cells = [(encoder, "Gaussian") for encoder in ENCODERS] + [("GRU", head) for head in list(HEADS)[1:]]
    print("\nsampled paths per second, with messages\n")
    print(f"| encoder | head | {' | '.join(f'{nodes} nodes' for nodes in SIZES)} |")
    print("|" + " --- |" * (2 + len(SIZES)))
    speeds = []
    for nodes, (windows, samples) in SIZES.items():
        models = [build(nodes, encoder, True, head) for encoder, head in cells]
        works = [partial(model.sampler, model, batch) for model, batch in models]
        speeds.append([windows * samples / seconds for seconds in interleaved(works, repeats)])
    for (encoder, head), *its in zip(cells, *speeds, strict=True):
        print(f"| {encoder} | {head} | {' | '.join(f'{speed:,.0f}' for speed in its)} |")


def main() -> None:
    """Prints all tables."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, states of {HIDDEN} numbers")
    for nodes in SIZES:
        matrix(nodes, repeats=5)
    paths(repeats=3)


if __name__ == "__main__":
    main()
