"""Laws of counts against scipy, over the whole range of their parameters."""

import numpy as np
import pytest
import scipy.stats
import torch

from tsgen.heads.count_laws import NegativeBinomialLaw, PoissonLaw
from tsgen.heads.zero_inflated import ZeroInflated

MEANS = torch.logspace(-8, 6, 8, dtype=torch.float64)
GRID = torch.meshgrid(MEANS, torch.logspace(-4, 6, 6, dtype=torch.float64), indexing="ij")
SIZE, P = 1 / GRID[1].numpy(), 1 / (1 + (GRID[0] * GRID[1]).numpy())


@pytest.mark.parametrize("probability", [1e-9, 0.001, 0.3, 0.5, 0.9, 0.99, 1 - 1e-6])
def test_extreme_laws_are_scipys(probability):
    law, u = NegativeBinomialLaw(*GRID), torch.full_like(GRID[0], probability)
    k = law.icdf(u)
    assert ((law.cdf(k) >= u) & (law.cdf(k - 1) < u)).all()
    np.testing.assert_allclose(law.cdf(k), scipy.stats.nbinom.cdf(k, SIZE, P), atol=1e-9)
    np.testing.assert_allclose(law.log_prob(k), scipy.stats.nbinom.logpmf(k, SIZE, P), atol=1e-5)
    poisson, u = PoissonLaw(MEANS), u[:, 0]
    k = poisson.icdf(u)
    np.testing.assert_array_equal(k, scipy.stats.poisson.ppf(u, MEANS))
    np.testing.assert_allclose(poisson.log_prob(k), scipy.stats.poisson.logpmf(k, MEANS), atol=1e-8)


def test_gradients_are_finite_and_right():
    mean, dispersion = (x.clone().requires_grad_() for x in GRID)
    k = torch.tensor([0.0, 1.0, 7.0, 1e6, 1e12]).view(-1, 1, 1)
    for score in ("log_prob", "crps"):
        result = getattr(NegativeBinomialLaw(mean, dispersion), score)(k)
        assert result.isfinite().all()
        assert all(g.isfinite().all() for g in torch.autograd.grad(result.sum(), (mean, dispersion)))
    few = [
        torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in ([0.1, 3.0, 5e3], [2.0, 0.5, 2e-4])
    ]
    k = torch.tensor([0.0, 4.0, 5100.0])
    for score in ("log_prob", "crps"):
        assert torch.autograd.gradcheck(lambda m, a, s=score: getattr(NegativeBinomialLaw(m, a), s)(k), few)
        assert torch.autograd.gradcheck(lambda m, s=score: getattr(PoissonLaw(m), s)(k), few[:1])


@pytest.mark.parametrize(
    "law",
    [
        PoissonLaw(torch.tensor(3.0)),
        NegativeBinomialLaw(torch.tensor(3.0), torch.tensor(0.5)),
        ZeroInflated(torch.tensor(0.3), NegativeBinomialLaw(torch.tensor(3.0), torch.tensor(0.5))),
    ],
    ids=["poisson", "negative binomial", "zero-inflated"],
)
def test_a_law_is_consistent(law):
    k = torch.arange(400.0)
    mass = law.log_prob(k).exp()
    assert float(mass.sum()) == pytest.approx(1)
    torch.testing.assert_close(mass.cumsum(dim=0), law.cdf(k))
    assert float((mass * k).sum()) == pytest.approx(float(law.mean))
    assert float((mass * k.square()).sum() - law.mean**2) == pytest.approx(float(law.variance))
    torch.manual_seed(0)
    drawn = law.sample((20_000,))
    for value in range(6):
        p = float(mass[value])
        assert abs(float((drawn == value).double().mean()) - p) < 5 * (p * (1 - p) / 20_000) ** 0.5
    assert (law.log_prob(torch.tensor([-1.0, 0.5])) == -torch.inf).all()
    assert law.cdf(torch.tensor([-0.5, torch.inf])).tolist() == [0, pytest.approx(1)]


@pytest.mark.parametrize(("mean", "dispersion"), [(1.0, 4.0), (30.0, 0.05), (30.0, 4.0), (5000.0, 0.5)])
def test_a_quantile_takes_few_evaluations(mean, dispersion, monkeypatch):
    """Of the distribution function, which is dear; and many quantiles are those of one at a time."""
    evaluated, original = [], NegativeBinomialLaw._cdf

    def counted(self, count):
        evaluated.append(count.numel())
        return original(self, count)

    monkeypatch.setattr(NegativeBinomialLaw, "_cdf", counted)
    law = NegativeBinomialLaw(*(torch.tensor(x, dtype=torch.float64) for x in (mean, dispersion)))
    u = torch.rand(2000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    k = law.icdf(u)
    assert sum(evaluated) < 4 * len(u)
    for i in range(0, 2000, 400):
        assert law.icdf(u[i]) == k[i]
    assert ((law.cdf(k) >= u) & (law.cdf(k - 1) < u)).all()


def test_quantiles_of_no_and_of_all_probability():
    for law in (
        PoissonLaw(torch.tensor([2.0, 500.0])),
        NegativeBinomialLaw(torch.tensor([2.0, 500.0]), torch.tensor(0.5)),
    ):
        assert law.icdf(torch.tensor([[0.0], [1.0]])).tolist() == [[0, 0], [torch.inf, torch.inf]]
        assert law.icdf(torch.ones(3, 2)[:0]).shape == (0, 2)
