r"""The particle bound: missing inputs drawn and weighed, not marked.

.. math:: L = -\frac{1}{|O|} \log \hat p_K(x_O), \qquad E \log \hat p_K(x_O) \le \log p(x_O),

with :math:`\hat p_K` the evidence that a particle filter of K paths estimates
(see :mod:`tsgen.sampling.particles`).
The gap closes as K grows, and the gradient becomes that of the likelihood: it goes through the draws, through
the weights and past resampling, where most implementations drop it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tsgen.counter_random import streams
from tsgen.data.series import SeriesBatch
from tsgen.heads.likelihood import per_entry
from tsgen.objectives.base import Objective
from tsgen.protocols import EncoderModel, ForwardModel, check_forward
from tsgen.sampling.particles import particle_filter


@dataclass(frozen=True)
class ParticleBound(Objective[ForwardModel]):
    """The negative particle bound of what is visible of each window, in nats a visible entry.

    Use it without ``thinning``: what is hidden from the model is missing to it, and scores nothing. A model
    trained so has always read whole slices: its missing inputs must be drawn, which ancestral sampling and
    the particle filter do; ``model(batch)``, which marks them, is not for it. Validation is by the filter's
    own densities of what is held out. A step costs that of K times as many windows, read slice by slice.

    Args:
        particles: The number K of paths of each window.
        ess_threshold: Paths are resampled where the effective sample size falls below this share of K.

    Raises:
        ValueError: If there are no particles or the threshold lies outside 0..1.

    References:
        Filtering variational objectives (Maddison et al., 2017).
    """

    scores_targets: ClassVar[bool] = False

    particles: int = 8
    ess_threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.particles < 1:
            raise ValueError(f"particles must be at least 1; it is {self.particles}.")
        if not 0 <= self.ess_threshold <= 1:
            raise ValueError(f"ess_threshold must lie in 0..1; it is {self.ess_threshold}.")

    def check(self, model: object) -> None:
        """Raises ``ValueError`` unless the model is autoregressive and never truncates gradients."""
        check_forward(type(self).__name__, model, "Use tsgen.objectives.MaskedNLL.")
        steps = getattr(model, "truncated_steps", None)
        if steps is not None:
            raise ValueError(
                "truncated_steps must be null for a ParticleBound, whose paths carry gradients through the "
                f"whole window; it is {steps}."
            )

    def check_data(self, data: Any, stage: str) -> None:
        """Raises ``ValueError`` if training would hide observed entries, which the bound would lose."""
        if stage == "fit" and getattr(data, "thinning", None) is not None:
            raise ValueError(
                "a ParticleBound must be trained on all observed entries; data.thinning hides some of them. "
                "Set data.thinning to null."
            )

    def loss(
        self, model: ForwardModel, batch: SeriesBatch, stream: Int64[Tensor, "batch"], step: int
    ) -> Float[Tensor, ""]:
        """The negative bound in nats a visible entry."""
        found = particle_filter(model, batch, self.particles, stream, self.ess_threshold, predictive=False)
        return per_entry(-found.log_evidence.sum(), self.target(model, batch, step))

    def target(
        self, model: EncoderModel, batch: SeriesBatch, step: int
    ) -> Bool[Tensor, "batch time nodes channels"]:
        """What is visible."""
        return batch.context

    def law(self, model: object, batch: SeriesBatch) -> None:
        """None: the filter's densities are means over paths."""

    def log_prob(self, model: ForwardModel, batch: SeriesBatch) -> Float[Tensor, "batch time nodes channels"]:
        """The filter's log-density of each target entry given the slices before it, in nats."""
        stream = streams(0, batch.position[:, 0])
        found = particle_filter(model, batch, self.particles, stream, self.ess_threshold)
        assert found.log_prob is not None
        return found.log_prob
