"""Compares training on subgraphs and on the whole graph: cost of a step, memory, and what is learned; and
measures how graphs and files of many nodes are loaded.

    python -m experiments.benchmarks.large_graphs

The first table has, for N = 36, 207, 2,000 and 20,000 nodes, the milliseconds of a training step (windows
gathered, forward, backward, optimiser), the same per scored node, and the memory that training takes: on the
whole graph, and on subgraphs of one cluster, alone or with the nodes one edge away. Times are those of one
processor core, medians over rounds in which the settings take one step in turn. Memory is the growth of a
process' peak from before the data is made to after two steps; the graph is partitioned before.

The second table compares models that differ only in what their training batches hold, at 207 nodes of the
simulated linear process: by how much the mean log-likelihood one step ahead on the whole graph, on test
windows, is below that of the process itself.

The last table has, for 1,000 to 100,000 stations spread over the earth, the seconds to make a graph of 8
neighbours, and one of a Gaussian kernel with about 8 edges into each node; the seconds from files (a CSV of
20 steps and a CSV of coordinates) to the first training batch; and the peak memory of the process, which is
the libraries' own for the most part.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch_geometric.data import Data

from experiments.benchmarks.harness import (
    NEIGHBOURS,
    WhiteNoise,
    all_windows,
    arguments,
    in_a_fresh_process,
    interleaved,
)
from tsgen.data import subgraphs
from tsgen.data.graphs import (
    EARTH_RADIUS_KM,
    from_coordinates,
    from_edges,
    nearest_neighbours,
    partition,
)
from tsgen.data.masks import PointMask
from tsgen.data.series import SeriesBatch
from tsgen.data.subgraphs import Subgraphs
from tsgen.datamodules import FilesDataModule, SyntheticDataModule
from tsgen.datamodules.windows import SeriesDataModule
from tsgen.encoders import WindowEncoder
from tsgen.encoders.propagation import Propagation
from tsgen.exact.linear import VARProcess
from tsgen.heads import GaussianHead
from tsgen.models import AutoregressiveModel

WINDOW, WINDOWS = 24, 4
CLUSTERS = {36: 2, 207: 2, 2000: 20, 20000: 200}
"""Clusters for each number of nodes: about a hundred nodes each, fewer in the smallest graph."""
SETTINGS = {"whole": None, "cluster": 0, "cluster and one edge": 1}
"""How many edges around a cluster a batch reads; None for the whole graph."""


def geometric_graph(nodes: int) -> Data:
    """Returns a graph of random points in a square, with edges into each node from the nearest ones."""
    place = torch.rand(nodes, 2, generator=torch.Generator().manual_seed(0))
    near = [
        torch.cdist(some, place).topk(NEIGHBOURS + 1, largest=False).indices[:, 1:]
        for some in place.split(1000)
    ]
    target = np.arange(nodes).repeat(NEIGHBOURS)
    weight = np.random.default_rng(0).uniform(0.5, 1.5, len(target))
    return from_edges(torch.cat(near).flatten().numpy(), target, weight, num_nodes=nodes)


def model_of(data: SeriesDataModule) -> AutoregressiveModel:
    """Returns a model with an encoder of two slices, one convolution and one hidden layer."""
    torch.manual_seed(0)
    encoder = partial(WindowEncoder, order=2, hidden=32)
    optimizer = partial(torch.optim.AdamW, lr=5e-3, weight_decay=0.0)
    return AutoregressiveModel(data.spec, encoder, partial(GaussianHead, scale="node"), optimizer)


def stepping(
    data: SeriesDataModule,
    model: AutoregressiveModel,
    schedule: Callable[[Optimizer], LRScheduler] | None = None,
) -> Callable[[int, int], SeriesBatch]:
    """Returns a function that takes one training step, given the epoch and the number of the batch.

    The function gathers the windows, takes the step and returns the windows.
    """
    optimizer, dataset = model.configure_optimizers(), data.dataset("train")
    scheduler = None if schedule is None else schedule(optimizer)

    def step(epoch: int, batch: int) -> SeriesBatch:
        generator = torch.Generator().manual_seed(1000 * epoch + batch)
        numbers = torch.randint(len(dataset), (data.batch_size,), generator=generator).tolist()
        windows = dataset.__getitems__([(epoch, number, batch) for number in numbers])
        model.objective.loss(model, windows, windows.position[:, 0], 0).backward()
        optimizer.step()
        optimizer.zero_grad()
        if scheduler is not None:
            scheduler.step()
        return windows

    return step


# ---------------------------------------------------------------------------------------------- cost


def setting(nodes: int, hops: int | None, clusters: np.ndarray) -> Callable[[int, int], SeriesBatch]:
    """Returns the training step of a setting, with the cluster of each node from :func:`partitioned`."""
    options = None if hops is None else Subgraphs(CLUSTERS[nodes], hops=hops)
    data = WhiteNoise(geometric_graph(nodes), 100, WINDOW, WINDOWS, held_back=0.1, subgraphs=options)
    with patch.object(subgraphs, "partition", return_value=torch.from_numpy(clusters)):
        return stepping(data, model_of(data))


def two_steps(nodes: int, hops: int | None, clusters: np.ndarray) -> None:
    """Takes two training steps, for a measurement of their memory."""
    step = setting(nodes, hops, clusters)
    step(0, 0)
    step(0, 1)


def partitioned(nodes: int) -> tuple[np.ndarray, float]:
    """Returns the cluster of each node, and the seconds that it took to partition the graph."""
    graph = geometric_graph(nodes)
    start = time.process_time()
    clusters = partition(graph, CLUSTERS[nodes])
    return clusters.numpy(), time.process_time() - start


def next_step(step: Callable[[int, int], SeriesBatch], batches: Iterator[int]) -> None:
    """Takes one training step on the next batch of the first epoch."""
    step(0, next(batches))


def costs(sizes: list[int], repeats: int) -> np.ndarray:
    """Prints the cost of a step, and returns the clusters of the last graph."""
    print("| nodes | partition, s | batches hold | nodes read | scored | ms/step | ms/scored node | MiB |")
    print("|" + " --- |" * 8)
    for nodes in sizes:
        clusters, seconds = partitioned(nodes)
        memory = [in_a_fresh_process(two_steps, nodes, hops, clusters).growth for hops in SETTINGS.values()]
        steps = [setting(nodes, hops, clusters) for hops in SETTINGS.values()]
        works = [partial(next_step, step, itertools.count()) for step in steps]
        times = interleaved(works, repeats, time.process_time, warm_up=2)
        for name, hops, step, duration, mib in zip(
            SETTINGS, SETTINGS.values(), steps, times, memory, strict=True
        ):
            batch = step(0, 0)
            read, scored = batch.values.shape[2], int(batch.target.any(dim=1).any(dim=0).sum())
            partition_time = "" if hops is None else f"{seconds:.1f}"
            numbers = (
                f"{read:,} | {scored:,} | {1000 * duration:.1f} | {1000 * duration / scored:.3f} | {mib:,.0f}"
            )
            print(f"| {nodes:,} | {partition_time} | {name} | {numbers} |", flush=True)
    return clusters


def drawing(nodes: int, clusters: np.ndarray, repeats: int) -> None:
    """Prints the time of drawing a subgraph and of computing its matrix for messages."""
    graph = geometric_graph(nodes)
    with patch.object(subgraphs, "partition", return_value=torch.from_numpy(clusters)):
        draws = subgraphs.SubgraphDraws(graph, Subgraphs(CLUSTERS[nodes], hops=1))
    batches = itertools.count()
    subgraph = draws.of(0, 0).graph
    draw, ready, whole = interleaved(
        [
            lambda: draws.of(0, next(batches)),
            lambda: Propagation(subgraph).mean,
            lambda: Propagation(graph).mean,
        ],
        repeats,
        time.process_time,
        warm_up=2,
    )
    print(
        f"\n{nodes:,} nodes: {1000 * draw:.2f} ms to draw a subgraph, {1000 * ready:.2f} ms to compute its "
        f"matrix of means; {1000 * whole:.2f} ms for the matrix of the whole graph."
    )


# -------------------------------------------------------------------------------------------- learning


def excess(model: AutoregressiveModel, law: VARProcess, batch: SeriesBatch) -> Float[Tensor, "batch"]:
    """Returns each window's excess NLL over the process itself, from the third step on, in nats per entry."""
    x = batch.values[..., 0].double()
    mean = law.intercept + sum(
        x[:, law.order - lag - 1 : x.shape[1] - lag - 1] @ own.T for lag, own in enumerate(law.coefficients)
    )
    exact = Normal(mean, law.covariance.diagonal().sqrt()).log_prob(x[:, law.order :])
    with torch.no_grad():
        # the last window shares steps with the one before, and those are not among its targets
        ours = model.log_prob(dataclasses.replace(batch, target=batch.context))[:, law.order :, :, 0].double()
    return (exact - ours).mean(dim=(1, 2))


