"""Measures the speed-up by a second process, and the memory of a long prediction.

    python -m experiments.benchmarks.scaling [--cores 0,1]

Each process is pinned to a core of its own. Runs of one process and of two take turns, so that other work on
the machine slows both alike. Prints medians, and the load of the machine: if other work runs on these cores,
the numbers say little. The results are

* windows per second of Lightning's data-parallel training after its first steps, and of a prediction from its
  first window to the file, for which each process draws its share of the samples;
* the efficiency: the rate of two processes over twice that of one. It is also given by the CPU time of each
  process, which depends less on other work and excludes the time that processes wait for each other;
* the peak memory of a process;
* the peak memory of imputing series of 500 nodes and growing length into a file, 50 samples each.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import io
import logging
import socket
import statistics
import time
import warnings
from contextlib import redirect_stdout
from functools import partial
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT

from experiments.benchmarks.harness import WhiteNoise, arguments, peak_memory, quiet_trainer, random_problem
from tsgen import impute
from tsgen.data.series import GraphSeries, SeriesBatch, SeriesSpec
from tsgen.encoders import WindowEncoder
from tsgen.heads import GaussianHead
from tsgen.inference.prediction import SeriesPrediction
from tsgen.models import AutoregressiveModel
from tsgen.sampling import Ancestral

NODES, WINDOWS, SAMPLES = 207, 8, 32
ROUNDS, WARM_UP, STEPS, PREDICTED = 5, 2, 10, 96
LONG_NODES, LENGTHS, LONG_SAMPLES, WINDOW = 500, (500, 1000, 2000), 50, 24


class Rates(NamedTuple):
    """What is measured in a run of one or more processes.

    Attributes:
        trained: Trained windows per second.
        trained_by_cpu: Trained windows per CPU-second of one process.
        predicted: Predicted windows per second.
        predicted_by_cpu: Predicted windows per CPU-second of one process.
        peak: Peak memory of one process, in MiB.
    """

    trained: float
    trained_by_cpu: float
    predicted: float
    predicted_by_cpu: float
    peak: float


class Clock(Callback):
    """Measures wall and CPU seconds of this process, in training and in prediction.

    Training is measured after the first steps, a prediction from its first window to the file.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, tuple[float, float]] = {}

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: STEP_OUTPUT,
        batch: SeriesBatch,
        batch_idx: int,
    ) -> None:
        """Starts the clock after the first steps, and stops it after the last one."""
        if trainer.global_step == WARM_UP:
            self._start(trainer)
        if trainer.global_step == WARM_UP + STEPS:
            self._stop(trainer, "train")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._start(trainer)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock; the file has been written."""
        self._stop(trainer, "predict")

    def _start(self, trainer: Trainer) -> None:
        trainer.strategy.barrier()
        self._started = time.perf_counter(), time.process_time()

    def _stop(self, trainer: Trainer, name: str) -> None:
        own = time.process_time() - self._started[1]
        trainer.strategy.barrier()
        self.seconds[name] = time.perf_counter() - self._started[0], own


def worker(rank: int, cores: list[int], port: int, folder: str, answers: SimpleQueue[Rates]) -> None:
    """Trains and predicts on one core, with the processes on the other cores, and reports the rates."""
    os.sched_setaffinity(0, {cores[rank]})
    torch.set_num_threads(1)
    # for Lightning each process is a node of its own
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": str(rank)}
    for package in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(package).setLevel(logging.ERROR)
    model, _ = random_problem(NODES, WINDOWS, SAMPLES)
    series = partial(WhiteNoise, model.spec.graph, window=WINDOW, batch_size=WINDOWS, observed=2 / 3)
    data, clock = series(steps=600), Clock()
    trainer = partial(
        quiet_trainer,
        devices=1,
        num_nodes=len(cores),
        limit_val_batches=0,
        strategy="ddp" if len(cores) > 1 else "auto",
    )
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        trainer(max_steps=WARM_UP + STEPS, callbacks=[clock]).fit(model, data)
        long = series(steps=PREDICTED)
        prediction = SeriesPrediction(model, long, Path(folder) / "imputation.nc")
        trainer(callbacks=[clock]).predict(prediction, return_predictions=False)
    trained = [STEPS * WINDOWS * len(cores) / spent for spent in clock.seconds["train"]]
    drawn = [len(long.tiles.starts) / spent for spent in clock.seconds["predict"]]
    answers.put(Rates._make([*trained, *drawn, peak_memory()]))


def measured(cores: list[int]) -> Rates:
    """Runs one process per core; returns the lowest rates and the highest memory of them."""
    context = get_context("fork")
    answers: SimpleQueue[Rates] = context.SimpleQueue()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with TemporaryDirectory() as folder:
        shared = (cores, port, folder, answers)
        started = [context.Process(target=worker, args=(rank, *shared)) for rank in range(len(cores))]
        for process in started:
            process.start()
        rates = [answers.get() for _ in started]
        for process in started:
            process.join()
    *columns, peaks = zip(*rates, strict=True)
    return Rates._make([*map(min, columns), max(peaks)])


def long_imputation(length: int, core: int, answers: SimpleQueue[tuple[float, float, float]]) -> None:
    """Imputes a random series into a file; reports peak memory before and after, and the size of all samples.

    All are in MiB.
    """
    os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    template, _ = random_problem(LONG_NODES, 1, 1)
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(length, LONG_NODES, 1, generator=generator)
    observed = torch.rand(values.shape, generator=generator) < 0.5
    series = GraphSeries(values.masked_fill(~observed, torch.nan), observed, template.spec.graph)
    model = AutoregressiveModel(
        SeriesSpec.of(series),
        partial(WindowEncoder, order=2, hidden=8),
        GaussianHead,
        sampler=Ancestral(LONG_SAMPLES),
    )
    before = peak_memory()
    with TemporaryDirectory() as folder:
        impute(model, series, window=WINDOW, path=Path(folder) / "imputation.nc").close()
    whole = values.numel() * LONG_SAMPLES * values.element_size() / 2**20
    answers.put((before, peak_memory(), whole))


def main() -> None:
    """Prints both tables."""
    parser = arguments(__doc__)
    parser.add_argument("--cores", default="0,1", help="the core of each process")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds that the rates are medians of")
    parser.add_argument("--lengths", type=int, nargs="*", default=LENGTHS, help="steps of the imputed series")
    options = parser.parse_args()
    cores = [int(core) for core in options.cores.split(",")]
    rounds: dict[int, list[Rates]] = {1: [], len(cores): []}
    load = [os.getloadavg()[0]]
    for _ in range(options.rounds):
        for processes, results in rounds.items():
            results.append(measured(cores[:processes]))
        load.append(os.getloadavg()[0])
    busy = f"load {min(load):.1f} to {max(load):.1f}"
    print(f"torch {torch.__version__}, cores {cores} of {os.cpu_count()}, {busy}")
    print(
        f"{NODES} nodes, {WINDOWS} windows of {WINDOW} steps per process, {SAMPLES} samples, "
        f"{options.rounds} rounds"
    )
    print("           trained windows/s  efficiency  by CPU  predicted win./s  efficiency  by CPU  peak MiB")
    one = [statistics.median(column) for column in zip(*rounds[1], strict=True)]
    for processes, results in rounds.items():
        rates = [statistics.median(column) for column in zip(*results, strict=True)]
        efficiency = [rate / (processes * single) for rate, single in zip(rates, one, strict=True)]
        trained = f"{rates[0]:17.1f}{efficiency[0]:12.0%}{efficiency[1]:8.0%}"
        predicted = f"{rates[2]:18.1f}{efficiency[2]:12.0%}{efficiency[3]:8.0%}"
        print(f"{processes:9}  {trained}{predicted}{rates[4]:10.0f}")
    print(f"\nimputing {LONG_NODES} nodes, {LONG_SAMPLES} samples, windows of {WINDOW} steps, into a file")
    print("steps  all samples MiB  peak MiB before  peak MiB")
    context = get_context("fork")
    for length in options.lengths:
        answers: SimpleQueue[tuple[float, float, float]] = context.SimpleQueue()
        process = context.Process(target=long_imputation, args=(length, cores[0], answers))
        process.start()
        before, peak, whole = answers.get()
        process.join()
        print(f"{length:5}{whole:17.0f}{before:17.0f}{peak:10.0f}", flush=True)


if __name__ == "__main__":
    main()
