"""What the figures of the documentation share."""

from tsgen.figures import STYLE

WIDTH_50, WIDTH_90 = 0.6745, 1.6449
"""Half the width of a central interval of a Gaussian, in standard deviations."""

__all__ = ["STYLE", "WIDTH_50", "WIDTH_90"]
