r"""The containers that are passed between all other modules.

* :class:`GraphSeries`: a whole series on a graph with its labels, in data units.
* :class:`SeriesBatch`: windows cut from a series, with two masks. ``context``: the model may read this entry.
  ``target``: the truth of this entry is known and it is scored. The two masks express every task: imputation,
  forecasting and generation.
* :class:`SeriesSpec`: what a model needs to know about its data when it is built: sizes, units, the graph.
* :class:`Samples`: draws returned by a sampler.

Axes always run sample, batch, time, node, channel. Each container is checked once, when it is built.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch_geometric.data import Data

from tsgen.argument_types import check_arguments, check_shapes
from tsgen.data.graphs import check_graph, node_numbers, same_graph
from tsgen.data.moments import RunningMoments
from tsgen.data.precision import floating
from tsgen.data.subgraphs import Subgraph
from tsgen.data.times import check_regular, parse_times
from tsgen.data.transforms import Transform, Transforms
from tsgen.storage.display import printable

logger = logging.getLogger(__name__)


def _check_tensor(
    name: str, x: Any, kind: Literal["float", "bool"], axes: str, shape: tuple | None = None
) -> None:
    """Raises unless x is a tensor of this kind, with these axes and (where not None) these sizes."""
    fits = isinstance(x, Tensor) and (x.is_floating_point() if kind == "float" else x.dtype == torch.bool)
    if not fits:
        given = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"{name} must be a {kind} tensor; it is {given}. Use torch.as_tensor(..., dtype=...)."
        )
    wanted = shape or (None,) * len(axes.split())
    if x.dim() != len(wanted) or any(w is not None and w != s for s, w in zip(x.shape, wanted, strict=True)):
        sizes = ", ".join(str(w or a) for w, a in zip(wanted, axes.split(), strict=True))
        raise ValueError(f"{name} must have axes [{axes}] of sizes [{sizes}]; its shape is {list(x.shape)}.")


LARGEST = torch.finfo(torch.float32).max
"""The largest magnitude of a value, about 3.4e38, so that squares and their sums are finite in float64."""


def _check_finite(name: str, x: Tensor, where: Tensor, mask_name: str) -> None:
    invalid = where & ~(x.abs() <= LARGEST)
    if invalid.any():
        index = [int(i) for i in invalid.nonzero()[0]]
        raise ValueError(
            f"{name} must be finite wherever {mask_name} is True, and below 3e38 in magnitude; at {index} it "
            f"is {float(x[tuple(index)])} ({int(invalid.sum())} such entries). Set {mask_name} to False "
            "where nothing was measured."
        )


class Sizes(NamedTuple):
    """The sizes of a slice.

    Attributes:
        nodes: The number of nodes.
        channels: The number of channels per node.
        covariates: The number of covariates per node.
    """

    nodes: int
    channels: int
    covariates: int = 0


REPLICATE_BITS = 40
"""Addresses of windows hold the number of the copy above this many bits, and the position below."""

CHUNK_NUMBERS = 2**22
"""The maximum number of values and covariates in a chunk of :meth:`Series.chunks`."""


@check_shapes
class Series(ABC):
    """A whole multivariate series on a graph with its labels, in data units.

    The base class of :class:`GraphSeries`, which is held in memory, and of
    :class:`~tsgen.data.stored_series.StoredSeries`, which is read from a file. Code that takes a series
    accepts both.

    Attributes:
        graph: The graph, with nodes in the order of the node axis.
        time: Label of each step, dates or numbers, strictly increasing and regular.
        nodes: Name of each node.
        channels: Name of each channel.
        units: Unit of each channel; an empty string for a channel without unit.
        covariate_names: Name of each covariate.
    """

    graph: Data
    time: np.ndarray | pd.Index | Sequence
    nodes: Sequence[str]
    channels: Sequence[str]
    units: Sequence[str]
    covariate_names: Sequence[str]

    def __len__(self) -> int:
        """Returns the number of steps."""
        return len(self.time)

    @property
    def sizes(self) -> Sizes:
        """The numbers of nodes, channels and covariates."""
        return Sizes(len(self.nodes), len(self.channels), len(self.covariate_names))

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The precision of the values."""

    @abstractmethod
    def chunk(self, steps: slice) -> GraphSeries:
        """Returns consecutive steps of the series, held in memory.

        Args:
            steps: Which steps.
        """

    @abstractmethod
    def with_observed(self, observed: Bool[Tensor, "time nodes channels"]) -> Series:
        """Returns the same series with another mask of what was observed.

        Use it to hide measurements, as in virtual sensing. Values are shared, not copied.

        Args:
            observed: Which entries count as observed. A value must exist at each of them.

        Raises:
            ValueError: If the mask has another shape, or is True where there is no value. A series in a file
                raises this when it reads that entry.
        """

    @abstractmethod
    def _gathered(self, position: Tensor, nodes: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns values, the observed mask and covariates at these steps and nodes."""

    def chunks(self, stretches: Sequence[slice] | None = None) -> Iterator[GraphSeries]:
        """Iterates over the series, or over some stretches of it, in chunks of bounded size.

        Args:
            stretches: Which steps; all if not given.
        """
        nodes, channels, covariates = self.sizes
        size = max(1, CHUNK_NUMBERS // max(1, nodes * (channels + covariates)))
        for stretch in [slice(None)] if stretches is None else stretches:
            start, stop, _ = stretch.indices(len(self))
            for first in range(start, stop, size):
                yield self.chunk(slice(first, min(first + size, stop)))

    def labels(self) -> xr.Dataset:
        """Returns the labels and the graph, as a list of edges, in a dataset without the values."""
        data = xr.Dataset(
            {
                "edge_source": ("edge", self.graph.edge_index[0].numpy()),
                "edge_target": ("edge", self.graph.edge_index[1].numpy()),
                "edge_weight": ("edge", self.graph.edge_weight.numpy()),
            },
            coords={
                "time": self.time,
                "node": list(self.nodes),
                "channel": list(self.channels),
                "unit": ("channel", list(self.units)),
            },
        )
        if len(self.covariate_names):
            data = data.assign_coords(covariate=list(self.covariate_names))
        if self.graph.pos is not None:
            data["position"] = (("node", "axis"), self.graph.pos.numpy())
        return data

    def to_xarray(self) -> xr.Dataset:
        """Returns the series as a labelled dataset; values are NaN where nothing was observed."""
        axes, series = ("time", "node", "channel"), self.chunk(slice(None))
        data = self.labels()
        data["values"] = (axes, series.values.where(series.observed, torch.nan).numpy())
        data["observed"] = (axes, series.observed.numpy())
        if series.covariates is not None:
            data["covariates"] = (("time", "node", "covariate"), series.covariates.numpy())
        return data

    def windows(
        self, starts: Int64[Tensor, "batch"], window: int, subgraph: Subgraph | None = None
    ) -> SeriesBatch:
        """Returns windows in which everything observed is context and nothing is target.

        Args:
            starts: First step of each window.
            window: Length of a window, in steps.
            subgraph: The nodes to cut out; all nodes if not given.
        """
        position = self._position(starts, window)
        nodes, graph = (None, self.graph) if subgraph is None else (subgraph.nodes, subgraph.graph)
        values, observed, covariates = self._gathered(position, nodes)
        return SeriesBatch(
            values=values,
            context=observed,
            target=torch.zeros_like(observed),
            graph=graph,
            position=position,
            covariates=covariates,
            nodes=nodes,
        )

    def observed_in(
        self, starts: Int64[Tensor, "batch"], window: int, nodes: Int64[Tensor, "nodes"] | None = None
    ) -> Bool[Tensor, "batch time nodes channels"]:
        """Returns the observed mask of some windows.

        Args:
            starts: First step of each window.
            window: Length of a window, in steps.
            nodes: Numbers of the nodes; all nodes if not given.
        """
        return self._gathered(self._position(starts, window), nodes)[1]

    def _position(self, starts: Int64[Tensor, "batch"], window: int) -> Int64[Tensor, "batch time"]:
        """Returns the number of each step of some windows; raises unless all lie within the series."""
        if window < 1:
            raise ValueError(f"window must be at least 1; it is {window}.")
        if len(starts) and (starts.min() < 0 or starts.max() > len(self) - window):
            raise ValueError(
                f"starts must be numbers from 0 to {len(self) - window}, for windows of {window} steps of a "
                f"series of {len(self)}; they are {starts.tolist()!s:.60}."
            )
        return starts[:, None] + torch.arange(window)


@check_arguments
@dataclass
class GraphSeries(Series):
    """A whole multivariate series on a graph with its labels, in memory and in data units.

    Args:
        values: Measurements; anything, NaN included, where nothing was observed.
        observed: Where a measurement exists.
        graph: The graph, with nodes in the order of the node axis.
        covariates: Quantities known in advance at every step and node (calendar, weather), or None.
        time: Label of each step, dates or numbers, strictly increasing and regular; 0, 1, 2, ... if not
            given. Dates are kept as datetime64 in UTC (:mod:`tsgen.data.times`).
        nodes: Name of each node; their numbers if not given.
        channels: Name of each channel; ``channel_0``, ... if not given.
        units: Unit of each channel; empty if not given.
        covariate_names: Name of each covariate.

    Raises:
        ValueError: If a shape, a type, a label or the graph does not fit, or an observed value is not finite.
    """

    values: Float[Tensor, "time nodes channels"]
    observed: Bool[Tensor, "time nodes channels"]
    graph: Data
    covariates: Float[Tensor, "time nodes covariates"] | None = None
    time: np.ndarray | pd.Index | Sequence = ()
    nodes: Sequence[Any] = ()
    channels: Sequence[Any] = ()
    units: Sequence[str] = ()
    covariate_names: Sequence[str] = ()

    def __post_init__(self) -> None:
        _check_tensor("values", self.values, "float", "time nodes channels")
        _check_tensor("observed", self.observed, "bool", "time nodes channels", tuple(self.values.shape))
        _check_finite("values", self.values, self.observed, "observed")
        steps, nodes, channels = self.values.shape
        if self.covariates is not None:
            _check_tensor(
                "covariates", self.covariates, "float", "time nodes covariates", (steps, nodes, None)
            )
            if not torch.isfinite(self.covariates).all():
                index = (~torch.isfinite(self.covariates)).nonzero()[0].tolist()
                raise ValueError(
                    "covariates must be finite everywhere; at "
                    f"{index} it is {float(self.covariates[tuple(index)])}. Fill the missing values first."
                )
        self.graph = check_graph(self.graph, nodes)
        width = 0 if self.covariates is None else self.covariates.shape[-1]
        self.time, self.nodes, self.channels, self.units, self.covariate_names = check_labels(
            (steps, nodes, channels, width),
            self.time,
            self.nodes,
            self.channels,
            self.units,
            self.covariate_names,
        )

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the values."""
        return self.values.dtype

    def chunk(self, steps: slice) -> GraphSeries:
        """Returns consecutive steps of the series; its tensors are views."""
        new = copy.copy(self)
        new.values, new.observed = self.values[steps], self.observed[steps]
        new.time = np.asarray(self.time)[steps]
        new.covariates = None if self.covariates is None else self.covariates[steps]
        return new

    def with_observed(self, observed: Bool[Tensor, "time nodes channels"]) -> GraphSeries:
        """Returns the same series with another mask of what was observed."""
        return dataclasses.replace(self, observed=observed)

    def _gathered(self, position: Tensor, nodes: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns values, the observed mask and covariates at these steps and nodes."""
        index = (position,) if nodes is None else (position[..., None], nodes)
        covariates = None if self.covariates is None else self.covariates[index]
        return self.values[index], self.observed[index], covariates

    @classmethod
    def from_xarray(cls, data: xr.Dataset) -> GraphSeries:
        """Returns the series in a dataset with the format of :meth:`to_xarray`.

        Required are ``values``, with dimensions time, node and channel (channel may be absent if there is
        only one), and the edges: ``edge_source`` and ``edge_target``, the numbers of the nodes that each edge
        connects. ``edge_weight`` defaults to 1, and ``observed`` to where values are finite. ``covariates``
        (time, node, covariate) and ``position`` (node, axis) are optional.

        Args:
            data: The dataset.

        Raises:
            ValueError: If a variable or a dimension is missing, or the series is invalid (see
                :class:`GraphSeries`).
        """
        absent = [name for name in ("values", "edge_source", "edge_target") if name not in data]
        if absent:
            raise ValueError(
                f"the dataset must have the variables values, edge_source and edge_target; it lacks "
                f"{', '.join(absent)} and has {', '.join(sorted(map(str, data))) or 'none'}."
            )
        values = data["values"]
        if "channel" not in values.dims:
            values = values.expand_dims("channel", axis=-1)
        if set(values.dims) != {"time", "node", "channel"}:
            raise ValueError(
                f"'values' must have dimensions time and node, and may have channel; it has {values.dims}. "
                "Rename its dimensions."
            )
        order = ("time", "node", "channel")
        numbers = torch.from_numpy(floating(values.transpose(*order).values))
        observed = torch.isfinite(numbers)
        if "observed" in data:
            flag = data["observed"]
            flag = flag if "channel" in flag.dims else flag.expand_dims("channel", axis=-1)
            observed = torch.from_numpy(flag.transpose(*order).values.astype(bool))
        covariates = None
        if "covariates" in data:
            array = data["covariates"].transpose("time", "node", "covariate").values
            covariates = torch.from_numpy(floating(array))
        labels = labels_in(data)
        if covariates is None:
            labels["covariate_names"] = ()
        graph = graph_in(data, data.sizes["node"])
        return cls(values=numbers, observed=observed, graph=graph, covariates=covariates, **labels)


def graph_in(data: xr.Dataset, nodes: int) -> Data:
    """Returns the graph in a dataset with the format of :meth:`GraphSeries.to_xarray`.

    Args:
        data: Dataset with ``edge_source`` and ``edge_target``. Any other variable of their dimension is a
            quantity of the edges, such as ``edge_weight``; ``position`` is optional.
        nodes: The number of nodes.

    Raises:
        ValueError: If the ends of the edges are not whole numbers, one per edge.
    """
    ends = [node_numbers(name, data[name].values) for name in ("edge_source", "edge_target")]
    if len(ends[0]) != len(ends[1]):
        raise ValueError(
            "edge_source and edge_target must have one number per edge each; they have "
            f"{len(ends[0])} and {len(ends[1])}."
        )
    graph = Data(edge_index=torch.from_numpy(np.stack(ends)), num_nodes=nodes)
    dimension = data["edge_source"].dims
    labels = {"edge_source", "edge_target", *dimension}
    for name in sorted(str(name) for name, v in data.variables.items() if v.dims == dimension):
        if name not in labels:
            # the prefix marks attributes of edges
            graph["edge_" + name.removeprefix("edge_")] = data[name].values
    if "position" in data:
        graph.pos = torch.from_numpy(floating(data["position"].values))
    return graph


def times_in(data: xr.Dataset, dimension: str) -> np.ndarray:
    """Returns the labels of the steps of a dataset; 0, 1, 2, ... if it has none.

    Args:
        data: The dataset.
        dimension: The name of its time dimension.
    """
    labels = data[dimension].values
    if labels.dtype.kind == "M" and np.dtype(data[dimension].encoding.get("dtype", "i8")).kind == "f":
        # times stored as floating-point days are off by microseconds
        labels = pd.DatetimeIndex(labels).round("ms").to_numpy()
    return labels


def labels_in(data: xr.Dataset) -> dict[str, Any]:
    """Returns the labels in a dataset with the format of :meth:`GraphSeries.to_xarray`, empty where absent.

    Args:
        data: The dataset.
    """

    def labels(name: str) -> list[str]:
        given = data[name].values if name in data.coords else ()
        return [label.decode() if isinstance(label, bytes) else str(label) for label in given]

    return {
        "time": times_in(data, "time") if "time" in data.coords else (),
        "nodes": labels("node"),
        "channels": labels("channel"),
        "units": labels("unit"),
        "covariate_names": labels("covariate"),
    }


def check_labels(
    sizes: tuple[int, int, int, int],
    time: np.ndarray | pd.Index | Sequence,
    nodes: Sequence[Any],
    channels: Sequence[Any],
    units: Sequence[str],
    covariate_names: Sequence[str],
) -> tuple[np.ndarray, list[str], list[str], list[str], list[str]]:
    """Returns the checked labels of a series, with defaults for labels that are not given.

    Args:
        sizes: The numbers of steps, nodes, channels and covariates.
        time: Label of each step.
        nodes: Name of each node.
        channels: Name of each channel.
        units: Unit of each channel.
        covariate_names: Name of each covariate.

    Raises:
        ValueError: If there are too many or too few labels, names are not unique, or the time is not
            regular.
    """
    times = _labels("time", parse_times(time, _time_error) if len(time) else np.arange(sizes[0]), sizes[0])
    check_regular(times)
    return (
        times,
        _names("nodes", nodes, [str(v) for v in range(sizes[1])]),
        _names("channels", channels, [f"channel_{c}" for c in range(sizes[2])]),
        _labels("units", list(units) or [""] * sizes[2], sizes[2]),
        _names("covariate_names", covariate_names, [f"covariate_{f}" for f in range(sizes[3])]),
    )


def _labels(name: str, labels: Any, length: int) -> Any:
    if len(labels) != length:
        raise ValueError(
            f"{name} must have {length} labels, one per entry of its axis; it has {len(labels)}."
        )
    return labels


def _time_error(label: int, what: str) -> ValueError:
    return ValueError(f"time, label {label} (counted from 0): {what}")


def _names(name: str, labels: Sequence[Any], default: list[str]) -> list[str]:
    if not len(labels):
        return default
    names = _labels(name, [str(label) for label in labels], len(default))
    counts = Counter(names)
    if len(counts) < len(names):
        repeated = min(label for label, times in counts.items() if times > 1)
        raise ValueError(f"{name} must be unique; {repeated!r} occurs {counts[repeated]} times.")
    return names


@check_arguments
@dataclass
class SeriesBatch:
    """Windows of a series: the input of a model.

    Values outside ``context`` are read only by the loss and the scores, and only inside ``target``. Values
    and covariates have the precision of their source, whatever that of the model that reads them.

    Args:
        values: Measurements in data units; anything, NaN included, outside both masks.
        context: The model may read this entry.
        target: The truth of this entry is known and it is scored.
        graph: The graph, shared by all windows.
        position: Number of each step in the whole series.
        covariates: Quantities known in advance at every step and node, or None.
        nodes: Numbers of these nodes in the whole graph; None if the batch holds all nodes.
        replicate: Number of each window among its copies, from :meth:`repeat`; None if there are none.

    Raises:
        ValueError: If a shape, a type or the graph does not fit, or a value inside a mask is not finite.
    """

    values: Float[Tensor, "batch time nodes channels"]
    context: Bool[Tensor, "batch time nodes channels"]
    target: Bool[Tensor, "batch time nodes channels"]
    graph: Data
    position: Int64[Tensor, "batch time"]
    covariates: Float[Tensor, "batch time nodes covariates"] | None = None
    nodes: Int64[Tensor, "nodes"] | None = None
    replicate: Int64[Tensor, "batch"] | None = None

    def __post_init__(self) -> None:
        axes = "batch time nodes channels"
        _check_tensor("values", self.values, "float", axes)
        shape = tuple(self.values.shape)
        _check_tensor("context", self.context, "bool", axes, shape)
        _check_tensor("target", self.target, "bool", axes, shape)
        _check_finite("values", self.values, self.context, "context")
        _check_finite("values", self.values, self.target, "target")
        if self.position.shape != shape[:2] or self.position.dtype != torch.int64:
            raise ValueError(
                f"position must be int64 of shape {list(shape[:2])}, one per window and step; it is "
                f"{self.position.dtype} of shape {list(self.position.shape)}."
            )
        if self.covariates is not None:
            _check_tensor(
                "covariates", self.covariates, "float", "batch time nodes covariates", (*shape[:3], None)
            )
        if self.nodes is not None and (self.nodes.shape != shape[2:3] or self.nodes.dtype != torch.int64):
            raise ValueError(
                f"nodes must be int64 of shape {list(shape[2:3])}, one number per node of the batch; it is "
                f"{self.nodes.dtype} of shape {list(self.nodes.shape)}."
            )
        replicate = self.replicate
        if replicate is not None and (replicate.shape != shape[:1] or replicate.dtype != torch.int64):
            raise ValueError(
                f"replicate must be int64 of shape {list(shape[:1])}, one number per window; it is "
                f"{replicate.dtype} of shape {list(replicate.shape)}."
            )
        self.graph = check_graph(self.graph, shape[2])

    def _changed(self, **fields: Any) -> SeriesBatch:
        """Returns the batch with some fields replaced; their values are known to fit and are not checked."""
        new = copy.copy(self)
        for name, value in fields.items():
            setattr(new, name, value)
        return new

    def repeat(self, times: int) -> SeriesBatch:
        """Returns the batch repeated along the batch axis, one copy per sample or particle.

        A sampler draws the first copy as it draws the window itself, and the others independently.
        """
        if not 0 <= times < 2**31:
            raise ValueError(f"times must be at least 0 and below 2**31; it is {times}.")
        rows = self._of_each(lambda value: value.repeat(times, *[1] * (value.dim() - 1)))
        number = torch.arange(times, device=self.position.device).repeat_interleave(len(self.position))
        return rows._changed(replicate=number if rows.replicate is None else rows.replicate * times + number)

    def rows(self, chosen: slice) -> SeriesBatch:
        """Returns some of the windows."""
        return self._of_each(lambda value: value[chosen])

    def steps(self, chosen: slice) -> SeriesBatch:
        """Returns some of the time steps of every window."""
        return self._of_each(lambda value: value if value.dim() == 1 else value[:, chosen])

    def _of_each(self, change: Callable[[Tensor], Tensor]) -> SeriesBatch:
        """Returns the batch with ``change`` applied to every tensor whose first axis is the windows."""
        return self._changed(
            **{
                field.name: change(value)
                for field in dataclasses.fields(self)
                if field.name != "nodes" and isinstance(value := getattr(self, field.name), Tensor)
            }
        )

    def blank(self) -> SeriesBatch:
        """Returns the windows with empty context and target, for draws of whole windows.

        The draws of a window depend on its position, so every window receives a position of its own: windows
        that had the same position are drawn independently.
        """
        empty = torch.zeros_like(self.context)
        position = torch.arange(self.position.numel(), device=empty.device).view_as(self.position)
        return self._changed(context=empty, target=empty, position=position, replicate=None)

    @property
    def address(self) -> Int64[Tensor, "batch"]:
        """A number of each window for random streams: its first position, or one of its own for a copy."""
        start = self.position[:, 0]
        return start if self.replicate is None else start + (self.replicate << REPLICATE_BITS)

    @property
    def hidden(self) -> Bool[Tensor, "batch time nodes channels"]:
        """The target entries outside the context, on which draws are scored."""
        return self.target & ~self.context


class Units(NamedTuple):
    """Location and scale of each entry; they define the standard units of a head.

    Those of a model are in float64, and so is all arithmetic in data units: in float32, values near 2e8 lie
    16 apart, and the square of 1e-21 is zero. Values in standard units, which have size 1, have the precision
    of the network.

    Location and scale are those of the images of the values under the transforms of the channels, if any.

    Attributes:
        loc: The image that corresponds to zero in standard units.
        scale: The difference of images that corresponds to one in standard units.
        nodes: Numbers of the nodes in the whole graph; None for all nodes.
        dtype: Precision of values in standard units; that of ``loc`` if not given.
        widest: The largest mean and scale, in standard units, that a head gives to a component of a law; no
            limit if not given.
        transforms: The maps of the channels' values to real numbers; None if values are their own images.
    """

    loc: Tensor
    scale: Tensor
    nodes: Tensor | None = None
    dtype: torch.dtype | None = None
    widest: Tensor | None = None
    transforms: Transforms | None = None

    @property
    def precision(self) -> torch.dtype:
        """The precision of values in standard units."""
        return self.dtype or self.loc.dtype

    @property
    def centre(self) -> Tensor:
        """The values, in data units, that are zero in standard units."""
        return self.value(self.loc)

    def image(self, values: Tensor) -> Tensor:
        """Returns the images of values in data units."""
        return values if self.transforms is None else self.transforms.forward(values.to(self.loc.dtype))

    def value(self, images: Tensor) -> Tensor:
        """Returns the values, in data units, of images."""
        return images if self.transforms is None else self.transforms.inverse(images)

    def standardise(self, values: Tensor) -> Tensor:
        """Converts data units to standard units."""
        return ((self.image(values) - self.loc) / self.scale).to(self.precision)

    def unstandardise(self, values: Tensor) -> Tensor:
        """Converts standard units to data units, in the precision of ``loc`` and ``scale``."""
        return self.value(self.loc + self.scale * values)


@check_arguments
@dataclass
class SeriesSpec:
    """What a model needs to know about its data when it is built, as plain data for a checkpoint.

    Args:
        loc: Mean of each node and channel over the training split, in data units.
        scale: Standard deviation of each node and channel over the training split, in data units.
        edge_index: The edges of the graph, sources in row 0.
        edge_weight: The weights of the edges.
        num_covariates: Number of covariates per step and node.
        nodes: Names of the nodes.
        channels: Names of the channels.
        covariate_loc: Mean of each covariate over the training split; zeros if not given.
        covariate_scale: Standard deviation of each covariate over the training split; ones if not given.
        transforms: The support of each channel and the map of its values to real numbers; None if all are
            real numbers.
        image_loc: Mean of each node and channel after these maps; None without them.
        image_scale: Standard deviation of each node and channel after these maps; None without them.
    """

    loc: Float[Tensor, "nodes channels"]
    scale: Float[Tensor, "nodes channels"]
    edge_index: Int64[Tensor, "2 edges"]
    edge_weight: Float[Tensor, "edges"]
    num_covariates: int
    nodes: list[str]
    channels: list[str]
    covariate_loc: Float[Tensor, "covariates"] | None = None
    covariate_scale: Float[Tensor, "covariates"] | None = None
    transforms: list[Transform] | None = None
    image_loc: Float[Tensor, "nodes channels"] | None = None
    image_scale: Float[Tensor, "nodes channels"] | None = None

    @classmethod
    def of(
        cls,
        series: Series,
        fit_on: Sequence[slice] | None = None,
        transforms: Sequence[Transform] | None = None,
    ) -> SeriesSpec:
        """Returns the spec of a series, with units fitted on some stretches, one chunk in memory at a time.

        If the values of a node are constant there, its scale is that of the channel. If a node has no value
        there, its mean and scale are those of all values of the channel, and a warning names it.

        Args:
            series: The series.
            fit_on: The stretches to fit on (those of the training split); the whole series if not given.
            transforms: The support and map of each channel (:func:`tsgen.data.fit_transforms`); all values
                are real numbers if not given.

        Raises:
            ValueError: If a channel has no value in these stretches.
        """
        entries, covariates, images = RunningMoments(), RunningMoments(), RunningMoments()
        mapped = None if transforms is None or all(x.is_identity for x in transforms) else list(transforms)
        for chunk in series.chunks(fit_on):
            entries.add(chunk.values, chunk.observed)
            if mapped is not None:
                images.add(Transforms(mapped).forward(chunk.values.double()), chunk.observed)
            if chunk.covariates is not None:
                rows = chunk.covariates.flatten(0, 1)
                covariates.add(rows, torch.ones_like(rows, dtype=torch.bool))
        count = entries.count.expand(series.sizes[:2])
        _check_channels(series, count)
        _warn_of_unobserved(series, count)
        loc, scale = _units_of_nodes(entries)
        image_loc, image_scale = (None, None) if mapped is None else _units_of_nodes(images)
        return cls(
            loc=loc,
            scale=scale,
            edge_index=series.graph.edge_index,
            edge_weight=series.graph.edge_weight,
            num_covariates=series.sizes.covariates,
            nodes=list(series.nodes),
            channels=list(series.channels),
            **_units_of_covariates(covariates),
            transforms=mapped,
            image_loc=image_loc,
            image_scale=image_scale,
        )

    @property
    def sizes(self) -> Sizes:
        """The numbers of nodes, channels and covariates."""
        return Sizes(len(self.nodes), len(self.channels), self.num_covariates)

    @property
    def image_units(self) -> Units:
        """The units of a model that follows the supports of the channels."""
        if self.transforms is None:
            return Units(self.loc, self.scale)
        assert self.image_loc is not None and self.image_scale is not None
        return Units(self.image_loc, self.image_scale, transforms=Transforms(self.transforms))

    @property
    def graph(self) -> Data:
        """The graph."""
        return Data(edge_index=self.edge_index, edge_weight=self.edge_weight, num_nodes=len(self.nodes))

    def difference(self, other: SeriesSpec) -> str | None:
        """Describes the first incompatibility with another spec, or returns None.

        Args:
            other: The spec of the data that a model built for this spec is to run on.
        """
        for name, own, given in (
            ("channels", self.channels, other.channels),
            ("nodes", self.nodes, other.nodes),
        ):
            if own != given:
                return f"its {name} are {_abbreviated(own)}, those of the data are {_abbreviated(given)}"
        if self.num_covariates != other.num_covariates:
            return f"it reads {self.num_covariates} covariates, the data has {other.num_covariates}"
        if not same_graph(self.graph, other.graph):
            return "its graph has other edges or weights than that of the data"
        return None


def _units_of_nodes(moments: RunningMoments) -> tuple[Tensor, Tensor]:
    """Returns mean and scale of each node and channel; those of the channel where a node has no values."""
    count, channel = moments.count, moments.pooled()
    loc = torch.where(count > 0, moments.mean, channel.mean)
    scale = torch.where(count > 0, moments.deviation, channel.deviation)
    # the deviation of all values of the channel, each from the mean of its own node
    pooled = (moments.squares.sum(dim=0) / count.sum(dim=0)).sqrt().expand_as(scale)
    # values that differ by rounding errors only have no scale of their own
    constant = moments.constant(loc, scale)
    pooled = torch.where(moments.constant(channel.mean, pooled), 1.0, pooled)
    return loc, torch.where(constant, pooled, scale)


def _check_channels(series: Series, count: Float[Tensor, "nodes channels"]) -> None:
    """Raises unless every channel has a value."""
    without = (count.sum(dim=0) == 0).tolist()
    if any(without):
        raise ValueError(
            "every channel must have observed values in the training split; "
            f"{series.channels[without.index(True)]!r} has none. Drop it or widen the split."
        )


def _warn_of_unobserved(series: Series, count: Float[Tensor, "nodes channels"]) -> None:
    """Logs a warning that names the nodes without a value."""
    without = [f"{series.nodes[v]} ({series.channels[c]})" for v, c in (count == 0).nonzero().tolist()]
    if without:
        logger.warning(
            "no value in the training split: %s. Their units are the mean and deviation of the channel; a "
            "model can predict them only from the other nodes.",
            _abbreviated(without),
        )


def _units_of_covariates(moments: RunningMoments) -> dict[str, Tensor]:
    """Returns mean and standard deviation of each covariate, if any; the scale of a constant one is 1."""
    if not moments.count.numel() or not moments.count.any():
        return {}
    scale = torch.where(moments.constant(moments.mean, moments.deviation), 1.0, moments.deviation)
    return {"covariate_loc": moments.mean, "covariate_scale": scale}


def _abbreviated(names: list[str]) -> str:
    """Returns the number of names and the first three of them."""
    return f"{len(names)} ({', '.join(map(printable, names[:3]))}{', ...' if len(names) > 3 else ''})"


def check_stream(batch: SeriesBatch, stream: Tensor) -> None:
    """Raises ``ValueError`` unless there is one random stream per window.

    Args:
        batch: The windows.
        stream: The streams.
    """
    if stream.shape != batch.values.shape[:1]:
        raise ValueError(
            f"stream must have one number per window, {len(batch.values)}; its shape is {list(stream.shape)}."
        )


def check_draws(batch: SeriesBatch, stream: Tensor, values: Tensor | None) -> None:
    """Raises ``ValueError`` unless random streams and values of draws have the shapes of a batch.

    Args:
        batch: The windows.
        stream: One random stream for each draw of each window.
        values: The values of each draw, or None.
    """
    wanted = (len(stream), *batch.values.shape)
    if stream.dim() != 2 or not len(stream) or stream.shape[1] != wanted[1]:
        raise ValueError(
            f"stream must be [samples, batch] with at least one sample of {wanted[1]} windows; its shape is "
            f"{list(stream.shape)}."
        )
    if values is not None and tuple(values.shape) != wanted:
        raise ValueError(f"values must have shape {list(wanted)}; their shape is {list(values.shape)}.")


@check_arguments
@dataclass
class Samples:
    """Joint draws of whole windows, in data units.

    Args:
        values: The draws; entries within ``context`` keep their measured values.
        conditioning: What each drawn entry is conditional on: ``"filtering"`` (the context before it) or
            ``"posterior"`` (the whole context).
        ess: For draws from weighted particles, the effective sample size of each step as a share of the
            number of particles, in (0, 1]; low values mean unreliable draws. Otherwise None.
        log_evidence: The estimated log-density of the context of each window, in nats, if the sampler
            estimates it. Otherwise None.

    Raises:
        ValueError: If a draw is NaN or infinite.
    """

    values: Float[Tensor, "samples batch time nodes channels"]
    conditioning: Literal["filtering", "posterior"]
    ess: Float[Tensor, "batch time"] | None = None
    log_evidence: Float[Tensor, "batch"] | None = None

    def __post_init__(self) -> None:
        bad = ~torch.isfinite(self.values)
        if bad.any():
            node = int(bad.flatten(0, 2).any(dim=2).any(dim=0).nonzero()[0])
            raise ValueError(
                f"draws must be finite; {int(bad.sum()):,} of {bad.numel():,} are NaN or infinite, the first "
                f"at node number {node}. The model has diverged, or visible values are too extreme for it: "
                "look at them, or train again with a lower learning rate."
            )
