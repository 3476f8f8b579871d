"""Windows of a series for every stage: splits, masks and batches.

A data module defines three things in :meth:`SeriesDataModule.load`: the series, the stretches of time for
training, validation and testing, and the observed entries that are held out. This module does the rest.
Batches are gathered by a single indexing operation. Each item carries its epoch, so that the entries hidden
from a window depend only on (seed, epoch, window), not on workers, processes or batch size.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int64
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from tsgen.argument_types import check_arguments
from tsgen.counter_random import streams
from tsgen.data.detection import fit_transforms
from tsgen.data.masks import HeldOut, Mask
from tsgen.data.series import Series, SeriesBatch, SeriesSpec
from tsgen.data.subgraphs import SubgraphDraws, Subgraphs
from tsgen.data.tiles import Tiles
from tsgen.data.times import parse_times
from tsgen.exact.linear import VARProcess

Stage = Literal["train", "val", "test", "predict"]


@check_arguments
@dataclass
class Split:
    """A series and its division into training, validation and test stretches.

    Args:
        series: The whole series; its ``observed`` includes the held-out entries.
        train: Stretches for training, as slices of steps. A window never crosses the end of a stretch.
        val: Stretches for validation and model selection.
        test: Stretches for testing.
        held_out: Observed entries that are hidden from the model and scored, in val and test; for a series
            not held in memory, how they are drawn.
    """

    series: Series
    train: list[slice]
    val: list[slice]
    test: list[slice]
    held_out: Bool[Tensor, "time nodes channels"] | HeldOut = field(repr=False)

    def held_out_of(self, windows: SeriesBatch) -> Bool[Tensor, "batch time nodes channels"]:
        """Returns the held-out entries of windows whose context is everything observed."""
        if isinstance(self.held_out, HeldOut):
            return self.held_out.of(windows)
        return self.held_out[windows.position]


def split_in_time(steps: int, val: float, test: float) -> tuple[list[slice], list[slice], list[slice]]:
    """Returns three consecutive stretches, for training, validation and testing.

    Args:
        steps: Length of the series.
        val: Share of the steps for validation.
        test: Share of the steps for testing.

    Raises:
        ValueError: If a share is negative or no step remains for training.
    """
    if not (val >= 0 and test >= 0 and val + test < 1):
        raise ValueError(
            "the shares val and test must not be negative and must sum to less than 1; they are "
            f"{val} and {test}."
        )
    a, b = round(steps * (1 - val - test)), round(steps * (1 - test))
    return [slice(0, a)], [slice(a, b)], [slice(b, steps)]


def calendar(time: pd.Index | np.ndarray | Sequence, nodes: int) -> Float[Tensor, "time nodes 4"]:
    """Returns covariates for hour of day and day of week, each as a point on a circle, for every node.

    Args:
        time: The time of each step, in the time zone whose calendar counts.
        nodes: The number of nodes.

    Raises:
        ValueError: If times are not dates.
    """
    if not isinstance(time, (pd.DatetimeIndex, pd.PeriodIndex)):
        dates = parse_times(time, lambda step, what: ValueError(f"time, step {step}: {what}"))
        if dates.dtype.kind != "M":
            raise ValueError(f"time must hold dates, which have hours and weekdays; it holds {dates.dtype}.")
        time = pd.DatetimeIndex(dates)
    turns = np.stack([(time.hour + time.minute / 60) / 24, (time.day_of_week + time.hour / 24) / 7], axis=-1)
    angle = torch.from_numpy(2 * np.pi * turns).float()
    circle = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)
    return circle[:, None].expand(-1, nodes, -1)


def sliding(stretches: list[slice], window: int, stride: int) -> Int64[Tensor, "windows"]:
    """Returns the starts of the windows that slide over each stretch.

    Args:
        stretches: Stretches of time, as slices of steps; those shorter than a window have no windows.
        window: Length of a window, in steps.
        stride: Steps between the starts of windows.
    """
    starts = [
        torch.arange(s.start, s.stop - window + 1, stride) for s in stretches if s.stop - s.start >= window
    ]
    return torch.cat(starts) if starts else torch.empty(0, dtype=torch.int64)


def tiling(stretches: list[slice], window: int) -> tuple[Int64[Tensor, "windows"], Int64[Tensor, "windows"]]:
    """Returns windows that cover each stretch, every step at least once.

    Only the last window of a stretch overlaps with its predecessor, if the length of the stretch is not a
    multiple of the window.

    Args:
        stretches: Stretches of time, as slices of steps.
        window: Length of a window, in steps.

    Returns:
        The starts of the windows and, for each window, the first step not covered by an earlier one.
    """
    tiles = Tiles.over(stretches, window)
    kept = tiles.kept()
    return torch.tensor(tiles.starts), torch.tensor([kept[start].start for start in tiles.starts])


class WindowDataset(Dataset[SeriesBatch]):
    """Windows of one series, gathered a batch at a time.

    An item is indexed by ``(epoch, number)``, and on subgraphs by ``(epoch, number, optimiser step)``.

    Args:
        split: The series and its held-out entries.
        starts: First step of each window.
        window: Length of a window, in steps.
        stage: The stage, which determines the masks. Training: everything observed is target, and
            ``thinning`` hides part of it from the model. Validation and test: held-out entries (with a
            horizon, the last steps of each window) are hidden, and each is scored once. Prediction:
            everything observed is context (with a horizon, except the last steps), and nothing is target.
        score_from: For each window the first step that is scored, as an earlier window scores those before.
        thinning: The pattern of entries hidden in training.
        seed: Fixes the entries hidden in training.
        horizon: Steps at the end of a window that are hidden, and scored in validation and test, instead of
            the held-out entries. With 0 nothing is hidden and every entry is scored. None for the held-out
            entries.
        draws: Draws of the nodes of each optimiser step; all nodes if not given.
    """

    def __init__(
        self,
        split: Split,
        starts: Int64[Tensor, "windows"],
        window: int,
        stage: Stage,
        score_from: Int64[Tensor, "windows"] | None = None,
        thinning: Mask | None = None,
        seed: int = 0,
        horizon: int | None = None,
        draws: SubgraphDraws | None = None,
    ) -> None:
        self.split, self.series = split, split.series
        self.starts, self.window, self.stage = starts, window, stage
        self.score_from = starts if score_from is None else score_from
        self.thinning, self.seed, self.horizon, self.draws = thinning, seed, horizon, draws

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, item: tuple[int, ...] | list[tuple[int, ...]]) -> SeriesBatch:
        return self.__getitems__(item if isinstance(item, list) else [item])

    def __getitems__(self, items: Sequence[tuple[int, ...] | int]) -> SeriesBatch:
        """Returns the batch of these windows."""
        # trainer.overfit_batches samples plain numbers: the same windows and masks in every epoch
        numbered = [item if isinstance(item, tuple) else (0, item, 0) for item in items]
        if self.stage == "train":
            return self._training_batch(numbered)
        number = torch.tensor(numbered)[:, 1]
        windows = self.series.windows(self.starts[number], self.window)
        observed = windows.context
        hidden, target = self._hidden(windows), windows.target
        if self.stage != "predict":
            candidates = observed if self.horizon == 0 else hidden
            target = candidates & (windows.position >= self.score_from[number][:, None])[..., None, None]
        return windows._changed(context=observed & ~hidden, target=target)

    def _training_batch(self, items: list[tuple[int, ...]]) -> SeriesBatch:
        """Returns the batch of these training windows."""
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
            target = observed & subgraph.target[:, None]
        return windows._changed(context=context, target=target)

    def _hidden(self, windows: SeriesBatch) -> Bool[Tensor, "batch time nodes channels"]:
        """Returns the observed entries to hide, in every stage but training."""
        if self.horizon is not None:
            future = torch.arange(self.window) >= self.window - self.horizon
            return windows.context & future[:, None, None]
        return windows.target if self.stage == "predict" else self.split.held_out_of(windows)


class EpochSampler(Sampler[tuple[int, int]]):
    """Samples the windows of one process, each as (epoch, number).

    In training the order is new in each epoch and depends only on (seed, epoch); windows are distributed to
    the processes in turn, and the last ones are dropped if the processes would not have equally many. In
    evaluation windows come in order, each on exactly one process.

    Args:
        size: Number of windows.
        shuffle: True for training, False for evaluation.
        seed: Fixes the order.
        rank: Number of this process.
        world_size: Number of processes.
    """

    def __init__(self, size: int, shuffle: bool, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        self.size, self.shuffle, self.seed = size, shuffle, seed
        self.rank, self.world_size, self.epoch = rank, world_size, 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch; the trainer calls this at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        if self.shuffle:
            return self.size // self.world_size
        return len(range(self.rank, self.size, self.world_size))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = torch.arange(self.size)
        if self.shuffle:
            # hash seed and epoch into the one seed that a generator takes
            generator = torch.Generator().manual_seed(int(streams(self.seed, torch.tensor(self.epoch))))
            order = torch.randperm(self.size, generator=generator)
        numbers = order[self.rank :: self.world_size][: len(self)]
        return ((self.epoch, number) for number in numbers.tolist())


class NumberedBatches(Sampler[list[tuple[int, ...]]]):
    """Samples batches of windows, each window as (epoch, number, number of the optimiser step in its epoch).

    Args:
        sampler: The windows. The trainer finds it under this name to set the epoch.
        batch_size: Windows in a batch; the last batch of an epoch may hold fewer.
        accumulated: Returns the number of batches of an optimiser step, which may differ between epochs.
    """

    def __init__(self, sampler: EpochSampler, batch_size: int, accumulated: Callable[[], int]) -> None:
        self.sampler, self.batch_size, self.accumulated = sampler, batch_size, accumulated

    def __len__(self) -> int:
        return math.ceil(len(self.sampler) / self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        windows, accumulated = iter(self.sampler), self.accumulated()
        for number in range(len(self)):
            yield [(*window, number // accumulated) for window in islice(windows, self.batch_size)]


class LazyLoader(DataLoader):
    """A loader that reads its sampler when the first batch is requested.

    With workers torch's loader reads the sampler as soon as its iterator is made. Lightning makes the first
    iterator of a training, and one after each reload, before it sets the epoch of the sampler.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yields the batches; the workers start with the first one."""
        yield from super().__iter__()


@check_arguments
class SeriesDataModule(LightningDataModule):
    """Provides windows of one series on a graph, for every stage.

    Args:
        window: Length of a window, in steps.
        stride: Steps between the starts of training windows.
        batch_size: Windows in a batch, per process.
        thinning: Pattern of entries hidden from the model in training, so that it learns to predict from
            incomplete context; None hides nothing.
        seed: Fixes the order of windows, the entries hidden in training and, unless the data module has a
            separate seed for them, the held-out entries.
        num_workers: Worker processes that gather batches; 0 gathers in the main process.
        predict_on: The data that ``predict`` imputes: one split or the whole series.
        horizon: Steps at the end of each window that are hidden, in every stage but training: a forecast. If
            equal to the window: generation. With 0 nothing is hidden, and validation and test score every
            entry one step ahead. None imputes held-out and missing entries.
        test_on: The split that ``test`` scores: the test split, or the validation split for conformal
            intervals.
        overlap: Steps that a window of ``predict`` shares with the one before, whose draws it continues (see
            ``docs/design.md``). With 0, or with a horizon, each window starts independently; None for a
            quarter of a window.
        subgraphs: Options for training batches with only some of the nodes, so that the cost of a step does
            not grow with the graph (see :mod:`tsgen.data.subgraphs`). All other stages use the whole graph.
            All processes and all accumulated batches draw the same nodes at the same step. None trains on the
            whole graph.
        support: The values that channels can take, of all channels or by name: ``real``, ``positive``,
            ``non_negative``, ``counts``, ``interval(a, b)``, ``interval[a, b]`` (see ``docs/heads.md``);
            ``auto`` reads it off the training split.
        transform: How values are mapped to real numbers, of all channels or by name: one of
            :data:`tsgen.data.transforms.TRANSFORMS` that belongs to the support; its default if not given.

    Raises:
        ValueError: If a number is out of range, or an overlap is combined with a horizon.
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
        support: str | dict[str, str] = "auto",
        transform: str | dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        for name, number in (("window", window), ("stride", stride), ("batch_size", batch_size)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1; it is {number}.")
        if horizon is not None and not 0 <= horizon <= window:
            raise ValueError(
                f"horizon must lie in 0..{window}, the length of a window, or be null; it is {horizon}."
            )
        if overlap is not None and not 0 <= overlap < window:
            raise ValueError(
                f"overlap must lie in 0..{window - 1}, below the length of a window, or be null; it is "
                f"{overlap}."
            )
        if overlap and horizon is not None:
            raise ValueError(
                "overlap must be 0 or null if there is a horizon, as windows then start independently; it is "
                f"{overlap}."
            )
        self.window, self.stride, self.batch_size, self.horizon = window, stride, batch_size, horizon
        self.overlap, self.subgraphs = overlap, subgraphs
        self.support, self.transform = support, transform
        self.thinning, self.seed, self.num_workers, self.predict_on = thinning, seed, num_workers, predict_on
        self.test_on: Literal["val", "test"] = test_on
        self._split: Split | None = None
        self._spec: SeriesSpec | None = None

    one_series = True
    """Whether the windows of training and validation are those of the series in :attr:`split`."""

    @abstractmethod
    def load(self) -> Split:
        """Returns the data, read from its source or simulated."""

    @property
    def exact(self) -> VARProcess | None:
        """The process that the data was drawn from, if its laws are known in closed form; otherwise None."""
        return None

    @property
    def split(self) -> Split:
        """The data, loaded on first access."""
        if self._split is None:
            self._split = self.load()
        return self._split

    @property
    def spec(self) -> SeriesSpec:
        """What a model needs to know about the data, with units fitted on the training stretches."""
        if self._spec is None:
            series, train = self.split.series, self.split.train
            transforms = fit_transforms(series, train, self.support, self.transform)
            self._spec = SeriesSpec.of(series, train, transforms)
        return self._spec

    def predicted(self) -> list[slice]:
        """Returns the stretches that ``predict`` imputes."""
        if self.predict_on == "all":
            return [slice(0, len(self.split.series))]
        return getattr(self.split, self.predict_on)

    @property
    def tiles(self) -> Tiles:
        """The windows of ``predict``, which cover what it imputes."""
        overlap = self.overlap if self.horizon is None else 0
        return Tiles.over(self.predicted(), self.window, overlap)

    def dataset(self, stage: Stage) -> WindowDataset:
        """Returns the windows of a stage.

        Args:
            stage: The stage.

        Raises:
            ValueError: If the split of the stage holds no window or no entry to score.
        """
        if stage == "train":
            starts = sliding(self.split.train, self.window, self.stride)
            if not len(starts):
                raise ValueError(
                    f"the training split must hold a window of {self.window} steps; its longest "
                    f"stretch has {max((s.stop - s.start for s in self.split.train), default=0)}. "
                    "Choose a shorter window."
                )
            draws = None
            if self.subgraphs is not None:
                draws = SubgraphDraws(self.split.series.graph, self.subgraphs, self.seed)
            return WindowDataset(
                self.split,
                starts,
                self.window,
                stage,
                thinning=self.thinning and self.thinning.replaying(self.split.series, self.split.train),
                seed=self.seed,
                draws=draws,
            )
        split = self.test_on if stage == "test" else stage
        stretches = self.predicted() if split == "predict" else getattr(self.split, split)
        if not any(len(range(s.start, s.stop)) for s in stretches):
            raise ValueError(
                f"the {split} split must hold at least one window; it is empty. Give it a share of the steps."
            )
        if stage == "predict":
            starts = torch.tensor(self.tiles.starts)
            return WindowDataset(self.split, starts, self.window, stage, horizon=self.horizon)
        starts, score_from = tiling(stretches, self.window)
        dataset = WindowDataset(self.split, starts, self.window, stage, score_from, horizon=self.horizon)
        # usually settled by the first window
        if self.horizon is None and not any(dataset[0, n].target.any() for n in range(len(dataset))):
            raise ValueError(
                f"the {split} split must have held-out entries to score; it has none. Hold out more entries."
            )
        return dataset

    def _world(self) -> tuple[int, int]:
        """Returns the rank of this process and the number of processes.

        Raises:
            ValueError: If the trainer would distribute the windows among the processes a second time.
        """
        if not self.trainer:
            return 0, 1
        check_undivided(self.trainer)
        return self.trainer.global_rank, self.trainer.world_size

    def _accumulated(self) -> int:
        """Returns the number of batches over which the trainer accumulates gradients."""
        return getattr(self.trainer, "accumulate_grad_batches", 1)

    def _loader(self, stage: Stage) -> DataLoader:
        dataset = self.dataset(stage)
        world = self._world()
        sampler = EpochSampler(len(dataset), stage == "train", self.seed, *world)
        if len(dataset) < world[1]:  # all processes raise, so that none waits for another
            raise ValueError(
                f"{world[1]} processes need at least {world[1]} {stage} windows; there are {len(dataset)}. "
                "Use fewer processes."
            )
        if dataset.draws is not None:
            batches: dict[str, Any] = {
                "batch_sampler": NumberedBatches(sampler, self.batch_size, self._accumulated)
            }
        else:
            batches = {"batch_size": self.batch_size, "sampler": sampler}
        return LazyLoader(
            dataset,
            **batches,
            collate_fn=_identity,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def train_dataloader(self) -> DataLoader:
        """Returns the training windows, in a new order each epoch."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader:
        """Returns the validation windows."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader:
        """Returns the test windows."""
        return self._loader("test")

    def predict_dataloader(self, batches: Iterable[list[int]] | None = None) -> DataLoader:
        """Returns windows that cover what is imputed.

        Args:
            batches: Numbers of the windows (those of :attr:`tiles`) of each batch; if not given, all windows,
                divided among the processes of the trainer.
        """
        dataset = self.dataset("predict")
        numbers = list(self._predicted_windows() if batches is None else batches)
        lists = all(isinstance(batch, list) for batch in numbers)
        if not lists or not all(isinstance(n, int) and 0 <= n < len(dataset) for n in chain(*numbers)):
            raise ValueError(f"batches must be lists of numbers from 0 to {len(dataset) - 1}, of windows.")
        # a batch is one item: the caller decides which windows may be drawn together
        return DataLoader(
            dataset,
            batch_size=None,
            sampler=[[(0, n) for n in batch] for batch in numbers],
            collate_fn=_identity,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def _predicted_windows(self) -> Iterator[list[int]]:
        """Iterates over the batches that this process predicts; in a trainer windows are independent."""
        if not self.trainer:
            return self.tiles.batches(self.batch_size)
        rank, world_size = self._world()
        tiles = replace(self.tiles, overlap=0)
        if len(tiles.starts) < world_size:
            raise ValueError(
                f"{world_size} processes need at least {world_size} windows to predict; there are "
                f"{len(tiles.starts)}. Use fewer processes."
            )
        return tiles.batches(self.batch_size, rank, world_size)


def check_undivided(trainer: Any) -> None:
    """Raises ``ValueError`` if a trainer would distribute windows among the processes a second time."""
    if trainer.world_size > 1 and trainer._accelerator_connector.use_distributed_sampler:
        raise ValueError(
            "use_distributed_sampler must be False; it is True, so the trainer would distribute the "
            "windows among the processes a second time. Pass Trainer(use_distributed_sampler=False)."
        )


def _identity(batch: Any) -> Any:
    """Returns the batch unchanged: the dataset has already gathered it."""
    return batch
