"""Imputation, forecasts and generation, each by one function call.

They are the same operation and differ in which entries are unknown. :func:`impute` draws the unobserved
entries: gaps, whole slices, a node that never reported. :func:`forecast` draws the steps after the end, and
:func:`generate` draws every entry.
"""

from __future__ import annotations

import dataclasses
import numbers
import warnings
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

from tsgen.argument_types import check_arguments
from tsgen.data.channels import (
    channels_as_nodes,
    dataset_of_channels,
    samples_of_channels,
    without_covariates,
)
from tsgen.data.graphs import same_graph
from tsgen.data.series import GraphSeries, Samples, Series, SeriesBatch
from tsgen.data.tiles import Tiles
from tsgen.inference.conventions import with_conventions
from tsgen.inference.stitching import SeriesImputation
from tsgen.metrics import FarDraws
from tsgen.models.any_order import AnyOrderModel
from tsgen.models.density import DensityModel
from tsgen.sampling import SMC, Ancestral, AnyOrder, Exact, Sampler
from tsgen.storage.atomic import replacing

Method = Literal["ancestral", "smc", "any_order", "exact"]
"""Names of the samplers for unknown entries."""


class FarDrawsWarning(UserWarning):
    """Draws lie far outside the observed range (:mod:`tsgen.metrics.far_draws`)."""


METHODS: dict[Method, type[Sampler]] = {
    "ancestral": Ancestral,
    "smc": SMC,
    "any_order": AnyOrder,
    "exact": Exact,
}

WINDOWS_AT_ONCE = 32
"""The largest number of windows of a series that are drawn together, if they do not continue each other."""


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
    continued: bool = True,
) -> xr.Dataset: ...


@check_arguments
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
    continued: bool = True,
) -> Samples | xr.Dataset:
    """Draws the unobserved entries of windows or of a whole series.

    A series is drawn window by window, each conditioned on the draws of the one before, so that a sample is
    one path through the whole series (:mod:`tsgen.inference.stitching`).

    Args:
        model: A trained model, for example from :func:`tsgen.load`.
        data: Windows, whose entries outside ``context`` are drawn, or a series, whose unobserved entries are
            drawn; in data units.
        num_samples: The number of draws. If not given, that of the sampler, which is 100 by default.
        method: A sampler or the name of one; the model's own sampler if not given. If the model's own sampler
            has the given name, it is used with its options.
        seed: Fixes the draws. If not given, that of the sampler, which is 0 by default.
        window: Steps per window of a series. If not given, as many as in training, or the whole series if it
            is shorter or the model was not trained by a trainer.
        overlap: Steps that a window shares with the one before; a quarter of a window if not given. With 0
            each window is drawn independently.
        path: A netCDF file to write the result of a series to, window by window. Memory is then bounded, and
            the same call after an interruption resumes. If not given, the result stays in memory.
        continued: Whether each window of a series continues the draws of the one before. If not, each is
            drawn independently and its middle is kept. For an :class:`~tsgen.sampling.AnyOrder` of one group,
            whose draws then share a single forward pass, this is as many times faster as there are draws.

    Returns:
        For windows, the draws. For a series, a dataset with the labels of the series. It contains
        ``imputation (sample, time, node, channel)``, in which observed entries have the values of the data in
        every sample, and ``observed (time, node, channel)``. Its attributes include model, method,
        conditioning and seed; for :class:`~tsgen.sampling.SMC` also ``smallest_ess`` and ``median_ess``, of
        the effective sample sizes of all steps as shares of the particles.

    Warns:
        FarDrawsWarning: If draws lie far outside the observed range; the attribute ``far_draws`` of a dataset
            has the same text.

    Raises:
        ValueError: If the data does not match the model, the sampler does not accept the model, a number is
            out of range, or a weight or a draw is not finite.
    """
    sampler = _sampler(model, method, num_samples, seed)
    model.check_weights(model.state_dict())
    if adapts(model):
        options = {"method": sampler, "window": window, "overlap": overlap, "continued": continued}
        return _adapted(impute, model, data, path, **options)
    if isinstance(data, SeriesBatch):
        if (window, overlap, path) != (None, None, None):
            raise ValueError("window, overlap and path are for a series; windows were given. Leave them out.")
        _check_windows(model, data)
        with _evaluating(model):
            samples = sampler(model, _moved(model, data))
        # visible entries keep the data's values, whatever the model's precision
        drawn = samples.values.to(data.values)
        far_draws = FarDraws(model.node_units, sync_on_compute=False).to(data.values.device)
        far_draws.observe(data.values, data.context)
        far_draws.update(drawn, ~data.context)
        _warn(far_draws.warning(model.spec.nodes, model.spec.channels))
        return dataclasses.replace(samples, values=torch.where(data.context, data.values, drawn))
    _check_series(model, data)
    steps = len(data)
    length = _length(model, window, steps)
    tiles = Tiles.over([slice(0, steps)], length, overlap if length < steps else 0)
    if path is not None:
        _draw(model, sampler, data, tiles, Path(path), continued)
        return xr.open_dataset(path)
    with TemporaryDirectory() as folder:
        _draw(model, sampler, data, tiles, Path(folder) / "imputation.nc", continued)
        return xr.load_dataset(Path(folder) / "imputation.nc")


