"""Atomic writes: a file is complete or absent, whenever a process ends.

All files of a run are written by :func:`replacing`: first to a temporary file in the same folder, which is
flushed to the disk and then renamed atomically. A reader sees the old file or the new
one, and two writers never write to the same file. The temporary file of a killed process,
``NAME.MACHINE-PROCESS-xxxx.unfinished``, stays until another process writes to that folder.

:mod:`tsgen.storage.checkpoints` writes a trainer's checkpoints in this way. ``docs/reliability.md`` describes
the guarantees.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

MACHINE = re.sub(r"[^A-Za-z0-9]", "", platform.node())[:16] or "here"
FORGOTTEN = 24 * 3600
"""Seconds after which the unfinished file of another machine is assumed to belong to a killed process."""

_tidied: set[tuple[int, Path]] = set()
"""Pairs of a process id and a folder that it has tidied. A forked process has a new id and tidies again."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path, and moves the file written there to ``path`` when the block ends.

    Args:
        path: The file to write or replace.

    Raises:
        OSError: If it cannot be written, for example on a full disk. The earlier file is unchanged.
    """
    if not path.name:
        raise ValueError(f"a file to write must have a name; the path is {str(path)!r}.")
    _tidy(path.parent)
    # no leading dot: torch.save refuses one
    unfinished = path.with_name(f"{path.name}.{MACHINE}-{os.getpid()}-{secrets.token_hex(4)}.unfinished")
    try:
        yield unfinished
        _sync(unfinished)
        unfinished.replace(path)
        _sync(path.parent)
    except (OSError, RuntimeError) as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, RuntimeError) and not str(error).startswith("NetCDF: "):
            raise
        # netCDF4 reports a full disk as a RuntimeError
        raise OSError(
            getattr(error, "errno", None) or errno.EIO,
            f"it could not be written ({getattr(error, 'strerror', None) or error}); the earlier file is "
            "unchanged. Free disk space and run the command again",
            str(path),
        ) from error
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str, errors: str = "strict") -> None:
    """Writes a text file atomically, in UTF-8.

    Args:
        path: The file.
        text: Its content.
        errors: How to handle characters that cannot be encoded, as in :meth:`str.encode`.
    """
    with replacing(path) as unfinished:
        unfinished.write_bytes(text.encode("utf-8", errors))


def _tidy(folder: Path) -> None:
    """Removes the unfinished files of processes that have ended, once per process and folder."""
    key = os.getpid(), folder.resolve()
    if key in _tidied:
        return
    _tidied.add(key)
    for path in folder.glob("*.unfinished"):
        with suppress(OSError):  # another process may remove it at the same time
            if _is_abandoned(path):
                path.unlink()


def _is_abandoned(unfinished: Path) -> bool:
    """Returns whether no process is writing the file any more."""
    match = re.search(r"\.([A-Za-z0-9]+)-(\d+)-[0-9a-f]+\.unfinished$", unfinished.name)
    if match is None:
        return False
    if match[1] != MACHINE:
        return time.time() - unfinished.stat().st_mtime > FORGOTTEN
    return not _is_running(int(match[2]))


def _is_running(process: int) -> bool:
    """Returns whether another process with this id is running."""
    if process == os.getpid():  # an earlier process had the id: in a container ids start at 1 again
        return False
    if os.name != "posix":  # on Windows os.kill could end the process
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _sync(path: Path) -> None:
    """Flushes a file, or the names in a folder, to the disk."""
    is_folder = path.is_dir()
    # not every file system can open or flush a folder
    with suppress(OSError) if is_folder else nullcontext():
        handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
