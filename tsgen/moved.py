"""Names that modules had in 0.1.0, for code, configurations and checkpoints written for it.

``from tsgen.masks import PointMask`` imports the class of ``tsgen.data`` with a :class:`DeprecationWarning`.
The old names will be removed in 0.3.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_ROOMS = {
    "data": ("series", "stored_series", "moments", "graphs", "subgraphs", "masks", "interpolation"),
    "storage": ("locks", "parts", "checkpoints", "components", "privacy"),
    "exact": ("ar", "gaussian", "kalman", "linear", "threshold"),
    "evaluation": ("baselines", "comparison", "bootstrap", "calibration", "conformal", "divergence"),
    "encoders": ("propagation",),
    "heads": ("likelihood",),
    "sampling": ("particles",),
    "metrics": ("ranks", "rounding"),
    "inference": ("imputation", "stitching"),
    "training": ("callbacks", "gradient_flow"),
}
MODULES = {f"tsgen.{name}": f"tsgen.{room}.{name}" for room, names in _ROOMS.items() for name in names}
MODULES["tsgen.files"] = "tsgen.storage.atomic"
"""Maps the old name of each module to its new name."""

CLASSES = {
    "datamodules.synthetic.SyntheticDataModule": "tsgen.datamodules.SyntheticDataModule",
    "datamodules.files.FilesDataModule": "tsgen.datamodules.FilesDataModule",
    "datamodules.SyntheticDataModule": "tsgen.datamodules.SyntheticDataModule",
    "datamodules.FilesDataModule": "tsgen.datamodules.FilesDataModule",
}
"""Maps the old path of each class that was outside ``tsgen`` to its new path."""


def current(class_path: str) -> str:
    """Returns the current path of a class.

    Args:
        class_path: Its current path, or its path in 0.1.0.
    """
    module, _, name = class_path.rpartition(".")
    if module in MODULES:
        return f"{MODULES[module]}.{name}"
    return CLASSES.get(class_path, class_path)


class _Finder(MetaPathFinder):
    """Finds modules by their old names."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, _Loader(MODULES[fullname])) if fullname in MODULES else None


class _Loader(Loader):
    """Loads an old name as the module of the new name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        warnings.warn(
            f"{spec.name} is now {self.name}; the old name will be removed in tsgen 0.3.",
            DeprecationWarning,
            stacklevel=2,
        )
        module = import_module(self.name)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # the import system has replaced it


def install() -> None:
    """Makes the old names importable; called once by ``import tsgen``."""
    sys.meta_path.append(_Finder())
