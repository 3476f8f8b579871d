"""The command line as a user meets it: the whole way, and every mistake in one line with exit code 2."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
import yaml
from conftest import AQI36, METR_LA_10, PM10, RED_WINE
from wandb_file import OfflineRun

from tsgen.cli.arguments import parse
from tsgen.cli.commands import Rehearsal
from tsgen.cli.configs import find, fragments, read, shipped
from tsgen.cli.main import main
from tsgen.cli.variants import read_study
from tsgen.evaluation.baselines import BASELINES

ROOT = Path(__file__).parents[2]
SMALL = ["--data.steps", "400", "--data.num_nodes", "6", "--model.encoder.hidden", "8"]
SHORT = [
    "--trainer.max_epochs",
    "2",
    "--trainer.log_every_n_steps",
    "2",
    "--trainer.enable_progress_bar",
    "false",
]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a small run that was fitted, tested, predicted and reported."""
    folder = tmp_path_factory.mktemp("whole")
    common = ["--config", "demo", "--runs", str(folder), *SMALL, "--model.sampler.num_samples", "9"]
    assert main(["fit", *common, *SHORT]) == 0
    assert main(["test", *common, *SHORT]) == 0
    assert main(["predict", *common, *SHORT]) == 0
    assert main(["report", str(folder / "demo")]) == 0
    return folder / "demo"


def test_a_run_leaves_its_files(run):
    for name in (
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "config_fit.yaml",
        "config_test.yaml",
        "scores.json",
    ):
        assert (run / name).is_file(), name
    assert not list(run.glob("*.parts"))
    page = (run / "report.html").read_text("utf-8")
    assert "exact posterior" in page and "filtering" in page and page.count("<img") + page.count("<svg") >= 4
    losses = (run / "logs/fit/metrics.csv").read_text()
    assert "train/nll" in losses and "val/nll" in losses


def test_a_test_on_validation_lies_apart_and_adjusts_the_intervals(run, capsys):
    before = (run / "scores.json").read_bytes(), (run / "config_test.yaml").read_bytes()
    words = ["--config", "demo", "--runs", str(run.parent), *SMALL, "--model.sampler.num_samples", "9"]
    assert main(["test", *words, *SHORT, "--data.test_on", "val"]) == 0
    assert ((run / "scores.json").read_bytes(), (run / "config_test.yaml").read_bytes()) == before
    assert json.loads((run / "val" / "scores.json").read_text("utf-8"))["entries"] > 0
    assert yaml.safe_load((run / "val" / "config_test.yaml").read_text("utf-8"))["trainer"]["logger"] is False
    assert main(["conformal", str(run), "--unit", "entry"]) == 0
    assert "covered before" in capsys.readouterr().out
    assert "upper" in xr.load_dataset(run / "conformal.nc")


def test_the_table_compares_on_the_same_entries(run):
    table = json.loads((run / "scores.json").read_text("utf-8"))
    rows = {row["name"]: row for row in table["rows"]}
    assert list(rows) == [
        "AutoregressiveModel",
        *BASELINES,
        "exact filtering",
        "exact posterior",
    ]
    assert rows["AutoregressiveModel"]["conditioning"] == "filtering"
    for score in ("mae", "crps", "nll"):
        assert rows["exact posterior"][score] < rows["AutoregressiveModel"][score]
    for name in BASELINES:
        assert all(rows[name][score] is not None for score in ("mae", "crps", "nll", "width_50")), name
    assert rows["exact posterior"]["crps"] < min(rows[name]["crps"] for name in BASELINES)
    data = xr.open_dataset(run / "evaluation.nc")
    assert int(data["target"].sum()) == table["entries"] == sum(node["entries"] for node in table["by_node"])
    assert not (data["target"] & data["context"]).any()
    crps = float(data["crps"].sum() / data["target"].sum())
    assert crps == pytest.approx(rows["AutoregressiveModel"]["crps"], rel=1e-4)


def test_predictions_lose_nothing_and_touch_nothing_observed(run):
    from tsgen.datamodules import SyntheticDataModule

    config = yaml.safe_load((run / "config_predict.yaml").read_text("utf-8"))["data"]["init_args"]
    series = SyntheticDataModule(
        process="linear", steps=config["steps"], num_nodes=config["num_nodes"]
    ).split.series
    written = xr.open_dataset(run / "imputation.nc")
    assert dict(written.sizes) == {"time": 400, "node": 6, "channel": 1, "sample": 9}
    assert written["imputation"].dims == ("sample", "time", "node", "channel")
    values = written["imputation"].values
    assert np.isfinite(values).all()
    observed = series.observed.numpy()
    assert np.array_equal(written["observed"].values.astype(bool), observed)
    assert np.array_equal(
        values[:, observed], np.broadcast_to(series.values.numpy()[observed], (9, observed.sum()))
    )
    assert (values[:, ~observed].std(axis=0) > 0).all()
    assert written.attrs["conditioning"] == "filtering" and written["node"].values.tolist() == list(
        series.nodes
    )
    assert written["unit"].values.tolist() == list(series.units)


