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

:mod:`tsgen.readers.layouts` reads the series in a table, :mod:`tsgen.readers.netcdf` that in a netCDF file,
and :mod:`tsgen.readers.node_graphs` the graph. A mistake in a file raises a ``ValueError`` of one line that
names file, row and column.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch_geometric.data import Data

from tsgen.argument_types import check_arguments
from tsgen.data.masks import HeldOut, Mask, PointMask, hold_out
from tsgen.data.series import GraphSeries
from tsgen.data.stored_series import StoredSeries
from tsgen.datamodules.windows import SeriesDataModule, Split, split_in_time
from tsgen.readers.layouts import Layout, on_graph, read_long, read_wide
from tsgen.readers.netcdf import read_netcdf
from tsgen.readers.node_graphs import graph_of_coordinates, graph_of_edges
from tsgen.readers.regular_times import Contents
from tsgen.readers.tables import CSV, PARQUET, Columns, checked_path, ends_in, name_list, open_table

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
        layout: Layout = "long",
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
        contents = self._contents(path)
        graph = self._graph(contents.nodes) or contents.graph
        if graph is None:
            raise ValueError(
                f"{path} contains no graph; give edges, a table of source and target, or coordinates, "
                "a table of node, latitude and longitude."
            )
        return on_graph(contents._replace(units=self._units(path, contents)), graph)

    def _contents(self, path: Path) -> Contents:
        """Returns the content of a file."""
        if ends_in(path, (".nc",)):
            return read_netcdf(path, self.columns, self.step)
        read = read_long if self.layout == "long" else read_wide
        return read(open_table(path), self.columns, self.step).contents

    def _stored(self, path: Path) -> StoredSeries:
        """Returns the series of a file whose windows are read on request."""
        return StoredSeries(path, self.columns.values, self._graph, self.units)

    def _graph(self, nodes: list[str]) -> Data | None:
        """Returns the graph of the table of edges or coordinates; None if neither is given."""
        if self.edges is not None:
            return graph_of_edges(self.edges, nodes, self.undirected, self.threshold)
        if self.coordinates is None:
            return None
        return graph_of_coordinates(
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
