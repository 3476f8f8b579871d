"""Files that are there as a whole or not at all, whenever a process ends: results and parts.

Everything that a run leaves is written by :func:`replacing`: first beside its place, then to the disk, then
into its place in one step of the file system. Whoever reads sees the old file or the new one. What a killed
process had begun lies there as ``NAME.unfinished`` until it is written again.

:mod:`tsgen.checkpoints` does so for those of a trainer. ``docs/reliability.md`` tells what this gives.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write a file that takes its place when it is whole.

    Args:
        path: The file.

    Raises:
        OSError: If it cannot be written, as on a full disk. What was there before is untouched.
    """
    unfinished = path.with_name(f"{path.name}.unfinished")  # no leading dot: torch.save refuses one
    try:
        yield unfinished
        _sync(unfinished)
        unfinished.replace(path)
        _sync(path.parent)
    except (OSError, RuntimeError) as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, RuntimeError) and not str(error).startswith("NetCDF: "):
            raise
        # netCDF4 tells of a full disk by a RuntimeError
        raise OSError(
            getattr(error, "errno", None) or errno.EIO,
            f"it could not be written ({getattr(error, 'strerror', None) or error}); what was there before "
            "is whole. Make room and run the command again",
            str(path),
        ) from error
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str, errors: str = "strict") -> None:
    """Writes a text file as a whole or not at all, in UTF-8.

    Args:
        path: The file.
        text: Its content.
        errors: What becomes of characters that have no encoding, as in :meth:`str.encode`.
    """
    with replacing(path) as unfinished:
        unfinished.write_bytes(text.encode("utf-8", errors))


def _sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    folder = path.is_dir()
    # not every file system opens a folder, or waits for its names
    with suppress(OSError) if folder else nullcontext():
        handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
