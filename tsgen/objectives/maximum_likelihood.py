"""Maximum likelihood with the observed values as inputs: the default objective."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tsgen.argument_types import check_shapes
from tsgen.counter_random import uniforms
from tsgen.data.series import SeriesBatch, check_stream
from tsgen.heads.likelihood import masked_nll, per_entry
from tsgen.metrics.density import standard_crps
from tsgen.objectives.base import Objective
from tsgen.protocols import EncoderModel


@check_shapes
@dataclass(frozen=True)
class MaskedNLL(Objective[EncoderModel]):
    r"""The masked negative log-likelihood with the true values as inputs (teacher forcing).

    Missing inputs are set to zero and marked by a flag.

    Args:
        input_noise: Standard deviation :math:`\sigma` of the noise :math:`N(0, \sigma^2)` that is added to
            every visible input of the encoder, in standard units. Validation adds no noise. The scored
            values and the entries of the current slice that a head reads receive no noise either. Noise in
            training is meant to make a model robust to its own errors when its draws are fed back; the price
            is that the model learns the law given noisy inputs.
        crps_weight: Weight of the exact CRPS of each entry, in the node's standard deviations, that is added
            to the loss. The CRPS is a proper score too, so the optimum stays the same; it penalises an error
            by its size, whereas the likelihood penalises it relative to the width of the law. Available for
            Gaussians and mixtures of Gaussians. Validation uses the likelihood alone.

    Raises:
        ValueError: If a number is negative or not finite.
    """

    input_noise: float = 0.0
    crps_weight: float = 0.0

    def __post_init__(self) -> None:
        for name, number in (("input_noise", self.input_noise), ("crps_weight", self.crps_weight)):
            if not 0 <= number < math.inf:
                raise ValueError(f"{name} must be a number of at least 0; it is {number}.")

    @property
    def is_nll(self) -> bool:
        """Whether the loss has no CRPS term."""
        return not self.crps_weight

    def check(self, model: object) -> None:
        """Raises ``ValueError`` if the loss needs a CRPS in closed form and the head's laws have none."""
        head = getattr(model, "head", None)
        if self.crps_weight and head is not None and not head.closed_crps:
            raise ValueError(
                "crps_weight must be 0 for laws whose CRPS has no closed form; it is "
                f"{self.crps_weight}, and the head is {type(head).__name__}. "
                "Use a head of Gaussians or mixtures of them."
            )

    def loss(
        self, model: EncoderModel, batch: SeriesBatch, stream: Int64[Tensor, "batch"], step: int
    ) -> Float[Tensor, ""]:
        """Returns the negative log-likelihood in nats per entry, plus the weighted CRPS."""
        check_stream(batch, stream)
        x, context = model.inputs(batch)
        if self.input_noise:
            noise = torch.special.ndtri(uniforms(stream, x.shape[1:]))
            x = x + self.input_noise * noise * context
        law, target, units = model.law(batch, x, context), model.target(batch), model.units_of_nodes(batch)
        loss = masked_nll(law, batch.values, target, units.centre)
        if not self.crps_weight:
            return loss
        filled = torch.where(target, batch.values, units.centre)
        crps = torch.where(target, standard_crps(law, filled, units), 0)
        return loss + self.crps_weight * per_entry(crps.sum(), target)
