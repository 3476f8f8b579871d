"""Hostile configurations, checkpoints and names: refused in one line, and nothing of them is run."""

import pickle
import sys
import time
import zipfile
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning import Trainer

from experiments.__main__ import main
from experiments.cli import MISTAKES, Rehearsal, one_line
from experiments.configs import read
from experiments.trust import check_plain, load_yaml, trusting
from experiments.variants import read_study

FIT = ["fit", "--config", "demo"]
SHELL = "torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler.SubprocessHandler"
NAMES = ["os.system", "subprocess.Popen", "builtins.eval", "torch.hub.load", "torch.load", SHELL]
NAMES += [
    "torch.utils.cpp_extension.load",
    "tsgen.components.import_module",
    "hostile.Thing",
    "antigravity.x",
]
PLACES = [
    "model.init_args.head",
    "model.init_args.optimizer",
    "model.init_args.encoder.init_args.convolution",
    "data.init_args.thinning",
    "trainer.logger",
    "trainer.callbacks",
    "model",
    "data",
]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    """A folder in which a module lies that leaves a file where it is imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("hostile.py").write_text(
        "open('ran', 'w')\nfrom tsgen.heads import GaussianHead\nclass Thing(GaussianHead):\n    pass\n"
    )
    yield
    sys.modules.pop("hostile", None)


def refused(words, capsys) -> str:
    """What is told of a command that is refused; nothing was run."""
    assert main(words) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and len(lines[0]) < 600
    assert not Path("ran").exists() and "antigravity" not in sys.modules
    return lines[0]


@pytest.fixture(scope="module")
def parser():
    """The command line's parser, which takes a second to make."""
    study = read_study(FIT)
    return Rehearsal(study.command(), study.name).parser


def told(words, parser) -> str:
    """What is told of options that are refused; nothing was imported."""
    with trusting([]), pytest.raises(MISTAKES) as error:
        parser.parse_args(read_study(words).command())
    assert not Path("ran").exists() and "antigravity" not in sys.modules
    return one_line(error.value)


def with_class(place: str, name: str) -> dict:
    """Options that name something at a place."""
    made: object = {"class_path": name, "init_args": {"command": "touch ran", "args": "touch ran"}}
    if place == "trainer.callbacks":
        made = [made]
    for part in reversed(place.split(".")):
        made = {part: made}
    return made


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_names_parts_of_known_packages_alone(name, parser):
    for place in PLACES if name == "hostile.Thing" else PLACES[:1]:
        Path("own.yaml").write_text(yaml.safe_dump(with_class(place, name)))
        assert "must lie in tsgen" in told([*FIT, "--config", "own.yaml"], parser), place


def test_a_user_is_told_in_one_line(capsys):
    Path("own.yaml").write_text(yaml.safe_dump(with_class(PLACES[0], "hostile.Thing")))
    assert "--trusted hostile" in refused([*FIT, "--config", "own.yaml"], capsys)


@pytest.mark.parametrize(
    "flag", ["--model.head", "--data", "--data.help", "--model.help", "--trainer.callbacks"]
)
def test_so_does_the_command_line(flag, parser):
    assert "'os.system' does not." in told([*FIT, flag, "os.system"], parser)


def test_a_file_that_an_option_names_is_held_to_the_same(parser):
    Path("model.yaml").write_text("class_path: hostile.Thing")
    assert "--trusted hostile" in told([*FIT, "--model", "model.yaml"], parser)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("--model.head", "torch.nn.Linear"),
        ("--model.optimizer", "torch.nn.init.normal_"),
        ("--model.head", "tsgen.load"),
        ("--trainer.callbacks", "torch.optim.AdamW"),
    ],
)
def test_what_is_known_must_be_of_the_right_class(place, name, parser):
    told([*FIT, place, name], parser)


def test_what_is_declared_as_anything_stays_the_data_that_it_is():
    anything = ArgumentParser(exit_on_error=False)
    anything.add_argument("--thing", type=Any)
    found = anything.instantiate(anything.parse_object({"thing": {"class_path": "torch.nn.Identity"}}))
    assert not isinstance(found.thing, torch.nn.Module) and found.thing["class_path"] == "torch.nn.Identity"


def test_so_must_what_is_known_only_once_it_is_built(capsys):
    refused([*FIT, "--model.encoder.convolution", "tsgen.heads.GaussianHead"], capsys)


def test_what_a_user_trusts_is_imported_for_that_command_alone(capsys):
    words = [*FIT, "--model.head", "hostile.Thing", "--print_config"]
    with pytest.raises(SystemExit) as done:
        main([*words, "--trusted", "hostile"])
    assert done.value.code == 0 and Path("ran").exists()
    assert "hostile.Thing" in capsys.readouterr().out
    Path("ran").unlink()
    assert "--trusted hostile" in refused(words, capsys)
    assert "such as mypackage; it is 'a b'" in refused([*words, "--trusted=a b"], capsys)
    assert "nothing follows" in refused([*words, "--trusted"], capsys)


