"""The maps of values to real numbers: inverses, Jacobians, cells, for every support and transform."""

import math

import pytest
import torch

from tsgen.data.support import Support
from tsgen.data.transforms import Transform, Transforms, fit_transform, names_for, same_maps
from tsgen.storage.components import describe, restore

SUPPORTS = (
    *("real", "positive", "non_negative", "counts", "interval(-2, 100)", "interval[0, 100]"),
    *("positive, limit 0.5", "real, step 0.1", "positive, step 0.5", "interval(0, 10), step 1"),
    *("interval[0, 10], step 1", "counts, limit 2", "non_negative, limit 0.5"),
)
PAIRS = [(text, name) for text in SUPPORTS for name in names_for(Support.parse(text))]
every_pair = pytest.mark.parametrize(("text", "name"), PAIRS, ids=[" ".join(pair) for pair in PAIRS])


def some_values(support: Support, shape=(400, 3), seed: int = 0) -> torch.Tensor:
    """Skewed values of a support, with atoms where it has them."""
    random = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(shape, generator=random, dtype=torch.float64).exp()
    if math.isfinite(support.high):
        share = x / (x + 2)
        share = 1.4 * share - 0.2 if any(support.atoms) else share
        x = support.low + (support.high - support.low) * share
    elif not math.isfinite(support.low):
        x = x - 3
    elif support.atoms[0]:
        x = torch.where(torch.rand(shape, generator=random) < 0.4, support.low, x)
    if support.step:
        x = support.nearest(x)
    x = x.clamp(*support.ends)
    return x if support.limit is None else x.clamp(min=support.limit)


def fitted(text: str, name: str | None) -> tuple[Transform, torch.Tensor]:
    values = some_values(Support.parse(text))
    return fit_transform(Support.parse(text), values, torch.ones_like(values).bool(), name), values


@every_pair
def test_values_come_back(text, name):
    transform, values = fitted(text, name)
    torch.testing.assert_close(transform.inverse(transform.forward(values)), values, rtol=1e-12, atol=1e-12)
    z = transform.forward(values)
    assert 0.05 < z.std() < 60 and torch.isfinite(z).all()


@every_pair
def test_every_real_number_is_a_value_of_the_support(text, name):
    """In float32 too, in which draws are stored."""
    transform, values = fitted(text, name)
    z = transform.forward(values)
    numbers = z.mean() + z.std() * torch.tensor([-1e6, -100, -20, -3, -1, 0, 1, 3, 20.0], dtype=torch.float64)
    x = transform.inverse(numbers)
    assert torch.isfinite(x).all() and not transform.values.outside(x).any()
    assert not transform.values.outside(x.float()).any()
    assert not transform.values.outside(x.float().double()).any() or transform.values.atoms[1]
    assert (x.diff() >= 0).all() and x[-1] > x[0]
    if not transform.values.has_atoms and name != "logit" and "interval" not in text:
        # far below the smallest value a power ends where float32 does
        first = 3 if name == "box_cox" else 2
        torch.testing.assert_close(transform.forward(x[first:]), numbers[first:])


@every_pair
def test_the_jacobian_is_that_of_autograd(text, name):
    transform, values = fitted(text, name)
    support = transform.values
    x = torch.cat([values.flatten(), 30 * values.flatten()])
    x = x[~support.outside(x) & (x > support.low) & (x < support.high)]
    if support.limit is not None:
        x = x[x > support.limit]
    # where the pieces of a map meet there are two derivatives
    x = (x * (1 + 1e-7)).requires_grad_()
    (slope,) = torch.autograd.grad(transform.forward(x).sum(), x)
    torch.testing.assert_close(transform.log_derivative(x), slope.log(), rtol=1e-6, atol=1e-6)


@every_pair
def test_cells_are_adjacent_and_hold_the_numbers_of_their_value(text, name):
    transform, _ = fitted(text, name)
    # an open interval ends where float32 does
    z = torch.linspace(-5, 8, 4001, dtype=torch.float64) * (3 if transform.values.has_atoms else 1)
    x = transform.inverse(z)
    low, high, single = transform.cell(x)
    assert (low <= z + 1e-9).all() and (z <= high + 1e-9).all()
    assert (high[single] > low[single]).all() and torch.equal(low[~single], high[~single])
    assert torch.equal(single, single & transform.values.has_atoms)
    if transform.values.step:
        seen = x.unique()
        seen = seen if transform.values.limit is None else seen[seen >= transform.values.limit]
        low, high, _ = transform.cell(torch.arange(len(seen)) * transform.values.step + seen[0])
        torch.testing.assert_close(low[1:], high[:-1], rtol=1e-9, atol=1e-9)
    # the ends belong to values with a probability
    support = transform.values
    assert not math.isfinite(support.low) or transform.cell(x[:1])[0] == -math.inf or not support.has_atoms


