"""What each process has finished, one file a batch, put together by one process at the end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np


class Parts:
    """Arrays of windows, written batch by batch by any number of processes.

    Args:
        folder: Where the parts lie until they are put together.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def clear(self) -> None:
        """Removes all parts."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def write(self, rank: int, batch: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Keeps the arrays of a batch.

        Args:
            rank: Number of the process.
            batch: Number of its batch.
            arrays: By name; the first axis is the window, but for scalars. ``position`` says where the
                windows lie.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        np.savez(self.folder / f"part-{rank:04d}-{batch:06d}.npz", **dict(arrays), allow_pickle=False)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """The arrays of one batch after another."""
        for path in sorted(self.folder.glob("part-*.npz")):
            with np.load(path) as arrays:
                yield dict(arrays)

    def read(self) -> dict[str, np.ndarray]:
        """The arrays of all batches, windows in the order of their positions."""
        parts = list(self)
        if not parts:
            raise ValueError(f"{self.folder} must hold at least one part; no batch was processed.")
        order = np.argsort(np.concatenate([part["position"][:, 0] for part in parts]), kind="stable")
        return {
            name: first if first.ndim == 0 else np.concatenate([part[name] for part in parts])[order]
            for name, first in parts[0].items()
        }
