"""Entries revealed in groups, each given all that is visible or was revealed before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.distributions import Distribution

from tsgen.counter_random import streams, uniforms
from tsgen.sampling.base import NODES_AT_ONCE, Sampler
from tsgen.series import Samples, SeriesBatch

if TYPE_CHECKING:
    from tsgen.models.any_order import AnyOrderModel


@dataclass(frozen=True)
class AnyOrder(Sampler):
    r"""Draws the unknown entries in groups, in a random order: each group given what is visible and the
    groups before it.

    Within a group entries are drawn independently of each other (but for what a head makes joint), so that
    one group draws from each entry's own POSTERIOR law and as many groups as unknown entries from the joint
    one; the groups in between trade one for the other at a cost of one pass each.

    Args:
        num_samples: Draws of each window.
        groups: The number of groups.
        seed: Fixes the draws.

    Raises:
        ValueError: If ``num_samples`` or ``groups`` is below 1.
    """

    num_samples: int = 100
    groups: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.groups < 1:
            raise ValueError(f"groups must be at least 1; it is {self.groups}.")

    def check(self, model: object) -> None:
        """Raises ``ValueError`` unless the model conditions on any set of entries."""
        if not hasattr(type(model), "scored") or hasattr(type(model), "advance"):
            raise ValueError(
                f"sampling in any order needs an AnyOrderModel; {type(model).__name__} is none. "
                "Use tsgen.sampling.Ancestral, or Exact for a GraphVAR."
            )

    def law(self, model: AnyOrderModel, batch: SeriesBatch) -> Distribution:  # type: ignore[override]
        """The law of each entry given everything visible."""
        return model(batch)

    @torch.no_grad()
    def __call__(self, model: AnyOrderModel, batch: SeriesBatch) -> Samples:  # type: ignore[override]
        """Draws from a model of any entry given any others.

        Args:
            model: The model.
            batch: Windows in data units; entries outside ``batch.context`` are drawn.
        """
        windows, _, nodes, _ = batch.values.shape
        portion = max(1, NODES_AT_ONCE // (windows * batch.values.shape[1] * nodes))
        samples = torch.arange(self.num_samples, device=batch.position.device)
        return Samples(
            values=torch.cat([self._draw(model, batch, few) for few in samples.split(portion)]),
            law="posterior",
        )

    def _draw(
        self, model: AnyOrderModel, batch: SeriesBatch, samples: Int64[Tensor, "samples"]
    ) -> Float[Tensor, "samples batch time nodes channels"]:
        stream = streams(self.seed, batch.position[:, 0], samples[:, None]).flatten()
        rows, shape = batch.repeat(len(samples)), batch.values.shape[1:]
        dtype = model.loc.dtype
        place = uniforms(stream, shape, dtype=dtype)
        noise = uniforms(stream, (*shape, model.head.uniforms_per_entry), start=shape.numel(), dtype=dtype)
        # shares of what is unknown of each row: its entries in the order of their places
        order = torch.where(rows.context, 2, place).flatten(1).argsort(dim=1).argsort(dim=1)
        unknown = (~rows.context).flatten(1).sum(dim=1, keepdim=True)
        group = (order * self.groups // unknown.clamp(min=1)).view(rows.context.shape)
        for g in range(self.groups):
            last = g == self.groups - 1
            now = rows.context | ((group <= g) if not last else torch.ones_like(rows.context))
            if g == 0:  # all samples still see the same
                h = model.encode(batch, *model.visible(batch)).repeat(len(samples), 1, 1, 1)
            else:
                h = model.encode(rows, *model.visible(rows))
            drawn = model.draw(rows, h, rows.context, noise)
            rows = rows._changed(values=torch.where(now, drawn, rows.values), context=now)
        return rows.values.unflatten(0, (len(samples), -1))
