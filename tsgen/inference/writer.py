"""The netCDF file of an imputation, written window by window."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import torch

from tsgen.data.series import Series
from tsgen.data.support import bounds_of
from tsgen.data.tiles import Tiles
from tsgen.inference.conventions import common_unit, with_conventions
from tsgen.metrics import FarDraws
from tsgen.storage.atomic import replacing

CHUNK_STEPS = 16
"""Steps in one compressed chunk of the file: a window is written or read without touching the others."""

Reader = Callable[[int], tuple[np.ndarray, np.ndarray]]
"""Returns, for the window that starts at a step, its draws and the mask of its context."""


def write_imputation(
    path: Path,
    series: Series,
    tiles: Tiles,
    kept: Mapping[int, slice],
    read: Reader,
    num_samples: int,
    attributes: Mapping[str, Any],
    far_draws: FarDraws | None = None,
) -> str | None:
    """Writes all windows to one netCDF file, one of them in memory at a time.

    The file contains ``imputation (sample, time, node, channel)``, in which observed entries have the values
    of the data in every sample, and ``observed (time, node, channel)``, with labels and units.

    Args:
        path: The file.
        series: The series.
        tiles: The positions of the windows.
        kept: The steps that are taken from each window, by its start.
        read: Reads a window.
        num_samples: The number of samples.
        attributes: Attributes of the file.
        far_draws: The observed range, outside of which draws are counted.

    Returns:
        The attribute ``far_draws`` of the file: a sentence on draws far outside that range, or None.

    Raises:
        RuntimeError: If a step would be written twice, or never.
    """
    steps = np.concatenate([np.arange(c[0], c[-1] + tiles.window) for c in tiles.chains])
    steps.sort()
    names = series.labels().isel(time=steps)[["time", "node", "channel", "unit"]]
    skeleton = names.assign_coords(sample=np.arange(num_samples)).assign_attrs(attributes)
    skeleton = with_conventions(skeleton)
    with replacing(path) as unfinished:
        skeleton.to_netcdf(unfinished)
        with netCDF4.Dataset(unfinished, "a") as file:
            bounds = bounds_of(str(attributes.get("support", "real")))
            _create_variables(file, series, num_samples, len(steps), bounds)
            _fill(file, series, steps, kept, read, far_draws)
            warning = None if far_draws is None else far_draws.warning(series.nodes, series.channels)
            if warning is not None:
                file.far_draws = warning
    return warning


def _create_variables(
    file: netCDF4.Dataset,
    series: Series,
    num_samples: int,
    length: int,
    bounds: tuple[list[float], list[float]],
) -> None:
    """Creates ``imputation`` and ``observed`` in a file that has the labels."""
    axes, chunk = ("time", "node", "channel"), (min(CHUNK_STEPS, length), *series.sizes[:2])
    options: dict[str, Any] = {"zlib": True, "complevel": 1}
    variable = file.createVariable(
        "imputation",
        str(series.dtype).removeprefix("torch."),
        ("sample", *axes),
        fill_value=np.nan,
        chunksizes=(num_samples, *chunk),
        **options,
    )
    variable.coordinates = "unit"
    for name, end in (("valid_min", min(bounds[0])), ("valid_max", max(bounds[1]))):
        if np.isfinite(end):
            variable.setncattr(name, np.asarray(end, variable.dtype))
    variable.long_name = "draws of the series; observed entries are the data's own"
    variable.setncatts(common_unit(series.units))
    flag = file.createVariable("observed", "i1", axes, chunksizes=chunk, **options)
    flag.setncattr("dtype", "bool")  # xarray's encoding of booleans
    flag.setncatts(
        {
            "coordinates": "unit",
            "long_name": "whether the entry is observed",
            "flag_values": np.array([0, 1], dtype=np.int8),
            "flag_meanings": "drawn observed",
        }
    )


def _fill(
    file: netCDF4.Dataset,
    series: Series,
    steps: np.ndarray,
    kept: Mapping[int, slice],
    read: Reader,
    far_draws: FarDraws | None,
) -> None:
    """Writes the draws of all windows, with the values of the data at observed entries."""
    variable, flag = file["imputation"], file["observed"]
    count = np.zeros(len(steps), dtype=int)
    for start, keep in sorted(kept.items()):
        values, observed_in_window = read(start)
        inside = slice(keep.start - start, keep.stop - start)
        first = int(np.searchsorted(steps, keep.start))
        at = slice(first, first + keep.stop - keep.start)
        data, observed = series.chunk(keep).values.numpy(), observed_in_window[inside]
        if far_draws is not None:
            far_draws.update(torch.from_numpy(values[:, inside]), torch.from_numpy(~observed))
        variable[:, at] = np.where(observed, data, values[:, inside])
        flag[at] = observed  # the context: observed entries of forecast steps are hidden
        count[at] += 1
    if (count != 1).any():
        raise RuntimeError(f"every step must be written once; {int((count != 1).sum())} were not.")
