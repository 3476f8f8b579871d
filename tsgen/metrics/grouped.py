"""Scores by groups of entries: lead times, gap lengths, nodes, channels, shares missing.

A :class:`Grouping` assigns each entry of a batch to a group. A :class:`GroupedScores` accumulates the scores
of :func:`~tsgen.metrics.entry_scores` for each group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchmetrics import Metric

from tsgen.argument_types import check_shapes
from tsgen.data.interpolation import GAPS, Nearest, gap_class
from tsgen.data.series import Series, SeriesBatch
from tsgen.metrics.rounding import rounded

SHARES = tuple(f"{share}-{share + 20} %" for share in range(0, 100, 20))
"""Groups of windows by the share of their entries outside the context; a share on a border belongs to the
upper group."""


class Grouping(NamedTuple):
    """A grouping of entries.

    Attributes:
        key: The name of the table.
        labels: The label columns of each group's row.
        of: Function that returns the number of each entry's group for a batch; -1 for none.
    """

    key: str
    labels: Sequence[Mapping[str, Any]]
    of: Callable[[SeriesBatch], Int64[Tensor, "batch time nodes channels"]]


@check_shapes
def groupings(series: Series, horizon: int = 0) -> list[Grouping]:
    """Returns all groupings of the windows of a series.

    Args:
        series: The series.
        horizon: The number of steps forecast; the first one has lead time 1.
    """
    independent_of_horizon = [
        Grouping("by_node", [{"node": name} for name in series.nodes], _node),
        Grouping(
            "by_channel",
            [
                {"channel": name, "unit": unit}
                for name, unit in zip(series.channels, series.units, strict=True)
            ],
            _channel,
        ),
        Grouping("by_gap_length", [{"gap": name} for name in GAPS], _gap),
        Grouping("by_share_missing", [{"share": name} for name in SHARES], _share_missing),
    ]
    if not horizon:
        return independent_of_horizon
    lead = Grouping(
        "by_lead_time",
        [{"lead": lead} for lead in range(1, horizon + 1)],
        lambda batch: _lead(batch, horizon),
    )
    return [*independent_of_horizon, lead]


def _along(axis: int, batch: SeriesBatch) -> Tensor:
    """Returns the index of each entry along an axis."""
    shape = batch.values.shape
    number = torch.arange(shape[axis], device=batch.values.device)
    return number.view(-1, *[1] * (3 - axis)).expand(shape)


def _node(batch: SeriesBatch) -> Tensor:
    return _along(2, batch)


def _channel(batch: SeriesBatch) -> Tensor:
    return _along(3, batch)


def _lead(batch: SeriesBatch, horizon: int) -> Tensor:
    return (_along(1, batch) - (batch.values.shape[1] - horizon)).clamp(min=-1)


def _gap(batch: SeriesBatch) -> Tensor:
    gap = Nearest.of(batch.context).gap
    return torch.from_numpy(gap_class(gap.cpu().numpy())).to(gap)


def _share_missing(batch: SeriesBatch) -> Tensor:
    missing = (~batch.context).sum(dim=(1, 2, 3), keepdim=True)
    # integer arithmetic, so that rounding does not decide about a share on a border
    group = missing * len(SHARES) // batch.context[0].numel()
    return group.clamp(max=len(SHARES) - 1).expand(batch.values.shape)


@check_shapes
class GroupedScores(Metric):
    """Mean scores of the entries of each group.

    Args:
        labels: The label columns of each group's row.
    """

    full_state_update = False
    sums: Tensor
    counts: Tensor

    NAMES = ("mae", "crps", "nll", "coverage_90")

    def __init__(self, labels: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self.labels = list(labels)
        for name in ("sums", "counts"):
            zeros = torch.zeros(len(self.labels), len(self.NAMES), dtype=torch.float64)
            self.add_state(name, zeros, dist_reduce_fx="sum")

    @check_shapes
    def update(self, scores: Mapping[str, Float[Tensor, "entries"]], group: Int64[Tensor, "entries"]) -> None:
        """Adds entries.

        Args:
            scores: The scores of each entry, by name; those that do not exist are left out.
            group: The group of each entry; -1 for none.
        """
        groups = len(self.labels)
        if group.numel() and group.max() >= groups:
            raise ValueError(
                f"group must be numbers below {groups}, the number of groups; it has {int(group.max())}."
            )
        grouped = group >= 0
        for column, name in enumerate(self.NAMES):
            if name in scores:
                score = scores[name][grouped].double()
                self.sums[:, column].index_add_(0, group[grouped], score)
                self.counts[:, column].index_add_(0, group[grouped], torch.ones_like(score))

    def compute(self) -> Float[Tensor, "groups columns"]:
        """Returns the mean scores of each group and, in the last column, its number of entries.

        Scores are in data units, or in nats per entry; NaN where nothing was scored.
        """
        return torch.cat([self.sums / self.counts, self.counts[:, :1]], dim=1)

    def table(self) -> list[dict[str, Any]]:
        """Returns one row per group, with its scores by name; None where nothing was scored."""
        return [
            {**label, "entries": int(entries)}
            | {name: None if x != x else rounded(x) for name, x in zip(self.NAMES, row, strict=True)}
            for label, (*row, entries) in zip(self.labels, self.compute().tolist(), strict=True)
        ]
