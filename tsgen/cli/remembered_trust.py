"""Remembers the packages that a run's ``fit`` trusted for later commands of the same run.

``fit --trusted mypackage`` writes the names to ``trusted.json`` in the run's folder. A run's folder may come
from a stranger, who could write anything there; trust must not come with it. The names are therefore signed
(HMAC-SHA-256) with a key that lies outside all runs, in the user's own folder for state, readable by the user
alone. The folder's path is signed too: a run that was copied, moved or received from someone has no trust. So
is the configuration, since a stranger's could name the run. In these cases ``--trusted`` must be given again.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from tsgen.cli.run_folder import print_once
from tsgen.storage.atomic import write_text

FILE = "trusted.json"
MAX_BYTES = 2**16
"""The maximum size of ``trusted.json``, which may come from a stranger."""


@rank_zero_only
def remember(folder: Path, packages: Sequence[str], configuration: str = "") -> None:
    """Writes the packages that a run trusts to its folder, if there are any.

    Args:
        folder: The folder of the run.
        packages: The names given by ``--trusted`` or remembered before.
        configuration: The text of the configuration that is trusted with them.
    """
    if not packages:
        return
    names = sorted(set(packages))
    try:
        signature = _signature(_key(), folder, names, configuration)
    except OSError as error:
        print_once(
            f"Warning: --trusted must be given to each command of this run: the key cannot be stored "
            f"({error})."
        )
        return
    write_text(folder / FILE, json.dumps({"trusted": names, "signature": signature}, indent=1) + "\n")


def remembered(folder: Path, configuration: str = "") -> tuple[str, ...]:
    """Returns and prints the packages that ``fit`` remembered for a run; none if the signature is invalid.

    Args:
        folder: The folder of the run.
        configuration: The text of the configuration of the command; it must be the one that was trusted.
    """
    path = folder / FILE
    if not path.is_file():
        return ()
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError
        content = json.loads(path.read_text("utf-8"))
        names, signature = content["trusted"], content["signature"]
        genuine = hmac.compare_digest(_signature(_read_key(), folder, names, configuration), signature)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        genuine = False
    if not genuine:
        print_once(
            f"{path} is ignored: you did not write it on this machine, for this folder and this "
            "configuration. If you trust its packages, give --trusted again."
        )
        return ()
    print_once(f"trusting {', '.join(names)} (remembered from fit)")
    return tuple(names)


def _signature(key: bytes, folder: Path, names: Sequence[str], configuration: str) -> str:
    signed = json.dumps([str(folder.resolve()), names, configuration])
    return hmac.digest(key, signed.encode(), "sha256").hex()


def _key_path() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "tsgen" / "key"


def _read_key() -> bytes:
    key = bytes.fromhex(_key_path().read_text("ascii"))
    if len(key) != 32:
        raise ValueError(f"{_key_path()} must hold 32 bytes")  # anyone could sign with an empty key
    return key


def _key() -> bytes:
    """Returns the user's key, which is created on first use."""
    try:
        return _read_key()
    except (FileNotFoundError, ValueError):
        path = _key_path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    unfinished = path.with_name(f"key.{secrets.token_hex(4)}")
    with open(
        os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii"
    ) as file:
        file.write(secrets.token_hex(32))
    unfinished.replace(path)
    return _read_key()
