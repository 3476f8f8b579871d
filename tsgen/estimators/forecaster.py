"""Forecasts in three lines: an imputation whose gap is at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from tsgen.argument_types import check_arguments
from tsgen.data.detection import AUTO
from tsgen.estimators.fitted import (
    Fitted,
    Interval,
    Table,
    _shown,
    bounds,
    check_levels,
    labelled,
    of_channels,
    quantiles_of,
)
from tsgen.estimators.kinds import Given
from tsgen.estimators.parameters import check_number
from tsgen.inference.imputation import forecast


class Forecaster(Fitted):
    """Continues time series, with draws that show how certain the continuation is.

    .. code-block:: python

        forecaster = tsgen.Forecaster(horizon=24, coordinates=stations).fit(df)
        future = forecaster.predict(df)  # the index continues that of df
        lower, upper = forecaster.interval(df, level=0.9)

    It uses the weights of the :class:`Imputer`: a forecast is an imputation whose gap is at the end. Missing
    values of the past need not be filled. The weights read at most 72 steps of history.

    Args:
        horizon: The number of steps to forecast.
        coordinates: Table of coordinates; see :class:`Imputer`.
        edges: Table of edges; see :class:`Imputer`.
        minutes: How long to train in ``fit``, in minutes.
        num_samples: The number of draws.
        seed: Fixes the training and the draws.
        support: The values that the data can take; see :class:`Imputer`.

    Attributes:
        model_: The model, which has adapted to the data of ``fit``.
        graph_: The graph of the nodes.
        nodes_: The names of the nodes, in the order of the graph.
        channels_: The names of the quantities.
    """

    def __init__(
        self,
        horizon: int = 24,
        coordinates: Table = None,
        edges: Table = None,
        minutes: float = 0,
        num_samples: int = 100,
        seed: int = 0,
        support: str | Mapping[str, str] = AUTO,
    ) -> None:
        self.horizon, self.coordinates, self.edges = horizon, coordinates, edges
        self.minutes, self.num_samples, self.seed, self.support = minutes, num_samples, seed, support

    def fit(self, data: Any, y: Any = None) -> Forecaster:
        """Takes names, graph, units and a linear process from data, trains if asked, and returns itself.

        Args:
            data: The series, of any kind that :meth:`Imputer.fit` takes.
            y: Not used; for pipelines.

        Raises:
            ValueError: If a parameter or something in the data is wrong: one line that says where and what to
                do.
        """
        self._fit(data)
        return self

    @classmethod
    @check_arguments
    def load(cls, path: str | Path) -> Forecaster:
        """Returns the estimator in a checkpoint of :meth:`save`, without running code from it.

        It draws the same as the one that was saved. The graph is part of the checkpoint; ``coordinates`` and
        ``edges`` are None.

        Args:
            path: The file.

        Raises:
            ValueError: If the file is not such a checkpoint.
        """
        return cls._load(path)

    def predict(self, data: Any) -> Any:
        """Returns the median of the draws of each step that follows the data, as data of the same kind.

        Args:
            data: The past, with the nodes of ``fit``; see :meth:`fit`.

        Raises:
            ValueError: If ``fit`` was not called, or something in the data is wrong.
        """
        return self.quantiles(data, [0.5])[0.5]

    @check_arguments
    def interval(self, data: Any, level: float = 0.9) -> Interval:
        """Returns the bounds of a central interval of each entry to come.

        Args:
            data: The past, with the nodes of ``fit``.
            level: The probability of the interval.

        Raises:
            ValueError: If ``level`` is not between 0 and 1, ``fit`` was not called, or something in the data
                is wrong.
        """
        return Interval(*self.quantiles(data, bounds(level)).values())

    @check_arguments
    def quantiles(self, data: Any, levels: Sequence[float]) -> dict[float, Any]:
        """Returns quantiles of the draws, each as data of the kind that came.

        Args:
            data: The past, with the nodes of ``fit``.
            levels: Probabilities between 0 and 1.

        Raises:
            ValueError: If a level is not between 0 and 1, ``fit`` was not called, or something in the data
                is wrong.
        """
        check_levels(levels)
        came = self._given(data)
        found = quantiles_of(self._drawn(came), levels)
        return {level: came.continued(values) for level, values in zip(levels, found, strict=True)}

    @check_arguments
    def sample(self, data: Any, num_samples: int | None = None) -> xr.DataArray:
        """Returns draws ``(sample, time, node)`` of the steps to come, and ``channel`` if there are several.

        Entries are drawn independently of each other, so that sums over steps or nodes need joint draws:
        ``tsgen.forecast`` with ``method=tsgen.AnyOrder(groups=6)``.

        Args:
            data: The past, with the nodes of ``fit``.
            num_samples: The number of draws; that of the forecaster if not given.

        Raises:
            ValueError: If ``num_samples`` is below 1, ``fit`` was not called, or something in the data
                is wrong.
        """
        came = self._given(data)
        return labelled(self._drawn(came, num_samples), came)

    def _check_parameters(self) -> None:
        check_number("horizon", self.horizon, 1)
        super()._check_parameters()

    def _drawn(self, came: Given, num_samples: int | None = None) -> xr.Dataset:
        """Returns draws of the steps that follow the data."""
        if num_samples is not None:
            check_number("num_samples", num_samples, 1)
        check_number("horizon", self.horizon, 1)
        series = self._series(came)
        if len(series) < 2:
            raise ValueError(f"{came.table.path} must have at least 2 times; it has 1 sample. Add rows.")
        samples = num_samples or self.num_samples
        return of_channels(
            forecast(self.model_, _shown(series), self.horizon, samples, seed=self.seed), series
        )
