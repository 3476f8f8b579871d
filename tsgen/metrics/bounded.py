r"""CRPS of Gaussian and logistic laws that are censored or truncated.

A *censored* law has the mass beyond a bound as an atom at the bound; a *truncated* law is that of the
variable given that it lies within the bounds. With the standard distribution function F, bounds l < u in
standard units, their atoms L and U, z = min(max(y, l), u) and :math:`w = (1 - L - U) / (F(u) - F(l))`

.. math:: |y - z| + u U^2 - l L^2 + w z \Bigl(2F(z) - \frac{(1 - 2L) F(u) + (1 - 2U) F(l)}{1 - L - U}\Bigr)
    + w \bigl(2f(z) - 2f(u) U - 2f(l) L\bigr) - \frac{w^2}{\sqrt\pi}
    \bigl(F(u \sqrt2) - F(l \sqrt2)\bigr)

for the Gaussian law with its density f, in units of the scale. That of the logistic law is in the reference.

References:
    Evaluating probabilistic forecasts with scoringRules (Jordan, Krueger & Lerch, 2019), appendix A.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from tsgen.argument_types import check_shapes

Family = Literal["normal", "logistic"]


@check_shapes
def censored_crps(
    loc: Float[Tensor, "*entries"],
    scale: Float[Tensor, "*entries"],
    truth: Float[Tensor, "*entries"],
    low: float = -math.inf,
    high: float = math.inf,
    family: Family = "normal",
) -> Float[Tensor, "*entries"]:
    """Returns the CRPS of laws whose mass beyond a bound is an atom at the bound, in data units.

    Args:
        loc: The locations of the laws without bounds.
        scale: Their scales.
        truth: The true values.
        low: The lower bound, in data units.
        high: The upper bound.
        family: The laws without bounds.

    Raises:
        ValueError: If the lower bound is not below the upper one.
    """
    return _bounded(loc, scale, truth, (low, high), family, atoms=True)


@check_shapes
def truncated_crps(
    loc: Float[Tensor, "*entries"],
    scale: Float[Tensor, "*entries"],
    truth: Float[Tensor, "*entries"],
    low: float = -math.inf,
    high: float = math.inf,
    family: Family = "normal",
) -> Float[Tensor, "*entries"]:
    """Returns the CRPS of laws given that the variable lies within bounds, in data units.

    Args:
        loc: The locations of the laws without bounds.
        scale: Their scales.
        truth: The true values.
        low: The lower bound, in data units.
        high: The upper bound.
        family: The laws without bounds.

    Raises:
        ValueError: If the lower bound is not below the upper one.
    """
    return _bounded(loc, scale, truth, (low, high), family, atoms=False)


def _bounded(
    loc: Tensor, scale: Tensor, truth: Tensor, bounds: tuple[float, float], family: Family, atoms: bool
) -> Tensor:
    """Returns the CRPS of bounded laws, computed in float64."""
    if not bounds[0] < bounds[1]:
        raise ValueError(f"low must be below high; they are {bounds[0]:g} and {bounds[1]:g}.")
    loc, scale, y = loc.double(), scale.double(), (truth.double() - loc.double()) / scale.double()
    low, high = ((bound - loc) / scale for bound in bounds)
    cdf = torch.special.ndtr if family == "normal" else torch.sigmoid
    low_atom, high_atom = cdf(low), cdf(-high)
    inside = 1 - low_atom - high_atom
    if not atoms:
        low_atom, high_atom = torch.zeros_like(low_atom), torch.zeros_like(high_atom)
    parts = _gaussian if family == "normal" else _logistic
    z = y.clamp(low, high)
    # without a bound there is no atom, and infinity times zero would be NaN
    ends = torch.where(high.isinf(), 0.0, high) * high_atom.square()
    ends = ends - torch.where(low.isinf(), 0.0, low) * low_atom.square()
    weight = (1 - low_atom - high_atom) / inside
    common = (1 - 2 * low_atom) * cdf(high) + (1 - 2 * high_atom) * cdf(low)
    linear = -z * common / inside
    return scale * ((y - z).abs() + ends + linear + parts(z, low, high, low_atom, high_atom, weight))


def _gaussian(
    z: Tensor, low: Tensor, high: Tensor, at_low: Tensor, at_high: Tensor, weight: Tensor
) -> Tensor:
    """Returns the terms of the Gaussian law that hold its distribution function and density."""

    def density(x: Tensor) -> Tensor:
        return (-x.square() / 2).exp() / math.sqrt(2 * math.pi)

    ends = density(high) * at_high + density(low) * at_low
    spread = torch.special.ndtr(high * math.sqrt(2)) - torch.special.ndtr(low * math.sqrt(2))
    main = 2 * z * torch.special.ndtr(z) + 2 * density(z) - 2 * ends
    return weight * main - weight.square() * spread / math.sqrt(math.pi)


def _logistic(
    z: Tensor, low: Tensor, high: Tensor, at_low: Tensor, at_high: Tensor, weight: Tensor
) -> Tensor:
    """Returns the terms of the logistic law that hold its distribution function."""

    def g(x: Tensor) -> Tensor:
        finite = torch.where(x.isinf(), 0.0, x)
        inner = finite * finite.sigmoid() + logsigmoid(-finite)
        return torch.where(x.isinf(), 0.0, inner)

    def h(x: Tensor) -> Tensor:
        finite = torch.where(x.isinf(), 0.0, x)
        p = finite.sigmoid()
        inner = p - finite * p.square() + (1 - 2 * p) * logsigmoid(-finite)
        return torch.where(x.isinf(), (x > 0).to(x.dtype), inner)

    main = 2 * logsigmoid(-z) - 2 * g(high) * at_high - 2 * g(low) * at_low
    # 2 z F(z) + 2 log F(-z) in place of the Gaussian law's 2 z F(z) + 2 f(z)
    return -weight * main - weight.square() * (h(high) - h(low))
