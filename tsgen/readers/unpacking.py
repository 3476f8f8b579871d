"""A bound on the size that a compressed file decompresses to.

A file of a megabyte may decompress to gigabytes: by deflate, which gzip, HDF5 and NumPy's archives use, to a
thousand times its size; without any bound where a format stores how often a value is repeated (Parquet), or
stores nothing at all for entries that were never written (HDF5, netCDF). Each reader checks the size
beforehand, or counts while it decompresses.
"""

from __future__ import annotations

from pathlib import Path

MAX_UNPACKED = 2**32
"""Maximum number of bytes: four per entry of the largest series (``regular_times.MAX_ENTRIES``)."""


def check_unpacked(path: Path, size: int) -> None:
    """Raises ``ValueError`` if a file decompresses to more than both :data:`MAX_UNPACKED` and its own size.

    Args:
        path: The file.
        size: The number of bytes that it decompresses to, or a lower bound.
    """
    limit = max(MAX_UNPACKED, path.stat().st_size)
    if size > limit:
        raise ValueError(
            f"it unpacks to {size:,} bytes or more, and at most {limit:,} are read; if it is meant to be "
            "that large, store it uncompressed"
        )
