"""Shapes and types of every annotated function are checked while the tests run."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")

from jaxtyping import config, install_import_hook

install_import_hook(["tsgen", "datamodules"], "typechecker.check")

from functools import partial
from pathlib import Path

import pytest
import torch

from tsgen.encoders import GraphGRUEncoder
from tsgen.graphs import from_edges
from tsgen.heads import GaussianHead, MixtureHead
from tsgen.models import AutoregressiveModel
from tsgen.propagation import GraphConvolution
from tsgen.sampling import Ancestral
from tsgen.series import GraphSeries, SeriesBatch, SeriesSpec

SHARED = Path(__file__).parents[1].parent / "shared"
AQI36 = SHARED / "data" / "aqi36"

needs_aqi36 = pytest.mark.skipif(not AQI36.is_dir(), reason=f"the AQI-36 files are not at {AQI36}")

ENCODERS = {
    "gru": partial(GraphGRUEncoder, hidden=8, convolution=GraphConvolution),
}
HEADS = {"gaussian": GaussianHead, "mixture": partial(MixtureHead, components=3)}


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
    spec = SeriesSpec.of(series, torch.ones_like(series.observed))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoregressiveModel(spec, encoder, head, sampler=Ancestral(samples, seed=7)).eval()


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
