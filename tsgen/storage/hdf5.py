"""Checks that an HDF5 file (netCDF-4 included) neither hangs the HDF5 library nor exhausts the memory.

**Hanging.** Values without a fixed length, such as names and references between variables, lie in collections
of objects, the "global heaps". The library walks through a heap by the sizes that its objects state. At an
object of size 0, or whose size overflows to 0, it loops forever, and neither a signal nor the interpreter can
end the loop: a damaged file hangs the process that reads it. Therefore :func:`check_heaps` walks through the
heaps before the library opens the file, in time linear in the size of the file.

**Memory.** A file of a kilobyte may announce any number of entries, and a compressed chunk may decompress to
a thousand times its announced size. :func:`check_contents` checks both.

**Other files.** A file may contain the name of any other file of its user, whose bytes the library then
returns as numbers: by external storage, virtual datasets and external links. :func:`check_contents` refuses
them, and filters other than deflate, shuffle and checksums, for which the library would load plugins.

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
import numpy as np

from tsgen.storage.unpacking import MAX_UNPACKED, check_unpacked

SUPERBLOCK = b"\x89HDF\r\n\x1a\n"
"""First bytes of a file's superblock, which lies at byte 0, 512 or a power of two times that."""

SIGNATURE = b"GCOL\x01\x00\x00\x00"
"""First bytes of a global heap: its name, its version and reserved bytes."""

BLOCK = 2**24
"""Bytes that are searched, or decompressed, at a time."""

HEADER = struct.Struct("<HH4xQ")
"""Header of an object: its index (0 if it is free space), its reference count and its size."""

MAX_WALKS = 4
"""Maximum number of bytes walked through, relative to the file's size. It exceeds 1 because remains of freed
heaps may lie in other heaps; without a limit, heaps crafted to overlap would take quadratic time."""

DEFLATE, SHUFFLE, CHECKSUM = 1, 2, 3
"""Numbers of HDF5's filters: deflate compresses, the other two do not compress."""

OBJECT_OVERHEAD = 64
"""Bytes of memory that a Python object takes in addition to its content."""

DEFLATE_RATIO = 1032
"""Largest ratio of a deflated chunk's content to its compressed size."""


def check_heaps(path: Path) -> int:
    """Raises ``ValueError`` if the library would never reach the end of one of the file's global heaps.

    Args:
        path: The file; a file of another format has no heaps and passes.

    Returns:
        The size of the largest object in a heap, in bytes.
    """
    if path.stat().st_size == 0:  # an empty file cannot be mapped
        return 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        _check_length_size(content)
        largest, bytes_left = 0, MAX_WALKS * len(content)
        for first in range(0, len(content), BLOCK):
            last = first + BLOCK + len(SIGNATURE) - 1
            start = content.find(SIGNATURE, first, last)
            while start >= 0:
                size, walked = _walk_heap(content, start, bytes_left)
                largest, bytes_left = max(largest, size), bytes_left - walked
                start = content.find(SIGNATURE, start + 1, last)
            if hasattr(content, "madvise"):  # not on every system
                content.madvise(mmap.MADV_DONTNEED)  # frees the memory of the searched block
    return largest


def _check_length_size(content: mmap.mmap) -> None:
    """Raises unless lengths in the file have eight bytes, as all libraries write and HEADER assumes."""
    at = 0
    while at + 16 <= len(content):
        if content[at : at + 8] == SUPERBLOCK:
            length = content[at + (14 if content[at + 8] < 2 else 10)]
            if length != 8:
                raise ValueError(f"its lengths have {length} bytes instead of 8")
            return
        at = 2 * at or 512


