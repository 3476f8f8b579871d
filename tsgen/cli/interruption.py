"""Ctrl-C at any moment: says what was kept and which command continues, and ends with exit code 130.

All files are complete or absent at every moment (``docs/reliability.md``), so that a process may end
anywhere. A command has :data:`GRACE` seconds to end by itself, in which loggers finish; then a thread ends
it, even if the main thread is inside a long computation, a library's clean-up or an upload.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tsgen.storage.display import printable

GRACE = 1.5
"""The seconds that a command has to end by itself after Ctrl-C."""

EXIT_CODE = 128 + signal.SIGINT

_run: list[Path] = []
"""The folder of the run that a command works on; empty before it has begun."""


def begin(folder: Path) -> None:
    """Notes that a command works on a run from now on.

    Args:
        folder: The folder of the run.
    """
    _run[:] = [folder]


def is_interruption(error: BaseException | None) -> bool:
    """Returns whether Ctrl-C caused an exception: Lightning and extension modules turn it into others."""
    cause = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def report(words: Sequence[str]) -> None:
    """Prints what an interrupted command has kept, and the command that continues; first process only.

    Args:
        words: The arguments after ``tsgen``.
    """
    if os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0":
        kept, again = _outcome(list(words))
        print(
            "\n" + printable(f"tsgen: interrupted; {kept}: {shlex.join(['tsgen', *again])}"),
            file=sys.stderr,
            flush=True,
        )


def _outcome(words: list[str]) -> tuple[str, list[str]]:
    """Returns what was kept, with what the command is for, and the arguments of the command."""
    if not _run:
        return "nothing has changed. To start again", words
    command, folder = words[0], _run[0]
    if command in ("predict", "impute"):
        from tsgen.storage.parts import Parts

        parts = len(Parts.beside(folder / "imputation.nc").names())
        if not parts:
            return f"{folder} has no draws yet. To start again", words
        kept = f"{parts:,} part files of draws are kept in {folder}"
        if command == "impute":  # the weights of another training have other draws
            kept += ", for the same weights"
        return f"{kept}. To continue", words
    if command == "test":
        return f"{folder} has no new scores. To start again", words
    last = folder / "checkpoints" / "last.ckpt"
    if last.is_file():
        return f"{last} keeps the finished epochs. To continue", [
            *_without_checkpoint(words),
            "--ckpt_path",
            "last",
        ]
    if _without_checkpoint(words) == words:
        # this continues in the same folder; without a checkpoint it would be set aside
        words = [*words, "--ckpt_path", "last"]
    return f"{folder} has no checkpoint yet. To start again", words


def _without_checkpoint(words: Sequence[str]) -> list[str]:
    """Returns the arguments without ``--ckpt_path`` and its value."""
    kept, skip = list[str](), False
    for word in words:
        if not skip and word.partition("=")[0] != "--ckpt_path":
            kept.append(word)
        skip = word == "--ckpt_path"
    return kept


@contextmanager
def ending_soon(words: Sequence[str]) -> Iterator[None]:
    """Ends the process :data:`GRACE` seconds after Ctrl-C if it has not ended by then.

    Args:
        words: The arguments after ``tsgen``.
    """
    _run.clear()
    if os.name != "posix" or threading.current_thread() is not threading.main_thread():
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    # a handler of Python would wait until the main thread returns from its computation
    earlier, done = signal.set_wakeup_fd(write, warn_on_full_buffer=False), threading.Event()
    threading.Thread(target=_watch, args=(read, list(words), done), daemon=True).start()
    try:
        yield
    finally:
        done.set()
        signal.set_wakeup_fd(earlier)
        os.close(write)


def _watch(read: int, words: list[str], done: threading.Event) -> None:
    """Waits for Ctrl-C, and then ends the process if it does not end by itself."""
    while arrived := os.read(read, 1):
        if arrived[0] == signal.SIGINT:
            if not done.wait(GRACE):
                report(words)
                sys.stdout.flush()
                os._exit(EXIT_CODE)
            break
    os.close(read)
