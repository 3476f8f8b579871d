"""Laws with atoms: CRPS against integrals and scoringrules, ranks, PIT, coverage, scores of thresholds."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import scipy.stats
import scoringrules
import torch

from tsgen.evaluation.columns import measure_of, of_one_measure
from tsgen.heads.count_laws import NegativeBinomialLaw, PoissonLaw
from tsgen.heads.zero_inflated import ZeroInflated
from tsgen.metrics import (
    Coverage,
    ExceedanceScores,
    QuantileScores,
    brier_score,
    censored_crps,
    has_closed_crps,
    law_crps,
    pit,
    ranks,
    threshold_weighted_crps,
    truncated_crps,
)

TRUTH = torch.tensor([0.0, 1.0, 3.0, 10.0, 2.5], dtype=torch.float64)


def number(x):
    return torch.tensor(x, dtype=torch.float64)


def integral(cdf, truth, low=-60.0, high=400.0, steps=400_001):
    """Returns the integral of (F(z) - 1{z >= y})² by the midpoint rule."""
    edge = torch.linspace(low, high, steps, dtype=torch.float64)
    z = (edge[1:] + edge[:-1]) / 2
    return (
        torch.stack([((cdf(z) - (z >= y).double()).square()).sum() for y in truth])
        * (high - low)
        / (steps - 1)
    )


def uniform(p_values, size):
    """Returns whether the counts of ten equal bins of numbers in (0, 1) have |z| < 5."""
    counts = torch.histc(p_values.double(), 10, 0, 1)
    return bool(((counts - size / 10).abs() < 5 * math.sqrt(size * 0.09)).all())


LAWS = {
    "poisson": PoissonLaw(number(2.5)),
    "negative binomial": NegativeBinomialLaw(number(3.0), number(0.5)),
    "overdispersed": NegativeBinomialLaw(number(0.7), number(8.0)),
    "nearly poisson": NegativeBinomialLaw(number(4.0), number(1e-4)),
    "zero-inflated poisson": ZeroInflated(number(0.4), PoissonLaw(number(2.5))),
}


@pytest.mark.parametrize("name", LAWS)
def test_crps_is_the_integral(name):
    assert has_closed_crps(LAWS[name])
    # between halves the distribution function of counts is constant, and the rule exact
    steps = 400_001 if "normal" in name else 921
    expected = integral(LAWS[name].cdf, TRUTH, steps=steps)
    torch.testing.assert_close(law_crps(LAWS[name], TRUTH), expected, atol=2e-3, rtol=0)


def test_crps_of_counts_is_the_references():
    y = TRUTH.numpy()[:4]
    np.testing.assert_allclose(PoissonLaw(number(2.5)).crps(TRUTH[:4]), scoringrules.crps_poisson(y, 2.5))
    for mean, dispersion in ((3.0, 0.5), (0.2, 5.0), (100.0, 0.01), (20.0, 3.0)):
        ours = NegativeBinomialLaw(number(mean), number(dispersion)).crps(TRUTH[:4])
        reference = scoringrules.crps_negbinom(y, 1 / dispersion, 1 / (1 + mean * dispersion))
        np.testing.assert_allclose(ours, reference, rtol=1e-6)


@pytest.mark.parametrize("bounds", [(0.0, np.inf), (-0.5, 2.5), (-np.inf, 1.0), (-np.inf, np.inf)])
@pytest.mark.parametrize("family", ["normal", "logistic"])
def test_crps_of_bounded_laws_is_the_integral(family, bounds):
    loc, scale = torch.full_like(TRUTH, 0.7), torch.full_like(TRUTH, 1.3)
    law = getattr(scipy.stats, {"normal": "norm"}.get(family, family))(0.7, 1.3)
    low, high = (number(bound) for bound in bounds)
    mass = [float(law.cdf(bound)) for bound in bounds]

    def censored(z):
        return torch.where(z < low, 0.0, torch.where(z >= high, 1.0, torch.from_numpy(law.cdf(z))))

    def truncated(z):
        inside = torch.from_numpy((law.cdf(z) - mass[0]) / (mass[1] - mass[0]))
        return torch.where(z < low, 0.0, torch.where(z >= high, 1.0, inside))

    for ours, cdf in ((censored_crps, censored), (truncated_crps, truncated)):
        found = ours(loc, scale, TRUTH, *bounds, family)
        torch.testing.assert_close(found, integral(cdf, TRUTH), atol=2e-3, rtol=0)


def rain(shape, generator):
    wet = torch.rand(shape, generator=generator) < 0.2
    return torch.where(wet, torch.rand(shape, generator=generator).log().neg(), 0.0)


def counts(shape, generator):
    return torch.poisson(torch.full(shape, 0.6), generator=generator)


@pytest.mark.parametrize("draw", [rain, counts])
def test_ranks_of_ties_are_uniform(draw):
    generator = torch.Generator().manual_seed(0)
    samples, truth = draw((19, 20_000), generator), draw((20_000,), generator)
    rank = ranks(samples, truth, torch.rand(20_000, generator=generator))
    assert uniform((rank + 0.5) / 20, 20_000)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_the_randomised_pit_is_uniform(law):
    torch.manual_seed(0)
    truth, noise = law.sample((20_000,)), torch.rand(20_000, dtype=torch.float64)
    assert uniform(pit(law, truth, noise), 20_000)


def test_the_pit_at_an_atom_lies_within_its_jump():
    law = PoissonLaw(number(1.0))
    found = pit(law, number([0.0, 0.0, 2.0, 2.0]), number([0.0, 1.0, 0.0, 1.0]))
    np.testing.assert_allclose(found, [0, *scipy.stats.poisson.cdf([0, 1, 2], 1.0)])


def test_coverage_of_counts_is_that_of_closed_intervals():
    """With many draws the interval's ends are the law's quantiles, and both ends count as inside."""
    generator = torch.Generator().manual_seed(0)
    size, rate = 10_000, 2.5
    samples, truth = (torch.poisson(torch.full(s, rate), generator=generator) for s in ((999, size), (size,)))
    metric = Coverage(0.9)
    metric.update(samples, truth)
    low, high = scipy.stats.poisson.ppf([0.05, 0.95], rate)
    exact = scipy.stats.poisson.cdf(high, rate) - scipy.stats.poisson.cdf(low - 1, rate)
    assert exact > 0.92  # above the level
    assert abs(float(metric.compute()) - exact) < 5 * math.sqrt(exact * (1 - exact) / size)


def test_scores_of_a_threshold_are_their_definitions():
    generator = torch.Generator().manual_seed(0)
    samples, truth = rain((30, 500), generator), rain((500,), generator)
    x = 0.4
    low = scoringrules.twcrps_ensemble(truth.numpy(), samples.T.numpy(), a=x, estimator="fair")
    np.testing.assert_allclose(threshold_weighted_crps(samples, truth, x), low, atol=1e-5)
    p, event = (samples > x).float().mean(dim=0), (truth > x).float()
    brier = (p - event) ** 2 - p * (1 - p) / 29
    torch.testing.assert_close(brier_score(samples, truth, x), brier)
    metric = ExceedanceScores([x, 0.0])
    metric.update(samples[:, :200], truth[:200])
    metric.update(samples[:, 200:], truth[200:])
    row, above_zero = metric.table()
    assert row["entries"] == 500 and row["frequency"] == pytest.approx(float(event.mean()))
    assert row["probability"] == pytest.approx(float(p.mean()), rel=1e-5)
    assert row["brier"] == pytest.approx(float(brier.mean()), rel=1e-4)
    assert row["crps_above"] == pytest.approx(float(low.mean()), rel=1e-4)
    assert sum(bin["entries"] for bin in row["reliability"]) == 500
    decile = row["reliability"][1]
    within = ((samples > x).sum(dim=0) >= 3) & ((samples > x).sum(dim=0) < 6)
    assert decile["entries"] == int(within.sum())
    assert decile["frequency"] == pytest.approx(float(event[within].mean()), rel=1e-5)
    assert above_zero["frequency"] == pytest.approx(float((truth > 0).float().mean()))


def test_the_brier_score_does_not_depend_on_the_number_of_draws():
    generator = torch.Generator().manual_seed(0)
    truth = rain((40_000,), generator)
    few, many = (brier_score(rain((s, 40_000), generator), truth, 0.0) for s in (2, 50))
    error = (few - many).std() / math.sqrt(40_000)
    assert abs(float((few - many).mean())) < 5 * float(error)


def test_quantile_scores_are_their_definitions():
    generator = torch.Generator().manual_seed(0)
    samples, truth = counts((39, 3_000), generator), counts((3_000,), generator)
    metric = QuantileScores([0.05, 0.5, 0.9])
    metric.update(samples, truth)
    for row in metric.table():
        q = samples.sort(dim=0).values[round(row["level"] * 40) - 1].numpy()
        expected = scoringrules.quantile_score(truth.numpy(), q, row["level"])
        assert row["score"] == pytest.approx(expected.mean(), rel=1e-4)
        assert row["below"] < row["level"] < row["at_most"]
        assert row["at_most"] == pytest.approx((truth.numpy() <= q).mean(), rel=1e-4)


@pytest.mark.parametrize(
    ("metric", "wrong"),
    [(ExceedanceScores, []), (ExceedanceScores, [math.nan]), (QuantileScores, []), (QuantileScores, [1.0])],
)
def test_thresholds_and_levels_are_checked(metric, wrong, as_a_user):
    with pytest.raises(ValueError, match="must be one or more"):
        metric(wrong)


class Support(NamedTuple):
    step: float
    has_atoms: bool


def test_the_measure_follows_the_supports():
    real, count, rainfall = Support(0.0, False), Support(1.0, True), Support(0.0, True)
    assert measure_of([real, real]) == "density"
    assert measure_of([count, count]) == "probability"
    assert measure_of([count, real]) == measure_of([rainfall]) == "mixed"


def test_nlls_of_other_measures_are_left_out():
    rows = [{"name": "model", "nll": 0.5, "measure": "probability"}, {"name": "climatology", "nll": -3.0}]
    kept, (remark,) = of_one_measure(rows)
    assert [row["nll"] for row in kept] == [0.5, None]
    assert "nats of probability" in remark and "climatology" in remark
    assert of_one_measure([{"name": "model", "nll": 0.5}]) == ([{"name": "model", "nll": 0.5}], [])
