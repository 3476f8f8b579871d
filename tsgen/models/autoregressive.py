r"""Models that factorise over time.

.. math:: p(x_{1:T}) = \prod_t \prod_v p(x_t^v \mid x_{<t}^v, x_{<t}^{N(v)}, c_{1:t})
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from tsgen.counter_random import streams
from tsgen.data.series import SeriesBatch, SeriesSpec, Sizes
from tsgen.encoders import Encoder, GraphGRUEncoder
from tsgen.encoders.base import map_state
from tsgen.encoders.propagation import Propagation
from tsgen.heads import Head, MixtureHead
from tsgen.models.density import OptimizerFactory, SchedulerFactory
from tsgen.models.neural import NeuralModel
from tsgen.objectives import MaskedNLL, Objective
from tsgen.sampling import Ancestral, Sampler
from tsgen.sampling.particles import particle_filter

VALIDATION_PATHS = 16
"""Paths that the density of a forecast is the mean of, in validation."""


class AutoregressiveModel(NeuralModel):
    """An encoder of the past and a head for the next slice.

    The encoder reads, for each step, the slice before it (in standard units, zero where not visible), which
    of that slice's entries are visible, and the step's own covariates. The head turns its state into the law
    of the step's entries.

    Args:
        spec: Sizes, units and graph of the data.
        encoder: Makes the encoder from the size of a node's input.
        head: Makes the head from the size of a node's state and the sizes of a slice.
        optimizer: Makes the optimiser from the parameters; AdamW with a rate of 0.002 if not given.
        scheduler: Makes the learning-rate schedule from the optimiser; it steps once an epoch. None keeps the
            rate.
        sampler: How unknown entries are drawn, in test and prediction.
        objective: What training makes small.
        node_embedding: Numbers that are learned of each node; 0 for a model that runs on other graphs too.
        truncated_steps: Steps that gradients are carried back through in training: windows are read in pieces
            of that length, each starting from the state that the one before has left. None carries them
            through the whole window.

    Raises:
        ValueError: If the encoder is not causal, or parts do not go together.
    """

    def __init__(
        self,
        spec: SeriesSpec,
        encoder: Callable[[int], Encoder] = GraphGRUEncoder,
        head: Callable[[int, Sizes], Head] = MixtureHead,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        sampler: Sampler = Ancestral(),
        objective: Objective = MaskedNLL(),
        node_embedding: int = 0,
        truncated_steps: int | None = None,
    ) -> None:
        super().__init__(
            spec,
            encoder,
            head,
            optimizer,
            scheduler,
            sampler,
            objective,
            node_embedding,
            truncated_steps=truncated_steps,
        )
        if not self.encoder.causal:
            raise ValueError(
                f"an autoregressive model needs a causal encoder; {type(self.encoder).__name__} is not. "
                "Give it causal: true, or use an AnyOrderModel."
            )
        if truncated_steps is not None and truncated_steps < 1:
            raise ValueError(f"truncated_steps must be at least 1, or null; it is {truncated_steps}.")
        self.truncated_steps = truncated_steps
        self.check_building_blocks()

    def check_data(self, data: Any, stage: str) -> None:
        """Also refuses windows too short for the encoder."""
        super().check_data(data, stage)
        window, reach = getattr(data, "window", None), self.encoder.receptive_field
        # the first slice of a window has none before it; a window of one slice has no past at all
        if window is not None and reach is not None and reach > max(1, window - 1):
            raise ValueError(
                f"a window must be longer than what the encoder looks back on, {reach} steps; it has "
                f"{window}. Lengthen data.window, or choose a smaller order or fewer layers."
            )

    def validation_law(self, batch: SeriesBatch) -> Distribution | None:
        """The laws of one pass; of a forecast None: paths of draws are then judged."""
        return None if self.horizon else super().validation_law(batch)

    def validation_log_prob(self, batch: SeriesBatch) -> Tensor:
        """What validation judges by; of a forecast, the mean density over paths of draws."""
        return self._forecast_log_prob(batch, VALIDATION_PATHS)

    def test_log_prob(self, batch: SeriesBatch) -> Tensor:
        """What a test judges by: the same, over as many paths as there are samples."""
        return self._forecast_log_prob(batch, self.sampler.num_samples)

    def _forecast_log_prob(self, batch: SeriesBatch, paths: int) -> Tensor:
        if not self.horizon:
            return self.objective.log_prob(self, batch)
        # one pass would mark the future as missing, which is not what draws of it follow
        found = particle_filter(self, batch, paths, streams(0, batch.position[:, 0])).log_prob
        assert found is not None
        return found

    def encode(
        self,
        batch: SeriesBatch,
        x: Float[Tensor, "batch time nodes channels"],
        context: Float[Tensor, "batch time nodes channels"],
    ) -> Float[Tensor, "batch time nodes hidden"]:
        """The state before each slice."""
        return self.read(batch, x, context)[0]

    def read(
        self,
        batch: SeriesBatch,
        x: Float[Tensor, "batch time nodes channels"],
        context: Float[Tensor, "batch time nodes channels"],
    ) -> tuple[Float[Tensor, "batch time nodes hidden"], Any]:
        """As :meth:`encode`, and what :meth:`advance` must be given to go on after the last slice."""
        inputs, propagation = self.features(batch, _delayed(x), _delayed(context)), Propagation(batch.graph)
        length = self.truncated_steps if self.training and self.truncated_steps else inputs.shape[1]
        state, states = None, []
        for piece in inputs.split(length, dim=1):
            h, state = self.encoder(piece, propagation, map_state(Tensor.detach, state))
            states.append(h)
        return torch.cat(states, dim=1), state

    def advance(
        self,
        batch: SeriesBatch,
        before: tuple[Tensor, Tensor] | None,
        propagation: Propagation,
        state: Any = None,
    ) -> tuple[Float[Tensor, "batch time nodes hidden"], Any]:
        """The state before each of the next slices, step by step what :meth:`encode` does at once.

        Args:
            batch: The next steps of the windows.
            before: The slices before each of them, in standard units, and 1 where those are visible; None
                before the first slice of a window.
            propagation: The graph.
            state: What the last call returned; None at the start of a window.

        Returns:
            The encoder's states, and what the next call must be given.
        """
        if before is None:
            nothing = torch.zeros_like(batch.values, dtype=self.loc.dtype)
            before = nothing, nothing
        return self.encoder(self.features(batch, *before), propagation, state)


def _delayed(x: Float[Tensor, "batch time *entry"]) -> Float[Tensor, "batch time *entry"]:
    """Each step's slice moved to the next step, zeros first."""
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
