"""Batches of simulated networks, each of a different graph, for training a model on a prior.

Every training step has a draw of its own from a :class:`~tsgen.simulate.prior.NetworkPrior`, numbered by
epoch and step, so that nothing is seen twice and a resumed training continues with the same draws. The draws
of validation are fixed and have other numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from tsgen.argument_types import check_arguments
from tsgen.data.series import GraphSeries, SeriesBatch
from tsgen.datamodules.windows import LazyLoader, SeriesDataModule, Split, Stage, split_in_time
from tsgen.simulate.prior import NetworkPrior

FIRST_VALIDATION = 2**62
"""The number of the first draw of validation; those of training start at 0."""


class SimulatedBatches(Dataset[SeriesBatch]):
    """Batches of a prior, by the number of the draw.

    Args:
        prior: The prior.
        seed: Identifies the sequence of draws.
        context: See :class:`SimulatedDataModule`.
    """

    def __init__(self, prior: NetworkPrior, seed: int, context: int = 1) -> None:
        self.prior, self.seed, self.context = prior, seed, context
        self.longer = prior
        if prior.windows is None:
            rows, entries = context * prior.rows, context * prior.entries
            self.longer = dataclasses.replace(prior, rows=rows, entries=entries)

    def __getitem__(self, number: int) -> SeriesBatch:
        if self.context == 1 or number % 2:
            return self.prior.draw(self.seed, number).batch()
        batch = self.longer.draw(self.seed, number).batch()
        scored = torch.arange(len(batch.values)) % self.context == 0
        return dataclasses.replace(batch, target=batch.target & scored[:, None, None, None])


class DrawSampler(Sampler[int]):
    """Samples the numbers of the draws of one epoch and process.

    Args:
        steps: Draws per epoch and process.
        first: The number of the first draw of epoch 0.
        rank: Number of this process.
        world_size: Number of processes.
    """

    def __init__(self, steps: int, first: int = 0, rank: int = 0, world_size: int = 1) -> None:
        self.steps, self.first, self.rank, self.world_size, self.epoch = steps, first, rank, world_size, 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch; the trainer calls this at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[int]:
        start = self.first + self.epoch * self.steps * self.world_size + self.rank
        return iter(range(start, start + self.steps * self.world_size, self.world_size))


@check_arguments
class SimulatedDataModule(SeriesDataModule):
    """Provides simulated networks: in training a new one for each step, in validation always the same.

    The visible entries of a batch are its context and all entries are target, of which an any-order model
    scores the hidden ones. Test and prediction are those of a single further network.

    Args:
        prior: The prior; by default all networks with one channel. The number of channels must be fixed.
        steps_per_epoch: Training steps in an epoch, per process.
        val_draws: The number of networks in validation.
        context: In every other draw, one window in this many is scored; the others only tell a model that
            adapts what the network is like. 1 to score all windows.
        window: Length of the windows of test and prediction, in steps.
        seed: Identifies the sequence of draws.
        num_workers: Worker processes that simulate; 0 simulates in the main process.

    Raises:
        ValueError: If a number is out of range, or the number of channels is not fixed.
    """

    one_series = False

    def __init__(
        self,
        prior: NetworkPrior | None = None,
        steps_per_epoch: int = 500,
        val_draws: int = 32,
        context: int = 1,
        window: int = 36,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(window=window, seed=seed, num_workers=num_workers)
        self.prior = NetworkPrior(channels=(1, 1)) if prior is None else prior
        if self.prior.channels[0] != self.prior.channels[1]:
            raise ValueError(
                "prior.channels must be two equal numbers, because a model has a fixed number of channels; "
                f"they are {self.prior.channels}."
            )
        for name, number in (
            ("steps_per_epoch", steps_per_epoch),
            ("val_draws", val_draws),
            ("context", context),
        ):
            if number < 1:
                raise ValueError(f"{name} must be at least 1; it is {number}.")
        for name, number in (("seed", seed), ("num_workers", num_workers)):
            if number < 0:
                raise ValueError(f"{name} must be at least 0; it is {number}.")
        self.steps_per_epoch, self.val_draws, self.context = steps_per_epoch, val_draws, context

    def load(self) -> Split:
        """Simulates one long series, whose hidden entries are held out."""
        prior = dataclasses.replace(self.prior, consecutive=1.0, windows=12, steps=(self.window,))
        drawn = prior.draw(self.seed, FIRST_VALIDATION - 1)
        nodes, channels = drawn.series.shape[2:]
        values = drawn.series.flatten(0, 1)
        series = GraphSeries(
            values=values,
            observed=torch.ones(values.shape, dtype=torch.bool),
            graph=drawn.graph,
            nodes=[str(node) for node in range(nodes)],
            channels=[f"channel {channel}" for channel in range(channels)],
        )
        return Split(series, *split_in_time(len(values), 0.25, 0.25), ~drawn.visible.flatten(0, 1))

    def dataset(self, stage: Stage) -> Any:
        """Returns the draws by number, or the windows of test and prediction.

        Args:
            stage: The stage.
        """
        if stage in ("train", "val"):
            return SimulatedBatches(self.prior, self.seed, self.context)
        return super().dataset(stage)

    def _loader(self, stage: Stage) -> DataLoader:
        """Returns the draws of training, new ones in each epoch, or of validation, the same in each."""
        if stage not in ("train", "val"):
            return super()._loader(stage)
        rank, world_size = self._world()
        validation = range(FIRST_VALIDATION + rank, FIRST_VALIDATION + self.val_draws, world_size)
        training = DrawSampler(self.steps_per_epoch, 0, rank, world_size)
        return LazyLoader(
            self.dataset(stage),
            batch_size=None,
            sampler=training if stage == "train" else validation,
            collate_fn=_identity,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )


def _identity(batch: Any) -> Any:
    """Returns the batch unchanged: a draw is a whole batch."""
    return batch
