"""What a team finds of a run: read back from the files of offline runs of W&B and of other loggers."""

import os
import re
import subprocess
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import wandb
import xarray as xr
import yaml
from conftest import make_series
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args
from wandb_file import OfflineRun

from experiments import tracking
from experiments.__main__ import main
from experiments.cli import Rehearsal, read_study

ROOT = Path(__file__).parents[1]
KEY = "0123456789abcdef0123456789abcdef01234567"
OTHER = "a-secret-of-another-service"
SMALL = ["--data.steps=400", "--data.num_nodes=6", "--model.encoder.hidden=8"]
SMALL += ["--trainer.log_every_n_steps=2", "--trainer.enable_progress_bar=false"]
SMALL += ["--trainer.enable_model_summary=false", "--model.sampler.num_samples=5"]
SHORT = [*SMALL, "--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
CSV = "--trainer.logger=CSVLogger"


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@contextmanager
def at_home(home):
    """A user's home, with an account, in whose folder all runs lie; options of a command there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("WANDB_API_KEY", KEY)
        patch.setenv("OTHER_TOKEN", OTHER)
        patch.chdir(home / "work")
        yield ["--config", "demo", "--runs", str(home / "work/runs"), *SMALL]


def read_runs(home, names):
    """What W&B has of the run's commands."""
    wandb.teardown()  # a busy service may still be writing
    files = sorted((home / "work/runs/demo/wandb").glob("offline-run-*/run-*.wandb"), key=os.path.getctime)
    return dict(zip(names, map(OfflineRun, files), strict=True))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A home with a training, and what W&B has of it."""
    folder = tmp_path_factory.mktemp("home")
    home = folder / "somebody"
    (folder / "disk/work").mkdir(parents=True)
    home.symlink_to(folder / "disk")  # as on many a cluster
    with at_home(home) as words:
        assert main(["fit", *words, "--trainer.max_epochs=2"]) == 0
    return home, read_runs(home, ["fit"])["fit"]


@pytest.fixture(scope="module")
def home(trained):
    """The home once the training was resumed, tested and used."""
    home, _ = trained
    with at_home(home) as words:
        assert main(["fit", *words, "--trainer.max_epochs=3", "--ckpt_path=last"]) == 0
        assert main(["test", *words, "--data.horizon=4"]) == 0
        assert main(["predict", *words, "--model.sampler.seed=1"]) == 0
        assert main(["report", str(home / "work/runs/demo")]) == 0
    return home


@pytest.fixture(scope="module")
def runs(home):
    """Training, training resumed, test and prediction of one run."""
    return read_runs(home, ("fit", "resumed", "test", "predict"))


@pytest.mark.slow
def test_all_commands_belong_to_one_run(runs, home):
    assert {run.id for run in runs.values()} == {(home / "work/runs/demo/wandb_id").read_text()}
    first, second = (runs[name].history["trainer/global_step"] for name in ("fit", "resumed"))
    assert min(second) > max(first)
    assert len({run.config["data_hash"] for run in runs.values()}) == 1


def test_the_config_tells_what_the_run_is_made_of(trained):
    config = trained[1].config
    assert config["cli"]["model"]["init_args"]["encoder"]["init_args"]["hidden"] == 8
    assert config["cli"]["data"]["init_args"]["steps"] == 400 and config["cli"]["seed_everything"] == 1
    assert re.fullmatch("[0-9a-f]{16}", config["data_hash"])
    assert config["versions"]["torch"] == torch.__version__
    assert set(config["versions"]) == {"tsgen", "torch", "lightning", "PyG", "numpy", "python"}


def test_metrics_are_grouped_and_their_best_values_kept(trained):
    history = trained[1].history
    assert {"train/nll", "train/lr", "train/grad_norm", "val/nll", "val/crps"} <= set(history)
    assert "train/loss" not in history
    assert len(history["val/crps"]) == 2 and 0 < history["val/crps"][1] < history["val/crps"][0]
    assert all(norm > 0 for norm in history["train/grad_norm"]) and history["train/lr"][0] == pytest.approx(
        0.005
    )
    for name in ("train/nll", "val/nll", "val/crps"):
        assert trained[1].metrics[name] == ("trainer/global_step", {"min", "last"})


@pytest.mark.slow
def test_the_test_has_figures_and_tables(runs, home):
    history = runs["test"].history
    figures = ("imputation", "calibration", "missingness", "lead_time", "gap_length", "score_bars")
    assert {f"test/{name}/filenames" for name in figures} <= set(history)
    for name, rows in (
        ("scores", 5),
        ("scores_by_node", 6),
        ("scores_by_gap_length", 1),
        ("scores_by_lead_time", 4),
    ):
        assert history[f"test/{name}/nrows"][0] >= rows, name
    folder = next((home / "work/runs/demo/wandb").glob("*/files/media/table/test"))
    by_node = next(folder.glob("scores_by_node_*")).read_text()
    assert '"crps"' in by_node and '"node"' in by_node


def test_checkpoints_are_artifacts(trained):
    run = trained[1]
    name = f"model-{run.id}"
    assert sorted(map(sorted, run.aliases[name])) == [["best"], ["last"]]
    assert run.artifacts[name] == ["model.ckpt"]


@pytest.mark.slow
def test_imputations_are_artifacts(runs, home):
    imputation = f"imputation-{runs['fit'].id}"
    assert runs["predict"].artifacts[imputation] == ["imputation.nc"]
    told, data = runs["predict"].metadata[imputation], xr.open_dataset(home / "work/runs/demo/imputation.nc")
    assert told["observed_entries"] == int(data["observed"].sum()) > 0
    assert told["imputed_entries"] == 400 * 6 - told["observed_entries"]
    assert told["sample"] == 5 and told["law"] == "filtering"


def check_private(home, runs):
    """Neither the user's home, by any name, nor a secret is in what is sent or shown."""
    folder = home / "work/runs/demo"
    sent = [run.text for run in runs]
    sent += [path.read_text() for path in folder.glob("config_*.yaml")]
    sent += [path.read_text(errors="replace") for path in folder.glob("wandb/*/files/**/*") if path.is_file()]
    sent += [path.read_text() for path in folder.glob("report.html")]
    for text in sent:
        for secret in (str(home), str(home.resolve()), KEY, OTHER):
            assert secret not in text


def test_nothing_private_is_logged(trained):
    check_private(trained[0], [trained[1]])
    assert trained[1].config["cli"]["runs"] == "~/work/runs"


@pytest.mark.slow
def test_nor_is_it_by_the_other_commands_or_in_the_report(runs, home):
    assert (home / "work/runs/demo/report.html").is_file()
    check_private(home, runs.values())


def test_the_hash_of_the_data_is_that_of_what_is_known_of_it():
    series = make_series()
    known = tracking.provenance(series)["data_hash"]
    assert tracking.provenance(make_series())["data_hash"] == known
    assert tracking.provenance(make_series(seed=1))["data_hash"] != known
    where = series.observed.nonzero()[0]
    hidden = series.observed.clone()
    hidden[tuple(where)] = False
    fewer = tracking.provenance(replace(series, observed=hidden))["data_hash"]
    changed = series.values.clone()
    changed[tuple(where)] += 1
    assert tracking.provenance(replace(series, values=changed))["data_hash"] != known
    assert (
        tracking.provenance(replace(series, values=changed, observed=hidden))["data_hash"] == fewer != known
    )


def test_git_is_a_commit_and_whether_files_differ(tmp_path):
    assert tracking._git() is None
    for words in (
        ["init", "-q"],
        ["remote", "add", "origin", f"https://user:{KEY}@example.org/x.git"],
        ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "--allow-empty", "-m", "x"],
    ):
        subprocess.run(["git", *words], check=True)
    clean = tracking._git()
    assert not clean["dirty"] and re.fullmatch("[0-9a-f]{40}", clean["commit"])
    Path("file").write_text("x")
    subprocess.run(["git", "add", "file"], check=True)
    assert tracking._git() == clean | {"dirty": True}


