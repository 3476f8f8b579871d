"""Simulated series on random networks: a prior of known laws, from which models are trained.

* :mod:`~tsgen.simulate.networks`: random places, distances and graphs.
* :mod:`~tsgen.simulate.components`: random processes on a network, each with its law.
* :mod:`~tsgen.simulate.measurements`: marginal laws, resolution, units, channels and sensor faults.
* :mod:`~tsgen.simulate.gaps`: which entries are hidden.
* :mod:`~tsgen.simulate.choices`: the random choice of all these.
* :mod:`~tsgen.simulate.prior`: :class:`NetworkPrior`, which draws all of it.
* :mod:`~tsgen.simulate.examples`: a fixed network, and a linear process on it.
"""

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
from tsgen.simulate.examples import geometric_graph, linear_process
from tsgen.simulate.gaps import Gaps
from tsgen.simulate.networks import Network, draw_network
from tsgen.simulate.prior import NetworkPrior, Simulation

__all__ = [
    "Component",
    "Gaps",
    "GaussianShocks",
    "GraphInfluence",
    "Kernel",
    "LinearTrend",
    "Network",
    "NetworkPrior",
    "NodeNoise",
    "RandomWalk",
    "RareShocks",
    "Regimes",
    "RushHours",
    "Shocks",
    "Simulation",
    "SpatialNoise",
    "StudentShocks",
    "Travelling",
    "VolatileShocks",
    "Wave",
    "draw_network",
    "geometric_graph",
    "linear_process",
]
