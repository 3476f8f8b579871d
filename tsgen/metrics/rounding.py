"""Rounding of written numbers to six significant digits, independent of their unit."""

from __future__ import annotations


def rounded(x: float) -> float:
    """Returns a number rounded to six significant digits; infinity and NaN are returned unchanged.

    Significant digits rather than decimal places, so that a score of 3e-7 does not round to zero.

    Args:
        x: The number.
    """
    return float(f"{x:.6g}")
