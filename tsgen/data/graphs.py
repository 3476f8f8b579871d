r"""Graphs over the nodes of a series: built from coordinates, distances or edges, and checked.

A graph is a PyTorch Geometric :class:`~torch_geometric.data.Data` with ``edge_index`` (row 0 holds the
sources, row 1 the targets; an edge u -> v carries information from node u to node v), positive
``edge_weight``, ``num_nodes`` and, if known, ``pos``. Weights are computed from distances d by a Gaussian
kernel

.. math:: w_{uv} = \exp(-(d_{uv} / \theta)^2),

and small weights are dropped. :mod:`tsgen.encoders.propagation` defines how messages pass along the edges.
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
    """Returns the graph after checking it, with float32 weights (ones if it has no weights).

    Args:
        graph: Edges from sources (row 0) to targets (row 1).
        num_nodes: The number of nodes it must have; the graph's own number if not given.

    Raises:
        ValueError: If sizes disagree, an edge leaves the range of nodes, or a weight is not positive and
            finite.
    """
    edges = graph.edge_index
    if edges is None or edges.dtype != torch.int64 or edges.dim() != 2 or edges.shape[0] != 2:
        given = "none" if edges is None else f"{edges.dtype} of shape {tuple(edges.shape)}"
        raise ValueError(f"graph.edge_index must be int64 of shape [2, edges]; it is {given}.")
    if graph.num_nodes is None or (num_nodes is not None and graph.num_nodes != num_nodes):
        raise ValueError(
            f"the graph must have num_nodes={num_nodes}, one per node of the series; it has "
            f"num_nodes={graph.num_nodes}. Pass num_nodes when you build the graph."
        )
    if edges.numel() and (int(edges.min()) < 0 or int(edges.max()) >= graph.num_nodes):
        raise ValueError(
            f"graph.edge_index must lie in 0..{graph.num_nodes - 1}; it runs from {int(edges.min())} to "
            f"{int(edges.max())}. Number the nodes from 0 in the order of the series."
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
    """Returns the graph of an edge list.

    Args:
        source: Number of the node that each edge leaves.
        target: Number of the node that each edge enters.
        weight: Positive weight of each edge; ones if not given.
        num_nodes: The number of nodes.
        undirected: Add the reverse of every edge, with the same weight. If an edge is listed in both
            directions, the two weights must agree.

    Raises:
        ValueError: If lengths disagree, an edge is listed twice, or :func:`check_graph` raises.
    """
    edges = np.stack([np.asarray(source, dtype=np.int64), np.asarray(target, dtype=np.int64)])
    weights = np.ones(edges.shape[1]) if weight is None else np.asarray(weight, dtype=np.float64)
    if weights.shape != edges.shape[1:]:
        raise ValueError(
            f"weight must have one number per edge, {edges.shape[1]}; its shape is {weights.shape}."
        )
    if undirected:
        both = np.concatenate([edges, edges[::-1]], axis=1)
        columns = np.unique(np.stack([*both, np.tile(weights, 2)]), axis=1)
        edges, weights = columns[:2].astype(np.int64), columns[2]
    unique, counts = np.unique(edges, axis=1, return_counts=True)
    if (counts > 1).any():
        u, v = unique[:, counts > 1][:, 0]
        raise ValueError(
            f"every edge must be listed once; {u} -> {v} is listed {counts.max()} times. Merge the copies."
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
    r"""Returns the graph whose weights are a Gaussian kernel of distances.

    The weights are :math:`w_{uv} = \exp(-(d_{uv} / \theta)^2)`; weights below the threshold and self-loops
    are dropped. Row u, column v is the distance from u to v; infinity means no edge.

    Args:
        distances: Non-negative distances, in any unit.
        scale: Length scale :math:`\theta` of the kernel, in the same unit; by default the standard deviation
            of all finite distances.
        threshold: Edges with smaller weights are dropped.

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
        raise ValueError(
            f"the length scale of the kernel must be positive; it is {theta}. Pass a positive scale."
        )
    weight = np.exp(-((d / theta) ** 2))
    np.fill_diagonal(weight, 0.0)
    keep = weight >= threshold if threshold > 0 else weight > 0
    source, target = np.nonzero(keep)
    return from_edges(source, target, weight[keep], num_nodes=len(d))


def haversine(latitude: np.ndarray, longitude: np.ndarray) -> Float[np.ndarray, "nodes nodes"]:
    """Returns great-circle distances in km between points given in degrees."""
    phi, lam = np.radians(latitude), np.radians(longitude)
    chord = (
        np.sin((phi[:, None] - phi[None]) / 2) ** 2
        + np.cos(phi[:, None]) * np.cos(phi[None]) * np.sin((lam[:, None] - lam[None]) / 2) ** 2
    )
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(chord.clip(0, 1)))


def from_coordinates(
    latitude: np.ndarray, longitude: np.ndarray, scale: float | None = None, threshold: float = 0.1
) -> Data:
    """Returns the graph of positions on the earth, by a Gaussian kernel of great-circle distances.

    Args:
        latitude: Degrees north.
        longitude: Degrees east.
        scale: Length scale of the kernel in km; by default the standard deviation of all distances.
        threshold: Edges with smaller weights are dropped.

    Raises:
        ValueError: If a coordinate is out of range or NaN.
    """
    check_coordinates(latitude, longitude)
    return with_positions(
        from_distances(haversine(latitude, longitude), scale, threshold), latitude, longitude
    )


