r"""Random processes on a network, each with a law that its docstring states.

A component is a frozen dataclass of a few numbers. :meth:`Component.draw` draws windows of it, as
``[windows, steps, nodes]``, with a variance of about one. Numbers that differ between nodes, such as phases,
are drawn once per call and shared by all windows; the windows are independent given them. A series of several
windows in sequence is one long window.

Most components begin with :class:`SpatialNoise`, whose covariance is that of its autocorrelation times that
of its :class:`Kernel`: it is separable. The linear-Gaussian ones (:class:`SpatialNoise` with
:class:`GaussianShocks`, :class:`NodeNoise`, :class:`GraphInfluence`) state their law as matrices too
(:class:`Linear`), from which the exact posterior of their sum follows.

References:
    Statistics for Spatio-Temporal Data (Cressie & Wikle, 2011).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64
from numpy.random import Generator
from scipy.signal import lfilter
from scipy.special import ndtri

from tsgen.argument_types import check_arguments
from tsgen.simulate.networks import Network

Drawn = Float[np.ndarray, "windows steps nodes"]

NUGGET = 1e-3
"""Share of a kernel's variance that is independent per node, so that no node is determined by the others."""

SMALLEST = 1e-3
"""Periods, memories and probabilities that must be positive are at least this."""

BURN_IN = 2.5
"""Steps before a window, per step of memory, for shocks whose stationary law is not known."""


class Linear(NamedTuple):
    r"""The law of a linear-Gaussian component, :math:`s_t = A s_{t-1} + \eta_t`, which is stationary.

    Attributes:
        transition: The matrix A; row v is the influence on node v.
        noise: Covariance of :math:`\eta_t`.
        stationary: Covariance of :math:`s_t`.
    """

    transition: Float[np.ndarray, "nodes nodes"]
    noise: Float[np.ndarray, "nodes nodes"]
    stationary: Float[np.ndarray, "nodes nodes"]


@check_arguments
class Component(ABC):
    """A random process on a network."""

    def draw(self, rng: Generator, network: Network, windows: int, steps: int) -> Drawn:
        """Draws independent windows.

        Args:
            rng: The source of randomness.
            network: The nodes.
            windows: The number of windows.
            steps: Length of a window.

        Raises:
            ValueError: If there is no window or no step.
        """
        _check_size(windows, steps)
        return self._draw(rng, network, windows, steps)

    @abstractmethod
    def _draw(self, rng: Generator, network: Network, windows: int, steps: int) -> Drawn:
        """Draws independent windows."""


def _check_size(windows: int, steps: int) -> None:
    """Raises ``ValueError`` if there is no window or no step."""
    if min(windows, steps) < 1:
        raise ValueError(f"windows and steps must be at least 1; they are {windows} and {steps}.")


def _check(owner: object, **bounds: tuple[float, float]) -> None:
    """Raises ``ValueError`` unless fields are finite and within bounds, which are included."""
    for name, (low, high) in bounds.items():
        number = getattr(owner, name)
        if not (low <= number <= high and np.isfinite(number)):
            most = f" and at most {high:g}" if np.isfinite(high) else ", and finite"
            raise ValueError(f"{name} must be at least {low:g}{most}; it is {number}.")


@check_arguments
@dataclass(frozen=True)
class Kernel:
    r"""A covariance over nodes with unit variances.

    With relative distances d, range :math:`\ell`, common share c and correlation

    .. math:: \rho(d) = e^{-d / \ell} \quad\text{or, if smooth,}\quad
              \rho(d) = (1 + \sqrt 3 d / \ell)\, e^{-\sqrt 3 d / \ell},

    the covariance is :math:`c\, l l^\top + (1 - c)\, \rho(d)`, plus a nugget. The loadings l are ones, or
    random signs if the network has two groups of opposite sign. A range of 0 makes nodes independent.

    Args:
        range: The range of correlation, relative to the mean distance of the nodes.
        common: Share of the variance that all nodes have in common.
        smooth: Whether the field is smooth in space (Matern, 3/2) or rough (exponential).
        opposed: Share of the nodes in the group of opposite sign.

    References:
        Interpolation of Spatial Data (Stein, 1999).
    """

    range: float = 1.0
    common: float = 0.0
    smooth: bool = False
    opposed: float = 0.0

    def __post_init__(self) -> None:
        _check(self, range=(0, np.inf), common=(0, 1), opposed=(0, 1))

    def covariance(self, rng: Generator, network: Network) -> Float[np.ndarray, "nodes nodes"]:
        """Returns the covariance; the random groups, if any, are drawn."""
        nodes = network.num_nodes
        if self.range == 0:
            correlation = np.eye(nodes)
        else:
            scaled = network.distance * (np.sqrt(3) if self.smooth else 1) / self.range
            correlation = np.exp(-scaled) * ((1 + scaled) if self.smooth else 1)
        sign = np.where(rng.random(nodes) < self.opposed, -1.0, 1.0) if self.opposed else np.ones(nodes)
        covariance = self.common * np.outer(sign, sign) + (1 - self.common) * correlation
        return (1 - NUGGET) * covariance + NUGGET * np.eye(nodes)

    def root(self, rng: Generator, network: Network) -> Float[np.ndarray, "nodes nodes"]:
        """Returns a matrix whose product with its transpose is the covariance."""
        return np.linalg.cholesky(self.covariance(rng, network))


