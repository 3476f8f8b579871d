"""Simulated series on a graph, drawn from known processes.

The graph is a :func:`~tsgen.simulate.examples.geometric_graph`. The law of the ``linear`` process, a
:func:`~tsgen.simulate.examples.linear_process`, which is Gaussian and of order 2, is known given any context.
The others are of order 1, and their law is known one step ahead (:mod:`tsgen.exact.markov`):

* ``threshold``: a :class:`~tsgen.exact.threshold.ThresholdNetwork`, with two regimes and bimodal noise;
* ``inar``: an :class:`~tsgen.exact.counts.INARNetwork`, counts with binomial thinning;
* ``poisson``: a :class:`~tsgen.exact.counts.LogLinearPoissonNetwork`, counts with a log-linear rate;
* ``tobit``: a :class:`~tsgen.exact.transformed.TobitNetwork`, values censored at zero;
* ``log_normal``: a :class:`~tsgen.exact.transformed.LogNormalNetwork`, positive values;
* ``logit_normal``: a :class:`~tsgen.exact.transformed.LogitNormalNetwork`, values between 0 and 100;
* ``zero_inflated_gamma``: a :class:`~tsgen.exact.rain.ZeroInflatedGammaNetwork`, zeros and gamma amounts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Literal

import torch
from torch_geometric.data import Data

from tsgen.argument_types import check_arguments
from tsgen.counter_random import streams
from tsgen.data.masks import AnyOf, BlockMask, Mask, PointMask, hold_out
from tsgen.data.series import GraphSeries
from tsgen.datamodules.windows import SeriesDataModule, Split, split_in_time
from tsgen.exact.counts import INARNetwork, LogLinearPoissonNetwork
from tsgen.exact.linear import VARProcess
from tsgen.exact.markov import MarkovProcess
from tsgen.exact.rain import ZeroInflatedGammaNetwork
from tsgen.exact.threshold import ThresholdNetwork
from tsgen.exact.transformed import LogitNormalNetwork, LogNormalNetwork, TobitNetwork
from tsgen.simulate.examples import geometric_graph, linear_process

ONE_STEP: dict[str, Callable[[Data], MarkovProcess]] = {
    "threshold": ThresholdNetwork,
    "inar": INARNetwork,
    "poisson": LogLinearPoissonNetwork,
    "tobit": TobitNetwork,
    "log_normal": LogNormalNetwork,
    "logit_normal": LogitNormalNetwork,
    "zero_inflated_gamma": ZeroInflatedGammaNetwork,
}
"""The processes whose law is known one step ahead, by name."""

Process = Literal[
    "linear", "threshold", "inar", "poisson", "tobit", "log_normal", "logit_normal", "zero_inflated_gamma"
]
"""The names of the processes."""


@check_arguments
class SyntheticDataModule(SeriesDataModule):
    """Simulates a series from a known process.

    Args:
        process: The process: ``linear`` (and Gaussian), ``threshold`` (two regimes and bimodal noise),
            ``inar`` or ``poisson`` (counts), ``tobit`` (censored at zero), ``log_normal`` (positive),
            ``logit_normal`` (between 0 and 100) or ``zero_inflated_gamma`` (as rain).
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
        process: Process = "linear",
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
    def law(self) -> VARProcess | MarkovProcess:
        """The process that the series was drawn from, in data units."""
        if self.process == "linear":
            return linear_process(self.graph, self.process_seed)
        return ONE_STEP[self.process](self.graph)

    @property
    def exact(self) -> VARProcess | MarkovProcess:
        """The process, whose laws are known: of the linear one given any context, of the others one step
        ahead."""
        return self.law

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
