"""A data frame in, a completed data frame out."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from tsgen import Forecaster, Imputer, load


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


def test_quantiles_and_intervals_are_frames():
    frame = frame_of()
    imputer = Imputer(num_samples=20).fit(frame)
    bands = imputer.quantiles(frame, [0.1, 0.5, 0.9])
    assert bands[0.1].columns.equals(frame.columns) and bands[0.1].index.equals(frame.index)
    pd.testing.assert_frame_equal(bands[0.5], imputer.transform(frame))
    gaps = frame.isna()
    assert (bands[0.1] <= bands[0.9]).all(axis=None) and (bands[0.1] < bands[0.9])[gaps].sum().sum() > 0
    assert (bands[0.1] == bands[0.9])[~gaps].sum().sum() == (~gaps).sum().sum()
    lower, upper = imputer.interval(frame, level=0.8)
    pd.testing.assert_frame_equal(lower, bands[0.1])
    pd.testing.assert_frame_equal(upper, bands[0.9])


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
    graph = Imputer(edges=edges).fit(frame).graph_
    assert [[names[v] for v in ends] for ends in graph.edge_index.tolist()] == [
        ["north", "east"],
        ["deep", "west"],
    ]
    places = pd.DataFrame({"latitude": [50.0, 51, 52, 53], "longitude": [9.0, 9, 9, 9]}, index=[*frame])
    places.index.name = "station"
    graph = Imputer(coordinates=places).fit(frame).graph_
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
    "no numbers": (lambda f: f.astype(str), "'north' holds"),
    "objects": (lambda f: f.astype(object), "'north' holds object"),
    "no columns": (lambda f: f[[]], "0 feature"),
    "no rows": (lambda f: f.iloc[:0], "0 sample"),
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
        Imputer(coordinates=frame, edges=frame).fit(frame)
    with pytest.raises(ValueError, match="level"):
        fitted.interval(frame, 90.0)
    with pytest.raises(ValueError, match="num_samples"):
        fitted.sample(frame, 0)


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize(
    "options",
    [
        *({"minutes": -1}, {"minutes": float("nan")}, {"minutes": "5"}, {"minutes": True}),
        *({"num_samples": 0}, {"num_samples": 2.5}, {"seed": -1}, {"support": "positiv"}),
    ],
    ids=str,
)
def test_mistakes_in_parameters_are_found_by_fit(options):
    imputer = Imputer(**options)  # the constructor checks nothing
    with pytest.raises(ValueError, match=next(iter(options))) as error:
        imputer.fit(frame_of())
    assert "\n" not in str(error.value)


def test_a_constant_column_and_integers_beyond_floating_point():
    frame = frame_of()
    frame["same"] = 7.0
    frame.iloc[3:6, 4] = np.nan
    filled = Imputer(num_samples=5).fit_transform(frame)
    assert np.isfinite(filled).all(axis=None) and (abs(filled["same"] - 7) < 0.5).all()
    large = frame_of().round().astype("Int64") + 2**60 + 1
    filled = Imputer(num_samples=3).fit_transform(large)
    there = large.notna()
    assert (filled[there].fillna(0) == large.fillna(0)).all(axis=None)


def test_the_number_of_draws_and_what_is_observed():
    frame = frame_of()
    imputer = Imputer(num_samples=5).fit(frame)
    draws = imputer.sample(frame, 7)
    assert draws.sizes["sample"] == 7
    assert (draws["observed"].values == frame.notna().to_numpy()).all()
    series = imputer.series(frame)
    assert series.nodes == imputer.nodes_ and len(series) == len(frame)


def test_a_score_is_higher_where_values_are_easier_to_impute():
    generator = np.random.default_rng(0)
    common = generator.normal(size=(120, 1)).cumsum(axis=0)
    alike, alone = (pd.DataFrame(common + generator.normal(0, s, (120, 4))) for s in (0.1, 30))
    easy, hard = (Imputer(num_samples=20).fit(f[:80]).score(f[80:]) for f in (alike, alone))
    assert hard < easy < 0 and easy > -0.3


@pytest.mark.parametrize("estimator", [Imputer(num_samples=5), Forecaster(horizon=3, num_samples=5)])
@pytest.mark.parametrize("support", ["auto", "positive"])
@pytest.mark.parametrize("channels", [1, 2])
def test_what_is_saved_draws_the_same(estimator, support, channels, tmp_path):
    values = np.exp(np.random.default_rng(0).normal(size=(50, 3, channels)))
    values[5:9, 1] = np.nan
    names = ["a", "b"][:channels]
    data = xr.DataArray(values, dims=("time", "node", "channel"), coords={"channel": names})
    fitted = type(estimator)(**estimator.get_params() | {"support": support}).fit(data)
    fitted.save(tmp_path / "fitted.ckpt")
    loaded = type(estimator).load(tmp_path / "fitted.ckpt")
    xr.testing.assert_identical(loaded.sample(data), fitted.sample(data))
    params = loaded.get_params(), fitted.get_params()
    assert params[0] == params[1] and loaded.n_features_in_ == fitted.n_features_in_
    xr.testing.assert_identical(pickle.loads(pickle.dumps(fitted)).sample(data), fitted.sample(data))
    other = Forecaster if isinstance(estimator, Imputer) else Imputer
    with pytest.raises(ValueError, match=f"a saved {other.__name__}"):
        other.load(tmp_path / "fitted.ckpt")
    # the weights in it are a model that adapts
    assert load(tmp_path / "fitted.ckpt").adapts


def test_other_checkpoints_are_refused_in_one_line(tmp_path):
    imputer = Imputer(num_samples=2).fit(frame_of())
    imputer.save(tmp_path / "whole.ckpt")
    content = torch.load(tmp_path / "whole.ckpt", weights_only=True)
    for part in ("adaptation", "graph", "nodes", "params"):
        broken = {**content, "estimator": {k: v for k, v in content["estimator"].items() if k != part}}
        torch.save(broken, tmp_path / "broken.ckpt")
        with pytest.raises(ValueError, match="saved Imputer") as error:
            Imputer.load(tmp_path / "broken.ckpt")
        assert "\n" not in str(error.value)
    process = content["estimator"]["adaptation"]["process"]
    process["covariance"] = process["covariance"][:, :2]
    torch.save(content, tmp_path / "broken.ckpt")
    with pytest.raises(ValueError, match="belong to its weights"):
        Imputer.load(tmp_path / "broken.ckpt")
    with pytest.raises(ValueError, match="no such file"):
        Imputer.load(tmp_path / "none.ckpt")
    with pytest.raises(ValueError, match="call fit"):
        Imputer().save(tmp_path / "x.ckpt")


@pytest.mark.parametrize(("steps", "nodes"), [(30, 3), pytest.param(1000, 50, marks=pytest.mark.slow)])
def test_the_program_of_a_newcomer(steps, nodes):
    generator = np.random.default_rng(1)
    values = generator.normal(size=(steps, 1)).cumsum(axis=0) + generator.normal(0, 0.5, (steps, nodes))
    values[generator.random(values.shape) < 0.2] = np.nan
    df = pd.DataFrame(values, pd.date_range("2024", periods=steps, freq="h"))
    stations = pd.DataFrame(
        {
            "node": df.columns,
            "latitude": 50 + generator.random(nodes),
            "longitude": 10 + generator.random(nodes),
        }
    )
    imputer = Imputer(coordinates=stations).fit(df)
    filled = imputer.transform(df)
    lower, upper = imputer.interval(df, level=0.9)
    seen = ~np.isnan(values)
    for result in (filled, lower, upper):
        assert result.to_numpy()[seen].tobytes() == values[seen].tobytes() and np.isfinite(result).all(
            axis=None
        )
        assert result.index.equals(df.index) and result.columns.equals(df.columns)
    assert (lower.to_numpy() < upper.to_numpy())[~seen].mean() > 0.99
