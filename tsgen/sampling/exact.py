"""Exact draws from a posterior that is known in closed form."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int64
from torch import Tensor

from tsgen.argument_types import check_shapes
from tsgen.counter_random import streams
from tsgen.data.series import SeriesBatch
from tsgen.protocols import ExactModel
from tsgen.sampling.base import Sampler


@check_shapes
@dataclass(frozen=True)
class Exact(Sampler[ExactModel]):
    r"""Draws the unknown entries jointly from :math:`p(x_{\text{unknown}} \mid x_{\text{visible}})`: the
    POSTERIOR.

    Each draw is given all visible entries, both earlier and later ones. Only a linear-Gaussian model has this
    posterior in closed form (see :mod:`tsgen.exact.kalman`).

    Args:
        num_samples: The number of draws per window.
        seed: Seed of the draws.

    Raises:
        ValueError: If ``num_samples`` is below 1.
    """

    conditioning = "posterior"
    num_samples: int = 100
    seed: int = 0

    def check(self, model: object) -> None:
        """Raises ``ValueError`` unless the posterior of the model is known in closed form."""
        if not isinstance(model, ExactModel):
            raise ValueError(
                f"the exact sampler needs a GraphVAR, whose posterior has a closed form; got "
                f"{type(model).__name__}. Use tsgen.sampling.Ancestral or AnyOrder."
            )

    def bytes_per_draw(self, model: ExactModel, batch: SeriesBatch) -> int:
        """Counts random numbers, a simulated state, and the forward and backward means, in float64."""
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

    def _streams(self, address: Int64[Tensor, "batch"], sample: Tensor) -> Int64[Tensor, "samples batch"]:
        """Returns the same streams as :meth:`~tsgen.exact.linear.VARProcess.impute` uses."""
        return streams(self.seed, sample, address)
