"""Formats the exception of a user's mistake as one line."""

from __future__ import annotations

import re
from argparse import ArgumentError

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from tsgen.cli.trust import refusal

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
    denied = re.search(r"Importing '([^']+)' is not allowed", str(error))
    if denied:
        reasons = [refusal(denied[1])]
    return " ".join((f"{path}: " * bool(path) + "; ".join(reasons)).split()) or type(error).__name__
