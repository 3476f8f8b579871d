"""The folder of a run: its place, its locks, setting it aside, its id, its last checkpoint."""

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

SIGNS = ("config_*.yaml", "wandb_id*", "checkpoints")
"""A run's folder holds at least one of these from the start."""

SHARED = ("test", "predict")
"""Commands that may work on one run at the same time: they write different files."""


@rank_zero_only
def say(text: str) -> None:
    """Prints a text, once for all processes."""
    print(text, flush=True)


def place(runs: str, study: str, variant: str | None) -> tuple[str, Path]:
    """Returns the name of a run and its folder.

    Args:
        runs: The folder of all runs.
        study: The run's name, or that of the study that it belongs to.
        variant: Its name within the study; None for a run of its own.

    Raises:
        ValueError: If the folder would not lie in that of all runs.
    """
    asked = Path(study)
    if asked.anchor or ".." in asked.parts or not asked.parts:
        raise ValueError(
            f"name must be that of a folder in {runs}, without '..' and not absolute; got {study!r}. "
            "--runs sets the folder of all runs."
        )
    name = f"{study}/{variant}" if variant else study
    return name, Path(runs) / name


@contextmanager
def held(folder: Path, command: str) -> Iterator[None]:
    """Locks a run while a command works in its folder; of several processes, the first one does.

    A training needs the run for itself; a test and a prediction may work at the same time. The lock files lie
    beside the folder, which may be set aside.

    Args:
        folder: The run's.
        command: fit, test or predict.

    Raises:
        ValueError: If another command holds the run.
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


def free(path: Path) -> Path:
    """Returns the path, or the first of path.1, path.2, ... that does not exist."""
    number, found = 0, path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}.{number}")
    return found


@rank_zero_only
def set_aside(folder: Path) -> None:
    """Renames the folder of an earlier run of the same name, so that nothing in it is overwritten.

    Raises:
        ValueError: If it is not the folder of a run, or a run within it is in use.
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
    if not any(any(folder.glob(sign)) for sign in SIGNS):
        raise ValueError(
            f"{folder} must be free, or the folder of an earlier run; it holds something else. Give another "
            "--name."
        )
    aside = free(folder)
    folder.rename(aside)
    say(f"{folder} held an earlier run: it is now {aside}.")


def run_id(folder: Path, new: bool) -> str:
    """Returns the id under which W&B knows the run, the same for training, test and prediction."""
    path = folder / "wandb_id"
    if path.is_file() and not new:
        return path.read_text("utf-8").strip()
    return sweep_run() or secrets.token_hex(4)


@rank_zero_only
def remember(folder: Path, number: str) -> None:
    """Makes the folder of a run that starts or resumes, and writes its id there."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "wandb_id", number)


def forget_requeued(folder: Path) -> None:
    """Removes the checkpoints that Lightning wrote when SLURM announced the end of a job.

    Lightning would resume from them, inside an epoch, even if a new training was asked for.
    """
    for path in folder.glob("hpc_ckpt_*.ckpt"):  # on each process, before it looks for them
        path.unlink(missing_ok=True)


def newest_checkpoint(folder: Path) -> str | None:
    """Returns the last checkpoint of a whole epoch, or the one before it if it is damaged; None without any.

    Raises:
        ValueError: If all of them are damaged.
    """
    folder, passed_over, broken = folder / "checkpoints", "", list[str]()
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.is_file():
            continue
        try:
            whole = is_whole(read_checkpoint(path))
        except ValueError as error:
            broken.append(str(error))
            passed_over = f"Warning: {error} Training resumes from"
            continue
        if whole:
            if passed_over:
                say(f"{passed_over} {path}, one epoch earlier.")
            return str(path)
        passed_over = f"{path} is from inside an epoch: training resumes from"
    if broken:
        raise ValueError(
            f"{' '.join(broken)} There is no other to resume from: leave out --ckpt_path to start a new run "
            "(this one is set aside), or name one, such as best."
        )
    inside = passed_over.removesuffix("resumes from")
    say(f"{inside}starts again." if inside else f"{folder} holds no {LAST} yet: training starts.")
    return None
