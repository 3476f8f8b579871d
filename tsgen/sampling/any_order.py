"""Sampling in any order: entries are drawn in groups, each given the context and the groups before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.distributions import Distribution

from tsgen.argument_types import check_shapes
from tsgen.counter_random import streams, uniforms
from tsgen.data.series import SeriesBatch, Units, check_draws
from tsgen.heads.base import full_precision
from tsgen.heads.in_data_units import InDataUnits
from tsgen.protocols import EncoderModel
from tsgen.sampling.base import TENSORS_PER_PASS, Sampler, repeated

Sizes = Literal["even", "growing"]
"""How the sizes of the groups are chosen."""

Order = Literal["random", "confidence", "time", "window"]
"""Which entries are drawn first."""

ORDER = 2
"""Stream key that separates the order of a joint density from the random numbers of samplers and training."""


@check_shapes
@dataclass(frozen=True)
class AnyOrder(Sampler[EncoderModel]):
    r"""Draws the unknown entries group by group, each group given the visible entries and the earlier groups.

    With the n unknown entries of a draw divided into the groups :math:`H_1, \dots, H_K`,

    .. math:: x \sim \prod_{k=1}^K \prod_{i \in H_k} p(x_i \mid x_{\text{visible}}, x_{H_1}, \dots,
        x_{H_{k-1}}).

    Within a group, entries are drawn independently of each other. One group draws each entry from its own
    POSTERIOR law; this takes a single forward pass for all samples and ignores all correlation. With n groups
    (or more) this is the chain rule: draws from a joint law of the model, in any order. All orders give the
    same law if the model is exact; a trained model has a different law for each order, and random orders are
    those that it was trained for. Numbers in between keep more correlation at the cost of more forward
    passes, K - 1 of them per sample. Entries of the same group are drawn without their correlation. Small
    groups first and large groups last, when most entries have been drawn, lose less of it than groups of
    equal size.

    Args:
        num_samples: The number of draws per window.
        groups: The number K of groups; at most one per unknown entry is used.
        seed: Seed of the draws.
        sizes: ``growing``: after k groups, :math:`\max(\lfloor n^{k/K} \rfloor, k)` entries have
            been drawn, so that the first groups are small and the last is the largest. ``even``: n / K
            entries in each group.
        order: ``random``: a new order for each draw. ``confidence``: entries whose law has the smallest
            standard deviation, in units of the node's, come first; recomputed for each group. ``time``: from
            the first step to the last, in random order within a step. ``window``: one random order per
            window, the same for all draws: that in which ``AnyOrderModel.log_likelihood`` scores it. With one
            group per entry, draws of a window without context have exactly this density.

    Raises:
        ValueError: If ``num_samples`` or ``groups`` is below 1, or an option is unknown.

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

    @property
    def joint(self) -> bool:
        """Whether there is more than one group, so that unknown entries are correlated."""
        return self.groups > 1

    def jointly(self, entries: int) -> Sampler:
        """Returns the sampler with one group per entry: the chain rule, one entry after another."""
        return self.with_options(groups=entries)

    def check(self, model: object) -> None:
        """Raises ``ValueError`` unless the model conditions on any set of entries."""
        if not isinstance(model, EncoderModel) or model.encoder.causal:
            raise ValueError(
                f"sampling in any order needs an AnyOrderModel; got {type(model).__name__}. "
                "Use tsgen.sampling.Ancestral for an AutoregressiveModel, Exact for a GraphVAR."
            )
        if self.order == "confidence" and not model.head.has_mean:
            raise ValueError(
                "order must be random or time for laws without a mean, which have no deviation to be ordered "
                f"by; it is confidence, and the head is {type(model.head).__name__}."
            )

    def bytes_per_draw(self, model: EncoderModel, batch: SeriesBatch) -> int:
        """Counts the random numbers of each entry and a forward pass of the window.

        With one group all samples share a single forward pass, which is not counted.
        """
        _, steps, nodes, channels = batch.values.shape
        encoder, per_entry = model.encoder, 8 * model.head.uniforms_per_entry + 12
        per_node = steps * per_entry * channels
        if self.groups > 1:
            per_node += TENSORS_PER_PASS * steps * encoder.hidden + encoder.carried(steps)
        return nodes * per_node * model.node_units.precision.itemsize

    @torch.no_grad()
    def draw(
        self,
        model: EncoderModel,
        batch: SeriesBatch,
        stream: Int64[Tensor, "samples batch"],
        values: Float[Tensor, "samples batch time nodes channels"] | None = None,
    ) -> Float[Tensor, "samples batch time nodes channels"]:
        """Draws each window once for each of its random streams, group by group."""
        check_draws(batch, stream, values)
        rows, row_stream = repeated(batch, len(stream), values), stream.flatten()
        shape, dtype = batch.values.shape[1:], model.node_units.precision
        noise = uniforms(
            row_stream, (*shape, model.head.uniforms_per_entry), start=shape.numel(), dtype=dtype
        )
        visible = rows.context.sum(dim=(1, 2, 3))
        revealed_counts = visible[:, None] + self._drawn_counts(shape.numel() - visible)
        last = revealed_counts.shape[1] - 1
        priority = self._priority(row_stream, rows) if last else torch.empty(0)
        for group in range(last + 1):
            # before anything is drawn, all draws of a window share the inputs: one pass, one law
            shared = group == 0 and values is None
            inputs = batch if shared else rows
            h = model.encode(inputs, *model.inputs(inputs))
            law = model.predict(inputs, h, inputs.context)
            with full_precision(h):
                group_noise = noise.unflatten(0, stream.shape) if shared else noise
                drawn = model.head.quantile(law, group_noise).view_as(rows.values)
            revealed = torch.ones_like(rows.context)
            if group < last:
                if self.order == "confidence":
                    priority = _spread(law, model.node_units)
                    priority = priority.repeat(len(stream), 1, 1, 1) if shared else priority
                revealed = _first(revealed_counts[:, group], priority, rows.context)
            drawn = torch.where(rows.context, rows.values, drawn.to(rows.values.dtype))
            rows = rows._changed(values=torch.where(revealed, drawn, rows.values), context=revealed)
        return rows.values.unflatten(0, stream.shape)

    def _drawn_counts(self, unknown: Int64[Tensor, "rows"]) -> Int64[Tensor, "rows groups"]:
        """Returns how many of a draw's unknown entries have been drawn after each group."""
        n, groups = unknown[:, None], unknown.clamp(min=1, max=self.groups)[:, None]
        k = torch.arange(1, int(groups.max()) + 1, device=unknown.device)
        if self.sizes == "even":
            return torch.minimum((n * k + groups - 1).div(groups, rounding_mode="floor"), n)
        # 1e-9: rounding may put a power that is a whole number slightly below that number
        grown = (n.double().pow((k / groups).clamp(max=1)) + 1e-9).floor().long()
        return torch.minimum(torch.maximum(grown, k), n)

    def _priority(
        self, stream: Int64[Tensor, "rows"], rows: SeriesBatch
    ) -> Float[Tensor, "rows time nodes channels"]:
        """Returns the sort key of each entry, lowest first, for orders that do not depend on the draws."""
        if self.order == "window":
            return order_of_entries(rows)
        priority = uniforms(stream, rows.context.shape[1:], dtype=torch.float64)
        if self.order == "time":
            priority = priority + torch.arange(rows.context.shape[1], device=priority.device)[:, None, None]
        return priority


def order_of_entries(batch: SeriesBatch) -> Float[Tensor, "batch time nodes channels"]:
    """Returns a random order of the entries of each window, as numbers, which its position determines."""
    return uniforms(streams(ORDER, batch.position[:, 0]), batch.context.shape[1:], dtype=torch.float64)


def _first(
    count: Int64[Tensor, "rows"],
    priority: Float[Tensor, "rows time nodes channels"],
    context: Bool[Tensor, "rows time nodes channels"],
) -> Bool[Tensor, "rows time nodes channels"]:
    """Returns a mask of the first ``count`` entries of each row: the context, then the lowest priorities."""
    rank = torch.where(context, -torch.inf, priority).flatten(1).argsort(dim=1).argsort(dim=1)
    return (rank < count[:, None]).view_as(context)


def _spread(law: Distribution, units: Units) -> Tensor:
    """Returns the standard deviations of laws, those in standard units where values have a transform."""
    if isinstance(law, InDataUnits) and units.transforms is not None:
        return law.law.stddev * law.units.scale / units.scale
    return law.stddev / units.scale