def test_a_configuration_cannot_say_what_is_trusted(parser):
    Path("own.yaml").write_text("trusted: hostile\nmodel: {init_args: {head: hostile.Thing}}")
    told([*FIT, "--config", "own.yaml"], parser)


def laughs(lines: int) -> str:
    """Two entries, and nine times as many in each further line."""
    more = (f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, lines + 1))
    return "a0: &a0 [x, x]\n" + "".join(more)


def within(text: str, times: int) -> str:
    """A text in YAML in a text in YAML, and so on."""
    for _ in range(times):
        text = yaml.safe_dump({"a": text})
    return text


BROKEN_YAML = {
    "laughs": laughs(7),  # so few that a test which walks through them all ends and fails
    "laughs in a text": yaml.safe_dump({"data": {"held_out": laughs(7)}}),
    "texts in texts": within("x" * 200, 6),
    "deep in a text": f"a: '{'[' * 5000}{']' * 5000}'",
    "without end": "a: &a [*a]",
    "deep": "a: " + "[" * 5000 + "]" * 5000,
    "deep lines": "\n".join(" " * i + "a:" for i in range(300)),
    "long": "a: " + "x" * 5_000_000,
    "object": "a: !!python/object/apply:os.system [touch ran]",
    "name": "a: !!python/name:os.system",
    "digits": "a: " + "9" * 5000,
    "bytes": "a: !!binary aaaa",
    "set": "a: !!set {b}",
    "key": "? [a, b]\n: c",
    "no key": "~: a",
    "no number": ".nan: a",
    "latin": b"a: \xe9",
    "zeros": b"a: \x00",
}


@pytest.mark.parametrize("name", BROKEN_YAML)
def test_yaml_that_is_too_large_or_no_plain_data(name, capsys):
    content = BROKEN_YAML[name]
    Path("own.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"own\.yaml must be YAML") as error:
        read(Path("own.yaml"))
    assert time.monotonic() - start < 3 and "\n" not in str(error.value) and len(str(error.value)) < 500
    refused([*FIT, "--config", "own.yaml"], capsys)


def test_the_parser_reads_within_the_same_bounds(parser):
    Path("model.yaml").write_text(laughs(5))
    assert "aliases written out" in told([*FIT, "--model", "model.yaml"], parser)


def test_long_texts_are_read():
    text = "a word: " + "\n & another ' [ " * 1000
    assert load_yaml(within(text, 3)) == {"a": within(text, 2)}


def test_anchors_are_read():
    assert load_yaml("a: &a {b: 1e-3}\nc: {<<: *a, d: *a}") == {
        "a": {"b": 1e-3},
        "c": {"b": 1e-3, "d": {"b": 1e-3}},
    }
    check_plain(load_yaml("{a: [1, 2.5, true, null, x], 3: {}}"))


class Evil:
    """Pickled, it runs a command when it is read."""

    def __reduce__(self):
        import os

        return os.system, ("touch ran",)


@pytest.mark.parametrize(
    ("command", "form"), [("test", "torch"), ("predict", "pickle"), ("fit", "in a checkpoint")]
)
def test_a_checkpoint_runs_nothing(command, form, capsys):
    evil = {"state_dict": {}, "hyper_parameters": {"model": {}}, "callbacks": Evil()}
    if form == "pickle":
        Path("evil.ckpt").write_bytes(pickle.dumps(Evil()))
    else:
        torch.save(evil if form == "in a checkpoint" else Evil(), "evil.ckpt")
    assert "cannot be read as one" in refused(
        [command, "--config", "demo", "--ckpt_path", "evil.ckpt"], capsys
    )


@pytest.mark.parametrize(
    "command",
    ["fit", pytest.param("test", marks=pytest.mark.slow), pytest.param("predict", marks=pytest.mark.slow)],
)
def test_lightning_is_told_to_read_plain_data_too(command, monkeypatch):
    seen = {}

    @wraps(getattr(Trainer, command))  # the command line asks for its arguments
    def stop(self, *_, **options):
        seen.update(options)
        raise ValueError("stop")

    monkeypatch.setattr(Trainer, command, stop)
    monkeypatch.setattr("experiments.cli.TsgenCLI._checkpoint", lambda *_: None)
    small = ["--data.steps", "300", "--data.num_nodes", "3", "--trainer.logger", "false"]
    assert main([command, "--config", "demo", *small]) == 2
    assert seen.pop("weights_only") is True


def test_a_checkpoint_that_unpacks_to_more_than_it_is(capsys):
    with zipfile.ZipFile("bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(50_000_000))
    assert "unpacks to" in refused(["test", "--config", "demo", "--ckpt_path", "bomb.ckpt"], capsys)
