"""The folder of a run: its path, its locks, its id, its last checkpoint, and setting it aside."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from tsgen.cli.loggers import sweep_run
from tsgen.storage import locks
from tsgen.storage.atomic import write_text
from tsgen.storage.checkpoints import LAST, PREVIOUS, is_whole, read_checkpoint
from tsgen.storage.display import has_controls, print_line

MARKERS = ("config_*.yaml", "wandb_id*", "checkpoints")
"""Patterns of files of which a run's folder contains at least one from the start."""

SHARED = ("test", "predict")
"""Commands that may work on one run at the same time: they write different files."""


@rank_zero_only
def print_once(text: str) -> None:
    """Prints a text on the first process only."""
    print_line(text)


def locate(runs: str, study: str, variant: str | None) -> tuple[str, Path]:
    """Returns the name of a run and its folder.

    Args:
        runs: The folder of all runs.
        study: The name of the run or, if it is a variant, of its study.
        variant: The name of the variant, if any.

    Raises:
        ValueError: If the folder would not lie in that of all runs.
    """
    path = Path(study)
    if has_controls(study):
        raise ValueError(f"name must have no control characters; got {study!a}.")
    if path.anchor or ".." in path.parts or not path.parts:
        raise ValueError(
            f"name must be that of a folder in {runs}, without '..' and not absolute; got {study!r}. "
            "--runs sets the folder of all runs."
        )
    name = f"{study}/{variant}" if variant else study
    return name, Path(runs) / name


@contextmanager
def locked(folder: Path, command: str) -> Iterator[None]:
    """Holds the lock of a run while a command works in its folder; only the first process takes it.

    A training needs exclusive use of the run; a test and a prediction may run at the same time. The lock
    files lie beside the folder, because the folder may be set aside.

    Args:
        folder: The folder of the run.
        command: fit, test or predict.

    Raises:
        ValueError: If another command uses the run.
    """
    with ExitStack() as stack:
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            folder.parent.mkdir(parents=True, exist_ok=True)
            for shared in SHARED if command == "fit" else (command,):
                try:
                    lock = locks.acquire(
                        folder.with_name(f".{folder.name}.{shared}.lock"), f"tsgen {command}"
                    )
                except locks.HeldError as holder:
                    raise _in_use(folder, holder) from None
                stack.callback(locks.release, lock)
        yield


def _in_use(folder: Path, holder: locks.HeldError) -> ValueError:
    return ValueError(f"{folder} is in use by another {holder}; wait for it, or give another --name.")


def unused(path: Path) -> Path:
    """Returns the path, or the first of path.1, path.2, ... that does not exist."""
    number, candidate = 0, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}.{number}")
    return candidate


@rank_zero_only
def set_aside(folder: Path) -> None:
    """Renames the folder of an earlier run of the same name, so that nothing in it is overwritten.

    Raises:
        ValueError: If the folder is not that of a run, or a run in it is in use.
    """
    if not folder.exists():
        return
    for shared in SHARED:
        for path in folder.rglob(f".*.{shared}.lock"):
            try:
                locks.check(path)
            except locks.HeldError as holder:
                raise _in_use(path.parent, holder) from None
    if folder.is_dir() and not any(folder.iterdir()):
        return
    if not any(any(folder.glob(marker)) for marker in MARKERS):
        raise ValueError(
            f"{folder} must be empty, absent or the folder of an earlier run; it contains something else. "
            "Give another --name."
        )
    aside = unused(folder)
    folder.rename(aside)
    print_once(f"{folder} contained an earlier run: it is now {aside}.")


def run_id(folder: Path, new: bool) -> str:
    """Returns the W&B id of the run, the same for training, test and prediction."""
    path = folder / "wandb_id"
    if path.is_file() and not new:
        return path.read_text("utf-8").strip()
    return sweep_run() or secrets.token_hex(4)


@rank_zero_only
def prepare(folder: Path, run_id: str) -> None:
    """Creates the folder of a run if it does not exist, and writes the run's id to it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "wandb_id", run_id)


def remove_requeued(folder: Path) -> None:
    """Removes the checkpoints that Lightning wrote when SLURM announced the end of a job.

    Lightning would resume from them, inside an epoch, even if a new training was asked for.
    """
    for path in folder.glob("hpc_ckpt_*.ckpt"):  # on every process, before Lightning looks for them there
        path.unlink(missing_ok=True)


def newest_checkpoint(folder: Path) -> str | None:
    """Returns the newest undamaged checkpoint at the end of an epoch; None if no checkpoint can be resumed.

    Raises:
        ValueError: If all of them are damaged.
    """
    folder, skipped, damaged = folder / "checkpoints", "", list[str]()
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.is_file():
            continue
        try:
            whole = is_whole(read_checkpoint(path))
        except ValueError as error:
            damaged.append(str(error))
            skipped = f"Warning: {error} Training resumes from"
            continue
        if whole:
            if skipped:
                print_once(f"{skipped} {path}, one epoch earlier.")
            return str(path)
        skipped = f"{path} is from inside an epoch: training resumes from"
    if damaged:
        raise ValueError(
            f"{' '.join(damaged)} There is no other to resume from: omit --ckpt_path to start a new run "
            "(this one is set aside), or give one, such as best."
        )
    inside = skipped.removesuffix("resumes from")
    print_once(f"{inside}starts again." if inside else f"{folder} holds no {LAST} yet: training starts.")
    return None
