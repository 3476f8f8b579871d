r"""The containers that everything else passes on.

* :class:`GraphSeries`: a whole series on a graph with its labels, in data units.
* :class:`SeriesBatch`: windows cut from it, with two masks. ``context``: the model may read this entry.
  ``target``: its truth is known and it is scored. The two carry every task: imputation, forecasting,
  generation.
* :class:`SeriesSpec`: what a model must know of its data before it sees any: sizes, units, the graph.
* :class:`Samples`: what a sampler returns.

Axes always run sample, batch, time, node, channel. Checks happen here, once, when a container is made.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from abc import ABC, abstractmethod
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

from tsgen.data.graphs import check_graph, same_graph
from tsgen.data.moments import RunningMoments
from tsgen.data.subgraphs import Subgraph

logger = logging.getLogger(__name__)


def _check_tensor(
    name: str, x: Any, kind: Literal["float", "bool"], axes: str, shape: tuple | None = None
) -> None:
    """Raises unless x is a tensor of that kind, with those axes and (where not None) those sizes."""
    right = isinstance(x, Tensor) and (x.is_floating_point() if kind == "float" else x.dtype == torch.bool)
    if not right:
        came = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"{name} must be a {kind} tensor; it is {came}. Use torch.as_tensor(..., dtype=...)."
        )
    wanted = shape or (None,) * len(axes.split())
    if x.dim() != len(wanted) or any(w is not None and w != s for s, w in zip(x.shape, wanted, strict=True)):
        sizes = ", ".join(str(w or a) for w, a in zip(wanted, axes.split(), strict=True))
        raise ValueError(f"{name} must have axes [{axes}] of sizes [{sizes}]; its shape is {list(x.shape)}.")


def _check_finite(name: str, x: Tensor, where: Tensor, mask_name: str) -> None:
    bad = where & ~torch.isfinite(x)
    if bad.any():
        at = [int(i) for i in bad.nonzero()[0]]
        raise ValueError(
            f"{name} must be finite wherever {mask_name} is True; at {at} it is {float(x[tuple(at)])} "
            f"({int(bad.sum())} such entries). Set {mask_name} to False where nothing was measured."
        )


class Sizes(NamedTuple):
    """How many numbers a slice holds.

    Attributes:
        nodes: The number of nodes.
        channels: Entries of a node.
        covariates: Covariates of a node.
    """

    nodes: int
    channels: int
    covariates: int = 0


CHUNK_NUMBERS = 2**22
"""Numbers of a part, where a series is gone through from beginning to end."""


class Series(ABC):
    """A multivariate series on a graph, whole and labelled, in data units.

    The base of :class:`GraphSeries`, which is held in memory, and of
    :class:`~tsgen.data.stored_series.StoredSeries`, which is read from a file. Whoever takes a series takes
    either.

    Attributes:
        graph: The graph, its nodes in the order of the node axis.
        time: Label of each step, dates or numbers, strictly increasing and regular.
        nodes: Name of each node.
        channels: Name of each channel.
        units: Unit of each channel; empty text where it has none.
        covariate_names: Name of each covariate.
    """

    graph: Data
    time: np.ndarray | Sequence
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
        """Returns values, where they were observed, and covariates at these steps and nodes."""

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
        """Returns everything but the numbers as a labelled dataset; the graph is a list of edges."""
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
        axes, whole = ("time", "node", "channel"), self.chunk(slice(None))
        data = self.labels()
        data["values"] = (axes, whole.values.where(whole.observed, torch.nan).numpy())
        data["observed"] = (axes, whole.observed.numpy())
        if whole.covariates is not None:
            data["covariates"] = (("time", "node", "covariate"), whole.covariates.numpy())
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
        position = starts[:, None] + torch.arange(window)
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
        """Returns where something was observed in some windows.

        Args:
            starts: First step of each window.
            window: Length of a window, in steps.
            nodes: Numbers of the nodes; all nodes if not given.
        """
        return self._gathered(starts[:, None] + torch.arange(window), nodes)[1]


@dataclass
class GraphSeries(Series):
    """A multivariate series on a graph, whole and labelled, in data units.

    Args:
        values: Measurements; anything, NaN included, where nothing was observed.
        observed: Where a measurement exists.
        graph: The graph, its nodes in the order of the node axis.
        covariates: What is known at every step and node beforehand (calendar, weather), or None.
        time: Label of each step, dates or numbers, strictly increasing and regular; 0, 1, 2, ... if not
            given.
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
    time: np.ndarray | Sequence = ()
    nodes: Sequence[str] = ()
    channels: Sequence[str] = ()
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
                raise ValueError("covariates must be finite everywhere; fill their holes before.")
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
        """Values, where they were observed, and covariates of these steps and nodes."""
        place = (position,) if nodes is None else (position[..., None], nodes)
        covariates = None if self.covariates is None else self.covariates[place]
        return self.values[place], self.observed[place], covariates

    @classmethod
    def from_xarray(cls, data: xr.Dataset) -> GraphSeries:
        """The series in a dataset of the form that :meth:`to_xarray` writes.

        There must be ``values`` (time, node and, unless there is one channel, channel), and the edges:
        ``edge_source`` and ``edge_target``, the numbers of the nodes that each edge joins. Without
        ``edge_weight`` edges weigh 1; without ``observed``, what is finite is observed; ``covariates`` (time,
        node, covariate) and ``position`` (node, axis) are read where they are.

        Raises:
            ValueError: If a variable or a dimension is missing, or the series itself does not hold together.
        """
        lacking = [name for name in ("values", "edge_source", "edge_target") if name not in data]
        if lacking:
            raise ValueError(
                f"the dataset must have the variables values, edge_source and edge_target; it lacks "
                f"{', '.join(lacking)} and has {', '.join(sorted(map(str, data))) or 'none'}."
            )
        values = data["values"]
        if "channel" not in values.dims:
            values = values.expand_dims("channel", axis=-1)
        missing = {"time", "node"} - set(values.dims)
        if missing:
            raise ValueError(
                f"'values' must have dimensions time and node; it has {values.dims}. Rename yours."
            )
        order = ("time", "node", "channel")
        number = torch.from_numpy(values.transpose(*order).values.astype(np.float32))
        seen = torch.isfinite(number)
        if "observed" in data:
            flag = data["observed"]
            flag = flag if "channel" in flag.dims else flag.expand_dims("channel", axis=-1)
            seen = torch.from_numpy(flag.transpose(*order).values.astype(bool))
        covariates = None
        if "covariates" in data:
            read = data["covariates"].transpose("time", "node", "covariate").values
            covariates = torch.from_numpy(read.astype(np.float32))
        told = labels_in(data)
        if covariates is None:
            told["covariate_names"] = ()
        graph = graph_in(data, data.sizes["node"])
        return cls(values=number, observed=seen, graph=graph, covariates=covariates, **told)


