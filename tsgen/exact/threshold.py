r"""A nonlinear process on a graph with a known one-step law, to test models beyond the linear-Gaussian case.

Every node switches between two regimes. It is in the second, :math:`r = 1`, if the weighted mean of its
in-neighbours at the previous step exceeded a threshold,

.. math:: x_t^v = a_r + \phi_r x_{t-1}^v + \gamma_r m_{t-1}^v + \epsilon_t^v, \qquad
          m_t^v = \sum_{u \to v} w_{uv} x_t^u / \sum_{u \to v} w_{uv}, \qquad r = [m_{t-1}^v > \tau],

and its noise has mean zero and is a mixture of two Gaussians, :math:`\pi N(-(1 - \pi) d, \sigma^2) + (1 -
\pi) N(\pi d, \sigma^2)`, whose means are a distance d apart. The conditional mean is discontinuous in the
neighbours and the law is bimodal, so that linear means, Gaussian laws and models that ignore the graph each
lose a measurable amount. If :math:`|\phi_r| + |\gamma_r| < 1`, every step contracts a slice up to a bounded
term, and the process is stable.

References:
    Threshold models in non-linear time series analysis (Tong, 1983).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal
from torch_geometric.data import Data

from tsgen.argument_types import check_shapes
from tsgen.counter_random import streams, uniforms
from tsgen.exact.markov import BURN_IN, MarkovProcess

FAR = 9.0
"""Standard deviations of a noise component beyond which no quantile is sought."""


@check_shapes
@dataclass(eq=False)
class ThresholdNetwork(MarkovProcess):
    """A two-regime autoregression on a graph with bimodal noise, in float64.

    Args:
        graph: The directed, weighted graph.
        threshold: The mean of a node's neighbours above which it is in the second regime.
        intercept: The constant added at each step, one per regime.
        persistence: The coefficient of a node's own previous value, one per regime.
        coupling: The coefficient of the mean of its neighbours, one per regime.
        weight: Probability of the lower noise component.
        distance: Distance between the means of the two noise components.
        scale: Standard deviation of each noise component.

    Raises:
        ValueError: If a regime is not stable, or a number is out of range.
    """

    graph: Data
    threshold: float = 0.0
    intercept: tuple[float, float] = (0.0, 0.0)
    persistence: tuple[float, float] = (0.7, -0.4)
    coupling: tuple[float, float] = (0.2, 0.5)
    weight: float = 0.4
    distance: float = 1.5
    scale: float = 0.3

    def __post_init__(self) -> None:
        for name in ("threshold", "intercept", "distance", "scale"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} must be finite; it is {getattr(self, name)}.")
        for phi, gamma in zip(self.persistence, self.coupling, strict=True):
            if not abs(phi) + abs(gamma) < 1:
                raise ValueError(
                    "each regime must be stable, with |persistence| + |coupling| < 1; one has "
                    f"|{phi}| + |{gamma}| = {abs(phi) + abs(gamma):.6g}. Shrink its coefficients."
                )
        if not 0 < self.weight < 1:
            raise ValueError(f"weight must lie between 0 and 1; it is {self.weight}.")
        if self.distance < 0 or not self.scale > 0:
            raise ValueError(
                "distance must not be negative and scale must be positive; they are "
                f"{self.distance} and {self.scale}."
            )
        super().__post_init__()

    def _expected(self, previous: Float[Tensor, "*slices nodes"]) -> Float[Tensor, "*slices nodes"]:
        neighbours = previous @ self._mean_of_neighbours.mT
        above = (neighbours > self.threshold).long()
        intercept, persistence, coupling = (
            previous.new_tensor(by_regime)[above]
            for by_regime in (self.intercept, self.persistence, self.coupling)
        )
        return intercept + persistence * previous + coupling * neighbours

    def _noise_means(self) -> tuple[float, float]:
        return -(1 - self.weight) * self.distance, self.weight * self.distance

    def _law(self, previous: Float[Tensor, "*slices nodes"]) -> BimodalLaw:
        expected = self._expected(previous)[..., None]
        loc = expected + expected.new_tensor(self._noise_means())
        probs = expected.new_tensor((self.weight, 1 - self.weight)).expand(loc.shape)
        return BimodalLaw(
            Categorical(probs=probs), Normal(loc, self.scale, validate_args=False), validate_args=False
        )

    def simulate(self, steps: int, seed: int) -> Float[Tensor, "time nodes"]:
        """Draws a series of the process, after a burn-in.

        Args:
            steps: Length of the series.
            seed: Fixes the draw.

        Raises:
            ValueError: If ``steps`` is below 1.
        """
        if steps < 1:
            raise ValueError(f"steps must be at least 1; it is {steps}.")
        shape = (BURN_IN + steps, self.num_nodes)
        component, uniform = uniforms(streams(seed), (2, *shape), dtype=torch.float64)
        lower, upper = self._noise_means()
        noise = torch.where(component < self.weight, lower, upper) + self.scale * torch.special.ndtri(uniform)
        state, series = noise[0], []
        for shock in noise[1:]:
            series.append(state)
            state = self._expected(state) + shock
        return torch.stack([*series, state])[BURN_IN:]


class BimodalLaw(MixtureSameFamily):
    """A mixture of Gaussians, with quantiles."""

    def cdf_below(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the probability of less than a value."""
        return self.cdf(value)

    def icdf(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the number whose ``cdf`` is a probability, by bisection."""
        component = self.component_distribution
        value, low = torch.broadcast_tensors(value, (component.mean - FAR * component.stddev).amin(dim=-1))
        high = (component.mean + FAR * component.stddev).amax(dim=-1).expand(low.shape)
        for _ in range(60):
            middle = (low + high) / 2
            below = self.cdf(middle) < value
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2