@pytest.mark.parametrize("key", ["core.fsmonitor", "filter.a=b.clean", "filter.x.clean", "filter.x.process"])
def test_git_runs_no_program_of_the_repository(key, tmp_path):
    script = tmp_path / "program.sh"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\ncat\n")
    script.chmod(0o755)
    name = key.split(".")[1]
    Path(".gitattributes").write_text(f"file filter={name}\n")
    Path("file").write_text("x\n")
    for words in (
        ["init", "-q"],
        ["add", "file"],
        ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "-m", "x"],
        ["config", key, str(script)],
        ["config", f"filter.{name}.required", "true"],
    ):
        subprocess.run(["git", *words], check=True)
    os.utime("file", (1, 1))  # it looks changed
    assert tracking._git()["dirty"] is False
    assert not (tmp_path / "ran").exists()
    subprocess.run(["git", "status"], capture_output=True)
    assert (tmp_path / "ran").exists() or "=" in name  # git itself cannot look up such a name


def test_seeds_are_a_group():
    words = ["fit", "--config", "demo", "--config", "seeds/three", "--variant", "seed_2", *SHORT]
    assert main(words) == 0
    wandb.teardown()  # a busy service may still be writing
    (file,) = Path("runs/demo-three/seed_2/wandb").glob("offline-run-*/run-*.wandb")
    run = OfflineRun(file)
    assert run.group == "demo-three" and run.config["cli"]["seed_everything"] == 2


def broken(*args, **kwargs):
    raise ConnectionError(f"no route to {os.path.expanduser('~')}")


