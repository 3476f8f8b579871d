r"""What a sensor reports of a latent series: the shape of its distribution, its resolution, units and faults.

The latent series x of a channel has mean 0 and variance 1 over the whole draw. A :class:`Transform` changes
its marginal law, a :class:`Rounding` its resolution, :class:`Units` the location and scale of every node.
Channels are linear mixtures of as many latent series (:func:`mixed`). :class:`Faults` corrupt what is
visible, while the truth that is scored stays clean.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float
from numpy.random import Generator

Latent = Float[np.ndarray, "windows steps nodes"]

LARGEST_EXPONENT = 5.0
"""Exponents are limited to this, so that no value is astronomically large."""


class Transform(ABC):
    """A change of the marginal law of one channel."""

    anchored: ClassVar[bool] = False
    """Whether zero has a meaning that a shift would destroy: the values are amounts or counts."""

    @abstractmethod
    def apply(self, rng: Generator, latent: Latent) -> Latent:
        """Returns the values of a latent series of zero mean and unit variance.

        Args:
            rng: The source of randomness.
            latent: The latent series x.
        """


@dataclass(frozen=True)
class Unchanged(Transform):
    """The latent series itself."""

    def apply(self, rng: Generator, latent: Latent) -> Latent:
        return latent


@dataclass(frozen=True)
class Skewed(Transform):
    r"""Positive and skewed, as concentrations are: :math:`e^{\min(k x, 5)}`, a log-normal if x is normal.

    Args:
        strength: The k of the formula; if negative, low values of x become large.
    """

    anchored: ClassVar[bool] = True
    strength: float = 0.7

    def apply(self, rng: Generator, latent: Latent) -> Latent:
        return np.exp(np.minimum(self.strength * latent, LARGEST_EXPONENT))


@dataclass(frozen=True)
class Mirrored(Transform):
    r"""Skewed towards low values, as speeds are: :math:`-e^{\min(k x, 5)}`.

    Args:
        strength: The k of the formula.
    """

    strength: float = 0.7

    def apply(self, rng: Generator, latent: Latent) -> Latent:
        return -np.exp(np.minimum(self.strength * latent, LARGEST_EXPONENT))


@dataclass(frozen=True)
class Softplus(Transform):
    r"""Positive, and linear where it is large: :math:`\log(1 + e^{k (x + s)})`.

    Args:
        slope: The k of the formula.
        shift: The s of the formula.
    """

    anchored: ClassVar[bool] = True
    slope: float = 2.0
    shift: float = 0.0

    def apply(self, rng: Generator, latent: Latent) -> Latent:
        return np.logaddexp(0, self.slope * (latent + self.shift))


@dataclass(frozen=True)
class Saturated(Transform):
    r"""Bounded on both sides, as shares and humidities are: :math:`\tanh(k x + s)`.

    Args:
        strength: The k of the formula.
        shift: The s of the formula.
    """

    strength: float = 1.0
    shift: float = 0.0

    def apply(self, rng: Generator, latent: Latent) -> Latent:
        return np.tanh(self.strength * latent + self.shift)


@dataclass(frozen=True)
class Censored(Transform):
    r"""Zero below a quantile, as rain is: :math:`\max(x + s z_v - q, 0)^p`.

    The q is the quantile of all entries; z is a standard normal for each node, so that the share of zeros
    differs between nodes.

    Args:
        zeros: The share of zeros, which fixes q.
        power: The p of the formula.
        spread: The s of the formula.

    References:
        Estimation of relationships for limited dependent variables (Tobin, 1958).
    """

    anchored: ClassVar[bool] = True
    zeros: float = 0.6
    power: float = 1.3
    spread: float = 0.3

    def apply(self, rng: Generator, latent: Latent) -> Latent:
        moved = latent + self.spread * rng.standard_normal(latent.shape[-1])
        return np.maximum(moved - np.quantile(moved, self.zeros), 0) ** self.power


@dataclass(frozen=True)
class Counts(Transform):
    r"""Counts: Poisson with mean :math:`e^{\min(m + s z_v + k x, \log 10^4)}`.

    Args:
        level: The m of the formula, the logarithm of a typical count.
        strength: The k of the formula.
        spread: The s of the formula; z is a standard normal for each node.

    References:
        The statistical analysis of multivariate counts: the Poisson log-normal (Aitchison & Ho, 1989).
    """

    anchored: ClassVar[bool] = True
    level: float = 1.0
    strength: float = 0.7
    spread: float = 0.5

    def apply(self, rng: Generator, latent: Latent) -> Latent:
        node = self.level + self.spread * rng.standard_normal(latent.shape[-1])
        return rng.poisson(np.exp(np.minimum(node + self.strength * latent, np.log(1e4)))).astype(np.float64)


@dataclass(frozen=True)
class Rounding:
    """The resolution of a sensor: values are rounded to multiples of a part of their standard deviation.

    Args:
        resolution: The step, relative to the standard deviation of the channel.
    """

    resolution: float = 0.1

    def apply(self, values: Latent) -> Latent:
        """Returns the rounded values; unchanged if they are constant."""
        step = self.resolution * values.std()
        return np.rint(values / step) * step if step > 0 else values


@dataclass(frozen=True)
class Units:
    r"""Location and scale of each node: :math:`s\, e^{a z_v} (x + m + b z'_v)`.

    Args:
        scale: The s of the formula, in data units.
        contrast: The a of the formula: how different the scales of nodes are.
        loc: The m of the formula.
        spread: The b of the formula: how different the locations of nodes are.
    """

    scale: float = 1.0
    contrast: float = 0.5
    loc: float = 0.0
    spread: float = 2.0

    def of_nodes(
        self, rng: Generator, nodes: int
    ) -> tuple[Float[np.ndarray, "nodes"], Float[np.ndarray, "nodes"]]:
        """Draws location and scale of each node."""
        scale = self.scale * np.exp(self.contrast * rng.standard_normal(nodes))
        return scale * (self.loc + self.spread * rng.standard_normal(nodes)), scale


def mixed(
    rng: Generator, latent: Float[np.ndarray, "windows steps nodes channels"], own: float
) -> Float[np.ndarray, "windows steps nodes channels"]:
    r"""Returns channels that are linear mixtures of independent latent series.

    Row c of the mixing matrix is proportional to :math:`a\, e_c + (1 - a) z_c` with z standard normal, and
    has unit length.

    Args:
        rng: The source of randomness.
        latent: Independent latent series.
        own: The weight a of a channel's own series; with 1 channels are independent.

    References:
        The intrinsic random functions and their applications (Matheron, 1973): linear coregionalisation.
    """
    channels = latent.shape[-1]
    matrix = own * np.eye(channels) + (1 - own) * rng.standard_normal((channels, channels))
    return latent @ (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).T


@dataclass(frozen=True)
class Faults:
    """Sensor faults at some nodes: each faulty node drifts, is stuck, or reports spikes.

    In every window a faulty node has a random onset. From there on a drifting node gains an error that grows
    linearly to a few standard deviations; a stuck one repeats its value at the onset for some steps. Spikes
    occur at random steps of the window, of several standard deviations. Amounts stay non-negative, and
    counts whole numbers.

    Args:
        share: Share of the nodes that are faulty.
        spikes: Probability of a spike, per step of a node with spikes.

    References:
        Sensor network data fault types (Ni et al., 2009).
    """

    share: float = 0.2
    spikes: float = 0.05

    def corrupt(
        self,
        rng: Generator,
        values: Float[np.ndarray, "windows steps nodes channels"],
        visible: Bool[np.ndarray, "windows steps nodes channels"],
    ) -> Float[np.ndarray, "windows steps nodes channels"]:
        """Returns the values with faults at visible entries.

        Args:
            rng: The source of randomness.
            values: The truth.
            visible: Where the model sees a value.
        """
        windows, steps, nodes, _ = values.shape
        step = np.arange(steps)[:, None, None]
        faulty = rng.random(nodes) < self.share
        kind = np.where(faulty, rng.integers(1, 4, nodes), 0)[:, None]
        onset = rng.integers(steps, size=(windows, 1, nodes, 1))
        end = onset + rng.integers(3, max(4, steps), size=onset.shape)
        deviation = values.std(axis=(0, 1))
        drift = deviation * rng.normal(0, 2, onset.shape) * np.maximum(step - onset, 0) / steps
        stuck = np.take_along_axis(values, onset, axis=1)
        spike = rng.random(values.shape) < self.spikes
        size = deviation * rng.normal(0, 6, values.shape)
        broken = np.where(kind == 1, values + drift, values)
        broken = np.where((kind == 2) & (step >= onset) & (step < end), stuck, broken)
        broken = np.where((kind == 3) & spike, values + size, broken)
        if values.min() >= 0:
            broken = np.maximum(broken, 0)
        if (values == np.rint(values)).all():
            broken = np.rint(broken)
        return np.where(visible, broken, values)
