"""Locks that the operating system releases when a process ends: a leftover lock file blocks nobody."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""Error numbers of a file system that does not support locks."""


class HeldError(Exception):
    """Another process holds the lock; the message is the name and the process id of the holder."""


def acquire(path: Path, name: str) -> BaseFileLock:
    """Acquires a lock without waiting. :func:`release` or the end of the process releases it.

    On a file system without locks every process acquires it.

    Args:
        path: The lock file, which contains nothing else; its folder must exist.
        name: The name of the holder, for the error that other processes get. Its process id is added.

    Raises:
        HeldError: If another process, or another lock of this process, holds it.
    """
    lock = FileLock(path, fallback_to_soft=False)  # a soft lock would outlive its process
    holder = _read(path)  # before the attempt: older versions of filelock empty the file
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise HeldError(_read(path) or holder or "process of unknown id") from None
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
    with suppress(OSError):  # Windows forbids writing to a locked file; the name is only informative
        path.write_text(f"{name} (process {os.getpid()})", "utf-8")
    return lock


def release(lock: BaseFileLock) -> None:
    """Releases a lock and removes its file."""
    if lock.is_locked:
        # while it is held: a process that has already opened the file notices that it is gone, and retries
        with suppress(OSError):
            os.unlink(lock.lock_file)
    lock.release()


def check(path: Path) -> None:
    """Raises :class:`HeldError` if another process holds the lock."""
    if path.exists():
        release(acquire(path, "tsgen"))


def _read(path: Path) -> str:
    """Returns the text of a lock file, or an empty string if it cannot be read."""
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""
