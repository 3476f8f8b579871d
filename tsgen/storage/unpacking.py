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


def check_unpacked(path: Path, size: int, ratio: int = 1) -> None:
    """Raises ``ValueError`` if a file decompresses to more than :data:`MAX_UNPACKED` and its own size allow.

    Args:
        path: The file.
        size: The number of bytes that it decompresses to, or a lower bound.
        ratio: The number of bytes that each byte of the file may stand for.
    """
    limit = max(MAX_UNPACKED, ratio * path.stat().st_size)
    if size > limit:
        remedy = "store it uncompressed" if ratio == 1 else "write all of its values"
        raise ValueError(
            f"it unpacks to {size:,} bytes or more, and at most {limit:,} are read; if it is meant to be "
            f"that large, {remedy}"
        )