def graph_in(data: xr.Dataset, nodes: int) -> Data:
    """The graph in a dataset of the form that :meth:`GraphSeries.to_xarray` writes.

    Args:
        data: With ``edge_source`` and ``edge_target``, and perhaps ``edge_weight`` and ``position``.
        nodes: The number of nodes.
    """
    ends = np.stack([data["edge_source"].values, data["edge_target"].values]).astype(np.int64)
    graph = Data(edge_index=torch.from_numpy(ends), num_nodes=nodes)
    if "edge_weight" in data:
        graph.edge_weight = torch.from_numpy(data["edge_weight"].values.astype(np.float32))
    if "position" in data:
        graph.pos = torch.from_numpy(data["position"].values.astype(np.float32))
    return graph


def times_in(data: xr.Dataset, dimension: str) -> np.ndarray:
    """The labels of the steps of a dataset; 0, 1, 2, ... if it has none.

    Args:
        data: The dataset.
        dimension: The name of its time.
    """
    labels = data[dimension].values
    if labels.dtype.kind == "M" and np.dtype(data[dimension].encoding.get("dtype", "i8")).kind == "f":
        # days since some day as floats are off by a microsecond
        labels = pd.DatetimeIndex(labels).round("ms").to_numpy()
    return labels


def labels_in(data: xr.Dataset) -> dict[str, Any]:
    """The labels in a dataset of the form that :meth:`GraphSeries.to_xarray` writes, as far as it has any.

    Args:
        data: The dataset.
    """

    def labels(name: str) -> list[str]:
        found = data[name].values if name in data.coords else ()
        return [label.decode() if isinstance(label, bytes) else str(label) for label in found]

    return {
        "time": times_in(data, "time") if "time" in data.coords else (),
        "nodes": labels("node"),
        "channels": labels("channel"),
        "units": labels("unit"),
        "covariate_names": labels("covariate"),
    }


def check_labels(
    sizes: tuple[int, int, int, int],
    time: np.ndarray | Sequence,
    nodes: Sequence[str],
    channels: Sequence[str],
    units: Sequence[str],
    covariate_names: Sequence[str],
) -> tuple[np.ndarray, list[str], list[str], list[str], list[str]]:
    """The labels of a series, those that are not given made up.

    Args:
        sizes: Steps, nodes, channels and covariates.
        time: Label of each step.
        nodes: Name of each node.
        channels: Name of each channel.
        units: Unit of each channel.
        covariate_names: Name of each covariate.

    Raises:
        ValueError: If labels are too many, too few or not unique, or the time is not regular.
    """
    times = _labels("time", np.asarray(time) if len(time) else np.arange(sizes[0]), sizes[0])
    _check_regular(times)
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


