"""Imputation of a table without writing a configuration: what ``tsgen impute`` and the estimators share.

The model starts from the pre-trained weights. Its units come from what is visible of the series, so that it
can be used at once; a few minutes of training on the series are optional.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
import torch
import xarray as xr
from torch_geometric.data import Data

from tsgen.data.detection import AUTO
from tsgen.data.graphs import from_correlations
from tsgen.data.series import GraphSeries
from tsgen.evaluation.selfcheck import SelfCheck, TooLittleObservedError, self_check
from tsgen.inference.imputation import impute
from tsgen.models import AnyOrderModel, load_pretrained
from tsgen.readers.node_graphs import graph_of_coordinates, graph_of_edges
from tsgen.readers.regular_times import Contents
from tsgen.training.fine_tuning import Progress, fine_tuned

logger = logging.getLogger(__name__)

Report = Callable[[Progress], None]
"""Is called with the progress of a training."""

MAX_CHECKED = 2**27
"""The largest number of draws that the check holds in memory (1 GiB)."""


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


def check_steps(path: str, contents: Contents) -> None:
    """Raises ``ValueError`` unless a table has at least two steps.

    Args:
        path: The table, for the message.
        contents: Its content.
    """
    if len(contents.time) < 2:
        raise ValueError(f"{path} must have at least 2 times to impute from; it has 1. Add rows.")
