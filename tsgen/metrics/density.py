r"""Scores of predictive distributions: negative log-likelihood and exact CRPS.

A law with a method ``crps(truth)`` computes its own CRPS. With additional zeros of probability π, the CRPS of
:math:`\pi \delta_0 + (1 - \pi) G` is

.. math:: \pi |y| + (1 - \pi) \bigl(\mathrm{CRPS}(G, y) - \pi \, \mathrm{CRPS}(G, 0)\bigr).

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
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily, Normal

from tsgen.argument_types import check_shapes
from tsgen.data.series import Units
from tsgen.heads.in_data_units import InDataUnits
from tsgen.metrics.mean import Mean


@check_shapes
def has_closed_crps(law: Distribution) -> bool:
    """Returns whether :func:`law_crps` has a closed form for a law.

    It has one for Gaussians, for mixtures of Gaussians, for every law with a method ``crps(truth)``, and for
    these with additional zeros.

    Args:
        law: One law per entry.

    Example:
        >>> from torch.distributions import StudentT
        >>> has_closed_crps(Normal(0.0, 1.0)), has_closed_crps(StudentT(3.0))
        (True, False)
    """
    if isinstance(law, InDataUnits):
        return has_closed_crps(law.law)
    return isinstance(_component(law), Normal) or callable(getattr(law, "crps", None))


def _component(law: Any) -> Any:
    """Returns the component distribution of a mixture, or the law itself if it is not a mixture."""
    return law.component_distribution if isinstance(law, MixtureSameFamily) else law


@check_shapes
def law_crps(law: Distribution, truth: Float[Tensor, "*entries"]) -> Float[Tensor, "*entries"]:
    """Returns the exact CRPS of each entry, in data units.

    Args:
        law: Gaussians, mixtures of them, or laws with a method ``crps(truth)``.
        truth: The true values, in data units.

    Raises:
        ValueError: If the CRPS has no closed form (see :func:`has_closed_crps`).
    """
    shape = law.batch_shape + law.event_shape
    try:
        torch.broadcast_shapes(truth.shape, shape)
    except RuntimeError as mismatch:
        raise ValueError(
            f"truth must have the shape of the law, {list(shape)}, or one that can be broadcast with it; its "
            f"shape is {list(truth.shape)}."
        ) from mismatch
    if isinstance(law, InDataUnits):
        if law.units.transforms is not None:
            return law.crps(truth)
        return law.units.scale * law_crps(law.law, law.units.standardise(truth))
    own = getattr(law, "crps", None)
    if callable(own):
        return own(truth)
    component = _component(law)
    if not has_closed_crps(law):
        of_components = "" if component is law else f" of {type(component).__name__}"
        raise ValueError(
            f"the law must be Gaussian or a mixture of Gaussians; it is {type(law).__name__}{of_components}. "
            "Score samples from it with tsgen.metrics.crps."
        )
    loc, scale = component.loc, component.scale
    if isinstance(law, MixtureSameFamily):
        weight = law.mixture_distribution.probs
    else:
        weight, loc, scale = torch.ones_like(loc)[..., None], loc[..., None], scale[..., None]
    error = (weight * _mean_magnitude(truth[..., None] - loc, scale)).sum(dim=-1)
    difference = loc[..., None] - loc[..., None, :]
    deviation = torch.hypot(scale[..., None], scale[..., None, :])
    pair_weight = weight[..., None] * weight[..., None, :]
    return error - (pair_weight * _mean_magnitude(difference, deviation)).sum(dim=(-2, -1)) / 2


def standard_crps(
    law: Distribution, truth: Float[Tensor, "*entries"], units: Units
) -> Float[Tensor, "*entries"]:
    """Returns the CRPS of each entry in standard units, for a loss.

    Where values are real numbers it is the CRPS divided by the scale of the node. Elsewhere it is the CRPS of
    the images of truth and value under the transform of the channel, which is proper too.

    Args:
        law: Laws in data units with a CRPS in closed form.
        truth: The true values, in data units.
        units: The units of the nodes.
    """
    if units.transforms is None:
        return law_crps(law, truth) / units.scale
    if not isinstance(law, InDataUnits):
        low, high = (units.value(units.loc + sign * units.scale) for sign in (-1, 1))
        return law_crps(law, truth) / torch.where(high > low, (high - low) / 2, 1)
    if units.transforms.has_atoms:
        crps = law.crps(truth, in_standard_units=True)
    else:
        crps = law_crps(law.law, law.units.standardise(truth))
    return crps * law.units.scale / units.scale


@check_shapes
def pit(
    law: Distribution, truth: Float[Tensor, "*entries"], noise: Float[Tensor, "*entries"]
) -> Float[Tensor, "*entries"]:
    r"""Returns the randomised probability integral transform, uniform on (0, 1) if the truth follows the law.

    .. math:: F(y^-) + u (F(y) - F(y^-))

    It equals F(y) where the law has no atom.

    Args:
        law: Laws with a distribution function, with or without atoms.
        truth: The true values, in data units.
        noise: Uniform numbers u in (0, 1).

    References:
        Predictive model assessment for count data (Czado, Gneiting & Held, 2009).
    """
    y = truth.to(torch.float64)
    # the limit from below is the value at the next smaller number
    below = law.cdf(y.nextafter(torch.full_like(y, -math.inf)))
    return below + noise * (law.cdf(y) - below)


def _mean_magnitude(mean: Tensor, scale: Tensor) -> Tensor:
    """Returns the mean of the absolute value of a Gaussian variable."""
    z = mean / scale
    density = (-z.square() / 2).exp() / math.sqrt(2 * math.pi)
    return mean * torch.erf(z / math.sqrt(2)) + 2 * scale * density


@check_shapes
class LawCRPS(Mean):
    """Mean exact CRPS of the laws that samples are drawn from, in data units: the CRPS of the samples without
    their Monte Carlo noise."""

    higher_is_better = False

    @check_shapes
    def update(
        self, law: Distribution, truth: Float[Tensor, "*entries"], mask: Bool[Tensor, "*entries"]
    ) -> None:
        """Adds entries.

        Args:
            law: Gaussians, or mixtures of them.
            truth: The true values, in data units; anything outside the mask.
            mask: The entries that are scored.
        """
        self._add(law_crps(law, torch.where(mask, truth, 0))[mask], mask)


@check_shapes
class NLL(Mean):
    """Mean negative log-likelihood of the scored entries, in nats per entry. NaN if nothing was scored."""

    higher_is_better = False

    @check_shapes
    def update(self, log_prob: Float[Tensor, "*entries"], mask: Bool[Tensor, "*entries"]) -> None:
        """Adds entries.

        Args:
            log_prob: Log-density of each entry in nats; zero outside the mask.
            mask: The entries that are scored.
        """
        self._add(-log_prob, mask)
