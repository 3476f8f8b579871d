"""Ends the processes that Lightning starts for a command when the command ends."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

FIRST = "TSGEN_FIRST_PROCESS"
"""The environment variable with the id of the command's first process, for the processes that it starts."""

GRACE = 10.0
"""The seconds that a process has to end by itself after the first one has ended."""


@contextmanager
def ending_together(grace: float = GRACE) -> Iterator[None]:
    """Ends the processes that Lightning starts for a command when the command ends, however it ends.

    Otherwise each would wait for the first one until the strategy's timeout. ``torchrun`` and SLURM end the
    processes that they start.

    Args:
        grace: The seconds that they have to end by themselves.
    """
    first = os.environ.get(FIRST)
    if first is not None and os.environ.get("LOCAL_RANK", "0") != "0":
        if os.name == "posix":  # elsewhere a process keeps the id of a parent that has ended
            threading.Thread(target=_end_after, args=(int(first), grace), daemon=True).start()
        yield
        return
    os.environ[FIRST] = str(os.getpid())
    try:
        yield
    finally:
        os.environ.pop(FIRST, None)


def _end_after(first: int, grace: float) -> None:
    """Ends this process ``grace`` seconds after its parent, the process ``first``, has ended."""
    while os.getppid() == first:
        time.sleep(min(1.0, grace))
    time.sleep(grace)
    print("tsgen: the first process has ended; this process ends too.", file=sys.stderr, flush=True)
    # the main thread may wait inside torch for hours
    os._exit(1)
