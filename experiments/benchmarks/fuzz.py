"""Tests with damaged files that every reader either reads a file or raises an error of one line.

    python -m experiments.benchmarks.fuzz 10000

Each reader gets small valid files that were damaged: bytes are changed, cut off, inserted, or spliced with
those of another file; in text and tables, rows are duplicated and cells replaced by invalid values (numbers
that are too large, times of other eras, other encodings, nothing). A reader must return data or raise a
``ValueError`` of one line. Anything else is a finding: another exception, a message of several lines, a case
that takes too long or too much memory, a reader whose process dies.

Other readers, whose names begin with "hostile", get files that are well formed and made to do harm: that name
other files of the user, announce or unpack to far more than they contain, describe a model of any size, or
hang an unpickler. They must all be refused.

Cases run in child processes, a few hundred in each, so that if a C library crashes, the case is reported and
the next ones still run. A case is determined by its reader, its number and the seed; ``python -m
experiments.benchmarks.fuzz --case csv 1234`` writes its file.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import resource
import select
import signal
import sys
import tempfile
import traceback
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import h5py
import numpy as np
import pandas as pd
import torch
import xarray as xr

import tsgen.cli.commands  # noqa: F401 (sets the YAML loader of the parser)
from datamodules import TrafficDataModule
from experiments.benchmarks.harness import arguments
from tsgen import AutoregressiveModel, load
from tsgen.cli.arguments import parse
from tsgen.cli.variants import read_study
from tsgen.counter_random import streams, uniforms
from tsgen.datamodules import FilesDataModule, SyntheticDataModule
from tsgen.encoders import WindowEncoder
from tsgen.heads import GaussianHead

T = TypeVar("T")

SECONDS: float = 20
"""The time limit of a case in seconds, generous enough for a busy machine."""

MEMORY = 2**33
"""Bytes of address space that a case may use beyond those of the process; Arrow alone reserves some GiB."""

BATCH = 250
"""Cases per process."""

SEED = 1

CSV = "time,node,pm\n" + "".join(f"2024-01-01T{t:02},{v},{t + 0.5}\n" for t in range(6) for v in "ab")
WIDE = "time,a,b\n" + "".join(f"{t},{t}.5,{-t}\n" for t in range(6))
EDGES = "source,target,weight\na,b,1.5\nb,a,2\n"
PLACES = "node,latitude,longitude\na,52.5,13.3\nb,52.4,13.5\n"
YAML = """seed_everything: 1
trainer: &t {max_epochs: 2, callbacks: [{class_path: lightning.pytorch.callbacks.Timer}]}
model.encoder.hidden: 1e-3
variants:
  one: {config: encoders/gru, data.fold: 1}
  two: {trainer: *t}
