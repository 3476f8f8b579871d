r"""Laws of counts: Poisson, negative binomial, and any law with additional zeros.

They are :class:`torch.distributions.Distribution` objects with a distribution function, a quantile function
and a CRPS in closed form, which torch's own laws of counts lack. The log-probability is differentiable in
every parameter. All numbers are computed in float64: the log-probability of a count near 1e6 is the
difference of numbers near 1e7.

The distribution functions are regularised incomplete functions: gamma for the Poisson law, beta for the
negative binomial one. torch has the former only; :func:`incomplete_beta` computes the latter by a continued
fraction or, if both of its parameters are large, by quadrature.

References:
    Evaluating probabilistic forecasts with scoringRules (Jordan, Krueger & Lerch, 2019);
    Numerical recipes (Press, Teukolsky, Vetterling & Flannery, 2007), section 6.4.
"""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Gamma, constraints

LARGEST_COUNT = 2.0**53
"""The largest quantile: float64 holds whole numbers up to here."""

BOTH_LARGE = 3000.0
"""The incomplete beta function is integrated if both parameters exceed this."""

TERMS = 1000
"""Most terms of the continued fraction; about 200 are needed if one parameter is at most BOTH_LARGE."""

WALK = 64
"""Quantiles below this are found by adding up probabilities."""

NEWTON_STEPS = 20
"""Steps of Newton's method before bisection."""

TINY = 1e-300
"""A probability that replaces zero in a quotient."""

STIRLING = 10.0
"""Stirling's series with three terms has errors below 1e-10 from here on."""


def _lgamma_increment(x: Tensor, step: Tensor) -> Tensor:
    """Returns log Γ(x + step) - log Γ(x) without cancellation, for x of at least STIRLING."""

    def remainder(z: Tensor) -> Tensor:
        square = z.square()
        return (1 / 12 - (1 / 360 - (1 / 1260 - 1 / (1680 * square)) / square) / square) / z

    total = x + step
    main = (x - 0.5) * torch.log1p(step / x) + step * total.log() - step
    return main + remainder(total) - remainder(x)


def log_beta(a: Tensor, b: Tensor) -> Tensor:
    """Returns the logarithm of the beta function, accurately if one parameter is far above the other."""
    small, large = torch.minimum(a, b), torch.maximum(a, b)
    big = large >= STIRLING
    # fill first: where() alone leaves NaN in the gradient
    direct = torch.lgamma(torch.where(big, 1.0, large + small)) - torch.lgamma(torch.where(big, 1.0, large))
    increment = torch.where(big, _lgamma_increment(large.clamp(min=STIRLING), small), direct)
    return torch.lgamma(small) - increment


