"""Entries revealed in groups, each given all that is visible or was revealed before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tsgen.counter_random import streams, uniforms
from tsgen.sampling.base import NODES_AT_ONCE, Sampler
from tsgen.series import Samples, SeriesBatch

if TYPE_CHECKING:
    from tsgen.models.any_order import AnyOrderModel


@dataclass(frozen=True)
class AnyOrder(Sampler):
    r"""Draws the unknown entries in groups, in a random order: each group given what is visible and the
    groups before it.

    Within a group entries are drawn independently of each other, so that one group draws from each entry's
    own POSTERIOR law and as many groups as unknown entries from the joint one; the groups in between trade
    one for the other at a cost of one pass each.

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
        if not hasattr(type(model), "encode") or hasattr(type(model), "advance"):
            raise ValueError(
                f"sampling in any order needs an AnyOrderModel; {type(model).__name__} is none. "
                "Use tsgen.sampling.Ancestral for an AutoregressiveModel, Exact for a GraphVAR."
            )

    @torch.no_grad()
    def __call__(self, model: AnyOrderModel, batch: SeriesBatch) -> Samples:  # type: ignore[override]
        """Draws from a model of any entry given any others.

        Args:
            model: The model.
            batch: Windows in data units; entries outside ``batch.context`` are drawn.
        """
        first = model.encode(batch, *model.visible(batch))  # all samples see the same at first
        samples = torch.arange(self.num_samples, device=batch.position.device)
        portion = max(1, NODES_AT_ONCE // batch.values[..., 0].numel())
        drawn = [self._draw(model, batch, first, few) for few in samples.split(portion)]
        return Samples(values=torch.cat(drawn), law="posterior")

    def _draw(
        self,
        model: AnyOrderModel,
        batch: SeriesBatch,
        first: Float[Tensor, "batch time nodes hidden"],
        samples: Int64[Tensor, "samples"],
    ) -> Float[Tensor, "samples batch time nodes channels"]:
        stream = streams(self.seed, batch.position[:, 0], samples[:, None]).flatten()
        rows, shape, dtype = batch.repeat(len(samples)), batch.values.shape[1:], model.loc.dtype
        group = self._groups(stream, rows.context)
        noise = uniforms(stream, (*shape, model.head.uniforms_per_entry), start=shape.numel(), dtype=dtype)
        h = first.repeat(len(samples), 1, 1, 1)
        for g in range(int(group.max()) + 1):
            if g:
                h = model.encode(rows, *model.visible(rows))
            revealed = group <= g
            drawn = torch.where(revealed, model.draw(rows, h, rows.context, noise), rows.values)
            rows = rows._changed(values=drawn, context=revealed)
        return rows.values.unflatten(0, (len(samples), -1))

    def _groups(
        self, stream: Int64[Tensor, "rows"], context: Bool[Tensor, "rows time nodes channels"]
    ) -> Int64[Tensor, "rows time nodes channels"]:
        """The group in which each entry is revealed: equal shares of a row's unknown entries, in a random
        order. What is visible is in the first."""
        place = uniforms(stream, context.shape[1:], dtype=torch.float64)
        # the visible ones come before all others
        rank = torch.where(context, 0, place).flatten(1).argsort(dim=1).argsort(dim=1).view(context.shape)
        visible = context.sum(dim=(1, 2, 3), keepdim=True)
        unknown = (context[0].numel() - visible).clamp(min=1)
        groups = unknown.clamp(max=self.groups)
        return ((rank - visible).clamp(min=0) * groups).div(unknown, rounding_mode="floor")
