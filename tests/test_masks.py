"""Patterns: their laws, their seeds, and that they do not depend on the batch."""

import pytest
import torch

from tsgen.counter_random import streams
from tsgen.masks import AnyOf, BlockMask, HistoricalMask, OneOf, PartOf, PointMask, hold_out

SHAPE = (48, 7, 2)
MASKS = {
    "point": PointMask(0.3),
    "point with a rate of its own": PointMask((0.0, 0.8)),
    "block": BlockMask(0.02, 3, 9),
    "block with a rate of its own": BlockMask((0.01, 0.05), 3, 9),
    "outage": BlockMask(0.02, 3, 9, over="slice"),
    "any of": AnyOf([PointMask(0.1), BlockMask(0.02, 3, 9)]),
    "part of": PartOf(BlockMask(0.02, 3, 9)),
    "one of": OneOf([PointMask(0.1), BlockMask(0.02, 3, 9)]),
}


def z_score(hits: torch.Tensor, probability: float) -> float:
    return float(
        (hits.double().mean() - probability) / (probability * (1 - probability) / hits.numel()) ** 0.5
    )


def gaps(*lengths: int) -> list[torch.Tensor]:
    """Stretches with a third of their entries missing."""
    random = torch.Generator().manual_seed(2)
    return [torch.rand(length, 7, 2, generator=random) < 2 / 3 for length in lengths]


MASKS["historical"] = HistoricalMask().replaying(gaps(200))
MASKS["one of, historical"] = OneOf([PointMask(0.1), HistoricalMask()]).replaying(gaps(200))


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


def test_outages_hide_whole_slices_as_often_as_failures_hide_an_entry():
    hidden = BlockMask(0.01, 4, 10, over="slice").hidden(streams(0, torch.arange(3000)), (30, 4, 2))
    assert torch.equal(hidden, hidden[:, :, :1, :1].expand_as(hidden))
    visible = 1.0
    for ago in range(10):
        visible *= 1 - 0.01 * sum(length > ago for length in range(4, 11)) / 7
    for step in (0, 15, 29):
        assert abs(z_score(hidden[:, step, 0, 0], 1 - visible)) < 5


def test_failures_of_another_kind_are_refused(as_a_user):
    with pytest.raises(ValueError, match="over must be one of entry, slice; it is 'node'"):
        BlockMask(over="node")


def test_any_of_hides_what_each_hides_independently():
    both = AnyOf([PointMask(0.2), PointMask(0.2)]).hidden(streams(0, torch.arange(200)), SHAPE)
    assert abs(z_score(both, 1 - 0.8**2)) < 5


def test_blocks_too_draw_a_rate_for_each_window():
    hidden = BlockMask((0.05, 0.25), 1, 1).hidden(streams(0, torch.arange(400)), (100, 10, 1))
    rates = hidden.float().mean(dim=(1, 2, 3))
    assert abs(float(rates.mean()) - 0.15) < 5 * (0.2 / 12**0.5) / 20
    assert 0.02 < rates.min() < 0.08 and 0.22 < rates.max() < 0.31


def test_one_of_draws_whole_patterns_as_often_as_they_weigh():
    stream = streams(0, torch.arange(4000))
    none, few, all_ = PointMask(0.0), PointMask(0.5), PointMask(1.0)
    share = OneOf([none, few, all_], [1, 0, 3]).hidden(stream, (4, 5, 1)).float().mean(dim=(1, 2, 3))
    assert ((share == 0) | (share == 1)).all()
    assert abs(z_score(share == 1, 0.75)) < 5
    alike = OneOf([none, few, all_]).hidden(stream, (4, 5, 1)).float().mean(dim=(1, 2, 3))
    for certain in (0, 1):
        assert abs(z_score(alike == certain, 1 / 3)) < 5
    # which pattern is drawn says nothing of what the pattern draws
    half = OneOf([few, few]).hidden(stream, SHAPE)
    assert abs(z_score(half, 0.5)) < 5


def test_historical_gaps_are_those_of_whole_stretches_each_as_likely():
    stretches = gaps(6, 3, 9, 5)
    hidden = HistoricalMask().replaying(stretches).hidden(streams(0, torch.arange(8000)), (5, 7, 2))
    windows = [~s[start : start + 5] for s in stretches for start in range(len(s) - 4)]
    counts = torch.stack([(hidden == window).flatten(1).all(dim=1).sum() for window in windows])
    assert len(windows) == 8 and counts.sum() == 8000
    assert ((counts - 1000.0).abs() < 5 * (8000 * 7 / 64) ** 0.5).all()


def test_a_part_of_a_pattern_keeps_each_of_its_entries_on_its_own():
    stream, lasting = streams(0, torch.arange(400)), BlockMask(0.02, 3, 9)
    whole, part = lasting.hidden(streams(10, stream), SHAPE), PartOf(lasting, 0.25).hidden(stream, SHAPE)
    assert not (part & ~whole).any() and abs(z_score(part[whole], 0.25)) < 5
    kept = PartOf(PointMask(1.0)).hidden(stream, SHAPE).float().mean(dim=(1, 2, 3))  # a share of its own each
    assert abs(float(kept.mean()) - 0.5) < 5 * (1 / 12**0.5) / 20 and kept.min() < 0.05 and kept.max() > 0.95


@pytest.mark.parametrize("kind", [AnyOf, OneOf])
def test_patterns_of_patterns_hand_the_gaps_on_and_leave_the_first_as_they_are(kind):
    mask, stream = kind([PointMask(0.0), HistoricalMask()]), streams(0, torch.arange(5))
    assert mask.replaying(gaps(60)).hidden(stream, SHAPE).any()
    assert PartOf(HistoricalMask()).replaying(gaps(60)).hidden(stream, SHAPE).any()
    with pytest.raises(ValueError, match="a stretch of at least 48 steps to replay; it knows 0"):
        mask.hidden(stream, SHAPE)
    with pytest.raises(ValueError, match="it knows 2 stretches, of 70 steps"):
        mask.replaying(gaps(30, 40)).hidden(stream, SHAPE)


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
        (lambda: BlockMask((0.1, 2.0)), "rate must lie in"),
        (lambda: PartOf(PointMask(), 1.2), "share must lie in"),
        (lambda: AnyOf([]), "at least one"),
        (lambda: OneOf([]), "at least one"),
        (lambda: OneOf([PointMask()], [1, 1]), "1 numbers, one for each"),
        (lambda: OneOf([PointMask(), PointMask()], [1, -1]), "none negative"),
        (lambda: OneOf([PointMask(), PointMask()], [0, 0]), "not all zero"),
    ],
)
def test_bad_patterns_are_refused(as_a_user, make, message):
    with pytest.raises(ValueError, match=message):
        make()
