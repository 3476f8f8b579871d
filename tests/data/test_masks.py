"""Patterns: their laws, their seeds, and that they do not depend on the batch."""

import hashlib

import numpy as np
import pytest
import torch

from tsgen.counter_random import streams
from tsgen.data.graphs import from_edges
from tsgen.data.masks import (
    AnyOf,
    BlockMask,
    GRINMask,
    HeldOut,
    HistoricalMask,
    Mask,
    NodeMask,
    OneOf,
    PartOf,
    PointMask,
    ValueMask,
    hold_out,
)
from tsgen.data.series import GraphSeries

SHAPE = (48, 7, 2)
MASKS = {
    "point": PointMask(0.3),
    "point with a rate of its own": PointMask((0.0, 0.8)),
    "block": BlockMask(0.02, 3, 9),
    "block with a rate of its own": BlockMask((0.01, 0.05), 3, 9),
    "outage": BlockMask(0.02, 3, 9, over="slice"),
    "any of": AnyOf([PointMask(0.1), BlockMask(0.02, 3, 9)]),
    "node": NodeMask(0.3),
    "node with a rate of its own": NodeMask((0.1, 0.6)),
    "value": ValueMask(0.3, -1.5),
    "value with a rate of its own": ValueMask((0.0, 0.8), 3.0),
    "part of": PartOf(BlockMask(0.02, 3, 9)),
    "one of": OneOf([PointMask(0.1), BlockMask(0.02, 3, 9)]),
}