@check_arguments
class Shocks(ABC):
    """Independent innovations over time, of unit variance, with the covariance of a kernel over nodes."""

    def scale(self, rng: Generator, windows: int, steps: int) -> Float[np.ndarray, "windows steps 1"]:
        """Draws the standard deviation of each step's innovations, whose mean square is 1.

        Args:
            rng: The source of randomness.
            windows: The number of windows.
            steps: Length of a window.

        Raises:
            ValueError: If there is no window or no step.
        """
        _check_size(windows, steps)
        return self._scale(rng, windows, steps)

    @abstractmethod
    def _scale(self, rng: Generator, windows: int, steps: int) -> Float[np.ndarray, "windows steps 1"]:
        """Draws the standard deviation of each step's innovations."""


@check_arguments
@dataclass(frozen=True)
class GaussianShocks(Shocks):
    """Gaussian innovations."""

    def _scale(self, rng: Generator, windows: int, steps: int) -> Float[np.ndarray, "windows steps 1"]:
        return np.ones((1, 1, 1))


@check_arguments
@dataclass(frozen=True)
class StudentShocks(Shocks):
    r"""Innovations with heavy tails: multivariate Student t, scaled to unit variance.

    All nodes of a step share one scale, :math:`\sqrt{(\nu - 2) / \chi^2_\nu}`.

    Args:
        freedom: Degrees of freedom :math:`\nu`, above 2.

    References:
        Multivariate t Distributions and Their Applications (Kotz & Nadarajah, 2004).
    """

    freedom: float = 4.0

    def __post_init__(self) -> None:
        _check(self, freedom=(2 + SMALLEST, np.inf))

    def _scale(self, rng: Generator, windows: int, steps: int) -> Float[np.ndarray, "windows steps 1"]:
        return np.sqrt((self.freedom - 2) / rng.chisquare(self.freedom, (windows, steps, 1)))


@check_arguments
@dataclass(frozen=True)
class VolatileShocks(Shocks):
    r"""Innovations whose variance varies slowly: stochastic volatility common to the network.

    The logarithm of the standard deviation is an AR(1) with deviation s and memory m in steps:
    :math:`\sigma_t = e^{s h_t - s^2}`, :math:`h_t = e^{-1/m} h_{t-1} + \sqrt{1 - e^{-2/m}}\, \epsilon_t`.

    Args:
        spread: The s of the formula.
        memory: The m of the formula.

    References:
        Modeling stochastic volatility (Taylor, 1994).
    """

    spread: float = 0.5
    memory: float = 10.0

    def __post_init__(self) -> None:
        _check(self, spread=(0, np.inf), memory=(SMALLEST, np.inf))

    def _scale(self, rng: Generator, windows: int, steps: int) -> Float[np.ndarray, "windows steps 1"]:
        log = autoregression(rng.standard_normal((windows, steps, 1)), np.exp(-1 / self.memory))
        return np.exp(self.spread * log - self.spread**2)


