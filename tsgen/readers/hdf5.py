"""Files of HDF5, netCDF-4 among them, that would hang the library, or fill the memory.

What has no fixed length, such as names and references between variables, lies in collections of objects
("global heaps"). The library walks through one by the sizes that the objects give, and one of size 0, or
whose size overflows to 0, never lets it go on: neither a signal nor the interpreter ends it. It is looked
for beforehand (:func:`check_heaps`).

A file of a kilobyte may announce as many numbers as it likes, and a packed chunk may unpack to a thousand
times what was announced. Both are asked before a file is read whole (:func:`check_contents`).

References:
    HDF5 File Format Specification, version 3.0, section II, Disk Format: Level 0 - File Metadata, and
    section III.E, Disk Format: Level 1E - Global Heap.
"""

from __future__ import annotations

import math
import mmap
import struct
import zlib
from pathlib import Path

import h5py

from tsgen.readers.unpacking import MAX_UNPACKED, check_unpacked

FILE = b"\x89HDF\r\n\x1a\n"
"""How a file begins, at byte 0, 512 or a power of two times that."""

SIGNATURE = b"GCOL\x01\x00\x00\x00"
"""The name of a collection, its version and what is reserved."""

AT_ONCE = 2**24
"""Bytes that are looked through, or unpacked, at once."""

HEADER = struct.Struct("<HH4xQ")
"""Of an object: its number (0 if unused), how often it is referred to, and its size."""

AGAIN = 4
"""How often all bytes may be walked through: leftovers of collections that were freed may lie in others."""

DEFLATE, SHUFFLE, CHECKSUM = 1, 2, 3
"""The filter that packs, and those that keep the length."""

OBJECT = 64
"""Bytes of an object in memory, beside its content."""

RATIO = 1032
"""How much smaller a deflated chunk may be than its content, at most."""


def check_heaps(path: Path) -> int:
    """Raises ``ValueError`` if the library would not find the end of one of the file's collections.

    Args:
        path: The file; one of another format has none.

    Returns:
        The bytes of the largest object in a collection.
    """
    if path.stat().st_size == 0:  # which cannot be mapped
        return 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        _check_lengths(content)
        largest, left = 0, AGAIN * len(content)
        for first in range(0, len(content), AT_ONCE):
            last = first + AT_ONCE + len(SIGNATURE) - 1
            start = content.find(SIGNATURE, first, last)
            while start >= 0:
                object_, walked = _walk(content, start, left)
                largest, left = max(largest, object_), left - walked
                start = content.find(SIGNATURE, start + 1, last)
            # what was looked at need not stay in memory
            if hasattr(content, "madvise"):  # not on every system
                content.madvise(mmap.MADV_DONTNEED)
    return largest


def _check_lengths(content: mmap.mmap) -> None:
    """Raises unless lengths have eight bytes, as every library writes them and as they are read here."""
    at = 0
    while at + 16 <= len(content):
        if content[at : at + 8] == FILE:
            length = content[at + (14 if content[at + 8] < 2 else 10)]
            if length != 8:
                raise ValueError(f"its lengths have {length} bytes instead of 8")
            return
        at = 2 * at or 512


def _walk(content: mmap.mmap, start: int, left: int) -> tuple[int, int]:
    """The size of the largest object of a collection, and the bytes gone through; raises if there is no end.

    Collections do not overlap: if all have more bytes than are left, this one is made to take time.
    """
    at = start + 16
    if at > len(content):
        return 0, 0
    end = min(start + int.from_bytes(content[start + 8 : at], "little"), len(content))
    if end - start > left:
        raise ValueError("it is damaged: its global heaps overlap")
    largest = 0
    while at + HEADER.size <= end:
        number, _, size = HEADER.unpack_from(content, at)
        # an unused one counts its header; others are followed by as many bytes, filled up to eights
        length = HEADER.size + -(-size // 8) * 8 if number else size
        # what overflows leads back
        if length < HEADER.size or length >= 2**63:
            raise ValueError("it is damaged: an object in a global heap has no size")
        largest = max(largest, size)
        at += length
    return min(largest, end - start), max(end - start, 0)


def check_contents(path: Path) -> int:
    """Raises ``ValueError`` if a file would hang the library, unpack to too much, or leads to other files.

    Args:
        path: The file; one of another format is passed over.

    Returns:
        What :func:`check_heaps` does.
    """
    largest, names = check_heaps(path), list[str]()
    if not h5py.is_hdf5(path):
        return largest
    try:
        with h5py.File(path) as file:
            # the library does not bear an exception while it goes through a file
            elsewhere = file.visititems_links(_leads_elsewhere)
            if elsewhere is not None:
                raise ValueError(f"{elsewhere[:80]!r} leads to another place; a copy must stand there")
            file.visit(names.append)
            datasets = {name: thing for name in names if isinstance(thing := file[name], h5py.Dataset)}
            check_unpacked(path, sum(_announced(*item, largest) for item in datasets.items()))
            for item in datasets.items():
                _check_chunks(*item)
    # what the file lacks is a KeyError, a damaged one an OSError or a RuntimeError
    except (OSError, RuntimeError, LookupError, TypeError, zlib.error) as error:
        raise ValueError(str(error)) from error
    return largest


def _leads_elsewhere(name: str, link: object) -> str | None:
    """The name of a link that is more than a place in this file."""
    return None if isinstance(link, h5py.HardLink) else name


def _announced(name: str, dataset: h5py.Dataset, largest: int) -> int:
    """The bytes that a dataset takes when it is read; raises if other files hold it."""
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"{name[:80]!r} lies in other files; a copy must stand there")
    entries = max(dataset.size or 0, math.prod(dataset.chunks or ()))
    # texts and lists lie in heaps, and the same may be named again and again
    return entries * (dataset.dtype.itemsize + (largest + OBJECT if dataset.dtype.hasobject else 0))


def _check_chunks(name: str, dataset: h5py.Dataset) -> None:
    """Raises if the library would unpack a chunk to too much: it goes on as long as something comes."""
    if dataset.chunks is None:
        return
    settings = dataset.id.get_create_plist()
    filters = [settings.get_filter(i)[0] for i in range(settings.get_nfilters())]
    if any(filters[i:] in ([DEFLATE], [DEFLATE, CHECKSUM]) for i in range(len(filters))):
        large: list[tuple[int, ...]] = []
        dataset.id.chunk_iter(
            lambda chunk: large.append(chunk.chunk_offset) if chunk.size > MAX_UNPACKED // RATIO else None
        )
        for offset in large:
            _check_chunk(name, dataset.id.read_direct_chunk(offset)[1])
        filters = filters[: filters.index(DEFLATE)]
    if not set(filters) <= {SHUFFLE, CHECKSUM}:
        raise ValueError(
            f"{name[:80]!r} is packed by another filter than deflate; store it unpacked or by deflate"
        )


def _check_chunk(name: str, packed: bytes) -> None:
    """Raises if a deflated chunk unpacks to too much."""
    inflate, size = zlib.decompressobj(), 0
    for first in range(0, len(packed), AT_ONCE):
        rest = packed[first : first + AT_ONCE]
        while rest and size <= MAX_UNPACKED:
            size += len(inflate.decompress(rest, AT_ONCE))
            rest = inflate.unconsumed_tail
    if size > MAX_UNPACKED:
        raise ValueError(f"a chunk of {name[:80]!r} unpacks to more than {MAX_UNPACKED:,} bytes")
