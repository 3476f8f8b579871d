"""What the nearest visible values say, against numpy and definitions written out."""

import numpy as np
import pytest
import torch
from conftest import HEADS, TWO_WAY_ENCODERS, make_batch, make_series

from tsgen.data.interpolation import Nearest
from tsgen.data.series import SeriesSpec
from tsgen.models import AnyOrderModel
from tsgen.objectives import MaskedNLL
from tsgen.sampling import AnyOrder


def line_by_numpy(values, context, otherwise):
    """The line of one node."""
    known = np.flatnonzero(context)
    if not len(known):
        return np.full(len(values), otherwise)
    return np.interp(np.arange(len(values)), known, values[known])


@pytest.fixture
def gaps(batch):
    """A batch in which a node has no visible value, another but one, and a slice none."""
    batch.context[0, :, 1, 0] = False
    batch.context[1, :, 2, 1] = False
    batch.context[1, 4, 2, 1] = True
    batch.values[1, 4, 2, 1] = 44.0
    batch.context[2, 3] = False
    return batch


def test_the_line_is_numpys(gaps):
    otherwise = torch.arange(10.0).view(5, 2)
    line = Nearest.of(gaps.context).line(gaps.values, otherwise)
    for b, v, c in np.ndindex(3, 5, 2):
        expected = line_by_numpy(
            gaps.values[b, :, v, c].numpy(), gaps.context[b, :, v, c].numpy(), float(otherwise[v, c])
        )
        np.testing.assert_allclose(line[b, :, v, c], expected, rtol=1e-5)


def test_the_walk_is_a_brownian_bridge():
    context = torch.tensor([0, 0, 1, 0, 0, 0, 1, 0], dtype=torch.bool).view(1, 8, 1, 1)
    context = torch.cat([context, torch.zeros_like(context)], dim=2)
    walked = Nearest.of(context).walked()
    assert walked[0, :, 0, 0].tolist() == pytest.approx([2, 1, 0, 3 / 4, 1, 3 / 4, 0, 1])
    assert torch.isinf(walked[0, :, 1]).all()


def make_model(series, head="mixture", **options):
    torch.manual_seed(0)
    spec = SeriesSpec.of(series)
    encoder = TWO_WAY_ENCODERS["two-way recurrence"]
    return AnyOrderModel(spec, encoder, HEADS[head], units="interpolation", **options).eval()


@pytest.mark.parametrize("head", [name for name in HEADS if "nade" not in name])
def test_every_head_works_in_units_of_entries(series, gaps, head):
    model = make_model(series, head, sampler=AnyOrder(3, groups=2))
    log_prob = model.log_prob(gaps)
    assert (log_prob[gaps.hidden] != 0).all()
    log_prob.sum().backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().sum() > 0, name
    samples = model.sampler(model, gaps).values
    assert torch.isfinite(samples).all()
    alone = model.sampler(model, gaps.rows(slice(1, 2))).values
    torch.testing.assert_close(alone, samples[:, 1:2], atol=1e-3, rtol=1e-4)


def test_densities_in_units_of_entries_integrate_to_one(series, gaps):
    law = make_model(series)(gaps)
    grid = torch.linspace(-100, 250, 20001, dtype=torch.float64)
    density = law.log_prob(grid[:, None, None, None, None].float()).double().exp()
    total = torch.trapezoid(density[:, gaps.hidden], grid, dim=0)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-3, rtol=0)


def test_what_is_read_in_units_of_entries_is_what_is_visible(series, gaps):
    model = make_model(series)
    x, seen = model.inputs(gaps)
    features = model.features(gaps, x, seen)
    line, since, until, mean, share = features[..., -10:].unflatten(-1, (5, 2)).unbind(-2)
    torch.testing.assert_close(line[gaps.context], x[gaps.context])
    assert (line[0, :, 1, 0] == 0).all()
    steps = torch.arange(10.0)
    torch.testing.assert_close(since[1, 4:, 2, 1], steps[:6].log1p())
    torch.testing.assert_close(until[1, :4, 2, 1], (4 - steps[:4]).log1p())
    assert (since[1, :4, 2, 1] == torch.tensor(11.0).log()).all()  # as far as the window is long
    for b, t, c in np.ndindex(3, 10, 2):
        visible = gaps.context[b, t, :, c]
        expected = x[b, t, :, c][visible].mean() if visible.any() else torch.tensor(0.0)
        torch.testing.assert_close(mean[b, t, :, c], expected.expand(5))
        torch.testing.assert_close(share[b, t, :, c], visible.float().mean().expand(5))


def test_units_are_the_line_and_grow_with_the_gap(series, gaps):
    model = make_model(series)
    units, node = model.units(gaps), model.node_units
    torch.testing.assert_close(units.loc[gaps.context], gaps.values[gaps.context].double())
    assert torch.equal(units.loc[0, :, 1, 0], node.loc[1, 0].expand(10))
    torch.testing.assert_close(units.scale[0, :, 1, 0], node.scale[1, 0].expand(10))
    lonely = units.scale[1, :, 2, 1]
    assert (lonely[4:].diff() > 0).all() and (lonely < node.scale[2, 1]).all()


def test_an_entry_far_from_all_that_is_visible_has_the_scale_of_its_node_and_a_gradient(series, gaps):
    model = make_model(series)
    model.log_prob(gaps).sum().backward()
    assert torch.isfinite(model.log_reach.grad).all() and (model.log_reach.grad != 0).all()


def test_nothing_outside_the_context_is_read(series, gaps):
    model, results = make_model(series, objective=MaskedNLL(crps_weight=3.0)), []
    for poison in (torch.nan, 1e9):
        hidden = ~(gaps.context | gaps.target)
        poisoned = gaps._changed(values=torch.where(hidden, poison, gaps.values))
        model.zero_grad()
        loss = model.objective.loss(model, poisoned, torch.zeros(3, dtype=torch.int64), 0)
        loss.backward()
        blind = gaps._changed(values=torch.where(gaps.context, gaps.values, poison))
        results.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
        results[-1] += [*model.units(blind)[:2], model.features(blind, *model.inputs(blind))]
        assert all(torch.isfinite(result).all() for result in results[-1])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_units_of_another_name_are_refused(series, as_a_user):
    spec = SeriesSpec.of(series)
    with pytest.raises(ValueError, match="units must be 'node', 'interpolation' or 'linear'; it is 'window'"):
        AnyOrderModel(spec, TWO_WAY_ENCODERS["two-way gru"], units="window")


def test_the_crps_is_added_in_the_nodes_deviations():
    series = make_series()
    batch, stream = make_batch(series), torch.zeros(3, dtype=torch.int64)
    model = make_model(series)
    losses = [
        MaskedNLL(crps_weight=weight).loss(model, batch, stream, 0).item() for weight in (0.0, 1.0, 3.0)
    ]
    assert losses[2] - losses[0] == pytest.approx(3 * (losses[1] - losses[0]), rel=1e-4)
    draws = model(batch).sample((4000,))
    error = (draws - batch.values).abs().mean(dim=0) - (draws[:2000] - draws[2000:]).abs().mean(dim=0) / 2
    expected = (error / model.node_units.scale)[batch.hidden].mean()
    assert losses[1] - losses[0] == pytest.approx(float(expected), rel=0.02)
