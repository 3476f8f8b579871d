"""Checkpoints that survive interruptions: written atomically, verified by checksums, the previous one kept.

``docs/reliability.md`` describes the guarantees.
"""

from __future__ import annotations

import io
import os
import shutil
import warnings
import zipfile
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from tsgen.storage.atomic import replacing
from tsgen.storage.display import printable
from tsgen.storage.instructions import check_instructions

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"
"""The latest checkpoint of a training, and the one before it."""

MAX_SHARED = 8
"""How often a checkpoint may use the bytes of its file: tied weights occur under several names."""

MAX_DEPTH = 100
"""The largest depth of containers in containers in a checkpoint."""


def damage(path: Path) -> str | None:
    """Describes the damage to a checkpoint, or to another zip file, or returns None.

    The contents of each member are compared with its checksum.

    Args:
        path: The file.
    """
    # torch.load does not verify checksums: a flipped bit would become a wrong weight
    try:
        with zipfile.ZipFile(path) as archive:
            _check_stored(path, archive.infolist())
            broken = archive.testzip()
    except Exception as error:  # damaged bytes can raise any exception in zipfile
        return str(error) or type(error).__name__
    return f"{broken} does not match its checksum" if broken else None


def _check_stored(path: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    """Raises unless the members of an archive are uncompressed and follow each other from its first byte.

    Neither torch nor NumPy compresses what this library writes, and a compressed file could be a zip bomb.
    """
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("it is compressed, which no file written by tsgen is")
    size, unpacked = path.stat().st_size, sum(member.file_size for member in members)
    if unpacked > size:
        raise ValueError(f"it unpacks to {unpacked:,} bytes, and has {size:,}")
    # after other bytes, torch's reader and that of Python would find different members
    if min((member.header_offset for member in members), default=0) != 0:
        raise ValueError("it does not begin with its first member")


def is_whole(checkpoint: Mapping[str, Any]) -> bool:
    """Returns whether a checkpoint was written at the end of an epoch, so that training can resume exactly.

    Args:
        checkpoint: The content of the checkpoint.
    """
    return bool(checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"])


def first_nonfinite(tensors: Mapping[str, Any], parameters: Container[str]) -> str | None:
    """Returns the name of the first tensor with NaN or infinite entries, or None.

    A buffer that is not a parameter may contain minus infinity: attention masks do.

    Args:
        tensors: Tensors by name; others than plain floating-point tensors are skipped.
        parameters: The names of the parameters among them.
    """
    for name, x in tensors.items():
        # shards of a model are other types, and have no isfinite()
        if type(x) in (torch.Tensor, torch.nn.Parameter) and x.is_floating_point():
            finite = torch.isfinite(x)
            if not (finite if name in parameters else finite | torch.isneginf(x)).all():
                return name
    return None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Returns the content of a checkpoint as plain data.

    Args:
        path: The file.

    Raises:
        ValueError: If the file does not exist, is damaged, or is not a checkpoint of a model of this library.
    """
    if not path.is_file():
        raise ValueError(f"{path} must be a checkpoint; there is no such file. `tsgen fit` writes one.")
    try:
        broken = damage(path)
        if broken:
            raise ValueError(broken)
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.filename.lower().endswith("data.pkl"):
                    check_instructions(archive.read(member))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about pickle protocols before it raises
            state = torch.load(path, map_location="cpu", weights_only=True)
        _check_tensors(state, path.stat().st_size)
    except Exception as error:  # damaged bytes can raise any exception in torch.load
        # the rest of torch's message recommends running the code in the file
        reason = printable(str(error).strip().split(". ")[0].partition("\n")[0], 200) or type(error).__name__
        raise ValueError(f"{path} must be a checkpoint; it cannot be read as one ({reason}).") from error
    hparams = state.get("hyper_parameters") if isinstance(state, dict) else None
    is_model = isinstance(hparams, dict) and "model" in hparams and isinstance(state.get("state_dict"), dict)
    if not is_model:
        raise ValueError(f"{path} must be a checkpoint of a tsgen model; it contains something else.")
    return state


def _check_tensors(state: Any, size: int) -> None:
    """Raises unless the tensors of a checkpoint have their entries in the file.

    A tensor of one stored entry can have any shape, and many tensors can share their entries.

    Args:
        state: The content of the checkpoint.
        size: The size of the file in bytes.
    """
    total, items = 0, [(state, 0)]
    while items:
        item, depth = items.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"it nests containers more than {MAX_DEPTH} deep")
        if isinstance(item, torch.Tensor):
            if item.layout != torch.strided or item.device.type != "cpu" or item.is_quantized:
                raise ValueError("it has a tensor that is not a plain array of numbers")
            total += item.numel() * item.element_size()
            if total > MAX_SHARED * size:
                raise ValueError("its tensors have more entries than it stores")
        elif isinstance(item, Mapping):
            items += [(value, depth + 1) for value in item.values()]
        elif isinstance(item, (list, tuple)):
            items += [(value, depth + 1) for value in item]


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes checkpoints atomically, and keeps the previous ``last.ckpt`` as ``previous.ckpt``.

    .. code-block:: python

        Trainer(plugins=[AtomicCheckpoints()])

    If training was resumed from ``previous.ckpt``, because ``last.ckpt`` is damaged or was written inside an
    epoch, the first save does not replace ``previous.ckpt`` by that ``last.ckpt``.
    """

    def __init__(self) -> None:
        self._resumed: Path | None = None

    def load_checkpoint(self, path: Any, *args: Any, **options: Any) -> dict[str, Any]:
        """Reads a checkpoint and remembers that training resumes from it."""
        self._resumed = Path(path)
        return super().load_checkpoint(path, *args, **options)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes a checkpoint.

        Args:
            checkpoint: The content of the checkpoint.
            path: The file.
            storage_options: Not used.
        """
        path, content = Path(path), io.BytesIO()
        # in memory first: torch's own writer aborts the process if a file cannot grow
        torch.save(checkpoint, content)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as unfinished:
            unfinished.write_bytes(content.getbuffer())
            if path.name == LAST and path.exists():
                self._keep(path)

    def _keep(self, path: Path) -> None:
        """Copies ``last.ckpt`` to ``previous.ckpt`` before it is replaced."""
        previous, resumed = path.with_name(PREVIOUS), self._resumed
        self._resumed = None
        if resumed is not None and resumed.resolve() == previous.resolve():
            return  # last.ckpt is damaged, or was written inside an epoch
        with replacing(previous) as unfinished:
            unfinished.unlink(missing_ok=True)
            try:
                os.link(path, unfinished)
            except OSError:  # a file system without links
                shutil.copyfile(path, unfinished)
