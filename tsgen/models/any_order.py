r"""Models of any entry given any others.

.. math:: p(x_{tvc} \mid x_O), \qquad O \text{ any set of entries of the window, before and after } t.

One network answers for every set O. It is trained by hiding random sets of entries and scoring what was
hidden; entries revealed one after another, each given all before it, are then draws from the posterior.

References:
    A deep and tractable density estimator (Uria, Murray & Larochelle, 2014);
    Autoregressive diffusion models (Hoogeboom et al., 2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tsgen.counter_random import streams, uniforms
from tsgen.data.interpolation import Nearest
from tsgen.data.series import SeriesBatch, SeriesSpec, Sizes, Units
from tsgen.encoders import ConvolutionEncoder, Encoder
from tsgen.encoders.propagation import Propagation
from tsgen.heads import Head, MixtureHead
from tsgen.models.density import OptimizerFactory, SchedulerFactory
from tsgen.models.neural import NeuralModel
from tsgen.objectives import MaskedNLL, Objective
from tsgen.sampling import AnyOrder, Sampler
from tsgen.sampling.base import LAYERS_AT_ONCE, draws_at_once

TOLD_OF_ENTRIES = 5
"""Numbers that the encoder reads of each entry beside it and its visibility, where units are an entry's."""

REACH = 24.0
"""Steps after which the deviation of a random walk is that of the node, at first."""

ORDER = 2
"""Sets the random streams of the order of a joint density apart from those of samplers and training."""


