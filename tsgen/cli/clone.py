"""Finds the clone of the repository that tsgen is imported from, if any.

A wheel contains only ``tsgen``. A clone also contains ``experiments/configs`` (published experiments) and the
package ``datamodules`` (published data sets), and the command line offers both. A user's own package called
``datamodules`` is not mistaken for that of the clone, because its path is checked.
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
    """Returns whether ``import datamodules`` imports the package of the clone."""
    root = clone()
    if root is None:
        return False
    if str(root) not in sys.path:
        sys.path.append(str(root))  # last, so that it hides no module of the user
    found = find_spec("datamodules")
    return found is not None and Path(found.origin or "").parent == root / "datamodules"


def configurations() -> Path | None:
    """Returns the folder of the clone's configurations; None if their data modules cannot be imported."""
    root = clone()
    return root / "experiments" / "configs" if root is not None and has_datamodules() else None
