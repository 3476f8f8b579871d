r"""Graphs over the nodes of a series: built from coordinates, distances or edges, and checked.

A graph is a PyTorch Geometric :class:`~torch_geometric.data.Data` with ``edge_index`` (row 0 holds the
sources, row 1 the targets; an edge u -> v carries information from node u to node v), positive
``edge_weight``, ``num_nodes`` and, if known, ``pos``. Weights are computed from distances d by a Gaussian
kernel

.. math:: w_{uv} = \exp(-(d_{uv} / \theta)^2),

and small weights are dropped. :mod:`tsgen.encoders.propagation` defines how messages pass along the edges.

A quantity of edges, a column of a table, a variable of a dataset or an attribute of a graph, is recognised by
its name (:func:`edge_quantity`): weights are used, distances become weights by the kernel, and a quantity
that is neither is refused, because leaving it out would set every weight to 1.

Nodes near a position are found by a k-d tree on the unit sphere, where the distance of two points is the
chord :math:`2 \sin(d / 2R)` of their great-circle distance d. Memory and time then grow with the number of
edges instead of the square of the number of nodes.
"""

from __future__ import annotations

import copy
import logging
import math
import operator
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import networkx
import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from scipy.spatial import cKDTree
from torch import Tensor
from torch_geometric.data import Data

from tsgen.argument_types import check_arguments

logger = logging.getLogger(__name__)

EARTH_RADIUS_KM = 6371.0088

WEIGHTS = ("weight", "weights", "w", "attr", "similarity", "affinity", "strength")
"""Names of quantities that are weights of edges; ``attr`` is PyTorch Geometric's ``edge_attr``."""

DISTANCES = ("distance", "distances", "dist", "length", "lengths", "cost", "costs")
"""Names of quantities that are distances along edges."""

MAX_EDGES = 2**26
"""Largest number of edges that are made from coordinates: more need several GiB."""

MAX_NODES_FOR_SCALE = 2**14
"""Largest number of nodes whose distances are all computed, for their standard deviation (some seconds)."""

MAX_PAIRS = 2**22
"""Largest number of pairs of nodes whose correlations are computed together."""

MAX_PRODUCTS = 2**38
"""Largest number of products of two values that one moment of all pairs of nodes may take (some seconds)."""

TIES = 16
"""Candidates besides the k nearest nodes, so that nodes at equal distances are chosen by their numbers."""


def edge_quantity(names: Iterable[str]) -> tuple[str, bool] | None:
    """Returns which quantity of edges defines their weights, and whether it is a distance; None if there is
    no quantity.

    A name is recognised in :data:`WEIGHTS`, else in :data:`DISTANCES`, whatever its case, with or without
    ``edge_`` in front and a unit of length after it, as in ``Distance (km)``. Other quantities are ignored
    once one is recognised; a quantity without a name, such as the index that pandas writes, always is.

    Args:
        names: Names of the quantities.

    Raises:
        ValueError: If no name is recognised, or two are names of weights, or two of distances.
    """
    given = {name: _plain(name) for name in names if name.strip()}
    for recognised in (WEIGHTS, DISTANCES):
        found = [name for name, plain in given.items() if plain in recognised]
        if len(found) > 1:
            raise ValueError(
                f"edges must have one quantity that defines their weights; {found[0]!r} and {found[1]!r} "
                "both do. Keep one."
            )
        if found:
            return found[0], recognised is DISTANCES
    if given:
        listed = ", ".join(repr(name[:40]) for name in [*given][:5]) + (", ..." if len(given) > 5 else "")
        raise ValueError(
            f"a quantity of edges must be a weight ({', '.join(WEIGHTS)}) or a distance "
            f"({', '.join(DISTANCES)}); got {listed}. Rename what defines the weights, or leave it out to "
            "have weights of 1."
        )
    return None


@lru_cache
def _plain(name: str) -> str:
    """Returns a name in lower case without a leading ``edge_``, brackets and a unit of length at its end."""
    words = re.sub(r"[\W_]+", "_", re.sub(r"[(\[].*", "", name.casefold())).strip("_")
    return re.sub(r"^edge_|_(km|m|mi|miles|kilomet(er|re)s|met(er|re)s)$", "", words)


