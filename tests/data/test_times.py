"""Times of every kind: each is read as it is meant, or refused in one line."""

import datetime

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from conftest import directed_graph
from hypothesis import given
from hypothesis import strategies as st

from tsgen.data import GraphSeries, StoredSeries
from tsgen.data.times import parse_times
from tsgen.datamodules import FilesDataModule
from tsgen.datamodules.windows import calendar

DAYS = pd.date_range("2024-02-27", periods=3).as_unit("ns").to_numpy()
DISTANT = np.array(["2300-02-27", "2300-02-28", "2300-03-01"], dtype="datetime64[us]")
SINGLE = 1000 + np.arange(3, dtype=np.float32) / 10
TIMES = {
    "periods": (pd.period_range("2024-02-27", periods=3), DAYS),
    "periods as objects": (np.array(pd.period_range("2024-02-27", periods=3), dtype=object), DAYS),
    "zoned": (pd.date_range("2024-02-27 01:00", periods=3, tz="Etc/GMT-1"), DAYS),
    "text": (["2024-02-27", "2024-02-28", "2024-02-29"], DAYS),
    "zoned text": (["2024-02-27T01:00+01:00", "2024-02-28T00:00Z", "2024-02-28T22:00-02:00"], DAYS),
    "bytes": ([b"2024-02-27", b"2024-02-28", b"2024-02-29"], DAYS),
    "dates": ([datetime.date(2024, 2, 27 + day) for day in range(3)], DAYS),
    "timestamps": (list(pd.date_range("2024-02-27", periods=3)), DAYS),
    "days": (DAYS.astype("datetime64[D]"), DAYS),
    "categories": (pd.CategoricalIndex(["2024-02-27", "2024-02-28", "2024-02-29"]), DAYS),
    "cftime": (xr.date_range("2024-02-27", periods=3, use_cftime=True), DAYS),
    "distant": (DISTANT.astype("datetime64[s]"), DISTANT),
    "distant dates": (list(map(datetime.date.fromisoformat, DISTANT.astype(str).astype("U10"))), DISTANT),
    "distant cftime": (xr.date_range("2300-02-27", periods=3, use_cftime=True), DISTANT),
    "early": (
        np.array(["1500-01-01", "1500-01-02", "1500-01-03"], dtype="datetime64[s]"),
        np.array(["1500-01-01", "1500-01-02", "1500-01-03"], dtype="datetime64[us]"),
    ),
    "linspace": (np.linspace(0, 1, 11)[1:4], np.linspace(0, 1, 11)[1:4]),
    "sevenths": (np.arange(3) / 7, np.arange(3) / 7),
    "text of fractions": (["0.1", "0.2", "0.30000000000000004"], np.linspace(0, 1, 11)[1:4]),
    "single precision": (SINGLE, SINGLE),
    "unsigned": (np.arange(3, dtype=np.uint8), np.arange(3)),
}


def series(time=()) -> GraphSeries:
    return GraphSeries(
        values=torch.arange(15.0).view(3, 5, 1),
        observed=torch.ones(3, 5, 1, dtype=torch.bool),
        graph=directed_graph(),
        time=time,
        nodes=list("abcde"),
    )


def same_times(given: np.ndarray, expected: np.ndarray) -> None:
    if expected.dtype.kind == "f":
        np.testing.assert_allclose(given, expected, rtol=1e-14 if expected.dtype == np.float64 else 1e-6)
    else:
        np.testing.assert_array_equal(given, expected)
        assert given.dtype == expected.dtype


@pytest.mark.parametrize("name", TIMES)
def test_times_of_every_kind_in_a_series(name):
    given, expected = TIMES[name]
    same_times(series(given).time, expected)
    same_times(GraphSeries.from_xarray(series().to_xarray().assign_coords(time=given)).time, expected)


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_times_of_every_kind_in_tables(tmp_path, name, kind):
    given, expected = TIMES[name]
    if "early" in name and kind == "csv" and int(pd.__version__[0]) < 3:
        pytest.skip("pandas 2 reads no such text")
    if "cftime" in name and kind == "parquet":
        given = [date.isoformat() for date in given]
    if "bytes" in name and kind == "csv":
        given = [label.decode() for label in given]
    if name == "single precision" and kind == "csv":
        given = [f"{label:.1f}" for label in given]
    table = pd.DataFrame({"time": given, "node": "a", "x": [1.0, 2, 3]})
    table = pd.concat([table, table.assign(node="b")])
    path, edges = tmp_path / f"data.{kind}", tmp_path / "edges.csv"
    table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    edges.write_text("source,target\na,b\nb,a\n")
    read = FilesDataModule(path, edges=edges).split.series
    same_times(read.time, expected)
    assert read.values[:, :, 0].tolist() == [[1, 1], [2, 2], [3, 3]]


@pytest.mark.parametrize("name", TIMES)
def test_a_series_with_these_times_is_written_and_read_back(tmp_path, name):
    expected = TIMES[name][1]
    series(expected).to_xarray().to_netcdf(tmp_path / "data.nc")
    for in_memory in (True, False):
        read = FilesDataModule(tmp_path / "data.nc", in_memory=in_memory).split.series
        same_times(read.time, expected)
        assert torch.equal(read.values, series().values)
    same_times(StoredSeries(tmp_path / "data.nc").time, expected)


