"""Baselines: their laws are those of their definitions, read the context alone and are calibrated."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import Normal
from torch_geometric.data import Data

from tsgen.data.series import GraphSeries
from tsgen.datamodules import SyntheticDataModule
from tsgen.evaluation import baselines as module
from tsgen.evaluation.baselines import (
    BASELINES,
    Climatology,
    GaussianRegression,
    LinearInterpolation,
    NetworkMean,
    fit_baselines,
    phases,
)
from tsgen.metrics import law_crps

STEPS, NODES = 900, 4


def of_values(values, observed=None, time=()) -> GraphSeries:
    values = torch.as_tensor(values)
    observed = torch.ones_like(values, dtype=torch.bool) if observed is None else observed
    graph = Data(edge_index=torch.tensor([[0], [min(1, values.shape[1] - 1)]]), num_nodes=values.shape[1])
    return GraphSeries(values, observed, graph, time=time)


def random_series(seed: int = 0, channels: int = 2) -> GraphSeries:
    """Two channels of a slowly varying network with different units, a tenth missing, in hours of dates."""
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(STEPS, NODES + 1, channels, generator=g)
    x = [noise[0]]
    for shock in noise[1:]:
        x.append(0.8 * x[-1] + 0.6 * shock)
    x = torch.stack(x)
    x = 0.8 * x[:, :1] + 0.6 * x[:, 1:]
    x = x + torch.sin(2 * math.pi * torch.arange(STEPS) / 24)[:, None, None]
    x = 10 + torch.tensor([1.0, 50.0, 3.0, 0.2])[:, None] * x
    observed = torch.rand(x.shape, generator=g) < 0.9
    time = np.datetime64("2020-01-01T00") + np.arange(STEPS).astype("timedelta64[h]")
    return of_values(x, observed, time)


def windows_of(series: GraphSeries, window: int = 30, seed: int = 1):
    """Windows that cover the series, with a third of the entries, some runs and whole slices hidden."""
    batch = series.windows(torch.arange(0, len(series) - window + 1, window), window)
    g = torch.Generator().manual_seed(seed)
    hidden = torch.rand(batch.context.shape, generator=g) < 0.3
    hidden[:, 5:9] = True
    hidden[:, 12:25, 0] = True
    return batch._changed(context=batch.context & ~hidden, target=batch.context)


@pytest.fixture(params=list(BASELINES))
def kind(request):
    return BASELINES[request.param]


def test_a_law_reads_the_context_alone(kind):
    series = random_series()
    batch, fitted = windows_of(series), kind.fit(series)
    law = fitted.law(batch)
    assert law.mean.shape == batch.values.shape and law.mean.dtype == torch.float64
    assert law.mean.isfinite().all() and (law.stddev > 0).all()
    poisoned = fitted.law(batch._changed(values=batch.values.where(batch.context, torch.nan)))
    torch.testing.assert_close(poisoned.mean, law.mean, rtol=0, atol=0)
    torch.testing.assert_close(poisoned.stddev, law.stddev, rtol=0, atol=0)


def test_a_baseline_is_fitted_on_what_is_observed_in_the_stretches_alone(kind):
    series, stretches = random_series(), [slice(0, 300), slice(500, 800)]
    inside = torch.zeros(STEPS, dtype=torch.bool)
    for stretch in stretches:
        inside[stretch] = True
    other = replace(
        series,
        values=torch.where(inside[:, None, None] & series.observed, series.values, 1e3),
        observed=series.observed | ~inside[:, None, None],
    )
    batch = windows_of(series)
    law, same = kind.fit(series, stretches).law(batch), kind.fit(other, stretches).law(batch)
    torch.testing.assert_close(same.mean, law.mean, rtol=0, atol=0)
    torch.testing.assert_close(same.stddev, law.stddev, rtol=0, atol=0)
    assert not torch.equal(kind.fit(other).law(batch).mean, law.mean)


def test_a_law_follows_a_change_of_units(kind):
    series = random_series()
    factor, shift = torch.tensor([[3.0, 0.01]]), torch.tensor([[100.0, -7.0]])
    changed = replace(series, values=shift + factor * series.values.double())
    batch = windows_of(series)
    law, other = kind.fit(series).law(batch), kind.fit(changed).law(windows_of(changed))
    torch.testing.assert_close(other.mean, shift + factor * law.mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(other.stddev, factor * law.stddev, rtol=1e-4, atol=1e-6)


def test_a_law_is_calibrated_and_better_than_that_of_the_node(kind):
    series = random_series()
    batch = windows_of(random_series(5))
    law = kind.fit(series).law(batch)
    truth, hidden = batch.values.double(), batch.hidden
    below = law.cdf(torch.where(hidden, truth, law.mean))[hidden]
    covered = float(((below > 0.05) & (below < 0.95)).double().mean())
    assert 0.82 < covered < 0.97 and below.mean() == pytest.approx(0.5, abs=0.05)
    fitted = module.Fitted(series)
    node = Normal(fitted.loc.expand_as(law.mean), fitted.scale.expand_as(law.mean))
    scored, plain = (
        law_crps(which, truth)[hidden] / fitted.scale.expand_as(truth)[hidden] for which in (law, node)
    )
    assert float(scored.mean()) < 0.97 * float(plain.mean())


def test_unusual_nodes_have_a_law(kind):
    series = random_series()
    values, observed = series.values.clone(), series.observed.clone()
    values[:, 1], observed[:, 2] = 7.0, False  # a constant node and a silent one
    series = replace(series, values=values, observed=observed)
    batch = windows_of(series)
    law = kind.fit(series).law(batch)
    assert law.mean.isfinite().all() and (law.stddev > 0).all() and law.stddev.isfinite().all()
    assert (law.mean[:, :, 1] - 7).abs().max() < 1
    assert torch.isfinite(law.log_prob(torch.where(batch.target, batch.values, 7.0).double())).all()
    empty = batch._changed(context=torch.zeros_like(batch.context))
    assert kind.fit(series).law(empty).mean.isfinite().all()


@pytest.mark.parametrize(("steps", "nodes"), [(1, 3), (2, 1), (40, 1), (30, 60)])
def test_small_series_have_a_law(kind, steps, nodes):
    values = torch.randn(steps, nodes, 1, generator=torch.Generator().manual_seed(2))
    series = of_values(values)
    law = kind.fit(series).law(series.windows(torch.zeros(1, dtype=torch.int64), steps))
    assert law.mean.isfinite().all() and (law.stddev > 0).all()


def test_the_interpolation_is_the_line_and_its_spread_that_of_a_walk():
    g = torch.Generator().manual_seed(3)
    series = of_values(torch.randn(20_000, 1, 1, generator=g).double().cumsum(dim=0))
    fitted = LinearInterpolation.fit(series)
    batch = series.windows(torch.tensor([500]), 12)
    context = torch.zeros_like(batch.context)
    context[0, [2, 8]] = True
    law = fitted.law(batch._changed(context=context))
    first, last = batch.values[0, 2], batch.values[0, 8]
    torch.testing.assert_close(law.mean[0, 5], (first + last) / 2)
    torch.testing.assert_close(law.mean[0, :2], first.expand(2, 1, 1)[:, 0].view(2, 1, 1))
    # steps of variance 1, far below the variance of the node
    deviation = law.stddev[0, :, 0, 0]
    assert deviation[5] == pytest.approx(math.sqrt(3 * 3 / 6), rel=0.02)
    assert deviation[3] == pytest.approx(math.sqrt(1 * 5 / 6), rel=0.02)
    assert deviation[11] == pytest.approx(math.sqrt(3), rel=0.02)
    assert (fitted.law(batch._changed(context=torch.zeros_like(context))).stddev == fitted.scale).all()


def test_the_spread_of_an_interpolation_is_at_most_that_of_the_node():
    series = of_values(torch.randn(5000, 2, 1, generator=torch.Generator().manual_seed(4)))
    fitted = LinearInterpolation.fit(series)
    assert (fitted.law(windows_of(series)).stddev <= fitted.scale + 1e-12).all()
    torch.testing.assert_close(fitted.step_variance, torch.full((2, 1), 2.0).double(), rtol=0.05, atol=0)


def test_a_node_without_consecutive_values_has_the_steps_of_the_network():
    series = random_series()
    observed = series.observed.clone()
    observed[::2, 3] = False
    variance = LinearInterpolation.fit(replace(series, observed=observed)).step_variance
    torch.testing.assert_close(variance[3], variance[:3].mean(dim=0), rtol=0.03, atol=0)


def test_the_network_mean_is_a_regression_on_the_other_nodes():
    g = torch.Generator().manual_seed(6)
    common, own = torch.randn(8000, 1, 1, generator=g), torch.randn(8000, 3, 1, generator=g)
    series = of_values(5 + torch.tensor([1.0, 10.0, 2.0])[:, None] * (0.8 * common + 0.6 * own))
    fitted = NetworkMean.fit(series)
    # the mean of two others has variance (1 + 0.64) / 2 and covariance 0.64 with the third
    slope, residual = 0.64 / 0.82, math.sqrt(1 - 0.64**2 / 0.82)
    np.testing.assert_allclose(fitted.slope[:, 0], 3 * [slope], atol=0.03)
    np.testing.assert_allclose(fitted.deviation[:, 0], 3 * [residual], atol=0.03)
    batch = windows_of(series)
    law = fitted.law(batch)
    z = ((batch.values - fitted.loc) / fitted.scale).where(batch.context, 0)
    only = batch.context[..., 0].sum(dim=-1).eq(1) & batch.context[..., 1, 0]
    assert only.any()
    expected = 5 + 1.0 * slope * z[..., 1, 0][only]
    torch.testing.assert_close(law.mean[..., 0, 0][only], expected, rtol=0, atol=0.15)
    nothing = ~batch.context[..., 0].any(dim=-1)
    otherwise = fitted.climatology.law(batch)
    torch.testing.assert_close(law.mean[nothing], otherwise.mean[nothing])
    torch.testing.assert_close(law.stddev[nothing], otherwise.stddev[nothing])


def test_the_climatology_is_that_of_the_hour():
    series = random_series()
    fitted, batch = Climatology.fit(series), windows_of(series)
    law = fitted.law(batch)
    hour = torch.arange(STEPS) % 24
    values, seen = series.values[hour == 6, 1, 0].double(), series.observed[hour == 6, 1, 0]
    found = law.mean[:, :, 1, 0][batch.position % 24 == 6]
    assert (found == found[0]).all() and len(found) > 20
    # ten pseudo-values at the mean of the node
    expected = (values[seen].sum() + 10 * fitted.loc[1, 0]) / (seen.sum() + 10)
    assert found[0] == pytest.approx(float(expected), rel=1e-9)
    assert fitted.mean.std(dim=0).min() > 0.3


def test_phases_are_hours_months_or_one():
    days = np.datetime64("2020-01-01") + np.arange(1200).astype("timedelta64[D]")
    assert phases(days)[:60].tolist() == 31 * [0] + 29 * [1]
    assert phases(days[:700]).unique().tolist() == [0]  # less than two years
    hours = np.datetime64("2020-01-01T22:30") + 10 * np.arange(20).astype("timedelta64[m]")
    assert phases(hours).tolist() == 3 * [22] + 6 * [23] + 6 * [0] + 5 * [1]
    assert phases(np.arange(5000)).unique().tolist() == [0]
    assert phases(days[:1]).tolist() == [0]


def test_the_regression_on_linear_data_is_nearly_exact():
    data = SyntheticDataModule(num_nodes=6, steps=4000, window=24, batch_size=8)
    series, batch = data.split.series, windows_of(data.split.series.chunk(slice(3400, 4000)), 24)
    batch = batch._changed(position=batch.position + 3400)
    fitted, _ = fit_baselines(series, [slice(0, 3400)])
    hidden, exact = batch.hidden, data.exact.posterior(batch)
    truth = batch.values.double()
    crps = {name: float(law_crps(one.law(batch), truth)[hidden].mean()) for name, one in fitted.items()}
    best = float(law_crps(exact, truth)[hidden].mean())
    # an exact law is not beaten, and two lags of a first-order process leave out next to nothing
    assert best < min(crps.values()) == crps["Gaussian regression"] < 1.05 * best


def test_long_series_are_fitted_in_parts(kind, monkeypatch):
    series = random_series()
    whole = kind.fit(series).law(windows_of(series))
    monkeypatch.setattr(module, "MAX_NUMBERS", 8 * 500)
    monkeypatch.setattr(module, "PARTS", 5)
    parts = module.Fitted(series).stretches
    assert len(parts) == 5 and sum(part.stop - part.start for part in parts) == 500
    assert parts[0].start == 0 and parts[-1].stop == STEPS
    part = kind.fit(series).law(windows_of(series))
    assert ((part.mean - whole.mean) / whole.stddev).abs().mean() < 0.2


def test_a_large_network_has_a_remark_instead_of_a_regression():
    series = of_values(torch.randn(20, 300, 1))
    fitted, remarks = fit_baselines(series)
    assert list(fitted) == [name for name in BASELINES if name != "Gaussian regression"]
    assert remarks == [
        "No row for Gaussian regression: it needs slices of at most 213 entries (nodes times channels); they "
        "have 300."
    ]
    assert GaussianRegression.fit(of_values(torch.randn(20, 200, 1))).stacked.lags == 1
