r"""Graphs between the nodes of a series: built from coordinates, distances or edges, and checked.

A graph is a PyTorch Geometric :class:`~torch_geometric.data.Data` with ``edge_index`` (row 0 the sources, row
1 the targets: node v hears from u along the edge u -> v), positive ``edge_weight``, ``num_nodes`` and, where
known, ``pos``. Weights from distances d are a Gaussian kernel

.. math:: w_{uv} = \exp(-(d_{uv} / \theta)^2),

small ones dropped. How messages travel along the edges is in :mod:`tsgen.encoders.propagation`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import networkx
import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch_geometric.data import Data

EARTH_RADIUS_KM = 6371.0088


def check_graph(graph: Data, num_nodes: int | None = None) -> Data:
    """Returns the graph after checking it, with float32 weights (ones where it has none).

    Args:
        graph: Edges from sources (row 0) to targets (row 1).
        num_nodes: How many nodes it must have; the graph's own number if not given.

    Raises:
        ValueError: If sizes disagree, an edge leaves the range of nodes, or a weight is not positive and
            finite.
    """
    edges = graph.edge_index
    if edges is None or edges.dtype != torch.int64 or edges.dim() != 2 or edges.shape[0] != 2:
        came = "none" if edges is None else f"{edges.dtype} of shape {tuple(edges.shape)}"
        raise ValueError(f"graph.edge_index must be int64 of shape [2, edges]; it is {came}.")
    if graph.num_nodes is None or (num_nodes is not None and graph.num_nodes != num_nodes):
        raise ValueError(
            f"the graph must have num_nodes={num_nodes}, one per node of the series; it has "
            f"{graph.num_nodes}. Pass num_nodes when you build it."
        )
    if edges.numel() and (int(edges.min()) < 0 or int(edges.max()) >= graph.num_nodes):
        raise ValueError(
            f"graph.edge_index must lie in 0..{graph.num_nodes - 1}; it runs from {int(edges.min())} to "
            f"{int(edges.max())}. Nodes are numbered from 0 in the order of the series."
        )
    weight = graph.edge_weight
    if weight is None:
        weight = torch.ones(edges.shape[1])
    if weight.shape != edges.shape[1:]:
        raise ValueError(
            f"graph.edge_weight must have one number per edge, {edges.shape[1]}; its shape is "
            f"{tuple(weight.shape)}."
        )
    if not bool((torch.isfinite(weight) & (weight > 0)).all()):
        raise ValueError(
            "graph.edge_weight must be positive and finite; it holds "
            f"{float(weight[~(torch.isfinite(weight) & (weight > 0))][0])}. Drop edges of weight zero."
        )
    checked = copy.copy(graph)
    checked.edge_weight = weight.float()
    return checked


def from_edges(
    source: Sequence[int] | np.ndarray,
    target: Sequence[int] | np.ndarray,
    weight: Sequence[float] | np.ndarray | None = None,
    *,
    num_nodes: int,
    undirected: bool = False,
) -> Data:
    """A graph from an edge list.

    Args:
        source: Number of the node that each edge leaves.
        target: Number of the node that each edge enters.
        weight: Positive weight of each edge; ones if not given.
        num_nodes: The number of nodes.
        undirected: Add every edge's reverse, with its weight. An edge listed both ways must agree in weight.

    Raises:
        ValueError: If lengths disagree, an edge is listed twice, or :func:`check_graph` objects.
    """
    edges = np.stack([np.asarray(source, dtype=np.int64), np.asarray(target, dtype=np.int64)])
    weights = np.ones(edges.shape[1]) if weight is None else np.asarray(weight, dtype=np.float64)
    if weights.shape != edges.shape[1:]:
        raise ValueError(f"weight must have one number per edge, {edges.shape[1]}; it has {weights.shape}.")
    if undirected:
        both = np.concatenate([edges, edges[::-1]], axis=1)
        listed = np.concatenate([np.stack([*both, np.tile(weights, 2)])], axis=1)
        edges, weights = (columns := np.unique(listed, axis=1))[:2].astype(np.int64), columns[2]
    unique, counts = np.unique(edges, axis=1, return_counts=True)
    if (counts > 1).any():
        u, v = unique[:, counts > 1][:, 0]
        raise ValueError(
            f"every edge must be listed once; {u} -> {v} is listed {counts.max()} times. Merge them."
        )
    return check_graph(
        Data(
            edge_index=torch.from_numpy(np.ascontiguousarray(edges)),
            edge_weight=torch.from_numpy(weights).float(),
            num_nodes=num_nodes,
        )
    )


def from_distances(
    distances: Float[np.ndarray, "nodes nodes"], scale: float | None = None, threshold: float = 0.1
) -> Data:
    r"""A graph whose weights are a Gaussian kernel of distances.

    :math:`w_{uv} = \exp(-(d_{uv} / \theta)^2)`, dropped where it falls below the threshold; no self-loops.
    Row u, column v is the distance from u to v; infinite means no edge.

    Args:
        distances: Non-negative distances, in any unit.
        scale: The kernel's length :math:`\theta` in the same unit; by default the standard deviation of all
            finite distances.
        threshold: Weights below it make no edge.

    Raises:
        ValueError: If the matrix is not square or a distance is negative or NaN.
    """
    d = np.asarray(distances, dtype=np.float64)
    if d.ndim != 2 or d.shape[0] != d.shape[1]:
        raise ValueError(f"distances must be a square matrix; its shape is {d.shape}.")
    if np.isnan(d).any() or (d < 0).any():
        raise ValueError("distances must not be negative or NaN; use infinity where there is no edge.")
    theta = float(d[np.isfinite(d)].std()) if scale is None else scale
    if not theta > 0:
        raise ValueError(f"the kernel's length must be positive; it is {theta}. Give one with scale.")
    weight = np.exp(-((d / theta) ** 2))
    np.fill_diagonal(weight, 0.0)
    keep = weight >= threshold if threshold > 0 else weight > 0
    source, target = np.nonzero(keep)
    return from_edges(source, target, weight[keep], num_nodes=len(d))


def haversine(latitude: np.ndarray, longitude: np.ndarray) -> Float[np.ndarray, "nodes nodes"]:
    """Great-circle distances in km between points given in degrees."""
    phi, lam = np.radians(latitude), np.radians(longitude)
    chord = (
        np.sin((phi[:, None] - phi[None]) / 2) ** 2
        + np.cos(phi[:, None]) * np.cos(phi[None]) * np.sin((lam[:, None] - lam[None]) / 2) ** 2
    )
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(chord.clip(0, 1)))


def from_coordinates(
    latitude: np.ndarray, longitude: np.ndarray, scale: float | None = None, threshold: float = 0.1
) -> Data:
    """A graph from positions on the earth: the Gaussian kernel of great-circle distances.

    Args:
        latitude: Degrees north.
        longitude: Degrees east.
        scale: The kernel's length in km; by default the standard deviation of all distances.
        threshold: Weights below it make no edge.

    Raises:
        ValueError: If a coordinate is out of range or NaN.
    """
    check_coordinates(latitude, longitude)
    return with_positions(
        from_distances(haversine(latitude, longitude), scale, threshold), latitude, longitude
    )


def nearest_neighbours(latitude: np.ndarray, longitude: np.ndarray, k: int) -> Data:
    """A directed graph in which every node hears from its k nearest nodes, all edges of weight 1.

    Args:
        latitude: Degrees north.
        longitude: Degrees east.
        k: Edges into each node.

    Raises:
        ValueError: If k is not in 1..nodes-1, or a coordinate is out of range.
    """
    check_coordinates(latitude, longitude)
    n = len(latitude)
    if not 1 <= k < n:
        raise ValueError(f"k must lie in 1..{n - 1} for {n} nodes; it is {k}.")
    distances = haversine(latitude, longitude)
    np.fill_diagonal(distances, np.inf)
    source = np.argsort(distances, axis=1, kind="stable")[:, :k].ravel()
    graph = from_edges(source, np.repeat(np.arange(n), k), num_nodes=n)
    return with_positions(graph, latitude, longitude)


def check_coordinates(latitude: np.ndarray, longitude: np.ndarray) -> None:
    """Raises ``ValueError`` unless these are degrees north in -90..90 and east in -180..360, one pair per
    node."""
    if np.shape(latitude) != np.shape(longitude) or np.ndim(latitude) != 1:
        raise ValueError(
            f"latitude and longitude must be two lists of the same length; their shapes are "
            f"{np.shape(latitude)} and {np.shape(longitude)}."
        )
    for name, degrees, low, high in (("latitude", latitude, -90, 90), ("longitude", longitude, -180, 360)):
        wrong = ~((np.asarray(degrees) >= low) & (np.asarray(degrees) <= high))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"{name} must lie in {low}..{high} degrees; node {row} (counted from 0) has {degrees[row]}. "
                "Are the two columns swapped?"
            )


def with_positions(graph: Data, latitude: np.ndarray, longitude: np.ndarray) -> Data:
    """The graph with ``pos`` = (longitude, latitude) in degrees, so that x runs east and y north."""
    graph.pos = torch.from_numpy(np.stack([longitude, latitude], axis=-1).astype(np.float32))
    return graph


def weighted_mean(
    edge_index: Int64[Tensor, "2 edges"], edge_weight: Float[Tensor, "edges"], num_nodes: int
) -> Float[Tensor, "nodes nodes"]:
    """Returns the sparse matrix (COO) whose row v averages over the nodes that send to node v.

    Rows of nodes without incoming edges are zero.

    Args:
        edge_index: The edges, sources in row 0.
        edge_weight: Weight of each edge.
        num_nodes: The number of nodes.
    """
    target = edge_index[1]
    total = edge_weight.new_zeros(num_nodes).index_add(0, target, edge_weight)
    return torch.sparse_coo_tensor(
        edge_index.flip(0),
        edge_weight / total[target],
        (num_nodes, num_nodes),
        check_invariants=False,
    )


def partition(graph: Data, parts: int) -> Int64[Tensor, "nodes"]:
    """The number of the part that each node is in: parts of equal size, up to one node, with little weight on
    the edges between them.

    The graph is halved again and again, in proportion to the parts that each half is to hold: by its reverse
    Cuthill-McKee order, then by exchanges between the halves as Kernighan and Lin have it. Edges count both
    ways. The same graph, the same parts.

    Args:
        graph: The graph; every node is in a part, whether or not it has edges.
        parts: How many.

    Raises:
        ValueError: If ``parts`` does not lie in 1..nodes.

    References:
        An efficient heuristic procedure for partitioning graphs (Kernighan & Lin, 1970).
    """
    nodes = int(graph.num_nodes)
    if not 1 <= parts <= nodes:
        raise ValueError(f"parts must lie in 1..{nodes}, the number of nodes; it is {parts}.")
    part = torch.zeros(nodes, dtype=torch.int64)
    if parts > 1:
        for number, members in enumerate(_bisected(_undirected(graph), list(range(nodes)), parts)):
            part[members] = number
    return part


def _undirected(graph: Data) -> networkx.Graph:
    """The graph with the weights of both directions of an edge added up, in networkx's form."""
    both = torch.cat([graph.edge_index, graph.edge_index.flip(0)], dim=1).cpu()
    size = (graph.num_nodes, graph.num_nodes)
    entries = torch.sparse_coo_tensor(both, graph.edge_weight.cpu().repeat(2), size, check_invariants=True)
    entries = entries.coalesce()
    found = networkx.Graph()
    found.add_nodes_from(range(graph.num_nodes))
    found.add_weighted_edges_from(zip(*entries.indices().tolist(), entries.values().tolist(), strict=True))
    found.remove_edges_from(list(networkx.selfloop_edges(found)))
    return found


