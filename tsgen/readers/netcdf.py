"""A reader of netCDF files of measurements: channels, covariates and, if the file has one, the graph.

A channel is a variable with dimensions time and node. A variable with a third dimension has one channel per
entry of that dimension. Files of :meth:`tsgen.data.GraphSeries.to_xarray` are read back completely:
``values`` where ``observed`` holds, ``covariates``, units, and the graph in ``edge_source``, ``edge_target``,
``edge_weight`` and ``position``. Errors count steps and nodes from 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Int64
from torch_geometric.data import Data

from tsgen.data.graphs import check_graph
from tsgen.data.precision import floating, floating_type
from tsgen.data.series import LARGEST, graph_in, times_in
from tsgen.data.times import distant_years, parse_times
from tsgen.readers.regular_times import (
    Contents,
    check_complete,
    check_values,
    format_time,
    regular_grid,
)
from tsgen.readers.tables import Columns, did_you_mean, first_line, name_list
from tsgen.storage.display import quoted
from tsgen.storage.netcdf import open_netcdf


def read_netcdf(path: Path, columns: Columns, step: str | int | float | None) -> Contents:
    """Returns the series in a netCDF file, and the graph if the file has one.

    Args:
        path: The file.
        columns: Names of the dimensions of times and nodes, and of the variables to read.
        step: The sampling step; the smallest difference between times if not given.

    Returns:
        The content of the file, with the nodes in the order of the file.

    Raises:
        ValueError: If something in the file is wrong: one line that says where and what to do.
    """
    data = _open_netcdf(path)
    channel_variables = _channels(path, data, columns)
    covariate_variables = _covariates(path, data, columns)
    nodes = _node_names(path, data, columns.node)
    width = len(nodes) * (len(channel_variables) + len(covariate_variables))
    position, time = _netcdf_grid(path, data, columns.time, step, width)

    def spread(variables: dict[str, xr.DataArray]) -> Float[np.ndarray, "time nodes columns"]:
        dtype = floating_type(*(variable.dtype for variable in variables.values()))
        filled = np.full((len(time), len(nodes), len(variables)), np.nan, dtype)
        for c, (name, variable) in enumerate(variables.items()):
            filled[position, :, c] = _numbers(path, name, variable.transpose(columns.time, columns.node))
        return filled

    values = spread(channel_variables)
    check_values(path, values, list(channel_variables))
    covariates = spread(covariate_variables) if covariate_variables else None
    if covariates is not None:
        check_complete(path, covariates, list(covariate_variables), time, nodes)
    return Contents(
        time=time,
        nodes=nodes,
        channels=list(channel_variables),
        values=values,
        covariates=covariates,
        covariate_names=list(covariate_variables),
        units=[str(channel.attrs.get("units", "")) for channel in channel_variables.values()],
        graph=_own_graph(path, data, len(nodes)),
    )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Converts the library's exceptions to a ``ValueError`` of one line."""
    try:
        with distant_years():
            yield
    # decoding a damaged file can raise almost anything
    except (OSError, RuntimeError, ValueError, TypeError, ArithmeticError, LookupError) as error:
        raise ValueError(f"{path} cannot be read as netCDF: {first_line(error)}.") from error


def _open_netcdf(path: Path) -> xr.Dataset:
    with _reading(path), open_netcdf(path, decode_timedelta=False) as data:
        return data.load()


def _netcdf_grid(
    path: Path, data: xr.Dataset, dimension: str, step: str | int | float | None, width: int
) -> tuple[Int64[np.ndarray, "steps"], np.ndarray]:
    """Returns the index of each step of a file on the regular grid of times, and the times of the grid."""

    def error_at(index: int, what: str) -> ValueError:
        return ValueError(f"{path}, step {index} (counted from 0), dimension {dimension!r}: {what}")

    labels = times_in(data, dimension)
    position, time = regular_grid(parse_times(labels, error_at), step, width, error_at)
    duplicated = pd.Series(position).duplicated().to_numpy()
    if duplicated.any():
        index = int(duplicated.argmax())
        raise error_at(index, f"duplicate time {format_time(time[position[index]])}. Keep one.")
    return position, time


def _node_names(path: Path, data: xr.Dataset, dimension: str) -> list[str]:
    labels = data[dimension].values
    if labels.dtype.kind not in "iuOSUT":
        raise ValueError(
            f"{path}, dimension {dimension!r}: names must be text or integers, not {labels.dtype}."
        )
    names = pd.Index([label.decode() if isinstance(label, bytes) else str(label) for label in labels])
    if names.has_duplicates:
        raise ValueError(
            f"{path}, dimension {dimension!r}: the node {quoted(names[names.duplicated()][0])} occurs twice."
        )
    return list(names)


