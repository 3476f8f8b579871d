"""Baseline imputations that need no training. Each function returns a point estimate as a single draw."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from tsgen.data.interpolation import Nearest
from tsgen.data.series import SeriesBatch, Units


def node_mean(batch: SeriesBatch, units: Units) -> Float[Tensor, "1 batch time nodes channels"]:
    """Fills hidden entries with the mean of their node and channel over the training split, in data units.

    Args:
        batch: The windows.
        units: Units whose ``loc`` is that mean.
    """
    filled = torch.where(batch.context, batch.values, units.loc.expand_as(batch.values))
    return filled[None]


def linear_interpolation(batch: SeriesBatch, units: Units) -> Float[Tensor, "1 batch time nodes channels"]:
    """Fills hidden entries by linear interpolation in time, in data units.

    The interpolation is between the nearest visible values of the same node and channel, before and after the
    entry. Before the first and after the last visible value it is constant; a node without visible values
    gets its mean.

    Args:
        batch: The windows.
        units: Units whose ``loc`` is the mean of each node and channel.
    """
    return Nearest.of(batch.context).line(batch.values, units.loc)[None]
