"""Files that unpack to more than is meant, or take the library's time, are refused in one line."""

import gzip
import struct
import time
import zlib
from zipfile import ZIP_LZMA, ZipFile

import h5py
import netCDF4
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from datamodules import TrafficDataModule
from experiments.benchmarks import fuzz
from tsgen.datamodules import FilesDataModule
from tsgen.readers import regular_times
from tsgen.storage import hdf5, unpacking
from tsgen.storage.hdf5 import SIGNATURE, check_contents, check_heaps

SMALL = 2**20
CSV = b"time,node,pm\n" + b"".join(b"%d,%s,1\n" % (t, v) for t in range(60_000) for v in (b"a", b"b"))


@pytest.fixture
def small(monkeypatch):
    """A bound of a megabyte."""
    for module in (unpacking, hdf5):
        monkeypatch.setattr(module, "MAX_UNPACKED", SMALL)


def refused(error, *parts: str) -> None:
    """Fails unless one line tells these things."""
    told = str(error.value)
    assert type(error.value) is ValueError and told.isprintable() and len(told) < 500
    assert all(part in told for part in parts), told


def load(path, **options):
    path.with_name("edges.csv").write_text("source,target\na,b\n")
    return FilesDataModule(path, edges=path.with_name("edges.csv"), **options).split.series


def test_the_bound_is_the_largest_series_in_memory():
    assert unpacking.MAX_UNPACKED == 4 * regular_times.MAX_ENTRIES


def test_a_file_may_hold_what_it_has_itself(small, tmp_path):
    (tmp_path / "data.csv").write_bytes(CSV)
    assert len(CSV) > 1.1 * SMALL and len(load(tmp_path / "data.csv")) == 60_000
    unpacking.check_unpacked(tmp_path / "data.csv", len(CSV))
    with pytest.raises(ValueError, match="store it uncompressed"):
        unpacking.check_unpacked(tmp_path / "data.csv", len(CSV) + 1)


