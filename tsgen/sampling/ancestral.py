"""Ancestral sampling: time step by time step, in the order in which the model factorises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.distributions import Distribution

from tsgen.counter_random import streams, uniforms
from tsgen.propagation import Propagation
from tsgen.sampling.base import Sampler
from tsgen.series import Samples, SeriesBatch

if TYPE_CHECKING:
    from tsgen.models.autoregressive import AutoregressiveModel


@dataclass
class Ancestral(Sampler):
    r"""Draws each unknown entry given what came before it:
    :math:`x_t^v \sim p(x_t^v \mid x_{<t}^v, x_{<t}^{N(v)}, c_{1:t})`.

    An entry that was drawn counts as seen from then on; one that is visible keeps its value. The encoder's
    state is carried, so that a step costs the same wherever it lies. The draws ignore what is visible later:
    they follow the FILTERING law, not the posterior. Where nothing is visible after the first gap
    (forecasting, generation) the two are the same.

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
        if not hasattr(type(model), "inputs"):
            raise ValueError(
                f"ancestral sampling needs an autoregressive model; {type(model).__name__} is none. "
                "Use tsgen.sampling.Exact."
            )

    def law(self, model: AutoregressiveModel, batch: SeriesBatch) -> Distribution:  # type: ignore[override]
        """The law of each entry given what is visible before it."""
        return model(batch)

    @torch.no_grad()
    def __call__(self, model: AutoregressiveModel, batch: SeriesBatch) -> Samples:  # type: ignore[override]
        """Draws from a model that factorises over time.

        Args:
            model: The model.
            batch: Windows in data units; entries outside ``batch.context`` are drawn.
        """
        window = batch.position[:, 0]
        sample = torch.arange(self.num_samples, device=window.device)[:, None]
        stream = streams(self.seed, window, sample).flatten()
        rows = batch.repeat(self.num_samples)
        units, propagation = model.units(rows), Propagation(rows.graph)
        shape = (*rows.values.shape[2:], model.head.uniforms_per_entry)
        x, seen, state, drawn = None, None, None, []
        for t in range(rows.values.shape[1]):
            now = slice(t, t + 1)
            covariates = None if rows.covariates is None else rows.covariates[:, now]
            inputs = model.inputs(x, seen, covariates, like=rows.values[:, now])
            h, state = model.encoder(inputs, propagation, state)
            noise = uniforms(stream, (1, *shape), start=t * torch.Size(shape).numel(), dtype=h.dtype)
            values = model.head.draw(h, rows.values[:, now], rows.context[:, now], units, noise)
            drawn.append(values)
            x, seen = units.standardise(values), torch.ones_like(values)
        values = torch.cat(drawn, dim=1).unflatten(0, (self.num_samples, -1))
        return Samples(values=values, law="filtering")
