"""Several runs from one configuration: where they go, what they obey and how they are compared."""

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from wandb_file import records

from tsgen.cli import variants
from tsgen.cli.arguments import parse
from tsgen.cli.configs import FOLDER, apply, find, fragments, merge, read, shipped
from tsgen.cli.main import main
from tsgen.evaluation.table import COLUMNS

GRU = {"class_path": "tsgen.encoders.GraphGRUEncoder", "init_args": {"hidden": 5}}
MIXTURE = {"class_path": "tsgen.heads.MixtureHead", "init_args": {"components": 3}}
SMALL = {
    "trainer.max_epochs": 1,
    "trainer.limit_train_batches": 2,
    "trainer.limit_val_batches": 1,
    "trainer.limit_test_batches": 2,
    "trainer.enable_progress_bar": False,
    "trainer.enable_model_summary": False,
    "trainer.logger": {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": "runs", "name": "", "version": ""},
    },
    "model.sampler.num_samples": 4,
    "data.steps": 300,
    "data.num_nodes": 5,
}
VARIANTS = {
    "gru": {"model.encoder": GRU},
    "seed-2": {"seed_everything": 2, "model": {"init_args": {"head": MIXTURE}}},
}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(path: Path, **more) -> str:
    """A small study of the demo's model."""
    path.write_text(yaml.safe_dump({**apply(read(find("demo")), SMALL), **more}), "utf-8")
    return str(path)