class AnyOrderModel(NeuralModel):
    r"""An encoder of the whole window, past and future, and a head for what is hidden of it.

    What is scored must be hidden: in training the data module's ``thinning`` hides random sets of entries
    (with a rate that is itself drawn between 0 and 1, so that every share is met), and the others are what
    the model reads.

    Args:
        spec: Sizes, units and graph of the data.
        encoder: Makes the encoder from the size of a node's input; a two-way ConvolutionEncoder if not given.
        head: Makes the head from the size of a node's state and the sizes of a slice.
        optimizer: Makes the optimiser from the parameters; AdamW with a rate of 0.002 if not given.
        scheduler: Makes the learning-rate schedule from the optimiser; it steps once an epoch. None keeps the
            rate.
        sampler: How unknown entries are drawn, in test and prediction.
        objective: What training makes small.
        node_embedding: Numbers that are learned of each node; 0 for a model that runs on other graphs too.
        units: What a head works in. ``node``: mean and deviation of the node and channel. ``interpolation``:
            each entry's own, from what is visible of its node and channel. Zero is then the straight line in
            time between the nearest values, and one is :math:`\sigma \sqrt{1 - e^{-v / \rho}}`, with
            :math:`\sigma` the node's deviation, v the variance of a random walk between those values (see
            :mod:`tsgen.data.interpolation`) and :math:`\rho` a number of steps that is learned: it grows with
            the root of the gap at first, and is the node's own where nothing is visible. The encoder is told
            the line, the distances to its ends and the mean and share of what is visible of the slice.

    Raises:
        ValueError: If the encoder is causal, the units are neither, or parts do not go together; in training,
            if the data hides nothing.
    """

    def __init__(
        self,
        spec: SeriesSpec,
        encoder: Callable[[int], Encoder] | None = None,
        head: Callable[[int, Sizes], Head] = MixtureHead,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        sampler: Sampler = AnyOrder(),
        objective: Objective = MaskedNLL(),
        node_embedding: int = 0,
        units: Literal["node", "interpolation"] = "node",
    ) -> None:
        if units not in ("node", "interpolation"):
            raise ValueError(f"units must be one of node, interpolation; it is {units!r}.")
        super().__init__(
            spec,
            encoder or partial(ConvolutionEncoder, causal=False),
            head,
            optimizer,
            scheduler,
            sampler,
            objective,
            node_embedding,
            numbers_per_entry=2 if units == "node" else 2 + TOLD_OF_ENTRIES,
            units=units,
        )
        self.of_entries = units == "interpolation"
        if self.head.joint_entries > 1:
            raise ValueError(
                "an any-order model draws its entries jointly by the groups of its sampler, from laws of "
                f"single entries; {type(self.head).__name__} makes {self.head.joint_entries} of them joint. "
                "Use a GaussianHead or a MixtureHead."
            )
        if self.of_entries:
            self.log_reach = nn.Parameter(torch.full((len(self.spec.channels),), math.log(REACH)))
        if self.encoder.causal:
            raise ValueError(
                f"an any-order model needs an encoder that reads both ways; {type(self.encoder).__name__} is "
                "causal. Give it causal: false, or make it a part of a BidirectionalEncoder."
            )
        self.check_building_blocks()

    def encode(
        self,
        batch: SeriesBatch,
        x: Float[Tensor, "batch time nodes channels"],
        context: Float[Tensor, "batch time nodes channels"],
    ) -> Float[Tensor, "batch time nodes hidden"]:
        """The state at each slice, from all that is visible of the window."""
        h, _ = self.encoder(self.features(batch, x, context), Propagation(batch.graph))
        return h

    def units(self, batch: SeriesBatch) -> Units:
        """What standard units mean for each entry of a batch."""
        if not self.of_entries:
            return self.units_of_nodes(batch)
        node, nearest = self.units_of_nodes(batch), Nearest.of(batch.context)
        loc = nearest.line(batch.values, node.loc)
        # a visible entry is its own nearest: its law is not asked for, but must exist. Infinity, where
        # nothing is visible, has no gradient
        steps = nearest.walked().clamp(min=0.5, max=1e6).to(loc.dtype)
        scale = node.scale * (-torch.expm1(-steps / self.log_reach.exp())).sqrt()
        return Units(loc, scale, batch.nodes)

    def features(
        self, batch: SeriesBatch, x: Tensor, context: Tensor
    ) -> Float[Tensor, "batch time nodes features"]:
        """What the encoder reads at each step."""
        features = super().features(batch, x, context)
        if not self.of_entries:
            return features
        nearest, length = Nearest.of(batch.context), x.shape[1]
        since, until = (d.clamp(max=length).log1p().to(x.dtype) for d in nearest.distances())
        line = nearest.line(x, torch.zeros_like(x[0, 0]))
        share = context.mean(dim=2, keepdim=True)
        mean = x.mean(dim=2, keepdim=True) / share.clamp(min=0.5 / x.shape[2])
        return torch.cat([features, line, since, until, mean.expand_as(x), share.expand_as(x)], dim=-1)

    def check_data(self, data: Any, stage: str) -> None:
        """Refuses data that hides nothing, too: there would be nothing to learn, or to judge by."""
        super().check_data(data, stage)
        if stage == "fit" and getattr(data, "thinning", self) is None:
            raise ValueError(
                "an any-order model learns from what is hidden; data.thinning is null and hides nothing. "
                "Set it to a pattern, such as tsgen.data.PointMask with rate: [0.0, 1.0]."
            )
        if stage != "predict" and getattr(data, "horizon", None) == 0:
            raise ValueError(
                "an any-order model is judged by what is hidden; data.horizon is 0 and hides nothing. "
                "Set it to null, or to a number of steps."
            )

    def target(self, batch: SeriesBatch) -> Bool[Tensor, "batch time nodes channels"]:
        """The target entries that are hidden: a visible one is read by the model, and scores nothing."""
        return batch.hidden

    def drawn_law(self, batch: SeriesBatch) -> torch.distributions.Distribution | None:
        """The law of each hidden entry given all that is visible, where all are drawn from it at once; later
        groups follow mixtures of laws over what was drawn before."""
        sampler = self.sampler
        return self(batch) if isinstance(sampler, AnyOrder) and sampler.groups == 1 else None

    def slices(self, batch: SeriesBatch) -> torch.distributions.Distribution:
        """Refused: this model does not factorise over time.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "an AnyOrderModel has no law of a slice given those before it; use an AutoregressiveModel or a "
            "GraphVAR, or compare joint densities by log_likelihood."
        )

    def log_likelihood(self, batch: SeriesBatch) -> Float[Tensor, "batch"]:
        """The joint log-density of what is visible of each window, in nats: its entries one after another in
        a random order that the window's position fixes, each given those before it.

        A model that is not exact has a density for each order; random ones are what it was trained for. It
        takes as many forward passes of a window as it has such entries."""
        rows = (batch.rows(slice(window, window + 1)) for window in range(len(batch.values)))
        return torch.cat([self._one_after_another(row) for row in rows])

    def _one_after_another(self, row: SeriesBatch) -> Float[Tensor, "1"]:
        """The joint log-density of one window."""
        place = uniforms(streams(ORDER, row.position[:, 0]), row.context.shape[1:], dtype=torch.float64)
        total = self.loc.new_zeros(1)
        width = LAYERS_AT_ONCE * self.encoder.hidden * self.loc.element_size()
        for few in place[row.context].split(draws_at_once(row.context[..., 0].numel() * width)):
            many, now = row.repeat(len(few)), few.view(-1, 1, 1, 1)
            many = many._changed(context=many.context & (place < now), target=place == now)
            total = total + self.log_prob(many).sum()
        return total
