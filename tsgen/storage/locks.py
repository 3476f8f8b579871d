"""Locks that the system lets go when a process ends, however it ends: no file that is left blocks anybody."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What a file system says that has none."""


class HeldError(Exception):
    """Another process holds the lock; the text says which, as it called itself."""


def take(path: Path, who: str) -> BaseFileLock:
    """Takes a lock, at once or not at all; :func:`let_go` gives it back, and so does the end of the process.

    On a file system that has no locks everybody gets it.

    Args:
        path: A file in a folder that is there; nothing else is kept in it.
        who: How the holder calls itself to those who are refused. Its process number is added.

    Raises:
        HeldError: If another process, or another lock of this one, holds it.
    """
    lock = FileLock(path, fallback_to_soft=False)  # a soft one would outlive its process
    holder = _read(path)  # before the attempt: older versions of filelock empty the file by it
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise HeldError(_read(path) or holder or "process of an unknown number") from None
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
    with suppress(OSError):  # Windows lets nobody write to a locked file; the name is only a help
        path.write_text(f"{who} (process {os.getpid()})", "utf-8")
    return lock


def let_go(lock: BaseFileLock) -> None:
    """Gives a lock back and removes its file."""
    if lock.is_locked:
        # while it is held: who has opened the file by now sees that it lost its name, and asks again
        with suppress(OSError):
            os.unlink(lock.lock_file)
    lock.release()


def check(path: Path) -> None:
    """Raises :class:`HeldError` if another process holds the lock."""
    if path.exists():
        let_go(take(path, "tsgen"))


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""
