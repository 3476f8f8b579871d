"""Estimators follow the conventions of scikit-learn, which need not be installed to use them."""

import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from tsgen import Forecaster, Imputer

pytest.importorskip("sklearn")

import sklearn
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

pytestmark = pytest.mark.usefixtures("as_a_user")

OBJECTS = "arrays of objects are refused: a number among them may be text, a date or a placeholder"
EXPECTED = {
    Imputer: {"check_dtype_object": OBJECTS},
    Forecaster: {
        "check_dtype_object": OBJECTS,
        "check_methods_sample_order_invariance": "rows are times, and a forecast depends on their order",
        "check_methods_subset_invariance": "a forecast follows all rows; one row has no step",
    },
}
"""Checks that an estimator does not pass, and why."""


def frame_of(steps=60, seed=0):
    generator = np.random.default_rng(seed)
    values = 50 + generator.normal(size=(steps, 1)).cumsum(axis=0) + generator.normal(0, 0.3, (steps, 3))
    values[generator.random((steps, 3)) < 0.2] = np.nan
    return pd.DataFrame(values, pd.date_range("2024", periods=steps, freq="h"), ["b", "c", "a"])


def array_of(frame):
    """An array of xarray, which is no data frame."""
    return xr.DataArray(frame.to_numpy(), {"node": list(frame)}, ("time", "node"))


@pytest.mark.parametrize("kind", EXPECTED)
def test_the_checks_of_scikit_learn(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a class that does not inherit from BaseEstimator
        results = check_estimator(
            kind(num_samples=3), expected_failed_checks=EXPECTED[kind], on_fail=None, on_skip=None
        )
    by_status = {
        status: {r["check_name"] for r in results if r["status"] == status}
        for status in ("passed", "failed", "xfail")
    }
    assert not by_status["failed"] and by_status["xfail"] == EXPECTED[kind].keys()
    assert len(by_status["passed"]) > 30


def test_clones_have_the_same_parameters_and_nothing_learned():
    frame = frame_of()
    stations = pd.DataFrame({"node": ["a", "b", "c"], "latitude": [50.0, 51, 52], "longitude": [9.0, 9, 9]})
    fitted = Imputer(stations, num_samples=3, support="positive").set_output(transform="pandas").fit(frame)
    copy = clone(fitted)
    assert not hasattr(copy, "model_")
    pd.testing.assert_frame_equal(copy.coordinates, stations)
    rest = {name: x for name, x in copy.get_params().items() if name != "coordinates"}
    assert rest == {"edges": None, "minutes": 0, "num_samples": 3, "seed": 0, "support": "positive"}
    # the kind of the output is copied, too
    assert isinstance(copy.fit_transform(array_of(frame)), pd.DataFrame)


def test_in_a_pipeline_and_with_frames_as_output():
    frame = frame_of()
    steps = make_pipeline(Imputer(num_samples=3), StandardScaler()).set_output(transform="pandas")
    scaled = steps.fit_transform(frame)
    assert list(scaled) == ["b", "c", "a"] and scaled.index.equals(frame.index)
    np.testing.assert_allclose(scaled.mean(), 0, atol=1e-9)
    assert list(steps.get_feature_names_out()) == ["b", "c", "a"]
    imputer = Imputer(num_samples=3).fit(frame.to_numpy())
    assert isinstance(imputer.transform(frame.to_numpy()), np.ndarray)
    framed = imputer.set_output(transform="pandas").transform(frame.to_numpy())
    assert list(framed) == ["x0", "x1", "x2"]
    with sklearn.config_context(transform_output="pandas"):
        assert list(Imputer(num_samples=3).fit_transform(frame.to_numpy())) == ["x0", "x1", "x2"]


def test_a_search_over_parameters():
    frame = frame_of(120)
    search = GridSearchCV(Imputer(num_samples=9), {"support": ["real", "positive"]}, cv=TimeSeriesSplit(2))
    search.fit(frame)
    scores = search.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all() and (scores < 0).all() and len(set(scores)) == 2
    assert search.best_params_["support"] == ["real", "positive"][int(scores.argmax())]
    assert np.isfinite(search.best_estimator_.transform(frame)).all(axis=None)


def test_before_fit_the_error_is_that_of_scikit_learn():
    for call in (Imputer().transform, Imputer().interval, Forecaster().predict):
        with pytest.raises(NotFittedError, match="call fit"):
            call(frame_of())


def test_scikit_learn_is_not_imported():
    code = "import sys, tsgen; tsgen.Imputer().get_params(); print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
