"""netCDF and HDF5 files cannot make a reader read another file, load a plugin, or hang on a pipe."""

import os

import h5py
import netCDF4
import numpy as np
import pytest
import torch
import xarray as xr
from torch_geometric.data import Data

from datamodules import RedWineDataModule, TrafficDataModule
from experiments.benchmarks import fuzz
from tsgen.cli.main import main
from tsgen.data import StoredSeries
from tsgen.datamodules import FilesDataModule
from tsgen.report.gaps import read_imputation
from tsgen.report.reading import read_evaluation
from tsgen.storage.netcdf import check_netcdf, open_netcdf


def of_files(path, in_memory):
    edges = path.with_name("edges.csv")
    edges.write_text("source,target\na,b\n")
    return FilesDataModule(path, edges=edges, in_memory=in_memory).spec


def of_traffic(path):
    path.rename(path.with_name("metr-la.h5"))
    path.with_name("adj_mx.pkl").write_bytes(fuzz.READERS["pickle"].whole())
    return TrafficDataModule(str(path.parent)).split


def of_wine(path):
    path.rename(path.with_name("red_wine.hdf5"))
    return RedWineDataModule(str(path.parent)).split


READERS = {
    "in memory": lambda path: of_files(path, True),
    "stored": lambda path: of_files(path, False),
    "StoredSeries": lambda path: StoredSeries(path, graph=Data(num_nodes=2)),
    "evaluation": read_evaluation,
    "imputation": read_imputation,
    "traffic": of_traffic,
    "red wine": of_wine,
}
"""Every way by which tsgen opens a netCDF or an HDF5 file of someone else."""

READERS_OF_NETCDF = {name: READERS[name] for name in READERS if name not in ("traffic", "red wine")}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("trick", fuzz.OTHER_FILES.values(), ids=fuzz.OTHER_FILES)
def test_no_reader_reads_another_file(tmp_path, trick, read):
    (tmp_path / "secret").write_bytes(np.full(24, 1234.5).tobytes())
    path = tmp_path / "data.nc"
    path.write_bytes(fuzz.READERS["stored netcdf"].whole())
    with h5py.File(path, "a") as file:
        trick(file, tmp_path / "secret")
    with pytest.raises(ValueError, match=r"other files|link|filter") as error:
        read(path)
    message = str(error.value)
    assert path.name in message or "metr-la.h5" in message or "red_wine.hdf5" in message
    assert message.isprintable() and "1234.5" not in message


def test_the_library_ignores_its_prefixes_for_absolute_paths(tmp_path):
    # if this fails, HDF5 can forbid other files itself, and check_contents could rely on it
    (tmp_path / "secret").write_bytes(np.full(24, 1234.5).tobytes())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (24,), "f8", external=[(str(tmp_path / "secret"), 0, 192)])
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_efile_prefix(b"/nowhere")
    with h5py.File(tmp_path / "a.h5") as file:
        dataset = h5py.Dataset(h5py.h5d.open(file.id, b"x", access))
        assert (dataset[:] == 1234.5).all()


@pytest.mark.parametrize("read", READERS_OF_NETCDF.values(), ids=READERS_OF_NETCDF)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_only_regular_files_are_opened(tmp_path, kind, read):
    path = tmp_path / "data.nc"
    {
        "pipe": os.mkfifo,
        "device": lambda path: path.symlink_to("/dev/zero"),
        "folder": os.mkdir,
    }[kind](path)
    with pytest.raises(ValueError, match=r"data\.nc"):
        read(path)


@pytest.mark.parametrize(
    "content", [b"http://localhost/x.nc", b"netcdf x {}", b"PK\x03\x04", b"\x0e\x03\x13\x01"]
)
def test_other_formats_are_refused_before_they_are_opened(tmp_path, content):
    (tmp_path / "data.nc").write_bytes(content)
    with pytest.raises(ValueError, match="neither netCDF 3 nor netCDF 4"):
        check_netcdf(tmp_path / "data.nc")


def test_a_path_is_never_an_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "http:").mkdir()
    data = xr.Dataset({"x": ("time", np.arange(3.0))})
    data.to_netcdf(tmp_path / "http:" / "a.nc")
    with open_netcdf((tmp_path / "http:" / "a.nc").relative_to(tmp_path)) as read:
        assert read["x"].values.tolist() == [0, 1, 2]


def test_values_that_were_never_written_are_bounded(tmp_path):
    path = tmp_path / "data.nc"
    with netCDF4.Dataset(path, "w") as file:
        for name, size in (("time", 10**12), ("node", 2)):
            file.createDimension(name, size)
        file.createVariable("values", "f4", ("time", "node"), chunksizes=(1000, 2), zlib=True)
    assert path.stat().st_size < 10_000
    with pytest.raises(ValueError, match="write all of its values"):
        StoredSeries(path, graph=Data(num_nodes=2, edge_index=torch.zeros(2, 0, dtype=torch.int64)))


@pytest.mark.parametrize("bomb", fuzz.BOMBS.values(), ids=fuzz.BOMBS)
@pytest.mark.parametrize("in_memory", [True, False])
def test_bombs_are_refused(tmp_path, bomb, in_memory, monkeypatch):
    monkeypatch.setattr("tsgen.storage.unpacking.MAX_UNPACKED", 2**24)
    monkeypatch.setattr("tsgen.storage.hdf5.MAX_UNPACKED", 2**24)
    path = tmp_path / "data.nc"
    path.write_bytes(fuzz.READERS["stored netcdf"].whole())
    with h5py.File(path, "a") as file:
        bomb(file)
    with pytest.raises(ValueError, match=r"unpacks to|lists of lists") as error:
        of_files(path, in_memory)
    assert "data.nc" in str(error.value)


def test_a_command_says_in_one_line_what_it_refuses(tmp_path, capsys):
    (tmp_path / "val").mkdir()
    path = tmp_path / "val" / "evaluation.nc"
    path.write_bytes(fuzz.READERS["stored netcdf"].whole())
    with h5py.File(path, "a") as file:
        fuzz.OTHER_FILES["external"](file, "/etc/passwd")
    assert main(["conformal", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "evaluation.nc cannot be read as netCDF: the data of 'x' lies in other files" in line
