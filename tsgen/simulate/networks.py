r"""Random networks: places of nodes, distances between them, and a graph.

The number of nodes is log-uniform: mostly within 6..40, else above, or over the whole range. Places are
uniform in a square, in clusters, or along a bent line (a road or a river). Correlation falls with a distance
that may include a coordinate which the graph does not show, such as altitude.

The graph is drawn from the places in one of five ways: a Gaussian kernel with a threshold, as
:mod:`tsgen.data.graphs` makes of coordinates; the nearest neighbours, with weights or without; links between
consecutive nodes; or no edges at all. Half of the graphs with edges are then directed and irregular: weights
are multiplied by random factors and edges are dropped.

References:
    Random Geometric Graphs (Penrose, 2003).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.random import Generator
from torch_geometric.data import Data

from tsgen.argument_types import check_arguments, check_shapes
from tsgen.data.graphs import check_graph

USUAL = (6, 40)
"""The sizes within which most networks lie, as far as the range of sizes allows."""

DENSE = 60
"""The size above which kernels are shorter, so that the number of edges per node does not grow further."""

THRESHOLD = 0.1
"""Kernel weights below this are no edges, as in :func:`tsgen.data.graphs.from_distances`."""


def log_uniform(rng: Generator, low: float, high: float) -> float:
    """Draws a number whose logarithm is uniform between those of the bounds."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


@check_shapes
@dataclass(frozen=True)
class Network:
    """Nodes with a graph and with distances, relative to their mean.

    Attributes:
        graph: The graph, as :func:`~tsgen.data.graphs.check_graph` returns it.
        position: Coordinates of each node in the plane; the square has sides of about 1.
        distance: Distances that correlation falls with; their mean over pairs of nodes is 1.

    Raises:
        ValueError: If the graph has another number of nodes, or a number is not finite.
    """

    graph: Data
    position: Float[np.ndarray, "nodes 2"]
    distance: Float[np.ndarray, "nodes nodes"]

    def __post_init__(self) -> None:
        check_graph(self.graph, len(self.position))
        for name in ("position", "distance"):
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"{name} must be finite; it has NaN or infinity. Leave out such nodes.")

    @property
    def num_nodes(self) -> int:
        """The number of nodes."""
        return len(self.position)

    @cached_property
    def averaging(self) -> Float[np.ndarray, "nodes nodes"]:
        """The matrix whose row v averages over the in-neighbours of node v; zero if there are none."""
        source, target = self.graph.edge_index.numpy()
        matrix = np.zeros((self.num_nodes, self.num_nodes))
        matrix[target, source] = self.graph.edge_weight.numpy()
        total = matrix.sum(axis=1, keepdims=True)
        return matrix / np.where(total > 0, total, 1)


def draw_size(rng: Generator, low: int, high: int) -> int:
    """Draws a number of nodes.

    Args:
        rng: The source of randomness.
        low: The smallest number.
        high: The largest number.
    """
    kind = rng.random()
    a, b = (USUAL if kind < 0.7 else (USUAL[1], high)) if kind < 0.85 else (low, high)
    a, b = max(low, a), min(high, b)
    if a > b:
        a, b = low, high
    return min(b, int(log_uniform(rng, a, b + 1)))


@check_arguments
def draw_network(rng: Generator, nodes: int) -> Network:
    """Draws a network.

    Args:
        rng: The source of randomness.
        nodes: The number of nodes.

    Raises:
        ValueError: If there is no node.
    """
    if nodes < 1:
        raise ValueError(f"nodes must be at least 1; it is {nodes}.")
    position = _positions(rng, nodes)
    plane = _distances(position)
    height = rng.uniform(0.1, 0.7) if rng.random() < 0.3 else 0.0
    distance = np.sqrt(plane**2 + _distances(height * rng.standard_normal((nodes, 1))) ** 2)
    graph = _graph(rng, plane, np.argsort(position[:, 0] + position[:, 1]))
    return Network(graph, position, distance / _mean(distance))


def _positions(rng: Generator, nodes: int) -> Float[np.ndarray, "nodes 2"]:
    kind = rng.random()
    if kind < 0.4:
        return rng.random((nodes, 2))
    if kind < 0.8:
        centres = rng.random((int(rng.integers(2, 6)), 2))
        return centres[rng.integers(len(centres), size=nodes)] + 0.15 * rng.standard_normal((nodes, 2))
    along, bend, offset = np.sort(rng.random(nodes)), rng.uniform(0, 3), rng.uniform(0, 2 * np.pi)
    line = np.stack([along, 0.3 * np.sin(bend * np.pi * along + offset)], axis=1)
    return line + rng.uniform(0, 0.05) * rng.standard_normal((nodes, 2))


def _distances(position: Float[np.ndarray, "nodes axes"]) -> Float[np.ndarray, "nodes nodes"]:
    return np.sqrt(((position[:, None] - position) ** 2).sum(axis=-1))


def _mean(distance: Float[np.ndarray, "nodes nodes"]) -> float:
    """Returns the mean over pairs of different nodes; 1 for a single node."""
    pairs = len(distance) * (len(distance) - 1)
    return distance.sum() / pairs if pairs else 1.0


def _graph(rng: Generator, distance: np.ndarray, order: Int64[np.ndarray, "nodes"]) -> Data:
    nodes, kind = len(distance), rng.random()
    weight = np.zeros((nodes, nodes))  # row: target, column: source
    if kind < 0.45:
        scale = distance.std() * log_uniform(rng, 0.5, 1.3) if nodes > 1 else 1.0
        scale *= min(1.0, np.sqrt(DENSE / nodes))
        weight = np.exp(-((distance / scale) ** 2))
        weight[weight < THRESHOLD] = 0
    elif kind < 0.75 and nodes > 1:
        count = min(nodes - 1, int(rng.integers(2, 9)))
        nearest = np.argsort(distance + np.diag(np.full(nodes, np.inf)), axis=1, kind="stable")[:, :count]
        weights = np.exp(-distance / _mean(distance)) if kind < 0.65 else np.ones_like(distance)
        np.put_along_axis(weight, nearest, np.take_along_axis(weights, nearest, axis=1), axis=1)
        if rng.random() < 0.5:
            weight = np.maximum(weight, weight.T)
    elif kind < 0.85:
        weight[order[1:], order[:-1]] = 1
        if rng.random() < 0.5:
            weight = np.maximum(weight, weight.T)
    np.fill_diagonal(weight, 0)
    if rng.random() < 0.5:
        kept = rng.random(weight.shape) >= rng.uniform(0, 0.4)
        weight = weight * kept * np.exp(rng.uniform(0, 1) * rng.standard_normal(weight.shape))
    target, source = np.nonzero(weight)
    return check_graph(
        Data(
            edge_index=torch.from_numpy(np.stack([source, target])),
            edge_weight=torch.from_numpy(weight[target, source]),
            num_nodes=nodes,
        )
    )
