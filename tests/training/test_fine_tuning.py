"""Some seconds of training on one series."""

import time

import pytest
import torch
from conftest import make_series

from tsgen.evaluation.selfcheck import TooLittleObservedError, hide_part
from tsgen.imputer import weights_for
from tsgen.models import AnyOrderModel
from tsgen.training import fine_tuning
from tsgen.training.fine_tuning import fine_tuned, loss_on


def example(channels=1):
    return make_series(steps=60, channels=channels, covariates=0)


def weights(model):
    return {name: x.clone() for name, x in model.state_dict().items()}


def same(one, other):
    return all(torch.equal(x, other[name]) for name, x in one.items())


@pytest.mark.parametrize("channels", [1, 2])
def test_a_copy_of_the_weights_is_trained(channels):
    series = example(channels)
    model = weights_for(series)
    before, began, seen = weights(model), time.monotonic(), []
    trained = fine_tuned(model, series, 0.03, report=seen.append)
    assert time.monotonic() - began < 60  # it may end early
    assert same(weights(model), before)
    assert trained.adapts and trained.window == model.window and not trained.training
    assert all(torch.isfinite(x).all() for x in trained.state_dict().values())
    best = [progress.best for progress in seen]
    assert best == sorted(best, reverse=True) and best[-1] <= seen[0].start
    assert same(weights(trained), before) == (best[-1] == seen[0].start)
    assert [progress.ended for progress in seen] == [False] * (len(seen) - 1) + [True]


def test_the_weights_with_the_lowest_loss_are_kept(monkeypatch):
    checks = []

    def recorded(model, batches):
        loss = loss_on(model, batches)
        checks.append((loss, [x.detach().clone() for x in model.parameters()]))
        return loss

    monkeypatch.setattr(fine_tuning, "loss_on", recorded)
    monkeypatch.setattr(fine_tuning, "PATIENCE", 1.0)  # the time ends it
    series = example()
    trained = fine_tuned(weights_for(series), series, 0.05)
    lowest = min(checks, key=lambda check: check[0])[1]
    assert len(checks) > 2
    assert all(torch.equal(x, y) for x, y in zip(trained.parameters(), lowest, strict=True))


def test_training_that_makes_it_worse_is_undone_and_ends(monkeypatch):
    monkeypatch.setattr(fine_tuning, "RATE", 30.0)
    monkeypatch.setattr(fine_tuning, "CHECKS", 10_000)
    monkeypatch.setattr(fine_tuning, "WARM_UP", 1e-9)
    monkeypatch.setattr(fine_tuning, "PATIENCE", 1e-3)
    series = example()
    model, began = weights_for(series), time.monotonic()
    trained = fine_tuned(model, series, 10.0)
    assert time.monotonic() - began < 60  # not ten minutes
    assert same(weights(trained), weights(model))


def test_training_helps_on_entries_that_it_did_not_see():
    series = make_series(steps=400, channels=1, covariates=0)
    series = series.with_observed(series.values.isfinite())
    # a law that the weights do not know: each value is one of two numbers
    generator = torch.Generator().manual_seed(0)
    coin = torch.rand(series.values.shape, generator=generator) < 0.5
    series.values = torch.where(coin, 3.0, -3.0) + 0.1 * torch.randn(coin.shape, generator=generator)
    seen = []
    fine_tuned(weights_for(series), series, 0.15, report=seen.append)
    assert seen[-1].best < seen[0].start - 1e-3


def test_the_loss_that_selects_is_that_of_entries_that_training_does_not_read(monkeypatch):
    series, read = example(), []
    folds = fine_tuning._Folds
    monkeypatch.setattr(
        fine_tuning, "_Folds", lambda shown, *rest: read.append(shown.observed) or folds(shown, *rest)
    )
    checks = []
    monkeypatch.setattr(
        fine_tuning, "loss_on", lambda model, batches: checks.append(batches) or loss_on(model, batches)
    )
    fine_tuned(weights_for(series), series, 0.01)
    [shown] = read
    scored, context = torch.zeros_like(shown), torch.zeros_like(shown)
    for batch in checks[0]:
        scored[batch.position] |= batch.target
        context[batch.position] |= batch.context
    assert torch.equal(scored, series.observed & ~shown) and scored.any()
    assert torch.equal(context, shown)
    # not what a check with the same seed has hidden
    assert not torch.equal(scored, hide_part(series, seed=0))


@pytest.mark.parametrize(("steps", "window"), [(2, 72), (7, 3), (60, 72), (500, 72), (20_000, 24)])
def test_folds_divide_the_series(steps, window):
    folds = fine_tuning.folds_of(steps, window)
    covered = sorted(step for fold in folds for stretch in fold for step in range(steps)[stretch])
    assert covered == list(range(steps)) and len(folds) == min(3, steps)
    # of a long series each fold has parts of early, middle and late times
    assert len(folds[0]) == (8 if steps == 20_000 else 1)


def test_windows_are_seen_through_a_process_that_was_fitted_to_other_folds(monkeypatch):
    fitted, seen, calls = {}, [], []
    fitted_to, fit_units = fine_tuning._fitted_to, AnyOrderModel.fit_units

    def recorded(model, series, folds):
        linear = fitted_to(model, series, folds)
        fitted[id(linear)] = {step for fold in folds for stretch in fold for step in range(60)[stretch]}
        return linear

    class Recorded(fine_tuning._BestWeights):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, index):
            seen.append((id(pl_module.linear), set(batch.position.flatten().tolist())))
            super().on_train_batch_end(trainer, pl_module, outputs, batch, index)

    monkeypatch.setattr(fine_tuning, "_fitted_to", recorded)
    monkeypatch.setattr(fine_tuning, "_BestWeights", Recorded)
    monkeypatch.setattr(AnyOrderModel, "fit_units", lambda *args: calls.append(1) or fit_units(*args))
    monkeypatch.setattr(fine_tuning, "STEPS", 1)
    series = example()
    fine_tuned(weights_for(series), series, 0.05)
    assert len({process for process, _ in seen}) == 3
    assert all(steps and not steps & fitted[process] for process, steps in seen)
    assert len(calls) == 3  # the trainer does not fit the process again


def test_values_that_are_not_observed_are_not_read():
    series = example()
    trained = fine_tuned(weights_for(series), series, 0.01)  # they are NaN
    assert all(torch.isfinite(x).all() for x in trained.parameters())


def test_too_little_to_hide_a_part(caplog):
    series = example()
    first = torch.zeros_like(series.observed)
    first[0] = True
    series = series.with_observed(first & series.observed)
    with pytest.raises(TooLittleObservedError, match="enough observed entries"):
        fine_tuned(weights_for(series), series, 0.01)
    with caplog.at_level("WARNING", "tsgen.imputer"):
        assert same(weights(weights_for(series, 0.01)), weights(weights_for(series)))
    assert "No training: the series must have enough observed entries" in caplog.text


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan")])
def test_the_time_is_positive(minutes):
    series = example()
    with pytest.raises(ValueError, match="minutes must be positive"):
        fine_tuned(weights_for(series), series, minutes)
