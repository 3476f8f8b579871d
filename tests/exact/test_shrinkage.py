"""A process fitted with shrinkage to whatever is visible: recovery, held-out likelihood, and odd windows."""

import pytest
import torch

from tsgen.data.series import SeriesBatch
from tsgen.exact import VARProcess, fit_shrunk
from tsgen.simulate import geometric_graph, linear_process

NODES = 6


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def var_of(nodes: int, seed: int = 0) -> VARProcess:
    """A VAR(1) of unit variances with correlated noise; every node influences some others."""
    mix = torch.randn(nodes, nodes, generator=generator(seed)).double()
    coefficients = 0.6 * torch.eye(nodes).double() + 0.15 * mix / nodes**0.5
    noise = torch.randn(nodes, 2 * nodes, generator=generator(seed + 1)).double() / nodes**0.5
    raw = VARProcess(coefficients[None], torch.zeros(nodes).double(), noise @ noise.mT)
    scale = raw.stationary().covariance.diagonal()[:nodes].rsqrt()
    return raw.in_units(torch.zeros(nodes).double(), scale)


def windows_of(process: VARProcess, steps: int, length: int, share: float = 0.3, seed: int = 0):
    """Windows of a series of which some share is missing, as NaN."""
    values = process.simulate(steps, seed).unflatten(0, (-1, length))
    observed = torch.rand(values.shape, generator=generator(seed)) >= share
    return values.masked_fill(~observed, torch.nan), observed


def test_a_process_is_recovered_from_incomplete_data():
    process = var_of(NODES)
    fitted = fit_shrunk(*windows_of(process, 5000, 50), iterations=12)
    order_one = fitted.coefficients[0] if fitted.order == 1 else fitted.coefficients.sum(dim=0)
    assert (order_one - process.coefficients[0]).abs().max() < 0.12
    deviation = process.covariance.diagonal().sqrt()
    error = (fitted.covariance - process.covariance) / (deviation[:, None] * deviation)
    assert error.abs().max() < 0.1
    values, observed = windows_of(process, 2000, 50, seed=7)
    zero = torch.where(observed, values, 0)
    gap = (process.log_prob(zero, observed) - fitted.log_prob(zero, observed)).sum() / observed.sum()
    assert 0 < gap < 0.01


def test_shrinkage_beats_least_squares_in_a_short_series():
    process = var_of(20, seed=3)
    values, observed = windows_of(process, 120, 30, share=0.0)
    fitted = fit_shrunk(values, observed)
    plain = VARProcess.fit(values.flatten(0, 1), order=1).process
    later, there = windows_of(process, 1200, 30, share=0.0, seed=5)
    scores = [x.log_prob(later, there).sum() / there.sum() for x in (process, fitted, plain)]
    assert scores[0] > scores[1] > scores[2] + 0.1


def test_a_node_without_measurements_follows_its_neighbours():
    common = 0.95
    covariance = (1 - 0.5**2) * (common + (1 - common) * torch.eye(3).double())
    # nodes 0, 1, 2 are alike, so are 3, 4, 5; node 0 is never measured
    process = VARProcess(
        0.5 * torch.eye(6).double()[None], torch.zeros(6).double(), torch.block_diag(covariance, covariance)
    )
    values, observed = windows_of(process, 1500, 30, share=0.1)
    observed[..., 0] = False
    similarity = torch.block_diag(torch.ones(3, 3), torch.ones(3, 3)) - torch.eye(6)
    truth = process.simulate(1500, 0).unflatten(0, (-1, 30))[..., 0]
    errors = {}
    for name, weights in (("edges", similarity), ("none", None)):
        fitted = fit_shrunk(values, observed, weights)
        posterior = fitted.posterior(as_batch(values, observed))
        errors[name] = (posterior.mean[..., 0, 0] - truth).square().mean()
        z = (posterior.mean[..., 0, 0] - truth) / posterior.stddev[..., 0, 0]
        assert 0.3 < z.square().mean() < 3, name
    assert errors["edges"] < 0.5 < errors["none"]
    # 0.05 is the share of the variance that the neighbours do not have in common
    assert errors["edges"] < 0.6 * errors["none"]


def as_batch(values, observed) -> SeriesBatch:
    windows, steps, nodes = values.shape
    return SeriesBatch(
        values=values[..., None],
        context=observed[..., None],
        target=torch.zeros_like(observed[..., None]),
        graph=geometric_graph(nodes, 0),
        position=torch.arange(windows * steps).view(windows, steps),
    )


