"""A series in a netCDF file, larger than memory: windows and parts are read when they are asked for."""

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

from tsgen.data.graphs import check_graph
from tsgen.data.series import GraphSeries, Series, check_labels, graph_in, labels_in


class _Form(NamedTuple):
    """What a variable of a file looks like: its dimensions, its kind of numbers and its unit."""

    dims: tuple[str, ...]
    kind: str
    unit: str


def _opened(path: Path) -> xr.Dataset:
    """The file, decoded as one that is read whole; nothing is read, and nothing that was read is kept."""
    return xr.open_dataset(path, engine="netcdf4", cache=False, decode_timedelta=False)


def _described(path: Path) -> tuple[dict[str, _Form], dict[str, int], xr.Dataset]:
    """What a file has with dimensions time and node, the sizes of its dimensions, and all else, read."""
    try:
        with _opened(path) as data:
            large = [
                name for name, variable in data.data_vars.items() if {"time", "node"} <= set(variable.dims)
            ]
            forms = {
                str(name): _Form(
                    tuple(map(str, data[name].dims)),
                    data[name].dtype.kind,
                    str(data[name].attrs.get("units", "")),
                )
                for name in large
            }
            return forms, {str(name): n for name, n in data.sizes.items()}, data.drop_vars(large).load()
    # what decoding a broken file raises is anyone's guess
    except (OSError, RuntimeError, ValueError, TypeError, ArithmeticError, LookupError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as netCDF: {reason}.") from error


class StoredSeries(Series):
    """A series in a netCDF file; memory holds its labels and its graph only.

    :meth:`windows`, :meth:`chunk` and :meth:`chunks` read what they return; ``values``, ``observed`` and
    ``covariates`` are there, and read all of the file. Each process opens the file for itself, so that the
    workers of a data loader read side by side. The file must not be changed meanwhile.

    A window is read at once, so reading is fast where the file's chunks hold few steps and all nodes
    (``docs/large_series.md``). The file has dimensions time, node and, unless there is one channel, channel,
    in this order. NaN and the fill value stand for what was not observed, and ``observed``, if the file has
    it, is False there too.

    Args:
        path: The file.
        variables: Its variables of measurements, each with dimensions time and node, one for each channel;
            ``values`` if not given.
        graph: The graph, or what makes it of the nodes' names; that of the file, in ``edge_source``,
            ``edge_target`` and perhaps ``edge_weight``, if not given.
        units: Unit of each channel; the file's if not given.

    Raises:
        ValueError: If the file lacks something or has another form; when it is read, if a value is infinite
            or a covariate missing.
    """

    def __init__(
        self,
        path: str | Path,
        variables: Sequence[str] | None = None,
        graph: Data | Callable[[list[str]], Data | None] | None = None,
        units: Sequence[str] | None = None,
    ) -> None:
        self.path, self.variables = Path(path), list(variables or ["values"])
        self._file: xr.Dataset | None = None
        self._process = -1
        self._mask: Tensor | None = None
        forms, sizes, rest = _described(self.path)
        self._check_forms(forms)
        self._flagged = "observed" in forms and self.variables == ["values"]
        told = labels_in(rest)
        with_channels = len(forms[self.variables[0]].dims) == 3
        if not with_channels:
            told["channels"] = self.variables
            told["units"] = [forms[name].unit for name in self.variables]
        elif not told["units"]:
            told["units"] = sizes["channel"] * [forms["values"].unit]
        if units is not None:
            told["units"] = units
        if "covariates" not in forms:
            told["covariate_names"] = ()
        lengths = (
            sizes["time"],
            sizes["node"],
            sizes["channel"] if with_channels else len(self.variables),
            sizes["covariate"] if "covariates" in forms else 0,
        )
        self.time, self.nodes, self.channels, self.units, self.covariate_names = check_labels(lengths, **told)
        made = graph(list(self.nodes)) if callable(graph) else graph
        if made is None and not {"edge_source", "edge_target"} <= set(rest.variables):
            raise ValueError(
                f"{self.path} has no graph of its own, which is edge_source and edge_target; give one."
            )
        self.graph = check_graph(graph_in(rest, len(self.nodes)) if made is None else made, len(self.nodes))

    def _check_forms(self, forms: Mapping[str, _Form]) -> None:
        """Raises unless the variables are there, hold numbers and have their dimensions in order."""
        for name in self.variables:
            if name not in forms:
                there = ", ".join([*forms][:10]) or "none"
                raise ValueError(
                    f"{self.path} must have the variable {name!r} with dimensions time and node; it has "
                    f"{there}."
                )
        whole = ("time", "node", "channel") if self.variables == ["values"] else ("time", "node")
        wanted = dict.fromkeys(self.variables, whole) | {"observed": whole}
        if whole[2:] and len(forms["values"].dims) == 2:
            wanted = {"values": whole[:2], "observed": whole[:2]}
        wanted["covariates"] = ("time", "node", "covariate")
        for name, dims in wanted.items():
            form = forms.get(name)
            if form is not None and (form.dims != dims or form.kind not in "fiub"):
                raise ValueError(
                    f"{self.path}: {name!r} must hold numbers and have the dimensions {', '.join(dims)} in "
                    f"this order, so that a window can be read at once; it has {', '.join(form.dims)}. "
                    "Transpose or rename yours."
                )

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: it opens the file itself."""
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
        """Where a measurement exists, for all of the series."""
        return self._read(slice(None))[1]

    @property
    def covariates(self) -> Tensor | None:
        """All covariates, read into memory."""
        return self._read(slice(None))[2]

    @property
    def dtype(self) -> torch.dtype:
        """float32, whatever the file has."""
        return torch.float32

    def chunk(self, steps: slice) -> GraphSeries:
        """Some steps of the series, read into memory."""
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
        known = None if covariates[0] is None else torch.stack(covariates)
        return torch.stack(values), torch.stack(observed), known

    def _read(self, steps: slice, nodes: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Values, where they were observed, and covariates of some steps."""
        start = steps.indices(len(self))[0]
        read = [self._numbers(name, steps, start) for name in self.variables]
        values = read[0] if len(read) == 1 and read[0].ndim == 3 else np.stack(read, axis=-1)
        observed = np.isfinite(values)
        if self._flagged:
            flag = self._open()["observed"][steps].values.astype(bool)
            observed &= flag.reshape(values.shape)
        if self._mask is not None:
            observed = self._masked(observed, steps, start)
        known = self._known(steps, start) if self.covariate_names else None
        arrays = [None if array is None else torch.from_numpy(array) for array in (values, observed, known)]
        if nodes is not None:
            arrays = [None if array is None else array[:, nodes] for array in arrays]
        return tuple(arrays)  # type: ignore[return-value]

    def _masked(self, observed: np.ndarray, steps: slice, start: int) -> np.ndarray:
        """Returns the mask of :meth:`with_observed`, which must not hold more than was measured."""
        assert self._mask is not None
        mask = self._mask[steps].numpy()
        wrong = mask & ~observed
        if wrong.any():
            t, v, c = (int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))
            raise ValueError(
                f"observed must be False where {self.path} has no value; at step {start + t}, node "
                f"{self.nodes[v]!r} and channel {self.channels[c]!r} it is True."
            )
        return mask

    def _known(self, steps: slice, start: int) -> np.ndarray:
        """Some steps of the covariates."""
        numbers = self._numbers("covariates", steps, start)
        if np.isnan(numbers).any():
            t, v, f = (int(i) for i in np.unravel_index(int(np.isnan(numbers).argmax()), numbers.shape))
            raise ValueError(
                f"{self.path}, step {start + t} and node {v} (counted from 0): no value for the covariate "
                f"{self.covariate_names[f]!r}, which must be known at every time and node. Add it."
            )
        return numbers

    def _numbers(self, name: str, steps: slice, start: int) -> np.ndarray:
        """Some steps of a variable, NaN where there is none."""
        with np.errstate(over="ignore"):
            numbers = self._open()[name][steps].values.astype(np.float32)
        if np.isinf(numbers).any():
            t, v = np.unravel_index(int(np.isinf(numbers).argmax()), numbers.shape)[:2]
            raise ValueError(
                f"{self.path}, step {start + t} and node {v} (counted from 0), variable {name!r}: a value is "
                "infinite or beyond 3e38; use NaN for missing values."
            )
        return numbers

    def _open(self) -> Mapping[Any, xr.Variable]:
        """The file's variables, which read what is asked of them, the file opened by this process."""
        # the library must not share an open file between processes
        if self._file is None or self._process != os.getpid():
            self._file, self._process = _opened(self.path), os.getpid()
        return self._file.variables
