"""``tsgen fit``, ``test`` and ``predict``: one run, or each variant of a study."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from tsgen.cli import run_folder
from tsgen.cli.announcements import announced
from tsgen.cli.arguments import parse_location
from tsgen.cli.commands import Rehearsal, TsgenCLI
from tsgen.cli.loggers import sweep_run
from tsgen.cli.mistakes import MISTAKES, one_line
from tsgen.cli.remembered_trust import remembered
from tsgen.cli.trust import trusting
from tsgen.cli.variants import Study, read_study, summarise

MUTED = (
    ".*does not have many workers.*",  # gathering a batch is one indexing operation
    ".*number of training batches.*",
    ".*args parameter is intended to run from within Python.*",
    ".*instantiate_classes.*",
    ".*LeafSpec.*",
    ".*using the WeightAveraging callback, but.*outside.*",  # a checkpoint's weights are the averaged ones
    ".*callbacks used to create the checkpoint need.*",  # they are needed only to resume training
    ".*Checkpoint directory .* exists and is not empty.*",  # that of a resumed training is not
    ".*dirpath has changed from.*",  # a run that was moved still finds its best epoch
    ".*Dynamo does not know how to trace.*",  # it runs what it cannot compile
    ".*Previous log files.*",  # a repeated test replaces its own log
)
"""Patterns of warnings that a user cannot act on."""


def main(given: Namespace) -> None:
    """Runs the command, once or for each variant of a study.

    Args:
        given: The result of :func:`~tsgen.cli.arguments.parse`.

    Raises:
        ValueError: If options are invalid.
    """
    # hide messages on devices, and tips
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    study = read_study(given)
    with warnings.catch_warnings(), announced():
        for message in MUTED:
            warnings.filterwarnings("ignore", message)
        if not study.variants:
            _run(study, _trusted(study, given.trusted))
            return
        trusted = {variant: _trusted(study, given.trusted, variant) for variant in study.chosen}
        folder = _rehearse(study, trusted)
        for variant, packages in trusted.items():
            with _naming(variant):
                _run(study, packages, variant)
        if given.command == "test":
            rank_zero_only(summarise)(folder, list(study.variants), study.replicates)


def _run(study: Study, trusted: Sequence[str], variant: str | None = None) -> None:
    """Runs the command for one run."""
    try:
        with trusting(trusted):
            TsgenCLI(study.command(variant), study.name, variant, trusted, study.text(variant))
    except SIGTERMException:
        # Lightning would exit with 0, although the run is not finished
        sys.exit(128 + signal.SIGTERM)


def _rehearse(study: Study, trusted: Mapping[str, Sequence[str]]) -> Path:
    """Parses the options of all variants and returns the study's folder.

    This finds an invalid option of the last variant before the first one runs.
    """
    folder = Path()
    for variant, packages in trusted.items():
        with _naming(variant), trusting(packages):
            folder = Rehearsal(study.command(variant), study.name, variant).folder.parent
    if (folder / "checkpoints").exists():
        raise ValueError(
            f"{folder} must be free for a study's variants; it contains a run. Give another --name."
        )
    return folder


def _trusted(study: Study, trusted: Sequence[str], variant: str | None = None) -> list[str]:
    """Returns the packages given by ``--trusted`` and those that the run remembers.

    They, and hence the run's folder, must be known before the options can be parsed.
    """
    location = parse_location(study.words[1:])
    name = location.name or study.options.get("name") or study.name
    runs = location.runs or study.options.get("runs") or "runs"
    _, folder = run_folder.locate(str(runs), str(name), variant or sweep_run())
    if study.words[0] == "fit":
        start = location.ckpt_path or study.options.get("ckpt_path")
        own = start in ("best", "last") or (start and folder.resolve() in Path(str(start)).resolve().parents)
        if not own:  # a new run does not inherit the trust of an earlier one of the same name
            return list(trusted)
    return list(dict.fromkeys((*trusted, *remembered(folder, study.text(variant)))))


@contextmanager
def _naming(variant: str) -> Iterator[None]:
    """Adds the name of the variant to the error of a user's mistake."""
    try:
        yield
    except MISTAKES as error:
        raise ValueError(f"variant {variant}: {one_line(error)}") from error