def _names(name: str, labels: Sequence[str], default: list[str]) -> list[str]:
    if not len(labels):
        return default
    names = _labels(name, [str(label) for label in labels], len(default))
    twice = {label for label in names if names.count(label) > 1} if len(set(names)) < len(names) else set()
    if twice:
        raise ValueError(
            f"{name} must be unique; {sorted(twice)[0]!r} comes {names.count(sorted(twice)[0])} times."
        )
    return names


def _check_regular(time: np.ndarray) -> None:
    if len(time) < 2:
        return
    steps = np.diff(pd.Index(time).values)
    wrong = np.flatnonzero(steps != steps[0])
    if steps[0] <= np.zeros(1, steps.dtype)[0] or len(wrong):
        at = int(wrong[0]) + 1 if len(wrong) else 1
        raise ValueError(
            f"time must be strictly increasing in equal steps; {time[at - 1]} is followed by {time[at]}. "
            "Insert the missing steps and leave them unobserved."
        )


@dataclass
class SeriesBatch:
    """Windows of a series: what a model is given.

    Nothing reads a value outside ``context``, except the loss and the scores inside ``target``.

    Args:
        values: Measurements in data units; anything, NaN included, outside both masks.
        context: The model may read this entry.
        target: The truth of this entry is known and it is scored.
        graph: The graph that all windows share.
        position: Where in the series each step lies, counted in steps.
        covariates: What is known at every step and node beforehand, or None.
        nodes: Which nodes of the whole graph these are, by number; None if they are all.

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
        self.graph = check_graph(self.graph, shape[2])

    def _changed(self, **fields: Any) -> SeriesBatch:
        """The batch with some fields changed to ones known to fit, so that nothing is checked twice."""
        new = copy.copy(self)
        for name, value in fields.items():
            setattr(new, name, value)
        return new

    def repeat(self, times: int) -> SeriesBatch:
        """The batch ``times`` over along the batch axis: a sample, a particle is one more row."""
        return self._of_each(lambda value: value.repeat(times, *[1] * (value.dim() - 1)))

    def rows(self, chosen: slice) -> SeriesBatch:
        """Some of the windows."""
        return self._of_each(lambda value: value[chosen])

    def steps(self, chosen: slice) -> SeriesBatch:
        """Some of the time steps of every window."""
        return self._of_each(lambda value: value[:, chosen])

    def _of_each(self, change: Callable[[Tensor], Tensor]) -> SeriesBatch:
        """The batch with every tensor changed that has windows along its first axis."""
        return self._changed(
            **{
                field.name: change(value)
                for field in dataclasses.fields(self)
                if field.name != "nodes" and isinstance(value := getattr(self, field.name), Tensor)
            }
        )

    @property
    def hidden(self) -> Bool[Tensor, "batch time nodes channels"]:
        """What is scored and not visible: the entries by which draws are judged."""
        return self.target & ~self.context


class Units(NamedTuple):
    """Location and scale of each entry, in data units: what a head's standard units mean.

    Attributes:
        loc: What zero stands for.
        scale: What one stands for, less ``loc``.
        nodes: Which nodes of the whole graph they are of, by number; None if of all.
    """

    loc: Tensor
    scale: Tensor
    nodes: Tensor | None = None

    def standardise(self, values: Tensor) -> Tensor:
        """Converts data units to standard units."""
        return (values - self.loc) / self.scale

    def unstandardise(self, values: Tensor) -> Tensor:
        """Converts standard units to data units."""
        return self.loc + self.scale * values


@dataclass
class SeriesSpec:
    """What a model must know of its data before it sees any. Plain enough to lie in a checkpoint.

    Args:
        loc: Mean of each node and channel over the training split, in data units.
        scale: Standard deviation of each node and channel over the training split, in data units.
        edge_index: The graph's edges, sources in row 0.
        edge_weight: The edges' weights.
        num_covariates: Number of covariates an entry has.
        nodes: The nodes' names.
        channels: The channels' names.
        covariate_loc: Mean of each covariate over the training split; zeros if not given.
        covariate_scale: Standard deviation of each covariate over the training split; ones if not given.
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

    @classmethod
    def of(cls, series: Series, fit_on: Sequence[slice] | None = None) -> SeriesSpec:
        """The spec of a series, its units fitted on some stretches of it, one part in memory at a time.

        A node whose values there are constant borrows the scale of its channel. One that has no value there
        borrows both: mean and deviation of all the channel's values. A warning names it.

        Args:
            series: The series.
            fit_on: Which steps may be used (the training split's); all if not given.

        Raises:
            ValueError: If a channel has no value among what may be used.
        """
        entries, covariates = RunningMoments(), RunningMoments()
        for part in series.chunks(fit_on):
            entries.add(part.values, part.observed)
            if part.covariates is not None:
                known = part.covariates.flatten(0, 1)
                covariates.add(known, torch.ones_like(known, dtype=torch.bool))
        count = entries.count.expand(series.sizes[:2])
        _check_channels(series, count)
        _warn_of_unobserved(series, count)
        every = entries.pooled()
        loc = torch.where(count > 0, entries.mean, every.mean)
        scale = torch.where(count > 0, entries.deviation, every.deviation)
        # of all the channel's values, each from the mean of its node
        pooled = (entries.squares.sum(dim=0) / count.sum(dim=0)).sqrt().expand_as(scale)
        # a constant node's deviation is rounding error, not zero
        constant = scale <= 1e-6 * torch.maximum(loc.abs(), pooled)
        scale = torch.where(constant, torch.where(pooled > 0, pooled, torch.ones_like(pooled)), scale)
        return cls(
            loc=loc.float(),
            scale=scale.float(),
            edge_index=series.graph.edge_index,
            edge_weight=series.graph.edge_weight,
            num_covariates=series.sizes.covariates,
            nodes=list(series.nodes),
            channels=list(series.channels),
            **_units_of_covariates(covariates),
        )

    @property
    def sizes(self) -> Sizes:
        """How many numbers a slice holds."""
        return Sizes(len(self.nodes), len(self.channels), self.num_covariates)

    @property
    def graph(self) -> Data:
        """The graph."""
        return Data(edge_index=self.edge_index, edge_weight=self.edge_weight, num_nodes=len(self.nodes))

    def difference(self, other: SeriesSpec) -> str | None:
        """What keeps a model made for this spec from running on data of the other, in words; None if nothing
        does."""
        for name, mine, theirs in (
            ("channels", self.channels, other.channels),
            ("nodes", self.nodes, other.nodes),
        ):
            if mine != theirs:
                return f"its {name} are {_few(mine)}, the data's are {_few(theirs)}"
        if self.num_covariates != other.num_covariates:
            return f"it reads {self.num_covariates} covariates, the data has {other.num_covariates}"
        if not same_graph(self.graph, other.graph):
            return "its graph has other edges or weights than the data's"
        return None