def test_packed_csv(small, tmp_path):
    path = tmp_path / "data.csv.gz"
    path.write_bytes(gzip.compress(CSV))
    with pytest.raises(ValueError, match="unpacks to") as error:
        load(path)
    refused(error, str(path), "1,048,576 are read")
    path.write_bytes(gzip.compress(CSV[: SMALL // 2]) * 3)  # each member alone is small enough
    with pytest.raises(ValueError, match="unpacks to"):
        load(path)


def test_a_text_that_parquet_names_again_and_again(small, tmp_path):
    text = pa.DictionaryArray.from_arrays(
        pa.array(np.arange(4000, dtype=np.int32) % 2), ["a" * 1000, "b" * 1000]
    )
    table = pa.table({"time": np.arange(4000) // 2, "node": text, "pm": np.ones(4000)})
    parquet.write_table(table, tmp_path / "data.parquet", store_schema=False)
    assert (tmp_path / "data.parquet").stat().st_size < 50_000
    with pytest.raises(ValueError, match="unpacks to") as error:
        load(tmp_path / "data.parquet")
    refused(error, "data.parquet is too large")


def test_numbers_that_parquet_names_again_and_again(small, tmp_path):
    table = pa.table({"time": np.zeros(200_000, np.int8), "node": ["a"] * 200_000, "pm": np.ones(200_000)})
    parquet.write_table(table, tmp_path / "data.parquet")
    with pytest.raises(ValueError, match="unpacks to"):
        load(tmp_path / "data.parquet")


def test_columns_of_parquet_stand_where_their_names_say(tmp_path):
    table = pa.table({"pm": [1.0, 2.0, 3.0], "node": ["a", "b", "a"], "time": [0, 0, 1]})
    parquet.write_table(table, tmp_path / "data.parquet", row_group_size=2)
    assert load(tmp_path / "data.parquet").values[..., 0].nan_to_num().tolist() == [[1, 2], [3, 0]]


def test_lists_in_parquet(tmp_path):
    table = pa.table({"time": [0, 1], "node": ["a", "b"], "pm": [[1.0], [2.0, 3.0]]})
    parquet.write_table(table, tmp_path / "data.parquet")
    with pytest.raises(ValueError, match="'pm': it must hold numbers, text or times, not list"):
        load(tmp_path / "data.parquet")


def traffic(folder, content: bytes, name: str):
    (folder / "adj_mx.pkl").write_bytes(fuzz.READERS["pickle"].whole())
    (folder / name).write_bytes(content)
    return TrafficDataModule(str(folder)).split


def extract(path, **changes) -> bytes:
    parts = {"speed": np.full((9, 2), 55.5), "sensor_ids": ["0", "1"], "start": "2012-03-01", "freq": "5min"}
    np.savez_compressed(path, **parts | changes)
    return path.read_bytes()


def test_extracts(small, tmp_path):
    name = "metr_la_first10_full.npz"
    with pytest.raises(ValueError, match="unpacks to") as error:
        traffic(tmp_path, extract(tmp_path / "a.npz", speed=np.zeros((100_000, 2))), name)
    refused(error, name)
    with pytest.raises(ValueError, match=r"1000000 ids do not fit"):  # which have no bytes
        traffic(tmp_path, extract(tmp_path / "a.npz", sensor_ids=np.zeros(10**6, "S0")), name)
    with pytest.raises(ValueError, match=r"1099511627776 times and 2 ids"):
        traffic(
            tmp_path,
            extract(tmp_path / "a.npz", speed=np.zeros((2**40, 0))),
            name,
        )
    with ZipFile(tmp_path / "a.npz", "w", ZIP_LZMA) as file:
        file.writestr("speed.npy", b"")
    with pytest.raises(ValueError, match="a method that NumPy does not use"):
        traffic(tmp_path, (tmp_path / "a.npz").read_bytes(), name)


def test_an_array_that_is_only_announced(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776, 1024), }"
    header += b" " * (117 - len(header)) + b"\n"
    with ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("speed.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    with pytest.raises(ValueError, match="must be the published table") as error:
        traffic(tmp_path, (tmp_path / "a.npz").read_bytes(), "metr_la_first10_full.npz")
    refused(error)


def test_a_chunk_that_unpacks_to_more_than_it_should(small, tmp_path):
    path = tmp_path / "metr-la.h5"
    for options, written in (
        ({"compression": "gzip"}, zlib.compress(bytes(8 * SMALL))),
        ({"compression": "gzip", "fletcher32": True}, zlib.compress(bytes(8 * SMALL)) + bytes(4)),
    ):
        path.write_bytes(fuzz.READERS["hdf5"].whole())
        with h5py.File(path, "a") as file:
            del file["df/block0_values"]
            dataset = file["df"].create_dataset("block0_values", (9, 2), chunks=(9, 2), dtype="f8", **options)
            dataset.id.write_direct_chunk((0, 0), written)
        with pytest.raises(ValueError, match="unpacks to more than 1,048,576 bytes") as error:
            traffic(tmp_path, path.read_bytes(), "metr-la.h5")
        refused(error, "metr-la.h5", "block0_values")


def test_what_is_packed_as_usual_is_read(tmp_path):
    path = tmp_path / "metr-la.h5"
    path.write_bytes(fuzz.READERS["hdf5"].whole())
    with h5py.File(path, "a") as file:
        del file["df/block0_values"]
        options = {"compression": "gzip", "shuffle": True, "fletcher32": True, "chunks": (4, 2)}
        file["df"].create_dataset("block0_values", data=np.full((9, 2), 55.5), **options)
    assert (traffic(tmp_path, path.read_bytes(), "metr-la.h5").series.values == 55.5).all()


def twice_deflated(file):
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_chunk((8,))
    settings.set_deflate(9)
    settings.set_shuffle()
    h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_DOUBLE, h5py.h5s.create_simple((8,)), settings)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda f: f.create_dataset("x", (2**20, 2**20), "f4"), "unpacks to 4,398,046,511,104 bytes"),
        (
            lambda f: f.create_dataset("x", (1,), "f8", chunks=(2**20,), maxshape=(None,)),
            "unpacks to 8,388,608",
        ),
        (
            lambda f: f.create_dataset("x", (9,), "f8", chunks=(9,), compression="lzf"),
            "a filter other than deflate",
        ),
        (twice_deflated, "a filter other than deflate"),
        (
            lambda f: f.create_dataset("x", (9,), "f8", external="/etc/passwd"),
            "'x' lies in other files",
        ),
        (lambda f: f.update({"x": h5py.ExternalLink("other.h5", "/x")}), "'x' is a soft or external link"),
        (lambda f: f.update({"x": h5py.SoftLink("/x")}), "'x' is a soft or external link"),
    ],
    ids=["announced", "chunk", "filter", "order", "external", "link", "soft link"],
)
def test_contents_of_hdf5(small, tmp_path, make, told):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        make(file)
    with pytest.raises(ValueError, match=told):
        check_contents(tmp_path / "a.h5")


@pytest.mark.parametrize("form", ["NETCDF3_CLASSIC", "NETCDF4"])
def test_netcdf_that_announces_more_than_it_has(small, tmp_path, form):
    path = tmp_path / "data.nc"
    with netCDF4.Dataset(path, "w", format=form) as file:
        file.set_fill_off()
        for name, size in (("time", None), ("node", 1000)):
            file.createDimension(name, size)
        file.createVariable("pm", "f4", ("time", "node"))
        file.createVariable("time", "i4", ("time",))[:] = np.arange(300)
    assert path.stat().st_size < 1.25 * SMALL
    path.write_bytes(path.read_bytes()[: SMALL // 2] if form == "NETCDF3_CLASSIC" else path.read_bytes())
    with pytest.raises(ValueError, match="unpacks to") as error:
        load(path)
    refused(error, "cannot be read as netCDF")


def test_labels_of_a_stored_series_are_bounded_and_its_values_are_not(small, tmp_path):
    for size in (1, 300_000):
        path = tmp_path / f"{size}.nc"
        with netCDF4.Dataset(path, "w") as file:
            for name, length in (("time", 3000), ("node", 2), ("other", size)):
                file.createDimension(name, length)
            file.createVariable("node", str, ("node",))[:] = np.array(["a", "b"], object)
            chunks = {"chunksizes": (100, 2), "zlib": True}
            file.createVariable("values", "f8", ("time", "node"), **chunks)[:] = np.ones((3000, 2))
            for i in range(30):
                file.createVariable(f"values_{i}", "f8", ("time", "node"), **chunks)[:] = np.ones((3000, 2))
            file.createVariable("other", "f8", ("other",), zlib=True, chunksizes=(1,))
        if size == 1:
            assert load(path, in_memory=False).values.shape == (3000, 2, 1)
        with pytest.raises(ValueError, match="unpacks to"):
            load(path, in_memory=size == 1)


def test_a_text_that_netcdf_names_again_and_again(small, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=["a" * 3000] * 400, dtype=h5py.string_dtype())
    check_contents(tmp_path / "a.h5")  # each time for itself
    whole = (tmp_path / "a.h5").read_bytes()
    assert check_heaps(tmp_path / "a.h5") == 3000
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=["a" * 3000], dtype=h5py.string_dtype())
        file.create_dataset("y", (400,), dtype=h5py.string_dtype())
    assert (tmp_path / "a.h5").stat().st_size < len(whole) / 10
    with pytest.raises(ValueError, match="unpacks to"):
        check_contents(tmp_path / "a.h5")


def test_observed_with_a_dimension_of_its_own(tmp_path):
    path = tmp_path / "data.nc"
    with netCDF4.Dataset(path, "w") as file:
        for name, length in (("time", 9), ("node", 2), ("other", 5)):
            file.createDimension(name, length)
        file.createVariable("values", "f4", ("time", "node"))[:] = np.ones((9, 2))
        file.createVariable("observed", "i1", ("other",))[:] = np.ones(5)
    with pytest.raises(
        ValueError, match="'observed' must have the dimensions of 'values'; it has 'other' too"
    ):
        load(path)


def heap(size: int, *objects: tuple[int, int]) -> bytes:
    """A collection of so many bytes, with objects of some number and size."""
    content = SIGNATURE + struct.pack("<Q", size)
    return content + b"".join(struct.pack("<HH4xQ", number, 1, length) for number, length in objects)


@pytest.mark.parametrize(
    "item", [(0, 0), (0, 8), (0, 2**64 - 16), (1, 2**64 - 16), (1, 2**64 - 20), (1, 2**64 - 64)]
)
def test_heaps_without_an_end(tmp_path, item):
    (tmp_path / "a.nc").write_bytes(heap(4096, item) + bytes(4096))
    with pytest.raises(ValueError, match="has no size"):
        check_heaps(tmp_path / "a.nc")


def test_lengths_of_another_width(tmp_path):
    for begin in (
        b"\x89HDF\r\n\x1a\n\x00" + bytes(4) + b"\x08\x04",
        b"\x89HDF\r\n\x1a\n\x02\x08\x04" + bytes(9),
    ):
        (tmp_path / "a.nc").write_bytes(bytes(512) + begin + bytes(99))
        with pytest.raises(ValueError, match="its lengths have 4 bytes"):
            check_heaps(tmp_path / "a.nc")


@pytest.mark.parametrize("item", [heap(2**40), heap(2**40, (1, 0))], ids=["collections", "objects"])
def test_heaps_are_looked_through_once(tmp_path, item):
    seconds = []
    for count in (4_000, 64_000):
        (tmp_path / "a.nc").write_bytes(item * count)
        start = time.process_time()
        with pytest.raises(ValueError, match="overlap"):
            check_heaps(tmp_path / "a.nc")
        seconds.append(time.process_time() - start)
    assert seconds[1] < 64 * max(seconds[0], 0.01)  # 256 if each met all that follow
