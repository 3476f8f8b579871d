r"""Scheduled sampling: training on a mixture of true and drawn inputs.

With a probability :math:`\epsilon_i` that decays during training (i counts the optimiser's steps), a step
reads the true slice before it; otherwise it reads one drawn from the model. There are three schedules:

.. math:: \epsilon_i = \max(0, 1 - i / k), \qquad \epsilon_i = k^{i}, \qquad \epsilon_i = k / (k + e^{i/k}).

One pass over the current inputs draws the slices of all steps in parallel, and the pass is repeated. After n
passes, the first n drawn slices of a window equal those that a loop over time would draw from the same
uniform numbers; the past of a later slice results from only n - 1 passes. With as many passes as steps, all
draws equal those of the loop. The draws are treated as constant inputs: no gradient passes through them.

The objective is improper: a draw is independent of the true value that is scored after it, so that the law of
the data is not its optimum (Huszár, 2015). It is therefore never a default.

References:
    Scheduled sampling for sequence prediction with recurrent neural networks (Bengio et al., 2015);
    Parallel scheduled sampling (Duckworth et al., 2019);
    How (not) to train your generative model (Huszár, 2015).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tsgen.argument_types import check_shapes
from tsgen.counter_random import streams, uniforms
from tsgen.data.series import SeriesBatch, check_stream
from tsgen.heads.likelihood import masked_nll
from tsgen.objectives.base import Objective
from tsgen.protocols import ForwardModel, check_forward

CHOICES, DRAWS = 1, 2
"""Stream keys that keep the choices of drawn slices and the draws themselves distinct."""


@check_shapes
@dataclass(frozen=True)
class ScheduledSampling(Objective[ForwardModel]):
    r"""The masked negative log-likelihood with some of the visible inputs replaced by the model's own draws.

    Either all visible entries of a slice are replaced or none. Missing entries stay missing.

    Args:
        decay: The schedule of the probability of a true input: linear, exponential or inverse sigmoid.
        k: The constant of the schedule. ``linear``: the number of steps until the probability is 0.
            ``exponential``: the factor per step, in (0, 1). ``inverse_sigmoid``: a number of at least 1; the
            probability is k / (k + 1) at first and 1/2 after k log k steps.
        least: The smallest probability of a true input.
        passes: The number of passes that draw the inputs, each given the draws of the pass before.

    Raises:
        ValueError: If a number is out of range.
    """

    decay: Literal["linear", "exponential", "inverse_sigmoid"] = "linear"
    k: float = 1000.0
    least: float = 0.0
    passes: int = 1

    def __post_init__(self) -> None:
        valid = 0 < self.k < 1 if self.decay == "exponential" else 1 <= self.k < math.inf
        if not valid:
            raise ValueError(
                "k must lie between 0 and 1 for an exponential decay, and be at least 1 and finite for the "
                f"others; it is {self.k} for {self.decay}."
            )
        if not 0 <= self.least <= 1:
            raise ValueError(f"least must lie in 0..1; it is {self.least}.")
        if self.passes < 1:
            raise ValueError(f"passes must be at least 1; it is {self.passes}.")

    def probability(self, step: int) -> float:
        """Returns the probability that an input is the true slice.

        Args:
            step: Number of steps that the optimiser has taken.
        """
        if self.decay == "linear":
            probability = 1 - step / self.k
        elif self.decay == "exponential":
            probability = self.k**step
        else:
            # clamped: the exponential would overflow, long after the quotient has become zero
            probability = self.k / (self.k + math.exp(min(step / self.k, 700)))
        return max(self.least, probability)

    def check(self, model: object) -> None:
        """Raises ``ValueError`` unless the model is autoregressive."""
        check_forward(type(self).__name__, model, "Use tsgen.objectives.MaskedNLL.")

    def loss(
        self, model: ForwardModel, batch: SeriesBatch, stream: Int64[Tensor, "batch"], step: int
    ) -> Float[Tensor, ""]:
        """Returns the negative log-likelihood in nats per entry, given the partly drawn inputs."""
        check_stream(batch, stream)
        truth, context = model.inputs(batch)
        steps = truth.shape[1]
        keep = uniforms(streams(CHOICES, stream), (steps, 1, 1)) < self.probability(step)
        x = truth if keep.all() else self._mix(model, batch, truth, context, keep, streams(DRAWS, stream))
        loc = model.units_of_nodes(batch).centre
        return masked_nll(model.law(batch, x, context), batch.values, model.target(batch), loc)

    @torch.no_grad()
    def _mix(
        self,
        model: ForwardModel,
        batch: SeriesBatch,
        truth: Tensor,
        context: Tensor,
        keep: Tensor,
        stream: Tensor,
    ) -> Tensor:
        """Returns the true slices where ``keep`` is True and drawn ones elsewhere, in standard units."""
        units, nothing = model.units(batch), torch.zeros_like(batch.context)
        noise = uniforms(stream, (*truth.shape[1:], model.head.uniforms_per_entry), dtype=truth.dtype)
        x = truth
        for _ in range(self.passes):
            drawn = model.draw(batch, model.encode(batch, x, context), nothing, noise)
            x = torch.where(keep, truth, units.standardise(drawn) * context)
        return x
