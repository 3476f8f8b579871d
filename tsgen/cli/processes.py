"""Processes that a command starts end with it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

FIRST = "TSGEN_FIRST_PROCESS"
"""The variable that holds the id of the command's first process, for the processes that it starts."""
GRACE = 10.0
"""Seconds in which they may end by themselves, as they do after a finished run."""


@contextmanager
def ending_together(grace: float = GRACE) -> Iterator[None]:
    """Ends the processes that Lightning starts for a command when the command ends, in whatever way.

    Each would otherwise wait for the first one until the strategy's timeout. ``torchrun`` and SLURM end the
    processes that they start themselves.

    Args:
        grace: Seconds in which they may end by themselves.
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
    """Ends this process some time after its parent did."""
    while os.getppid() == first:
        time.sleep(min(1.0, grace))
    time.sleep(grace)
    print("tsgen: the first process has ended, and so does this one.", file=sys.stderr, flush=True)
    # the main thread may wait inside torch for hours
    os._exit(1)
