"""Training on a series that is held in memory, and on one whose windows are read from a file.

    python -m experiments.benchmarks.large_series

Series of 1,000 nodes and growing length are written to netCDF, a part at a time, in chunks of a window's
length and all nodes. Of each: the size of its values, and by how much the peak memory of a process grows
while it fits the units, trains on a few windows and imputes others, with the series in memory and with
windows read from the file. Then, of the longest one, windows per second in an order drawn at random, in
memory and read by the process itself or by two workers. What was just written lies in the system's cache: a
slow disk costs more.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import netCDF4
import numpy as np
import torch

from experiments.benchmarks.models import in_a_fresh_process
from tsgen import impute
from tsgen.datamodules import FilesDataModule
from tsgen.encoders import WindowEncoder
from tsgen.heads import GaussianHead
from tsgen.models import AutoregressiveModel
from tsgen.sampling import Ancestral

NODES, WINDOW, BATCH, BATCHES, ROUNDS = 1000, 24, 8, 20, 5
LENGTHS = (25_000, 50_000, 100_000, 200_000)
IMPUTED = 48
"""Steps at the end that are imputed."""


def write_series(path: Path, steps: int) -> None:
    """Writes a series of random numbers, a fifth of them missing, on a ring; memory holds a part of it."""
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
            part = random.standard_normal((min(1000, steps - first), NODES), dtype=np.float32)
            part[random.random(part.shape, dtype=np.float32) < 0.2] = np.nan
            values[first : first + len(part)] = part


def data_module(path: Path, in_memory: bool, workers: int = 0) -> FilesDataModule:
    """The windows of a series."""
    return FilesDataModule(path, in_memory=in_memory, window=WINDOW, batch_size=BATCH, num_workers=workers)


def use(path: str, in_memory: bool) -> None:
    """Fits the units of a series, trains a little on it and imputes its end."""
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
    """Windows per second, by how they are had; the ways take turns."""
    modules = {
        "in memory": data_module(path, True),
        "from the file": data_module(path, False),
        "from the file, two workers": data_module(path, False, 2),
    }
    loaders = {name: iter(module.train_dataloader()) for name, module in modules.items()}
    for loader in loaders.values():
        next(loader)
    seconds: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(ROUNDS):
        for name, loader in loaders.items():
            begun = time.perf_counter()
            for _ in range(BATCHES):
                next(loader)
            seconds[name].append(time.perf_counter() - begun)
    return {name: BATCH * BATCHES / statistics.median(times) for name, times in seconds.items()}


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "series.nc"
        print("| steps | values, MiB | in memory, MiB | from the file, MiB |\n| --- | --- | --- | --- |")
        for steps in LENGTHS:
            write_series(path, steps)
            held, stored = (in_a_fresh_process(use, str(path), held)[1] for held in (True, False))
            size = steps * NODES * 4 / 2**20
            print(f"| {steps:,} | {size:,.0f} | {held:,.0f} | {stored:,.0f} |", flush=True)
        print("\n| | windows/s |\n| --- | --- |")
        for name, rate in rates(path).items():
            print(f"| {name} | {rate:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
