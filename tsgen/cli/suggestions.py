"""Which name a misspelt one may stand for: an option, a command, a class.

This module imports neither torch nor Lightning, because the parser of every command uses it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import SequenceMatcher

SIMILAR = 0.6
"""From this similarity on, a name is suggested; 1 is that of equal names."""

MOST = 12
"""The number of names up to which all are listed if none is similar."""


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Returns the names that a misspelt one may stand for as a question; empty if none is similar.

    Options of one group share a long beginning, which says nothing, so that the last parts of dotted names
    must be similar, too. An option without its group, such as ``--batch_size``, may stand for one of a group.

    Args:
        name: A name that does not exist, such as ``--minuts``.
        known: The names that exist.

    Returns:
        A space and a question with at most three names, the nearest first.
    """
    alike = sorted(((_similarity(name, other), other) for other in dict.fromkeys(known)), reverse=True)
    near = [other for ratio, other in alike if ratio >= max(SIMILAR, alike[0][0] - 0.1)]
    return f" Did you mean {' or '.join(near[:3])}?" if near else ""


def _similarity(name: str, other: str) -> float:
    """Returns how similar two names are, between 0 and 1."""
    name, other = name.lower().lstrip("-"), other.lower().lstrip("-")
    group, _, last = name.rpartition(".")
    last_ratio = SequenceMatcher(None, last, other.rpartition(".")[2]).ratio()
    if not group and "." in other:
        return last_ratio if last_ratio == 1 else 0
    return min(last_ratio, SequenceMatcher(None, name, other).ratio())


def near_or_all(name: str, known: Sequence[str]) -> str:
    """Returns the names that a misspelt one may stand for; if none is similar, the first of all names.

    Args:
        name: A name that does not exist.
        known: The names that exist.
    """
    near = did_you_mean(name, known)
    if near or not known:
        return near
    return f" Known: {', '.join(known[:MOST])}{', ...' if len(known) > MOST else '.'}"


def unknown_options(words: Sequence[str], known: Collection[str]) -> list[str]:
    """Returns the options among the words of a command line that do not exist, without their values.

    Args:
        words: The words of a command line.
        known: The options that exist.
    """
    before = list(words[: list(words).index("--")]) if "--" in words else list(words)
    options = [word.partition("=")[0] for word in before if word.startswith("--")]
    return [option for option in options if option not in known]
