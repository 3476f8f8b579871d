"""Training on subgraphs beside training on the whole graph: cost of a step, memory, and what is learned.

    python -m experiments.benchmarks.large_graphs

First, for N = 36, 207, 2,000 and 20,000 nodes: milliseconds of a training step (windows gathered, forward,
backward, optimiser), the same a scored node, and the memory that training takes; on the whole graph, and on
subgraphs of one cluster, alone or with the nodes one edge away. Times are of one processor core, medians over
rounds in which the settings take one step in turn. Memory is the growth of a process'
peak from before the data is made to after two steps, the graph being cut already.

Then, at 207 nodes of the simulated linear process, models that are alike but for what their batches hold:
the mean log-likelihood one step ahead on the whole graph, on test windows, less than that of the law itself.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import logging
import time
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal
from torch_geometric.data import Data

from experiments.benchmarks.models import in_a_fresh_process
from tsgen.data import subgraphs
from tsgen.data.graphs import from_edges, partition
from tsgen.data.masks import PointMask
from tsgen.data.series import GraphSeries, SeriesBatch
from tsgen.data.subgraphs import Subgraphs
from tsgen.datamodules import SyntheticDataModule
from tsgen.datamodules.windows import SeriesDataModule, Split, split_in_time
from tsgen.encoders import WindowEncoder
from tsgen.encoders.propagation import Propagation
from tsgen.exact.linear import VARProcess
from tsgen.heads import GaussianHead
from tsgen.models import AutoregressiveModel

NEIGHBOURS, WINDOW, WINDOWS = 8, 24, 4
CLUSTERS = {36: 2, 207: 2, 2000: 20, 20000: 200}
"""Clusters for each number of nodes: about a hundred nodes each in large graphs."""
SETTINGS = {"whole": None, "cluster": 0, "cluster and one edge": 1}
"""Edges around a cluster that a batch reads; None for the whole graph."""


def geometric_graph(nodes: int) -> Data:
    """A graph between random places of a square, each of which hears from the nearest ones."""
    place = torch.rand(nodes, 2, generator=torch.Generator().manual_seed(0))
    near = [
        torch.cdist(some, place).topk(NEIGHBOURS + 1, largest=False).indices[:, 1:]
        for some in place.split(1000)
    ]
    target = np.arange(nodes).repeat(NEIGHBOURS)
    weight = np.random.default_rng(0).uniform(0.5, 1.5, len(target))
    return from_edges(torch.cat(near).flatten().numpy(), target, weight, num_nodes=nodes)


class Random(SeriesDataModule):
    """White noise on a geometric graph: for costs alone."""

    def __init__(self, nodes: int, subgraphs: Subgraphs | None) -> None:
        super().__init__(window=WINDOW, batch_size=WINDOWS, subgraphs=subgraphs)
        self.nodes = nodes

    def load(self) -> Split:
        """Draws the noise."""
        values = torch.randn(100, self.nodes, 1, generator=torch.Generator().manual_seed(0))
        seen = torch.ones_like(values, dtype=torch.bool)
        series = GraphSeries(values, seen, geometric_graph(self.nodes))
        return Split(series, *split_in_time(100, 0.1, 0.1), torch.zeros_like(seen))


def model_of(data: SeriesDataModule) -> AutoregressiveModel:
    """Two slices, one convolution, one hidden layer."""
    torch.manual_seed(0)
    encoder = partial(WindowEncoder, order=2, hidden=32)
    optimizer = partial(torch.optim.AdamW, lr=5e-3, weight_decay=0.0)
    return AutoregressiveModel(data.spec, encoder, partial(GaussianHead, scale="node"), optimizer)


def stepping(
    data: SeriesDataModule, model: AutoregressiveModel, schedule: Callable | None = None
) -> Callable[[int, int], SeriesBatch]:
    """What one training step does, given epoch and batch: gathers the windows and learns from them."""
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


def interleaved(works: list[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of a core that each work takes, all of them done in turn; the first two rounds warm
    up."""
    times = np.empty((repeats + 2, len(works)))
    for its in times:
        for number, work in enumerate(works):
            start = time.process_time()
            work()
            its[number] = time.process_time() - start
    return np.median(times[2:], axis=0).tolist()


def setting(nodes: int, hops: int | None, part: np.ndarray) -> Callable[[int, int], SeriesBatch]:
    """The step of a setting, with parts that were cut before."""
    options = None if hops is None else Subgraphs(CLUSTERS[nodes], hops=hops)
    data = Random(nodes, options)
    with patch.object(subgraphs, "partition", lambda graph, clusters: torch.from_numpy(part)):
        return stepping(data, model_of(data))


def peak(nodes: int, hops: int | None, part: np.ndarray) -> None:
    """Two steps, for their memory."""
    step = setting(nodes, hops, part)
    step(0, 0)
    step(0, 1)


