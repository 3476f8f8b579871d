"""What every objective promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.distributions import Distribution

from tsgen.data.series import SeriesBatch
from tsgen.heads.likelihood import masked_log_prob

if TYPE_CHECKING:
    from tsgen.models.neural import NeuralModel


def check_forward(objective: object, model: object) -> None:
    """Raises ``ValueError`` unless the model goes forward slice by slice."""
    if not hasattr(type(model), "advance"):
        raise ValueError(
            f"{type(objective).__name__} needs an AutoregressiveModel; {type(model).__name__} is none. "
            "Use tsgen.objectives.MaskedNLL."
        )


class Objective(ABC):
    """What training makes small, and how validation judges by the same light.

    Random numbers come from the streams that an objective is handed, one for each window and epoch, so that
    they depend neither on the batch nor on the number of processes.
    """

    scores_targets: ClassVar[bool] = True
    """Whether only what is target is scored, so that nodes may be there just to inform others."""

    def check(self, model: NeuralModel) -> None:  # noqa: B027 (any model will do, unless an objective objects)
        """Raises ``ValueError`` unless the model can be trained so."""

    @abstractmethod
    def loss(
        self, model: NeuralModel, batch: SeriesBatch, stream: Int64[Tensor, "batch"], step: int
    ) -> Float[Tensor, ""]:
        """The loss of a batch.

        Args:
            model: The model in training.
            batch: Windows; what is hidden from the model is hidden already.
            stream: One random stream for each window.
            step: Steps that the optimiser has taken.
        """

    @property
    def is_nll(self) -> bool:
        """Whether the loss is the negative log-likelihood of the batch and no more."""
        return False

    def law(self, model: NeuralModel, batch: SeriesBatch) -> Distribution | None:
        """The law of each entry that validation is judged by; None where only :meth:`log_prob` knows it."""
        return model(batch)

    def target(
        self, model: NeuralModel, batch: SeriesBatch, step: int
    ) -> Bool[Tensor, "batch _ nodes channels"]:
        """The entries that :meth:`loss` is a mean over.

        Args:
            model: The model in training.
            batch: Windows.
            step: Steps that the optimiser has taken.
        """
        return model.target(batch)

    def log_prob(self, model: NeuralModel, batch: SeriesBatch) -> Float[Tensor, "batch time nodes channels"]:
        """The log-density of each target entry in nats, zero elsewhere: what validation is judged by."""
        return masked_log_prob(model(batch), batch.values, model.target(batch))
