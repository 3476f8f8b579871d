"""Old names of modules and classes lead to the new ones."""

import subprocess
import sys
from functools import partial
from importlib import import_module

import pytest
from torch_geometric.nn import MessagePassing

from tsgen import moved
from tsgen.cli.configs import read, with_current_classes
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


def test_a_user_keeps_own_data_modules(monkeypatch):
    """A package of the user's that is called datamodules is not the clone's."""
    own = {"class_path": "datamodules.files.FilesDataModule"}
    assert with_current_classes(own) != own
    monkeypatch.setattr("tsgen.cli.configs.has_datamodules", lambda: False)
    assert with_current_classes(own) == own


def test_packages_are_found_without_an_import_of_their_own():
    code = "import tsgen; print(tsgen.heads.Head.__name__, 'sampling' in dir(tsgen))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["Head", "True"]


@pytest.mark.parametrize(
    "path", ["tsgen.heads.MixtureHead", "torch.optim.AdamW", "Head", "mine.Head", "./file.csv"]
)
def test_a_path_of_today_is_left_as_it_is(path):
    assert moved.current(path) == path
