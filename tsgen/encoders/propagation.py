r"""Messages along the edges of a static graph, for many slices at once.

The mean of a node's in-neighbours, weighted by their edges,

.. math:: m_v = \sum_{u \to v} w_{uv} x_u / \sum_{u \to v} w_{uv},

is a product with one matrix. :class:`Propagation` prepares a graph for it: the matrix, dense for a small
graph and sparse (CSR, with the nodes as the first axis) for a larger one; the same for the reversed graph;
and copies of the edges, as one large graph, for any other convolution. Each is computed once, when first
used. Make one :class:`Propagation` per forward pass and pass it to every layer.

:class:`GraphConvolution` (one step along the edges), :class:`DiffusionConvolution` (several steps, in both
directions) and :class:`GraphAttention` (all nodes at once) take slices and a :class:`Propagation`.
:class:`Convolution` adapts any convolution of PyTorch Geometric, and :class:`Messages` concatenates a node's
own features with the messages that it receives.
"""

from __future__ import annotations

import inspect
import warnings
from abc import abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, softplus
from torch_geometric.data import Data
from torch_geometric.nn import MessagePassing

from tsgen.argument_types import check_shapes, made
from tsgen.data.graphs import weighted_mean

DENSE_UP_TO = 100
"""Number of nodes up to which a dense product is faster than a sparse one (measured on a CPU)."""


class Propagation:
    """A checked graph prepared for messages.

    Args:
        graph: The graph; messages are computed on the device of its tensors.
    """

    @check_shapes
    def __init__(self, graph: Data) -> None:
        tensors = isinstance(graph.edge_index, Tensor) and isinstance(graph.edge_weight, Tensor)
        if not tensors or graph.num_nodes is None:
            raise ValueError(
                "the graph must have edge_index, edge_weight and num_nodes; one is missing. Build it with "
                "tsgen.data.from_edges."
            )
        self.edge_index, self.edge_weight = graph.edge_index, graph.edge_weight
        self.num_nodes = int(graph.num_nodes)
        self._mean: Tensor | None = None
        self._reversed_mean: Tensor | None = None
        self._tiled: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def mean(self) -> Float[Tensor, "nodes nodes"]:
        """The matrix of weighted means over in-neighbours, row v for node v; rows without edges are zero."""
        if self._mean is None:
            self._mean = self._weighted_mean(self.edge_index)
        return self._mean

    @property
    def reversed_mean(self) -> Float[Tensor, "nodes nodes"]:
        """The matrix of weighted means over out-neighbours: ``mean`` of the graph with reversed edges."""
        if self._reversed_mean is None:
            self._reversed_mean = self._weighted_mean(self.edge_index.flip(0))
        return self._reversed_mean

    def _weighted_mean(self, edge_index: Tensor) -> Tensor:
        """Returns the matrix of weighted means along the given edges, dense or sparse."""
        entries = weighted_mean(edge_index, self.edge_weight, self.num_nodes)
        return entries.to_dense() if self.num_nodes <= DENSE_UP_TO else _to_csr(entries)

    def average(
        self, x: Float[Tensor, "*slices nodes features"], reverse: bool = False
    ) -> Float[Tensor, "*slices nodes features"]:
        """Returns the weighted mean over every node's neighbours, for any number of slices.

        Args:
            x: Features of the nodes.
            reverse: Average over out-neighbours instead of in-neighbours.
        """
        matrix = self.reversed_mean if reverse else self.mean
        if matrix.layout == torch.strided:
            return matrix.to(x.dtype) @ x
        nodes_first = x.movedim(-2, 0)
        precision = torch.promote_types(x.dtype, matrix.dtype)
        # sparse products do not support half precision
        with torch.autocast(x.device.type, enabled=False):
            out = matrix.to(precision) @ nodes_first.flatten(1).to(precision)
        return out.to(x.dtype).reshape(nodes_first.shape).movedim(0, -2)

    def tiled(self, copies: int) -> tuple[Int64[Tensor, "2 edges"], Float[Tensor, "edges"]]:
        """Returns the edges and weights of ``copies`` disjoint copies of the graph as one graph.

        Args:
            copies: Number of copies; the result has ``copies * num_nodes`` nodes.
        """
        if copies < 1:
            raise ValueError(f"copies must be at least 1; it is {copies}.")
        if copies not in self._tiled:
            offset = torch.arange(copies, device=self.edge_index.device) * self.num_nodes
            edges = (self.edge_index[:, None] + offset[:, None]).flatten(1)
            self._tiled[copies] = (edges, self.edge_weight.repeat(copies))
        return self._tiled[copies]


