"""The weights in the package, and models that adapt to what they are given."""

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import tsgen
from tsgen.data.channels import channels_as_nodes
from tsgen.data.graphs import from_edges
from tsgen.data.series import GraphSeries
from tsgen.models import load_pretrained, save_pretrained
from tsgen.models.pretrained import WEIGHTS
from tsgen.simulate import NetworkPrior


@pytest.fixture(scope="module")
def model():
    return load_pretrained()


def network(channels=1, seed=3):
    drawn = NetworkPrior(nodes=(5, 5), channels=(channels, channels), steps=(36,), windows=4).draw(seed, 1)
    return GraphSeries(
        values=drawn.values.flatten(0, 1).double(),
        observed=drawn.visible.flatten(0, 1),
        graph=drawn.graph,
        nodes=[f"n{node}" for node in range(5)],
        channels=[f"c{channel}" for channel in range(channels)],
    )


def changed(series, **fields):
    names = ("values", "observed", "graph", "time", "nodes", "channels")
    return GraphSeries(**{**{name: getattr(series, name) for name in names}, **fields})


def test_the_weights_are_small_and_are_plain_tensors(model):
    assert WEIGHTS.stat().st_size <= 2 * 2**20
    assert type(tsgen.load("pretrained")) is type(model) and model.adapts
    for name, weight in tsgen.load("pretrained").state_dict().items():
        assert torch.equal(weight, model.state_dict()[name])


def test_a_checkpoint_becomes_a_file_of_weights(model, tmp_path):
    checkpoint, path = tmp_path / "last.ckpt", tmp_path / "w.safetensors"
    hyperparameters = {**model.hparams, "window": 48}
    torch.save({"state_dict": model.state_dict(), "hyper_parameters": hyperparameters}, checkpoint)
    save_pretrained(checkpoint, path)
    again, series = load_pretrained(path), network()
    assert again.window == 48
    batch = series.windows(torch.tensor([0]), 24)
    assert torch.equal(again.adapted(series)(batch).mean, model.adapted(series)(batch).mean)


def test_what_is_no_file_of_weights_is_refused(tmp_path):
    (tmp_path / "text").write_text("no weights")
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    for name in ("absent", "text", "other.safetensors"):
        with pytest.raises(ValueError, match=f"{name} must be a file of weights of tsgen"):
            load_pretrained(tmp_path / name)


def test_a_model_that_belongs_to_its_data_is_refused(tmp_path):
    series = network()
    own = tsgen.AnyOrderModel(tsgen.SeriesSpec.of(series))
    torch.save(
        {"state_dict": own.state_dict(), "hyper_parameters": {**own.hparams, "window": 4}},
        tmp_path / "a.ckpt",
    )
    with pytest.raises(ValueError, match="must hold a model that adapts"):
        save_pretrained(tmp_path / "a.ckpt", tmp_path / "w")
    with pytest.raises(ValueError, match="must be one that adapts"):
        own.adapted(series)


def test_imputation_adapts_to_the_series(model):
    series = network()
    drawn = tsgen.impute(model, series, num_samples=4)
    again = tsgen.impute(model.adapted(series), series, num_samples=4)
    np.testing.assert_array_equal(drawn["imputation"], again["imputation"])
    values, observed = drawn["imputation"].values, series.observed.numpy()
    assert (values[:, observed] == series.values.numpy()[observed]).all() and np.isfinite(values).all()
    assert model.spec.nodes == ["0"], "the model itself has not changed"


def test_the_law_follows_a_change_of_units_and_of_the_order_of_nodes(model):
    series = network()
    batch = series.windows(torch.tensor([0, 50]), 36)
    # a shift keeps the support of real numbers alone, a factor keeps that of the data
    for support, shift in (("real", 7), ("auto", 0)):
        law = model.adapted(series, support)(batch)
        larger = changed(series, values=1000 * series.values - shift)
        other = model.adapted(larger, support)(larger.windows(torch.tensor([0, 50]), 36))
        torch.testing.assert_close(other.mean, 1000 * law.mean - shift, rtol=1e-3, atol=1e-1)
        torch.testing.assert_close(other.stddev, 1000 * law.stddev, rtol=1e-3, atol=1e-1)
    order = torch.tensor([3, 0, 4, 1, 2])
    place = order.argsort()
    source, target = place[series.graph.edge_index]
    graph = from_edges(source.tolist(), target.tolist(), series.graph.edge_weight.tolist(), num_nodes=5)
    moved = changed(
        series, values=series.values[:, order], observed=series.observed[:, order], graph=graph, nodes=()
    )
    permuted = model.adapted(moved)(moved.windows(torch.tensor([0, 50]), 36))
    torch.testing.assert_close(permuted.mean, law.mean[:, :, order], rtol=1e-3, atol=1e-3)


