"""Reads YAML as plain data of bounded size.

A configuration may come from a stranger. In YAML an alias (``*a``) stands for the whole content of its anchor
(``&a``), so that nine lines may expand to a billion entries, and PyYAML recurses once per level of nesting.
The expanded size and the depth are therefore counted before any object is built. The same is done for YAML
inside a string, because jsonargparse reads the string of an option as YAML again, and not always by the
loader that :func:`~tsgen.cli.trust.restrict_imports` sets.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import get_loader

from tsgen.storage.display import has_controls

MAX_ENTRIES, MAX_DEPTH, MAX_CHARACTERS = 100_000, 100, 2**22
"""Bounds on a configuration with its aliases expanded, far beyond what a person writes."""

MAX_NESTED_TEXTS = 4
"""The maximum number of levels of YAML in a string of YAML in a string, and so on."""

_plain_load = get_loader("yaml")


class TooLargeError(yaml.YAMLError):
    """YAML that exceeds the bounds."""


def read_text(path: Path) -> str:
    """Returns the text of a YAML file of bounded size.

    Raises:
        ValueError: If it is too large or not UTF-8.
    """
    size = path.stat().st_size
    if size > 4 * MAX_CHARACTERS:  # UTF-8 has at most 4 bytes a character
        raise ValueError(f"it has {size:,} bytes, more than {4 * MAX_CHARACTERS:,}")
    return path.read_text("utf-8")


def load_yaml(text: str) -> Any:
    """Returns the content of a YAML text as plain data.

    Args:
        text: The YAML. Numbers are read as on the command line: ``1e-3`` is a number.

    Raises:
        yaml.YAMLError: If the text is not YAML, contains more than plain data, or is too large.
    """
    _check_size(text)
    try:
        return _plain_load(text)
    except (ValueError, TypeError, LookupError, ArithmeticError) as error:  # such as a number of 5,000 digits
        raise yaml.YAMLError(str(error)) from error


def _check_size(text: str, within: int = 0) -> None:
    """Raises ``TooLargeError`` if the text, with its aliases expanded, is too long, deep or large."""
    if len(text) > MAX_CHARACTERS:
        raise TooLargeError(f"it has {len(text):,} characters, more than {MAX_CHARACTERS:,}")
    sizes: dict[str | None, int] = {}
    around: list[tuple[str | None, int]] = []
    size = 0
    # events come one by one: no object is built and nothing recurses
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionStartEvent):
            around.append((event.anchor, size))
            sizes.pop(event.anchor, None)
            size += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = around.pop()
            sizes[anchor] = size - before
        elif isinstance(event, yaml.AliasEvent):
            # an alias inside its own anchor would expand forever
            size += sizes.get(event.anchor, MAX_ENTRIES + 1)
        elif isinstance(event, yaml.ScalarEvent):
            size += 1
            sizes[event.anchor] = 1
            # a shorter text is within bounds; a document that is one plain text is the text checked here
            if len(event.value) > MAX_DEPTH and event.value != text:
                _check_text(event.value, within + 1)
        if size > MAX_ENTRIES or len(around) > MAX_DEPTH:
            raise TooLargeError(
                f"with its aliases expanded it must have at most {MAX_ENTRIES:,} entries, "
                f"nested at most {MAX_DEPTH} deep, and no alias inside its own anchor"
            )


def _check_text(text: str, within: int) -> None:
    """Raises ``TooLargeError`` if a string is YAML that is too large; any string that is not YAML passes."""
    if within > MAX_NESTED_TEXTS:
        raise TooLargeError(f"YAML in a string must be nested in at most {MAX_NESTED_TEXTS} others")
    try:
        _check_size(text, within)
    except TooLargeError:
        raise
    except yaml.YAMLError:
        pass


def check_plain(value: Any) -> None:
    """Raises ``ValueError`` unless a value consists of mappings with named keys, lists, text and numbers.

    Text must not have control characters: names of runs and loggers are printed by other packages too.
    """
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, (str, int)) and not (isinstance(key, float) and math.isfinite(key)):
                raise ValueError(f"keys must be names; got {key!r:.60}")
        value = [*map(str, value), *value.values()]
    if isinstance(value, list):
        for item in value:
            check_plain(item)
    elif not isinstance(value, (str, int, float, type(None))):
        raise ValueError(f"entries must be text or numbers; got {value!r:.60}")
    elif isinstance(value, str) and has_controls(value):
        raise ValueError(f"text must have no control characters; got {value!a:.60}")
