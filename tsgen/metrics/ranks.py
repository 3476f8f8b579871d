"""Bins of whole ranks, for histograms that are flat where draws are calibrated."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int


def rank_edges(num_samples: int, bins: int = 20) -> Int[np.ndarray, " edges"]:
    """Where bins of whole ranks begin: bin b holds the ranks from ``edges[b]`` to ``edges[b + 1] - 1``.

    Args:
        num_samples: The number S of draws: ranks run from 0 to S.
        bins: The number of bins, fewer if there are fewer ranks. They differ by at most one rank.
    """
    number = min(bins, num_samples + 1)
    return np.arange(number + 1) * (num_samples + 1) // number
