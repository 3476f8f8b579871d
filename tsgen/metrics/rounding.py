"""Rounding of reported numbers to six significant digits, independent of their unit."""

from __future__ import annotations


def rounded(x: float) -> float:
    """Returns a number rounded to six significant digits; infinity and NaN are returned unchanged.

    Rounding to decimal places instead would turn a score of 3e-7 into zero.

    Args:
        x: The number.
    """
    return float(f"{x:.6g}")
