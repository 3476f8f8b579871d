r"""Tools for the benchmarks: command line, time and memory, random data, and a process with a known law.

* :func:`arguments` returns a command-line parser; :func:`interleaved` times several functions in turn, so
  that other work on the machine slows all of them alike; :func:`in_a_fresh_process` measures memory.
* :func:`random_problem` is a model with random weights and windows of noise, for measurements of speed alone.
* :func:`unit_noise_process` is a linear-Gaussian process, and :func:`exact_model` the same law as an
  autoregressive model, so that every error on it is that of the algorithm.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from typing import Generic, NamedTuple, ParamSpec, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from lightning import Trainer
from torch_geometric.data import Data

from tsgen.counter_random import streams, uniforms
from tsgen.data.graphs import from_edges
from tsgen.data.series import GraphSeries, SeriesBatch, SeriesSpec
from tsgen.data.subgraphs import Subgraphs
from tsgen.datamodules.windows import SeriesDataModule, Split, Stage, split_in_time
from tsgen.encoders import GraphGRUEncoder, WindowEncoder
from tsgen.encoders.propagation import GraphConvolution, Propagation
from tsgen.exact.kalman import simulate
from tsgen.exact.linear import Start, VARProcess
from tsgen.heads import GaussianHead, MixtureHead
from tsgen.models import AutoregressiveModel
from tsgen.sampling import Ancestral
from tsgen.simulate.examples import COUPLING, OWN, geometric_graph

P = ParamSpec("P")
T = TypeVar("T")

# ------------------------------------------------------------------------------------------- command line

quiet_trainer = partial(
    Trainer,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    use_distributed_sampler=False,
)
"""A trainer on the CPU that prints and writes nothing."""


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Returns a parser whose ``--help`` prints the module's docstring.

    Args:
        description: The docstring, ``__doc__``.
    """
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


# --------------------------------------------------------------------------------------- clocks and memory


