"""Training on one series for a model that starts from weights of other data, as long as it helps.

A part of what is observed is hidden from the training (:func:`tsgen.evaluation.selfcheck.hide_part`). The
loss on it is computed again and again, with the weights averaged over steps, and the best averaged weights
are kept. Those at the start count too, so that the result is never worse on the hidden part than the given
weights. Where the loss stops falling, training continues from the best weights with a lower learning rate,
and ends after a few such reductions.

The linear process of the model is fitted to the visible entries, which include those that training hides and
scores: its errors on these are smaller than on entries that are really missing, and the model would learn
intervals that are too narrow. The series is therefore divided into folds (cross-fitting). Windows of a fold
are seen through a process that was fitted to the others.

References:
    Double/debiased machine learning for treatment and structural parameters (Chernozhukov et al., 2018), on
    cross-fitting.
"""

from __future__ import annotations

import copy
import logging
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor
from torch.optim import AdamW

from tsgen.argument_types import check_arguments
from tsgen.counter_random import streams
from tsgen.data.channels import channels_as_nodes, without_covariates
from tsgen.data.masks import AnyOf, BlockMask, HistoricalMask, Mask, OneOf, PointMask
from tsgen.data.series import GraphSeries, Series, SeriesBatch
from tsgen.datamodules.windows import SeriesDataModule, Split, tiling
from tsgen.evaluation.selfcheck import hide_part
from tsgen.models import AnyOrderModel
from tsgen.models.linear_posterior import LinearPosterior

RATE = 5e-4
"""The largest learning rate; it falls to zero along half a cosine as the time passes."""

REDUCTION = 0.3
"""The factor of the learning rate where the loss on the hidden part has stopped falling."""

REDUCTIONS = 2
"""The number of reductions of the learning rate after which training ends."""

PATIENCE = 0.1
"""The fraction of the time without a lower loss after which the loss counts as no longer falling."""

WARM_UP = 0.03
"""The fraction of the time in which the learning rate rises: the first steps of AdamW are of full size."""

CHECKS = 50
"""Checks are at least this fraction of the time apart, and ten times as long as they take."""

STEPS = 10
"""Optimiser steps between changes of the learning rate."""

FOLDS = 3
"""The number of folds of the series."""

BLOCKS_PER_FOLD = 8
"""The largest number of stretches of a fold: with few, a fold might hold a season that the others lack."""

WINDOWS_PER_BLOCK = 4
"""The smallest length of a stretch in windows, if a fold has several."""

DECAY = 0.99
"""Decay per step of the moving average of the weights, after some steps."""

ENTRIES = 2**14
"""Approximate number of entries in a batch."""

CHECKED_ENTRIES = 2**19
"""Approximate maximum number of entries of the windows that a check reads."""

WINDOW = 48
"""Steps of a window for a model that does not say what it was trained on."""

logger = logging.getLogger(__name__)

STREAM = 23
"""Separates the random streams of this module from others with the same seed."""


@dataclass(frozen=True)
class Progress:
    """How far a training has come.

    Attributes:
        seconds: Seconds since it began.
        left: Seconds that are left at most.
        start: The loss on the hidden part with the weights at the start, in nats per entry.
        best: The lowest loss so far.
        ended: Whether the training has ended.
    """

    seconds: float
    left: float
    start: float
    best: float
    ended: bool


class _Folds(SeriesDataModule):
    """Windows of one series for training alone: in each epoch those of one fold."""

    def __init__(self, series: Series, folds: list[list[slice]], window: int, seed: int) -> None:
        super().__init__(window, batch_size=_windows_of(series, window), thinning=_gaps(), seed=seed)
        self.series, self.folds, self.fold = series, folds, 0

    def load(self) -> Split:
        """Returns the series with the stretches of the current fold."""
        nothing = torch.zeros((len(self.series), *self.series.sizes[:2]), dtype=torch.bool)
        return Split(self.series, self.folds[self.fold], [], [], nothing)

    @property
    def split(self) -> Split:
        """The series with the stretches of the current fold."""
        return self.load()


