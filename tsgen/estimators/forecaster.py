"""Forecasts in three lines: an imputation whose gap is at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr

from tsgen.data.detection import AUTO
from tsgen.estimators.fitted import (
    Fitted,
    Table,
    model_series,
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

    def predict(self, data: Any) -> Any:
        """Returns the median of the draws of each step that follows the data, as data of the same kind.

        Args:
            data: The past, with the nodes of ``fit``; see :meth:`fit`.

        Raises:
            ValueError: If ``fit`` was not called, or something in the data is wrong.
        """
        return self._quantiles(data, [0.5])[0]

    def _check_parameters(self) -> None:
        check_number("horizon", self.horizon, 1)
        super()._check_parameters()

    def _quantiles(self, data: Any, levels: Sequence[float]) -> list[Any]:
        """Returns quantiles of the draws, for each level."""
        came = self._given(data)
        return [came.continued(values) for values in quantiles_of(self._drawn(came), levels)]

    def _drawn(self, came: Given, num_samples: int | None = None) -> xr.Dataset:
        """Returns draws of the steps that follow the data."""
        check_number("horizon", self.horizon, 1)
        series = self._series(came)
        if len(series) < 2:
            raise ValueError(f"{came.table.path} must have at least 2 times; it has 1 sample. Add rows.")
        samples = num_samples or self.num_samples
        drawn = forecast(self.model_, model_series(series), self.horizon, samples, seed=self.seed)
        return of_channels(drawn, series)
