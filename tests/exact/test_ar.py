"""The autoregression against published numbers, statsmodels and dense conditioning on its autocovariances."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from statsmodels.regression.linear_model import yule_walker
from statsmodels.tsa.ar_model import AutoReg
from statsmodels.tsa.arima.model import ARIMA
from statsmodels.tsa.statespace.sarimax import SARIMAX
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from tsgen.exact.ar import ARProcess

REFERENCES = json.loads((Path(__file__).parents[1] / "ar_references.json").read_text())
PAGE = Path(__file__).parents[2] / "docs" / "ar.md"

nan = math.nan


def series_named(name: str) -> Tensor:
    raw = REFERENCES["series"][name.removeprefix("log10_")]
    values = torch.tensor([nan if x is None else x for x in raw], dtype=torch.float64)
    return values.log10() if name.startswith("log10_") else values


def make_process(order: int) -> ARProcess:
    """Different weights at every lag, and a mean far from zero."""
    return ARProcess([0.6, -0.5, 0.3, 0.1][:order], 2.1, 1.7)


def with_holes(y: Tensor, start: int = 0, seed: int = 0) -> Tensor:
    """The series with a third of its values missing, none of the first ``start``."""
    hidden = torch.rand(y.shape, generator=torch.Generator().manual_seed(seed)) < 1 / 3
    hidden[..., :start] = False
    return y.masked_fill(hidden, nan)


def response(process: ARProcess, steps: int) -> np.ndarray:
    """What a unit of noise is worth 0, 1, ... steps later: the weights psi of the moving average."""
    psi = np.zeros(steps)
    psi[0] = 1
    for j in range(1, steps):
        psi[j] = sum(float(phi) * psi[j - 1 - i] for i, phi in enumerate(process.coefficients) if i < j)
    return psi


def dense_law(process: ARProcess, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a stationary stretch, as a moving average of all noise that still matters."""
    psi, k = response(process, 3000), np.arange(steps)
    gamma = np.array([psi[: len(psi) - lag] @ psi[lag:] for lag in k]) * float(process.variance)
    mean = float(process.intercept) * psi.sum()
    return np.full(steps, mean), gamma[np.abs(k[:, None] - k)]


