"""What is shown to others: no secret, and the user's home by no name of its own."""

import os
import time
from pathlib import Path

import pytest
import torch
import wandb
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger

from tsgen.cli import tracking
from tsgen.cli.arguments import parse
from tsgen.cli.commands import TsgenCLI
from tsgen.cli.configs import read
from tsgen.cli.variants import read_study
from tsgen.report.comparison import configuration_differences as compared
from tsgen.report.run import configurations as shown
from tsgen.storage.privacy import scrubbed, scrubbed_text, without_home

SECRET = "abcd-1234-efgh-5678"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user's home that a link leads to, and where it lies."""
    (tmp_path / "disk/somebody").mkdir(parents=True)
    (tmp_path / "home").symlink_to(tmp_path / "disk/somebody")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home", tmp_path / "disk/somebody"


@pytest.mark.parametrize(
    "name",
    [
        *("X_KEY", "AWS_ACCESS_KEY_ID", "GH_TOKEN", "A_SECRET", "B_PASSWORD", "DB_PASS", "DB_PWD", "GH_PAT"),
        *("SLACK_WEBHOOK_URL", "GOOGLE_CREDENTIALS", "SENTRY_DSN", "HTTP_AUTH", "APIKEY", "PGPASSWORD"),
    ],
)
def test_the_values_of_secret_variables_are_replaced(name, monkeypatch):
    monkeypatch.setenv(name, SECRET)
    assert scrubbed({"notes": [f"of {SECRET}"], "number": 3}) == {"notes": [f"of [{name}]"], "number": 3}
    assert scrubbed_text(f"note: of {SECRET}\n") == f"note: of [{name}]\n"


def test_other_variables_are_not(monkeypatch):
    for name in ("PWD", "OLDPWD", "SSH_AUTH_SOCK", "TOKENIZERS_PARALLELISM", "GIT_ASKPASS", "PATTERN"):
        monkeypatch.setenv(name, "/some/where/long")
    monkeypatch.setenv("A_KEY", "short")
    assert scrubbed("short /some/where/long") == "short /some/where/long"


def test_a_secret_that_begins_with_another_is_replaced_whole(monkeypatch):
    monkeypatch.setenv("A_KEY", SECRET)
    monkeypatch.setenv("B_KEY", SECRET + "-more")
    assert scrubbed(f"{SECRET}-more") == "[B_KEY]"


NAMES = ["api_key", "apiKey", "token", "auth_token", "client_secret", "db_password", "passwd", "webhook"]


@pytest.mark.parametrize("name", NAMES)
def test_what_an_option_calls_a_secret_is_hidden(name):
    options = {"a": {name: SECRET, "b": [{name: ["x", SECRET]}, 1]}, "monitor": "val/nll"}
    told = {"a": {name: "[secret]", "b": [{name: ["[secret]", "[secret]"]}, 1]}, "monitor": "val/nll"}
    assert scrubbed(options) == told
    for text in (
        f"a:\n  {name}: {SECRET}\nb: 1\n",
        f'{{{name}: "{SECRET}", b: 1}}',
        f"+ - '{name}': {SECRET}",
    ):
        assert SECRET not in scrubbed_text(text) and text.count("b: 1") == scrubbed_text(text).count("b: 1")
    assert scrubbed({name: None}) == {name: None} and scrubbed_text(f"{name}: null") == f"{name}: null"


def test_so_is_a_password_in_an_address():
    assert scrubbed(f"https://me:{SECRET}@host/x") == "https://[secret]@host/x"


def test_hiding_takes_no_time_on_any_text():
    start = time.monotonic()
    for text in ("key" * 100_000, "token:" * 50_000, "://" * 100_000, "://a:" * 50_000, "a" * 300_000):
        scrubbed_text(text)
    assert time.monotonic() - start < 5


def test_the_home_is_hidden_by_both_its_names(home):
    for path in home:
        assert scrubbed([f"{path}", f"{path}/x", f"in '{path}/x'.", f"file://{path}/x"]) == [
            *("~", "~/x", "in '~/x'.", "file://~/x")
        ]


