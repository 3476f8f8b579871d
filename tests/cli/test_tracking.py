"""What a team finds of a run: read back from the files of offline runs of W&B and of other loggers."""

import csv
import os
import re
import subprocess
import warnings
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import wandb
import xarray as xr
import yaml
from conftest import make_series
from lightning import Trainer
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args
from wandb_file import OfflineRun

from tsgen.cli import loggers, provenance, tracking
from tsgen.cli.arguments import parse
from tsgen.cli.commands import Rehearsal
from tsgen.cli.main import main
from tsgen.cli.variants import read_study
from tsgen.training.callbacks import ImputationFigure

ROOT = Path(__file__).parents[2]
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


@pytest.fixture
def unpainted(monkeypatch):
    """A training draws no figure, which takes longer than all the rest of it."""
    monkeypatch.setattr(ImputationFigure, "on_train_end", lambda *_: None)


@contextmanager
def at_home(home):
    """A user's home, with an account, in whose folder all runs lie; options of a command there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("WANDB_API_KEY", KEY)
        patch.setenv("OTHER_TOKEN", OTHER)
        patch.chdir(home / "air")
        yield ["--config", "demo", "--runs", str(home / "air/runs"), *SMALL]


def read_runs(home, names):
    """What W&B has of the run's commands."""
    wandb.teardown()  # a busy service may still be writing
    files = sorted((home / "air/runs/demo/wandb").glob("offline-run-*/run-*.wandb"), key=os.path.getctime)
    return dict(zip(names, map(OfflineRun, files), strict=True))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A home with a training, and what W&B has of it."""
    folder = tmp_path_factory.mktemp("home")
    home = folder / "somebody"
    (folder / "disk/air").mkdir(parents=True)
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
        assert main(["report", str(home / "air/runs/demo")]) == 0
    return home


@pytest.fixture(scope="module")
def runs(home):
    """Training, training resumed, test and prediction of one run."""
    return read_runs(home, ("fit", "resumed", "test", "predict"))


def test_all_commands_belong_to_one_run(runs, home):
    assert {run.id for run in runs.values()} == {(home / "air/runs/demo/wandb_id").read_text()}
    # a resumed training tells all of it again: a killed one may have told nothing
    first, second = (runs[name].history for name in ("fit", "resumed"))
    for key in ("train/nll", "val/nll"):
        assert second[key][: len(first[key])] == first[key] and len(second[key]) > len(first[key])
    assert set(first["trainer/global_step"]) < set(second["trainer/global_step"])
    # what a test was told is not what the model was trained with
    assert "cli" not in runs["test"].config and "cli" in runs["resumed"].config
    assert runs["test"].config["cli_test"]["data"]["init_args"]["horizon"] == 4
    assert runs["predict"].config["cli_predict"]["model"]["init_args"]["sampler"]["init_args"]["seed"] == 1
    assert len({run.config["data_hash"] for run in runs.values()}) == 1


def test_the_config_tells_what_the_run_is_made_of(trained):
    config = trained[1].config
    assert config["cli"]["model"]["init_args"]["encoder"]["init_args"]["hidden"] == 8
    assert config["cli"]["early_stopping"]["monitor"] == "val/nll"
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
    folder = next((home / "air/runs/demo/wandb").glob("*/files/media/table/test"))
    by_node = next(folder.glob("scores_by_node_*")).read_text()
    assert '"crps"' in by_node and '"node"' in by_node


def test_checkpoints_are_artifacts(trained):
    run = trained[1]
    name = f"model-{run.id}"
    assert run.id == (trained[0] / "air/runs/demo/wandb_id").read_text()
    assert sorted(map(sorted, run.aliases[name])) == [["best"], ["last"]]
    assert run.artifacts[name] == ["model.ckpt"]


def test_imputations_are_artifacts(runs, home):
    imputation = f"imputation-{runs['fit'].id}"
    assert runs["predict"].artifacts[imputation] == ["imputation.nc"]
    told, data = runs["predict"].metadata[imputation], xr.open_dataset(home / "air/runs/demo/imputation.nc")
    assert told["observed_entries"] == int(data["observed"].sum()) > 0
    assert told["imputed_entries"] == 400 * 6 - told["observed_entries"]
    assert told["sample"] == 5 and told["conditioning"] == "filtering"


def check_private(home, runs):
    """Neither the user's home, by any name, nor a secret is in what is sent or shown."""
    folder = home / "air/runs/demo"
    sent = [run.text for run in runs]
    sent += [path.read_text() for path in folder.glob("config_*.yaml")]
    sent += [path.read_text(errors="replace") for path in folder.glob("wandb/*/files/**/*") if path.is_file()]
    sent += [path.read_text() for path in folder.glob("report.html")]
    for text in sent:
        for secret in (str(home), str(home.resolve()), KEY, OTHER):
            assert secret not in text


