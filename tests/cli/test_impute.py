"""`tsgen impute TABLE`: the completed table, what lies beside it, and mistakes in one line."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import make_series

from tsgen.cli.arguments import parse
from tsgen.cli.main import main
from tsgen.evaluation.selfcheck import SelfCheck
from tsgen.imputer import checked, weights_for


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def wide(steps=60, form="%Y/%m/%d %H:%M"):
    """A wide table as text, with gaps, whose columns are not in the order of their names."""
    generator = np.random.default_rng(0)
    common = 20 + generator.normal(size=steps).cumsum()
    table = pd.DataFrame({name: common + generator.normal(0, 0.3, steps) for name in ("c", "a", "b")})
    text = table.map("{:.1f}".format).mask(generator.random((steps, 3)) < 0.2, "")
    text.insert(0, "datetime", pd.date_range("2024-01-01", periods=steps, freq="h").strftime(form))
    return text


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def check_completed(given, completed, keys):
    """Every row of the table is there, in its order, and only empty cells have changed."""
    assert completed[0] == given[0]
    found = {tuple(row[:keys]): row for row in completed[1:]}
    assert len(found) == len(completed) - 1
    for row in given[1:]:
        cells = zip(row, found[tuple(row[:keys])], strict=True)
        assert all(old in ("", new) for old, new in cells)
    assert all(float(cell) == float(cell) for row in completed[1:] for cell in row[keys:])
    there = {tuple(row[:keys]) for row in given[1:]}
    assert [row[:keys] for row in completed[1:] if tuple(row[:keys]) in there] == [
        r[:keys] for r in given[1:]
    ]


def test_a_wide_table(capsys):
    table = wide().drop(index=[7, 30])
    table.to_csv("pm.csv", index=False)
    assert main(["impute", "--minutes", "0", "pm.csv", "--num_samples", "19"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert "60 steps of 01:00:00 x 3 nodes" in out[0] and "edges from correlations" in out[0]
    completed = rows("pm_imputed/completed.csv")
    check_completed(rows("pm.csv"), completed, 1)
    # the two absent hours are where they belong, written as the others are, with as many decimals
    assert [completed[8][0], completed[31][0]] == ["2024/01/01 07:00", "2024/01/02 06:00"]
    assert len(completed) == 61 and {
        len(cell.partition(".")[2]) for row in completed[1:] for cell in row[1:]
    } == {1}
    draws = xr.load_dataset("pm_imputed/imputation.nc")["imputation"]
    median = draws.sel(node="c", channel="pm").median("sample").values
    np.testing.assert_allclose([float(row[1]) for row in completed[1:]], median, atol=0.0501)
    bands = pd.read_csv("pm_imputed/intervals.csv")
    assert len(bands) == 60 * 3 - int((table.iloc[:, 1:] != "").sum().sum())
    assert (bands["lower"] <= bands["median"]).all() and (bands["median"] <= bands["upper"]).all()
    assert set(bands["time"]) >= {"2024/01/01 07:00"}
    assert "Imputation" in Path("pm_imputed/report.html").read_text("utf-8")
    assert not list(Path("pm_imputed").glob("*.parts"))
    # the check on a hidden tenth
    check = json.loads(Path("pm_imputed/selfcheck.json").read_text("utf-8"))
    assert {"model", "linear interpolation"} <= set(check["scores"]) and check["entries"] > 3
    assert any(f"Check: {check['entries']} measured values" in line for line in out)
    assert [line for line in out if line.endswith("--minutes 5.")] == [
        f"{warning} Train on the table: the same command with --minutes 5." for warning in check["warnings"]
    ]


@pytest.mark.parametrize("order", ["by time", "by node", "shuffled"])
def test_a_long_table(order):
    table = wide(form="%Y-%m-%dT%H:%M:%S+01:00").rename(columns={"datetime": "time"})
    table = table.melt("time", var_name="station", value_name="pm").assign(no2=lambda t: t["pm"])
    table = table.drop(index=[3, 70, 150])
    if order == "by time":
        table = table.sort_values(["time", "station"], kind="stable")
    if order == "shuffled":
        table = table.sample(frac=1, random_state=0)
    table.to_csv("data.csv", index=False)
    assert (
        main(
            [
                "impute",
                "--minutes",
                "0",
                "data.csv",
                "--node_column",
                "station",
                "--out",
                "here",
                "--num_samples",
                "3",
            ]
        )
        == 0
    )
    completed = rows("here/completed.csv")
    check_completed(rows("data.csv"), completed, 2)
    assert len(completed) == 181
    keys = [row[:2] for row in completed[1:]]
    if order == "by time":
        assert [time for time, _ in keys] == sorted(time for time, _ in keys)
    if order == "by node":
        assert keys == [[time, node] for node in "cab" for time in sorted({time for time, _ in keys})]
    if order == "shuffled":
        assert [row[1] for row in completed[-3:]] == ["c", "a", "b"]
    assert all(time.endswith("+01:00") for time, _ in keys)


def test_parquet_keeps_its_types_and_index():
    table = wide().set_index("datetime").apply(pd.to_numeric)
    table.index = pd.to_datetime(table.index).tz_localize("Asia/Tokyo").rename("time")
    table.drop(index=table.index[5]).to_parquet("data.parquet")
    assert main(["impute", "--minutes", "0", "data.parquet", "--num_samples", "3"]) == 0
    completed = pd.read_parquet("data_imputed/completed.parquet")
    assert completed.index.equals(table.index) and [*completed] == ["c", "a", "b"]
    there = table.drop(index=table.index[5]).notna()
    assert completed.notna().all(axis=None)
    assert (
        completed.loc[there.index][there] == table.loc[there.index][there]
    ).sum().sum() == there.sum().sum()


def test_coordinates_name_their_nodes_in_any_one_column(capsys):
    wide().to_csv("pm.csv", index=False)
    Path("edges.csv").write_text("source,target,weight\na,b,1\nb,c,2\n")
    Path("places.csv").write_text("sensor_id,latitude,longitude\na,50,9\nb,51,9\nc,52,9\n")
    for option, said in (
        (["--coordinates", "places.csv"], "4 edges from coordinates"),
        (["--edges", "edges.csv"], "2 edges."),
    ):
        assert main(["impute", "--minutes", "0", "pm.csv", "--num_samples", "2", *option]) == 0
        assert said in capsys.readouterr().out


def test_a_table_without_gaps_comes_back(capsys):
    wide().replace("", "1.0").to_csv("pm.csv", index=False)
    assert main(["impute", "--minutes", "0", "pm.csv"]) == 0
    assert "No value is missing" in capsys.readouterr().out
    assert rows("pm_imputed/completed.csv") == rows("pm.csv")


def test_a_warning_of_the_check_says_what_to_do(capsys, monkeypatch):
    wide().to_csv("pm.csv", index=False)
    scores = {
        name: {"crps": crps, "mae": 1.0, "crps_relative": crps} for name, crps in (("model", 2.0), ("x", 1.0))
    }
    check = SelfCheck(9, scores, {"x": 3.0}, {"counts": [9], "ranks": [3]}, ["No row for y."])
    monkeypatch.setattr("tsgen.cli.impute.checked", lambda series, *_: (weights_for(series), check))
    assert main(["impute", "--minutes", "0", "pm.csv", "--num_samples", "2"]) == 0
    out = capsys.readouterr().out
    advice = "x has a lower CRPS than the model on 9 hidden entries (1 < 2). Train on the table: "
    assert advice + "the same command with --minutes 5." in out and "No row for y." in out
    assert out.index("│ x ") < out.index("│ model")


def test_training_never_sees_the_hidden_values(monkeypatch):
    series = make_series(steps=60, channels=1, covariates=0)
    seen = []
    monkeypatch.setattr("tsgen.imputer.fine_tuned", lambda model, series, *_: seen.append(series) or model)
    _, check = checked(series, minutes=1, num_samples=20)
    assert check.entries == int((series.observed & ~seen[0].observed).sum()) > 0 and len(seen) == 1


def test_training_says_what_it_gained(capsys):
    wide().to_csv("pm.csv", index=False)
    assert main(["impute", "pm.csv", "--num_samples", "2", "--minutes", "0.02"]) == 0
    out = capsys.readouterr().out
    assert "Training on the table for at most 0.02 minutes; --minutes 0 leaves it out." in out
    assert re.search(r"Trained for 0\.\d minutes: the loss on hidden values fell from \S+ to \S+ nats", out)
    assert "\r" not in out  # no progress outside a terminal


def test_the_command_trains_for_five_minutes_at_most_by_default():
    assert parse(["impute", "pm.csv"]).minutes == 5


def test_too_little_to_check_is_imputed_all_the_same(capsys):
    Path("pm.csv").write_text("time,a,b\n0,1.5,\n1,,2.5\n")
    assert main(["impute", "--minutes", "0", "pm.csv", "--num_samples", "2"]) == 0
    assert "No check on hidden values: " in capsys.readouterr().out
    assert rows("pm_imputed/completed.csv")[1][1] == "1.5" and not Path("pm_imputed/selfcheck.json").exists()


def text_in(table, row, column, cell):
    table.iloc[row, column] = cell
    return table


MISTAKES = {
    "text": (lambda t: text_in(t, 3, 2, "broken"), [], ["line 5, column 'a'", "'broken' is not a number"]),
    "twice": (lambda t: pd.concat([t, t.iloc[2:3]]), [], ["line 62", "duplicate row", "node_column"]),
    "no time": (lambda t: t.drop(columns="datetime"), [], ["time_column"]),
    "no date": (lambda t: t.assign(datetime="12:00"), [], ["'12:00' is not a time"]),
    "one row": (lambda t: t.iloc[:1].replace("", "1"), [], ["at least 2 times"]),
    "no values": (lambda t: t[["datetime"]], [], ["no value column"]),
    "all missing": (lambda t: t.assign(a="", b="", c=""), [], ["all values are missing"]),
    "no draws": (lambda t: t, ["--num_samples", "0"], ["--num_samples must be at least 1; got 0"]),
    "no level": (lambda t: t, ["--level", "90"], ["--level must be between 0 and 1, such as 0.9; got 90"]),
    "no minutes": (lambda t: t, ["--minutes", "-1"], ["--minutes must be 0 or more; got -1"]),
    "both": (lambda t: t, ["--edges", "e.csv", "--coordinates", "c.csv"], ["not allowed with"]),
    "no file": (lambda t: t, ["--edges", "pmm.csv"], ["Did you mean 'pm.csv'"]),
    "a file": (lambda t: t, ["--out", "pm.csv"], ["--out must be a folder"]),
    "long": (lambda t: t, ["--layout", "long"], ["no column 'node'"]),
    "unknown": (lambda t: t, ["--colour", "red"], ["unrecognized arguments: --colour. See"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_line(name, capsys):
    change, words, parts = MISTAKES[name]
    change(wide()).to_csv("pm.csv", index=False)
    assert main(["impute", "--minutes", "0", "pm.csv", *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith("tsgen: ") and err.count("\n") == 1
    assert all(part in err for part in parts), err
    assert not Path("pm_imputed").exists()


def test_semicolons_and_replacing_the_table(capsys):
    wide().to_csv("completed.csv", index=False, sep=";")
    assert main(["impute", "--minutes", "0", "completed.csv"]) == 2
    assert "separated by semicolons" in capsys.readouterr().err
    wide().to_csv("completed.csv", index=False)
    before = Path("completed.csv").read_bytes()
    assert main(["impute", "--minutes", "0", "completed.csv", "--out", "."]) == 2
    assert "would replace" in capsys.readouterr().err and Path("completed.csv").read_bytes() == before


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_intervals_have_the_level_that_is_asked_for(level, capsys):
    wide().to_csv("pm.csv", index=False)
    assert main(["impute", "--minutes", "0", "pm.csv", "--num_samples", "39", "--level", str(level)]) == 0
    bands = pd.read_csv("pm_imputed/intervals.csv")
    assert [*bands] == ["time", "node", "quantity", "median", "mean", "lower", "upper"]
    draws = xr.load_dataset("pm_imputed/imputation.nc")["imputation"].sel(channel="pm")
    ordered = np.sort(draws.values, axis=0)
    place = list(draws["node"].values).index("c")
    rows_of = [pd.Timestamp(time) for time in bands["time"][bands["node"] == "c"]]
    steps = [list(draws["time"].values).index(time.to_datetime64()) for time in rows_of]
    # order statistics at p (S + 1)
    for name, p in (("lower", (1 - level) / 2), ("median", 0.5), ("upper", (1 + level) / 2)):
        expected = ordered[round(p * 40) - 1, steps, place]
        np.testing.assert_allclose(bands[name][bands["node"] == "c"], expected, rtol=1e-5)
    mean = draws.values[:, steps, place].mean(0)
    np.testing.assert_allclose(bands["mean"][bands["node"] == "c"], mean, rtol=1e-5)
    assert f"{100 * level:g} % interval" in capsys.readouterr().out


def test_too_few_draws_for_a_level_are_told(capsys):
    wide().to_csv("pm.csv", index=False)
    assert main(["impute", "--minutes", "0", "pm.csv", "--num_samples", "38", "--level", "0.95"]) == 0
    assert "needs at least 39 draws" in capsys.readouterr().out
    assert main(["impute", "--minutes", "0", "pm.csv", "--num_samples", "39", "--level", "0.95"]) == 0
    assert "needs at least" not in capsys.readouterr().out


def test_the_file_of_draws_follows_the_cf_conventions():
    table = wide().rename(columns={"datetime": "time"})
    table.to_csv("pm.csv", index=False)
    long = table.melt("time", var_name="node", value_name="pm").assign(no2=lambda t: t["pm"])
    long.to_csv("two.csv", index=False)
    Path("places.csv").write_text("node,latitude,longitude\na,50,9\nb,51,10\nc,52,11\n")
    for name in ("pm", "two"):
        assert (
            main(
                [
                    "impute",
                    "--minutes",
                    "0",
                    f"{name}.csv",
                    "--num_samples",
                    "2",
                    "--coordinates",
                    "places.csv",
                ]
            )
            == 0
        )
        with xr.open_dataset(f"{name}_imputed/imputation.nc") as data:
            assert data.attrs["Conventions"].startswith("CF-1.") and data.attrs["featureType"] == "timeSeries"
            names = {key: data[key].attrs.get("standard_name") for key in ("time", "sample", "latitude")}
            assert names == {"time": "time", "sample": "realization", "latitude": "latitude"}
            assert data["node"].attrs["cf_role"] == "timeseries_id"
            assert data["time"].dtype.kind == "M" and data["observed"].dtype == bool
            # coordinates of the draws, as a reader of CF finds them
            assert {"latitude", "longitude", "unit"} <= set(data["imputation"].coords)
            assert dict(zip(data["node"].values, data["latitude"].values, strict=True)) == {
                "a": 50,
                "b": 51,
                "c": 52,
            }
            assert data["longitude"].attrs["units"] == "degrees_east" and data["longitude"][0] == 9


def test_a_workbook_comes_back_as_a_workbook(capsys):
    pytest.importorskip("openpyxl")
    table = wide().set_index("datetime").apply(pd.to_numeric)
    table.index = pd.to_datetime(table.index).rename("time")
    given = table.drop(index=table.index[5]).reset_index()
    given.to_excel("pm.xlsx", index=False)
    assert main(["impute", "--minutes", "0", "pm.xlsx", "--num_samples", "3"]) == 0
    assert "pm.xlsx: a wide table of 60 steps" in capsys.readouterr().out
    completed = pd.read_excel("pm_imputed/completed.xlsx").set_index("time")
    assert completed.index.equals(table.index) and [*completed] == ["c", "a", "b"]
    there = given.set_index("time").notna()
    measured = completed.loc[there.index].where(there)
    pd.testing.assert_frame_equal(measured, given.set_index("time"), check_freq=False)
    assert completed.notna().all(axis=None)


def test_mistakes_in_a_workbook_name_the_row(capsys):
    openpyxl = pytest.importorskip("openpyxl")
    table = wide().set_index("datetime").apply(pd.to_numeric).reset_index().astype({"a": object})
    table.loc[2, "a"] = "NA"
    table.to_excel("pm.xlsx", index=False)
    assert main(["impute", "--minutes", "0", "pm.xlsx", "--num_samples", "2"]) == 0
    cells = [row[2] for row in openpyxl.load_workbook("pm_imputed/completed.xlsx").active.values]
    assert cells[0] == "a" and {type(cell) for cell in cells[1:]} <= {int, float}
    table.loc[3, "a"] = "broken"
    table.to_excel("pm.xlsx", index=False)
    Path("no.xlsx").write_bytes(b"PK but not a workbook")
    pd.DataFrame({"time": [], "a": []}).to_excel("empty.xlsx", index=False)
    capsys.readouterr()
    for name, parts in {
        "pm.xlsx": ["row 5, column 'a'", "'broken' is not a number"],
        "no.xlsx": ["not a well-formed .xlsx file"],
        "empty.xlsx": ["no rows below the header"],
    }.items():
        assert main(["impute", "--minutes", "0", name]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"tsgen: {name}") and err.count("\n") == 1
        assert all(part in err for part in parts), err


def test_a_workbook_that_unpacks_to_too_much_is_refused(capsys, monkeypatch):
    pytest.importorskip("openpyxl")
    wide().to_excel("pm.xlsx", index=False)
    monkeypatch.setattr("tsgen.storage.unpacking.MAX_UNPACKED", 10_000)
    assert main(["impute", "--minutes", "0", "pm.xlsx"]) == 2
    assert "pm.xlsx is too large" in capsys.readouterr().err


def test_a_workbook_needs_openpyxl(capsys, monkeypatch):
    Path("pm.xlsx").write_bytes(b"PK")
    monkeypatch.setattr("tsgen.readers.excel.find_spec", lambda name: None)
    assert main(["impute", "--minutes", "0", "pm.xlsx"]) == 2
    err = capsys.readouterr().err
    assert "pip install 'tsgen[excel]'" in err and err.count("\n") == 1
