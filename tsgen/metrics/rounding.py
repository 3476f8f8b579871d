"""Numbers as they are written: to six significant digits, whatever their unit."""

from __future__ import annotations


def rounded(x: float) -> float:
    """A number to six significant digits; what is not finite stays as it is.

    Args:
        x: The number. A score of 3e-7 keeps its digits: places after the point would leave it none.
    """
    return float(f"{x:.6g}")