def test_text_in_netcdf(tmp_path):
    data = series().to_xarray().assign_coords(time=TIMES["zoned text"][0])
    data.to_netcdf(tmp_path / "data.nc")
    for in_memory in (True, False):
        same_times(FilesDataModule(tmp_path / "data.nc", in_memory=in_memory).split.series.time, DAYS)


def cftimes(start: str, calendar: str) -> xr.CFTimeIndex:
    return xr.date_range(start, periods=3, calendar=calendar, use_cftime=True)


REFUSED = {
    "months": (pd.period_range("2024-01", periods=3, freq="M"), "equal steps.*number the steps 0, 1, 2"),
    "noleap": (
        xr.date_range("2024-02-27", periods=3, calendar="noleap", use_cftime=True),
        "'noleap'. Number",
    ),
    "360_day": (
        xr.date_range("2024-02-27", periods=3, calendar="360_day", use_cftime=True),
        "'360_day'. Num",
    ),
    "julian": (cftimes("1500-01-01", "standard"), "before 1583"),
    "durations": (pd.to_timedelta([0, 1, 2], "h"), "not durations"),
    "flags": ([False, True, True], "not bool"),
    "complex": ([0j, 1j, 2j], "not complex"),
    "nothing": ([None, None, None], "not NoneType"),
    "NaN": ([0, np.nan, 2], r"label 1 \(counted from 0\): the time is nan"),
    "infinite": ([0, 1, np.inf], r"label 2 \(counted from 0\): the time is inf"),
    "NaT": (pd.DatetimeIndex(["2024-01-01", None, "2024-01-03"]), "label 1.*is missing"),
    "too large": (np.array([2**63, 2**63 + 1, 2**63 + 2], dtype=np.uint64), "int64"),
    "larger": ([10**30, 10**30 + 1, 10**30 + 2], "int64"),
    "words": (["a", "b", "c"], "'a' is not a time"),
    "mixed": (np.array(["2024-01-01", 2, 3], dtype=object), "label 1.*the first is str, this one int"),
    "some zones": (
        [pd.Timestamp("2024-01-01", tz=tz) for tz in ("UTC", None, "UTC")],
        "label 1.*no time zone",
    ),
    "far away": (np.array([300000, 300001, 300002]).astype("datetime64[Y]"), "year must lie in"),
    "two dimensions": (np.zeros((3, 1)), "one dimension"),
    "fractions off the grid": ([0, 0.1, 0.2001], "0.1 is followed by 0.2001"),
    "fractions twice": ([0.1, 0.1, 0.1], "strictly increasing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_times_are_refused_in_one_line(name):
    given, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as error:
        series(given)
    assert "\n" not in str(error.value)


@given(
    start=st.floats(-1e6, 1e6), step=st.floats(1e-3, 1e3), steps=st.integers(2, 2000), divide=st.booleans()
)
def test_rounded_times_are_regular(start, step, steps, divide):
    time = (
        start + step * np.arange(steps) if divide else np.linspace(start, start + step * (steps - 1), steps)
    )
    empty = torch.zeros(steps, 1, 1)
    graph = directed_graph(5).subgraph(torch.tensor([0]))
    GraphSeries(values=empty, observed=empty.bool(), graph=graph, time=time)


def test_missing_steps_of_rounded_times(tmp_path):
    """Grid steps that a file leaves out are inserted, whatever the rounding of the others."""
    present = np.linspace(0, 1, 11)[[0, 1, 3, 4, 7, 10]]
    data = series().to_xarray()["values"].isel(time=[0] * 6).assign_coords(time=present)
    data.to_dataset().to_netcdf(tmp_path / "data.nc")
    (tmp_path / "edges.csv").write_text("source,target\na,b\n")
    module = FilesDataModule(tmp_path / "data.nc", edges=tmp_path / "edges.csv")
    np.testing.assert_allclose(module.split.series.time, np.linspace(0, 1, 11), atol=1e-15)
    assert module.split.series.observed[:, 0, 0].nonzero()[:, 0].tolist() == [0, 1, 3, 4, 7, 10]
    finer = FilesDataModule(tmp_path / "data.nc", edges=tmp_path / "edges.csv", step=0.05)
    assert len(finer.split.series) == 21
    with pytest.raises(ValueError, match="step must be a positive number"):
        _ = FilesDataModule(tmp_path / "data.nc", edges=tmp_path / "edges.csv", step="1h").split


def test_a_calendar_needs_dates():
    expected = calendar(pd.DatetimeIndex(DAYS), 2)
    for name in ("periods", "text", "days", "cftime"):
        assert torch.equal(calendar(TIMES[name][0], 2), expected)
    local = calendar(pd.date_range("2024-02-27", periods=3, tz="Asia/Tokyo"), 2)
    assert torch.equal(local, expected)  # midnight where the data was measured
    for numbers in ([0, 1, 2], np.linspace(0, 1, 3)):
        with pytest.raises(ValueError, match="time must hold dates"):
            calendar(numbers, 2)


def test_labels_name_their_place():
    with pytest.raises(KeyError, match="1: 'x'"):
        parse_times(["2024-01-01", "x"], lambda label, what: KeyError(f"{label}: {what}"))
