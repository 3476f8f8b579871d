"""The folder of a run: where it lies, who works in it, how it is set aside, its id, its last checkpoint."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lightning.pytorch.utilities.rank_zero import rank_zero_only

from tsgen.cli.tracking import sweep_run
from tsgen.storage import locks
from tsgen.storage.atomic import write_text
from tsgen.storage.checkpoints import LAST, PREVIOUS, is_whole, read_checkpoint

SIGNS = ("config_*.yaml", "wandb_id*", "checkpoints")
"""What a run's folder holds one of, from its first moment on."""

SHARED = ("test", "predict")
"""Commands that may work on one run at the same time: they write different files."""


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

    Raises:
        ValueError: If the folder would not lie in that of all runs.
    """
    asked = Path(study)
    if asked.anchor or ".." in asked.parts or not asked.parts:
        raise ValueError(
            f"name must be that of a folder in {runs}, no absolute path and none with '..'; it is {study!r}. "
            "--runs says where all runs lie."
        )
    name = f"{study}/{part}" if part else study
    return name, Path(runs) / name


@contextmanager
def held(folder: Path, command: str) -> Iterator[None]:
    """Holds a run while a command works in its folder; of several processes, the first one does.

    A training has the run for itself; a test and a prediction may work at the same time. The locks lie beside
    the folder, which may be set aside.

    Args:
        folder: The run's.
        command: fit, test or predict.

    Raises:
        ValueError: If another command has the run.
    """
    with ExitStack() as stack:
        if rank_zero_only.rank == 0:
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
    """The path, or the first of path.1, path.2, ... that does not exist."""
    number, found = 0, path
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}.{number}")
    return found


@rank_zero_only
def set_aside(folder: Path) -> None:
    """Renames the folder of an earlier run of the same name: nothing of it is overwritten.

    Raises:
        ValueError: If it is not a run's, or a run within it is in use.
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


def forget_requeued(folder: Path) -> None:
    """Removes what Lightning wrote when SLURM announced a job's end: it would go on from there, inside an
    epoch, rather than begin."""
    for path in folder.glob("hpc_ckpt_*.ckpt"):  # on each process, before it looks for them
        path.unlink(missing_ok=True)


def newest_checkpoint(folder: Path) -> str | None:
    """The last checkpoint of a whole epoch, the one before it if it is damaged; None if there is none.

    Raises:
        ValueError: If all there are are damaged.
    """
    folder, passed_over, broken = folder / "checkpoints", "", list[str]()
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.is_file():
            continue
        try:
            whole = is_whole(read_checkpoint(path))
        except ValueError as error:
            broken.append(str(error))
            passed_over = f"Warning: {error} Training goes on from"
            continue
        if whole:
            if passed_over:
                say(f"{passed_over} {path}, one epoch earlier.")
            return str(path)
        passed_over = f"{path} is from inside an epoch: training goes on from"
    if broken:
        raise ValueError(
            f"{' '.join(broken)} No other can be gone on from: leave out --ckpt_path to begin anew (the run "
            "is set aside), or name one, such as best."
        )
    inside = passed_over.removesuffix("goes on from")
    say(f"{inside}begins again." if inside else f"{folder} holds no {LAST} yet: training begins.")
    return None