def test_a_seed_fixes_the_predictions(run):
    first = xr.load_dataset(run / "imputation.nc")["imputation"].values
    common = [
        "--config",
        "demo",
        "--runs",
        str(run.parent),
        *SMALL,
        *SHORT,
        "--model.sampler.num_samples",
        "9",
    ]
    assert main(["predict", *common, "--data.batch_size", "3"]) == 0
    again = xr.load_dataset(run / "imputation.nc")["imputation"].values
    np.testing.assert_allclose(again, first, rtol=1e-4, atol=1e-4)


def test_wandb_holds_config_losses_scores_figures_and_checkpoint(run):
    fit, test = sorted(run.glob("wandb/offline-run-*/run-*.wandb"))[:2]
    trained, tested = OfflineRun(fit), OfflineRun(test)
    assert trained.id == tested.id == (run / "wandb_id").read_text()
    config = trained.config["cli"]
    assert config["model"]["init_args"]["encoder"]["init_args"]["hidden"] == 8
    assert config["data"]["init_args"]["steps"] == 400
    assert len(trained.history["val/nll"]) == 2 and len(trained.history["train/nll"]) > 2
    assert all(np.isfinite(trained.history["train/nll"]))
    assert trained.history["trainer/global_step"] == sorted(trained.history["trainer/global_step"])
    assert any(key.startswith("val/imputation") for key in trained.history)
    assert any("model.ckpt" in paths for paths in trained.artifacts.values())
    scores = json.loads((run / "scores.json").read_text("utf-8"))["rows"][0]
    for name in ("mae", "crps", "nll"):
        assert tested.history[f"test/{name}"] == [pytest.approx(scores[name], rel=1e-4)]
    figures = [f for key, values in tested.history.items() if key.endswith("filenames") for f in values[0]]
    names = ("score_bars", "imputation", "calibration", "network", "missingness")
    assert {f"test/{name}/filenames" for name in names} <= set(tested.history)
    assert all((test.parent / "files" / figure).stat().st_size > 5_000 for figure in figures)
    assert any(key.startswith("test/scores") for key in tested.history)


