"""Containers: what they refuse, and that nothing is lost on the way to xarray and back."""

import copy
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import directed_graph, make_series
from torch_geometric.data import Data

from tsgen.data.series import GraphSeries, SeriesBatch, SeriesSpec


def changed(series, **fields):
    return dataclasses.replace(series, **fields)


def with_graph(**fields):
    graph = copy.copy(directed_graph())
    for name, value in fields.items():
        graph[name] = value
    return graph


BROKEN_SERIES = {
    "axes": (dict(values=torch.zeros(60, 5)), r"values must have axes \[time nodes channels\]"),
    "dtype": (dict(values=torch.zeros(60, 5, 2, dtype=torch.int64)), "values must be a float tensor"),
    "mask dtype": (dict(observed=torch.ones(60, 5, 2)), "observed must be a bool tensor"),
    "mask shape": (dict(observed=torch.ones(59, 5, 2, dtype=torch.bool)), r"observed must have axes"),
    "NaN where observed": (dict(observed=torch.ones(60, 5, 2, dtype=torch.bool)), "finite wherever observed"),
    "covariates' length": (dict(covariates=torch.zeros(59, 5, 3)), "covariates must have axes"),
    "covariates with holes": (dict(covariates=torch.full((60, 5, 3), torch.nan)), "finite everywhere"),
    "labels of time": (dict(time=np.arange(59)), "time must have 60 labels"),
    "time runs back": (dict(time=np.arange(60)[::-1]), "strictly increasing"),
    "time jumps": (dict(time=np.r_[np.arange(59), 60]), "58 is followed by 60"),
    "labels of nodes": (dict(nodes=["a", "b"]), "nodes must have 5 labels"),
    "nodes twice": (dict(nodes=["a", "b", "c", "b", "e"]), "'b' occurs 2 times"),
    "labels of units": (dict(units=["m"]), "units must have 2 labels"),
    "too few nodes": (dict(graph=directed_graph(4)), "num_nodes=5"),
    "edge out of range": (
        dict(graph=with_graph(edge_index=torch.tensor([[0], [5]]), edge_weight=torch.ones(1))),
        r"in 0\.\.4",
    ),
    "negative node": (
        dict(graph=with_graph(edge_index=torch.tensor([[0], [-1]]), edge_weight=torch.ones(1))),
        r"in 0\.\.4",
    ),
    "weight zero": (dict(graph=with_graph(edge_weight=torch.zeros(7))), "positive and finite"),
    "weight NaN": (dict(graph=with_graph(edge_weight=torch.full((7,), torch.nan))), "positive and finite"),
    "too few weights": (dict(graph=with_graph(edge_weight=torch.ones(3))), "one number per edge, 7"),
    "float edges": (dict(graph=with_graph(edge_index=torch.zeros(2, 7))), "int64 of shape"),
}


@pytest.mark.parametrize("case", BROKEN_SERIES)
def test_a_broken_series_says_what_is_wrong(as_a_user, series, case):
    fields, message = BROKEN_SERIES[case]
    with pytest.raises(ValueError, match=message) as error:
        changed(series, **fields)
    assert "\n" not in str(error.value)


BROKEN_BATCH = {
    "axes": (dict(values=torch.zeros(3, 10, 5)), "values must have axes"),
    "mask dtype": (dict(context=torch.zeros(3, 10, 5, 2)), "context must be a bool tensor"),
    "mask shape": (dict(target=torch.zeros(3, 10, 5, 1, dtype=torch.bool)), "target must have axes"),
    "NaN in context": (dict(context=torch.ones(3, 10, 5, 2, dtype=torch.bool)), "finite wherever context"),
    "NaN in target": (dict(target=torch.ones(3, 10, 5, 2, dtype=torch.bool)), "finite wherever target"),
    "position": (dict(position=torch.zeros(3, 9, dtype=torch.int64)), "position must be int64 of shape"),
    "covariates": (dict(covariates=torch.zeros(3, 10, 4, 2)), "covariates must have axes"),
    "graph": (dict(graph=Data(edge_index=torch.tensor([[0], [7]]), num_nodes=5)), r"in 0\.\.4"),
}


@pytest.mark.parametrize("case", BROKEN_BATCH)
def test_a_broken_batch_says_what_is_wrong(as_a_user, batch, case):
    fields, message = BROKEN_BATCH[case]
    with pytest.raises(ValueError, match=message):
        changed(batch, **fields)


def test_xarray_and_back_loses_nothing():
    plain = make_series()
    graph = directed_graph()
    graph.pos = torch.randn(5, 2)
    series = changed(
        plain,
        graph=graph,
        time=pd.date_range("2020-02-28 23:00", periods=60, freq="1h").values,
        nodes=["007", "b", "c", "d", "e"],
        channels=["PM2.5", "O3"],
        units=["µg/m³", "ppb"],
        covariate_names=["x", "y", "z"],
    )
    back = GraphSeries.from_xarray(series.to_xarray())
    torch.testing.assert_close(back.values, series.values, equal_nan=True)
    assert torch.equal(back.observed, series.observed)
    assert torch.equal(back.covariates, series.covariates)
    assert torch.equal(back.graph.edge_index, graph.edge_index)
    assert torch.equal(back.graph.edge_weight, graph.edge_weight)
    assert torch.equal(back.graph.pos, graph.pos)
    assert np.array_equal(back.time, series.time)
    for name in ("nodes", "channels", "units", "covariate_names"):
        assert list(getattr(back, name)) == list(getattr(series, name))


