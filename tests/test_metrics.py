"""Scores against scoringrules, against definitions written out, and in pieces."""

import numpy as np
import pytest
import scoringrules
import torch

from tsgen.metrics import (
    CRPS,
    MAE,
    MRE,
    NLL,
    RMSE,
    Coverage,
    QuantileCRPS,
    Width,
    crps,
    empirical_quantiles,
    law_crps,
    scores,
)


@pytest.fixture
def drawn():
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(40, 300, generator=generator) * 3 + 5
    truth = torch.randn(300, generator=generator) * 4 + 5
    return samples, truth


def test_crps_is_the_fair_one(drawn):
    samples, truth = drawn
    expected = scoringrules.crps_ensemble(truth.numpy(), samples.T.numpy(), estimator="fair")
    np.testing.assert_allclose(crps(samples, truth), expected, rtol=1e-4, atol=1e-5)
    three = torch.tensor([-1.0, 0.0, 0.5, 2.0])[:, None]
    assert float(crps(three, torch.tensor([0.3]))) == pytest.approx(0.0833333333)
    assert float(crps(torch.tensor([[2.0]]), torch.tensor([0.5]))) == 1.5


def test_crps_of_a_gaussian_is_the_references():
    random = torch.Generator().manual_seed(1)
    truth, loc, scale = (torch.randn(50, generator=random, dtype=torch.float64) for _ in range(3))
    law = torch.distributions.Normal(3 * loc, scale.exp())
    expected = scoringrules.crps_normal(truth.numpy(), law.loc.numpy(), law.scale.numpy())
    np.testing.assert_allclose(law_crps(law, truth), expected, rtol=1e-10)


def mixture(entries: int, components: int = 3) -> torch.distributions.MixtureSameFamily:
    """Mixtures of Gaussians of unequal weights, far apart or not."""
    random = torch.Generator().manual_seed(2)
    logits, loc, scale = torch.randn(3, entries, components, generator=random, dtype=torch.float64)
    return torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=2 * logits), torch.distributions.Normal(3 * loc, scale.exp())
    )


def test_crps_of_a_mixture_is_the_references_and_that_of_its_draws():
    law = mixture(20)
    truth = torch.linspace(-8, 8, 20, dtype=torch.float64)
    component = law.component_distribution
    expected = scoringrules.crps_mixnorm(
        truth.numpy(), component.loc.numpy(), component.scale.numpy(), law.mixture_distribution.probs.numpy()
    )
    np.testing.assert_allclose(law_crps(law, truth), expected, rtol=1e-10)
    torch.manual_seed(0)
    # the fair score of a few draws has the law's own as its mean
    scores = torch.stack([crps(law.sample((40,)), truth) for _ in range(2000)])
    z = (scores.mean(dim=0) - law_crps(law, truth)) / (scores.std(dim=0) / 2000**0.5)
    assert z.abs().max() < 5


def test_crps_of_another_law_is_refused():
    with pytest.raises(ValueError, match="Gaussian or a mixture of Gaussians; it is Laplace"):
        law_crps(torch.distributions.Laplace(torch.zeros(2), torch.ones(2)), torch.zeros(2))


def test_quantiles_are_numpys(drawn):
    samples, _ = drawn
    levels = torch.tensor([0.0, 0.05, 0.5, 0.77, 1.0])
    mine = empirical_quantiles(samples.sort(dim=0).values, levels)
    np.testing.assert_allclose(
        mine, np.quantile(samples.numpy(), levels.numpy(), axis=0), rtol=1e-5, atol=1e-5
    )
    single = empirical_quantiles(samples[:1], levels)
    assert torch.equal(single, samples[:1].expand(5, -1))


def test_scores_are_their_definitions(drawn):
    samples, truth = drawn
    x, y = samples.double().numpy(), truth.double().numpy()
    error = np.median(x, axis=0) - y
    levels = np.arange(0.05, 0.96, 0.05)
    quantile = np.quantile(x, levels, axis=0)
    pinball = 2 * np.abs((quantile - y) * ((y <= quantile) - levels[:, None]))
    low, high = np.quantile(x, [0.05, 0.95], axis=0, method="weibull")
    expected = {
        "mae": np.abs(error).mean(),
        "rmse": np.sqrt((error**2).mean()),
        "mre": np.abs(error).sum() / np.abs(y).sum(),
        "crps": scoringrules.crps_ensemble(y, x.T, estimator="fair").mean(),
        "crps_quantile": (pinball.sum(axis=1) / np.abs(y).sum()).mean(),
        "coverage_90": ((low <= y) & (y <= high)).mean(),
        "width_90": (high - low).mean(),
    }
    together = scores()
    together.update(samples, truth)
    computed = together.compute()
    for name, value in expected.items():
        assert float(computed[name]) == pytest.approx(value, rel=1e-4), name


@pytest.mark.parametrize(
    "metric", [MAE, RMSE, MRE, CRPS, QuantileCRPS, lambda: Coverage(0.5), lambda: Width(0.5)]
)
def test_pieces_add_up_whatever_their_size(metric, drawn):
    samples, truth = drawn
    whole, pieces = metric(), metric()
    whole.update(samples, truth)
    for cut in (slice(0, 1), slice(1, 1), slice(1, 200), slice(200, 300)):
        pieces.update(samples[:, cut], truth[cut])
    assert float(pieces.compute()) == pytest.approx(float(whole.compute()), rel=1e-6)


def test_perfect_and_calibrated_forecasts():
    generator = torch.Generator().manual_seed(1)
    truth = torch.randn(200_000, generator=generator)
    for size, level in ((100, 0.9), (100, 0.5), (20, 0.5), (19, 0.9)):
        samples = torch.randn(size, 200_000, generator=generator)
        calibrated = Coverage(level)
        calibrated.update(samples, truth)
        error = (level * (1 - level) / 200_000) ** 0.5
        assert abs(float(calibrated.compute()) - level) < 5 * error
    exact = scores()
    exact.update(samples[:1].expand(9, -1), samples[0])
    assert all(
        float(exact.compute()[name]) == 0 for name in ("mae", "rmse", "crps", "crps_quantile", "width_90")
    )


def test_nll_is_a_mean_over_scored_entries():
    nll = NLL()
    nll.update(torch.tensor([-1.0, 0.0, -3.0]), torch.tensor([True, False, True]))
    nll.update(torch.zeros(2), torch.zeros(2, dtype=torch.bool))
    assert float(nll.compute()) == 2.0


def test_nothing_scored_is_not_a_perfect_score():
    empty = MAE()
    empty.update(torch.zeros(3, 0), torch.zeros(0))
    assert torch.isnan(empty.compute())


def test_levels_lie_between_0_and_1(as_a_user):
    with pytest.raises(ValueError, match="level must lie"):
        Coverage(90)
