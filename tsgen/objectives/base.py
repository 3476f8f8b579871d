"""The interface of an objective: what training minimises and what validation reports."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic

from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.distributions import Distribution

from tsgen.argument_types import check_shapes
from tsgen.data.series import SeriesBatch
from tsgen.heads.likelihood import masked_log_prob
from tsgen.protocols import ModelT


@check_shapes
class Objective(ABC, Generic[ModelT]):
    """The loss that training minimises, and the densities that validation reports.

    An objective receives one random stream per window and epoch, so that its random numbers depend
    neither on the composition of the batch nor on the number of processes.
    """

    scores_targets: ClassVar[bool] = True
    """Whether the loss covers target entries only; other nodes of a batch then serve as inputs alone."""

    def check(self, model: object) -> None:
        """Raises ``ValueError`` unless the model can be trained with this objective."""

    def check_data(self, data: Any, stage: str) -> None:
        """Raises ``ValueError`` unless the objective can be used with the data.

        Args:
            data: The data module.
            stage: fit, validate, test or predict.
        """

    @abstractmethod
    def loss(
        self, model: ModelT, batch: SeriesBatch, stream: Int64[Tensor, "batch"], step: int
    ) -> Float[Tensor, ""]:
        """Returns the loss of a batch.

        Args:
            model: The model in training.
            batch: Windows; entries hidden from the model have already been removed from ``context``.
            stream: One random stream per window.
            step: Number of steps that the optimiser has taken.
        """

    @property
    def is_nll(self) -> bool:
        """Whether the loss is exactly the negative log-likelihood of the batch."""
        return False

    def law(self, model: ModelT, batch: SeriesBatch) -> Distribution | None:
        """Returns the per-entry laws used for validation, or None if only :meth:`log_prob` is available."""
        return model(batch)

    def target(self, model: ModelT, batch: SeriesBatch, step: int) -> Bool[Tensor, "batch _ nodes channels"]:
        """Returns the entries that :meth:`loss` averages over.

        Args:
            model: The model in training.
            batch: Windows.
            step: Number of steps that the optimiser has taken.
        """
        return model.target(batch)

    def log_prob(self, model: ModelT, batch: SeriesBatch) -> Float[Tensor, "batch time nodes channels"]:
        """Returns the log-density of each target entry in nats, zero elsewhere, for validation."""
        loc = model.units_of_nodes(batch).centre
        return masked_log_prob(model(batch), batch.values, model.target(batch), loc)
