"""The command line: ``tsgen fit|test|predict --config NAME``, ``tsgen report|compare|conformal RUN``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

TOOLS = ("compare", "conformal")
"""Commands on what runs have left; each has a module of its own."""

USAGE = """usage: tsgen COMMAND [options]

  tsgen fit     --config NAME   train a model; checkpoints and logs go to runs/NAME
  tsgen test    --config NAME   score its imputations beside baselines
  tsgen predict --config NAME   impute, to runs/NAME/imputation.nc
  tsgen report  runs/NAME       write runs/NAME/report.html from what test and predict left
  tsgen report  RUN RUN         write one page on two runs side by side, to --out FILE.html
  tsgen compare RUN RUN         how much better one is on the same entries, and whether by more than chance
  tsgen conformal runs/NAME     adjust its intervals by what a test with --data.test_on val left

NAME is a YAML file or one of the shipped configurations: {configs}.
More than one --config may be given, the later laid over the earlier, such as these fragments:
{fragments}.
A configuration may hold several variants of a run. All of them run, in runs/NAME/VARIANT, or those named by
--variant VARIANT.
Every option of a YAML file is one of the command line too, such as --data.batch_size 64 or
--model.encoder.hidden 128. `tsgen fit --help` lists those of the trainer; those of a class are listed by
--data.help CLASS and --model.help CLASS (SyntheticDataModule, FilesDataModule{published};
AutoregressiveModel, AnyOrderModel, GraphVAR).
A configuration may name listed classes of known packages alone; --trusted PACKAGE adds one of yours.
TSGEN_TRACEBACK=1 shows where an error came from."""

PUBLISHED = ", AirQualityDataModule, RedWineDataModule, TrafficDataModule"
"""Data modules that a clone has beside the library's own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: The words after ``tsgen``; those of the process if not given.

    Returns:
        The exit code: 0, or 2 for a mistake in what was asked, said in one line.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    # spinning threads slow each other down on a busy machine; must be set before torch is imported
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from tsgen.cli.clone import has_datamodules
    from tsgen.cli.configs import fragments, shipped

    if not words or words[0] in ("-h", "--help"):
        published = PUBLISHED if has_datamodules() else ""
        print(
            USAGE.format(configs=", ".join(shipped()), fragments=", ".join(fragments()), published=published)
        )
        return 0
    if words[0] == "--version":
        import tsgen

        print(f"tsgen {tsgen.__version__}")
        return 0
    from tsgen.cli.processes import ending_together

    with ending_together():
        return _run(words)


def _run(words: Sequence[str]) -> int:
    """Runs a command; the exit code."""
    from tsgen.cli import commands

    try:
        if words[0] == "report":
            return commands.report(words[1:])
        if words[0] in TOOLS:
            return import_module(f"tsgen.cli.{words[0]}").main(words[1:])
        if words[0] not in commands.COMMANDS:
            known = ", ".join((*commands.COMMANDS, "report", *TOOLS))
            raise ValueError(f"the command must be one of {known}; it is {words[0]!r}.")
        commands.run(words)
    except commands.MISTAKES as error:
        if os.environ.get("TSGEN_TRACEBACK"):
            raise
        print(f"tsgen: {commands.one_line(error)}", file=sys.stderr)
        return 2
    return 0
