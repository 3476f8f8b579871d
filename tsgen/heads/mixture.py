r"""One mixture of Gaussians per entry, :math:`p(x) = \sum_k \pi_k N(x; \mu_k, \sigma_k^2)`.

Each component has three numbers: a logit, a mean and a log-scale, the last two in standard units.
:func:`mixture_law` makes the law from them and :func:`mixture_quantile` draws from it. All heads with
mixtures use these two functions and differ in how they compute the numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, MixtureSameFamily, Normal

from tsgen.argument_types import check_arguments
from tsgen.data.series import Sizes, Units
from tsgen.heads.base import Head, limited, positive
from tsgen.heads.in_data_units import InDataUnits


def mixture_law(
    numbers: Float[Tensor, "*entry 3 components"], units: Units | None = None
) -> MixtureSameFamily:
    """Returns the mixtures with the given logits, means and log-scales, in standard units.

    Args:
        numbers: Logit, mean and log-scale of each component.
        units: The units, which may limit means and scales; no limit if not given.
    """
    logits, mean, log_scale = numbers.unbind(-2)
    scale = positive(log_scale)
    if units is not None:
        mean, scale = limited(mean, scale, units)
    return MixtureSameFamily(
        Categorical(logits=logits, validate_args=False),
        Normal(mean, scale, validate_args=False),
        validate_args=False,
    )


def mixture_quantile(law: Any, uniforms: Float[Tensor, "*entry uniforms"]) -> Float[Tensor, "*entry"]:
    r"""Draws from mixtures: the first number picks a component, the second gives its normal quantile.

    The gradient is that of the mixture's own quantile function, :math:`\partial x = -\partial F(x) / p(x)`
    with F its distribution function. The gradient of the drawn component alone would omit the effect of the
    weights.

    Args:
        law: The mixtures.
        uniforms: Two numbers in (0, 1) per entry. Additional axes in front give several draws of each entry.

    References:
        Implicit reparameterization gradients (Figurnov, Mohamed & Mnih, 2018).
    """
    component: Any = law.component_distribution
    passed = uniforms[..., :1] > law.mixture_distribution.probs.cumsum(dim=-1)[..., :-1]
    chosen = passed.sum(dim=-1, keepdim=True)
    mean, scale = (
        x.expand(*chosen.shape[:-1], -1).gather(-1, chosen).squeeze(-1)
        for x in (component.loc, component.scale)
    )
    x = mean + scale * torch.special.ndtri(uniforms[..., 1])
    if not x.requires_grad:
        return x
    x = x.detach()
    component_cdf = torch.special.ndtr((x[..., None] - component.loc) / component.scale)
    cdf = (law.mixture_distribution.probs * component_cdf).sum(dim=-1)
    # the density underflows in the far tails, and so does the difference
    density = law.log_prob(x).detach().exp().clamp(min=1e-30)
    return x - (cdf - cdf.detach()) / density


def initial_numbers(components: int) -> Float[Tensor, "3 components"]:
    """Returns the initial numbers of the components: equal weights, means at quantiles of a standard normal
    law, and scales of about exp(-1), or 1 for a single component.

    Args:
        components: Number of components.

    Raises:
        ValueError: If ``components`` is below 1.
    """
    if components < 1:
        raise ValueError(f"components must be at least 1; it is {components}.")
    mean = torch.special.ndtri((torch.arange(components) + 0.5) / components)
    log_scale = torch.full_like(mean, -1.0 if components > 1 else 0.0)
    return torch.stack([torch.zeros(components), mean, log_scale])


@check_arguments
class MixtureHead(Head):
    r"""A mixture of K Gaussians, :math:`p(x) = \sum_k \pi_k(h) N(x; \mu_k(h), \sigma_k(h)^2)`, with logits,
    means and log-scales that are affine in the state.

    Args:
        hidden: Size of a node's state.
        sizes: Numbers of nodes, channels and covariates of a slice.
        components: The number K of Gaussians.

    Raises:
        ValueError: If ``components`` is below 1.
    """

    uniforms_per_entry = 2
    has_cdf = has_icdf = closed_crps = follows_support = True

    def __init__(self, hidden: int, sizes: Sizes, components: int = 3) -> None:
        super().__init__(hidden, sizes)
        initial = initial_numbers(components)
        self.components = components
        self.linear = nn.Linear(hidden, 3 * components * sizes.channels)
        with torch.no_grad():
            self.linear.bias.copy_(initial.repeat(sizes.channels, 1, 1).flatten())

    @property
    def num_parameters_per_entry(self) -> int:
        """3 K (hidden + 1), one affine map each for logits, means and log-scales."""
        return 3 * self.components * (self.hidden + 1)

    def forward(
        self,
        h: Float[Tensor, "batch time nodes hidden"],
        values: Float[Tensor, "batch time nodes channels"],
        context: Bool[Tensor, "batch time nodes channels"],
        units: Units,
        covariates: Float[Tensor, "batch time nodes covariates"] | None = None,
    ) -> Distribution:
        """Returns the law of each entry, in data units."""
        numbers = self.linear(h).unflatten(-1, (self.sizes.channels, 3, self.components))
        return InDataUnits(mixture_law(numbers, units), units)

    def quantile(
        self, law: InDataUnits, uniforms: Float[Tensor, "*entry uniforms"]
    ) -> Float[Tensor, "*entry"]:
        """Turns two uniform numbers per entry into a draw, by :func:`mixture_quantile`."""
        return law.units.unstandardise(mixture_quantile(law.law, uniforms))
