r"""Models of any entry given any others.

.. math:: p(x_{tvc} \mid x_O), \qquad O \text{ any set of entries of the window, before and after } t.

One network answers for every set O. It is trained by hiding random sets of entries and scoring what was
hidden; entries revealed one after another, each given all before it, are then draws from the posterior.

References:
    A deep and tractable density estimator (Uria, Murray & Larochelle, 2014);
    Autoregressive diffusion models (Hoogeboom et al., 2022).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tsgen.counter_random import streams, uniforms
from tsgen.encoders import ConvolutionEncoder, Encoder
from tsgen.heads import Head, MixtureHead
from tsgen.models.density import OptimizerFactory, SchedulerFactory
from tsgen.models.neural import NeuralModel
from tsgen.objectives import MaskedNLL, Objective
from tsgen.propagation import Propagation
from tsgen.sampling import AnyOrder, Sampler
from tsgen.sampling.base import NODES_AT_ONCE
from tsgen.series import SeriesBatch, SeriesSpec, Sizes

ORDER = 2
"""Sets the random streams of the order of a joint density apart from those of samplers and training."""


class AnyOrderModel(NeuralModel):
    """An encoder of the whole window, past and future, and a head for what is hidden of it.

    What is scored must be hidden: in training the data module's ``thinning`` hides random sets of entries
    (with a rate that is itself drawn between 0 and 1, so that every share is met), and the others are what
    the model reads.

    Args:
        spec: Sizes, units and graph of the data.
        encoder: Makes the encoder from the size of a node's input.
        head: Makes the head from the size of a node's state and the sizes of a slice.
        optimizer: Makes the optimiser from the parameters.
        scheduler: Makes the learning-rate schedule from the optimiser; it steps once an epoch. None keeps the
            rate.
        sampler: How unknown entries are drawn, in test and prediction.
        objective: What training makes small.
        node_embedding: Numbers that are learned of each node; 0 for a model that runs on other graphs too.

    Raises:
        ValueError: If the encoder is causal, or parts do not go together; in training, if the data hides
            nothing.
    """

    def __init__(
        self,
        spec: SeriesSpec,
        encoder: Callable[[int], Encoder] = partial(ConvolutionEncoder, causal=False),
        head: Callable[[int, Sizes], Head] = MixtureHead,
        optimizer: OptimizerFactory = partial(torch.optim.AdamW, lr=2e-3),
        scheduler: SchedulerFactory | None = None,
        sampler: Sampler = AnyOrder(),
        objective: Objective = MaskedNLL(),
        node_embedding: int = 0,
    ) -> None:
        super().__init__(spec, encoder, head, optimizer, scheduler, sampler, objective, node_embedding)
        if self.head.joint_entries > 1:
            raise ValueError(
                "an any-order model draws its entries jointly by the groups of its sampler, from laws of "
                f"single entries; {type(self.head).__name__} makes {self.head.joint_entries} of them joint. "
                "Use a GaussianHead or a MixtureHead."
            )
        if self.encoder.causal:
            raise ValueError(
                f"an any-order model needs an encoder that reads both ways; {type(self.encoder).__name__} is "
                "causal. Give it causal: false, or make it a part of a BidirectionalEncoder."
            )

    def encode(
        self,
        batch: SeriesBatch,
        x: Float[Tensor, "batch time nodes channels"],
        seen: Float[Tensor, "batch time nodes channels"],
    ) -> Float[Tensor, "batch time nodes hidden"]:
        """The state at each slice, from all that is visible of the window."""
        h, _ = self.encoder(self.features(batch, x, seen), Propagation(batch.graph))
        return h

    def check_data(self, data: Any, stage: str) -> None:
        """Refuses data that hides nothing, too: there would be nothing to learn, or to judge by."""
        super().check_data(data, stage)
        if stage == "fit" and getattr(data, "thinning", self) is None:
            raise ValueError(
                "an any-order model learns from what is hidden; data.thinning is null and hides nothing. "
                "Set it to a pattern, such as tsgen.masks.PointMask with rate: [0.0, 1.0]."
            )
        if stage != "predict" and getattr(data, "horizon", None) == 0:
            raise ValueError(
                "an any-order model is judged by what is hidden; data.horizon is 0 and hides nothing. "
                "Set it to null, or to a number of steps."
            )

    def scored(self, batch: SeriesBatch) -> Bool[Tensor, "batch time nodes channels"]:
        """The target entries that are hidden: a visible one is read by the model, and scores nothing."""
        return batch.hidden

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
        for few in place[row.context].split(max(1, NODES_AT_ONCE // row.context[..., 0].numel())):
            many, now = row.repeat(len(few)), few.view(-1, 1, 1, 1)
            many = many._changed(context=many.context & (place < now), target=place == now)
            total = total + self.log_prob(many).sum()
        return total
