"""Ancestral sampling: one time step after another, in the order of the model's factorisation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tsgen.argument_types import check_shapes
from tsgen.counter_random import uniforms
from tsgen.data.series import SeriesBatch, check_draws
from tsgen.encoders.propagation import Propagation
from tsgen.protocols import ForwardModel, check_forward
from tsgen.sampling.base import OTHER_SAMPLERS, TENSORS_PER_PASS, Sampler, repeated


@check_shapes
@dataclass(frozen=True)
class Ancestral(Sampler[ForwardModel]):
    r"""Draws each unknown entry given the slices before it.

    .. math:: x_t^v \sim p(x_t^v \mid x_{<t}^v, x_{<t}^{N(v)}, c_{1:t})

    A drawn entry becomes part of the context of later steps; a visible entry keeps its value. The encoder's
    state is carried from step to step, so that every step costs the same. Samples are drawn in portions of
    bounded memory. The draws ignore entries that are visible later: this is a FILTERING method, not the
    posterior. The draws follow the model's exact law if nothing is visible after the first gap (forecasting,
    generation). Otherwise they are slightly worse than the filtering law, since the draws of one step are not
    weighted by the entries that are visible at the next.

    Args:
        num_samples: The number of draws per window.
        seed: Seed of the draws.

    Raises:
        ValueError: If ``num_samples`` is below 1.
    """

    conditioning = "filtering"
    num_samples: int = 100
    seed: int = 0

    def check(self, model: object) -> None:
        """Raises ``ValueError`` unless the model is autoregressive."""
        check_forward("ancestral sampling", model, OTHER_SAMPLERS)

    def bytes_per_draw(self, model: ForwardModel, batch: SeriesBatch) -> int:
        """Counts the encoder's carried state, old and new, a forward pass of one slice, and the window."""
        _, steps, nodes, channels = batch.values.shape
        encoder, covariates = model.encoder, model.spec.num_covariates
        per_slice = 2 * encoder.carried(steps) + TENSORS_PER_PASS * encoder.hidden
        window = steps * (4 * channels + covariates) * batch.values.element_size()
        return nodes * (per_slice * model.node_units.precision.itemsize + window)

    @torch.no_grad()
    def draw(
        self,
        model: ForwardModel,
        batch: SeriesBatch,
        stream: Int64[Tensor, "samples batch"],
        values: Float[Tensor, "samples batch time nodes channels"] | None = None,
    ) -> Float[Tensor, "samples batch time nodes channels"]:
        """Draws each window once for each of its random streams, slice by slice."""
        check_draws(batch, stream, values)
        rows, row_stream = repeated(batch, len(stream), values), stream.flatten()
        units, propagation = model.units(rows), Propagation(rows.graph)
        shape = (*rows.values.shape[2:], model.head.uniforms_per_entry)
        before, state, drawn = None, None, []
        for t in range(rows.values.shape[1]):
            now = rows.steps(slice(t, t + 1))
            h, state = model.advance(now, before, propagation, state)
            noise = uniforms(row_stream, (1, *shape), start=t * math.prod(shape), dtype=units.precision)
            drawn.append(model.draw(now, h, now.context, noise))
            before = units.standardise(drawn[-1]), torch.ones_like(drawn[-1])
        return torch.cat(drawn, dim=1).unflatten(0, stream.shape)
