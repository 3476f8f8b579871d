"""Probabilities of intervals, quantiles, and the range that carries a law, in standard units.

A law of a head that is no Gaussian and no mixture of Gaussians defines the methods ``log_mass(low, high)``
and ``reach()`` itself.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

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

BISECTIONS = 60
"""Halvings of an interval that are enough for float64."""

WEIGHT = 1e-6
"""Components of less weight do not count for the range of a mixture."""


def log_mass(
    law: Distribution, low: Float[Tensor, "..."], high: Float[Tensor, "..."]
) -> Float[Tensor, "..."]:
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
    raise ValueError(f"a law must be Gaussian, a mixture of Gaussians or have log_mass; it is {law}.")


def standardised(end: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Returns ends of intervals in deviations from the mean, at most :data:`FURTHEST` from it."""
    infinite = end.isinf()
    # fill first: an infinite end has no gradient in the scale, and would give NaN
    z = (torch.where(infinite, 0, end) - loc) / scale
    return torch.where(infinite, end, z).clamp(-FURTHEST, FURTHEST)


def _normal(loc: Tensor, scale: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Returns log(Phi(b) - Phi(a)) of the standardised ends a and b."""
    a, b = (standardised(end, loc, scale) for end in (low, high))
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


class Reach(NamedTuple):
    """The range of a law, and a warped axis that has most nodes where the law has most of its probability.

    Attributes:
        low: The lower end; what lies below has a negligible probability.
        high: The upper end.
        centre: Where nodes are closest.
        width: The distance from the centre at which nodes begin to thin out.
    """

    low: Tensor
    high: Tensor
    centre: Tensor
    width: Tensor

    def part(self, low: Tensor, high: Tensor) -> Reach:
        """Returns a part of the range, on the same axis."""
        return Reach(*torch.broadcast_tensors(low, high, self.centre, self.width))

    def at(self, share: Tensor) -> Tensor:
        """Returns the numbers at shares, from 0 to 1, of the warped range."""
        low, high = (torch.asinh((end - self.centre) / self.width) for end in (self.low, self.high))
        inner = self.centre + self.width * torch.sinh(low + (high - low) * share)
        # the ends themselves to the last digit: atoms lie there
        return torch.where(share == 0, self.low, torch.where(share == 1, self.high, inner))


@torch.no_grad()
def reach(law: Distribution) -> Reach:
    """Returns the range of each entry's law.

    Args:
        law: One law per entry.
    """
    own = getattr(law, "reach", None)
    if callable(own):
        return own()
    component: Any = getattr(law, "component_distribution", None)
    if isinstance(law, MixtureSameFamily) and isinstance(component, Normal):
        counts = law.mixture_distribution.probs > WEIGHT
        low = component.loc - DEVIATIONS * component.scale
        high = component.loc + DEVIATIONS * component.scale
        ends = low.where(counts, torch.inf).amin(dim=-1), high.where(counts, -torch.inf).amax(dim=-1)
        return Reach(*ends, law.mean, law.stddev)
    deviation = DEVIATIONS * law.stddev
    return Reach(law.mean - deviation, law.mean + deviation, law.mean, law.stddev)


def quantile(law: Distribution, probability: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Returns the quantiles of probabilities, by bisection where the law has no closed form.

    Args:
        law: One law per entry.
        probability: The probabilities; axes in front give several quantiles of each entry.
    """
    component: Any = getattr(law, "component_distribution", None)
    if not isinstance(law, MixtureSameFamily) or component is None:
        return law.icdf(probability)
    with torch.no_grad():
        around = reach(law)
        low, high = around.low, around.high
        span = high - low
        # the components cover nearly all probabilities; others lie at most a few ranges further
        low, high = (x.expand(torch.broadcast_shapes(x.shape, probability.shape)) for x in (low, high))
        for factor in (1, 10, 100, 1000):
            low = torch.where(law.cdf(low) > probability, low - factor * span, low)
            high = torch.where(law.cdf(high) < probability, high + factor * span, high)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            below = law.cdf(middle) < probability
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        x = (low + high) / 2
        density = law.log_prob(x).exp().clamp(min=torch.finfo(x.dtype).tiny)
    if not torch.is_grad_enabled():
        return x
    cdf = law.cdf(x)
    return x - (cdf - cdf.detach() - (probability - probability.detach())) / density
