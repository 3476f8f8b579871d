"""Exact draws, where the posterior is known in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tsgen.sampling.base import Sampler
from tsgen.series import Samples, SeriesBatch

if TYPE_CHECKING:
    from tsgen.models.graph_var import GraphVAR


@dataclass(frozen=True)
class Exact(Sampler):
    r"""Draws the unknown entries jointly from :math:`p(x_{\text{unknown}} \mid x_{\text{visible}})`: the
    POSTERIOR.

    Everything visible is used, before an entry and after it. Only a linear-Gaussian model has this in closed
    form (see :mod:`tsgen.kalman`).

    Args:
        num_samples: Draws of each window.
        seed: Fixes the draws.

    Raises:
        ValueError: If ``num_samples`` is below 1.
    """

    num_samples: int = 100
    seed: int = 0

    def check(self, model: object) -> None:
        """Raises ``ValueError`` unless the model knows its posterior."""
        if not hasattr(type(model), "posterior"):
            raise ValueError(
                f"the exact sampler needs a model that knows its posterior, a GraphVAR; "
                f"{type(model).__name__} does not. Use tsgen.sampling.Ancestral."
            )

    def __call__(self, model: GraphVAR, batch: SeriesBatch) -> Samples:  # type: ignore[override]
        """Draws from the posterior of each window."""
        return model.process.impute(batch, self.num_samples, self.seed)
