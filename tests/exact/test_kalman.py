"""Filter, smoother and draws against dense Gaussian conditioning, which knows nothing of states or
recursions."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tsgen.counter_random import streams
from tsgen.exact.kalman import (
    StateSpace,
    kalman_filter,
    posterior_samples,
    simulate,
    smooth,
    smooth_with_surprise,
    smoothed_moments,
)

NODES = 3


def make_model(order: int, seed: int = 0) -> StateSpace:
    """An autoregression on a random directed graph with unequal weights, not started stationary."""
    random = torch.Generator().manual_seed(seed)
    state = NODES * order
    edges = torch.rand(order, NODES, NODES, generator=random, dtype=torch.float64)
    edges = edges * (torch.rand(order, NODES, NODES, generator=random) < 0.6) - 0.2
    transition = torch.zeros(state, state, dtype=torch.float64)
    transition[:NODES] = edges.transpose(0, 1).flatten(1) / order
    transition[NODES:, :-NODES] = torch.eye(state - NODES)
    offset, noise = torch.zeros(state, dtype=torch.float64), torch.zeros(state, state, dtype=torch.float64)
    offset[:NODES] = torch.randn(NODES, generator=random)
    root = torch.randn(NODES, NODES, generator=random, dtype=torch.float64)
    noise[:NODES, :NODES] = root @ root.T + 0.1 * torch.eye(NODES)
    start = torch.randn(state, state, generator=random, dtype=torch.float64)
    mean = torch.randn(state, generator=random, dtype=torch.float64)
    return StateSpace(transition, offset, noise, mean, start @ start.T, NODES)


def make_windows(steps: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Values, and a pattern for each window: at random twice, an outage, nothing seen, everything seen."""
    random = torch.Generator().manual_seed(seed)
    context = torch.rand(5, steps, NODES, generator=random) < 0.5
    context[2] = True
    context[2, 2:-2] = False
    context[3], context[4] = False, True
    return 2 * torch.randn(5, steps, NODES, generator=random, dtype=torch.float64), context


