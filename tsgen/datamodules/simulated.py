"""Batches of simulated networks, each of a different graph, for training a model on a prior.

Every training step has a draw of its own from a :class:`~tsgen.simulate.prior.NetworkPrior`, numbered by
epoch and step, so that nothing is seen twice and a resumed training continues with the same draws. The draws
of validation are fixed and have other numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from tsgen.argument_types import check_arguments
from tsgen.data.series import SeriesBatch, SeriesSpec
from tsgen.datamodules.windows import LazyLoader, check_undivided
from tsgen.simulate.prior import NetworkPrior

FIRST_VALIDATION = 2**62
"""The number of the first draw of validation; those of training start at 0."""


class SimulatedBatches(Dataset[SeriesBatch]):
    """Batches of a prior, by the number of the draw.

    Args:
        prior: The prior.
        seed: Identifies the sequence of draws.
    """

    def __init__(self, prior: NetworkPrior, seed: int) -> None:
        self.prior, self.seed = prior, seed

    def __getitem__(self, number: int) -> SeriesBatch:
        return self.prior.draw(self.seed, number).batch()


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
class SimulatedDataModule(LightningDataModule):
    """Provides simulated networks: in training a new one for each step, in validation always the same.

    The visible entries of a batch are its context and all entries are target, of which an any-order model
    scores the hidden ones.

    Args:
        prior: The prior; by default all networks with one channel. The number of channels must be fixed.
        steps_per_epoch: Training steps in an epoch, per process.
        val_draws: The number of networks in validation.
        seed: Identifies the sequence of draws.
        num_workers: Worker processes that simulate; 0 simulates in the main process.

    Raises:
        ValueError: If a number is out of range, or the number of channels is not fixed.
    """

    def __init__(
        self,
        prior: NetworkPrior | None = None,
        steps_per_epoch: int = 500,
        val_draws: int = 32,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.prior = NetworkPrior(channels=(1, 1)) if prior is None else prior
        if self.prior.channels[0] != self.prior.channels[1]:
            raise ValueError(
                "prior.channels must be two equal numbers, because a model has a fixed number of channels; "
                f"they are {self.prior.channels}."
            )
        for name, number in (("steps_per_epoch", steps_per_epoch), ("val_draws", val_draws)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1; it is {number}.")
        for name, number in (("seed", seed), ("num_workers", num_workers)):
            if number < 0:
                raise ValueError(f"{name} must be at least 0; it is {number}.")
        self.steps_per_epoch, self.val_draws, self.seed, self.num_workers = (
            steps_per_epoch,
            val_draws,
            seed,
            num_workers,
        )

    @property
    def spec(self) -> SeriesSpec:
        """The spec of the first network of validation, in units of 1: every batch has nodes of its own."""
        batch = SimulatedBatches(self.prior, self.seed)[FIRST_VALIDATION]
        nodes, channels = batch.values.shape[2:]
        return SeriesSpec(
            loc=torch.zeros(nodes, channels),
            scale=torch.ones(nodes, channels),
            edge_index=batch.graph.edge_index,
            edge_weight=batch.graph.edge_weight,
            num_covariates=0,
            nodes=[str(node) for node in range(nodes)],
            channels=[f"channel {channel}" for channel in range(channels)],
        )

    def _loader(self, sampler: DrawSampler) -> DataLoader:
        return LazyLoader(
            SimulatedBatches(self.prior, self.seed),
            batch_size=None,
            sampler=sampler,
            collate_fn=_identity,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def _world(self) -> tuple[int, int]:
        """Returns the rank of this process and the number of processes."""
        if not self.trainer:
            return 0, 1
        check_undivided(self.trainer)
        return self.trainer.global_rank, self.trainer.world_size

    def train_dataloader(self) -> DataLoader:
        """Returns the draws of training, new ones in each epoch."""
        return self._loader(DrawSampler(self.steps_per_epoch, 0, *self._world()))

    def val_dataloader(self) -> DataLoader:
        """Returns the draws of validation, the same in each epoch, divided among the processes."""
        rank, world_size = self._world()
        numbers = range(FIRST_VALIDATION + rank, FIRST_VALIDATION + self.val_draws, world_size)
        return DataLoader(
            SimulatedBatches(self.prior, self.seed),
            batch_size=None,
            sampler=numbers,
            collate_fn=_identity,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )


def _identity(batch: Any) -> Any:
    """Returns the batch unchanged: a draw is a whole batch."""
    return batch
