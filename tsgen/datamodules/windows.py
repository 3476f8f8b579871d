"""From one whole series to windows: splits, masks, batches.

A data module says three things of its data in :meth:`SeriesDataModule.load`: the series, which stretches of
time are for training, validation and testing, and which observed entries are held out. All else is here.
Batches are gathered by one indexing operation. The epoch travels with a window's index, so that what is
hidden from a window depends on (seed, epoch, window) alone: not on workers, processes or batch size.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int64
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from tsgen.counter_random import streams
from tsgen.data.masks import HeldOut, Mask
from tsgen.data.series import Series, SeriesBatch, SeriesSpec
from tsgen.data.subgraphs import SubgraphDraws, Subgraphs
from tsgen.data.tiles import Tiles
from tsgen.exact.linear import VARProcess

Stage = Literal["train", "val", "test", "predict"]


@dataclass
class Split:
    """A series and what its stretches are for.

    Args:
        series: The whole series; ``observed`` includes what is held out.
        train: Stretches of time to learn from, as slices of steps. A window never crosses the end of one.
        val: Stretches to choose by.
        test: Stretches to be judged on.
        held_out: Observed entries that are hidden from a model and scored, in val and test; or, of a series
            that is not held in memory, how they are drawn.
    """

    series: Series
    train: list[slice]
    val: list[slice]
    test: list[slice]
    held_out: Bool[Tensor, "time nodes channels"] | HeldOut = field(repr=False)

    def held_out_of(self, windows: SeriesBatch) -> Bool[Tensor, "batch time nodes channels"]:
        """What is held out of windows in which everything observed is visible."""
        if isinstance(self.held_out, HeldOut):
            return self.held_out.of(windows)
        return self.held_out[windows.position]


def split_in_time(steps: int, val: float, test: float) -> tuple[list[slice], list[slice], list[slice]]:
    """Three consecutive stretches: training first, then validation, then test.

    Args:
        steps: Length of the series.
        val: Share of the steps for validation.
        test: Share of the steps for the test.

    Raises:
        ValueError: If a share is negative or nothing is left for training.
    """
    if val < 0 or test < 0 or val + test >= 1:
        raise ValueError(
            f"the shares val and test must be positive and sum to less than 1; they are {val} and {test}."
        )
    a, b = round(steps * (1 - val - test)), round(steps * (1 - test))
    return [slice(0, a)], [slice(a, b)], [slice(b, steps)]


def calendar(time: pd.DatetimeIndex, nodes: int) -> Float[Tensor, "time nodes 4"]:
    """Hour of day and day of week, each as a point on a circle, the same for every node.

    Args:
        time: The label of each step.
        nodes: The number of nodes.
    """
    turns = np.stack([(time.hour + time.minute / 60) / 24, (time.day_of_week + time.hour / 24) / 7], axis=-1)
    angle = torch.from_numpy(2 * np.pi * turns).float()
    circle = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)
    return circle[:, None].expand(-1, nodes, -1)


def sliding(stretches: list[slice], window: int, stride: int) -> Int64[Tensor, "windows"]:
    """Starts of the windows that slide over each stretch."""
    starts = [
        torch.arange(s.start, s.stop - window + 1, stride) for s in stretches if s.stop - s.start >= window
    ]
    return torch.cat(starts) if starts else torch.empty(0, dtype=torch.int64)


def tiling(stretches: list[slice], window: int) -> tuple[Int64[Tensor, "windows"], Int64[Tensor, "windows"]]:
    """Windows that cover each stretch, every step at least once.

    They do not overlap, but for one more at the end of a stretch whose length is no multiple of the window.

    Returns:
        The windows' starts, and for each the first step that no earlier window has covered.
    """
    tiles = Tiles.over(stretches, window)
    kept = tiles.kept()
    return torch.tensor(tiles.starts), torch.tensor([kept[start].start for start in tiles.starts])


class WindowDataset(Dataset):
    """Windows of one series, gathered a batch at a time.

    An item is asked for as ``(epoch, number)``, on subgraphs as ``(epoch, number, batch)``.

    Args:
        split: The series and what is held out of it.
        starts: First step of each window.
        window: Length of a window, in steps.
        stage: What the masks are for. Training: everything observed is scored and ``thinning`` hides part of
            it from the model. Validation and test: what is held out is hidden and scored, once; or, with a
            horizon, the last steps of each window. Prediction: everything observed is visible and nothing is
            scored; with a horizon, its last steps are unknown.
        fresh: For each window the first step that is scored (an earlier window has had those before).
        thinning: What training hides.
        seed: Fixes what training hides.
        horizon: Steps at the end of a window that are hidden and scored in validation and test, instead of
            what is held out; with 0 nothing is hidden and every entry is scored. None for what is held out.
        draws: In training, the nodes of each batch; all of them if not given.
    """

    def __init__(
        self,
        split: Split,
        starts: Int64[Tensor, "windows"],
        window: int,
        stage: Stage,
        fresh: Int64[Tensor, "windows"] | None = None,
        thinning: Mask | None = None,
        seed: int = 0,
        horizon: int | None = None,
        draws: SubgraphDraws | None = None,
    ) -> None:
        self.split, self.series = split, split.series
        self.starts, self.window, self.stage = starts, window, stage
        self.fresh = starts if fresh is None else fresh
        self.thinning, self.seed, self.horizon, self.draws = thinning, seed, horizon, draws

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, item: tuple[int, ...] | list[tuple[int, ...]]) -> SeriesBatch:
        return self.__getitems__(item if isinstance(item, list) else [item])

    def __getitems__(self, items: list[tuple[int, ...]]) -> SeriesBatch:
        """The batch of these windows."""
        if self.stage == "train":
            return self._to_learn_from(items)
        number = torch.tensor(items)[:, 1]
        windows = self.series.windows(self.starts[number], self.window)
        observed = windows.context
        held_out, target = self._hidden(windows), windows.target
        if self.stage != "predict":
            scored = observed if self.horizon == 0 else held_out
            target = scored & (windows.position >= self.fresh[number][:, None])[..., None, None]
        return windows._changed(context=observed & ~held_out, target=target)

    def _to_learn_from(self, items: list[tuple[int, ...]]) -> SeriesBatch:
        """The batch of these training windows."""
        epoch, number, *_ = torch.tensor(items).unbind(dim=1)
        subgraph, thinning = None, self.thinning
        if self.draws is not None:
            subgraph = self.draws.of(items[0][0], items[0][2])
            thinning = thinning and thinning.of_nodes(subgraph.nodes)
        windows = self.series.windows(self.starts[number], self.window, subgraph)
        observed = windows.context
        context, target = observed, observed
        if thinning is not None:
            stream = streams(self.seed, epoch, self.starts[number])
            context = observed & ~thinning.hidden(stream, windows.values.where(observed, torch.nan))
        if subgraph is not None:
            target = observed & subgraph.scored[:, None]
        return windows._changed(context=context, target=target)

    def _hidden(self, windows: SeriesBatch) -> Bool[Tensor, "batch time nodes channels"]:
        """The observed entries that are hidden, in every stage but training."""
        if self.horizon is not None:
            future = torch.arange(self.window) >= self.window - self.horizon
            return windows.context & future[:, None, None]
        return windows.target if self.stage == "predict" else self.split.held_out_of(windows)


class EpochSampler(Sampler):
    """The windows of one process, each as (epoch, number).

    Training: a new order each epoch, from (seed, epoch) alone, dealt to the processes in turn and cut to a
    length that all of them have. Evaluation: in order, every window in just one process.

    Args:
        size: Number of windows.
        shuffle: Whether this is for training.
        seed: Fixes the order.
        rank: Number of this process.
        world_size: Number of processes.
    """

    def __init__(self, size: int, shuffle: bool, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        self.size, self.shuffle, self.seed = size, shuffle, seed
        self.rank, self.world_size, self.epoch = rank, world_size, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return (
            self.size // self.world_size
            if self.shuffle
            else len(range(self.rank, self.size, self.world_size))
        )

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = torch.arange(self.size)
        if self.shuffle:
            # one seed from two numbers
            generator = torch.Generator().manual_seed(int(streams(self.seed, torch.tensor(self.epoch))))
            order = torch.randperm(self.size, generator=generator)
        mine = order[self.rank :: self.world_size][: len(self)]
        return ((self.epoch, number) for number in mine.tolist())


class NumberedBatches(BatchSampler):
    """Batches of windows, each window as (epoch, number, number of the batch in its epoch)."""

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        for batch, items in enumerate(super().__iter__()):
            yield [(*item, batch) for item in items]


class SeriesDataModule(LightningDataModule):
    """Windows of one series on a graph, for every stage.

    Args:
        window: Length of a window, in steps.
        stride: Steps between the starts of training windows.
        batch_size: Windows in a batch of one process.
        thinning: What is hidden from the model while it trains, so that it learns to do without; None hides
            nothing.
        seed: Fixes the order of windows, what training hides and, unless it is given otherwise, what is held
            out.
        num_workers: Processes that gather batches; 0 gathers in the main process.
        predict_on: What ``predict`` imputes: one split or the whole series.
        horizon: Steps at the end of each window that are unknown, in every stage but training: a forecast. As
            many as the window has: generation. With 0 nothing is hidden, and validation and test score every
            entry one step ahead. None imputes what is held out or missing.
        test_on: What ``test`` scores: the test split, or the validation split, for conformal intervals.
        overlap: Steps that a window of ``predict`` shares with the one before, whose draws it continues (see
            ``docs/design.md``). With 0, as with a horizon, each window begins anew; None for a quarter of a
            window.
        subgraphs: Training batches hold some of the nodes, so that a step's cost does not grow with the graph
            (see :mod:`tsgen.data.subgraphs`); every other stage has all of them. Several processes draw the
            same nodes at the same step. None trains on the whole graph.

    Raises:
        ValueError: If a number is out of range, or there is an overlap beside a horizon.
    """

    def __init__(
        self,
        window: int = 24,
        stride: int = 1,
        batch_size: int = 32,
        thinning: Mask | None = None,
        seed: int = 0,
        num_workers: int = 0,
        predict_on: Literal["train", "val", "test", "all"] = "all",
        horizon: int | None = None,
        test_on: Literal["val", "test"] = "test",
        overlap: int | None = None,
        subgraphs: Subgraphs | None = None,
    ) -> None:
        super().__init__()
        for name, number in (("window", window), ("stride", stride), ("batch_size", batch_size)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1; it is {number}.")
        if predict_on not in ("train", "val", "test", "all"):
            raise ValueError(f"predict_on must be one of train, val, test, all; it is {predict_on!r}.")
        if test_on not in ("val", "test"):
            raise ValueError(f"test_on must be one of val, test; it is {test_on!r}.")
        if horizon is not None and not 0 <= horizon <= window:
            raise ValueError(
                f"horizon must lie in 0..{window}, the steps of a window, or be null; it is {horizon}."
            )
        if overlap is not None and not 0 <= overlap < window:
            raise ValueError(
                f"overlap must lie in 0..{window - 1}, below the steps of a window, or be null; it is "
                f"{overlap}."
            )
        if overlap and horizon is not None:
            raise ValueError(
                "overlap must be 0 or null beside a horizon, for which each window begins anew; it is "
                f"{overlap}."
            )
        self.window, self.stride, self.batch_size, self.horizon = window, stride, batch_size, horizon
        self.overlap, self.subgraphs = overlap, subgraphs
        self.thinning, self.seed, self.num_workers, self.predict_on = thinning, seed, num_workers, predict_on
        self.test_on: Literal["val", "test"] = test_on
        self._split: Split | None = None
        self._spec: SeriesSpec | None = None

    @abstractmethod
    def load(self) -> Split:
        """Reads or simulates the data."""

    @property
    def exact(self) -> VARProcess | None:
        """The law that the data was drawn from, where it is known and has exact answers."""
        return None

    @property
    def split(self) -> Split:
        """The data, loaded when first asked for."""
        if self._split is None:
            self._split = self.load()
        return self._split

    @property
    def spec(self) -> SeriesSpec:
        """What a model must know of the data, its units fitted on the training stretches."""
        if self._spec is None:
            self._spec = SeriesSpec.of(self.split.series, self.split.train)
        return self._spec

    def predicted(self) -> list[slice]:
        """The stretches that ``predict`` imputes."""
        if self.predict_on == "all":
            return [slice(0, len(self.split.series))]
        return getattr(self.split, self.predict_on)

    @property
    def tiles(self) -> Tiles:
        """The windows of ``predict``, which cover what it imputes."""
        overlap = self.overlap if self.horizon is None else 0
        return Tiles.over(self.predicted(), self.window, overlap)

    def dataset(self, stage: Stage) -> WindowDataset:
        """The windows of a stage."""
        if stage == "train":
            starts = sliding(self.split.train, self.window, self.stride)
            if not len(starts):
                raise ValueError(
                    f"the training split must hold a window of {self.window} steps; the longest "
                    f"stretch has {max((s.stop - s.start for s in self.split.train), default=0)}. "
                    "Choose a shorter window."
                )
            return WindowDataset(
                self.split,
                starts,
                self.window,
                stage,
                thinning=self.thinning and self.thinning.replaying(self.split.series, self.split.train),
                seed=self.seed,
                draws=self.subgraphs and SubgraphDraws(self.split.series.graph, self.subgraphs, self.seed),
            )
        split = self.test_on if stage == "test" else stage
        stretches = self.predicted() if split == "predict" else getattr(self.split, split)
        if not any(len(range(s.start, s.stop)) for s in stretches):
            raise ValueError(
                f"the {split} split must hold at least one window; it is empty. Give it a share."
            )
        if stage == "predict":
            starts = torch.tensor(self.tiles.starts)
            return WindowDataset(self.split, starts, self.window, stage, horizon=self.horizon)
        starts, fresh = tiling(stretches, self.window)
        dataset = WindowDataset(self.split, starts, self.window, stage, fresh, horizon=self.horizon)
        # the first windows tell, unless there is next to nothing
        if self.horizon is None and not any(dataset[0, n].target.any() for n in range(len(dataset))):
            raise ValueError(
                f"the {split} split must have entries held out to score; there are none. Hold out more."
            )
        return dataset

    def _world(self) -> tuple[int, int]:
        """The number of this process and of all.

        Raises:
            ValueError: If the trainer would deal windows among the processes once more.
        """
        if not self.trainer:
            return 0, 1
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        if world_size > 1 and self.trainer._accelerator_connector.use_distributed_sampler:
            raise ValueError(
                "use_distributed_sampler must be False: the data deals its windows among processes itself, "
                "and each would lose some. Give Trainer(use_distributed_sampler=False)."
            )
        return rank, world_size

    def _loader(self, stage: Stage) -> DataLoader:
        dataset = self.dataset(stage)
        world = self._world()
        sampler = EpochSampler(len(dataset), stage == "train", self.seed, *world)
        if len(dataset) < world[1]:  # on every process alike, so that none waits for another
            raise ValueError(
                f"{world[1]} processes need at least {world[1]} {stage} windows; there are {len(dataset)}."
            )
        if dataset.draws is not None:
            batches: dict[str, Any] = {"batch_sampler": NumberedBatches(sampler, self.batch_size, False)}
        else:
            batches = {"batch_size": self.batch_size, "sampler": sampler}
        return DataLoader(
            dataset,
            **batches,
            collate_fn=_as_it_is,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def train_dataloader(self) -> DataLoader:
        """Windows to learn from, in a new order each epoch."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader:
        """Windows to choose by."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader:
        """Windows to be judged on."""
        return self._loader("test")

    def predict_dataloader(self, batches: Iterable[list[int]] | None = None) -> DataLoader:
        """Returns windows that cover what is imputed.

        Args:
            batches: Numbers of the windows (those of :attr:`tiles`) of each batch; if not given, all windows,
                divided among the processes of the trainer.
        """
        dataset = self.dataset("predict")
        numbers = self._predicted_windows() if batches is None else batches
        # a batch is one item: the caller decides which windows may be drawn together
        return DataLoader(
            dataset,
            batch_size=None,
            sampler=[[(0, n) for n in few] for few in numbers],
            collate_fn=_as_it_is,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def _predicted_windows(self) -> Iterator[list[int]]:
        """Iterates over the windows that this process predicts; in a trainer none continues another."""
        if not self.trainer:
            return self.tiles.batches(self.batch_size)
        rank, world_size = self._world()
        tiles = replace(self.tiles, overlap=0)
        if len(tiles.starts) < world_size:
            raise ValueError(
                f"{world_size} processes need at least {world_size} windows to predict; there are "
                f"{len(tiles.starts)}. Use fewer."
            )
        return tiles.batches(self.batch_size, rank, world_size)


def _as_it_is(batch: SeriesBatch) -> SeriesBatch:
    return batch