@check_arguments
@dataclass(frozen=True)
class RareShocks(Shocks):
    r"""Innovations that occur in few steps, at the same ones in the whole network: events.

    A step has an event with probability p; its innovations then have variance 1 / p, and else none.

    Args:
        rate: The p of the formula.

    References:
        Stochastic Processes (Parzen, 1962), ch. 4: filtered Poisson processes.
    """

    rate: float = 0.1

    def __post_init__(self) -> None:
        _check(self, rate=(SMALLEST, 1))

    def _scale(self, rng: Generator, windows: int, steps: int) -> Float[np.ndarray, "windows steps 1"]:
        return (rng.random((windows, steps, 1)) < self.rate) / np.sqrt(self.rate)


def autoregression(
    shocks: Drawn,
    first: float,
    second: float = 0.0,
    start: Float[np.ndarray, "2 windows 1 nodes"] | None = None,
) -> Drawn:
    r"""Returns the stationary AR(2) of unit variance that given shocks of unit variance drive.

    .. math:: x_t = \phi_1 x_{t-1} + \phi_2 x_{t-2} + \sqrt{1 - \phi_1 \gamma_1 - \phi_2 \gamma_2}\, e_t,

    with the autocorrelations :math:`\gamma_1 = \phi_1 / (1 - \phi_2)` and
    :math:`\gamma_2 = \phi_1 \gamma_1 + \phi_2`.

    Args:
        shocks: The shocks e.
        first: The coefficient of lag 1.
        second: The coefficient of lag 2.
        start: Two independent standard normals from which the two values before the window are made. If not
            given, the first shock is the first value, which is stationary without lag 2.
    """
    lag_one = first / (1 - second)
    deviation = np.sqrt(1 - first * lag_one - second * (first * lag_one + second))
    if start is None:
        scaled = deviation * shocks
        scaled[:, 0] = shocks[:, 0]
        return lfilter([1.0], [1.0, -first, -second], scaled, axis=1)
    latest = start[0]
    before = lag_one * latest + np.sqrt(1 - lag_one**2) * start[1]
    state = np.concatenate([first * latest + second * before, second * latest], axis=1)
    return lfilter([deviation], [1.0, -first, -second], shocks, axis=1, zi=state)[0]


@check_arguments
@dataclass(frozen=True)
class SpatialNoise(Component):
    r"""Noise that is correlated in time and between nodes, with separable covariance.

    Each step's innovations have the covariance of the kernel and drive the same autoregression at every node,

    .. math:: x_t = \phi_1 x_{t-1} + \phi_2 x_{t-2} + \sigma e_t, \qquad e_t = s_t R z_t,

    with :math:`R R^\top` the kernel and :math:`s_t` the scale of the shocks. The memory of lag 1 is
    :math:`m = -1 / \log \phi_1`. With Gaussian shocks the start is stationary. With other shocks
    the process starts :data:`BURN_IN` memories before the window.

    Args:
        kernel: The covariance over nodes.
        first: The coefficient of lag 1; 0 is white in time.
        second: The coefficient of lag 2.
        shocks: The law of the innovations.

    References:
        Statistics for Spatio-Temporal Data (Cressie & Wikle, 2011), ch. 6;
        Time Series Analysis (Hamilton, 1994), ch. 3.
    """

    kernel: Kernel = field(default_factory=Kernel)
    first: float = 0.9
    second: float = 0.0
    shocks: Shocks = field(default_factory=GaussianShocks)

    def __post_init__(self) -> None:
        if not (abs(self.second) < 1 and abs(self.first) < 1 - self.second):
            raise ValueError(
                "the noise must be stationary: |second| < 1 and |first| < 1 - second; first is "
                f"{self.first} and second is {self.second}."
            )

    @property
    def memory(self) -> float:
        """Steps after which the autocorrelation has fallen to 1/e."""
        poles = np.abs(np.roots([1, -self.first, -self.second])) if self.second else [abs(self.first)]
        return -1 / np.log(max(*poles, 1e-3))

    def _draw(self, rng: Generator, network: Network, windows: int, steps: int) -> Drawn:
        root = self.kernel.root(rng, network)
        gaussian = isinstance(self.shocks, GaussianShocks)
        burn_in = 0 if gaussian else int(BURN_IN * self.memory)
        scale = self.shocks.scale(rng, windows, burn_in + steps)
        shocks = rng.standard_normal((windows, burn_in + steps, network.num_nodes)) @ root.T * scale
        start = None
        if self.second and gaussian:
            start = rng.standard_normal((2, windows, 1, network.num_nodes)) @ root.T
        return autoregression(shocks, self.first, self.second, start)[:, burn_in:]

    def linear(self, rng: Generator, network: Network) -> Linear:
        """Returns the law, for Gaussian shocks and one lag.

        Args:
            rng: The source of randomness.
            network: The nodes.

        Raises:
            ValueError: If the shocks are not Gaussian, or there are two lags.
        """
        if self.second or not isinstance(self.shocks, GaussianShocks):
            raise ValueError(
                "the law is known for GaussianShocks and second=0; shocks is "
                f"{type(self.shocks).__name__} and second is {self.second}. Draw from it instead."
            )
        covariance = self.kernel.covariance(rng, network)
        unit = np.eye(network.num_nodes)
        return Linear(self.first * unit, (1 - self.first**2) * covariance, covariance)


