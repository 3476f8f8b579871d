"""Which classes a configuration may name.

The parser imports what a ``class_path`` names, and importing runs code. Creating an object may run code too,
if its class evaluates its arguments, starts them as a process or connects to them. The parser may therefore
import only :data:`IMPORTABLE`, the classes that a checkpoint may name and those of data modules, and the
packages given by ``--trusted`` on the command line; a YAML file cannot add any. The list is checked before
anything is imported, and again for the module that defines the imported object. An object must also be an
instance of the class that its option declares. If an option accepts any callable, only the list applies.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import yaml
from jsonargparse import Namespace, _optionals, set_loader, set_parsing_settings

from tsgen.cli.clone import has_datamodules
from tsgen.cli.yaml_text import load_yaml
from tsgen.storage.components import SOURCES, classes_of, importable

PRIORS = ("NetworkPrior", "Gaps")
"""The classes of :mod:`tsgen.simulate` that are options of a data module."""


def _data_modules() -> frozenset[str]:
    """Returns the paths of the data modules, and of priors of simulated data, that a configuration may name.

    They are imported, so that the parser also knows them by their bare names.
    """
    priors = {path for path in classes_of("tsgen.simulate") if path.rpartition(".")[2] in PRIORS}
    found = classes_of("tsgen.datamodules") | priors
    if has_datamodules():
        names = import_module("datamodules").__all__
        found |= classes_of("datamodules") | {f"datamodules.{name}" for name in names}
    return found


IMPORTABLE = importable() | _data_modules()
"""The paths that configurations may name: those that checkpoints may name, and data."""


NO_FILE = "fF"
"""A mode that no path satisfies: the parser's letters for a path that is a file, and for one that is not."""


def restrict_imports() -> None:
    """Restricts the parser to importing :data:`IMPORTABLE`, to YAML of bounded size, and to files of options
    that ``--config`` names.

    The parser would read the file that any option names, such as ``model: /etc/passwd``, as its value, and
    print what it found there.
    """
    _optionals._config_read_mode = NO_FILE
    set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=sorted(IMPORTABLE),
        # a value declared as Any stays plain data
        instantiate_subclass_spec_in_any=False,
    )
    set_loader("yaml", load_yaml, exceptions=(yaml.YAMLError,))


@contextmanager
def trusting(packages: Sequence[str]) -> Iterator[None]:
    """Lets configurations name classes of further packages, inside the context.

    Args:
        packages: The packages, such as ``mypackage`` or ``mypackage.encoders``.

    Raises:
        ValueError: If one is not the name of a package or cannot be imported.
    """
    for package in packages:
        _check_package(package)
    further = [package for package in packages if package not in IMPORTABLE]
    set_parsing_settings(import_path_allowlist=further)
    try:
        yield
    finally:
        set_parsing_settings(import_path_denylist=further)


def _check_package(package: str) -> None:
    if not all(part.isidentifier() for part in package.split(".")):
        raise ValueError(f"--trusted must be followed by a package such as mypackage; got {package!r}.")
    outermost = package.split(".")[0]
    # __main__ and some built-in modules have no spec
    if outermost not in sys.modules and find_spec(outermost) is None:
        raise ValueError(
            f"--trusted must name a module that can be imported; No module named {outermost!r}. Run "
            "`python -m tsgen ...` in the folder that contains it, put that folder on PYTHONPATH, or "
            "`pip install` it."
        )


def check_classes(options: Any) -> None:
    """Raises ``ValueError`` if parsed options name a method of a class.

    The list admits whole classes, and the parser would accept ``WandbLogger.download_artifact`` as a
    function.
    """
    if isinstance(options, Namespace):
        options = vars(options)
    if isinstance(options, dict):
        path = options.get("class_path")
        if isinstance(path, str):
            _check_class(path)
        options = list(options.values())
    if isinstance(options, (list, tuple)):
        for option in options:
            check_classes(option)
    elif inspect.isroutine(options):
        _check_class(f"{options.__module__}.{options.__qualname__}")


def _check_class(path: str) -> None:
    parts = path.split(".")
    if any(".".join(parts[:i]) in IMPORTABLE for i in range(1, len(parts))):
        raise ValueError(f"an option must name a class, not a member of one; got {path!r}.")


def refusal(path: str) -> str:
    """Returns the error message for a path that may not be imported.

    Args:
        path: The path, such as ``mypackage.encoders.Own``.
    """
    if "/" in path or path.endswith((".yaml", ".yml", ".json")):
        return f"an option must not name a file of options; got {path!r}. Give the file by --config."
    package = path.split(".")[0]
    own = package not in sys.stdlib_module_names and package not in {p.split(".")[0] for p in IMPORTABLE}
    return (
        f"a class in an option must lie in {SOURCES}, and be known to be harmless; got {path!r}."
        + f" If you trust its package, add --trusted {package}." * own
    )
