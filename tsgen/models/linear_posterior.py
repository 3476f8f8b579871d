r"""The law of each entry given all visible ones under a linear-Gaussian process of the whole network.

:class:`LinearPosterior` holds a process fitted with shrinkage (:mod:`tsgen.exact.shrinkage`) and computes, by
the Kalman smoother, the mean and deviation of each hidden entry, and how far each visible entry is from its
law given all others. A network with more than :data:`BLOCK` entries per slice is divided into blocks of
neighbouring nodes, with a process for each: the cost of a process grows with the cube of its size.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import reverse_cuthill_mckee
from torch import Tensor, nn
from torch_geometric.data import Data

from tsgen.exact.kalman import StateSpace, smooth_with_surprise
from tsgen.exact.linear import VARProcess
from tsgen.exact.shrinkage import ORDERS, fit_shrunk

BLOCK = 160
"""The largest number of entries of a slice in one process."""

BYTES_AT_ONCE = 2**27
"""Memory that the covariances of the states of some windows may take."""


class Linear(NamedTuple):
    """The linear posterior of windows, in standard units of the nodes.

    Attributes:
        mean: The mean of each entry given all visible ones; within the context the value itself.
        deviation: The standard deviation of each entry given all visible ones; zero within the context.
        surprise: The difference of each visible entry from its mean given all others, in standard deviations
            of that law; zero outside the context.
    """

    mean: Float[Tensor, "batch time nodes channels"]
    deviation: Float[Tensor, "batch time nodes channels"]
    surprise: Float[Tensor, "batch time nodes channels"]


class LinearPosterior(nn.Module):
    """Linear-Gaussian processes of the entries of a slice, in standard units.

    Args:
        graph: The graph.
        channels: The number of channels.
        persistent: Whether the processes are part of the module's state.
    """

    block: Tensor
    coefficients: Tensor
    covariance: Tensor

    def __init__(self, graph: Data, channels: int, persistent: bool = True) -> None:
        super().__init__()
        self.persistent = persistent
        self._spaces: list[StateSpace] = []
        self._made_from: tuple[Tensor, ...] | None = None
        blocks = blocks_of(graph, channels)
        size = blocks.shape[1]
        self.register_buffer("block", blocks, persistent)
        self.register_buffer(
            "coefficients",
            torch.zeros(len(blocks), max(ORDERS), size, size, dtype=torch.float64),
            persistent,
        )
        self.register_buffer(
            "covariance", torch.eye(size, dtype=torch.float64).repeat(len(blocks), 1, 1), persistent
        )

    def fit(
        self,
        values: Float[Tensor, "batch time nodes channels"],
        observed: Bool[Tensor, "batch time nodes channels"],
        graph: Data,
        iterations: int,
    ) -> None:
        """Fits the processes to windows in standard units.

        Args:
            values: The windows.
            observed: Which entries are visible.
            graph: The graph.
            iterations: Iterations of EM.
        """
        similarity = similarity_of(graph, values.shape[-1])
        for number, index in enumerate(self.block):
            z, there = _gathered(values, observed, index)
            near = similarity(index)
            process = fit_shrunk(z, there, near, iterations)
            self.coefficients[number].zero_()[: process.order] = process.coefficients
            self.covariance[number] = process.covariance

    @property
    def fitted(self) -> bool:
        """Whether processes were fitted or loaded."""
        return bool(self.coefficients.any())

    def spaces(self) -> list[StateSpace]:
        """Returns the state-space model of each block."""
        numbers = self.coefficients, self.covariance
        # by content: callbacks that average weights change them in place
        if self._made_from is None or not all(map(_equal, self._made_from, numbers)):
            self._made_from = tuple(x.clone() for x in numbers)
            self._spaces = [_space(*process) for process in zip(*numbers, strict=True)]
        return self._spaces

    @torch.no_grad()
    def forward(
        self,
        values: Float[Tensor, "batch time nodes channels"],
        context: Bool[Tensor, "batch time nodes channels"],
        nodes: Int64[Tensor, "nodes"] | None = None,
    ) -> Linear:
        """Returns the law of each entry given the visible ones.

        Args:
            values: Windows in standard units.
            context: Which entries are visible.
            nodes: Numbers of these nodes in the whole graph; None for all nodes.
        """
        if nodes is not None:
            return self._of_some(values, context, nodes)
        results = [torch.zeros(values.shape, dtype=torch.float64, device=values.device) for _ in range(3)]
        for index, space in zip(self.block, self.spaces(), strict=True):
            z, there = _gathered(values, context, index)
            smoothed = _smooth_in_portions(space, z, there)
            real = index >= 0
            for result, part in zip(results, smoothed, strict=True):
                result.flatten(2)[..., index[real]] = part[..., real]
        mean, variance, surprise = results
        return Linear(mean, variance.sqrt(), surprise)

    def _of_some(self, values: Tensor, context: Tensor, nodes: Tensor) -> Linear:
        """Returns the law of the entries of some nodes; no others are visible."""
        channels = values.shape[-1]
        count = int(self.block.max()) // channels + 1
        every = values.new_zeros(*values.shape[:2], count, channels)
        there = torch.zeros(every.shape, dtype=torch.bool, device=values.device)
        every[:, :, nodes], there[:, :, nodes] = values, context
        return Linear(*(numbers[:, :, nodes] for numbers in self(every, there)))


def _equal(one: Tensor, other: Tensor) -> bool:
    """Returns whether two tensors are on one device and have the same numbers."""
    return one.device == other.device and torch.equal(one, other)


def _space(coefficients: Tensor, covariance: Tensor) -> StateSpace:
    """Returns the state-space model of a process, without trailing lags of coefficient zero."""
    order = next((k for k in range(len(coefficients), 1, -1) if coefficients[k - 1].any()), 1)
    return VARProcess(coefficients[:order], covariance.new_zeros(len(covariance)), covariance).state_space()


def _gathered(values: Tensor, mask: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the entries of one block; an entry of number -1 is never visible."""
    there = mask.flatten(2)[..., index] & (index >= 0)
    return torch.where(there, values.flatten(2)[..., index].double(), 0), there


