"""Tilings: overlapping windows that cover stretches of time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, zip_longest


@dataclass(frozen=True)
class Tiles:
    """Windows that cover stretches of time, every step at least once.

    Args:
        window: Length of a window, in steps.
        overlap: Steps that a window shares with the one before. The last window of a stretch ends with the
            stretch and may share more.
        chains: First steps of the windows of each stretch.
    """

    window: int
    overlap: int
    chains: list[list[int]]

    @classmethod
    def over(cls, stretches: list[slice], window: int, overlap: int | None = 0) -> Tiles:
        """Returns the windows that cover some stretches.

        Args:
            stretches: Stretches of time, as slices of steps.
            window: Length of a window, in steps.
            overlap: Steps that a window shares with the one before; None for a quarter of a window.

        Raises:
            ValueError: If the overlap is not shorter than a window, there is no stretch, or a stretch is
                shorter than a window.
        """
        if overlap is None:
            overlap = min(max(1, window // 4), window - 1)
        if not 0 <= overlap < window:
            raise ValueError(
                f"overlap must lie in 0..{window - 1}, below the length of a window; it is {overlap}."
            )
        chains = []
        for s in stretches:
            if s.stop - s.start < window:
                raise ValueError(
                    f"every stretch must be at least as long as a window of {window} steps; the stretch from "
                    f"step {s.start} has {s.stop - s.start}. Choose a shorter window."
                )
            chains.append([*range(s.start, s.stop - window, window - overlap), s.stop - window])
        if not chains:
            raise ValueError(
                "a split must hold at least one stretch of time; it is empty. Give it a share of the steps."
            )
        return cls(window, overlap, chains)

    @property
    def starts(self) -> list[int]:
        """First step of each window, stretch by stretch."""
        return [start for chain in self.chains for start in chain]

    @property
    def before(self) -> dict[int, int]:
        """Maps the start of each window, except the first of a stretch, to the start of its predecessor."""
        return {b: a for chain in self.chains for a, b in pairwise(chain)}

    def kept(self, lookahead: int = 0) -> dict[int, slice]:
        """Returns the steps to keep from each window, by its start; every step is kept from one window.

        Args:
            lookahead: Steps at the end of a window that are taken from the next window instead.
        """
        kept: dict[int, slice] = {}
        for chain in self.chains:
            ends = [start + self.window - lookahead for start in chain[:-1]]
            bounds = [chain[0], *ends, chain[-1] + self.window]
            kept |= {s: slice(a, b) for s, (a, b) in zip(chain, pairwise(bounds), strict=True)}
        return kept

    def batches(self, size: int, rank: int = 0, world_size: int = 1) -> Iterator[list[int]]:
        """Yields batches of window numbers for one process, every window after its predecessor.

        Without an overlap, a batch may hold any windows; with an overlap, its windows come from different
        stretches.

        Args:
            size: The maximum number of windows in a batch.
            rank: Number of the process.
            world_size: Number of processes.
        """
        number = {start: n for n, start in enumerate(self.starts)}
        chains = self.chains if self.overlap else [[start] for start in self.starts]
        own_chains = chains[rank::world_size]
        for first in range(0, len(own_chains), size):
            for level in zip_longest(*own_chains[first : first + size]):
                yield [number[start] for start in level if start is not None]
