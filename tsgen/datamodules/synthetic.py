"""Simulated series on a graph, drawn from known processes.

The graph is a :func:`~tsgen.simulate.examples.geometric_graph`. There are two processes on it:

* ``linear``: a :func:`~tsgen.simulate.examples.linear_process`, Gaussian and of order 2. Predictions,
  imputations and the likelihood are known exactly.
* ``threshold``: a :class:`~tsgen.exact.threshold.ThresholdNetwork`, whose law one step ahead is known.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import torch

from tsgen.argument_types import check_arguments
from tsgen.counter_random import streams
from tsgen.data.masks import AnyOf, BlockMask, Mask, PointMask, hold_out
from tsgen.data.series import GraphSeries
from tsgen.datamodules.windows import SeriesDataModule, Split, split_in_time
from tsgen.exact.linear import VARProcess
from tsgen.exact.threshold import ThresholdNetwork
from tsgen.simulate.examples import geometric_graph, linear_process


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