def test_xarray_takes_any_order_of_axes_and_one_channel(series):
    data = series.to_xarray()
    turned = data.transpose("channel", "node", "time", ...)
    assert torch.equal(GraphSeries.from_xarray(turned).observed, series.observed)
    single = GraphSeries.from_xarray(data.isel(channel=0, drop=True).drop_vars("observed"))
    assert torch.equal(single.observed, series.observed[..., :1])
    with pytest.raises(ValueError, match="dimensions time and node"):
        GraphSeries.from_xarray(data.rename(time="when"))
    with pytest.raises(ValueError, match="it lacks edge_source and has"):
        GraphSeries.from_xarray(data.drop_vars("edge_source"))


def test_units_are_fitted_on_what_may_be_used():
    values = torch.tensor([1.0, 3.0, 100.0, 5.0])[:, None, None].repeat(1, 5, 1)
    observed = torch.ones_like(values, dtype=torch.bool)
    observed[1, 0] = False
    series = GraphSeries(values, observed, directed_graph())
    spec = SeriesSpec.of(series, [slice(0, 2), slice(3, None)])
    torch.testing.assert_close(spec.loc[:2, 0], torch.tensor([3.0, 3.0]).double())
    torch.testing.assert_close(spec.scale[:2, 0], torch.tensor([2.0, (8 / 3) ** 0.5], dtype=torch.float64))


def test_a_constant_node_borrows_the_scale_of_its_channel():
    series = make_series(channels=1)
    series.values[:, 2], series.observed[:, 2] = 0.1, True
    spec = SeriesSpec.of(series)
    others = torch.cat([spec.scale[:2], spec.scale[3:]])
    assert 0.5 * others.min() < spec.scale[2, 0] < 1.5 * others.max()
    everything = GraphSeries(
        torch.full((9, 5, 1), 4.0), torch.ones(9, 5, 1, dtype=torch.bool), directed_graph()
    )
    assert (SeriesSpec.of(everything).scale == 1).all()


def test_units_need_observations(series):
    with pytest.raises(ValueError, match="'channel_0' has none"):
        SeriesSpec.of(series, [])
    series.observed[..., 1] = False
    with pytest.raises(ValueError, match="'channel_1' has none"):
        SeriesSpec.of(series)


def test_a_node_without_values_borrows_the_units_of_its_channel(series, caplog):
    series.values[:, 0] += 300  # the channel's spread is that between nodes, too
    whole = SeriesSpec.of(series)
    assert not caplog.text
    seen = series.observed
    seen[:, 3, 1] = False
    with caplog.at_level("WARNING"):
        spec = SeriesSpec.of(series)
    assert "1 (3 (channel_1))" in caplog.text
    others = series.values[..., 1][seen[..., 1]].double()
    torch.testing.assert_close(spec.loc[3, 1], others.mean())
    torch.testing.assert_close(spec.scale[3, 1], others.std(correction=0))
    # all other units are as if the node were not there
    kept = torch.ones(5, 2, dtype=torch.bool)
    kept[3, 1] = False
    assert torch.equal(spec.loc[kept], whole.loc[kept]) and torch.equal(spec.scale[kept], whole.scale[kept])


def test_specs_tell_how_they_differ(series):
    spec = SeriesSpec.of(series)
    assert spec.difference(spec) is None
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    shuffled = dataclasses.replace(
        spec, edge_index=spec.edge_index[:, order], edge_weight=spec.edge_weight[order]
    )
    assert spec.difference(shuffled) is None
    assert "edges" in spec.difference(dataclasses.replace(spec, edge_index=spec.edge_index.flip(0)))
    assert "covariates" in spec.difference(dataclasses.replace(spec, num_covariates=0))
    assert "nodes" in spec.difference(dataclasses.replace(spec, nodes=list("abcde")))


def test_repeat_and_rows_cut_every_field(batch):
    twice = batch.repeat(2)
    assert twice.values.shape[0] == 6 and twice.position.shape == (6, 10) and twice.covariates.shape[0] == 6
    assert torch.equal(twice.rows(slice(3, 6)).context, batch.context)
    assert isinstance(twice, SeriesBatch) and twice.graph is batch.graph
    assert torch.equal(batch.address, batch.position[:, 0])
    assert torch.equal(twice.address[:3], batch.address)
    nested = twice.repeat(3).steps(slice(2, 5)).rows(slice(1, 18))
    assert len(nested.address.unique()) == 17


def test_copies_are_numbered_by_window(batch, as_a_user):
    with pytest.raises(ValueError, match=r"replicate must be int64 of shape \[3\]"):
        dataclasses.replace(batch, replicate=torch.zeros(2, dtype=torch.int64))


def test_numbers_are_names_too(series):
    nodes = len(series.nodes)
    assert list(dataclasses.replace(series, nodes=range(nodes)).nodes) == [str(v) for v in range(nodes)]
