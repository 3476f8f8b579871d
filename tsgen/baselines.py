"""Answers that need no training, for comparison on the same entries. Each returns one draw: it is certain of
itself."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tsgen.series import SeriesBatch, Units


def node_mean(batch: SeriesBatch, units: Units) -> Float[Tensor, "1 batch time nodes channels"]:
    """The mean of each node and channel over the training split, in data units.

    Args:
        batch: The windows.
        units: Whose ``loc`` is that mean.
    """
    filled = torch.where(batch.context, batch.values, units.loc.expand_as(batch.values))
    return filled[None]


def linear_interpolation(batch: SeriesBatch, units: Units) -> Float[Tensor, "1 batch time nodes channels"]:
    """The straight line in time between the nearest visible values of the node, in data units. It sees the
    future.

    Before the first and after the last visible value it stays constant; a node without any takes its mean.

    Args:
        batch: The windows.
        units: Whose ``loc`` is the mean of each node and channel.
    """
    length = batch.values.shape[1]
    step = torch.arange(length, device=batch.values.device)[:, None, None].expand_as(batch.values)
    before = torch.where(batch.context, step, -1).cummax(dim=1).values
    after = torch.where(batch.context, step, length).flip(1).cummin(dim=1).values.flip(1)
    left, right = torch.where(before < 0, after, before), torch.where(after == length, before, after)
    nothing = before.eq(-1) & after.eq(length)
    left, right = (torch.where(nothing, step, side) for side in (left, right))
    y_left, y_right = batch.values.gather(1, left), batch.values.gather(1, right)
    share = (step - left) / (right - left).clamp(min=1)
    line = y_left + share * (y_right - y_left)
    return torch.where(nothing, units.loc.expand_as(line), line)[None]
