"""Part files: each process writes one per batch or window, and one process merges them at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from filelock import BaseFileLock

from tsgen.storage import locks
from tsgen.storage.atomic import replacing, write_text
from tsgen.storage.checkpoints import damage


class Parts:
    """Arrays of windows in part files, which any number of processes write as soon as they are computed.

    A part file is complete or absent, whenever a process ends.

    Args:
        folder: The folder of the part files until they are merged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: BaseFileLock | None = None

    @classmethod
    def beside(cls, path: Path) -> Parts:
        """Returns the part files that are merged into ``path``; their folder lies beside it."""
        return cls(path.with_name(f"{path.name}.parts"))

    def check_free(self) -> None:
        """Raises ``ValueError`` if a process of another command has locked the part files (:meth:`lock`)."""
        for path in self.folder.glob("process-*.lock"):
            try:
                locks.check(path)
            except locks.HeldError as holder:
                raise self._in_use(holder) from None

    def lock(self, rank: int = 0) -> None:
        """Locks the part files against other commands until :meth:`release` or the end of the process.

        Args:
            rank: Number of this process among those of its command.

        Raises:
            ValueError: If another command has locked them.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = locks.acquire(self.folder / f"process-{rank}.lock", "command")
        except locks.HeldError as holder:
            raise self._in_use(holder) from None

    def _in_use(self, holder: locks.HeldError) -> ValueError:
        return ValueError(
            f"{self.folder} is still in use by an earlier {holder}; wait for it, or end that process."
        )

    def release(self) -> None:
        """Unlocks the part files."""
        if self._lock is not None:
            locks.release(self._lock)
            self._remove_empty_folder()
        self._lock = None

    def remove_damaged(self, *arrays: str) -> list[str]:
        """Removes damaged part files; returns a description of the damage to each.

        Args:
            arrays: The names of the arrays that a part file must contain.
        """
        reports = []
        for path in sorted(self.folder.glob("part-*.npz")):
            reason = damage(path)
            # a damaged zip directory can look like a valid, shorter one
            if reason is None and _arrays(path).keys() != {*arrays}:
                reason = f"it must contain {' and '.join(arrays)}"
            if reason:
                path.unlink()
                reports.append(f"{path} was damaged ({reason})")
        return reports

    def clear(self) -> None:
        """Removes all part files; locks stay until they are released."""
        for path in self.folder.glob("*"):
            if path.suffix != ".lock" and path.is_file():
                path.unlink(missing_ok=True)
        self._remove_empty_folder()

    def _remove_empty_folder(self) -> None:
        # a folder that is absent or holds anything, such as the lock of another process, is left alone
        with suppress(OSError):
            self.folder.rmdir()

    @property
    def mark(self) -> str | None:
        """A text that identifies what the part files were computed from; None if not set."""
        path = self.folder / "mark"
        return path.read_text("utf-8") if path.is_file() else None

    @mark.setter
    def mark(self, text: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "mark", text)

    def write(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes arrays to a part file.

        Args:
            name: Name of the part: letters, digits and hyphens. Parts are read in the order of their names.
            arrays: Arrays by name. :meth:`read` needs windows on the first axis of all but scalars, and the
                positions of the windows as ``position``.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self._path(name)) as unfinished, unfinished.open("wb") as file:
            np.savez(file, **dict(arrays), allow_pickle=False)

    def __contains__(self, name: str) -> bool:
        return self._path(name).is_file()

    def __getitem__(self, name: str) -> dict[str, np.ndarray]:
        if name not in self:
            raise RuntimeError(f"{self._path(name)} was never written.")
        return _arrays(self._path(name))

    def names(self) -> list[str]:
        """Returns the names of all parts, sorted."""
        return sorted(path.stem.removeprefix("part-") for path in self.folder.glob("part-*.npz"))

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Iterates over the arrays of all parts, in the order of their names."""
        for path in sorted(self.folder.glob("part-*.npz")):
            yield _arrays(path)

    def read(self) -> dict[str, np.ndarray]:
        """Returns the merged arrays of all parts, windows in the order of their positions.

        Raises:
            ValueError: If there are no parts.
        """
        parts = list(self)
        if not parts:
            raise ValueError(f"{self.folder} must contain at least one part; no batch was processed.")
        order = np.argsort(np.concatenate([part["position"][:, 0] for part in parts]), kind="stable")
        return {
            name: first if first.ndim == 0 else np.concatenate([part[name] for part in parts])[order]
            for name, first in parts[0].items()
        }

    def _path(self, name: str) -> Path:
        return self.folder / f"part-{name}.npz"


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a part file.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except Exception as error:  # damaged bytes can raise any exception
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(
            f"{path} must be intact; it is damaged ({reason}). Run the command again."
        ) from error