def dense_law(model: StateSpace, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a whole series: every entry as a linear map of the start and all shocks."""
    transition, offset, noise, mean, start = (x.numpy() for x in model[:5])
    size = len(offset)
    shocks = np.zeros((steps * size, steps * size))
    shocks[:size, :size] = start
    maps, means = [np.eye(size, steps * size)], [mean]
    for t in range(1, steps):
        block = slice(t * size, (t + 1) * size)
        shocks[block, block] = noise
        maps.append(transition @ maps[-1])
        maps[-1][:, block] += np.eye(size)
        means.append(transition @ means[-1] + offset)
    seen = np.concatenate([m[: model.observed_size] for m in maps])
    return np.concatenate([m[: model.observed_size] for m in means]), seen @ shocks @ seen.T


def dense_conditional(mean: np.ndarray, covariance: np.ndarray, known: np.ndarray, values: np.ndarray):
    """Mean and covariance of all entries given the known ones."""
    gain = np.linalg.solve(covariance[np.ix_(known, known)], covariance[known]).T
    return mean + gain @ (values - mean)[known], covariance - gain @ covariance[known]


def z_scores(draws: Tensor, mean: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard errors by which means and covariances of Gaussian draws [draw, entry] miss the truth."""
    count, variance = len(draws), np.diag(covariance)
    of_mean = (draws.mean(dim=0).numpy() - mean) / np.sqrt(variance / count)
    error = np.sqrt((np.outer(variance, variance) + covariance**2) / (count - 1))
    return of_mean, (np.cov(draws.numpy().T) - covariance) / error


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("seed", [0, 1])
def test_filter_smoother_and_likelihood_equal_dense_conditioning(order, seed):
    steps, model = 7, make_model(order, seed)
    values, context = make_windows(steps, seed)
    filtered = kalman_filter(model, values, context)
    smoothed, surprises = smooth_with_surprise(model, values, context)
    mean, covariance = dense_law(model, steps)
    for b in range(len(values)):
        x, known = values[b].flatten().numpy(), context[b].flatten().numpy()
        for t in range(steps):
            before = known & (np.arange(len(x)) < t * NODES)
            m, c = dense_conditional(mean, covariance, before, x)
            now = slice(t * NODES, (t + 1) * NODES)
            np.testing.assert_allclose(filtered.mean[b, t], m[now], rtol=0, atol=1e-8)
            np.testing.assert_allclose(filtered.covariance[b, t], c[now, now], rtol=0, atol=1e-8)
        m, c = dense_conditional(mean, covariance, known, x)
        np.testing.assert_allclose(smoothed.mean[b].flatten(), m, rtol=0, atol=1e-8)
        np.testing.assert_allclose(smoothed.variance[b].flatten(), np.diag(c), rtol=0, atol=1e-8)
        surprise = surprises[b].flatten()
        assert (surprise[~torch.from_numpy(known)] == 0).all()
        for i in np.flatnonzero(known):
            others = known & (np.arange(len(x)) != i)
            m, c = dense_conditional(mean, covariance, others, x)
            assert float(surprise[i]) == pytest.approx((x[i] - m[i]) / c[i, i] ** 0.5, abs=1e-7)
        off, part = (x - mean)[known], covariance[np.ix_(known, known)]
        log_density = -0.5 * (
            off @ np.linalg.solve(part, off)
            + np.linalg.slogdet(part)[1]
            + known.sum() * math.log(2 * math.pi)
        )
        assert float(filtered.log_likelihood[b]) == pytest.approx(log_density, abs=1e-8)
    assert torch.equal(smoothed.mean[context], values[context])
    assert (smoothed.variance[context] == 0).all()


@pytest.mark.parametrize("order", [1, 2])
def test_moments_of_slices_and_states_are_sums_of_dense_conditionals(order):
    """A slice and the state before it are NODES * (order + 1) entries of the series, for t >= order."""
    steps, skip, model = 7, order, make_model(order)
    values, context = make_windows(steps)
    moments = smoothed_moments(model, values, context, skip)
    mean, covariance = dense_law(model, steps)
    first, second = 0.0, 0.0
    for b in range(len(values)):
        x, known = values[b].flatten().numpy(), context[b].flatten().numpy()
        m, c = dense_conditional(mean, covariance, known, x)
        for t in range(skip, steps):
            lags = [np.arange((t - k) * NODES, (t - k + 1) * NODES) for k in range(order + 1)]
            state = np.concatenate(lags)
            first = first + m[state]
            second = second + np.outer(m[state], m[state]) + c[np.ix_(state, state)]
    log_likelihood = float(kalman_filter(model, values, context).log_likelihood.sum())
    np.testing.assert_allclose(moments.first, first, rtol=0, atol=1e-8)
    np.testing.assert_allclose(moments.second, second, rtol=0, atol=1e-8)
    assert moments.steps == len(values) * (steps - skip)
    assert float(moments.log_likelihood) == pytest.approx(log_likelihood, abs=1e-9)
    alike = context[:1].expand_as(context)
    shared = smoothed_moments(model, values, alike, skip)
    apart = [smoothed_moments(model, values[[b]], alike[[b]], skip) for b in range(len(values))]
    np.testing.assert_allclose(sum(a.second for a in apart), shared.second, rtol=0, atol=1e-9)
    filtered, smoothed = kalman_filter(model, values, alike), smooth(model, values, alike)
    for b in range(len(values)):
        alone = kalman_filter(model, values[[b]], alike[[b]])
        np.testing.assert_allclose(filtered.covariance[[b]], alone.covariance, rtol=0, atol=1e-10)
        np.testing.assert_allclose(filtered.log_likelihood[[b]], alone.log_likelihood, rtol=0, atol=1e-9)
        variance = smooth(model, values[[b]], alike[[b]]).variance
        np.testing.assert_allclose(smoothed.variance[[b]], variance, rtol=0, atol=1e-10)
    halves = [
        smoothed_moments(model, values[part], context[part], skip) for part in (slice(0, 2), slice(2, 5))
    ]
    np.testing.assert_allclose((halves[0] + halves[1]).second, moments.second, rtol=0, atol=1e-9)


@pytest.mark.parametrize("order", [1, 2])
def test_draws_follow_the_joint_posterior(order):
    steps, model = 5, make_model(order)
    values, context = make_windows(steps)
    draws = posterior_samples(
        model, values, context, streams(3, torch.arange(20_000)[:, None], torch.arange(5))
    )
    assert torch.equal(draws[:, context], values[context].expand(len(draws), -1))
    law = dense_law(model, steps)
    for b in range(4):  # the last window has nothing to draw
        unknown = ~context[b].flatten().numpy()
        mean, covariance = dense_conditional(*law, ~unknown, values[b].flatten().numpy())
        of_mean, of_covariance = z_scores(
            draws[:, b].flatten(1)[:, unknown], mean[unknown], covariance[np.ix_(unknown, unknown)]
        )
        assert np.abs(of_mean).max() < 5
        assert np.abs(of_covariance).max() < 5


@pytest.mark.parametrize("order", [1, 2])
def test_simulated_series_follow_the_model(order):
    model = make_model(order)
    series = simulate(model, 5, streams(4, torch.arange(20_000)))
    of_mean, of_covariance = z_scores(series.flatten(1), *dense_law(model, 5))
    assert np.abs(of_mean).max() < 5
    assert np.abs(of_covariance).max() < 5


def test_draws_depend_on_their_stream_alone():
    model = make_model(2)
    values, context = make_windows(6)
    stream = streams(5, torch.arange(4)[:, None], torch.arange(5))
    draws = posterior_samples(model, values, context, stream)
    alone = posterior_samples(model, values[1:2], context[1:2], stream[2:3, 1:2])
    torch.testing.assert_close(draws[2:3, 1:2], alone, rtol=0, atol=1e-12)
    assert not torch.isclose(draws[0], draws[1])[~context].any()


def test_nothing_outside_the_context_is_read():
    model = make_model(2)
    values, context = make_windows(6)
    poisoned = values.masked_fill(~context, torch.nan)
    for a, b in zip(
        kalman_filter(model, values, context), kalman_filter(model, poisoned, context), strict=True
    ):
        assert torch.equal(a, b)
    for a, b in zip(smooth(model, values, context), smooth(model, poisoned, context), strict=True):
        assert torch.equal(a, b)
    stream = streams(0, torch.arange(3)[:, None], torch.arange(5))
    clean = posterior_samples(model, values, context, stream)
    assert torch.equal(clean, posterior_samples(model, poisoned, context, stream))
    transition = model.transition.clone().requires_grad_()
    kalman_filter(model._replace(transition=transition), poisoned, context).log_likelihood.sum().backward()
    assert transition.grad.isfinite().all()


def test_a_start_without_variance_is_a_first_slice_that_is_known():
    model = make_model(1)
    values, context = make_windows(6)
    values[:, 0] = model.initial_mean
    context[:, 0] = True
    told = smooth(model, values, context)
    context[:, 0] = False
    certain = model._replace(initial_covariance=torch.zeros_like(model.initial_covariance))
    torch.testing.assert_close(smooth(certain, values, context), told, rtol=0, atol=1e-10)


def test_nodes_of_very_different_unit():
    model = make_model(2)
    values, context = make_windows(6)
    unit = torch.tensor([1e-8, 1.0, 1e8], dtype=torch.float64)
    state = unit.repeat(2)
    scaled = StateSpace(
        transition=state[:, None] * model.transition / state,
        offset=state * model.offset,
        noise_covariance=state[:, None] * model.noise_covariance * state,
        initial_mean=state * model.initial_mean,
        initial_covariance=state[:, None] * model.initial_covariance * state,
        observed_size=NODES,
    )
    plain, other = smooth(model, values, context), smooth(scaled, values * unit, context)
    torch.testing.assert_close(other.mean / unit, plain.mean, rtol=0, atol=1e-8)
    torch.testing.assert_close(other.variance / unit**2, plain.variance, rtol=0, atol=1e-8)
    stream = streams(0, torch.arange(3))
    torch.testing.assert_close(
        simulate(scaled, 6, stream) / unit, simulate(model, 6, stream), rtol=0, atol=1e-8
    )


def test_ten_thousand_steps_stay_exact():
    steps, period, model = 10_000, 5, make_model(2)
    # two nodes whose noise is all but one, and a slow root
    noise = model.noise_covariance.clone()
    noise[:2, :2] = torch.tensor([[1.0, 1 - 1e-9], [1 - 1e-9, 1.0]])
    noise[2, :2] = noise[:2, 2] = 0
    model = model._replace(noise_covariance=noise, transition=model.transition.clone())
    model.transition[2] = torch.tensor([0, 0, 0.9, 0, 0, 0.0999])
    random = torch.Generator().manual_seed(0)
    context = (torch.rand(2, period, NODES, generator=random) < 0.4).repeat(1, steps // period, 1)
    values = torch.randn(2, steps, NODES, generator=random)
    filtered = kalman_filter(model, values, context)
    # a pattern that repeats has covariances that repeat; they must not drift
    early, late = filtered.covariance[:, 4000 : 4000 + period], filtered.covariance[:, -period:]
    torch.testing.assert_close(early, late, rtol=1e-9, atol=1e-12)
    assert torch.equal(late, late.mT)
    assert filtered.log_likelihood.isfinite().all()


def test_shapes_that_do_not_fit_are_refused(as_a_user):
    model = make_model(1)
    values, context = make_windows(6)
    with pytest.raises(ValueError, match=r"must both be \[batch, time, 3\]"):
        kalman_filter(model, values[..., :2], context[..., :2])
    with pytest.raises(ValueError, match="their shapes are"):
        smooth(model, values, context[:, :3])
