"""Batches of simulated networks: numbering, resumption and workers."""

import pytest
import torch

from tsgen.datamodules.simulated import SimulatedDataModule
from tsgen.simulate import NetworkPrior

PRIOR = NetworkPrior(nodes=(2, 9), steps=(8,), channels=(1, 1), entries=600)


def _same(a, b):
    return a.values.shape == b.values.shape and torch.equal(a.values, b.values)


def test_draws_are_numbered_by_epoch_and_step_whatever_the_workers():
    data = SimulatedDataModule(PRIOR, steps_per_epoch=3, val_draws=2)
    loader = data.train_dataloader()
    loader.sampler.set_epoch(2)
    batches = list(loader)
    assert len(batches) == 3
    for step, batch in enumerate(batches):
        draw = PRIOR.draw(0, 6 + step)
        assert _same(batch, draw.batch()) and torch.equal(batch.context, draw.visible)
        assert batch.target.all()
    parallel = SimulatedDataModule(PRIOR, steps_per_epoch=3, num_workers=1).train_dataloader()
    parallel.sampler.set_epoch(2)
    assert all(map(_same, parallel, batches))


def test_validation_is_fixed_and_apart_from_training():
    data = SimulatedDataModule(PRIOR, steps_per_epoch=4, val_draws=3)
    first, again = list(data.val_dataloader()), list(data.val_dataloader())
    assert len(first) == 3 and all(map(_same, first, again))
    assert not any(_same(a, b) for a in first for b in data.train_dataloader())
    # test and prediction are those of a further network
    values = data.split.series.values
    assert data.spec.sizes.nodes == values.shape[1] and values.shape[0] == 12 * data.window
    assert not any(torch.equal(values[: x.values.shape[1]], x.values[0]) for x in first)


def test_the_number_of_channels_must_be_fixed():
    with pytest.raises(ValueError, match="channels"):
        SimulatedDataModule(NetworkPrior())
    with pytest.raises(ValueError, match="val_draws"):
        SimulatedDataModule(PRIOR, val_draws=0)