@check_arguments
@dataclass(frozen=True)
class NodeNoise(Component):
    r"""White noise, independent between nodes, with a deviation :math:`e^{s z_v - s^2}` for each node.

    Args:
        spread: The s of the formula; z is standard normal.

    References:
        Time Series Analysis (Hamilton, 1994), ch. 3.
    """

    spread: float = 0.3

    def __post_init__(self) -> None:
        _check(self, spread=(0, np.inf))

    def _draw(self, rng: Generator, network: Network, windows: int, steps: int) -> Drawn:
        deviation = self._deviation(rng, network)
        return deviation * rng.standard_normal((windows, steps, network.num_nodes))

    def linear(self, rng: Generator, network: Network) -> Linear:
        """Returns the law."""
        variance = np.diag(self._deviation(rng, network) ** 2)
        return Linear(np.zeros_like(variance), variance, variance)

    def _deviation(self, rng: Generator, network: Network) -> Float[np.ndarray, "nodes"]:
        return np.exp(self.spread * rng.standard_normal(network.num_nodes) - self.spread**2)


@check_arguments
@dataclass(frozen=True)
class GraphInfluence(Component):
    r"""Lagged influence along the edges: a stationary vector autoregression on the graph,

    .. math:: x_t = (a I + b P)\, x_{t-1} + \eta_t, \qquad |a| + |b| < 1,

    where P averages over the in-neighbours of each node. The row sums of P are at most 1, so the process is
    stationary on every graph. The innovations have the covariance of the kernel, scaled so that the mean
    stationary variance of the nodes is 1.

    Args:
        own: The coefficient a of a node's own value.
        coupling: The coefficient b of its neighbours' mean.
        kernel: The covariance of the innovations.

    References:
        Network vector autoregression (Zhu et al., 2017).
    """

    own: float = 0.4
    coupling: float = 0.5
    kernel: Kernel = field(default_factory=lambda: Kernel(range=0.0))

    def __post_init__(self) -> None:
        if not abs(self.own) + abs(self.coupling) < 1:
            raise ValueError(
                f"|own| + |coupling| must be below 1, so that the process is stationary; own is {self.own} "
                f"and coupling is {self.coupling}."
            )

    def linear(self, rng: Generator, network: Network) -> Linear:
        """Returns the law."""
        transition = self.own * np.eye(network.num_nodes) + self.coupling * network.averaging
        noise = self.kernel.covariance(rng, network)
        stationary, power = noise, transition
        for _ in range(12):  # sums 2^12 terms: enough for roots up to 0.99
            added = power @ stationary @ power.T
            stationary = stationary + added
            if np.trace(added) < 1e-14 * np.trace(stationary):
                break
            power = power @ power
        scale = network.num_nodes / np.trace(stationary)
        return Linear(transition, scale * noise, scale * (stationary + stationary.T) / 2)

    def _draw(self, rng: Generator, network: Network, windows: int, steps: int) -> Drawn:
        return draw_linear(rng, self.linear(rng, network), windows, steps)


def draw_linear(rng: Generator, law: Linear, windows: int, steps: int) -> Drawn:
    """Draws windows of a linear-Gaussian component from its stationary law.

    Args:
        rng: The source of randomness.
        law: The law.
        windows: The number of windows.
        steps: Length of a window.
    """
    normal = rng.standard_normal((steps, windows, len(law.noise)))
    series = np.empty_like(normal)
    series[0] = normal[0] @ np.linalg.cholesky(law.stationary).T
    shocks, step = normal @ np.linalg.cholesky(law.noise).T, law.transition.T.copy()
    for t in range(1, steps):
        series[t] = series[t - 1] @ step + shocks[t]
    return series.swapaxes(0, 1)


