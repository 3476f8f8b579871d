"""Traffic speeds in Los Angeles and the Bay Area, hidden and scored as in the imputation papers."""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import Any, Literal, NamedTuple
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipInfo

import h5py
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch_geometric.data import Data

from tsgen.data.graphs import from_edges
from tsgen.data.masks import GRINMask, Mask, hold_out
from tsgen.data.series import GraphSeries
from tsgen.data.times import parse_times
from tsgen.datamodules.windows import SeriesDataModule, Split, calendar, split_in_time
from tsgen.readers.downloads import check_source, fetch_missing
from tsgen.readers.pickles import read_pickle
from tsgen.readers.regular_times import regular_grid
from tsgen.readers.tables import first_line, name_list
from tsgen.storage.display import quoted
from tsgen.storage.hdf5 import check_contents
from tsgen.storage.unpacking import check_unpacked

THRESHOLD = 0.1
"""Edges with a smaller weight are dropped, as published."""

NPZ_ERRORS = (
    # a damaged archive
    *(OSError, BadZipFile, zlib.error, EOFError, RuntimeError),
    # an array whose announced size exceeds the memory
    MemoryError,
    # a missing array, or an invalid start or step
    *(LookupError, TypeError, ValueError, AttributeError, ArithmeticError),
)
"""Exceptions that reading a damaged extract raises."""


class _Published(NamedTuple):
    """The names that the files of a network may have, and the published seed of its masks."""

    speeds: tuple[str, ...]
    graph: tuple[str, ...]
    seed: int


NETWORKS = {
    "metr_la": _Published(("metr-la.h5", "metr_la_first10_full.npz"), ("adj_mx.pkl",), 9101112),
    "pems_bay": _Published(("pems-bay.h5",), ("adj_mx_bay.pkl", "adj_mx.pkl"), 56789),
}


