"""The repository around the package, where there is one.

A wheel holds ``tsgen`` alone. A clone also has ``experiments/configs`` (published experiments) and the
package ``datamodules`` (published data sets) beside it, and the command line offers both. A package of the
user's own that is called ``datamodules`` is never mistaken for the clone's: what counts is where it lies.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path


def clone() -> Path | None:
    """Returns the root of the clone that tsgen is imported from; None for an installed wheel."""
    root = Path(__file__).resolve().parents[2]
    # site-packages, where a wheel lies, has neither
    return root if (root / "pyproject.toml").is_file() and (root / "experiments").is_dir() else None


def has_datamodules() -> bool:
    """Returns whether ``import datamodules`` gives the clone's own package."""
    root = clone()
    if root is None:
        return False
    if str(root) not in sys.path:
        sys.path.append(str(root))  # last: nothing of the user's is hidden by it
    found = find_spec("datamodules")
    return found is not None and Path(found.origin or "").parent == root / "datamodules"


def configurations() -> Path | None:
    """Returns the folder of the clone's experiments, where their data modules can be imported; else None."""
    root = clone()
    return root / "experiments" / "configs" if root is not None and has_datamodules() else None
