"""One Gaussian per entry."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from tsgen.argument_types import check_arguments
from tsgen.data.series import Sizes, Units
from tsgen.heads.base import Head, limited, positive
from tsgen.heads.in_data_units import InDataUnits


@check_arguments
class GaussianHead(Head):
    r"""A Gaussian whose mean is affine in the state: :math:`x \sim N(v \cdot h + b, \sigma^2)`.

    Its standard deviation sigma is one of:

    * ``"state"``: :math:`\sigma = \exp(u \cdot h + d)`, log-affine in the state;
    * ``"node"``: a learned number for each node and channel, independent of the state;
    * a number: fixed, as a multiple of the standard deviation of the node's data.

    Args:
        hidden: Size of a node's state.
        sizes: Numbers of nodes, channels and covariates of a slice.
        scale: How sigma is determined, or sigma itself in standard units.

    Raises:
        ValueError: If ``scale`` is another string, or a number that is not positive and finite.
    """

    uniforms_per_entry = 1
    has_cdf = has_icdf = closed_crps = follows_support = True

    def __init__(self, hidden: int, sizes: Sizes, scale: Literal["state", "node"] | float = "state") -> None:
        super().__init__(hidden, sizes)
        if scale not in ("state", "node") and (isinstance(scale, str) or not 0 < scale < math.inf):
            raise ValueError(f"scale must be 'state', 'node' or a positive number; it is {scale!r}.")
        self.scale, self.of_nodes = scale, scale == "node"
        self.linear = nn.Linear(hidden, (2 if scale == "state" else 1) * sizes.channels)
        nn.init.zeros_(self.linear.bias)
        if scale == "node":
            self.log_scale = nn.Parameter(torch.zeros(sizes.nodes, sizes.channels))

    @property
    def num_parameters_per_entry(self) -> int:
        """2 (hidden + 1), one affine map each for mean and log-scale; hidden + 2 with ``scale="node"`` and
        hidden + 1 with a fixed scale."""
        mean = self.hidden + 1
        return mean + {"state": mean, "node": 1}.get(str(self.scale), 0)

    def forward(
        self,
        h: Float[Tensor, "batch time nodes hidden"],
        values: Float[Tensor, "batch time nodes channels"],
        context: Bool[Tensor, "batch time nodes channels"],
        units: Units,
        covariates: Float[Tensor, "batch time nodes covariates"] | None = None,
    ) -> Distribution:
        """Returns the law of each entry, in data units."""
        numbers = self.linear(h).unflatten(-1, (self.sizes.channels, -1))
        mean = numbers[..., 0]
        mean, scale = limited(mean, torch.as_tensor(self._scale(numbers, units.nodes)).to(mean), units)
        law = Normal(mean, scale, validate_args=False)
        return InDataUnits(law, units)

    def _scale(
        self, numbers: Float[Tensor, "batch time nodes channels numbers"], nodes: Tensor | None
    ) -> Tensor | float:
        """Returns sigma in standard units."""
        if self.scale == "node":
            return positive(self.log_scale if nodes is None else self.log_scale[nodes])
        return positive(numbers[..., 1]) if self.scale == "state" else self.scale

    def quantile(
        self, law: InDataUnits, uniforms: Float[Tensor, "*entry uniforms"]
    ) -> Float[Tensor, "*entry"]:
        """Turns uniform numbers into draws by the normal quantile function."""
        normal = torch.special.ndtri(uniforms[..., 0])
        return law.units.unstandardise(law.law.mean + law.law.stddev * normal)
