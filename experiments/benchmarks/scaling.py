"""What a second process buys, and what a long prediction takes.

    python -m experiments.benchmarks.scaling [--cores 0,1]

Each process is pinned to a core of its own. Runs of one process and of two take turns, so that a busy machine
slows both alike, and medians are told, beside the load that the machine had: with other work on these cores
the numbers say little. Prints

* windows per second of data-parallel training and of drawing shares of the samples of the same windows, the
  efficiency (the rate of two processes over twice that of one), the same by the CPU time that each process
  took, which other work on the machine does not change so much and which leaves out waiting for each other,
  and the peak memory of a process;
* the peak memory of imputing series of 500 nodes and growing length into a file, 50 samples each.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import resource
import socket
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing import get_context
from torch.nn.parallel import DistributedDataParallel

from experiments.benchmarks.devices import make
from tsgen import impute
from tsgen.counter_random import streams
from tsgen.encoders import WindowEncoder
from tsgen.heads import GaussianHead
from tsgen.models import AutoregressiveModel
from tsgen.sampling import Ancestral
from tsgen.series import GraphSeries, SeriesBatch, SeriesSpec

NODES, WINDOWS, SAMPLES = 207, 8, 8
ROUNDS, WARM_UP, STEPS = 5, 2, 6
LONG_NODES, LENGTHS, LONG_SAMPLES, WINDOW = 500, (500, 1000, 2000), 50, 24


class Loss(nn.Module):
    """The loss of a model, as what a data-parallel wrapper runs forward.

    Args:
        model: The model.
    """

    def __init__(self, model: AutoregressiveModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: SeriesBatch) -> Tensor:
        """The loss of a batch."""
        return self.model.objective.loss(self.model, batch, streams(0, batch.position[:, 0]), 0)


def worker(rank: int, cores: list[int], port: int, answers: Any) -> None:
    """Trains and draws on one core, beside the processes on the others; tells its rates and its memory."""
    os.sched_setaffinity(0, {cores[rank]})
    torch.set_num_threads(1)
    store = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=len(cores))
    model, batch = make(NODES, WINDOWS, SAMPLES)
    loss = Loss(model)
    parallel: nn.Module = DistributedDataParallel(loss) if len(cores) > 1 else loss
    optimizer = model.configure_optimizers()

    def step() -> None:
        optimizer.zero_grad()
        parallel(batch).backward()
        optimizer.step()

    bounds = [SAMPLES * r // len(cores) for r in (rank, rank + 1)]
    training = [WINDOWS * len(cores) / spent for spent in _seconds(step)]
    drawing = [
        WINDOWS / spent for spent in _seconds(lambda: model.sampler.some(model, batch, range(*bounds)))
    ]
    answers.put((*training, *drawing, _peak()))
    torch.distributed.destroy_process_group()


def _seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Mean time of some work done by all processes, from when all begin to when all are done, and the CPU
    time that this process took for its part."""
    for _ in range(WARM_UP):
        work()
    torch.distributed.barrier()
    start, began = time.perf_counter(), time.process_time()
    for _ in range(STEPS):
        work()
    own = time.process_time() - began
    torch.distributed.barrier()
    return (time.perf_counter() - start) / STEPS, own / STEPS


def _peak() -> float:
    """The most memory that this process has held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measured(cores: list[int]) -> tuple[float, ...]:
    """Windows a second and a CPU second of training, the same of drawing, and the peak memory in MiB."""
    context = get_context("fork")
    answers = context.SimpleQueue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [context.Process(target=worker, args=(r, cores, port, answers)) for r in range(len(cores))]
    for process in started:
        process.start()
    told = [answers.get() for _ in started]
    for process in started:
        process.join()
    *rates, peaks = zip(*told, strict=True)
    return (*map(min, rates), max(peaks))


def long_imputation(length: int, core: int, answers: Any) -> None:
    """Imputes a random series into a file; tells the peak memory before and after, and the file's size."""
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    small, _ = make(LONG_NODES, 1, 1)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(length, LONG_NODES, 1, generator=generator)
    observed = torch.rand(values.shape, generator=generator) < 0.5
    series = GraphSeries(values.masked_fill(~observed, torch.nan), observed, small.spec.graph)
    model = AutoregressiveModel(
        SeriesSpec.of(series),
        partial(WindowEncoder, order=2, hidden=8),
        GaussianHead,
        sampler=Ancestral(LONG_SAMPLES),
    )
    before = _peak()
    with TemporaryDirectory() as folder:
        impute(model, series, window=WINDOW, path=Path(folder) / "imputation.nc").close()
    whole = values.numel() * LONG_SAMPLES * values.element_size() / 2**20
    answers.put((before, _peak(), whole))


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cores", default="0,1", help="the core of each process")
    cores = [int(core) for core in parser.parse_args().cores.split(",")]
    rounds: dict[int, list[tuple[float, ...]]] = {1: [], len(cores): []}
    load = [os.getloadavg()[0]]
    for _ in range(ROUNDS):
        for processes, told in rounds.items():
            told.append(measured(cores[:processes]))
        load.append(os.getloadavg()[0])
    busy = f"load {min(load):.1f} to {max(load):.1f}"
    print(f"torch {torch.__version__}, cores {cores} of {os.cpu_count()}, {busy}")
    print(f"{NODES} nodes, {WINDOWS} windows of 24 steps a process, {SAMPLES} samples, {ROUNDS} rounds")
    print("           trained windows/s  efficiency  by CPU  drawn windows/s  efficiency  by CPU  peak MiB")
    one = [statistics.median(column) for column in zip(*rounds[1], strict=True)]
    for processes, told in rounds.items():
        rates = [statistics.median(column) for column in zip(*told, strict=True)]
        gain = [rate / (processes * single) for rate, single in zip(rates, one, strict=True)]
        trained = f"{rates[0]:17.1f}{gain[0]:12.0%}{gain[1]:8.0%}"
        print(f"{processes:9}  {trained}{rates[2]:17.1f}{gain[2]:12.0%}{gain[3]:8.0%}{rates[4]:10.0f}")
    print(f"\nimputing {LONG_NODES} nodes, {LONG_SAMPLES} samples, windows of {WINDOW} steps, into a file")
    print("steps  all samples MiB  peak MiB before  peak MiB")
    context = get_context("fork")
    for length in LENGTHS:
        answers = context.SimpleQueue()
        process = context.Process(target=long_imputation, args=(length, cores[0], answers))
        process.start()
        before, peak, whole = answers.get()
        process.join()
        print(f"{length:5}{whole:17.0f}{before:17.0f}{peak:10.0f}", flush=True)


if __name__ == "__main__":
    main()
