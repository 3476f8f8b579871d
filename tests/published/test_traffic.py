"""Traffic data as published: tables as pandas lays them out in HDF5, the graph in a pickle, GRIN's masks."""

import pickle
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import METR_LA_10

from datamodules import TrafficDataModule
from tsgen.data.masks import GRINMask, NodeMask, PointMask

IDS = ["773869", "767541", "767542"]
WEIGHT = np.array([[1, 0.5, 0.09], [0, 1, 0.1], [0.8, 0, 1]], dtype=np.float32)
STEPS = 400


def speeds() -> np.ndarray:
    """Speeds with a twentieth of zeros."""
    random = np.random.default_rng(0)
    return np.where(random.random((STEPS, 3)) < 0.05, 0, random.normal(60, 9, (STEPS, 3)))


def write_hdf5(path: Path, ids=IDS, table=None, times=None, unit: str = "", key: str = "df") -> None:
    """A table as pandas lays it out."""
    table = speeds() if table is None else table
    if times is None:
        times = 1_330_560_000 * 10**9 + 300 * 10**9 * np.arange(len(table))  # from 2012-03-01 on
    with h5py.File(path, "w") as file:
        group = file.create_group(key)
        group.attrs["pandas_type"] = np.bytes_("frame")
        for name in ("axis0", "block0_items"):
            group[name] = np.array([i.encode() for i in ids] if isinstance(ids[0], str) else ids)
        group["axis1"] = times
        group["axis1"].attrs["kind"] = np.bytes_("datetime64" + unit)
        group["block0_values"] = table


def write_graph(path: Path, ids=IDS, weight=WEIGHT) -> None:
    path.write_bytes(pickle.dumps([ids, {name: i for i, name in enumerate(ids)}, weight], protocol=2))


@pytest.fixture
def root(tmp_path) -> Path:
    write_hdf5(tmp_path / "metr-la.h5")
    write_graph(tmp_path / "adj_mx.pkl")
    return tmp_path


def test_speeds_graph_and_calendar(root):
    series = TrafficDataModule(str(root), held_out=PointMask(0.0)).split.series
    np.testing.assert_array_equal(series.values[..., 0].numpy(), speeds().astype(np.float32))
    assert torch.equal(series.observed[..., 0], torch.from_numpy(speeds() != 0))
    assert (series.time == pd.date_range("2012-03-01", periods=STEPS, freq="5min").to_numpy()).all()
    assert (series.nodes, series.channels, series.units) == (IDS, ["speed"], ["mph"])
    # from rows to columns, no loops, nothing below a tenth
    assert series.graph.edge_index.tolist() == [[0, 1, 2], [1, 2, 0]]
    torch.testing.assert_close(series.graph.edge_weight, torch.tensor([0.5, 0.1, 0.8]))
    # 2012-03-01 is a Thursday; at noon the hour has gone half its round
    torch.testing.assert_close(series.covariates[144, 1, :2], torch.tensor([0.0, -1.0]), atol=1e-6, rtol=0)
    angle = torch.tensor(2 * torch.pi * 3.5 / 7)
    torch.testing.assert_close(series.covariates[144, 1, 2:], torch.stack([angle.sin(), angle.cos()]))


def test_what_is_held_out_is_scored_later_and_never_seen_before(root):
    split = TrafficDataModule(str(root)).split
    assert (split.train, split.val, split.test) == ([slice(0, 280)], [slice(280, 320)], [slice(320, 400)])
    hidden = torch.from_numpy(np.random.default_rng(9101112).random((2, STEPS, 3))[1] < 0.25)[..., None]
    measured = torch.from_numpy(speeds() != 0)[..., None]
    assert torch.equal(split.held_out[280:], (hidden & measured)[280:]) and not split.held_out[:280].any()
    assert torch.equal(split.series.observed[:280], (measured & ~hidden)[:280])
    assert torch.equal(split.series.observed[280:], measured[280:])


def test_windows_of_two_hours_for_every_stage(root):
    data = TrafficDataModule(str(root), thinning=PointMask(0.5))
    for loader in (data.train_dataloader, data.val_dataloader, data.test_dataloader):
        batch = next(iter(loader()))
        assert batch.values.shape[1:] == (24, 3, 1) and batch.hidden.any()
    scored = sum(int(batch.target.sum()) for batch in data.test_dataloader())
    assert scored == int(data.split.held_out[320:].sum())


