"""Locations and scales that rely on the network where a node has few values."""

import pytest
import torch

from tsgen.data.moments import PRIOR_VALUES, RunningMoments

NODES = 6


def series(steps: int = 4000) -> torch.Tensor:
    """Nodes of one network: different means, similar deviations."""
    generator = torch.Generator().manual_seed(0)
    loc = 20 + 5 * torch.randn(NODES, 1, generator=generator)
    return loc + (2 + torch.arange(NODES)[:, None] / 5) * torch.randn(steps, NODES, 1, generator=generator)


def shrunk(values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    moments = RunningMoments()
    moments.add(values, mask)
    return moments.shrunk()


def everything(values: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(values, dtype=torch.bool)


def test_with_many_values_units_are_mean_and_deviation():
    values = series()
    loc, scale = shrunk(values, everything(values))
    torch.testing.assert_close(loc, values.double().mean(dim=0), rtol=1e-3, atol=0)
    torch.testing.assert_close(scale, values.double().std(dim=0), rtol=1e-3, atol=0)


def test_without_values_units_are_those_of_the_network():
    values = series()
    mask = everything(values)
    mask[:, 2] = False
    loc, scale = shrunk(values.masked_fill(~mask, torch.nan), mask)
    others = [0, 1, 3, 4, 5]
    assert float(loc[2]) == pytest.approx(float(values[:, others].mean()), rel=1e-4)
    typical = values[:, others].double().var(dim=0, correction=0).median()
    assert float(scale[2]) == pytest.approx(float(typical.sqrt()), rel=1e-4)


def test_few_values_count_as_the_formula_says():
    values = series()
    mask = everything(values)
    mask[3:, 2] = False
    loc, scale = shrunk(values, mask)
    x = values.double()
    mean, variance = x.mean(dim=0), x.var(dim=0, correction=0)
    mean[2], variance[2] = x[:3, 2].mean(dim=0), x[:3, 2].var(dim=0, correction=0)
    # the lower of the two middle numbers, as torch's median is
    v, centre, tau = variance.flatten().sort().values[(NODES - 1) // 2], mean.mean(), mean.var(correction=0)
    posterior = (3 * mean[2] / v + centre / tau) / (3 / v + 1 / tau)
    assert float(loc[2]) == pytest.approx(float(posterior), rel=1e-6)
    squared = (3 * variance[2] + PRIOR_VALUES * v) / (3 + PRIOR_VALUES)
    assert float(scale[2]) == pytest.approx(float(squared.sqrt()), rel=1e-6)


@pytest.mark.parametrize("share", [0.9, 0.02, 0.002])
def test_units_are_equivariant_under_common_changes_of_units(share):
    values = series(500).double()
    mask = torch.rand(values.shape, generator=torch.Generator().manual_seed(1)) < share
    loc, scale = shrunk(values, mask)
    other_loc, other_scale = shrunk(-7.5 * values + 300, mask)
    torch.testing.assert_close(other_loc, -7.5 * loc + 300)
    torch.testing.assert_close(other_scale, 7.5 * scale)
    order = torch.tensor([3, 1, 0, 5, 2, 4])
    for found, expected in zip(shrunk(values[:, order], mask[:, order]), (loc, scale), strict=True):
        torch.testing.assert_close(found, expected[order])


def test_constant_nodes_have_a_scale():
    values = series()
    values[:, 1] = 7.0
    loc, scale = shrunk(values, everything(values))
    assert float(loc[1]) == pytest.approx(7, abs=0.1) and 0 < scale[1] < 0.1
    constant = torch.full((50, NODES, 1), 7.0)
    loc, scale = shrunk(constant, everything(constant))
    assert (loc == 7).all() and (scale > 0).all() and scale.isfinite().all()
    loc, scale = shrunk(constant, ~everything(constant))
    assert (loc == 0).all() and (scale == 1).all()


def test_channels_have_units_of_their_own():
    values = torch.cat([series(), 1000 * series()], dim=-1)
    mask = everything(values)
    mask[:, 2] = False
    loc, scale = shrunk(values, mask)
    torch.testing.assert_close(loc[:, 1], 1000 * loc[:, 0], rtol=1e-5, atol=0)
    torch.testing.assert_close(scale[:, 1], 1000 * scale[:, 0], rtol=1e-5, atol=0)