"""

ODD = [
    *(
        "",
        " ",
        "nan",
        "-inf",
        "inf",
        "1e999",
        "-1e308",
        "9" * 400,
        "0x1f",
        "1_000",
        "１２",
        "1,5",
        "½",
        "é",
        "\x00",
    ),
    *("1677-09-21", "2262-04-12T00", "0000-00-00", "99999-01-01", "2024-02-30", "2024-01-01T25", "-5", "1e9"),
    *(
        "9223372036854775807",
        "-9223372036854775808",
        "18446744073709551616",
        "2024-01-01T00+99:99",
        "NaT",
        "true",
    ),
    *(
        '"',
        '"a',
        "a\nb",
        "\r",
        "\ufeff",
        "\u202e",
        "a" * 5000,
        "a,b,c,d",
        "null",
        "[1]",
        "{}",
        "*t",
        "&t [*t]",
    ),
    *(
        "!!python/object/apply:os.system [x]",
        "os.system",
        "<<: *t",
        "!!binary aaaa",
        "!!set {a}",
        "? [1]",
        "- " * 300,
    ),
]
"""Cells that are invalid in the table or configuration that they are put into."""

BYTES = [
    b"\x00",
    b"\xff",
    b"\x80",
    b"\x7f\xff\xff\xff",
    b"\xff" * 8,
    b"\x00" * 8,
    b"\xef\xbb\xbf",
    b"\n",
    b'"',
    b",",
]


class Random:
    """Random numbers of one case, determined by the address of the case alone."""

    def __init__(self, *address: int) -> None:
        keys = [torch.tensor(key) for key in address[1:]]
        self._numbers = iter(uniforms(streams(address[0], *keys), (400,), dtype=torch.float64).tolist())

    def below(self, number: int) -> int:
        """Returns a whole number from 0 to ``number - 1``."""
        return int(next(self._numbers) * number)

    def one_of(self, things: Sequence[T]) -> T:
        """Returns a random item of a sequence."""
        return things[self.below(len(things))]


# ---------------------------------------------------------------------------------------------- breaking


def break_bytes(content: bytes, random: Random) -> bytes:
    """Returns a file with some of its bytes changed, removed, replaced, inserted or cut off."""
    for _ in range(1 + random.below(4)):
        at, length = random.below(len(content) + 1), 1 + random.below(1 + random.below(64))
        kind = random.below(7)
        if kind == 0:
            content = content[:at]
        elif kind == 1:
            content = content[:at] + content[at + length :]
        elif kind == 2:
            content = content[:at] + random.one_of(BYTES) + content[at:]
        elif kind == 3:
            other = random.below(len(content) + 1)
            content = content[:at] + content[other : other + length] + content[at + length :]
        else:
            content = content[:at] + bytes([random.below(256)]) + content[at + 1 :]
    return content


def break_text(content: bytes, random: Random) -> bytes:
    """Returns a table or a configuration with rows and cells changed, sometimes in another encoding."""
    lines = content.decode().split("\n")
    for _ in range(1 + random.below(3)):
        at, kind = random.below(len(lines)), random.below(8)
        if kind == 0:
            lines.insert(random.below(len(lines)), lines[at])
        elif kind == 1:
            del lines[at]
            lines = lines or [""]
        elif kind == 2:
            lines[at] += random.one_of([",1", ",", ";", "\t", '"', "\r"])
        elif kind == 3:
            lines = lines[: 1 + random.below(3)]
        else:
            # cells of a table, or a key and a value
            separator = random.one_of([",", ": "])
            cells = lines[at].split(separator)
            cells[random.below(len(cells))] = random.one_of(ODD)
            lines[at] = separator.join(cells)
    encoding = random.one_of(["utf-8"] * 9 + ["utf-8-sig", "utf-16", "latin-1"])
    return "\n".join(lines).encode(encoding, "replace")


def numbers(random: Random, shape: tuple[int, ...]) -> np.ndarray:
    """Returns an array of numbers of a random type, some of them extreme."""
    size = int(np.prod(shape))
    extreme = [0.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 1e300, -1e300, 5e-324, 2.0**63, 59.5]
    plain = [float(random.below(99)) for _ in range(4)]
    values = np.array([random.one_of(plain * 4 + extreme) for _ in range(min(size, 24))] * (size // 24 + 1))
    with np.errstate(all="ignore"):
        return values[:size].reshape(shape).astype(random.one_of(["f8", "f4", "f2", "i8", "i4", "u1", "?"]))


def labels(random: Random, size: int) -> list[object]:
    """Returns times or names of a random kind, regular or not."""
    kinds: list[Callable[[], list[object]]] = [
        lambda: list(range(size)),
        lambda: list(pd.date_range("2024", periods=size, freq="h")),
        lambda: list(pd.date_range("2024", periods=size, freq="h", tz="Europe/Berlin")),
        lambda: [float(i) for i in range(size)],
        lambda: [str(random.one_of(ODD)).replace("\x00", "") for _ in range(size)],
        lambda: ["ab"[i % 2] for i in range(size)],
        lambda: [random.one_of([0, 1, 2**62, -(2**62)]) for _ in range(size)],
        lambda: [None] * size,
        lambda: [b"a"] * size,
        lambda: list(np.array([random.one_of([0, 10**9, 2**40]) for _ in range(size)], "M8[s]")),
    ]
    return random.one_of(kinds[:3] * 4 + kinds)()


# ------------------------------------------------------------------------------------------------- readers


def _frame(random: Random) -> bytes:
    rows = random.below(9)
    table: dict[str, list[object] | np.ndarray] = {
        "time": labels(random, rows),
        "node": labels(random, rows),
    }
    for name in ("pm", random.one_of(["x", "", "time ", "é"])):
        table[name] = numbers(random, (rows,))
    frame = pd.DataFrame(table)
    if random.below(3) == 0:
        frame = frame.drop(columns=random.one_of(list(frame)))
    if random.below(5) == 0 and len(frame.columns):
        column = random.one_of(list(frame))
        frame[column] = frame[column].astype("category")
    file = io.BytesIO()
    frame.to_parquet(file)
    return file.getvalue()


def _parquet() -> bytes:
    file = io.BytesIO()
    pd.read_csv(io.StringIO(CSV)).to_parquet(file)
    return file.getvalue()


def _netcdf(random: Random | None = None) -> bytes:
    if random is None:
        data = xr.Dataset(
            {
                "pm": (("time", "node"), np.arange(12.0).reshape(6, 2), {"units": "ppb"}),
                "edge_source": ("edge", [0, 1]),
                "edge_target": ("edge", [1, 0]),
                "edge_weight": ("edge", [1.0, 2.0]),
            },
            {"time": np.arange(6), "node": ["a", "b"]},
        )
    else:
        steps, nodes, edges = random.below(6), random.below(4), random.below(4)
        dims = [("time", steps), ("node", nodes), ("channel", 1 + random.below(2)), ("edge", edges)]
        data = xr.Dataset()
        for name in (
            "pm",
            "values",
            "observed",
            "covariates",
            "edge_source",
            "edge_target",
            "edge_weight",
            "position",
        ):
            if random.below(3):
                chosen = (
                    [dims[3]] if name.startswith("edge") and random.below(4) else dims[: 1 + random.below(3)]
                )
                shape = tuple(size for _, size in chosen)
                data[name] = (tuple(d for d, _ in chosen), numbers(random, shape))
        for name in ("time", "node", "channel"):
            if name in data.sizes and random.below(3):
                values = labels(random, data.sizes[name])
                values = [str(v) for v in values] if None in values else values
                data = data.assign_coords({name: xr.Variable((name,), np.asarray(values))})
        if "time" in data and random.below(4) == 0:
            units = random.one_of(
                ["days since 2000-01-01", "hours since 0000-00-00", "eons since x", "seconds"]
            )
            calendar = random.one_of(["standard", "360_day", "noleap", "x"])
            data["time"].attrs |= {"units": units, "calendar": calendar}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.nc"
        data.to_netcdf(path)
        return path.read_bytes()


def _stored_netcdf(random: Random | None = None) -> bytes:
    """Returns a file as :func:`_netcdf` does, with the variables that a stored series has."""
    if random is not None and random.below(2):
        return _netcdf(random)
    steps, nodes = 12, 2
    data = xr.Dataset(
        {
            "values": (("time", "node"), np.arange(24.0).reshape(steps, nodes), {"units": "ppb"}),
            "observed": (("time", "node"), np.ones((steps, nodes), dtype=bool)),
            "covariates": (("time", "node", "covariate"), np.ones((steps, nodes, 1))),
            "edge_source": ("edge", [0, 1]),
            "edge_target": ("edge", [1, 0]),
            "edge_weight": ("edge", [1.0, 2.0]),
        },
        {"time": np.arange(steps), "node": ["a", "b"]},
    )
    if random is not None:
        name = random.one_of([str(name) for name in data.variables])
        form = data[name]
        if random.below(4) == 0:
            data = data.drop_vars(name)
        elif name in data.dims:
            values = labels(random, form.size)
            values = [str(v) for v in values] if None in values else values
            data = data.assign_coords({name: xr.Variable(form.dims, np.asarray(values))})
        else:
            data[name] = (form.dims, numbers(random, form.shape))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.nc"
        data.to_netcdf(path)
        return path.read_bytes()


def _hdf5(random: Random | None = None) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as h5:
        group = h5.create_group("df")
        steps, ids = (9, 2) if random is None else (random.below(9), random.below(4))
        times = 1_330_560_000 * 10**9 + 300 * 10**9 * np.arange(steps)
        arrays = {
            "block0_items": np.array([f"{i}".encode() for i in range(ids)], dtype="S3"),
            "axis1": times,
            "block0_values": np.full((steps, ids), 55.5),
        }
        if random is not None:
            name = random.one_of(list(arrays))
            arrays[name] = numbers(random, tuple(random.below(9) for _ in range(random.below(4))))
            if random.below(4) == 0:
                del arrays[random.one_of(list(arrays))]
        for name, value in arrays.items():
            group[name] = value
        if "axis1" in group:
            kinds = ["datetime64", "datetime64[s]", "datetime64[Y]", "datetime64[x]", "datetime64[as]"]
            group["axis1"].attrs["kind"] = np.bytes_("datetime64" if random is None else random.one_of(kinds))
    return file.getvalue()


def _npz(random: Random | None = None) -> bytes:
    # untyped: the stub of numpy would take a typed dictionary for the option allow_pickle as well
    arrays: dict = {
        "speed": np.full((9, 2), 55.5),
        "sensor_ids": np.array(["0", "1"]),
        "start": np.array("2012-03-01"),
        "freq": np.array("5min"),
    }
    if random is not None:
        name = random.one_of(list(arrays))
        arrays[name] = numbers(random, tuple(random.below(9) for _ in range(random.below(4))))
        if random.below(3) == 0:
            arrays[random.one_of(list(arrays))] = np.array(random.one_of(ODD[:40]))
    file = io.BytesIO()
    (np.savez_compressed if random is not None and random.below(2) else np.savez)(file, **arrays)
    return file.getvalue()


def _graph_pickle() -> bytes:
    return pickle.dumps([["0", "1"], {"0": 0, "1": 1}, np.ones((2, 2), np.float32)], protocol=2)


def _checkpoint(random: Random | None = None) -> bytes:
    if not _MADE:
        spec = SyntheticDataModule(steps=60, num_nodes=3).spec
        with torch.random.fork_rng():
            torch.manual_seed(0)  # so that a case is the same in every process
            model = AutoregressiveModel(spec, encoder=WindowEncoder, head=GaussianHead)
        file = io.BytesIO()
        torch.save({"state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams)}, file)
        _MADE.append(file.getvalue())
    if random is None:
        return _MADE[0]
    state = torch.load(io.BytesIO(_MADE[0]), weights_only=True)
    for _ in range(1 + random.below(2)):
        _break_inside(state, random)
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


_MADE: list[bytes] = []


def _break_inside(state: dict | list, random: Random) -> None:
    """Replaces a random value at a random depth of nested containers; the outermost one is not empty."""
    key = random.one_of(list(state) if isinstance(state, dict) else range(len(state)))
    inner = state[key]
    if isinstance(inner, (dict, list)) and inner and random.below(8):
        _break_inside(inner, random)
        return
    state[key] = random.one_of(
        [
            *(None, 0, -1, 2**70, 1e300, "x", "os.system", [], {}, [1, [2]]),
            *(torch.zeros(0), torch.ones(2, 3), torch.full((3,), torch.nan)),
            {"class_path": "os.system", "init_args": {}},
            {"class_path": "tsgen.heads.x"},
            {"instance_of": "tsgen.data.SeriesSpec"},
            {"class_path": 3},
            {"class_path": "tsgen", "init_args": 7},
        ]
    )


def _virtual(file: h5py.File, secret: Path | str) -> None:
    layout = h5py.VirtualLayout((24,), "f8")
    layout[:] = h5py.VirtualSource(str(secret), "x", (24,))
    file.create_virtual_dataset("x", layout)


def _of_unknown_filter(file: h5py.File, secret: Path | str) -> None:
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_chunk((8,))
    settings.set_filter(32_004, h5py.h5z.FLAG_OPTIONAL)  # LZ4, which the library would look for as a plugin
    h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_DOUBLE, h5py.h5s.create_simple((8,)), settings)


OTHER_FILES: dict[str, Callable[[h5py.File, Path | str], object]] = {
    "external": lambda file, secret: file.create_dataset("x", (24,), "f8", external=[(str(secret), 0, 192)]),
    "external values": lambda file, secret: _replace_values(file, external=[(str(secret), 0, 192)]),
    "virtual": _virtual,
    "external link": lambda file, secret: file.update({"x": h5py.ExternalLink(str(secret), "/x")}),
    "soft link": lambda file, secret: file.update({"x": h5py.SoftLink("/node")}),
    "in a group": lambda file, secret: file.create_group("a/b").create_dataset(
        "x", (24,), "f8", external=[(str(secret), 0, 192)]
    ),
    "filter": _of_unknown_filter,
}
"""What makes an HDF5 file read another file: functions of the file and of the path of the other file."""


def _replace_values(file: h5py.File, **options: Any) -> None:
    """Replaces the values of a valid file, keeping their dimensions."""
    scales = [dimension[0] for dimension in file["values"].dims] if "values" in file else []
    if "values" in file:
        del file["values"]
    values = file.create_dataset("values", (12, 2), "f8", **options)
    for dimension, scale in zip(values.dims, scales, strict=False):  # a file without values has no scales
        dimension.attach_scale(scale)


def _large_chunk(file: h5py.File) -> None:
    dataset = file.create_dataset("x", (8,), "f8", chunks=(8,), compression="gzip")
    dataset.id.write_direct_chunk((0,), zlib.compress(bytes(2**25)))


def _lists_of_lists(file: h5py.File) -> None:
    inner = h5py.h5t.vlen_create(h5py.h5t.vlen_create(h5py.h5t.NATIVE_INT8))
    h5py.h5d.create(file.id, b"x", inner, h5py.h5s.create_simple((2,)))


def _large_attributes(file: h5py.File) -> None:
    file.create_dataset("text", data="a" * 10**6)
    file["text"].attrs.create("x", ["b" * 10**6] + [""] * 999, dtype=h5py.string_dtype())


BOMBS: dict[str, Callable[[h5py.File], object]] = {
    "chunk": _large_chunk,
    "announced": lambda file: file.create_dataset("x", (10**12,), "f4", chunks=(1000,)),
    "lists": _lists_of_lists,
    "attributes": _large_attributes,
}
"""What makes an HDF5 file take more memory than it has bytes."""


def _hostile_hdf5(whole: Callable[[], bytes]) -> Callable[[Random], bytes]:
    """Returns a function that makes a valid file name another file."""

    def make(random: Random) -> bytes:
        file = io.BytesIO(whole())
        with h5py.File(file, "a") as h5:
            secret = random.one_of(["/etc/passwd", "/dev/zero", "../a.h5", "a.h5"])
            OTHER_FILES[random.one_of(list(OTHER_FILES))](h5, secret)
        return file.getvalue()

    return make


def _compressed(content: bytes, random: Random) -> bytes:
    """Returns a checkpoint with a member of many zeros, compressed."""
    method = random.one_of([zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    file = io.BytesIO(content)
    with zipfile.ZipFile(file, "a", method) as archive:
        archive.writestr(random.one_of(["archive/x", "archive/data/99"]), bytes(2**24))
    return file.getvalue()


def with_pickle(content: bytes, instructions: bytes) -> bytes:
    """Returns a checkpoint with these instructions instead of its own."""
    old, file = zipfile.ZipFile(io.BytesIO(content)), io.BytesIO()
    with zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            new.writestr(name, instructions if name.endswith("data.pkl") else old.read(name))
    return file.getvalue()


def _calling(random: Random) -> bytes:
    """Returns a pickle that allocates, or whose dictionary key takes years to hash."""
    kind = random.below(3)
    if kind == 0:
        name = random.one_of(
            ["__builtin__\nbytearray", "torch\nFloatTensor", "torch\nTensor", "torch\nByteStorage"]
        )
        return b"\x80\x02c" + name.encode() + b"\n\x8a\x06" + (10**13).to_bytes(6, "little") + b"\x85R."
    nested = b")q\x00" + b"".join(b"h%c\x86q%c" % (i, i + 1) for i in range(60))
    if kind == 1:
        return b"\x80\x02}" + nested + b"K\x01s."
    return b"\x80\x02c__builtin__\nset\n](" + nested + b"e\x85R."


def _hostile_checkpoint(random: Random) -> bytes:
    """Returns a checkpoint that unpacks to more than it has, hangs an unpickler, or asks for a huge model."""
    whole, kind = _checkpoint(), random.below(5)
    if kind == 0:
        return _compressed(whole, random)
    if kind == 1:
        return with_pickle(whole, _calling(random))
    state = torch.load(io.BytesIO(whole), weights_only=True)
    arguments = state["hyper_parameters"]["model"]["init_args"]
    huge = random.one_of([10**8, 10**9, 10**12, 2**62, -5, "x", 1.5, True])
    if kind == 2:
        state["hyper_parameters"]["window"] = huge if huge not in (10**8, 10**9) else 10**10
    elif kind == 3:
        expanded = torch.ones(1).expand(10**6, 10 ** random.one_of([4, 6, 9]))
        where = random.one_of([state["state_dict"], arguments["spec"]["init_args"]])
        where[random.one_of(list(where))] = expanded
    else:
        block, option = random.one_of([(name, option) for name in _SIZES for option in _SIZES[name]])
        where = arguments["spec"] if block == "spec" else {"init_args": arguments}
        if block in ("encoder", "head"):
            path, _, name = random.one_of(_SIZES[block][option]).rpartition(".")
            where = arguments[block] = {"class_path": f"{path}.{name}", "init_args": {}}
        where["init_args"][option] = huge
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


_ENCODERS = [f"tsgen.encoders.{name}" for name in ("ConvolutionEncoder", "AttentionEncoder", "WindowEncoder")]
_SIZES: dict[str, dict[str, list[str]]] = {
    "encoder": {
        "hidden": [*_ENCODERS, "tsgen.encoders.GraphGRUEncoder"],
        "layers": _ENCODERS,
        "heads": _ENCODERS[1:2],
        "kernel_size": _ENCODERS[:1],
        "repeats": _ENCODERS[:1],
        "order": _ENCODERS[2:],
    },
    "head": {"components": ["tsgen.heads.MixtureHead"], "width": ["tsgen.heads.MixtureNADEHead"]},
    "spec": {"num_covariates": []},
    "model": {"node_embedding": []},
}
"""The options that set the size of a model, and the classes that have them."""


def _files(
    name: str, layout: Literal["long", "wide"] = "long", with_edges: bool = True
) -> Callable[[Path], object]:
    """Returns a function that reads measurements, with a valid table of edges or without."""

    def read(folder: Path) -> object:
        edges = folder / "good_edges.csv"
        edges.write_text(EDGES)
        return FilesDataModule(folder / name, edges if with_edges else None, layout=layout).spec

    return read


def _stored(folder: Path) -> object:
    """Reads a series window by window; returns units, a training batch and the held-out entries."""
    data = FilesDataModule(folder / "data.nc", in_memory=False, window=2, stride=1, batch_size=2)
    return data.spec, next(iter(data.train_dataloader())), data.split.held_out


def _graph(kind: Literal["edges", "coordinates"]) -> Callable[[Path], object]:
    """Returns a function that reads a graph, with valid measurements."""

    def read(folder: Path) -> object:
        good, graph = folder / "good.csv", folder / "graph.csv"
        good.write_text(CSV)
        if kind == "edges":
            return FilesDataModule(good, edges=graph).spec
        return FilesDataModule(good, coordinates=graph).spec

    return read


def _traffic(valid: str) -> Callable[[Path], object]:
    """Returns a function that reads traffic data; it writes the one of the two files that is not broken."""

    def read(folder: Path) -> object:
        whole: dict[str, Callable[[], bytes]] = {
            "adj_mx.pkl": _graph_pickle,
            "metr_la_first10_full.npz": _npz,
        }
        (folder / valid).write_bytes(whole[valid]())
        return TrafficDataModule(str(folder)).spec

    return read


def _yaml(folder: Path) -> object:
    study = read_study(parse(["fit", "--config", str(folder / "own.yaml")]))
    return [study.command(variant) for variant in study.chosen or [None]]


def _load(folder: Path) -> object:
    return load(folder / "a.ckpt")


class Reader(NamedTuple):
    """A kind of file, and the function that reads it.

    Attributes:
        file: The name of the broken file.
        whole: Returns a valid file.
        read: Reads the file in a folder.
        broken: Returns a file whose structure is broken, or that is hostile.
        hostile: Whether every broken file must be refused, and none is damaged in other ways.
    """

    file: str
    whole: Callable[[], bytes]
    read: Callable[[Path], object]
    broken: Callable[[Random], bytes]
    hostile: bool = False


def _text(file: str, content: str, read: Callable[[Path], object]) -> Reader:
    return Reader(file, content.encode, read, lambda random: break_text(content.encode(), random))


READERS = {
    "csv": _text("data.csv", CSV, _files("data.csv")),
    "wide csv": _text("data.csv", WIDE, _files("data.csv", layout="wide")),
    "csv.gz": Reader(
        "data.csv.gz",
        lambda: gzip.compress(CSV.encode(), mtime=0),
        _files("data.csv.gz"),
        lambda random: gzip.compress(break_text(CSV.encode(), random), mtime=0),
    ),
    "edges": _text("graph.csv", EDGES, _graph("edges")),
    "coordinates": _text("graph.csv", PLACES, _graph("coordinates")),
    "parquet": Reader("data.parquet", _parquet, _files("data.parquet"), _frame),
    "netcdf": Reader("data.nc", _netcdf, _files("data.nc", with_edges=False), _netcdf),
    "hdf5": Reader("metr-la.h5", _hdf5, _traffic("adj_mx.pkl"), _hdf5),
    "npz": Reader("metr_la_first10_full.npz", _npz, _traffic("adj_mx.pkl"), _npz),
    "pickle": Reader(
        "adj_mx.pkl",
        _graph_pickle,
        _traffic("metr_la_first10_full.npz"),
        lambda random: break_bytes(pickle.dumps([labels(random, 2), {"0": 0}, 1]), random),
    ),
    "yaml": _text("own.yaml", YAML, _yaml),
    "checkpoint": Reader("a.ckpt", _checkpoint, _load, _checkpoint),
    "stored netcdf": Reader("data.nc", _stored_netcdf, _stored, _stored_netcdf),
    "hostile netcdf": Reader(
        "data.nc", _netcdf, _files("data.nc", with_edges=False), _hostile_hdf5(_netcdf), True
    ),
    "hostile stored netcdf": Reader("data.nc", _stored_netcdf, _stored, _hostile_hdf5(_stored_netcdf), True),
    "hostile hdf5": Reader("metr-la.h5", _hdf5, _traffic("adj_mx.pkl"), _hostile_hdf5(_hdf5), True),
    "hostile checkpoint": Reader("a.ckpt", _checkpoint, _load, _hostile_checkpoint, True),
}


# ------------------------------------------------------------------------------------------------- running


class Finding(NamedTuple):
    """A case that was neither read nor refused in one line."""

    reader: str
    case: int
    what: str


class TooLongError(BaseException):
    """A case took too long."""


def case_bytes(name: str, case: int, seed: int = SEED) -> bytes:
    """Returns the broken file of a case."""
    reader, random = READERS[name], Random(seed, list(READERS).index(name), case)
    if case == 0:
        return reader.whole()
    if reader.hostile:
        return reader.broken(random)
    kind = random.below(4)
    try:
        other = reader.broken(random) if kind != 1 else b""
    except Exception:  # the library refuses to write such a broken file
        kind = 1
    if kind == 1:
        return break_bytes(reader.whole(), random)
    whole = reader.whole()
    at = random.below(len(whole) + 1) if kind == 0 else 0
    return whole[:at] + other[at:]


def outcome(name: str, case: int, seed: int = SEED) -> tuple[str, str]:
    """Runs one case; returns ``read``, ``refused`` or ``found``, and the message."""
    reader, content = READERS[name], case_bytes(name, case, seed)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / reader.file).write_bytes(content)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            reader.read(Path(folder))
            return ("found" if reader.hostile and case else "read"), "it was read" * reader.hostile
        except ValueError as error:
            message = str(error)
            plain = type(error) is ValueError and message.isprintable() and len(message) < 1500
            return ("refused" if plain else "found"), f"{type(error).__name__}: {message[:300]!r}"
        except (Exception, TooLongError) as error:
            frames = traceback.extract_tb(error.__traceback__)
            place = next((f for f in reversed(frames) if "site-packages" not in f.filename), frames[-1])
            message = f"{type(error).__name__}: {str(error)[:200]!r}"
            return "found", f"{message} at {Path(place.filename).name}:{place.lineno}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def run(name: str, cases: Sequence[int], seed: int = SEED) -> tuple[Counter[str], list[Finding]]:
    """Runs cases of a reader in child processes.

    Args:
        name: One of :data:`READERS`.
        cases: The numbers of the cases; 0 is the valid file.
        seed: The seed of all cases.

    Returns:
        The numbers of cases read, refused and found, and the findings.
    """
    counts: Counter[str] = Counter()
    findings: list[Finding] = []
    outcomes = in_processes(partial(outcome, name, seed=seed), cases, SECONDS, MEMORY)
    for case, (kind, message) in zip(cases, outcomes, strict=True):
        counts[kind] += 1
        if kind == "found":
            findings.append(Finding(name, case, message))
    return counts, findings


def in_processes(
    outcome: Callable[[int], tuple[str, str]], cases: Sequence[int], seconds: float, memory: int
) -> Iterator[tuple[str, str]]:
    """Yields the outcome of each case, computed in child processes; a case that ends its process is found.

    Args:
        outcome: Runs a case; returns its kind and a message. It sets a timer that raises ``TooLongError``.
        cases: The numbers of the cases.
        seconds: The time limit of a case. A process that ignores the timer is killed after three times that.
        memory: Bytes of address space that a process may use beyond those that it begins with.
    """
    rest = list(cases)
    while rest:
        done = 0
        for answer in _in_a_process(outcome, rest[:BATCH], seconds, memory):
            yield answer
            done += 1
        rest = rest[done:]


def _in_a_process(
    outcome: Callable[[int], tuple[str, str]], cases: Sequence[int], seconds: float, memory: int
) -> Iterator[tuple[str, str]]:
    """Yields the outcome of each case, up to and including the first one that the process dies of."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        _work(outcome, cases, memory, send)
    os.close(send)
    left = len(cases)
    with open(receive, "rb") as answers:
        while left:
            # a C library that hangs does not let Python handle the alarm signal
            ready, _, _ = select.select([answers], [], [], 3 * seconds)
            line = answers.readline() if ready else b""
            if not line:
                os.kill(child, signal.SIGKILL)
                break
            left -= 1
            kind, message = json.loads(line)
            yield kind, message
    status = os.waitpid(child, 0)[1]
    if left:
        yield "found", f"the process ended with {os.waitstatus_to_exitcode(status)}"


