"""Red wine: the published Gaussian on the real file, where it is; the protocol on a small one everywhere."""

import json
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import torch
from conftest import SHARED
from torch.distributions import MultivariateNormal

import tsgen
from datamodules import RedWineDataModule
from datamodules.red_wine import CHANNELS
from experiments.benchmarks import red_wine
from tsgen.cli.main import main

RED_WINE = SHARED / "data" / "red_wine"
CASES = {"train": 8 * 12, "val": 14, "test": 13}

needs_red_wine = pytest.mark.skipif(
    not (RED_WINE / "red_wine.hdf5").is_file(), reason=f"the red wine file is not at {RED_WINE}"
)


def write(folder, folds: int = 10, channels: int = len(CHANNELS), change=None):
    """A small file of the published form: 12 cases a training part, 14 in the last, 13 in the test."""
    random = np.random.default_rng(0)
    with netCDF4.Dataset(folder / "red_wine.hdf5", "w") as file:
        file.createDimension("channel", channels)
        for fold in range(1, folds + 1):
            parts = {f"training/{i}": 14 if i == 9 else 12 for i in range(1, 10)} | {"tests/1": 13}
            for name, cases in parts.items():
                group = file.createGroup(f"folds/{fold}/{name}")
                group.createDimension("case", cases)
                values = 10 * fold + (1 + np.arange(channels)) * random.normal(size=(cases, channels))
                if change is not None:
                    change(values)
                group.createVariable("data", "f4", ("case", "channel"))[:] = values
    return str(folder)


def raw(folder, fold: int, *names: str) -> torch.Tensor:
    with netCDF4.Dataset(f"{folder}/red_wine.hdf5") as file:
        parts = [np.asarray(file[f"folds/{fold}/{name}/data"][:], np.float64) for name in names]
    return torch.from_numpy(np.concatenate(parts))


def whole(data, stage):
    dataset = data.dataset(stage)
    return dataset.__getitems__([(0, i) for i in range(len(dataset))])


def training(parts) -> list[str]:
    return [f"training/{i}" for i in parts]


def test_a_case_is_a_window_and_every_entry_is_scored(tmp_path):
    data = RedWineDataModule(write(tmp_path), fold=3)
    for stage, cases in CASES.items():
        batch = whole(data, stage)
        assert batch.values.shape == (cases, 1, 1, 11)
        assert batch.context.all() and batch.target.all()
    assert data.split.series.graph.num_edges == 0
    assert whole(data, "predict").values.shape == (13, 1, 1, 11)
    generated = RedWineDataModule(str(tmp_path), horizon=1)
    assert whole(generated, "test").hidden.all()


