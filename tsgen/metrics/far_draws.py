r"""Draws that lie far outside the range of what was ever observed.

The observed range of a node and channel is that of its n observed values; it contains at least the mean plus
and minus one standard deviation of the training data, so that a short or constant record has a range, too. A
draw is *far* if it lies further outside this range than the range is wide.

If draws and observations were independent with the same law, whatever that law is, a draw would lie outside
the observed range with probability 2 / (n + 1), and the share of draws above the largest observation would be
a Beta(1, n) variable, which exceeds 10 / n with probability :math:`e^{-10}`. Far draws are rarer still. A
node is therefore reported if more than :data:`EXCEEDANCES` / n of its draws are far, or if one lies
:data:`FURTHEST` widths outside: a few paths that explode are a small share of all draws.

References:
    The distribution of the number of exceedances (Gumbel & von Schelling, 1950).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric

from tsgen.argument_types import check_arguments
from tsgen.data.series import Series, Units
from tsgen.storage.display import printable

EXCEEDANCES = 10
"""A node with n observed values is reported if its share of far draws exceeds this number divided by n."""

FURTHEST = 20
"""A node is reported if a draw lies this many widths of the observed range outside it."""


class Counted(NamedTuple):
    """What :class:`FarDraws` has counted in all processes, by node and channel.

    Attributes:
        reported: Whether draws are too far or too many of them are far.
        lowest: The lowest draw.
        highest: The highest draw.
        far: The number of far draws.
        draws: The number of draws.
    """

    reported: Bool[Tensor, "nodes channels"]
    lowest: Float[Tensor, "nodes channels"]
    highest: Float[Tensor, "nodes channels"]
    far: Float[Tensor, "nodes channels"]
    draws: Float[Tensor, "nodes channels"]


@check_arguments
class FarDraws(Metric):
    """Counts draws far outside the observed range, by node and channel, over batches and processes.

    Args:
        units: Mean and standard deviation of each node and channel in training.
        options: Options of torchmetrics, such as ``sync_on_compute=False`` if one process counts all.
    """

    full_state_update = False
    draws: Tensor
    far: Tensor
    lowest: Tensor
    highest: Tensor

    def __init__(self, units: Units, **options: Any) -> None:
        super().__init__(**options)
        self.low, self.high = (units.value(units.loc + k * units.scale).double() for k in (-1, 1))
        self.observed = torch.zeros_like(self.low)
        zero = torch.zeros_like(self.low)
        self.add_state("draws", zero.clone(), dist_reduce_fx="sum")
        self.add_state("far", zero.clone(), dist_reduce_fx="sum")
        self.add_state("lowest", torch.full_like(zero, torch.inf), dist_reduce_fx="min")
        self.add_state("highest", torch.full_like(zero, -torch.inf), dist_reduce_fx="max")

    def observe(
        self, values: Float[Tensor, "*rows nodes channels"], observed: Bool[Tensor, "*rows nodes channels"]
    ) -> None:
        """Adds observed values to the range.

        Args:
            values: Values in data units.
            observed: Which of them were observed.
        """
        values, observed = values.flatten(0, -3).double(), observed.flatten(0, -3)
        self.low = torch.minimum(self.low, values.where(observed, torch.inf).amin(dim=0).to(self.low))
        self.high = torch.maximum(self.high, values.where(observed, -torch.inf).amax(dim=0).to(self.high))
        self.observed += observed.sum(dim=0).to(self.observed)

    def observe_series(self, series: Series) -> None:
        """Adds all observed values of a series to the range, one chunk in memory at a time."""
        for chunk in series.chunks():
            self.observe(chunk.values, chunk.observed)

    def update(
        self,
        draws: Float[Tensor, "samples *rows nodes channels"],
        unknown: Bool[Tensor, "*rows nodes channels"],
    ) -> None:
        """Counts draws.

        Args:
            draws: Draws in data units.
            unknown: The entries that were drawn.
        """
        unknown = unknown.flatten(0, -3)
        draws = draws.flatten(1, -3)
        low, high = (x.to(draws) for x in self._limits(1))
        far = ((draws < low) | (draws > high)) & unknown
        self.draws += len(draws) * unknown.sum(dim=0).to(self.draws)
        self.far += far.sum(dim=(0, 1)).to(self.far)
        for state, extreme in (
            (self.lowest, draws.where(unknown, torch.inf).amin(dim=(0, 1))),
            (self.highest, draws.where(unknown, -torch.inf).amax(dim=(0, 1))),
        ):
            (torch.minimum if state is self.lowest else torch.maximum)(state, extreme.to(state), out=state)

    def _limits(self, widths: float) -> tuple[Tensor, Tensor]:
        """Returns the values that lie so many widths of the range outside it."""
        low, high = self._range()
        margin = widths * (high - low)
        return low - margin, high + margin

    def _range(self) -> tuple[Tensor, Tensor]:
        """Returns the range of each node and channel; that of all nodes where nothing was observed."""
        never = (self.observed == 0) & (self.observed > 0).any(dim=0)
        lowest, highest = self.low.amin(dim=0), self.high.amax(dim=0)
        return torch.where(never, lowest, self.low), torch.where(never, highest, self.high)

    def compute(self) -> Counted:
        """Returns the counts of all processes, and which nodes and channels are reported."""
        low, high = self._limits(FURTHEST)
        furthest = (self.lowest < low.to(self.lowest)) | (self.highest > high.to(self.highest))
        reported = furthest | (self.far * self.observed.to(self.far) > EXCEEDANCES * self.draws)
        return Counted(reported, self.lowest, self.highest, self.far, self.draws)

    def warning(self, nodes: Sequence[str], channels: Sequence[str]) -> str | None:
        """Returns a sentence on the nodes that are reported, or None if there are none.

        Args:
            nodes: The names of the nodes.
            channels: The names of the channels.
        """
        # torchmetrics squeezes tensors of one number
        reported, lowest, highest, far, draws = (x.cpu().view(self.low.shape) for x in self.compute())
        if not reported.any():
            return None
        low, high = (end.cpu() for end in self._range())
        below, above = (low - lowest) / (high - low), (highest - high) / (high - low)
        distance = torch.where(reported, torch.maximum(below, above), -torch.inf)
        node, channel = (int(i) for i in torch.unravel_index(distance.argmax(), distance.shape))
        furthest = (lowest if below[node, channel] > above[node, channel] else highest)[node, channel]
        place = printable(f"{channels[channel]} of " * (len(channels) > 1) + f"node {nodes[node]}", 80)
        return (
            f"{int(far[reported].sum()):,} of {int(draws[reported].sum()):,} draws at "
            f"{int(reported.any(dim=1).sum()):,} of {len(nodes):,} nodes lie further outside the observed "
            f"range than it is wide; the furthest is {float(furthest):,.6g}, at {place}, where "
            f"{float(low[node, channel]):,.6g} to {float(high[node, channel]):,.6g} was observed. Do not "
            "trust these draws: the model is undertrained, has diverged, or extrapolates."
        )
