"""The two layouts of a table of measurements: long, with one row per time and node, and wide, with one row
per time and one column per node.

Both are placed on the regular grid of the table's times, whole columns at once (numpy), never row by row.
:class:`Reading` also says which row of the table each entry of the series came from, so that a table can be
completed in its own layout.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int64
from torch_geometric.data import Data

from tsgen.data.series import GraphSeries
from tsgen.data.times import parse_times
from tsgen.readers.regular_times import Contents, check_complete, check_values, regular_grid
from tsgen.readers.tables import Columns, Table, name_list

Layout = Literal["long", "wide"]
"""The layout of a table."""


class Reading(NamedTuple):
    """The content of a table, and where each of its rows lies on the grid.

    Attributes:
        contents: The series in the table.
        columns: The columns that were read.
        layout: The layout of the table.
        step: The step of each row.
        node: The node of each row; None for a wide table.
    """

    contents: Contents
    columns: Columns
    layout: Layout
    step: Int64[np.ndarray, "rows"]
    node: Int64[np.ndarray, "rows"] | None

    def series(self, graph: Data) -> GraphSeries:
        """Returns the series on a graph.

        Args:
            graph: The graph; its nodes are those of ``contents``.
        """
        return on_graph(self.contents, graph)


def on_graph(contents: Contents, graph: Data) -> GraphSeries:
    """Returns the series of a file on a graph.

    Args:
        contents: The content of the file.
        graph: The graph; its nodes are those of ``contents``.
    """
    return GraphSeries(
        values=torch.from_numpy(contents.values),
        observed=torch.from_numpy(np.isfinite(contents.values)),
        graph=graph,
        covariates=None if contents.covariates is None else torch.from_numpy(contents.covariates),
        time=contents.time,
        nodes=contents.nodes,
        channels=contents.channels,
        units=contents.units,
        covariate_names=contents.covariate_names,
    )


def read_table(
    table: Table,
    layout: Layout | None = None,
    time_column: str | None = None,
    node_column: str | None = None,
    value_columns: list[str] | None = None,
    step: str | int | float | None = None,
) -> Reading:
    """Returns the series in a table, whose layout is recognised by its columns.

    Args:
        table: The table.
        layout: The layout; if not given, long if the table has the column of the nodes, else wide.
        time_column: The column of the times; ``time`` if not given, or the first column if there is none of
            that name.
        node_column: The column of the nodes in a long table; ``node`` if not given.
        value_columns: The columns to read, which are the nodes of a wide table; all others if not given.
        step: The step of the grid; the smallest difference between times if not given.

    Raises:
        ValueError: If something in the table is wrong: one line that says where and what to do.
    """
    if len(table.header) == 1:
        table.check_separator()
    node = node_column or "node"
    kind = layout or ("long" if node in table.header or node_column is not None else "wide")
    others = [name for name in table.header if kind == "wide" or name != node]
    guessed = time_column is None and "time" not in table.header
    time = time_column if time_column is not None else others[0] if guessed and others else "time"
    try:
        return _READERS[kind](table, Columns(time, node, value_columns, []), step)
    except ValueError as error:
        advice = ""
        if layout is None and kind == "wide" and _times_repeat(table, time):
            advice = (
                f" The table has no column {node!r} and was read as wide; if it has one row per time and "
                "node, name the column of nodes in node_column."
            )
        elif guessed and f"column {time!r}" in str(error):
            advice = (
                " The first column was taken for the times, because no column is called 'time'; name the "
                "right one in time_column."
            )
        if not advice:
            raise
        raise ValueError(f"{error}{advice}") from error


def _times_repeat(table: Table, column: str) -> bool:
    """Returns whether several rows of a table have the same time."""
    try:
        table.read([column])
        codes, labels = table.distinct(column)
    except ValueError:
        return False
    return len(labels) < len(codes)


def read_long(table: Table, columns: Columns, step: str | int | float | None = None) -> Reading:
    """Returns the series in a long table: one row per time and node, one column per quantity.

    Args:
        table: The table.
        columns: The columns to read.
        step: The step of the grid; the smallest difference between times if not given.

    Raises:
        ValueError: If something in the table is wrong: one line that says where and what to do.
    """
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
    check_values(table.path, values, channels)
    covariates = None
    if columns.covariates:
        covariates = spread(columns.covariates, "a covariate must be known at every time and node")
        check_complete(table.path, covariates, columns.covariates, time, nodes)
    contents = Contents(time, nodes, channels, values, covariates, columns.covariates)
    return Reading(contents, columns, "long", position, node)


def read_wide(table: Table, columns: Columns, step: str | int | float | None = None) -> Reading:
    """Returns the series in a wide table: one row per time, one column per node.

    Args:
        table: The table.
        columns: The columns to read; ``values`` are the nodes.
        step: The step of the grid; the smallest difference between times if not given.

    Raises:
        ValueError: If something in the table is wrong: one line that says where and what to do.
    """
    nodes = sorted(columns.values or _rest(table, [columns.time]))
    table.read([columns.time, *nodes])
    position, time = _grid(table, columns.time, step, len(nodes))
    _check_unique(table, [columns.time], position, len(time))
    values = np.full((len(time), len(nodes), 1), np.nan)
    for v, name in enumerate(nodes):
        values[position, v, 0] = table.numbers(name)
    check_values(table.path, values, [table.name])
    return Reading(Contents(time, nodes, [table.name], values, None), columns, "wide", position, None)


_READERS = {"long": read_long, "wide": read_wide}


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