def learning(steps: int) -> None:
    """Prints how well models learn from subgraphs, with as many steps and with as many scored nodes."""
    print("\n| batches hold | steps | nodes scored per step | excess NLL, nats per entry | s |")
    print("|" + " --- |" * 5)
    settings = {
        "the whole graph": (None, 1),
        "1 of 8 clusters, one edge around": (Subgraphs(8, hops=1), 1),
        "1 of 8 clusters, one edge around, 8 times the steps": (Subgraphs(8, hops=1), 8),
        "1 of 8 clusters alone": (Subgraphs(8), 1),
        "1 of 8 clusters alone, 8 times the steps": (Subgraphs(8), 8),
        "4 of 32 clusters alone, 8 times the steps": (Subgraphs(32, 4), 8),
    }
    for name, (options, times) in settings.items():
        data = SyntheticDataModule(
            num_nodes=207, steps=2000, missing=PointMask(0.0), horizon=0, batch_size=8, subgraphs=options
        )
        assert isinstance(data.exact, VARProcess)
        model = model_of(data)
        decay = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=times * steps)
        step, start = stepping(data, model, decay), time.process_time()
        scored = [int(step(0, batch).target[0, 0].sum()) for batch in range(times * steps)]
        seconds = time.process_time() - start
        worse = excess(model, data.exact, all_windows(data, "test"))
        error = float(worse.std()) / len(worse) ** 0.5
        result = f"{float(worse.mean()):.4f} ± {error:.4f} | {seconds:.0f}"
        print(f"| {name} | {times * steps:,} | {np.mean(scored):.0f} | {result} |", flush=True)


