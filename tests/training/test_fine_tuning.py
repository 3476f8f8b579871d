"""Some seconds of training on one series."""

import time

import pytest
import torch
from conftest import make_series

from tsgen.imputer import weights_for
from tsgen.training.fine_tuning import fine_tuned


@pytest.mark.parametrize("channels", [1, 2])
def test_a_copy_of_the_weights_is_trained_for_the_time(channels):
    series = make_series(steps=60, channels=channels, covariates=0)
    model = weights_for(series)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    began = time.monotonic()
    trained = fine_tuned(model, series, 0.03)
    assert 1.5 < time.monotonic() - began < 15
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert trained.adapts and trained.window == model.window and not trained.training
    changed = [name for name, x in trained.named_parameters() if not torch.equal(x, before[name])]
    assert len(changed) > len(before) / 2
    assert all(torch.isfinite(x).all() for x in trained.state_dict().values())


def test_values_that_are_not_observed_are_not_read():
    series = make_series(steps=60, channels=1, covariates=0)
    trained = fine_tuned(weights_for(series), series, 0.01)  # they are NaN
    assert all(torch.isfinite(x).all() for x in trained.parameters())


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan")])
def test_the_time_is_positive(minutes):
    series = make_series(steps=60, channels=1, covariates=0)
    with pytest.raises(ValueError, match="minutes must be positive"):
        fine_tuned(weights_for(series), series, minutes)