class TrafficDataModule(SeriesDataModule):
    r"""Traffic speed in mph every 5 minutes: METR-LA (207 sensors, 4 months) or PEMS-BAY (325, 6 months).

    A speed of zero is a missing value (GRIN's code keeps zeros of PEMS-BAY), and steps that the file leaves
    out are inserted, unobserved. The first 70 % of the time is for training, the next 10 % for validation and
    the last 20 % for the test. Held-out entries are scored in validation and test; in the training stretch
    they count as never measured, because no published method has seen them. The graph is the published one:
    directed, a Gaussian kernel of the distances along the road from the sensor of a row to that of a column,
    without weights below 0.1 and without self-loops. Covariates: hour of day and day of week, each as a point
    on a circle.

    The pickle with the graph is read without running any code in it (:mod:`tsgen.readers.pickles`).

    Args:
        root: Folder with ``metr-la.h5`` and ``adj_mx.pkl``, or ``pems-bay.h5`` and ``adj_mx_bay.pkl`` (or
            ``adj_mx.pkl``); or with an extract, ``metr_la_first10_full.npz``, instead of ``metr-la.h5``.
        network: The network.
        held_out: Entries that are hidden and scored; by default GRIN's point missing, 25 % of the entries,
            with the seed published for the network. Block missing is ``GRINMask(0.05, 0.0015, seed)``.
        predict_on: The split that ``predict`` imputes, or the whole series.
        url: Address of a folder on the web with ``metr-la.h5`` and ``adj_mx.pkl``, or ``pems-bay.h5`` and
            ``adj_mx_bay.pkl``: the files that ``root`` lacks are downloaded from it.
        checksums: SHA-256 of files, by name, which downloads must have.
        options: Options of every data module, such as ``stride``: see
            :class:`~tsgen.datamodules.windows.SeriesDataModule`.

    Raises:
        ValueError: If ``network`` is unknown, or a file is missing, damaged or of another network.

    References:
        Diffusion convolutional recurrent neural network: data-driven traffic forecasting (Li et al., 2018);
        Filling the g_ap_s: multivariate time series imputation by graph neural networks (Cini et al., 2022).
    """

    def __init__(
        self,
        root: str,
        network: Literal["metr_la", "pems_bay"] = "metr_la",
        held_out: Mask | None = None,
        predict_on: Literal["train", "val", "test", "all"] = "test",
        url: str | None = None,
        checksums: dict[str, str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(predict_on=predict_on, **options)
        if network not in NETWORKS:
            raise ValueError(f"network must be one of {', '.join(NETWORKS)}; got {network!r}.")
        check_source(url, checksums)
        self.url, self.checksums = url, checksums
        self.root, self.published = Path(root), NETWORKS[network]
        self.held_out = held_out or GRINMask(seed=self.published.seed)

    def load(self) -> Split:
        """Reads the speeds and the graph, downloading missing files."""
        for names in (self.published.speeds, self.published.graph):
            if not any((self.root / name).is_file() for name in names):
                fetch_missing(self.root, names[:1], self.url, self.checksums)
        path = _found(self.root, self.published.speeds)
        table = (_read_hdf5 if path.suffix == ".h5" else _read_npz)(path)
        graph = _read_graph(_found(self.root, self.published.graph), list(table.columns), path)
        speeds = torch.from_numpy(table.to_numpy(np.float32, copy=True))[..., None]
        series = GraphSeries(
            values=speeds,
            observed=torch.isfinite(speeds) & (speeds != 0),
            graph=graph,
            covariates=calendar(pd.DatetimeIndex(table.index), len(table.columns)),
            time=table.index.to_numpy(),
            nodes=list(table.columns),
            channels=["speed"],
            units=["mph"],
            covariate_names=["hour_sin", "hour_cos", "weekday_sin", "weekday_cos"],
        )
        train, val, test = split_in_time(len(table), 0.1, 0.2)
        held_out = hold_out(self.held_out, series.values, series.observed, self.seed)
        for stretch in train:
            series.observed[stretch] &= ~held_out[stretch]
            held_out[stretch] = False
        return Split(series, train, val, test, held_out)


def _found(root: Path, names: tuple[str, ...]) -> Path:
    """Returns the first of the files that exists."""
    for name in names:
        if (root / name).is_file():
            return root / name
    raise ValueError(
        f"{root} must be a folder with {' or '.join(names)}; it has none. Set data.root to the folder of the "
        "files (or data.url to the address of a mirror), and data.network to metr_la or pems_bay."
    )


def _read_hdf5(path: Path) -> pd.DataFrame:
    """Returns the table in an HDF5 file in the layout of pandas (``format="fixed"``): block and axes."""
    try:
        check_contents(path)
        with h5py.File(path) as file:
            groups = [g for g in file.values() if isinstance(g, h5py.Group) and "block0_values" in g]
            if len(groups) != 1 or "block1_values" in groups[0]:
                raise ValueError("it must hold one table, in the fixed format of pandas")
            group = groups[0]
            arrays = [group[name] for name in ("block0_items", "axis1", "block0_values")]
            if any(
                array.dtype.kind not in kinds for array, kinds in zip(arrays, ("SiU", "i", "f"), strict=True)
            ):
                raise ValueError("its ids must be text or integers, its times dates and its speeds numbers")
            ids, times, speeds = (array[:] for array in arrays)
            # pandas writes no unit for nanoseconds
            unit = re.search(r"datetime64\[(s|ms|us|ns)\]", str(group["axis1"].attrs.get("kind", "")))
    # a missing item is a KeyError, damage an OSError or a RuntimeError
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise _damaged(path, first_line(error)) from error
    names = [i.decode("latin1") if isinstance(i, bytes) else str(i) for i in ids.tolist()]
    return _table(path, times.astype(f"datetime64[{unit[1] if unit else 'ns'}]"), names, speeds)


def _read_npz(path: Path) -> pd.DataFrame:
    """Returns the table in an extract with ``speed``, ``sensor_ids``, ``start`` and ``freq``."""
    try:
        with np.load(path, allow_pickle=False) as file:
            _check_packed(path, file.zip.infolist())
            speeds, ids, start, step = (file[name] for name in ("speed", "sensor_ids", "start", "freq"))
        # an array whose entries take zero bytes may announce any length
        if speeds.shape != (len(speeds), ids.size) or not speeds.size:
            raise ValueError(
                f"{len(speeds)} times and {ids.size} ids do not fit speeds of shape {speeds.shape}"
            )
        times = pd.date_range(str(start), periods=len(speeds), freq=str(step)).to_numpy()
    except NPZ_ERRORS as error:
        raise _damaged(path, first_line(error)) from error
    return _table(path, times, [str(i) for i in ids.ravel()], speeds)


def _check_packed(path: Path, entries: list[ZipInfo]) -> None:
    """Raises if an archive decompresses to too many bytes."""
    check_unpacked(path, sum(entry.file_size for entry in entries))
    if any(entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED) for entry in entries):
        raise ValueError("it is compressed by a method that NumPy does not use")


def _table(path: Path, times: np.ndarray, names: list[str], speeds: np.ndarray) -> pd.DataFrame:
    """Returns the speeds at regular times, one column per sensor; NaN at steps that the file leaves out."""
    if speeds.shape != (len(times), len(names)) or not len(times):
        raise _damaged(path, f"{len(times)} times and {len(names)} ids do not fit shape {speeds.shape}")
    for what, labels in (("id", pd.Index(names)), ("time", pd.DatetimeIndex(times))):
        if labels.has_duplicates:
            raise _damaged(path, f"the {what} {quoted(labels[labels.duplicated()][0])} occurs twice")

    def error_at(_label: int, what: str) -> ValueError:
        return ValueError(f"{path}: {what}")

    place, grid = regular_grid(parse_times(times, error_at), "5min", len(names), error_at)
    filled: Float[np.ndarray, "time nodes"] = np.full((len(grid), len(names)), np.nan, dtype=np.float32)
    filled[place] = speeds
    return pd.DataFrame(filled, index=pd.DatetimeIndex(grid), columns=names)


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(f"{path} must be the published table of speeds; {what[:300]}. Get the published file.")


def _read_graph(path: Path, nodes: list[str], speeds: Path) -> Data:
    """Returns the graph in a pickle of ids, the row of each id, and a matrix of weights."""
    ids, weight = _adjacency(path)
    unknown, extra = sorted(set(nodes) - set(ids)), sorted(set(ids) - set(nodes))
    if unknown or extra:
        difference = (
            f"it lacks {name_list(unknown)}" if unknown else f"{speeds.name} lacks {name_list(extra)}"
        )
        raise ValueError(
            f"{path} must have the sensors of {speeds.name}; {difference}. Put the files of one network "
            "into the folder."
        )
    row = [ids[name] for name in nodes]
    weight = weight[np.ix_(row, row)].astype(np.float64)
    np.fill_diagonal(weight, 0)
    source, target = np.nonzero(weight >= THRESHOLD)
    return from_edges(source, target, weight[source, target], num_nodes=len(nodes))


def _adjacency(path: Path) -> tuple[dict[str, int], np.ndarray]:
    """Returns the row of each id, and the matrix."""
    found = read_pickle(path)
    if not isinstance(found, (list, tuple)) or len(found) != 3:
        raise ValueError(f"{path} must hold three objects: ids, the row of each id, and a matrix of weights.")
    _, rows, weight = found
    if not isinstance(rows, dict) or not isinstance(weight, np.ndarray) or weight.dtype.kind not in "fiu":
        raise ValueError(f"{path} must hold ids, the row of each id, and a matrix of weights, in this order.")
    numbered = all(type(row) is int for row in rows.values()) and {*rows.values()} == {*range(len(rows))}
    if weight.shape != (len(rows), len(rows)) or not numbered:
        raise ValueError(
            f"{path} must hold a square matrix with a row for each id; it has {len(rows)} ids and a matrix "
            f"of shape {list(weight.shape)}."
        )
    if not (np.isfinite(weight) & (weight >= 0)).all():
        raise ValueError(f"{path} must hold weights that are finite and not negative; some are not.")
    return {str(name): row for name, row in rows.items()}, weight
