"""Imputation in three lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from tsgen.argument_types import check_arguments
from tsgen.data.detection import AUTO
from tsgen.data.series import GraphSeries
from tsgen.estimators.fitted import (
    Fitted,
    Table,
    model_series,
    of_channels,
    quantiles_of,
)
from tsgen.estimators.kinds import Given
from tsgen.estimators.parameters import Container, container
from tsgen.evaluation import baselines
from tsgen.evaluation.selfcheck import hide_part
from tsgen.imputer import draw
from tsgen.metrics import entry_scores


class Imputer(Fitted):
    """Fills the missing values of time series, with draws that show how certain they are.

    .. code-block:: python

        imputer = tsgen.Imputer(coordinates=stations).fit(df)  # index: times, columns: nodes
        filled = imputer.transform(df)
        lower, upper = imputer.interval(df, level=0.9)

    It follows the conventions of scikit-learn: ``clone``, pipelines, ``GridSearchCV``, ``set_output`` and
    pickles work. What ``transform`` returns is of the kind of the data, with its types and order.

    Args:
        coordinates: Table of ``node``, ``latitude`` and ``longitude``: a frame or a file. Nodes of an array
            are called x0, x1 and so on.
        edges: Table of ``source``, ``target`` and optionally ``weight``: a frame or a file. Without
            coordinates and edges, the graph comes from the correlations of the nodes.
        minutes: How long to train in ``fit``, in minutes. With 0 the pre-trained weights are used as they
            are, which takes seconds.
        num_samples: The number of draws.
        seed: Fixes the training and the draws.
        support: The values that the data can take: ``real``, ``positive``, ``non_negative``, ``counts``,
            ``interval(a, b)`` or ``interval[a, b]``; ``auto`` reads it off the data. For several quantities,
            a mapping from their names.

    Attributes:
        model_: The model, which has adapted to the data of ``fit``.
        graph_: The graph of the nodes.
        nodes_: The names of the nodes, in the order of the graph.
        channels_: The names of the quantities.
        n_features_in_: The number of columns of the data of ``fit``.
        feature_names_in_: Their names, if they have names.
    """

    def __init__(
        self,
        coordinates: Table = None,
        edges: Table = None,
        minutes: float = 0,
        num_samples: int = 100,
        seed: int = 0,
        support: str | Mapping[str, str] = AUTO,
    ) -> None:
        self.coordinates, self.edges = coordinates, edges
        self.minutes, self.num_samples, self.seed, self.support = minutes, num_samples, seed, support

    def transform(self, data: Any) -> Any:
        """Returns the data with the median of the draws in place of each missing value.

        Measured values are those of the data, bit for bit.

        Args:
            data: Data with the nodes of ``fit``; see :meth:`fit`.

        Raises:
            ValueError: If ``fit`` was not called, or something in the data is wrong.
        """
        [filled] = self._quantiles(data, [0.5])
        kind = container(self)
        if kind == "default":
            return filled
        return _in_frame(kind, filled, list(self.get_feature_names_out()))

    def fit_transform(self, data: Any, y: Any = None) -> Any:
        """Returns ``fit(data).transform(data)``.

        Args:
            data: Data; see :meth:`fit`.
            y: Not used; for pipelines.
        """
        return self.fit(data).transform(data)

    def score(self, data: Any, y: Any = None) -> float:
        """Hides a tenth of the measured values and returns how well they are imputed: higher is better.

        It is minus the mean CRPS of the hidden values, in standard deviations of their quantity. Values that
        ``fit`` has seen are easier than others: score other data.

        Args:
            data: Data with the nodes of ``fit``.
            y: Not used; for searches over parameters.

        Raises:
            ValueError: If too little is measured to hide some, ``fit`` was not called, or something in the
                data is wrong.
        """
        series = self._series(self._given(data))
        hidden = hide_part(series, seed=self.seed)
        visible = series.with_observed(series.observed & ~hidden)
        draws = torch.from_numpy(self._imputed(visible)["imputation"].values)[:, hidden]
        truth = series.values[hidden]
        scale = baselines.Fitted(visible).scale.mean(dim=0).expand(hidden.shape)[hidden]
        return -float((entry_scores(draws.to(truth.dtype), truth)["crps"] / scale).double().mean())

    @check_arguments
    def get_feature_names_out(
        self, input_features: Sequence | np.ndarray | pd.Index | None = None
    ) -> np.ndarray:
        """Returns the names of the columns, which are those of ``fit``; x0, x1 and so on for an array.

        Args:
            input_features: Not used, except that it must be the names of ``fit``.

        Raises:
            ValueError: If ``fit`` was not called, or ``input_features`` are other names.
        """
        self._check_fitted()
        numbered = np.array([f"x{number}" for number in range(self.n_features_in_)], dtype=object)
        names = getattr(self, "feature_names_in_", numbered)
        if input_features is None:
            return names
        asked = np.asarray(input_features, dtype=object)
        if asked.shape != names.shape or (hasattr(self, "feature_names_in_") and (asked != names).any()):
            raise ValueError(
                "input_features must be equal to feature_names_in_, the columns of fit; leave it out."
            )
        return asked

    @check_arguments
    def set_output(self, *, transform: Container | None = None) -> Imputer:
        """Sets the kind of data frame that ``transform`` returns, and returns the imputer.

        Args:
            transform: ``pandas``, ``polars``, or ``default`` for the kind that comes; None changes nothing.
        """
        if transform is not None:
            self._sklearn_output_config = {"transform": transform}
        return self

    def _drawn(self, came: Given, num_samples: int | None = None) -> xr.Dataset:
        """Returns draws of all entries."""
        return self._imputed(self._series(came), num_samples)

    def _imputed(self, series: GraphSeries, num_samples: int | None = None) -> xr.Dataset:
        """Returns draws of a series."""
        samples = num_samples or self.num_samples
        return of_channels(draw(self.model_, model_series(series), samples, self.seed), series)

    def _quantiles(self, data: Any, levels: Sequence[float]) -> list[Any]:
        """Returns the data with quantiles of the draws in place of missing values, for each level."""
        came = self._given(data)
        if not came.missing.any():
            return [came.copy() for _ in levels]
        return [came.filled(values) for values in quantiles_of(self._drawn(came), levels)]


def _in_frame(kind: str, filled: Any, names: list[str]) -> Any:
    """Returns completed data as a data frame of pandas or polars."""
    if kind == "pandas":
        if isinstance(filled, pd.DataFrame):
            return filled
        if hasattr(filled, "to_pandas"):
            return filled.to_pandas()
        return pd.DataFrame(filled, columns=names)
    import polars

    if isinstance(filled, polars.DataFrame):
        return filled
    if isinstance(filled, pd.DataFrame):
        return polars.from_pandas(filled)
    return polars.DataFrame(np.asarray(filled), schema=names, orient="row")
