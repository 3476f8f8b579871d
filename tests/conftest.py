"""Shapes and types of every annotated function are checked while the tests run."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")

from importlib import import_module

# before the hook: while it loads a module of ours it gives bytecode another name, and every foreign module
# that is first imported there would be compiled again in each process
for name in (
    *("beartype.door", "h5py", "lightning.pytorch.cli", "matplotlib.pyplot", "netCDF4", "networkx"),
    *("torch_geometric.nn", "wandb", "xarray"),
):
    import_module(name)

from jaxtyping import config, install_import_hook

install_import_hook(["tsgen", "datamodules"], "typechecker.check")

from functools import partial
from pathlib import Path

import pytest
import torch

from tsgen.data.graphs import from_edges
from tsgen.data.series import GraphSeries, SeriesBatch, SeriesSpec
from tsgen.encoders import (
    AttentionEncoder,
    BidirectionalEncoder,
    ConvolutionEncoder,
    GraphGRUEncoder,
    RecurrentEncoder,
    WindowEncoder,
)
from tsgen.encoders.propagation import DiffusionConvolution, GraphAttention, GraphConvolution
from tsgen.heads import ConditionalHead, GaussianHead, MixtureHead, MixtureNADEHead, StudentTHead
from tsgen.models import AnyOrderModel, AutoregressiveModel
from tsgen.sampling import Ancestral, AnyOrder

SHARED = Path(__file__).parents[1].parent / "shared"
AQI36 = SHARED / "data" / "aqi36"
RED_WINE = SHARED / "data" / "red_wine"
METR_LA_10 = SHARED / "data" / "metr_la_10"
PM10 = SHARED / "data" / "pm10_germany"

LONGEST = ("test_parallel.py", "test_faults.py", "test_cli.py", "test_report.py", "test_tracking.py")
"""Files that take most of the suite's time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs the longest files first: last, they would leave all processes but one without work."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


needs_aqi36 = pytest.mark.skipif(not AQI36.is_dir(), reason=f"the AQI-36 files are not at {AQI36}")

ENCODERS = {
    "linear window": partial(WindowEncoder, order=2, layers=0),
    "window": partial(WindowEncoder, order=3, hidden=8),
    "convolution": partial(ConvolutionEncoder, hidden=8, layers=3),
    "gru": partial(GraphGRUEncoder, hidden=8, convolution=GraphConvolution),
    "attention": partial(AttentionEncoder, hidden=8, heads=2, layers=2),
}
ENCODERS |= {f"{name} alone": partial(made, convolution=None) for name, made in ENCODERS.items()}
ENCODERS["diffusion gru"] = partial(GraphGRUEncoder, hidden=8, convolution=DiffusionConvolution)
TWO_WAY_ENCODERS = {
    "two-way attention": partial(AttentionEncoder, hidden=8, heads=2, causal=False),
    "two-way graph attention": partial(
        AttentionEncoder, hidden=8, heads=2, causal=False, convolution=partial(GraphAttention, heads=2)
    ),
    "two-way gru": partial(BidirectionalEncoder, encoder=partial(GraphGRUEncoder, hidden=4)),
    "two-way recurrence": partial(RecurrentEncoder, hidden=8, layers=2),
    "two-way convolution": partial(
        BidirectionalEncoder, encoder=partial(ConvolutionEncoder, hidden=4, layers=3)
    ),
}
NADE = partial(MixtureNADEHead, components=2, width=4)
HEADS = {
    "gaussian": GaussianHead,
    "mixture": partial(MixtureHead, components=3),
    "conditional": partial(ConditionalHead, head=partial(MixtureHead, components=2)),
    "gaussian of node": partial(GaussianHead, scale="node"),
    "gaussian fixed": partial(GaussianHead, scale=0.5),
    "student t": partial(StudentTHead, components=2),
    "nade": NADE,
    "nade any": partial(NADE, order="any"),
    "nade slice": partial(NADE, over="slice"),
    "nade slice any": partial(NADE, over="slice", order="any"),
}


def directed_graph(nodes: int = 5):
    """A directed graph with unequal weights: a swapped edge_index or ignored weights change every result."""
    source = [*range(nodes), 0, 1]
    target = [*((v + 1) % nodes for v in range(nodes)), 2, 4 % nodes]
    return from_edges(source, target, torch.linspace(0.2, 1.5, len(source)).tolist(), num_nodes=nodes)


def make_series(steps: int = 60, nodes: int = 5, channels: int = 2, covariates: int = 3, seed: int = 0):
    """Random values with holes, in units far from standard."""
    generator = torch.Generator().manual_seed(seed)
    values = 50 + 7 * torch.randn(steps, nodes, channels, generator=generator)
    observed = torch.rand(steps, nodes, channels, generator=generator) < 0.7
    extra = torch.randn(steps, nodes, covariates, generator=generator) if covariates else None
    return GraphSeries(values.where(observed, torch.nan), observed, directed_graph(nodes), extra)


def make_batch(series, batch: int = 3, window: int = 10, hide: float = 0.3, seed: int = 1) -> SeriesBatch:
    """Windows of a series with part of what is observed hidden and scored."""
    position = torch.arange(window) + 11 * torch.arange(batch)[:, None]
    observed = series.observed[position]
    hidden = torch.rand(observed.shape, generator=torch.Generator().manual_seed(seed)) < hide
    return SeriesBatch(
        values=series.values[position],
        context=observed & ~hidden,
        target=observed & hidden,
        graph=series.graph,
        position=position,
        covariates=None if series.covariates is None else series.covariates[position],
    )


def make_model(series, encoder=ENCODERS["gru"], head=HEADS["mixture"], samples: int = 5, seed: int = 3):
    """A small model with weights that are always the same."""
    spec = SeriesSpec.of(series)
    two_way = encoder in TWO_WAY_ENCODERS.values()
    kind, sampler = (
        (AnyOrderModel, AnyOrder(samples, 2, 7)) if two_way else (AutoregressiveModel, Ancestral(samples, 7))
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(spec, encoder, head, sampler=sampler).eval()


@pytest.fixture
def as_a_user():
    """Annotations are not checked, as outside the tests: what a user sees is the library's own message."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture
def series() -> GraphSeries:
    return make_series()


@pytest.fixture
def batch(series) -> SeriesBatch:
    return make_batch(series)
