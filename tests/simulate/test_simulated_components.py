"""Every component against the law that its docstring states: moments over many independent windows."""

import math
import re

import numpy as np
import pytest

from tsgen.simulate.components import (
    NUGGET,
    GaussianShocks,
    GraphInfluence,
    Kernel,
    LinearTrend,
    NodeNoise,
    RandomWalk,
    RareShocks,
    Regimes,
    RushHours,
    SpatialNoise,
    StudentShocks,
    Travelling,
    VolatileShocks,
    Wave,
    draw_linear,
)
from tsgen.simulate.networks import Network, draw_network

WINDOWS = 20_000
INDEPENDENT = Kernel(range=0.0)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def network() -> Network:
    """Four nodes on a directed graph with unequal weights."""
    found = next(n for seed in range(99) if _irregular(n := draw_network(generator(seed), 4)))
    assert not np.allclose(found.averaging, found.averaging.T)
    return found


def _irregular(network: Network) -> bool:
    directed = not np.allclose(network.averaging > 0, network.averaging.T > 0)
    return directed and len(network.graph.edge_weight.unique()) > 4


def assert_moments(x: np.ndarray, covariance, pairs=((0, 0), (5, 5), (5, 4), (5, 2))) -> None:
    """Compares means with 0 and moments E[x_t x_s'] with a function of t and s, as z-scores."""
    for t, s in pairs:
        mean = x[:, t].mean(axis=0) / (x[:, t].std(axis=0) / len(x) ** 0.5 + 1e-12)
        assert np.abs(mean).max() < 5, t
        products = x[:, t, :, None] * x[:, s, None, :]
        error = products.mean(axis=0) - covariance(t, s)
        z = error / (products.std(axis=0) / len(x) ** 0.5 + 1e-12)
        assert np.abs(np.where(np.abs(error) < 1e-9, 0, z)).max() < 5, (t, s)


def test_a_kernel_has_the_stated_correlations(network):
    d = network.distance
    for kernel, correlation in (
        (Kernel(2.0), np.exp(-d / 2)),
        (Kernel(2.0, smooth=True), (1 + math.sqrt(3) * d / 2) * np.exp(-math.sqrt(3) * d / 2)),
        (Kernel(0.5, common=0.3), 0.3 + 0.7 * np.exp(-d / 0.5)),
        (Kernel(0.0), np.eye(4)),
        (Kernel(1.0, common=1.0), np.ones((4, 4))),
    ):
        covariance = kernel.covariance(generator(), network)
        np.testing.assert_allclose(covariance, (1 - NUGGET) * correlation + NUGGET * np.eye(4), atol=1e-12)
        root = kernel.root(generator(), network)
        np.testing.assert_allclose(root @ root.T, covariance, atol=1e-12)


def test_opposed_groups_have_correlations_of_opposite_sign():
    many = draw_network(generator(), 200)
    signs = np.sign(Kernel(0.0, common=0.9, opposed=0.3).covariance(generator(), many)[0])
    assert 0.15 < min((signs > 0).mean(), (signs < 0).mean()) < 0.45


@pytest.mark.parametrize(
    ("shocks", "kurtosis"),
    [
        (GaussianShocks(), 3),
        (StudentShocks(20.0), 3 * 18 / 16),
        (VolatileShocks(0.25, 5.0), 3 * math.exp(4 * 0.25**2)),
        (RareShocks(0.3), 3 / 0.3),
    ],
    ids=lambda x: type(x).__name__,
)
def test_noise_is_separable_whatever_its_shocks(network, shocks, kurtosis):
    kernel, memory = Kernel(1.5, common=0.2), 0.7
    x = SpatialNoise(kernel, memory, shocks=shocks).draw(generator(), network, WINDOWS, 6)
    covariance = kernel.covariance(generator(), network)
    assert_moments(x, lambda t, s: memory ** abs(t - s) * covariance)
    # white in time, its law is that of the shocks; the nodes of a step share their scale
    white = SpatialNoise(INDEPENDENT, 0.0, shocks=shocks).draw(generator(1), network, 4 * WINDOWS, 2)[:, 1]
    fourth = white[:, 0] ** 4
    assert abs(fourth.mean() - kurtosis) < 5 * fourth.std() / len(fourth) ** 0.5
    both = white[:, 0] ** 2 * white[:, 1] ** 2
    assert abs(both.mean() - kurtosis / 3) < 5 * both.std() / len(both) ** 0.5


def test_volatility_has_the_memory_of_its_parameter():
    s, m = 0.4, 5.0
    scale = VolatileShocks(s, m).scale(generator(), WINDOWS, 8)[..., 0]
    log = (np.log(scale) + s**2) / s
    assert_moments(log[..., None], lambda t, u: math.exp(-abs(t - u) / m))