def test_two_runs_are_reported_side_by_side(run, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    for name in ("evaluation.nc", "scores.json"):
        (other / name).write_bytes((run / name).read_bytes())
    assert main(["report", str(run), str(other), "--out", "page.html"]) == 0
    page = Path("page.html").read_text("utf-8")
    assert "1: demo" in page and "2: other" in page
    assert main(["report", str(run), str(run)]) == 2
    assert "both are" in capsys.readouterr().err
    assert main(["report", str(run), "--out", "no/where.html"]) == 2
    assert "no does not exist" in capsys.readouterr().err
    assert main(["report", str(run), str(other), "third"]) == 2
    assert "unrecognized arguments: third" in capsys.readouterr().err


def test_a_prediction_alone_is_reported(run, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/imputation.nc").write_bytes((run / "imputation.nc").read_bytes())
    assert main(["report", str(tmp_path / "mine")]) == 0
    page = (tmp_path / "mine/report.html").read_text("utf-8")
    assert "nothing here is a score" in page and "<h2>Scores" not in page


def test_a_checkpoint_alone_rebuilds_the_model_in_a_fresh_process(run):
    script = (
        "import sys, tsgen; m = tsgen.load(sys.argv[1]); print(type(m).__name__, m.encoder.hidden, "
        "len(m.spec.nodes), m.spec.graph.num_edges, float(m.loc.mean()))"
    )
    path = run / "checkpoints/best.ckpt"
    out = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, text=True, cwd=ROOT, check=True
    )
    name, hidden, nodes, edges, loc = out.stdout.split()
    saved = torch.load(path, weights_only=True)
    assert (name, hidden, nodes, edges) == ("AutoregressiveModel", "8", "6", "18")
    assert float(loc) == pytest.approx(float(saved["state_dict"]["loc"].mean()))


def test_a_second_fit_keeps_the_first(run, capsys):
    config = run.parent / "again.yaml"
    config.write_text((run / "config_fit.yaml").read_text("utf-8"), "utf-8")
    words = ["fit", "--config", str(config), "--runs", "here", "--name", "x", "--trainer.max_epochs", "1"]
    words += ["--trainer.limit_train_batches", "1"]
    assert main(words) == 0
    first = Path("here/x/checkpoints/best.ckpt").read_bytes()
    assert main(words) == 0
    assert Path("here/x.1/checkpoints/best.ckpt").read_bytes() == first
    assert "contained an earlier run" in capsys.readouterr().out


def write_table(rows=lambda table: table) -> Path:
    """A table of three nodes over 300 hours, changed by ``rows``."""
    time = pd.date_range("2024-01-01", periods=300, freq="1h").strftime("%Y-%m-%dT%H:%M")
    value = 20 + 5 * np.random.default_rng(0).standard_normal(900)
    table = pd.DataFrame({"time": np.repeat(time, 3), "node": ["a", "b", "c"] * 300, "value": value.round(2)})
    rows(table.astype({"value": object})).to_csv("series.csv", index=False)
    return Path("series.csv")


def with_wind(table):
    return table.assign(wind=np.sin(np.arange(len(table))).round(3))


def write_edges(target: str = "c") -> Path:
    Path("edges.csv").write_text(f"source,target,weight\na,b,1.0\nb,{target},0.5\nc,a,0.2\n")
    return Path("edges.csv")


def put(row, column, value):
    def change(table):
        table.loc[row, column] = value
        return table

    return change


BROKEN_FILES = {
    "empty": (lambda: Path("series.csv").write_text(""), "series.csv"),
    "all missing": (lambda: write_table(lambda table: table.assign(value=np.nan)), "missing"),
    "text for a number": (lambda: write_table(put(4, "value", "n. a.")), "6"),
    "irregular times": (lambda: write_table(put(slice(3, 5), "time", "2024-01-01T01:07")), "series.csv"),
    "a row twice": (lambda: write_table(put(4, "node", "a")), "6"),
    "edges to an unknown node": (lambda: write_edges("nowhere"), "nowhere"),
}


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_broken_files_are_one_line_and_exit_code_2(case, capsys, as_a_user):
    breaks, message = BROKEN_FILES[case]
    write_table()
    write_edges()
    breaks()
    assert main(["fit", "--config", "files", "--data.path", "series.csv", "--data.edges", "edges.csv"]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert len(shown.strip().splitlines()) == 1
    assert not Path("runs").exists()


def test_resuming_keeps_the_log_and_another_start_sets_the_run_aside(run):
    words = [
        "fit",
        "--config",
        "demo",
        "--runs",
        "here",
        *SMALL,
        *SHORT,
        "--trainer.limit_train_batches",
        "2",
    ]
    assert main(words) == 0
    log = Path("here/demo/logs/fit/metrics.csv").read_text()
    assert main([*words, "--ckpt_path", "last", "--trainer.max_epochs", "3"]) == 0
    longer = Path("here/demo/logs/fit/metrics.csv").read_text()
    assert longer.startswith(log) and len(longer) > len(log)
    assert not Path("here/demo/logs/fit.1").exists()
    assert not Path("here/demo.1").exists()
    absolute = str(Path("here/demo/checkpoints/last.ckpt").resolve())
    assert main([*words, "--ckpt_path", absolute, "--trainer.max_epochs", "4"]) == 0
    assert not Path("here/demo.1").exists()
    best = Path("here/demo/checkpoints/best.ckpt").read_bytes()
    elsewhere = str(run / "checkpoints/last.ckpt")
    assert main([*words, "--ckpt_path", elsewhere, "--trainer.max_epochs", "3"]) == 0
    assert Path("here/demo.1/checkpoints/best.ckpt").read_bytes() == best


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_train_and_sample(precision):
    words = [
        "--config",
        "demo",
        *SMALL,
        *SHORT,
        "--trainer.precision",
        precision,
        "--trainer.max_epochs",
        "1",
    ]
    words += ["--trainer.limit_train_batches", "2", "--model.sampler.num_samples", "3"]
    assert main(["fit", *words]) == 0
    assert main(["test", *words]) == 0
    scores = json.loads(Path("runs/demo/scores.json").read_text("utf-8"))["rows"][0]
    assert all(np.isfinite(scores[key]) for key in ("crps", "nll", "energy_score"))


def test_a_terminated_fit_says_so():
    words = [
        "fit",
        "--config",
        "demo",
        *SMALL,
        "--trainer.max_epochs",
        "100000",
        "--early_stopping.patience",
        "99999",
    ]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tsgen", *words, "--trainer.enable_progress_bar", "false"]
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(1200):
            if Path("runs/demo/checkpoints/last.ckpt").exists():
                break
            time.sleep(0.1)
        process.terminate()
        assert process.wait(60) == 143
    finally:
        process.kill()


TABLES = {
    "pm10": (PM10, "pm10.csv.gz", "coordinates", "stations.csv"),
    "rain": (PM10.parent / "us_precipitation", "precipitation.csv.gz", "coordinates", "stations.csv"),
    "counts": (PM10.parent / "flu_germany", "cases.csv.gz", "edges", "edges.csv"),
}
"""Experiments on tables: folder, table, and the option and the file of the graph."""


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_config_trains_one_batch(name):
    words = ["fit", "--config", name, "--runs", "runs", *SHORT, "--trainer.max_epochs", "1"]
    words += ["--trainer.limit_train_batches", "1", "--trainer.limit_val_batches", "1"]
    words += ["--model.sampler.num_samples", "2"]
    if name == "files":
        words += ["--data.path", str(write_table()), "--data.edges", str(write_edges())]
    for data, root in (("AirQuality", AQI36), ("RedWine", RED_WINE), ("Traffic", METR_LA_10)):
        if data in shipped()[name].read_text("utf-8"):
            if not root.is_dir():
                pytest.skip(f"the files of {data} are not at {root}")
            words += ["--data.root", str(root)]
    if name in TABLES:
        folder, table, graph, nodes = TABLES[name]
        if not folder.is_dir():
            pytest.skip(f"the files of {name} are not at {folder}")
        words += ["--data.path", f"{folder}/{table}", f"--data.{graph}", f"{folder}/{nodes}"]
    if "variants" in (options := read(find(name))):
        words += ["--variant", next(iter(options["variants"]))]
    assert main(words) == 0
    assert list(Path(f"runs/{name}").glob("**/checkpoints/last.ckpt"))


@pytest.mark.parametrize("name", sorted(name for name in fragments() if not name.startswith("strategies/")))
def test_every_part_trains_one_batch_and_draws(name):
    """Each encoder with the demo's head, and each head with the demo's encoder."""
    whole = "any_order" if "two_way" in name else "demo"
    words = ["--config", whole, "--config", name, "--data.num_nodes", "6", "--data.steps", "400"]
    if name == "heads/conditional":
        words = ["--config", "files", "--config", name, "--data.path", str(write_table(with_wind))]
        words += ["--data.edges", str(write_edges()), "--data.covariate_columns", "[wind]"]
    words += [*SHORT, "--trainer.max_epochs", "1", "--model.sampler.num_samples", "2"]
    words += [f"--trainer.limit_{part}_batches=1" for part in ("train", "val", "test")]
    words += ["--trainer.logger", "false"]
    assert main(["fit", *words]) == 0
    assert main(["test", *words]) == 0
    run = next(Path("runs").iterdir())
    assert run.name.endswith(name.split("/")[1]) and (run / "scores.json").is_file()


def test_a_path_is_as_good_as_a_name(tmp_path):
    own = tmp_path / "mine.yaml"
    own.write_text(find("demo").read_text("utf-8"), "utf-8")
    assert find(str(own)) == own and find("demo").name == "demo.yaml"


GOOD = ["--config", "demo", *SMALL, *SHORT]
MISTAKES = {
    "no such command": (["fitt", *GOOD], "there is no command 'fitt'. Did you mean fit?"),
    "no such config": (["fit", "--config", "dmo"], "demo"),
    "config without a name": (["fit", "--config"], "--config"),
    "misspelt option": (["fit", *GOOD, "--trainer.max_epoch", "3"], "max_epoch"),
    "misspelt option of the data": (["fit", *GOOD, "--data.windw", "3"], "windw"),
    "misspelt option of the encoder": (["fit", *GOOD, "--model.encoder.hiden", "3"], "hiden"),
    "text for a number": (["fit", *GOOD, "--data.window", "long"], "window"),
    "window longer than the data": (["fit", *GOOD, "--data.window", "390"], "window"),
    "no such class": (["fit", *GOOD, "--model.head", "tsgen.heads.NoHead"], "NoHead"),
    "bad rate": (["fit", *GOOD, "--data.thinning.rate", "7"], "rate must lie in"),
    "missing folder": (["fit", "--config", "aqi36", "--data.root", "nowhere"], "nowhere"),
    "no data named": (["fit", "--config", "files"], "path"),
    "several best checkpoints": (["fit", *GOOD, "--checkpoint.save_top_k", "3"], "save_top_k must be 1"),
    "nothing to score": (
        ["fit", *GOOD, "--data.held_out", "PointMask", "--data.held_out.rate", "0"],
        "held-out",
    ),
    "runs in a file": (["fit", *GOOD, "--runs", "/dev/null"], "/dev/null"),
    "no checkpoint yet": (["test", *GOOD], "best.ckpt"),
    "report of nothing": (["report", "nowhere"], "nowhere"),
    "report without a run": (["report"], ""),
    "intervals of an untested run": (["conformal", "nowhere"], "data.test_on val"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(case, capsys, as_a_user):
    words, message = MISTAKES[case]
    assert main(words) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert len(shown.err.strip().splitlines()) <= 1
    assert len(shown.err) < 600
    assert not Path("runs").exists() or not list(Path("runs").rglob("*.ckpt"))


def test_a_yaml_with_a_misspelt_option_is_one_line(tmp_path, capsys):
    config = yaml.safe_load(find("demo").read_text("utf-8"))
    config["model"]["init_args"]["encoder"]["init_args"]["hiddn"] = 3
    Path("typo.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", "typo.yaml"]) == 2
    shown = capsys.readouterr().err
    assert "hiddn" in shown and len(shown.strip().splitlines()) == 1
    Path("broken.yaml").write_text("model: [unclosed")
    assert main(["fit", "--config", "broken.yaml"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_what_is_no_checkpoint_is_one_line(capsys):
    Path("text.ckpt").write_text("no checkpoint")
    assert main(["test", *GOOD, "--ckpt_path", "text.ckpt"]) == 2
    assert "cannot be read as one" in capsys.readouterr().err


def test_a_checkpoint_of_other_data_is_refused(run, capsys):
    words = ["test", "--config", "demo", *SHORT, "--data.steps", "400", "--data.num_nodes", "7"]
    assert (
        main([*words, "--model.encoder.hidden", "8", "--ckpt_path", str(run / "checkpoints/best.ckpt")]) == 2
    )
    shown = capsys.readouterr().err
    assert "nodes" in shown and len(shown.strip().splitlines()) == 1


def test_help_is_readable(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("fit", "report", "compare", "conformal", "demo", "aqi36"))
    assert main(["report", "--help"]) == 0
    for command in ("fit", "test", "predict"):
        assert main([command, "--help"]) == 0
        assert "--trainer.max_epochs" in capsys.readouterr().out


def test_the_module_and_the_console_script_start(tmp_path, capsys):
    assert main(["--version"]) == 0 and capsys.readouterr().out.startswith("tsgen ")
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "tsgen", "fit", "--config", "nothing"]
    bad = subprocess.run(words, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert bad.returncode == 2 and len(bad.stderr.strip().splitlines()) == 1


def test_without_an_account_wandb_is_offline(monkeypatch, tmp_path):
    from tsgen.cli.loggers import has_wandb_account

    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not has_wandb_account()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert has_wandb_account()
    (tmp_path / "netrc").write_text("broken")
    assert not has_wandb_account()
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert has_wandb_account()


def test_the_last_checkpoint_is_of_the_last_epoch():
    """Also where the best one is older, so that nothing is trained twice when a run goes on."""
    words = ["fit", "--config", "demo", "--runs", "runs", *SMALL, *SHORT, "--trainer.logger", "false"]
    words += ["--trainer.max_epochs", "3", "--checkpoint.mode", "max"]
    assert main(words) == 0
    epochs = {
        name: torch.load(f"runs/demo/checkpoints/{name}.ckpt", weights_only=True)["epoch"]
        for name in ("best", "last")
    }
    assert epochs["last"] == 2 and epochs["best"] < 2
    kept = {path.name for path in Path("runs/demo/checkpoints").iterdir()}
    assert kept == {"best.ckpt", "last.ckpt", "previous.ckpt"}


@pytest.mark.parametrize("model", ["AutoregressiveModel", "AnyOrderModel"])
def test_a_configuration_is_written_out_with_its_defaults(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(
        f"model: tsgen.models.{model}\ndata: tsgen.datamodules.SyntheticDataModule\n"
    )
    study = read_study(parse(["fit", "--config", "small.yaml"]))
    made = Rehearsal(study.command(), study.name)
    written = made.parser.dump(made.config, skip_unset=False)
    assert "Unable to serialize" not in written and f"tsgen.models.{model}" in written
