r"""Monotone maps between the values of a channel and the whole real line, where the laws of heads live.

A head knows one kind of law: that of a real number z in standard units. A :class:`Transform` turns z into a
value of the channel, :math:`x = g^{-1}(\text{loc} + \text{scale} \cdot z)`, and so turns the law of z into
one of x on the channel's :class:`~tsgen.data.support.Support`:

* inside a continuum, the density of x is that of z times :math:`g'(x) / \text{scale}`;
* a value with a positive probability (an end with an atom, a multiple of a step, a value below a detection
  limit) belongs to an interval of z, and has its probability.

The power transforms are those of Box and Cox and of Yeo and Johnson; their exponent, unless fixed, maximises
the likelihood of Gaussians with a mean and a deviation for each node. Above the largest value that they were
fitted to they continue as a straight line, so that no law has a heavier tail there than its z.

References:
    An analysis of transformations (Box & Cox, 1964). A new family of power transformations to improve
    normality or symmetry (Yeo & Johnson, 2000). Neural spline flows (Durkan et al., 2019) for the splines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tsgen.argument_types import check_arguments
from tsgen.data.support import Support

POWERS = {"log": 0.0, "log1p": 0.0, "sqrt": 0.5, "box_cox": None, "yeo_johnson": None}
"""The power transforms, with their exponents; None for an exponent that is fitted."""

SHIFTED = ("log1p", "sqrt", "yeo_johnson")
"""Power transforms of one plus a multiple of the value, so that zero has a finite image."""

TRANSFORMS = ("identity", *POWERS, "logit", "spline")
"""The names of the transforms."""

EXPONENTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.25, 1.5, 1.75, 2.0)
"""The exponents that are compared."""

WIDTHS = (0.03, 0.1, 0.3, 1.0, 3.0)
"""The shifts of a shifted power that are compared, as multiples of the median."""

KNOTS = 17
"""The knots of a spline."""


class Cell(NamedTuple):
    """The interval of real numbers that a value stands for.

    Attributes:
        low: The lower end, minus infinity for the lowest value.
        high: The upper end, infinity for the highest value.
        single: Whether the value has a positive probability: that of the interval.
    """

    low: Tensor
    high: Tensor
    single: Bool[Tensor, "*entries"]


@check_arguments
@dataclass(frozen=True)
class Transform:
    """The map of one channel's values to real numbers, as plain data for a checkpoint.

    Args:
        support: The support of the channel, as :meth:`~tsgen.data.support.Support.parse` reads it.
        name: One of :data:`TRANSFORMS`.
        origin: The value at which powers start.
        width: The difference from the origin that a power counts as one.
        exponent: The exponent of a power.
        top: The value above which a power continues as a straight line.
        knots: The knots of a spline before its own map, and after it.

    Raises:
        ValueError: If the name is unknown, or does not belong to the support.
    """

    support: str = "real"
    name: str = "identity"
    origin: float = 0.0
    width: float = 1.0
    exponent: float = 1.0
    top: float = math.inf
    knots: Sequence[Sequence[float]] = ()

    def __post_init__(self) -> None:
        check_name(self.name, self.values)
        if not (0 < self.width < math.inf and 0 <= self.exponent <= 2):
            raise ValueError(
                f"width must be positive and exponent from 0 to 2; they are {self.width:g} and "
                f"{self.exponent:g}."
            )

    @cached_property
    def values(self) -> Support:
        """The support of the channel."""
        return Support.parse(self.support)

    @property
    def is_identity(self) -> bool:
        """Whether values are real numbers that stand for themselves."""
        return self.values.is_real and self.name == "identity"

    def forward(self, x: Float[Tensor, "*entries"]) -> Float[Tensor, "*entries"]:
        """Returns the real numbers of values.

        Values outside the support count as its nearest one, and values below a detection limit as the limit,
        since the data holds no more about them.
        """
        return self._image(x if self.values.limit is None else x.clamp(min=self.values.limit))

    def inverse(self, z: Float[Tensor, "*entries"]) -> Float[Tensor, "*entries"]:
        """Returns the values of real numbers, in the support."""
        support, x = self.values, self.unrounded(z)
        if support.step:
            x = support.nearest(x)
        return x.clamp(*support.ends)

    def unrounded(self, z: Float[Tensor, "*entries"]) -> Float[Tensor, "*entries"]:
        """Returns the inverse of the map alone, without steps and ends."""
        return self._base_inverse(self._spline.inverse(z) if self.knots else z)

    def _image(self, x: Tensor) -> Tensor:
        """Returns the real numbers of numbers, of which those outside the support count as its ends."""
        z = self._base(self._inside(x))
        return self._spline.forward(z) if self.knots else z

    def _inside(self, x: Tensor) -> Tensor:
        """Returns numbers moved to where the map is finite."""
        return x.clamp(*self._bounds)

    @cached_property
    def _bounds(self) -> tuple[float, float]:
        """The ends of the numbers that are mapped: edges of cells may lie beyond all values."""
        return replace(self.values, step=0.0).ends

    def log_derivative(self, x: Float[Tensor, "*entries"]) -> Float[Tensor, "*entries"]:
        """Returns the logarithm of the derivative of :meth:`forward`."""
        x = self._inside(x)
        slope = self._log_slope(x)
        return slope + self._spline.log_derivative(self._base(x)) if self.knots else slope

    def cell(self, x: Float[Tensor, "*entries"]) -> Cell:
        """Returns the real numbers that values stand for."""
        support, (lowest, highest) = self.values, self.values.ends
        low, high = self.lower(x), self.upper(x)
        single = torch.full_like(x, support.step > 0, dtype=torch.bool)
        if support.atoms[0]:
            single = single | (x <= lowest)
        if support.atoms[1]:
            single = single | (x >= highest)
        if support.limit is not None:
            below = x <= support.limit
            low = torch.where(below, -math.inf, low)
            high = torch.where(below, self.upper(torch.full_like(x, support.limit)), high)
            single = single | below
        return Cell(low, high, single)

    def lower(self, x: Float[Tensor, "*entries"]) -> Float[Tensor, "*entries"]:
        """Returns the real numbers below which all stand for values below ``x``."""
        return self._edge(x, -1)

    def upper(self, x: Float[Tensor, "*entries"]) -> Float[Tensor, "*entries"]:
        """Returns the real numbers up to which all stand for values of at most ``x``."""
        return self._edge(x, 1)

    def _edge(self, x: Tensor, side: int) -> Tensor:
        """Returns the lower or the upper end of the real numbers that values stand for."""
        support, (lowest, highest) = self.values, self.values.ends
        between = x
        if support.step:
            steps = (x - support.start) / support.step + side * support.rounding(x)
            steps = steps.floor() + 0.5 if side > 0 else steps.ceil() - 0.5
            between = support.start + support.step * steps
        z = self._image(between)
        below, above = between < lowest, between > highest
        if side < 0 and support.atoms[0]:
            below = below | (x <= lowest)
        if side > 0 and support.atoms[1]:
            above = above | (x >= highest)
        return torch.where(above, math.inf, torch.where(below, -math.inf, z))

    @cached_property
    def _spline(self) -> Spline:
        return Spline(*(torch.tensor(numbers, dtype=torch.float64) for numbers in self.knots))

    def _base(self, x: Tensor) -> Tensor:
        if self._is_power:
            return self._power(x)
        if self._is_logit:
            return ((x - self.values.low) / (self.values.high - x)).log()
        return x

    def _base_inverse(self, z: Tensor) -> Tensor:
        if self._is_power:
            return self._power_inverse(z)
        if self._is_logit:
            low, high = self.values.low, self.values.high
            return low + (high - low) * torch.sigmoid(z)
        return z

    def _log_slope(self, x: Tensor) -> Tensor:
        if self._is_power:
            u = (x.clamp(max=self.top) - self.origin) / self.width
            if self._shifted:
                power = torch.where(u >= 0, self.exponent - 1, 1 - self.exponent) * u.abs().log1p()
            else:
                power = torch.where(u > 1, self.exponent - 1, -1.0) * u.log()
            return power - math.log(self.width)
        if self._is_logit:
            low, high = self.values.low, self.values.high
            return math.log(high - low) - (x - low).log() - (high - x).log()
        return torch.zeros_like(x)

    @property
    def _is_power(self) -> bool:
        """Whether the values, or those that a spline then maps further, are mapped by a power."""
        half = math.isfinite(self.values.low) and math.isinf(self.values.high)
        return self.name in POWERS or (self.name == "spline" and half)

    @property
    def _is_logit(self) -> bool:
        bounded = math.isfinite(self.values.low) and math.isfinite(self.values.high)
        return self.name == "logit" or (self.name == "spline" and bounded and not any(self.values.atoms))

    @property
    def _shifted(self) -> bool:
        return self.name in SHIFTED or (self.name == "spline" and self.values.atoms[0])

    def _power(self, x: Tensor) -> Tensor:
        u = (x.clamp(max=self.top) - self.origin) / self.width
        z = _shifted_power(u, self.exponent) if self._shifted else _power_with_log(u, self.exponent)
        if math.isinf(self.top):
            return z
        slope = self._log_slope(torch.full_like(x, self.top)).exp()
        return z + slope * (x - self.top).clamp(min=0)

    def _power_inverse(self, z: Tensor) -> Tensor:
        if math.isfinite(self.top):
            top = torch.full_like(z, self.top)
            last, slope = self._power(top), self._log_slope(top).exp()
            above = ((z - last) / slope).clamp(min=0)
            z = torch.minimum(z, last)
        else:
            above = 0.0
        inverse = _shifted_power_inverse if self._shifted else _power_with_log_inverse
        return self.origin + self.width * inverse(z, self.exponent) + above


def _shifted_power(u: Tensor, exponent: float) -> Tensor:
    """The map of Yeo and Johnson: ((1 + u)^a - 1) / a for u > 0, -((1 - u)^(2 - a) - 1) / (2 - a) below."""
    log = u.abs().log1p()
    return torch.where(u >= 0, _expm1(log, exponent), -_expm1(log, 2 - exponent))


def _shifted_power_inverse(z: Tensor, exponent: float) -> Tensor:
    size = z.abs()
    return torch.where(
        z >= 0, _log1p(size, exponent).expm1(), -_log1p(size, 2 - exponent).clamp(max=600).expm1()
    )


def _power_with_log(u: Tensor, exponent: float) -> Tensor:
    """(u^a - 1) / a for u > 1, log u below: a power that reaches every real number."""
    log = u.log()
    return torch.where(u > 1, _expm1(log.clamp(min=0), exponent), log)


def _power_with_log_inverse(z: Tensor, exponent: float) -> Tensor:
    return torch.where(z > 0, _log1p(z.clamp(min=0), exponent), z.clamp(min=-600)).exp()


def _expm1(log: Tensor, exponent: float) -> Tensor:
    """Returns (exp(a log) - 1) / a, which is log for a = 0."""
    return (exponent * log).expm1() / exponent if exponent else log


def _log1p(z: Tensor, exponent: float) -> Tensor:
    """Returns log(1 + a z) / a, the inverse of :func:`_expm1`, up to numbers whose exponential is finite."""
    if not exponent:
        return z.clamp(max=600)
    return (1 + exponent * z).clamp(min=1e-300).log() / exponent


class Spline(NamedTuple):
    """A monotone rational-quadratic spline through knots, with straight lines of its end slopes outside.

    Attributes:
        x: The knots before the map, ascending.
        y: The knots after it, ascending.
    """

    x: Float[Tensor, "knots"]
    y: Float[Tensor, "knots"]

    @property
    def slopes(self) -> Float[Tensor, "knots"]:
        """The slope at each knot: between those of the neighbouring bins, weighted by their widths."""
        width, bins = self.x.diff(), self.y.diff() / self.x.diff()
        inner = (bins[:-1] * width[1:] + bins[1:] * width[:-1]) / (width[1:] + width[:-1])
        return torch.cat([bins[:1], inner, bins[-1:]])

    def forward(self, x: Tensor) -> Tensor:
        """Returns the spline at some numbers."""
        x0, y0, width, height, d0, d1 = self._bins(x, self.x)
        t = ((x - x0) / width).clamp(0, 1)
        slope = height / width
        denominator = slope + (d0 + d1 - 2 * slope) * t * (1 - t)
        inside = y0 + height * (slope * t.square() + d0 * t * (1 - t)) / denominator
        return inside + self._beyond(x, self.x, self.slopes.to(x))

    def inverse(self, y: Tensor) -> Tensor:
        """Returns the numbers at which the spline has some values."""
        x0, y0, width, height, d0, d1 = self._bins(y, self.y)
        slope, rise = height / width, (y - y0).clamp(min=0).minimum(height)
        a = height * (slope - d0) + rise * (d0 + d1 - 2 * slope)
        b = height * d0 - rise * (d0 + d1 - 2 * slope)
        c = -slope * rise
        t = 2 * c / (-b - (b.square() - 4 * a * c).clamp(min=0).sqrt())
        return x0 + width * t + self._beyond(y, self.y, 1 / self.slopes.to(y))

    def log_derivative(self, x: Tensor) -> Tensor:
        """Returns the logarithm of the spline's slope."""
        x0, _, width, height, d0, d1 = self._bins(x, self.x)
        t = ((x - x0) / width).clamp(0, 1)
        slope = height / width
        denominator = slope + (d0 + d1 - 2 * slope) * t * (1 - t)
        numerator = d1 * t.square() + 2 * slope * t * (1 - t) + d0 * (1 - t).square()
        return 2 * slope.log() + numerator.log() - 2 * denominator.log()

    def _bins(self, numbers: Tensor, knots: Tensor) -> tuple[Tensor, ...]:
        """Returns the ends, sizes and end slopes of the bins in which numbers lie."""
        x, y, d = self.x.to(numbers), self.y.to(numbers), self.slopes.to(numbers)
        index = torch.searchsorted(knots.to(numbers), numbers.detach().contiguous()).clamp(1, len(x) - 1)
        width, height = x.diff()[index - 1], y.diff()[index - 1]
        return x[index - 1], y[index - 1], width, height, d[index - 1], d[index]

    @staticmethod
    def _beyond(numbers: Tensor, knots: Tensor, slopes: Tensor) -> Tensor:
        """Returns the straight lines outside the knots."""
        first, last = float(knots[0]), float(knots[-1])
        return slopes[0] * (numbers - first).clamp(max=0) + slopes[-1] * (numbers - last).clamp(min=0)


