r"""Simulated series on a graph, drawn from known processes.

The nodes have random positions in a region, with edges of unequal weights into each node from its nearest
nodes, so that the graph is directed and sparse. There are two processes; P is the matrix that averages over
the in-neighbours of each node, with the weights of the edges:

* ``linear``: a :class:`~tsgen.exact.linear.VARProcess` of order 2 with

  .. math:: A_1 = 0.1\, I + 0.9\, P, \qquad A_2 = -0.3\, I + 0.24\, P,

  and independent noise, then shifted and scaled to a mean and a scale for each node. P has row sums 1, so the
  largest root is that of :math:`\lambda^2 = \lambda - 0.06`, which is 0.936, on every graph. Predictions,
  imputations and the likelihood are known exactly.
* ``threshold``: a :class:`~tsgen.exact.threshold.ThresholdNetwork`, whose law one step ahead is known.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch_geometric.data import Data

from tsgen.argument_types import check_arguments
from tsgen.counter_random import streams, uniforms
from tsgen.data.graphs import check_graph, great_circle, nearest_neighbours, weighted_mean
from tsgen.data.masks import AnyOf, BlockMask, Mask, PointMask, hold_out
from tsgen.data.series import GraphSeries
from tsgen.datamodules.windows import SeriesDataModule, Split, split_in_time
from tsgen.exact.linear import VARProcess
from tsgen.exact.threshold import ThresholdNetwork

LATITUDE, LONGITUDE = (50.0, 52.0), (9.0, 12.0)
"""The region of the nodes, in degrees north and east."""

NEIGHBOURS = 3
"""The number of edges into each node."""

OWN, COUPLING = (0.1, -0.3), (0.9, 0.24)
"""Coefficients of a node's own value and of its neighbours' mean in the linear process, at lags 1 and 2."""


def _numbers(seed: int, key: int, *shape: int) -> Float[Tensor, "*shape"]:
    """Draws uniform numbers in (0, 1); every key has numbers of its own."""
    return uniforms(streams(seed, torch.tensor(key)), shape, dtype=torch.float64)


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


def linear_process(graph: Data, seed: int) -> VARProcess:
    """Returns the linear process on a graph, in data units.

    Each node has a stationary mean between 10 and 50 and a stationary standard deviation between 2 and 12.

    Args:
        graph: The directed, weighted graph; every node must have an incoming edge.
        seed: Fixes mean and scale of the nodes.
    """
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


@check_arguments
class SyntheticDataModule(SeriesDataModule):
    """Simulates a series from a known process.

    Args:
        process: The process: ``linear`` (and Gaussian) or ``threshold`` (two regimes and bimodal noise).
        num_nodes: The number of nodes.
        steps: Length of the series.
        missing: Entries that were never measured; by default one in ten, at random. ``PointMask(0.0)`` for
            none.
        held_out: Entries that are hidden and scored in validation and test; by default one in ten at random,
            and failures of 4 to 24 steps that start at 1 in 200 entries.
        val: Share of the steps for validation.
        test: Share of the steps for testing.
        process_seed: Fixes the graph, the series and both patterns.
        options: Options of every data module, such as ``stride``: see
            :class:`~tsgen.datamodules.windows.SeriesDataModule`.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        process: Literal["linear", "threshold"] = "linear",
        num_nodes: int = 20,
        steps: int = 4000,
        missing: Mask | None = None,
        held_out: Mask | None = None,
        val: float = 0.1,
        test: float = 0.2,
        process_seed: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if steps < 1:
            raise ValueError(f"steps must be at least 1; it is {steps}.")
        self.process, self.num_nodes, self.steps, self.process_seed = process, num_nodes, steps, process_seed
        self.missing = PointMask(0.1) if missing is None else missing
        self.held_out = AnyOf([PointMask(0.1), BlockMask(0.005, 4, 24)]) if held_out is None else held_out
        self.stretches = split_in_time(steps, val, test)
        self.graph = geometric_graph(num_nodes, process_seed)

    @cached_property
    def law(self) -> VARProcess | ThresholdNetwork:
        """The process that the series was drawn from, in data units."""
        if self.process == "linear":
            return linear_process(self.graph, self.process_seed)
        return ThresholdNetwork(self.graph)

    @property
    def exact(self) -> VARProcess | None:
        """The linear process, whose laws are known in closed form; None for the threshold process."""
        return self.law if isinstance(self.law, VARProcess) else None

    def load(self) -> Split:
        """Simulates the series, and draws its missing and its held-out entries."""
        values = self.law.simulate(self.steps, self.process_seed)[..., None].float()
        # not the stream of hold_out, which would hide the same entries again
        unmeasured = self.missing.hidden(streams(self.process_seed, torch.tensor([5])), values[None])[0]
        series = GraphSeries(
            values=values.masked_fill(unmeasured, torch.nan),
            observed=~unmeasured,
            graph=self.graph,
            channels=["value"],
        )
        train, val, test = self.stretches
        held_out = hold_out(self.held_out, series.values, series.observed, self.process_seed)
        return Split(series, train, val, test, held_out)