def test_a_sensor_that_is_hidden_whole_is_never_seen(root, caplog):
    data = TrafficDataModule(str(root), held_out=NodeMask(0.5), seed=3)
    gone = data.split.held_out[320:].any(dim=0)[:, 0]
    assert gone.any() and not gone.all()
    assert not data.split.series.observed[:280, gone].any()
    assert data.spec.loc.isfinite().all() and "no value in the training split" in caplog.text


def test_the_bay_has_files_and_a_seed_of_its_own(tmp_path):
    write_hdf5(tmp_path / "pems-bay.h5", ids=[400001, 400017, 400030], key="speed", unit="[ns]")
    write_graph(tmp_path / "adj_mx.pkl", ["400001", "400017", "400030"])
    data = TrafficDataModule(str(tmp_path), network="pems_bay")
    assert data.split.series.nodes == ["400001", "400017", "400030"] and data.held_out == GRINMask(seed=56789)
    with pytest.raises(
        ValueError, match=r"must be a folder with metr-la\.h5 or metr_la_first10_full\.npz; it has none"
    ):
        _ = TrafficDataModule(str(tmp_path)).split


def test_the_graph_goes_by_the_sensors_names(root):
    order = [2, 0, 1]
    write_graph(root / "adj_mx.pkl", [IDS[i] for i in order], WEIGHT[np.ix_(order, order)])
    graph = TrafficDataModule(str(root)).split.series.graph
    assert graph.edge_index.tolist() == [[0, 1, 2], [1, 2, 0]]
    torch.testing.assert_close(graph.edge_weight, torch.tensor([0.5, 0.1, 0.8]))


@pytest.mark.parametrize("unit", ["", "[us]", "[s]"])
def test_steps_that_are_left_out_are_put_in_and_any_order_will_do(tmp_path, unit):
    ticks = {"": 10**9, "[us]": 10**6, "[s]": 1}[unit]
    keep = np.random.default_rng(1).permutation(np.delete(np.arange(STEPS), [7, 8, 200]))
    times = (1_330_560_000 + 300 * keep) * ticks
    write_hdf5(tmp_path / "metr-la.h5", table=speeds()[keep], times=times, unit=unit)
    write_graph(tmp_path / "adj_mx.pkl")
    series = TrafficDataModule(str(tmp_path), held_out=PointMask(0.0)).split.series
    expected = speeds()
    expected[[7, 8, 200]] = 0
    assert torch.equal(series.observed[..., 0], torch.from_numpy(expected != 0))
    np.testing.assert_array_equal(np.nan_to_num(series.values[..., 0].numpy()), expected.astype(np.float32))


def npz(path: Path, **changes) -> None:
    np.savez(path, **{"speed": speeds(), "sensor_ids": IDS, "start": "2012-03-01", "freq": "5min"} | changes)


def test_an_extract_is_the_same_data(root):
    whole = TrafficDataModule(str(root)).split
    (root / "metr-la.h5").unlink()
    npz(root / "metr_la_first10_full.npz")
    extract = TrafficDataModule(str(root)).split
    assert torch.equal(whole.series.values, extract.series.values)
    assert torch.equal(whole.held_out, extract.held_out) and (whole.series.time == extract.series.time).all()


