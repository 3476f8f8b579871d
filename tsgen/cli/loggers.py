"""Configures loggers: their short names, their folders, and the options that a configuration may set.

W&B never asks for an account. Without one the run is recorded offline.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from requests.utils import get_netrc_auth

from tsgen.cli.configs import fragments, read

WANDB_DEFAULTS = {
    "WANDB_DISABLE_GIT": "true",
    "WANDB_X_DISABLE_META": "true",
    "WANDB_CONSOLE": "off",
    "WANDB_INIT_TIMEOUT": "20",
}
"""Defaults of W&B's environment variables; a variable that is already set is kept.

The first three stop W&B from recording the address and local changes of the repository, the command line, the
user's folders and printed output. The last one is the timeout of its start, in seconds.
"""

MODES = ("online", "offline", "disabled", "shared", "dryrun", "run")
"""The values of ``WANDB_MODE``."""

SHORT_NAMES = {"CSVLogger": "loggers/csv", "TensorBoardLogger": "loggers/tensorboard"}
"""The short names of loggers, and the fragments with their options."""

WANDB_OPTIONS = (
    *("name", "save_dir", "version", "offline", "dir", "id", "anonymous", "project", "log_model", "prefix"),
    *("checkpoint_name", "add_file_policy", "notes", "tags", "group", "job_type"),
)
"""The options of W&B that a configuration may set.

Host and account are missing on purpose: otherwise the author of a configuration could send the key of
whoever runs it to any host. Only the environment sets these two.
"""


def expand_short_name(name: str) -> str:
    """Returns the options of the logger with a short name; any other value unchanged.

    Raises:
        ValueError: If the value is a name that no logger has.
    """
    if name in SHORT_NAMES:
        return json.dumps(read(fragments()[SHORT_NAMES[name]])["trainer"]["logger"])
    if name.isidentifier() and name.lower() not in ("true", "false", "null"):
        near = difflib.get_close_matches(name, SHORT_NAMES, n=1, cutoff=0.4)
        raise ValueError(
            f"trainer.logger must be one of {', '.join(SHORT_NAMES)}, false, or the path of a class; got "
            f"{name!r}." + f" Did you mean {near[0]}?" * bool(near)
        )
    return name


def configure_loggers(options: Namespace, folder: Path, log: Path, run_id: str, group: str | None) -> None:
    """Sets the folder of every logger, and the name, group, id and mode of W&B.

    Args:
        options: The parsed options of the command, which are changed.
        folder: The folder of the run.
        log: The folder of the command's logs.
        run_id: The W&B id of the run.
        group: The study's name, if the run is one of its variants.

    Raises:
        ValueError: If TensorBoard is requested but not installed, W&B is requested online without an account,
            or the options set the host or account of W&B.
    """
    loggers = options.trainer.logger
    if not isinstance(loggers, (list, Namespace)):
        return
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        arguments = logger.init_args
        arguments.save_dir = str(log)
        if logger.class_path.endswith("TensorBoardLogger"):
            _check_tensorboard()
        if logger.class_path.endswith("WandbLogger"):
            _check_wandb({**vars(arguments), **(logger.get("dict_kwargs") or {})})
            arguments.save_dir = str(folder.resolve())  # W&B's service may have another working directory
            arguments.name = arguments.name or folder.name
            arguments.id = arguments.id or run_id
            arguments.group = arguments.group or group
            _configure_wandb()


def _check_tensorboard() -> None:
    if not (find_spec("tensorboard") or find_spec("tensorboardX")):
        raise ValueError(
            "TensorBoardLogger needs tensorboard, which is not installed. Install it: "
            "pip install 'tsgen[tensorboard]', or use CSVLogger."
        )


def _check_wandb(arguments: Mapping[str, Any]) -> None:
    for name, value in arguments.items():
        if name not in WANDB_OPTIONS and value is not None:
            raise ValueError(
                f"the options of WandbLogger must be among {', '.join(WANDB_OPTIONS)}; got {name}. Host, "
                "team and mode are set in the environment: WANDB_BASE_URL, WANDB_ENTITY, WANDB_MODE."
            )


def _configure_wandb() -> None:
    for name, value in WANDB_DEFAULTS.items():
        os.environ.setdefault(name, value)
    if os.environ.get("WANDB_MODE", "online") not in MODES:
        raise ValueError(f"WANDB_MODE must be one of {', '.join(MODES)}; got {os.environ['WANDB_MODE']!r}.")
    if has_wandb_account():
        return
    if os.environ.setdefault("WANDB_MODE", "offline") == "online":
        raise ValueError(
            "WANDB_MODE must not be online without an account, because W&B would ask for one. Run "
            "`wandb login`, or unset WANDB_MODE."
        )


def has_wandb_account() -> bool:
    """Returns whether W&B could log in without asking for an account."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    # requests reads the same files as W&B, whose own reader is private
    return get_netrc_auth(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")) is not None


def sweep_run() -> str | None:
    """Returns the id that an agent of a W&B sweep gave the run; None outside a sweep."""
    return os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
