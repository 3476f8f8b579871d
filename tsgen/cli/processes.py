"""Processes that a command starts end with it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

FIRST = "TSGEN_FIRST_PROCESS"
"""Tells the processes that a command starts which one it is."""
GRACE = 10.0
"""Seconds that they have to end by themselves, as after a run that is done."""


@contextmanager
def ending_together(grace: float = GRACE) -> Iterator[None]:
    """For as long as a command runs: the processes that Lightning starts for it end with it, however it ends.

    Each would otherwise wait for the first one until the strategy's timeout. Where ``torchrun`` or SLURM
    starts the processes, these see to it themselves.

    Args:
        grace: Seconds that they have to end by themselves.
    """
    first = os.environ.get(FIRST)
    if first is not None and os.environ.get("LOCAL_RANK", "0") != "0":
        if os.name == "posix":  # elsewhere a process is not told of a new parent
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
    # the main thread may wait in torch for hours, and hear of nothing
    os._exit(1)
