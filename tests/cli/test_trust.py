"""Hostile configurations, checkpoints and names: refused in one line, and nothing of them is run."""

import inspect
import pickle
import re
import sys
import time
import zipfile
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_geometric.nn
import yaml
from jsonargparse import ArgumentParser
from lightning import Trainer

from tsgen.cli.arguments import parse
from tsgen.cli.commands import Rehearsal
from tsgen.cli.configs import merge, read
from tsgen.cli.main import main
from tsgen.cli.mistakes import MISTAKES, one_line
from tsgen.cli.trust import IMPORTABLE, trusting
from tsgen.cli.variants import read_study
from tsgen.cli.yaml_text import check_plain, load_yaml
from tsgen.storage.components import find_class

FIT = ["fit", "--config", "demo"]
SHELL = "torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler.SubprocessHandler"
NAMES = ["os.system", "subprocess.Popen", "builtins.eval", "torch.hub.load", "torch.load", SHELL]
NAMES += [
    "torch.utils.cpp_extension.load",
    "tsgen.storage.components.import_module",
    "hostile.Thing",
    "antigravity.x",
    # of packages that are known, and whose arguments are run, connected to or written over
    "torch_geometric.nn.Sequential",
    "torch_geometric.nn.sequential.Sequential",
    "torch_geometric.nn.nlp.LLM",
    "torch_geometric.nn.models.DimeNet.from_qm9_pretrained",
    "torch.nn.utils.parametrize.register_parametrization",
    "lightning.pytorch.callbacks.LambdaCallback",
    "lightning.pytorch.loggers.CometLogger",
    "lightning.pytorch.loggers.MLFlowLogger",
    "lightning.pytorch.loggers.litlogger.LitLogger",
    "lightning.pytorch.strategies.DeepSpeedStrategy",
    "lightning.pytorch.strategies.launchers.subprocess_script._SubprocessScriptLauncher",
    "tsgen.load",
    "tsgen.models.load",
    "tsgen.storage.atomic.write_text",
    "tsgen.storage.components.find_class",
    "tsgen.readers.downloads.fetch",
    "tsgen.cli.run.main",
    "torch.nn.modules.container.OrderedDict",
    "tsgen.training.callbacks.Path",
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
    study = read_study(parse(FIT))
    return Rehearsal(study.command(), study.name).parser


def told(words, parser) -> str:
    """What is told of options that are refused; nothing was imported."""
    with trusting([]), pytest.raises(MISTAKES) as error:
        parser.parse_args(read_study(parse(words)).command())
    assert not Path("ran").exists() and "antigravity" not in sys.modules
    return one_line(error.value)


def nested(place: str, content: object) -> dict:
    """Options with something at a place."""
    for part in reversed(place.split(".")):
        content = {part: content}
    return content


def with_class(place: str, name: str) -> dict:
    """Options that name something at a place."""
    made: object = {"class_path": name, "init_args": {"command": "touch ran", "args": "touch ran"}}
    return nested(place, [made] if place == "trainer.callbacks" else made)


OFTEN = ("hostile.Thing", "torch_geometric.nn.Sequential", "tsgen.load")


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_names_parts_of_known_packages_alone(name, parser):
    for place in PLACES if name in OFTEN else [PLACES[2], PLACES[-1]]:
        Path("own.yaml").write_text(yaml.safe_dump(with_class(place, name)))
        refusal = told([*FIT, "--config", "own.yaml"], parser)
        assert "must lie in tsgen" in refusal and repr(name) in refusal, place
    with pytest.raises(ValueError, match="must lie in tsgen"):
        find_class(name, (object,))


EVALUATED = {
    "class_path": "torch_geometric.nn.Sequential",
    "init_args": {
        "input_args": "x: __import__('pathlib').Path('ran').touch()",
        "modules": [[{"class_path": "torch.nn.Identity"}, "x -> x"]],
    },
}
CONVOLUTION = "model.init_args.encoder.init_args.convolution"
HOOK = "trainer.strategy.init_args.ddp_comm_hook"
DDP = {"trainer": {"strategy": {"class_path": "lightning.pytorch.strategies.DDPStrategy"}}}
LAMBDA = {"class_path": "lightning.pytorch.callbacks.LambdaCallback"}
LOAD = {"class_path": "tsgen.load", "init_args": {"checkpoint": "evil.ckpt", "trusted": ["hostile"]}}
CALLED = {
    "a layer of a layer": nested(
        CONVOLUTION, {"class_path": "torch_geometric.nn.NNConv", "init_args": {"nn": EVALUATED}}
    ),
    "a callback": nested("trainer.callbacks", [LAMBDA | {"init_args": {"on_fit_start": EVALUATED}}]),
    "a scheduler": nested(
        "model.init_args.scheduler",
        {"class_path": "torch.optim.lr_scheduler.LambdaLR", "init_args": {"lr_lambda": EVALUATED}},
    ),
    "a hook": merge(DDP, nested(HOOK, EVALUATED)),
    "a checkpoint of its own trust": merge(DDP, nested(HOOK, LOAD)),
}


@pytest.mark.parametrize("name", CALLED)
def test_what_would_be_made_only_to_be_called_is_held_to_the_same_list(name, parser, capsys):
    """These options take anything that can be called, so that no declared class stands in the way."""
    torch.save(
        {"state_dict": {}, "hyper_parameters": {"model": {"class_path": "hostile.Thing"}}}, "evil.ckpt"
    )
    Path("own.yaml").write_text(yaml.safe_dump(CALLED[name]))
    assert "must lie in tsgen" in refused([*FIT, "--config", "own.yaml"], capsys)


METHOD = "lightning.pytorch.loggers.WandbLogger.download_artifact"


@pytest.mark.parametrize("named", [METHOD, {"class_path": METHOD, "init_args": {"artifact": "a/b/c:v0"}}])
def test_nor_is_a_method_of_a_known_class_called(named, capsys):
    Path("own.yaml").write_text(yaml.safe_dump(merge(DDP, nested(HOOK, named))))
    assert "must name a class" in refused([*FIT, "--config", "own.yaml"], capsys)


RUNS = re.compile(
    r"\b(eval\w*|exec|compile|__import__|import_module|Popen|run|system|urlopen|connect|load|open)\("
)


def makers(made: type) -> str:
    """The source of what runs when an object of a class is made."""
    found = (
        vars(base).get(name) for base in made.__mro__ for name in ("__new__", "__init__", "__post_init__")
    )
    written = [inspect.unwrap(maker) for maker in found if inspect.isfunction(maker)]
    return "".join(inspect.getsource(f) for f in written if Path(f.__code__.co_filename).is_file())


def test_nothing_that_may_be_named_runs_text_or_starts_anything_when_it_is_made():
    """Whoever adds a class to the list is told here to look at it."""
    assert RUNS.search(makers(torch_geometric.nn.Sequential))
    for path in sorted(IMPORTABLE):
        found = find_class(path, (object,), ("datamodules", "tsgen.datamodules", "tsgen.simulate"))
        assert not RUNS.search(makers(found)), path
        assert f"{found.__module__}.{found.__qualname__}" in IMPORTABLE


def test_a_configuration_does_not_say_where_a_key_is_sent(capsys):
    for told in ({"settings": {"base_url": "http://127.0.0.1:9"}}, {"entity": "else"}, {"mode": "online"}):
        for where in ("dict_kwargs", "init_args"):
            logger = {"class_path": "lightning.pytorch.loggers.WandbLogger", where: told}
            Path("own.yaml").write_text(yaml.safe_dump({"trainer": {"logger": [logger]}}))
            assert "WANDB_BASE_URL" in refused([*FIT, "--config", "own.yaml"], capsys)


def test_a_user_is_told_in_one_line(capsys):
    Path("own.yaml").write_text(yaml.safe_dump(with_class(PLACES[0], "hostile.Thing")))
    assert "--trusted hostile" in refused([*FIT, "--config", "own.yaml"], capsys)


@pytest.mark.parametrize(
    "flag", ["--model.head", "--data", "--data.help", "--model.help", "--trainer.callbacks"]
)
def test_so_does_the_command_line(flag, parser):
    assert "got 'os.system'." in told([*FIT, flag, "os.system"], parser)


def test_an_option_names_no_file_of_options(parser):
    Path("model.yaml").write_text("class_path: hostile.Thing")
    error = told([*FIT, "--model", "model.yaml"], parser)
    assert "must not name a file" in error and "hostile" not in error and "--trusted" not in error


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
    assert "such as mypackage; got 'a b'" in refused([*words, "--trusted=a b"], capsys)
    assert "expected one argument" in refused([*words, "--trusted"], capsys)


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
    ["fit", "test", "predict"],
)
def test_lightning_is_told_to_read_plain_data_too(command, monkeypatch):
    seen = {}

    @wraps(getattr(Trainer, command))  # the command line asks for its arguments
    def stop(self, *_, **options):
        seen.update(options)
        raise ValueError("stop")

    monkeypatch.setattr(Trainer, command, stop)
    monkeypatch.setattr("tsgen.cli.commands.TsgenCLI._checkpoint", lambda *_: None)
    small = ["--data.steps", "300", "--data.num_nodes", "3", "--trainer.logger", "false"]
    assert main([command, "--config", "demo", *small]) == 2
    assert seen.pop("weights_only") is True


def test_a_checkpoint_that_unpacks_to_more_than_it_is(capsys):
    with zipfile.ZipFile("bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(50_000_000))
    assert "it is compressed" in refused(["test", "--config", "demo", "--ckpt_path", "bomb.ckpt"], capsys)
