"""Exact draws, where the posterior is known in closed form."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from tsgen.counter_random import streams
from tsgen.data.series import SeriesBatch
from tsgen.protocols import ExactModel
from tsgen.sampling.base import Sampler


@dataclass(frozen=True)
class Exact(Sampler[ExactModel]):
    r"""Draws the unknown entries jointly from :math:`p(x_{\text{unknown}} \mid x_{\text{visible}})`: the
    POSTERIOR.

    Everything visible is used, before an entry and after it. Only a linear-Gaussian model has this in closed
    form (see :mod:`tsgen.exact.kalman`).

    Args:
        num_samples: Draws of each window.
        seed: Fixes the draws.

    Raises:
        ValueError: If ``num_samples`` is below 1.
    """

    conditioning = "posterior"
    num_samples: int = 100
    seed: int = 0

    def check(self, model: object) -> None:
        """Raises ``ValueError`` unless the model knows its posterior."""
        if not isinstance(model, ExactModel):
            raise ValueError(
                f"the exact sampler needs a GraphVAR, whose posterior is known; got {type(model).__name__}. "
                "Use tsgen.sampling.Ancestral or AnyOrder."
            )

    def bytes_a_draw(self, model: ExactModel, batch: SeriesBatch) -> int:
        """Random numbers, a simulated state, and the means forwards and backwards, in float64."""
        return 8 * 8 * batch.values[0].numel() * model.process.order

    def draw(
        self,
        model: ExactModel,
        batch: SeriesBatch,
        stream: Int64[Tensor, "samples batch"],
        values: Float[Tensor, "samples batch time nodes channels"] | None = None,
    ) -> Float[Tensor, "samples batch time nodes channels"]:
        """Draws each window once for each of its random streams, from its posterior."""
        return model.process.draw(batch, stream, values)

    def _streams(self, position: Int64[Tensor, "batch"], sample: Tensor) -> Int64[Tensor, "samples batch"]:
        """Those of :meth:`~tsgen.exact.linear.VARProcess.impute`."""
        return streams(self.seed, sample, position)