@pytest.mark.parametrize("case", ["constant", "one window", "one step", "two steps", "nothing visible"])
def test_odd_windows_are_fitted(case):
    values, observed = windows_of(var_of(NODES), 240, 24)
    if case == "constant":
        values[..., 2] = 0.0
    if case == "one window":
        values, observed = values[:1], observed[:1]
    if case in ("one step", "two steps"):
        steps = 1 + (case == "two steps")
        values, observed = values[:, :steps], observed[:, :steps]
    if case == "nothing visible":
        observed = torch.zeros_like(observed)
    fitted = fit_shrunk(values, observed)
    assert fitted.radius < 1 and fitted.num_nodes == NODES
    posterior = fitted.posterior(as_batch(values, observed))
    assert posterior.mean.isfinite().all() and posterior.stddev.isfinite().all()
    # without measurements the law is that of standard units, roughly
    variance = fitted.stationary().covariance.diagonal()[:NODES]
    assert (variance > (-1 if case == "constant" else 0.2)).all() and (variance < 5).all()
    if case == "constant":
        assert variance[2] < 0.1 and posterior.mean[..., 2, 0].abs().max() < 0.1


def test_the_result_is_stationary_even_of_a_random_walk():
    walk = torch.randn(4, 60, 3, generator=generator()).double().cumsum(dim=1)
    values = (walk - walk.mean()) / walk.std()
    fitted = fit_shrunk(values, torch.ones_like(values, dtype=torch.bool))
    assert 0.9 < fitted.radius < 1


def test_nodes_may_be_in_any_order():
    process = linear_process(geometric_graph(NODES, 0), 0)
    start = process.stationary()
    process = process.in_units(-start.mean[:NODES], torch.ones(NODES).double())
    process = process.in_units(torch.zeros(NODES).double(), start.covariance.diagonal()[:NODES].rsqrt())
    values, observed = windows_of(process, 480, 24)
    weight = torch.rand(NODES, NODES, generator=generator())
    similarity = torch.maximum(weight, weight.mT).fill_diagonal_(0)
    order = torch.randperm(NODES, generator=generator(4))
    one = fit_shrunk(values, observed, similarity)
    other = fit_shrunk(values[..., order], observed[..., order], similarity[order][:, order])
    torch.testing.assert_close(other.coefficients, one.coefficients[:, order][:, :, order], atol=1e-8, rtol=0)
    torch.testing.assert_close(other.covariance, one.covariance[order][:, order], atol=1e-8, rtol=0)


def test_wrong_windows_are_refused():
    values, observed = windows_of(var_of(3), 48, 24)
    with pytest.raises(ValueError, match="observed values must be finite"):
        fit_shrunk(values, torch.ones_like(observed))
    for similarity, what in ((2.0 * torch.ones(3, 3), "within 0..1"), (torch.eye(3).roll(1, 0), "symmetric")):
        with pytest.raises(ValueError, match=what):
            fit_shrunk(values, observed, similarity)
    with pytest.raises(ValueError, match="iterations must be at least 0; it is -1"):
        fit_shrunk(values, observed, iterations=-1)
    with pytest.raises(ValueError, match="values must have windows"):
        fit_shrunk(values[:0], observed[:0])


def test_independent_nodes_are_shrunk_towards_autoregressions_of_their_own():
    memory = torch.linspace(0.5, 0.9, 12).double()
    unit = torch.eye(12).double()
    process = VARProcess(torch.diag(memory)[None], torch.zeros(12).double(), unit - torch.diag(memory**2))
    values, observed = windows_of(process, 600, 30, share=0.1)
    fitted = fit_shrunk(values, observed)
    own = fitted.coefficients.sum(dim=0).diagonal()
    others = fitted.coefficients[0] - torch.diag(fitted.coefficients[0].diagonal())
    plain = VARProcess.fit(values.nan_to_num().flatten(0, 1), order=1).process.coefficients[0]
    assert others.abs().mean() < 0.3 * (plain - torch.diag(plain.diagonal())).abs().mean()
    assert (own - memory).abs().mean() < 0.07


def test_noise_is_shrunk_towards_correlations_of_linked_nodes():
    linked = torch.block_diag(torch.ones(6, 6), torch.ones(6, 6)).double()
    covariance = 0.1 * torch.eye(12).double() + 0.9 * linked
    process = VARProcess(torch.zeros(1, 12, 12), torch.zeros(12), covariance)
    values, observed = windows_of(process, 60, 60, share=0.1)  # one window: shrunk the most
    fitted = fit_shrunk(values, observed, (linked - torch.eye(12)).float())
    deviation = fitted.covariance.diagonal().sqrt()
    correlation = fitted.covariance / (deviation[:, None] * deviation)
    assert correlation[:6, :6][~torch.eye(6, dtype=torch.bool)].mean() > 0.8
    assert correlation[:6, 6:].mean().abs() < 0.15
