"""Parts of a model as plain data and back, whoever made them, and what a checkpoint may not name."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from conftest import make_batch, make_model
from jsonargparse import ArgumentParser
from torch_geometric.nn import GATv2Conv

from tsgen import load
from tsgen.components import describe, find_class, restore
from tsgen.encoders import Encoder, GraphGRUEncoder
from tsgen.heads import MixtureHead
from tsgen.sampling import Ancestral

FACTORY = partial(GraphGRUEncoder, hidden=8, convolution=partial(GATv2Conv, heads=2, concat=False))
PLAIN = {
    "class_path": "tsgen.encoders.graph_gru.GraphGRUEncoder",
    "init_args": {
        "hidden": 8,
        "convolution": {
            "class_path": "torch_geometric.nn.conv.gatv2_conv.GATv2Conv",
            "init_args": {"heads": 2, "concat": False},
        },
    },
}


def test_a_factory_from_python_is_plain_data():
    assert describe(FACTORY) == PLAIN
    assert describe(restore(PLAIN)) == PLAIN
    assert restore(PLAIN)(3).state_messages.inner.heads == 2


def test_a_factory_from_yaml_is_the_same_plain_data():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--encoder", type=Callable[[int], Encoder])
    words = [
        "--encoder=GraphGRUEncoder",
        "--encoder.hidden=8",
        "--encoder.convolution=torch_geometric.nn.GATv2Conv",
    ]
    words += ["--encoder.convolution.heads=2", "--encoder.convolution.concat=false"]
    factory = parser.instantiate(parser.parse_args(words)).encoder
    described = describe(factory)
    inner = described["init_args"]["convolution"]
    assert described["class_path"] == PLAIN["class_path"]
    assert inner["class_path"] == PLAIN["init_args"]["convolution"]["class_path"]
    assert inner["init_args"]["heads"] == 2
    assert inner["init_args"]["concat"] is False
    assert restore(described)(3).hidden == 8


def test_objects_come_back():
    sampler = Ancestral(num_samples=7, seed=2)
    assert restore(describe(sampler)) == sampler
    assert restore(describe({"a": [1, (sampler, None)]})) == {"a": [1, (sampler, None)]}


def test_what_a_checkpoint_could_not_hold_is_refused_when_it_is_made():
    with pytest.raises(ValueError, match=r"functools\.partial"):
        describe(lambda size: MixtureHead(size, 1))


@pytest.mark.parametrize(
    "path", ["os.system", "subprocess.Popen", "tsgen.components.describe", "tsgen.Nothing"]
)
def test_only_classes_of_known_packages_are_looked_up(path):
    with pytest.raises(ValueError, match=r"class"):
        find_class(path)


def save(model, path, **changes):
    torch.save({"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)} | changes, path)
    return path


def test_a_checkpoint_alone_rebuilds_the_model(series, tmp_path):
    model, batch = make_model(series, FACTORY), make_batch(series)
    loaded = load(save(model, tmp_path / "a.ckpt"))
    assert torch.equal(loaded.log_prob(batch), model.log_prob(batch))
    assert torch.equal(loaded.sampler(loaded, batch).values, model.sampler(model, batch).values)
    assert loaded.spec.difference(model.spec) is None
    assert not loaded.training


class Evil:
    def __reduce__(self):
        return (open, ("/tmp/tsgen-must-not-exist", "w"))


def test_what_is_no_checkpoint_is_refused_in_one_line(series, tmp_path):
    model = make_model(series)
    text = tmp_path / "text.ckpt"
    text.write_text("no checkpoint")
    other = {"model": {"class_path": "os.system", "init_args": {}}}
    head = {"model": describe(partial(MixtureHead, hidden=1, channels=1))}
    for path, message in (
        (tmp_path / "absent.ckpt", "no such file"),
        (text, "cannot be read"),
        (save(model, tmp_path / "evil.ckpt", extra=Evil()), "cannot be read"),
        (save(model, tmp_path / "bare.ckpt", hyper_parameters={}), "something else"),
        (save(model, tmp_path / "os.ckpt", hyper_parameters=other), "must lie in"),
        (save(model, tmp_path / "head.ckpt", hyper_parameters=head), "must hold a DensityModel"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            load(path)
        assert "\n" not in str(error.value)
