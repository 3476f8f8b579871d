"""What every sampler promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from tsgen.series import Samples, SeriesBatch

if TYPE_CHECKING:
    from tsgen.models.density import DensityModel


NODES_AT_ONCE = 2**18
"""Node states of all windows, steps and samples together that are worked on at once: of 64 numbers each they
take 64 MiB."""


class Sampler(ABC):
    """Draws the entries outside ``context``, jointly, in data units.

    What is drawn for a window depends on the seed and the window's position in its series, not on the batch.
    """

    num_samples: int
    seed: int

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise ValueError(f"num_samples must be at least 1; it is {self.num_samples}.")

    @abstractmethod
    def check(self, model: object) -> None:
        """Raises ``ValueError`` unless the model can be sampled in this way."""

    @abstractmethod
    def __call__(self, model: DensityModel, batch: SeriesBatch) -> Samples:
        """Draws from what the model implies for each window of the batch."""
