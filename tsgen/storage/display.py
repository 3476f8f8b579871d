"""Text of strangers on a terminal, a page or a figure: names of nodes, channels, units, runs and files.

Escape sequences in a name could clear the terminal, rewrite what stands on it or type into it, and characters
that change the direction of writing can make one name look like another. All output of such text passes
:func:`printable`, where it is printed.
"""

from __future__ import annotations

from typing import Any

JOINERS = "\u200c\u200d"
"""Characters without a width that the spelling of some languages needs."""


def printable(text: Any, length: int | None = None) -> str:
    """Returns a text on one line, without control characters, cut to a length if one is given.

    White space becomes a space, and a control character or one that changes the direction of writing U+FFFD.

    Args:
        text: The text, or an object whose text is meant.
        length: The maximum number of characters.

    Example:
        >>> printable("node\\x1b[2J\\n1")
        'node�[2J 1'
    """
    plain = "".join(
        c if c.isprintable() or c in JOINERS else " " if c.isspace() else "\ufffd" for c in str(text)
    )
    return plain if length is None or len(plain) <= length else plain[: length - 1].rstrip() + "…"


def quoted(entry: Any) -> str:
    """Returns an entry of a file in quotation marks, short and on one line, for a message.

    Args:
        entry: The entry.

    Returns:
        The text of the entry in quotation marks, cut after 40 characters.
    """
    text = str(entry)
    return repr(text if len(text) <= 40 else text[:40] + "...")


def has_controls(text: str) -> bool:
    """Returns whether a text has control characters, other than line breaks and tabs.

    Args:
        text: The text.
    """
    return "\ufffd" in printable(text.replace("\ufffd", ""))


def print_line(text: str) -> None:
    """Prints a text, made :func:`printable`, on one line."""
    print(printable(text), flush=True)
