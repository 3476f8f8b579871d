"""How the prior chooses: random kernels, components, transforms and units.

Weights and ranges are chosen by hand, so that series of weather, air quality, traffic, energy, rain and
epidemics all look plausible, and so that every extreme (white in time, frozen in time, independent nodes, one
common factor) occurs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.random import Generator

from tsgen.simulate.components import (
    Component,
    GaussianShocks,
    GraphInfluence,
    Kernel,
    LinearTrend,
    NodeNoise,
    RandomWalk,
    RareShocks,
    Regimes,
    RushHours,
    Shocks,
    SpatialNoise,
    StudentShocks,
    Travelling,
    VolatileShocks,
    Wave,
)
from tsgen.simulate.measurements import (
    Censored,
    Counts,
    Mirrored,
    Rounding,
    Saturated,
    Skewed,
    Softplus,
    Transform,
    Unchanged,
    Units,
)
from tsgen.simulate.networks import log_uniform

T = TypeVar("T")

PERIODS = (7, 12, 24, 24, 24, 48, 52, 96, 168, 288)
"""Periods that calendars have, in steps of minutes to weeks."""


def _one_of(rng: Generator, *weighted: tuple[float, Callable[[Generator], T]]) -> T:
    """Draws one of several choices, with probabilities in proportion to their weights."""
    bounds = np.cumsum([weight for weight, _ in weighted])
    number = int(np.searchsorted(bounds, rng.random() * bounds[-1], side="right"))
    return weighted[min(number, len(weighted) - 1)][1](rng)


def kernel(rng: Generator) -> Kernel:
    """Draws a kernel: from independent nodes to one common factor."""
    reach = 0.0 if rng.random() < 0.1 else log_uniform(rng, 0.08, 8)
    odds = np.exp(rng.uniform(-1, 2)) if rng.random() < 0.35 else 0.0
    opposed = rng.uniform(0.1, 0.5) if odds and rng.random() < 0.15 else 0.0
    return Kernel(reach, odds / (1 + odds), rng.random() < 0.3, opposed)


def shocks(rng: Generator) -> Shocks:
    """Draws a law of innovations."""
    return _one_of(
        rng,
        (0.5, lambda g: GaussianShocks()),
        (0.22, lambda g: VolatileShocks(g.uniform(0.2, 0.9), log_uniform(g, 3, 30))),
        (0.16, lambda g: RareShocks(log_uniform(g, 0.03, 0.5))),
        (0.12, lambda g: StudentShocks(g.uniform(2.5, 8))),
    )


def noise(rng: Generator) -> SpatialNoise:
    """Draws spatial noise: from white in time to slower than a window."""
    law = shocks(rng)
    slowest = 150 if isinstance(law, GaussianShocks) else 40
    pole = 0.0 if rng.random() < 0.08 else np.exp(-1 / log_uniform(rng, 0.2, slowest))
    kind = rng.random()
    if kind < 0.1:  # complex poles: a cycle that loses its phase
        pole = np.exp(-1 / log_uniform(rng, 2, 40))
        cycle = 2 * pole * np.cos(2 * np.pi / log_uniform(rng, 3, 60))
        return SpatialNoise(kernel(rng), cycle, -(pole**2), law)
    other = np.exp(-1 / log_uniform(rng, 0.3, 12)) if kind < 0.5 else 0.0
    return SpatialNoise(kernel(rng), pole + other, -pole * other, law)


def gaussian_noise(rng: Generator) -> SpatialNoise:
    """Draws spatial noise that is Gaussian with one lag, so that its exact posterior is known."""
    pole = 0.0 if rng.random() < 0.1 else np.exp(-1 / log_uniform(rng, 0.2, 150))
    return SpatialNoise(kernel(rng), pole)


def influence(rng: Generator) -> GraphInfluence:
    """Draws a lagged influence over the edges."""
    total, share = rng.uniform(0.5, 0.97), rng.random()
    coupling = total * share * (-1 if rng.random() < 0.1 else 1)
    return GraphInfluence(total * (1 - share), coupling, kernel(rng))


def period(rng: Generator) -> float:
    """Draws a period in steps: one of a calendar, or any."""
    return float(rng.choice(PERIODS)) if rng.random() < 0.65 else log_uniform(rng, 4, 400)


def wave(rng: Generator) -> Wave:
    """Draws a wave."""
    return Wave(
        period=period(rng),
        delay=rng.uniform(0, 1) ** 2 * 1.5,
        harmonic=rng.uniform(0, 0.6),
        modulation=rng.uniform(0, 0.4),
        contrast=rng.uniform(0, 0.4),
        kernel=kernel(rng),
    )


def rush_hours(rng: Generator) -> RushHours:
    """Draws daily peaks."""
    return RushHours(
        period=float(rng.choice([24, 24, 48, 96, 288])) if rng.random() < 0.7 else log_uniform(rng, 8, 300),
        sharpness=log_uniform(rng, 1, 20),
        delay=rng.uniform(0, 0.5),
        weekend=rng.uniform(0, 1),
        modulation=rng.uniform(0, 0.5),
        kernel=kernel(rng),
    )


def travelling(rng: Generator) -> Travelling:
    """Draws fronts."""
    return Travelling(
        crossing=rng.uniform(0, 12),
        rate=log_uniform(rng, 0.02, 2),
        smoothing=log_uniform(rng, 0.3, 8),
        contrast=rng.uniform(0, 0.4),
    )


def regimes(rng: Generator) -> Regimes:
    """Draws two regimes."""
    return Regimes(
        calm=noise(rng),
        wild=noise(rng),
        gap=rng.uniform(0, 4),
        ratio=log_uniform(rng, 0.3, 3),
        share=rng.uniform(0.1, 0.6),
        stay=log_uniform(rng, 3, 60),
        kernel=Kernel(common=1.0) if rng.random() < 0.5 else kernel(rng),
    )


def random_walk(rng: Generator) -> RandomWalk:
    """Draws a random walk, of all nodes in common or not."""
    return RandomWalk(Kernel(common=1.0) if rng.random() < 0.5 else kernel(rng), rng.uniform(0, 0.5))


def component(rng: Generator) -> Component:
    """Draws a component of any kind."""
    return _one_of(
        rng,
        (0.52, noise),
        (0.08, influence),
        (0.13, wave),
        (0.07, rush_hours),
        (0.07, travelling),
        (0.05, random_walk),
        (0.02, lambda g: LinearTrend(kernel(g))),
        (0.06, regimes),
    )


def components(rng: Generator) -> list[tuple[float, Component]]:
    """Draws one to four components and white noise, each with its amplitude."""
    chosen: list[tuple[float, Component]] = [
        (float(np.exp(rng.uniform(-1.5, 0.5))), component(rng)) for _ in range(rng.integers(1, 5))
    ]
    amplitude = np.exp(rng.uniform(-0.7, 0.5) if rng.random() < 0.15 else rng.uniform(-4, -0.7))
    return [*chosen, (float(amplitude), NodeNoise(rng.uniform(0, 0.5)))]


def linear_components(rng: Generator) -> list[tuple[float, SpatialNoise | GraphInfluence | NodeNoise]]:
    """Draws one to three Gaussian noises, an influence over the edges (in some draws) and white noise (in
    some), each with its amplitude."""
    chosen: list[tuple[float, SpatialNoise | GraphInfluence | NodeNoise]] = [
        (float(np.exp(rng.uniform(-1.5, 0.5))), gaussian_noise(rng)) for _ in range(rng.integers(1, 4))
    ]
    if rng.random() < 0.3:
        chosen.append((float(np.exp(rng.uniform(-1.5, 0.5))), influence(rng)))
    if rng.random() < 0.6:
        chosen.append((float(np.exp(rng.uniform(-4, 0))), NodeNoise(rng.uniform(0, 0.5))))
    return chosen


def loadings(rng: Generator, nodes: int) -> np.ndarray:
    """Draws how strongly each node has a component: log-normal."""
    return np.exp(rng.uniform(0, 0.6) * rng.standard_normal(nodes))


def transform(rng: Generator, zeros: float) -> Transform:
    """Draws the marginal law of a channel.

    Args:
        rng: The source of randomness.
        zeros: Probability that the channel has zeros or counts.
    """
    if rng.random() < zeros:
        return _one_of(
            rng,
            (0.55, lambda g: Censored(g.uniform(0.1, 0.95), g.uniform(1, 2), g.uniform(0, 0.6))),
            (0.45, lambda g: Counts(g.uniform(-1.5, 4), g.uniform(0.3, 1), g.uniform(0, 1))),
        )
    return _one_of(
        rng,
        (0.42, lambda g: Unchanged()),
        (0.30, lambda g: Skewed(g.uniform(0.3, 1.0))),
        (0.08, lambda g: Mirrored(g.uniform(0.3, 1.0))),
        (0.12, lambda g: Softplus(g.uniform(1, 3), g.uniform(-1, 1))),
        (0.08, lambda g: Saturated(g.uniform(0.5, 1.5), g.uniform(-0.7, 0.7))),
    )


def rounding(rng: Generator, law: Transform) -> Rounding | None:
    """Draws the resolution of a channel, if it is coarse; counts have theirs already."""
    if isinstance(law, Counts) or rng.random() >= 0.3:
        return None
    return Rounding(float(np.exp(rng.uniform(-3, -1))))


def units(rng: Generator, law: Transform) -> Units:
    """Draws the units of a channel; amounts mostly keep their zero, counts keep their unit."""
    if isinstance(law, Counts):
        return Units(1.0, 0.0, 0.0, 0.0)
    contrast = rng.uniform(1, 2) if rng.random() < 0.1 else rng.uniform(0, 1) * (rng.random() < 0.8)
    scale, shift, spread = 10 ** rng.uniform(-1, 2), rng.normal(0, 3), log_uniform(rng, 0.05, 5)
    if law.anchored and (isinstance(law, Censored) or rng.random() < 0.7):
        shift = spread = 0.0
    return Units(scale, contrast, shift, spread)
