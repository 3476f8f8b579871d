"""Patterns: their laws, their seeds, and that they do not depend on the batch."""

import pytest
import torch

from tsgen.counter_random import streams
from tsgen.masks import AnyOf, BlockMask, PointMask, hold_out

SHAPE = (48, 7, 2)
MASKS = {
    "point": PointMask(0.3),
    "point with a rate of its own": PointMask((0.0, 0.8)),
    "block": BlockMask(0.02, 3, 9),
    "any of": AnyOf([PointMask(0.1), BlockMask(0.02, 3, 9)]),
}


def z_score(hits: torch.Tensor, probability: float) -> float:
    return float(
        (hits.double().mean() - probability) / (probability * (1 - probability) / hits.numel()) ** 0.5
    )


@pytest.mark.parametrize("name", MASKS)
def test_a_window_is_hidden_alike_in_any_batch(name):
    mask, stream = MASKS[name], streams(5, torch.arange(9))
    whole = mask.hidden(stream, SHAPE)
    assert whole.shape == (9, *SHAPE)
    assert torch.equal(mask.hidden(stream[4:6], SHAPE), whole[4:6])
    assert torch.equal(mask.hidden(stream, SHAPE), whole)
    assert not torch.equal(mask.hidden(streams(6, torch.arange(9)), SHAPE), whole)
    assert not torch.equal(whole[0], whole[1])


def test_points_have_their_rate():
    hidden = PointMask(0.3).hidden(streams(0, torch.arange(200)), SHAPE)
    assert abs(z_score(hidden, 0.3)) < 5
    # neighbours in time, nodes and channels are independent
    for axis in (1, 2, 3):
        pairs = hidden.narrow(axis, 1, hidden.shape[axis] - 1) & hidden.narrow(
            axis, 0, hidden.shape[axis] - 1
        )
        assert abs(z_score(pairs, 0.09)) < 8


def test_each_window_draws_its_own_rate():
    rates = (
        PointMask((0.2, 0.6)).hidden(streams(0, torch.arange(400)), (100, 10, 1)).float().mean(dim=(1, 2, 3))
    )
    assert abs(float(rates.mean()) - 0.4) < 5 * (0.4 / 12**0.5) / 20
    assert 0.17 < rates.min() < 0.24 and 0.56 < rates.max() < 0.63


def test_blocks_have_their_rate_from_the_first_step_on():
    mask = BlockMask(0.01, 4, 10)
    hidden = mask.hidden(streams(0, torch.arange(3000)), (30, 4, 1))
    # hidden unless no failure of length L started in the last L steps, L uniform on 4..10
    lengths = range(4, 11)
    visible = 1.0
    for ago in range(10):
        visible *= 1 - 0.01 * sum(length > ago for length in lengths) / len(lengths)
    for step in (0, 15, 29):
        assert abs(z_score(hidden[:, step], 1 - visible)) < 5


def test_blocks_have_their_lengths():
    hidden = BlockMask(0.0005, 4, 10).hidden(streams(1, torch.arange(4000)), (200, 3, 1))[..., 0]
    rows = hidden.movedim(1, 2).flatten(0, 1).int()
    edges = torch.diff(rows, dim=1)
    # one failure that begins and ends inside: its length is the number of hidden steps
    single = (edges == 1).sum(dim=1).eq(1) & (edges == -1).sum(dim=1).eq(1) & rows[:, 0].eq(0)
    counts = torch.bincount(rows[single].sum(dim=1), minlength=11)
    assert counts[:4].sum() == 0
    expected = counts[4:11].double().mean()
    assert ((counts[4:11] - expected).abs() < 5 * expected.sqrt()).all()


def test_any_of_hides_what_each_hides_independently():
    both = AnyOf([PointMask(0.2), PointMask(0.2)]).hidden(streams(0, torch.arange(200)), SHAPE)
    assert abs(z_score(both, 1 - 0.8**2)) < 5


def test_held_out_entries_are_observed_ones():
    observed = torch.rand(500, 6, 1, generator=torch.Generator().manual_seed(0)) < 0.5
    held_out = hold_out(PointMask(0.4), observed, seed=3)
    assert not (held_out & ~observed).any()
    assert abs(z_score(held_out[observed], 0.4)) < 5
    assert torch.equal(held_out, hold_out(PointMask(0.4), observed, seed=3))
    assert not torch.equal(held_out, hold_out(PointMask(0.4), observed, seed=4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PointMask(1.5), "rate must lie in"),
        (lambda: PointMask((0.5, -0.1)), "rate must lie in"),
        (lambda: BlockMask(-1.0), "rate must lie in"),
        (lambda: BlockMask(0.1, 5, 4), "min_length <= max_length"),
        (lambda: AnyOf([]), "at least one"),
    ],
)
def test_bad_patterns_are_refused(as_a_user, make, message):
    with pytest.raises(ValueError, match=message):
        make()