def check_name(name: str, support: Support) -> None:
    """Raises ``ValueError`` unless a transform of this name maps a support to the real numbers.

    Args:
        name: The name.
        support: The support.
    """
    if name not in TRANSFORMS:
        raise ValueError(f"a transform must be one of {', '.join(TRANSFORMS)}; it is {name!r:.40}.")
    fitting = names_for(support)
    if name not in fitting:
        raise ValueError(
            f"a transform of {support} values must be one of {', '.join(fitting)}; it is {name}."
        )


def names_for(support: Support) -> tuple[str, ...]:
    """Returns the names of the transforms of a support, its default first.

    Args:
        support: The support.
    """
    below, above = math.isfinite(support.low), math.isfinite(support.high)
    if not below and not above:
        return ("identity", "yeo_johnson", "spline")
    if below and above:
        # without an atom at an end, only a map that never reaches it will do
        return (
            ("identity", "spline")
            if all(support.atoms)
            else ()
            if any(support.atoms)
            else ("logit", "spline")
        )
    if not below:
        return ("identity",) if support.atoms[1] else ()
    return (
        ("yeo_johnson", "log1p", "sqrt", "identity", "spline")
        if support.atoms[0]
        else ("box_cox", "log", "spline")
    )


@check_arguments
def fit_transform(
    support: Support,
    values: Float[Tensor, "rows nodes"],
    observed: Bool[Tensor, "rows nodes"],
    name: str | None = None,
) -> Transform:
    """Returns the transform of a channel whose values at each node are closest to Gaussian.

    Args:
        support: The support.
        values: Some values of the channel, in data units.
        observed: Which of them count.
        name: The name of the transform; that of the support's default if not given.

    Raises:
        ValueError: If no transform of this name maps the support to the real numbers.
    """
    name = name or next(iter(names_for(support)), "")
    check_name(name, support)
    continuous = observed & (values > support.low) & (values < support.high)
    found = Transform(str(support), name)
    if not continuous.any():
        return found
    if found._is_power:
        found = _fitted_power(found, values.double(), continuous)
    if name == "spline":
        found = _with_knots(found, values.double(), observed)
    return found


