r"""Scheduled sampling: training on a mixture of true and drawn inputs.

With a probability :math:`\epsilon_i` that falls as training goes on (i counts the optimiser's steps) a step
reads the true slice before it, otherwise one that the model has drawn. Three laws of decay:

.. math:: \epsilon_i = \max(0, 1 - i / k), \qquad \epsilon_i = k^{i}, \qquad \epsilon_i = k / (k + e^{i/k}).

The draws of all steps are made at once, from a pass over the inputs so far, and the pass is repeated. After n
passes the first n slices that are drawn in a window are those that a loop over time would draw, with the same
uniform numbers; a later one has a past that was drawn in n - 1 passes. With as many passes as steps all are
those of the loop. The draws are inputs like others: no gradient goes through them.

The objective is improper: a draw is independent of the truth that is scored after it, so that even the law
of the data is not its optimum (Huszár, 2015). It is off unless asked for.

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

from tsgen.counter_random import streams, uniforms
from tsgen.data.series import SeriesBatch
from tsgen.heads.likelihood import masked_nll
from tsgen.objectives.base import Objective
from tsgen.protocols import ForwardModel, check_forward

CHOICES, DRAWS = 1, 2
"""Set the random streams of the two apart."""


@dataclass(frozen=True)
class ScheduledSampling(Objective[ForwardModel]):
    r"""The masked negative log-likelihood with some of the visible inputs replaced by the model's own draws.

    Whether a slice is drawn is decided for all its entries at once. What is missing stays missing.

    Args:
        decay: How the probability of the truth falls: linearly, exponentially or by an inverse sigmoid.
        k: The law's constant: for ``linear`` the steps until it is 0, for ``exponential`` its factor each
            step, in (0, 1), for ``inverse_sigmoid`` a number of at least 1: it is k / (k + 1) at first and
            1/2 after k log k steps.
        least: The probability never falls below it.
        passes: How often the draws are made, each time from a past that holds the last ones.

    Raises:
        ValueError: If a number is out of range.
    """

    decay: Literal["linear", "exponential", "inverse_sigmoid"] = "linear"
    k: float = 1000.0
    least: float = 0.0
    passes: int = 1

    def __post_init__(self) -> None:
        if self.decay not in ("linear", "exponential", "inverse_sigmoid"):
            raise ValueError(
                f"decay must be one of linear, exponential, inverse_sigmoid; it is {self.decay!r}."
            )
        right = 0 < self.k < 1 if self.decay == "exponential" else 1 <= self.k < math.inf
        if not right:
            raise ValueError(
                "k must lie between 0 and 1 for an exponential decay, and be at least 1 and finite for the "
                f"others; it is {self.k} for {self.decay}."
            )
        if not 0 <= self.least <= 1:
            raise ValueError(f"least must lie in 0..1; it is {self.least}.")
        if self.passes < 1:
            raise ValueError(f"passes must be at least 1; it is {self.passes}.")

    def probability(self, step: int) -> float:
        """The probability that an input is the truth.

        Args:
            step: Steps that the optimiser has taken.
        """
        if self.decay == "linear":
            falling = 1 - step / self.k
        elif self.decay == "exponential":
            falling = self.k**step
        else:
            # the exponential overflows long after the quotient is zero
            falling = self.k / (self.k + math.exp(min(step / self.k, 700)))
        return max(self.least, falling)

    def check(self, model: object) -> None:
        """Raises ``ValueError`` unless the model goes forward slice by slice."""
        check_forward(type(self).__name__, model, "Use tsgen.objectives.MaskedNLL.")

    def loss(
        self, model: ForwardModel, batch: SeriesBatch, stream: Int64[Tensor, "batch"], step: int
    ) -> Float[Tensor, ""]:
        """The negative log-likelihood in nats an entry, of the inputs that were drawn."""
        truth, context = model.inputs(batch)
        steps = truth.shape[1]
        keep = uniforms(streams(CHOICES, stream), (steps, 1, 1)) < self.probability(step)
        x = truth if keep.all() else self._mixed(model, batch, truth, context, keep, streams(DRAWS, stream))
        loc = model.units_of_nodes(batch).loc
        return masked_nll(model.law(batch, x, context), batch.values, model.target(batch), loc)

    @torch.no_grad()
    def _mixed(
        self,
        model: ForwardModel,
        batch: SeriesBatch,
        truth: Tensor,
        context: Tensor,
        keep: Tensor,
        stream: Tensor,
    ) -> Tensor:
        units, nothing = model.units(batch), torch.zeros_like(batch.context)
        noise = uniforms(stream, (*truth.shape[1:], model.head.uniforms_per_entry), dtype=truth.dtype)
        x = truth
        for _ in range(self.passes):
            drawn = model.draw(batch, model.encode(batch, x, context), nothing, noise)
            x = torch.where(keep, truth, units.standardise(drawn) * context)
        return x
