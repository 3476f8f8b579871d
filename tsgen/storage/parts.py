"""What each process has finished, one file a batch or window, put together by one process at the end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from filelock import BaseFileLock

from tsgen.storage import locks
from tsgen.storage.atomic import replacing, write_text
from tsgen.storage.checkpoints import damage


class Parts:
    """Arrays of windows, written as they are finished, by any number of processes.

    A part is there as a whole or not at all, whenever a process ends.

    Args:
        folder: Where the parts lie until they are put together.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: BaseFileLock | None = None

    @classmethod
    def beside(cls, path: Path) -> Parts:
        """Those that a file is put together from."""
        return cls(path.with_name(f"{path.name}.parts"))

    def check_free(self) -> None:
        """Raises ``ValueError`` if a process of another command is at work: see :meth:`hold`."""
        for path in self.folder.glob("process-*.lock"):
            try:
                locks.check(path)
            except locks.HeldError as holder:
                raise self._in_use(holder) from None

    def hold(self, rank: int = 0) -> None:
        """Tells others that this process is at work, until it lets go or ends.

        Args:
            rank: Its number among those of the same command.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = locks.take(self.folder / f"process-{rank}.lock", "command")
        except locks.HeldError as holder:
            raise self._in_use(holder) from None

    def _in_use(self, holder: locks.HeldError) -> ValueError:
        return ValueError(
            f"{self.folder} is still written to by an earlier {holder}; wait for it, or end that process."
        )

    def let_go(self) -> None:
        """Tells others that this process is done."""
        if self._lock is not None:
            locks.let_go(self._lock)
        self._lock = None

    def remove_damaged(self, *arrays: str) -> list[str]:
        """Removes the parts that cannot be trusted; what was wrong with each.

        Args:
            arrays: The names of what a part holds.
        """
        said = []
        for path in sorted(self.folder.glob("part-*.npz")):
            reason = damage(path)
            # a table of contents that is damaged may pass for a shorter one
            if reason is None and _arrays(path).keys() != {*arrays}:
                reason = f"it must hold {' and '.join(arrays)}"
            if reason:
                path.unlink()
                said.append(f"{path} was damaged ({reason})")
        return said

    def clear(self) -> None:
        """Removes all parts."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def mark(self) -> str | None:
        """What the parts are of; None if nothing was said."""
        path = self.folder / "mark"
        return path.read_text("utf-8") if path.is_file() else None

    @mark.setter
    def mark(self, text: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "mark", text)

    def write(self, name: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keeps arrays under a name; names are put in their order.

        Args:
            name: Letters and digits.
            arrays: By name. For :meth:`read` the first axis is the window, but for scalars, and ``position``
                says where the windows lie.
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
        """The names of all parts, in their order."""
        return sorted(path.stem.removeprefix("part-") for path in self.folder.glob("part-*.npz"))

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """The arrays of one part after another."""
        for path in sorted(self.folder.glob("part-*.npz")):
            yield _arrays(path)

    def read(self) -> dict[str, np.ndarray]:
        """The arrays of all parts, windows in the order of their positions."""
        parts = list(self)
        if not parts:
            raise ValueError(f"{self.folder} must hold at least one part; no batch was processed.")
        order = np.argsort(np.concatenate([part["position"][:, 0] for part in parts]), kind="stable")
        return {
            name: first if first.ndim == 0 else np.concatenate([part[name] for part in parts])[order]
            for name, first in parts[0].items()
        }

    def _path(self, name: str) -> Path:
        return self.folder / f"part-{name}.npz"


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a part.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except Exception as error:  # whatever the bytes provoke
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path} must be whole; it is damaged ({reason}). Run the command again.") from error
