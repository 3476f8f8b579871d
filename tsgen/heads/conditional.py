"""Any head given the step's own covariates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import Distribution

from tsgen.data.series import Sizes, Units
from tsgen.heads.base import Head
from tsgen.heads.gaussian import GaussianHead


class ConditionalHead(Head):
    r"""Another head that works on :math:`[h_t, c_t]`: its laws depend on the step's own covariates directly,
    beside what the encoder made of them.

    Args:
        hidden: Size of a node's state.
        sizes: How many numbers a slice holds.
        head: The other head.

    Raises:
        ValueError: If the data has no covariates.
    """

    def __init__(self, hidden: int, sizes: Sizes, head: Callable[[int, Sizes], Head] = GaussianHead) -> None:
        super().__init__(hidden, sizes)
        if not sizes.covariates:
            raise ValueError(
                "a ConditionalHead needs data with covariates; there are none. Use the head within it alone."
            )
        self.head = head(hidden + sizes.covariates, sizes)
        self.uniforms_per_entry = self.head.uniforms_per_entry
        self.context_first, self.joint_entries = self.head.context_first, self.head.joint_entries
        self.of_nodes = self.head.of_nodes

    @property
    def num_parameters_per_entry(self) -> int:
        """Those of the other head."""
        return self.head.num_parameters_per_entry

    def forward(
        self,
        h: Float[Tensor, "batch time nodes hidden"],
        values: Float[Tensor, "batch time nodes channels"],
        context: Bool[Tensor, "batch time nodes channels"],
        units: Units,
        covariates: Float[Tensor, "batch time nodes covariates"] | None = None,
    ) -> Distribution:
        """The law of each entry given what is known of its slice and the covariates, in data units.

        Raises:
            ValueError: If there are no covariates.
        """
        return self.head(_beside(h, covariates), values, context, units, covariates)

    def quantile(self, law: Any, uniforms: Float[Tensor, "*entry uniforms"]) -> Float[Tensor, "*entry"]:
        """Draws as the other head does."""
        return self.head.quantile(law, uniforms)

    def draw(
        self,
        h: Float[Tensor, "batch time nodes hidden"],
        values: Float[Tensor, "batch time nodes channels"],
        context: Bool[Tensor, "batch time nodes channels"],
        units: Units,
        uniforms: Float[Tensor, "batch time nodes channels uniforms"],
        covariates: Float[Tensor, "batch time nodes covariates"] | None = None,
    ) -> Float[Tensor, "batch time nodes channels"]:
        """The slices with their unknown entries drawn jointly by the other head, in data units.

        Raises:
            ValueError: If there are no covariates.
        """
        return self.head.draw(_beside(h, covariates), values, context, units, uniforms, covariates)


def _beside(
    h: Float[Tensor, "batch time nodes hidden"],
    covariates: Float[Tensor, "batch time nodes covariates"] | None,
) -> Float[Tensor, "batch time nodes features"]:
    if covariates is None:
        raise ValueError("a ConditionalHead must be given the step's covariates; it was given none.")
    return torch.cat([h, covariates.to(h.dtype)], dim=-1)