def draw(mask: Mask, stream: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """What is hidden of windows of this shape: their values, alike in all, are those of a growing walk."""
    steps = torch.Generator().manual_seed(4)
    return mask.hidden(stream, torch.randn(shape, generator=steps).cumsum(0).expand(len(stream), *shape))


def z_score(hits: torch.Tensor, probability: float) -> float:
    return float(
        (hits.double().mean() - probability) / (probability * (1 - probability) / hits.numel()) ** 0.5
    )


def gaps(*lengths: int) -> tuple[GraphSeries, list[slice]]:
    """A series with a third of its entries missing, and stretches of it."""
    observed = torch.rand(sum(lengths), 7, 2, generator=torch.Generator().manual_seed(2)) < 2 / 3
    graph = from_edges(np.array([0]), np.array([1]), num_nodes=7)
    ends = np.cumsum(lengths).tolist()
    stretches = [slice(end - length, end) for end, length in zip(ends, lengths, strict=True)]
    return GraphSeries(torch.zeros(observed.shape), observed, graph), stretches


MASKS["historical"] = HistoricalMask().replaying(*gaps(200))
MASKS["one of, historical"] = OneOf([PointMask(0.1), HistoricalMask()]).replaying(*gaps(200))


@pytest.mark.parametrize("name", MASKS)
def test_a_window_is_hidden_alike_in_any_batch(name):
    mask, stream = MASKS[name], streams(5, torch.arange(9))
    whole = draw(mask, stream, SHAPE)
    assert whole.shape == (9, *SHAPE)
    assert torch.equal(draw(mask, stream[4:6], SHAPE), whole[4:6])
    assert torch.equal(draw(mask, stream, SHAPE), whole)
    assert not torch.equal(draw(mask, streams(6, torch.arange(9)), SHAPE), whole)
    assert not torch.equal(whole[0], whole[1])


def test_points_have_their_rate():
    hidden = draw(PointMask(0.3), streams(0, torch.arange(200)), SHAPE)
    assert abs(z_score(hidden, 0.3)) < 5
    # neighbours in time, nodes and channels are independent
    for axis in (1, 2, 3):
        pairs = hidden.narrow(axis, 1, hidden.shape[axis] - 1) & hidden.narrow(
            axis, 0, hidden.shape[axis] - 1
        )
        assert abs(z_score(pairs, 0.09)) < 8


def test_each_window_draws_its_own_rate():
    rates = (
        draw(PointMask((0.2, 0.6)), streams(0, torch.arange(400)), (100, 10, 1)).float().mean(dim=(1, 2, 3))
    )
    assert abs(float(rates.mean()) - 0.4) < 5 * (0.4 / 12**0.5) / 20
    assert 0.17 < rates.min() < 0.24 and 0.56 < rates.max() < 0.63


def test_blocks_have_their_rate_from_the_first_step_on():
    mask = BlockMask(0.01, 4, 10)
    hidden = draw(mask, streams(0, torch.arange(3000)), (30, 4, 1))
    # hidden unless no failure of length L started in the last L steps, L uniform on 4..10
    lengths = range(4, 11)
    visible = 1.0
    for ago in range(10):
        visible *= 1 - 0.01 * sum(length > ago for length in lengths) / len(lengths)
    for step in (0, 15, 29):
        assert abs(z_score(hidden[:, step], 1 - visible)) < 5


def test_blocks_have_their_lengths():
    hidden = draw(BlockMask(0.0005, 4, 10), streams(1, torch.arange(4000)), (200, 3, 1))[..., 0]
    rows = hidden.movedim(1, 2).flatten(0, 1).int()
    edges = torch.diff(rows, dim=1)
    # one failure that begins and ends inside: its length is the number of hidden steps
    single = (edges == 1).sum(dim=1).eq(1) & (edges == -1).sum(dim=1).eq(1) & rows[:, 0].eq(0)
    counts = torch.bincount(rows[single].sum(dim=1), minlength=11)
    assert counts[:4].sum() == 0
    expected = counts[4:11].double().mean()
    assert ((counts[4:11] - expected).abs() < 5 * expected.sqrt()).all()


def test_outages_hide_whole_slices_as_often_as_failures_hide_an_entry():
    hidden = draw(BlockMask(0.01, 4, 10, over="slice"), streams(0, torch.arange(3000)), (30, 4, 2))
    assert torch.equal(hidden, hidden[:, :, :1, :1].expand_as(hidden))
    visible = 1.0
    for ago in range(10):
        visible *= 1 - 0.01 * sum(length > ago for length in range(4, 11)) / 7
    for step in (0, 15, 29):
        assert abs(z_score(hidden[:, step, 0, 0], 1 - visible)) < 5


def test_outages_of_one_step_hide_single_slices():
    hidden = draw(BlockMask(0.2, 1, 1, over="slice"), streams(0, torch.arange(400)), (30, 4, 2))
    assert torch.equal(hidden, hidden[:, :, :1, :1].expand_as(hidden))
    assert abs(z_score(hidden[:, :, 0, 0], 0.2)) < 5
    assert abs(z_score(hidden[:, 1:, 0, 0] & hidden[:, :-1, 0, 0], 0.04)) < 5


def test_nodes_are_hidden_whole_and_on_their_own():
    hidden = draw(NodeMask(0.3), streams(0, torch.arange(4000)), (5, 7, 2))
    assert torch.equal(hidden, hidden[:, :1, :, :1].expand_as(hidden))
    nodes = hidden[:, 0, :, 0]
    assert abs(z_score(nodes, 0.3)) < 5 and abs(z_score(nodes[:, 1:] & nodes[:, :-1], 0.09)) < 5
    drawn = draw(NodeMask((0.2, 0.6)), streams(0, torch.arange(400)), (1, 900, 1)).float().mean(dim=(1, 2, 3))
    assert abs(float(drawn.mean()) - 0.4) < 5 * (0.4 / 12**0.5) / 20
    assert 0.14 < drawn.min() < 0.26 and 0.54 < drawn.max() < 0.66


@pytest.mark.parametrize("slope", [-2.5, 0.0, 1.0, 6.0])
@pytest.mark.parametrize("rate", [0.05, 0.4])
def test_values_are_hidden_by_a_logistic_law_whose_share_is_the_rate(rate, slope):
    random = np.random.default_rng(1)
    values = torch.from_numpy(random.lognormal(size=(1, 40_000, 2, 1))) * torch.tensor([[1.0], [300.0]])
    hidden = ValueMask(rate, slope).hidden(streams(0, torch.arange(1)), values)
    assert abs(z_score(hidden, rate)) < 5
    # the law, with the offset that a plain search finds
    z = ((values - values.mean(1)) / values.std(1, correction=0)).flatten().numpy()
    low, high = -500.0, 500.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 / (1 + np.exp(-slope * z - middle))).mean() < rate else (low, middle)
    law = 1 / (1 + np.exp(-slope * z - low))
    for part in np.array_split(np.argsort(z), 8):
        count, share = hidden.flatten().numpy()[part].sum(), law[part]
        assert abs(count - share.sum()) < 5 * max((share * (1 - share)).sum(), 0.5) ** 0.5