@pytest.mark.parametrize("fold", [1, 10])
def test_units_are_those_of_the_nine_training_parts(tmp_path, fold):
    data = RedWineDataModule(write(tmp_path), fold=fold)
    train, val, test = (whole(data, stage).values.flatten(1).double() for stage in CASES)
    nine = torch.cat([train, val])
    torch.testing.assert_close(nine.mean(dim=0), torch.zeros(11).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(nine.std(dim=0, correction=0), torch.ones(11).double(), atol=1e-6, rtol=0)
    fitted_on = raw(tmp_path, fold, *training(range(1, 10)))
    scale, loc = torch.std_mean(fitted_on, dim=0, correction=0)
    for values, names in ((train, training(range(1, 9))), (val, training([9])), (test, ["tests/1"])):
        assert torch.allclose(values * scale + loc, raw(tmp_path, fold, *names), atol=1e-4)


def test_mistakes_end_in_one_line(tmp_path):
    for fold in (0, 11):
        with pytest.raises(ValueError, match=rf"fold must lie in 1\.\.10; got {fold}"):
            RedWineDataModule(str(tmp_path), fold=fold)
    with pytest.raises(ValueError, match=r"red_wine\.hdf5 must be the red wine data; there is no such file"):
        _ = RedWineDataModule(str(tmp_path)).split
    write(tmp_path, folds=1)
    with pytest.raises(ValueError, match="must hold the ten folds of red wine; it cannot be read"):
        _ = RedWineDataModule(str(tmp_path), fold=2).split
    write(tmp_path, folds=1, channels=10)
    with pytest.raises(ValueError, match=r"rows of 11 numbers; the shape is \[12, 10\]"):
        _ = RedWineDataModule(str(tmp_path)).split
    write(tmp_path, folds=1, change=lambda values: values[5:7].fill(np.nan))
    with pytest.raises(ValueError, match="must be finite; 22 numbers are not"):
        _ = RedWineDataModule(str(tmp_path)).split
    (tmp_path / "red_wine.hdf5").write_text("no such thing")
    with pytest.raises(ValueError, match="cannot be read") as caught:
        _ = RedWineDataModule(str(tmp_path)).split
    assert "\n" not in str(caught.value)


def test_the_table_is_that_of_the_checkpoints(tmp_path, monkeypatch, capsys):
    write(tmp_path, folds=2)
    monkeypatch.setattr(red_wine, "FOLDS", 2)
    with netCDF4.Dataset(tmp_path / "red_wine.hdf5", "a") as file:  # as the published one: copies in the test
        for fold in (1, 2):
            parts = file[f"folds/{fold}"]
            parts["tests/1/data"][:3] = parts["training/2/data"][:3]
            parts["tests/1/data"][3] = parts["training/9/data"][0]  # of validation: training has not seen it
    monkeypatch.chdir(tmp_path)
    words = [
        "--config",
        "red_wine",
        "--variant",
        "fold_1",
        "--variant",
        "fold_2",
        "--data.root",
        str(tmp_path),
        "--trainer.max_epochs",
        "1",
    ]
    words += ["--model.head.components", "2", "--model.head.width", "4", "--trainer.logger", "false"]
    words += ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    assert main(["fit", *words]) == main(["test", *words]) == 0
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["red_wine", "runs/red_wine", str(tmp_path)])
    red_wine.main()
    lines = capsys.readouterr().out.splitlines()
    shown = [[float(cell) for cell in line.split("|")[2:4]] for line in lines[2:]]
    summary = json.loads(Path("runs/red_wine/scores.json").read_text("utf-8"))
    tested = [row["log_likelihood"] for row in summary["variants"].values()]
    assert shown[1] == pytest.approx(tested, abs=6e-4)
    average, error = (float(number) for number in lines[3].split("|")[4].split("±"))
    assert average == pytest.approx(np.mean(tested), abs=6e-4)
    assert error == pytest.approx(abs(tested[0] - tested[1]) / 2, abs=6e-4)
    data = RedWineDataModule(str(tmp_path), fold=2)
    model = tsgen.load("runs/red_wine/fold_2/checkpoints/best.ckpt")
    with torch.no_grad():
        val, test = (model.log_likelihood(whole(data, stage)).double() for stage in ("val", "test"))
    expected = [val.mean(), test.mean(), test[3:].mean()]
    assert [row[1] for row in shown] == pytest.approx([float(x) for x in expected], abs=6e-4)


@needs_red_wine
def test_the_file_is_the_published_one():
    for fold in range(1, 11):
        data = RedWineDataModule(str(RED_WINE), fold=fold)
        sizes = [len(data.dataset(stage)) for stage in CASES]
        assert sizes == [1272, 159, 168] if fold == 10 else [1272, 168, 159]


@needs_red_wine
def test_a_gaussian_scores_as_published():
    """-13.18 +- 0.15 nats a case, the deviation over the folds divided by n, not n - 1."""
    scores = []
    for fold in range(1, 11):
        data = RedWineDataModule(str(RED_WINE), fold=fold)
        train, val, test = (whole(data, stage).values.flatten(1).double() for stage in CASES)
        nine = torch.cat([train, val])
        law = MultivariateNormal(nine.mean(dim=0), torch.cov(nine.T, correction=0))
        scores.append(law.log_prob(test).mean())
    scores = torch.stack(scores)
    assert float(scores.mean()) == pytest.approx(-13.18, abs=0.005)
    assert float(scores.std(correction=0) / 10**0.5) == pytest.approx(0.15, abs=0.005)
