"""What a configuration may do: name parts of known packages, and be no larger than one that a person wrote.

The parser imports what a ``class_path`` names, and importing runs code; so does making an object of a class
whose arguments are evaluated, started or connected to. Its list of what may be imported is therefore turned
round: nothing but :data:`IMPORTABLE`, the classes that a checkpoint may name and those of data modules, and
the packages that the command line trusts (``--trusted mypackage``; a YAML file cannot say it). The list
is asked before anything is imported and again for where the found object is defined. What was found must
besides be of the class that the option is declared with; where an option takes anything that can be called,
that is no bound, and the list alone is.

YAML is read as plain data, and counted before it is built: an alias may be worth all that its anchor is, and
nine lines of them a billion entries. So is the YAML in a text, since the parser reads the text of an option
once more.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import yaml
from jsonargparse import Namespace, get_loader, set_loader, set_parsing_settings

from tsgen.cli.clone import has_datamodules
from tsgen.storage.components import SOURCES, classes_of, importable


def _data_modules() -> frozenset[str]:
    """The paths of the data modules that a configuration may name; importing them makes their names known."""
    found = classes_of("tsgen.datamodules")
    if has_datamodules():
        names = import_module("datamodules").__all__
        found |= classes_of("datamodules") | {f"datamodules.{name}" for name in names}
    return found


IMPORTABLE = importable() | _data_modules()
"""What configurations may name: what checkpoints may, and data."""

MAX_ENTRIES, MAX_DEPTH, MAX_CHARACTERS = 100_000, 100, 2**22
"""Of a configuration with its aliases written out: far beyond any that makes sense."""

MAX_WITHIN = 4
"""YAML in a text of YAML in a text, and so on."""


class TooLarge(yaml.YAMLError):
    """YAML that is larger than any configuration."""


_plain_load = get_loader("yaml")


def load_yaml(text: str) -> Any:
    """What YAML holds, as plain data.

    Args:
        text: The YAML; numbers are read as the parser reads them, ``1e-3`` as one.

    Raises:
        yaml.YAMLError: If it is not YAML, holds something other than plain data, or is too large.
    """
    _check_size(text)
    try:
        return _plain_load(text)
    except (ValueError, TypeError, LookupError, ArithmeticError) as error:  # such as a number of 5,000 digits
        raise yaml.YAMLError(str(error)) from error


def _check_size(text: str, within: int = 0) -> None:
    """Raises if the text is too long, too deep, or too large with its aliases written out."""
    if len(text) > MAX_CHARACTERS:
        raise TooLarge(f"it has {len(text):,} characters, more than {MAX_CHARACTERS:,}")
    sizes: dict[str | None, int] = {}
    around: list[tuple[str | None, int]] = []
    size = 0
    # events come one by one: nothing is built and nothing recurs
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            around.append((event.anchor, size))
            sizes.pop(event.anchor, None)
            size += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = around.pop()
            sizes[anchor] = size - before
        elif isinstance(event, yaml.AliasEvent):
            # inside its own anchor it would have no end
            size += sizes.get(event.anchor, MAX_ENTRIES + 1)
        elif isinstance(event, yaml.ScalarEvent):
            size += 1
            sizes[event.anchor] = 1
            # a shorter one is within bounds, and a text alone is itself
            if len(event.value) > MAX_DEPTH and event.value != text:
                _check_text(event.value, within + 1)
        if size > MAX_ENTRIES or len(around) > MAX_DEPTH:
            raise TooLarge(
                f"with its aliases written out it must have at most {MAX_ENTRIES:,} entries, "
                f"nested at most {MAX_DEPTH} deep, and no alias inside its own anchor"
            )


def _check_text(text: str, within: int) -> None:
    """Raises if a text is YAML that is too large; one that is no YAML stays the text that it is."""
    if within > MAX_WITHIN:
        raise TooLarge(f"YAML in a text must lie within at most {MAX_WITHIN} others")
    try:
        _check_size(text, within)
    except TooLarge:
        raise
    except yaml.YAMLError:
        pass


def check_plain(value: Any) -> None:
    """Raises ``ValueError`` unless YAML held mappings with names for keys, lists, text and numbers alone."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, (str, int)) and not (isinstance(key, float) and math.isfinite(key)):
                raise ValueError(f"keys must be names; {key!r:.60} is none")
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            check_plain(item)
    elif not isinstance(value, (str, int, float, type(None))):
        raise ValueError(f"entries must be text or numbers; {value!r:.60} is neither")


def guard() -> None:
    """Makes the parser import only what may be named, and read YAML within bounds."""
    set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=sorted(IMPORTABLE),
        # what is declared as anything at all stays the data that it is
        instantiate_subclass_spec_in_any=False,
    )
    set_loader("yaml", load_yaml, exceptions=(yaml.YAMLError,))


@contextmanager
def trusting(packages: Sequence[str]) -> Iterator[None]:
    """Lets configurations name classes of further packages.

    Args:
        packages: Such as ``mypackage`` or ``mypackage.encoders``.

    Raises:
        ValueError: If one is not the name of a package.
    """
    for package in packages:
        if not all(part.isidentifier() for part in package.split(".")):
            raise ValueError(f"--trusted must be followed by a package such as mypackage; it is {package!r}.")
    further = [package for package in packages if package not in IMPORTABLE]
    set_parsing_settings(import_path_allowlist=further)
    try:
        yield
    finally:
        set_parsing_settings(import_path_denylist=further)


def take_trusted(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a command without ``--trusted PACKAGE``, and the packages.

    Raises:
        ValueError: If none follows.
    """
    rest: list[str] = []
    packages: list[str] = []
    queue = iter(words)
    for word in queue:
        flag, equals, value = word.partition("=")
        if flag != "--trusted":
            rest.append(word)
            continue
        package = value if equals else next(queue, "")
        if not package:
            raise ValueError("--trusted must be followed by a package such as mypackage; nothing follows.")
        packages.append(package)
    return rest, packages


def check_classes(options: Any) -> None:
    """Raises ``ValueError`` if parsed options name a method of a class: the parser, where the list lets the
    class pass, takes ``WandbLogger.download_artifact`` for a function like any other."""
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
        raise ValueError(f"an option must name a class, not what belongs to one; it is {path!r}.")


def refusal(path: str) -> str:
    """What to tell of a path that may not be imported.

    Args:
        path: Such as ``mypackage.encoders.Own``.
    """
    package = path.split(".")[0]
    own = package not in sys.stdlib_module_names and package not in {p.split(".")[0] for p in IMPORTABLE}
    return (
        f"what an option names must lie in {SOURCES}, and be known to be harmless; {path!r} is not."
        + f" If you trust its package, add --trusted {package}." * own
    )
