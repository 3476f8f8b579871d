"""Answers that need no training, for comparison on the same entries. Each returns one draw: it is certain of
itself."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tsgen.data.interpolation import Nearest
from tsgen.data.series import SeriesBatch, Units


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
    return Nearest.of(batch.context).line(batch.values, units.loc)[None]
