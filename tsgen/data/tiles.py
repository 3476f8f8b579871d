"""Windows that cover stretches of time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, zip_longest


@dataclass(frozen=True)
class Tiles:
    """Windows that cover stretches of time, every step at least once.

    Args:
        window: Steps of a window.
        overlap: Steps that a window shares with the one before, but for the last of a stretch, which ends
            with it and may share more.
        chains: First steps of the windows of each stretch.
    """

    window: int
    overlap: int
    chains: list[list[int]]

    @classmethod
    def over(cls, stretches: list[slice], window: int, overlap: int | None = 0) -> Tiles:
        """The windows of some stretches; they share a quarter of a window where ``overlap`` is None.

        Raises:
            ValueError: If the overlap is not shorter than a window, there is no stretch, or one is shorter
                than a window.
        """
        if overlap is None:
            overlap = min(max(1, window // 4), window - 1)
        if not 0 <= overlap < window:
            raise ValueError(
                f"overlap must lie in 0..{window - 1}, below the steps of a window; it is {overlap}."
            )
        chains = []
        for s in stretches:
            if s.stop - s.start < window:
                raise ValueError(
                    f"every stretch must be at least one window of {window} steps long; the one from step "
                    f"{s.start} has {s.stop - s.start}. Choose a shorter window."
                )
            chains.append([*range(s.start, s.stop - window, window - overlap), s.stop - window])
        if not chains:
            raise ValueError("a split must hold at least one stretch of time; it is empty.")
        return cls(window, overlap, chains)

    @property
    def starts(self) -> list[int]:
        """First step of each window, stretch by stretch."""
        return [start for chain in self.chains for start in chain]

    @property
    def before(self) -> dict[int, int]:
        """The start of the window before each one, by its start; of a stretch's first there is none."""
        return {b: a for chain in self.chains for a, b in pairwise(chain)}

    def kept(self, lookahead: int = 0) -> dict[int, slice]:
        """The steps that are taken from each window, by its start: every step of the stretches once.

        Args:
            lookahead: Steps at the end of a window that are left to the next one.
        """
        kept: dict[int, slice] = {}
        for chain in self.chains:
            ends = [start + self.window - lookahead for start in chain[:-1]]
            bounds = [chain[0], *ends, chain[-1] + self.window]
            kept |= {s: slice(a, b) for s, (a, b) in zip(chain, pairwise(bounds), strict=True)}
        return kept

    def batches(self, size: int, rank: int = 0, world_size: int = 1) -> Iterator[list[int]]:
        """Numbers of the windows that one process draws at the same time, each after the one before it.

        Without an overlap any windows; with one, windows of as many stretches.

        Args:
            size: The most windows in a batch.
            rank: Number of the process.
            world_size: Number of processes.
        """
        number = {start: n for n, start in enumerate(self.starts)}
        chains = self.chains if self.overlap else [[start] for start in self.starts]
        mine = chains[rank::world_size]
        for first in range(0, len(mine), size):
            for level in zip_longest(*mine[first : first + size]):
                yield [number[start] for start in level if start is not None]