@every_pair
def test_gradients_are_finite_at_the_ends_and_far_away(text, name):
    transform, _ = fitted(text, name)
    x = torch.tensor([0.0, 1e-12, 0.5, 1.0, 1e12, -1e12], dtype=torch.float64, requires_grad=True)
    for numbers in (transform.forward(x), transform.log_derivative(x), transform.unrounded(x.clamp(-50, 50))):
        assert torch.isfinite(numbers).all()
        if numbers.requires_grad:
            (slope,) = torch.autograd.grad(numbers.sum(), x, retain_graph=True)
            assert torch.isfinite(slope).all()


def test_what_lies_below_a_detection_limit_is_read_as_the_limit():
    transform, _ = fitted("positive, limit 0.5", "log")
    x = torch.tensor([0.1, 0.5, 0.7], dtype=torch.float64)
    z = transform.forward(x)
    assert z[0] == z[1] < z[2]
    low, high, single = transform.cell(x)
    assert single.tolist() == [True, True, False] and high[0] == high[1] == z[1] and low[1] == -math.inf


def test_a_fitted_power_makes_values_gaussian():
    """Values that are powers and exponentials of Gaussians; the range that is mapped linearly is small."""
    random = torch.Generator().manual_seed(0)
    z = torch.randn(4000, 2, generator=random, dtype=torch.float64)
    every = torch.ones_like(z).bool()
    for x, before in ((z.exp(), 4), ((6 + z).square(), 0.4), ((6 + z).pow(4), 1)):
        images = fit_transform(Support.parse("positive"), x, every).forward(x)
        skewness = [float(((y - y.mean()) / y.std()).pow(3).mean()) for y in (x, images)]
        assert skewness[0] > before and abs(skewness[1]) < before / 4
    assert fit_transform(Support.parse("positive"), z.exp(), every).exponent == 0.0
    spline = fit_transform(Support.parse("real"), z.pow(3), every, "spline").forward(z.pow(3))
    # to the share of values that lie between two knots
    assert (spline - z)[z.abs() < 1.5].abs().max() < 0.5


def test_channels_have_their_own_maps():
    counts, _ = fitted("counts", "log1p")
    real = Transform()
    both = Transforms([counts, real])
    x = torch.tensor([[3.0, -2.5], [0.0, 7.0]], dtype=torch.float64)
    z = both.forward(x)
    assert torch.equal(z[:, 1], x[:, 1]) and torch.equal(z[:, 0], counts.forward(x[:, 0]))
    assert torch.equal(both.inverse(z), x)
    assert both.cell(x).single.tolist() == [[True, False], [True, False]]
    assert both.has_steps and both.has_atoms
    # a number for all channels
    assert both.forward(torch.tensor(1.0).double()).shape == (2,)
    assert both.cell(torch.ones(4, 1).double()).low.shape == (4, 2)
    assert same_maps(both, Transforms([counts, real])) and not same_maps(both, Transforms([real, counts]))
    assert not same_maps(both, None) and same_maps(None, None)


def test_a_transform_is_plain_data():
    transform, _ = fitted("positive", "spline")
    assert restore(describe(transform), (Transform,)) == transform


@pytest.mark.parametrize(
    ("support", "name", "message"),
    [
        ("positive", "cube", "must be one of identity, log"),
        ("real", "log", "a transform of real values must be one of identity, yeo_johnson, spline; it is log"),
        ("interval(0, 1)", "identity", "must be one of logit, spline; it is identity"),
        ("non_negative", "box_cox", "yeo_johnson, log1p, sqrt, identity, spline; it is box_cox"),
    ],
)
def test_transforms_that_do_not_fit_are_refused(support, name, message):
    with pytest.raises(ValueError, match=message):
        Transform(support, name)
    with pytest.raises(ValueError, match="width must be positive and exponent from 0 to 2; they are 0 and 3"):
        Transform(width=0.0, exponent=3.0)