def _channels(path: Path, data: xr.Dataset, columns: Columns) -> dict[str, xr.DataArray]:
    """Returns the channels of a dataset, each with dimensions time and node."""
    time_and_node = {columns.time, columns.node}
    fitting = {
        str(name): variable
        for name, variable in data.data_vars.items()
        if time_and_node <= set(variable.dims)
        and variable.ndim <= 3
        and variable.dtype.kind in "fiub"
        and name not in ("observed", "covariates", *columns.covariates)
    }
    if not fitting:
        available = [
            f"{name} ({', '.join(map(str, variable.dims))})" for name, variable in data.data_vars.items()
        ]
        raise ValueError(
            f"{path} has no numeric variable with dimensions {columns.time!r} and {columns.node!r}; it "
            f"has {', '.join(available[:10]) or 'none'}. Set time_column and node_column to "
            "the names of your dimensions."
        )
    if not all(data.sizes[dimension] for dimension in time_and_node):
        raise ValueError(f"{path} has no {'nodes' if data.sizes[columns.time] else 'steps'}; add the data.")
    if "values" in fitting and "observed" in data:
        extra = set(data["observed"].dims) - set(fitting["values"].dims)
        if extra:
            names = name_list([*map(str, extra)])
            raise ValueError(f"{path}: 'observed' must have the dimensions of 'values'; it has {names} too.")
        fitting["values"] = fitting["values"].where(data["observed"].astype(bool))
    if columns.values is None:
        return _split_channels(
            {"values": fitting["values"]} if "values" in fitting else fitting, time_and_node
        )
    return _chosen(path, "channel", _split_channels(fitting, time_and_node), columns.values)


def _covariates(path: Path, data: xr.Dataset, columns: Columns) -> dict[str, xr.DataArray]:
    """Returns the covariates of a dataset, each with dimensions time and node."""
    time_and_node = {columns.time, columns.node}
    own = {}
    if "covariates" in data and data["covariates"].ndim == 3 and time_and_node < set(data["covariates"].dims):
        own = _split_channels({"covariates": data["covariates"]}, time_and_node)
    if not columns.covariates:
        return own
    single = {
        str(name): variable
        for name, variable in data.data_vars.items()
        if variable.dims and set(variable.dims) <= time_and_node and variable.dtype.kind in "fiub"
    }
    sizes = {dimension: data.sizes[dimension] for dimension in time_and_node}
    return {
        name: variable.expand_dims({d: n for d, n in sizes.items() if d not in variable.dims})
        for name, variable in _chosen(path, "covariate", own | single, columns.covariates).items()
    }


def _split_channels(variables: dict[str, xr.DataArray], time_and_node: set[str]) -> dict[str, xr.DataArray]:
    """Returns variables split into channels: one per entry of a third dimension.

    A channel is named by its label on the third dimension, with the variable's name in front if there are
    several variables.
    """
    channels = {}
    for name, variable in variables.items():
        third = next((dimension for dimension in variable.dims if dimension not in time_and_node), None)
        if third is None:
            channels[name] = variable
            continue
        for i in range(variable.sizes[third]):
            channel = variable.isel({third: i})
            label = str(channel.coords[third].item()) if third in channel.coords else f"{third}_{i}"
            if "unit" in channel.coords:
                channel = channel.assign_attrs(units=str(channel.coords["unit"].item()))
            channels[label if len(variables) == 1 else f"{name}_{label}"] = channel
    return channels


def _chosen(
    path: Path, kind: str, variables: dict[str, xr.DataArray], names: list[str]
) -> dict[str, xr.DataArray]:
    """Returns the variables of these names; raises if one does not exist."""
    for name in names:
        if name not in variables:
            available = list(variables)
            hint = did_you_mean(name, available)
            raise ValueError(f"{path} has no {kind} {name!r}; it has {name_list(available) or 'none'}.{hint}")
    return {name: variables[name] for name in names}


def _numbers(path: Path, name: str, variable: xr.DataArray) -> Float[np.ndarray, "time nodes"]:
    """Returns the numbers of a variable; missing values are NaN."""
    numbers = floating(variable.values)
    too_large = np.abs(numbers) > LARGEST
    if too_large.any():
        t, v = np.unravel_index(int(too_large.argmax()), numbers.shape)
        raise ValueError(
            f"{path}, step {t} and node {v} (counted from 0), variable {name!r}: "
            f"{float(variable.values[t, v])} is infinite or beyond 3e38; use NaN for missing values."
        )
    return numbers


def _own_graph(path: Path, data: xr.Dataset, nodes: int) -> Data | None:
    """Returns the graph in a dataset, or None."""
    if not {"edge_source", "edge_target"} <= set(data.variables):
        return None
    try:
        return check_graph(graph_in(data, nodes))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
