"""Files that are there as a whole or not at all, whenever a process ends: results, parts and checkpoints.

Everything that a run leaves is written by :func:`replacing`: first beside its place, then to the disk, then
into its place in one step of the file system. Whoever reads sees the old file or the new one. What a killed
process had begun lies there as ``NAME.unfinished`` until it is written again.

:class:`AtomicCheckpoints` does so for the checkpoints of a :class:`~lightning.Trainer`, and keeps the last
but one. ``docs/reliability.md`` tells what this gives.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
"""The checkpoint of the last epoch, and of the one before it."""


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


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint's bytes, or None: each part is held against its checksum.

    Args:
        path: The checkpoint.
    """
    # torch.load itself compares no checksums: a flipped bit would be a wrong weight
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
        return str(error) or type(error).__name__
    return f"{broken} does not fit its checksum" if broken else None


class AtomicCheckpoints(TorchCheckpointIO):
    """Checkpoints that are written as a whole or not at all; of ``last.ckpt`` the one before is kept.

    .. code-block:: python

        Trainer(plugins=[AtomicCheckpoints()])

    The one before is ``previous.ckpt``. It is not replaced by a last one that was passed over for it when
    training was resumed.
    """

    def __init__(self) -> None:
        self._resumed: Path | None = None

    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        """Reads a checkpoint."""
        self._resumed = Path(path)
        return super().load_checkpoint(path, *args, **options)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes a checkpoint.

        Args:
            checkpoint: Its content.
            path: The file.
            storage_options: Not used.
        """
        path, content = Path(path), io.BytesIO()
        # in memory first: torch's own writer ends the process where a file cannot grow
        torch.save(checkpoint, content)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as unfinished:
            unfinished.write_bytes(content.getbuffer())
            if path.name == LAST and path.exists():
                self._keep(path)

    def _keep(self, path: Path) -> None:
        previous, resumed = path.with_name(PREVIOUS), self._resumed
        self._resumed = None
        if resumed is not None and resumed.resolve() == previous.resolve():
            return  # the last one is damaged
        with replacing(previous) as unfinished:
            unfinished.unlink(missing_ok=True)
            try:
                os.link(path, unfinished)
            except OSError:  # a file system without links
                shutil.copyfile(path, unfinished)
