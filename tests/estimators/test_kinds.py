"""Every kind of data comes back as it came: kind, type, order, and measured values bit for bit."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from tsgen import Forecaster, Imputer

STEPS, NODES = 40, ["north", "east", "west"]


def values_of(channels=1):
    generator = np.random.default_rng(0)
    common = generator.normal(size=(STEPS, 1, channels)).cumsum(axis=0)
    values = 50 + common + generator.normal(0, 0.3, (STEPS, len(NODES), channels))
    values[generator.random(values.shape) < 0.2] = np.nan
    return values if channels > 1 else values[..., 0]


def wide():
    return pd.DataFrame(values_of(), pd.date_range("2024", periods=STEPS, freq="h"), NODES)


def with_times():
    return wide().rename_axis(index="time").reset_index()[["north", "time", "east", "west"]]


def long(channels=1):
    names = ["pm10", "no2"][:channels]
    times = pd.date_range("2024", periods=STEPS, freq="h")
    labels = {"time": times.repeat(len(NODES)), "node": NODES * STEPS}
    table = pd.DataFrame(labels | dict(zip(names, values_of(channels).reshape(-1, channels).T, strict=True)))
    return table.sample(frac=1, random_state=0)  # neither sorted nor numbered in order


def labelled(channels=1):
    dims = ("time", "node", "channel")[: 1 + (channels > 0) + (channels > 1)]
    coords = {"time": pd.date_range("2024", periods=STEPS, freq="h"), "node": NODES}
    if channels > 1:
        coords["channel"] = ["pm10", "no2"]
    return xr.DataArray(values_of(channels), coords, dims, name="air").transpose(*dims[::-1])


def polars_of(frame):
    return pytest.importorskip("polars").from_pandas(frame.reset_index(drop=True))


KINDS = {
    "wide": wide,
    "a column of times": with_times,
    "long": long,
    "long, two quantities": lambda: long(2),
    "array": values_of,
    "array in single precision": lambda: values_of().astype(np.float32),
    "array in another order": lambda: np.asfortranarray(values_of()),
    "DataArray": labelled,
    "DataArray with channels": lambda: labelled(2),
    "DataArray without coordinates": lambda: xr.DataArray(values_of(), dims=("time", "node")),
    "polars": lambda: polars_of(with_times()),
    "polars, long": lambda: polars_of(long(2)),
    "polars without times": lambda: polars_of(wide()),
}


def parts_of(data):
    """Its labels, and its numbers in rows."""
    if isinstance(data, np.ndarray):
        return (data.dtype, data.shape), data
    if isinstance(data, xr.DataArray):
        rest = {name: list(x.values) for name, x in data.coords.items()}
        return (data.dtype, data.dims, data.name, rest), data.values
    if not isinstance(data, pd.DataFrame):
        return (data.schema, data.shape), data.select(set(data.columns) - {"time", "node"}).to_numpy()
    numbers = data[[name for name in data if name not in ("time", "node")]]
    return (list(data.dtypes.items()), list(data.index), data.index.dtype), numbers.to_numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_is_completed(kind):
    data = KINDS[kind]()
    imputer = Imputer(num_samples=5).fit(data)
    lower, upper = imputer.interval(data)
    (labels, before), (again, untouched) = parts_of(data), parts_of(KINDS[kind]())
    assert labels == again and np.array_equal(before, untouched, equal_nan=True)
    seen = ~np.isnan(before)
    for result in (imputer.transform(data), lower, upper, imputer.quantiles(data, [0.3])[0.3]):
        assert type(result) is type(data) and parts_of(result)[0] == labels
        after = parts_of(result)[1]
        assert after[seen].tobytes() == before[seen].tobytes() and np.isfinite(after).all()
    assert (parts_of(lower)[1] < parts_of(upper)[1])[~seen].mean() > 0.9


@pytest.mark.parametrize("kind", ["a column of times", "long", "DataArray", "polars", "array"])
def test_the_kind_does_not_change_the_numbers(kind):
    drawn = Imputer(num_samples=5).fit(wide()).sample(wide())
    data = KINDS[kind]()
    other = Imputer(num_samples=5).fit(data).sample(data)
    assert other.dims == drawn.dims
    if kind != "array":  # whose nodes have other names, and another order
        xr.testing.assert_allclose(other.sel(node=NODES), drawn)
    np.testing.assert_array_equal(other["observed"].sum(), drawn["observed"].sum())


@pytest.mark.parametrize("kind", KINDS)
def test_forecasts_are_of_the_kind(kind):
    data = KINDS[kind]()
    forecaster = Forecaster(horizon=3, num_samples=5).fit(data)
    future, (lower, upper) = forecaster.predict(data), forecaster.interval(data)
    assert type(future) is type(data)
    low, middle, high = (parts_of(x)[1] for x in (lower, future, upper))
    assert (
        np.isfinite(middle).all() and (low < high).all() and (low <= middle).all() and (middle <= high).all()
    )
    times = pd.date_range("2024-01-02 16:00", periods=3, freq="h")
    if isinstance(future, xr.DataArray):
        assert future.dims == data.dims and future.sizes["time"] == 3
        found = future["time"].values
        times = times if "time" in data.coords else np.arange(STEPS, STEPS + 3)
        draws = forecaster.sample(data).median("sample")
        np.testing.assert_allclose(draws.values, future.transpose(*draws.dims).values)
    elif isinstance(future, np.ndarray):
        assert future.shape == (3, len(NODES)) and future.dtype == data.dtype
        return
    else:
        assert list(future.columns) == list(data.columns)
        if kind == "polars without times":
            return
        table = future if isinstance(future, pd.DataFrame) else future.to_pandas()
        found = table["time"].unique() if "time" in table else table.index
        assert table.shape[0] == 3 * (len(NODES) if "node" in table else 1)
    assert list(found) == list(np.asarray(times) if isinstance(found, np.ndarray) else times)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros(5), "two axes.*Reshape"),
        (np.zeros((5, 2, 2)), "two axes"),
        (np.full((5, 2), "a"), "must hold numbers"),
        (np.array([[1.0, None]] * 5, dtype=object), "astype"),
        (np.ma.masked_greater(np.arange(10.0).reshape(5, 2), 3), "without a mask"),
        (np.array([[1.0, np.inf], [2, 3]]), "row 0 .*'x1'.*infinite"),
        (np.ones((1, 3)), "at least 2 times"),
        (np.full((5, 2), np.nan), "all values are missing"),
        (xr.DataArray(np.zeros((5, 2)), dims=("t", "node")), "dimensions time and node"),
        (xr.DataArray(np.zeros((2, 3)), {"node": ["a", "a", "b"]}, ("time", "node")), "2 columns 'a'"),
        (pd.Series([1.0, 2.0]), "two axes"),
        (xr.Dataset(), "must be a data frame"),
        ("table.csv", "must be a data frame"),
        ([[1.0, 2.0], [3.0]], "must be a data frame"),
    ],
    ids=str,
)
def test_mistakes_in_data(data, message):
    with pytest.raises(ValueError, match=message) as error:
        Imputer(num_samples=2).fit(data)
    assert "\n" not in str(error.value)


def test_mistakes_in_tables():
    for change, message in (
        (lambda f: pd.concat([f, f.iloc[:1]]), "duplicate row"),
        (lambda f: f.assign(pm10="a"), "'pm10'.*not a number"),
        (lambda f: f[["time", "node"]], "no value column"),
        (lambda f: f.assign(node=None), "'node'"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            Imputer(num_samples=2).fit(change(long()))
        assert "\n" not in str(error.value)


def test_data_of_another_kind_can_be_imputed_if_its_nodes_are_those_of_fit():
    imputer = Imputer(num_samples=5).fit(wide())
    np.testing.assert_array_equal(
        imputer.transform(labelled()).transpose("time", "node"), imputer.transform(wide())
    )
    for other, message in ((wide()[NODES[:2]], "X has 2 features"), (long(2), "quantities|nodes")):
        with pytest.raises(ValueError, match=message) as error:
            imputer.transform(other)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"nodes of fit.*'north' is in one"):
        imputer.transform(wide().rename(columns={"north": "south"}))
