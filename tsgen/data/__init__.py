"""Containers for series on graphs and their windows, graph construction, and patterns of hidden entries."""

from tsgen.data.graphs import (
    from_coordinates,
    from_correlations,
    from_distances,
    from_edges,
    nearest_neighbours,
    partition,
)
from tsgen.data.masks import (
    AnyOf,
    BlockMask,
    GRINMask,
    HistoricalMask,
    Mask,
    NodeMask,
    OneOf,
    PartOf,
    PointMask,
    ValueMask,
)
from tsgen.data.series import GraphSeries, Samples, Series, SeriesBatch, SeriesSpec, Sizes, Units
from tsgen.data.stored_series import StoredSeries
from tsgen.data.subgraphs import Subgraphs

__all__ = [
    "AnyOf",
    "BlockMask",
    "GRINMask",
    "GraphSeries",
    "HistoricalMask",
    "Mask",
    "NodeMask",
    "OneOf",
    "PartOf",
    "PointMask",
    "Samples",
    "Series",
    "SeriesBatch",
    "SeriesSpec",
    "Sizes",
    "StoredSeries",
    "Subgraphs",
    "Units",
    "ValueMask",
    "from_coordinates",
    "from_correlations",
    "from_distances",
    "from_edges",
    "nearest_neighbours",
    "partition",
]
