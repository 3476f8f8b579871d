"""A user's own data: a table or a netCDF file of measurements, and the graph between their nodes.

A table (CSV, packed by gzip or not, or Parquet) is long: one row for each time and node, one column for each
quantity::

    time,node,pm25,no2
    2024-01-01T00:00,north,12.5,30
    2024-01-01T00:00,south,,41
    2024-01-01T01:00,north,11.0,28

Or, of one quantity, wide (``layout="wide"``): one row for each time, one column for each node::

    time,north,south
    2024-01-01T00:00,12.5,
    2024-01-01T01:00,11.0,13.5

An empty cell is a missing value, and so is a row that is absent. Times lie on a regular grid; steps that no
row names are put in, unobserved. The order of the rows means nothing: the nodes are sorted by name. The graph
is a second table, of edges or of coordinates; a netCDF file may carry it itself.

Here the series is put together from what was read, and the graph from its table: columns are placed whole
(numpy), never row by row. :mod:`tsgen.readers.tables` reads a table's columns, :mod:`tsgen.readers.netcdf` a
netCDF file, and :mod:`tsgen.readers.regular_times` finds the grid. What is wrong in a file ends in a
``ValueError`` of one line that names file, row and column.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64
from torch_geometric.data import Data

from tsgen.data.graphs import from_coordinates, from_edges, nearest_neighbours
from tsgen.data.masks import HeldOut, Mask, PointMask, hold_out
from tsgen.data.series import GraphSeries
from tsgen.data.stored_series import StoredSeries
from tsgen.datamodules.windows import SeriesDataModule, Split, split_in_time
from tsgen.readers.netcdf import check_stored, read_netcdf
from tsgen.readers.regular_times import Contents, check_complete, check_values, moments, regular
from tsgen.readers.tables import (
    CSV,
    PARQUET,
    Columns,
    Table,
    checked_path,
    close,
    ends_in,
    few,
    more,
    open_table,
    shown,
)

logger = logging.getLogger(__name__)


class FilesDataModule(SeriesDataModule):
    """Windows of a user's own series: a table or a netCDF file, with a graph.

    The splits follow each other in time: training, validation, test.

    Args:
        path: The measurements. A ``.csv``, ``.csv.gz`` or ``.parquet`` table with a column of times, one of
            nodes and one for each channel (or see ``layout``); or a ``.nc`` file, either one that
            :meth:`tsgen.data.GraphSeries.to_xarray` made or any with variables of dimensions time and node,
            and perhaps a third of channels.
        edges: Table with columns ``source``, ``target`` and perhaps ``weight`` (positive). The target hears
            from the source.
        coordinates: Table with columns ``node`` (or what ``node_column`` says), ``latitude`` and
            ``longitude``, in degrees. Give this or ``edges``; neither if the netCDF file has edges of its
            own.
        layout: Of a table. ``long``: a row is a time and a node. ``wide``: a row is a time, every column but
            that of the times a node, and the one channel has the name of the file.
        time_column: Column (netCDF: dimension) of the times: ISO dates, or whole numbers. Dates with a time
            zone are converted to UTC. Empty for a column without a name.
        node_column: Column (netCDF: dimension) of the nodes' names. They are text: ``007`` stays ``007``.
        value_columns: Columns (netCDF: variables or channels; wide tables: nodes) to model; by default all
            that are left.
        covariate_columns: Columns (netCDF: variables) known beforehand at every time and node. By default
            none, or what a netCDF file has as ``covariates``.
        units: Unit of each value column.
        step: The sampling step, such as ``1h`` or ``15min``, or a whole number if times are numbers; by
            default the smallest difference between times.
        val: Share of the steps for validation.
        test: Share of the steps for the test.
        held_out: Which observed entries of validation and test are hidden and scored; by default one in four
            at random.
        undirected: Add the reverse of every edge.
        kernel_scale_km: Length of the Gaussian kernel of the distances between coordinates, in km; by
            default their standard deviation.
        threshold: Kernel weights below it make no edge.
        neighbours: Instead of the kernel, every node hears from this many nearest ones, with weight 1.
        in_memory: Whether all of the series is held in memory. If not, windows are read from the netCDF file
            when they are asked for: see :class:`~tsgen.data.StoredSeries`, which says what the file
            must look like.
        options: Those of every data module, such as ``stride``: see
            :class:`~tsgen.datamodules.windows.SeriesDataModule`.

    Raises:
        ValueError: If options contradict each other. What is wrong in a file comes once data is asked for.
    """

    def __init__(
        self,
        path: str | Path,
        edges: str | Path | None = None,
        coordinates: str | Path | None = None,
        layout: Literal["long", "wide"] = "long",
        time_column: str = "time",
        node_column: str = "node",
        value_columns: list[str] | None = None,
        covariate_columns: list[str] | None = None,
        units: list[str] | None = None,
        step: str | int | None = None,
        val: float = 0.1,
        test: float = 0.2,
        held_out: Mask | None = None,
        undirected: bool = False,
        kernel_scale_km: float | None = None,
        threshold: float = 0.1,
        neighbours: int | None = None,
        in_memory: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.path, self.edges, self.coordinates = path, edges, coordinates
        self.columns = Columns(time_column, node_column, value_columns, covariate_columns or [])
        self.layout = layout
        self.units, self.step, self.val, self.test = units, step, val, test
        self.held_out = PointMask(0.25) if held_out is None else held_out
        self.undirected, self.kernel_scale_km = undirected, kernel_scale_km
        self.threshold, self.neighbours, self.in_memory = threshold, neighbours, in_memory
        self._check_layout()
        self._check_graph_options()

    def _check_layout(self) -> None:
        if self.layout not in ("long", "wide"):
            raise ValueError(f"layout must be one of long, wide; it is {self.layout!r}.")
        if self.layout == "wide" and ends_in(self.path, (".nc",)):
            raise ValueError(f"layout goes with tables, and {self.path} is netCDF; leave it out.")
        if self.layout == "wide" and self.columns.covariates:
            raise ValueError(
                "covariate_columns go with the long layout, in which every row names its node; leave them "
                "out, or bring the table into that form."
            )
        if not self.in_memory:
            self._check_stored()

    def _check_stored(self) -> None:
        if not ends_in(self.path, (".nc",)):
            raise ValueError(f"in_memory must be true for tables; {self.path} is one. Convert it to netCDF.")
        named = {"time_column": self.columns.time != "time", "node_column": self.columns.node != "node"}
        named |= {"covariate_columns": bool(self.columns.covariates), "step": self.step is not None}
        for name, given in named.items():
            if given:
                raise ValueError(
                    f"{name} goes with series that are held in memory; leave it out, and name and order the "
                    "file's dimensions time, node and channel."
                )

    def _check_graph_options(self) -> None:
        if self.edges is not None and self.coordinates is not None:
            raise ValueError("edges and coordinates both make a graph; give one of them.")
        if self.edges is None and self.coordinates is None and not ends_in(self.path, (".nc",)):
            raise ValueError(
                f"{self.path} must come with a graph; give edges, a table of source and target, or "
                "coordinates, a table of node, latitude and longitude."
            )
        if self.undirected and self.edges is None:
            raise ValueError("undirected goes with edges, which are not given; leave it out.")
        for name in ("kernel_scale_km", "neighbours"):
            number = getattr(self, name)
            if number is not None and self.coordinates is None:
                raise ValueError(f"{name} goes with coordinates, which are not given; leave it out.")
            if number is not None and not number > 0:
                raise ValueError(f"{name} must be positive; it is {number}.")
        if self.kernel_scale_km is not None and self.neighbours is not None:
            raise ValueError("kernel_scale_km and neighbours make different graphs; give one of them.")

    def load(self) -> Split:
        """Reads the files.

        Raises:
            ValueError: If something in a file is wrong: one line that says where, and what to do.
        """
        path = checked_path(self.path, (*CSV, *PARQUET, ".nc"))
        series = self._in_memory(path) if self.in_memory else self._stored(path)
        deaf = series.graph.num_nodes - len(series.graph.edge_index[1].unique())
        if deaf:
            logger.warning(
                "%d of %d nodes hear from no other. If that is not meant, raise data.kernel_scale_km, lower "
                "data.threshold or set data.neighbours.",
                deaf,
                series.graph.num_nodes,
            )
        train, val, test = split_in_time(len(series), self.val, self.test)
        if not self.in_memory:
            return Split(series, train, val, test, HeldOut(self.held_out, self.seed))
        held_out = hold_out(self.held_out, series.values, series.observed, self.seed)
        for stretch in train:
            held_out[stretch] = False
        return Split(series, train, val, test, held_out)

    def _in_memory(self, path: Path) -> GraphSeries:
        """All of the file."""
        read = _read_long if self.layout == "long" else _read_wide
        contents = (read_netcdf if ends_in(path, (".nc",)) else read)(path, self.columns, self.step)
        graph = self._graph(contents.nodes) or contents.graph
        if graph is None:
            raise ValueError(
                f"{path} has no graph of its own; give edges, a table of source and target, or coordinates, "
                "a table of node, latitude and longitude."
            )
        return GraphSeries(
            values=torch.from_numpy(contents.values),
            observed=torch.from_numpy(np.isfinite(contents.values)),
            graph=graph,
            covariates=None if contents.covariates is None else torch.from_numpy(contents.covariates),
            time=contents.time,
            nodes=contents.nodes,
            channels=contents.channels,
            units=self._units(path, contents),
            covariate_names=contents.covariate_names,
        )

    def _stored(self, path: Path) -> StoredSeries:
        """What windows are read from."""
        check_stored(path)
        return StoredSeries(path, self.columns.values, self._graph, self.units)

    def _graph(self, nodes: list[str]) -> Data | None:
        """The graph of the table of edges or coordinates, if there is one."""
        if self.edges is not None:
            return _graph_of_edges(self.edges, nodes, self.undirected)
        if self.coordinates is None:
            return None
        return _graph_of_coordinates(
            self.coordinates,
            self.columns.node,
            nodes,
            self.kernel_scale_km,
            self.threshold,
            self.neighbours,
        )

    def _units(self, path: Path, contents: Contents) -> Sequence[str]:
        if self.units is None:
            return contents.units
        if len(self.units) != len(contents.channels):
            raise ValueError(
                f"units must be as many as the value columns of {path}, {len(contents.channels)} "
                f"({few(contents.channels)}); there are {len(self.units)}."
            )
        return self.units


# ------------------------------------------------------------------------------------------ assembly


def _read_long(path: Path, columns: Columns, step: str | int | None) -> Contents:
    """The series in a long table."""
    table = open_table(path)
    channels = columns.values or _rest(table, columns.named)
    table.read([columns.time, columns.node, *channels, *columns.covariates])
    node, nodes = table.names(columns.node)
    width = len(nodes) * (len(channels) + len(columns.covariates))
    position, time = _grid(table, columns.time, step, width)
    place = position * len(nodes) + node
    _check_unique(table, [columns.time, columns.node], place, len(time) * len(nodes))

    def spread(names: list[str], needed: str | None = None) -> Float[np.ndarray, "time nodes columns"]:
        filled = np.full((len(time) * len(nodes), len(names)), np.nan, dtype=np.float32)
        for c, name in enumerate(names):
            filled[place, c] = table.numbers(name, needed)
        return filled.reshape(len(time), len(nodes), len(names))

    values = spread(channels)
    check_values(path, values, channels)
    covariates = None
    if columns.covariates:
        covariates = spread(columns.covariates, "a covariate must be known at every time and node")
        check_complete(path, covariates, columns.covariates, time, nodes)
    return Contents(time, nodes, channels, values, covariates, columns.covariates)


def _read_wide(path: Path, columns: Columns, step: str | int | None) -> Contents:
    """The series in a wide table."""
    table = open_table(path)
    nodes = sorted(columns.values or _rest(table, [columns.time]))
    table.read([columns.time, *nodes])
    position, time = _grid(table, columns.time, step, len(nodes))
    _check_unique(table, [columns.time], position, len(time))
    values = np.full((len(time), len(nodes), 1), np.nan, dtype=np.float32)
    for v, name in enumerate(nodes):
        values[position, v, 0] = table.numbers(name)
    channel = path.name.split(".")[0]
    check_values(path, values, [channel])
    return Contents(time, nodes, [channel], values, None)


def _rest(table: Table, named: list[str]) -> list[str]:
    """The columns of a table that are not named as something else."""
    for name in named:
        table.check_column(name)
    rest = [name for name in table.header if name not in named]
    if "" in rest:
        raise ValueError(
            f"{table.path}: column {table.header.index('') + 1} has no name. Name it, leave it out (pandas: "
            "index=False), or say with value_columns what to read."
        )
    if not rest:
        raise ValueError(f"{table.path} has no value column beside {few(named)}; add one for each quantity.")
    return rest


def _grid(
    table: Table, column: str, step: str | int | None, width: int
) -> tuple[Int64[np.ndarray, "rows"], np.ndarray]:
    """For each row of a table its step on the regular grid of times, and the times of the grid."""
    codes, labels = table.distinct(column)

    def fault(label: int, what: str) -> ValueError:
        return table.fault(column, int((codes == label).argmax()), what)

    position, time = regular(moments(labels, fault), step, width, fault)
    return position[codes], time


def _check_unique(table: Table, names: list[str], place: Int64[np.ndarray, "rows"], places: int) -> None:
    """Raises if two rows have the same entries in these columns, and so the same place."""
    taken = np.zeros(places, dtype=bool)
    taken[place] = True
    if np.count_nonzero(taken) < len(place):
        second = int(pd.Series(place).duplicated().to_numpy().argmax())
        first = int((place == place[second]).argmax())
        entries = " and ".join(table.entry(name, second) for name in names)
        columns = f"column{'s' * (len(names) > 1)} {' and '.join(map(repr, names))}"
        raise ValueError(
            f"{table.path}, {table.where(second)}, {columns}: duplicate row for {entries}, which "
            f"{table.where(first)} has too. Keep one."
        )


# -------------------------------------------------------------------------------------------- graphs


def _graph_of_edges(path: str | Path, nodes: list[str], undirected: bool) -> Data:
    """The graph in a table of edges."""
    table = open_table(path)
    weighted = "weight" in table.header
    table.read(["source", "target"] + ["weight"] * weighted)
    source, target = _numbered(table, "source", nodes), _numbered(table, "target", nodes)
    weight = np.ones(len(source), dtype=np.float32)
    if weighted:
        weight = table.numbers("weight", needed="give every edge a finite weight")
    if not (weight > 0).all():
        row = int((weight <= 0).argmax())
        what = f"a weight must be positive; it is {table.entry('weight', row)}. Delete edges of weight 0."
        raise table.fault("weight", row, what)
    _check_edges(table, source, target, weight, undirected)
    return from_edges(source, target, weight, num_nodes=len(nodes), undirected=undirected)


def _check_edges(
    table: Table, source: np.ndarray, target: np.ndarray, weight: np.ndarray, undirected: bool
) -> None:
    """Raises if an edge is listed twice, or both ways in different weights where it has no direction."""
    ends = pd.DataFrame({"source": source, "target": target, "weight": weight})
    twice, what = ends.duplicated(["source", "target"]).to_numpy(), "listed twice"
    if undirected and not twice.any():
        ends["low"], ends["high"] = np.minimum(source, target), np.maximum(source, target)
        twice = (ends.duplicated(["low", "high"]) & ~ends.duplicated(["low", "high", "weight"])).to_numpy()
        what = "undirected, but listed both ways with different weights"
    if twice.any():
        row = int(twice.argmax())
        edge = f"{table.entry('source', row)} to {table.entry('target', row)}"
        raise ValueError(
            f"{table.path}, {table.where(row)}, columns 'source' and 'target': the edge {edge} is {what}. "
            "Keep one."
        )


def _graph_of_coordinates(
    path: str | Path,
    column: str,
    nodes: list[str],
    scale: float | None,
    threshold: float,
    neighbours: int | None,
) -> Data:
    """The graph of the nodes' positions in a table, in which they stand in the column ``node`` or another."""
    table = open_table(path)
    column = "node" if "node" in table.header else column
    table.read([column, "latitude", "longitude"])
    number = _numbered(table, column, nodes)
    twice = pd.Series(number).duplicated().to_numpy()
    if twice.any():
        row = int(twice.argmax())
        raise table.fault(column, row, f"the node {table.entry(column, row)} is listed twice. Keep one.")
    missing = np.isin(np.arange(len(nodes)), number, invert=True)
    if missing.any():
        name = shown(nodes[int(missing.argmax())])
        what = f"{name}, which the data has, is not listed{more(missing)}. Add it."
        raise table.fault(column, None, what)
    order = np.argsort(number)
    latitude = _degrees(table, "latitude", -90, 90)[order]
    longitude = _degrees(table, "longitude", -180, 360)[order]
    if neighbours is not None:
        if neighbours >= len(nodes):
            raise ValueError(
                f"neighbours must be less than the number of nodes, {len(nodes)}; it is {neighbours}."
            )
        return nearest_neighbours(latitude, longitude, neighbours)
    if scale is None and not (np.ptp(latitude) or np.ptp(longitude)):
        raise ValueError(f"{table.path}: all nodes lie at one place. Give the kernel its kernel_scale_km.")
    return from_coordinates(latitude, longitude, scale, threshold)


def _numbered(table: Table, column: str, nodes: list[str]) -> Int64[np.ndarray, "rows"]:
    """For each row the number of the node that it names."""
    codes, names = table.names(column)
    number = pd.Index(nodes, dtype=object).get_indexer(pd.Index(names, dtype=object))
    if (number < 0).any():
        row = int((number[codes] < 0).argmax())
        name = names[codes[row]]
        what = f"the data has no node {shown(name)}{more(number < 0)}; it has {few(nodes)}."
        raise table.fault(column, row, f"{what}{close(name, nodes)}")
    return number[codes]


def _degrees(table: Table, column: str, low: int, high: int) -> Float[np.ndarray, "rows"]:
    degrees = table.numbers(column, needed="give every node its place")
    wrong = (degrees < low) | (degrees > high)
    if wrong.any():
        row = int(wrong.argmax())
        what = f"{table.entry(column, row)} is not in {low}..{high} degrees. Are the two columns swapped?"
        raise table.fault(column, row, what)
    return degrees.astype(np.float64)
