"""Checkpoints that survive a run: written as a whole, held against their checksums, the last but one kept.

``docs/reliability.md`` tells what this gives.
"""

from __future__ import annotations

import io
import os
import shutil
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from tsgen.storage.atomic import replacing

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
"""The checkpoint of the end of training so far, and the one before it."""


def damage(path: Path) -> str | None:
    """What is wrong with the bytes of a checkpoint, or of another zip file; None if nothing.

    Each part is held against its checksum.

    Args:
        path: The file.
    """
    # torch.load itself compares no checksums: a flipped bit would be a wrong weight
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception as error:  # zipfile raises whatever the bytes provoke
        return str(error) or type(error).__name__
    return f"{broken} does not fit its checksum" if broken else None


def is_whole(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is of a whole epoch: from inside of one no training can go on exactly.

    Args:
        checkpoint: Its content.
    """
    return bool(checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint as plain data.

    Raises:
        ValueError: If there is no such file or it is no checkpoint of a model of this library.
    """
    if not path.is_file():
        raise ValueError(f"{path} must be a checkpoint; there is no such file. `tsgen fit` writes one.")
    try:
        broken = damage(path)
        if broken:
            raise ValueError(broken)
        if zipfile.is_zipfile(path):
            _check_stored(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other protocols: what is refused is told in one line
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the bytes provoke
        # what torch goes on to advise is to run the file's code
        reason = str(error).strip().splitlines()[0].split(". ")[0][:200] if str(error).strip() else ""
        reason = reason or type(error).__name__
        raise ValueError(f"{path} must be a checkpoint; it cannot be read as one ({reason}).") from error
    parts = state.get("hyper_parameters") if isinstance(state, dict) else None
    known = isinstance(parts, dict) and "model" in parts and isinstance(state.get("state_dict"), dict)
    if not known:
        raise ValueError(f"{path} must be a checkpoint of a tsgen model; it holds something else.")
    return state


def _check_stored(path: Path) -> None:
    """Raises unless a checkpoint holds its content as it is, as torch writes it, and not packed to a bomb."""
    with zipfile.ZipFile(path) as file:
        unpacked = sum(entry.file_size for entry in file.infolist())
    if unpacked > path.stat().st_size:
        raise ValueError(f"it unpacks to {unpacked:,} bytes")


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