def test_nothing_private_is_logged(trained):
    check_private(trained[0], [trained[1]])
    assert trained[1].config["cli"]["runs"] == "~/air/runs"


def test_nor_is_it_by_the_other_commands_or_in_the_report(runs, home):
    assert (home / "air/runs/demo/report.html").is_file()
    check_private(home, runs.values())


def test_wandb_adds_nothing_by_itself_unless_it_was_told_to(monkeypatch):
    for name in loggers.WANDB_DEFAULTS:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    loggers._configure_wandb()
    settings = wandb.Settings()
    settings.update_from_env_vars(os.environ)
    assert settings.disable_git and settings.x_disable_meta and settings.console == "off"
    monkeypatch.setenv("WANDB_CONSOLE", "wrap")
    loggers._configure_wandb()
    assert os.environ["WANDB_CONSOLE"] == "wrap"


def test_the_hash_of_the_data_is_that_of_what_is_known_of_it():
    series = make_series()

    def known(**changed):
        return provenance.provenance(replace(series, **changed))["data_hash"]

    where = tuple(series.observed.nonzero()[0])
    hidden, zero, other = series.observed.clone(), series.values.clone(), series.values.clone()
    hidden[where], zero[where], other[where] = False, 0, 1
    turned, heavier = series.graph.clone(), series.graph.clone()
    turned.edge_index, heavier.edge_weight = turned.edge_index.flip(0), 2 * heavier.edge_weight
    found = {
        "series": known(),
        "hidden": known(observed=hidden),
        "zero": known(values=zero),
        "other value": known(values=other),
        "edges": known(graph=turned),
        "weights": known(graph=heavier),
        "covariates": known(covariates=series.covariates + 1),
        "no covariates": known(covariates=None, covariate_names=()),
        "time": known(time=np.asarray(series.time) + 1),
        "nodes": known(nodes=list("abcde")),
        "channels": known(channels=["a", "b"]),
    }
    assert len(set(found.values())) == len(found), found
    assert known(values=other, observed=hidden) == found["hidden"]
    assert provenance.provenance(make_series())["data_hash"] == found["series"]


def test_git_is_a_commit_and_whether_files_differ(tmp_path):
    assert provenance.git_state() is None
    for words in (
        ["init", "-q"],
        ["remote", "add", "origin", f"https://user:{KEY}@example.org/x.git"],
        ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "--allow-empty", "-m", "x"],
    ):
        subprocess.run(["git", *words], check=True)
    clean = provenance.git_state()
    assert not clean["dirty"] and re.fullmatch("[0-9a-f]{40}", clean["commit"])
    Path("file").write_text("x")
    assert provenance.git_state() == clean
    subprocess.run(["git", "add", "file"], check=True)
    assert provenance.git_state() == clean | {"dirty": True}


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
    assert provenance.git_state()["dirty"] is False
    assert not (tmp_path / "ran").exists()
    subprocess.run(["git", "status"], capture_output=True)
    assert (tmp_path / "ran").exists() or "=" in name  # git itself cannot look up such a name


@pytest.mark.usefixtures("unpainted")
def test_seeds_are_a_group():
    words = ["fit", "--config", "demo", "--config", "seeds/three", "--variant", "seed_2", *SHORT]
    assert main(words) == 0
    wandb.teardown()  # a busy service may still be writing
    (file,) = Path("runs/demo-three/seed_2/wandb").glob("offline-run-*/run-*.wandb")
    run = OfflineRun(file)
    assert (run.name, run.group) == ("seed_2", "demo-three")
    assert run.config["cli"]["seed_everything"] == 2


def broken(*args, **kwargs):
    raise ConnectionError(f"no route to {os.path.expanduser('~')}")


def test_whatever_a_logger_fails_at_is_told_once():
    calls = ["log_metrics", "log_hyperparams", "log_graph", "log_image", "log_table"]
    calls += ["save", "after_save_checkpoint", "finalize"]
    logger = SimpleNamespace(**dict.fromkeys(calls, broken))
    tracking.make_tolerant(logger)
    with warnings.catch_warnings(record=True) as told:
        for call in calls:
            getattr(logger, call)("x", step=1)
    assert len(told) == 1 and "no route to ~" in str(told[0].message)
    whole = SimpleNamespace(save=lambda *given, **named: (given, named))
    tracking.make_tolerant(whole)
    assert whole.save(1, step=2) == ((1,), {"step": 2})