def _check_channels(series: Series, count: Float[Tensor, "nodes channels"]) -> None:
    """Raises unless every channel has a value."""
    without = (count.sum(dim=0) == 0).tolist()
    if any(without):
        raise ValueError(
            "every channel must have observed values in the training split; "
            f"{series.channels[without.index(True)]!r} has none. Drop it or widen the split."
        )


def _warn_of_unobserved(series: Series, count: Float[Tensor, "nodes channels"]) -> None:
    """Warns of nodes without a value."""
    without = [f"{series.nodes[v]} ({series.channels[c]})" for v, c in (count == 0).nonzero().tolist()]
    if without:
        logger.warning(
            "no value in the training split: %s. Mean and deviation of the channel stand in for their own; "
            "what a model says of them rests on the other nodes.",
            _few(without),
        )


def _units_of_covariates(moments: RunningMoments) -> dict[str, Tensor]:
    """Mean and standard deviation of each covariate, if there are any; a constant one keeps its scale."""
    if not moments.count.numel() or not moments.count.any():
        return {}
    constant = moments.deviation <= 1e-6 * moments.mean.abs()
    scale = torch.where(constant, 1.0, moments.deviation)
    return {"covariate_loc": moments.mean.float(), "covariate_scale": scale.float()}


def _few(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


@dataclass
class Samples:
    """Joint draws of whole windows, in data units.

    Args:
        values: The draws; entries of ``context`` are the data's own.
        conditioning: What each drawn entry is conditional on: ``"filtering"`` (the context before it) or
            ``"posterior"`` (the whole context).
        ess: Where the draws come from weighted particles, the effective sample size of each step as a share
            of the particles, in (0, 1]: how far they can be trusted. Else None.
        log_evidence: Where it was estimated on the way, the logarithm of the density of what is visible of
            each window, in nats. Else None.
    """

    values: Float[Tensor, "samples batch time nodes channels"]
    conditioning: Literal["filtering", "posterior"]
    ess: Float[Tensor, "batch time"] | None = None
    log_evidence: Float[Tensor, "batch"] | None = None
