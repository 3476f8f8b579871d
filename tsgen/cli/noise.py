"""Lines of libraries that say nothing to a user, left out; their warnings stay.

Three are meant: matplotlib's note that it builds its list of fonts, once per machine; the FLOPs and modes in
Lightning's summary of a model, which count nothing for these models; and W&B's warning about a setting that
Lightning passes without a value (:class:`~tsgen.cli.tracking.TolerantWandbLogger`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lightning import Callback
from lightning.pytorch.callbacks import ModelSummary, RichModelSummary

from tsgen.evaluation.terminal import print_table


@contextmanager
def without_font_notes() -> Iterator[None]:
    """Drops matplotlib's note that it builds its list of fonts."""
    logger = logging.getLogger("matplotlib.font_manager")
    logger.addFilter(_is_no_font_note)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_font_note)


def _is_no_font_note(record: logging.LogRecord) -> bool:
    return "building the font cache" not in record.getMessage()


class Parameters(ModelSummary):
    """Prints the parts of a model that have parameters, and their number, when training starts."""

    @staticmethod
    def summarize(
        summary_data: list[tuple[str, list[str]]],
        total_parameters: int,
        trainable_parameters: int,
        *_: Any,
        **__: Any,
    ) -> None:
        """Prints the table.

        Args:
            summary_data: The columns of Lightning's summary by heading, of which three are printed.
            total_parameters: The number of parameters.
            trainable_parameters: The number of those that are trained.
        """
        columns = dict(summary_data)
        parts = zip(columns["Name"], columns["Type"], columns["Params"], strict=True)
        fixed = total_parameters - trainable_parameters
        remarks = [f"{fixed:,} of the parameters are fixed."] if fixed else []
        title = f"Model: {total_parameters:,} parameters"
        print_table(title, ["part", "class", "parameters"], _with_parameters(parts), remarks=remarks)


def _with_parameters(rows: Any) -> list[Sequence[str]]:
    return [row for row in rows if row[2].strip() != "0"]


def use_short_summary(callbacks: Sequence[Callback]) -> None:
    """Turns Lightning's own summaries of the model in a list of callbacks into :class:`Parameters`."""
    for callback in callbacks:
        if type(callback) in (ModelSummary, RichModelSummary):
            callback.__class__ = Parameters
