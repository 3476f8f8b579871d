"""Series that are read from a file window by window answer as those that are held in memory."""

import pickle
import re

import netCDF4
import numpy as np
import pytest
import torch
import xarray as xr

from tests.conftest import directed_graph
from tsgen import GraphVAR, forecast, impute
from tsgen.data import series as containers
from tsgen.data.fingerprint import fingerprint
from tsgen.data.masks import AnyOf, BlockMask, HistoricalMask, PointMask, ValueMask
from tsgen.data.moments import RunningMoments
from tsgen.data.series import GraphSeries, SeriesSpec
from tsgen.data.stored_series import StoredSeries
from tsgen.datamodules import FilesDataModule
from tsgen.evaluation.table import as_dataset
from tsgen.sampling import Exact

STEPS = 120
MASK = AnyOf([PointMask(0.1), BlockMask(0.02, 3, 9)])


def in_memory(covariates: bool = True) -> GraphSeries:
    """Five nodes, two channels, a third of the entries missing."""
    random = torch.Generator().manual_seed(6)
    values = torch.randn(STEPS, 5, 2, generator=random).cumsum(dim=0) + 100
    observed = torch.rand(values.shape, generator=random) < 2 / 3
    known = torch.randn(STEPS, 5, 3, generator=random) if covariates else None
    time = np.datetime64("2024-01-01", "ns") + np.arange(STEPS).astype("timedelta64[h]")
    return GraphSeries(
        values.masked_fill(~observed, torch.nan),
        observed,
        directed_graph(),
        known,
        time,
        list("abcde"),
        ["flow", "speed"],
        ["m³/s", "m/s"],
    )