@check_arguments
@dataclass(frozen=True)
class Wave(Component):
    r"""A wave of one period whose phase and amplitude vary by place and whose amplitude varies in time.

    .. math:: x_{tv} = a_v (1 + m_{tv})\, \frac{\sin \omega_{tv} + h \sin(2 \omega_{tv} + \psi)}
              {\sqrt{(1 + h^2) (1 + s^2) / 2}}, \qquad \omega_{tv} = 2 \pi (t + u) / P + \delta_v,

    with phases :math:`\delta_v` and log-amplitudes :math:`\log a_v` Gaussian with the kernel's correlation,
    :math:`E[a_v^2] = 1`, a start u that is uniform over the period for each window, and modulation m an AR(1)
    of deviation s whose memory is a period.

    Args:
        period: The period P in steps.
        delay: Standard deviation of the phases, in radians.
        harmonic: Relative amplitude h of the first harmonic.
        modulation: Standard deviation s of m.
        contrast: Standard deviation of the log-amplitudes.
        kernel: How alike the phases and amplitudes of neighbours are.

    References:
        Forecasting, Structural Time Series Models and the Kalman Filter (Harvey, 1989), ch. 2.
    """

    period: float = 24.0
    delay: float = 0.3
    harmonic: float = 0.3
    modulation: float = 0.2
    contrast: float = 0.2
    kernel: Kernel = field(default_factory=Kernel)

    def __post_init__(self) -> None:
        _check(
            self,
            period=(SMALLEST, np.inf),
            **dict.fromkeys(("delay", "harmonic", "modulation", "contrast"), (0, np.inf)),
        )

    def _draw(self, rng: Generator, network: Network, windows: int, steps: int) -> Drawn:
        phase, strength = rng.standard_normal((2, 1, network.num_nodes)) @ self.kernel.root(rng, network).T
        angle = _angle(rng, self.period, windows, steps) + self.delay * phase
        wave = np.sin(angle) + self.harmonic * np.sin(2 * angle + rng.uniform(0, 2 * np.pi))
        wave *= np.exp(self.contrast * strength - self.contrast**2)
        wave /= np.sqrt((1 + self.harmonic**2) * (1 + self.modulation**2) / 2)
        return wave * _modulation(rng, self.modulation, self.period, windows, steps, network.num_nodes)


@check_arguments
@dataclass(frozen=True)
class RushHours(Component):
    r"""Peaks at the same hours of every day, lower on two days of seven.

    .. math:: x_{tv} \propto q_t (1 + m_{tv}) \sum_{k=1}^{2} g_{kv}
              \exp\!\big(\kappa (\cos(2 \pi (t + u - \tau_k) / P + \delta_v) - 1)\big),

    centred and scaled to unit variance over the draw. Heights :math:`g_{kv} > 0` differ by node (a road is
    busy in the morning or in the evening), and :math:`q_t` is 1 on five days and a constant on two.

    Args:
        period: The length P of a day, in steps.
        sharpness: The concentration :math:`\kappa` of a peak.
        delay: Standard deviation of the phases :math:`\delta_v`, in radians.
        weekend: The factor of the last two days of seven.
        modulation: Standard deviation of m, a slow AR(1).
        kernel: How alike the phases of neighbours are.

    References:
        Statistics of Directional Data (Mardia, 1972): the von Mises density.
    """

    period: float = 24.0
    sharpness: float = 6.0
    delay: float = 0.2
    weekend: float = 0.5
    modulation: float = 0.2
    kernel: Kernel = field(default_factory=Kernel)

    def __post_init__(self) -> None:
        _check(
            self,
            period=(SMALLEST, np.inf),
            **dict.fromkeys(("sharpness", "delay", "weekend", "modulation"), (0, np.inf)),
        )

    def _draw(self, rng: Generator, network: Network, windows: int, steps: int) -> Drawn:
        phase = self.delay * rng.standard_normal(network.num_nodes) @ self.kernel.root(rng, network).T
        height = np.exp(0.7 * rng.standard_normal((2, network.num_nodes)))
        day = _angle(rng, 7 * self.period, windows, steps) * 7
        gap = rng.uniform(0.5, np.pi)
        peaks = sum(
            g * np.exp(self.sharpness * (np.cos(day + phase - shift) - 1))
            for g, shift in zip(height, (0.0, gap), strict=True)
        )
        weekend = np.mod(day / (2 * np.pi), 7) >= 5
        x = np.where(weekend, self.weekend, 1.0) * peaks
        x = x * _modulation(rng, self.modulation, self.period, windows, steps, network.num_nodes)
        return (x - x.mean()) / max(x.std(), 1e-9)


