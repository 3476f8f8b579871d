"""Opens netCDF files that may come from a stranger; none is read without the checks of this module.

The netCDF library opens more than files: addresses on the web, folders, and files in formats that name other
files. Here a path is an existing regular file that begins as netCDF 3 or netCDF 4 (HDF5) does, and its
contents pass :func:`tsgen.storage.hdf5.check_contents`.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import h5py
import netCDF4
import xarray as xr

from tsgen.storage.hdf5 import DEFLATE_RATIO, OBJECT_OVERHEAD, check_contents
from tsgen.storage.unpacking import check_unpacked

CLASSIC = b"CDF"
"""First bytes of a netCDF 3 file."""


def open_netcdf(path: Path, read_later: Collection[str] = (), **options: Any) -> xr.Dataset:
    """Returns the content of a netCDF file, whose variables are read on request.

    Args:
        path: The file. It must not change while it is in use.
        read_later: Names of dimensions. Variables with all of them may exceed the memory, because only parts
            of them are read at a time.
        options: Options of :func:`xarray.open_dataset`.

    Raises:
        ValueError: If it is not a netCDF file, is damaged or too large, or refers to other files; the message
            is a clause without the file's name.
        Exception: If the file is damaged, almost any exception of the libraries.
    """
    check_netcdf(path, read_later)
    # netCDF and xarray take some relative paths for addresses on the web
    return xr.open_dataset(path.absolute(), engine="netcdf4", cache=False, **options)


def check_netcdf(path: Path, read_later: Collection[str] = ()) -> None:
    """Raises as :func:`open_netcdf` does, without reading the variables.

    Args:
        path: The file.
        read_later: Names of dimensions of variables that may exceed the memory.
    """
    if not path.is_file():
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        if file.read(len(CLASSIC)) != CLASSIC and not h5py.is_hdf5(path):
            raise ValueError("it is neither netCDF 3 nor netCDF 4")
    largest = check_contents(path, whole=not read_later)
    whole = parts = 0
    with netCDF4.Dataset(path.absolute()) as file:
        for variable in file.variables.values():
            lists = variable.dtype is str or isinstance(variable.datatype, netCDF4.VLType)
            size = math.prod(variable.shape) * (
                OBJECT_OVERHEAD + largest if lists else variable.dtype.itemsize
            )
            if read_later and set(read_later) <= set(variable.dimensions):
                parts += size
            else:
                whole += size
    check_unpacked(path, whole)
    check_unpacked(path, parts, DEFLATE_RATIO)
