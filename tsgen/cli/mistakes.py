"""Formats the exception of a user's mistake as one line."""

from __future__ import annotations

import inspect
import re
import sys
from argparse import ArgumentError
from collections.abc import Callable
from typing import Any, get_args, get_origin, get_type_hints

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from tsgen.cli.suggestions import did_you_mean, near_or_all
from tsgen.cli.trust import IMPORTABLE, refusal

MISTAKES = (ValueError, ArgumentError, MisconfigurationException, OSError)
"""The exceptions that user's mistakes raise."""

NO_REASON = r"Does not validate|Subtypes:|Errors:|Problem with given|Expected a NoneType|Expected a path but"
"""Lines of the parser's messages that give no reason."""


def one_line(error: BaseException) -> str:
    """Returns the message of an error in one line.

    For an invalid option the parser's message is a tree of all types that it tried. The result has the keys
    along the tree and the reasons at its leaves, up to the first quotation of the invalid value.
    """
    keys, reasons = [], []
    for line in str(error).splitlines():
        key = re.search(r'Parser key "([^"]+)":', line)
        reason, *quoted = re.split(
            r"(?:\. )?Got value: |Given value", line.strip().removeprefix("- "), maxsplit=1
        )
        reason = re.sub(r"^Type .* expects a function or a callable class: |<class '([^']+)'>", r"\1", reason)
        if key:
            keys.append(key[1])
        elif reason and not re.match(NO_REASON, reason):
            reasons.append(reason)
        if quoted:
            break
    path = ".".join(keys)
    text = str(error)
    if denied := re.search(r"Importing '([^']+)' is not allowed", text):
        name = denied[1].rpartition(".")[2]
        reasons = [refusal(denied[1]) + did_you_mean(name, _accepted(text[: denied.end()]))]
    elif misspelt := re.search(r"Expected a dot import path string: (\w+)", text):
        near = near_or_all(misspelt[1], _accepted(text[: misspelt.end()]))
        reasons = [f"no class that it accepts is called {misspelt[1]!r}.{near}"]
    elif unknown := re.search(r"Option '(\w+)' is not accepted", text):
        owner = _owner(text, unknown)
        found, name = _loaded(owner), owner.rpartition(".")[2]
        near = did_you_mean(unknown[1], parameters(found) if found else [])
        reasons = [
            f"{name} has no option {unknown[1]!r}.{near or f' --{path}.help {name} lists its options.'}"
        ]
    return " ".join((f"{path}: " * bool(path) + "; ".join(reasons)).split()) or type(error).__name__


def _accepted(text: str) -> list[str]:
    """Returns the bare names of the classes that an option accepts, given the parser's message up to a name.

    The option is a parameter of a class, if the message names one; otherwise its types are in the message.
    """
    *_, last = re.split(r"given class_path ", text)
    path = re.match(r"'([^']+)':", last)
    owner = _loaded(path[1]) if path else None
    keys = re.findall(r'Parser key "([\w.]+)"', last)
    if owner is not None and keys:
        owners = [owner]
        for key in keys:  # of a key further inside, the message does not have the class
            bases = [base for cls in owners for base in _classes(_annotation(cls, key))]
            owners = classes_like(*bases)
        return [found.__name__ for found in owners]
    declared = re.findall(r"Subtypes: \[(.*)\]", text)[-1:]
    paths = re.findall(r"[a-z_]\w*(?:\.\w+)+", "".join(declared))
    return [found.__name__ for found in classes_like(*filter(None, map(_loaded, paths)))]


def _annotation(cls: type, name: str) -> Any:
    """Returns the annotation of a parameter of a class, or None if it has none that can be evaluated."""
    try:
        return get_type_hints(vars(cls).get("__init__")).get(name)
    except (NameError, TypeError):  # a class without a constructor, or an import for type checkers alone
        return None


def _classes(annotation: Any) -> list[type]:
    """Returns the classes in an annotation; of a function, only what it returns."""
    parts = get_args(annotation)
    if get_origin(annotation) is Callable:
        parts = parts[-1:]
    if parts:
        return [found for part in parts for found in _classes(part)]
    return [annotation] if isinstance(annotation, type) else []


def classes_like(*bases: type) -> list[type]:
    """Returns the classes that options may name and that are derived from one of some classes.

    Args:
        bases: The classes.
    """
    paths = sorted(IMPORTABLE, key=lambda path: (not path.startswith("tsgen"), path))
    known = dict.fromkeys(filter(None, map(_loaded, paths)))
    return [
        found
        for found in known
        if found not in bases and not inspect.isabstract(found) and issubclass(found, bases)
    ]


def _loaded(path: str) -> type | None:
    """Returns the class of a path if its module has been imported."""
    module, _, name = path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) else None


def _owner(text: str, unknown: re.Match[str]) -> str:
    """Returns the path of the class that has no such option."""
    after = re.match(r"\. Got value: Namespace\(class_path='([^']+)'", text[unknown.end() :])
    before = re.findall(r"given class_path '([^']+)'", text[: unknown.start()])
    return after[1] if after else before[-1] if before else "it"


def parameters(cls: type) -> list[str]:
    """Returns the names of the parameters of a class and of the classes that it is derived from.

    Args:
        cls: The class.
    """
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = [
        parameter.name
        for base in cls.__mro__
        if "__init__" in vars(base)
        for parameter in inspect.signature(vars(base)["__init__"]).parameters.values()
        if parameter.kind in kinds and parameter.name not in ("self", "spec")
    ]
    return list(dict.fromkeys(names))