def model_of(folder: Path, command: str = "fit") -> dict:
    return yaml.safe_load((folder / f"config_{command}.yaml").read_text("utf-8"))["model"]["init_args"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The folder of a study of replicates that was fitted and tested."""
    folder = tmp_path_factory.mktemp("study")
    config = write(folder / "study.yaml", variants=VARIANTS, replicates=True)
    common = ["--config", config, "--runs", str(folder / "runs"), "--data.batch_size", "16"]
    assert main(["fit", *common]) == 0
    assert main(["test", *common]) == 0
    return folder / "runs" / "study"


def test_each_variant_is_a_run_in_its_own_folder(study):
    assert {path.name for path in study.iterdir()} == {"gru", "seed-2", "scores.json"}
    for variant in VARIANTS:
        for name in ("checkpoints/best.ckpt", "checkpoints/last.ckpt", "config_fit.yaml", "scores.json"):
            assert (study / variant / name).is_file(), name
        assert (study / variant / "logs/fit/metrics.csv").is_file()
        assert json.loads((study / variant / "scores.json").read_text())["run"] == f"study/{variant}"


def test_the_options_of_a_variant_are_its_own(study):
    gru, other = model_of(study / "gru"), model_of(study / "seed-2")
    assert gru["encoder"]["init_args"]["hidden"] == 5 and other["encoder"]["init_args"]["hidden"] == 32
    assert gru["head"]["class_path"] == "tsgen.heads.GaussianHead"
    assert other["head"]["class_path"] == MIXTURE["class_path"]
    assert other["head"]["init_args"]["components"] == 3
    configs = [yaml.safe_load((study / name / "config_fit.yaml").read_text()) for name in VARIANTS]
    assert [config["seed_everything"] for config in configs] == [1, 2]
    assert all(config["data"]["init_args"]["batch_size"] == 16 for config in configs)


def test_the_summary_is_that_of_the_rows(study):
    summary = json.loads((study / "scores.json").read_text("utf-8"))
    tables = {name: json.loads((study / name / "scores.json").read_text("utf-8")) for name in VARIANTS}
    assert summary["variants"] == {name: table["rows"][0] for name, table in tables.items()}
    for key in COLUMNS:
        x = [table["rows"][0][key] for table in tables.values()]
        if None in x:
            assert summary["mean"][key] is summary["standard_error"][key] is None
            continue
        assert summary["mean"][key] == pytest.approx(np.mean(x), abs=2e-6)
        assert summary["standard_error"][key] == pytest.approx(np.std(x, ddof=1) / math.sqrt(2), abs=2e-6)
    assert summary["mean"]["crps"] != summary["variants"]["gru"]["crps"]
    assert [row["name"] for row in summary["exact"]] == ["exact filtering", "exact posterior"]


def test_a_study_has_no_report_but_its_variants_have(study, capsys):
    assert main(["report", str(study)]) == 2
    shown = capsys.readouterr().err
    assert str(study / "gru") in shown and str(study / "seed-2") in shown
    assert len(shown.strip().splitlines()) == 1
    assert main(["report", str(study / "gru")]) == 0


def test_the_command_line_wins_and_chooses(capsys):
    config = write(Path("s.yaml"), variants=VARIANTS)
    words = ["fit", "--config", config, "--name", "own", "--model.encoder.hidden", "4"]
    assert main([*words, "--variant", "gru"]) == 0
    assert [path.name for path in Path("runs/own").iterdir()] == ["gru"]
    assert model_of(Path("runs/own/gru"))["encoder"]["init_args"]["hidden"] == 4
    assert main(["test", *words[1:], "--variant=gru"]) == 0
    assert "Not tested yet: seed-2" in capsys.readouterr().out
    summary = json.loads(Path("runs/own/scores.json").read_text("utf-8"))
    assert list(summary["variants"]) == ["gru"] and "mean" not in summary
    # an earlier run is set aside within the study
    first = Path("runs/own/gru/checkpoints/best.ckpt").read_bytes()
    assert main([*words, "--variant", "gru", "--trainer.limit_train_batches", "1"]) == 0
    assert Path("runs/own/gru.1/checkpoints/best.ckpt").read_bytes() == first
    # what a run leaves is a configuration of that very run
    assert main(["fit", "--config", "runs/own/gru/config_fit.yaml", "--trainer.max_epochs", "0"]) == 0
    assert Path("runs/own/gru.2").is_dir()


def wandb_run(folder: Path):
    """What W&B knows of a run; its service writes the file of a very short one after the end."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    for _ in range(100):
        run = next((record.run for record in records(path) if record.HasField("run")), None)
        if run is not None:
            return run
        time.sleep(0.1)
    raise AssertionError(f"{path} stayed empty")


def test_wandb_groups_the_variants_of_a_study():
    logger = {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {"project": "tsgen"}}
    config = write(Path("w.yaml"), trainer={"max_epochs": 0, "logger": logger}, variants={"a": None, "b": {}})
    assert main(["fit", "--config", config]) == 0
    runs = {name: wandb_run(Path("runs/w", name)) for name in "ab"}
    assert all(run.run_group == "w" and run.display_name == name for name, run in runs.items())
    assert all(run.run_id == Path("runs/w", name, "wandb_id").read_text() for name, run in runs.items())
    assert runs["a"].run_id != runs["b"].run_id


MISTAKES = {
    "no mapping": ({"variants": [1, 2]}, [], "variants must be a mapping"),
    "none": ({"variants": {}}, [], "variants must be a mapping"),
    "options that are none": ({"variants": {"a": 3}}, [], "variant a: variants must be a mapping"),
    "a space": ({"variants": {"a b": {}}}, [], "'a b'"),
    "a path": ({"variants": {"../a": {}}}, [], "'../a'"),
    "a hidden folder": ({"variants": {".a": {}}}, [], "'.a'"),
    "misspelt option of the last": (
        {"variants": {**VARIANTS, "bad": {"model.encoder.hiddn": 3}}},
        [],
        "variant bad: model.encoder: GraphGRUEncoder has no option 'hiddn'. Did you mean hidden?",
    ),
    "text for a number": ({"variants": {"a": {"data.window": "long"}}}, [], "variant a: data"),
    "no such class": ({"variants": {"a": {"model.head": "tsgen.heads.NoHead"}}}, [], "NoHead"),
    "no such fragment": ({"variants": {"a": {"config": "encoders/none"}}}, [], "variant a: --config must be"),
    "a name inside": ({"variants": {"a": {"name": "b"}}}, [], "variant a: name must stand beside"),
    "a study inside": ({"variants": {"a": {"variants": {}}}}, [], "variant a: variants must stand beside"),
    "bad value": ({"variants": {"a": {"data.thinning.rate": 7}}}, [], "variant a: rate must lie in"),
    "no such variant": ({"variants": VARIANTS}, ["--variant", "none"], "be one of gru, seed-2; got 'none'"),
    "variant without a name": (
        {"variants": VARIANTS},
        ["--variant"],
        "argument --variant: expected one argument",
    ),
    "variant of no study": ({}, ["--variant", "gru"], "has variants; got 'gru'"),
    "replicates of no study": ({"replicates": True}, [], "replicates must be"),
    "replicates in words": ({"variants": VARIANTS, "replicates": "no"}, [], "replicates must be"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_before_anything_runs(case, capsys, as_a_user):
    more, words, message = MISTAKES[case]
    assert main(["fit", "--config", write(Path("s.yaml"), **more), *words]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert len(shown.strip().splitlines()) == 1 or case == "bad value"
    assert len(shown) < 600
    assert not Path("runs").exists()


def test_a_test_needs_every_checkpoint_before_it_starts(capsys):
    config = write(Path("s.yaml"), variants=VARIANTS)
    assert main(["fit", "--config", config, "--variant", "gru", "--trainer.max_epochs", "1"]) == 0
    assert main(["test", "--config", config]) == 2
    assert "variant seed-2: " in capsys.readouterr().err
    assert not Path("runs/s/gru/scores.json").exists()


def test_a_study_does_not_go_into_the_folder_of_a_run(capsys):
    Path("runs/s/checkpoints").mkdir(parents=True)
    assert main(["fit", "--config", write(Path("s.yaml"), variants=VARIANTS)]) == 2
    assert "runs/s must be free" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------- configurations


def test_a_later_configuration_wins_key_by_key():
    earlier = {"a": {"b": 1, "c": [1, 2]}, "d": None}
    assert merge(earlier, {"a": {"c": [3]}, "d": {"e": 4}}) == {"a": {"b": 1, "c": [3]}, "d": {"e": 4}}
    assert merge(earlier, {"a": None})["a"] is None
    assert earlier == {"a": {"b": 1, "c": [1, 2]}, "d": None}


def test_another_class_takes_no_arguments_over_and_the_same_class_does():
    earlier = {"head": {"class_path": "tsgen.heads.MixtureHead", "init_args": {"components": 4, "x": 1}}}
    same = {"class_path": "MixtureHead", "init_args": {"components": 9}}
    assert merge(earlier, {"head": same})["head"]["init_args"] == {"components": 9, "x": 1}
    other = {"class_path": "tsgen.heads.NADEHead", "init_args": {"components": 9}}
    assert merge(earlier, {"head": other})["head"] == other
    assert merge(earlier, {"head": "tsgen.heads.GaussianHead"}) == {"head": "tsgen.heads.GaussianHead"}


def test_dotted_keys_find_the_arguments_of_a_class():
    options = {"model": {"class_path": "M", "init_args": {"encoder": "E", "units": {"PM2.5": "µg"}}}}
    changed = apply(options, {"model.encoder.hidden": 3, "model.lr": 1})["model"]["init_args"]
    assert changed["encoder"] == {"class_path": "E", "init_args": {"hidden": 3}} and changed["lr"] == 1
    # a dot inside a value is no path
    assert apply({}, {"model": options["model"]}) == options


def test_fragments_follow_a_configuration_and_name_the_run():
    assert {"encoders/gru", "heads/mixture"} <= fragments().keys()
    assert not fragments().keys() & shipped().keys()
    short = [f"--{key}={json.dumps(value)}" for key, value in SMALL.items()]
    words = ["--config", "threshold", "--config=encoders/gru", "-c", "heads/mixture", *short]
    assert main(["fit", *words]) == 0
    model = model_of(Path("runs/threshold-gru-mixture"))
    assert model["head"]["init_args"]["components"] == 5 and model["encoder"]["init_args"]["hidden"] == 32


@pytest.mark.parametrize("name", fragments())
@pytest.mark.filterwarnings("ignore:LightningCLI")
def test_every_fragment_follows_the_demo(name):
    from tsgen.cli.commands import Rehearsal

    if name == "loggers/tensorboard":
        pytest.importorskip("tensorboard")
    study = variants.read_study(parse(["fit", "--config", "demo", "--config", name]))
    assert Rehearsal(study.command(), study.name).folder == Path("runs", study.name)
    assert (FOLDER / f"{name}.yaml").is_file()


def test_a_variant_may_name_fragments():
    both = {"config": ["encoders/gru", "heads/mixture"], "model.head.components": 2}
    write(Path("s.yaml"), variants={"a": both})
    model = variants.read_study(parse(["fit", "--config", "s.yaml"])).variants["a"]["model"]["init_args"]
    assert model["head"]["init_args"] == {"components": 2}
    assert "variants" not in model and model["encoder"]["init_args"]["hidden"] == 32


@pytest.mark.parametrize("order", [["encoders/gru"], ["heads/nade", "demo"]])
def test_a_fragment_must_follow_an_experiment(order, capsys):
    words = [word for name in order for word in ("--config", name)]
    assert main(["fit", *words]) == 2
    shown = capsys.readouterr().err
    assert f"{order[0]} is a fragment and must follow an experiment" in shown
    assert f"--config demo --config {order[0]}" in shown and len(shown.strip().splitlines()) == 1
    with pytest.raises(ValueError, match="must follow an experiment"):
        variants.read_study(parse(["fit", "--config", str(FOLDER / f"{order[0]}.yaml")]))
    assert not Path("runs").exists()


def test_training_may_stop_before_its_first_validation(capsys):
    words = ["--config", write(Path("short.yaml")), "--trainer.limit_train_batches", "1.0"]
    assert main(["fit", *words, "--trainer.max_steps", "2"]) == 0
    assert main(["test", *words]) == 0
    assert "best.ckpt was never written; runs/short/checkpoints/last.ckpt is used" in capsys.readouterr().out
    assert main(["test", *words, "--name", "never"]) == 2
    shown = capsys.readouterr().err
    assert "runs/never/checkpoints/best.ckpt must be a checkpoint; there is no such file" in shown
    assert (
        "give the checkpoint of another run by --ckpt_path" in shown and len(shown.strip().splitlines()) == 1
    )


def test_an_unknown_configuration_is_told_what_there_is(capsys):
    assert main(["fit", "--config", "demo", "--config", "gru"]) == 2
    shown = capsys.readouterr().err
    assert "encoders/gru" in shown and "demo" in shown and len(shown.strip().splitlines()) == 1


# ------------------------------------------------------------------------------------------------- lead time


def table(offset: float, exact: float | None = 0.4, nll: bool = True) -> dict:
    def curve(start):
        return [
            {"lead": h, "mae": start + 0.1 * h**0.5, "crps": start, "nll": start - 1 if nll else None}
            for h in range(1, 13)
        ]

    row = {
        "name": "Model",
        "conditioning": "filtering",
        **dict.fromkeys(COLUMNS),
        "crps": offset,
        "mae": 2 * offset,
    }
    bound = [] if exact is None else [row | {"name": "exact filtering", "crps": exact, "mae": exact}]
    more = {} if exact is None else {"by_lead_time_exact": curve(exact)}
    return {"rows": [row, row | {"name": "node mean"}, *bound], "by_lead_time": curve(offset), **more}


def lines(figure):
    return [{line.get_label(): line.get_ydata() for line in ax.get_lines()} for ax in figure.axes]


def test_lead_time_has_a_line_a_variant_and_the_exact_one():
    tables = {"a": table(0.5), "b": table(0.7)}
    crps, mae, nll = lines(variants.lead_time(tables, unit="K"))
    assert list(crps) == list(mae) == list(nll) == ["a", "b", "exact"]
    np.testing.assert_allclose(mae["b"], 0.7 + 0.1 * np.arange(1, 13) ** 0.5)
    labels = [ax.get_ylabel() for ax in variants.lead_time(tables, unit="K").axes]
    assert labels == ["CRPS [K]", "MAE [K]", "NLL [nats per scored entry]"]
    # where the exact answers differ there is no one line to draw; nor a panel where nothing was scored
    crps, mae = lines(variants.lead_time({"a": table(0.5, nll=False), "b": table(0.7, exact=0.3, nll=False)}))
    assert list(crps) == ["a", "b"]


def test_replicates_are_drawn_with_their_mean():
    crps, *_ = lines(variants.lead_time({"a": table(0.5), "b": table(0.7), "c": table(0.9)}, replicates=True))
    np.testing.assert_allclose(crps["mean"], np.full(12, 0.7))
    # the mean of some would jump where one ends
    short = table(0.9)
    short["by_lead_time"] = short["by_lead_time"][:6]
    crps, *_ = lines(variants.lead_time({"a": table(0.5), "b": short}, replicates=True))
    np.testing.assert_allclose(crps["mean"], np.full(6, 0.7))


def test_the_summary_draws_lead_times_if_all_have_them(capsys):
    import xarray as xr

    for name, scores in {"a": table(0.5), "b": table(0.7)}.items():
        Path("s", name).mkdir(parents=True)
        Path("s", name, "scores.json").write_text(json.dumps(scores))
        xr.Dataset(coords={"unit": ("channel", ["K", "K"])}).to_netcdf(Path("s", name, "evaluation.nc"))
    variants.summarise(Path("s"), ["a", "b"], replicates=True)
    assert Path("s/lead_time.png").read_bytes().startswith(b"\x89PNG")
    assert Path("s/lead_time.png").stat().st_size > 10_000
    summary = json.loads(Path("s/scores.json").read_text())
    assert summary["mean"]["crps"] == pytest.approx(0.6) and summary["mean"]["nll"] is None
    assert summary["standard_error"]["crps"] == pytest.approx(0.1)
    assert [row["name"] for row in summary["exact"]] == ["exact filtering"]
    shown = capsys.readouterr().out
    assert "standard error" in shown and "node mean" not in shown and "NLL" not in shown
    # one without lead times, and another exact answer
    Path("s/lead_time.png").unlink()
    Path("s/b/scores.json").write_text(json.dumps(table(0.7, exact=0.3) | {"by_lead_time": []}))
    variants.summarise(Path("s"), ["a", "b"], replicates=False)
    assert not Path("s/lead_time.png").exists()
    assert json.loads(Path("s/scores.json").read_text())["exact"] == []


def test_replicates_are_averaged_only_when_all_are_tested(capsys, monkeypatch):
    for name, offset in {"a": 0.5, "b": 0.7}.items():
        Path("s", name).mkdir(parents=True)
        Path("s", name, "scores.json").write_text(json.dumps(table(offset)))
    monkeypatch.setattr(variants, "_unit", lambda folder, tables: "K")
    drawn = []
    monkeypatch.setattr(
        variants, "lead_time", lambda *given, draw=variants.lead_time: drawn.append(draw(*given)) or drawn[-1]
    )
    for names in (["a", "b", "c"], ["a", "b"]):
        variants.summarise(Path("s"), names, replicates=True)
        summary, shown = json.loads(Path("s/scores.json").read_text()), capsys.readouterr().out
        whole = names == ["a", "b"]
        assert list(summary["variants"]) == ["a", "b"]
        assert ("mean" in summary) == ("standard_error" in summary) == whole
        assert ("standard error" in shown) == whole and ("Not tested yet: c." in shown) == (not whole)
        assert ("mean" in lines(drawn[-1])[0]) == whole


def test_one_variant_has_no_standard_error():
    row = dict.fromkeys(COLUMNS, 1.0)
    assert set(variants.standard_error([row]).values()) == {None}
    assert variants.mean([row]) == row
    assert variants.mean([row, row | {"nll": None}])["nll"] is None
