"""Draws of what is unknown, in one call: imputation, forecasts, generation.

All of them are one operation, and differ in what is unknown. :func:`impute` draws what was not observed:
holes, whole slices, a node that never reported. :func:`forecast` and :func:`generate` only say what that is:
the steps after the end, everything.
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, overload

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

import tsgen.sampling
from tsgen.data.graphs import same_graph
from tsgen.data.series import GraphSeries, Samples, Series, SeriesBatch
from tsgen.data.tiles import Tiles
from tsgen.inference.stitching import SeriesImputation
from tsgen.models.density import DensityModel
from tsgen.sampling import Sampler

Method = Literal["ancestral", "smc", "any_order", "exact"]
"""How unknown entries may be drawn."""

METHODS = {"ancestral": "Ancestral", "smc": "SMC", "any_order": "AnyOrder", "exact": "Exact"}

WINDOWS_AT_ONCE = 32
"""Windows of a series that are drawn at the same time, where they stand alone."""


@overload
def impute(
    model: DensityModel,
    data: SeriesBatch,
    num_samples: int | None = None,
    method: Method | Sampler | None = None,
    seed: int | None = None,
) -> Samples: ...


@overload
def impute(
    model: DensityModel,
    data: Series,
    num_samples: int | None = None,
    method: Method | Sampler | None = None,
    seed: int | None = None,
    *,
    window: int | None = None,
    overlap: int | None = None,
    path: str | Path | None = None,
) -> xr.Dataset: ...


def impute(
    model: DensityModel,
    data: SeriesBatch | Series,
    num_samples: int | None = None,
    method: Method | Sampler | None = None,
    seed: int | None = None,
    *,
    window: int | None = None,
    overlap: int | None = None,
    path: str | Path | None = None,
) -> Samples | xr.Dataset:
    """Draws what is not observed of some windows or of a whole series.

    A series is drawn window by window, each going on from the one before, so that a sample is one path
    through all of it (:mod:`tsgen.inference.stitching`).

    Args:
        model: A trained model, such as :func:`tsgen.load` returns.
        data: Windows, whose entries outside ``context`` are drawn, or a series, whose entries that were not
            observed are; in data units.
        num_samples: Draws of each; as many as the sampler says if not given, 100 by default.
        method: A sampler or the name of one; the model's own if not given. By its name the model's own is
            meant, options included, if it is of that kind.
        seed: Fixes the draws; the sampler's if not given, 0 by default.
        window: Steps of a window of a series; if not given that of the training, or the whole series if that
            is shorter or the model was not trained by a trainer.
        overlap: Steps that a window shares with the one before; a quarter of a window if not given. With 0
            each begins anew.
        path: Where to write the result of a series to, as netCDF, window by window: memory is then bounded,
            and the same call after an interruption goes on. It stays in memory if not given.

    Returns:
        Of windows the draws. Of a series a dataset with ``imputation (sample, time, node, channel)``, in
        which observed entries are the data's own in every sample, and ``observed (time, node, channel)``,
        labelled as the series; model, method, conditioning and seed are among its attributes.

    Raises:
        ValueError: If the data is not what the model was made for, the model cannot be sampled in this way,
            or a number is out of range.
    """
    sampler = _sampler(model, method, num_samples, seed)
    if isinstance(data, SeriesBatch):
        if (window, overlap, path) != (None, None, None):
            raise ValueError("window, overlap and path are for a series; windows were given. Leave them out.")
        _check_windows(model, data)
        with _evaluating(model):
            samples = sampler(model, _moved(model, data))
        # what is visible as it came, whatever precision the model works in
        drawn = samples.values.to(data.values)
        return dataclasses.replace(samples, values=torch.where(data.context, data.values, drawn))
    _check_series(model, data)
    steps = len(data)
    length = _length(model, window, steps)
    tiles = Tiles.over([slice(0, steps)], length, overlap if length < steps else 0)
    if path is not None:
        _draw(model, sampler, data, tiles, Path(path))
        return xr.open_dataset(path)
    with TemporaryDirectory() as folder:
        _draw(model, sampler, data, tiles, Path(folder) / "imputation.nc")
        return xr.load_dataset(Path(folder) / "imputation.nc")


@overload
def forecast(
    model: DensityModel,
    data: SeriesBatch,
    horizon: int,
    num_samples: int | None = None,
    method: Method | Sampler | None = None,
    seed: int | None = None,
) -> Samples: ...


@overload
def forecast(
    model: DensityModel,
    data: Series,
    horizon: int,
    num_samples: int | None = None,
    method: Method | Sampler | None = None,
    seed: int | None = None,
    *,
    covariates: Float[Tensor | np.ndarray, "horizon nodes covariates"] | None = None,
    window: int | None = None,
) -> xr.Dataset: ...


def forecast(
    model: DensityModel,
    data: SeriesBatch | Series,
    horizon: int,
    num_samples: int | None = None,
    method: Method | Sampler | None = None,
    seed: int | None = None,
    *,
    covariates: Float[Tensor | np.ndarray, "horizon nodes covariates"] | None = None,
    window: int | None = None,
) -> Samples | xr.Dataset:
    """Draws the steps after the end of a series, or the last ones of some windows.

    Args:
        model: A trained model.
        data: A series, which is gone on from, or windows, whose last steps are made unknown.
        horizon: How many steps.
        num_samples: Draws; see :func:`impute`.
        method: A sampler or the name of one; see :func:`impute`.
        seed: Fixes the draws; see :func:`impute`.
        covariates: Of a series with covariates, theirs at the new steps.
        window: Steps of a window, of which the history is a part; see :func:`impute`.

    Returns:
        Of windows the draws, whole windows. Of a series a dataset of the new steps alone, as that of
        :func:`impute`.

    Raises:
        ValueError: If ``horizon`` is below 1 or not shorter than the windows, covariates of the new steps are
            missing, or for the reasons of :func:`impute`.

    Example:
        >>> from tsgen.datamodules import SyntheticDataModule
        >>> from tsgen import GraphVAR
        >>> data = SyntheticDataModule(num_nodes=4, steps=100)
        >>> model = GraphVAR(data.spec, order=2)
        >>> model.process = data.exact
        >>> dict(forecast(model, data.split.series, horizon=6, num_samples=10).sizes)
        {'sample': 10, 'time': 6, 'node': 4, 'channel': 1}
    """
    if isinstance(horizon, bool) or not isinstance(horizon, numbers.Integral) or horizon < 1:
        raise ValueError(f"horizon must be at least 1; it is {horizon}.")
    if isinstance(data, SeriesBatch):
        if covariates is not None or window is not None:
            raise ValueError("covariates and window are for a series; windows were given. Leave them out.")
        steps = data.values.shape[1]
        if horizon >= steps:
            raise ValueError(f"horizon must be below the {steps} steps of a window; it is {horizon}.")
        past = torch.arange(steps, device=data.context.device) < steps - horizon
        blind = data._changed(context=data.context & past[:, None, None])
        return impute(model, blind, num_samples, method, seed)
    _check_series(model, data)
    steps = len(data) + horizon
    length = _length(model, window, steps)
    # one window if that leaves it enough of a history, else several, each going on from the one before
    history = max(length - horizon, length // 4, 1)
    if not _sampler(model, method, num_samples, seed).extends:
        # no window could go on from another: one that holds as much of the past as a window does
        history, length = min(length, steps - horizon), steps
    near = _continued(data, slice(max(0, len(data) - history), len(data)), horizon, covariates)
    drawn = impute(model, near, num_samples, method, seed, window=min(length, len(near)))
    return drawn.isel(time=slice(-horizon, None))


@overload
def generate(
    model: DensityModel,
    data: SeriesBatch,
    num_samples: int | None = None,
    method: Method | Sampler | None = None,
    seed: int | None = None,
) -> Samples: ...


@overload
def generate(
    model: DensityModel,
    data: int | Series,
    num_samples: int | None = None,
    method: Method | Sampler | None = None,
    seed: int | None = None,
    *,
    window: int | None = None,
) -> xr.Dataset: ...


def generate(
    model: DensityModel,
    data: int | SeriesBatch | Series,
    num_samples: int | None = None,
    method: Method | Sampler | None = None,
    seed: int | None = None,
    *,
    window: int | None = None,
) -> Samples | xr.Dataset:
    """Draws everything anew: a number of steps, or what has the shape and the covariates of some data.

    Args:
        model: A trained model.
        data: The number of steps, for a model without covariates; or a series or windows, whose values are
            not read.
        num_samples: Draws; see :func:`impute`.
        method: A sampler or the name of one; see :func:`impute`.
        seed: Fixes the draws; see :func:`impute`.
        window: Steps of a window; see :func:`impute`.

    Returns:
        As :func:`impute`.

    Raises:
        ValueError: If there are no steps, the model reads covariates and none are given, or for the reasons
            of :func:`impute`.
    """
    if isinstance(data, SeriesBatch):
        if window is not None:
            raise ValueError("window is for a series; windows were given. Leave it out.")
        _check_joint(_sampler(model, method, num_samples, seed))
        return impute(model, data._changed(context=torch.zeros_like(data.context)), num_samples, method, seed)
    if isinstance(data, bool) or not isinstance(data, (numbers.Integral, Series)):
        raise ValueError(f"data must be a number of steps, a series or windows; it is {data!r:.80}.")
    if isinstance(data, numbers.Integral):
        if data < 1:
            raise ValueError(f"there must be at least 1 step to generate; there are {data}.")
        if model.spec.num_covariates:
            raise ValueError(
                f"the model reads {model.spec.num_covariates} covariates; a number of steps has none. Give a "
                "series with covariates; its values are not read."
            )
        values = torch.full((int(data), *model.spec.loc.shape), torch.nan)
        data = GraphSeries(
            values,
            torch.zeros_like(values, dtype=torch.bool),
            model.spec.graph,
            nodes=model.spec.nodes,
            channels=model.spec.channels,
        )
    _check_joint(_sampler(model, method, num_samples, seed))
    nothing = data.with_observed(torch.zeros((len(data), *data.sizes[:2]), dtype=torch.bool))
    return impute(model, nothing, num_samples, method, seed, window=window)


def _sampler(
    model: DensityModel, method: Method | Sampler | None, num_samples: int | None, seed: int | None
) -> Sampler:
    """The sampler that is meant, fit for the model."""
    sampler: Any = method
    if method is None:
        sampler = model.sampler
    elif not isinstance(method, Sampler):
        kind = getattr(tsgen.sampling, METHODS.get(method, ""), None)
        if kind is None:
            known = [name for name, made in METHODS.items() if hasattr(tsgen.sampling, made)]
            raise ValueError(f"method must be a sampler or one of {', '.join(known)}; it is {method!r}.")
        sampler = model.sampler if type(model.sampler) is kind else kind()
    sampler.check(model)
    asked = {"num_samples": num_samples, "seed": seed}
    asked = {name: n for name, n in asked.items() if n is not None}
    if asked and not dataclasses.is_dataclass(sampler):
        raise ValueError(
            f"{' and '.join(asked)} must be set in a sampler that is no dataclass; "
            f"{type(sampler).__name__} is none. Leave them out."
        )
    return dataclasses.replace(sampler, **asked) if asked else sampler


def _check_joint(sampler: Sampler) -> None:
    """Raises where what is generated would be independent entries."""
    if not sampler.joint:
        raise ValueError(
            f"what is generated must be drawn jointly; {type(sampler).__name__} with one group draws each "
            "entry by itself. Give method=tsgen.AnyOrder(groups=24), or more groups."
        )


def _length(model: DensityModel, window: int | None, steps: int) -> int:
    """Steps of the windows of a series."""
    if window is not None and window < 1:
        raise ValueError(f"window must be at least 1; it is {window}.")
    return min(window or model.window or steps, steps)


def _check_series(model: DensityModel, series: Series) -> None:
    """Raises unless the series has the nodes, channels, covariates and graph that the model was made for."""
    if not isinstance(series, Series):
        raise ValueError(
            f"data must be windows or a GraphSeries; it is {type(series).__name__}. "
            "GraphSeries.from_xarray makes one of a dataset."
        )
    of_data = dataclasses.replace(
        model.spec,
        edge_index=series.graph.edge_index,
        edge_weight=series.graph.edge_weight,
        num_covariates=series.sizes.covariates,
        nodes=list(series.nodes),
        channels=list(series.channels),
    )
    difference = model.spec.difference(of_data)
    if difference:
        raise ValueError(
            f"the model was made for other data: {difference}. Load it with tsgen.load(checkpoint, spec=...) "
            "for this data, if it can move."
        )


def _check_windows(model: DensityModel, batch: SeriesBatch) -> None:
    """Raises unless windows have the sizes and the graph that the model was made for."""
    covariates = 0 if batch.covariates is None else batch.covariates.shape[-1]
    mine, its = tuple(model.spec.sizes), (*batch.values.shape[2:], covariates)
    if mine != its:
        raise ValueError(
            f"the windows must have the model's nodes, channels and covariates, {mine}; they have {its}."
        )
    graph = batch.graph.clone().cpu()
    if not same_graph(model.spec.graph, graph):
        raise ValueError("the windows must have the model's graph; theirs has other edges or weights.")


def _draw(model: DensityModel, sampler: Sampler, series: Series, tiles: Tiles, path: Path) -> None:
    """Draws a series into a file, or resumes from what an interrupted call has left."""
    imputation = SeriesImputation(sampler, series, tiles, path)
    imputation.begin(model)
    imputation.hold()
    starts = torch.tensor(tiles.starts)
    try:
        with _evaluating(model):
            for numbers in imputation.batches(WINDOWS_AT_ONCE):
                windows = series.windows(starts[numbers], tiles.window)
                imputation.draw(model, _moved(model, windows))
        imputation.finish(type(model).__name__)
    finally:
        imputation.release()


def _moved(model: DensityModel, batch: SeriesBatch) -> SeriesBatch:
    """The windows on the model's device and in its precision."""
    dtype = next(model.parameters()).dtype
    covariates = None if batch.covariates is None else batch.covariates.to(dtype)
    batch = dataclasses.replace(batch, values=batch.values.to(dtype), covariates=covariates)
    return model.transfer_batch_to_device(batch, model.device, 0)


