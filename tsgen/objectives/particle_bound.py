r"""The particle bound: missing inputs are drawn and weighted instead of being marked as missing.

.. math:: L = -\frac{1}{|O|} \log \hat p_K(x_O), \qquad E \log \hat p_K(x_O) \le \log p(x_O),

where :math:`\hat p_K` is the evidence estimated by a particle filter with K paths (see
:mod:`tsgen.sampling.particles`). As K grows, the gap closes and the gradient tends to that of the likelihood:
gradients pass through the draws, the weights and the resampling, where most implementations drop them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tsgen.argument_types import check_shapes
from tsgen.counter_random import streams
from tsgen.data.series import SeriesBatch, check_stream
from tsgen.heads.likelihood import per_entry
from tsgen.objectives.base import Objective
from tsgen.protocols import EncoderModel, ForwardModel, check_forward
from tsgen.sampling.particles import particle_filter


@check_shapes
@dataclass(frozen=True)
class ParticleBound(Objective[ForwardModel]):
    """The negative particle bound of the visible entries of each window, in nats per visible entry.

    Use it without ``thinning``: hidden entries count as missing and do not enter the bound. A model trained
    this way has only ever read complete slices, so its missing inputs must be drawn. Ancestral sampling and
    the particle filter draw them; ``model(batch)`` marks them as missing instead and is not suitable for such
    a model. Validation uses the filter's densities of the held-out entries. One training step costs as much
    as one on K times as many windows read slice by slice.

    Args:
        particles: The number K of paths per window.
        ess_threshold: Paths are resampled when the effective sample size falls below this fraction of K.

    Raises:
        ValueError: If ``particles`` is below 1 or the threshold lies outside 0..1.

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
        """Raises ``ValueError`` unless the model is autoregressive and does not truncate gradients."""
        check_forward(type(self).__name__, model, "Use tsgen.objectives.MaskedNLL.")
        steps = getattr(model, "truncated_steps", None)
        if steps is not None:
            raise ValueError(
                "truncated_steps must be null for a ParticleBound, whose paths carry gradients through the "
                f"whole window; it is {steps}."
            )

    def check_data(self, data: Any, stage: str) -> None:
        """Raises ``ValueError`` if training would hide observed entries, which the bound would then omit."""
        if stage == "fit" and getattr(data, "thinning", None) is not None:
            raise ValueError(
                "a ParticleBound must be trained on all observed entries; data.thinning hides some of them. "
                "Set data.thinning to null."
            )

    def loss(
        self, model: ForwardModel, batch: SeriesBatch, stream: Int64[Tensor, "batch"], step: int
    ) -> Float[Tensor, ""]:
        """Returns the negative bound in nats per visible entry."""
        check_stream(batch, stream)
        estimates = particle_filter(
            model, batch, self.particles, stream, self.ess_threshold, predictive=False
        )
        return per_entry(-estimates.log_evidence.sum(), self.target(model, batch, step))

    def target(
        self, model: EncoderModel, batch: SeriesBatch, step: int
    ) -> Bool[Tensor, "batch time nodes channels"]:
        """Returns the visible entries, over which the bound is averaged."""
        return batch.context

    def law(self, model: object, batch: SeriesBatch) -> None:
        """Returns None: the filter's densities are means over paths, with no law in closed form."""

    def log_prob(self, model: ForwardModel, batch: SeriesBatch) -> Float[Tensor, "batch time nodes channels"]:
        """Returns the filter's log-density of each target entry given the slices before it, in nats."""
        stream = streams(0, batch.address)
        estimates = particle_filter(model, batch, self.particles, stream, self.ess_threshold)
        assert estimates.log_prob is not None
        return estimates.log_prob