def test_noise_of_two_lags_is_stationary(network):
    first, second = 1.2, -0.6  # a cycle
    gamma = [1, first / (1 - second)]
    for _ in range(5):
        gamma.append(first * gamma[-1] + second * gamma[-2])
    kernel = Kernel(1.0, smooth=True)
    x = SpatialNoise(kernel, first, second).draw(generator(), network, WINDOWS, 6)
    covariance = kernel.covariance(generator(), network)
    assert_moments(x, lambda t, s: gamma[abs(t - s)] * covariance, [(0, 0), (1, 0), (5, 0), (5, 5), (4, 2)])


def test_node_noise_is_white_and_independent(network):
    noise = NodeNoise(0.5)
    law = noise.linear(generator(), network)
    x = noise.draw(generator(), network, WINDOWS, 6)  # the same deviations come first
    assert_moments(x, lambda t, s: law.stationary * (t == s))
    many = draw_network(generator(), 200)
    variances = np.concatenate([np.diag(noise.linear(generator(seed), many).noise) for seed in range(50)])
    assert abs(variances.mean() - 1) < 5 * variances.std() / 100


def test_linear_laws_are_stationary_and_those_of_their_draws(network):
    for component in (
        GraphInfluence(0.3, -0.6, Kernel(0.7)),
        GraphInfluence(0.2, 0.75),
        SpatialNoise(Kernel(2.0), 0.8),
    ):
        law = component.linear(generator(), network)
        again = law.transition @ law.stationary @ law.transition.T + law.noise
        np.testing.assert_allclose(again, law.stationary, atol=1e-9)
        assert np.trace(law.stationary) == pytest.approx(4)
        for x in (
            component.draw(generator(1), network, WINDOWS, 6),
            draw_linear(generator(2), law, WINDOWS, 6),
        ):
            powers = [np.linalg.matrix_power(law.transition, lag) @ law.stationary for lag in range(6)]
            assert_moments(x, lambda t, s, powers=powers: powers[t - s])


def test_influence_runs_along_the_edges(network):
    law = GraphInfluence(0.3, 0.6).linear(generator(), network)
    source, target = network.graph.edge_index.numpy()
    weight = network.graph.edge_weight.numpy().astype(float)
    for v in range(4):
        into = target == v
        expected = 0.3 * (np.arange(4) == v)
        for u, w in zip(source[into], weight[into], strict=True):
            expected[u] += 0.6 * w / weight[into].sum()
        np.testing.assert_allclose(law.transition[v], expected, atol=1e-6)


def test_a_wave_has_the_autocovariance_of_its_harmonics(network):
    period, h, s = 7.0, 0.5, 0.4
    wave = Wave(period, delay=0.0, harmonic=h, modulation=s, contrast=0.0)
    same = np.where(np.eye(4) > 0, 1.0, 0.5)  # half of the modulation's variance is shared

    def covariance(t, u):
        angle = 2 * math.pi * (t - u) / period
        cycle = (math.cos(angle) + h**2 * math.cos(2 * angle)) / (1 + h**2)
        return cycle * (1 + s**2 * same * math.exp(-abs(t - u) / period)) / (1 + s**2)

    assert_moments(wave.draw(generator(), network, WINDOWS, 6), covariance)


def test_phases_and_amplitudes_of_a_wave_vary_by_node():
    many = draw_network(generator(), 200)
    plain = {"harmonic": 0.0, "modulation": 0.0, "kernel": INDEPENDENT}
    t = np.arange(48)
    found = []
    for seed in range(20):
        x = Wave(24.0, delay=0.3, contrast=0.3, **plain).draw(generator(seed), many, 1, 48)[0]
        found.append((x * np.exp(-2j * np.pi * t / 24)[:, None]).mean(axis=0) * 2**0.5)
    amplitude = np.abs(found) ** 2
    assert abs(amplitude.mean() - 1) < 5 * amplitude.std() / amplitude.size**0.5
    assert np.log(np.abs(found)).std() == pytest.approx(0.3, rel=0.1)
    phase = np.angle(found / np.mean(found, axis=1, keepdims=True))
    assert phase.std() == pytest.approx(0.3, rel=0.1)