def folds_of(steps: int, window: int) -> list[list[slice]]:
    """Returns the stretches of each fold: blocks of time in turn, of several windows each in a long series.

    Args:
        steps: The length of the series.
        window: The length of a window, in steps.
    """
    count = min(FOLDS, steps)
    blocks = count * min(BLOCKS_PER_FOLD, max(1, steps // (count * WINDOWS_PER_BLOCK * window)))
    ends = [steps * number // blocks for number in range(blocks + 1)]
    return [[slice(a, b) for a, b in list(pairwise(ends))[fold::count]] for fold in range(count)]


def _windows_of(series: Series, window: int, entries: int = ENTRIES) -> int:
    """Returns how many windows have about as many entries as given."""
    return max(1, entries // (window * len(series.nodes)))


def _gaps() -> Mask:
    """Returns the pattern of what training hides: points, gaps of the series itself, outages."""
    outages = BlockMask((0.0, 0.1), 1, 12, over="slice")
    return OneOf([PointMask((0.0, 1.0)), HistoricalMask(), AnyOf([HistoricalMask(), outages])])


class _BestWeights(Callback):
    """Trains on one fold per epoch; averages the weights, checks them on hidden entries, and keeps the best.

    Args:
        linear: For each fold the linear processes that are fitted to the others.
        batches: Windows whose hidden target entries are scored.
        seconds: How long the training may take.
        report: Called after each check.
    """

    def __init__(
        self,
        linear: list[LinearPosterior],
        batches: list[SeriesBatch],
        seconds: float,
        report: Callable[[Progress], None] | None,
    ) -> None:
        self.linear, self.batches, self.seconds, self.report = linear, batches, seconds, report
        self.begin, self.steps, self.reductions = time.monotonic(), 0, 0

    def rate(self) -> float:
        """Returns the learning rate as a fraction of the largest one."""
        passed = min(1.0, (time.monotonic() - self.begin) / self.seconds)
        return min(1.0, passed / WARM_UP) * math.cos(math.pi / 2 * passed) * REDUCTION**self.reductions

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Scores the weights at the start."""
        self.begin = self.improved = time.monotonic()
        self.average = [x.detach().clone() for x in pl_module.parameters()]
        self.best = [x.clone() for x in self.average]
        self.whole = pl_module.linear
        self._check(pl_module)
        self.lowest = self.start = self.loss

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Takes the linear processes for the fold of this epoch."""
        pl_module.linear = self.linear[trainer.datamodule.fold]  # type: ignore[attr-defined]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Chooses the next fold."""
        trainer.datamodule.fold = (trainer.current_epoch + 1) % len(self.linear)  # type: ignore[attr-defined]

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        """Updates the average; checks it if that is due."""
        current = [x.detach() for x in pl_module.parameters()]
        self.steps += 1
        # a shorter average at first, which the weights at the start would dominate otherwise
        decay = min(DECAY, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.average, current, 1 - decay)
        if time.monotonic() >= self.due:
            self._check(pl_module)
            self._compare(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Checks the last average and sets the best weights."""
        self._check(pl_module)
        self._compare(trainer, pl_module, ended=True)
        _assign(pl_module, self.best)

    def _check(self, model: AnyOrderModel) -> None:
        """Computes the loss of the averaged weights on the hidden entries."""
        begin, current = time.monotonic(), [x.detach().clone() for x in model.parameters()]
        of_fold, model.linear = model.linear, self.whole
        _assign(model, self.average)
        self.loss = loss_on(model, self.batches)
        _assign(model, current)
        model.linear = of_fold
        now = time.monotonic()
        self.due = now + max(self.seconds / CHECKS, 10 * (now - begin))

    def _compare(self, trainer: Trainer, model: AnyOrderModel, ended: bool = False) -> None:
        """Keeps the averaged weights if they are the best; reduces the rate or ends if none were for long."""
        now = time.monotonic()
        if self.loss < self.lowest:
            self.lowest, self.improved = self.loss, now
            self.best = [x.clone() for x in self.average]
        elif now - self.improved > PATIENCE * self.seconds:
            trainer.should_stop = self.reductions == REDUCTIONS
            self.reductions, self.improved = self.reductions + 1, now
            self.average = [x.clone() for x in self.best]
            _assign(model, self.best)
        passed = now - self.begin
        if self.report is not None:
            left = max(0.0, self.seconds - passed)
            self.report(Progress(passed, left, self.start, self.lowest, ended))


def _fitted_to(model: AnyOrderModel, series: Series, folds: list[list[slice]]) -> LinearPosterior:
    """Returns linear processes in a model's units that are fitted to some folds; to all if there is only one.

    Args:
        model: The model.
        series: The series.
        folds: The stretches of each of these folds.
    """
    other = model._for_spec(model.spec)
    other.fit_units(series, [stretch for fold in folds for stretch in fold] or [slice(0, len(series))])
    assert other.linear is not None
    return other.linear


@torch.no_grad()
def _assign(model: AnyOrderModel, weights: list[Tensor]) -> None:
    """Sets the weights of a model."""
    for own, given in zip(model.parameters(), weights, strict=True):
        own.copy_(given)


@torch.no_grad()
def loss_on(model: AnyOrderModel, batches: list[SeriesBatch]) -> float:
    """Returns the loss of a model's objective per hidden entry of windows; infinite if it is not a number."""
    total, count, training = 0.0, 0, model.training
    model.eval()
    for batch in batches:
        scored = int(model.target(batch).sum())
        loss = model.objective.loss(model, batch, torch.zeros(len(batch.values), dtype=torch.int64), 0)
        total, count = total + float(loss) * scored, count + scored
    model.train(training)
    return total / count if math.isfinite(total) else math.inf


def _checked(series: Series, shown: Series, window: int, seed: int) -> list[SeriesBatch]:
    """Returns windows whose context is what a series shows; the other observed entries are target."""
    starts, new = tiling([slice(0, len(series))], window)
    order = streams(seed, starts).argsort()
    some = order[: _windows_of(series, window, CHECKED_ENTRIES)].sort().values
    batches = []
    for numbers in some.split(_windows_of(series, window)):
        batch, context = (x.windows(starts[numbers], window) for x in (series, shown))
        unseen = (batch.position >= new[numbers][:, None])[..., None, None]
        target = batch.context & ~context.context & unseen
        if target.any():
            batches.append(batch._changed(context=context.context, target=target))
    return batches


@check_arguments
def fine_tuned(
    model: AnyOrderModel,
    series: GraphSeries,
    minutes: float,
    seed: int = 0,
    report: Callable[[Progress], None] | None = None,
) -> AnyOrderModel:
    """Returns a model with the weights of another, trained further on one series as long as that helps.

    Args:
        model: A model that adapts; it stays as it is.
        series: The series. Entries that are not observed are not read.
        minutes: The maximum time in minutes.
        seed: Fixes what is hidden from the training, the windows and what is hidden in them; how many steps
            fit into the time depends on the machine.
        report: Called after each check with the progress.

    Returns:
        The trained model, which adapts as the given one does.

    Raises:
        ValueError: If ``minutes`` is not positive, or the training diverges.
        TooLittleObservedError: If no part of the series can be hidden.
    """
    if not 0 < minutes < math.inf:
        raise ValueError(f"minutes must be positive and finite; it is {minutes}.")
    # not the entries of a check with the same seed, which are hidden already
    own_seed = int(streams(seed, torch.tensor(STREAM)))
    visible = series.with_observed(series.observed & ~hide_part(series, seed=own_seed))
    several = len(series.channels) > 1
    full, shown = (channels_as_nodes(x) if several else without_covariates(x, 0) for x in (series, visible))
    own = copy.deepcopy(model)
    trained = own.adapted(shown, channels_of=visible if several else None)
    window = min(model.window or WINDOW, len(series))
    folds = folds_of(len(series), window)
    others = [
        _fitted_to(trained, shown, [folds[k] for k in range(len(folds)) if k != fold])
        for fold in range(len(folds))
    ]
    best = _BestWeights(others, _checked(full, shown, window, seed), 60 * minutes, report)
    trained.optimizer = partial(AdamW, lr=RATE, weight_decay=0.01)
    trained.scheduler = partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda _: best.rate())
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        shortest = min(stretch.stop - stretch.start for fold in folds for stretch in fold)
        _trainer(best).fit(trained, _Folds(shown, folds, min(window, shortest), seed))
    logger.info(
        "Trained for %.1f minutes: the loss on hidden values fell from %.4g to %.4g nats per value.",
        (time.monotonic() - best.begin) / 60,
        best.start,
        best.lowest,
    )
    own.load_state_dict({name: x for name, x in trained.state_dict().items() if name in own.state_dict()})
    return own.eval()


def _trainer(best: _BestWeights) -> Trainer:
    """Returns a trainer that trains for some seconds and prints nothing."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # hints on accelerators and loaders
    return Trainer(
        accelerator="cpu",
        max_epochs=-1,
        max_time=timedelta(seconds=best.seconds),
        limit_train_batches=STEPS,
        limit_val_batches=0,
        reload_dataloaders_every_n_epochs=1,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        callbacks=[best],
    )
