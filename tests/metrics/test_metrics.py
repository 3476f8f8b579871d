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
    EnergyScore,
    IntervalScore,
    LawCRPS,
    QuantileCRPS,
    RankHistogram,
    VariogramScore,
    Width,
    crps,
    empirical_quantiles,
    energy_score,
    entry_scores,
    interval_score,
    law_crps,
    ranks,
    scores,
    variogram_score,
)
from tsgen.metrics.joint import PAIRED
from tsgen.metrics.ranks import rank_edges


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
        "interval_90": scoringrules.interval_score(y, low, high, 0.1).mean(),
    }
    together = scores()
    together.update(samples, truth)
    computed = together.compute()
    for name, value in expected.items():
        assert float(computed[name]) == pytest.approx(value, rel=1e-4), name


@pytest.mark.parametrize(
    "metric",
    [
        MAE,
        RMSE,
        MRE,
        CRPS,
        QuantileCRPS,
        lambda: Width(0.5),
        lambda: Coverage(0.5),
        lambda: IntervalScore(0.5),
    ],
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
    exact.update(samples[:1].expand(19, -1), samples[0])
    assert all(
        float(exact.compute()[name]) == 0 for name in ("mae", "rmse", "crps", "crps_quantile", "width_90")
    )


@pytest.mark.parametrize(("level", "fewest"), [(0.9, 19), (0.5, 3)])
def test_too_few_draws_have_no_interval_of_a_level(level, fewest):
    """The range of 18 draws holds a calibrated truth in 17 of 19 cases, not in 90 %."""
    draws, truth = torch.randn(fewest, 50), torch.randn(50)
    for kind in (Coverage, Width, IntervalScore):
        enough, few = kind(level), kind(level)
        enough.update(draws, truth)
        few.update(draws[1:], truth)
        assert enough.compute().isfinite() and few.compute().isnan()
    if level == 0.9:
        assert "coverage_90" in entry_scores(draws, truth) and "coverage_90" not in entry_scores(
            draws[1:], truth
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


def test_the_interval_score_is_the_references_and_best_at_the_quantiles():
    random = np.random.default_rng(0)
    low, high, truth = -1 - random.random(50), 1 + random.random(50), 3 * random.standard_normal(50)
    for level in (0.5, 0.9):
        mine = interval_score(*map(torch.from_numpy, (low, high, truth)), level)
        np.testing.assert_allclose(mine, scoringrules.interval_score(truth, low, high, 1 - level))
    truth = torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    best, *others = (
        interval_score(torch.full_like(truth, -z), torch.full_like(truth, z), truth, 0.9)
        for z in (1.6449, 1.4, 1.9)
    )
    for other in others:
        assert float((other - best).mean() / (other - best).std() * 400_000**0.5) > 5


def test_the_law_scores_what_its_draws_score():
    law, truth = mixture(20), torch.linspace(-8, 8, 20, dtype=torch.float64)
    mask = torch.arange(20) % 3 > 0
    metric = LawCRPS()
    metric.update(law, torch.where(mask, truth, torch.nan), mask)
    assert float(metric.compute()) == pytest.approx(float(law_crps(law, truth)[mask].mean()))


# ---------------------------------------------------------------------------------------------------- ranks


def test_ranks_of_calibrated_draws_are_uniform_ties_included():
    random = torch.Generator().manual_seed(0)
    draws = torch.randn(10, 200_000, generator=random)
    truth = torch.randn(200_000, generator=random)
    noise = torch.rand(200_000, generator=random)
    for step in (0.0, 1.0):  # values on a grid are often equal
        x, y = (((v / step).round() * step) if step else v for v in (draws, truth))
        metric = RankHistogram(9)
        metric.update(ranks(x[:9], y, noise))
        counts = metric.compute()
        assert counts.sum() == 200_000 and len(counts) == 10
        chi_square = float(((counts - 20_000) ** 2 / 20_000).sum())
        assert (chi_square - 9) / 18**0.5 < 5
    with_ties = ranks(torch.tensor([[1.0], [2.0], [2.0], [3.0]]), torch.tensor([2.0]), torch.tensor([0.99]))
    assert int(with_ties) == 3


def test_bins_hold_whole_ranks_and_what_is_not_scored_is_left_out():
    metric = RankHistogram(99)
    metric.update(torch.cat([torch.arange(100), torch.tensor([-1, -1, 99])]))
    assert metric.compute().tolist() == [5] * 19 + [6]
    few = RankHistogram(2)
    few.update(torch.tensor([0, 2, 2]))
    assert few.compute().tolist() == [1, 0, 2]


@pytest.mark.parametrize("size", [20, 100])
def test_bins_are_told_with_their_ranks(size):
    """Calibrated counts are as the numbers of ranks in their bins, which are not all the same."""
    random = torch.Generator().manual_seed(0)
    metric = RankHistogram(size)
    metric.update(torch.randint(size + 1, (200_000,), generator=random))
    counts, held = (np.array(metric.table()[key]) for key in ("counts", "ranks"))
    expected = counts.sum() * held / held.sum()
    assert held.sum() == size + 1 and np.ptp(held) == 1
    assert held.tolist() == np.diff(rank_edges(size)).tolist()
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert (chi_square - 19) / 38**0.5 < 5


# ---------------------------------------------------------------------------------------------- joint scores


@pytest.fixture
def windows():
    """Draws of six windows of 4 steps, 5 nodes, 2 channels far from zero. The second has no scored entry, the
    third a single one."""
    random = torch.Generator().manual_seed(0)
    samples = 1000 + 3 * torch.randn(20, 6, 4, 5, 2, generator=random, dtype=torch.float64)
    truth = 1000 + 4 * torch.randn(6, 4, 5, 2, generator=random, dtype=torch.float64)
    mask = torch.rand(truth.shape, generator=random) < 0.5
    mask[1] = False
    mask[2] = False
    mask[2, 1, 3, 0] = True
    return samples, torch.where(mask, truth, torch.nan), mask


def test_the_energy_score_is_the_references(windows):
    samples, truth, mask = windows
    found = energy_score(samples, truth, mask)
    assert found.isnan().tolist() == [False, True, False, False, False, False]
    for w in (0, 2, 3, 4, 5):
        y, x = truth[w][mask[w]].numpy(), samples[:, w][:, mask[w]].numpy()
        assert float(found[w]) == pytest.approx(scoringrules.energy_score(y, x, estimator="fair"), rel=1e-9)
    # of a single entry it is the CRPS, of a single draw the norm of its error
    assert float(found[2]) == pytest.approx(float(crps(samples[:, 2][:, mask[2]], truth[2][mask[2]])))
    alone = energy_score(samples[:1], truth, mask)
    assert float(alone[0]) == pytest.approx(float((samples[0, 0] - truth[0])[mask[0]].norm()))
    # draws far from the truth and near each other, in float32
    near = (truth.nan_to_num() + 100 + samples / 1000).float()
    expected = energy_score(near.double(), truth.float().double(), mask)
    single = energy_score(near, truth.float(), mask).double()
    torch.testing.assert_close(single, expected, rtol=1e-6, atol=0, equal_nan=True)


def in_slices(samples, truth, mask, order: float) -> float:
    """The reference's score of one window's slices, over their pairs."""
    total, pairs = 0.0, 0
    for t in range(len(mask)):
        y, x = truth[t][mask[t]].numpy(), samples[:, t][:, mask[t]].numpy()
        if len(y) > 1:
            total += scoringrules.variogram_score(y, x, p=order, estimator="fair") / 2  # of both orders
            pairs += len(y) * (len(y) - 1) // 2
    return total / pairs


@pytest.mark.parametrize("order", [0.5, 1.0])
def test_the_variogram_score_is_the_references_over_slices(order, windows):
    samples, truth, mask = windows
    found = variogram_score(samples, truth, mask, order)
    assert found.isnan().tolist() == [False, True, True, False, False, False]
    for w in (0, 3, 4, 5):
        expected = in_slices(samples[:, w], truth[w], mask[w], order)
        assert float(found[w]) == pytest.approx(expected, rel=1e-9)


def test_large_slices_have_some_of_their_pairs():
    size = 4 * PAIRED
    random = torch.Generator().manual_seed(1)
    x = torch.randn(7, 1, 1, size, 1, generator=random, dtype=torch.float64)
    y = torch.randn(1, 1, size, 1, generator=random, dtype=torch.float64)
    apart = (torch.arange(size)[:, None] - torch.arange(size)).abs()
    near = torch.minimum(apart, size - apart)
    weight = ((near > 0) & (near <= PAIRED)).double().numpy()
    flat = y.flatten().numpy(), x.flatten(1).numpy()
    expected = scoringrules.variogram_score(*flat, weight, estimator="fair") / weight.sum()
    found = variogram_score(x, y, torch.ones_like(y, dtype=torch.bool))
    assert float(found) == pytest.approx(float(expected), rel=1e-9)


def test_joint_scores_prefer_the_true_law():
    """Unbiased in the number of draws, and the truth's own law is the best: the variogram score where only
    the dependence is wrong, the energy score where the spread is."""
    random = torch.Generator().manual_seed(2)
    common = torch.randn(30_000, 1, 1, 1, generator=random)
    own = torch.randn(30_000, 1, 6, 1, generator=random)
    truth, mask = common + own, torch.ones(30_000, 1, 6, 1, dtype=torch.bool)

    def draws(shared: float, spread: float = 2**0.5, size: int = 6):
        one = torch.randn(size, 30_000, 1, 1, 1, generator=random)
        each = torch.randn(size, 30_000, 1, 6, 1, generator=random)
        return spread * (shared**0.5 * one + (1 - shared) ** 0.5 * each)

    for score, wrong in ((variogram_score, draws(0.0)), (energy_score, draws(0.5, 1.0))):
        right, few = score(draws(0.5), truth, mask), score(draws(0.5, size=2), truth, mask)
        assert float((score(wrong, truth, mask) - right).mean()) > 5 * float(right.std() / 30_000**0.5)
        bias = (few - right).mean() / ((few - right).std() / 30_000**0.5)
        assert abs(float(bias)) < 5


@pytest.mark.parametrize("metric", [EnergyScore, VariogramScore])
def test_joint_scores_are_means_over_windows_and_processes(metric, windows):
    samples, truth, mask = windows
    each = (energy_score if metric is EnergyScore else variogram_score)(samples, truth, mask)
    whole, parts = metric(), [metric(), metric()]
    whole.update(samples, truth, mask)
    for part, few in zip(parts, (slice(0, 3), slice(3, 6)), strict=True):
        part.update(samples[:, few], truth[few], mask[few])
    parts[0].merge_state(parts[1])
    assert float(parts[0].compute()) == float(whole.compute()) == pytest.approx(float(each.nanmean()))
    assert metric().compute().isnan()


def test_the_order_is_positive(as_a_user):
    with pytest.raises(ValueError, match="order must be positive; it is 0"):
        VariogramScore(0)
