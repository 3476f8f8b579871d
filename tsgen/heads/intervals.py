"""Probabilities of intervals, and the range that carries a law, in standard units.

A law of a head that is no Gaussian and no mixture of Gaussians may define the methods ``log_mass(low, high)``
and ``reach()`` itself; otherwise its ``cdf`` and ``icdf`` are used.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily, Normal

NARROW = 0.02
"""Intervals of fewer standard deviations than this have the density at their middle times their width."""

FURTHEST = 1e6
"""Ends of intervals further from the mean than so many standard deviations count as that far."""

DEVIATIONS = 8.0
"""The range of a Gaussian, in standard deviations on each side of its mean."""

WEIGHT = 1e-6
"""Components of less weight do not count for the range of a mixture."""


def log_mass(
    law: Distribution, low: Float[Tensor, "*entries"], high: Float[Tensor, "*entries"]
) -> Float[Tensor, "*entries"]:
    """Returns the logarithm of the probability between two numbers, in nats.

    It is finite, with finite gradients, however far the interval lies from the law.

    Args:
        law: One law per entry.
        low: The lower ends; minus infinity for none.
        high: The upper ends; infinity for none.
    """
    own = getattr(law, "log_mass", None)
    if callable(own):
        return own(low, high)
    if isinstance(law, Normal):
        return _normal(law.loc, law.scale, low, high)
    component: Any = getattr(law, "component_distribution", None)
    if isinstance(law, MixtureSameFamily) and isinstance(component, Normal):
        masses = _normal(component.loc, component.scale, low[..., None], high[..., None])
        return torch.logsumexp(law.mixture_distribution.logits + masses, dim=-1)
    mass = law.cdf(high) - law.cdf(low)
    return mass.clamp(min=torch.finfo(mass.dtype).tiny).log()


def _normal(loc: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Returns log(Phi(b) - Phi(a)) of the standardised ends a and b."""
    a, b = (((end - loc) / scale).clamp(-FURTHEST, FURTHEST) for end in (low, high))
    # in the upper tail the mirrored interval has the digits
    mirrored = a + b > 0
    a, b = torch.where(mirrored, -b, a), torch.where(mirrored, -a, b)
    width, middle = b - a, (a + b) / 2
    narrow = width * middle.abs().clamp(min=1) < NARROW
    at_middle = -middle.square() / 2 - math.log(math.sqrt(2 * math.pi))
    at_middle = at_middle + width.clamp(min=torch.finfo(width.dtype).tiny).log()
    upper, lower = _log_ndtr(b), _log_ndtr(torch.where(narrow, b - 1, a))
    return torch.where(narrow, at_middle, upper + torch.log(-torch.expm1(lower - upper)))


def _log_ndtr(x: Tensor) -> Tensor:
    """Returns the logarithm of the standard normal distribution function.

    torch's own has gradients that overflow far in the lower tail.
    """
    below = x < 0
    t = torch.where(below, -x, 1) / math.sqrt(2)
    tail = (torch.special.erfcx(t) / 2).log() - t.square()
    return torch.where(below, tail, torch.log1p(-torch.erfc(x.clamp(min=0) / math.sqrt(2)) / 2))


def reach(law: Distribution) -> tuple[Tensor, Tensor]:
    """Returns two numbers for each entry between which its law lies, to within a negligible probability.

    Args:
        law: One law per entry.
    """
    own = getattr(law, "reach", None)
    if callable(own):
        return own()
    if isinstance(law, Normal):
        return law.loc - DEVIATIONS * law.scale, law.loc + DEVIATIONS * law.scale
    component: Any = getattr(law, "component_distribution", None)
    if isinstance(law, MixtureSameFamily) and isinstance(component, Normal):
        counts = law.mixture_distribution.probs > WEIGHT
        low = component.loc - DEVIATIONS * component.scale
        high = component.loc + DEVIATIONS * component.scale
        return low.where(counts, torch.inf).amin(dim=-1), high.where(counts, -torch.inf).amax(dim=-1)
    share = torch.tensor(WEIGHT, device=law.mean.device, dtype=law.mean.dtype)
    return law.icdf(share), law.icdf(1 - share)
