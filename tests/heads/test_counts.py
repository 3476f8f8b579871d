"""Heads of counts and of additional zeros: probabilities sum to one, draws follow, links are exact."""

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from tsgen.data.series import Sizes, Units
from tsgen.data.support import Support
from tsgen.data.transforms import Transform, Transforms, fit_transform, names_for
from tsgen.heads import (
    GaussianHead,
    Head,
    MixtureHead,
    MixtureNADEHead,
    NegativeBinomialHead,
    PoissonHead,
    StudentTHead,
    ZeroInflatedHead,
)
from tsgen.heads.counts import linked_mean
from tsgen.metrics import has_closed_crps, law_crps
from tsgen.storage.components import describe, restore

SIZES, HIDDEN = Sizes(3, 1), 4
HEADS = {
    "poisson": PoissonHead,
    "negative binomial": NegativeBinomialHead,
    "zero poisson": partial(ZeroInflatedHead, head=PoissonHead),
    "zero negative binomial": partial(ZeroInflatedHead, head=NegativeBinomialHead),
    "zero mixture": ZeroInflatedHead,
    "zero student t": partial(ZeroInflatedHead, head=StudentTHead),
    "zero gaussian": partial(ZeroInflatedHead, head=GaussianHead),
    "mixture": MixtureHead,
    "student t": partial(StudentTHead, components=2),
}
NAMES = names_for(Support.parse("counts"))
every_head = pytest.mark.parametrize("name", HEADS)


def made(name: str, scale: float = 0.2):
    torch.manual_seed(0)
    head = HEADS[name](HIDDEN, SIZES).double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return head


def units_of(transform: str = "log1p", support: str = "counts", mean: float = 2.0) -> Units:
    random = torch.Generator().manual_seed(0)
    x = torch.poisson(mean * torch.randn(300, 3, generator=random).exp(), random).double()
    x = x if support == "counts" else x + torch.where(x > 0, torch.rand(x.shape, generator=random), 0)
    found = fit_transform(Support.parse(support), x, torch.ones_like(x).bool(), transform)
    z = found.forward(x)
    loc, scale = z.mean(dim=0)[:, None], z.std(dim=0)[:, None]
    return Units(loc, scale, transforms=Transforms([found]))


def inputs(rows: int = 2):
    torch.manual_seed(1)
    h = torch.randn(rows, 1, 3, HIDDEN).double()
    values = torch.poisson(3 * torch.ones(rows, 1, 3, 1)).double()
    return h, values, torch.zeros_like(values).bool()


@every_head
@pytest.mark.parametrize("transform", NAMES)
def test_probabilities_of_counts_sum_to_one_and_draws_follow(name, transform):
    head, (h, values, context), units = made(name), inputs(), units_of(transform)
    law = head(h, values, context, units)
    assert law.batch_shape == values.shape
    k = torch.arange(6000.0).double().view(-1, 1, 1, 1, 1)
    mass = law.log_prob(k).exp()
    # a Student t keeps a share beyond any count
    above = 1 - law.cdf(k[-1])
    torch.testing.assert_close(mass.sum(dim=0) + above, torch.ones_like(above), atol=2e-4, rtol=0)
    torch.testing.assert_close(mass[:40].cumsum(dim=0), law.cdf(k[:40]), atol=2e-4, rtol=0)
    size = 4000
    noise = torch.rand(size, *values.shape, head.uniforms_per_entry).double()
    draws = head.quantile(law, noise)
    assert not Support.parse("counts").outside(draws).any()
    for count in (0.0, 1.0, 4.0):
        share = law.cdf(torch.full_like(values, count))
        error = ((draws <= count).double().mean(dim=0) - share) / (share * (1 - share) / size).sqrt()
        assert error.abs().max() < 5


@every_head
def test_what_a_head_of_counts_states_is_true(name):
    # sums over so many counts hold nearly all of the law
    head, (h, values, context), units = made(name), inputs(), units_of("sqrt")
    law = head(h, values, context, units)
    assert head.has_mean and torch.isfinite(law.mean).all() and torch.isfinite(law.variance).all()
    share = torch.rand(values.shape).double()
    at = law.icdf(share)
    assert (law.cdf(at) >= share - 1e-9).all() and (law.cdf(at - 1) <= share + 1e-9).all()
    assert head.closed_crps == has_closed_crps(law)
    k = torch.arange(30_000.0).double().view(-1, 1, 1, 1, 1)
    expected = (law.cdf(k) - (k >= values).double()).square().sum(dim=0)
    torch.testing.assert_close(law_crps(law, values), expected, rtol=5e-3, atol=2e-3)
    if "student" not in name:
        mean = (1 - law.cdf(k)).sum(dim=0)
        torch.testing.assert_close(law.mean, mean, rtol=2e-3, atol=1e-4)
        second = ((2 * k + 1) * (1 - law.cdf(k))).sum(dim=0)
        torch.testing.assert_close(law.variance, second - mean.square(), rtol=5e-3, atol=1e-3)