def _angle(rng: Generator, period: float, windows: int, steps: int) -> Float[np.ndarray, "windows steps 1"]:
    """Returns the phase of each step, from a uniform start for each window."""
    start = rng.uniform(0, 2 * np.pi, (windows, 1, 1))
    return start + 2 * np.pi * np.arange(steps)[:, None] / period


def _modulation(rng: Generator, spread: float, memory: float, windows: int, steps: int, nodes: int) -> Drawn:
    """Draws 1 + m, half of whose variance all nodes share."""
    shocks = rng.standard_normal((windows, steps, nodes)) + rng.standard_normal((windows, steps, 1))
    return 1 + spread * autoregression(shocks * np.sqrt(0.5), np.exp(-1 / memory))


@check_arguments
@dataclass(frozen=True)
class Travelling(Component):
    r"""Fronts: one series that crosses the network at constant speed, so that nodes see it one after another.

    .. math:: x_{tv} = b_v\, g(t - d_v), \qquad d_v = \tau\, p_v \cdot w, \qquad \log b_v \sim N(-s^2, s^2),

    where w is a random direction and p the position. The series g is a level that is drawn anew, N(0, 1), at
    each quarter of a step with probability r / 4, smoothed by an exponential kernel of the given length and
    scaled so that the mean variance is 1.

    Args:
        crossing: Steps :math:`\tau` that a front takes to cross the network.
        rate: The expected number r of fronts per step.
        smoothing: Steps over which a front arrives.
        contrast: Standard deviation of the nodes' log-amplitudes.

    References:
        Statistics for Spatio-Temporal Data (Cressie & Wikle, 2011), ch. 6: the frozen field.
    """

    crossing: float = 6.0
    rate: float = 0.1
    smoothing: float = 1.0
    contrast: float = 0.2

    def __post_init__(self) -> None:
        _check(
            self, crossing=(0, np.inf), rate=(SMALLEST, 4), smoothing=(SMALLEST, np.inf), contrast=(0, np.inf)
        )

    def _draw(self, rng: Generator, network: Network, windows: int, steps: int) -> Drawn:
        angle = rng.uniform(0, 2 * np.pi)
        delay = network.position @ np.array([np.cos(angle), np.sin(angle)])
        delay = np.rint(4 * self.crossing * (delay - delay.min())).astype(np.int64)
        before = int(delay.max()) + int(12 * self.smoothing) + 1  # fronts that arrived before the window
        level = _held(rng, self.rate / 4, windows, before + 4 * steps)
        decay, kept = np.exp(-0.25 / self.smoothing), 1 - self.rate / 4
        series = _smoothed(level, decay)
        series /= np.sqrt((1 - decay) / (1 + decay) * (1 + kept * decay) / (1 - kept * decay))
        fine = before + 4 * np.arange(steps)[:, None] - delay
        strength = self.contrast * rng.standard_normal(network.num_nodes) - self.contrast**2
        return series[:, fine] * np.exp(strength)


def _held(rng: Generator, rate: float, windows: int, steps: int) -> Float[np.ndarray, "windows steps"]:
    """Draws standard normal levels that are drawn anew at each step with a probability."""
    kept = held_since(rng.random((windows, steps)) < rate)
    return np.take_along_axis(rng.standard_normal((windows, steps)), kept, axis=1)


def held_since(changes: Bool[np.ndarray, "windows steps"]) -> Int64[np.ndarray, "windows steps"]:
    """Returns the step of the latest change up to each step; 0 before the first one."""
    return np.maximum.accumulate(np.where(changes, np.arange(changes.shape[1]), 0), axis=1)


def _smoothed(level: Float[np.ndarray, "windows steps"], decay: float) -> np.ndarray:
    """Returns levels after exponential smoothing, which starts settled at the first level."""
    return lfilter([1 - decay], [1.0, -decay], level, axis=1, zi=decay * level[:, :1])[0]


