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

from tsgen.argument_types import check_arguments
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
"""Number of paths over which validation averages the density of a forecast."""


@check_arguments
class AutoregressiveModel(NeuralModel):
    """An encoder of the past and a head for the next slice.

    At each step, the encoder reads the previous slice (in standard units, zero outside the context), the
    context mask of that slice, and the covariates of the step itself. The head turns the encoder's output
    into the law of the step's entries.

    Args:
        spec: Sizes, units and graph of the data.
        encoder: Makes the encoder from the size of a node's input.
        head: Makes the head from the size of a node's state and the sizes of a slice.
        optimizer: Makes the optimiser from the parameters; AdamW with a rate of 0.002 if not given.
        scheduler: Makes the learning-rate schedule from the optimiser; it steps once per epoch. None keeps
            the rate constant.
        sampler: How unknown entries are drawn in test and prediction.
        objective: The loss that training minimises.
        node_embedding: Size of the learned embedding of each node; 0 for a model that runs on other graphs
            too.
        truncated_steps: Number of steps through which training backpropagates gradients: windows are read in
            chunks of that length, each starting from the detached state at the end of the previous one. None
            backpropagates through the whole window.

    Raises:
        ValueError: If the encoder is not causal, or building blocks are incompatible.
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
                "Set causal: true, or use an AnyOrderModel."
            )
        if truncated_steps is not None and truncated_steps < 1:
            raise ValueError(f"truncated_steps must be at least 1, or null; it is {truncated_steps}.")
        self.truncated_steps = truncated_steps
        self.check_building_blocks()

    def check_data(self, data: Any, stage: str) -> None:
        """Raises ``ValueError`` unless the model can be used with the data and windows are long enough."""
        super().check_data(data, stage)
        window, reach = getattr(data, "window", None), self.encoder.receptive_field
        # the first slice of a window has no past, so at most window - 1 steps are read
        if window is not None and reach is not None and reach > max(1, window - 1):
            raise ValueError(
                f"a window must be longer than the encoder's receptive field of {reach} steps; it has "
                f"{window}. Lengthen data.window, or choose a smaller order or fewer layers."
            )

    def validation_law(self, batch: SeriesBatch) -> Distribution | None:
        """Returns the per-entry laws of one forward pass; None for forecasts, which are scored by paths."""
        return None if self.horizon else super().validation_law(batch)

    def validation_log_prob(self, batch: SeriesBatch) -> Tensor:
        """Returns the log-densities used for validation; for forecasts, of the mean density over paths."""
        return self._forecast_log_prob(batch, VALIDATION_PATHS)

    def test_log_prob(self, batch: SeriesBatch) -> Tensor:
        """Returns the log-densities used for testing: as in validation, with as many paths as samples."""
        return self._forecast_log_prob(batch, self.sampler.num_samples)

    def _forecast_log_prob(self, batch: SeriesBatch, paths: int) -> Tensor:
        """Returns the objective's log-densities; for forecasts, those of the mean density over paths."""
        if not self.horizon:
            return self.objective.log_prob(self, batch)
        # a single pass would mark the future as missing, whereas sampling feeds back its draws
        log_prob = particle_filter(self, batch, paths, streams(0, batch.address)).log_prob
        assert log_prob is not None
        return log_prob

    def encode(
        self,
        batch: SeriesBatch,
        x: Float[Tensor, "batch time nodes channels"],
        context: Float[Tensor, "batch time nodes channels"],
    ) -> Float[Tensor, "batch time nodes hidden"]:
        """Returns the encoder's output for each slice, given the slices before it."""
        return self.read(batch, x, context)[0]

    def read(
        self,
        batch: SeriesBatch,
        x: Float[Tensor, "batch time nodes channels"],
        context: Float[Tensor, "batch time nodes channels"],
    ) -> tuple[Float[Tensor, "batch time nodes hidden"], Any]:
        """Returns the result of :meth:`encode`, and the state with which :meth:`advance` continues."""
        inputs, propagation = self.features(batch, _delayed(x), _delayed(context)), Propagation(batch.graph)
        length = self.truncated_steps if self.training and self.truncated_steps else inputs.shape[1]
        state, states = None, []
        for chunk in inputs.split(length, dim=1):
            h, state = self.encoder(chunk, propagation, map_state(Tensor.detach, state))
            states.append(h)
        return torch.cat(states, dim=1), state

    def advance(
        self,
        batch: SeriesBatch,
        before: tuple[Tensor, Tensor] | None,
        propagation: Propagation,
        state: Any = None,
    ) -> tuple[Float[Tensor, "batch time nodes hidden"], Any]:
        """Returns the encoder's output for the next slices; successive calls together equal :meth:`encode`.

        Args:
            batch: The next steps of the windows.
            before: The slice before each of them in standard units, and its context as 0 and 1; None at the
                first slice of a window.
            propagation: The graph.
            state: The state that the previous call returned; None at the start of a window.

        Returns:
            The encoder's output, and the state for the next call.
        """
        if before is None:
            zeros = torch.zeros_like(batch.values, dtype=self.precision)
            before = zeros, zeros
        return self.encoder(self.features(batch, *before), propagation, state)


def _delayed(x: Float[Tensor, "batch time *entry"]) -> Float[Tensor, "batch time *entry"]:
    """Returns the slices delayed by one step, starting with zeros."""
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
