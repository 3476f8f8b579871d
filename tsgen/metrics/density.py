r"""Scores of densities.

The CRPS of a mixture of Gaussians has a closed form: with :math:`A(\mu, \sigma) = E|\mu + \sigma Z|`, Z
standard normal,

.. math:: \sum_i \pi_i A(y - \mu_i, \sigma_i) - \frac12 \sum_{i,j} \pi_i \pi_j
    A\Bigl(\mu_i - \mu_j, \sqrt{\sigma_i^2 + \sigma_j^2}\Bigr).

References:
    The continuous ranked probability score for circular variables and its application to mesoscale forecast
    ensemble verification (Grimit et al., 2006).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily, Normal

from tsgen.metrics.mean import Mean


def law_crps(law: Distribution, truth: Float[Tensor, "*entries"]) -> Float[Tensor, "*entries"]:
    """The exact CRPS of each entry, in data units.

    Args:
        law: Gaussians, or mixtures of them.
        truth: The values that came true.

    Raises:
        ValueError: If the law is another.
    """
    if isinstance(law, Normal):
        weight, loc, scale = torch.ones_like(law.loc)[..., None], law.loc[..., None], law.scale[..., None]
    elif isinstance(law, MixtureSameFamily) and isinstance(law.component_distribution, Normal):
        component = law.component_distribution
        weight, loc, scale = law.mixture_distribution.probs, component.loc, component.scale
    else:
        raise ValueError(f"the law must be Gaussian or a mixture of Gaussians; it is {type(law).__name__}.")
    error = (weight * _mean_magnitude(truth[..., None] - loc, scale)).sum(dim=-1)
    apart, wide = loc[..., None] - loc[..., None, :], torch.hypot(scale[..., None], scale[..., None, :])
    both = weight[..., None] * weight[..., None, :]
    return error - (both * _mean_magnitude(apart, wide)).sum(dim=(-2, -1)) / 2


def _mean_magnitude(mean: Tensor, scale: Tensor) -> Tensor:
    """The mean of the absolute value of a Gaussian variable."""
    z = mean / scale
    density = (-z.square() / 2).exp() / math.sqrt(2 * math.pi)
    return mean * torch.erf(z / math.sqrt(2)) + 2 * scale * density


class LawCRPS(Mean):
    """Mean exact CRPS of the laws that draws follow, in data units: what samples score, without their
    noise."""

    higher_is_better = False

    def update(
        self, law: Distribution, truth: Float[Tensor, "*entries"], mask: Bool[Tensor, "*entries"]
    ) -> None:
        """Adds entries.

        Args:
            law: Gaussians, or mixtures of them.
            truth: The true values, in data units; anything outside the mask.
            mask: Which entries are scored.
        """
        self._add(law_crps(law, torch.where(mask, truth, 0))[mask], mask)


class NLL(Mean):
    """Mean negative log-likelihood of the scored entries, in nats an entry. NaN if nothing was scored."""

    higher_is_better = False

    def update(self, log_prob: Float[Tensor, "*entries"], mask: Bool[Tensor, "*entries"]) -> None:
        """Adds entries.

        Args:
            log_prob: Log-density of each entry in nats; zero outside the mask.
            mask: Which entries are scored.
        """
        self._add(-log_prob, mask)
