"""Old names of modules and classes lead to the new ones."""

import sys
from functools import partial
from importlib import import_module

import pytest
from torch_geometric.nn import MessagePassing

from tsgen import moved
from tsgen.cli.configs import read
from tsgen.encoders import Encoder, GraphConvolution
from tsgen.storage.components import find_class, restore


@pytest.mark.parametrize("old", moved.MODULES)
def test_a_module_is_found_by_its_old_name(old):
    sys.modules.pop(old, None)
    new = import_module(moved.MODULES[old])
    spec = new.__spec__
    with pytest.warns(DeprecationWarning, match=f"{old} is now {moved.MODULES[old]}"):
        assert import_module(old) is new
    assert new.__spec__ is spec and spec.name == moved.MODULES[old]


def test_a_description_of_an_old_checkpoint_is_understood():
    assert find_class("tsgen.propagation.GraphConvolution", (MessagePassing,)) is GraphConvolution
    old = {"class_path": "tsgen.encoders.graph_gru.GraphGRUEncoder", "init_args": {}}
    old["init_args"]["convolution"] = {"class_path": "tsgen.propagation.GraphConvolution", "init_args": {}}
    made = restore(old, (Encoder, MessagePassing))
    assert isinstance(made, partial) and made.keywords["convolution"].func is GraphConvolution


def test_a_configuration_of_an_old_run_is_understood(tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text(
        "data: {class_path: datamodules.FilesDataModule, init_args: {thinning: tsgen.masks.PointMask}}\n"
        "trainer.callbacks: [{class_path: tsgen.callbacks.Compile}]\n"
    )
    options = read(path)
    assert options["data"]["class_path"] == "tsgen.datamodules.FilesDataModule"
    assert options["data"]["init_args"]["thinning"] == "tsgen.data.masks.PointMask"
    assert options["trainer.callbacks"][0]["class_path"] == "tsgen.training.callbacks.Compile"


@pytest.mark.parametrize(
    "path", ["tsgen.heads.MixtureHead", "torch.optim.AdamW", "Head", "mine.Head", "./file.csv"]
)
def test_a_path_of_today_is_left_as_it_is(path):
    assert moved.current(path) == path
