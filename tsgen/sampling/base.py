"""What every sampler promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from tsgen.series import Samples, SeriesBatch

if TYPE_CHECKING:
    from tsgen.models.density import DensityModel


class Sampler(ABC):
    """Draws the entries outside ``context``, jointly, in data units.

    What is drawn for a window depends on the seed and the window's position in its series, not on the batch.
    """

    num_samples: int
    seed: int

    @abstractmethod
    def __call__(self, model: DensityModel, batch: SeriesBatch) -> Samples:
        """Draws from what the model implies for each window of the batch."""
