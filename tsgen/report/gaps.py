"""Reads ``imputation.nc`` and summarises its gaps and the widths of the model's intervals.

The file may be far larger than memory. It is read once, in blocks of time and nodes that follow its chunks.
Only the mask of observed entries, one byte per entry, is in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int

from tsgen.data.interpolation import GAPS, gap_class
from tsgen.figures.fans import LEVELS, Fan
from tsgen.figures.style import name_of_time
from tsgen.metrics.breakdown import fill_deviation
from tsgen.report.reading import unreadable
from tsgen.storage.netcdf import open_netcdf

MAX_VALUES = 2**22
"""The maximum number of values of the file in memory at a time."""

MAX_SHOWN_STEPS = 240
"""The maximum number of steps of a gap that a panel shows."""

_DIMS = {"observed": ("time", "node", "channel"), "imputation": ("sample", "time", "node", "channel")}
_REMEDY = "Write it with: tsgen predict --config EXPERIMENT.yaml"


class Gaps(NamedTuple):
    """Runs of steps at which a channel of a node was not observed.

    Attributes:
        start: First step of each gap, counted from the start of the file.
        length: Number of steps.
        node: Index of the node.
        channel: Index of the channel.
    """

    start: Int[np.ndarray, " gap"]
    length: Int[np.ndarray, " gap"]
    node: Int[np.ndarray, " gap"]
    channel: Int[np.ndarray, " gap"]


class Imputation(NamedTuple):
    """The summary of an imputation.

    Attributes:
        data: The content of the file, loaded on demand.
        gaps: Its gaps.
        observed: Number of observed entries, by node and channel.
        imputed: Number of imputed entries, by class of gap lengths (:data:`GAPS`), node and channel.
        width: Sum of the widths of their 90 % intervals, in data units, by class, node and channel.
        deviation: Standard deviation of the observed values, in data units, by node and channel.
    """

    data: xr.Dataset
    gaps: Gaps
    observed: Int[np.ndarray, "node channel"]
    imputed: Int[np.ndarray, "class node channel"]
    width: Float[np.ndarray, "class node channel"]
    deviation: Float[np.ndarray, "node channel"]

    def relative_width(self, axis: tuple[int, ...]) -> np.ndarray:
        """Returns the mean width of the 90 % intervals in standard deviations of the node and channel.

        The result is NaN where nothing was imputed.

        Args:
            axis: The axes of (class, node, channel) to average over.
        """
        count = self.imputed.sum(axis)
        total = (self.width / self.deviation).sum(axis)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def read_imputation(path: Path) -> Imputation:
    """Reads and summarises ``imputation.nc``.

    Args:
        path: The file ``imputation.nc``.

    Raises:
        ValueError: If it is missing or damaged.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing. {_REMEDY}")
    try:
        data = open_netcdf(path, read_later=_DIMS["imputation"])
    except Exception as error:  # a damaged file may raise any kind of error
        raise unreadable(path, error, _REMEDY) from error
    for name, dims in _DIMS.items():
        if name not in data or data[name].dims != dims:
            raise ValueError(f"{path} must have a variable {name!r} over {', '.join(dims)}. {_REMEDY}")
    empty = [dim for dim in _DIMS["imputation"] if data.sizes[dim] == 0]
    if empty:
        raise ValueError(f"{path} must have at least one {empty[0]}; got none. {_REMEDY}")
    if "unit" not in data:
        data = data.assign_coords(unit=("channel", [""] * data.sizes["channel"]))
    try:
        return _summarise(data)
    except (OSError, RuntimeError) as error:  # what HDF5 raises
        raise ValueError(f"{path} is damaged: it cannot be read to its end. {_REMEDY}") from error


def find_gaps(
    observed: Bool[np.ndarray, "time node channel"], breaks: Bool[np.ndarray, " time"]
) -> tuple[Gaps, Int[np.ndarray, "time node channel"]]:
    """Finds the runs of steps that were not observed.

    Args:
        observed: Where an entry was observed.
        breaks: Which steps come after a jump in time; gaps do not extend across jumps.

    Returns:
        The gaps, and the class of the length of each entry's gap (:data:`GAPS`); -1 if it was observed.
    """
    hidden = np.moveaxis(~observed, 0, -1)  # time last, so that a run is contiguous
    first, last = hidden.copy(), hidden.copy()
    first[..., 1:] &= ~hidden[..., :-1] | breaks[1:]
    last[..., :-1] &= ~hidden[..., 1:] | breaks[1:]
    node, channel, start = np.nonzero(first)
    length = np.nonzero(last)[2] - start + 1
    kind = np.full(hidden.shape, -1, dtype=np.int8)
    kind[hidden] = np.repeat(gap_class(length), length)
    return Gaps(start, length, node, channel), np.moveaxis(kind, -1, 0)


def _breaks(time: np.ndarray) -> Bool[np.ndarray, " time"]:
    """Returns which steps come after a jump: a time step longer than the shortest one."""
    found = np.zeros(len(time), dtype=bool)
    if len(time) > 2 and time.dtype.kind in "Mmiuf":
        step = np.diff(time)
        found[1:] = step > step.min()
    return found


