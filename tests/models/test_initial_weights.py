"""Models that start from weights: equal laws before training, unused new inputs, clear errors."""

import dataclasses
import shutil
from functools import partial

import pytest
import torch
from conftest import directed_graph, make_batch, make_series

from tsgen import AnyOrderModel, SeriesSpec, load
from tsgen.cli.main import main
from tsgen.data.series import GraphSeries
from tsgen.encoders import GraphAttention, RecurrentEncoder
from tsgen.heads import GaussianHead, MixtureHead
from tsgen.models import load_pretrained
from tsgen.models.pretrained import WEIGHTS

ENCODER = partial(RecurrentEncoder, hidden=64, layers=3, convolution=partial(GraphAttention, heads=4))
HEAD = partial(MixtureHead, components=5)


def started(series, init="pretrained", **options):
    """A model on a series that starts from weights, with the process of its training split."""
    options = {"encoder": ENCODER, "head": HEAD, "units": "linear", **options}
    model = AnyOrderModel(SeriesSpec.of(series), init=init, **options).eval()
    model.fit_units(series, [slice(0, len(series))])
    return model


def in_units_of(model, other):
    """A model whose units and process are those of another."""
    model.loc, model.scale, model.linear = other.loc, other.scale, other.linear
    return model


@pytest.mark.parametrize("covariates", [0, 3])
@pytest.mark.parametrize("node_embedding", [0, 4])
def test_the_laws_are_those_of_the_weights_before_training(covariates, node_embedding):
    series = make_series(channels=1, covariates=covariates)
    bare = dataclasses.replace(series, covariates=None, covariate_names=())
    own = started(series, node_embedding=node_embedding)
    expected = in_units_of(load_pretrained().adapted(bare), own)
    law, other = own(make_batch(series)), expected(make_batch(bare))
    torch.testing.assert_close(law.mean, other.mean, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(law.stddev, other.stddev, rtol=1e-5, atol=1e-4)


def test_the_first_of_several_channels_has_the_law_of_the_weights():
    """The other channels have no influence on it if the linear process has none."""
    series = make_series(channels=3, covariates=2)
    first = GraphSeries(series.values[..., :1], series.observed[..., :1], directed_graph(5))
    own, alone = started(series), started(first)
    for model in (own, alone):
        model.linear.coefficients.zero_()
        model.linear.covariance[:] = torch.eye(model.linear.covariance.shape[-1])
    batch = make_batch(series)
    only = make_batch(first)
    only = only._changed(context=batch.context[..., :1], target=batch.target[..., :1])
    torch.testing.assert_close(own(batch).mean[..., :1], alone(only).mean, rtol=1e-5, atol=1e-4)
    assert (own.head.linear.weight[15:] == 0).all() and (own.head.linear.weight[:15] != 0).any()


def test_a_checkpoint_is_a_start_and_does_not_name_it(tmp_path):
    series = make_series(channels=2, covariates=2)
    options = {"encoder": partial(RecurrentEncoder, hidden=8, layers=1), "head": GaussianHead}
    spec = SeriesSpec.of(series)
    first, path = AnyOrderModel(spec, units="interpolation", **options), tmp_path / "first.ckpt"
    torch.nn.init.normal_(first.head.linear.weight)
    torch.save({"state_dict": first.state_dict(), "hyper_parameters": dict(first.hparams)}, path)
    own = AnyOrderModel(spec, units="interpolation", init=str(path), node_embedding=2, **options).eval()
    batch = make_batch(series)
    torch.testing.assert_close(own(batch).mean, first.eval()(batch).mean, rtol=1e-5, atol=1e-4)
    again = tmp_path / "again.ckpt"
    torch.save({"state_dict": own.state_dict(), "hyper_parameters": dict(own.hparams)}, again)
    path.unlink()
    torch.testing.assert_close(load(again)(batch).mean, own(batch).mean)
    with pytest.raises(ValueError, match=r"first\.ckpt must be a checkpoint; there is no such file"):
        AnyOrderModel(spec, units="interpolation", init=str(path), **options)
    with pytest.raises(ValueError, match="must not belong to single nodes"):
        AnyOrderModel(spec, units="interpolation", init=str(again), **options)
    other = SeriesSpec.of(make_series(channels=2, covariates=1))
    torch.save({"state_dict": first.state_dict(), "hyper_parameters": dict(first.hparams)}, path)
    with pytest.raises(ValueError, match=r"2 channels and 2 covariates of the weights .* it has 2 and 1"):
        AnyOrderModel(other, units="interpolation", init=str(path), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": "interpolation"}, "set units to 'linear'; it is 'interpolation'"),
        ({"encoder": partial(ENCODER, hidden=32)}, "set encoder.hidden to 64; it is 32"),
        ({"encoder": partial(ENCODER, layers=2)}, "set encoder.layers to 3; it is 2"),
        (
            {"encoder": partial(RecurrentEncoder, hidden=64)},
            "set encoder.convolution to GraphAttention; it",
        ),
        ({"encoder": None}, "set encoder to RecurrentEncoder; it is ConvolutionEncoder"),
        ({"head": MixtureHead}, "set head.components to 5; it is 3"),
        ({"head": GaussianHead}, "set head to MixtureHead; it is GaussianHead"),
        ({"init": "absent.safetensors"}, "absent.safetensors must be a file of weights of tsgen"),
    ],
)
def test_the_error_says_which_option_to_set(options, message):
    with pytest.raises(ValueError, match=message):
        started(make_series(channels=1, covariates=0), **options)


YAML = """
model:
  class_path: tsgen.models.AnyOrderModel
  init_args:
    units: linear
    init: {init}
    node_embedding: 2
    encoder:
      class_path: tsgen.encoders.RecurrentEncoder
      init_args:
        hidden: 64
        layers: 3
        convolution: {{class_path: tsgen.encoders.GraphAttention, init_args: {{heads: 4}}}}
    head: {{class_path: tsgen.heads.MixtureHead, init_args: {{components: 5}}}}
    sampler: {{class_path: tsgen.sampling.AnyOrder, init_args: {{num_samples: 5}}}}
data:
  class_path: tsgen.datamodules.SyntheticDataModule
  init_args:
    steps: 400
    num_nodes: 5
    thinning: {{class_path: tsgen.data.PointMask, init_args: {{rate: 0.3}}}}
trainer: {{max_epochs: 1, logger: false, enable_progress_bar: false}}
"""


@pytest.mark.slow
def test_a_run_starts_from_weights_and_needs_them_only_then(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(WEIGHTS, "w.safetensors")
    (tmp_path / "own.yaml").write_text(YAML.format(init="w.safetensors"))
    assert main(["fit", "--config", "own.yaml"]) == 0
    (tmp_path / "w.safetensors").unlink()
    weight = "encoder.blocks.0.mlp.0.weight"
    trained, given = load("runs/own/checkpoints/last.ckpt").state_dict(), load_pretrained().state_dict()
    difference = (trained[weight] - given[weight]).norm() / given[weight].norm()
    assert 0 < difference < 0.5  # a random start is at about 1
    resumed = ["fit", "--config", "own.yaml", "--ckpt_path", "last", "--trainer.max_epochs", "2"]
    for words in (resumed, ["test", "--config", "own.yaml"], ["predict", "--config", "own.yaml"]):
        assert main(words) == 0, capsys.readouterr().err
    assert "init: w.safetensors" in (tmp_path / "runs/own/config_fit.yaml").read_text()
    assert main(["fit", "--config", "own.yaml"]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "w.safetensors must be a file of weights" in line
