"""A series in a netCDF file that may be larger than memory; windows and chunks are read on demand."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from torch_geometric.data import Data

from tsgen.argument_types import check_arguments, made
from tsgen.data.graphs import check_graph
from tsgen.data.precision import floating, floating_type
from tsgen.data.series import LARGEST, GraphSeries, Series, check_labels, graph_in, labels_in, times_in
from tsgen.data.times import distant_years, parse_times
from tsgen.storage.display import printable
from tsgen.storage.netcdf import open_netcdf


class _Form(NamedTuple):
    """Dimensions, data type of the decoded numbers, and unit of a variable in a file."""

    dims: tuple[str, ...]
    dtype: np.dtype
    unit: str


def _described(path: Path) -> tuple[dict[str, _Form], dict[str, int], xr.Dataset]:
    """Returns the forms of all variables with dimensions time and node, the sizes of all dimensions, and the
    remaining variables, read into memory."""
    try:
        with (
            distant_years(),
            open_netcdf(path, read_later=("time", "node"), decode_timedelta=False) as data,
        ):
            _check_names(data)
            large = [
                name for name, variable in data.data_vars.items() if {"time", "node"} <= set(variable.dims)
            ]
            forms = {
                str(name): _Form(
                    tuple(map(str, data[name].dims)),
                    data[name].dtype,
                    str(data[name].attrs.get("units", "")),
                )
                for name in large
            }
            return forms, {str(name): n for name, n in data.sizes.items()}, data.drop_vars(large).load()
    # decoding a damaged file may raise any of these
    except (OSError, RuntimeError, ValueError, TypeError, ArithmeticError, LookupError) as error:
        reason = printable(error).rstrip(".")
        raise ValueError(f"{path} cannot be read as netCDF: {reason}.") from error


def _check_names(data: xr.Dataset) -> None:
    """Raises unless a file has entries, and times and nodes that are valid."""
    if not all(data.sizes.get(name, 1) for name in ("time", "node", "channel")):
        raise ValueError("it has no steps, no nodes or no channels")
    if "time" in data.variables:
        parse_times(times_in(data, "time"), lambda step, what: ValueError(f"time, step {step}: {what}"))
    if "node" in data.variables and data["node"].to_series().duplicated().any():
        raise ValueError("the names of its nodes must be unique, and one occurs twice")


@check_arguments
class StoredSeries(Series):
    """A series in a netCDF file; only its labels and its graph are held in memory.

    :meth:`windows`, :meth:`chunk` and :meth:`chunks` read only what they return; the properties ``values``,
    ``observed`` and ``covariates`` read the whole file. Each process opens the file itself, so that the
    workers of a data loader can read in parallel. The file must not change while it is in use.

    A window is read in one operation, so reading is fast if the chunks of the file hold few steps and all
    nodes (``docs/large_series.md``). The file has dimensions time, node and channel, in this order; channel
    may be absent if there is only one. NaN and the fill value mark entries that were not observed. If the
    file has a variable ``observed``, entries where it is False do not count as observed either.

    Args:
        path: The file.
        variables: The variables of measurements, one per channel, each with dimensions time and node;
            ``values`` if not given.
        graph: The graph, or a function that returns it, given the names of the nodes. If not given, the graph
            of the file in ``edge_source``, ``edge_target`` and, optionally, ``edge_weight``.
        units: Unit of each channel; those of the file if not given.

    Raises:
        ValueError: If the file lacks a variable or a variable has another form; on reading, if a value is
            infinite or a covariate is missing.
    """

    def __init__(
        self,
        path: str | Path,
        variables: Sequence[str] | None = None,
        graph: Data | Callable[[list[str]], Data | None] | None = None,
        units: Sequence[str] | None = None,
    ) -> None:
        self.path = Path(path)
        self.variables = list(variables) if variables is not None and len(variables) else ["values"]
        self._file: xr.Dataset | None = None
        self._process = -1
        self._mask: Tensor | None = None
        forms, sizes, rest = _described(self.path)
        self._check_forms(forms)
        self._dtype = floating_type(*(forms[name].dtype for name in self.variables))
        self._flagged = "observed" in forms and self.variables == ["values"]
        labels = labels_in(rest)
        with_channels = len(forms[self.variables[0]].dims) == 3
        if not with_channels:
            labels["channels"] = self.variables
            labels["units"] = [forms[name].unit for name in self.variables]
        elif not labels["units"]:
            labels["units"] = sizes["channel"] * [forms["values"].unit]
        if units is not None:
            labels["units"] = units
        if "covariates" not in forms:
            labels["covariate_names"] = ()
        lengths = (
            sizes["time"],
            sizes["node"],
            sizes["channel"] if with_channels else len(self.variables),
            sizes["covariate"] if "covariates" in forms else 0,
        )
        self.time, self.nodes, self.channels, self.units, self.covariate_names = check_labels(
            lengths, **labels
        )
        # a Data object is callable, too
        given = (
            graph
            if graph is None or isinstance(graph, Data)
            else made("graph", Data | None, graph, [*self.nodes])
        )
        if given is None and not {"edge_source", "edge_target"} <= set(rest.variables):
            raise ValueError(
                f"{self.path} must hold a graph in edge_source and edge_target, because no graph was passed; "
                "it holds none. Pass graph."
            )
        self.graph = check_graph(graph_in(rest, len(self.nodes)) if given is None else given, len(self.nodes))

    def _check_forms(self, forms: Mapping[str, _Form]) -> None:
        """Raises unless the variables exist, hold numbers and have their dimensions in order."""
        for name in self.variables:
            if name not in forms:
                names = ", ".join([*forms][:10]) or "none"
                raise ValueError(
                    f"{self.path} must have the variable {name!r} with dimensions time and node; it has "
                    f"{names}."
                )
        axes = ("time", "node", "channel") if self.variables == ["values"] else ("time", "node")
        wanted = dict.fromkeys(self.variables, axes) | {"observed": axes}
        if axes[2:] and len(forms["values"].dims) == 2:
            wanted = {"values": axes[:2], "observed": axes[:2]}
        wanted["covariates"] = ("time", "node", "covariate")
        for name, dims in wanted.items():
            form = forms.get(name)
            if form is not None and (form.dims != dims or form.dtype.kind not in "fiub"):
                raise ValueError(
                    f"{self.path}: {name!r} must hold numbers and have the dimensions {', '.join(dims)} in "
                    f"this order, so that a window can be read in one operation; it has "
                    f"{', '.join(form.dims)}. Transpose or rename its dimensions."
                )

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state without the open file, as another process opens the file itself."""
        return {**self.__dict__, "_file": None, "_process": -1}

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}={n}" for name, n in self.sizes._asdict().items())
        return f"StoredSeries({str(self.path)!r}, steps={len(self)}, {sizes})"

    @property
    def values(self) -> Tensor:
        """All values, read into memory."""
        return self._read(slice(None))[0]

    @property
    def observed(self) -> Tensor:
        """The observed mask of the whole series, read into memory."""
        return self._read(slice(None))[1]

    @property
    def covariates(self) -> Tensor | None:
        """All covariates, read into memory."""
        return self._read(slice(None))[2]

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the values: float32 if the file holds no more, otherwise float64."""
        return torch.from_numpy(np.empty(0, self._dtype)).dtype

    def chunk(self, steps: slice) -> GraphSeries:
        """Returns consecutive steps of the series, read into memory."""
        values, observed, covariates = self._read(steps)
        return GraphSeries(
            values=values,
            observed=observed,
            graph=self.graph,
            covariates=covariates,
            time=self.time[steps],
            nodes=self.nodes,
            channels=self.channels,
            units=self.units,
            covariate_names=self.covariate_names,
        )

    def with_observed(self, observed: Tensor) -> StoredSeries:
        """Returns the same series with another mask of what was observed; the mask is held in memory."""
        shape = (len(self), *self.sizes[:2])
        if observed.dtype != torch.bool or tuple(observed.shape) != shape:
            raise ValueError(
                f"observed must be a bool tensor of shape {list(shape)}; it is {observed.dtype} of shape "
                f"{list(observed.shape)}."
            )
        new = copy.copy(self)
        new._mask = observed
        return new

    def _gathered(self, position: Tensor, nodes: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        rows = [self._read(slice(int(row[0]), int(row[-1]) + 1), nodes) for row in position]
        values, observed, covariates = zip(*rows, strict=True)
        stacked = None if covariates[0] is None else torch.stack(covariates)
        return torch.stack(values), torch.stack(observed), stacked

    def _read(self, steps: slice, nodes: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns values, the observed mask and covariates of some steps."""
        start = steps.indices(len(self))[0]
        channels = [self._numbers(name, steps, start) for name in self.variables]
        with_channels = len(channels) == 1 and channels[0].ndim == 3
        values = channels[0] if with_channels else np.stack(channels, axis=-1)
        values = values.astype(self._dtype, copy=False)
        observed = np.isfinite(values)
        if self._flagged:
            flag = self._open()["observed"][steps].values.astype(bool)
            observed &= flag.reshape(values.shape)
        if self._mask is not None:
            observed = self._masked(observed, steps, start)
        covariates = self._covariates(steps, start) if self.covariate_names else None

        def of_nodes(array: np.ndarray) -> Tensor:
            tensor = torch.from_numpy(array)
            return tensor if nodes is None else tensor[:, nodes]

        return of_nodes(values), of_nodes(observed), None if covariates is None else of_nodes(covariates)

    def _masked(self, observed: np.ndarray, steps: slice, start: int) -> np.ndarray:
        """Returns the mask of :meth:`with_observed`; raises if it is True where there is no measurement."""
        assert self._mask is not None
        mask = self._mask[steps].numpy()
        invalid = mask & ~observed
        if invalid.any():
            t, v, c = (int(i) for i in np.unravel_index(int(invalid.argmax()), invalid.shape))
            raise ValueError(
                f"observed must be False where {self.path} has no value; at step {start + t}, node "
                f"{self.nodes[v]!r} and channel {self.channels[c]!r} it is True."
            )
        return mask

    def _covariates(self, steps: slice, start: int) -> np.ndarray:
        """Returns some steps of the covariates; raises if one is missing."""
        numbers = self._numbers("covariates", steps, start)
        if np.isnan(numbers).any():
            t, v, f = (int(i) for i in np.unravel_index(int(np.isnan(numbers).argmax()), numbers.shape))
            raise ValueError(
                f"{self.path}: covariates must have a value at every step and node; at step {start + t} and "
                f"node {v} (counted from 0), {self.covariate_names[f]!r} has none. Fill it in."
            )
        return numbers

    def _numbers(self, name: str, steps: slice, start: int) -> np.ndarray:
        """Returns some steps of a variable, with NaN for missing values; raises if a value is infinite."""
        numbers = floating(self._open()[name][steps].values)
        too_large = np.abs(numbers) > LARGEST
        if too_large.any():
            t, v = np.unravel_index(int(too_large.argmax()), numbers.shape)[:2]
            raise ValueError(
                f"{self.path}: values must be finite and below 3e38 in magnitude; at step {start + t} and "
                f"node {v} (counted from 0), one of {name!r} is not. Use NaN for missing values."
            )
        return numbers

    def _open(self) -> Mapping[Any, xr.Variable]:
        """Returns the lazily read variables of the file, which this process opens on first use."""
        # an open netCDF file must not be shared between processes
        if self._file is None or self._process != os.getpid():
            # the constructor has checked the file
            with distant_years():
                self._file = xr.open_dataset(
                    self.path.absolute(), engine="netcdf4", cache=False, decode_timedelta=False
                )
            self._process = os.getpid()
        return self._file.variables