def check_graph(graph: Data, num_nodes: int | None = None) -> Data:
    """Returns the graph after checking it, with float32 weights in ``edge_weight``.

    The weights are the quantity that :func:`edge_quantity` finds among the attributes of the edges, such as
    ``edge_weight``, an ``edge_attr`` of one number per edge, or ``weight`` as networkx names it; ones if
    there is none. Distances become weights by :func:`weighted_by_distance`, which drops the longest edges.
    The returned graph has no other attributes of its edges.

    Args:
        graph: Edges from sources (row 0) to targets (row 1).
        num_nodes: The number of nodes it must have; the graph's own number if not given.

    Raises:
        ValueError: If sizes disagree, an edge leaves the range of nodes or is listed twice, a weight is not
            positive and finite, or an attribute of the edges is neither weight nor distance.
    """
    edges = graph.edge_index
    if not isinstance(edges, Tensor) or edges.dtype != torch.int64 or edges.dim() != 2 or len(edges) != 2:
        given = f"{edges.dtype} of shape {tuple(edges.shape)}" if isinstance(edges, Tensor) else "none"
        raise ValueError(f"graph.edge_index must be int64 of shape [2, edges]; it is {given}.")
    try:
        count = operator.index(graph.num_nodes)
    except TypeError:
        count = -1
    if not 0 <= count < 2**31 or (num_nodes is not None and count != num_nodes):
        raise ValueError(
            f"the graph must have num_nodes={num_nodes}, one per node of the series; it has "
            f"num_nodes={graph.num_nodes}. Pass num_nodes when you build the graph."
        )
    if edges.numel() and (int(edges.min()) < 0 or int(edges.max()) >= count):
        raise ValueError(
            f"graph.edge_index must lie in 0..{count - 1}; it runs from {int(edges.min())} to "
            f"{int(edges.max())}. Number the nodes from 0 in the order of the series."
        )
    _check_listed_once(edges, count)
    quantities = {*graph.keys()} - {"edge_index", "num_nodes", "pos"}
    # as PyG has them, features beside the weights
    features = quantities & {"edge_attr"} if "edge_weight" in quantities else set()
    quantities -= features
    if quantities != {"edge_weight"}:  # checked graphs have no others, and batches are checked often
        # edge_attrs() misses attributes without "edge" in their name if there are as many nodes as edges
        of_edges = {*graph.edge_attrs()}
        quantities = {name for name in quantities if name in of_edges or _plain(name) in WEIGHTS + DISTANCES}
    checked = copy.copy(graph)
    for name in quantities | features:
        del checked[name]
    checked.num_nodes = count
    checked.edge_index, checked.edge_weight = _weighted(graph, edge_quantity(sorted(quantities)))
    return checked


def _check_listed_once(edges: Int64[Tensor, "2 edges"], num_nodes: int) -> None:
    key = edges[0] * num_nodes + edges[1]
    ordered = key.sort().values
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(repeated):
        u, v = divmod(int(repeated[0]), num_nodes)
        times = int((key == repeated[0]).sum())
        raise ValueError(
            f"every edge must be listed once; {u} -> {v} is listed {times} times. Merge the copies."
        )


def _weighted(
    graph: Data, quantity: tuple[str, bool] | None
) -> tuple[Int64[Tensor, "2 edges"], Float[Tensor, "edges"]]:
    """Returns the edges of a graph and their weights, given the quantity that :func:`edge_quantity` found."""
    edges: Tensor = graph.edge_index
    if quantity is None:
        return edges, torch.ones(edges.shape[1], device=edges.device)
    name, is_distance = quantity
    weight = _per_edge(f"graph.{name}", graph[name], edges)
    if is_distance:
        arrays = weighted_by_distance(edges.cpu().numpy(), weight.cpu().double().numpy())
        edges, weight = (torch.from_numpy(array).to(edges.device) for array in arrays)
    single = weight.float()
    invalid = ~(torch.isfinite(single) & (single > 0))
    if bool(invalid.any()):
        raise ValueError(
            f"graph.{name} must be positive and finite; it holds {float(weight[invalid][0])}. Drop edges of "
            "weight zero."
        )
    if not math.isfinite(float(single.sum())):
        raise ValueError(
            f"graph.{name} must have a finite sum in float32; its largest weight is {float(weight.max())}. "
            "Divide all weights by it: only their ratios matter."
        )
    return edges, single


