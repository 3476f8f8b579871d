r"""Processes of order 1 on a graph whose law one step ahead is known, for values of any kind.

Given the previous slice, the nodes of a :class:`MarkovProcess` are independent and the law of each is known,
:math:`p(x_t^v \mid x_{t-1})`. Most are built from an affine function of a node's own previous value and the
weighted mean of its in-neighbours,

.. math:: \eta_t^v = d + a\, g(x_{t-1}^v) + b \sum_{u \to v} w_{uv} g(x_{t-1}^u) / \sum_{u \to v} w_{uv},

for a function g of the process. If entries are missing, the law of an entry given the context at earlier
steps is an integral over the missing entries. A particle filter computes it: K slices are drawn from the law
of the previous slice given the context so far, and the law of an entry is the mean of their K laws. The
entries in the context are independent of the others given the previous slice, so the filter is fully adapted:
slices are resampled by the probability of the next context before anything is drawn. Where the whole previous
slice is in the context, the law is exact, without any sampling.

References:
    Filtering via simulation: auxiliary particle filters (Pitt & Shephard, 1999).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.distributions import Distribution
from torch_geometric.data import Data

from tsgen.argument_types import check_shapes
from tsgen.counter_random import streams, uniforms
from tsgen.data.graphs import check_graph, weighted_mean
from tsgen.data.series import SeriesBatch

BURN_IN = 500
"""Steps that are drawn and discarded before a simulated series begins."""

PARTICLES = 256
"""Slices that represent what is unknown about a slice."""

APART = 20
"""Steps between the simulated slices that stand for the one before a window."""

STATIONARY_SEED = 15
"""Fixes the simulation of the slices that stand for the one before a window."""


class OneStepLaw(Distribution):
    """The law of the next values, one per node; the base of all laws here.

    A value with a positive probability, such as zero rain or a count, has that as its probability, and any
    other value its density.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, batch_shape: torch.Size) -> None:
        super().__init__(batch_shape, validate_args=False)

    @abstractmethod
    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the log-probability of values that have one, and the log-density of others, in nats."""

    @abstractmethod
    def cdf(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the probability of at most a value."""

    @abstractmethod
    def icdf(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the smallest number whose ``cdf`` is at least a probability."""

    def cdf_below(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the probability of less than a value."""
        return self.cdf(value)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Returns draws."""
        shape = self._extended_shape(torch.Size(sample_shape))
        # float32's 1.0 is never drawn, and 0.0 is the smallest value, which a continuum does not have
        return self.icdf(torch.rand(shape, dtype=torch.float64).clamp(min=torch.finfo(torch.float64).tiny))


@check_shapes
@dataclass(eq=False)
class MarkovProcess(ABC):
    """A process of order 1 on a graph with a known law one step ahead, in data units and float64.

    A subclass gives the law (``_law``) and which values are impossible (``_outside``).

    Args:
        graph: The directed, weighted graph.

    Raises:
        ValueError: If the process is not stable, or a number is out of range.
    """

    graph: Data

    VALUES: ClassVar[str] = "finite"
    """What values of the process are, in words."""

    def __post_init__(self) -> None:
        self.graph = check_graph(self.graph)
        self._mean_of_neighbours = (
            weighted_mean(self.graph.edge_index, self.graph.edge_weight, int(self.graph.num_nodes))
            .to_dense()
            .double()
        )

    @property
    def num_nodes(self) -> int:
        """The number of nodes."""
        return len(self._mean_of_neighbours)

    @abstractmethod
    def _law(self, previous: Float[Tensor, "*slices nodes"]) -> Any:
        """Returns the law of the next slice, in float64."""

    def _outside(self, values: Tensor) -> Tensor:
        """Returns which values are impossible; NaN is."""
        return ~torch.isfinite(values)

    def conditional(self, previous: Float[Tensor, "*slices nodes"]) -> Distribution:
        """Returns the law of each node's next value given the previous slice; nodes are then independent.

        Args:
            previous: The slices at the previous step.

        Raises:
            ValueError: If a slice has another number of nodes, or values that the process does not have.
        """
        if previous.shape[-1] != self.num_nodes:
            raise ValueError(
                f"previous must be [..., {self.num_nodes}], one number per node; its shape is "
                f"{list(previous.shape)}."
            )
        outside = self._outside(previous.double())
        if outside.any():
            raise ValueError(
                f"previous must be {self.VALUES}, because the next slice depends on all of it; it has "
                f"{float(previous[outside][0]):g}."
            )
        return self._law(previous.double())

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
        state, series = self._first(), []
        for noise in self._noise(streams(seed), BURN_IN + steps):
            state = self._next(state, noise)
            series.append(state)
        return torch.stack(series[BURN_IN:])

    def _first(self) -> Float[Tensor, "nodes"]:
        """Returns the slice that the burn-in begins with."""
        return torch.zeros(self.num_nodes, dtype=torch.float64)

    def _noise(self, stream: Int64[Tensor, ""], steps: int) -> Float[Tensor, "steps *noise"]:
        """Returns the noise of a number of steps; here uniform numbers."""
        return uniforms(stream, (steps, self.num_nodes), dtype=torch.float64)

    def _next(self, previous: Float[Tensor, "nodes"], noise: Tensor) -> Float[Tensor, "nodes"]:
        """Returns the slice after another, drawn from noise; here the quantiles of its law."""
        return self._law(previous).icdf(noise)

    @cached_property
    def _stationary_slices(self) -> Float[Tensor, "particles nodes"]:
        return self.simulate(PARTICLES * APART, STATIONARY_SEED)[::APART]

    def predictive(self, batch: SeriesBatch) -> ParticleMixture:
        """Returns the law of each entry given the context at earlier steps.

        It is exact where the previous slice is in the context, and the mean over :data:`PARTICLES` laws
        elsewhere. It does not depend on the other windows of the batch.

        Args:
            batch: Windows in data units, of one channel.

        Raises:
            ValueError: If the batch has other nodes, several channels, or a value in the context that the
                process does not have.
        """
        if batch.values.shape[2:] != (self.num_nodes, 1):
            nodes, channels = batch.values.shape[2:]
            raise ValueError(
                f"the batch must have {self.num_nodes} nodes with one channel; it has {nodes} nodes with "
                f"{channels} channels each."
            )
        values, context = (x[..., 0].cpu() for x in (batch.values.double(), batch.context))
        outside = self._outside(values) & context
        if outside.any():
            raise ValueError(
                f"the context must be {self.VALUES}, as the process is; it has {float(values[outside][0]):g}."
            )
        stream = streams(0, batch.address.cpu())
        size = 1 + PARTICLES * self.num_nodes
        slices, complete = self._stationary_slices.expand(len(values), -1, -1), False
        previous = []
        for t in range(values.shape[1]):
            previous.append(slices[:, :1] if complete else slices)
            known, value = context[:, t, None], values[:, t, None]
            complete = bool(known.all())
            if complete:  # nothing is drawn
                slices = value.expand_as(slices)
                continue
            number = uniforms(stream, (size,), t * size, dtype=torch.float64)
            drawn = self._filtered(slices, value, known, number[:, 0])
            uniform = number[:, 1:].unflatten(1, (PARTICLES, self.num_nodes))
            slices = torch.where(known, value, self._law(drawn).icdf(uniform))
        return ParticleMixture(self._law, previous, batch.values.device)

    def _filtered(self, slices: Tensor, value: Tensor, known: Tensor, uniform: Tensor) -> Tensor:
        """Returns slices, resampled by the probability of the next step's context."""
        log_weight = torch.where(known, self._law(slices).log_prob(value), 0).sum(dim=-1)
        cumulative = torch.softmax(log_weight, dim=1).cumsum(dim=1)
        points = (torch.arange(PARTICLES) + uniform[:, None]) / PARTICLES
        ancestor = torch.searchsorted(cumulative, points).clamp(max=PARTICLES - 1)
        return slices.gather(1, ancestor[..., None].expand_as(slices))

    def _affine(
        self, intercept: float, persistence: float, coupling: float, x: Float[Tensor, "*slices nodes"]
    ) -> Float[Tensor, "*slices nodes"]:
        """Returns an affine function of each node's own number and of the mean of its in-neighbours."""
        return intercept + persistence * x + coupling * (x @ self._mean_of_neighbours.mT)

    def _check_finite(self, *names: str) -> None:
        for name in names:
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} must be finite; it is {getattr(self, name)}.")

    def _check_positive(self, *names: str) -> None:
        for name in names:
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be positive and finite; it is {getattr(self, name)}.")

    @staticmethod
    def _check_stable(persistence: float, coupling: float) -> None:
        if not abs(persistence) + abs(coupling) < 1:
            raise ValueError(
                "the process must be stable, with |persistence| + |coupling| < 1; it has "
                f"|{persistence}| + |{coupling}| = {abs(persistence) + abs(coupling):.6g}. Shrink its "
                "coefficients."
            )