def test_channels_become_nodes_and_come_back(model, tmp_path):
    series = network(channels=2)
    drawn = tsgen.impute(model, series, num_samples=3, path=tmp_path / "i.nc")
    assert drawn["imputation"].dims == ("sample", "time", "node", "channel")
    observed = series.observed.numpy()
    assert (drawn["observed"].values == observed).all()
    assert (drawn["imputation"].values[:, observed] == series.values.numpy()[observed]).all()
    future = tsgen.forecast(model, series, horizon=5, num_samples=3)
    assert dict(future.sizes)["time"] == 5 and list(future["channel"].values) == ["c0", "c1"]
    batch = series.windows(torch.tensor([0]), 24)
    samples = tsgen.impute(model, batch, num_samples=2).values
    assert samples.shape == (2, 1, 24, 5, 2) and torch.equal(
        samples[0][batch.context], batch.values[batch.context]
    )


@pytest.mark.parametrize("channels", [1, 2])
def test_windows_are_imputed_by_the_model_that_adapted_to_them(model, channels):
    bare = network(channels).windows(torch.tensor([0, 40]), 24)
    batch = dataclasses.replace(bare, covariates=torch.ones(2, 24, 5, 3))
    shown = channels_as_nodes(bare)
    expected = tsgen.impute(model.adapted(shown), shown, num_samples=3).values
    drawn = tsgen.impute(model, batch, num_samples=3).values
    assert torch.equal(drawn.flatten(-2), expected.flatten(-2))
    with pytest.raises(ValueError, match="window, overlap and path are for a series"):
        tsgen.impute(model, batch, num_samples=3, path="imputation.nc")


def test_covariates_of_a_series_are_left_out(model):
    series = network()
    extra = GraphSeries(
        series.values, series.observed, series.graph, torch.ones(len(series), 5, 1), nodes=series.nodes
    )
    drawn, other = (tsgen.impute(model, x, num_samples=2)["imputation"].values for x in (series, extra))
    np.testing.assert_array_equal(drawn, other)
    assert tsgen.forecast(model, extra, horizon=3, num_samples=2).sizes["time"] == 3


def test_generation_needs_a_network(model):
    with pytest.raises(ValueError, match=r"pass model\.adapted\(series\) instead"):
        tsgen.generate(model, 5)


@pytest.mark.parametrize("case", ["one node", "silent node", "constant node", "nothing", "one step", "large"])
def test_unusual_networks_are_imputed(model, case):
    series = network()
    if case == "one node":
        alone = from_edges([], [], num_nodes=1)
        series = changed(
            series, values=series.values[:, :1], observed=series.observed[:, :1], graph=alone, nodes=()
        )
    elif case == "silent node":
        series.observed[:, 2] = False
    elif case == "constant node":
        series.values[:, 1] = 4.0
    elif case == "nothing":
        series.observed[:] = False
    elif case == "one step":
        series = changed(series, values=series.values[:1], observed=series.observed[:1], time=())
    else:
        values = torch.randn(12, 170, 1, generator=torch.Generator().manual_seed(0))
        ring = from_edges(range(170), [*range(1, 170), 0], num_nodes=170)
        series = GraphSeries(values, torch.rand(values.shape) < 0.8, ring)
    drawn = tsgen.impute(model, series, num_samples=2)
    assert np.isfinite(drawn["imputation"].values).all()


def test_the_card_lies_beside_the_weights():
    card = (Path(WEIGHTS).parent / "README.md").read_text("utf-8")
    assert "experiments.benchmarks.pretrained rebuild" in card


def test_no_draw_leaves_the_range_of_its_node_by_far(model):
    """A component of small weight may be as wide as the head's log-scale says."""
    series = network()
    own = copy.deepcopy(model).adapted(series)
    with torch.no_grad():
        own.head.linear.bias[-5:] = 9.0  # log-scales of the components
        own.head.linear.bias[5:10] = 500.0  # means
    law = own(series.windows(torch.tensor([0]), 36))
    assert (law.stddev <= 4.01 * own.scale).all() and law.stddev.max() > own.scale.min()
    assert ((law.mean - own.loc).abs() <= 20 * own.scale).all()