def weighted_by_distance(
    edges: Int64[np.ndarray, "2 edges"], distances: Float[np.ndarray, "edges"], threshold: float = 0.1
) -> tuple[Int64[np.ndarray, "2 kept"], Float[np.ndarray, "kept"]]:
    """Returns listed edges and the Gaussian kernel of their distances as weights.

    The length scale is the root mean square of the distances, because their standard deviation is close to
    zero if all edges have about the same length. Weights below the threshold and self-loops are dropped, with
    a warning.

    Args:
        edges: Sources (row 0) and targets (row 1).
        distances: The distance along each edge, in any unit.
        threshold: Edges with smaller weights are dropped.

    Raises:
        ValueError: If a distance is negative or not finite, or the threshold is not in 0..1.
    """
    if not np.isfinite(distances).all():
        raise ValueError("distances of edges must be finite; leave out edges between unconnected nodes.")
    scale = math.sqrt(float(np.mean(distances**2))) if distances.any() else 1.0
    weight = kernel_weights(distances, scale, threshold)
    far, loop = weight == 0, edges[0] == edges[1]
    if (far | loop).any():
        logger.warning(
            "%d of %d edges are dropped: %d of a distance to which the kernel gives a weight below %s, %d "
            "from a node to itself.",
            *((far | loop).sum(), len(far), (far & ~loop).sum(), threshold, loop.sum()),
        )
    return edges[:, ~(far | loop)], weight[~(far | loop)]


