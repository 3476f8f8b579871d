"""The provenance of a run besides its options: data, code, packages and machine.

Of git it records the commit and whether files differ from it, without the address of the repository. W&B's
own record of git is not used: it is private API, it includes the address, and its ``git status`` runs
programs that the settings of the repository name.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch

import tsgen
from tsgen.data.fingerprint import fingerprint
from tsgen.data.series import Series

PACKAGES = {"torch": "torch", "lightning": "lightning", "PyG": "torch_geometric", "numpy": "numpy"}


def provenance(series: Series) -> dict[str, Any]:
    """Returns a hash of the data, the state of git, versions and the machine.

    Args:
        series: The data. Only its observed values enter the hash.
    """
    packages = {name: version(package) for name, package in PACKAGES.items()}
    return {
        "data_hash": fingerprint(torch.nn.Module(), series)[:16],
        "git": git_state(),
        "versions": {"tsgen": tsgen.__version__, **packages, "python": platform.python_version()},
        "machine": {
            "cpus": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def git_state() -> dict[str, Any] | None:
    """Returns the commit of the working folder and whether tracked files differ; None outside a repository.

    The repository may be a stranger's: no program that its settings name is run.
    """
    settings = {"core.fsmonitor": "false", "core.hooksPath": os.devnull}
    try:
        # git would run filters of the repository's settings on files that look changed;
        # those of the user's own settings may run
        _, found = _ask_git(
            settings,
            "config",
            "--show-scope",
            "--name-only",
            "--get-regexp",
            r"^filter\..*\.(clean|process|required)$",
        )
        for scope, key in (line.split("\t", 1) for line in found.splitlines()):
            if scope in ("local", "worktree"):
                settings[key] = "false" if key.endswith(".required") else ""
        no_commit, commit = _ask_git(settings, "rev-parse", "HEAD")
        # a submodule has its own settings
        words = ("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=dirty")
        failed, changes = _ask_git(settings, *words)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if no_commit or failed else {"commit": commit.strip(), "dirty": bool(changes.strip())}


def _ask_git(settings: Mapping[str, str], *words: str) -> tuple[int, str]:
    """Returns git's exit code and output; ``settings`` override those of the repository."""
    variables = {f"GIT_CONFIG_KEY_{i}": key for i, key in enumerate(settings)}
    variables |= {f"GIT_CONFIG_VALUE_{i}": value for i, value in enumerate(settings.values())}
    # nothing is fetched: a remote's address may name a program too
    variables |= {
        "GIT_CONFIG_COUNT": str(len(settings)),
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_ALLOW_PROTOCOL": "none",
    }
    # take no lock, so that other git commands in the repository are not blocked
    done = subprocess.run(
        ["git", "--no-optional-locks", *words],
        capture_output=True,
        text=True,
        timeout=10,
        env={**os.environ, **variables},
    )
    return done.returncode, done.stdout