def _blocks(data: xr.Dataset) -> Iterator[tuple[slice, slice]]:
    """Yields blocks of time and nodes that cover the file, in whole chunks if these are small enough."""
    samples, steps, nodes, channels = data["imputation"].shape
    chunks = data["imputation"].encoding.get("chunksizes") or (samples, 16, nodes, channels)
    block_nodes = min(max(chunks[2], 1), nodes)
    block_steps = max(MAX_VALUES // (samples * block_nodes * channels), 1)
    if block_steps >= chunks[1]:
        block_steps = block_steps // chunks[1] * chunks[1]
    for start in range(0, steps, block_steps):
        for node in range(0, nodes, block_nodes):
            yield slice(start, start + block_steps), slice(node, node + block_nodes)


def _summarise(data: xr.Dataset) -> Imputation:
    observed = data["observed"].values.astype(bool)
    gaps, kind = find_gaps(observed, _breaks(data["time"].values))
    shape = observed.shape[1:]
    count, width = np.zeros((len(GAPS), *shape), dtype=np.int64), np.zeros((len(GAPS), *shape))
    total, square, origin = np.zeros(shape), np.zeros(shape), np.full(shape, np.nan)
    for steps, nodes in _blocks(data):
        values = data["imputation"][:, steps, nodes].values
        measured, where = observed[steps, nodes], kind[steps, nodes] >= 0
        # relative to the first value: a large mean would cost digits
        value = np.where(measured, values[0], np.nan).astype(np.float64)
        first = np.take_along_axis(value, measured.argmax(axis=0)[None], axis=0)[0]
        origin[nodes] = np.where(np.isnan(origin[nodes]), first, origin[nodes])
        value = np.nan_to_num(value - origin[nodes])
        total[nodes] += value.sum(axis=0)
        square[nodes] += (value**2).sum(axis=0)
        low, high = _quantiles(values[:, where], (0.05, 0.95))
        at = (kind[steps, nodes][where], *(np.nonzero(where)[i] for i in (1, 2)))
        np.add.at(width[:, nodes], at, high - low)
        np.add.at(count[:, nodes], at, 1)
    number = observed.sum(axis=0)
    variance = (square - total**2 / np.maximum(number, 1)) / np.maximum(number - 1, 1)
    spread = np.where((number > 1) & (variance > 0), np.sqrt(np.maximum(variance, 0)), np.nan)
    return Imputation(data, gaps, number, count, width, fill_deviation(spread))


def gap_fans(found: Imputation, channel: int = 0) -> list[Fan]:
    """Returns panels of a few gaps of a channel, from the shortest to the longest, with their surroundings.

    Args:
        found: The imputation; the panels are read from its file.
        channel: The index of the channel.
    """
    gaps = np.flatnonzero(found.gaps.channel == channel)
    length = found.gaps.length[gaps]
    ordered = np.sort(length)
    places = {0: "shortest", 0.5: "median", 0.9: "90 % are shorter", 0.99: "99 % are shorter", 1: "longest"}
    names: dict[int, str] = {}
    for share, place in places.items() if len(gaps) else ():
        size = int(ordered[round(share * (len(gaps) - 1))])
        # one panel per length: "shortest" and "longest" take precedence over the quantiles
        names[size] = place if share == 1 and size > ordered[0] else names.get(size, place)
    fans = []
    for size, place in names.items():
        same_length = gaps[length == size]
        fans.append(_fan(found, int(same_length[len(same_length) // 2]), place))
    return fans


def _fan(found: Imputation, gap: int, place: str) -> Fan:
    start, length, node, channel = (int(x[gap]) for x in found.gaps)
    around = max(12, min(length, MAX_SHOWN_STEPS) // 2)
    steps = slice(max(start - around, 0), start + min(length, MAX_SHOWN_STEPS) + around)
    selected = found.data.isel(time=steps, node=node, channel=channel)
    time, context = selected["time"].values, selected["observed"].values.astype(bool)
    if time.dtype.kind not in "Miuf":
        time = np.arange(len(time)) + steps.start
    # a panel does not extend across a jump in time
    stretch = np.cumsum(_breaks(time))
    kept = stretch == stretch[start - steps.start]
    time, context = time[kept], context[kept]
    draws = selected["imputation"].values[:, kept]
    about = f"{length:,} step{'s' * (length != 1)} from {name_of_time(found.data['time'].values[start])}"
    truth = np.where(context, draws[0], np.nan)
    levels = _quantiles(draws, LEVELS)
    name = str(selected["node"].values)
    return Fan(name, place, about, time, truth, context, np.zeros_like(context), levels)


def _quantiles(
    draws: Float[np.ndarray, "samples *entries"], levels: Sequence[float]
) -> Float[np.ndarray, "levels *entries"]:
    """Returns the quantiles of the draws: a calibrated truth lies below them with these probabilities."""
    from tsgen.metrics import calibrated_quantiles  # torchmetrics imports pyplot

    return calibrated_quantiles(torch.from_numpy(draws).sort(dim=0).values, levels).numpy()
