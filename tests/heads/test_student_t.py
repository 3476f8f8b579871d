"""Student t laws against scipy, and what makes them robust."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from tsgen.data.series import Sizes, Units
from tsgen.data.transforms import Transform, Transforms
from tsgen.heads import GaussianHead, StudentTHead
from tsgen.heads.intervals import quantile
from tsgen.heads.student_t import StudentTLaw, StudentTMixture, log_tail

FREEDOM = (2.001, 2.5, 4.0, 10.0, 40.0, 150.0)


@pytest.mark.parametrize("df", FREEDOM)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 2e-5)])
def test_tails_have_all_their_digits(df, dtype, tolerance):
    t = np.array([0, 1e-6, 0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 100])
    found = log_tail(torch.tensor(t, dtype=dtype), torch.tensor(df, dtype=dtype))
    np.testing.assert_allclose(
        found.numpy(), stats.t.logsf(t, df), atol=tolerance, rtol=2e-5 if tolerance > 1e-6 else tolerance
    )


def law_of(dtype=torch.float64, components: int = 2) -> StudentTMixture:
    numbers = [[0.3, -0.4], [2.4, 9.0], [-1.0, 2.0], [0.4, 1.5]]
    logits, df, loc, scale = (torch.tensor([row[:components]], dtype=dtype) for row in numbers)
    return StudentTMixture(logits, StudentTLaw(df, loc, scale))


def test_gradients_of_the_distribution_function():
    def cdf(df, loc, scale):
        return StudentTLaw(df, loc, scale).cdf(torch.tensor([-7.0, -0.3, 0.2, 40.0]).double())

    arguments = (torch.tensor(x).double().requires_grad_() for x in (3.1, 0.4, 1.2))
    assert torch.autograd.gradcheck(cdf, tuple(arguments), rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_masses_are_those_of_scipy_near_and_far(dtype):
    law = StudentTLaw(*(torch.tensor(x, dtype=dtype) for x in (3.0, 0.5, 2.0)))
    for low, high in (
        (-1, 2),
        (2, math.inf),
        (-math.inf, -1e4),
        (1e5, 1.2e5),
        (-7, -6.99),
        (3, 3.00001),
        (0, 40),
    ):
        a, b = ((end - 0.5) / 2 for end in (low, high))
        # the difference in the tail that has the digits
        tails = stats.t.sf([a, b], 3) if a + b > 0 else stats.t.cdf([b, a], 3)
        expected = math.log(tails[0] - tails[1])
        ends = (torch.tensor(float(end), dtype=torch.float64) for end in (low, high))
        assert abs(float(law.log_mass(*ends)) - expected) < (2e-4 if dtype == torch.float64 else 5e-4), (
            low,
            high,
        )


@pytest.mark.parametrize("components", [1, 2])
def test_the_crps_is_that_of_the_distribution_function(components):
    law = law_of(components=components)
    for truth in (-3.0, 0.4, 60.0):
        z = torch.linspace(-12, 12, 400_001).double().sinh()[:, None]
        squares = (law.cdf(z) - (z >= truth).double()).square()
        expected = torch.trapezoid(squares, z, dim=0)
        found = law.crps(torch.full((1,), truth).double())
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_quantiles_invert_the_distribution_function():
    law, share = law_of(), torch.tensor([[1e-6], [0.01], [0.5], [0.9], [1 - 1e-6]]).double()
    torch.testing.assert_close(law.cdf(quantile(law, share)), share, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("support", ["real", "counts"])
def test_the_force_of_a_wild_value_is_bounded(support):
    """It falls with the distance, where that of a Gaussian grows."""
    transform = Transform(support)
    units = Units(torch.zeros(1, 1).double(), torch.ones(1, 1).double(), transforms=Transforms([transform]))
    forces = {}
    for made in (StudentTHead, GaussianHead):
        torch.manual_seed(0)
        head = made(1, Sizes(1, 1)).double()
        for at in (10.0, 1e3, 1e6, 1e12):
            head.zero_grad()
            h = torch.ones(1, 1, 1, 1).double()
            law = head(h, h, h > 0, units)
            law.log_prob(torch.full_like(h, at)).sum().backward()
            place = 1 if made is StudentTHead else 0
            forces[made, at] = float(head.linear.bias.grad[place])
            assert torch.isfinite(head.linear.weight.grad).all()
    assert forces[StudentTHead, 1e3] < forces[StudentTHead, 10.0] < 3
    assert 0 <= forces[StudentTHead, 1e12] < forces[StudentTHead, 1e6] < 1e-4 or support == "counts"
    assert forces[GaussianHead, 1e3] > 90


def test_transforms_without_a_mean_are_refused():
    spec = SimpleNamespace(channels=("rain",), transforms=(Transform("positive", "log"),))
    with pytest.raises(ValueError, match=r"rain has log\. Set data\.transform to box_cox"):
        StudentTHead(4, Sizes(2, 1)).check_data(SimpleNamespace(spec=spec), "fit")
    spec.transforms = None
    StudentTHead(4, Sizes(2, 1)).check_data(SimpleNamespace(spec=spec), "fit")
