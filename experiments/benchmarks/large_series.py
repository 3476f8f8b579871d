"""Compares training on a series in memory with training on windows that are read from a file.

    python -m experiments.benchmarks.large_series

Writes series of 1,000 nodes and growing length to netCDF, a stretch of time at a time, in chunks of a
window's length and all nodes. The first table has, for each length, the size of the values, and by how much
the peak memory of a process grows while it fits the units, trains on a few windows and imputes others, with
the series in memory and with windows read from the file. The second table has, for the longest series,
windows per second in a random order: in memory, read by the process itself, and read by two workers. A file
that was just written is in the system's cache, so a slow disk costs more than this shows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import netCDF4
import numpy as np
import torch

from experiments.benchmarks.harness import arguments, in_a_fresh_process, interleaved
from tsgen import impute
from tsgen.data.series import SeriesBatch
from tsgen.datamodules import FilesDataModule
from tsgen.encoders import WindowEncoder
from tsgen.heads import GaussianHead
from tsgen.models import AutoregressiveModel
from tsgen.sampling import Ancestral

NODES, WINDOW, BATCH, BATCHES, ROUNDS = 1000, 24, 8, 20, 5
LENGTHS = (25_000, 50_000, 100_000, 200_000)
IMPUTED = 48
"""Steps at the end of the series that are imputed."""


def write_series(path: Path, steps: int) -> None:
    """Writes a series of random numbers on a ring, a fifth of them missing, holding 1,000 steps in memory."""
    random = np.random.default_rng(0)
    with netCDF4.Dataset(path, "w") as file:
        for name, size in (("time", steps), ("node", NODES), ("edge", NODES)):
            file.createDimension(name, size)
        file.createVariable("edge_source", "i8", ("edge",))[:] = np.arange(NODES)
        file.createVariable("edge_target", "i8", ("edge",))[:] = (np.arange(NODES) + 1) % NODES
        values = file.createVariable(
            "values", "f4", ("time", "node"), fill_value=np.nan, chunksizes=(WINDOW, NODES)
        )
        for first in range(0, steps, 1000):
            chunk = random.standard_normal((min(1000, steps - first), NODES), dtype=np.float32)
            chunk[random.random(chunk.shape, dtype=np.float32) < 0.2] = np.nan
            values[first : first + len(chunk)] = chunk


def data_module(path: Path, in_memory: bool, workers: int = 0) -> FilesDataModule:
    """Returns the data module of a series."""
    return FilesDataModule(path, in_memory=in_memory, window=WINDOW, batch_size=BATCH, num_workers=workers)


def use(path: str, in_memory: bool) -> None:
    """Fits the units of a series, trains on three batches and imputes the end of the series."""
    data = data_module(Path(path), in_memory)
    model = AutoregressiveModel(data.spec, partial(WindowEncoder, order=2, hidden=8), GaussianHead)
    optimizer = torch.optim.Adam(model.parameters())
    for _, batch in zip(range(3), data.train_dataloader(), strict=False):
        optimizer.zero_grad()
        model.objective.loss(model, batch, batch.position[:, 0], 0).backward()
        optimizer.step()
    series = data.split.series
    impute(model, series.chunk(slice(len(series) - IMPUTED, None)), method=Ancestral(10), window=WINDOW)


def rates(path: Path) -> dict[str, float]:
    """Returns the windows per second of each way to load them, measured in turn."""
    modules = {
        "in memory": data_module(path, True),
        "from the file": data_module(path, False),
        "from the file, two workers": data_module(path, False, 2),
    }
    loaders = {name: iter(module.train_dataloader()) for name, module in modules.items()}
    for loader in loaders.values():
        next(loader)
    seconds = interleaved([partial(load, loader) for loader in loaders.values()], ROUNDS, warm_up=0)
    return {name: BATCH * BATCHES / each for name, each in zip(loaders, seconds, strict=True)}


def load(loader: Iterator[SeriesBatch]) -> None:
    """Takes some batches from a loader."""
    for _ in range(BATCHES):
        next(loader)


def main() -> None:
    """Prints both tables."""
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=LENGTHS, help="lengths of the series")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "series.nc"
        print("| steps | values, MiB | in memory, MiB | from the file, MiB |\n| --- | --- | --- | --- |")
        for steps in options.steps:
            write_series(path, steps)
            held, stored = (in_a_fresh_process(use, str(path), held).growth for held in (True, False))
            size = steps * NODES * 4 / 2**20
            print(f"| {steps:,} | {size:,.0f} | {held:,.0f} | {stored:,.0f} |", flush=True)
        print("\n| | windows/s |\n| --- | --- |")
        for name, rate in rates(path).items():
            print(f"| {name} | {rate:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
