"""Laws in data units on every support, against sums, integrals over a fine grid, and draws."""

import math

import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, Normal

from tsgen.data.series import Units
from tsgen.data.support import Support
from tsgen.data.transforms import Transform, Transforms, fit_transform, names_for
from tsgen.heads.in_data_units import InDataUnits
from tsgen.heads.intervals import log_mass
from tsgen.metrics import law_crps
from tsgen.metrics.density import standard_crps

SUPPORTS = (
    *("real", "positive", "non_negative", "counts", "interval(-2, 100)", "interval[0, 100]"),
    *("positive, limit 0.5", "real, step 0.1", "interval(0, 10), step 1", "counts, limit 2"),
)
PAIRS = [
    (text, name)
    for text in SUPPORTS
    for name in names_for(Support.parse(text))
    if (text, name) != ("real", "identity")
]
every_pair = pytest.mark.parametrize(("text", "name"), PAIRS, ids=[" ".join(pair) for pair in PAIRS])


def mixture(count: int = 1) -> MixtureSameFamily:
    logits = torch.tensor([0.3, 0.0, -1.0], dtype=torch.float64).expand(1, count, 3)
    loc = torch.tensor([-0.8, 0.3, 1.5], dtype=torch.float64).expand(1, count, 3)
    scale = torch.tensor([0.3, 0.6, 0.2], dtype=torch.float64).expand(1, count, 3)
    return MixtureSameFamily(Categorical(logits=logits), Normal(loc, scale))


def gaussian(count: int = 1) -> Normal:
    return Normal(torch.full((1, count), 0.2).double(), torch.full((1, count), 0.7).double())


LAWS = {"mixture": mixture, "gaussian": gaussian}
every_law = pytest.mark.parametrize("made", LAWS.values(), ids=LAWS)


def transform_of(text: str, name: str) -> tuple[Transform, torch.Tensor]:
    """A transform fitted to skewed values of a support."""
    support, random = Support.parse(text), torch.Generator().manual_seed(0)
    x = 2 * torch.randn(400, 3, generator=random, dtype=torch.float64).exp()
    if math.isfinite(support.high):
        share = x / (x + 2)
        share = 1.4 * share - 0.2 if any(support.atoms) else share
        x = support.low + (support.high - support.low) * share
    elif not math.isfinite(support.low):
        x = x - 3
    elif support.atoms[0]:
        x = torch.where(torch.rand(x.shape, generator=random) < 0.4, support.low, x)
    x = (support.nearest(x) if support.step else x).clamp(*support.ends)
    return fit_transform(support, x, torch.ones_like(x).bool(), name), x


def units_of(text: str, name: str) -> Units:
    transform, x = transform_of(text, name)
    z = transform.forward(x)
    loc, scale = (number.reshape(1, 1) for number in (z.mean(), z.std()))
    return Units(loc, scale, transforms=Transforms([transform]))


