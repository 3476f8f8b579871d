"""A netCDF file of measurements: the channels, the covariates and the graph that it may carry.

A channel is a variable with dimensions time and node, or an entry of a third dimension that a variable has
besides. What :meth:`tsgen.data.GraphSeries.to_xarray` made is read back whole: ``values`` where
``observed`` holds, ``covariates``, units, and the graph in ``edge_source``, ``edge_target``, ``edge_weight``
and ``position``. Steps and nodes in errors are counted from 0.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import netCDF4
import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, Int64
from torch_geometric.data import Data

from tsgen.data.graphs import check_graph
from tsgen.data.series import graph_in, times_in
from tsgen.readers.hdf5 import OBJECT, check_contents, check_heaps
from tsgen.readers.regular_times import Contents, check_complete, check_values, moment, moments, regular
from tsgen.readers.tables import Columns, close, few, first_line, shown
from tsgen.readers.unpacking import check_unpacked


def read_netcdf(path: Path, columns: Columns, step: str | int | None) -> Contents:
    """The series in a netCDF file, and the graph if it has one.

    Args:
        path: The file.
        columns: Which dimensions are times and nodes, and which variables to read.
        step: The sampling step; the smallest difference between times if not given.

    Returns:
        What the file holds, the nodes in its own order.

    Raises:
        ValueError: If something in the file is wrong: one line that says where, and what to do.
    """
    data = _open_netcdf(path)
    found = _channels(path, data, columns)
    known = _covariates(path, data, columns)
    nodes = _node_names(path, data, columns.node)
    width = len(nodes) * (len(found) + len(known))
    position, time = _netcdf_grid(path, data, columns.time, step, width)

    def spread(variables: dict[str, xr.DataArray]) -> Float[np.ndarray, "time nodes columns"]:
        filled = np.full((len(time), len(nodes), len(variables)), np.nan, dtype=np.float32)
        for c, (name, variable) in enumerate(variables.items()):
            filled[position, :, c] = _numbers(path, name, variable.transpose(columns.time, columns.node))
        return filled

    values = spread(found)
    check_values(path, values, list(found))
    covariates = spread(known) if known else None
    if covariates is not None:
        check_complete(path, covariates, list(known), time, nodes)
    return Contents(
        time=time,
        nodes=nodes,
        channels=list(found),
        values=values,
        covariates=covariates,
        covariate_names=list(known),
        units=[str(channel.attrs.get("units", "")) for channel in found.values()],
        graph=_own_graph(path, data, len(nodes)),
    )


def check_stored(path: Path) -> None:
    """Raises unless windows can be read from a file: its labels are in order, and it is not too large.

    Args:
        path: The file; what has times and nodes may be of any size.

    Raises:
        ValueError: In one line.
    """
    with _reading(path):
        _check_variables(path, check_heaps(path), read_later=("time", "node"))
        with xr.open_dataset(path, engine="netcdf4", cache=False, decode_timedelta=False) as data:
            if not all(data.sizes.get(name, 1) for name in ("time", "node", "channel")):
                raise ValueError("it has no steps, no nodes or no channels")
            if "time" in data.variables and data["time"].dtype.kind not in "iufM":
                raise ValueError("its times must be numbers, or dates of the standard calendar")
            if "node" in data.variables and data["node"].to_series().duplicated().any():
                raise ValueError("a node comes twice")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns what the library raises into a ``ValueError`` of one line."""
    try:
        yield
    # what decoding a broken file raises is anyone's guess
    except (OSError, RuntimeError, ValueError, TypeError, ArithmeticError, LookupError) as error:
        raise ValueError(f"{path} cannot be read as netCDF: {first_line(error)}.") from error


def _open_netcdf(path: Path) -> xr.Dataset:
    with _reading(path):
        _check_variables(path, check_contents(path))
        return xr.load_dataset(path, engine="netcdf4", decode_timedelta=False)


def _check_variables(path: Path, largest: int, read_later: Collection[str] = ()) -> None:
    """Raises ``ValueError`` if a file announces more numbers than are held in memory.

    Args:
        path: The file, of netCDF 3 or 4.
        largest: The bytes of its largest text, at most.
        read_later: Dimensions; what has all of them is not counted.
    """
    total = 0
    with netCDF4.Dataset(path) as file:
        for variable in file.variables.values():
            if not read_later or not set(read_later) <= set(variable.dimensions):
                each = OBJECT + largest if variable.dtype is str else variable.dtype.itemsize
                total += math.prod(variable.shape) * each
    check_unpacked(path, total)


def _netcdf_grid(
    path: Path, data: xr.Dataset, dimension: str, step: str | int | None, width: int
) -> tuple[Int64[np.ndarray, "steps"], np.ndarray]:
    """For each step of a file its place on the regular grid of times, and the times of the grid."""

    def fault(index: int, what: str) -> ValueError:
        return ValueError(f"{path}, step {index} (counted from 0), dimension {dimension!r}: {what}")

    labels = times_in(data, dimension)
    position, time = regular(moments(labels, fault), step, width, fault)
    twice = pd.Series(position).duplicated().to_numpy()
    if twice.any():
        index = int(twice.argmax())
        raise fault(index, f"duplicate time {moment(time[position[index]])}. Keep one.")
    return position, time


