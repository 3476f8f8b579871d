"""The error that ends a training whose loss, validation score or weights are no longer finite."""

from __future__ import annotations

import torch
from lightning import LightningModule, Trainer

from tsgen.data.series import SeriesBatch
from tsgen.protocols import Model


def diverged(model: LightningModule, what: str, value: float | None, largest: str | None) -> ValueError:
    """Returns the error that ends a training, with what to try.

    Args:
        model: The model in training.
        what: What is not finite.
        value: Its value, if it is a number.
        largest: The result of :func:`extreme` for the batch, if known.
    """
    is_value = "has NaN or infinite entries" if value is None else f"is {value}"
    return ValueError(
        f"training must keep losses and weights finite; in epoch {model.current_epoch}, after optimiser "
        f"step {model.global_step}, {what} {is_value}. Start again with a lower learning rate "
        "(model.optimizer.init_args.lr) or with trainer.gradient_clip_val: 1, and look at the data for "
        f"extreme values{f': {largest}' if largest else ''}. Checkpoints of earlier epochs, if any, are kept."
    )


@torch.no_grad()
def extreme(model: Model, batch: SeriesBatch) -> str:
    """Describes the measured value of a batch that is furthest from its mean, in standard units.

    Args:
        model: The model, which defines the standard units.
        batch: The windows.
    """
    distance = model.units_of_nodes(batch).standardise(batch.values).abs()
    # an overflow counts as the furthest
    distance = torch.where(batch.context | batch.target, distance.nan_to_num(torch.inf), 0)
    row, step, node, channel = torch.unravel_index(distance.argmax(), distance.shape)
    number = int(node if batch.nodes is None else batch.nodes[node])
    place = model.spec.nodes[number]
    if len(model.spec.channels) > 1:
        place = f"{place}, {model.spec.channels[int(channel)]}"
    return (
        f"the furthest of this batch is {float(batch.values[row, step, node, channel]):.4g} at node {place}, "
        f"step {int(batch.position[row, step])}, "
        f"{float(distance[row, step, node, channel]):.3g} standard deviations from the mean"
    )


def is_searching_rate(trainer: Trainer | None) -> bool:
    """Returns whether the trainer tries learning rates (``Tuner.lr_find``) until the loss diverges."""
    callbacks = [] if trainer is None else trainer.callbacks  # type: ignore[attr-defined]
    return any(type(callback).__name__ == "_LRCallback" for callback in callbacks)
