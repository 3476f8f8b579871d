"""The data of the section on a check by hidden values; its template is ``selfcheck.html.j2``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tsgen.figures.calibration import rank_bins
from tsgen.report.pictures import picture
from tsgen.report.scores import PERCENT, SCORES
from tsgen.report.tables import Cell, Row, column, name

_SHOWN = ("crps", "mae", "coverage_90")


def selfcheck_section(path: Path) -> dict[str, Any] | None:
    """Returns the data of the section; None if there is no such file.

    Args:
        path: The file ``selfcheck.json``, which ``tsgen impute`` writes.

    Raises:
        ValueError: If the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        scores = dict(sorted(found["scores"].items(), key=lambda item: item[1]["crps_relative"]))
        columns = [
            column([own.get(key, np.nan) for own in scores.values()], key in PERCENT) for key in _SHOWN
        ]
        cells = zip(scores, *columns, strict=True)
        histogram = {
            key: np.array(found["rank_histogram"][key], dtype=np.int64) for key in ("counts", "ranks")
        }
        return {
            "entries": int(found["entries"]),
            "headings": ["method", *(SCORES[key].heading for key in _SHOWN)],
            "rows": [Row([Cell(name(method), method == "model"), *rest]) for method, *rest in cells],
            "warnings": [name(text, 500) for text in [*found["warnings"], *found["remarks"]]],
            "picture": picture(lambda _: rank_bins(**histogram), 1),
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged. Write it with: tsgen impute TABLE") from error