def _node_names(path: Path, data: xr.Dataset, dimension: str) -> list[str]:
    labels = data[dimension].values
    if labels.dtype.kind not in "iuOSUT":
        raise ValueError(
            f"{path}, dimension {dimension!r}: names must be text or whole numbers, not {labels.dtype}."
        )
    names = pd.Index([label.decode() if isinstance(label, bytes) else str(label) for label in labels])
    if names.has_duplicates:
        raise ValueError(
            f"{path}, dimension {dimension!r}: the node {shown(names[names.duplicated()][0])} comes twice."
        )
    return list(names)


def _channels(path: Path, data: xr.Dataset, columns: Columns) -> dict[str, xr.DataArray]:
    """The channels of a dataset, each with dimensions time and node."""
    plane = {columns.time, columns.node}
    fitting = {
        str(name): variable
        for name, variable in data.data_vars.items()
        if plane <= set(variable.dims)
        and variable.ndim <= 3
        and variable.dtype.kind in "fiub"
        and name not in ("observed", "covariates", *columns.covariates)
    }
    if not fitting:
        there = [
            f"{name} ({', '.join(map(str, variable.dims))})" for name, variable in data.data_vars.items()
        ]
        raise ValueError(
            f"{path} has no variable of numbers with dimensions {columns.time!r} and {columns.node!r}; it "
            f"has {', '.join(there[:10]) or 'none'}. Tell with time_column and node_column what yours are."
        )
    if not all(data.sizes[dimension] for dimension in plane):
        raise ValueError(f"{path} has no {'nodes' if data.sizes[columns.time] else 'steps'}; add the data.")
    if "values" in fitting and "observed" in data:
        other = set(data["observed"].dims) - set(fitting["values"].dims)
        if other:
            told = few([*map(str, other)])
            raise ValueError(f"{path}: 'observed' must have the dimensions of 'values'; it has {told} too.")
        fitting["values"] = fitting["values"].where(data["observed"].astype(bool))
    if columns.values is None:
        return _apart({"values": fitting["values"]} if "values" in fitting else fitting, plane)
    return _chosen(path, "channel", _apart(fitting, plane), columns.values)


def _covariates(path: Path, data: xr.Dataset, columns: Columns) -> dict[str, xr.DataArray]:
    """The covariates of a dataset, each with dimensions time and node."""
    plane = {columns.time, columns.node}
    own = {}
    if "covariates" in data and data["covariates"].ndim == 3 and plane < set(data["covariates"].dims):
        own = _apart({"covariates": data["covariates"]}, plane)
    if not columns.covariates:
        return own
    single = {
        str(name): variable
        for name, variable in data.data_vars.items()
        if variable.dims and set(variable.dims) <= plane and variable.dtype.kind in "fiub"
    }
    sizes = {dimension: data.sizes[dimension] for dimension in plane}
    return {
        name: variable.expand_dims({d: n for d, n in sizes.items() if d not in variable.dims})
        for name, variable in _chosen(path, "covariate", own | single, columns.covariates).items()
    }


def _apart(variables: dict[str, xr.DataArray], plane: set[str]) -> dict[str, xr.DataArray]:
    """The channels that variables consist of, named by label; by variable too if there are several."""
    found = {}
    for name, variable in variables.items():
        third = next((dimension for dimension in variable.dims if dimension not in plane), None)
        if third is None:
            found[name] = variable
            continue
        for i in range(variable.sizes[third]):
            channel = variable.isel({third: i})
            label = str(channel.coords[third].item()) if third in channel.coords else f"{third}_{i}"
            if "unit" in channel.coords:
                channel = channel.assign_attrs(units=str(channel.coords["unit"].item()))
            found[label if len(variables) == 1 else f"{name}_{label}"] = channel
    return found


def _chosen(
    path: Path, kind: str, variables: dict[str, xr.DataArray], names: list[str]
) -> dict[str, xr.DataArray]:
    for name in names:
        if name not in variables:
            there = list(variables)
            hint = close(name, there)
            raise ValueError(f"{path} has no {kind} {name!r}; it has {few(there) or 'none'}.{hint}")
    return {name: variables[name] for name in names}


def _numbers(path: Path, name: str, variable: xr.DataArray) -> Float[np.ndarray, "time nodes"]:
    """A variable's numbers, NaN where there is none."""
    with np.errstate(over="ignore"):
        numbers = variable.values.astype(np.float32)
    if np.isinf(numbers).any():
        t, v = np.unravel_index(int(np.isinf(numbers).argmax()), numbers.shape)
        raise ValueError(
            f"{path}, step {t} and node {v} (counted from 0), variable {name!r}: "
            f"{float(variable.values[t, v])} is infinite or beyond 3e38; use NaN for missing values."
        )
    return numbers


def _own_graph(path: Path, data: xr.Dataset, nodes: int) -> Data | None:
    """The graph that a dataset carries, if it carries one."""
    if not {"edge_source", "edge_target"} <= set(data.variables):
        return None
    try:
        return check_graph(graph_in(data, nodes))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
