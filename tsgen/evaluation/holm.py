"""Adjustment of p-values for the number of hypotheses that are tested together."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns the p-values adjusted by Holm's method.

    Rejecting all hypotheses whose adjusted p-value is at most a level keeps the family-wise error rate, the
    probability of any false rejection, at that level, however the hypotheses depend on each other.

    References:
        A simple sequentially rejective multiple test procedure (Holm, 1979).
    """
    result, largest = [0.0] * len(p_values), 0.0
    ordered = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for rank, i in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - rank) * p_values[i]))
        result[i] = largest
    return result
