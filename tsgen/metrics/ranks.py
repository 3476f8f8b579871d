"""Bins of whole ranks, for histograms that are flat if draws are calibrated."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int


def rank_edges(num_samples: int, bins: int = 20) -> Int[np.ndarray, " edges"]:
    """Returns the edges of bins of whole ranks: bin b holds ranks ``edges[b]`` to ``edges[b + 1] - 1``.

    Args:
        num_samples: The number S of draws: ranks run from 0 to S.
        bins: The number of bins, or the number of ranks if that is smaller. Bins differ by at most one rank.
    """
    number = min(bins, num_samples + 1)
    return np.arange(number + 1) * (num_samples + 1) // number
