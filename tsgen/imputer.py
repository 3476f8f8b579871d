"""Imputation of a table without writing a configuration: what ``tsgen impute`` does, and :class:`Imputer`.

The model starts from the pre-trained weights. Its units come from what is visible of the series, so that it
can be used at once; a few minutes of training on the series are optional.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch_geometric.data import Data

from tsgen.argument_types import check_arguments
from tsgen.data.detection import AUTO
from tsgen.data.graphs import from_correlations
from tsgen.data.series import GraphSeries
from tsgen.data.support import Support
from tsgen.evaluation.selfcheck import SelfCheck, TooLittleObservedError, self_check
from tsgen.inference.completion import complete
from tsgen.inference.imputation import impute
from tsgen.metrics import calibrated_quantiles
from tsgen.models import AnyOrderModel, load_pretrained
from tsgen.readers.layouts import Reading, on_graph, read_wide
from tsgen.readers.node_graphs import graph_of_coordinates, graph_of_edges
from tsgen.readers.regular_times import Contents
from tsgen.readers.tables import Columns, Table, open_table
from tsgen.training.fine_tuning import Progress, fine_tuned

logger = logging.getLogger(__name__)

Report = Callable[[Progress], None]
"""Is called with the progress of a training."""

MAX_CHECKED = 2**27
"""The largest number of draws that the check holds in memory (1 GiB)."""

TIME = "time"
"""The name of the column that an index of times becomes."""


def graph_of(
    contents: Contents,
    coordinates: str | Path | pd.DataFrame | None = None,
    edges: str | Path | pd.DataFrame | None = None,
) -> tuple[Data, str]:
    """Returns a graph for a table and a description of where it comes from.

    Args:
        contents: The content of the table.
        coordinates: A table of the nodes' coordinates.
        edges: A table of edges.

    Raises:
        ValueError: If both are given, or something in them is wrong.
    """
    if coordinates is not None and edges is not None:
        raise ValueError("edges and coordinates both define a graph; give only one of them.")
    if coordinates is not None:
        graph = graph_of_coordinates(coordinates, None, contents.nodes)
        return graph, f"{graph.num_edges:,} edges from coordinates"
    if edges is not None:
        graph = graph_of_edges(edges, contents.nodes)
        return graph, f"{graph.num_edges:,} edges"
    values = torch.from_numpy(contents.values)
    graph = from_correlations(values, values.isfinite())
    return graph, f"no coordinates or edges given: {graph.num_edges:,} edges from correlations"


def weights_for(
    series: GraphSeries,
    minutes: float = 0,
    seed: int = 0,
    support: str | Mapping[str, str] = AUTO,
    report: Report | None = None,
) -> AnyOrderModel:
    """Returns the pre-trained model, which adapts to what it is given, after training on a series if asked.

    Args:
        series: The series to train on. If so little is observed that no part of it can be hidden, the weights
            are used as they are.
        minutes: The maximum time of training in minutes; with 0 the weights are used as they are.
        seed: Seed of the training.
        support: The values that channels can take (:func:`tsgen.data.fit_transforms`).
        report: Called with the progress of the training.
    """
    model = load_pretrained()
    model.support = support
    if not minutes:
        return model
    try:
        return fine_tuned(model, series, minutes, seed, report)
    except TooLittleObservedError as error:
        logger.warning("No training: %s", error)
        return model


def draw(
    model: AnyOrderModel,
    series: GraphSeries,
    num_samples: int = 100,
    seed: int = 0,
    path: Path | None = None,
) -> xr.Dataset:
    """Draws the missing values of a series, in windows that overlap by a half.

    Args:
        model: The model; one that adapts does so to the series.
        series: The series.
        num_samples: The number of draws.
        seed: Fixes the draws.
        path: The netCDF file to write to; the result is in memory if not given.

    Returns:
        The dataset of :func:`tsgen.impute`.
    """
    window = min(model.window or len(series), len(series))
    # draws of single entries gain nothing from continuing those of the window before
    continued = model.sampler.joint
    overlap = None if continued else window // 2
    return impute(model, series, num_samples, seed=seed, path=path, overlap=overlap, continued=continued)


def checked(
    series: GraphSeries,
    minutes: float = 0,
    num_samples: int = 100,
    seed: int = 0,
    support: str | Mapping[str, str] = AUTO,
    report: Report | None = None,
) -> tuple[AnyOrderModel, SelfCheck]:
    """Returns a model for a series, and how well it imputes a hidden tenth of what is observed.

    The model never sees the hidden entries, in training neither. The check of a series whose draws exceed
    :data:`MAX_CHECKED` numbers is confined to its last steps, and so is the training.

    Args:
        series: The series.
        minutes: The maximum time of training in minutes.
        num_samples: The number of draws.
        seed: Fixes training, hidden entries and draws.
        support: The values that channels can take (:func:`tsgen.data.fit_transforms`).
        report: Called with the progress of the training.

    Raises:
        TooLittleObservedError: If too little is observed to hide some.
    """
    steps = max(2, MAX_CHECKED // (num_samples * series.values[0].numel()))
    shown, models = series.chunk(slice(max(0, len(series) - steps), None)), list[AnyOrderModel]()

    def imputed(visible: GraphSeries) -> xr.Dataset:
        models.append(weights_for(visible, minutes, seed, support, report))
        return draw(models[0], visible, num_samples, seed)

    check = self_check(shown, imputed, seed=seed)
    return models[0], check


@check_arguments
@dataclass(eq=False)
class Imputer:
    """Fills the missing values of a data frame of time series, with draws that show how certain they are.

    .. code-block:: python

        imputer = tsgen.Imputer().fit(df)  # index: times, columns: nodes
        filled = imputer.transform(df)
        bands = imputer.quantiles(df, [0.05, 0.95])

    ``fit`` takes the names of the nodes, the graph and the units from a frame; the other methods use them for
    that frame or for another one of the same columns.

    Args:
        minutes: How long to train on the series in ``fit``, in minutes. With 0 the pre-trained weights are
            used as they are, which takes seconds.
        num_samples: The number of draws.
        seed: Fixes the training and the draws.
        support: The values that the columns can take: ``real``, ``positive``, ``non_negative``, ``counts``,
            ``interval(a, b)`` or ``interval[a, b]``; ``auto`` reads it off the frame.

    Attributes:
        model_: The model, after ``fit``.
        graph_: The graph of the nodes, after ``fit``.

    Raises:
        ValueError: If ``minutes`` is negative or not finite, or ``num_samples`` below 1.
    """

    minutes: float = 0
    num_samples: int = 100
    seed: int = 0
    support: str = AUTO

    def __post_init__(self) -> None:
        if not 0 <= self.minutes < float("inf"):
            raise ValueError(f"minutes must be 0 or more, and finite; it is {self.minutes}.")
        if self.num_samples < 1:
            raise ValueError(f"num_samples must be at least 1; it is {self.num_samples}.")
        if self.support != AUTO:
            Support.parse(self.support)

    def fit(
        self,
        frame: pd.DataFrame,
        y: None = None,
        *,
        coordinates: pd.DataFrame | str | Path | None = None,
        edges: pd.DataFrame | str | Path | None = None,
    ) -> Imputer:
        """Prepares the imputer for the columns of a frame, and returns it.

        Args:
            frame: A frame whose index holds regular times (dates, periods or numbers) and whose columns are
                the nodes. Missing values are NaN.
            y: Not used; for pipelines.
            coordinates: Table of ``node``, ``latitude`` and ``longitude``: a frame or a file.
            edges: Table of ``source``, ``target`` and optionally ``weight``: a frame or a file. Without
                coordinates and edges, the graph comes from the correlations of the columns.

        Raises:
            ValueError: If something in a table is wrong: one line that says where and what to do.
        """
        _, reading = _read(frame)
        self.graph_, _ = graph_of(reading.contents, coordinates, edges)
        series = reading.series(self.graph_)
        self.model_ = weights_for(series, self.minutes, self.seed, self.support).adapted(series)
        self._nodes = reading.contents.nodes
        return self

    def transform(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Returns the frame with the median of the draws in place of each missing value.

        The result has the index, the columns and the measured values of the frame.

        Args:
            frame: A frame with the columns of ``fit``.

        Raises:
            ValueError: If ``fit`` was not called, or something in the frame is wrong.
        """
        table, reading = _read(frame)
        [median] = self._quantiles(reading, [0.5])
        return _like(frame, complete(table, reading, median, insert=False))

    def fit_transform(
        self,
        frame: pd.DataFrame,
        y: None = None,
        *,
        coordinates: pd.DataFrame | str | Path | None = None,
        edges: pd.DataFrame | str | Path | None = None,
    ) -> pd.DataFrame:
        """Returns ``fit(frame).transform(frame)``.

        Args:
            frame: A frame; see :meth:`fit`.
            y: Not used; for pipelines.
            coordinates: Table of coordinates; see :meth:`fit`.
            edges: Table of edges; see :meth:`fit`.
        """
        return self.fit(frame, coordinates=coordinates, edges=edges).transform(frame)

    def sample(self, frame: pd.DataFrame) -> xr.DataArray:
        """Returns draws of the series ``(sample, time, node)``; measured values are the same in each.

        Args:
            frame: A frame with the columns of ``fit``.

        Raises:
            ValueError: If ``fit`` was not called, or something in the frame is wrong.
        """
        _, reading = _read(frame)
        draws = self._draws(reading)["imputation"].isel(channel=0, drop=True)
        return draws.sel(node=[str(column) for column in frame.columns])

    def quantiles(self, frame: pd.DataFrame, levels: list[float]) -> pd.DataFrame:
        """Returns quantiles of the draws as frames side by side: ``quantiles(df, [0.05, 0.95])[0.05]`` has
        the index and columns of ``df``.

        Args:
            frame: A frame with the columns of ``fit``.
            levels: Probabilities between 0 and 1.

        Raises:
            ValueError: If a level is not between 0 and 1, ``fit`` was not called, or something in the frame
                is wrong.
        """
        if not levels or not all(0 < level < 1 for level in levels):
            raise ValueError(f"levels must be probabilities between 0 and 1; they are {levels}.")
        table, reading = _read(frame)
        found = self._quantiles(reading, levels)
        frames = [_like(frame, complete(table, reading, values, insert=False)) for values in found]
        return pd.concat(dict(zip(levels, frames, strict=True)), axis=1)

    def _draws(self, reading: Reading) -> xr.Dataset:
        """Returns draws of the series in a frame."""
        if not hasattr(self, "model_"):
            raise ValueError("the imputer must be fitted first; call fit(df).")
        if reading.contents.nodes != self._nodes:
            raise ValueError(
                f"the data frame must have the columns of fit, {len(self._nodes)} nodes; it has "
                f"{len(reading.contents.nodes)}, or others. Fit an imputer for them."
            )
        return draw(self.model_, on_graph(reading.contents, self.graph_), self.num_samples, self.seed)

    def _quantiles(self, reading: Reading, levels: list[float]) -> np.ndarray:
        """Returns quantiles of the draws of the series in a frame, ``[levels, time, nodes, channels]``."""
        ordered = torch.from_numpy(self._draws(reading)["imputation"].values).sort(dim=0).values
        return calibrated_quantiles(ordered, levels).numpy()