@check_arguments
@dataclass(frozen=True)
class RandomWalk(Component):
    r"""A random walk whose innovations have the covariance of the kernel, and a start for each node.

    .. math:: x_{tv} = \sqrt{c}\, \mu_v + \sqrt{(1 - c)\, 2 / T} \sum_{s \le t} e_{sv},

    so that the walk's variance, averaged over a window of T steps, is 1 - c. It is not stationary.

    Args:
        kernel: The covariance of the innovations; one that is all common gives a common trend.
        start: The share c of the variance that is due to the nodes' starts.

    References:
        Forecasting, Structural Time Series Models and the Kalman Filter (Harvey, 1989), ch. 2.
    """

    kernel: Kernel = field(default_factory=Kernel)
    start: float = 0.2

    def __post_init__(self) -> None:
        _check(self, start=(0, 1))

    def _draw(self, rng: Generator, network: Network, windows: int, steps: int) -> Drawn:
        shocks = rng.standard_normal((windows, steps, network.num_nodes))
        walk = np.cumsum(shocks @ self.kernel.root(rng, network).T, axis=1)
        level = rng.standard_normal((windows, 1, network.num_nodes))
        return np.sqrt(self.start) * level + np.sqrt((1 - self.start) * 2 / steps) * walk


@check_arguments
@dataclass(frozen=True)
class LinearTrend(Component):
    r"""A straight line for each node and window, with slopes that are alike at neighbours.

    .. math:: x_{tv} = \sqrt{12}\, b_v\, (t - (T - 1) / 2) / T, \qquad b \sim N(0, K).

    Args:
        kernel: The covariance K of the slopes.

    References:
        Forecasting, Structural Time Series Models and the Kalman Filter (Harvey, 1989), ch. 2.
    """

    kernel: Kernel = field(default_factory=Kernel)

    def _draw(self, rng: Generator, network: Network, windows: int, steps: int) -> Drawn:
        slope = rng.standard_normal((windows, 1, network.num_nodes)) @ self.kernel.root(rng, network).T
        return np.sqrt(12) * slope * ((np.arange(steps) - (steps - 1) / 2) / steps)[:, None]


@check_arguments
@dataclass(frozen=True)
class Regimes(Component):
    r"""Two regimes that differ in level, size and memory of the noise.

    A stationary two-state Markov chain: at each step, with probability 1 / m, the states of all nodes are
    drawn anew, each 1 with probability p, with dependence between nodes by a Gaussian copula with the
    kernel's covariance. In state z

    .. math:: x_t \propto g (z - p) + (1 - z)\, a_t + r z\, b_t,

    where a and b are :class:`SpatialNoise`; the result is scaled to unit variance.

    Args:
        calm: The noise a of state 0.
        wild: The noise b of state 1.
        gap: The distance g of the two levels.
        ratio: The size r of the noise in state 1.
        share: The probability p of state 1.
        stay: Mean steps m between draws of the states.
        kernel: Dependence between the states of nodes; one that is all common gives one chain.

    References:
        A new approach to the economic analysis of nonstationary time series and the business cycle
        (Hamilton, 1989).
    """

    calm: SpatialNoise = field(default_factory=SpatialNoise)
    wild: SpatialNoise = field(default_factory=lambda: SpatialNoise(first=0.3))
    gap: float = 2.0
    ratio: float = 1.0
    share: float = 0.3
    stay: float = 12.0
    kernel: Kernel = field(default_factory=lambda: Kernel(common=1.0))

    def __post_init__(self) -> None:
        _check(self, gap=(0, np.inf), ratio=(0, np.inf), share=(SMALLEST, 1 - SMALLEST), stay=(1, np.inf))

    def _draw(self, rng: Generator, network: Network, windows: int, steps: int) -> Drawn:
        nodes = network.num_nodes
        normal = rng.standard_normal((windows, steps, nodes)) @ self.kernel.root(rng, network).T
        since = held_since(rng.random((windows, steps)) < 1 / self.stay)
        wild = np.take_along_axis(normal, since[..., None], axis=1) < ndtri(self.share)
        noise = np.where(
            wild,
            self.ratio * self.wild.draw(rng, network, windows, steps),
            self.calm.draw(rng, network, windows, steps),
        )
        variance = self.gap**2 * self.share * (1 - self.share) + 1 - self.share + self.ratio**2 * self.share
        return (self.gap * (wild - self.share) + noise) / np.sqrt(variance)