def nearest_neighbours(latitude: np.ndarray, longitude: np.ndarray, k: int) -> Data:
    """Returns the directed graph with edges into every node from its k nearest nodes, all of weight 1.

    Args:
        latitude: Degrees north.
        longitude: Degrees east.
        k: The number of edges into each node.

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
    """Raises ``ValueError`` unless every node has a latitude in -90..90 and a longitude in -180..360
    degrees."""
    if np.shape(latitude) != np.shape(longitude) or np.ndim(latitude) != 1:
        raise ValueError(
            "latitude and longitude must be two lists of the same length; their shapes are "
            f"{np.shape(latitude)} and {np.shape(longitude)}."
        )
    for name, degrees, low, high in (("latitude", latitude, -90, 90), ("longitude", longitude, -180, 360)):
        wrong = ~((np.asarray(degrees) >= low) & (np.asarray(degrees) <= high))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"{name} must lie in {low}..{high} degrees; node {row} (counted from 0) has {degrees[row]}. "
                "Check whether the two columns are swapped."
            )


def with_positions(graph: Data, latitude: np.ndarray, longitude: np.ndarray) -> Data:
    """Sets ``pos`` = (longitude, latitude) in degrees, so that x runs east and y north; returns the graph."""
    graph.pos = torch.from_numpy(np.stack([longitude, latitude], axis=-1).astype(np.float32))
    return graph


def weighted_mean(
    edge_index: Int64[Tensor, "2 edges"], edge_weight: Float[Tensor, "edges"], num_nodes: int
) -> Float[Tensor, "nodes nodes"]:
    """Returns the sparse matrix (COO) whose row v averages over the in-neighbours of node v.

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


def partition(graph: Data, clusters: int) -> Int64[Tensor, "nodes"]:
    """Partitions the nodes into clusters with little edge weight between them; returns each node's cluster.

    The sizes of clusters differ by at most one node. The graph is bisected recursively, in proportion to the
    number of clusters of each half: first by its reverse Cuthill-McKee order, then improved by Kernighan-Lin
    exchanges between the halves. Edges count in both directions. The result depends on the graph alone.

    Args:
        graph: The graph; nodes without edges are assigned to a cluster, too.
        clusters: The number of clusters.

    Raises:
        ValueError: If ``clusters`` does not lie in 1..nodes.

    References:
        An efficient heuristic procedure for partitioning graphs (Kernighan & Lin, 1970).
    """
    nodes = int(graph.num_nodes)
    if not 1 <= clusters <= nodes:
        raise ValueError(f"clusters must lie in 1..{nodes}, the number of nodes; it is {clusters}.")
    cluster = torch.zeros(nodes, dtype=torch.int64)
    if clusters > 1:
        for number, members in enumerate(_bisected(_undirected(graph), list(range(nodes)), clusters)):
            cluster[members] = number
    return cluster


def _undirected(graph: Data) -> networkx.Graph:
    """Returns the graph in networkx's form, with the weights of both directions of an edge added up."""
    both = torch.cat([graph.edge_index, graph.edge_index.flip(0)], dim=1).cpu()
    size = (graph.num_nodes, graph.num_nodes)
    entries = torch.sparse_coo_tensor(both, graph.edge_weight.cpu().repeat(2), size, check_invariants=True)
    entries = entries.coalesce()
    undirected = networkx.Graph()
    undirected.add_nodes_from(range(graph.num_nodes))
    undirected.add_weighted_edges_from(
        zip(*entries.indices().tolist(), entries.values().tolist(), strict=True)
    )
    undirected.remove_edges_from(list(networkx.selfloop_edges(undirected)))
    return undirected


def _bisected(graph: networkx.Graph, nodes: list[int], clusters: int) -> list[list[int]]:
    """Returns the nodes of each cluster; cluster sizes are as equal as possible."""
    if clusters == 1:
        return [nodes]
    inside, first = graph.subgraph(nodes), len(nodes) * (clusters // 2) // clusters
    order = list(networkx.utils.reverse_cuthill_mckee_ordering(inside))
    # networkx before 3.6.1 breaks ties at random
    halves = networkx.community.kernighan_lin_bisection(
        inside, (set(order[:first]), set(order[first:])), seed=0
    )
    smaller, larger = (sorted(half) for half in sorted(halves, key=len))
    return _bisected(graph, smaller, clusters // 2) + _bisected(graph, larger, clusters - clusters // 2)


def same_graph(a: Data, b: Data) -> Bool[Tensor, ""]:
    """Returns whether two checked graphs have the same nodes, edges and weights, in any order of edges."""
    if a.num_nodes != b.num_nodes or a.edge_index.shape != b.edge_index.shape:
        return torch.tensor(False)

    def sorted_edges(graph: Data) -> tuple[Tensor, Tensor]:
        order = (graph.edge_index[0] * graph.num_nodes + graph.edge_index[1]).argsort()
        return graph.edge_index[:, order].cpu(), graph.edge_weight[order].cpu()

    (edges_a, weight_a), (edges_b, weight_b) = sorted_edges(a), sorted_edges(b)
    return torch.equal(edges_a, edges_b) & torch.isclose(weight_a, weight_b).all()
