"""The published protocol on the real files, where they are; damaged files everywhere."""

import re
import shutil

import pytest
import torch
from conftest import AQI36, needs_aqi36

from datamodules import AirQualityDataModule
from tsgen.evaluation.baselines import fit_baselines, law_scores
from tsgen.metrics import MAE, entries


@pytest.fixture(scope="module")
def data():
    return AirQualityDataModule(str(AQI36))


def whole(data, stage):
    dataset = data.dataset(stage)
    return dataset.__getitems__([(0, i) for i in range(len(dataset))])


@needs_aqi36
def test_the_protocol_has_its_numbers(data):
    test = whole(data, "test")
    assert test.values.shape == (82, 36, 36, 1)
    assert int(test.target.sum()) == 20_434
    scored = test.position[:, :, None, None].expand_as(test.target)[test.target]
    months = data.split.series.time.astype("datetime64[M]").astype(int) % 12 + 1
    assert set(months[scored.numpy()]) == {3, 6, 9, 12}
    # 166 hours of the test months have no visible station
    hours = {
        int(p): bool(c.any())
        for w in range(82)
        for p, c in zip(test.position[w], test.context[w], strict=True)
    }
    assert sum(not seen for seen in hours.values()) == 166
    assert data.split.series.graph.num_edges == 2 * 327
    assert float(1 - data.split.series.observed.float().mean()) == pytest.approx(0.1325, abs=5e-5)


@needs_aqi36
def test_no_split_touches_another(data):
    train, val, test = (
        {t for s in getattr(data.split, name) for t in range(s.start, s.stop)}
        for name in ("train", "val", "test")
    )
    assert not (train & val or train & test or val & test)
    assert len(train | val | test) == 8759
    assert max(data.dataset("train").starts + 36) <= 8759
    assert {int(p) for p in whole(data, "val").position.flatten()} == val


@needs_aqi36
def test_baselines_score_as_published(data):
    test, (fitted, _) = whole(data, "test"), fit_baselines(data.split.series, data.split.train)
    expected = {
        "climatology": (54.3, 37.8, 0.966),
        "linear interpolation": (15.38, 12.48, 0.949),
        "network mean": (30.6, 22.8, 0.945),
        "Gaussian regression": (16.2, 12.6, 0.946),
    }
    for name, (mae, crps, covered) in expected.items():
        scores, hidden = law_scores(fitted[name].law(test), test.values, test.hidden), test.hidden
        assert float(scores["error"][hidden].mean()) == pytest.approx(mae, abs=0.1), name
        assert float(scores["crps"][hidden].mean()) == pytest.approx(crps, abs=0.1), name
        assert float(scores["covered_90"][hidden].double().mean()) == pytest.approx(covered, abs=0.005), name
    # the line itself is the published one
    score = MAE()
    score.update(*entries(fitted["linear interpolation"].law(test).mean[None], test))
    assert float(score.compute()) == pytest.approx(15.38, abs=0.01)


@needs_aqi36
def test_covariates_are_the_calendar(data):
    # the series begins on Thursday 2014-05-01 at 01:00
    first = data.split.series.covariates[0, 0]
    hour, day = torch.tensor(2 * torch.pi / 24), torch.tensor(2 * torch.pi * (3 + 1 / 24) / 7)
    torch.testing.assert_close(first, torch.stack([hour.sin(), hour.cos(), day.sin(), day.cos()]))


def test_missing_and_damaged_files_say_so(tmp_path):
    with pytest.raises(ValueError, match=r"pm25_ground\.txt must be a file"):
        _ = AirQualityDataModule(str(tmp_path)).split
    for name in ("pm25_ground", "pm25_missing", "pm25_latlng"):
        (tmp_path / f"{name}.txt").write_text("")
    with pytest.raises(ValueError, match="must be a table"):
        _ = AirQualityDataModule(str(tmp_path)).split


@pytest.fixture
def copied(tmp_path):
    """A copy of the files, to be damaged."""
    for path in AQI36.glob("pm25_*.txt"):
        shutil.copy(path, tmp_path)
    return tmp_path


@needs_aqi36
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:500_000].rpartition("\n")[0] + "\n", "must have the same hours; they have"),
        (lambda text: text + "1\n", "pm25_ground.txt, line 8761, column 'datetime': '1' is not a time"),
        (lambda text: text.replace(",89,", ",8 9,", 1), "line 2, column '001002': '8 9' is not a number"),
    ],
    ids=["cut short", "a broken row", "no number"],
)
def test_a_damaged_file_is_told_with_its_place(copied, change, message):
    path = copied / "pm25_ground.txt"
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=re.escape(message)) as told:
        _ = AirQualityDataModule(str(copied)).split
    assert "\n" not in str(told.value)


@needs_aqi36
def test_another_file_than_the_published_one_is_told(copied, caplog):
    _ = AirQualityDataModule(str(copied)).split
    assert not caplog.text
    path = copied / "pm25_ground.txt"
    path.write_text(path.read_text().replace(",89,", ",88,", 1))
    _ = AirQualityDataModule(str(copied)).split
    assert "pm25_ground.txt is not the published file" in caplog.text
