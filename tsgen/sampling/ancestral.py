"""Ancestral sampling: time step by time step, in the order in which the model factorises."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tsgen.counter_random import streams, uniforms
from tsgen.propagation import Propagation
from tsgen.sampling.base import NODES_AT_ONCE, Sampler
from tsgen.series import Samples, SeriesBatch

if TYPE_CHECKING:
    from tsgen.models.autoregressive import AutoregressiveModel


@dataclass(frozen=True)
class Ancestral(Sampler):
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

    num_samples: int = 100
    seed: int = 0

    def check(self, model: object) -> None:
        """Raises ``ValueError`` unless the model goes forward slice by slice."""
        if not hasattr(type(model), "advance"):
            raise ValueError(
                f"ancestral sampling needs an autoregressive model; {type(model).__name__} is none. "
                "Use tsgen.sampling.AnyOrder for an AnyOrderModel, Exact for a GraphVAR."
            )

    @torch.no_grad()
    def __call__(self, model: AutoregressiveModel, batch: SeriesBatch) -> Samples:  # type: ignore[override]
        """Draws from a model that factorises over time.

        Args:
            model: The model.
            batch: Windows in data units; entries outside ``batch.context`` are drawn.
        """
        windows, steps, nodes, _ = batch.values.shape
        carried = max(64, model.encoder.carried(steps))
        portion = max(1, NODES_AT_ONCE * 64 // (windows * nodes * carried))
        samples = torch.arange(self.num_samples, device=batch.position.device)
        drawn = [self._draw(model, batch, few) for few in samples.split(portion)]
        return Samples(values=torch.cat(drawn), law="filtering")

    def _draw(
        self, model: AutoregressiveModel, batch: SeriesBatch, samples: Int64[Tensor, "samples"]
    ) -> Float[Tensor, "samples batch time nodes channels"]:
        stream = streams(self.seed, batch.position[:, 0], samples[:, None]).flatten()
        rows = batch.repeat(len(samples))
        units, propagation = model.units(rows), Propagation(rows.graph)
        shape = (*rows.values.shape[2:], model.head.uniforms_per_entry)
        before, state, drawn = None, None, []
        for t in range(rows.values.shape[1]):
            now = rows.steps(slice(t, t + 1))
            h, state = model.advance(now, before, propagation, state)
            noise = uniforms(stream, (1, *shape), start=t * math.prod(shape), dtype=units.loc.dtype)
            values = model.draw(now, h, now.context, noise)
            drawn.append(values)
            before = units.standardise(values), torch.ones_like(values)
        return torch.cat(drawn, dim=1).unflatten(0, (len(samples), -1))
