"""Files of HDF5, netCDF-4 among them, that would hang the library.

What has no fixed length, such as names and references between variables, lies in collections of objects
("global heaps"). The library walks through one by the sizes that the objects give, and an unused object of
size 0 never lets it go on: neither a signal nor the interpreter ends it. It is looked for beforehand.

References:
    HDF5 File Format Specification, version 3.0, section III.E, Disk Format: Level 1E - Global Heap.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

SIGNATURE = b"GCOL\x01\x00\x00\x00"
"""The name of a collection, its version and what is reserved."""

AT_ONCE = 2**26
"""Bytes that are looked through at once."""

HEADER = struct.Struct("<HH4xQ")
"""Of an object: its number (0 if unused), how often it is referred to, and its size."""


def check_heaps(path: Path) -> None:
    """Raises ``ValueError`` if the library would not find the end of one of the file's collections.

    Args:
        path: The file; one of another format has none.
    """
    if path.stat().st_size == 0:  # which cannot be mapped
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for first in range(0, len(content), AT_ONCE):
            last = first + AT_ONCE + len(SIGNATURE) - 1
            start = content.find(SIGNATURE, first, last)
            while start >= 0:
                if _is_endless(content, start):
                    raise ValueError("it is damaged: an object in a global heap has no size")
                start = content.find(SIGNATURE, start + 1, last)
            # what was looked at need not stay in memory
            if hasattr(content, "madvise"):  # not on every system
                content.madvise(mmap.MADV_DONTNEED)


def _is_endless(content: mmap.mmap, start: int) -> bool:
    """Whether a collection has an unused object of size 0, from which the walk does not go on."""
    at = start + 16
    if at > len(content):
        return False
    end = min(start + int.from_bytes(content[start + 8 : at], "little"), len(content))
    while at + HEADER.size <= end:
        number, _, size = HEADER.unpack_from(content, at)
        # an unused one counts its header; others are followed by as many bytes, filled up to eights
        length = HEADER.size + -(-size // 8) * 8 if number else size
        if length == 0:
            return True
        at += length
    return False
