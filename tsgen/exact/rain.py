r"""Values that are zero with a probability and positive otherwise, such as daily rain, on a graph.

Generators of daily weather first draw whether a day is wet, given the day before, and then the amount of a
wet day from a gamma law. :class:`ZeroInflatedGammaNetwork` is such a chain in which both depend on the
neighbours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from scipy.special import gammaincinv
from torch import Tensor
from torch_geometric.data import Data

from tsgen.argument_types import check_shapes
from tsgen.counter_random import uniforms
from tsgen.exact.markov import MarkovProcess, OneStepLaw


@check_shapes
@dataclass(eq=False)
class ZeroInflatedGammaNetwork(MarkovProcess):
    r"""A chain of occurrences on a graph, with gamma amounts.

    With :math:`o = [x > 0]` and :math:`m^v(y)` the weighted mean of y over the in-neighbours of v,

    .. math:: P(o_t^v = 1) = \text{sigmoid}(d_0 + a_0 o_{t-1}^v + b_0 m_{t-1}^v(o)), \qquad
              x_t^v \mid o_t^v = 1 \sim \text{Gamma}(k, \text{mean } e^{\eta_t^v}), \\
              \eta_t^v = d_1 + a_1 \log(1 + x_{t-1}^v) + b_1 m_{t-1}^v(\log(1 + x)).

    Args:
        graph: The directed, weighted graph.
        occurrence: The coefficients :math:`d_0, a_0, b_0` of the logit of an occurrence.
        amount: The coefficients :math:`d_1, a_1, b_1` of the logarithm of the mean amount.
        shape: The shape k of the gamma law; its coefficient of variation is :math:`k^{-1/2}`.

    Raises:
        ValueError: If the coefficients of previous amounts have absolute values that add up to 1 or more, the
            shape is not positive, or a number is not finite.

    References:
        Stochastic simulation of daily precipitation, temperature, and solar radiation (Richardson, 1981);
        Multisite generalization of a daily stochastic precipitation generation model (Wilks, 1998).
    """

    graph: Data
    occurrence: tuple[float, float, float] = (-2.0, 1.2, 2.2)
    amount: tuple[float, float, float] = (0.8, 0.1, 0.4)
    shape: float = 0.8

    VALUES = "finite and at least 0"

    def __post_init__(self) -> None:
        self._check_finite("occurrence", "amount")
        self._check_positive("shape")
        self._check_stable(*self.amount[1:])
        super().__post_init__()

    def _outside(self, values: Tensor) -> Tensor:
        return ~torch.isfinite(values) | (values < 0)

    def _law(self, previous: Float[Tensor, "*slices nodes"]) -> ZeroInflatedGamma:
        logits = self._affine(*self.occurrence, (previous > 0).double())
        return ZeroInflatedGamma(logits, self._affine(*self.amount, previous.log1p()), self.shape)

    def _noise(self, stream: Int64[Tensor, ""], steps: int) -> Float[Tensor, "steps 2 nodes"]:
        """Returns a uniform number for the occurrence and an amount of mean 1, for all steps at once."""
        number = uniforms(stream, (steps, 2, self.num_nodes), dtype=torch.float64)
        number[:, 1] = _gamma_quantile(self.shape, number[:, 1])
        return number

    def _next(self, previous: Float[Tensor, "nodes"], noise: Float[Tensor, "2 nodes"]) -> Tensor:
        law, (uniform, amount) = self._law(previous), noise
        return torch.where(uniform < law.wet, law.mean_amount * amount, 0)


def _gamma_quantile(shape: float, probability: Tensor) -> Tensor:
    """Returns quantiles of the gamma law of mean 1."""
    return torch.from_numpy(gammaincinv(shape, probability.numpy())) / shape


class ZeroInflatedGamma(OneStepLaw):
    """The law of a number that is zero with a probability and has a gamma law otherwise.

    Args:
        logits: The log-odds of a number above zero.
        log_mean: The logarithm of the mean of the gamma law.
        shape: The shape of the gamma law.
    """

    def __init__(self, logits: Float[Tensor, "..."], log_mean: Float[Tensor, "..."], shape: float) -> None:
        self.logits, self.log_mean, self.shape = logits, log_mean, shape
        self.wet, self.mean_amount = torch.sigmoid(logits), log_mean.exp()
        super().__init__(logits.shape)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self.wet * self.mean_amount

    @property
    def variance(self) -> Tensor:
        """The variance."""
        return self.wet * self.mean_amount.square() * (1 + 1 / self.shape - self.wet)

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the log-probability of zero and the log-density above it, in nats."""
        value = value.double()
        amount = torch.where(value > 0, value, 1)
        log_rate = math.log(self.shape) - self.log_mean
        density = self.shape * log_rate + (self.shape - 1) * amount.log() - log_rate.exp() * amount
        density = density - math.lgamma(self.shape) + torch.nn.functional.logsigmoid(self.logits)
        dry = torch.nn.functional.logsigmoid(-self.logits)
        found = torch.where(value > 0, density, torch.where(value == 0, dry, -torch.inf))
        return torch.where(value.isnan(), value, found)

    def cdf(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the probability of at most a value."""
        value = value.double()
        shape = value.new_tensor(self.shape)
        below = torch.special.gammainc(shape, self.shape * value.clamp(min=0) / self.mean_amount)
        return torch.where(value < 0, 0, 1 - self.wet + self.wet * below)

    def cdf_below(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the probability of less than a value."""
        return torch.where(value.double() <= 0, 0, self.cdf(value))

    def icdf(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the smallest number whose ``cdf`` is at least a probability."""
        of_amount = (value.double() - (1 - self.wet)) / self.wet
        amount = self.mean_amount * _gamma_quantile(self.shape, of_amount.clamp(min=0))
        return torch.where(of_amount > 0, amount, 0)
