"""The figures of the documentation, each drawn by one command."""

from pathlib import Path

IMAGES = Path(__file__).parents[2] / "docs" / "images"
"""The folder that the figures are written to."""