def _fitted_power(transform: Transform, values: Tensor, mask: Tensor) -> Transform:
    """Returns the power that maximises the likelihood of a Gaussian for each node."""
    support, there = transform.values, values[mask]
    origin = support.low if math.isfinite(support.low) else float(there.median())
    distance = (there - origin).abs()
    typical = float(distance.median()) or float(distance.max()) or 1.0
    fixed = POWERS.get(transform.name)
    if transform._shifted:
        widths = [width * typical for width in WIDTHS]
    else:
        # below the lowest twentieth a power continues as a logarithm
        widths = [max(float(distance.quantile(0.05)), 1e-6 * typical)]
    top = math.inf if fixed is not None else float(there.max())
    candidates = [
        replace(transform, origin=origin, width=width, exponent=exponent, top=top)
        for width in (widths if fixed is None else [typical])
        for exponent in (EXPONENTS if fixed is None else [fixed])
    ]
    return max(candidates, key=lambda candidate: _likelihood(candidate, values, mask))


def _likelihood(transform: Transform, values: Tensor, mask: Tensor) -> float:
    """Returns the log-likelihood of values whose images are Gaussian with the moments of each node."""
    x = torch.where(mask, values, values[mask][0])
    z, count = torch.where(mask, transform.forward(x), 0), mask.sum(dim=0).clamp(min=1)
    error = torch.where(mask, z - z.sum(dim=0) / count, 0)
    # nodes with few values have no variance of their own
    pooled = error.square().sum() / mask.sum()
    variance = (error.square().sum(dim=0) + 2 * pooled) / (count + 2)
    slopes = torch.where(mask, transform.log_derivative(x), 0).sum()
    return float(slopes - (count * variance.clamp(min=1e-300).log()).sum() / 2)


