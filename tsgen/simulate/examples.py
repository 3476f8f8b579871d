r"""Fixed examples of a network and of a process on it, whose laws are known exactly.

The nodes of :func:`geometric_graph` have random positions in a region, with edges of unequal weights into
each node from its nearest nodes, so that the graph is directed and sparse. :func:`linear_process` is a
:class:`~tsgen.exact.linear.VARProcess` of order 2 on a graph, with

.. math:: A_1 = 0.1\, I + 0.9\, P, \qquad A_2 = -0.3\, I + 0.24\, P,

where P averages over the in-neighbours of each node, with the weights of the edges. The noise is independent.
The process is then shifted and scaled to a mean and a scale for each node. P has row sums 1, so the largest
root is that of :math:`\lambda^2 = \lambda - 0.06`, which is 0.936, on every graph. Predictions, imputations
and the likelihood are known exactly.

Random numbers are those of :mod:`tsgen.counter_random`; numbers that one seed gives do not change.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch_geometric.data import Data

from tsgen.argument_types import check_arguments
from tsgen.counter_random import streams, uniforms
from tsgen.data.graphs import check_graph, great_circle, nearest_neighbours, weighted_mean
from tsgen.exact.linear import VARProcess

LATITUDE, LONGITUDE = (50.0, 52.0), (9.0, 12.0)
"""The region of the nodes, in degrees north and east."""

NEIGHBOURS = 3
"""The number of edges into each node."""

OWN, COUPLING = (0.1, -0.3), (0.9, 0.24)
"""Coefficients of a node's own value and of its neighbours' mean in the linear process, at lags 1 and 2."""


def _numbers(seed: int, key: int, *shape: int) -> Float[Tensor, "*shape"]:
    """Draws uniform numbers in (0, 1); every key has numbers of its own."""
    return uniforms(streams(seed, torch.tensor(key)), shape, dtype=torch.float64)


@check_arguments
def geometric_graph(num_nodes: int, seed: int) -> Data:
    r"""Returns a random directed graph, with edges into each node from its nearest nodes.

    An edge of length d has weight :math:`\exp(-d / \bar d)` times a factor drawn between 0.5 and 1.5, with
    :math:`\bar d` the mean length of all edges.

    Args:
        num_nodes: The number of nodes.
        seed: Fixes positions and factors.

    Raises:
        ValueError: If there are fewer than two nodes.
    """
    if num_nodes < 2:
        raise ValueError(f"num_nodes must be at least 2; it is {num_nodes}.")
    north, east = _numbers(seed, 1, 2, num_nodes).numpy()
    latitude, longitude = LATITUDE[0] + np.ptp(LATITUDE) * north, LONGITUDE[0] + np.ptp(LONGITUDE) * east
    graph = nearest_neighbours(latitude, longitude, min(NEIGHBOURS, num_nodes - 1))
    source, target = graph.edge_index
    length = torch.from_numpy(
        great_circle(latitude[source], longitude[source], latitude[target], longitude[target])
    )
    factor = 0.5 + _numbers(seed, 2, len(length))
    graph.edge_weight = torch.exp(-length / length.mean()) * factor
    return check_graph(graph)


@check_arguments
def linear_process(graph: Data, seed: int) -> VARProcess:
    """Returns the linear process on a graph, in data units.

    Each node has a stationary mean between 10 and 50 and a stationary standard deviation between 2 and 12.

    Args:
        graph: The directed, weighted graph; every node must have an incoming edge.
        seed: Fixes mean and scale of the nodes.
    """
    graph = check_graph(graph)
    neighbours = weighted_mean(graph.edge_index, graph.edge_weight, int(graph.num_nodes)).to_dense().double()
    unit = torch.eye(graph.num_nodes, dtype=torch.float64)
    coefficients = torch.stack(
        [own * unit + coupling * neighbours for own, coupling in zip(OWN, COUPLING, strict=True)]
    )
    standard = VARProcess(coefficients, torch.zeros(graph.num_nodes), unit)
    loc = 10 + 40 * _numbers(seed, 3, graph.num_nodes)
    scale = 2 * 6 ** _numbers(seed, 4, graph.num_nodes)
    scale = scale / standard.state_space().initial_covariance.diagonal()[: graph.num_nodes].sqrt()
    coefficients = scale[:, None] * coefficients / scale
    return VARProcess(coefficients, loc - coefficients.sum(dim=0) @ loc, torch.diag(scale**2))
