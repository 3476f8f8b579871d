"""What the library finds out about the data, printed while a command runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch.utilities import rank_zero_only

from tsgen.storage.display import print_line

SOURCES = ("tsgen.data.detection", "tsgen.imputer", "tsgen.training.fine_tuning")
"""The loggers whose messages are printed."""


class _Printing(logging.Handler):
    """Prints the first message of each kind about each subject, in one process."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.seen: set[tuple[object, ...]] = set()

    @rank_zero_only
    def emit(self, record: logging.LogRecord) -> None:
        about = record.args[0] if isinstance(record.args, tuple) and record.args else None
        subject = (record.msg, about)
        if subject not in self.seen:
            self.seen.add(subject)
            print_line(record.getMessage())


@contextmanager
def announced() -> Iterator[None]:
    """Prints what the library logs about the data, each finding once."""
    handler, loggers = _Printing(), [logging.getLogger(name) for name in SOURCES]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.addHandler(handler)
        one.setLevel(logging.INFO)
    try:
        yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.removeHandler(handler)
            one.setLevel(level)
