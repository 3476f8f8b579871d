"""Files that are there as a whole or not at all, whenever a process ends: results and parts.

Everything that a run leaves is written by :func:`replacing`: first beside its place, then to the disk, then
into its place in one step of the file system. Whoever reads sees the old file or the new one, and two who
write never write into one file. What a killed process had begun lies there as
``NAME.MACHINE-PROCESS-xxxx.unfinished`` until another process writes to that folder.

:mod:`tsgen.storage.checkpoints` does so for those of a trainer. ``docs/reliability.md`` says what
this gives.
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
"""Seconds after which another machine's unfinished file is taken for one that a killed process has left."""

_tidied: set[tuple[int, Path]] = set()
"""The folders that a process has tidied, with its number: one that was forked tidies again."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write a file that takes its place when it is whole.

    Args:
        path: The file.

    Raises:
        OSError: If it cannot be written, as on a full disk. What was there before is untouched.
    """
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


def _tidy(folder: Path) -> None:
    """Removes what processes that are no more have left unfinished, once for each process and folder."""
    mine = os.getpid(), folder.resolve()
    if mine in _tidied:
        return
    _tidied.add(mine)
    for path in folder.glob("*.unfinished"):
        with suppress(OSError):  # another one tidies too
            if _is_left(path):
                path.unlink()


def _is_left(unfinished: Path) -> bool:
    """Whether nobody is writing a file any more."""
    its = re.search(r"\.([A-Za-z0-9]+)-(\d+)-[0-9a-f]+\.unfinished$", unfinished.name)
    if its is None:
        return False
    if its[1] != MACHINE:
        return time.time() - unfinished.stat().st_mtime > FORGOTTEN
    return not _lives(int(its[2]))


def _lives(process: int) -> bool:
    """Whether a process other than this one has that number."""
    if process == os.getpid():  # it was an earlier one's: in a container they begin at 1 again
        return False
    if os.name != "posix":  # elsewhere nobody can ask without harm
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


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