def test_rush_hours_recur_by_day_and_week(network):
    hours = RushHours(24.0, weekend=0.0, modulation=0.0)
    x = hours.draw(generator(), network, 30, 2 * 168)
    assert x.mean() == pytest.approx(0) and x.std() == pytest.approx(1)
    np.testing.assert_allclose(x[:, 168:], x[:, :168], atol=1e-9)
    # on two days of seven nothing happens
    assert (x[:, :168, 0] < x.min() + 1e-9).mean() == pytest.approx(2 / 7, abs=0.01)
    daily = RushHours(24.0, weekend=1.0, modulation=0.0).draw(generator(), network, 30, 168)
    np.testing.assert_allclose(daily[:, 24:], daily[:, :-24], atol=1e-9)
    higher = (daily[:, 1:-1] > daily[:, :-2]) & (daily[:, 1:-1] >= daily[:, 2:])
    assert set(higher.sum(axis=1).flatten() // 6) <= {1, 2}


def test_fronts_reach_nodes_one_after_another(network):
    crossing, rate, smoothing = 12.0, 0.8, 0.5
    x = Travelling(crossing, rate, smoothing, contrast=0.0).draw(generator(), network, WINDOWS, 10)
    angle = generator().uniform(0, 2 * np.pi)  # the direction is drawn first
    along = network.position @ [np.cos(angle), np.sin(angle)]
    delay = np.rint(4 * crossing * (along - along.min())).astype(int)
    assert len(set(delay)) > 2
    # levels are kept with probability q per quarter of a step; smoothing by w_i
    q, d = 1 - rate / 4, math.exp(-0.25 / smoothing)
    weight = (1 - d) * d ** np.arange(80)
    i = np.arange(80)

    def gamma(lag):
        return weight @ q ** np.abs(lag + i[:, None] - i) @ weight

    def covariance(t, s):
        lags = 4 * (t - s) - (delay[:, None] - delay)
        return np.array([[gamma(lag) / gamma(0) for lag in row] for row in lags])

    assert_moments(x, covariance, [(6, 6), (9, 9), (9, 8), (9, 6)])


def test_a_random_walk_and_a_trend_are_not_stationary(network):
    kernel, c, steps = Kernel(1.0, common=0.5), 0.3, 6
    covariance = kernel.covariance(generator(), network)
    walk = RandomWalk(kernel, c).draw(generator(), network, WINDOWS, steps)
    assert_moments(walk, lambda t, s: c * np.eye(4) + (1 - c) * 2 / steps * (min(t, s) + 1) * covariance)
    trend = LinearTrend(kernel).draw(generator(), network, WINDOWS, steps)
    tau = (np.arange(steps) - 2.5) / steps
    assert_moments(trend, lambda t, s: 12 * tau[t] * tau[s] * covariance)
    assert np.abs(np.diff(trend, n=2, axis=1)).max() < 1e-9


def test_regimes_have_unit_variance_and_the_memory_of_their_chain(network):
    gap, ratio, p, m = 3.0, 2.0, 0.3, 4.0
    calm, wild = SpatialNoise(INDEPENDENT, 0.9), SpatialNoise(INDEPENDENT, 0.2)
    x = Regimes(calm, wild, gap, ratio, p, m).draw(generator(), network, WINDOWS, 6)
    variance = gap**2 * p * (1 - p) + (1 - p) + ratio**2 * p

    def covariance(t, s):
        stays = p * (1 - p) * (1 - 1 / m) ** abs(t - s)
        noise = ((1 - p) ** 2 + stays) * 0.9 ** abs(t - s) + ratio**2 * (p**2 + stays) * 0.2 ** abs(t - s)
        return (gap**2 * stays + noise) / variance

    for node in range(4):
        assert_moments(x[..., node : node + 1], covariance)
    # one chain for all nodes: levels rise and fall together
    assert np.corrcoef(x[:, 3].T)[0, 1] > 0.4


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: Kernel(-1.0), "range must be at least 0, and finite; it is -1.0"),
        (lambda: Kernel(common=1.5), "common must be at least 0 and at most 1"),
        (lambda: StudentShocks(2.0), "freedom must be at least 2.001"),
        (lambda: VolatileShocks(memory=0.0), "memory must be"),
        (lambda: RareShocks(2.0), "rate must be"),
        (lambda: SpatialNoise(first=1.0), "must be stationary"),
        (lambda: SpatialNoise(first=0.5, second=0.5), "must be stationary"),
        (lambda: NodeNoise(math.inf), "spread must be"),
        (lambda: GraphInfluence(0.5, -0.5), "must be below 1"),
        (lambda: Wave(0.0), "period must be"),
        (lambda: RushHours(weekend=-1.0), "weekend must be"),
        (lambda: Travelling(rate=5.0), "rate must be"),
        (lambda: RandomWalk(start=2.0), "start must be"),
        (lambda: Regimes(share=1.0), "share must be"),
        (lambda: Wave().draw(generator(), draw_network(generator(), 3), 0, 5), "windows and steps must be"),
        (lambda: GaussianShocks().scale(generator(), 2, 0), "windows and steps must be"),
        (
            lambda: SpatialNoise(second=-0.5).linear(generator(), draw_network(generator(), 3)),
            "second is -0.5",
        ),
        (
            lambda: SpatialNoise(shocks=RareShocks()).linear(generator(), draw_network(generator(), 3)),
            "shocks is RareShocks",
        ),
    ],
)
def test_what_is_no_component_is_refused(make, what):
    with pytest.raises(ValueError, match=re.escape(what)):
        make()
