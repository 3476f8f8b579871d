"""What a second process buys, and what a long prediction takes.

    python -m experiments.benchmarks.scaling [--cores 0,1]

Each process is pinned to a core of its own. Runs of one process and of two take turns, so that a busy machine
slows both alike, and medians are told, beside the load that the machine had: with other work on these cores
the numbers say little. Prints

* windows per second of Lightning's data-parallel training after its first steps, and of a prediction from its
  first window to the file, of which each process draws its share of the samples; the efficiency (the rate of
  two processes over twice that of one), the same by the CPU time that each process took, which other work on
  the machine does not change so much and which leaves out waiting for each other, and the peak memory of a
  process;
* the peak memory of imputing series of 500 nodes and growing length into a file, 50 samples each.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import io
import logging
import resource
import socket
import statistics
import time
import warnings
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning import Callback, Trainer
from torch.multiprocessing import get_context
from torch_geometric.data import Data

from experiments.benchmarks.devices import make
from tsgen import impute
from tsgen.data.series import GraphSeries, SeriesSpec
from tsgen.datamodules.windows import SeriesDataModule, Split
from tsgen.encoders import WindowEncoder
from tsgen.heads import GaussianHead
from tsgen.inference.prediction import SeriesPrediction
from tsgen.models import AutoregressiveModel
from tsgen.sampling import Ancestral

NODES, WINDOWS, SAMPLES = 207, 8, 32
ROUNDS, WARM_UP, STEPS, PREDICTED = 5, 2, 10, 96
LONG_NODES, LENGTHS, LONG_SAMPLES, WINDOW = 500, (500, 1000, 2000), 50, 24


class RandomSeries(SeriesDataModule):
    """A series of random numbers, a third of them missing.

    Args:
        graph: The graph.
        steps: Its length.
        options: Those of every data module.
    """

    def __init__(self, graph: Data, steps: int, **options: Any) -> None:
        super().__init__(window=WINDOW, batch_size=WINDOWS, **options)
        self.graph, self.steps = graph, steps

    def load(self) -> Split:
        """Draws the series; all of it is for training."""
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(self.steps, self.graph.num_nodes, 1, generator=generator)
        observed = torch.rand(values.shape, generator=generator) < 2 / 3
        series = GraphSeries(values, observed, self.graph)
        return Split(series, [slice(0, self.steps)], [], [], torch.zeros_like(observed))


class Clock(Callback):
    """Seconds by the clock, and of this process' CPU, that the steps of a training take after the first ones,
    and that a prediction takes from its first window to the file."""

    def __init__(self) -> None:
        self.seconds: dict[str, tuple[float, float]] = {}

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        """Begins after the first steps and ends with the last one."""
        if trainer.global_step == WARM_UP:
            self._begin(trainer)
        if trainer.global_step == WARM_UP + STEPS:
            self._end(trainer, "train")

    def on_predict_start(self, trainer: Trainer, module: Any) -> None:
        """Begins."""
        self._begin(trainer)

    def on_predict_end(self, trainer: Trainer, module: Any) -> None:
        """Ends; the file has been written."""
        self._end(trainer, "predict")

    def _begin(self, trainer: Trainer) -> None:
        trainer.strategy.barrier()
        self._began = time.perf_counter(), time.process_time()

    def _end(self, trainer: Trainer, name: str) -> None:
        own = time.process_time() - self._began[1]
        trainer.strategy.barrier()
        self.seconds[name] = time.perf_counter() - self._began[0], own


def worker(rank: int, cores: list[int], port: int, folder: str, answers: Any) -> None:
    """Trains and predicts on one core, beside the processes on the others; tells its rates and its memory."""
    os.sched_setaffinity(0, {cores[rank]})
    torch.set_num_threads(1)
    # each process is a node of its own, as far as Lightning knows
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": str(rank)}
    for package in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(package).setLevel(logging.ERROR)
    model, _ = make(NODES, WINDOWS, SAMPLES)
    data, clock = RandomSeries(model.spec.graph, 600), Clock()
    options: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    options |= {"strategy": "ddp"} if len(cores) > 1 else {}
    trainer = partial(
        Trainer,
        accelerator="cpu",
        devices=1,
        num_nodes=len(cores),
        use_distributed_sampler=False,
        enable_checkpointing=False,
        limit_val_batches=0,
        **options,
    )
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        trainer(max_steps=WARM_UP + STEPS, callbacks=[clock]).fit(model, data)
        long = RandomSeries(model.spec.graph, PREDICTED)
        prediction = SeriesPrediction(model, long, Path(folder) / "imputation.nc")
        trainer(callbacks=[clock]).predict(prediction, return_predictions=False)
    trained = [STEPS * WINDOWS * len(cores) / spent for spent in clock.seconds["train"]]
    drawn = [len(long.tiles.starts) / spent for spent in clock.seconds["predict"]]
    answers.put((*trained, *drawn, _peak()))


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
    with TemporaryDirectory() as folder:
        given = (cores, port, folder, answers)
        started = [context.Process(target=worker, args=(rank, *given)) for rank in range(len(cores))]
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
    print(f"{NODES} nodes, {WINDOWS} windows of {WINDOW} steps a process, {SAMPLES} samples, {ROUNDS} rounds")
    print("           trained windows/s  efficiency  by CPU  predicted win./s  efficiency  by CPU  peak MiB")
    one = [statistics.median(column) for column in zip(*rounds[1], strict=True)]
    for processes, told in rounds.items():
        rates = [statistics.median(column) for column in zip(*told, strict=True)]
        gain = [rate / (processes * single) for rate, single in zip(rates, one, strict=True)]
        trained = f"{rates[0]:17.1f}{gain[0]:12.0%}{gain[1]:8.0%}"
        print(f"{processes:9}  {trained}{rates[2]:18.1f}{gain[2]:12.0%}{gain[3]:8.0%}{rates[4]:10.0f}")
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
