"""A mixture of Gaussians an entry."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily, Normal

from tsgen.heads.base import Head, positive
from tsgen.series import Units


class MixtureHead(Head):
    r"""A mixture of K Gaussians, logits, means and log-scales each affine in the state:
    :math:`p(x) = \sum_k \pi_k(h) N(x; \mu_k(h), \sigma_k(h)^2)`.

    Args:
        hidden: Size of a node's state.
        channels: Entries of a node.
        components: The number K of Gaussians.

    Raises:
        ValueError: If ``components`` is below 1.
    """

    uniforms_per_entry = 2

    def __init__(self, hidden: int, channels: int, components: int = 3) -> None:
        super().__init__(hidden, channels)
        if components < 1:
            raise ValueError(f"components must be at least 1; it is {components}.")
        self.components = components
        self.linear = nn.Linear(hidden, 3 * components * channels)
        # the first means are spread like a standard normal, each component as wide as its share
        quantiles = torch.special.ndtri((torch.arange(components) + 0.5) / components)
        log_scale = torch.full_like(quantiles, -1.0 if components > 1 else 0.0)
        bias = torch.stack([torch.zeros(components), quantiles, log_scale])
        with torch.no_grad():
            self.linear.bias.copy_(bias.repeat(channels, 1, 1).flatten())

    @property
    def num_parameters_per_entry(self) -> int:
        """3 K (hidden + 1): an affine map each for logits, means and log-scales."""
        return 3 * self.components * (self.hidden + 1)

    def forward(
        self,
        h: Float[Tensor, "batch time nodes hidden"],
        values: Float[Tensor, "batch time nodes channels"],
        known: Bool[Tensor, "batch time nodes channels"],
        units: Units,
    ) -> Distribution:
        """The law of each entry, in data units."""
        logits, mean, log_scale = self.linear(h).unflatten(-1, (self.channels, 3, self.components)).unbind(-2)
        loc, scale = units.loc[..., None], units.scale[..., None]
        return MixtureSameFamily(
            Categorical(logits=logits, validate_args=False),
            Normal(loc + scale * mean, scale * positive(log_scale), validate_args=False),
            validate_args=False,
        )

    def quantile(
        self, law: MixtureSameFamily, uniforms: Float[Tensor, "*entry uniforms"]
    ) -> Float[Tensor, "*entry"]:
        """Draws a component with the first number, and its normal quantile with the second."""
        component: Any = law.component_distribution
        below = uniforms[..., :1] > law.mixture_distribution.probs.cumsum(dim=-1)[..., :-1]
        chosen = below.sum(dim=-1, keepdim=True)
        mean, scale = (x.gather(-1, chosen).squeeze(-1) for x in (component.loc, component.scale))
        return mean + scale * torch.special.ndtri(uniforms[..., 1])