@pytest.mark.usefixtures("unpainted")
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


@pytest.mark.slow
def test_a_run_that_cannot_be_reached_is_kept_offline(monkeypatch, recwarn):
    for name, value in {"API_KEY": KEY, "BASE_URL": "http://127.0.0.1:1", "INIT_TIMEOUT": "2"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    wandb.teardown()  # W&B remembers the mode of the runs before
    assert main(["fit", "--config", "demo", *SHORT]) == 0
    wandb.teardown()
    (kept,) = Path("runs/demo/wandb").glob("offline-run-*/run-*.wandb")
    assert "val/nll" in OfflineRun(kept).history
    assert sum("TolerantWandbLogger failed" in str(w.message) for w in recwarn) == 1


@pytest.mark.parametrize("words", [["--trainer.logger", "CSVLoger"], ["--trainer.logger=CSVLoger"]])
def test_a_misspelt_logger_is_told(words, capsys):
    assert main(["fit", "--config", "demo", *SHORT, *words]) == 2
    told = capsys.readouterr().err
    assert "got 'CSVLoger'. Did you mean CSVLogger?" in told and len(told.strip().splitlines()) == 1


def test_an_unknown_mode_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "bogus")
    assert main(["fit", "--config", "demo", *SHORT]) == 2
    assert "WANDB_MODE must be one of online, offline" in capsys.readouterr().err


def test_an_objective_that_is_not_the_likelihood_is_called_a_loss():
    assert main(["fit", "--config", "demo", *SHORT, CSV, "--model.objective.crps_weight=0.5"]) == 0
    names = Path("runs/demo/logs/fit/metrics.csv").read_text().splitlines()[0].split(",")
    assert "train/loss" in names and "train/nll" not in names and {"val/nll", "val/crps"} <= set(names)


def test_options_of_the_trainer_are_heeded(monkeypatch):
    fit, seen = Trainer.fit, []

    @wraps(fit)  # the command line asks for its arguments
    def watched(self, *args, **options):
        seen.append((self, torch.are_deterministic_algorithms_enabled()))
        return fit(self, *args, **options)

    monkeypatch.setattr(Trainer, "fit", watched)
    chosen = {"deterministic": True, "precision": "bf16-mixed", "log_every_n_steps": 1}
    chosen |= {"accumulate_grad_batches": 2, "gradient_clip_val": 1e-4}
    Path("own.yaml").write_text(yaml.safe_dump({"trainer": chosen}))
    words = [word for word in SHORT if "log_every" not in word]
    try:
        assert main(["fit", "--config", "demo", "--config", "own.yaml", "--name", "own", *words, CSV]) == 0
    finally:
        torch.use_deterministic_algorithms(False)
    ((trainer, deterministic),) = seen
    assert deterministic and trainer.precision == "bf16-mixed"
    assert trainer.global_step == 1 and trainer.gradient_clip_val == 1e-4
    first, *_ = csv.DictReader(Path("runs/own/logs/fit/metrics.csv").read_text().splitlines())
    # what is logged is what there was before it was clipped
    assert float(first["train/grad_norm"]) > 1e-3


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("early_stopping.monitor", "val/nl"),
        ("early_stopping.monitor", "trian/nll"),
        # the trainer would refuse these by itself, later
        pytest.param("checkpoint.monitor", "val/nl", marks=pytest.mark.slow),
        pytest.param("checkpoint.monitor", "trian/nll", marks=pytest.mark.slow),
    ],
)
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
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    assert main(["fit", "--config", "demo", *SHORT, "--trainer.logger=TensorBoardLogger"]) == 2
    shown = capsys.readouterr().err
    assert "tsgen[tensorboard]" in shown and len(shown.strip().splitlines()) == 1


@pytest.mark.usefixtures("unpainted")
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
        study = read_study(parse(words[2:]))
        cli = Rehearsal(study.command(), study.name)
        assert cli.folder == Path("runs") / path.stem / "run56789" and cli.run_id == "run56789"
        assert cli.config["fit"]["model"]["init_args"]["encoder"]["init_args"]["hidden"] in (16, 32, 64)
        assert np.isfinite(cli.config["fit"]["model"]["init_args"]["optimizer"]["init_args"]["lr"])