def test_only_whole_parts_of_paths_are_the_home(monkeypatch):
    monkeypatch.setenv("HOME", "/root")
    for path in ("/rootfs", "/root-2/x", "/root.bak", "/mnt/root", "./root/x", "/root_a"):
        assert without_home(path) == path
    assert without_home("/root /root/x a=/root:/root. (/root)") == "~ ~/x a=~:~. (~)"


def test_a_configuration_that_was_kept_is_read_back(home):
    Path(home[0], "own.yaml").write_text(yaml.safe_dump(scrubbed({"a": [f"{home[1]}/x", "~", "a ~/b"]})))
    assert read(Path(home[0], "own.yaml")) == {"a": [f"{home[0]}/x", str(home[0]), "a ~/b"]}


def test_pages_show_no_secret_of_a_configuration(home):
    runs = [home[0] / "first", home[0] / "second"]
    for run in runs:
        run.mkdir()
        content = {"api_key": SECRET + run.name, "root": f"{home[1]}/{run.name}"}
        (run / "config_fit.yaml").write_text(yaml.safe_dump({"trainer": content}))
    for files in (shown(runs[0]), compared(["a", "b"], runs)):
        ((_, text),) = files
        assert SECRET not in text and str(home[0]) not in text and str(home[1]) not in text
    assert "~/first" in shown(runs[0])[0][1]


def test_what_a_run_keeps_holds_no_secret(home, monkeypatch):
    monkeypatch.chdir(home[0])
    monkeypatch.setenv("OTHER_TOKEN", SECRET)
    words = ["fit", "--config", "demo", "--trainer.max_epochs", "0", "--data.steps=300"]
    words += ["--data.num_nodes=3", "--trainer.enable_model_summary=false", "--runs", f"{home[1]}/runs"]
    logger = {"class_path": "CSVLogger", "init_args": {"save_dir": "x", "prefix": SECRET}}
    Path("own.yaml").write_text(yaml.safe_dump({"trainer": {"logger": [logger]}}))
    study = read_study(parse([*words, "--config", "own.yaml"]))
    TsgenCLI(study.command(), study.name)
    (kept,) = Path("runs").glob("*/config_fit.yaml")
    text = kept.read_text()
    assert SECRET not in text and str(home[1]) not in text and "runs: ~/runs" in text
    assert read(kept)["runs"] == f"{home[0]}/runs"


def test_a_checkpoint_that_is_sent_does_not_say_where_it_lay(home, monkeypatch):
    """The file that stays is as it was: training goes on from it."""
    path = home[1] / "best.ckpt"
    saving = ModelCheckpoint(home[0])
    saving.best_model_path, saving.best_k_models = str(path), {str(path): torch.tensor(1.0)}
    state = {"callbacks": {"ModelCheckpoint{}": saving.state_dict()}, "state_dict": {"x": torch.ones(2)}}
    torch.save(state | {"hyper_parameters": {"model": {}}}, path)
    before, sent = path.read_bytes(), {}
    logger = WandbLogger(save_dir=home[0], offline=True)
    tracking.use_tolerant_wandb([logger])

    class Artifact:
        def __init__(self, name, **_):
            pass

        def add_file(self, local, name):
            sent[name] = Path(local).read_bytes(), torch.load(local, weights_only=True)

    class Run:
        id = "x"

        def log_artifact(self, artifact, aliases):
            pass

    monkeypatch.setattr(wandb, "Artifact", Artifact)
    logger._experiment = Run()
    logger._scan_and_log_checkpoints(saving)
    content, told = sent["model.ckpt"]
    assert str(home[0]).encode() not in content and str(home[1]).encode() not in content
    assert told["callbacks"]["ModelCheckpoint{}"]["best_model_path"] == "~/best.ckpt"
    assert torch.equal(told["state_dict"]["x"], torch.ones(2)) and path.read_bytes() == before
    assert os.fspath(path) in str(torch.load(path, weights_only=True)["callbacks"])
