"""YAML as plain data, within bounds.

A configuration may come from a stranger. In YAML an alias (``*a``) stands for everything that its anchor
(``&a``) holds, so that nine lines may stand for a billion entries, and PyYAML recurs once per level of
nesting. The size with all aliases written out and the depth are therefore counted before anything is built.
So are those of YAML inside a text: jsonargparse reads the text of an option as YAML once more, and not always
by the loader that :func:`~tsgen.cli.trust.restrict_imports` gives it.
"""

from __future__ import annotations

import math
from typing import Any

import yaml
from jsonargparse import get_loader

MAX_ENTRIES, MAX_DEPTH, MAX_CHARACTERS = 100_000, 100, 2**22
"""Bounds on a configuration with its aliases written out, far beyond what a person writes."""

MAX_WITHIN = 4
"""Bound on YAML in a text of YAML in a text, and so on."""

_plain_load = get_loader("yaml")


class TooLargeError(yaml.YAMLError):
    """YAML that is larger than any configuration."""


def load_yaml(text: str) -> Any:
    """Returns what YAML holds, as plain data.

    Args:
        text: The YAML. Numbers are read as the command line's parser reads them: ``1e-3`` is one.

    Raises:
        yaml.YAMLError: If it is not YAML, holds something other than plain data, or is too large.
    """
    _check_size(text)
    try:
        return _plain_load(text)
    except (ValueError, TypeError, LookupError, ArithmeticError) as error:  # such as a number of 5,000 digits
        raise yaml.YAMLError(str(error)) from error


def _check_size(text: str, within: int = 0) -> None:
    """Raises ``TooLargeError`` if the text, with its aliases written out, is too long, deep or large."""
    if len(text) > MAX_CHARACTERS:
        raise TooLargeError(f"it has {len(text):,} characters, more than {MAX_CHARACTERS:,}")
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
            # an alias inside its own anchor would have no end
            size += sizes.get(event.anchor, MAX_ENTRIES + 1)
        elif isinstance(event, yaml.ScalarEvent):
            size += 1
            sizes[event.anchor] = 1
            # a shorter text is within bounds; a text without anything around it is checked here already
            if len(event.value) > MAX_DEPTH and event.value != text:
                _check_text(event.value, within + 1)
        if size > MAX_ENTRIES or len(around) > MAX_DEPTH:
            raise TooLargeError(
                f"with its aliases written out it must have at most {MAX_ENTRIES:,} entries, "
                f"nested at most {MAX_DEPTH} deep, and no alias inside its own anchor"
            )


def _check_text(text: str, within: int) -> None:
    """Raises ``TooLargeError`` if a text is YAML that is too large; one that is not YAML may be any text."""
    if within > MAX_WITHIN:
        raise TooLargeError(f"YAML in a text must lie within at most {MAX_WITHIN} others")
    try:
        _check_size(text, within)
    except TooLargeError:
        raise
    except yaml.YAMLError:
        pass


def check_plain(value: Any) -> None:
    """Raises ``ValueError`` unless a value is made of mappings with named keys, lists, text and numbers."""
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, (str, int)) and not (isinstance(key, float) and math.isfinite(key)):
                raise ValueError(f"keys must be names; got {key!r:.60}")
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            check_plain(item)
    elif not isinstance(value, (str, int, float, type(None))):
        raise ValueError(f"entries must be text or numbers; got {value!r:.60}")
