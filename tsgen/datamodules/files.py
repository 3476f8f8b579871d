"""The data module of a user's own files: a table or a netCDF file of measurements, and a graph of the nodes.

A table (CSV, which may be compressed by gzip, or Parquet) is long: one row per time and node, one column per
quantity::

    time,node,pm25,no2
    2024-01-01T00:00,north,12.5,30
    2024-01-01T00:00,south,,41
    2024-01-01T01:00,north,11.0,28

Or, for a single quantity, wide (``layout="wide"``): one row per time, one column per node::

    time,north,south
    2024-01-01T00:00,12.5,
    2024-01-01T01:00,11.0,13.5

An empty cell or an absent row is a missing value. Times lie on a regular grid; steps without a row are
inserted, unobserved. The order of the rows does not matter: the nodes are sorted by name. The graph comes
from a second table, of edges or of coordinates; a netCDF file may contain it.

This module assembles the series and the graph; it places whole columns at once (numpy), never row by row.
:mod:`tsgen.readers.tables` reads the columns of a table, :mod:`tsgen.readers.netcdf` reads a netCDF file, and
:mod:`tsgen.readers.regular_times` finds the grid. A mistake in a file raises a ``ValueError`` of one line
that names file, row and column.
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

from tsgen.argument_types import check_arguments
from tsgen.data.graphs import (
    edge_quantity,
    from_coordinates,
    from_edges,
    nearest_neighbours,
    weighted_by_distance,
)
from tsgen.data.masks import HeldOut, Mask, PointMask, hold_out
from tsgen.data.series import GraphSeries
from tsgen.data.stored_series import StoredSeries
from tsgen.data.times import parse_times
from tsgen.datamodules.windows import SeriesDataModule, Split, split_in_time
from tsgen.readers.netcdf import read_netcdf
from tsgen.readers.regular_times import Contents, check_complete, check_values, regular_grid
from tsgen.readers.tables import (
    CSV,
    PARQUET,
    Columns,
    Table,
    checked_path,
    count_more,
    did_you_mean,
    ends_in,
    name_list,
    open_table,
)
from tsgen.storage.display import quoted

logger = logging.getLogger(__name__)


@check_arguments
class FilesDataModule(SeriesDataModule):
    """Windows of a user's own series, read from a table or a netCDF file, with a graph.

    The splits follow each other in time: training, validation, test.

    Args:
        path: The measurements. A ``.csv``, ``.csv.gz`` or ``.parquet`` table with one column of times, one of
            nodes and one per channel (or see ``layout``); or a ``.nc`` file, written by
            :meth:`tsgen.data.GraphSeries.to_xarray` or with variables of dimensions time, node and, if there
            are several channels, channel.
        edges: Table with columns ``source`` and ``target`` (or ``from`` and ``to``) and optionally ``weight``
            (positive) or ``distance``, from which a Gaussian kernel computes weights
            (:func:`~tsgen.data.graphs.weighted_by_distance`); further names are in
            :func:`~tsgen.data.graphs.edge_quantity`. An edge leads from the source to the target, which
            receives the messages.
        coordinates: Table with columns ``node`` (or the name in ``node_column``), ``latitude`` and
            ``longitude``, in degrees. Give this or ``edges``; neither if the netCDF file contains edges.
        layout: The layout of a table. ``long``: one row per time and node. ``wide``: one row per time, every
            column except that of the times is a node, and the one channel has the name of the file.
        time_column: Column (netCDF: dimension) of the times: ISO dates or numbers. Dates with a time zone
            are converted to UTC, and periods to their start. Empty for a column without a name.
        node_column: Column (netCDF: dimension) of the node names. They are text: ``007`` stays ``007``.
        value_columns: Columns (netCDF: variables or channels; wide tables: nodes) to model; by default all
            remaining columns.
        covariate_columns: Columns (netCDF: variables) known beforehand at every time and node. By default
            none; for a netCDF file its ``covariates``, if any.
        units: Unit of each value column.
        step: The sampling step, such as ``1h`` or ``15min``, or a number if times are numbers; by default
            the smallest difference between times.
        val: Fraction of the steps for validation.
        test: Fraction of the steps for the test.
        held_out: Which observed entries of validation and test are hidden and scored; by default one in four
            at random.
        undirected: Add the reverse of every edge.
        kernel_scale_km: Length scale of the Gaussian kernel of the distances between coordinates, in km; by
            default the standard deviation of the distances.
        threshold: Edges with a kernel weight below it are dropped.
        neighbours: Instead of the kernel, every node has incoming edges of weight 1 from this many nearest
            nodes.
        in_memory: Whether all of the series is held in memory. If not, each window is read from the netCDF
            file on request; :class:`~tsgen.data.StoredSeries` says which layout the file must have.
        options: Options of every data module, such as ``stride``: see
            :class:`~tsgen.datamodules.windows.SeriesDataModule`.

    Raises:
        ValueError: If options contradict each other. Mistakes in a file are reported when data is requested.
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
        step: str | int | float | None = None,
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
        if self.layout == "wide" and ends_in(self.path, (".nc",)):
            raise ValueError(f"layout is an option for tables, but {self.path} is netCDF; leave it out.")
        if self.layout == "wide" and self.columns.covariates:
            raise ValueError(
                "covariate_columns need the long layout, in which every row names its node; leave them "
                "out, or convert the table to that layout."
            )
        if not self.in_memory:
            self._check_stored()

    def _check_stored(self) -> None:
        if not ends_in(self.path, (".nc",)):
            raise ValueError(f"in_memory must be true for tables such as {self.path}. Convert it to netCDF.")
        named = {"time_column": self.columns.time != "time", "node_column": self.columns.node != "node"}
        named |= {"covariate_columns": bool(self.columns.covariates), "step": self.step is not None}
        for name, given in named.items():
            if given:
                raise ValueError(
                    f"{name} needs a series that is held in memory (in_memory); leave it out, and name and "
                    "order the dimensions of the file time, node, channel."
                )

    def _check_graph_options(self) -> None:
        if self.edges is not None and self.coordinates is not None:
            raise ValueError("edges and coordinates both define a graph; give only one of them.")
        if self.edges is None and self.coordinates is None and not ends_in(self.path, (".nc",)):
            raise ValueError(
                f"{self.path} needs a graph; give edges, a table of source and target, or "
                "coordinates, a table of node, latitude and longitude."
            )
        if self.undirected and self.edges is None:
            raise ValueError("undirected needs edges, which are not given; leave it out.")
        for name in ("kernel_scale_km", "neighbours"):
            number = getattr(self, name)
            if number is not None and self.coordinates is None:
                raise ValueError(f"{name} needs coordinates, which are not given; leave it out.")
            if number is not None and not number > 0:
                raise ValueError(f"{name} must be positive; got {number}.")
        if self.kernel_scale_km is not None and self.neighbours is not None:
            raise ValueError("kernel_scale_km and neighbours define different graphs; give only one of them.")

    def load(self) -> Split:
        """Reads the files and returns the series with its splits.

        Raises:
            ValueError: If something in a file is wrong: one line that says where and what to do.
        """
        path = checked_path(self.path, (*CSV, *PARQUET, ".nc"))
        series = self._in_memory(path) if self.in_memory else self._stored(path)
        without_edges = series.graph.num_nodes - len(series.graph.edge_index[1].unique())
        if without_edges:
            logger.warning(
                "%d of %d nodes have no incoming edges. If that is not intended, raise data.kernel_scale_km, "
                "lower data.threshold or set data.neighbours.",
                without_edges,
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
        """Returns the whole series of a file."""
        read = _read_long if self.layout == "long" else _read_wide
        contents = (read_netcdf if ends_in(path, (".nc",)) else read)(path, self.columns, self.step)
        graph = self._graph(contents.nodes) or contents.graph
        if graph is None:
            raise ValueError(
                f"{path} contains no graph; give edges, a table of source and target, or coordinates, "
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
        """Returns the series of a file whose windows are read on request."""
        return StoredSeries(path, self.columns.values, self._graph, self.units)

    def _graph(self, nodes: list[str]) -> Data | None:
        """Returns the graph of the table of edges or coordinates; None if neither is given."""
        if self.edges is not None:
            return _graph_of_edges(self.edges, nodes, self.undirected, self.threshold)
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
                f"units must have one entry per value column of {path}, {len(contents.channels)} "
                f"({name_list(contents.channels)}); got {len(self.units)}."
            )
        return self.units


# ------------------------------------------------------------------------------------------ assembly


def _read_long(path: Path, columns: Columns, step: str | int | float | None) -> Contents:
    """Returns the series in a long table."""
    table = open_table(path)
    channels = columns.values or _rest(table, columns.named)
    table.read([columns.time, columns.node, *channels, *columns.covariates])
    node, nodes = table.names(columns.node)
    width = len(nodes) * (len(channels) + len(columns.covariates))
    position, time = _grid(table, columns.time, step, width)
    place = position * len(nodes) + node
    _check_unique(table, [columns.time, columns.node], place, len(time) * len(nodes))

    def spread(names: list[str], needed: str | None = None) -> Float[np.ndarray, "time nodes columns"]:
        filled = np.full((len(time) * len(nodes), len(names)), np.nan)
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


def _read_wide(path: Path, columns: Columns, step: str | int | float | None) -> Contents:
    """Returns the series in a wide table."""
    table = open_table(path)
    nodes = sorted(columns.values or _rest(table, [columns.time]))
    table.read([columns.time, *nodes])
    position, time = _grid(table, columns.time, step, len(nodes))
    _check_unique(table, [columns.time], position, len(time))
    values = np.full((len(time), len(nodes), 1), np.nan)
    for v, name in enumerate(nodes):
        values[position, v, 0] = table.numbers(name)
    channel = path.name.split(".")[0]
    check_values(path, values, [channel])
    return Contents(time, nodes, [channel], values, None)


def _rest(table: Table, named: list[str]) -> list[str]:
    """Returns the columns of a table that no option names."""
    for name in named:
        table.check_column(name)
    known = set(named)
    rest = [name for name in table.header if name not in known]
    if "" in rest:
        raise ValueError(
            f"{table.path}: column {table.header.index('') + 1} has no name. Name it, leave it out (pandas: "
            "index=False), or list the columns to read in value_columns."
        )
    if not rest:
        raise ValueError(
            f"{table.path} has no value column besides {name_list(named)}; add one per quantity."
        )
    return rest


def _grid(
    table: Table, column: str, step: str | int | float | None, width: int
) -> tuple[Int64[np.ndarray, "rows"], np.ndarray]:
    """Returns the step of each row of a table on the regular grid of times, and the times of the grid."""
    codes, labels = table.distinct(column)

    def error_at(label: int, what: str) -> ValueError:
        return table.error_at(column, int((codes == label).argmax()), what)

    position, time = regular_grid(parse_times(labels, error_at), step, width, error_at)
    return position[codes], time


def _check_unique(table: Table, names: list[str], place: Int64[np.ndarray, "rows"], places: int) -> None:
    """Raises if two rows have the same entries in these columns, and therefore the same place."""
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


SOURCES, TARGETS = ("source", "from", "src"), ("target", "to", "dst")
"""Names of the columns of the two ends of an edge."""


def _graph_of_edges(path: str | Path, nodes: list[str], undirected: bool, threshold: float) -> Data:
    """Returns the graph in a table of edges."""
    table = open_table(path)
    ends = [_end_column(table, names) for names in (SOURCES, TARGETS)]
    quantity = _quantity(table, [name for name in table.header if name not in ends])
    table.read([*ends, *([quantity[0]] if quantity else [])])
    edges = np.stack([_numbered(table, column, nodes) for column in ends])
    weight = np.ones(edges.shape[1])
    if quantity is not None:
        weight = _positive(table, *quantity)
    _check_edges(table, ends, edges, weight, undirected)
    if quantity is not None and quantity[1]:
        edges, weight = weighted_by_distance(edges, weight.astype(np.float64), threshold)
    return from_edges(edges[0], edges[1], weight, num_nodes=len(nodes), undirected=undirected)


def _end_column(table: Table, names: tuple[str, ...]) -> str:
    """Returns the column of one end of the edges."""
    found = [name for name in table.header if name.strip().lower() in names]
    if len(found) == 1:
        return found[0]
    if not found:
        table.check_column(names[0], " Write one row per edge, not a matrix.")
    raise ValueError(f"{table.path} has the columns {name_list(found)} for one end of an edge; keep one.")


def _quantity(table: Table, columns: list[str]) -> tuple[str, bool] | None:
    """Returns the column that defines the weights, and whether it holds distances; None if there is none."""
    try:
        return edge_quantity(columns)
    except ValueError as error:
        raise ValueError(f"{table.path}: {error}") from error


def _positive(table: Table, column: str, is_distance: bool) -> Float[np.ndarray, "rows"]:
    """Returns a column of weights, which are positive, or of distances, which may be zero."""
    kind = "distance" if is_distance else "weight"
    numbers = table.numbers(column, needed=f"give every edge a finite {kind}")
    # weights are kept in float32, where 1e-50 is zero
    wrong = numbers < 0 if is_distance else numbers.astype(np.float32) <= 0
    if wrong.any():
        row = int(wrong.argmax())
        what = (
            f"a distance must not be negative; got {table.entry(column, row)}."
            if is_distance
            else f"a weight must be positive; got {table.entry(column, row)}. Delete edges of weight 0."
        )
        raise table.error_at(column, row, what)
    return numbers


def _check_edges(
    table: Table, columns: list[str], edges: np.ndarray, weight: np.ndarray, undirected: bool
) -> None:
    """Raises if an edge is listed twice, or an undirected edge both ways with different weights."""
    source, target = edges
    ends = pd.DataFrame({"source": source, "target": target, "weight": weight})
    repeated, what = ends.duplicated(["source", "target"]).to_numpy(), "listed twice"
    if undirected and not repeated.any():
        ends["low"], ends["high"] = np.minimum(source, target), np.maximum(source, target)
        repeated = (ends.duplicated(["low", "high"]) & ~ends.duplicated(["low", "high", "weight"])).to_numpy()
        what = "undirected, but listed both ways with different weights"
    if repeated.any():
        row = int(repeated.argmax())
        edge = " to ".join(table.entry(column, row) for column in columns)
        raise ValueError(
            f"{table.path}, {table.where(row)}, columns {' and '.join(map(repr, columns))}: the edge {edge} "
            f"is {what}. Keep one."
        )


def _graph_of_coordinates(
    path: str | Path,
    column: str,
    nodes: list[str],
    scale: float | None,
    threshold: float,
    neighbours: int | None,
) -> Data:
    """Returns the graph of the positions in a table; the nodes are in column ``node``, else in ``column``."""
    table = open_table(path)
    column = "node" if "node" in table.header else column
    table.read([column, "latitude", "longitude"])
    number = _numbered(table, column, nodes)
    repeated = pd.Series(number).duplicated().to_numpy()
    if repeated.any():
        row = int(repeated.argmax())
        raise table.error_at(column, row, f"the node {table.entry(column, row)} is listed twice. Keep one.")
    missing = np.isin(np.arange(len(nodes)), number, invert=True)
    if missing.any():
        name = quoted(nodes[int(missing.argmax())])
        what = f"the node {name} of the data is not listed{count_more(missing)}. Add it."
        raise table.error_at(column, None, what)
    order = np.argsort(number)
    latitude = _degrees(table, "latitude", -90, 90)[order]
    longitude = _degrees(table, "longitude", -180, 360)[order]
    if neighbours is not None:
        if neighbours >= len(nodes):
            raise ValueError(
                f"neighbours must be less than the number of nodes, {len(nodes)}; got {neighbours}."
            )
        return nearest_neighbours(latitude, longitude, neighbours)
    if scale is None and not (np.ptp(latitude) or np.ptp(longitude)):
        raise ValueError(f"{table.path}: all nodes have the same position. Set kernel_scale_km.")
    try:
        return from_coordinates(latitude, longitude, scale, threshold)
    except ValueError as error:
        raise ValueError(
            f"{table.path}: {error} The scale is kernel_scale_km; see also neighbours."
        ) from error


def _numbered(table: Table, column: str, nodes: list[str]) -> Int64[np.ndarray, "rows"]:
    """Returns for each row the index of the node that it names."""
    codes, names = table.names(column)
    number = pd.Index(nodes, dtype=object).get_indexer(pd.Index(names, dtype=object))
    if (number < 0).any():
        row = int((number[codes] < 0).argmax())
        name = names[codes[row]]
        what = f"the data has no node {quoted(name)}{count_more(number < 0)}; it has {name_list(nodes)}."
        raise table.error_at(column, row, f"{what}{did_you_mean(name, nodes)}")
    return number[codes]


def _degrees(table: Table, column: str, low: int, high: int) -> Float[np.ndarray, "rows"]:
    degrees = table.numbers(column, needed="give every node a position")
    wrong = (degrees < low) | (degrees > high)
    if wrong.any():
        row = int(wrong.argmax())
        what = f"{table.entry(column, row)} is not in {low}..{high} degrees. Are the two columns swapped?"
        raise table.error_at(column, row, what)
    return degrees.astype(np.float64)
