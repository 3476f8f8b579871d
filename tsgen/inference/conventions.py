"""The CF conventions of netCDF files: they say what the axes of an imputation are to other programs.

A file says that it holds time series at places (``featureType``), that ``sample`` numbers the members of an
ensemble (``realization``), which variable names the places, and where they lie if that is known. xarray,
Panoply and CDO read these attributes.

References:
    NetCDF Climate and Forecast (CF) Metadata Conventions, version 1.9, chapters 4, 6 and 9.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import netCDF4
import numpy as np
import xarray as xr
from jaxtyping import Float

import tsgen
from tsgen.storage.atomic import replacing

VERSION = "CF-1.9"
"""The first version that allows strings as labels and integers of 64 bits."""

DURATIONS = ("days", "hours", "minutes", "seconds", "milliseconds", "microseconds", "nanoseconds")
"""Units that xarray would turn into differences of times."""


def with_conventions(data: xr.Dataset) -> xr.Dataset:
    """Returns a dataset with the attributes of its axes and of the file.

    Args:
        data: A dataset with the coordinates sample, time, node, channel and unit.
    """
    data = data.assign_attrs(
        {
            "Conventions": VERSION,
            "featureType": "timeSeries",
            "title": "Imputation of time series on a graph: draws of the missing values",
            "source": f"tsgen {tsgen.__version__}",
        }
        | data.attrs
    )
    if "sample" not in data.coords:
        data = data.assign_coords(sample=np.arange(data.sizes["sample"]))
    attributes = {
        "sample": {"standard_name": "realization", "long_name": "number of the draw", "units": "1"},
        "node": {"cf_role": "timeseries_id", "long_name": "name of the node"},
        "channel": {"long_name": "name of the quantity"},
        "unit": {"long_name": "unit of the quantity"},
        "time": {"long_name": "step"},
    }
    if data["time"].dtype.kind == "M":
        attributes["time"] = {"standard_name": "time", "long_name": "time", "axis": "T"}
    graph = {
        "edge_source": "number of the node that an edge leaves",
        "edge_target": "number of the node that an edge enters",
        "edge_weight": "weight of an edge",
    }
    attributes |= {name: {"long_name": text} for name, text in graph.items() if name in data}
    for name, own in attributes.items():
        data[name].attrs.update(own)
    return data


def common_unit(units: Sequence[str]) -> dict[str, str]:
    """Returns the attribute ``units`` of values if all channels have the same known unit.

    Args:
        units: The unit of each channel. One that is a duration is left out: readers would take the values
            for differences of times.
    """
    unit = next(iter(units), "")
    return {"units": unit} if unit and len(set(units)) == 1 and unit not in DURATIONS else {}


def add_places(path: Path, position: Float[np.ndarray, "node 2"]) -> None:
    """Writes where the nodes lie into the file of an imputation, which is replaced as a whole.

    Args:
        path: The file.
        position: Longitude and latitude of each node, in degrees.
    """
    with replacing(path) as unfinished:
        shutil.copyfile(path, unfinished)
        with netCDF4.Dataset(unfinished, "a") as file:
            for name, axis, unit in (("longitude", 0, "degrees_east"), ("latitude", 1, "degrees_north")):
                variable = file.createVariable(name, "f8", ("node",))
                variable.standard_name, variable.long_name, variable.units = name, name, unit
                variable[:] = position[:, axis]
            for name in ("imputation", "observed"):
                file[name].coordinates = "unit latitude longitude"