def cut(nodes: int) -> tuple[np.ndarray, float]:
    """The parts of a graph and the seconds that it took to cut them."""
    graph = geometric_graph(nodes)
    start = time.process_time()
    part = partition(graph, CLUSTERS[nodes])
    return part.numpy(), time.process_time() - start


def costs(sizes: list[int], repeats: int) -> np.ndarray:
    """Prints what a step costs, and returns the parts of the last graph."""
    print("| nodes | cut, s | batches hold | nodes read | scored | ms a step | ms a scored node | MiB |")
    print("|" + " --- |" * 8)
    for nodes in sizes:
        part, seconds = cut(nodes)
        memory = [in_a_fresh_process(peak, nodes, hops, part)[1] for hops in SETTINGS.values()]
        steps = [setting(nodes, hops, part) for hops in SETTINGS.values()]
        counters = [iter(range(10**6)) for _ in steps]
        works = [lambda step=s, n=n: step(0, next(n)) for s, n in zip(steps, counters, strict=True)]
        times = interleaved(works, repeats)
        for name, hops, step, its, mib in zip(SETTINGS, SETTINGS.values(), steps, times, memory, strict=True):
            batch = step(0, 0)
            read, scored = batch.values.shape[2], int(batch.target.any(dim=1).any(dim=0).sum())
            told = "" if hops is None else f"{seconds:.1f}"
            numbers = f"{read:,} | {scored:,} | {1000 * its:.1f} | {1000 * its / scored:.3f} | {mib:,.0f}"
            print(f"| {nodes:,} | {told} | {name} | {numbers} |", flush=True)
    return part


def drawing(nodes: int, part: np.ndarray, repeats: int) -> None:
    """Prints what it costs to draw a subgraph and to make it ready for messages."""
    graph = geometric_graph(nodes)
    with patch.object(subgraphs, "partition", lambda graph, clusters: torch.from_numpy(part)):
        draws = subgraphs.SubgraphDraws(graph, Subgraphs(CLUSTERS[nodes], hops=1))
    batches = iter(range(10**6))
    some = draws.of(0, 0).graph
    draw, ready, whole = interleaved(
        [lambda: draws.of(0, next(batches)), lambda: Propagation(some).mean, lambda: Propagation(graph).mean],
        repeats,
    )
    print(
        f"\nOf {nodes:,} nodes, ms: a subgraph drawn {1000 * draw:.2f}, its matrix of means made "
        f"{1000 * ready:.2f}; that of the whole graph {1000 * whole:.2f}."
    )


# -------------------------------------------------------------------------------------------- learning


def excess(model: AutoregressiveModel, law: VARProcess, batch: SeriesBatch) -> Float[Tensor, "batch"]:
    """How much worse than the law itself a model predicts each window's entries from the third step on, in
    nats an entry."""
    x = batch.values[..., 0].double()
    mean = law.intercept + sum(
        x[:, law.order - lag - 1 : x.shape[1] - lag - 1] @ own.T for lag, own in enumerate(law.coefficients)
    )
    exact = Normal(mean, law.covariance.diagonal().sqrt()).log_prob(x[:, law.order :])
    with torch.no_grad():
        # the last window shares steps with the one before, and its targets are the others
        ours = model.log_prob(batch._changed(target=batch.context))[:, law.order :, :, 0].double()
    return (exact - ours).mean(dim=(1, 2))


def learning(steps: int) -> None:
    """Prints what models learn from subgraphs in as many steps, and with as many nodes scored."""
    print("\n| batches hold | steps | nodes scored a step | excess NLL, nats an entry | s |")
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
        assert data.exact is not None
        model = model_of(data)
        decay = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=times * steps)
        step, start = stepping(data, model, decay), time.process_time()
        scored = [int(step(0, batch).target[0, 0].sum()) for batch in range(times * steps)]
        took, dataset = time.process_time() - start, data.dataset("test")
        worse = excess(model, data.exact, dataset.__getitems__([(0, n) for n in range(len(dataset))]))
        error = float(worse.std()) / len(worse) ** 0.5
        told = f"{float(worse.mean()):.4f} ± {error:.4f} | {took:.0f}"
        print(f"| {name} | {times * steps:,} | {np.mean(scored):.0f} | {told} |", flush=True)


def main() -> None:
    """Prints all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=list(CLUSTERS), help="numbers of nodes")
    parser.add_argument("--repeats", type=int, default=15, help="rounds that times are medians of")
    parser.add_argument(
        "--steps", type=int, default=300, help="steps of training on the whole graph; 0: none"
    )
    options = parser.parse_args()
    logging.getLogger("tsgen").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    if options.sizes:
        drawing(options.sizes[-1], costs(options.sizes, options.repeats), options.repeats)
    if options.steps:
        learning(options.steps)


if __name__ == "__main__":
    main()
