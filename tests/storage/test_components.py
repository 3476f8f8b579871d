"""Parts of a model as plain data and back, whoever made them, and what a checkpoint may not name."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from conftest import make_batch, make_model
from jsonargparse import ArgumentParser
from torch_geometric.nn import GATv2Conv

from tsgen import load
from tsgen.encoders import Encoder, GraphGRUEncoder
from tsgen.heads import MixtureHead
from tsgen.models import AutoregressiveModel
from tsgen.models.density import BUILDING_BLOCKS
from tsgen.sampling import Ancestral
from tsgen.storage import components
from tsgen.storage.components import describe, find_class, importable, is_importable, restore

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
    assert describe(restore(PLAIN, BUILDING_BLOCKS)) == PLAIN
    assert restore(PLAIN, BUILDING_BLOCKS)(3).state_messages.convolution.inner.heads == 2


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
    assert restore(described, BUILDING_BLOCKS)(3).hidden == 8


def test_objects_come_back():
    sampler = Ancestral(num_samples=7, seed=2)
    assert restore(describe(sampler), BUILDING_BLOCKS) == sampler
    assert restore(describe({"a": [1, (sampler, None)]}), BUILDING_BLOCKS) == {"a": [1, (sampler, None)]}


def test_what_a_checkpoint_could_not_hold_is_refused_when_it_is_made():
    with pytest.raises(ValueError, match=r"functools\.partial"):
        describe(lambda size: MixtureHead(size, 1))


SHELL = "torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler.SubprocessHandler"
OTHERS = [
    "os.system",
    "subprocess.Popen",
    "tsgen.storage.components.describe",
    "tsgen.Nothing",
    "torch.nn.Linear",
    "x",
]


@pytest.mark.parametrize("path", [*OTHERS, SHELL])
def test_only_parts_of_models_of_known_packages_are_looked_up(path):
    with pytest.raises(ValueError, match=r"class"):
        find_class(path, BUILDING_BLOCKS)


@pytest.mark.parametrize(
    "path", [SHELL, "torch.utils.hipify.x", "tsgen.load", "torch_geometric.nn.Sequential"]
)
def test_what_may_not_be_named_is_not_imported(path, monkeypatch):
    importable()  # which imports what may be
    monkeypatch.setattr(components, "import_module", None)
    with pytest.raises(ValueError, match="must lie in"):
        find_class(path, (object,))


def test_a_trusted_package_is_no_prefix_of_another():
    assert is_importable("mine.heads.Own", ("mine",)) and is_importable("mine.heads.Own", ("mine.heads",))
    assert not is_importable("minefield.Own", ("mine",)) and not is_importable("mine.Own", ("mine.heads",))


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


def test_a_checkpoint_cannot_start_a_process(series, tmp_path):
    touched = tmp_path / "touched"
    command = {
        "entrypoint": "/bin/sh",
        "args": ("-c", f"touch {touched}"),
        "env": {},
        "stdout": "",
        "stderr": "",
    }
    evil = {"instance_of": SHELL, "init_args": command | {"local_rank_id": 0, "numa_options": None}}
    around = {"class_path": "tsgen.models.AutoregressiveModel", "init_args": {"spec": evil}}
    for model in (evil, around):
        path = save(make_model(series), tmp_path / "evil.ckpt", hyper_parameters={"model": model})
        with pytest.raises(ValueError, match="must lie in"):
            load(path)
        assert not touched.exists()


class OwnHead(MixtureHead):
    """A head of a user's own."""


def test_a_users_own_parts_are_loaded_when_trusted(series, tmp_path):
    path = save(make_model(series, head=OwnHead), tmp_path / "own.ckpt")
    with pytest.raises(ValueError, match=r"trusted=\('test_components',\)"):
        load(path)
    assert isinstance(load(path, trusted=("test_components",)).head, OwnHead)


def test_lightnings_own_way_of_loading_works(series, tmp_path):
    model = make_model(series)
    loaded = AutoregressiveModel.load_from_checkpoint(save(model, tmp_path / "a.ckpt"))
    assert torch.equal(loaded.head.linear.weight, model.head.linear.weight)


def test_models_do_not_share_what_can_be_changed(series):
    with pytest.raises(AttributeError):
        make_model(series).sampler.seed = 4


def test_an_old_class_path_is_no_difference():
    old = {"encoder": {"class_path": "tsgen.propagation.GraphConvolution", "init_args": {}}}
    new = {
        "encoder": {"class_path": "tsgen.encoders.propagation.GraphConvolution", "init_args": {"hidden": 8}}
    }
    assert components.difference(old, new) is None
    new["encoder"]["class_path"] = "tsgen.encoders.propagation.GraphAttention"
    assert components.difference(old, new) == ".encoder"