def test_a_window_is_judged_by_its_own_values_and_what_is_missing_counts_for_nothing():
    values = torch.randn(2000, 24, 3, 1, generator=torch.Generator().manual_seed(1))
    values[:, ::3, 1] = torch.nan
    values[:, :, 2] = 5.0
    hidden = ValueMask((0.1, 0.5), 4.0).hidden(streams(0, torch.arange(2000)), values)
    assert not hidden[values.isnan()].any()
    share = hidden.sum(dim=(1, 2, 3)) / values.isfinite().sum(dim=(1, 2, 3))
    assert abs(float(share.mean()) - 0.3) < 5 * (0.4**2 / 12 + 0.3 * 0.7 / 64) ** 0.5 / 2000**0.5
    # units and signs of a node do not matter, but for the direction
    same = ValueMask((0.1, 0.5), 4.0).hidden(streams(0, torch.arange(2000)), 3 + 100 * values)
    assert (same == hidden).double().mean() > 0.9999
    opposite = ValueMask((0.1, 0.5), -4.0).hidden(streams(0, torch.arange(2000)), -values)
    assert (opposite == hidden).double().mean() > 0.9999
    for rate in (0.0, 1.0):
        all_or_none = ValueMask(rate).hidden(streams(0, torch.arange(9)), values[:9])
        assert torch.equal(all_or_none, values[:9].isfinite() & (rate == 1))
    nothing = ValueMask().hidden(streams(0, torch.arange(2)), torch.full((2, 5, 3, 1), torch.nan))
    assert not nothing.any()


def published(shape: tuple[int, int], mask: GRINMask) -> np.ndarray:
    """GRIN's law, failure by failure."""
    random = np.random.default_rng(mask.seed)
    starts = random.random(shape) < mask.failure_rate
    hidden = np.zeros(shape, dtype=bool)
    for sensor in range(shape[1]):
        failures = starts[:, sensor].nonzero()[0]
        if len(failures):
            length = 12 + int(random.integers(48 - 12))
            for start in failures:
                hidden[start : start + length, sensor] = True
    return hidden | (random.random(shape) < mask.point_rate)


@pytest.mark.parametrize("shape", [(400, 30), (34272, 10), (2000, 207), (5, 40)])
@pytest.mark.parametrize("mask", [GRINMask(), GRINMask(0.05, 0.0015), GRINMask(0.05, 0.0015, 56789)])
def test_grin_hides_what_its_code_hides(shape, mask):
    hidden = mask.hidden(streams(0, torch.arange(2)), torch.zeros(2, *shape, 1))
    expected = torch.from_numpy(published(shape, mask))[..., None]
    assert torch.equal(hidden, expected.expand(2, -1, -1, -1))
    assert torch.equal(hold_out(mask, torch.zeros(*shape, 1), torch.ones(*shape, 1) > 0, seed=8), expected)


@pytest.mark.parametrize(
    ("mask", "shape", "count", "checksum"),
    [
        (GRINMask(), (34272, 207), 1_773_799, "8c2171f9c3c1a16b"),
        (GRINMask(0.05, 0.0015), (34272, 207), 648_272, "c2201003bd0499a5"),
        (GRINMask(seed=56789), (52128, 325), 4_235_930, "1fa60eaa1011b6af"),
        (GRINMask(0.05, 0.0015, 56789), (52128, 325), 1_537_955, "1328092e633efcd4"),
    ],
    ids=["METR-LA, point", "METR-LA, block", "PEMS-BAY, point", "PEMS-BAY, block"],
)
def test_the_published_masks_are_pinned(mask, shape, count, checksum):
    hidden = mask.hidden(streams(0, torch.arange(1)), torch.zeros(1, *shape, 1)).numpy()
    assert hidden.sum() == count
    assert hashlib.sha256(np.packbits(hidden).tobytes()).hexdigest()[:16] == checksum


