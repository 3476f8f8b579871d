"""Rubin's rules against worked numbers and exact cases, and draws as ArviZ reads them."""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import xarray as xr

import tsgen
from tsgen import AnyOrder, Imputer, impute
from tsgen.estimators import pool, to_datatree


def given(pairs):
    """The pooled result of estimates and variances."""
    return pool(lambda pair: pair, pairs)


def test_the_rules_by_hand():
    # m = 3: mean 2, within 2, between 1, total 2 + 4/3, r = 2/3, lambda = 0.4
    pooled = pool(lambda pair: pair, [(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)], degrees_of_freedom=20)
    assert float(pooled.estimate) == 2 and float(pooled.within) == 2 and float(pooled.between) == 1
    assert math.isclose(float(pooled.variance), 10 / 3)
    of_draws, of_data = 2 * 2.5**2, 21 / 23 * 20 * 0.6
    freedom = 1 / (1 / of_draws + 1 / of_data)
    assert math.isclose(float(pooled.degrees_of_freedom), freedom)
    assert math.isclose(float(pooled.missing_information), (2 / 3 + 2 / (freedom + 3)) / (5 / 3))
    lower, upper = pooled.interval(0.95)
    # tables of Student's law have 2.571 for 5 and 2.447 for 6 degrees of freedom
    assert 5 < freedom < 6 and 2.447 < float(upper - lower) / 2 / float(pooled.standard_error) < 2.571
    # Rubin's own degrees of freedom in a large sample
    assert math.isclose(float(given([(1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]).degrees_of_freedom), of_draws)


def test_draws_that_agree_leave_the_analysis_as_it_is():
    pooled = given([(np.array([1.0, 2.0]), np.array([0.1, 0.2]))] * 4)
    np.testing.assert_allclose(pooled.variance, [0.1, 0.2])
    assert np.isinf(pooled.degrees_of_freedom).all() and (pooled.missing_information == 0).all()


def test_intervals_of_a_mean_cover_as_often_as_they_say():
    # a third of normal values is missing; imputed from the exact posterior of mean and variance
    generator, covered, widths, count = np.random.default_rng(0), 0, [], 1000
    for _ in range(count):
        seen = generator.normal(size=20)

        def draw(seen=seen):
            variance = 19 * seen.var(ddof=1) / generator.chisquare(19)
            mean = generator.normal(seen.mean(), math.sqrt(variance / 20))
            return np.append(seen, generator.normal(mean, math.sqrt(variance), 10))

        pooled = pool(lambda x: (x.mean(), x.var(ddof=1) / 30), [draw() for _ in range(20)], 29)
        lower, upper = pooled.interval(0.9)
        covered += bool(lower < 0 < upper)
        widths.append(float(pooled.missing_information))
    assert abs(covered / count - 0.9) < 5 * math.sqrt(0.09 / count)
    assert 0.3 < np.mean(widths) < 0.5


def test_the_regression_of_the_docs_runs():
    page = (Path(__file__).parents[2] / "docs" / "estimators.md").read_text("utf-8")
    [code] = [block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "pool(" in block]
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 2)), columns=["x", "y"])
    frame.iloc[5:15, 1] = np.nan
    names = {"df": frame, "tsgen": tsgen, "imputer": Imputer().fit(frame)}
    exec(compile(code, "estimators.md", "exec"), names)
    assert names["pooled"].estimate.shape == (2,) and (names["pooled"].missing_information > 0).all()


def test_a_regression_on_imputed_columns():
    generator = np.random.default_rng(0)
    x = generator.normal(size=150).cumsum() / 3
    frame = pd.DataFrame({"x": x, "y": 1 + 2 * x + generator.normal(0, 0.5, 150)})
    frame.loc[generator.random(150) < 0.3, "y"] = np.nan
    imputer = Imputer().fit(frame)
    drawn = impute(imputer.model_, imputer.series(frame), 10, AnyOrder(groups=6), seed=0)
    draws = drawn["imputation"].isel(channel=0, drop=True)

    def fit(completed):
        table = completed.to_pandas()
        result = sm.OLS(table["y"], sm.add_constant(table["x"])).fit()
        return result.params, result.bse**2

    pooled = pool(fit, draws, degrees_of_freedom=148)
    lower, upper = pooled.interval(0.999)
    assert (lower < [1, 2]).all() and (upper > [1, 2]).all()
    assert (pooled.variance > pooled.within).all()
    assert ((pooled.missing_information > 0) & (pooled.missing_information < 1)).all()


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([(1.0, 1.0)], "at least 2"),
        ([(1.0, 0.0)] * 2, "positive"),
        ([(math.nan, 1.0)] * 2, "finite"),
        ([(np.ones(2), np.ones(2)), (np.ones(3), np.ones(3))], "one shape"),
        ([(1.0, 2.0, 3.0)] * 2, "two things"),
        ([1.0, 2.0], "others"),
        ([("a", "b")] * 2, "numbers"),
    ],
)
def test_mistakes(results, message):
    with pytest.raises(ValueError, match=message) as error:
        given(results)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="on draw 0 it raised ZeroDivisionError"):
        pool(lambda pair: 1 / 0, [1, 2])
    with pytest.raises(ValueError, match="degrees_of_freedom"):
        pool(lambda pair: pair, [(1.0, 1.0)] * 2, degrees_of_freedom=0)


def test_a_tree_of_draws():
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(30, 2)), columns=["a", "b"])
    frame.iloc[3:6, 0] = np.nan
    draws = Imputer(num_samples=5).fit(frame).sample(frame)
    tree = to_datatree(draws)
    assert set(tree.children) == {"posterior_predictive", "observed_data"}
    predicted, measured = tree["posterior_predictive"]["value"], tree["observed_data"]["value"]
    assert predicted.dims == ("chain", "draw", "time", "node") and predicted.sizes["draw"] == 5
    np.testing.assert_array_equal(predicted.values[0], draws.values)
    np.testing.assert_array_equal(measured.values, frame.to_numpy())
    with pytest.raises(ValueError, match="dimension sample"):
        to_datatree(xr.DataArray(np.zeros(3), dims="time"))