def _per_edge(name: str, given: Any, edges: Int64[Tensor, "2 edges"]) -> Shaped[Tensor, "edges"]:
    """Returns an attribute of the edges as one number per edge."""
    try:
        numbers = torch.as_tensor(given, device=edges.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be a tensor; it is {type(given).__name__}.") from error
    if numbers.dim() == 2 and numbers.shape[1] == 1:
        numbers = numbers[:, 0]
    if numbers.shape != edges.shape[1:] or numbers.is_complex():
        raise ValueError(
            f"{name} must have one number per edge, {edges.shape[1]}; its shape is {tuple(numbers.shape)} "
            f"and its type {numbers.dtype}."
        )
    return numbers


@check_arguments
def from_edges(
    source: Sequence[float] | np.ndarray,
    target: Sequence[float] | np.ndarray,
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
        ValueError: If lengths disagree, or :func:`check_graph` raises.
    """
    ends = node_numbers("source", source), node_numbers("target", target)
    if len(ends[0]) != len(ends[1]):
        raise ValueError(
            f"source and target must have one number per edge; they have {len(ends[0])} and {len(ends[1])}."
        )
    edges = np.stack(ends)
    weights = np.ones(edges.shape[1]) if weight is None else np.asarray(weight, dtype=np.float64)
    if weights.shape != edges.shape[1:]:
        raise ValueError(
            f"weight must have one number per edge, {edges.shape[1]}; its shape is {weights.shape}."
        )
    if undirected:
        _check_listed_once(torch.from_numpy(edges), num_nodes)
        edges, weights = _both_ways(edges, weights)
    return check_graph(
        Data(
            edge_index=torch.from_numpy(np.ascontiguousarray(edges)),
            edge_weight=torch.from_numpy(weights),
            num_nodes=num_nodes,
        )
    )


def node_numbers(name: str, numbers: Any) -> Int64[np.ndarray, "edges"]:
    """Returns the numbers of the nodes at one end of each edge.

    Args:
        name: What to call them in an error.
        numbers: Integers, or floats that are whole.

    Raises:
        ValueError: If they are not whole numbers in one dimension, such as names of nodes.
    """
    given = np.asarray(numbers)
    whole = given.dtype.kind in "iu" or not given.size or (given.dtype.kind == "f" and (given % 1 == 0).all())
    if given.ndim != 1 or not whole:
        raise ValueError(
            f"{name} must hold the number of a node, counted from 0, for each edge; it holds {given.dtype} "
            f"of shape {given.shape}, such as {str(given.flat[0])[:40]!r}."
        )
    return given.astype(np.int64)


def _both_ways(
    edges: Int64[np.ndarray, "2 edges"], weights: Float[np.ndarray, "edges"]
) -> tuple[Int64[np.ndarray, "2 both"], Float[np.ndarray, "both"]]:
    """Returns edges and their reverses, sorted; an edge of the same weight in both directions occurs once."""
    edges, weights = np.concatenate([edges, edges[::-1]], axis=1), np.tile(weights, 2)
    order = np.lexsort((weights, edges[1], edges[0]))
    edges, weights = edges[:, order], weights[order]
    new = np.ones(len(weights), dtype=bool)
    new[1:] = (np.diff(edges, axis=1) != 0).any(axis=0) | (np.diff(weights) != 0)
    return edges[:, new], weights[new]


@check_arguments
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
        ValueError: If the matrix is not square, a distance is negative or NaN, the scale is not positive or
            the threshold not in 0..1.
    """
    d = np.asarray(distances, dtype=np.float64)
    if d.ndim != 2 or d.shape[0] != d.shape[1]:
        raise ValueError(f"distances must be a square matrix; its shape is {d.shape}.")
    weight = kernel_weights(d, scale, threshold)
    np.fill_diagonal(weight, 0.0)
    source, target = np.nonzero(weight)
    return from_edges(source, target, weight[source, target], num_nodes=len(d))


def kernel_weights(
    distances: Float[np.ndarray, "..."], scale: float | None = None, threshold: float = 0.1
) -> Float[np.ndarray, "..."]:
    """Returns the Gaussian kernel of distances, and zero where it is below the threshold.

    Args:
        distances: Non-negative distances, in any unit; infinity for zero weight.
        scale: Length scale of the kernel, in the same unit; by default the standard deviation of all finite
            distances.
        threshold: The smallest weight above zero.

    Raises:
        ValueError: If a distance is negative or NaN, the scale is not positive or the threshold not in 0..1.
    """
    if np.isnan(distances).any() or (distances < 0).any():
        raise ValueError("distances must not be negative or NaN; use infinity where there is no edge.")
    finite = distances[np.isfinite(distances)]
    theta = scale
    if theta is None:
        theta = float(finite.std()) if finite.size and np.ptp(finite) else 0.0  # std() of equals may be 1e-17
    _check_kernel(theta, threshold)
    weight = np.exp(-((distances / theta) ** 2))
    return np.where(weight >= _least_weight(threshold), weight, 0.0)


def _check_kernel(scale: float, threshold: float) -> None:
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(
            f"the length scale of the kernel must be positive; it is {scale}. Pass a positive scale, or "
            "weights instead of distances."
        )
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must lie in 0..1, as weights do; it is {threshold}.")


def _least_weight(threshold: float) -> float:
    """Returns the smallest weight that is kept: a weight must not be zero in float32."""
    return max(threshold, float(np.finfo(np.float32).tiny))


def haversine(latitude: np.ndarray, longitude: np.ndarray) -> Float[np.ndarray, "nodes nodes"]:
    """Returns great-circle distances in km between points given in degrees."""
    return great_circle(latitude[:, None], longitude[:, None], latitude[None], longitude[None])


def great_circle(
    latitude: np.ndarray, longitude: np.ndarray, other_latitude: np.ndarray, other_longitude: np.ndarray
) -> Float[np.ndarray, "..."]:
    """Returns great-circle distances in km from points to others, all given in degrees."""
    phi, lam, other_phi, other_lam = map(np.radians, (latitude, longitude, other_latitude, other_longitude))
    chord = (
        np.sin((phi - other_phi) / 2) ** 2
        + np.cos(phi) * np.cos(other_phi) * np.sin((lam - other_lam) / 2) ** 2
    )
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(chord.clip(0, 1)))


@check_arguments
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
        ValueError: If a coordinate is out of range or NaN, the scale is not positive or the threshold not in
            0..1; if the graph has more than :data:`MAX_EDGES` edges; or if the scale is not given for more
            than :data:`MAX_NODES_FOR_SCALE` nodes.
    """
    latitude, longitude = check_coordinates(latitude, longitude)
    theta = _deviation_of_distances(latitude, longitude) if scale is None else scale
    _check_kernel(theta, threshold)
    reach = theta * math.sqrt(-math.log(_least_weight(threshold))) / EARTH_RADIUS_KM
    # larger than the rounding error of a chord; the weights below decide
    chord = 2 * math.sin(min(reach, math.pi) / 2) + 1e-9
    tree = cKDTree(_on_unit_sphere(latitude, longitude))
    _check_number_of_edges(int(tree.count_neighbors(tree, chord)) - len(latitude), "scale")
    pairs = tree.query_pairs(chord, output_type="ndarray").T
    source, target = np.concatenate([pairs, pairs[::-1]], axis=1)
    distances = great_circle(latitude[source], longitude[source], latitude[target], longitude[target])
    weight = kernel_weights(distances, theta, threshold)
    order = np.lexsort((target, source))
    order = order[weight[order] > 0]
    graph = from_edges(source[order], target[order], weight[order], num_nodes=len(latitude))
    return with_positions(graph, latitude, longitude)


@check_arguments
def nearest_neighbours(latitude: np.ndarray, longitude: np.ndarray, k: int) -> Data:
    """Returns the directed graph with edges into every node from its k nearest nodes, all of weight 1.

    Of nodes at the same distance those with the smallest numbers are chosen, if there are few of them.

    Args:
        latitude: Degrees north.
        longitude: Degrees east.
        k: The number of edges into each node.

    Raises:
        ValueError: If k is not in 1..nodes-1, a coordinate is out of range, or the graph has more than
            :data:`MAX_EDGES` edges.
    """
    latitude, longitude = check_coordinates(latitude, longitude)
    n = len(latitude)
    if not 1 <= k < n:
        raise ValueError(f"k must lie in 1..{n - 1} for {n} nodes; it is {k}.")
    _check_number_of_edges(n * k, "k")
    points, node = _on_unit_sphere(latitude, longitude), np.arange(n)[:, None]
    near = cKDTree(points).query(points, k=min(n, k + 1 + TIES))[1]
    distances = great_circle(latitude[node], longitude[node], latitude[near], longitude[near])
    distances[near == node] = np.inf
    nearest = np.lexsort((near, distances))[:, :k]
    source = np.take_along_axis(near, nearest, axis=1).ravel()
    return with_positions(from_edges(source, np.repeat(np.arange(n), k), num_nodes=n), latitude, longitude)


@check_arguments
def from_correlations(
    values: Float[Tensor, "time nodes channels"],
    observed: Bool[Tensor, "time nodes channels"],
    neighbours: int = 8,
    threshold: float = 0.3,
    common: int = 30,
) -> Data:
    r"""Returns the directed graph with edges into every node from the nodes that it correlates with most.

    The weight of an edge is :math:`|r|`, where r is the correlation over the steps at which both nodes are
    observed. Of several channels the largest :math:`|r|` counts. Very large series are thinned to evenly
    spaced steps. Rows of the matrix of correlations are computed in blocks of bounded memory.

    Args:
        values: The values of the nodes.
        observed: Where a value was observed; no other is read.
        neighbours: The largest number of edges into a node.
        threshold: The smallest :math:`|r|` of an edge.
        common: The smallest number of steps at which both nodes are observed.

    Raises:
        ValueError: If shapes differ, ``neighbours`` or ``common`` is below 1, or the threshold is not in
            0..1.
    """
    if values.dim() != 3 or values.shape != observed.shape:
        raise ValueError(
            "values and observed must be [time, nodes, channels]; their shapes are "
            f"{list(values.shape)} and {list(observed.shape)}."
        )
    if neighbours < 1 or common < 1 or not 0 < threshold <= 1:
        raise ValueError(
            "neighbours and common must be at least 1 and threshold must lie in 0..1, above 0; they are "
            f"{neighbours}, {common} and {threshold}."
        )
    steps, n, channels = values.shape
    thinned = slice(None, None, max(1, math.ceil(steps * n * n / MAX_PRODUCTS)))
    moments = [_of_pairs(values[thinned, :, c], observed[thinned, :, c]) for c in range(channels)]
    edges, weights = [], []
    for rows in torch.arange(n).split(max(1, MAX_PAIRS // max(n, 1))):
        strength = torch.zeros(len(rows), n)
        for z, seen in moments:
            strength = torch.maximum(strength, _correlations(z, seen, rows, common).abs())
        strength[torch.arange(len(rows)), rows] = 0
        weight, source = strength.topk(min(neighbours, n), dim=1)
        kept = weight >= threshold
        edges.append(torch.stack([source, rows[:, None].expand_as(source)])[:, kept])
        weights.append(weight[kept])
    if not edges:
        return Data(edge_index=torch.empty(2, 0, dtype=torch.int64), edge_weight=torch.empty(0), num_nodes=n)
    return check_graph(Data(edge_index=torch.cat(edges, 1), edge_weight=torch.cat(weights), num_nodes=n))


def _of_pairs(
    values: Float[Tensor, "time nodes"], observed: Bool[Tensor, "time nodes"]
) -> tuple[Float[Tensor, "time nodes"], Float[Tensor, "time nodes"]]:
    """Returns standardised values, zero where nothing was observed, and the mask as numbers."""
    count = observed.sum(0).clamp(min=1)
    centred = torch.where(observed, values, 0).double()
    centred = torch.where(observed, centred - centred.sum(0) / count, 0)
    deviation = (centred.square().sum(0) / count).sqrt()
    # values that differ by rounding errors only have no correlation
    constant = deviation <= 1e-9 * torch.where(observed, values, 0).abs().amax(0)
    return torch.where(constant, 0, centred / deviation).float(), observed.float()


def _correlations(
    z: Float[Tensor, "time nodes"],
    seen: Float[Tensor, "time nodes"],
    rows: Int64[Tensor, "rows"],
    common: int,
) -> Float[Tensor, "rows nodes"]:
    """Returns the correlations of some nodes with all; zero where they are not defined or too uncertain."""
    own, own_seen = z[:, rows].T, seen[:, rows].T
    count = (own_seen @ seen).clamp(min=1)
    mean, other_mean = own @ seen / count, own_seen @ z / count
    variance = own.square() @ seen / count - mean.square()
    other_variance = own_seen @ z.square() / count - other_mean.square()
    covariance = own @ z / count - mean * other_mean
    defined = (count >= common) & (variance > 1e-4) & (other_variance > 1e-4)
    deviation = (variance * other_variance).clamp(min=1e-8).sqrt()
    return torch.where(defined, covariance / deviation, 0).clamp(-1, 1)


def _on_unit_sphere(latitude: np.ndarray, longitude: np.ndarray) -> Float[np.ndarray, "nodes 3"]:
    phi, lam = np.radians(latitude), np.radians(longitude)
    return np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], axis=-1)


def _deviation_of_distances(latitude: np.ndarray, longitude: np.ndarray) -> float:
    """Returns the standard deviation of all distances in km, each node's zero distance to itself included."""
    n = len(latitude)
    if n > MAX_NODES_FOR_SCALE:
        raise ValueError(
            f"the length scale of the kernel must be given for more than {MAX_NODES_FOR_SCALE:,} nodes, "
            f"because its default is the deviation of all distances; there are {n:,} nodes. Pass a scale in "
            "km, or use a number of nearest neighbours instead."
        )
    total, squares = 0.0, 0.0
    for rows in np.array_split(np.arange(n)[:, None], max(1, n // 256)):
        distances = great_circle(latitude[rows], longitude[rows], latitude, longitude)
        total, squares = total + float(distances.sum()), squares + float((distances**2).sum())
    return math.sqrt(max(squares / n**2 - (total / n**2) ** 2, 0.0)) if n else 0.0


def _check_number_of_edges(edges: int, option: str) -> None:
    if edges > MAX_EDGES:
        raise ValueError(
            f"a graph of coordinates must have at most {MAX_EDGES:,} edges, to fit into memory; it would "
            f"have {edges:,}. Pass a smaller {option}."
        )


def check_coordinates(
    latitude: np.ndarray, longitude: np.ndarray
) -> tuple[Float[np.ndarray, "nodes"], Float[np.ndarray, "nodes"]]:
    """Returns latitude and longitude of the nodes in float64; raises ``ValueError`` unless every node has a
    latitude in -90..90 and a longitude in -180..360 degrees."""
    for name, degrees in (("latitude", latitude), ("longitude", longitude)):
        if np.asarray(degrees).dtype.kind not in "iuf":
            raise ValueError(f"{name} must be real numbers; it is {np.asarray(degrees).dtype}.")
    latitude, longitude = np.asarray(latitude, dtype=np.float64), np.asarray(longitude, dtype=np.float64)
    if latitude.shape != longitude.shape or latitude.ndim != 1:
        raise ValueError(
            "latitude and longitude must be two lists of the same length; their shapes are "
            f"{latitude.shape} and {longitude.shape}."
        )
    for name, degrees, low, high in (("latitude", latitude, -90, 90), ("longitude", longitude, -180, 360)):
        wrong = ~((degrees >= low) & (degrees <= high))
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"{name} must lie in {low}..{high} degrees; node {row} (counted from 0) has {degrees[row]}. "
                "Check whether the two columns are swapped."
            )
    return latitude, longitude


def with_positions(graph: Data, latitude: np.ndarray, longitude: np.ndarray) -> Data:
    """Sets ``pos`` = (longitude, latitude) in degrees, so that x runs east and y north; returns the graph."""
    graph.pos = torch.from_numpy(np.stack([longitude, latitude], axis=-1).astype(np.float64))
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


@check_arguments
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
    graph = check_graph(graph)
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