def test_grin_masks_thin_no_windows():
    for mask in (GRINMask(), AnyOf([PointMask(), GRINMask()]), OneOf([GRINMask()]), PartOf(GRINMask())):
        with pytest.raises(
            ValueError, match=r"data\.thinning must be a pattern that can be drawn for windows"
        ):
            mask.replaying(*gaps(60))


def test_failures_of_another_kind_are_refused(as_a_user):
    with pytest.raises(ValueError, match="over must be 'entry' or 'slice'; it is 'node'"):
        BlockMask(over="node")


def test_any_of_hides_what_each_hides_independently():
    both = draw(AnyOf([PointMask(0.2), PointMask(0.2)]), streams(0, torch.arange(200)), SHAPE)
    assert abs(z_score(both, 1 - 0.8**2)) < 5


def test_blocks_too_draw_a_rate_for_each_window():
    hidden = draw(BlockMask((0.05, 0.25), 1, 1), streams(0, torch.arange(400)), (100, 10, 1))
    rates = hidden.float().mean(dim=(1, 2, 3))
    assert abs(float(rates.mean()) - 0.15) < 5 * (0.2 / 12**0.5) / 20
    assert 0.02 < rates.min() < 0.08 and 0.22 < rates.max() < 0.31


def test_one_of_draws_whole_patterns_as_often_as_they_weigh():
    stream = streams(0, torch.arange(4000))
    none, few, all_ = PointMask(0.0), PointMask(0.5), PointMask(1.0)
    share = draw(OneOf([none, few, all_], [1, 0, 3]), stream, (4, 5, 1)).float().mean(dim=(1, 2, 3))
    assert ((share == 0) | (share == 1)).all()
    assert abs(z_score(share == 1, 0.75)) < 5
    alike = draw(OneOf([none, few, all_]), stream, (4, 5, 1)).float().mean(dim=(1, 2, 3))
    for certain in (0, 1):
        assert abs(z_score(alike == certain, 1 / 3)) < 5
    # which pattern is drawn says nothing of what the pattern draws
    half = draw(OneOf([few, few]), stream, SHAPE)
    assert abs(z_score(half, 0.5)) < 5


def test_historical_gaps_are_those_of_whole_stretches_each_as_likely():
    series, stretches = gaps(6, 3, 9, 5)
    hidden = draw(HistoricalMask().replaying(series, stretches), streams(0, torch.arange(8000)), (5, 7, 2))
    firsts = [first for s in stretches for first in range(s.start, s.stop - 4)]
    windows = [~series.observed[first : first + 5] for first in firsts]
    counts = torch.stack([(hidden == window).flatten(1).all(dim=1).sum() for window in windows])
    assert len(windows) == 8 and counts.sum() == 8000
    assert ((counts - 1000.0).abs() < 5 * (8000 * 7 / 64) ** 0.5).all()


def test_a_part_of_a_pattern_keeps_each_of_its_entries_on_its_own():
    stream, lasting = streams(0, torch.arange(400)), BlockMask(0.02, 3, 9)
    whole, part = draw(lasting, streams(10, stream), SHAPE), draw(PartOf(lasting, 0.25), stream, SHAPE)
    assert not (part & ~whole).any() and abs(z_score(part[whole], 0.25)) < 5
    kept = draw(PartOf(PointMask(1.0)), stream, SHAPE).float().mean(dim=(1, 2, 3))  # a share of its own each
    assert abs(float(kept.mean()) - 0.5) < 5 * (1 / 12**0.5) / 20 and kept.min() < 0.05 and kept.max() > 0.95


