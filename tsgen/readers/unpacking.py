"""How much a packed file may unpack to.

A file of a megabyte may unpack to gigabytes: to a thousand times its size by deflate, which gzip, HDF5 and
NumPy's archives use, and without any bound where a format writes down how often a value comes (Parquet), or
nothing at all where none was written (HDF5, netCDF). Each reader asks beforehand, or counts while it unpacks.
"""

from __future__ import annotations

from pathlib import Path

MAX_UNPACKED = 2**32
"""Bytes: four for each entry of the largest series (:data:`~tsgen.readers.regular_times.MAX_ENTRIES`)."""


def check_unpacked(path: Path, size: int) -> None:
    """Raises ``ValueError`` if a file unpacks to more than :data:`MAX_UNPACKED` and more than it has itself.

    Args:
        path: The file.
        size: The bytes that it unpacks to, or at least so many.
    """
    most = max(MAX_UNPACKED, path.stat().st_size)
    if size > most:
        raise ValueError(
            f"it unpacks to {size:,} bytes or more, and at most {most:,} are read; if that is meant, store "
            "it unpacked"
        )
