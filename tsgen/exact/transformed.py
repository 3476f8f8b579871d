r"""Censored, positive and bounded values on a graph, with a known law one step ahead.

All are functions of Gaussian numbers:

* :class:`TobitNetwork`: values below a limit are the limit, an atom.
* :class:`LogNormalNetwork`: the exponential of a vector autoregression of order 1.
* :class:`LogitNormalNetwork`: values between two bounds whose logits are a vector autoregression of order 1.

For the last two, :math:`g(x)` is Gaussian given the past and the density of x is that of g(x) times
:math:`g'(x)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch_geometric.data import Data

from tsgen.argument_types import check_shapes
from tsgen.exact.markov import MarkovProcess, OneStepLaw

QUADRATURE = 64
"""Nodes of the Gauss-Hermite quadrature of the moments of logit-normal laws."""


@check_shapes
@dataclass(eq=False)
class TobitNetwork(MarkovProcess):
    r"""A censored autoregression on a graph: a dynamic Tobit model.

    .. math:: x_t^v = \max(c, d + a x_{t-1}^v + b m_{t-1}^v + \sigma \epsilon_t^v), \qquad
              \epsilon_t^v \sim N(0, 1),

    with :math:`m^v` the weighted mean of the in-neighbours of v. The observed values drive the process, so
    that the law one step ahead is known given these alone: it has the probability :math:`\Phi((c - \mu) /
    \sigma)` at c and a Gaussian density above.

    Args:
        graph: The directed, weighted graph.
        limit: The limit c, rounded to float32, the precision of series.
        intercept: The constant d.
        persistence: The coefficient a of a node's own previous value.
        coupling: The coefficient b of the mean of its neighbours.
        scale: The standard deviation of the noise before censoring.

    Raises:
        ValueError: If |persistence| + |coupling| is 1 or more, the scale is not positive, or a number is not
            finite.

    References:
        Dynamic time series models for censored data: a dynamic Tobit model (de Jong & Herrera, 2011).
    """

    graph: Data
    limit: float = 0.0
    intercept: float = -0.1
    persistence: float = 0.3
    coupling: float = 0.5
    scale: float = 1.0

    def __post_init__(self) -> None:
        self._check_finite("limit", "intercept", "persistence", "coupling")
        self._check_positive("scale")
        self._check_stable(self.persistence, self.coupling)
        self.limit = float(np.float32(self.limit))  # or the limit would not be recognised in a series
        self.VALUES = f"finite and at least {self.limit:g}"  # type: ignore[misc]
        super().__post_init__()

    def _outside(self, values: Tensor) -> Tensor:
        return ~torch.isfinite(values) | (values < self.limit)

    def _law(self, previous: Float[Tensor, "*slices nodes"]) -> CensoredNormal:
        loc = self._affine(self.intercept, self.persistence, self.coupling, previous)
        return CensoredNormal(loc, self.scale, self.limit)


class CensoredNormal(OneStepLaw):
    """The law of the larger of a Gaussian number and a limit.

    Args:
        loc: The mean of the Gaussian number.
        scale: Its standard deviation.
        limit: The limit.
    """

    def __init__(self, loc: Float[Tensor, "..."], scale: float, limit: float) -> None:
        self.loc, self.scale, self.limit = loc, scale, limit
        self._end = (limit - loc) / scale
        super().__init__(loc.shape)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self.limit + self.scale * self._excess()[0]

    @property
    def variance(self) -> Tensor:
        """The variance."""
        first, second = self._excess()
        return self.scale**2 * (second - first.square())

    def _excess(self) -> tuple[Tensor, Tensor]:
        """Returns the moments of the difference to the limit, in standard deviations of the Gaussian."""
        z = -self._end
        above, density = torch.special.ndtr(z), (-z.square() / 2).exp() / math.sqrt(2 * math.pi)
        return z * above + density, (z.square() + 1) * above + z * density

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the log-probability of the limit and the log-density above it, in nats."""
        value = value.double()
        atom = torch.special.log_ndtr(self._end)
        density = _log_density((value - self.loc) / self.scale) - math.log(self.scale)
        found = torch.where(value == self.limit, atom, density)
        return torch.where(value < self.limit, -torch.inf, found)

    def cdf(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the probability of at most a value."""
        value = value.double()
        return torch.where(value < self.limit, 0, torch.special.ndtr((value - self.loc) / self.scale))

    def cdf_below(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the probability of less than a value."""
        value = value.double()
        return torch.where(value <= self.limit, 0, torch.special.ndtr((value - self.loc) / self.scale))

    def icdf(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the smallest number whose ``cdf`` is at least a probability."""
        return (self.loc + self.scale * torch.special.ndtri(value.double())).clamp(min=self.limit)


def _log_density(z: Tensor) -> Tensor:
    return -z.square() / 2 - math.log(2 * math.pi) / 2


@check_shapes
@dataclass(eq=False)
class LogNormalNetwork(MarkovProcess):
    r"""Positive values on a graph whose logarithms are a vector autoregression.

    .. math:: \log x_t^v = d + a \log x_{t-1}^v + b \sum_{u \to v} w_{uv} \log x_{t-1}^u /
              \sum_{u \to v} w_{uv} + \sigma \epsilon_t^v, \qquad \epsilon_t^v \sim N(0, 1).

    Args:
        graph: The directed, weighted graph.
        intercept: The constant d.
        persistence: The coefficient a of the logarithm of a node's own previous value.
        coupling: The coefficient b of the mean of those of its neighbours.
        scale: The standard deviation of the noise of the logarithm.

    Raises:
        ValueError: If |persistence| + |coupling| is 1 or more, the scale is not positive, or a number is not
            finite.

    References:
        Network vector autoregression (Zhu et al., 2017), of the logarithms.
    """

    graph: Data
    intercept: float = 0.4
    persistence: float = 0.3
    coupling: float = 0.5
    scale: float = 0.5

    VALUES = "positive and finite"

    def __post_init__(self) -> None:
        self._check_finite("intercept", "persistence", "coupling")
        self._check_positive("scale")
        self._check_stable(self.persistence, self.coupling)
        super().__post_init__()

    def _outside(self, values: Tensor) -> Tensor:
        return ~torch.isfinite(values) | (values <= 0)

    def _first(self) -> Tensor:
        return torch.ones(self.num_nodes, dtype=torch.float64)

    def _law(self, previous: Float[Tensor, "*slices nodes"]) -> MappedNormal:
        loc = self._affine(self.intercept, self.persistence, self.coupling, previous.log())
        return MappedNormal(loc, self.scale, 0.0, math.inf)


@check_shapes
@dataclass(eq=False)
class LogitNormalNetwork(MarkovProcess):
    r"""Values between two bounds, on a graph, whose logits are a vector autoregression.

    .. math:: z_t^v = d + a z_{t-1}^v + b \sum_{u \to v} w_{uv} z_{t-1}^u / \sum_{u \to v} w_{uv} + \sigma
              \epsilon_t^v, \qquad z = \log \frac{x - l}{h - x}, \qquad \epsilon_t^v \sim N(0, 1).

    Args:
        graph: The directed, weighted graph.
        low: The lower bound l; no value reaches it.
        high: The upper bound h; no value reaches it.
        intercept: The constant d.
        persistence: The coefficient a of a node's own previous logit.
        coupling: The coefficient b of the mean of those of its neighbours.
        scale: The standard deviation of the noise of the logit.

    Raises:
        ValueError: If |persistence| + |coupling| is 1 or more, the scale is not positive, the bounds are not
            in order, or a number is not finite.

    References:
        Logistic-normal distributions: some properties and uses (Aitchison & Shen, 1980).
    """

    graph: Data
    low: float = 0.0
    high: float = 100.0
    intercept: float = 0.2
    persistence: float = 0.3
    coupling: float = 0.5
    scale: float = 0.7

    def __post_init__(self) -> None:
        self._check_finite("low", "high", "intercept", "persistence", "coupling")
        self._check_positive("scale")
        self._check_stable(self.persistence, self.coupling)
        if not self.low < self.high:
            raise ValueError(f"low must be below high; they are {self.low} and {self.high}.")
        self.VALUES = f"between {self.low:g} and {self.high:g}"  # type: ignore[misc]
        super().__post_init__()

    def _outside(self, values: Tensor) -> Tensor:
        return ~((values > self.low) & (values < self.high))

    def _first(self) -> Tensor:
        return torch.full((self.num_nodes,), (self.low + self.high) / 2, dtype=torch.float64)

    def _law(self, previous: Float[Tensor, "*slices nodes"]) -> MappedNormal:
        logit = (previous - self.low).log() - (self.high - previous).log()
        loc = self._affine(self.intercept, self.persistence, self.coupling, logit)
        return MappedNormal(loc, self.scale, self.low, self.high)


class MappedNormal(OneStepLaw):
    """The law of a value whose logit between two bounds is Gaussian; without an upper bound, its logarithm.

    Args:
        loc: The mean of the logit or logarithm.
        scale: Its standard deviation.
        low: The lower bound.
        high: The upper bound; infinity for the logarithm of the difference to the lower one.
    """

    def __init__(self, loc: Float[Tensor, "..."], scale: float, low: float, high: float) -> None:
        self.loc, self.scale, self.low, self.high = loc, scale, low, high
        super().__init__(loc.shape)

    @property
    def _bounded(self) -> bool:
        return math.isfinite(self.high)

    def _value(self, z: Tensor) -> Tensor:
        if self._bounded:
            return self.low + (self.high - self.low) * torch.sigmoid(z)
        return self.low + z.exp()

    def _standard(self, value: Tensor) -> Tensor:
        """Returns the logit or logarithm in standard deviations from its mean; infinite out of bounds."""
        above, below = (value - self.low).clamp(min=0), (self.high - value).clamp(min=0)
        z = above.log() - (below.log() if self._bounded else 0)
        return (z - self.loc) / self.scale

    @property
    def mean(self) -> Tensor:
        """The mean."""
        if not self._bounded:
            return self.low + (self.loc + self.scale**2 / 2).exp()
        return self._moment(lambda value: value)

    @property
    def variance(self) -> Tensor:
        """The variance."""
        if not self._bounded:
            return (self.mean - self.low).square() * math.expm1(self.scale**2)
        mean = self.mean
        return self._moment(lambda value: (value - mean[..., None]).square())

    def _moment(self, function) -> Tensor:
        nodes, weights = np.polynomial.hermite_e.hermegauss(QUADRATURE)
        z = self.loc[..., None] + self.scale * torch.from_numpy(nodes)
        return function(self._value(z)) @ torch.from_numpy(weights / weights.sum())

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the log-density in nats; minus infinity out of bounds."""
        value = value.double()
        inside = (value > self.low) & (value < self.high)
        z = torch.where(inside, self._standard(value), 0)
        log_slope = -(value - self.low).log()
        if self._bounded:
            log_slope = log_slope + math.log(self.high - self.low) - (self.high - value).log()
        found = _log_density(z) - math.log(self.scale) + torch.where(inside, log_slope, 0)
        return torch.where(inside, found, torch.where(value.isnan(), value, -torch.inf))

    def cdf(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the probability of at most a value."""
        return torch.special.ndtr(self._standard(value.double()))

    def icdf(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the number whose ``cdf`` is a probability."""
        return self._value(self.loc + self.scale * torch.special.ndtri(value.double()))
