r"""Messages along the edges of a static graph, for many slices at once.

The mean of a node's neighbours, weighted by the edges that enter it,

.. math:: m_v = \sum_{u \to v} w_{uv} x_u / \sum_{u \to v} w_{uv},

is a product with one matrix. :class:`Propagation` holds a graph made ready for it: the matrix dense for a
small graph and sparse (CSR, applied nodes first) above, and copies of the edges side by side for any other
convolution. Each is computed once, when first used; make one per forward pass and hand it to every layer.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import MessagePassing

DENSE_UP_TO = 100
"""Nodes up to which a dense product is the faster one (measured on a CPU)."""


class Propagation:
    """A checked graph made ready for messages.

    Args:
        graph: The graph; its tensors' device is where messages are computed.
    """

    def __init__(self, graph: Data) -> None:
        self.edge_index, self.edge_weight = graph.edge_index, graph.edge_weight
        self.num_nodes = int(graph.num_nodes)
        self._mean: Tensor | None = None
        self._tiled: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def mean(self) -> Float[Tensor, "nodes nodes"]:
        """The matrix of weighted means over in-neighbours, row v for node v; rows without edges are zero."""
        if self._mean is None:
            source, target = self.edge_index
            total = self.edge_weight.new_zeros(self.num_nodes).index_add(0, target, self.edge_weight)
            entries = torch.sparse_coo_tensor(
                torch.stack([target, source]),
                self.edge_weight / total[target],
                (self.num_nodes, self.num_nodes),
                check_invariants=False,
            )
            self._mean = entries.to_dense() if self.num_nodes <= DENSE_UP_TO else _to_csr(entries)
        return self._mean

    def tiled(self, copies: int) -> tuple[Int64[Tensor, "2 edges"], Float[Tensor, "edges"]]:
        """Edges and weights of ``copies`` graphs side by side, as one graph of ``copies`` times as many
        nodes."""
        if copies not in self._tiled:
            offset = torch.arange(copies, device=self.edge_index.device) * self.num_nodes
            edges = (self.edge_index[:, None] + offset[:, None]).flatten(1)
            self._tiled[copies] = (edges, self.edge_weight.repeat(copies))
        return self._tiled[copies]


def _to_csr(entries: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return entries.to_sparse_csr()


class GraphConvolution(MessagePassing):
    """A linear map of the weighted mean of each node's in-neighbours. The node itself is not among them.

    Args:
        in_channels: Size of a node's input.
        out_channels: Size of a node's output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(aggr="sum", node_dim=0)
        self.linear = nn.Linear(in_channels, out_channels, bias=False)

    def forward(
        self, x: Float[Tensor, "*slices nodes in"], propagation: Propagation
    ) -> Float[Tensor, "*slices nodes out"]:
        """The messages that every node receives, for any number of slices."""
        # whichever order multiplies the smaller width by the graph
        first = self.linear.out_features < self.linear.in_features
        x = self.linear(x) if first else x
        matrix = propagation.mean.to(x.dtype)
        if matrix.layout == torch.strided:
            x = matrix @ x
        else:
            nodes_first = x.movedim(-2, 0)
            # sparse products know no half precision
            with torch.autocast(x.device.type, enabled=False):
                out = self.propagate(
                    matrix.to(self.linear.weight.dtype), x=nodes_first.flatten(1).to(self.linear.weight.dtype)
                )
            x = out.reshape(nodes_first.shape).movedim(0, -2)
        return x if first else self.linear(x)

    def message_and_aggregate(
        self, adj_t: Float[Tensor, "nodes nodes"], x: Float[Tensor, "nodes features"]
    ) -> Tensor:
        """The sparse product with all slices side by side, nodes first."""
        return adj_t @ x


class Convolution(nn.Module):
    """Any PyTorch Geometric convolution over slices ``[*slices, nodes, features]``.

    :class:`GraphConvolution` takes its own fast path; every other class sees the slices as one block-diagonal
    graph, the one form in which all of them are right. Edge weights are passed to a convolution that takes
    ``edge_weight``, or as one feature per edge to one made with ``edge_dim``.

    Args:
        make: Makes the convolution from the sizes of a node's input and output.
        in_channels: Size of a node's input.
        out_channels: Size of a node's output.

    Raises:
        ValueError: If the convolution does not return ``out_channels`` numbers a node.
    """

    def __init__(self, make: Callable[[int, int], nn.Module], in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.inner = make(in_channels, out_channels)
        takes = inspect.signature(self.inner.forward).parameters
        self.weights = "edge_weight" if "edge_weight" in takes else None
        if "edge_attr" in takes and getattr(self.inner, "edge_dim", None) == 1:
            self.weights = "edge_attr"
        self._try(in_channels, out_channels)

    @torch.no_grad()
    def _try(self, in_channels: int, out_channels: int) -> None:
        two = Data(edge_index=torch.tensor([[0, 1], [1, 0]]), edge_weight=torch.ones(2), num_nodes=2)
        name = type(self.inner).__name__
        try:
            shape = self(torch.zeros(1, 2, in_channels), Propagation(two)).shape
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"{name} must map (x, edge_index) to one row a node; it failed: {error}."
            ) from error
        if shape != (1, 2, out_channels):
            raise ValueError(
                f"{name} must return {out_channels} numbers a node; it returned {shape[-1]}. "
                "An attention with several heads needs concat: false."
            )

    def forward(
        self, x: Float[Tensor, "*slices nodes in"], propagation: Propagation
    ) -> Float[Tensor, "*slices nodes out"]:
        """The messages that every node receives, for any number of slices."""
        if isinstance(self.inner, GraphConvolution):
            return self.inner(x, propagation)
        flat = x.flatten(0, -2)
        edges, weight = propagation.tiled(len(flat) // propagation.num_nodes)
        weight = weight.to(x.dtype)
        extra = {"edge_weight": weight, "edge_attr": weight[:, None]}
        out = self.inner(flat, edges, **({self.weights: extra[self.weights]} if self.weights else {}))
        return out.unflatten(0, x.shape[:-1])