# --------------------------------------------------------------------------------------------- loading


def write_files(folder: Path, nodes: int, steps: int = 20) -> None:
    """Writes a long table of white noise and a table of coordinates, spread evenly over the earth."""
    rng = np.random.default_rng(0)
    places = zip(np.degrees(np.arcsin(rng.uniform(-1, 1, nodes))), rng.uniform(-180, 180, nodes), strict=True)
    with (folder / "coordinates.csv").open("w") as file:
        file.write("node,latitude,longitude\n")
        file.writelines(f"s{v},{north:.5f},{east:.5f}\n" for v, (north, east) in enumerate(places))
    with (folder / "data.csv").open("w") as file:
        file.write("time,node,x\n")
        for t in range(steps):
            file.writelines(f"{t},s{v},{x:.3f}\n" for v, x in enumerate(rng.normal(size=nodes)))


def load_files(folder: Path) -> tuple[float, float, float]:
    """Returns the seconds to make a graph of neighbours, one of a kernel, and the first training batch."""
    start = time.perf_counter()
    files = FilesDataModule(
        folder / "data.csv", coordinates=folder / "coordinates.csv", neighbours=8, window=4, batch_size=1
    )
    next(iter(files.train_dataloader()))
    assert files.spec.edge_index.shape[1] == 8 * len(files.spec.nodes)
    loaded = time.perf_counter()
    pos = files.split.series.graph.pos
    assert pos is not None
    east, north = pos.double().numpy().T
    start_of_graphs = time.perf_counter()
    nearest_neighbours(north, east, 8)
    nearest = time.perf_counter()
    # the area of the earth that 8 nodes share, as a circle whose rim has the weight 0.1
    radius = 2 * EARTH_RADIUS_KM * (8 / len(east)) ** 0.5
    from_coordinates(north, east, scale=radius / np.log(10) ** 0.5)
    kernel = time.perf_counter()
    return nearest - start_of_graphs, kernel - nearest, loaded - start


def loading(sizes: list[int]) -> None:
    """Prints how long graphs and files of many nodes take, and the peak memory."""
    print("\n| nodes | neighbours, s | kernel, s | files to first batch, s | peak MiB |")
    print("|" + " --- |" * 5)
    for nodes in sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_files(Path(folder), nodes)
            measured = in_a_fresh_process(load_files, Path(folder))
        seconds = " | ".join(f"{duration:.2f}" for duration in measured.result)
        print(f"| {nodes:,} | {seconds} | {measured.peak:,.0f} |", flush=True)


def main() -> None:
    """Prints all tables."""
    parser = arguments(__doc__)
    parser.add_argument(
        "--sizes", type=int, nargs="*", choices=CLUSTERS, default=list(CLUSTERS), help="numbers of nodes"
    )
    parser.add_argument("--repeats", type=int, default=15, help="rounds that times are medians of")
    parser.add_argument(
        "--steps", type=int, default=300, help="training steps on the whole graph; 0 leaves the table out"
    )
    parser.add_argument(
        "--loaded", type=int, nargs="*", default=[1000, 10_000, 100_000], help="numbers of nodes to load"
    )
    options = parser.parse_args()
    logging.getLogger("tsgen").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    if options.sizes:
        drawing(options.sizes[-1], costs(options.sizes, options.repeats), options.repeats)
    if options.steps:
        learning(options.steps)
    loading(options.loaded)


if __name__ == "__main__":
    main()
