"""Settings that the figures of the documentation share."""

from pathlib import Path

from tsgen.figures import STYLE

WIDTH_50, WIDTH_90 = 0.6745, 1.6449
"""Half the width of the central 50 % and 90 % intervals of a Gaussian, in standard deviations."""

IMAGES = Path(__file__).parents[2] / "docs" / "images"
"""The folder that the figures are written to."""

__all__ = ["IMAGES", "STYLE", "WIDTH_50", "WIDTH_90"]
