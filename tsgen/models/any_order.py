r"""Models of any entry given any set of other entries.

.. math:: p(x_{tvc} \mid x_O), \qquad O \text{ any set of entries of the window, before and after } t.

A single network handles every set O. It is trained by hiding random sets of entries and scoring the hidden
ones. Entries drawn one after another, each given the context and all earlier draws, are then draws from the
posterior.

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

from tsgen.argument_types import check_arguments
from tsgen.data.interpolation import Nearest
from tsgen.data.series import SeriesBatch, SeriesSpec, Sizes, Units
from tsgen.encoders import ConvolutionEncoder, Encoder
from tsgen.encoders.propagation import Propagation
from tsgen.heads import Head, MixtureHead
from tsgen.models.density import OptimizerFactory, SchedulerFactory
from tsgen.models.neural import NeuralModel
from tsgen.objectives import MaskedNLL, Objective
from tsgen.sampling import AnyOrder, Sampler
from tsgen.sampling.any_order import order_of_entries
from tsgen.sampling.base import TENSORS_PER_PASS, draws_per_portion

INTERPOLATION_FEATURES = 5
"""How many more numbers per entry the encoder reads with ``units="interpolation"``; see ``features``."""

REACH = 24.0
"""Initial value of the range rho, in steps."""


@check_arguments
class AnyOrderModel(NeuralModel):
    r"""An encoder of the whole window, past and future, and a head for its hidden entries.

    Only hidden entries are scored. In training, the data module's ``thinning`` hides random sets of entries,
    at a rate that is itself drawn between 0 and 1 so that the model learns from every fraction of visible
    entries. The model reads the remaining ones.

    Args:
        spec: Sizes, units and graph of the data.
        encoder: Makes the encoder from the size of a node's input; a two-way ConvolutionEncoder if not given.
        head: Makes the head from the size of a node's state and the sizes of a slice.
        optimizer: Makes the optimiser from the parameters; AdamW with a rate of 0.002 if not given.
        scheduler: Makes the learning-rate schedule from the optimiser; it steps once per epoch. None keeps
            the rate constant.
        sampler: How unknown entries are drawn in test and prediction.
        objective: The loss that training minimises.
        node_embedding: Size of the learned embedding of each node; 0 for a model that runs on other graphs
            too.
        units: The standard units in which the head works. ``node``: mean and standard deviation of the node
            and channel. ``interpolation``: units of each entry, from the visible entries of its node and
            channel. The location is the straight line in time between the nearest visible values. The scale
            is :math:`\sigma \sqrt{1 - e^{-v / \rho}}`, where :math:`\sigma` is the node's standard deviation,
            v the variance of a random walk between those values (see :mod:`tsgen.data.interpolation`) and
            :math:`\rho` a learned number of steps. In short gaps the scale grows with the square root of the
            gap length; where nothing is visible it is the node's standard deviation. The encoder also reads
            the line, the distances to its ends, and the mean and fraction of the visible entries of the
            slice.

    Raises:
        ValueError: If the encoder is causal, ``units`` is unknown, or building blocks are incompatible; in
            training, if the data hides nothing.
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
        super().__init__(
            spec,
            encoder or partial(ConvolutionEncoder, causal=False),
            head,
            optimizer,
            scheduler,
            sampler,
            objective,
            node_embedding,
            numbers_per_entry=2 if units == "node" else 2 + INTERPOLATION_FEATURES,
            units=units,
        )
        self.of_entries = units == "interpolation"
        if self.head.joint_entries > 1:
            raise ValueError(
                "an any-order model needs a head for single entries, since its sampler draws them jointly in "
                f"groups; {type(self.head).__name__} models {self.head.joint_entries} entries jointly. Use a "
                "GaussianHead or a MixtureHead."
            )
        if self.of_entries:
            self.log_reach = nn.Parameter(torch.full((len(self.spec.channels),), math.log(REACH)))
        if self.encoder.causal:
            raise ValueError(
                "an any-order model needs an encoder that reads past and future; "
                f"{type(self.encoder).__name__} is causal. Set causal: false, or wrap it in a "
                "BidirectionalEncoder."
            )
        self.check_building_blocks()

    def encode(
        self,
        batch: SeriesBatch,
        x: Float[Tensor, "batch time nodes channels"],
        context: Float[Tensor, "batch time nodes channels"],
    ) -> Float[Tensor, "batch time nodes hidden"]:
        """Returns the encoder's output at each slice, given all visible entries of the window."""
        h, _ = self.encoder(self.features(batch, x, context), Propagation(batch.graph))
        return h

    def units(self, batch: SeriesBatch) -> Units:
        """Returns the location and scale that define standard units for each entry of a batch."""
        if not self.of_entries:
            return self.units_of_nodes(batch)
        node, nearest = self.units_of_nodes(batch), Nearest.of(batch.context)
        loc = nearest.line(batch.values, node.loc)
        # lower bound: a visible entry is its own nearest one; its law is never scored, but needs a positive
        # scale. Upper bound: infinity, where nothing is visible, would give no valid gradient
        steps = nearest.walked().clamp(min=0.5, max=1e6).to(self.precision)
        scale = node.scale * (-torch.expm1(-steps / self.log_reach.exp())).sqrt()
        return Units(loc, scale, batch.nodes, self.precision)

    def features(
        self, batch: SeriesBatch, x: Tensor, context: Tensor
    ) -> Float[Tensor, "batch time nodes features"]:
        """Returns the encoder's input at each step.

        With ``units="interpolation"`` this adds, per entry, the line between the nearest visible values, the
        logarithms of one plus the distances to its ends, and the mean and the fraction of the slice's visible
        entries.
        """
        features = super().features(batch, x, context)
        if not self.of_entries:
            return features
        nearest, length = Nearest.of(batch.context), x.shape[1]
        since, until = (d.clamp(max=length).log1p().to(x.dtype) for d in nearest.distances())
        line = nearest.line(x, torch.zeros_like(x[0, 0]))
        share = context.mean(dim=2, keepdim=True)
        mean = x.mean(dim=2, keepdim=True) / share.clamp(min=0.5 / x.shape[2])
        more = [line, since, until, mean.expand_as(x), share.expand_as(x)]
        return torch.cat([features, *(x.to(features.dtype) for x in more)], dim=-1)

    def check_data(self, data: Any, stage: str) -> None:
        """Raises ``ValueError`` unless the model can be used with the data, which must hide some entries.

        Without hidden entries there would be nothing to learn or to score.
        """
        super().check_data(data, stage)
        if stage == "fit" and getattr(data, "thinning", self) is None:
            raise ValueError(
                "an any-order model learns from hidden entries; data.thinning is null and hides none. "
                "Set it to a pattern, such as tsgen.data.PointMask with rate: [0.0, 1.0]."
            )
        if stage != "predict" and getattr(data, "horizon", None) == 0:
            raise ValueError(
                "an any-order model is scored on hidden entries; data.horizon is 0 and hides none. "
                "Set it to null, or to a number of steps."
            )

    @check_arguments
    def target(self, batch: SeriesBatch) -> Bool[Tensor, "batch time nodes channels"]:
        """Returns the hidden target entries; visible ones are inputs of the model and are not scored."""
        return batch.hidden

    def drawn_law(self, batch: SeriesBatch) -> torch.distributions.Distribution | None:
        """Returns the law of each hidden entry given all visible ones if draws are independent.

        With several groups it returns None: entries of later groups follow mixtures of laws over earlier
        draws.
        """
        return None if self.sampler.joint else self(batch)

    @check_arguments
    def slices(self, batch: SeriesBatch) -> torch.distributions.Distribution:
        """Raises ``ValueError``: this model does not factorise over time.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "an AnyOrderModel has no law of a slice given the slices before it; use an AutoregressiveModel "
            "or a GraphVAR, or compare joint densities by log_likelihood."
        )

    @check_arguments
    def log_likelihood(self, batch: SeriesBatch) -> Float[Tensor, "batch"]:
        """Returns the joint log-density of the visible entries of each window, in nats.

        The density is that of the chain rule: each visible entry is scored given those before it, in a random
        order that depends on the window's position alone. A model that is not exact has a different density
        for each order; random orders are those that it was trained for. The number of forward passes of a
        window equals its number of visible entries.
        """
        rows = (batch.rows(slice(window, window + 1)) for window in range(len(batch.values)))
        return torch.cat([self._chain_rule(row) for row in rows])

    def _chain_rule(self, row: SeriesBatch) -> Float[Tensor, "1"]:
        """Returns the joint log-density of one window by the chain rule."""
        order = order_of_entries(row)
        total = self.loc.new_zeros(1)
        width = TENSORS_PER_PASS * self.encoder.hidden * self.precision.itemsize
        for some in order[row.context].split(draws_per_portion(row.context[..., 0].numel() * width)):
            rows, current = row.repeat(len(some)), some.view(-1, 1, 1, 1)
            rows = rows._changed(context=rows.context & (order < current), target=order == current)
            total = total + self.log_prob(rows).sum()
        return total