@pytest.mark.parametrize(
    "where",
    ["log", "init", *(pytest.param(where, marks=pytest.mark.slow) for where in ("log_artifact", "finish"))],
)
def test_a_failing_logger_ends_no_training(where, recwarn):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wandb if where in ("finish", "init") else wandb.Run, where, broken)
        assert main(["fit", "--config", "demo", *SHORT]) == 0
    wandb.finish()
    assert Path("runs/demo/checkpoints/best.ckpt").is_file()
    assert "val/nll" in Path("runs/demo/logs/fit/metrics.csv").read_text()
    told = [str(w.message) for w in recwarn if "no route to ~" in str(w.message)]
    assert len(told) == 1, told


def test_an_objective_that_is_not_the_likelihood_is_called_a_loss():
    assert main(["fit", "--config", "demo", *SHORT, CSV, "--model.objective.crps_weight=0.5"]) == 0
    names = Path("runs/demo/logs/fit/metrics.csv").read_text().splitlines()[0].split(",")
    assert "train/loss" in names and "train/nll" not in names and {"val/nll", "val/crps"} <= set(names)


@pytest.mark.parametrize("option", ["early_stopping.monitor", "checkpoint.monitor"])
@pytest.mark.parametrize("name", ["val/nl", "trian/nll"])
def test_a_misspelt_monitor_is_told(option, name, capsys):
    words = ["fit", "--config", "demo", *SHORT, CSV, f"--{option}={name}", "--trainer.max_epochs=2"]
    assert main(words) == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert name in shown[-1] and "val/nll" in shown[-1]


def test_training_may_be_judged_by_the_crps():
    words = ["fit", "--config", "demo", *SHORT, CSV, "--trainer.max_epochs=3", "--early_stopping.patience=1"]
    # it must never seem to improve
    words += [
        "--early_stopping.monitor=val/crps",
        "--early_stopping.min_delta=99",
        "--checkpoint.monitor=val/crps",
    ]
    assert main(words) == 0
    assert torch.load("runs/demo/checkpoints/last.ckpt", weights_only=True)["epoch"] == 1


def test_a_logger_is_chosen_by_its_name(monkeypatch, capsys):
    pytest.importorskip("tensorboard")
    assert main(["fit", "--config", "demo", *SHORT, "--trainer.logger", "TensorBoardLogger"]) == 0
    assert list(Path("runs/demo/logs/fit").glob("events.out.tfevents.*"))
    assert not Path("runs/demo/wandb").exists()
    assert main(["fit", "--config", "demo", *SHORT, "--config", "loggers/csv"]) == 0
    assert Path("runs/demo-csv/logs/fit/metrics.csv").is_file()
    capsys.readouterr()
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    assert main(["fit", "--config", "demo", *SHORT, "--trainer.logger=TensorBoardLogger"]) == 2
    shown = capsys.readouterr().err
    assert "tsgen[tensorboard]" in shown and len(shown.strip().splitlines()) == 1


def test_wandb_is_never_asked_to_log_in(monkeypatch, tmp_path, capsys):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_MODE", "online")
    assert main(["fit", "--config", "demo", *SHORT]) == 2
    assert "wandb login" in capsys.readouterr().err
    monkeypatch.setenv("WANDB_MODE", "disabled")
    wandb.teardown()  # which remembers the mode of the process
    assert main(["fit", "--config", "demo", *SHORT]) == 0
    wandb.teardown()
    assert not list(Path("runs/demo").glob("wandb/offline-run-*"))


@pytest.mark.parametrize(
    "path", sorted((ROOT / "experiments/sweeps").glob("*.yaml")), ids=lambda path: path.stem
)
def test_a_sweep_calls_a_command_that_parses(path, monkeypatch):
    """The words are put together by W&B's own agent."""
    monkeypatch.setenv("WANDB_SWEEP_ID", "abcd1234")
    monkeypatch.setenv("WANDB_RUN_ID", "run56789")
    sweep = yaml.safe_load(path.read_text("utf-8"))
    assert sweep["early_terminate"]["type"] == "hyperband" and sweep["metric"]["name"] == "val/nll"
    count = max(len(p.get("values", ())) for p in sweep["parameters"].values())
    for i in range(count):
        chosen = {
            name: {"value": p["values"][i % len(p["values"])] if "values" in p else p["min"]}
            for name, p in sweep["parameters"].items()
        }
        given = create_sweep_command_args({"args": chosen})["args"]
        words = [
            w
            for c in create_sweep_command(list(sweep["command"]))
            for w in (given if c == "${args}" else [c])
        ]
        assert words[:3] == ["${env}", "tsgen", "fit"]
        study = read_study(words[2:])
        cli = Rehearsal(study.command(), study.name)
        assert cli.folder == Path("runs") / path.stem / "run56789" and cli.run_id == "run56789"
        assert cli.config["fit"]["model"]["init_args"]["encoder"]["init_args"]["hidden"] in (16, 32, 64)
        assert np.isfinite(cli.config["fit"]["model"]["init_args"]["optimizer"]["init_args"]["lr"])
