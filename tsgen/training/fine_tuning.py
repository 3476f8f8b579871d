"""A few minutes of training on one series, for a model that starts from weights of other data."""

from __future__ import annotations

import copy
import logging
import math
import time
import warnings
from datetime import timedelta
from functools import partial

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from tsgen.argument_types import check_arguments
from tsgen.data.channels import channels_as_nodes, without_covariates
from tsgen.data.masks import AnyOf, BlockMask, HistoricalMask, Mask, OneOf, PointMask
from tsgen.data.series import GraphSeries, Series
from tsgen.datamodules.windows import SeriesDataModule, Split
from tsgen.models import AnyOrderModel

RATE = 1e-3
"""The learning rate at the start; it falls to zero along half a cosine as the time passes."""

STEPS = 10
"""Optimiser steps between changes of the learning rate."""

ENTRIES = 2**14
"""Approximate number of entries in a batch."""

WINDOW = 48
"""Steps of a window for a model that does not say what it was trained on."""


class _Whole(SeriesDataModule):
    """All windows of one series, for training alone."""

    def __init__(self, series: Series, window: int, seed: int) -> None:
        entries = window * len(series.nodes)
        super().__init__(window, batch_size=max(1, ENTRIES // entries), thinning=_gaps(), seed=seed)
        self.series = series

    def load(self) -> Split:
        """Returns the series."""
        nothing = torch.zeros((len(self.series), *self.series.sizes[:2]), dtype=torch.bool)
        return Split(self.series, [slice(0, len(self.series))], [], [], nothing)


def _gaps() -> Mask:
    """Returns the pattern of what training hides: points, gaps of the series itself, outages."""
    outages = BlockMask((0.0, 0.1), 1, 12, over="slice")
    return OneOf([PointMask((0.0, 1.0)), HistoricalMask(), AnyOf([HistoricalMask(), outages])])


@check_arguments
def fine_tuned(model: AnyOrderModel, series: GraphSeries, minutes: float, seed: int = 0) -> AnyOrderModel:
    """Returns a model with the weights of another, trained further on one series.

    The learning rate falls with the time that has passed, and the averaged weights are kept.

    Args:
        model: A model that adapts; it stays as it is.
        series: The series. Entries that are not observed are not read.
        minutes: How long to train, in minutes.
        seed: Fixes the windows and what is hidden in them; how many steps fit into the time depends on the
            machine.

    Returns:
        The trained model, which adapts as the given one does.

    Raises:
        ValueError: If ``minutes`` is not positive, or the training diverges.
    """
    if not 0 < minutes < math.inf:
        raise ValueError(f"minutes must be positive and finite; it is {minutes}.")
    shown = channels_as_nodes(series) if len(series.channels) > 1 else without_covariates(series, 0)
    own = copy.deepcopy(model)
    trained = own.adapted(shown, channels_of=series if len(series.channels) > 1 else None)
    begin, seconds = time.monotonic(), 60 * minutes
    trained.optimizer = partial(AdamW, lr=RATE, weight_decay=0.01)
    trained.scheduler = partial(
        LambdaLR, lr_lambda=lambda _: math.cos(math.pi / 2 * min(1, (time.monotonic() - begin) / seconds))
    )
    data = _Whole(shown, min(model.window or WINDOW, len(series)), seed)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        _trainer(seconds).fit(trained, data)
    own.load_state_dict({name: x for name, x in trained.state_dict().items() if name in own.state_dict()})
    return own.eval()


def _trainer(seconds: float) -> Trainer:
    """Returns a trainer that trains for some seconds and prints nothing."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # hints on accelerators and loaders
    return Trainer(
        accelerator="cpu",
        max_epochs=-1,
        max_time=timedelta(seconds=seconds),
        limit_train_batches=STEPS,
        limit_val_batches=0,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        callbacks=[EMAWeightAveraging(decay=0.99, use_buffers=False)],
    )
