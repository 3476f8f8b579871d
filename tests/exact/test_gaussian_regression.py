"""The normal law of stacked slices against dense algebra, and EM against the law that the data come from."""

import pytest
import torch

from tsgen.exact import Gaussian, VARProcess
from tsgen.exact import gaussian_regression as module
from tsgen.exact.gaussian_regression import StackedGaussian, Stacks

COLUMNS, LAGS = 4, 1
SLICES = 2 * LAGS + 1


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def law() -> StackedGaussian:
    root = torch.randn(COLUMNS * SLICES, 20, generator=generator(), dtype=torch.float64)
    covariance = root @ root.mT / 20 + 0.2 * torch.eye(COLUMNS * SLICES)
    return StackedGaussian(torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64), covariance)


@pytest.fixture
def windows():
    """Windows with entries, runs and whole slices outside the context, which is not finite there."""
    g = generator(1)
    values = torch.randn(3, 9, COLUMNS, generator=g, dtype=torch.float64)
    context = torch.rand(3, 9, COLUMNS, generator=g) < 0.6
    context[0, 3:6] = False
    context[1, 2:7, 0] = False
    context[2, 4:8] = True
    context[2, 5, 1] = False
    return values.where(context, torch.nan), context


def dense(law: StackedGaussian, values, context):
    """Mean and variance of every entry by the textbook formula, one entry at a time."""
    mean, variance = values.clone(), torch.zeros_like(values)
    stack = Gaussian(law.mean.repeat(SLICES), law.covariance)
    for w, t, c in (~context).nonzero().tolist():
        given = [
            (k * COLUMNS + j, float(values[w, s, j]))
            for k, s in enumerate(range(t - LAGS, t + LAGS + 1))
            if 0 <= s < values.shape[1]
            for j in range(COLUMNS)
            if context[w, s, j]
        ]
        entry = LAGS * COLUMNS + c
        found = stack.marginal([entry])
        if given:
            index, x = zip(*given, strict=True)
            both = stack.marginal([entry, *index])
            found = both.condition(range(1, len(index) + 1), torch.tensor(x, dtype=torch.float64))
        mean[w, t, c], variance[w, t, c] = found.mean[0], found.variance[0]
    return mean, variance


@pytest.mark.parametrize("at_once", [2**22, 40])
def test_the_conditional_law_is_that_of_the_textbook(law, windows, monkeypatch, at_once):
    monkeypatch.setattr(module, "NUMBERS_AT_ONCE", at_once)  # 40: many small portions
    found = law.conditional(*windows)
    mean, variance = dense(law, *windows)
    torch.testing.assert_close(found.mean, mean, rtol=0, atol=1e-11)
    torch.testing.assert_close(found.variance, variance, rtol=0, atol=1e-11)


def test_a_step_of_em_never_lowers_the_likelihood(law):
    draws = Gaussian(law.mean.repeat(SLICES), law.covariance).expand([300]).rsample()
    observed = torch.rand(draws.shape, generator=generator(2)) < 0.7
    stacks = Stacks(torch.where(observed, draws, 0), observed)

    def log_likelihood(current):
        joint = torch.distributions.MultivariateNormal(current.mean.repeat(SLICES), current.covariance)
        total = 0.0
        for x, seen in zip(draws, observed, strict=True):
            loc, covariance = joint.loc[seen], joint.covariance_matrix[seen][:, seen]
            total += float(torch.distributions.MultivariateNormal(loc, covariance).log_prob(x[seen]))
        return total

    # unstructured EM: neither averages over time nor shrinkage, which are no ascent steps
    current, found = StackedGaussian(torch.zeros(COLUMNS).double(), torch.eye(12).double()), []
    for _ in range(6):
        completed, conditional = current._expected_moments(stacks)
        covariance = (completed.mT @ completed + conditional) / len(completed)
        current = StackedGaussian(current.mean, covariance)
        found.append(log_likelihood(current))
    assert found == sorted(found) and found[-1] - found[0] > 50


def process() -> VARProcess:
    """A directed network with unequal weights."""
    matrix = torch.tensor([[0.7, 0.2, 0.0], [0.0, 0.5, 0.3], [-0.2, 0.0, 0.6]]).double()
    noise = torch.tensor([[0.5, 0.2, 0.0], [0.2, 0.6, -0.1], [0.0, -0.1, 0.4]]).double()
    return VARProcess(matrix[None], torch.zeros(3).double(), noise)


def test_em_finds_the_law_of_a_stationary_process_from_half_of_its_entries():
    truth = process()
    series = truth.simulate(20_000, 0)
    observed = torch.rand(series.shape, generator=generator(3)) < 0.5
    stacks = Stacks.of(series.where(observed, torch.nan), observed, LAGS, torch.arange(0, 20_000, 2))
    found = StackedGaussian.fit(stacks, 3, iterations=30, shrinkage=0.0)
    slice_covariance = truth.stationary().covariance
    ahead = truth.coefficients[0] @ slice_covariance
    for k, expected in enumerate([slice_covariance, ahead.mT, (truth.coefficients[0] @ ahead).mT]):
        for first in range(SLICES - k):
            block = found.covariance[3 * first : 3 * first + 3, 3 * (first + k) : 3 * (first + k) + 3]
            torch.testing.assert_close(block, expected, rtol=0, atol=0.08)
            torch.testing.assert_close(block, found.covariance[:3, 3 * k : 3 * k + 3], rtol=0, atol=1e-9)
    assert found.mean.abs().max() < 0.1


def correlations(law: StackedGaussian) -> torch.Tensor:
    deviation = law.covariance.diagonal().sqrt()
    return (law.covariance / deviation[:, None] / deviation).view(SLICES, COLUMNS, SLICES, COLUMNS)


def test_shrinkage_keeps_variances_and_ends_at_an_exchangeable_network(law):
    whole = law.shrunk(1.0).covariance
    torch.testing.assert_close(whole.diagonal(), law.covariance.diagonal())
    blocks = correlations(law.shrunk(1.0))
    for a in range(SLICES):
        for b in range(SLICES):
            block = blocks[a, :, b]
            torch.testing.assert_close(block.diagonal(), block[0, 0].expand(COLUMNS))
            off = block[~torch.eye(COLUMNS, dtype=torch.bool)]
            torch.testing.assert_close(off, off[0].expand_as(off))
            before = correlations(law)[a, :, b]
            torch.testing.assert_close(off[0], before[~torch.eye(COLUMNS, dtype=torch.bool)].mean())
            torch.testing.assert_close(block[0, 0], before.diagonal().mean())
    torch.testing.assert_close(law.shrunk(0.0).covariance, law.covariance)
    assert torch.linalg.eigvalsh(whole).min() > 0


def test_a_column_without_values_has_a_law():
    series = torch.randn(200, 3, generator=generator(4))
    observed = torch.ones(200, 3, dtype=torch.bool)
    observed[:, 1] = False
    stacks = Stacks.of(series.where(observed, torch.nan), observed, LAGS, torch.arange(200))
    found = StackedGaussian.fit(stacks, 3).conditional(series[None], observed[None])
    assert found.mean.isfinite().all() and (found.variance[0, :, 1] > 0.3).all()


def test_a_covariance_of_an_even_number_of_slices_is_refused():
    with pytest.raises(ValueError, match="odd number of slices"):
        StackedGaussian(torch.zeros(3), torch.eye(6))