def given(law: tuple[np.ndarray, np.ndarray], values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of all entries given those that are not NaN."""
    (mean, covariance), known = law, np.isfinite(values)
    gain = np.linalg.solve(covariance[np.ix_(known, known)], covariance[known]).T
    return mean + gain @ (values - mean)[known], covariance - gain @ covariance[known]


def log_density(law: tuple[np.ndarray, np.ndarray], values: np.ndarray) -> float:
    """Of the entries that are not NaN."""
    known = np.isfinite(values)
    part, left = law[1][np.ix_(known, known)], (values - law[0])[known]
    squares = left @ np.linalg.solve(part, left)
    return -0.5 * (squares + np.linalg.slogdet(part)[1] + known.sum() * math.log(2 * math.pi))


def z_scores(draws: Tensor, mean: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard errors by which means and covariances of Gaussian draws [draw, entry] miss the truth."""
    count, variance = len(draws), np.diag(covariance)
    of_mean = (draws.mean(dim=0).numpy() - mean) / np.sqrt(variance / count)
    error = np.sqrt((np.outer(variance, variance) + covariance**2) / (count - 1))
    return of_mean, (np.cov(draws.numpy().T) - covariance) / error


def parameters(process: ARProcess) -> np.ndarray:
    return np.r_[process.coefficients, process.intercept, process.variance]


def intercept_first(x: Tensor | np.ndarray) -> np.ndarray:
    """Parameters or their errors in the order of statsmodels."""
    return np.r_[x[-2], x[:-2], x[-1]]


# ------------------------------------------------------------------------------------- published numbers


@pytest.mark.parametrize("fit", REFERENCES["conditional_fits"], ids=lambda f: f"{f['series']}-{f['order']}")
def test_conditional_fits_equal_the_published_ones(fit):
    found = ARProcess.fit(series_named(fit["series"]), fit["order"])
    expected = [*fit["coefficients"], fit["intercept"], fit["variance"]]
    np.testing.assert_allclose(parameters(found.process), expected, rtol=1e-8)
    assert found.log_likelihood == pytest.approx(fit["log_likelihood"], rel=1e-8)
    assert found.num_values == fit["num_values"]
    assert -found.log_likelihood / found.num_values == pytest.approx(fit["nll"], rel=1e-8)


@pytest.mark.parametrize("case", REFERENCES["posteriors"], ids=lambda c: f"AR{len(c['coefficients'])}")
def test_presidents_equal_the_published_answers(case):
    y, missing = series_named(case["series"]), case["missing"]
    intercept = case["mean"] * (1 - sum(case["coefficients"]))
    process = ARProcess(case["coefficients"], intercept, case["variance"])
    assert float(process.log_prob(y)) == pytest.approx(case["log_likelihood"], abs=1e-6)
    mean, variance = process.smooth(y)
    assert y.isnan().nonzero()[:, 0].tolist() == missing
    np.testing.assert_allclose(mean[missing], case["posterior_mean"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(variance[missing].sqrt(), case["posterior_scale"], rtol=0, atol=1e-6)
    assert torch.equal(mean[y.isfinite()], y[y.isfinite()]) and (variance[y.isfinite()] == 0).all()


# ------------------------------------------------------------------------------------------- statsmodels


@pytest.mark.parametrize(("name", "order"), [("lh", 1), ("lake_huron", 2), ("log10_lynx", 11)])
def test_conditional_fits_equal_statsmodels(name, order):
    y = series_named(name)
    found, expected = ARProcess.fit(y, order), AutoReg(y.numpy(), order).fit()
    assert found.log_likelihood == pytest.approx(expected.llf, rel=1e-10)
    assert found.aic == pytest.approx(expected.aic, rel=1e-10)
    assert found.bic == pytest.approx(expected.bic, rel=1e-10)
    np.testing.assert_allclose(intercept_first(found.standard_errors)[:-1], expected.bse, rtol=1e-8)
    # the information about the variance is n / (2 variance^2)
    assert float(found.standard_errors[-1]) == pytest.approx(
        float(found.process.variance) * math.sqrt(2 / found.num_values), rel=1e-8
    )


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("lh", 1),
        ("lh", 3),
        ("lake_huron", 2),
        ("log10_lynx", 2),
        ("log10_lynx", 11),
        ("presidents", 1),
        ("presidents", 3),
        ("simulated", 2),
    ],
)
def test_the_exact_maximum_is_no_lower_than_that_of_statsmodels(name, order):
    y = with_holes(make_process(2).sample(80, seed=5)[0]) if name == "simulated" else series_named(name)
    found = ARProcess.fit(y, order, "exact")
    expected = ARIMA(y.numpy(), order=(order, 0, 0)).fit(method_kwargs={"maxiter": 200, "pgtol": 1e-9})
    mean, phi, variance = np.split(expected.params, [1, 1 + order])
    assert found.process.is_stationary
    assert found.num_values == int(y.isfinite().sum())
    assert found.log_likelihood >= expected.llf - 1e-6
    theirs = np.r_[phi, mean * (1 - phi.sum()), variance]
    # a thousandth of a standard error is less than 1e-6 nats
    np.testing.assert_allclose(
        (parameters(found.process) - theirs) / found.standard_errors.numpy(), 0, atol=1e-3
    )
    np.testing.assert_allclose(found.process.coefficients, phi, rtol=0, atol=1e-4)
    # with the intercept as parameter their likelihood is the same function, so are its derivatives
    model = SARIMAX(y.numpy(), order=(order, 0, 0), trend="c")
    here = model.smooth(
        intercept_first(parameters(found.process)),
        cov_type="approx",
        cov_kwds={"approx_complex_step": True, "approx_centered": True},
    )
    assert found.log_likelihood == pytest.approx(here.llf, abs=1e-8)
    assert found.aic == pytest.approx(here.aic, abs=1e-8)
    np.testing.assert_allclose(intercept_first(found.standard_errors), here.bse, rtol=2e-3)


@pytest.mark.filterwarnings("ignore:yule_walker currently returns:FutureWarning")
def test_yule_walker_equals_statsmodels_and_has_the_autocovariances_of_the_series():
    y = series_named("lake_huron")
    found = ARProcess.fit(y, 3, "yule_walker")
    phi, scale = yule_walker(y.numpy(), 3, method="mle")[:2]
    np.testing.assert_allclose(found.process.coefficients, phi, rtol=0, atol=1e-10)
    assert float(found.process.variance) == pytest.approx(scale**2, rel=1e-10)
    centred = (y - y.mean()).numpy()
    gamma = [centred[k:] @ centred[: len(y) - k] / len(y) for k in range(4)]
    np.testing.assert_allclose(found.process.autocovariance(3), gamma, rtol=1e-10)
    assert float(found.process.stationary().mean[0]) == pytest.approx(float(y.mean()), rel=1e-12)
    assert found.log_likelihood == pytest.approx(float(found.process.log_prob(y)), rel=1e-12)
    assert found.log_likelihood < ARProcess.fit(y, 3, "exact").log_likelihood


# -------------------------------------------------------------------------------------------------- fits


def test_an_exact_fit_is_a_maximum():
    y = with_holes(make_process(3).sample(60, 2, seed=1))
    found = ARProcess.fit(y, 3, "exact")
    assert found.log_likelihood == pytest.approx(float(found.process.log_prob(y).sum()), abs=1e-9)
    x = torch.from_numpy(parameters(found.process))
    random = torch.Generator().manual_seed(0)
    for step in (1e-3, 1e-2, 0.1):
        for _ in range(10):
            direction = torch.randn(5, generator=random, dtype=torch.float64)
            moved = x + step * direction * found.standard_errors
            assert float(ARProcess(moved[:3], moved[3], moved[4]).log_prob(y).sum()) < found.log_likelihood


@pytest.mark.parametrize("method", ["conditional", "yule_walker"])
def test_standard_errors_are_the_spread_of_the_estimates(method):
    process = ARProcess([0.6, -0.5], 0.3, 1.7)
    truth, repeats = parameters(process), 200
    series = process.sample(2000, repeats, seed=4)
    fits = [ARProcess.fit(y, 2, method) for y in series]
    z = np.stack([(parameters(f.process) - truth) / f.standard_errors.numpy() for f in fits])
    # the estimates' bias, of order 1 / 2000, is a twentieth of their standard error
    assert np.abs(z.mean(axis=0) * math.sqrt(repeats)).max() < 5
    assert np.abs((z**2).sum(axis=0) - repeats).max() / math.sqrt(2 * repeats) < 5


@pytest.mark.parametrize("method", ["conditional", "exact", "yule_walker"])
def test_a_fit_follows_a_change_of_units(method):
    y = series_named("lh")
    before, after = (ARProcess.fit(x, 2, method) for x in (y, 1e4 - 1e-3 * y))
    mean = 1e4 - 1e-3 * before.process.stationary().mean
    torch.testing.assert_close(after.process.stationary().mean, mean, rtol=1e-9, atol=0)
    torch.testing.assert_close(after.process.coefficients, before.process.coefficients, rtol=0, atol=1e-6)
    assert float(after.process.variance) == pytest.approx(1e-6 * float(before.process.variance), rel=1e-6)
    torch.testing.assert_close(after.standard_errors[:2], before.standard_errors[:2], rtol=1e-5, atol=0)
    assert float(after.standard_errors[3]) == pytest.approx(1e-6 * float(before.standard_errors[3]), rel=1e-5)
    shift = before.num_values * math.log(1e-3)
    assert after.log_likelihood == pytest.approx(before.log_likelihood - shift, abs=1e-6)


def test_several_series_share_one_estimate():
    y = make_process(2).sample(30, 6, seed=2).reshape(2, 3, 30)
    found = ARProcess.fit(y, 2)
    rows = np.concatenate([x.unfold(0, 3, 1).numpy() for x in y.flatten(0, 1)])
    design = np.c_[rows[:, 1], rows[:, 0], np.ones(len(rows))]
    weights, squares = np.linalg.lstsq(design, rows[:, 2])[:2]
    np.testing.assert_allclose(parameters(found.process), [*weights, squares[0] / len(rows)], rtol=1e-9)
    assert found.num_values == len(rows) == 6 * 28
    # likelihoods add up, and a series that is all missing adds nothing
    exact = ARProcess.fit(y, 2, "exact")
    assert exact.num_values == 180
    padded = torch.cat([y.flatten(0, 1), torch.full((1, 30), nan)])
    again = ARProcess.fit(padded, 2, "exact")
    assert again.num_values == 180
    assert again.log_likelihood == pytest.approx(exact.log_likelihood, abs=1e-7)
    np.testing.assert_allclose(parameters(again.process), parameters(exact.process), rtol=1e-4)
    twice = ARProcess.fit(torch.cat([y, y]), 2, "yule_walker")
    once = ARProcess.fit(y, 2, "yule_walker")
    np.testing.assert_allclose(parameters(twice.process), parameters(once.process), rtol=1e-12)
    torch.testing.assert_close(twice.standard_errors * math.sqrt(2), once.standard_errors, rtol=1e-9, atol=0)


def test_a_fit_needs_no_gradients_and_makes_none():
    y = series_named("lh").float().requires_grad_()
    with torch.no_grad():
        found = ARProcess.fit(y, 1, "exact")
    assert found.process.coefficients.dtype == torch.float64
    for fit in (found, ARProcess.fit(y, 1), ARProcess.fit(y, 1, "exact")):
        assert not any(x.requires_grad for x in (fit.process.coefficients, fit.standard_errors))
    assert y.grad is None


# -------------------------------------------------------------------------------------------------- laws


@pytest.mark.parametrize("order", [1, 2, 4])
def test_the_stationary_law_is_that_of_a_moving_average(order):
    process = make_process(order)
    mean, covariance = dense_law(process, 9)
    np.testing.assert_allclose(process.autocovariance(8), covariance[0], rtol=0, atol=1e-11)
    np.testing.assert_allclose(process.autocovariance(0), covariance[0, :1], rtol=0, atol=1e-11)
    for steps in (None, 1, 9):
        law, size = process.stationary(steps), steps or order
        assert law.event_shape == (size,)
        np.testing.assert_allclose(law.mean, mean[:size], rtol=0, atol=1e-11)
        np.testing.assert_allclose(law.covariance_matrix, covariance[:size, :size], rtol=0, atol=1e-11)


def test_stationarity_is_a_matter_of_the_roots():
    random = np.random.default_rng(0)
    verdicts = []
    for phi in random.uniform(-1.5, 1.5, size=(200, 2)):
        stationary = ARProcess(phi.tolist(), 0.0, 1.0).is_stationary
        assert stationary == (abs(phi[1]) < 1 and phi[0] < 1 - phi[1] and -phi[0] < 1 - phi[1])
        assert stationary == (np.abs(np.roots([1, *-phi])).max() < 1)
        verdicts.append(stationary)
    assert 50 < sum(verdicts) < 150
    assert not ARProcess([1.0], 0.0, 1.0).is_stationary


def test_an_ar1_is_a_markov_chain():
    phi, c, variance = 0.7, 1.5, 0.9
    process, start = ARProcess([phi], c, variance), torch.tensor([9.0])
    law = process.stationary()
    assert float(law.mean) == pytest.approx(c / (1 - phi), rel=1e-12)
    assert float(law.variance) == pytest.approx(variance / (1 - phi**2), rel=1e-12)
    # Chapman and Kolmogorov: many steps are fewer and one more, integrated over what lies between
    grid = torch.linspace(-10, 20, 1001, dtype=torch.float64)
    kernel = process.transition(grid[:, None, None]).log_prob(grid).exp()  # [from, to]
    ahead = process.forecast(start, 6)
    density = process.transition(start).log_prob(grid).exp()
    mean, spread = phi * 9.0 + c, variance
    for k in range(6):
        exact = Normal(ahead.mean[k], ahead.stddev[k])
        torch.testing.assert_close(density, exact.log_prob(grid).exp(), rtol=0, atol=1e-12)
        assert float(exact.mean) == pytest.approx(mean, rel=1e-12)
        assert float(exact.variance) == pytest.approx(spread, rel=1e-12)
        density = torch.trapezoid(kernel * density[:, None], grid, dim=0)
        mean, spread = phi * mean + c, phi**2 * spread + variance
    at_rest = law.log_prob(grid[:, None]).exp()
    moved = torch.trapezoid(kernel * at_rest[:, None], grid, dim=0)
    torch.testing.assert_close(moved, at_rest, rtol=0, atol=1e-12)


def test_two_steps_of_an_ar2_are_one_and_another():
    process, past = make_process(2), torch.tensor([3.0, 5.0]).double()
    grid = torch.linspace(-10, 20, 1001, dtype=torch.float64)
    first = process.transition(past).log_prob(grid).exp()
    pairs = torch.stack([past[-1].expand(1001), grid], dim=-1)
    kernel = process.transition(pairs[:, None]).log_prob(grid).exp()
    density = torch.trapezoid(kernel * first[:, None], grid, dim=0)
    ahead = process.forecast(past, 2)
    exact = Normal(ahead.mean[1], ahead.stddev[1]).log_prob(grid).exp()
    torch.testing.assert_close(density, exact, rtol=0, atol=1e-12)


def test_a_transition_reads_the_last_values_alone():
    process = make_process(3)
    history = torch.tensor([[nan, 1.0, 2.0, 3.0], [math.inf, 0.0, -1.0, 5.0]])
    law = process.transition(history)
    assert law.batch_shape == (2,)
    expected = [2.1 + 0.6 * 3 - 0.5 * 2 + 0.3 * 1, 2.1 + 0.6 * 5 + 0.5 * 1]
    np.testing.assert_allclose(law.mean, expected, rtol=1e-12)
    np.testing.assert_allclose(law.variance, 1.7, rtol=1e-12)


# ----------------------------------------------------------------------------------------------- density


@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize("holes", [False, True])
def test_log_prob_equals_the_dense_density(order, holes):
    process = make_process(order)
    y = process.sample(9, 6, seed=1).reshape(2, 3, 9)
    law = dense_law(process, 9)
    exact = process.log_prob(with_holes(y) if holes else y)
    conditional = process.log_prob(with_holes(y, order) if holes else y, "conditional")
    assert exact.shape == conditional.shape == (2, 3)
    for b in np.ndindex(2, 3):
        values = (with_holes(y) if holes else y)[b].numpy()
        assert float(exact[b]) == pytest.approx(log_density(law, values), abs=1e-9)
        values = (with_holes(y, order) if holes else y)[b].numpy()
        first = np.where(np.arange(9) < order, values, nan)
        left = log_density(law, values) - log_density(law, first)
        assert float(conditional[b]) == pytest.approx(left, abs=1e-9)


def test_series_shorter_than_the_order_have_a_density():
    process = make_process(4)
    for y in ([3.0, nan, 5.0], [3.0, 4.0], [3.0, 4.0, 2.0, 5.0]):
        expected = log_density(dense_law(process, len(y)), np.array(y))
        assert float(process.log_prob(torch.tensor(y))) == pytest.approx(expected, abs=1e-9)
    assert float(process.log_prob(torch.full((5,), nan))) == 0


def test_the_density_is_the_product_of_transitions():
    process, y = make_process(2), make_process(2).sample(8, seed=3)[0]
    expected = MultivariateNormal(process.stationary().mean, process.stationary().covariance_matrix).log_prob(
        y[:2]
    )
    later = sum(process.transition(y[:t]).log_prob(y[t]) for t in range(2, 8))
    torch.testing.assert_close(process.log_prob(y), expected + later, rtol=0, atol=1e-12)
    torch.testing.assert_close(process.log_prob(y, "conditional"), later, rtol=0, atol=1e-12)
    # one missing value more at the end sends the same series through the filter
    longer = torch.cat([y, torch.tensor([nan]).double()])
    torch.testing.assert_close(process.log_prob(longer), process.log_prob(y), rtol=0, atol=1e-10)


def test_what_is_not_stationary_has_a_conditional_density():
    # a random walk with drift: over a gap of g steps it moves by N(g c, g s2)
    walk = ARProcess([1.0], 0.5, 2.0)
    y = torch.tensor([1e6, 1e6 + 1, nan, nan, 1e6 + 4, nan]).double()
    moves, gaps = torch.tensor([1.0, 3.0]).double(), torch.tensor([1.0, 3.0]).double()
    expected = Normal(0.5 * gaps, (2 * gaps).sqrt()).log_prob(moves).sum()
    torch.testing.assert_close(walk.log_prob(y, "conditional"), expected, rtol=0, atol=1e-9)
    ahead = walk.forecast(y, 2)
    np.testing.assert_allclose(ahead.mean, [1e6 + 5, 1e6 + 5.5], rtol=1e-14)
    np.testing.assert_allclose(ahead.variance, [4, 6], rtol=1e-12)
    mean, variance = walk.smooth(y)
    np.testing.assert_allclose(mean[2:], [1e6 + 2, 1e6 + 3, 1e6 + 4, 1e6 + 4.5], rtol=1e-14)
    np.testing.assert_allclose(variance[2:], [4 / 3, 4 / 3, 0, 2], rtol=0, atol=1e-9)
    drawn = walk.impute(y, 20_000, seed=1)[:, [2, 3, 5]] - 1e6
    covariance = np.array([[4 / 3, 2 / 3, 0], [2 / 3, 4 / 3, 0], [0, 0, 2]])
    of_mean, of_covariance = z_scores(drawn, np.array([2, 3, 4.5]), covariance)
    assert np.abs(of_mean).max() < 5 and np.abs(of_covariance).max() < 5


@pytest.mark.parametrize("method", ["exact", "conditional"])
@pytest.mark.parametrize("holes", [False, True])
def test_the_density_has_exact_gradients(method, holes):
    process = make_process(2)
    y = process.sample(7, 2, seed=2)
    if holes:
        y[0, 3], y[1, 4:] = nan, nan
    known = y.isfinite()

    def density(phi: Tensor, c: Tensor, variance: Tensor, values: Tensor) -> Tensor:
        return ARProcess(phi, c, variance).log_prob(y.masked_scatter(known, values), method)

    inputs = [process.coefficients, process.intercept, process.variance, y[known]]
    assert torch.autograd.gradcheck(density, [x.clone().requires_grad_() for x in inputs])
    assert torch.autograd.gradgradcheck(density, [x.clone().requires_grad_() for x in inputs])
    # a missing value has no say, not even NaN
    y.requires_grad_()
    (gradient,) = torch.autograd.grad(process.log_prob(y, method).sum(), y)
    assert gradient[known].abs().min() > 0 and (gradient[~known] == 0).all()


# ------------------------------------------------------------------------------------ forecasts and holes


@pytest.mark.parametrize("order", [1, 2, 4])
def test_the_variance_of_a_forecast_grows_by_squared_responses(order):
    process = make_process(order)
    y = process.sample(12, 3, seed=1)
    law = process.forecast(y, 10)
    growth = 1.7 * np.cumsum(response(process, 10) ** 2)
    np.testing.assert_allclose(law.variance, np.tile(growth, (3, 1)), rtol=1e-10)
    path = y
    for k in range(10):  # the mean forecast is what the recursion does without noise
        torch.testing.assert_close(law.mean[:, k], process.transition(path).mean, rtol=0, atol=1e-10)
        path = torch.cat([path, law.mean[:, k : k + 1]], dim=-1)
    far = process.forecast(y, 200)
    torch.testing.assert_close(far.mean[:, -1], process.stationary(1).mean.expand(3), rtol=0, atol=1e-6)
    torch.testing.assert_close(far.variance[:, -1], process.autocovariance(0).expand(3), rtol=1e-6, atol=0)


@pytest.mark.parametrize("order", [1, 2, 4])
def test_forecasts_and_posteriors_equal_dense_conditioning(order):
    process = make_process(order)
    y = with_holes(process.sample(9, 6, seed=4), seed=4).reshape(2, 3, 9)
    y[1, 2] = nan
    ahead, (mean, variance) = process.forecast(y, 4), process.smooth(y)
    assert ahead.batch_shape == (2, 3, 4) and mean.shape == variance.shape == (2, 3, 9)
    law = dense_law(process, 13)
    for b in np.ndindex(2, 3):
        m, c = given(law, np.r_[y[b], [nan] * 4])
        np.testing.assert_allclose(ahead.mean[b], m[9:], rtol=0, atol=1e-9)
        np.testing.assert_allclose(ahead.variance[b], np.diag(c)[9:], rtol=0, atol=1e-9)
        np.testing.assert_allclose(mean[b], m[:9], rtol=0, atol=1e-9)
        np.testing.assert_allclose(variance[b], np.diag(c)[:9], rtol=0, atol=1e-9)


def test_imputations_follow_the_joint_posterior():
    process = make_process(2)
    y = process.sample(9, 2, seed=5)
    y[0, [0, 3, 4, 8]], y[1, :] = nan, nan
    drawn = process.impute(y, 20_000, seed=0)
    assert drawn.shape == (20_000, 2, 9)
    known = y.isfinite()
    assert torch.equal(drawn[:, known], y[known].expand(20_000, -1))
    law = dense_law(process, 9)
    for b in range(2):
        mean, covariance = given(law, y[b].numpy())
        unknown = ~known[b].numpy()
        of_mean, of_covariance = z_scores(
            drawn[:, b, unknown], mean[unknown], covariance[np.ix_(unknown, unknown)]
        )
        assert np.abs(of_mean).max() < 5 and np.abs(of_covariance).max() < 5
    # rows do not share their noise
    of_both = torch.corrcoef(torch.stack([drawn[:, 0, 8], drawn[:, 1, 8]]))[0, 1]
    assert abs(float(of_both)) * math.sqrt(20_000) < 5


def test_samples_follow_the_stationary_law():
    process = make_process(4)
    drawn = process.sample(6, 20_000, seed=0)
    assert drawn.shape == (20_000, 6)
    of_mean, of_covariance = z_scores(drawn, *dense_law(process, 6))
    assert np.abs(of_mean).max() < 5 and np.abs(of_covariance).max() < 5
    # far from the start the recursion still holds: the noise is white, and of its own variance
    series = process.sample(4000, seed=1)[0]
    noise = (series[4:] - process.transition(series[:-1].unfold(0, 4, 1)).mean).numpy()
    assert abs(noise.mean()) / math.sqrt(1.7 / len(noise)) < 5
    assert abs((noise**2).mean() / 1.7 - 1) * math.sqrt(len(noise) / 2) < 5
    for lag in range(1, 6):
        assert abs((noise[lag:] * noise[:-lag]).mean()) / 1.7 * math.sqrt(len(noise)) < 5


def test_draws_depend_on_the_seed_alone():
    process = make_process(2)
    y = with_holes(process.sample(12, 3, seed=0))
    drawn = process.impute(y, 4, seed=7)
    assert torch.equal(drawn, process.impute(y, 4, seed=7))
    # products of another number of rows may be rounded otherwise
    torch.testing.assert_close(drawn[:2, :2], process.impute(y[:2], 2, seed=7), rtol=1e-9, atol=1e-9)
    unknown = y.isnan()
    assert not torch.isclose(drawn, process.impute(y, 4, seed=8))[:, unknown].any()
    # what a seed has drawn as data is not drawn again as its imputation
    truth = process.sample(12, 3, seed=0)
    assert not torch.isclose(process.impute(y, 3, seed=0), truth)[:, unknown].any()
    torch.testing.assert_close(process.sample(12, 2, seed=0), truth[:2], rtol=1e-9, atol=1e-9)


# ----------------------------------------------------------------------------------------------- refusals


def test_numbers_enter_in_full_precision():
    process = ARProcess([0.1, 0.2], 0.1, 0.3)
    assert [*process.coefficients.tolist(), float(process.intercept), float(process.variance)] == [
        0.1,
        0.2,
        0.1,
        0.3,
    ]
    assert repr(process) == "ARProcess([0.1, 0.2], intercept=0.1, variance=0.3)"
    assert process.order == 2


def test_what_is_no_process_is_refused(as_a_user):
    with pytest.raises(ValueError, match=r"variance must be positive; it is 0\."):
        ARProcess([0.5], 0.0, 0.0)
    with pytest.raises(ValueError, match="coefficients must be finite; 1 of its entries are not"):
        ARProcess([0.5, nan], 0.0, 1.0)
    with pytest.raises(ValueError, match=r"at least one; got shape \[0\]\."):
        ARProcess([], 0.0, 1.0)
    with pytest.raises(ValueError, match=r"at least one; got shape \[1, 1\]\."):
        ARProcess(torch.zeros(1, 1), 0.0, 1.0)
    with pytest.raises(ValueError, match=r"intercept must be a single number; got shape \[2\]\."):
        ARProcess([0.5], torch.zeros(2), 1.0)


def test_a_law_that_does_not_exist_is_refused():
    process, y = ARProcess([1.1], 0.0, 1.0), torch.tensor([nan, 1.0, 2.0])
    for ask in (
        process.stationary,
        lambda: process.autocovariance(2),
        lambda: process.sample(5),
        lambda: process.log_prob(y),
        lambda: process.log_prob(y[1:]),
    ):
        with pytest.raises(ValueError, match=r"largest root must be below 1; it is 1\.1\."):
            ask()
    for ask in (
        lambda: process.log_prob(y, "conditional"),
        lambda: process.forecast(y, 1),
        lambda: process.smooth(y),
        lambda: process.impute(y, 1),
    ):
        with pytest.raises(
            ValueError, match=r"the first 1 values of each series must be observed.* 1 of the"
        ):
            ask()
    with pytest.raises(ValueError, match=r"must be observed.*y has 2 values per series, and 0 of the first"):
        make_process(3).log_prob(y[1:], "conditional")


def test_questions_that_make_no_sense_are_refused(as_a_user):
    process, y = make_process(2), torch.tensor([1.0, 2.0, 3.0])
    infinite = torch.tensor([1.0, -math.inf, 2.0])
    for ask in (
        process.log_prob,
        process.smooth,
        lambda y: process.forecast(y, 1),
        lambda y: process.impute(y, 1),
        lambda y: ARProcess.fit(y, 1),
    ):
        with pytest.raises(ValueError, match="NaN where a value is missing; 1 values are infinite"):
            ask(infinite)
        with pytest.raises(ValueError, match=r"at least one value; got shape \[2, 0\]"):
            ask(torch.zeros(2, 0))
    with pytest.raises(ValueError, match="'exact' or 'conditional'; it is 'css'"):
        process.log_prob(y, "css")
    with pytest.raises(ValueError, match="values after the first 2; y has 2"):
        process.log_prob(y[:2], "conditional")
    with pytest.raises(ValueError, match="at least order = 2 values; it holds 1"):
        process.transition(y[:1])
    with pytest.raises(ValueError, match="last 2 values of history must be finite; 1 are not"):
        process.transition(infinite)
    with pytest.raises(ValueError, match="horizon must be at least 1; it is 0"):
        process.forecast(y, 0)
    with pytest.raises(ValueError, match="num_samples must be at least 1; it is 0"):
        process.impute(y, 0)
    with pytest.raises(ValueError, match="num_samples must be at least 1; it is 0"):
        process.sample(3, 0)
    with pytest.raises(ValueError, match="steps must be at least 1; it is 0"):
        process.sample(0)
    with pytest.raises(ValueError, match="steps must be at least 1; it is 0"):
        process.stationary(0)
    with pytest.raises(ValueError, match="lags must not be negative; it is -1"):
        process.autocovariance(-1)


def test_series_that_cannot_be_fitted_are_refused(as_a_user):
    y = series_named("lh")
    with pytest.raises(ValueError, match="'conditional', 'exact' or 'yule_walker'; it is 'burg'"):
        ARProcess.fit(y, 1, "burg")
    with pytest.raises(ValueError, match="order must be at least 1; it is 0"):
        ARProcess.fit(y, 0)
    for method in ("conditional", "exact", "yule_walker"):
        with pytest.raises(ValueError, match=r"at least 5 observed values beyond the first 3.* y has 4"):
            ARProcess.fit(y[:7], 3, method)
        with pytest.raises(ValueError, match=r"at least 5 observed values beyond the first 3.* y has 0"):
            ARProcess.fit(y[:2], 3, method)
        with pytest.raises(ValueError, match=r"y must vary; all of its 9 observed values are 0\.1"):
            ARProcess.fit(torch.full((9,), 0.1), 1, method)
        with pytest.raises(ValueError, match="y must hold observed values; all 9 are missing"):
            ARProcess.fit(torch.full((9,), nan), 1, method)
        with pytest.raises(ValueError, match=r"at least 5 observed values beyond the first 3.* y has 4"):
            ARProcess.fit(y[:10].reshape(2, 5), 3, method)
    for method in ("conditional", "yule_walker"):
        with pytest.raises(
            ValueError, match=r"needs every value; 6 of 120 are missing.*'exact', which accepts missing"
        ):
            ARProcess.fit(series_named("presidents"), 1, method)
    steps = torch.arange(50.0).double()
    for noiseless in (steps, torch.sin(steps), (-1.0) ** steps):
        with pytest.raises(ValueError, match="the series must contain noise"):
            ARProcess.fit(noiseless, 2)
        with pytest.raises(ValueError, match="likelihood of order 2 has no maximum that float64 can find"):
            ARProcess.fit(noiseless, 2, "exact")
    with pytest.raises(ValueError, match="the series must contain noise"):
        ARProcess.fit((steps == 49).double(), 2)
    ARProcess.fit(y[:8], 3)  # the shortest that will do


def test_a_search_that_is_cut_short_is_refused(monkeypatch):
    full = torch.optim.LBFGS
    monkeypatch.setattr(torch.optim, "LBFGS", lambda x, **options: full(x, **{**options, "max_iter": 4}))
    with pytest.raises(ValueError, match="has no maximum that float64 can find"):
        ARProcess.fit(series_named("log10_lynx"), 2, "exact")


# ---------------------------------------------------------------------------------------- what is written


def test_the_page_is_true(monkeypatch):
    monkeypatch.chdir(PAGE.parents[1])
    page, names = PAGE.read_text("utf-8"), {}
    blocks = re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) > 3
    exec("\n".join(blocks), names)
    fit = names["fit"]
    assert repr(fit.process) in page
    assert f"# {fit.log_likelihood:.4f}, {fit.aic:.2f}, {fit.bic:.2f}, {fit.num_values}" in page
    assert ", ".join(f"{error:.4f}" for error in fit.standard_errors[:3]) in page