def _continued_fraction(a: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """Returns the continued fraction of the incomplete beta function, by Lentz's method."""

    def away_from_zero(z: Tensor) -> Tensor:
        return torch.where(z.abs() < TINY, TINY, z)

    c = torch.ones_like(x)
    d = 1 / away_from_zero(1 - (a + b) * x / (a + 1))
    result = d
    for m in range(1, TERMS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 / away_from_zero(1 + term * d), away_from_zero(1 + term / c)
            result = result * d * c
        # a comparison waits for the device, so it is made every eighth time
        if m % 8 == 0 and bool(((d * c - 1).abs() < 1e-13).all()):
            break
    return result


def _quadrature(a: Tensor, b: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Returns the incomplete beta function of two large parameters, by Gauss-Legendre quadrature."""
    mean = a / (a + b)
    deviation = (a * b / (a + b + 1)).sqrt() / (a + b)
    above = x > mean
    # a distance of ten deviations from the mean has no mass
    end = torch.where(
        above,
        (mean + 10 * deviation).maximum(x + 5 * deviation),
        (mean - 10 * deviation).minimum(x - 5 * deviation),
    ).clamp(0, 1)
    node, weight = (torch.from_numpy(n).to(x) for n in np.polynomial.legendre.leggauss(40))
    step = (end - x)[..., None] * (node + 1) / 2
    t, rest = x[..., None] + step, y[..., None] - step
    exponent = (a - 1)[..., None] * (t / mean[..., None]).log() + (b - 1)[..., None] * (
        rest / (1 - mean)[..., None]
    ).log()
    total = (weight * exponent.exp()).sum(dim=-1) / 2 * (end - x)
    total = total * ((a - 1) * mean.log() + (b - 1) * torch.log1p(-mean) - log_beta(a, b)).exp()
    return torch.where(above, 1 - total, -total).clamp(0, 1)


def incomplete_beta(a: Tensor, b: Tensor, x: Tensor, y: Tensor) -> Tensor:
    r"""Returns the regularised incomplete beta function :math:`I_x(a, b)`.

    Args:
        a: The first parameter, positive.
        b: The second parameter, positive.
        x: The argument, in (0, 1).
        y: One minus x, which keeps its digits if x is close to 1.
    """
    a, b, x, y = torch.broadcast_tensors(a, b, x, y)
    both = (a > BOTH_LARGE) & (b > BOTH_LARGE)
    result = torch.zeros_like(x)
    if not bool(both.all()):
        # fill first: where() alone leaves NaN in the gradient
        p, q = torch.where(both, 1.0, a), torch.where(both, 1.0, b)
        # the fraction converges quickly for arguments below the mean
        swap = x > (p + 1) / (p + q + 2)
        first, second = torch.where(swap, q, p), torch.where(swap, p, q)
        argument = torch.where(swap, y, x)
        front = (p * x.log() + q * y.log() - log_beta(p, q)).exp() / first
        part = front * _continued_fraction(first, second, argument)
        result = torch.where(both, result, torch.where(swap, 1 - part, part).clamp(0, 1))
    if bool(both.any()):
        large = torch.where(both, a, 2 * BOTH_LARGE), torch.where(both, b, 2 * BOTH_LARGE)
        result = torch.where(
            both, _quadrature(*large, torch.where(both, x, 0.5), torch.where(both, y, 0.5)), result
        )
    return result


class CountLaw(Distribution):
    """A law of counts: the base class, with quantiles and the checks of values."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.nonnegative_integer

    @abstractmethod
    def _log_prob(self, count: Tensor) -> Tensor:
        """Returns the log-probability of counts."""

    @abstractmethod
    def _cdf(self, count: Tensor) -> Tensor:
        """Returns the distribution function at counts."""

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the log-probability of counts in nats; minus infinity for other numbers."""
        value = value.to(torch.float64)
        count = value.clamp(min=0).round()
        return torch.where((value == count) & value.isfinite(), self._log_prob(_finite(count)), -math.inf)

    def cdf(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the probability of at most a value."""
        value = value.to(torch.float64)
        below = self._cdf(_finite(value).clamp(min=0).floor())
        below = torch.where(value == math.inf, 1.0, torch.where(value < 0, 0.0, below))
        return torch.where(value.isnan(), torch.nan, below)

    @abstractmethod
    def _some(self, chosen: Tensor) -> CountLaw:
        """Returns the laws of the entries that a mask or an index chooses."""

    @abstractmethod
    def _ratio(self) -> tuple[Any, Tensor]:
        """Returns the numbers c and d of :math:`P(k) / P(k - 1) = c + d / k`."""

    @torch.no_grad()
    def icdf(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the smallest counts k with a distribution function F(k) of at least a probability.

        Where the quantile of a gamma law of the same mean and variance (Wilson and Hilferty's) is below
        :data:`WALK`, probabilities are added up. Other counts are found by Newton's method.

        Args:
            value: Probabilities, in [0, 1]. A probability of 1 gives infinity.
        """
        probability = value.to(torch.float64)
        shape = torch.broadcast_shapes(probability.shape, self.batch_shape)
        law, p = self.expand(shape), probability.expand(shape)
        shape_root = law.mean / law.variance.sqrt()
        z = torch.special.ndtri(p.clamp(1e-15, 1 - 1e-15))
        cube_root = 1 - 1 / (3 * shape_root).square() + z / (3 * shape_root)
        count = (law.mean * cube_root.clamp(min=0).pow(3)).clamp(max=LARGEST_COUNT).floor()
        near = count < WALK
        if bool(near.any()):
            count[near] = law._some(near)._walk(p[near])
        far = (count >= WALK) & (p < 1)
        if bool(far.any()):
            count[far] = law._some(far)._search(p[far], count[far])
        return torch.where(p >= 1, math.inf, count)

    def _walk(self, p: Float[Tensor, "entries"]) -> Float[Tensor, "entries"]:
        """Returns the quantiles of probabilities, or :data:`WALK` if they are larger, by adding up."""
        found, place = torch.empty_like(p), torch.arange(len(p), device=p.device)
        count = torch.zeros_like(p)
        constant, falling = self._ratio()
        constant = torch.as_tensor(constant, dtype=p.dtype, device=p.device).expand_as(p)
        mass = total = self._log_prob(count).exp()
        for k in range(1, WALK + 1):
            above = p > total
            left = int(above.sum())
            if not left:
                break
            if left < len(p) / 2:
                # go on with those that are left
                found[place] = count
                place, p, count, mass, total, constant, falling = (
                    x[above] for x in (place, p, count, mass, total, constant, falling)
                )
                above = torch.ones_like(p, dtype=torch.bool)
            count = count + above
            mass = mass * (constant + falling / k)
            total = total + mass
        found[place] = count
        return found

    def _search(self, p: Float[Tensor, "entries"], count: Float[Tensor, "entries"]) -> Tensor:
        """Returns the quantiles of probabilities by Newton's method, from a first guess.

        The logarithm of the smaller tail is nearly linear in the count. F(k) less P(k) is the distribution
        function at k - 1, so that one evaluation decides whether k is the quantile. After
        :data:`NEWTON_STEPS` the bracket is halved.
        """
        found, place, law = torch.empty_like(p), torch.arange(len(p), device=p.device), self
        low, high = torch.full_like(p, -1.0), torch.full_like(p, LARGEST_COUNT)
        for step in itertools.count():
            cdf, mass = law._cdf(count), law._log_prob(count).exp()
            below = cdf < p
            low, high = torch.where(below, count, low), torch.where(below, high, count)
            low = torch.where(~below & (cdf - mass < p), count - 1, low)
            found[place] = high
            open_ = high - low > 1
            if not bool(open_.any()):
                return found
            if step < NEWTON_STEPS:
                upper = p > 0.5
                tail, aim = torch.where(upper, 1 - cdf, cdf), torch.where(upper, 1 - p, p)
                distance = (tail.clamp(min=TINY) / aim).log().abs() * tail / mass.clamp(min=TINY)
                count = torch.where(below, count + distance.ceil(), count - distance.floor())
            else:
                count = ((low + high) / 2).floor()
            count = count.maximum(low + 1).minimum(high - 1)
            place, p, count, low, high = (x[open_] for x in (place, p, count, low, high))
            law = law._some(open_)
        raise AssertionError("unreachable")


def _finite(value: Tensor) -> Tensor:
    return torch.where(value.isfinite(), value, 0.0).clamp(max=LARGEST_COUNT)


class PoissonLaw(CountLaw):
    r"""A Poisson law, :math:`P(k) = e^{-\lambda} \lambda^k / k!`.

    Args:
        rate: The mean λ, positive.

    Example:
        >>> law = PoissonLaw(torch.tensor(2.0))
        >>> round(float(law.cdf(torch.tensor(1.0))), 4), float(law.icdf(torch.tensor(0.5)))
        (0.406, 2.0)
    """

    def __init__(self, rate: Float[Tensor, "*entries"]) -> None:
        self.rate = rate.to(torch.float64)
        super().__init__(rate.shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> PoissonLaw:
        """Returns the law expanded to a batch shape."""
        return PoissonLaw(self.rate.expand(batch_shape))

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self.rate

    @property
    def variance(self) -> Tensor:
        """The variance, equal to the mean."""
        return self.rate

    def _some(self, chosen: Tensor) -> PoissonLaw:
        return PoissonLaw(self.rate[chosen])

    def _ratio(self) -> tuple[float, Tensor]:
        return 0.0, self.rate

    def _log_prob(self, count: Tensor) -> Tensor:
        return torch.xlogy(count, self.rate) - self.rate - torch.lgamma(count + 1)

    def _cdf(self, count: Tensor) -> Tensor:
        count, rate = torch.broadcast_tensors(count, self.rate)
        return torch.special.gammaincc(count + 1, rate)

    def crps(self, truth: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        r"""Returns the CRPS,
        :math:`(y - \lambda)(2F(y) - 1) + 2\lambda P(\lfloor y \rfloor) - \lambda e^{-2\lambda}
        (I_0(2\lambda) + I_1(2\lambda))` with the modified Bessel functions I.

        Args:
            truth: The true values.
        """
        y, rate = truth.to(torch.float64), self.rate
        point = torch.where(y < 0, 0.0, self._log_prob(y.clamp(min=0).floor()).exp())
        spread = torch.special.i0e(2 * rate) + torch.special.i1e(2 * rate)
        return (y - rate) * (2 * self.cdf(y) - 1) + 2 * rate * point - rate * spread

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Returns draws."""
        return torch.poisson(self.rate.expand(self._extended_shape(torch.Size(sample_shape))))


class NegativeBinomialLaw(CountLaw):
    r"""A negative binomial law: a Poisson law whose rate follows a gamma law.

    With the mean μ and the dispersion α its variance is :math:`\mu + \alpha \mu^2`, and with r = 1/α

    .. math:: P(k) = \frac{\Gamma(k + r)}{\Gamma(r)\, k!} \Bigl(\frac{r}{r + \mu}\Bigr)^r
        \Bigl(\frac{\mu}{r + \mu}\Bigr)^k.

    Args:
        mean: The mean μ, positive.
        dispersion: The dispersion α, positive; the law approaches a Poisson law as it approaches zero.

    Example:
        >>> law = NegativeBinomialLaw(torch.tensor(3.0), torch.tensor(0.5))
        >>> float(law.variance), round(float(law.log_prob(torch.tensor(0.0))), 4)
        (7.5, -1.8326)
    """

    def __init__(self, mean: Float[Tensor, "*entries"], dispersion: Float[Tensor, "*entries"]) -> None:
        self._mean, self.dispersion = torch.broadcast_tensors(
            mean.to(torch.float64), dispersion.to(torch.float64)
        )
        self.size = 1 / self.dispersion
        super().__init__(self._mean.shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> NegativeBinomialLaw:
        """Returns the law expanded to a batch shape."""
        return NegativeBinomialLaw(self._mean.expand(batch_shape), self.dispersion.expand(batch_shape))

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self._mean

    @property
    def variance(self) -> Tensor:
        """The variance."""
        return self._mean + self.dispersion * self._mean.square()

    def _some(self, chosen: Tensor) -> NegativeBinomialLaw:
        return NegativeBinomialLaw(self._mean[chosen], self.dispersion[chosen])

    def _ratio(self) -> tuple[Tensor, Tensor]:
        odds = self._mean / (self.size + self._mean)
        return odds, odds * (self.size - 1)

    def _log_prob(self, count: Tensor) -> Tensor:
        size, mean = self.size, self._mean
        ways = -log_beta(size, count + 1) - (size + count).log()
        return ways - size * torch.log1p(mean / size) + count * (mean.log() - (size + mean).log())

    def _cdf(self, count: Tensor) -> Tensor:
        return self._incomplete(self.size, count + 1)

    def _incomplete(self, a: Tensor, b: Tensor) -> Tensor:
        total = self.size + self._mean
        return incomplete_beta(a, b, self.size / total, self._mean / total)

    def crps(self, truth: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        r"""Returns the CRPS, with z = 4μ(r + μ)/r² and the distribution function :math:`F_r`

        .. math:: y (2F_r(y) - 1) - \mu (2F_{r+1}(y - 1) - 1)
            - \mu \frac{r + \mu}{r} \, {}_2F_1(r + 1, \tfrac12; 2; -z).

        Args:
            truth: The true values.
        """
        y, mean, size = truth.to(torch.float64), self._mean, self.size
        before = (y - 1).floor()
        # size-biased counts minus one have the size r + 1 and the same probability
        biased = torch.where(before < 0, 0.0, self._incomplete(size + 1, before.clamp(min=0) + 1))
        spread = mean * (1 + mean / size) * self._hypergeometric()
        return y * (2 * self.cdf(y) - 1) - mean * (2 * biased - 1) - spread

    def _hypergeometric(self) -> Tensor:
        r"""Returns :math:`{}_2F_1(r + 1, 1/2; 2; -z)`, Euler's integral with t = τ² / (1 + τ²):

        .. math:: \frac4\pi \int_0^\infty (1 + \tau^2)^{-2} (1 + z t)^{-(r + 1)} d\tau.

        The substitution τ = c sinh w makes the trapezoidal rule converge geometrically.
        """
        size = self.size[..., None]
        z = (4 * self._mean * (1 / self.size + self._mean / self.size.square()))[..., None]
        h = 0.3125
        w = torch.arange(113, dtype=torch.float64, device=z.device) * h
        c = (1 + z * (size + 1)).rsqrt()
        square = (c * w.sinh()).square()
        exponent = -2 * torch.log1p(square) - (size + 1) * torch.log1p(z * square / (1 + square))
        term = exponent.exp() * c * w.cosh()
        return 4 / math.pi * h * (term.sum(dim=-1) - term[..., 0] / 2)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Returns draws: a gamma variable is the rate of a Poisson variable."""
        shape = self._extended_shape(torch.Size(sample_shape))
        gamma = Gamma(self.size.expand(shape), 1.0, validate_args=False).sample()
        return torch.poisson(gamma * self.dispersion * self._mean)
