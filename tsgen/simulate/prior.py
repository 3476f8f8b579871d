r"""The prior over networks: a random graph, a random process on it, its measurement and its gaps.

:meth:`NetworkPrior.draw` is a pure function of a seed and a number: draws can be repeated one by one, in any
order and by any worker. The windows of a draw are stretches of one process: in half of the draws consecutive
windows of one long series, else independent ones.

A draw with ``linear_gaussian=True`` is a sum of stationary linear-Gaussian components. With their transitions
:math:`A_k`, innovation covariances :math:`Q_k` and stationary covariances :math:`\Gamma_k`, the sum
:math:`x = \sum_k s_k` has the state :math:`(x, s_1, \dots, s_{K-1})`, in which

.. math:: x_t = A_K x_{t-1} + \sum_{k<K} (A_k - A_K)\, s_{k,t-1} + \sum_k \eta_k.

This is the form of :class:`~tsgen.exact.kalman.StateSpace`, so that the exact posterior of the hidden entries
is known.

References:
    Transformers can do Bayesian inference (Müller et al., 2022): networks trained on draws from a prior.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.random import Generator, Philox
from torch import Tensor
from torch_geometric.data import Data

from tsgen.argument_types import check_arguments, check_shapes
from tsgen.data.series import SeriesBatch
from tsgen.exact.kalman import StateSpace
from tsgen.simulate import choices
from tsgen.simulate.components import Component, Linear, draw_linear
from tsgen.simulate.gaps import Gaps
from tsgen.simulate.measurements import Faults, Transform, Units, mixed
from tsgen.simulate.networks import Network, draw_network, draw_size, log_uniform


@check_shapes
@dataclass
class Simulation:
    """Windows of a simulated series on a graph.

    Attributes:
        series: The truth of every entry, in data units.
        values: What a sensor reports: the truth, with faults (if any) at visible entries.
        visible: Where a value was reported.
        graph: The graph.
        made_of: The components and measurements that the draw consists of.
        law: The law of each window, for linear-Gaussian draws: a state-space model whose series are the
            nodes; otherwise None.
    """

    series: Float[Tensor, "windows steps nodes channels"]
    values: Float[Tensor, "windows steps nodes channels"]
    visible: Bool[Tensor, "windows steps nodes channels"]
    graph: Data
    made_of: list[Any] = field(default_factory=list)
    law: StateSpace | None = None

    def batch(self) -> SeriesBatch:
        """Returns the windows as a training batch: the visible entries are context, all entries are
        target."""
        windows, steps = self.series.shape[:2]
        return SeriesBatch(
            values=self.values,
            context=self.visible,
            target=torch.ones_like(self.visible),
            graph=self.graph,
            position=torch.arange(windows * steps).view(windows, steps),
        )


@check_arguments
@dataclass(frozen=True)
class NetworkPrior:
    """A prior over series on networks.

    Args:
        nodes: The smallest and the largest number of nodes. Four draws in five have 6 to 40, if allowed.
        steps: The lengths of windows, in steps, drawn with equal probabilities; those too long for the number
            of entries are left out.
        channels: The smallest and the largest number of channels; four draws in five have the smallest.
        windows: Windows in a draw; None for as many as rows and entries allow, at least 4 if possible.
        rows: Windows times nodes of a draw, about.
        entries: The largest number of entries of a draw, if it has more than two windows.
        consecutive: Probability that the windows are consecutive stretches of one series.
        zeros: Probability that a channel has zeros or counts.
        faults: Probability that a draw has sensor faults.
        gaps: What is hidden.
        linear_gaussian: Draw linear-Gaussian processes, whose law is known, with one channel, affine units,
            no faults, and gaps that do not depend on values.

    Raises:
        ValueError: If a range is empty or a number is out of range.
    """

    nodes: tuple[int, int] = (1, 200)
    steps: tuple[int, ...] = (24, 36, 36, 48, 72, 168)
    channels: tuple[int, int] = (1, 3)
    windows: int | None = None
    rows: int = 288
    entries: int = 12_000
    consecutive: float = 0.5
    zeros: float = 0.15
    faults: float = 0.08
    gaps: Gaps = field(default_factory=Gaps)
    linear_gaussian: bool = False

    def __post_init__(self) -> None:
        for name in ("nodes", "channels"):
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise ValueError(f"{name} must be two numbers with 1 <= low <= high; they are {low}, {high}.")
        if not self.steps or min(self.steps) < 2:
            raise ValueError(f"steps must be lengths of at least 2 steps; they are {self.steps}.")
        for name in ("windows", "rows", "entries"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1; it is {number}.")
        for name in ("consecutive", "zeros", "faults"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0..1; it is {getattr(self, name)}.")
        if self.linear_gaussian and self.channels[0] > 1:
            raise ValueError(
                f"linear_gaussian draws have one channel; channels is {self.channels}. Let it start at 1."
            )

    def draw(self, seed: int, number: int) -> Simulation:
        """Draws a network with windows of a series.

        Args:
            seed: Identifies a sequence of draws; at least 0.
            number: The number of the draw in its sequence; at least 0.

        Raises:
            ValueError: If the seed or the number is negative.
        """
        if min(seed, number) < 0:
            raise ValueError(f"seed and number must be at least 0; they are {seed} and {number}.")
        rng = Generator(Philox(key=np.array([seed, number], dtype=np.uint64)))
        nodes, windows, steps, channels = self._sizes(rng)
        network = draw_network(rng, nodes)
        shape = (1, windows * steps) if rng.random() < self.consecutive else (windows, steps)
        if self.linear_gaussian:
            series, law, made_of = _linear(rng, network, *shape)
            series, faults, gaps = series[..., None], None, replace(self.gaps, by_value=0.0)
        else:
            series, made_of = _measured(rng, network, *shape, channels, self.zeros)
            law, gaps = None, self.gaps
            faults = Faults(rng.uniform(0.05, 0.4), rng.uniform(0.01, 0.1))
            faults = faults if rng.random() < self.faults else None
        series = series.reshape(windows, steps, nodes, channels)
        visible = gaps.draw(rng, network, series)
        values = series if faults is None else faults.corrupt(rng, series, visible)
        return Simulation(
            series=torch.from_numpy(series.astype(np.float32)),
            values=torch.from_numpy(values.astype(np.float32)),
            visible=torch.from_numpy(visible),
            graph=network.graph,
            made_of=made_of if faults is None else [*made_of, faults],
            law=law,
        )

    def _sizes(self, rng: Generator) -> tuple[int, int, int, int]:
        """Draws the numbers of nodes, windows, steps and channels."""
        low, high = self.channels
        many = not self.linear_gaussian and rng.random() < 0.2
        channels = int(rng.integers(low, high, endpoint=True)) if many else low
        nodes = draw_size(rng, *self.nodes)
        slices = self.entries // (nodes * channels)
        fitting = [steps for steps in self.steps if (self.windows or 4) * steps <= slices]
        steps = int(rng.choice(fitting or [min(self.steps)]))
        windows = max(2, min(96, max(4, self.rows // nodes), slices // steps))
        return nodes, self.windows or windows, steps, channels


def _measured(
    rng: Generator, network: Network, windows: int, steps: int, channels: int, zeros: float
) -> tuple[Float[np.ndarray, "windows steps nodes channels"], list[Any]]:
    """Draws a series of any process, as it is measured."""
    laws = [choices.components(rng) for _ in range(channels)]
    latent = np.stack([_summed(rng, network, windows, steps, law) for law in laws], axis=-1)
    latent = (latent - latent.mean(axis=(0, 1, 2))) / np.maximum(latent.std(axis=(0, 1, 2)), 1e-9)
    if channels > 1:
        latent = mixed(rng, latent, rng.uniform(0, 1))
        latent = latent / np.maximum(latent.std(axis=(0, 1, 2)), 1e-9)
    made_of: list[Any] = [component for law in laws for _, component in law]
    alike, transform = rng.random() < 0.5, choices.transform(rng, zeros)
    series = np.empty_like(latent)
    for channel in range(channels):
        transform = transform if alike or not channel else choices.transform(rng, zeros)
        series[..., channel] = _in_units(rng, latent[..., channel], transform, made_of)
    return series, made_of


def _summed(
    rng: Generator, network: Network, windows: int, steps: int, law: Sequence[tuple[float, Component]]
) -> Float[np.ndarray, "windows steps nodes"]:
    """Draws the sum of components, each with loadings of the nodes."""
    total = np.zeros((windows, steps, network.num_nodes))
    for amplitude, component in law:
        load = amplitude * choices.loadings(rng, network.num_nodes)
        total += load * component.draw(rng, network, windows, steps)
    return total


def _in_units(
    rng: Generator, latent: Float[np.ndarray, "windows steps nodes"], law: Transform, made_of: list[Any]
) -> Float[np.ndarray, "windows steps nodes"]:
    """Returns one channel as it is measured, and adds its transform, resolution and units to the list."""
    values = law.apply(rng, latent)
    rounding, units = choices.rounding(rng, law), choices.units(rng, law)
    if rounding is not None:
        values = rounding.apply(values)
    loc, scale = units.of_nodes(rng, latent.shape[-1])
    made_of.extend(part for part in (law, rounding, units) if part is not None)
    return loc + scale * values


def _linear(
    rng: Generator, network: Network, windows: int, steps: int
) -> tuple[Float[np.ndarray, "windows steps nodes"], StateSpace, list[Any]]:
    """Draws a linear-Gaussian series, and returns its law too."""
    chosen = choices.linear_components(rng)
    laws = [
        _loaded(component.linear(rng, network), amplitude * choices.loadings(rng, network.num_nodes))
        for amplitude, component in chosen
    ]
    units = Units(10 ** rng.uniform(-1, 2), rng.uniform(0, 1), rng.normal(0, 3), log_uniform(rng, 0.05, 5))
    loc, scale = units.of_nodes(rng, network.num_nodes)
    total = np.zeros((windows, steps, network.num_nodes))
    for law in laws:
        total += draw_linear(rng, law, windows, steps)
    made_of: list[Any] = [component for _, component in chosen]
    return loc + scale * total, state_space([_loaded(law, scale) for law in laws], loc), [*made_of, units]


def _loaded(law: Linear, load: Float[np.ndarray, "nodes"]) -> Linear:
    """Returns the law of a component after its nodes are multiplied by their loadings."""
    outer = np.outer(load, load)
    return Linear(law.transition * load[:, None] / load, law.noise * outer, law.stationary * outer)


def state_space(laws: Sequence[Linear], loc: Float[np.ndarray, "nodes"]) -> StateSpace:
    """Returns the law of a sum of independent stationary components, in the form given above.

    Args:
        laws: The laws of the components.
        loc: The mean of each node.
    """
    last, count, nodes = laws[-1], len(laws), len(loc)
    transition = np.zeros((count, nodes, count, nodes))
    noise, start = np.zeros_like(transition), np.zeros_like(transition)
    transition[0, :, 0], noise[0, :, 0] = last.transition, sum(law.noise for law in laws)
    start[0, :, 0] = sum(law.stationary for law in laws)
    for k, law in enumerate(laws[:-1], start=1):
        transition[0, :, k], transition[k, :, k] = law.transition - last.transition, law.transition
        for covariance, part in ((noise, law.noise), (start, law.stationary)):
            covariance[0, :, k] = covariance[k, :, 0] = covariance[k, :, k] = part
    size = count * nodes
    mean = np.concatenate([loc, np.zeros(size - nodes)])
    matrix = transition.reshape(size, size)
    return StateSpace(
        transition=torch.from_numpy(matrix),
        offset=torch.from_numpy(mean - matrix @ mean),
        noise_covariance=torch.from_numpy(noise.reshape(size, size)),
        initial_mean=torch.from_numpy(mean),
        initial_covariance=torch.from_numpy(start.reshape(size, size)),
        observed_size=nodes,
    )
