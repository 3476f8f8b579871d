"""Channels as nodes, and back."""

import dataclasses

import pytest
import torch

from tsgen.data.channels import (
    channels_as_nodes,
    graph_of_entries,
    samples_of_channels,
    without_covariates,
)
from tsgen.data.graphs import from_edges
from tsgen.data.series import GraphSeries, Samples

NODES, CHANNELS, STEPS = 3, 2, 7


@pytest.fixture
def series():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(STEPS, NODES, CHANNELS, generator=generator)
    observed = torch.rand(values.shape, generator=generator) < 0.7
    graph = from_edges([0, 1], [1, 2], [2.0, 4.0], num_nodes=NODES)
    return GraphSeries(
        values,
        observed,
        graph,
        covariates=torch.zeros(STEPS, NODES, 1),
        nodes=list("abc"),
        channels=["x", "y"],
    )


def test_edges_lead_to_the_same_channel_and_between_the_channels_of_a_node(series):
    graph = graph_of_entries(series.graph, CHANNELS)
    edges = {
        (int(u), int(v)): float(w) for (u, v), w in zip(graph.edge_index.T, graph.edge_weight, strict=True)
    }
    between = {(0, 2): 2.0, (1, 3): 2.0, (2, 4): 4.0, (3, 5): 4.0}
    within = {(u, v): pytest.approx(0.4) for u, v in ((0, 1), (1, 0), (2, 3), (3, 2), (4, 5), (5, 4))}
    assert edges == between | within and graph.num_nodes == NODES * CHANNELS


def test_every_entry_keeps_its_value(series):
    apart = channels_as_nodes(series)
    assert apart.nodes[:3] == ["a, x", "a, y", "b, x"] and apart.channels == ["value"]
    assert torch.equal(apart.values[:, 3, 0], series.values[:, 1, 1])
    assert torch.equal(apart.observed.view(series.observed.shape), series.observed)
    windows = series.windows(torch.tensor([0, 3]), 4)
    batch = channels_as_nodes(windows)
    assert torch.equal(batch.values[:, :, 4, 0], windows.values[:, :, 2, 0]) and batch.covariates is None
    drawn = samples_of_channels(Samples(batch.values[None], "posterior"), CHANNELS)
    assert torch.equal(drawn.values[0], windows.values)


def test_covariates_that_a_model_does_not_read_are_left_out(series):
    assert without_covariates(series, 1) is series
    assert without_covariates(series, 0).covariates is None
    windows = series.windows(torch.tensor([0]), 4)
    assert without_covariates(windows, 0).covariates is None
    bare = dataclasses.replace(series, covariates=None, covariate_names=())
    assert without_covariates(bare, 0) is bare
