r"""Training on parts of a large graph, so that the cost of a step does not grow with the number of nodes.

The graph is cut once into parts of equal size (:func:`tsgen.data.partition`). Each batch draws some of
them, keeps the edges among their nodes, and with ``hops`` above zero reads their surroundings too: nodes that
inform and are not scored. A model whose laws depend on what lies within that many edges has the same law of
every scored entry as on the whole graph, and the gradient of a batch is an unbiased one of the whole loss but
for the count that it is divided by. Without surroundings it is Cluster-GCN, where what comes over the edges
between parts is left out; to draw several parts at once brings back the edges among these.

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

from tsgen.counter_random import streams
from tsgen.data.graphs import partition

DRAW = 3
"""Sets the random streams of the parts that are drawn apart from those of windows and of what is hidden."""


class Subgraph(NamedTuple):
    """Some of the nodes of a graph and the edges among them.

    Attributes:
        nodes: Their numbers in the whole graph, ascending.
        scored: Which of them are scored; the others inform them.
        graph: The edges among them, the nodes numbered by their place in ``nodes``.
    """

    nodes: Int64[Tensor, "nodes"]
    scored: Bool[Tensor, "nodes"]
    graph: Data


@dataclass(frozen=True)
class Subgraphs:
    """How each training batch draws a part of the graph.

    Args:
        parts: How many parts the graph is cut into, of equal size up to one node.
        drawn: How many of them a batch holds. It divides ``parts``, so that ``parts / drawn`` batches hold
            every node once.
        hops: Nodes within so many edges of these, whatever the edges' direction, are read and not scored.
            With as many as the model has convolutions of one step, one after another, the scored nodes' laws
            are those on the whole graph (one more where a convolution weighs a message by the degree of its
            sender, as GCN does). A recurrent model hears from further away the longer the window is, and so
            approximately.

    Raises:
        ValueError: If ``parts`` or ``drawn`` is below 1, ``hops`` is negative, or ``drawn`` does not divide
            ``parts``.
    """

    parts: int
    drawn: int = 1
    hops: int = 0

    def __post_init__(self) -> None:
        for name, number, least in (
            ("parts", self.parts, 1),
            ("drawn", self.drawn, 1),
            ("hops", self.hops, 0),
        ):
            if number < least:
                raise ValueError(f"{name} must be at least {least}; it is {number}.")
        if self.parts % self.drawn:
            raise ValueError(
                f"drawn must divide parts, so that all nodes are scored equally often; it is {self.drawn}, "
                f"of {self.parts} parts."
            )


class SubgraphDraws:
    """The subgraph of each batch of an epoch: a function of (seed, epoch, batch) alone.

    The parts come in a random order, a new one once all of them were drawn: in an epoch no node is scored in
    more than one batch more than another.

    Args:
        graph: The whole graph, checked. It is cut here, which takes seconds for some ten thousand nodes.
        options: Into how many parts, and how many of them make a subgraph.
        seed: Fixes the order of the parts.

    Raises:
        ValueError: If there are more parts than nodes.
    """

    def __init__(self, graph: Data, options: Subgraphs, seed: int = 0) -> None:
        self.num_nodes, self.options, self.seed = int(graph.num_nodes), options, seed
        self.members = _grouped(partition(graph, options.parts), options.parts)
        source, target = graph.edge_index
        number = torch.arange(len(source))
        order = target.argsort(stable=True)
        self._source, self._weight = source[order], graph.edge_weight[order]
        self._incoming = _Rows.of(target[order], number, self.num_nodes)
        ends, others = torch.cat([target, source]), torch.cat([source, target])
        order = ends.argsort(stable=True)
        self._neighbours = _Rows.of(ends[order], others[order], self.num_nodes)

    def of(self, epoch: int, batch: int) -> Subgraph:
        """The subgraph of a batch.

        Args:
            epoch: Number of the epoch.
            batch: Number of the batch in its epoch.
        """
        batches = self.options.parts // self.options.drawn
        key = streams(self.seed, *(torch.tensor(k) for k in (DRAW, epoch, batch // batches)))
        order = torch.randperm(self.options.parts, generator=torch.Generator().manual_seed(int(key)))
        first = batch % batches * self.options.drawn
        chosen = order[first : first + self.options.drawn].tolist()
        return self.around(torch.cat([self.members[part] for part in chosen]))

    def around(self, scored: Int64[Tensor, "scored"]) -> Subgraph:
        """The subgraph of these nodes and of those within ``hops`` edges of them.

        Args:
            scored: The nodes' numbers.
        """
        inside = torch.zeros(self.num_nodes, dtype=torch.bool)
        inside[scored] = True
        is_scored, rim = inside.clone(), scored
        for _ in range(self.options.hops):
            reached = self._neighbours.entries(rim)[0]
            rim = reached[~inside[reached]].unique()
            inside[rim] = True
        nodes = inside.nonzero()[:, 0]
        place = torch.empty(self.num_nodes, dtype=torch.int64)
        place[nodes] = torch.arange(len(nodes))
        edge, row = self._incoming.entries(nodes)
        source = self._source[edge]
        kept = inside[source]
        graph = Data(
            edge_index=torch.stack([place[source[kept]], row[kept]]),
            edge_weight=self._weight[edge[kept]],
            num_nodes=len(nodes),
        )
        return Subgraph(nodes, is_scored[nodes], graph)


class _Rows(NamedTuple):
    """Entries in rows, one row a node: a sparse matrix without its numbers."""

    start: Int64[Tensor, "nodes"]
    length: Int64[Tensor, "nodes"]
    entry: Int64[Tensor, "entries"]

    @classmethod
    def of(cls, row: Int64[Tensor, "entries"], entry: Int64[Tensor, "entries"], rows: int) -> _Rows:
        """The rows of entries that are sorted by them."""
        length = row.bincount(minlength=rows)
        return cls(length.cumsum(0) - length, length, entry)

    def entries(self, rows: Int64[Tensor, "rows"]) -> tuple[Int64[Tensor, "found"], Int64[Tensor, "found"]]:
        """The entries of some rows, and for each the place of its row among these: the work is that of the
        entries found, not of all."""
        length = self.length[rows]
        place = torch.repeat_interleave(length)
        ahead = self.start[rows] - (length.cumsum(0) - length)
        return self.entry[ahead[place] + torch.arange(len(place))], place


def _grouped(part: Int64[Tensor, "nodes"], parts: int) -> tuple[Int64[Tensor, "_"], ...]:
    """The nodes of each part."""
    return part.argsort(stable=True).split(part.bincount(minlength=parts).tolist())