@every_head
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_and_reach_every_parameter(name, dtype):
    h, values, context = inputs()
    for state, value in ((1.0, 3.0), (1e3, 0.0), (-1e3, 1e12), (1.0, 1e12), (0.0, 0.0)):
        head = made(name).to(dtype)
        law = head(state * h.to(dtype), values, context, units_of()._replace(dtype=dtype))
        log_prob = law.log_prob(torch.full_like(values, value))
        log_prob.sum().backward()
        assert torch.isfinite(log_prob).all(), (state, value)
        for parameter in head.parameters():
            assert torch.isfinite(parameter.grad).all(), (state, value)
            assert state != 1.0 or value > 3 or parameter.grad.abs().sum() > 0


@every_head
def test_parameters_are_counted_and_a_head_is_rebuilt(name):
    head = made(name)
    assert head.num_parameters_per_entry == sum(p.numel() for p in head.parameters())
    again = restore(describe(HEADS[name]), (Head,))(HIDDEN, SIZES)
    again.load_state_dict(head.state_dict())


@pytest.mark.parametrize("made_", [PoissonHead, NegativeBinomialHead])
def test_with_log1p_the_mean_is_log_linear(made_):
    """And a state of zero gives the node's mean image."""
    torch.manual_seed(0)
    head, units = made_(HIDDEN, SIZES).double(), units_of("log1p")
    h = torch.randn(1, 1, 3, HIDDEN).double()
    states = torch.stack([-2 * h, -h, 0 * h, h, 2 * h])[:, 0]
    logs = head(states, states[..., :1], states[..., :1] > 9, units).mean.log()
    torch.testing.assert_close(logs.diff(n=2, dim=0), torch.zeros(3, 1, 3, 1).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(logs[2, 0], units.transforms.unrounded(units.loc).log())


@pytest.mark.parametrize("transform", NAMES)
def test_the_link_starts_at_the_mean_image_with_the_slope_of_its_deviation(transform):
    """Also where the image of zero is not zero, as with a spline."""
    units = units_of(transform, mean=20.0)
    number = torch.zeros(3, 1, dtype=torch.float64, requires_grad=True)
    image = units.transforms.forward(linked_mean(number, units))
    torch.testing.assert_close(image, units.loc)
    (slope,) = torch.autograd.grad(image.sum(), number)
    torch.testing.assert_close(slope, units.scale)


def test_zeros_of_rain_are_added_to_those_of_the_other_law():
    head, (h, _, context), units = made("zero mixture"), inputs(), units_of("yeo_johnson", "non_negative")
    values = torch.zeros_like(context, dtype=torch.float64)
    law = head(h, values, context, units)
    inner = law.law.log_prob(values).exp()
    share = law.logit.sigmoid()
    torch.testing.assert_close(law.log_prob(values).exp(), share + (1 - share) * inner)
    draws = head.quantile(law, torch.rand(4000, *values.shape, 3).double())
    error = ((draws == 0).double().mean(dim=0) - law.cdf(values)) / (0.25 / 4000) ** 0.5
    assert error.abs().max() < 5
    assert (law.cdf_below(values) == 0).all()
    truth = values + 2.5
    x = torch.linspace(0, 60, 600_001).double().view(-1, 1, 1, 1, 1)[:, :, :, :, :]
    one = head(h[:1], values[:1], context[:1], units)
    expected = torch.trapezoid((one.cdf(x) - (x >= 2.5).double()).square(), x, dim=0)
    torch.testing.assert_close(law_crps(one, truth[:1]), expected, rtol=2e-3, atol=1e-3)


def test_heads_refuse_channels_that_they_do_not_fit():
    data = SimpleNamespace(spec=SimpleNamespace(channels=["rain"], transforms=None))
    with pytest.raises(ValueError, match="PoissonHead needs channels of counts; rain is real"):
        made("poisson").check_data(data, "fit")
    with pytest.raises(ValueError, match="whose lowest value is zero; rain is real"):
        made("zero mixture").check_data(data, "fit")
    data.spec.transforms = [Transform("non_negative", "sqrt")]
    with pytest.raises(ValueError, match=r"rain is non_negative\. Set data\.support to counts"):
        made("negative binomial").check_data(data, "fit")
    made("zero mixture").check_data(data, "fit")
    data.spec.transforms = [Transform("positive", "box_cox")]
    with pytest.raises(ValueError, match="lowest value is zero; rain is positive"):
        made("zero mixture").check_data(data, "fit")
    data.spec.transforms = [Transform("counts", "log1p")]
    for name in HEADS:
        if "student" not in name:
            made(name).check_data(data, "fit")
    with pytest.raises(ValueError, match=r"needs units with transforms of counts; they have none"):
        h, values, context = inputs()
        made("poisson")(h, values, context, Units(torch.zeros(3, 1), torch.ones(3, 1)))
    with pytest.raises(ValueError, match=r"head of single entries .* got MixtureNADEHead"):
        ZeroInflatedHead(HIDDEN, Sizes(3, 2), MixtureNADEHead)


def test_extreme_logits_of_zeros():
    head, (h, values, context) = made("zero poisson"), inputs()
    with torch.no_grad():
        head.linear.bias.fill_(500.0)
    law = head(h, values, context, units_of())
    assert torch.isfinite(law.log_prob(values)).all() and float(law.mean.max()) < 1e-12
    assert (law.icdf(torch.full_like(values, 1 - 1e-9)) == 0).all()
    assert math.isfinite(float(law_crps(law, values).sum()))
