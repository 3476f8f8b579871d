"""From a series to windows: nothing lost, nothing twice, nothing that depends on batches or processes."""

from itertools import pairwise

import pytest
import torch
from conftest import make_series
from hypothesis import given
from hypothesis import strategies as st
from lightning import Trainer

from tsgen.data.masks import HistoricalMask, OneOf, PointMask
from tsgen.datamodules.windows import (
    EpochSampler,
    SeriesDataModule,
    Split,
    WindowDataset,
    sliding,
    split_in_time,
    tiling,
)


class InMemory(SeriesDataModule):
    """A small series with every third observed entry held out."""

    def __init__(self, **options):
        super().__init__(window=10, batch_size=4, **options)

    def load(self):
        series = make_series(100)
        held_out = series.observed & (
            torch.rand(series.observed.shape, generator=torch.Generator().manual_seed(0)) < 0.33
        )
        return Split(series, *split_in_time(100, 0.2, 0.23), held_out)


def test_training_hides_what_was_missing_in_other_training_stretches():
    data = InMemory(thinning=OneOf([HistoricalMask()]))
    train = data.dataset("train").__getitems__([(0, i) for i in range(30)])
    observed = data.split.series.observed
    stretches = [observed[start : start + 10] for start in range(len(observed) - 9)]
    for window in range(30):
        replayed = [
            start
            for start, gaps in enumerate(stretches)
            if torch.equal(train.context[window], train.target[window] & gaps)
        ]
        assert replayed and replayed[0] + 10 <= data.split.train[0].stop
    assert data.thinning.masks[0].stretches == []  # the pattern that was handed in is as it was


@given(st.lists(st.integers(5, 60), min_size=1, max_size=5), st.integers(1, 5))
def test_tiles_cover_every_step_once(lengths, window):
    bounds = torch.tensor([0, *lengths]).cumsum(0).tolist()
    stretches = [slice(a, b) for a, b in pairwise(bounds)]
    starts, fresh = tiling(stretches, window)
    scored = [
        t for s, f in zip(starts.tolist(), fresh.tolist(), strict=True) for t in range(max(s, f), s + window)
    ]
    assert sorted(scored) == list(range(bounds[-1]))
    for s in starts.tolist():
        assert any(x.start <= s and s + window <= x.stop for x in stretches)


def test_sliding_windows_stay_in_their_stretch():
    assert sliding([slice(0, 5), slice(7, 8), slice(10, 16)], 4, 2).tolist() == [0, 10, 12]


def test_a_stretch_shorter_than_a_window_is_refused():
    with pytest.raises(ValueError, match="shorter window"):
        tiling([slice(0, 5)], 6)
    with pytest.raises(ValueError, match="empty"):
        tiling([], 6)
    with pytest.raises(ValueError, match="training split must hold a window"):
        data = InMemory()
        data.window = 90
        data.dataset("train")


def test_masks_by_stage():
    data = InMemory(thinning=PointMask(0.5))
    split = data.split
    train = data.dataset("train").__getitems__([(0, 3), (0, 7)])
    assert torch.equal(train.target, split.series.observed[train.position])
    assert (train.context & ~train.target).sum() == 0
    assert 0.3 < train.context.sum() / train.target.sum() < 0.7
    tests = data.dataset("test")
    test = tests.__getitems__([(0, i) for i in range(len(tests))])
    assert not (test.context & split.held_out[test.position]).any()
    assert not (test.context & test.target).any()
    assert int(test.target.sum()) == int(split.held_out[77:].sum())
    predict = data.dataset("predict").__getitems__([(0, 0)])
    assert torch.equal(predict.context, split.series.observed[predict.position])
    assert not predict.target.any()


def test_what_training_hides_depends_on_seed_epoch_and_window_alone():
    data = InMemory(thinning=PointMask(0.5), seed=3)
    dataset = data.dataset("train")
    both, alone = dataset.__getitems__([(1, 4), (1, 9)]), dataset.__getitems__([(1, 9)])
    assert torch.equal(both.context[1], alone.context[0])
    seen = both.target[0] & both.target[1]
    assert not torch.equal(both.context[0][seen], both.context[1][seen])
    assert not torch.equal(dataset.__getitems__([(2, 9)]).context, alone.context)
    other = InMemory(thinning=PointMask(0.5), seed=4).dataset("train")
    assert not torch.equal(other.__getitems__([(1, 9)]).context, alone.context)


