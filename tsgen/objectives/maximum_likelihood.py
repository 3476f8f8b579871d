"""The likelihood of the window as it stands: the objective that the models are made for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tsgen.counter_random import uniforms
from tsgen.likelihood import masked_nll
from tsgen.objectives.base import Objective
from tsgen.series import SeriesBatch

if TYPE_CHECKING:
    from tsgen.models.neural import NeuralModel


@dataclass(frozen=True)
class MaskedNLL(Objective):
    r"""The masked negative log-likelihood, the true values as inputs (teacher forcing).

    What is missing among the inputs is zero and marked by a flag.

    Args:
        input_noise: Standard deviation :math:`\sigma` of the noise :math:`N(0, \sigma^2)` that is added to
            every visible input of the encoder, in standard units; not in validation. What is scored, and
            what a head reads of the slice itself, is left as it is. A model that bears noise in training is
            meant to bear its own errors better when it is fed its own draws; in exchange it learns the law
            given inputs that are noisy.

    Raises:
        ValueError: If the noise is negative or not finite.
    """

    input_noise: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.input_noise < math.inf:
            raise ValueError(f"input_noise must be a number of at least 0; it is {self.input_noise}.")

    def loss(
        self, model: NeuralModel, batch: SeriesBatch, stream: Int64[Tensor, "batch"], step: int
    ) -> Float[Tensor, ""]:
        """The negative log-likelihood in nats an entry."""
        x, seen = model.visible(batch)
        if self.input_noise:
            noise = torch.special.ndtri(uniforms(stream, x.shape[1:]))
            x = x + self.input_noise * noise * seen
        return masked_nll(model.law(batch, x, seen), batch.values, model.scored(batch))