def _work(outcome: Callable[[int], tuple[str, str]], cases: Sequence[int], memory: int, send: int) -> None:
    """Runs the cases in the child process; does not return."""

    def stop(*_: object) -> None:
        raise TooLongError

    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    signal.signal(signal.SIGALRM, stop)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        for case in cases:
            os.write(send, json.dumps(outcome(case)).encode() + b"\n")
    finally:
        os._exit(0)


def main() -> None:
    """Runs cases of every reader and prints the table and the findings."""
    parser = arguments(__doc__)
    parser.add_argument(
        "cases", nargs="?", type=int, default=1000, help="the number of cases of all readers together"
    )
    parser.add_argument("--seed", type=int, default=SEED, help="the seed of all cases")
    parser.add_argument("--reader", choices=READERS, help="the only reader to test")
    parser.add_argument("--case", nargs=2, metavar=("READER", "CASE"), help="write one case to stdout")
    options = parser.parse_args()
    if options.case:
        sys.stdout.buffer.write(case_bytes(options.case[0], int(options.case[1]), options.seed))
        return
    names = [options.reader] if options.reader else list(READERS)
    print("| reader | cases | refused in one line | read | findings |\n| --- | --- | --- | --- | --- |")
    total: Counter[str] = Counter()
    findings: list[Finding] = []
    for i, name in enumerate(names):
        each = len(range(i, options.cases, len(names)))
        counts, found = run(name, range(each), options.seed)
        total += counts
        findings += found
        print(
            f"| {name} | {each:,} | {counts['refused']:,} | {counts['read']:,} | {counts['found']:,} |",
            flush=True,
        )
    sums = f"{total['refused']:,} | {total['read']:,} | {total['found']:,}"
    print(f"| all | {sum(total.values()):,} | {sums} |")
    for finding in findings:
        print(f"{finding.reader} {finding.case}: {finding.what}")
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