class ParticleMixture(Distribution):
    """The mean of the one-step laws of several possible previous slices, for each step of windows.

    Args:
        law: Returns the law of the next slice.
        previous: The possible previous slices of each step, with equal weights; one if it is known.
        device: Where results are.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        law: Callable[[Tensor], Any],
        previous: Sequence[Float[Tensor, "batch _ nodes"]],
        device: torch.device,
    ) -> None:
        self._law, self._previous, self._device = law, previous, device
        windows, _, nodes = previous[0].shape
        super().__init__(torch.Size((windows, len(previous), nodes, 1)), validate_args=False)

    def _each(self, function: Callable[[Any, int], Tensor]) -> Tensor:
        """Returns a function of the law of each step, and the step, as one number per entry."""
        steps = [function(self._law(previous), t) for t, previous in enumerate(self._previous)]
        return torch.stack(steps, dim=-2)[..., None].to(self._device)

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the log-probability of values that have one, and the log-density of others, in nats."""
        value = value.double().cpu()

        def log_mean(law: Any, t: int) -> Tensor:
            each = law.log_prob(value[..., t, None, :, 0])
            return torch.logsumexp(each, dim=-2) - np.log(each.shape[-2])

        return self._each(log_mean)

    def cdf(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the probability of at most a value."""
        value = value.double().cpu()
        return self._each(lambda law, t: law.cdf(value[..., t, None, :, 0]).mean(dim=-2))

    def cdf_below(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the probability of less than a value."""
        value = value.double().cpu()
        return self._each(lambda law, t: law.cdf_below(value[..., t, None, :, 0]).mean(dim=-2))

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self._each(lambda law, t: law.mean.mean(dim=-2))

    @property
    def variance(self) -> Tensor:
        """The variance."""
        return self._each(lambda law, t: law.variance.mean(dim=-2) + law.mean.var(dim=-2, correction=0))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Returns draws; the nodes of a slice are drawn jointly, steps independently."""
        return self.draw(torch.randint(2**62, (*sample_shape, self.batch_shape[0])))

    def draw(self, stream: Int64[Tensor, "*samples batch"]) -> Float[Tensor, "*samples batch time nodes 1"]:
        """Returns draws from given random streams.

        The nodes of a slice are drawn jointly, steps independently.

        Args:
            stream: One random stream for each draw of each window (see :mod:`tsgen.counter_random`).
        """
        _, time, nodes, _ = self.batch_shape
        number = uniforms(stream.cpu(), (time, 1 + nodes), dtype=torch.float64)
        window = torch.arange(self.batch_shape[0])
        drawn = []
        for t, previous in enumerate(self._previous):
            particle = (number[..., t, 0] * previous.shape[1]).long()
            drawn.append(self._law(previous[window, particle]).icdf(number[..., t, 1:]))
        return torch.stack(drawn, dim=-2)[..., None].to(self._device)
