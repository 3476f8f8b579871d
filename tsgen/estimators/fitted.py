"""What imputer and forecaster share: ``fit``, draws, and one file that holds all of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float
from torch_geometric.data import Data

from tsgen.argument_types import check_arguments
from tsgen.data.channels import channels_as_nodes, dataset_of_channels
from tsgen.data.detection import AUTO
from tsgen.data.series import GraphSeries
from tsgen.data.support import Support
from tsgen.estimators.kinds import Given, given
from tsgen.estimators.parameters import Parameters, check_minutes, check_number, not_fitted
from tsgen.imputer import graph_of, weights_for
from tsgen.metrics import calibrated_quantiles
from tsgen.models import AnyOrderModel, load
from tsgen.models.adaptation import adaptation_of, readapted
from tsgen.readers.layouts import on_graph
from tsgen.storage.checkpoints import AtomicCheckpoints, read_checkpoint
from tsgen.storage.display import quoted

Table = pd.DataFrame | str | Path | None
"""A table of coordinates or edges: a frame or a file."""


class Interval(NamedTuple):
    """The bounds of an interval of each entry, each as data of the kind that came.

    Attributes:
        lower: The lower bounds.
        upper: The upper bounds.
    """

    lower: Any
    upper: Any


FittedT = TypeVar("FittedT", bound="Fitted")


@check_arguments
class Fitted(Parameters, ABC):
    """An estimator on top of the pre-trained weights, which adapt to the data of ``fit``."""

    coordinates: Table
    edges: Table
    minutes: float
    num_samples: int
    seed: int
    support: str | Mapping[str, str]
    model_: AnyOrderModel
    graph_: Data

    def _fit(self, data: Any) -> None:
        """Sets the attributes that are learned from data."""
        self._check_parameters()
        came = given(data)
        contents = came.reading.contents
        if len(contents.time) < 2:
            raise ValueError(f"{came.table.path} must have at least 2 times; it has 1 sample. Add rows.")
        graph, _ = graph_of(contents, self.coordinates, self.edges)
        series = on_graph(contents, graph)
        model = weights_for(series, self.minutes, self.seed, self.support)
        several = len(contents.channels) > 1
        self.model_ = model.adapted(model_series(series), channels_of=series if several else None)
        self.graph_, self.nodes_, self.channels_ = graph, contents.nodes, contents.channels
        self.n_features_in_ = len(came.names)
        vars(self).pop("feature_names_in_", None)
        if came.labelled:
            self.feature_names_in_ = np.array(came.names, dtype=object)

    def fit(self: FittedT, data: Any, y: Any = None) -> FittedT:
        """Takes names, graph, units and a linear process from data, trains if asked, and returns itself.

        Args:
            data: The series, with NaN where values are missing: a data frame of pandas or polars, an array
                (time, node), or an ``xarray.DataArray`` with the dimensions time and node, and channel if
                there are several quantities. A frame with the columns ``time`` and ``node`` has one row per
                time and node, and one further column per quantity. In other frames each column is a node, and
                times are in the index, or in a column ``time``.
            y: Not used; for pipelines.

        Raises:
            ValueError: If a parameter or something in the data is wrong: one line that says where and what to
                do.
        """
        self._fit(data)
        return self

    @classmethod
    @check_arguments
    def load(cls: type[FittedT], path: str | Path) -> FittedT:
        """Returns the estimator in a checkpoint of :meth:`save`, without running code from it.

        It draws the same as the one that was saved. The graph is part of the checkpoint; ``coordinates`` and
        ``edges`` are None.

        Args:
            path: The file.

        Raises:
            ValueError: If the file is not such a checkpoint.
        """
        content = read_checkpoint(Path(path)).get("estimator")
        kind = content.get("class") if isinstance(content, dict) else None
        if not isinstance(content, dict) or kind != cls.__name__:
            holds = quoted(str(kind)) if kind else "a model; read it with tsgen.load"
            raise ValueError(f"{path} must hold a saved {cls.__name__}; it holds {holds}.")
        weights = load(path)
        try:
            loaded = cls(**content["params"])
            loaded._check_parameters()
            assert isinstance(weights, AnyOrderModel)
            loaded.model_ = readapted(weights, content["adaptation"])
            nodes, names = [str(name) for name in content["nodes"]], content["names"]
            loaded.nodes_, loaded.channels_ = nodes, [str(name) for name in content["channels"]]
            loaded.graph_ = Data(**content["graph"], num_nodes=len(nodes))
            loaded.n_features_in_ = int(content["features"])
            if names:
                loaded.feature_names_in_ = np.array([str(name) for name in names], dtype=object)
        except (KeyError, TypeError, AssertionError, AttributeError) as error:
            raise ValueError(f"{path} must hold a saved {cls.__name__}; it is incomplete.") from error
        return loaded

    @check_arguments
    def interval(self, data: Any, level: float = 0.9) -> Interval:
        """Returns the bounds of a central interval of each drawn entry; of a measured one both are its value.

        Args:
            data: Data with the nodes of ``fit``.
            level: The probability of the interval.

        Raises:
            ValueError: If ``level`` is not between 0 and 1, ``fit`` was not called, or something in the data
                is wrong.
        """
        return Interval(*self._quantiles(data, bounds(level)))

    @check_arguments
    def quantiles(self, data: Any, levels: Sequence[float]) -> dict[float, Any]:
        """Returns quantiles of the draws, each as data of the kind that came, by their levels.

        Args:
            data: Data with the nodes of ``fit``.
            levels: Probabilities between 0 and 1.

        Raises:
            ValueError: If a level is not between 0 and 1, ``fit`` was not called, or something in the data
                is wrong.
        """
        check_levels(levels)
        return dict(zip(levels, self._quantiles(data, levels), strict=True))

    @check_arguments
    def sample(self, data: Any, num_samples: int | None = None) -> xr.DataArray:
        """Returns draws ``(sample, time, node)``, and ``channel`` if there are several quantities.

        Measured values are the same in each draw; the coordinate ``observed`` says which they are. Times that
        the data leaves out are drawn, too. Entries are drawn independently of each other given the measured
        ones, so that quantities of several entries need joint draws: ``tsgen.impute`` or ``tsgen.forecast``
        of ``model_`` and ``series(data)`` with ``method=tsgen.AnyOrder(groups=6)``.

        Args:
            data: Data with the nodes of ``fit``.
            num_samples: The number of draws; that of the estimator if not given.

        Raises:
            ValueError: If ``num_samples`` is below 1, ``fit`` was not called, or something in the data
                is wrong.
        """
        if num_samples is not None:
            check_number("num_samples", num_samples, 1)
        came = self._given(data)
        return labelled(self._drawn(came, num_samples), came)

    @abstractmethod
    def _drawn(self, came: Given, num_samples: int | None = None) -> xr.Dataset:
        """Returns draws of all entries, or of those to come."""

    @abstractmethod
    def _quantiles(self, data: Any, levels: Sequence[float]) -> list[Any]:
        """Returns quantiles of the draws as data of the kind that came, for each level."""

    def series(self, data: Any) -> GraphSeries:
        """Returns data as a series on the graph of ``fit``, for ``model_`` and the functions of tsgen.

        Args:
            data: Data with the nodes of ``fit``.

        Raises:
            ValueError: If ``fit`` was not called, or something in the data is wrong.
        """
        return self._series(self._given(data))

    def save(self, path: str | Path) -> None:
        """Writes a checkpoint: parameters, graph, weights, and what the model took from the data of ``fit``.

        The checkpoint holds no values of the data, but their means and deviations. ``tsgen.load`` reads the
        weights in it.

        Args:
            path: The file.

        Raises:
            ValueError: If ``fit`` was not called, the folder of the file does not exist, or coordinates or
                edges are not those of a file or frame.
        """
        self._check_fitted()
        if not Path(path).parent.is_dir():
            raise ValueError(f"the folder of {path} must exist; make it first.")
        model = self.model_
        params = {name: x for name, x in self.get_params().items() if name not in ("coordinates", "edges")}
        estimator = {
            "class": type(self).__name__,
            "params": params,
            "nodes": self.nodes_,
            "channels": self.channels_,
            "features": self.n_features_in_,
            "names": [str(name) for name in getattr(self, "feature_names_in_", [])],
            "graph": {"edge_index": self.graph_.edge_index, "edge_weight": self.graph_.edge_weight},
            "adaptation": adaptation_of(model),
        }
        content = {
            "hyper_parameters": {**model.hparams, "window": model.window},
            "state_dict": model.state_dict(),
            "estimator": estimator,
        }
        AtomicCheckpoints().save_checkpoint(content, Path(path))

    def _check_parameters(self) -> None:
        """Raises ``ValueError`` if a parameter is out of range."""
        check_minutes(self.minutes)
        check_number("num_samples", self.num_samples, 1)
        check_number("seed", self.seed, 0)
        supports = self.support.values() if isinstance(self.support, Mapping) else [self.support]
        for support in supports:
            if support != AUTO:
                Support.parse(support)

    def _check_fitted(self) -> None:
        """Raises ``ValueError`` unless ``fit`` was called."""
        if not hasattr(self, "model_"):
            raise not_fitted(type(self).__name__)

    def _given(self, data: Any) -> Given:
        """Returns data with the nodes and quantities of ``fit``, read."""
        self._check_fitted()
        came = given(data)
        contents = came.reading.contents
        if len(came.names) != self.n_features_in_ and came.reading.layout == "wide":
            raise ValueError(
                f"X has {len(came.names)} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input: the columns of fit. Fit another one for others."
            )
        for what, own, others in (
            ("nodes", self.nodes_, contents.nodes),
            ("quantities", self.channels_, contents.channels),
        ):
            if own != others:
                different = sorted(set(own) ^ set(others)) or others
                raise ValueError(
                    f"the data must have the {what} of fit (the columns of fit, if each is a node); "
                    f"{quoted(different[0])} is in one of them only. Fit another {type(self).__name__} for "
                    "others."
                )
        return came

    def _series(self, came: Given) -> GraphSeries:
        return on_graph(came.reading.contents, self.graph_)


def model_series(series: GraphSeries) -> GraphSeries:
    """Returns the series that the model reads: of one channel, whose nodes are all nodes and channels.

    Args:
        series: The series.
    """
    return channels_as_nodes(series) if len(series.channels) > 1 else series


def of_channels(drawn: xr.Dataset, series: GraphSeries) -> xr.Dataset:
    """Returns draws of the series that a model reads with the nodes and channels of the original one.

    Args:
        drawn: The draws.
        series: The original series.
    """
    return dataset_of_channels(drawn, series) if len(series.channels) > 1 else drawn


def labelled(drawn: xr.Dataset, came: Given) -> xr.DataArray:
    """Returns draws ``(sample, time, node)``, with channels if there are several, in the order of the data.

    Args:
        drawn: The dataset of draws.
        came: The data.
    """
    draws = drawn["imputation"].assign_coords(observed=drawn["observed"]).rename("value")
    if len(came.reading.contents.channels) == 1:
        draws = draws.isel(channel=0, drop=True)
    wanted = [name for name in came.names if name in came.reading.contents.nodes]
    return draws.sel(node=wanted) if len(wanted) == draws.sizes["node"] else draws


def quantiles_of(
    drawn: xr.Dataset, levels: Sequence[float]
) -> Float[np.ndarray, "levels time nodes channels"]:
    """Returns quantiles of draws.

    Args:
        drawn: The dataset of draws.
        levels: Probabilities between 0 and 1.
    """
    ordered = torch.from_numpy(drawn["imputation"].values).sort(dim=0).values
    return calibrated_quantiles(ordered, list(levels)).numpy()


def check_levels(levels: Sequence[float]) -> None:
    """Raises ``ValueError`` unless there are levels, all of them between 0 and 1.

    Args:
        levels: The levels.
    """
    if not len(levels) or not all(0 < level < 1 for level in levels):
        raise ValueError(f"levels must be probabilities between 0 and 1; they are {list(levels)}.")


def bounds(level: float) -> list[float]:
    """Returns the probabilities of the two bounds of a central interval.

    Args:
        level: The probability of the interval.

    Raises:
        ValueError: If it is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be a probability between 0 and 1; it is {level}.")
    return [(1 - level) / 2, (1 + level) / 2]