@given(st.integers(1, 40), st.integers(1, 4), st.integers(0, 3))
def test_processes_share_the_windows(size, world, epoch):
    def dealt(shuffle):
        samplers = [EpochSampler(size, shuffle, 5, rank, world) for rank in range(world)]
        for sampler in samplers:
            sampler.set_epoch(epoch)
        numbers = [[number for _, number in sampler] for sampler in samplers]
        assert [len(its) for its in numbers] == [len(sampler) for sampler in samplers]
        return numbers

    evaluation = dealt(False)
    assert sorted(number for numbers in evaluation for number in numbers) == list(range(size))
    training = dealt(True)
    assert {len(t) for t in training} == {size // world}
    single = EpochSampler(size, True, 5)
    single.set_epoch(epoch)
    order = [number for _, number in single]
    # k processes see in their i-th batches of one what one process sees in a batch of k
    assert [training[i % world][i // world] for i in range(size // world * world)] == order[
        : size // world * world
    ]


def test_epochs_have_their_own_order():
    sampler = EpochSampler(50, True, 0)
    first = [n for _, n in sampler]
    sampler.set_epoch(1)
    second = [n for _, n in sampler]
    assert first != second and sorted(first) == sorted(second) == list(range(50))


def test_worker_processes_change_nothing():
    def batches(workers):
        loader = InMemory(thinning=PointMask(0.5), num_workers=workers).train_dataloader()
        return [(b.position, b.context) for b in loader]

    for (p, c), (q, d) in zip(batches(0), batches(2), strict=True):
        assert torch.equal(p, q) and torch.equal(c, d)


def test_units_come_from_training_alone():
    data = InMemory()
    data.split.series.values[57:] += 1e6
    assert data.spec.loc.max() < 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(stride=0), "stride must be at least 1"),
        (dict(predict_on="tset"), "must be 'train', 'val', 'test' or 'all'"),
        (dict(test_on="train"), "must be 'val' or 'test'"),
    ],
)
def test_bad_options_are_refused(as_a_user, options, message):
    with pytest.raises(ValueError, match=message):
        InMemory(**options)
    for overlap, horizon, told in (
        (10, None, r"in 0\.\.9"),
        (-1, None, r"in 0\.\.9"),
        (2, 4, "if there is a horizon"),
    ):
        with pytest.raises(ValueError, match=f"overlap must .*{told}.*; it is {overlap}"):
            InMemory(overlap=overlap, horizon=horizon)
    with pytest.raises(ValueError, match="sum to less than 1"):
        split_in_time(10, 0.5, 0.5)


def test_a_test_on_the_validation_split_has_its_windows():
    tested, validated = (InMemory(test_on="val").dataset(stage) for stage in ("test", "val"))
    assert torch.equal(tested.starts, validated.starts)
    assert not torch.equal(tested.starts, InMemory().dataset("test").starts)


def test_a_dataset_of_one_window_is_a_batch():
    data = InMemory()
    item = WindowDataset(data.split, torch.tensor([3]), 10, "train")[(0, 0)]
    assert item.values.shape == (1, 10, 5, 2)


def test_windows_of_predict_share_a_quarter_unless_each_begins_anew():
    for options, overlap in ((dict(), 2), (dict(overlap=5), 5), (dict(overlap=0), 0), (dict(horizon=3), 0)):
        data = InMemory(**options)
        assert data.tiles.overlap == overlap
        batches = list(data.predict_dataloader())
        starts = torch.cat([batch.position[:, 0] for batch in batches])
        assert starts.tolist() == data.tiles.starts and starts[-1] == 90
        assert (starts.diff()[:-1] == 10 - overlap).all()
        assert {len(batch.values) for batch in batches} == ({1} if overlap else {4, 2})
        assert (batches[0].context == data.split.series.observed[batches[0].position])[:, :7].all()


@pytest.mark.parametrize("loader", ["train", "val", "test", "predict"])
def test_a_trainer_that_deals_windows_itself_is_refused(loader):
    data = InMemory()
    data.trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False)
    with pytest.raises(ValueError, match=r"Pass Trainer\(use_distributed_sampler=False\)"):
        getattr(data, f"{loader}_dataloader")()
    data.trainer = Trainer(accelerator="cpu", devices=1, logger=False)
    assert len(getattr(data, f"{loader}_dataloader")())