def _walk_heap(content: mmap.mmap, start: int, bytes_left: int) -> tuple[int, int]:
    """Returns the size of a heap's largest object and the bytes walked; raises if the walk would not end."""
    at = start + 16
    if at > len(content):
        return 0, 0
    end = min(start + int.from_bytes(content[start + 8 : at], "little"), len(content))
    if end - start > bytes_left:
        raise ValueError("it is damaged: its global heaps overlap")
    largest = 0
    while at + HEADER.size <= end:
        index, _, size = HEADER.unpack_from(content, at)
        # the size of free space includes the header; other objects are padded to a multiple of eight bytes
        length = HEADER.size + -(-size // 8) * 8 if index else size
        # a length beyond 63 bits overflows, and the library would walk backwards
        if length < HEADER.size or length >= 2**63:
            raise ValueError("it is damaged: an object in a global heap has no size")
        largest = max(largest, size)
        at += length
    return min(largest, end - start), max(end - start, 0)


def check_contents(path: Path, whole: bool = True) -> int:
    """Raises ``ValueError`` if a file would hang the library, is too large or refers to other files.

    The library has no property that forbids other files: its prefixes for external storage, virtual datasets
    and links do not apply to absolute paths. The file is therefore checked before anything in it is read. It
    must not change between the check and the reading.

    Args:
        path: The file; a file of another format is only passed to :func:`check_heaps`.
        whole: Whether the file is read whole, so that its datasets must fit into memory.

    Returns:
        The size of the largest object in a heap, in bytes.
    """
    largest, names = check_heaps(path), list[str]()
    if not h5py.is_hdf5(path):
        return largest
    try:
        with h5py.File(path) as file:
            # the visitor returns the name instead of raising: h5py does not support exceptions there
            link = file.visititems_links(_indirect_link)
            if link is not None:
                raise ValueError(f"{link[:80]!r} is a soft or external link; store a copy there instead")
            file.visit(names.append)
            items = {"/": file, **{name: file[name] for name in names}}
            datasets = {name: item for name, item in items.items() if isinstance(item, h5py.Dataset)}
            sizes = [_announced_size(*item, largest) for item in datasets.items()]
            attributes = [_attributes_size(*item, largest) for item in items.items()]
            check_unpacked(path, sum(attributes) + sum(sizes) * whole)
            for item in datasets.items():
                _check_chunks(*item)
    # a missing item is a KeyError, damage an OSError or a RuntimeError
    except (OSError, RuntimeError, LookupError, TypeError, zlib.error) as error:
        raise ValueError(str(error)) from error
    return largest


def _indirect_link(name: str, link: object) -> str | None:
    """Returns the name of a link unless it is an ordinary (hard) link within the file."""
    return None if isinstance(link, h5py.HardLink) else name


def _announced_size(name: str, dataset: h5py.Dataset, largest: int) -> int:
    """Returns the bytes that a dataset takes in memory; raises if its data lies in other files."""
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"the data of {name[:80]!r} lies in other files; store a copy in this file instead")
    entries = max(dataset.size or 0, math.prod(dataset.chunks or ()))
    return entries * _entry_size(name, dataset.dtype, largest)


def _attributes_size(name: str, item: h5py.HLObject, largest: int) -> int:
    """Returns the bytes that the attributes of an object take in memory."""
    size = 0
    for index in range(h5py.h5a.get_num_attrs(item.id)):
        attribute = h5py.h5a.open(item.id, index=index)
        size += math.prod(attribute.shape or ()) * _entry_size(name, attribute.dtype, largest)
    return size


def _entry_size(name: str, entry: np.dtype, largest: int) -> int:
    """Returns the bytes that an entry takes in memory; raises if it is a list of lists."""
    if not entry.hasobject:
        return entry.itemsize
    fields = [field for field, *_ in (entry.fields or {"": (entry,)}).values()]
    for field in fields:
        items = h5py.check_vlen_dtype(field.base)
        if isinstance(items, np.dtype) and items.hasobject and h5py.check_ref_dtype(items) is None:
            raise ValueError(f"{name[:80]!r} has lists of lists; store numbers or text")
    # many entries may refer to the same text or list in a heap, and each is read into memory
    return entry.itemsize + entry.itemsize // np.dtype(object).itemsize * (largest + OBJECT_OVERHEAD)


def _check_chunks(name: str, dataset: h5py.Dataset) -> None:
    """Raises if a chunk decompresses to too many bytes: the library sets no limit to their number."""
    if dataset.chunks is None:
        return
    settings = dataset.id.get_create_plist()
    filters = [settings.get_filter(i)[0] for i in range(settings.get_nfilters())]
    if any(filters[i:] in ([DEFLATE], [DEFLATE, CHECKSUM]) for i in range(len(filters))):
        large: list[tuple[int, ...]] = []
        smallest = MAX_UNPACKED // DEFLATE_RATIO
        dataset.id.chunk_iter(
            lambda chunk: large.append(chunk.chunk_offset) if chunk.size > smallest else None
        )
        for offset in large:
            _check_chunk(name, dataset.id.read_direct_chunk(offset)[1])
        filters = filters[: filters.index(DEFLATE)]
    if not set(filters) <= {SHUFFLE, CHECKSUM}:
        raise ValueError(
            f"{name[:80]!r} is compressed by a filter other than deflate; store it uncompressed or by deflate"
        )


def _check_chunk(name: str, compressed: bytes) -> None:
    """Raises if a deflated chunk decompresses to more than :data:`MAX_UNPACKED` bytes."""
    inflate, size = zlib.decompressobj(), 0
    for first in range(0, len(compressed), BLOCK):
        rest = compressed[first : first + BLOCK]
        while rest and size <= MAX_UNPACKED:
            size += len(inflate.decompress(rest, BLOCK))
            rest = inflate.unconsumed_tail
    if size > MAX_UNPACKED:
        raise ValueError(f"a chunk of {name[:80]!r} unpacks to more than {MAX_UNPACKED:,} bytes")