def adapts(model: DensityModel) -> bool:
    """Returns whether a model must adapt to data before it draws."""
    return isinstance(model, AnyOrderModel) and model.adapts


def _adapted(
    function: Any, model: Any, data: SeriesBatch | Series, path: Any = None, **options: Any
) -> Samples | xr.Dataset:
    """Calls a function with a model that has adapted to the data.

    A model of one channel takes further channels for further nodes. Covariates that it does not read are left
    out.
    """
    options = {name: value for name, value in options.items() if value is not None}
    channels = data.values.shape[-1] if isinstance(data, SeriesBatch) else len(data.channels)
    apart = channels > 1 == len(model.spec.channels)
    shown = channels_as_nodes(data) if apart else without_covariates(data, model.spec.num_covariates)
    own = model.adapted(shown, channels_of=data if apart else None)
    if isinstance(data, SeriesBatch) or not apart:
        drawn = function(own, shown, **options, **({} if path is None else {"path": path}))
        return samples_of_channels(drawn, channels) if apart else drawn
    drawn = dataset_of_channels(function(own, shown, **options), data)
    if path is None:
        return drawn
    drawn = with_conventions(drawn)
    with replacing(Path(path)) as unfinished:
        drawn.to_netcdf(unfinished)
    return xr.open_dataset(path)


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