@pytest.mark.parametrize("kind", [AnyOf, OneOf])
def test_patterns_of_patterns_hand_the_gaps_on_and_leave_the_first_as_they_are(kind):
    mask, stream = kind([PointMask(0.0), HistoricalMask()]), streams(0, torch.arange(5))
    assert draw(mask.replaying(*gaps(60)), stream, SHAPE).any()
    assert draw(PartOf(HistoricalMask()).replaying(*gaps(60)), stream, SHAPE).any()
    with pytest.raises(ValueError, match="a stretch of at least 48 steps to replay; it has 0"):
        draw(mask, stream, SHAPE)
    with pytest.raises(ValueError, match="it has 2 stretches, of 70 steps"):
        draw(mask.replaying(*gaps(30, 40)), stream, SHAPE)


PATTERNS = [name for name in MASKS if "value" not in name and "historical" not in name]


@pytest.mark.parametrize("name", PATTERNS)
def test_parts_of_a_long_draw_are_drawn_without_the_rest(name):
    stream, start = streams(3, torch.zeros(4, dtype=torch.int64)), torch.tensor([0, 1, 40, 187])
    values = torch.zeros(4, 60, *SHAPE[1:])
    whole = MASKS[name].hidden(stream[:1], torch.zeros(1, 247, *SHAPE[1:]))[0]
    parts = MASKS[name].hidden(stream, values, start)
    assert torch.equal(parts, torch.stack([whole[a : a + 60] for a in start]))
    assert whole.any() and not whole.all()


@pytest.mark.parametrize(
    "mask", [ValueMask(), GRINMask(), OneOf([PointMask(), AnyOf([PartOf(ValueMask())])]), HistoricalMask()]
)
def test_what_must_see_a_whole_series_is_refused_for_parts(mask):
    with pytest.raises(ValueError, match="Mask needs a series that is held in memory"):
        HeldOut(mask, 0)


def test_held_out_entries_are_observed_ones():
    observed = torch.rand(500, 6, 1, generator=torch.Generator().manual_seed(0)) < 0.5
    values = torch.full(observed.shape, 7.0)
    held_out = hold_out(PointMask(0.4), values, observed, seed=3)
    assert not (held_out & ~observed).any()
    assert abs(z_score(held_out[observed], 0.4)) < 5
    assert torch.equal(held_out, hold_out(PointMask(0.4), values, observed, seed=3))
    assert not torch.equal(held_out, hold_out(PointMask(0.4), values, observed, seed=4))


def test_what_lies_where_nothing_was_observed_decides_nothing():
    values = torch.randn(300, 6, 1, generator=torch.Generator().manual_seed(0))
    observed = torch.rand(300, 6, 1, generator=torch.Generator().manual_seed(1)) < 0.5
    held_out = hold_out(ValueMask(0.3), values, observed, seed=3)
    for other in (torch.nan, 1e30):
        assert torch.equal(
            held_out, hold_out(ValueMask(0.3), values.where(observed, other), observed, seed=3)
        )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PointMask(1.5), "rate must lie in"),
        (lambda: PointMask((0.5, -0.1)), "rate must lie in"),
        (lambda: BlockMask(-1.0), "rate must lie in"),
        (lambda: NodeMask((0.2, 1.1)), "rate must lie in"),
        (lambda: ValueMask(-0.1), "rate must lie in"),
        (lambda: ValueMask(0.1, float("nan")), "slope must be finite"),
        (lambda: GRINMask(1.1), "point_rate must lie in"),
        (lambda: GRINMask(0.1, -1.0), "failure_rate must lie in"),
        (lambda: BlockMask(0.1, 5, 4), "min_length <= max_length"),
        (lambda: BlockMask((0.1, 2.0)), "rate must lie in"),
        (lambda: PartOf(PointMask(), 1.2), "share must lie in"),
        (lambda: AnyOf([]), "at least one"),
        (lambda: OneOf([]), "at least one"),
        (lambda: OneOf([PointMask()], [1, 1]), "1 finite numbers, one for each"),
        (lambda: OneOf([PointMask(), PointMask()], [1, -1]), "none negative"),
        (lambda: OneOf([PointMask(), PointMask()], [0, 0]), "not all zero"),
    ],
)
def test_bad_patterns_are_refused(as_a_user, make, message):
    with pytest.raises(ValueError, match=message):
        make()