@contextmanager
def _evaluating(model: DensityModel) -> Iterator[None]:
    """The model in evaluation mode for a while."""
    modes = {part: part.training for part in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def _continued(
    series: Series, steps: slice, horizon: int, covariates: Tensor | np.ndarray | None
) -> GraphSeries:
    """Some last steps of the series with empty ones after its end, its time going on."""
    width = series.sizes.covariates
    if (covariates is not None) != bool(width):
        raise ValueError(
            f"covariates of the {horizon} new steps must be given for a series with covariates, and for no "
            f"other; the series has {width or 'none'}. Give covariates=[horizon, nodes, covariates], or "
            "leave them out."
        )
    if len(series) < 2:
        raise ValueError("a series must have at least 2 steps to tell when the next one is; it has 1.")
    near, time = series.chunk(steps), np.asarray(series.time)
    both = None
    if near.covariates is not None and covariates is not None:
        covariates = torch.as_tensor(covariates)
        wanted = (horizon, *near.covariates.shape[1:])
        if tuple(covariates.shape) != wanted:
            raise ValueError(
                f"covariates must be [horizon, nodes, covariates], {list(wanted)}; their shape is "
                f"{list(covariates.shape)}."
            )
        both = torch.cat([near.covariates, covariates.to(near.covariates)])
    ahead = time[-1] + (time[1] - time[0]) * np.arange(1, horizon + 1)
    empty = near.values.new_full((horizon, *near.values.shape[1:]), torch.nan)
    return dataclasses.replace(
        near,
        values=torch.cat([near.values, empty]),
        observed=torch.cat([near.observed, torch.zeros_like(empty, dtype=torch.bool)]),
        covariates=both,
        time=np.concatenate([near.time, ahead]),
    )
