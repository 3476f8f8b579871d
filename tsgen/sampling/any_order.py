"""Entries revealed in groups, each given all that is visible or was revealed before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tsgen.counter_random import uniforms
from tsgen.data.series import SeriesBatch
from tsgen.heads.base import full_precision
from tsgen.protocols import EncoderModel
from tsgen.sampling.base import LAYERS_AT_ONCE, Sampler, repeated

Sizes = Literal["even", "growing"]
"""How large the groups are."""

Order = Literal["random", "confidence", "time"]
"""Which entries come first."""


@dataclass(frozen=True)
class AnyOrder(Sampler[EncoderModel]):
    r"""Draws the unknown entries in groups, one after another: each group given what is visible and the
    groups before it.

    With the n unknown entries of a draw in the groups :math:`H_1, \dots, H_K`,

    .. math:: x \sim \prod_{k=1}^K \prod_{i \in H_k} p(x_i \mid x_{\text{visible}}, x_{H_1}, \dots,
        x_{H_{k-1}}).

    Within a group entries are drawn independently of each other. One group draws each entry from its own
    POSTERIOR law, for one pass of the network for all samples together, and leaves out all correlation. With
    n groups (or more) it is the chain rule: draws from a joint law of the model, in any order. Orders give
    the same law where the model is exact; a trained one has a law for each, and random orders are those that
    it was trained for. The numbers in between trade correlation for passes, K - 1 of them a sample: pairs in
    one group lack theirs, so few large groups late, when much is known, cost less of it than few even ones.

    Args:
        num_samples: Draws of each window.
        groups: The number K of groups, for a draw that has as many unknown entries.
        seed: Fixes the draws.
        sizes: ``growing``: after k groups :math:`\max(\lfloor n^{k/K} \rfloor, k)` entries are known, few at
            first and most in the last group. ``even``: n / K in each.
        order: ``random``: a new order for each draw. ``confidence``: those first whose law is surest, of the
            smallest deviation in units of their node's; judged anew for each group. ``time``: from the first
            step to the last, and at random within a step.

    Raises:
        ValueError: If ``num_samples`` or ``groups`` is below 1, or an option is none of those.

    References:
        A deep and tractable density estimator (Uria, Murray & Larochelle, 2014);
        MaskGIT (Chang et al., 2022), for growing groups by confidence.
    """

    conditioning = "posterior"
    num_samples: int = 100
    groups: int = 1
    seed: int = 0
    sizes: Sizes = "growing"
    order: Order = "random"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.groups < 1:
            raise ValueError(f"groups must be at least 1; it is {self.groups}.")
        if self.sizes not in ("even", "growing"):
            raise ValueError(f"sizes must be one of even, growing; it is {self.sizes!r}.")
        if self.order not in ("random", "confidence", "time"):
            raise ValueError(f"order must be one of random, confidence, time; it is {self.order!r}.")

    @property
    def joint(self) -> bool:
        """Whether there is more than one group."""
        return self.groups > 1

    def check(self, model: object) -> None:
        """Raises ``ValueError`` unless the model conditions on any set of entries."""
        if not isinstance(model, EncoderModel) or model.encoder.causal:
            raise ValueError(
                f"sampling in any order needs an AnyOrderModel; got {type(model).__name__}. "
                "Use tsgen.sampling.Ancestral for an AutoregressiveModel, Exact for a GraphVAR."
            )

    def bytes_a_draw(self, model: EncoderModel, batch: SeriesBatch) -> int:
        """Random numbers of each entry and, but for the pass that all samples share, a forward pass of the
        window."""
        _, steps, nodes, channels = batch.values.shape
        encoder, entry = model.encoder, 8 * model.head.uniforms_per_entry + 12
        of_node = steps * entry * channels
        if self.groups > 1:
            of_node += LAYERS_AT_ONCE * steps * encoder.hidden + encoder.carried(steps)
        return nodes * of_node * model.loc.element_size()

    @torch.no_grad()
    def draw(
        self,
        model: EncoderModel,
        batch: SeriesBatch,
        stream: Int64[Tensor, "samples batch"],
        values: Float[Tensor, "samples batch time nodes channels"] | None = None,
    ) -> Float[Tensor, "samples batch time nodes channels"]:
        """Draws each window once for each of its random streams, group by group."""
        rows, row_stream = repeated(batch, len(stream), values), stream.flatten()
        shape, dtype = batch.values.shape[1:], model.loc.dtype
        noise = uniforms(
            row_stream, (*shape, model.head.uniforms_per_entry), start=shape.numel(), dtype=dtype
        )
        visible = rows.context.sum(dim=(1, 2, 3))
        known = visible[:, None] + self._known(shape.numel() - visible)
        last = known.shape[1] - 1
        place = self._place(row_stream, rows.context) if last else torch.empty(0)
        for group in range(last + 1):
            # all draws of a window see the same at first: one pass, one law
            alike = group == 0 and values is None
            seen = batch if alike else rows
            h = model.encode(seen, *model.inputs(seen))
            law = model.predict(seen, h, seen.context)
            with full_precision(h):
                numbers = noise.unflatten(0, stream.shape) if alike else noise
                drawn = model.head.quantile(law, numbers).view_as(rows.values)
            revealed = torch.ones_like(rows.context)
            if group < last:
                if self.order == "confidence":
                    place = law.stddev / model.node_units.scale
                    place = place.repeat(len(stream), 1, 1, 1) if alike else place
                revealed = _first(known[:, group], place, rows.context)
            drawn = torch.where(rows.context, rows.values, drawn)
            rows = rows._changed(values=torch.where(revealed, drawn, rows.values), context=revealed)
        return rows.values.unflatten(0, stream.shape)

    def _known(self, unknown: Int64[Tensor, "rows"]) -> Int64[Tensor, "rows groups"]:
        """How many of a draw's unknown entries are known after each group."""
        n, groups = unknown[:, None], unknown.clamp(min=1, max=self.groups)[:, None]
        k = torch.arange(1, int(groups.max()) + 1, device=unknown.device)
        if self.sizes == "even":
            return torch.minimum((n * k + groups - 1).div(groups, rounding_mode="floor"), n)
        # a power that is a whole number may come out a little below it
        grown = (n.double().pow((k / groups).clamp(max=1)) + 1e-9).floor().long()
        return torch.minimum(torch.maximum(grown, k), n)

    def _place(
        self, stream: Int64[Tensor, "rows"], context: Bool[Tensor, "rows time nodes channels"]
    ) -> Float[Tensor, "rows time nodes channels"]:
        """What the entries of each draw are put in order by, where that does not depend on what is drawn."""
        place = uniforms(stream, context.shape[1:], dtype=torch.float64)
        if self.order == "time":
            place = place + torch.arange(context.shape[1], device=place.device)[:, None, None]
        return place


def _first(
    count: Int64[Tensor, "rows"],
    place: Float[Tensor, "rows time nodes channels"],
    context: Bool[Tensor, "rows time nodes channels"],
) -> Bool[Tensor, "rows time nodes channels"]:
    """So many entries of each row: those of the context, then the lowest in place."""
    rank = torch.where(context, -torch.inf, place).flatten(1).argsort(dim=1).argsort(dim=1)
    return (rank < count[:, None]).view_as(context)