@check_arguments
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
    """Draws the steps after the end of a series, or the last steps of windows.

    Args:
        model: A trained model.
        data: A series, which is continued, or windows, whose last steps are hidden.
        horizon: The number of steps to draw.
        num_samples: The number of draws; see :func:`impute`.
        method: A sampler or the name of one; see :func:`impute`.
        seed: Fixes the draws; see :func:`impute`.
        covariates: The covariates of the new steps, for a series with covariates.
        window: Steps per window, history included; see :func:`impute`.

    Returns:
        For windows, the draws of whole windows. For a series, a dataset as from :func:`impute`, of the new
        steps only.

    Raises:
        ValueError: If ``horizon`` is below 1 or not below the steps of the windows, if covariates of the new
            steps are missing, or for the reasons of :func:`impute`.

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
    if adapts(model):
        options = {"num_samples": num_samples, "method": method, "seed": seed, "window": window}
        return _adapted(forecast, model, data, horizon=horizon, **options)
    if isinstance(data, SeriesBatch):
        if covariates is not None or window is not None:
            raise ValueError("covariates and window are for a series; windows were given. Leave them out.")
        steps = data.values.shape[1]
        if horizon >= steps:
            raise ValueError(f"horizon must be below the {steps} steps of a window; it is {horizon}.")
        past = torch.arange(steps, device=data.context.device) < steps - horizon
        hidden = data._changed(context=data.context & past[:, None, None])
        return impute(model, hidden, num_samples, method, seed)
    _check_series(model, data)
    steps = len(data) + horizon
    length = _length(model, window, steps)
    # one window if it leaves enough history, otherwise several, each continuing the one before
    history = max(length - horizon, length // 4, 1)
    if not _sampler(model, method, num_samples, seed).extends:
        # no window can continue another: use a single one, with a history of at most a window
        history, length = min(length, steps - horizon), steps
    recent = _continued(data, slice(max(0, len(data) - history), len(data)), horizon, covariates)
    drawn = impute(model, recent, num_samples, method, seed, window=min(length, len(recent)))
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


@check_arguments
def generate(
    model: DensityModel,
    data: int | SeriesBatch | Series,
    num_samples: int | None = None,
    method: Method | Sampler | None = None,
    seed: int | None = None,
    *,
    window: int | None = None,
) -> Samples | xr.Dataset:
    """Draws every entry from the model, without conditioning on data.

    Args:
        model: A trained model.
        data: The number of steps, for a model without covariates; or a series or windows that give the shape
            and the covariates. Their values are not read.
        num_samples: The number of draws; see :func:`impute`.
        method: A sampler or the name of one; see :func:`impute`.
        seed: Fixes the draws; see :func:`impute`.
        window: Steps per window; see :func:`impute`.

    Returns:
        Draws of windows, or a dataset for a series or a number of steps; see :func:`impute`.

    Raises:
        ValueError: If there are no steps, the model reads covariates and none are given, the sampler does not
            draw entries jointly, or for the reasons of :func:`impute`.
    """
    if adapts(model):
        raise ValueError(
            "a model that adapts must know a network before it generates: pass model.adapted(series) instead."
        )
    if isinstance(data, SeriesBatch):
        if window is not None:
            raise ValueError("window is for a series; windows were given. Leave it out.")
        _check_joint(_sampler(model, method, num_samples, seed))
        return impute(model, data._changed(context=torch.zeros_like(data.context)), num_samples, method, seed)
    if not isinstance(data, Series):
        if data < 1:
            raise ValueError(f"there must be at least 1 step to generate; data is {data}.")
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
    unobserved = data.with_observed(torch.zeros((len(data), *data.sizes[:2]), dtype=torch.bool))
    return impute(model, unobserved, num_samples, method, seed, window=window)


def _sampler(
    model: DensityModel, method: Method | Sampler | None, num_samples: int | None, seed: int | None
) -> Sampler:
    """Returns the sampler to use; raises ``ValueError`` unless it accepts the model."""
    sampler: Any = method
    if method is None:
        sampler = model.sampler
    elif not isinstance(method, Sampler):
        kind = METHODS.get(method) if isinstance(method, str) else None
        if kind is None:
            raise ValueError(f"method must be a sampler or one of {', '.join(METHODS)}; it is {method!r}.")
        sampler = model.sampler if type(model.sampler) is kind else kind()
    sampler.check(model)
    options = {"num_samples": num_samples, "seed": seed}
    options = {name: n for name, n in options.items() if n is not None}
    return sampler.with_options(**options)


def _check_joint(sampler: Sampler) -> None:
    """Raises ``ValueError`` if the sampler would draw the entries independently."""
    if not sampler.joint:
        raise ValueError(
            f"generated entries must be drawn jointly; {type(sampler).__name__} with one group draws each "
            "independently. Use method=tsgen.AnyOrder(groups=24), or more groups."
        )


def _length(model: DensityModel, window: int | None, steps: int) -> int:
    """Returns the number of steps of the windows of a series."""
    if window is not None and window < 1:
        raise ValueError(f"window must be at least 1; it is {window}.")
    return min(window or model.window or steps, steps)


def _check_series(model: DensityModel, series: Series) -> None:
    """Raises ``ValueError`` unless the series has the model's nodes, channels, covariates and graph."""
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
            "for this data, if the model can be transferred."
        )