def _to_csr(entries: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return entries.to_sparse_csr()


class SliceConvolution(MessagePassing):
    """A convolution of many slices at once, which reads a :class:`Propagation` instead of edges.

    It is a subclass of PyTorch Geometric's base class, like every convolution that a checkpoint may name.
    """

    def __init__(self) -> None:
        super().__init__(aggr="sum")

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "*slices nodes in"], propagation: Propagation
    ) -> Float[Tensor, "*slices nodes out"]:
        """Returns the messages that every node receives, for any number of slices."""


def _check_channels(in_channels: int, out_channels: int) -> None:
    if in_channels < 1 or out_channels < 1:
        raise ValueError(
            f"in_channels and out_channels must be at least 1; they are {in_channels} and {out_channels}."
        )


@check_shapes
class GraphConvolution(SliceConvolution):
    """A linear map of the weighted mean over each node's in-neighbours, the node itself not included.

    Args:
        in_channels: Size of a node's input.
        out_channels: Size of a node's output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        _check_channels(in_channels, out_channels)
        self.linear = nn.Linear(in_channels, out_channels, bias=False)

    def forward(
        self, x: Float[Tensor, "*slices nodes in"], propagation: Propagation
    ) -> Float[Tensor, "*slices nodes out"]:
        """Returns the messages that every node receives, for any number of slices."""
        # of the two orders, the one in which the graph's matrix multiplies fewer features
        if self.linear.out_features < self.linear.in_features:
            return propagation.average(self.linear(x))
        return self.linear(propagation.average(x))


@check_shapes
class DiffusionConvolution(SliceConvolution):
    r"""Linear maps of diffusion over up to K steps, along the edges and against them.

    With P the weighted means over in-neighbours and Q those over out-neighbours,

    .. math:: m = \sum_{k=1}^K P^k x A_k + Q^k x B_k.

    A node receives its own features only from walks that return to it.

    Args:
        in_channels: Size of a node's input.
        out_channels: Size of a node's output.
        hops: The number K of steps.

    Raises:
        ValueError: If ``hops`` is below 1.

    References:
        Diffusion convolutional recurrent neural network (Li et al., 2018).
    """

    def __init__(self, in_channels: int, out_channels: int, hops: int = 2) -> None:
        super().__init__()
        _check_channels(in_channels, out_channels)
        if hops < 1:
            raise ValueError(f"hops must be at least 1; it is {hops}.")
        self.hops = hops
        self.linear = nn.Linear(2 * hops * in_channels, out_channels, bias=False)

    def forward(
        self, x: Float[Tensor, "*slices nodes in"], propagation: Propagation
    ) -> Float[Tensor, "*slices nodes out"]:
        """Returns the messages that every node receives, for any number of slices."""
        walks = []
        for reverse in (False, True):
            walked = x
            for _ in range(self.hops):
                walked = propagation.average(walked, reverse)
                walks.append(walked)
        return self.linear(torch.cat(walks, dim=-1))


@check_shapes
class GraphAttention(SliceConvolution):
    r"""Attention of every node to all nodes of a slice, with a bias towards its in-neighbours.

    In each head, node v attends to node u with the weight

    .. math:: \alpha_{vu} \propto \exp(q_v \cdot k_u / \sqrt d) \,
        \bigl(1 + e^a (w_{uv} / \max w)^b\bigr)

    with a and b learned and w = 0 without an edge. A pair without an edge has the factor 1; an edge increases
    it, and a larger weight increases it more. Heads are initialised with different a. A message reaches the
    whole graph in one step, so this convolution is meant for models that read whole windows; memory grows
    with the square of the number of nodes.

    Args:
        in_channels: Size of a node's input.
        out_channels: Size of a node's output.
        heads: Number of heads. Each has ``out_channels / heads`` channels, rounded up.

    Raises:
        ValueError: If ``heads`` is below 1.

    References:
        Attention is all you need (Vaswani et al., 2017); the bias from the graph follows Do transformers
        really perform badly for graph representation? (Ying et al., 2021).
    """

    def __init__(self, in_channels: int, out_channels: int, heads: int = 4) -> None:
        super().__init__()
        _check_channels(in_channels, out_channels)
        if heads < 1:
            raise ValueError(f"heads must be at least 1; it is {heads}.")
        self.heads = heads
        width = heads * -(-out_channels // heads)
        # no bias: on the keys it would have no effect
        self.query_key_value = nn.Linear(in_channels, 3 * width, bias=False)
        self.linear = nn.Linear(width, out_channels, bias=False)
        self.log_strength = nn.Parameter(torch.linspace(0, 4, heads))
        self.exponent = nn.Parameter(torch.ones(heads))

    def forward(
        self, x: Float[Tensor, "*slices nodes in"], propagation: Propagation
    ) -> Float[Tensor, "*slices nodes out"]:
        """Returns the messages that every node receives, for any number of slices."""
        slices = x.reshape(-1, *x.shape[-2:])
        heads = self.query_key_value(slices).unflatten(-1, (3, self.heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # [slices, heads, nodes, features]
        bias = self._bias(propagation).to(query.dtype).expand(len(query), -1, -1, -1)
        out = scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.linear(out.transpose(1, 2).reshape(*x.shape[:-1], -1))

    def _bias(self, propagation: Propagation) -> Float[Tensor, "heads nodes nodes"]:
        """Returns the bias that the graph adds to the logits: row v for node v, zero without an edge."""
        (source, target), weight = propagation.edge_index, propagation.edge_weight
        nodes = propagation.num_nodes
        nothing = self.exponent.new_zeros(self.heads, nodes**2)
        if not len(weight):
            return nothing.unflatten(1, (nodes, nodes))
        log_weight = (weight / weight.max()).log().to(self.exponent.dtype)
        strength = softplus(self.log_strength[:, None] + self.exponent[:, None] * log_weight)
        return nothing.index_add(1, target * nodes + source, strength).unflatten(1, (nodes, nodes))


class Convolution(nn.Module):
    """Any PyTorch Geometric convolution over slices ``[*slices, nodes, features]``.

    A :class:`SliceConvolution` is called directly, which is fast. Any other class receives the slices as one
    block-diagonal graph, because some classes return wrong values for inputs with batch axes. Edge weights
    are passed as ``edge_weight`` to a convolution that takes it, or as one feature per edge to one with
    ``edge_dim=1``.

    Args:
        make: Makes the convolution from the sizes of a node's input and output.
        in_channels: Size of a node's input.
        out_channels: Size of a node's output.

    Raises:
        ValueError: If the convolution does not return ``out_channels`` numbers per node, or caches its graph.
    """

    def __init__(self, make: Callable[[int, int], nn.Module], in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.inner = made("convolution", nn.Module, make, in_channels, out_channels)
        if any(getattr(module, "cached", False) for module in self.inner.modules()):
            raise ValueError(
                f"{type(self.inner).__name__} must have cached: false, because its graph changes with the "
                "number of slices; it has cached: true. Remove the option."
            )
        takes = inspect.signature(self.inner.forward).parameters
        self.weights = "edge_weight" if "edge_weight" in takes else None
        if "edge_attr" in takes and getattr(self.inner, "edge_dim", None) == 1:
            self.weights = "edge_attr"
        self._try(in_channels, out_channels)

    @torch.no_grad()
    def _try(self, in_channels: int, out_channels: int) -> None:
        """Raises ``ValueError`` unless the convolution runs on a small graph and returns the right size."""
        two = Data(edge_index=torch.tensor([[0, 1], [1, 0]]), edge_weight=torch.ones(2), num_nodes=2)
        name = type(self.inner).__name__
        try:
            shape = self(torch.zeros(1, 2, in_channels), Propagation(two)).shape
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"{name} must map (x, edge_index) to one row per node; it failed: {error}."
            ) from error
        if shape != (1, 2, out_channels):
            raise ValueError(
                f"{name} must return {out_channels} numbers per node; it returned {shape[-1]}. "
                "An attention with several heads needs concat: false."
            )

    def forward(
        self, x: Float[Tensor, "*slices nodes in"], propagation: Propagation
    ) -> Float[Tensor, "*slices nodes out"]:
        """Returns the messages that every node receives, for any number of slices."""
        if isinstance(self.inner, SliceConvolution):
            return self.inner(x, propagation)
        flat = x.flatten(0, -2)
        edges, weight = propagation.tiled(len(flat) // propagation.num_nodes)
        weight = weight.to(x.dtype)
        extra = {"edge_weight": weight, "edge_attr": weight[:, None]}
        out = self.inner(flat, edges, **({self.weights: extra[self.weights]} if self.weights else {}))
        return out.unflatten(0, x.shape[:-1])


class Messages(nn.Module):
    """Concatenates a node's features with its messages: ``[x, conv(x)]``, or x alone without a convolution.

    Args:
        make: Makes the convolution from the sizes of a node's input and output; None for no messages.
        in_channels: Size of a node's input.
        out_channels: Size of a node's messages.

    Attributes:
        out_features: Size of the concatenation.
    """

    def __init__(
        self, make: Callable[[int, int], nn.Module] | None, in_channels: int, out_channels: int
    ) -> None:
        super().__init__()
        self.convolution = None if make is None else Convolution(make, in_channels, out_channels)
        self.out_features = in_channels + (0 if make is None else out_channels)

    def forward(
        self, x: Float[Tensor, "*slices nodes in"], propagation: Propagation
    ) -> Float[Tensor, "*slices nodes both"]:
        """Returns every node's features with its messages, for any number of slices."""
        if self.convolution is None:
            return x
        return torch.cat([x, self.convolution(x, propagation)], dim=-1)
