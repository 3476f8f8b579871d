"""Ancestral sampling: time step by time step, in the order in which the model factorises."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tsgen.counter_random import uniforms
from tsgen.data.series import SeriesBatch
from tsgen.encoders.propagation import Propagation
from tsgen.protocols import ForwardModel, check_forward
from tsgen.sampling.base import LAYERS_AT_ONCE, OTHER_SAMPLERS, Sampler, repeated


@dataclass(frozen=True)
class Ancestral(Sampler[ForwardModel]):
    r"""Draws each unknown entry given what came before it:
    :math:`x_t^v \sim p(x_t^v \mid x_{<t}^v, x_{<t}^{N(v)}, c_{1:t})`.

    An entry that was drawn counts as seen from then on; one that is visible keeps its value. The encoder's
    state is carried, so that a step costs the same wherever it lies, and samples are drawn in portions of
    bounded memory. The draws ignore what is visible later: a FILTERING method, not the posterior. They are
    the model's exact law where nothing is visible after the first gap (forecasting, generation). Elsewhere
    they are a little worse than the filtering law itself, since what was drawn at one step is not weighed by
    what turns out to be visible at the next.

    Args:
        num_samples: Draws of each window.
        seed: Fixes the draws.

    Raises:
        ValueError: If ``num_samples`` is below 1.
    """

    conditioning = "filtering"
    num_samples: int = 100
    seed: int = 0

    def check(self, model: object) -> None:
        """Raises ``ValueError`` unless the model goes forward slice by slice."""
        check_forward("ancestral sampling", model, OTHER_SAMPLERS)

    def bytes_a_draw(self, model: ForwardModel, batch: SeriesBatch) -> int:
        """What the encoder carries, old and new, a forward pass of one slice, and the window."""
        _, steps, nodes, channels = batch.values.shape
        encoder, covariates = model.encoder, model.spec.num_covariates
        of_slice = 2 * encoder.carried(steps) + LAYERS_AT_ONCE * encoder.hidden
        return nodes * (of_slice + steps * (4 * channels + covariates)) * model.loc.element_size()

    @torch.no_grad()
    def draw(
        self,
        model: ForwardModel,
        batch: SeriesBatch,
        stream: Int64[Tensor, "samples batch"],
        values: Float[Tensor, "samples batch time nodes channels"] | None = None,
    ) -> Float[Tensor, "samples batch time nodes channels"]:
        """Draws each window once for each of its random streams, slice by slice."""
        rows, row_stream = repeated(batch, len(stream), values), stream.flatten()
        units, propagation = model.units(rows), Propagation(rows.graph)
        shape = (*rows.values.shape[2:], model.head.uniforms_per_entry)
        before, state, drawn = None, None, []
        for t in range(rows.values.shape[1]):
            now = rows.steps(slice(t, t + 1))
            h, state = model.advance(now, before, propagation, state)
            noise = uniforms(row_stream, (1, *shape), start=t * math.prod(shape), dtype=units.loc.dtype)
            drawn.append(model.draw(now, h, now.context, noise))
            before = units.standardise(drawn[-1]), torch.ones_like(drawn[-1])
        return torch.cat(drawn, dim=1).unflatten(0, stream.shape)
