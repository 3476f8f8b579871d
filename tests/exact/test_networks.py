"""Processes of values that are not real numbers: their laws, their simulations and their particle filter."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch_geometric.data import Data

from tsgen.data.series import SeriesBatch
from tsgen.exact import (
    INARNetwork,
    LogitNormalNetwork,
    LogLinearPoissonNetwork,
    LogNormalNetwork,
    ThresholdNetwork,
    TobitNetwork,
    VARProcess,
    ZeroInflatedGammaNetwork,
)
from tsgen.simulate.examples import geometric_graph

COUNTS = [INARNetwork, LogLinearPoissonNetwork]
REAL = [
    partial(TobitNetwork, limit=0.3),
    LogNormalNetwork,
    partial(LogitNormalNetwork, low=-2.0, high=3.0),
    ZeroInflatedGammaNetwork,
    ThresholdNetwork,
]
ALL = [*COUNTS, *REAL]
NODES = 6


def name_of(process) -> str:
    return getattr(process, "func", process).__name__


each = pytest.mark.parametrize("make", ALL, ids=name_of)


@pytest.fixture(scope="module")
def graph() -> Data:
    return geometric_graph(NODES, seed=3)


def means_of_neighbours(graph: Data, x: Tensor) -> Tensor:
    """The definition, edge by edge."""
    total, weight = torch.zeros_like(x), torch.zeros_like(x)
    for (source, target), w in zip(graph.edge_index.T.tolist(), graph.edge_weight.tolist(), strict=True):
        total[..., target] += w * x[..., source]
        weight[..., target] += w
    return total / weight


def masses(process, law) -> tuple[Tensor, Tensor]:
    """A grid of values, and the probabilities of its cells by ``log_prob``: atoms, or Gauss rules."""
    shape = (-1, *[1] * len(law.batch_shape))
    if isinstance(process, (INARNetwork, LogLinearPoissonNetwork)):
        values = torch.arange(200).double().view(shape)
        return values.expand(-1, *law.batch_shape), law.log_prob(values).exp()
    # cells whose ends are quantiles, from the lowest atom or quantile
    z = torch.linspace(-7.5, 7.5, 4001, dtype=torch.float64)
    levels = torch.special.ndtr(z)
    if isinstance(process, (TobitNetwork, ZeroInflatedGammaNetwork)):
        atom = law.cdf(law.icdf(torch.tensor(1e-12).double().expand(law.batch_shape)))
        levels = atom + (1 - atom) * levels.view(shape)
    else:
        atom, levels = torch.zeros(law.batch_shape).double(), levels.view(shape).expand(-1, *law.batch_shape)
    ends = law.icdf(levels)
    left, right = ends[:-1], ends[1:]
    nodes, weights = np.polynomial.legendre.leggauss(5)
    middle, half = (left + right) / 2, (right - left) / 2
    parts = sum(w * law.log_prob(middle + half * x).exp() for x, w in zip(nodes, weights, strict=True)) * half
    lowest = law.icdf(torch.tensor(1e-12).double().expand(law.batch_shape))[None]
    values, mass = torch.cat([lowest, middle]), torch.cat([atom[None], parts])
    return values, mass


@each
def test_laws_have_total_mass_one_and_their_moments(make, graph):
    process = make(graph)
    law = process.conditional(process.simulate(4, seed=0))
    values, mass = masses(process, law)
    one = torch.ones(4, NODES).double()
    torch.testing.assert_close(mass.sum(dim=0), one, rtol=0, atol=2e-5)
    mean = (values * mass).sum(dim=0)
    torch.testing.assert_close(law.mean, mean, rtol=2e-4, atol=1e-4)
    variance = ((values - mean).square() * mass).sum(dim=0)
    torch.testing.assert_close(law.variance, variance, rtol=2e-3, atol=1e-4)


@each
def test_atoms_are_probabilities_and_the_rest_is_a_density(make, graph):
    process = make(graph)
    law = process.conditional(process.simulate(3, seed=1))
    levels = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)[:, None, None]
    value = law.icdf(levels.expand(-1, 3, NODES))
    jump = law.cdf(value) - law.cdf_below(value)
    atoms = jump > 0
    expected = {"INARNetwork", "LogLinearPoissonNetwork", "TobitNetwork", "ZeroInflatedGammaNetwork"}
    assert bool(atoms.any()) == (name_of(make) in expected)
    torch.testing.assert_close(law.log_prob(value)[atoms], jump[atoms].log(), rtol=0, atol=1e-9)
    # the quantile is the smallest value with at least that probability
    assert (law.cdf(value) >= levels - 1e-9).all() and (law.cdf_below(value) <= levels + 1e-9).all()
    smooth = ~atoms
    if smooth.any():
        step = 1e-5
        slope = (law.cdf(value + step) - law.cdf(value - step)) / (2 * step)
        torch.testing.assert_close(law.log_prob(value).exp()[smooth], slope[smooth], rtol=1e-4, atol=1e-6)


@each
def test_impossible_values_have_no_probability(make, graph):
    process = make(graph)
    law = process.conditional(process.simulate(1, seed=1)[0])
    below = torch.full((NODES,), -3.0)
    if name_of(make) != "ThresholdNetwork":
        assert (law.log_prob(below) == -torch.inf).all() and (law.cdf(below) == 0).all()
    if make in COUNTS:
        assert (law.log_prob(below + 5.5) == -torch.inf).all()
    if name_of(make) == "LogitNormalNetwork":
        assert (law.log_prob(below + 7) == -torch.inf).all() and (law.cdf(below + 7) == 1).all()
    assert law.log_prob(below * torch.nan).isnan().all()


@each
def test_simulations_and_draws_follow_the_law(make, graph):
    process = make(graph)
    series = process.simulate(2000, seed=5)
    again = process.simulate(20, seed=5)
    assert torch.equal(again, process.simulate(20, seed=5))
    assert not torch.equal(again, process.simulate(20, seed=6))

    def uniform_ranks(law, value: Tensor) -> Tensor:
        noise = torch.rand(value.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        return law.cdf_below(value) + noise * (law.cdf(value) - law.cdf_below(value))

    def p_value(ranks: Tensor) -> float:
        return stats.chisquare(torch.histc(ranks.flatten(), 20, 0, 1).numpy()).pvalue

    assert p_value(uniform_ranks(process.conditional(series[:-1]), series[1:])) > 1e-5
    # the test sees the law of a slice later, and that of other nodes
    assert p_value(uniform_ranks(process.conditional(series[:-2]), series[2:])) < 1e-3
    turned = process.conditional(series[:-1].roll(1, dims=1))
    assert p_value(uniform_ranks(turned, series[1:])) < 1e-3
    torch.manual_seed(1)
    law = process.conditional(series[100])
    draws = law.sample((5000,))
    assert draws.shape == (5000, NODES)
    assert p_value(uniform_ranks(law, draws.double())) > 1e-5


@pytest.mark.parametrize("make", COUNTS, ids=name_of)
def test_frequencies_of_counts_follow_the_probabilities(make, graph):
    process = make(graph)
    series = process.simulate(2000, seed=2)
    table = process.conditional(series[:-1]).log_prob(torch.arange(30).double()[:, None, None]).exp()
    expected = table.sum(dim=(1, 2))
    found = torch.bincount(series[1:].flatten().long(), minlength=30)
    kept = expected > 20
    # given the past, the counts of entries are independent: the sum has at most the variance of a multinomial
    z = (found - expected)[kept] / expected[kept].sqrt()
    assert kept.sum() > 10 and z.abs().max() < 5


def direct_convolution(process: INARNetwork, previous: Tensor, node: int, size: int = 400) -> np.ndarray:
    law = stats.poisson.pmf(np.arange(size), process.rate)
    for source, count in enumerate(previous.long().tolist()):
        binomial = stats.binom.pmf(np.arange(count + 1), count, float(process.thinning[node, source]))
        law = np.convolve(law, binomial)[:size]
    return law


@pytest.mark.parametrize("persistence", [0.3, 0.5])  # one half has a zero on the unit circle
def test_thinned_sums_are_convolutions_to_the_last_digits_of_the_tails(graph, persistence):
    process = INARNetwork(graph, rate=0.7, persistence=persistence, coupling=0.4)
    previous = torch.tensor([0.0, 3.0, 25.0, 1.0, 130.0, 7.0])
    law = process.conditional(previous)
    for node in range(NODES):
        expected = direct_convolution(process, previous, node)
        counts = torch.arange(400).double()[:, None].expand(-1, NODES)
        found = law.log_prob(counts)[:, node].numpy()
        reliable = expected > 1e-290
        assert reliable.sum() > 100 and expected[reliable].min() < 1e-100
        np.testing.assert_allclose(found[reliable], np.log(expected[reliable]), rtol=1e-9, atol=1e-7)
    torch.testing.assert_close(law.mean, process.thinning @ previous.double() + 0.7)


def test_inar_thins_by_the_graph(graph):
    process = INARNetwork(graph, rate=2.0, persistence=0.2, coupling=0.6)
    previous = torch.randint(0, 20, (5, NODES), generator=torch.Generator().manual_seed(0)).double()
    expected = 2.0 + 0.2 * previous + 0.6 * means_of_neighbours(graph, previous)
    torch.testing.assert_close(process.conditional(previous).mean, expected, rtol=0, atol=1e-5)
    # covariances between nodes solve those of the linear recursion, with the variance of the law at the mean
    series = process.simulate(5000, seed=0)
    mean = torch.linalg.solve(
        torch.eye(NODES).double() - process.thinning, torch.full((NODES,), 2.0).double()
    )
    thinning = process.thinning
    noise = torch.diag((thinning * (1 - thinning)) @ mean + 2.0)
    covariance, added = noise, noise
    for _ in range(200):
        added = thinning @ added @ thinning.mT
        covariance = covariance + added
    # batches of 100 steps are close to independent
    batches = series.unflatten(0, (50, 100))
    for found, truth in (
        (batches.mean(dim=1), mean),
        (torch.einsum("bti,btj->bij", batches - mean, batches - mean) / 100, covariance),
    ):
        z = (found.mean(dim=0) - truth) / (found.std(dim=0) / math.sqrt(50))
        assert z.abs().max() < 5
    assert covariance[0, 1] > 0.1


def test_a_single_node_has_a_poisson_marginal():
    alone = Data(edge_index=torch.empty(2, 0, dtype=torch.int64), num_nodes=1)
    series = INARNetwork(alone, rate=1.2, persistence=0.6, coupling=0.0).simulate(6000, seed=4)
    thinned = series[::10, 0].long()  # 0.6^10 of the correlation is left
    probs = stats.poisson.pmf(np.arange(9), 3.0)
    found = torch.bincount(thinned.clamp(max=9), minlength=10).numpy()
    assert stats.chisquare(found, len(thinned) * np.append(probs, 1 - probs.sum())).pvalue > 1e-5


def test_the_rate_of_the_log_linear_process(graph):
    process = LogLinearPoissonNetwork(graph, intercept=0.5, persistence=0.2, coupling=-0.7)
    previous = torch.randint(0, 20, (5, NODES), generator=torch.Generator().manual_seed(0)).double()
    logs = previous.log1p()
    expected = (0.5 + 0.2 * logs - 0.7 * means_of_neighbours(graph, logs)).exp()
    law = process.conditional(previous)
    torch.testing.assert_close(law.mean, expected, rtol=1e-5, atol=0)
    found = law.log_prob(torch.tensor(3.0)).numpy()
    np.testing.assert_allclose(found, stats.poisson.logpmf(3, law.mean.numpy()), rtol=1e-10)


def test_the_censored_process_adds_noise_before_the_limit(graph):
    process = TobitNetwork(graph, 0.1, 0.4, 0.2, -0.6, 0.8)
    assert process.limit == torch.tensor(0.1).double().item() or process.limit == float(np.float32(0.1))
    series = process.simulate(2000, seed=0)
    # the limit survives the precision of a series
    at_limit = series.float().double() == process.limit
    assert 0.2 < at_limit.double().mean() < 0.8 and (series >= process.limit).all()
    law = process.conditional(series.float())
    loc = 0.4 + 0.2 * series - 0.6 * means_of_neighbours(graph, series)
    atom = stats.norm.logcdf(process.limit, loc.numpy(), 0.8)
    np.testing.assert_allclose(law.log_prob(torch.tensor(0.1)).numpy(), atom, rtol=0, atol=1e-5)
    density = stats.norm.logpdf(1.7, loc.numpy(), 0.8)
    np.testing.assert_allclose(law.log_prob(torch.tensor(1.7)).numpy(), density, rtol=0, atol=1e-5)


def linear(process: LogNormalNetwork | LogitNormalNetwork) -> VARProcess:
    """The process of the logarithms or logits."""
    nodes = process.num_nodes
    unit = torch.eye(nodes, dtype=torch.float64)
    means = torch.stack([means_of_neighbours(process.graph, row) for row in unit]).mT
    coefficients = process.persistence * unit + process.coupling * means
    intercept = torch.full((nodes,), process.intercept)
    return VARProcess(coefficients[None], intercept, process.scale**2 * unit)


def test_logarithms_and_logits_are_a_linear_process(graph):
    for process, to_line in (
        (LogNormalNetwork(graph), torch.log),
        (LogitNormalNetwork(graph, 2.0, 6.0), lambda x: ((x - 2) / (6 - x)).log()),
    ):
        series = process.simulate(4000, seed=1)
        z, var = to_line(series), linear(process)
        state = var.state_space()
        batches = z.unflatten(0, (40, 100))
        for found, truth in (
            (batches.mean(dim=1), state.initial_mean),
            ((batches - state.initial_mean).square().mean(dim=1), state.initial_covariance.diagonal()),
        ):
            assert ((found.mean(dim=0) - truth) / (found.std(dim=0) / math.sqrt(40))).abs().max() < 5
        # the density is that of the line, times the slope of the map
        x = series[1:].clone().requires_grad_()
        (slope,) = torch.autograd.grad(to_line(x).sum(), x)
        expected = var.conditional_log_prob(z[None])[0] + slope.log().sum()
        found = process.conditional(series[:-1]).log_prob(series[1:]).sum()
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-2)


def test_the_chain_of_zeros_and_amounts(graph):
    process = ZeroInflatedGammaNetwork(graph, (-0.4, 0.9, 1.7), (0.6, 0.2, -0.5), 1.3)
    series = process.simulate(50, seed=3)
    wet, logs = (series > 0).double(), series.log1p()
    assert 0.2 < wet.mean() < 0.9
    probs = torch.sigmoid(-0.4 + 0.9 * wet + 1.7 * means_of_neighbours(graph, wet))
    mean = (0.6 + 0.2 * logs - 0.5 * means_of_neighbours(graph, logs)).exp()
    law = process.conditional(series)
    np.testing.assert_allclose(law.log_prob(torch.tensor(0.0)).numpy(), np.log1p(-probs.numpy()), atol=1e-5)
    gamma = stats.gamma(1.3, scale=mean.numpy() / 1.3)
    found = law.log_prob(torch.tensor(2.5)).numpy()
    np.testing.assert_allclose(found, np.log(probs.numpy()) + gamma.logpdf(2.5), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(INARNetwork, persistence=0.5, coupling=0.5), "sum below 1; they are 0.5 and 0.5"),
        (partial(INARNetwork, coupling=-0.1), "must be probabilities"),
        (partial(INARNetwork, rate=0.0), "rate must be positive and finite; it is 0.0"),
        (partial(LogLinearPoissonNetwork, coupling=-0.8), r"\|0.3\| \+ \|-0.8\| = 1.1"),
        (partial(TobitNetwork, persistence=1.0), r"\|persistence\| \+ \|coupling\| < 1"),
        (partial(TobitNetwork, limit=math.nan), "limit must be finite; it is nan"),
        (partial(LogNormalNetwork, scale=-1.0), "scale must be positive and finite; it is -1.0"),
        (partial(LogNormalNetwork, coupling=0.7), "must be stable"),
        (partial(LogitNormalNetwork, low=2.0, high=1.0), "low must be below high; they are 2.0 and 1.0"),
        (partial(ZeroInflatedGammaNetwork, amount=(0.0, 0.5, 0.6)), "must be stable"),
        (partial(ZeroInflatedGammaNetwork, shape=math.inf), "shape must be positive and finite; it is inf"),
    ],
)
def test_processes_that_are_not_stable_are_refused(make, message, graph):
    with pytest.raises(ValueError, match=message):
        make(graph)


@each
def test_previous_values_that_the_process_does_not_have_are_refused(make, graph):
    process = make(graph)
    wrong = process.simulate(2, seed=0)
    wrong[1, 2] = torch.inf if make is ThresholdNetwork else -7.5
    with pytest.raises(ValueError, match=f"previous must be .*; it has {float(wrong[1, 2]):g}"):
        process.conditional(wrong)
    with pytest.raises(ValueError, match=r"previous must be \[..., 6\]"):
        process.conditional(wrong[:, :3])
    with pytest.raises(ValueError, match="steps must be at least 1"):
        process.simulate(0, seed=0)


def windows(process, hidden: float, count: int = 5, time: int = 12) -> tuple[SeriesBatch, Tensor]:
    """Windows with hidden entries, whose values are NaN, and their true values."""
    truth = process.simulate(count * time, seed=9).float().unflatten(0, (count, time))[..., None]
    context = torch.rand(truth.shape, generator=torch.Generator().manual_seed(1)) >= hidden
    position = torch.arange(count * time).unflatten(0, (count, time))
    values = torch.where(context, truth, torch.nan)
    return SeriesBatch(values, context, torch.zeros_like(context), process.graph, position), truth


@each
def test_the_filter_is_exact_where_the_previous_slice_is_in_the_context(make, graph):
    process = make(graph)
    batch, truth = windows(process, hidden=0.0)
    batch.context[:, 6:8, 2] = False
    law = process.predictive(batch)
    assert law.batch_shape == truth.shape
    past = torch.cat([truth[:, :6], truth[:, 8:-1]], dim=1)[..., 0]
    expected = process.conditional(past)
    exact = [*range(1, 7), *range(9, 12)]
    for name in ("log_prob", "cdf", "cdf_below"):
        found, same = (
            getattr(law, name)(truth)[:, exact, :, 0],
            getattr(expected, name)(truth[:, exact, :, 0]),
        )
        torch.testing.assert_close(found, same.double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(law.mean[:, exact, :, 0], expected.mean)
    torch.testing.assert_close(law.variance[:, exact, :, 0], expected.variance)
    # elsewhere laws are wider, and hidden values are not read
    batch.values[:, 6:8, 2] = 1e3
    assert torch.equal(process.predictive(batch).mean, law.mean)
    assert (law.mean[:, 7, :, 0] != process.conditional(truth[:, 6, :, 0]).mean).any()


@each
def test_the_filter_knows_windows_one_by_one(make, graph):
    process = make(graph)
    batch, truth = windows(process, hidden=0.3)
    whole = process.predictive(batch).log_prob(truth)
    part = SeriesBatch(batch.values[3:], batch.context[3:], batch.target[3:], batch.graph, batch.position[3:])
    torch.testing.assert_close(process.predictive(part).log_prob(truth[3:]), whole[3:], rtol=0, atol=1e-9)
    assert whole.isfinite().all()
    # a law does not depend on its own slice, or later ones
    batch.context[:, 8:] = False
    assert torch.equal(process.predictive(batch).log_prob(truth)[:, :9], whole[:, :9])


def test_the_filter_agrees_with_that_of_kalman(graph):
    process = LogNormalNetwork(graph)
    batch, truth = windows(process, hidden=0.4, count=40)
    law, logs = process.predictive(batch), truth.double().log()
    of_logs = SeriesBatch(batch.values.double().log(), batch.context, batch.target, graph, batch.position)
    exact = linear(process).predictive(of_logs)
    difference = law.log_prob(truth) - (exact.log_prob(logs) - logs)
    # K particles lose about 1 / 2K nats; a filter that ignores the context loses a hundred times as much
    assert abs(float(difference.mean())) < 3e-3 and float(difference.std()) < 0.05
    torch.testing.assert_close(law.mean, (exact.mean + exact.variance / 2).exp(), rtol=0.12, atol=0)
    stationary = linear(process).predictive(
        SeriesBatch(of_logs.values, batch.context & False, batch.target, graph, batch.position)
    )
    assert float((exact.log_prob(logs) - stationary.log_prob(logs)).mean()) > 0.1


@each
def test_draws_of_the_filter_follow_its_law(make, graph):
    process = make(graph)
    batch, _ = windows(process, hidden=0.4, count=2, time=3)
    law = process.predictive(batch)
    draws = law.draw(torch.arange(1000).view(500, 2))
    assert draws.shape == (500, 2, 3, NODES, 1)
    noise = torch.rand(draws.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    below, up_to = law.cdf_below(draws), law.cdf(draws)
    ranks = below + noise * (up_to - below)
    for entry in (ranks[:, 0, 0, 0, 0], ranks[:, 1, 2, 2, 0]):
        assert stats.chisquare(torch.histc(entry, 20, 0, 1).numpy()).pvalue > 1e-4
    z = (draws.mean(dim=0) - law.mean) / (law.stddev / math.sqrt(500))
    assert z.abs().max() < 5
    assert law.sample((3,)).shape == (3, *law.batch_shape)


def test_batches_of_other_nodes_or_several_channels_are_refused(graph):
    process = INARNetwork(graph)
    batch, _ = windows(process, hidden=0.1)
    wide = SeriesBatch(
        *(x.expand(-1, -1, -1, 2) for x in (batch.values, batch.context, batch.target)),
        graph,
        batch.position,
    )
    with pytest.raises(ValueError, match="6 nodes with one channel; it has 6 nodes with 2 channels"):
        process.predictive(wide)
    broken = SeriesBatch(batch.values + 0.5, batch.context, batch.target, graph, batch.position)
    with pytest.raises(ValueError, match=r"the context must be whole numbers .*; it has \d\.5"):
        process.predictive(broken)
