"""The page on one run: evaluation, scores, figures, imputation, training and configuration.

The page is self-contained: it includes its style and images and runs no script. Every name that a user chose
(nodes, channels, units, the run, its files) is escaped.

A run's folder contains ``evaluation.nc`` and ``scores.json``, which ``tsgen test`` writes, or
``imputation.nc``, which ``tsgen predict`` writes, or all three. ``tsgen impute`` writes ``imputation.nc`` and
``selfcheck.json``, its check on hidden values. The folder may also contain ``logs/fit/metrics.csv``
(training) and the configurations ``config_fit.yaml``, ``config_test.yaml`` and ``config_predict.yaml``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tsgen.argument_types import check_arguments
from tsgen.figures import read_curves, training_curve
from tsgen.report.evaluation import evaluation_sections
from tsgen.report.imputation import imputation_sections
from tsgen.report.page import write_page
from tsgen.report.pictures import picture
from tsgen.report.reading import read_evaluation, read_scores, require_run
from tsgen.report.selfcheck import selfcheck_section
from tsgen.report.tables import name
from tsgen.storage.privacy import scrubbed_text


@check_arguments
def write_report(run: Path, path: Path | None = None) -> Path:
    """Writes the report of a tested run, of a run with a prediction, or of both, and returns its path.

    Args:
        run: The folder, with ``evaluation.nc`` and ``scores.json``, with ``imputation.nc``, or with all
            three.
        path: The file of the page; ``report.html`` in the folder if not given.

    Raises:
        ValueError: If the folder or one of its files is missing or damaged, or nothing was hidden in the
            test.
    """
    run = Path(run)
    require_run(run)
    title, evaluation = run.resolve().name, None
    imputed = run / "imputation.nc"
    if (run / "evaluation.nc").exists() or not imputed.exists():
        scores = read_scores(run / "scores.json")
        data = read_evaluation(run / "evaluation.nc")
        title = scores.get("run") or data.attrs.get("run") or title
        evaluation = evaluation_sections(data, scores)
    return write_page(
        Path(path or run / "report.html"),
        "report.html.j2",
        title=name(title),
        evaluation=evaluation,
        selfcheck=selfcheck_section(run / "selfcheck.json"),
        imputation=imputation_sections(imputed) if imputed.exists() else None,
        training=training(run / "logs" / "fit" / "metrics.csv"),
        files=configurations(run),
    )


def training(metrics: Path) -> dict[str, Any] | None:
    """Returns the training curve and whether validation was logged; None if there is no curve.

    Args:
        metrics: A table as written by Lightning's ``CSVLogger``.

    Raises:
        ValueError: If the file is not such a table.
    """
    curves = read_curves(metrics) if metrics.is_file() else {}
    if not curves:
        return None
    return {
        "picture": picture(lambda columns: training_curve(metrics), 1),
        "validated": "validation" in curves,
    }


def configurations(run: Path) -> list[tuple[str, str]]:
    """Returns the names and texts of a run's configurations, without secrets.

    Args:
        run: The run's folder.
    """
    names = ("config_fit.yaml", "config_test.yaml", "config_predict.yaml")
    return [
        (file, scrubbed_text((run / file).read_text(encoding="utf-8", errors="replace")))
        for file in names
        if (run / file).is_file()
    ]
