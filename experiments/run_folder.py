"""The folder of a run: where it lies, what it is set aside as, its id and its last checkpoint."""

from __future__ import annotations

import secrets
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from experiments.tracking import sweep_run
from tsgen.checkpoints import LAST, PREVIOUS
from tsgen.files import write_text
from tsgen.models.density import read_checkpoint


@rank_zero_only
def say(text: str) -> None:
    """Tells the user, once for all processes."""
    print(text, flush=True)


def place(runs: str, study: str, part: str | None) -> tuple[str, Path]:
    """The name of a run and its folder.

    Args:
        runs: The folder of all runs.
        study: The run's name, or that of what it belongs to.
        part: Its name within that; None if it stands alone.
    """
    name = f"{study}/{part}" if part else study
    return name, Path(runs) / name


def free(path: Path) -> Path:
    """The path, or the first of path.1, path.2, ... that does not exist."""
    number, found = 0, path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}.{number}")
    return found


@rank_zero_only
def set_aside(folder: Path) -> None:
    """Renames the folder of an earlier run of the same name: nothing of it is overwritten."""
    if not folder.exists():
        return
    aside = free(folder)
    folder.rename(aside)
    say(f"{folder} held an earlier run: it is now {aside}.")


def run_id(folder: Path, new: bool) -> str:
    """The id under which W&B knows the run, the same for training, test and prediction."""
    path = folder / "wandb_id"
    if path.is_file() and not new:
        return path.read_text("utf-8").strip()
    return sweep_run() or secrets.token_hex(4)


@rank_zero_only
def remember(folder: Path, number: str) -> None:
    """Makes the folder of a run that begins or goes on, and keeps its id there."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "wandb_id", number)


def newest_checkpoint(folder: Path) -> str | None:
    """The last checkpoint, the one before it if that is damaged, or None if there is none yet."""
    folder = folder / "checkpoints"
    paths = [path for name in (LAST, PREVIOUS) if (path := folder / name).is_file()]
    if not paths:
        say(f"{folder} holds no {LAST} yet: training begins.")
        return None
    for path, earlier in zip(paths, [*paths[1:], None], strict=True):
        try:
            read_checkpoint(path)
        except ValueError as error:
            if earlier is None:
                raise
            say(f"Warning: {error} Training goes on from {earlier}, one epoch earlier.")
        else:
            return str(path)
    raise AssertionError("the loop returns or raises")
