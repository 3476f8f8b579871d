"""One Gaussian an entry."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Distribution, Normal

from tsgen.heads.base import Head, positive
from tsgen.series import Units


class GaussianHead(Head):
    r"""A Gaussian whose mean and log-scale are affine in the state:
    :math:`x \sim N(v \cdot h + b, \sigma^2)` with :math:`\sigma = \exp(u \cdot h + d)`.

    Args:
        hidden: Size of a node's state.
        channels: Entries of a node.
    """

    uniforms_per_entry = 1

    def __init__(self, hidden: int, channels: int) -> None:
        super().__init__(hidden, channels)
        self.linear = nn.Linear(hidden, 2 * channels)
        nn.init.zeros_(self.linear.bias)

    @property
    def num_parameters_per_entry(self) -> int:
        """2 (hidden + 1): an affine map each for mean and log-scale."""
        return 2 * (self.hidden + 1)

    def forward(
        self,
        h: Float[Tensor, "batch time nodes hidden"],
        values: Float[Tensor, "batch time nodes channels"],
        known: Bool[Tensor, "batch time nodes channels"],
        units: Units,
    ) -> Distribution:
        """The law of each entry, in data units."""
        mean, log_scale = self.linear(h).unflatten(-1, (self.channels, 2)).unbind(-1)
        return Normal(units.loc + units.scale * mean, units.scale * positive(log_scale), validate_args=False)

    def quantile(self, law: Normal, uniforms: Tensor) -> Float[Tensor, "batch time nodes channels"]:
        """Draws by the normal quantile function."""
        return law.mean + law.stddev * torch.special.ndtri(uniforms[..., 0])