def _with_knots(transform: Transform, values: Tensor, observed: Tensor) -> Transform:
    """Returns a transform with a spline from its images to quantiles of a standard normal law."""
    images = transform._base(transform._inside(values[observed]))
    levels = (torch.arange(KNOTS, dtype=torch.float64) + 0.5) / KNOTS
    before = images.quantile(levels)
    keep = torch.cat([torch.ones(1, dtype=torch.bool), before.diff() > 1e-9 * (before[-1] - before[0])])
    if int(keep.sum()) < 2:
        return transform
    # of equal quantiles the middle one
    groups = keep.cumsum(0) - 1
    middle = torch.bincount(groups, levels) / torch.bincount(groups)
    after = torch.special.ndtri(middle)
    return replace(transform, knots=[before[keep].tolist(), after.tolist()])


class Transforms:
    """The transforms of all channels of a slice, applied along the last axis.

    Args:
        channels: One for each channel.
    """

    def __init__(self, channels: Sequence[Transform]) -> None:
        self.channels = tuple(channels)
        self.alike = len(set(map(repr, self.channels))) == 1

    def _each(self, name: str, numbers: Tensor) -> Any:
        if self.alike:
            return getattr(self.channels[0], name)(numbers)
        numbers = numbers.expand(torch.broadcast_shapes(numbers.shape, (len(self.channels),)))
        return torch.stack(
            [getattr(one, name)(x) for one, x in zip(self.channels, numbers.unbind(-1), strict=True)], dim=-1
        )

    def forward(self, values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the real numbers of values."""
        return self._each("forward", values)

    def inverse(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the values of real numbers."""
        return self._each("inverse", z)

    def unrounded(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the inverses of the maps alone, without steps and ends."""
        return self._each("unrounded", z)

    def log_derivative(self, values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the logarithm of the derivative of :meth:`forward`."""
        return self._each("log_derivative", values)

    def lower(self, values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the real numbers below which all stand for values below these."""
        return self._each("lower", values)

    def upper(self, values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the real numbers up to which all stand for values of at most these."""
        return self._each("upper", values)

    def cell(self, values: Float[Tensor, "..."]) -> Cell:
        """Returns the intervals of real numbers that values stand for."""
        if self.alike:
            return self.channels[0].cell(values)
        values = values.expand(torch.broadcast_shapes(values.shape, (len(self.channels),)))
        cells = [one.cell(x) for one, x in zip(self.channels, values.unbind(-1), strict=True)]
        return Cell(*(torch.stack(numbers, dim=-1) for numbers in zip(*cells, strict=True)))

    @cached_property
    def has_atoms(self) -> bool:
        """Whether some values have a positive probability."""
        return any(one.values.has_atoms for one in self.channels)

    @cached_property
    def has_steps(self) -> bool:
        """Whether some values are multiples of a step."""
        return any(one.values.step for one in self.channels)


def same_maps(one: Transforms | None, other: Transforms | None) -> bool:
    """Returns whether two sets of transforms are the same.

    Args:
        one: The first; None for the identity.
        other: The second.
    """
    return (one is None and other is None) or (
        one is not None and other is not None and one.channels == other.channels
    )