def _check_windows(model: DensityModel, batch: SeriesBatch) -> None:
    """Raises ``ValueError`` unless the windows have the sizes and the graph of the model."""
    covariates = 0 if batch.covariates is None else batch.covariates.shape[-1]
    wanted, given = tuple(model.spec.sizes), (*batch.values.shape[2:], covariates)
    if wanted != given:
        raise ValueError(
            f"the windows must have the model's nodes, channels and covariates, {wanted}; they have {given}."
        )
    graph = batch.graph.clone().cpu()
    if not same_graph(model.spec.graph, graph):
        raise ValueError("the windows must have the model's graph; their graph has other edges or weights.")


def _draw(
    model: DensityModel, sampler: Sampler, series: Series, tiles: Tiles, path: Path, continued: bool
) -> None:
    """Draws a series into a file; resumes from the part files of an interrupted call."""
    imputation = SeriesImputation(sampler, series, tiles, path, continued=continued)
    imputation.begin(model, continued)
    imputation.lock()
    starts = torch.tensor(tiles.starts)
    try:
        with _evaluating(model):
            for numbers in imputation.batches(WINDOWS_AT_ONCE):
                windows = series.windows(starts[numbers], tiles.window)
                imputation.draw(model, _moved(model, windows))
        _warn(imputation.finish(type(model).__name__))
    finally:
        imputation.release()


def _warn(far_draws: str | None) -> None:
    """Warns of draws far outside the observed range, if there are any."""
    if far_draws is not None:
        warnings.warn(far_draws, FarDrawsWarning, stacklevel=4)


def _moved(model: DensityModel, batch: SeriesBatch) -> SeriesBatch:
    """Returns the windows on the model's device."""
    return model.transfer_batch_to_device(batch, model.device, 0)


@contextmanager
def _evaluating(model: DensityModel) -> Iterator[None]:
    """Puts the model in evaluation mode; restores its modes afterwards."""
    modes = {submodule: submodule.training for submodule in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for submodule, training in modes.items():
            submodule.training = training


def _continued(
    series: Series, steps: slice, horizon: int, covariates: Tensor | np.ndarray | None
) -> GraphSeries:
    """Returns the given steps of a series, followed by unobserved steps with continued times."""
    width = series.sizes.covariates
    if (covariates is not None) != bool(width):
        raise ValueError(
            f"covariates of the {horizon} new steps must be given if and only if the series has covariates; "
            f"it has {width or 'none'}. Give covariates=[horizon, nodes, covariates], or leave them out."
        )
    if len(series) < 2:
        raise ValueError("a series must have at least 2 steps, which give the time between steps; it has 1.")
    recent, time = series.chunk(steps), np.asarray(series.time)
    all_covariates = None
    if recent.covariates is not None and covariates is not None:
        covariates = torch.as_tensor(covariates)
        shape = (horizon, *recent.covariates.shape[1:])
        if tuple(covariates.shape) != shape:
            raise ValueError(
                f"covariates must be [horizon, nodes, covariates], {list(shape)}; their shape is "
                f"{list(covariates.shape)}."
            )
        all_covariates = torch.cat([recent.covariates, covariates.to(recent.covariates)])
    new_times = time[-1] + (time[1] - time[0]) * np.arange(1, horizon + 1)
    empty = recent.values.new_full((horizon, *recent.values.shape[1:]), torch.nan)
    return dataclasses.replace(
        recent,
        values=torch.cat([recent.values, empty]),
        observed=torch.cat([recent.observed, torch.zeros_like(empty, dtype=torch.bool)]),
        covariates=all_covariates,
        time=np.concatenate([recent.time, new_times]),
    )
