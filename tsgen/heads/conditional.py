"""A head whose laws depend directly on the step's own covariates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import Distribution

from tsgen.argument_types import check_arguments, made
from tsgen.data.series import Sizes, Units
from tsgen.heads.base import Head
from tsgen.heads.gaussian import GaussianHead


@check_arguments
class ConditionalHead(Head):
    r"""An inner head applied to :math:`[h_t, c_t]`: its laws depend on the step's own covariates directly,
    not only through the encoder.

    Args:
        hidden: Size of a node's state.
        sizes: Numbers of nodes, channels and covariates of a slice.
        head: Makes the inner head from the size of its input and the sizes of a slice.

    Raises:
        ValueError: If the data has no covariates.
    """

    def __init__(self, hidden: int, sizes: Sizes, head: Callable[[int, Sizes], Head] = GaussianHead) -> None:
        super().__init__(hidden, sizes)
        if not sizes.covariates:
            raise ValueError(
                "a ConditionalHead needs data with covariates; the data has none. Use its inner head instead."
            )
        self.head = made("head", Head, head, hidden + sizes.covariates, sizes)
        self.uniforms_per_entry = self.head.uniforms_per_entry
        self.support, self.has_mean = self.head.support, self.head.has_mean
        self.follows_support = self.head.follows_support
        self.has_cdf, self.has_icdf = self.head.has_cdf, self.head.has_icdf
        self.closed_crps, self.of_nodes = self.head.closed_crps, self.head.of_nodes
        self.context_first, self.joint_entries = self.head.context_first, self.head.joint_entries

    @property
    def num_parameters_per_entry(self) -> int:
        """That of the inner head."""
        return self.head.num_parameters_per_entry

    def check_data(self, data: Any, stage: str) -> None:
        """Raises ``ValueError`` if the inner head cannot model the data."""
        self.head.check_data(data, stage)

    def forward(
        self,
        h: Float[Tensor, "batch time nodes hidden"],
        values: Float[Tensor, "batch time nodes channels"],
        context: Bool[Tensor, "batch time nodes channels"],
        units: Units,
        covariates: Float[Tensor, "batch time nodes covariates"] | None = None,
    ) -> Distribution:
        """Returns the law of each entry given the covariates and the context of its slice, in data units.

        Raises:
            ValueError: If there are no covariates.
        """
        return self.head(_with_covariates(h, covariates), values, context, units, covariates)

    def quantile(self, law: Any, uniforms: Float[Tensor, "*entry uniforms"]) -> Float[Tensor, "*entry"]:
        """Turns uniform numbers into draws from the law, as the inner head does."""
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
        """Draws the entries outside the context jointly, as the inner head does, in data units.

        Raises:
            ValueError: If there are no covariates.
        """
        return self.head.draw(_with_covariates(h, covariates), values, context, units, uniforms, covariates)

    def proposal(
        self,
        h: Float[Tensor, "batch time nodes hidden"],
        values: Float[Tensor, "batch time nodes channels"],
        context: Bool[Tensor, "batch time nodes channels"],
        units: Units,
        covariates: Float[Tensor, "batch time nodes covariates"] | None = None,
    ) -> Distribution:
        """Returns the laws from which :meth:`draw` took entries, those of the inner head, in data units.

        Raises:
            ValueError: If there are no covariates.
        """
        return self.head.proposal(_with_covariates(h, covariates), values, context, units, covariates)


def _with_covariates(
    h: Float[Tensor, "batch time nodes hidden"],
    covariates: Float[Tensor, "batch time nodes covariates"] | None,
) -> Float[Tensor, "batch time nodes features"]:
    """Returns the state of each node, followed by the covariates of the step."""
    if covariates is None:
        raise ValueError("a ConditionalHead needs the covariates of the step; got None. Pass them.")
    return torch.cat([h, covariates.to(h.dtype)], dim=-1)
