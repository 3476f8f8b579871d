"""What is shown to others holds neither secrets nor the name of the user's home.

Configurations, warnings of loggers and what W&B is told go through :func:`scrubbed`, the text of a
configuration in a report through :func:`scrubbed_text`. A secret is known by its name: that of an option, or
of a variable of the environment, whose value is then looked for everywhere.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

_SECRETS = "token|secret|passw|passphrase|credential|webhook"

OPTIONS = re.compile(f"key|{_SECRETS}", re.IGNORECASE)
"""What the name of an option holds whose value, if it is text, is never shown."""

VARIABLES = re.compile(
    f"(key|keys|key_id|_(pass|pwd|pat|auth|dsn))$|{_SECRETS}".replace("token", "tokens?(_|$)"), re.IGNORECASE
)
"""The same of a variable of the environment. ``PWD`` and ``PATH`` are none."""

SHORTEST = 8
"""Characters of the value of a variable from which on it is a secret; shorter ones are switches."""

_PASSWORD = re.compile(r"(?<=://)[^\s/@:]{1,200}:[^\s/@]{1,200}(?=@)")
_ENTRY = re.compile(
    rf"(?<![\w.-])([\w.-]{{0,60}}(?:key|{_SECRETS})[\w.-]{{0,60}}[\"']?[ \t]*:[ \t]+)"
    r"(?!null\b|true\b|false\b|[\[{])(\"[^\"\n]*\"|'[^'\n]*'|[^\s,}\]][^\n,}\]]*)",
    re.IGNORECASE,
)
HIDDEN = "[secret]"


def scrubbed(value: Any) -> Any:
    """The value without secrets, and with the user's home written ``~``.

    Args:
        value: Nested mappings and lists; what is neither these nor text is left as it is.
    """
    if isinstance(value, Mapping):
        return {
            scrubbed(key): _masked(item) if OPTIONS.search(str(key)) else scrubbed(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [scrubbed(item) for item in value]
    return _without_variables(value) if isinstance(value, str) else value


def scrubbed_text(text: str) -> str:
    """A configuration's text without secrets, and with the user's home written ``~``.

    It is not read as YAML: a page must show whatever a run's folder holds.
    """
    return _without_variables(_ENTRY.sub(rf"\1{HIDDEN}", text))


def _masked(value: Any) -> Any:
    """What a secret's name stands for, its text hidden."""
    if isinstance(value, Mapping):
        return {scrubbed(key): _masked(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_masked(item) for item in value]
    return HIDDEN if isinstance(value, str) and value else value


def _without_variables(text: str) -> str:
    secrets = {
        value: name for name, value in os.environ.items() if VARIABLES.search(name) and len(value) >= SHORTEST
    }
    for secret in sorted(secrets, key=len, reverse=True):  # one may begin with another
        text = text.replace(secret, f"[{secrets[secret]}]")
    return without_home(_PASSWORD.sub(HIDDEN, text))


def without_home(text: str) -> str:
    """The text with the folder of the user's home written ``~``, also where a link leads to it."""
    home = os.path.expanduser("~")
    for folder in sorted({home, os.path.realpath(home)}, key=len, reverse=True):
        if len(folder) > 1:
            # a whole part of a path: neither /rootfs nor /mnt/root is in /root
            text = re.sub(rf"(?<![\w.~+-]){re.escape(folder)}(?![\w~+-]|\.\w)", "~", text)
    return text


def at_home(value: Any) -> Any:
    """The value with paths that begin with ``~`` spelled out: the inverse of :func:`scrubbed` for paths."""
    if isinstance(value, Mapping):
        return {key: at_home(item) for key, item in value.items()}
    if isinstance(value, list):
        return [at_home(item) for item in value]
    own = isinstance(value, str) and (value == "~" or value.startswith("~/"))
    return os.path.expanduser(value) if own else value
