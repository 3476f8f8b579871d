"""The CSV log of a training that may be killed and resumed; every step is logged exactly once."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from tsgen.storage.atomic import replacing


class TrainingLog(ExperimentWriter):
    """A writer for Lightning's CSVLogger that appends to the rows of an earlier session.

    Rows after the last checkpoint are removed, because the resumed training repeats their steps.

    Args:
        folder: The folder of ``metrics.csv``.
        step: The first step to log.

    Attributes:
        earlier: The rows of earlier sessions.
    """

    def __init__(self, folder: str, step: int) -> None:
        self._step, self.earlier = step, list[dict[str, str]]()
        super().__init__(folder)

    def _check_log_dir_exists(self) -> None:
        """Reads the existing rows, which Lightning's writer would remove."""
        path = Path(self.metrics_file_path)
        if not path.is_file():
            return
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            self.earlier = [row for row in reader if _is_before(row, self._step)]
            self.metrics_keys = list(reader.fieldnames or ())
        self._replace(self.metrics_keys, self.earlier)

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        with open(self.metrics_file_path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        self._replace(fieldnames, rows)

    def _replace(self, fieldnames: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        with (
            replacing(Path(self.metrics_file_path)) as unfinished,
            unfinished.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, fieldnames)
            writer.writeheader()
            writer.writerows(rows)

    def save(self) -> None:
        """Appends the rows since the last call and waits until they are on the disk."""
        super().save()
        if os.path.isfile(self.metrics_file_path):
            with open(self.metrics_file_path, "rb+") as file:
                os.fsync(file.fileno())


def _is_before(row: Mapping[str | Any, Any], step: int) -> bool:
    """Returns whether a row is complete and belongs to an earlier step."""
    text = row.get("step") or ""
    # a row that was cut off by a kill has fewer cells, or an incomplete number in the last one
    return None not in row.values() and text.isdigit() and int(text) < step
