r"""Counts on a graph, with a known law one step ahead.

* :class:`INARNetwork`: every individual of a slice causes individuals of the next one by chance (binomial
  thinning), and a Poisson number of individuals comes from outside.
* :class:`LogLinearPoissonNetwork`: the logarithm of the rate of a Poisson number is affine in
  :math:`\log(1 + x)` of the previous slice, so that it can rise and fall with the neighbours.

The law of the first is a convolution of binomial laws and a Poisson law. Its generating function is

.. math:: G_v(z) = e^{\lambda (z - 1)} \prod_u (1 - \alpha_{vu} + \alpha_{vu} z)^{x_u},

and a discrete Fourier transform of G at M roots of unity gives the probabilities of 0, .., M - 1 with an
absolute error of about 1e-16. The logarithm of a small probability needs more: it is computed from the tilted
law :math:`\tilde p_k \propto p_k r^k`, with r such that its mean is the value itself (the saddlepoint), as
:math:`\log p_k = \log \tilde p_k + \log G(r) - k \log r`. There the probability is large, and no digits
are lost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch_geometric.data import Data

from tsgen.argument_types import check_shapes
from tsgen.exact.markov import MarkovProcess, OneStepLaw

SMALL = 1e-8
"""Probabilities below this are computed from the tilted law."""

AT_ONCE = 2**14
"""Entries whose tilted laws are computed at a time, to bound the memory."""


def _reach(mean: float) -> int:
    """Returns a count that sums of binomial and Poisson numbers exceed with a probability below 1e-16."""
    return int(mean + 9 * math.sqrt(mean)) + 16


class _Counts(MarkovProcess):
    VALUES = "whole numbers of at least 0"

    def _outside(self, values: Tensor) -> Tensor:
        return ~torch.isfinite(values) | (values < 0) | (values != values.round())


@check_shapes
@dataclass(eq=False)
class INARNetwork(_Counts):
    r"""An integer-valued autoregression on a graph, with binomial thinning and Poisson innovations.

    .. math:: x_t^v = \sum_u \alpha_{vu} \circ x_{t-1}^u + \epsilon_t^v, \qquad
              \alpha \circ x \sim \text{Binomial}(x, \alpha), \quad
              \epsilon_t^v \sim \text{Poisson}(\lambda).

    :math:`\alpha_{vv}` is the persistence, and :math:`\alpha_{vu}` the coupling times the weight of the edge
    among those into v. All thinnings are independent. The mean of the stationary law solves :math:`\mu = A
    \mu + \lambda`; for a single node the stationary law is :math:`\text{Poisson}(\lambda / (1 - \alpha))`.

    Args:
        graph: The directed, weighted graph.
        rate: The mean number of individuals that come from outside, per step and node.
        persistence: The probability that an individual is counted again by its own node.
        coupling: The sum of the probabilities with which individuals of the in-neighbours are counted.

    Raises:
        ValueError: If the rate is not positive, a probability is negative, or they add up to 1 or more.

    References:
        First-order integer-valued autoregressive (INAR(1)) process (Al-Osh & Alzaid, 1987);
        The multivariate GINAR(p) process (Latour, 1997).
    """

    graph: Data
    rate: float = 1.0
    persistence: float = 0.3
    coupling: float = 0.5

    def __post_init__(self) -> None:
        self._check_positive("rate")
        if min(self.persistence, self.coupling) < 0 or not self.persistence + self.coupling < 1:
            raise ValueError(
                "persistence and coupling must be probabilities with a sum below 1; they are "
                f"{self.persistence} and {self.coupling}."
            )
        super().__post_init__()
        unit = torch.eye(self.num_nodes, dtype=torch.float64)
        self.thinning = self.persistence * unit + self.coupling * self._mean_of_neighbours
        self._sources, self._probs = _by_target(self.thinning)
        self._log_factors: dict[int, Tensor] = {}

    def _law(self, previous: Float[Tensor, "*slices nodes"]) -> ThinnedSum:
        return ThinnedSum(previous[..., self._sources], self._probs, self.rate, self._log_factors)


def _by_target(thinning: Float[Tensor, "nodes nodes"]) -> tuple[Tensor, Tensor]:
    """Returns the nodes that influence each node and their probabilities, padded with probability zero."""
    most = max(int((thinning > 0).sum(dim=1).max()), 1)
    probs, sources = thinning.topk(most, dim=1)
    return sources, probs


class ThinnedSum(OneStepLaw):
    """The law of a sum of independent binomial numbers and a Poisson number, per node.

    Args:
        trials: The number of trials of each binomial number.
        probs: The probability of each trial.
        rate: The mean of the Poisson number.
        log_factors: Logarithms of the factors of generating functions, by the number of roots of unity; they
            depend only on the probabilities and are computed once.
    """

    def __init__(
        self,
        trials: Float[Tensor, "*slices nodes sources"],
        probs: Float[Tensor, "nodes sources"],
        rate: float,
        log_factors: dict[int, Tensor],
    ) -> None:
        self._trials, self._probs, self._rate, self._log_factors = trials, probs, rate, log_factors
        self._computed: Tensor | None = None
        super().__init__(trials.shape[:-1])

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return (self._trials * self._probs).sum(dim=-1) + self._rate

    @property
    def variance(self) -> Tensor:
        """The variance."""
        return (self._trials * self._probs * (1 - self._probs)).sum(dim=-1) + self._rate

    @property
    def probs(self) -> Float[Tensor, "*slices nodes counts"]:
        """The probabilities of 0, 1, 2, .., up to a count beyond which they are below 1e-16."""
        if self._computed is None:
            highest = float(self.mean.max()) if self.mean.numel() else 0.0
            size = 1 << _reach(highest).bit_length()  # a power of two, for few sets of log_factors
            factors = self._factors(size)
            # one real matrix product per node, as a logarithm of zero times zero trials must be zero
            log_modulus, angle = (
                torch.einsum("...vs,vsf->...vf", self._trials, part) for part in factors.unbind(-1)
            )
            root = _roots(size)
            log_modulus = log_modulus + self._rate * (root.real - 1)
            angle = angle + self._rate * root.imag
            table = torch.fft.irfft(torch.polar(log_modulus.exp(), angle), n=size)
            self._computed = table.clamp(min=0)
        return self._computed

    def _factors(self, size: int) -> Float[Tensor, "nodes sources frequencies 2"]:
        if size not in self._log_factors:
            factor = 1 - self._probs[..., None] + self._probs[..., None] * _roots(size)
            # half a probability makes zeros: a tiny number, whose power vanishes too
            log_modulus = factor.abs().clamp(min=1e-300).log()
            self._log_factors[size] = torch.stack([log_modulus, factor.angle()], dim=-1)
        return self._log_factors[size]

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the log-probability of counts, in nats; minus infinity for other numbers."""
        value, trials, table = self._broadcast(value.double())
        count = value.nan_to_num(posinf=-1.0, neginf=-1.0).clamp(min=0).floor()
        found = table.gather(-1, count.long().clamp(max=table.shape[-1] - 1)[..., None])[..., 0]
        possible = value == count
        small = possible & ((found < SMALL) | (count >= table.shape[-1]))
        result = torch.where(possible, found.clamp(min=SMALL).log(), -torch.inf)
        if small.any():
            entries = (count[small], trials[small], self._probs.expand_as(trials)[small])
            some = zip(*(x.split(AT_ONCE) for x in entries), strict=True)
            result[small] = torch.cat([_tilted_log_prob(n, m, p, self._rate) for n, m, p in some])
        return torch.where(value.isnan(), value, result)

    def cdf(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the probability of at most a value."""
        value, _, table = self._broadcast(value.double())
        last = table.shape[-1] - 1
        cumulative = table.cumsum(dim=-1)
        count = value.nan_to_num().floor().clamp(0, last).long()
        found = cumulative.gather(-1, count[..., None])[..., 0].clamp(max=1)
        found = torch.where(value < 0, 0, torch.where(value >= last, 1, found))
        return torch.where(value.isnan(), value, found)

    def cdf_below(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the probability of less than a value."""
        return self.cdf(value.double().ceil() - 1)

    def icdf(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the smallest count whose ``cdf`` is at least a probability."""
        value, _, table = self._broadcast(value.double())
        below = (table.cumsum(dim=-1) < value[..., None]).sum(dim=-1)
        return below.clamp(max=table.shape[-1] - 1).double()

    def _broadcast(self, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        trials, table = (x.expand(*shape, x.shape[-1]) for x in (self._trials, self.probs))
        return value.expand(shape), trials, table


def _roots(size: int) -> Tensor:
    """Returns the roots of unity of the lower half of the frequencies."""
    angle = -2 * torch.pi * torch.arange(size // 2 + 1, dtype=torch.float64) / size
    return torch.polar(torch.ones_like(angle), angle)


def _tilted_log_prob(
    count: Float[Tensor, "entries"],
    trials: Float[Tensor, "entries sources"],
    probs: Float[Tensor, "entries sources"],
    rate: float,
) -> Float[Tensor, "entries"]:
    """Returns the log-probabilities of counts, each from the law that is tilted to have its mean there."""
    # the mean of the tilted law lies between its Poisson part and that plus odds times the trials
    tiny = 1e-300
    low = (count / ((trials * probs / (1 - probs)).sum(dim=-1) + rate)).clamp(min=tiny).log()
    high = (count / rate).clamp(min=tiny).log()
    for _ in range(50):
        tilt = (low + high) / 2
        odds = probs * tilt.exp()[:, None]
        mean = (trials * odds / (1 - probs + odds)).sum(dim=-1) + rate * tilt.exp()
        low, high = torch.where(mean < count, tilt, low), torch.where(mean < count, high, tilt)
    r = ((low + high) / 2).exp()
    odds = probs * r[:, None]
    log_g = (trials * (1 - probs + odds).log()).sum(dim=-1) + rate * (r - 1)
    size = 2 * (_reach(float(count.max())) - int(count.max()))
    root = _roots(size)
    share = (odds / (1 - probs + odds))[..., None]
    log_factor = (1 - share + share * root).abs().clamp(min=tiny).log()
    angle = (1 - share + share * root).angle()
    phase = (trials[..., None] * angle).sum(dim=1) + rate * r[:, None] * root.imag
    phase = phase - count[:, None] * root.angle()
    modulus = ((trials[..., None] * log_factor).sum(dim=1) + rate * r[:, None] * (root.real - 1)).exp()
    once = torch.ones(len(root), dtype=torch.float64)
    once[1:-1] = 2  # the upper half of the frequencies is conjugate to the lower one
    at_count = (modulus * phase.cos() * once).sum(dim=-1) / size
    return at_count.log() + log_g - count * r.log()


@check_shapes
@dataclass(eq=False)
class LogLinearPoissonNetwork(_Counts):
    r"""A log-linear Poisson autoregression on a graph.

    .. math:: x_t^v \sim \text{Poisson}(e^{\eta_t^v}), \qquad \eta_t^v = d + a \log(1 + x_{t-1}^v) +
              b \sum_{u \to v} w_{uv} \log(1 + x_{t-1}^u) / \sum_{u \to v} w_{uv}.

    Args:
        graph: The directed, weighted graph.
        intercept: The constant d.
        persistence: The coefficient a of a node's own previous count.
        coupling: The coefficient b of the mean of its neighbours; it may be negative.

    Raises:
        ValueError: If |persistence| + |coupling| is 1 or more, or a number is not finite.

    References:
        Log-linear Poisson autoregression (Fokianos & Tjøstheim, 2011);
        Nonlinear network autoregression (Armillotta & Fokianos, 2023).
    """

    graph: Data
    intercept: float = 0.2
    persistence: float = 0.3
    coupling: float = 0.4

    def __post_init__(self) -> None:
        self._check_finite("intercept", "persistence", "coupling")
        self._check_stable(self.persistence, self.coupling)
        super().__post_init__()

    def _law(self, previous: Float[Tensor, "*slices nodes"]) -> PoissonLaw:
        eta = self._affine(self.intercept, self.persistence, self.coupling, previous.log1p())
        return PoissonLaw(eta.exp())


class PoissonLaw(OneStepLaw):
    """The law of a Poisson number.

    Args:
        rate: The mean.
    """

    def __init__(self, rate: Float[Tensor, "..."]) -> None:
        self.rate = rate
        super().__init__(rate.shape)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self.rate

    @property
    def variance(self) -> Tensor:
        """The variance."""
        return self.rate

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the log-probability of counts, in nats; minus infinity for other numbers."""
        value = value.double()
        possible = (value >= 0) & (value == value.floor()) & (value < torch.inf)
        count = torch.where(possible, value, 0)
        found = torch.xlogy(count, self.rate) - self.rate - torch.lgamma(count + 1)
        return torch.where(possible, found, torch.where(value.isnan(), value, -torch.inf))

    def cdf(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the probability of at most a value."""
        value = value.double()
        found = torch.special.gammaincc(value.clamp(min=0).floor() + 1, self.rate)
        return torch.where(value < 0, 0, found)

    def cdf_below(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the probability of less than a value."""
        return self.cdf(value.double().ceil() - 1)

    def icdf(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the smallest count whose ``cdf`` is at least a probability, by bisection."""
        value, rate = torch.broadcast_tensors(value.double(), self.rate)
        low = torch.full_like(rate, -1.0)  # its cdf is below the probability, that of high is not
        high = (rate + 9 * rate.sqrt()).floor() + 16
        for _ in range(int(high.max() + 1).bit_length() if high.numel() else 0):
            middle = ((low + high) / 2).floor()
            below = self.cdf(middle) < value
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return high
