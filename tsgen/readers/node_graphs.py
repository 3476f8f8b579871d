"""The graph of the nodes of a series, from a table of edges or a table of coordinates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64
from torch_geometric.data import Data

from tsgen.data.graphs import (
    edge_quantity,
    from_coordinates,
    from_edges,
    nearest_neighbours,
    weighted_by_distance,
)
from tsgen.readers.tables import Table, count_more, did_you_mean, name_list, open_table
from tsgen.storage.display import quoted

SOURCES, TARGETS = ("source", "from", "src"), ("target", "to", "dst")
"""Names of the columns of the two ends of an edge."""


def graph_of_edges(
    source: str | Path | pd.DataFrame, nodes: list[str], undirected: bool = False, threshold: float = 0.1
) -> Data:
    """Returns the graph in a table of edges.

    Args:
        source: The table, with columns as :class:`~tsgen.datamodules.FilesDataModule` describes them.
        nodes: Names of the nodes of the series, in their order.
        undirected: Whether to add the reverse of every edge.
        threshold: Edges with a kernel weight below it are dropped.

    Raises:
        ValueError: If something in the table is wrong: one line that says where and what to do.
    """
    table = open_table(source, "the frame of edges")
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


def graph_of_coordinates(
    source: str | Path | pd.DataFrame,
    column: str | None,
    nodes: list[str],
    scale: float | None = None,
    threshold: float = 0.1,
    neighbours: int | None = None,
) -> Data:
    """Returns the graph of the positions in a table.

    Args:
        source: The table, with columns ``latitude`` and ``longitude``.
        column: The column of the node names if there is no column ``node``; if not given, the one column
            besides ``latitude`` and ``longitude``.
        nodes: Names of the nodes of the series, in their order.
        scale: Length scale of the kernel, in km.
        threshold: Edges with a kernel weight below it are dropped.
        neighbours: Instead of the kernel, the number of nearest nodes from which a node has edges.

    Raises:
        ValueError: If something in the table is wrong: one line that says where and what to do.
    """
    table = open_table(source, "the frame of coordinates")
    others = [name for name in table.header if name not in ("latitude", "longitude")]
    if "node" in table.header:
        column = "node"
    elif column is None:
        column = others[0] if len(others) == 1 else "node"
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