DAY = 86_400 * 10**9
BROKEN = {
    "no folder": (lambda f: (f / "metr-la.h5").unlink(), "must be a folder with metr-la.h5"),
    "no graph": (lambda f: (f / "adj_mx.pkl").unlink(), "must be a folder with adj_mx.pkl"),
    "not HDF5": (
        lambda f: (f / "metr-la.h5").write_bytes(b"x" * 99),
        "metr-la.h5 must be the published table",
    ),
    "truncated": (
        lambda f: (f / "metr-la.h5").write_bytes((f / "metr-la.h5").read_bytes()[:3000]),
        "metr-la.h5 must be the published table",
    ),
    "another layout": (lambda f: h5py.File(f / "metr-la.h5", "w").close(), "it must hold one table"),
    "ids of another length": (
        lambda f: write_hdf5(f / "metr-la.h5", ids=IDS[:2]),
        "400 times and 2 ids do not fit",
    ),
    "an id twice": (lambda f: write_hdf5(f / "metr-la.h5", ids=["1", "2", "1"]), "the id '1' occurs twice"),
    "numbers as text": (
        lambda f: write_hdf5(f / "metr-la.h5", table=speeds().astype("S9")),
        "its speeds numbers",
    ),
    "a time twice": (
        lambda f: write_hdf5(f / "metr-la.h5", table=speeds()[:2], times=np.array([DAY, DAY])),
        "occurs twice",
    ),
    "irregular": (
        lambda f: write_hdf5(f / "metr-la.h5", table=speeds()[:2], times=np.array([DAY, DAY + 10**9])),
        "metr-la.h5: irregular time",
    ),
    "another network's graph": (
        lambda f: write_graph(f / "adj_mx.pkl", ["400001", "400017", "400030"]),
        "adj_mx.pkl must have the sensors of metr-la.h5; it lacks '767541', '767542', '773869'",
    ),
    "a larger graph": (
        lambda f: write_graph(f / "adj_mx.pkl", [*IDS, "9"], np.eye(4)),
        "metr-la.h5 lacks '9'",
    ),
    "a matrix of another size": (
        lambda f: write_graph(f / "adj_mx.pkl", IDS, np.eye(2)),
        "3 ids and a matrix of shape",
    ),
    "negative weights": (lambda f: write_graph(f / "adj_mx.pkl", IDS, -WEIGHT), "finite and not negative"),
    "weights of NaN": (
        lambda f: write_graph(f / "adj_mx.pkl", IDS, WEIGHT * np.nan),
        "finite and not negative",
    ),
    "a list": (
        lambda f: write_graph(f / "adj_mx.pkl", IDS, [[1]]),
        "must hold ids, the row of each id, and a matrix",
    ),
    "two things": (lambda f: (f / "adj_mx.pkl").write_bytes(pickle.dumps([1, 2])), "must hold three objects"),
    "rows that are none": (
        lambda f: (f / "adj_mx.pkl").write_bytes(pickle.dumps([IDS, dict.fromkeys(IDS, "a"), np.eye(3)], 2)),
        "must hold a square matrix with a row for each id",
    ),
    "a pickle that runs": (
        lambda f: (f / "adj_mx.pkl").write_bytes(b"cos\nsystem\n(S'echo ran'\ntR."),
        "adj_mx.pkl must be a pickle of plain containers",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_in_a_file_is_one_line(root, case, as_a_user):
    breaks, message = BROKEN[case]
    breaks(root)
    with pytest.raises(ValueError, match=r"\w") as error:
        _ = TrafficDataModule(str(root)).split
    assert type(error.value) is ValueError and "\n" not in str(error.value)
    assert str(root) in str(error.value) and message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speed": np.array([{}], dtype=object)}, "allow_pickle"),
        ({"start": "one day"}, "one day"),
        ({"freq": "now and then"}, "must be the published table"),
        ({"freq": "7min"}, "irregular time"),
        ({"speed": speeds()[:, :2]}, "400 times and 3 ids"),
    ],
)
def test_what_is_wrong_in_an_extract_is_one_line(root, changes, message):
    (root / "metr-la.h5").unlink()
    npz(root / "metr_la_first10_full.npz", **changes)
    with pytest.raises(ValueError, match=message) as error:
        _ = TrafficDataModule(str(root)).split
    assert type(error.value) is ValueError and "\n" not in str(error.value)


def test_a_network_that_is_neither(as_a_user):
    with pytest.raises(ValueError, match="network must be one of metr_la, pems_bay; got 'pems04'"):
        TrafficDataModule(".", network="pems04")


@pytest.mark.skipif(not METR_LA_10.is_dir(), reason=f"METR-LA's files are not at {METR_LA_10}")
def test_ten_sensors_of_los_angeles():
    data = TrafficDataModule(str(METR_LA_10), held_out=PointMask(0.0))
    series = data.split.series
    assert series.values.shape == (34272, 10, 1) and series.graph.num_edges == 8
    assert float(1 - series.observed.double().mean()) == pytest.approx(0.0741, abs=5e-5)
    assert str(series.time[-1])[:16] == "2012-06-27T23:55"