@pytest.fixture
def path(tmp_path):
    in_memory().to_xarray().to_netcdf(tmp_path / "series.nc")
    return tmp_path / "series.nc"


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of 7 steps, so that a small series has many."""
    monkeypatch.setattr(containers, "CHUNK_NUMBERS", 7 * 5 * 5)


def same(a: GraphSeries, b: GraphSeries) -> bool:
    """Whether two series in memory are the same."""
    return a.to_xarray().identical(b.to_xarray())


def test_all_that_is_read_is_what_was_written(path, small_parts):
    whole, stored = in_memory(), StoredSeries(path)
    assert (len(stored), stored.sizes) == (STEPS, (5, 2, 3))
    assert repr(stored) == f"StoredSeries({str(path)!r}, steps=120, nodes=5, channels=2, covariates=3)"
    assert same(stored.chunk(slice(None)), whole) and same(
        stored.chunk(slice(30, 50)), whole.chunk(slice(30, 50))
    )
    assert stored.to_xarray().identical(whole.to_xarray())
    stretches = [slice(0, 20), slice(40, None)]
    parts = [*stored.chunks(stretches)]
    assert [len(part) for part in parts] == [7, 7, 6, *11 * [7], 3]
    assert all(same(a, b) for a, b in zip(parts, whole.chunks(stretches), strict=True))
    nothing = torch.nn.Module()
    assert fingerprint(nothing, stored) == fingerprint(nothing, whole)
    whole.values[50, whole.observed[50, :, 0], 0] += 1
    assert fingerprint(nothing, stored) != fingerprint(nothing, whole)


def test_windows_are_those_of_the_series_in_memory(path):
    starts, nodes = torch.tensor([5, 0, 96]), torch.tensor([3, 0])
    whole, stored = in_memory(), StoredSeries(path)
    for series in (stored, pickle.loads(pickle.dumps(stored))):
        windows, wanted = series.windows(starts, 24), whole.windows(starts, 24)
        for name in ("values", "context", "target", "position", "covariates"):
            torch.testing.assert_close(
                getattr(windows, name), getattr(wanted, name), equal_nan=True, rtol=0, atol=0
            )
        assert torch.equal(series.observed_in(starts, 24, nodes), wanted.context[:, :, nodes])


def test_units_are_those_of_all_steps_at_once(path, small_parts):
    series, fit_on = in_memory(), [slice(0, 50), slice(60, 90)]
    inside = torch.zeros(STEPS, dtype=torch.bool)
    for stretch in fit_on:
        inside[stretch] = True
    seen = series.observed & inside[:, None, None]
    values = torch.where(seen, series.values, torch.nan).double().numpy()
    for spec in (SeriesSpec.of(series, fit_on), SeriesSpec.of(StoredSeries(path), fit_on)):
        np.testing.assert_allclose(spec.loc, np.nanmean(values, axis=0), rtol=1e-6)
        np.testing.assert_allclose(spec.scale, np.nanstd(values, axis=0), rtol=1e-6)
        known = series.covariates[inside].double().flatten(0, 1)
        torch.testing.assert_close(spec.covariate_loc.double(), known.mean(dim=0), rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(
            spec.covariate_scale.double(), known.std(dim=0, correction=0), rtol=1e-6, atol=0
        )


def test_moments_of_parts_are_those_of_the_whole_far_from_zero():
    random = torch.Generator().manual_seed(0)
    numbers = 1e8 + torch.randn(1000, 3, 2, generator=random, dtype=torch.float64)
    seen = torch.rand(numbers.shape, generator=random) < 0.5
    seen[:, 2, 1], seen[:400] = False, False
    moments = RunningMoments()
    for first in range(0, 1000, 90):
        moments.add(
            numbers[first : first + 90].masked_fill(~seen[first : first + 90], torch.nan),
            seen[first : first + 90],
        )
    own = np.where(seen, numbers, np.nan)
    np.testing.assert_allclose(moments.deviation[:2], np.nanstd(own, axis=0)[:2], rtol=1e-6)
    np.testing.assert_allclose(moments.pooled().deviation, np.nanstd(own, axis=(0, 1)), rtol=1e-6)
    np.testing.assert_allclose(moments.pooled().mean, np.nanmean(own, axis=(0, 1)), rtol=1e-14)
    assert moments.count[2, 1] == moments.deviation[2, 1] == 0


def batches(module: FilesDataModule) -> list[torch.Tensor]:
    """All that a model is given for training, validation, test and prediction."""
    loaders = (
        module.train_dataloader(),
        module.val_dataloader(),
        module.test_dataloader(),
        module.predict_dataloader(),
    )
    return [
        tensor
        for loader in loaders
        for batch in loader
        for tensor in (
            batch.position,
            batch.context,
            batch.target,
            batch.values.where(batch.context | batch.target, 0),
        )
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"thinning": PointMask(0.2), "num_workers": 2},
        {"thinning": HistoricalMask()},
        {"thinning": ValueMask(), "horizon": 4},
    ],
    ids=["workers", "gaps replayed", "forecast"],
)
def test_a_model_is_given_the_same_batches(path, options):
    whole, stored = (
        FilesDataModule(path, window=8, batch_size=5, held_out=MASK, seed=3, in_memory=held, **options)
        for held in (True, False)
    )
    assert isinstance(stored.split.series, StoredSeries) and stored.spec.difference(whole.spec) is None
    ours, theirs = batches(stored), batches(whole)
    assert len(ours) > 50 and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_draws_are_those_of_the_series_in_memory(tmp_path):
    whole = in_memory(covariates=False)
    whole.to_xarray().to_netcdf(tmp_path / "series.nc")
    stored = StoredSeries(tmp_path / "series.nc")
    model = GraphVAR(SeriesSpec.of(stored), order=1, sampler=Exact(num_samples=3))
    for answer in (
        lambda series: impute(model, series, window=30, overlap=6),
        lambda series: forecast(model, series, horizon=5, window=20),
    ):
        assert answer(stored).identical(answer(whole))


def test_one_channel_needs_no_dimension_and_several_may_be_variables(tmp_path):
    data = in_memory().to_xarray()
    plane = data["values"].isel(channel=0, drop=True)
    flat = data.drop_vars(["values", "observed", "channel", "unit"]).assign(values=plane)
    flat.to_netcdf(tmp_path / "one.nc")
    one = StoredSeries(tmp_path / "one.nc", units=["m"])
    assert (one.channels, one.units) == (["values"], ["m"])
    torch.testing.assert_close(one.values[..., 0], in_memory().values[..., 0], equal_nan=True)
    several = flat.drop_vars("values").assign(
        speed=data["values"][..., 1].drop_vars(["channel", "unit"]), flow=plane
    )
    several["flow"].attrs["units"] = "m³/s"
    packed = {"flow": {"dtype": "i2", "scale_factor": 0.01, "add_offset": 100.0, "_FillValue": -32768}}
    several.to_netcdf(tmp_path / "several.nc", encoding=packed)
    both = StoredSeries(tmp_path / "several.nc", ["flow", "speed"])
    assert (both.channels, both.units) == (["flow", "speed"], ["m³/s", ""])
    assert both.dtype == torch.float64  # of the packed one
    torch.testing.assert_close(both.values, in_memory().values.double(), equal_nan=True, rtol=0, atol=0.006)
    named = FilesDataModule(tmp_path / "several.nc", value_columns=["speed"], in_memory=False)
    assert named.split.series.channels == ["speed"]


def foreign(tmp_path):
    """A file of another origin: times as floats, names as characters, attributes that bound what is valid."""
    path = tmp_path / "foreign.nc"
    with netCDF4.Dataset(path, "w") as file:
        for name, size in (("time", 50), ("node", 2), ("edge", 1), ("letter", 5)):
            file.createDimension(name, size)
        time = file.createVariable("time", "f8", ("time",))
        time.units, time[:] = "days since 2024-01-01", np.arange(50) / 144  # every ten minutes
        names = file.createVariable("node", "S1", ("node", "letter"))
        names[:] = netCDF4.stringtochar(np.array([b"north", b"south"]))
        file.createVariable("edge_source", "i8", ("edge",))[:] = 0
        file.createVariable("edge_target", "i8", ("edge",))[:] = 1
        values = file.createVariable("values", "i2", ("time", "node"))
        values.set_auto_maskandscale(False)
        values.units, values.scale_factor, values.valid_range = "mm", np.float32(0.1), np.array([-5, 5], "i2")
        values[:] = np.arange(100).reshape(50, 2)
        values[7, 1] = -32767
    return path


def test_a_file_of_another_origin_is_the_same_in_memory_and_stored(tmp_path):
    whole, stored = (
        FilesDataModule(foreign(tmp_path), in_memory=held).split.series for held in (True, False)
    )
    assert (stored.channels, stored.units, stored.nodes) == (["values"], ["mm"], ["north", "south"])
    assert stored.to_xarray().identical(whole.to_xarray())


def test_the_graph_may_be_a_table(path, tmp_path):
    (tmp_path / "edges.csv").write_text("source,target\na,b\nb,e\n")
    graph = FilesDataModule(path, edges=tmp_path / "edges.csv", in_memory=False).split.series.graph
    assert graph.edge_index.tolist() == [[0, 1], [1, 4]]


def infinite(file):
    file["values"][71, 2, 1] = np.inf


def unknown(file):
    file["covariates"][71, 2, 1] = np.nan


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (infinite, "at step 71 and node 2 (counted from 0), one of 'values' is not"),
        (unknown, "at step 71 and node 2 (counted from 0), 'covariate_1' has none"),
    ],
)
def test_what_is_wrong_in_a_window_is_told_with_its_place(path, damage, message):
    with netCDF4.Dataset(path, "a") as file:
        damage(file)
    stored = StoredSeries(path)
    assert stored.windows(torch.tensor([0]), 71).values.shape == (1, 71, 5, 2)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        stored.windows(torch.tensor([60]), 24)
    assert "\n" not in str(caught.value)


REFUSED = {
    "no values": (lambda d: d.rename(values="numbers"), {}, "must have the variable 'values'"),
    "other order": (
        lambda d: d.assign(values=d["values"].transpose("node", "time", "channel")),
        {},
        "dimensions time, node, channel in this order",
    ),
    "text": (lambda d: d.assign(values=d["values"].astype(str)), {}, "must hold numbers"),
    "no graph": (
        lambda d: d.drop_vars("edge_source"),
        {},
        "must hold a graph in edge_source and edge_target",
    ),
    "irregular": (lambda d: d.isel(time=[0, 1, 3]), {}, "strictly increasing in equal steps"),
    "units": (lambda d: d, {"units": ["m"]}, "units must have 2 labels"),
    "renamed": (lambda d: d, {"time_column": "when"}, "time_column needs a series that is held in memory"),
    "step": (lambda d: d, {"step": "1h"}, "step needs a series that is held in memory"),
    "values": (lambda d: d, {"held_out": ValueMask()}, "ValueMask needs a series that is held in memory"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_by_windows_is_refused_in_one_line(case, tmp_path):
    change, options, message = REFUSED[case]
    change(in_memory().to_xarray()).to_netcdf(tmp_path / "series.nc")
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        FilesDataModule(tmp_path / "series.nc", in_memory=False, **options).split  # noqa: B018
    assert "\n" not in str(caught.value)


def test_tables_and_broken_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="in_memory must be true for tables"):
        FilesDataModule("a.csv", edges="b.csv", in_memory=False)
    (tmp_path / "a.nc").write_bytes(b"no netCDF")
    with pytest.raises(ValueError, match="cannot be read as netCDF"):
        StoredSeries(tmp_path / "a.nc")


def test_an_evaluation_knows_how_much_is_missing(path, small_parts):
    arrays = {"position": np.arange(8)[None], "truth": np.zeros((1, 8, 5, 2))}
    data: xr.Dataset = as_dataset(arrays, StoredSeries(path))
    missing = 1 - in_memory().observed.float().mean(dim=(0, 2))
    np.testing.assert_allclose(data["share_missing"], missing, atol=1e-6)
