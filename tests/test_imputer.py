"""A data frame in, a completed data frame out."""

import numpy as np
import pandas as pd
import pytest

from tsgen import Imputer


def frame_of(steps=80, seed=0, **columns):
    """Three related columns and one without values, not in the order of their names."""
    generator = np.random.default_rng(seed)
    common = generator.normal(size=steps).cumsum()
    values = 50 + common[:, None] + generator.normal(0, 0.3, (steps, 4))
    values[generator.random((steps, 4)) < 0.2] = np.nan
    values[:, 3] = np.nan
    index = pd.date_range("2024-01-01", periods=steps, freq="h", tz="Europe/Berlin", name="when")
    return pd.DataFrame(values, index=index, columns=["north", "east", "west", "deep"])


def test_a_frame_comes_back_completed():
    frame = frame_of()
    before = frame.copy()
    imputer = Imputer(num_samples=20)
    filled = imputer.fit_transform(frame)
    pd.testing.assert_frame_equal(frame, before)
    assert filled.index.equals(frame.index) and filled.columns.equals(frame.columns)
    assert filled.index.name == "when" and np.isfinite(filled).all(axis=None)
    measured = frame.notna().to_numpy()
    assert (filled.to_numpy()[measured] == frame.to_numpy()[measured]).all()
    # the columns are not those of their neighbours in the alphabet
    draws = imputer.sample(frame)
    assert draws.dims == ("sample", "time", "node") and draws["node"].values.tolist() == [*frame.columns]
    np.testing.assert_array_equal(draws.median("sample").values[measured], frame.to_numpy()[measured])
    np.testing.assert_allclose(draws.median("sample").values, filled.to_numpy(), rtol=1e-9)


def test_quantiles_are_frames_side_by_side():
    frame = frame_of()
    imputer = Imputer(num_samples=20).fit(frame)
    bands = imputer.quantiles(frame, [0.1, 0.5, 0.9])
    assert bands[0.1].columns.equals(frame.columns) and bands.index.equals(frame.index)
    pd.testing.assert_frame_equal(bands[0.5], imputer.transform(frame))
    gaps = frame.isna()
    assert (bands[0.1] <= bands[0.9]).all(axis=None) and (bands[0.1] < bands[0.9])[gaps].sum().sum() > 0
    assert (bands[0.1] == bands[0.9])[~gaps].sum().sum() == (~gaps).sum().sum()


def test_another_frame_of_the_same_columns_is_imputed_by_the_fitted_model():
    first, second = frame_of(), frame_of(seed=1)[["east", "deep", "north", "west"]].iloc[:30]
    imputer = Imputer(num_samples=5).fit(first)
    model = imputer.model_
    filled = imputer.transform(second)
    assert imputer.model_ is model and [*filled] == [*second] and np.isfinite(filled).all(axis=None)


def test_absent_times_do_not_change_the_shape():
    frame = frame_of().drop(frame_of().index[[3, 4, 9]])
    filled = Imputer(num_samples=5).fit_transform(frame)
    assert filled.index.equals(frame.index) and np.isfinite(filled).all(axis=None)


@pytest.mark.parametrize(
    ("dtype", "kind"), [("Int64", "Int64"), ("Float64", "Float64"), ("float32", "float32")]
)
def test_types_of_columns_stay(dtype, kind):
    filled = Imputer(num_samples=5).fit_transform(frame_of().round().astype(dtype))
    assert {str(column) for column in filled.dtypes} == {dtype} and not filled.isna().any(axis=None)


def test_the_graph_is_that_of_the_tables():
    frame, names = frame_of(), ["deep", "east", "north", "west"]  # the order of the series
    edges = pd.DataFrame({"from": ["north", "east"], "to": ["deep", "west"], "weight": [2.0, 0.5]})
    graph = Imputer().fit(frame, edges=edges).graph_
    assert [[names[v] for v in ends] for ends in graph.edge_index.tolist()] == [
        ["north", "east"],
        ["deep", "west"],
    ]
    places = pd.DataFrame({"latitude": [50.0, 51, 52, 53], "longitude": [9.0, 9, 9, 9]}, index=[*frame])
    places.index.name = "station"
    graph = Imputer().fit(frame, coordinates=places).graph_
    assert graph.pos[names.index("west")].tolist() == [9, 52]
    by_correlation = Imputer().fit(frame).graph_.edge_index
    assert {names[v] for v in by_correlation.unique().tolist()} == {"north", "east", "west"}


def test_monthly_periods_numbers_and_plain_indices():
    frame = frame_of()
    for index in (
        pd.period_range("2024-01-01", periods=80, freq="D"),
        pd.RangeIndex(80),
        np.arange(80) * 0.5,
    ):
        filled = Imputer(num_samples=3).fit_transform(frame.set_axis(index))
        assert np.isfinite(filled).all(axis=None)


MISTAKES = {
    "times in a column": (lambda f: f.reset_index(), "'when'.*set_index"),
    "text": (lambda f: f.astype({"north": object}).fillna({"north": "x"}), "'north'"),
    "infinite": (lambda f: f.fillna({"north": np.inf}), "row .* column 'north'"),
    "no value": (lambda f: f * np.nan, "all values are missing"),
    "one row": (lambda f: f.iloc[:1], "at least 2 times"),
    "twice": (lambda f: pd.concat([f, f.iloc[:1]]), "duplicate row"),
    "same names": (lambda f: f.set_axis(["a", "a", "b", "c"], axis=1), "2 columns 'a'"),
    "levels": (lambda f: f.stack(future_stack=True).to_frame("v"), "one level"),
    "irregular": (
        lambda f: f.set_axis(f.index[:-1].append(f.index[-1:] + pd.Timedelta("7min"))),
        "irregular",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_in_a_frame(name):
    change, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message) as error:
        Imputer(num_samples=2).fit(change(frame_of()))
    assert "\n" not in str(error.value)


def test_mistakes_in_calls():
    frame = frame_of()
    with pytest.raises(ValueError, match="call fit"):
        Imputer().transform(frame)
    fitted = Imputer(num_samples=2).fit(frame)
    with pytest.raises(ValueError, match="columns of fit"):
        fitted.transform(frame[["north", "east"]])
    with pytest.raises(ValueError, match="between 0 and 1"):
        fitted.quantiles(frame, [0.5, 1.0])
    with pytest.raises(ValueError, match="only one"):
        Imputer().fit(frame, coordinates=frame, edges=frame)
    for options in ({"minutes": -1}, {"minutes": float("nan")}, {"num_samples": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            Imputer(**options)