def _smooth_in_portions(space: StateSpace, z: Tensor, there: Tensor) -> tuple[Tensor, ...]:
    """Returns means, variances and surprises of windows, in portions of bounded memory."""
    portion = max(1, BYTES_AT_ONCE // (8 * z.shape[1] * len(space.offset) ** 2))
    parts = []
    for some in zip(z.split(portion), there.split(portion), strict=True):
        smoothed, surprise = smooth_with_surprise(space, *some)
        parts.append((*smoothed, surprise))
    return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))


def blocks_of(graph: Data, channels: int) -> Tensor:
    """Returns the numbers of the entries of a slice in each block, -1 where a block has fewer than others.

    Nodes that are close in the graph are close in the reverse Cuthill-McKee order, which is cut into blocks.

    Args:
        graph: The graph.
        channels: The number of channels; those of a node stay together.
    """
    nodes = int(graph.num_nodes or 0)
    if nodes * channels <= BLOCK:
        return torch.arange(nodes * channels)[None]
    source, target = graph.edge_index.cpu().numpy()
    adjacency = coo_array((np.ones(len(source)), (source, target)), shape=(nodes, nodes)).tocsr()
    order = reverse_cuthill_mckee(adjacency + adjacency.T, symmetric_mode=True).astype(np.int64)
    per_block = max(1, BLOCK // channels)
    count = math.ceil(nodes / per_block)
    per_block = math.ceil(nodes / count)
    padded = torch.full((count * per_block,), -1)
    padded[:nodes] = torch.from_numpy(order)
    entries = padded.view(count, per_block, 1) * channels + torch.arange(channels)
    return torch.where(padded.view(count, per_block, 1) < 0, -1, entries).flatten(1)


def similarity_of(graph: Data, channels: int) -> Callable[[Tensor], Tensor]:
    """Returns a function from numbers of entries to the weights of the edges between them, at most 1.

    Entries of different channels of a node have no weight.

    Args:
        graph: The graph.
        channels: The number of channels.
    """
    nodes = int(graph.num_nodes or 0)
    source, target = graph.edge_index.cpu().numpy()
    weight = graph.edge_weight.double().cpu().numpy()
    weight = weight / max(weight.max(initial=0), 1e-300)
    matrix = coo_array((weight, (source, target)), shape=(nodes, nodes)).tocsr()
    matrix = matrix.maximum(matrix.T)

    def similarity(index: Tensor) -> Tensor:
        node = index.clamp(min=0).cpu().numpy() // channels
        near = torch.from_numpy(matrix[node][:, node].toarray()).to(index.device)
        same_channel = (index % channels)[:, None] == index % channels
        real = (index >= 0)[:, None] & (index >= 0)
        return torch.where(same_channel & real, near, 0)

    return similarity
