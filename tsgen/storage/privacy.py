"""Removes secrets and the path of the user's home from text that others will see.

Configurations, warnings of loggers and everything sent to W&B pass through :func:`scrubbed`; the text of a
configuration in a report passes through :func:`scrubbed_text`. A secret is recognised by the name of its
option or environment variable; the value of such a variable is removed wherever it occurs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

_SECRETS = "token|secret|passw|passphrase|credential|webhook"

OPTIONS = re.compile(f"key|{_SECRETS}", re.IGNORECASE)
"""Matches the names of options whose values, if they are text, are never shown."""

VARIABLES = re.compile(
    f"(key|keys|key_id|_(pass|pwd|pat|auth|dsn))$|{_SECRETS}".replace("token", "tokens?(_|$)"), re.IGNORECASE
)
"""Matches the names of environment variables that hold secrets. ``PWD`` and ``PATH`` do not match."""

SHORTEST = 8
"""Minimum length of a variable's value that is treated as a secret; shorter ones are switches such as 1."""

_PASSWORD = re.compile(r"(?<=://)[^\s/@:]{1,200}:[^\s/@]{1,200}(?=@)")
_ENTRY = re.compile(
    rf"(?<![\w.-])([\w.-]{{0,60}}(?:key|{_SECRETS})[\w.-]{{0,60}}[\"']?[ \t]*:[ \t]+)"
    r"(?!null\b|true\b|false\b|[\[{])(\"[^\"\n]*\"|'[^'\n]*'|[^\s,}\]][^\n,}\]]*)",
    re.IGNORECASE,
)
HIDDEN = "[secret]"


def scrubbed(value: Any) -> Any:
    """Returns the value without secrets, and with the user's home written ``~``.

    Args:
        value: Text, or nested mappings and lists of it. Other values are unchanged.
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
    """Returns a configuration's text without secrets, and with the user's home written ``~``.

    The text is not parsed as YAML: a report must show whatever file a run's folder holds.
    """
    return _without_variables(_ENTRY.sub(rf"\1{HIDDEN}", text))


def _masked(value: Any) -> Any:
    """Returns the value of a secret option with all its texts hidden."""
    if isinstance(value, Mapping):
        return {scrubbed(key): _masked(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_masked(item) for item in value]
    return HIDDEN if isinstance(value, str) and value else value


def _without_variables(text: str) -> str:
    secrets = {
        value: name for name, value in os.environ.items() if VARIABLES.search(name) and len(value) >= SHORTEST
    }
    for secret in sorted(secrets, key=len, reverse=True):  # a secret may begin with another one
        text = text.replace(secret, f"[{secrets[secret]}]")
    return without_home(_PASSWORD.sub(HIDDEN, text))


def without_home(text: str) -> str:
    """Returns the text with the path of the user's home, and the path that it links to, written ``~``."""
    home = os.path.expanduser("~")
    for folder in sorted({home, os.path.realpath(home)}, key=len, reverse=True):
        if len(folder) > 1:
            # only whole components of a path: neither /rootfs nor /mnt/root is in /root
            text = re.sub(rf"(?<![\w.~+-]){re.escape(folder)}(?![\w~+-]|\.\w)", "~", text)
    return text


def at_home(value: Any) -> Any:
    """Returns the value with ``~`` at the start of paths expanded, which reverts part of :func:`scrubbed`."""
    if isinstance(value, Mapping):
        return {key: at_home(item) for key, item in value.items()}
    if isinstance(value, list):
        return [at_home(item) for item in value]
    is_path = isinstance(value, str) and (value == "~" or value.startswith("~/"))
    return os.path.expanduser(value) if is_path else value