def _read(frame: pd.DataFrame) -> tuple[Table, Reading]:
    """Returns the table in a frame whose index holds times, and the series in it."""
    for name, column in frame.items():
        if not pd.api.types.is_numeric_dtype(column.dtype):
            raise ValueError(
                f"the data frame must have times in its index and numbers in its columns; column {name!r} "
                f"holds {column.dtype}. Set the index with df.set_index({name!r}), or convert the column."
            )
    if frame.index.nlevels > 1:
        raise ValueError(
            f"the index of the data frame must have one level, the times; it has {frame.index.nlevels}. "
            "Unstack the others, so that each column is a node."
        )
    table = open_table(frame.rename_axis(index=TIME))
    reading = read_wide(table, Columns(TIME, "node", None, []))
    check_steps(str(table.path), reading.contents)
    return table, reading


def check_steps(path: str, contents: Contents) -> None:
    """Raises ``ValueError`` unless a table has at least two steps.

    Args:
        path: The table, for the message.
        contents: Its content.
    """
    if len(contents.time) < 2:
        raise ValueError(f"{path} must have at least 2 times to impute from; it has 1. Add rows.")


def _like(frame: pd.DataFrame, completed: pd.DataFrame) -> pd.DataFrame:
    """Returns a completed table with the index and the columns of the frame that it was read from."""
    completed = completed.iloc[:, 1:]
    completed.index, completed.columns = frame.index, frame.columns
    return completed