def timed(
    works: Sequence[Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
    warm_up: int = 1,
) -> Float[np.ndarray, "repeats works"]:
    """Returns the seconds of each function in each round; a round calls every function once, in turn.

    Args:
        works: Functions without arguments.
        repeats: The number of timed rounds.
        clock: Returns the time in seconds.
        warm_up: The number of rounds before the timed ones.
    """
    seconds = np.empty((warm_up + repeats, len(works)))
    for row in seconds:
        for number, work in enumerate(works):
            start = clock()
            work()
            row[number] = clock() - start
    return seconds[warm_up:]


def interleaved(
    works: Sequence[Callable[[], object]],
    repeats: int,
    clock: Callable[[], float] = time.perf_counter,
    warm_up: int = 1,
) -> list[float]:
    """Returns the median seconds of each function over rounds that call them in turn (see :func:`timed`)."""
    return np.median(timed(works, repeats, clock, warm_up), axis=0).tolist()


def median_seconds(
    work: Callable[[], object],
    repeats: int = 5,
    clock: Callable[[], float] = time.perf_counter,
    warm_up: int = 1,
) -> float:
    """Returns the median seconds of one function (see :func:`timed`)."""
    return interleaved([work], repeats, clock, warm_up)[0]


def synchronised(device: torch.device) -> float:
    """Returns the time in seconds, after the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_memory() -> float:
    """Returns the peak memory of this process, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Measured(NamedTuple, Generic[T]):
    """The result of a function in a fresh process, and the peak memory of that process.

    Attributes:
        result: What the function returned.
        before: Peak memory before the call, in MiB.
        peak: Peak memory after it, in MiB.
    """

    result: T
    before: float
    peak: float

    @property
    def growth(self) -> float:
        """The memory that the call added to the peak, in MiB."""
        return self.peak - self.before


def in_a_fresh_process(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Measured[T]:
    """Calls a function in a fresh process and measures the peak memory of that process.

    Args:
        work: The function; it, its arguments and its result must be picklable.
        args: Its arguments.
        kwargs: Its keyword arguments.
    """
    # each process is forked from one that has imported everything and done nothing else
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    here, there = context.Pipe(duplex=False)
    call = partial(work, *args, **kwargs)
    process = context.Process(target=_measure, args=(there, torch.get_num_threads(), call))
    process.start()
    there.close()
    result: Measured[T] = here.recv()
    process.join()
    return result


def _measure(pipe: Connection, threads: int, work: Callable[[], T]) -> None:
    torch.set_num_threads(threads)
    before = peak_memory()
    result = work()
    pipe.send(Measured(result, before, peak_memory()))


# --------------------------------------------------------------------------------------------- random data

STEPS, NEIGHBOURS, HIDDEN = 24, 8, 64
"""Of :func:`random_problem`: steps of a window, edges into a node, and the size of a node's state."""


def random_problem(nodes: int, windows: int, samples: int) -> tuple[AutoregressiveModel, SeriesBatch]:
    """Returns a model with random weights and windows of noise on a random graph, a third of each hidden.

    Args:
        nodes: The number of nodes.
        windows: The number of windows.
        samples: Paths that the model's sampler draws of each window.
    """
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(nodes).repeat_interleave(NEIGHBOURS)
    source = (target + 1 + torch.arange(NEIGHBOURS).repeat(nodes) * 3) % nodes
    weight = 0.1 + torch.rand(len(target), generator=generator)
    graph = from_edges(source.numpy(), target.numpy(), weight.numpy(), num_nodes=nodes)
    values = torch.randn(STEPS + windows, nodes, 1, generator=generator)
    series = GraphSeries(values, torch.ones_like(values, dtype=torch.bool), graph)
    position = torch.arange(STEPS) + torch.arange(windows)[:, None]
    context = torch.rand(windows, STEPS, nodes, 1, generator=generator) > 1 / 3
    batch = SeriesBatch(values[position], context, torch.ones_like(context), graph, position)
    torch.manual_seed(0)
    spec = SeriesSpec.of(series)
    encoder, head = partial(GraphGRUEncoder, hidden=HIDDEN), partial(MixtureHead, components=5)
    return AutoregressiveModel(spec, encoder, head, sampler=Ancestral(samples)), batch


class WhiteNoise(SeriesDataModule):
    """A series of independent standard normal numbers on a given graph, for measurements of cost.

    Args:
        graph: The graph.
        steps: Length of the series.
        window: Length of a window, in steps.
        batch_size: Windows in a batch.
        observed: Share of the entries that are observed.
        held_back: Share of the steps for validation, and the same for the test.
        subgraphs: Train on subgraphs; None for the whole graph.
    """

    def __init__(
        self,
        graph: Data,
        steps: int,
        window: int,
        batch_size: int,
        observed: float = 1.0,
        held_back: float = 0.0,
        subgraphs: Subgraphs | None = None,
    ) -> None:
        super().__init__(window=window, batch_size=batch_size, subgraphs=subgraphs)
        self.graph, self.steps, self.observed, self.held_back = graph, steps, observed, held_back

    def load(self) -> Split:
        """Draws the series."""
        generator = torch.Generator().manual_seed(0)
        values = torch.randn(self.steps, int(self.graph.num_nodes or 0), 1, generator=generator)
        observed = torch.rand(values.shape, generator=generator) < self.observed
        series = GraphSeries(values, observed, self.graph)
        stretches = split_in_time(self.steps, self.held_back, self.held_back)
        return Split(series, *stretches, torch.zeros_like(observed))


def all_windows(data: SeriesDataModule, stage: Stage) -> SeriesBatch:
    """Returns all windows of a split in one batch."""
    dataset = data.dataset(stage)
    return dataset.__getitems__([(0, number) for number in range(len(dataset))])


# ------------------------------------------------------------------------------- a process with a known law

Lags = Sequence[tuple[float, float]]
"""For each lag, lag 1 first: the weight of a node's own value and that of its neighbours' mean, in units of
the noise."""

SYNTHETIC_LAGS: Lags = tuple(zip(OWN, COUPLING, strict=True))
"""The weights of the linear process that the synthetic data comes from."""


def unit_noise_process(nodes: int, lags: Lags = SYNTHETIC_LAGS) -> VARProcess:
    """Returns a linear process of order 2 on a geometric graph, with noise of variance one.

    The values before a window are zero, so that the entries of its first slice are independent: a head
    models the entries of a slice as independent.

    Args:
        nodes: The number of nodes.
        lags: The weights of lags 1 and 2.
    """
    mean, unit = Propagation(geometric_graph(nodes, 0)).mean.to_dense().double(), torch.eye(nodes).double()
    coefficients = torch.stack([own * unit + coupling * mean for own, coupling in lags])
    zero = torch.zeros(2 * nodes).double()
    return VARProcess(coefficients, zero[:nodes], unit, Start(zero, torch.block_diag(unit, 0 * unit)))


def unit_noise_windows(process: VARProcess, count: int, steps: int, missing: float, seed: int) -> SeriesBatch:
    """Returns windows of :func:`unit_noise_process` with entries missing at random.

    An entry that is not missing is context, one that is missing is target.

    Args:
        process: The process.
        count: The number of windows.
        steps: Length of a window, in steps.
        missing: Probability that an entry is missing.
        seed: Fixes the values; ``seed + 1`` fixes what is missing.
    """
    number = torch.arange(count)
    values = simulate(process.state_space(), steps, streams(seed, number))[..., None].float()
    context = uniforms(streams(seed + 1, number), values.shape[1:]) >= missing
    position = steps * number[:, None] + torch.arange(steps)
    return SeriesBatch(values, context, ~context, geometric_graph(process.num_nodes, 0), position)


def unit_spec(nodes: int) -> SeriesSpec:
    """Returns the spec of :func:`unit_noise_process`, whose data units are its standard units."""
    graph = geometric_graph(nodes, 0)
    return SeriesSpec(
        loc=torch.zeros(nodes, 1),
        scale=torch.ones(nodes, 1),
        edge_index=graph.edge_index,
        edge_weight=graph.edge_weight,
        num_covariates=0,
        nodes=[str(v) for v in range(nodes)],
        channels=["value"],
    )


@torch.no_grad()
def exact_model(nodes: int, lags: Lags = SYNTHETIC_LAGS) -> AutoregressiveModel:
    """Returns an autoregressive model whose law is that of :func:`unit_noise_process`."""
    model = AutoregressiveModel(
        unit_spec(nodes), partial(WindowEncoder, order=2, layers=0), partial(GaussianHead, scale=1.0)
    )
    for parameter in model.parameters():
        parameter.zero_()
    assert isinstance(model.head, GaussianHead)
    (convolution,) = (m for m in model.encoder.modules() if isinstance(m, GraphConvolution))
    convolution.linear.weight.copy_(torch.eye(2))
    # the inputs of each lag: the value, its flag, and the neighbours' means of both
    weight = [[own, 0, coupling, 0] for own, coupling in lags]
    model.head.linear.weight.copy_(torch.tensor(weight).flatten())
    return model.eval()
