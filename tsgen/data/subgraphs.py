r"""Training on clusters of a large graph, so that the cost of a step does not grow with the number of nodes.

The graph is split once into clusters of equal size (:func:`tsgen.data.partition`). Each batch draws some
clusters and keeps the edges among their nodes. With ``hops`` above zero the batch also contains the
surrounding nodes, which inform the model but are not scored. If the law of an entry depends only on nodes
within that many edges, every scored entry has the same law as on the whole graph, and the gradient of a batch
is an unbiased estimate of the gradient of the whole loss, except that each batch divides by its own count of
scored entries. Without surrounding nodes this is Cluster-GCN, which ignores edges between clusters; drawing
several clusters at once restores the edges among these.

References:
    Cluster-GCN: an efficient algorithm for training deep and large graph convolutional networks (Chiang et
    al., 2019).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torch_geometric.data import Data

from tsgen.argument_types import check_arguments
from tsgen.counter_random import streams
from tsgen.data.graphs import partition

DRAW = 3
"""Key that separates the random streams of drawn clusters from those of window order and of masks."""


class Subgraph(NamedTuple):
    """Some of the nodes of a graph, and the edges among them.

    Attributes:
        nodes: Their numbers in the whole graph, ascending.
        target: Which of them are scored; the others only inform the model.
        graph: The edges among them, with nodes numbered by their position in ``nodes``.
    """

    nodes: Int64[Tensor, "nodes"]
    target: Bool[Tensor, "nodes"]
    graph: Data


@check_arguments
@dataclass(frozen=True)
class Subgraphs:
    """Options for the subgraph that each optimiser step draws.

    Args:
        clusters: Number of clusters of the graph; their sizes differ by at most one node.
        drawn: Number of clusters in a step. It must divide ``clusters``, so that ``clusters / drawn`` steps
            hold every node once.
        hops: Nodes within this many edges of the drawn clusters, in either direction, are read but not
            scored. If it equals the number of consecutive convolutions that a model applies at one step, the
            laws of the scored nodes are those on the whole graph (add one if a convolution weighs messages by
            the degree of their sender, as GCN does). In a recurrent model information travels further the
            longer the window is, so the laws are approximate.

    Raises:
        ValueError: If ``clusters`` or ``drawn`` is below 1, ``hops`` is negative, or ``drawn`` does not
            divide ``clusters``.
    """

    clusters: int
    drawn: int = 1
    hops: int = 0

    def __post_init__(self) -> None:
        for name, number, least in (
            ("clusters", self.clusters, 1),
            ("drawn", self.drawn, 1),
            ("hops", self.hops, 0),
        ):
            if number < least:
                raise ValueError(f"{name} must be at least {least}; it is {number}.")
        if self.clusters % self.drawn:
            raise ValueError(
                f"drawn must divide clusters, so that all nodes are scored equally often; drawn is "
                f"{self.drawn} and clusters is {self.clusters}."
            )


class SubgraphDraws:
    """Draws the subgraph of each optimiser step, as a function of (seed, epoch, step) alone.

    The batches of a step, over which gradients are accumulated, share its subgraph. Clusters come in a random
    order, with a new order once all of them have been drawn. Within an epoch the numbers of steps that score
    any two nodes differ by at most one.

    Args:
        graph: The whole graph, checked. It is partitioned here, which takes seconds for some ten thousand
            nodes.
        options: The number of clusters, and how many of them form a subgraph.
        seed: Fixes the order of the clusters.

    Raises:
        ValueError: If there are more clusters than nodes.
    """

    def __init__(self, graph: Data, options: Subgraphs, seed: int = 0) -> None:
        self.num_nodes, self.options, self.seed = int(graph.num_nodes), options, seed
        self.members = _members(partition(graph, options.clusters), options.clusters)
        source, target = graph.edge_index
        number = torch.arange(len(source))
        order = target.argsort(stable=True)
        self._source, self._weight = source[order], graph.edge_weight[order]
        self._incoming = _Rows.of(target[order], number, self.num_nodes)
        ends, opposite_ends = torch.cat([target, source]), torch.cat([source, target])
        order = ends.argsort(stable=True)
        self._neighbours = _Rows.of(ends[order], opposite_ends[order], self.num_nodes)

    def of(self, epoch: int, step: int) -> Subgraph:
        """Returns the subgraph of an optimiser step.

        Args:
            epoch: Number of the epoch.
            step: Number of the step in its epoch.
        """
        steps = self.options.clusters // self.options.drawn
        key = streams(self.seed, *(torch.tensor(k) for k in (DRAW, epoch, step // steps)))
        order = torch.randperm(self.options.clusters, generator=torch.Generator().manual_seed(int(key)))
        first = step % steps * self.options.drawn
        chosen = order[first : first + self.options.drawn].tolist()
        return self.around(torch.cat([self.members[cluster] for cluster in chosen]))

    def around(self, targets: Int64[Tensor, "targets"]) -> Subgraph:
        """Returns the subgraph of the given nodes and of all nodes within ``hops`` edges of them.

        Args:
            targets: Numbers of the nodes that are scored.
        """
        inside = torch.zeros(self.num_nodes, dtype=torch.bool)
        inside[targets] = True
        is_target, frontier = inside.clone(), targets
        for _ in range(self.options.hops):
            reached = self._neighbours.entries(frontier)[0]
            frontier = reached[~inside[reached]].unique()
            inside[frontier] = True
        nodes = inside.nonzero()[:, 0]
        position = torch.empty(self.num_nodes, dtype=torch.int64)
        position[nodes] = torch.arange(len(nodes))
        edge, row = self._incoming.entries(nodes)
        source = self._source[edge]
        kept = inside[source]
        graph = Data(
            edge_index=torch.stack([position[source[kept]], row[kept]]),
            edge_weight=self._weight[edge[kept]],
            num_nodes=len(nodes),
        )
        return Subgraph(nodes, is_target[nodes], graph)


class _Rows(NamedTuple):
    """Entries grouped in rows, one row per node: a sparse matrix without its values."""

    start: Int64[Tensor, "nodes"]
    length: Int64[Tensor, "nodes"]
    entry: Int64[Tensor, "entries"]

    @classmethod
    def of(cls, row: Int64[Tensor, "entries"], entry: Int64[Tensor, "entries"], rows: int) -> _Rows:
        """Returns the rows of entries that are sorted by row."""
        length = row.bincount(minlength=rows)
        return cls(length.cumsum(0) - length, length, entry)

    def entries(self, rows: Int64[Tensor, "rows"]) -> tuple[Int64[Tensor, "found"], Int64[Tensor, "found"]]:
        """Returns the entries of some rows, and for each entry the position of its row in ``rows``.

        The cost is linear in the number of entries returned.
        """
        length = self.length[rows]
        place = torch.repeat_interleave(length)
        ahead = self.start[rows] - (length.cumsum(0) - length)
        return self.entry[ahead[place] + torch.arange(len(place))], place


def _members(cluster: Int64[Tensor, "nodes"], clusters: int) -> tuple[Int64[Tensor, "_"], ...]:
    """Returns the nodes of each cluster."""
    return cluster.argsort(stable=True).split(cluster.bincount(minlength=clusters).tolist())