def _bisected(graph: networkx.Graph, nodes: list[int], parts: int) -> list[list[int]]:
    """The nodes in parts, which number among them as evenly as can be."""
    if parts == 1:
        return [nodes]
    inside, first = graph.subgraph(nodes), len(nodes) * (parts // 2) // parts
    order = list(networkx.utils.reverse_cuthill_mckee_ordering(inside))
    halves = networkx.community.kernighan_lin_bisection(inside, (set(order[:first]), set(order[first:])))
    one, other = (sorted(half) for half in sorted(halves, key=len))
    return _bisected(graph, one, parts // 2) + _bisected(graph, other, parts - parts // 2)


def same_graph(a: Data, b: Data) -> Bool[Tensor, ""]:
    """Whether two checked graphs have the same nodes, edges and weights, whatever the order of their
    edges."""
    if a.num_nodes != b.num_nodes or a.edge_index.shape != b.edge_index.shape:
        return torch.tensor(False)

    def listed(graph: Data) -> tuple[Tensor, Tensor]:
        order = (graph.edge_index[0] * graph.num_nodes + graph.edge_index[1]).argsort()
        return graph.edge_index[:, order].cpu(), graph.edge_weight[order].cpu()

    (edges_a, weight_a), (edges_b, weight_b) = listed(a), listed(b)
    return torch.equal(edges_a, edges_b) & torch.isclose(weight_a, weight_b).all()
