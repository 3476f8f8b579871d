r"""Models that factorise over time.

.. math:: p(x_{1:T}) = \prod_t \prod_v p(x_t^v \mid x_{<t}^v, x_{<t}^{N(v)}, c_{1:t})
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from tsgen.encoders import Encoder, GraphGRUEncoder
from tsgen.heads import Head, MixtureHead
from tsgen.heads.base import full_precision
from tsgen.models.density import DensityModel, OptimizerFactory, SchedulerFactory
from tsgen.propagation import Propagation
from tsgen.sampling import Ancestral, Sampler
from tsgen.series import SeriesBatch, SeriesSpec


class AutoregressiveModel(DensityModel):
    """An encoder of the past and a head for the next slice.

    The encoder reads, for each step, the slice before it (in standard units, zero where not visible), which
    of that slice's entries are visible, and the step's own covariates. The head turns its state into the law
    of the step's entries.

    Args:
        spec: Sizes, units and graph of the data.
        encoder: Makes the encoder from the size of a node's input.
        head: Makes the head from the size of a node's state and the number of channels.
        optimizer: Makes the optimiser from the parameters.
        scheduler: Makes the learning-rate schedule from the optimiser; it steps once an epoch. None keeps the
            rate.
        sampler: How unknown entries are drawn, in test and prediction.

    Raises:
        ValueError: If the encoder is not causal.
    """

    def __init__(
        self,
        spec: SeriesSpec,
        encoder: Callable[[int], Encoder] = GraphGRUEncoder,
        head: Callable[[int, int], Head] = MixtureHead,
        optimizer: OptimizerFactory = partial(torch.optim.AdamW, lr=2e-3),
        scheduler: SchedulerFactory | None = None,
        sampler: Sampler = Ancestral(),
    ) -> None:
        super().__init__(spec, sampler, optimizer, scheduler, encoder=encoder, head=head)
        channels = len(self.spec.channels)
        self.encoder = encoder(2 * channels + self.spec.num_covariates)
        if not self.encoder.causal:
            raise ValueError(
                f"an autoregressive model needs a causal encoder; {type(self.encoder).__name__} is not."
            )
        self.head = head(self.encoder.hidden, channels)

    def forward(self, batch: SeriesBatch) -> Distribution:
        """The law of each entry given what is visible before it and the covariates so far, in data units."""
        units = self.units(batch)
        x = torch.where(batch.context, units.standardise(batch.values), 0)
        seen = batch.context.to(x.dtype)
        inputs = self.inputs(_delayed(x), _delayed(seen), batch.covariates, like=x)
        h, _ = self.encoder(inputs, Propagation(batch.graph))
        with full_precision(h):
            return self.head(h.to(units.loc.dtype), batch.values, batch.context, units)

    def inputs(
        self,
        x: Float[Tensor, "batch time nodes channels"] | None,
        seen: Float[Tensor, "batch time nodes channels"] | None,
        covariates: Float[Tensor, "batch time nodes covariates"] | None,
        like: Float[Tensor, "batch time nodes channels"],
    ) -> Float[Tensor, "batch time nodes features"]:
        """What the encoder reads at each step.

        Args:
            x: The slice before, in standard units, zero where not visible; None at the start of a window.
            seen: 1 where that slice is visible, else 0; None at the start.
            covariates: The step's own covariates.
            like: A tensor of the slice's shape.
        """
        zeros = torch.zeros_like(like, dtype=self.loc.dtype)
        parts = [zeros if x is None else x, zeros if seen is None else seen]
        return torch.cat(parts if covariates is None else [*parts, covariates.to(zeros.dtype)], dim=-1)


def _delayed(x: Float[Tensor, "batch time *entry"]) -> Float[Tensor, "batch time *entry"]:
    """Each step's slice moved to the next step, zeros first."""
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