def exact(law: InDataUnits, text: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and their probabilities: multiples of a step, or a fine grid with the atoms."""
    z = torch.linspace(-9, 9, 60_001, dtype=torch.float64).reshape(-1, 1, 1)
    x = law.units.unstandardise(z)
    if Support.parse(text).step:
        x = x.unique().reshape(-1, 1, 1)
        support = Support.parse(text)
        count = round(float((x[-1] - x[0]) / support.step))
        x = support.nearest(x[0] + torch.arange(count + 1).reshape(-1, 1, 1) * support.step)
        limit = -math.inf if support.limit is None else support.limit
        keep = x.flatten() >= limit
        return x[keep], law.log_prob(x[keep]).exp()
    assert law.units.transforms is not None
    single = law.units.transforms.cell(x).single
    middle = law.units.unstandardise((z[1:] + z[:-1]) / 2)
    inside = ~(single[1:] | single[:-1])
    masses = torch.where(inside, law.log_prob(middle).exp() * x.diff(dim=0), 0)
    atoms = x[single].unique().reshape(-1, 1, 1)
    limit = Support.parse(text).limit
    if limit is not None:
        atoms = torch.full((1, 1, 1), limit, dtype=torch.float64)
    if not len(atoms):
        return middle, masses
    return torch.cat([middle, atoms]), torch.cat([masses, law.log_prob(atoms).exp()])


@every_pair
@every_law
def test_probabilities_sum_to_one_and_give_the_distribution_function(text, name, made):
    law = InDataUnits(made(), units_of(text, name))
    x, mass = exact(law, text)
    torch.testing.assert_close(mass.sum(), torch.tensor(1.0).double(), atol=3e-4, rtol=0)
    for share in (0.1, 0.35, 0.6, 0.9):
        at = law.icdf(torch.full((1, 1), share, dtype=torch.float64))
        limit = Support.parse(text).limit
        if limit is not None and at <= limit:
            continue
        assert (law.cdf(at) >= share - 1e-9).all() and (law.cdf_below(at) <= share + 1e-9).all()
        torch.testing.assert_close(mass[x <= at + 1e-9].sum(), law.cdf(at)[0, 0], atol=1e-3, rtol=0)
        torch.testing.assert_close(mass[x < at - 1e-9].sum(), law.cdf_below(at)[0, 0], atol=1e-3, rtol=0)
    if Support.parse(text).limit is None:
        mean = (mass * x).sum()
        deviation = ((mass * x.square()).sum() - mean.square()).sqrt()
        torch.testing.assert_close(law.mean[0, 0], mean, atol=2e-3 * float(deviation), rtol=1e-3)
        torch.testing.assert_close(law.stddev[0, 0], deviation, rtol=4e-3, atol=0)


@every_pair
@every_law
def test_draws_follow_the_law_and_its_crps_is_theirs(text, name, made):
    law, support = InDataUnits(made(), units_of(text, name)), Support.parse(text)
    torch.manual_seed(0)
    size = 20_000
    draws = law.sample((size,))
    assert not support.outside(draws).any()
    for share in (0.2, 0.5, 0.8):
        at = law.icdf(torch.full((1, 1), share, dtype=torch.float64))
        for cdf, low in ((law.cdf(at), draws <= at), (law.cdf_below(at), draws < at)):
            if support.limit is None or at > support.limit:
                error = (low.double().mean() - cdf) / (cdf * (1 - cdf) / size).sqrt().clamp(min=1e-9)
                assert error.abs() < 5
    mean_error = (draws.mean() - law.mean) / (law.stddev / size**0.5)
    assert mean_error.abs() < 5
    for truth in (draws[0], draws[1], draws.amax(dim=0) * 1.5 + 1):
        truth = support.nearest(truth) if support.step else truth
        truth = truth.clamp(*support.ends)
        truth = truth if support.limit is None else truth.clamp(min=support.limit)
        pair = (draws - truth).abs().flatten(1)[:, 0] - (draws - draws.flip(0)).abs().flatten(1)[:, 0] / 2
        error = (pair.mean() - law_crps(law, truth)) / (pair.std() / size**0.5)
        assert error.abs() < 5, truth


@pytest.mark.parametrize("text", ["non_negative", "counts", "interval[0, 100]", "positive, limit 0.5"])
def test_the_crps_of_a_loss_is_that_of_images(text):
    """Against draws, to the accuracy of its few nodes; its gradient moves the law to the truth."""
    units = units_of(text, names_for(Support.parse(text))[0])
    loc = torch.full((1, 1), 0.2, dtype=torch.float64, requires_grad=True)
    law = InDataUnits(Normal(loc, torch.tensor(0.7).double()), units)
    torch.manual_seed(0)
    draws = units.standardise(law.sample((20_000,)))[:, 0, 0]
    for level in (0.3, 0.7, 0.99):
        truth = law.icdf(torch.full((1, 1), level, dtype=torch.float64)).detach()
        if Support.parse(text).limit is not None:
            truth = truth.clamp(min=0.5)
        expected = (draws - units.standardise(truth)[0, 0]).abs().mean() - (
            draws - draws.flip(0)
        ).abs().mean() / 2
        found = standard_crps(law, truth, units)
        assert abs(found - expected) < 0.02, (found, expected)
    (slope,) = torch.autograd.grad(found, loc)
    assert slope < 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("text", ["non_negative", "counts", "positive", "interval[0, 100]", "real, step 0.1"])
def test_gradients_are_finite_for_extreme_values_and_parameters(text, dtype):
    """At zero, at 1e12, with scales of a thousandth, logits of 500 and means a million scales away."""
    units = units_of(text, names_for(Support.parse(text))[0])._replace(dtype=dtype)
    support = Support.parse(text)
    for x in (0.0, 1e-9, 1e12):
        for mean, log_scale in ((0.0, 0.0), (1e3, -6.9), (-1e3, -6.9), (5.0, 10.0)):
            logits = torch.tensor([[[500.0, -500.0]]], dtype=dtype, requires_grad=True)
            loc = torch.tensor([[[mean, 1.0]]], dtype=dtype, requires_grad=True)
            scale = torch.tensor([[[log_scale, 0.0]]], dtype=dtype, requires_grad=True)
            inner = MixtureSameFamily(Categorical(logits=logits), Normal(loc, scale.exp()))
            law = InDataUnits(inner, units)
            value = torch.full((1, 1), x, dtype=torch.float64)
            value = (support.nearest(value) if support.step else value).clamp(*support.ends)
            log_prob = law.log_prob(value)
            grads = torch.autograd.grad(log_prob.sum(), [logits, loc, scale])
            assert torch.isfinite(log_prob).all() and all(torch.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_mass_of_an_interval_is_exact_wherever_it_lies(dtype):
    """Against mpmath's digits: the difference of two distribution functions has none there."""
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.dps = 600
    law = Normal(torch.tensor(0.5, dtype=dtype), torch.tensor(2.0, dtype=dtype))
    for low, high in (
        (-1, 2),
        (30, 31),
        (-70.0, -69.999),
        (3, 3.00001),
        (0, math.inf),
        (90, math.inf),
        (-1, -0.9),
    ):
        a, b = (torch.tensor(float(end), dtype=torch.float64) for end in (low, high))
        ends = [mpmath.mpf(end) - mpmath.mpf("0.5") for end in (low, high)]
        exact = mpmath.log(
            (mpmath.erfc(ends[0] / mpmath.sqrt(8)) - mpmath.erfc(ends[1] / mpmath.sqrt(8))) / 2
        )
        torch.testing.assert_close(float(log_mass(law, a, b)), float(exact), rtol=2e-5, atol=2e-5)


def test_cells_of_fine_steps_far_from_zero_keep_their_width_in_float32():
    transform = Transform("real, step 0.01")
    units = Units(
        torch.full((1, 1), 101_325.0).double(), torch.full((1, 1), 500.0).double(), None, torch.float32, None,
        Transforms([transform]),
    )  # fmt: skip
    law = InDataUnits(Normal(torch.zeros(1, 1), torch.ones(1, 1)), units)
    x = 101_325 + 0.01 * torch.arange(0, 150_000, 997, dtype=torch.float64).reshape(-1, 1, 1)
    density = Normal(torch.tensor(101_325.0).double(), 500.0).log_prob(x)
    torch.testing.assert_close(law.log_prob(x).double(), density + math.log(0.01), atol=1e-4, rtol=0)


def test_channels_of_one_law_have_different_supports():
    transforms = [
        transform_of(*pair)[0] for pair in (("counts", "log1p"), ("real", "identity"), ("positive", "log"))
    ]
    shape = torch.zeros(2, 3, dtype=torch.float64)
    both = Units(shape + 0.3, shape + 0.8, transforms=Transforms(transforms))
    law = InDataUnits(Normal(shape, shape + 1), both)
    torch.manual_seed(0)
    draws = law.sample((50,))
    for channel, transform in enumerate(transforms):
        alone = Units(shape[:, :1] + 0.3, shape[:, :1] + 0.8, transforms=Transforms([transform]))
        one, part = (
            InDataUnits(Normal(shape[:, :1], shape[:, :1] + 1), alone),
            draws[..., channel : channel + 1],
        )
        for method in ("log_prob", "cdf", "cdf_below", "crps"):
            found = getattr(law, method)(draws)[..., channel : channel + 1]
            # the quadrature of a real channel beside counts has its own nodes
            torch.testing.assert_close(found, getattr(one, method)(part), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(law.mean[:, channel], one.mean[:, 0], rtol=1e-3, atol=1e-3)
    # one number for all entries
    assert law.log_prob(torch.tensor(2.0)).shape == law.cdf(torch.tensor(2.0)).shape == (2, 3)


def test_quantiles_of_mixtures_are_differentiable():
    logits = torch.tensor([0.2, -0.3], dtype=torch.float64, requires_grad=True)
    loc = torch.tensor([-1.0, 2.0], dtype=torch.float64, requires_grad=True)

    def median(logits, loc):
        inner = MixtureSameFamily(Categorical(logits=logits), Normal(loc, torch.tensor([0.5, 1.5]).double()))
        units = Units(torch.tensor(3.0).double(), torch.tensor(2.0).double())
        return InDataUnits(inner, units).icdf(torch.tensor([1e-7, 0.5, 1 - 1e-7], dtype=torch.float64))

    assert torch.autograd.gradcheck(median, (logits, loc))
