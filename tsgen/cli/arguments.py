"""The :mod:`argparse` parser of the command line.

It parses all arguments of ``impute``, ``report``, ``compare`` and ``conformal``. Of those of ``fit``,
``test`` and ``predict`` it parses only the options that are needed before Lightning's parser can run; the
others go to Lightning's parser unchanged (:class:`~tsgen.cli.commands.TsgenCLI`). This module does not import
torch, so that help and shell completion are fast. ``--help`` is short; ``--help-all`` of ``fit``, ``test``
and ``predict`` is that of Lightning's parser.
"""

from __future__ import annotations

import shutil
import textwrap
from argparse import (
    SUPPRESS,
    Action,
    ArgumentParser,
    Namespace,
    RawDescriptionHelpFormatter,
    _SubParsersAction,
)
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import tsgen
from tsgen.cli.clone import has_datamodules
from tsgen.cli.completion import complete_words, configuration_names
from tsgen.cli.configs import fragments, shipped
from tsgen.cli.suggestions import did_you_mean, near_or_all, unknown_options

RUN_COMMANDS = {
    "fit": "train a model; its checkpoints and logs go to runs/NAME",
    "test": "score a trained model and the baselines",
    "predict": "impute; the result goes to runs/NAME/imputation.nc",
}
"""The commands that Lightning runs, with their help texts."""

DATA_MODULES = ("SyntheticDataModule", "FilesDataModule")
PUBLISHED = ("AirQualityDataModule", "RedWineDataModule", "TrafficDataModule")
"""Data modules of published data sets, which only a clone has."""
MODELS = ("AutoregressiveModel", "AnyOrderModel", "GraphVAR")

RUN_EPILOG = (
    "Also: --variant VARIANT selects a variant of the configuration and may be repeated; --trusted PACKAGE "
    "lets options name the classes of a package of yours. See `tsgen --help`."
)
"""The end of the long help of ``fit``, ``test`` and ``predict``, which Lightning's parser prints."""

NEXT = """tsgen: missing values of time series on graphs, as distributions
  tsgen impute TABLE.csv        fill the gaps of a table of yours
  tsgen fit --config demo       train on simulated data; then test, predict
  tsgen report runs/demo        a page on what came out
  tsgen --help                  all commands; tsgen COMMAND --help: its options"""
"""What ``tsgen`` and ``tsgen help`` print."""

RUN_OPTIONS = {
    "--name NAME": "the run's name; by default that of the configuration",
    "--runs FOLDER": "the folder of all runs; by default runs",
    "--ckpt_path best|last|FILE": "the checkpoint to start from; `fit --ckpt_path last` resumes",
    "--seed_everything N": "the seed; by default 0",
    "--trainer.max_epochs N": "the number of epochs, and likewise",
    "--trainer.max_time 00:00:30:00": "days:hours:minutes:seconds",
    "--trainer.accelerator cpu|gpu": "where to compute; by default a GPU if there is one",
    "--trainer.logger CSVLogger|false": "by default as in the configuration; may be repeated",
    "--data.OPTION VALUE": "an option of the data, such as --data.batch_size 64",
    "--model.OPTION VALUE": "one of the model, such as --model.encoder.hidden 128",
    "--data.help CLASS": "lists the options of a data module",
    "--model.help CLASS": "lists the options of a model; --model.encoder.help likewise",
    "--print_config": "prints all options with their values",
}
"""The most used options of Lightning's parser, for the short help."""


IMPUTE_EXAMPLES = """examples:
  tsgen impute pm25.csv                               graph from correlations
  tsgen impute pm25.csv --coordinates stations.csv    node, latitude, longitude
  tsgen impute speed.parquet --edges roads.csv        source, target, weight
  tsgen impute long.csv --node_column station --out filled --num_samples 200"""


class Parser(ArgumentParser):
    """An argument parser that allows no abbreviations and raises errors of one line."""

    def __init__(self, **options: object) -> None:
        defaults = {"allow_abbrev": False, "formatter_class": RawDescriptionHelpFormatter}
        super().__init__(**{**defaults, **options})  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Raises ``ValueError`` instead of printing the usage and exiting."""
        raise ValueError(f"{message}. See `{self.prog} --help`.")

    @property
    def options(self) -> list[str]:
        """All options, such as ``--out`` and ``-h``."""
        return list(self._option_string_actions)


class _HelpAll(Action):
    """Prints the help of all commands, or of one."""

    def __call__(self, parser: ArgumentParser, given: Namespace, values: Any, option: Any = None) -> None:
        parser.print_help()
        for action in parser._actions:
            for command in action.choices.values() if isinstance(action, _SubParsersAction) else ():
                print(f"\n{'-' * 78}\n")
                command.print_help()
        parser.exit()


def next_steps(command: str) -> str:
    """Returns what to do after ``tsgen fit``, ``test`` or ``predict`` without any option, as some lines.

    Args:
        command: The command.
    """
    return (
        f"tsgen: {command} needs --config NAME, such as:\n"
        f"  tsgen {command} --config demo\n"
        f"  tsgen {command} --config files --data.path TABLE.csv --data.edges FILE.csv\n"
        f"`tsgen {command} --help` shows its options, `tsgen --help` all configurations.\n"
        "Without a configuration, `tsgen impute TABLE.csv` fills the gaps of a table."
    )


def parse(words: Sequence[str]) -> Namespace:
    """Parses a command line.

    Args:
        words: The arguments after ``tsgen``.

    Returns:
        ``command`` and its options. For ``fit``, ``test`` and ``predict`` these are the lists ``config``,
        ``variant``, ``trusted`` and ``logger``, and ``rest``, the arguments for Lightning's parser.

    Raises:
        ValueError: If the arguments are invalid.
        SystemExit: After printing help or the version.
    """
    parser, commands = _parser()
    complete_words(parser)
    _check_words(words, parser, commands)
    arguments, rest = parser.parse_known_args(list(words))
    if arguments.command in RUN_COMMANDS:
        arguments.rest = ["--help"] if arguments.help_all else rest
    elif rest:
        raise ValueError(f"unrecognized arguments: {' '.join(rest)}. See `tsgen {arguments.command} --help`.")
    return arguments


def _check_words(words: Sequence[str], parser: Parser, commands: Mapping[str, Parser]) -> None:
    """Raises ``ValueError`` if the command does not exist, or an option of one that this module parses.

    ``argparse`` would complain of the first missing argument, and take the value of a misspelt option for
    another argument.
    """
    command = words[0] if words else ""
    if command.startswith("-"):
        unknown, known, place = unknown_options(words[:1], parser.options), parser.options, "tsgen"
    elif command not in commands:
        raise ValueError(
            f"there is no command {command!r}.{near_or_all(command, list(commands))} See `tsgen --help`."
        )
    else:
        known, place = commands[command].options, f"tsgen {command}"
        unknown = [] if command in RUN_COMMANDS else unknown_options(words[1:], known)
    if unknown:
        hint = did_you_mean(unknown[0], known)
        raise ValueError(f"unrecognized arguments: {' '.join(unknown)}.{hint} See `{place} --help`.")


def parse_location(words: Sequence[str]) -> Namespace:
    """Parses the options that determine a run's folder: ``name``, ``runs`` and ``ckpt_path``, None if absent.

    Args:
        words: The arguments for Lightning's parser, which parses these options again.
    """
    parser = Parser(prog="tsgen", add_help=False)
    for name in ("name", "runs", "ckpt_path"):
        parser.add_argument(f"--{name}")
    return parser.parse_known_args(list(words))[0]


def _parser() -> tuple[Parser, Mapping[str, Parser]]:
    """Returns the parser of the command line and those of the commands."""
    parser = Parser(
        prog="tsgen",
        usage="tsgen COMMAND [options]",
        description=_filled("Probabilistic imputation, forecasting and generation of time series on graphs."),
        epilog=_epilog(),
    )
    parser.add_argument("--help-all", nargs=0, action=_HelpAll, help="show the help of all commands")
    parser.add_argument("--version", action="version", version=f"tsgen {tsgen.__version__}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", title="commands", prog="tsgen", required=True
    )
    _add_impute(
        commands.add_parser(
            "impute",
            help="fill the missing values of a table, without a configuration",
            usage="tsgen impute TABLE [--coordinates FILE | --edges FILE] [options]",
            description=_filled(
                "Fill the missing values of a table of time series (CSV, Parquet, Excel) with a pre-trained "
                "model. The table is wide (one row per time, one column per node) or long (one row per "
                "time and node). The folder of the results has the completed table, intervals.csv, the draws "
                "in imputation.nc and report.html."
            ),
            epilog=IMPUTE_EXAMPLES,
        )
    )
    for name, text in RUN_COMMANDS.items():
        _add_run(
            commands.add_parser(
                name,
                help=text,
                usage=f"tsgen {name} --config NAME [--config NAME ...] [options]",
                description=_filled(f"{text[0].upper()}{text[1:]}."),
                epilog=_run_epilog(name),
            )
        )
    _add_report(
        commands.add_parser(
            "report",
            help="write a page on the results of test and predict, or one that compares two runs",
            usage="tsgen report RUN [RUN] [--out FILE.html]",
            description=_filled(
                "Write a page on a run after test or predict, RUN/report.html, or a page that compares two "
                "runs that scored the same entries, FIRST_vs_SECOND.html beside the first."
            ),
        )
    )
    _add_compare(
        commands.add_parser(
            "compare",
            help="test whether the scores of two runs differ significantly",
            usage="tsgen compare RUN [RUN ...] [--out FOLDER]",
            description=_filled(
                "Compare tested runs that scored the same entries: each of the others with the first, or a "
                "single run with the baselines of its test. The differences, with 95 % "
                "confidence intervals over windows, are printed and written to comparison.json and "
                "comparison.png."
            ),
        )
    )
    _add_conformal(
        commands.add_parser(
            "conformal",
            help="adjust a run's prediction intervals by its errors on the validation split",
            usage="tsgen conformal RUN [--level LEVEL] [--unit {window,entry}]",
            description=_filled("Adjust a run's prediction intervals by its errors on the validation split."),
        )
    )
    for name, command in commands.choices.items():
        if name not in RUN_COMMANDS:  # their help is complete
            command.add_argument("--help-all", action="help", help=SUPPRESS)
    return parser, commands.choices


def _add_run(parser: ArgumentParser) -> None:
    parser.add_argument("--help-all", action="store_true", help="show all options, with their types")
    config = parser.add_argument(
        *("--config", "-c"),
        action="append",
        default=[],
        metavar="NAME",
        help="a YAML file or a shipped configuration; later ones override earlier ones",
    )
    config.completer = configuration_names  # type: ignore[attr-defined]
    parser.add_argument(
        "--variant", action="append", default=[], help="a variant of the configuration; by default all"
    )
    parser.add_argument(
        "--trusted",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="let options name the classes of a package of yours",
    )
    parser.add_argument("--trainer.logger", action="append", default=[], dest="logger", help=SUPPRESS)


def _run_epilog(command: str) -> str:
    """Returns the end of the short help of a command that Lightning runs."""
    lines = (f"  {option}\n{_filled(text, ' ' * 24)}" for option, text in RUN_OPTIONS.items())
    return "\n".join(
        [
            "further options (also of a YAML file):",
            *lines,
            "",
            _filled(
                f"`tsgen {command} --help-all` lists all of them with their types (some 750 lines); "
                "`tsgen --help` lists the configurations."
            ),
        ]
    )


def _add_impute(parser: ArgumentParser) -> None:
    parser.add_argument("table", type=Path, metavar="TABLE", help="a .csv, .csv.gz, .parquet or .xlsx file")
    graph = parser.add_mutually_exclusive_group()
    graph.add_argument(
        "--coordinates", type=Path, metavar="FILE", help="table of node, latitude and longitude"
    )
    graph.add_argument(
        "--edges", type=Path, metavar="FILE", help="table of source, target and optionally weight"
    )
    parser.add_argument(
        "--layout",
        choices=("wide", "long"),
        help="by default long if there is a column of nodes, otherwise wide",
    )
    parser.add_argument(
        "--time_column", metavar="NAME", help="the column of times; by default time, or the first column"
    )
    parser.add_argument(
        "--node_column", metavar="NAME", help="the column of nodes of a long table; by default node"
    )
    parser.add_argument(
        "--value_columns", nargs="+", metavar="NAME", help="the columns to impute; by default all others"
    )
    parser.add_argument("--step", help="the time between rows, such as 1h; by default the smallest one")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="the folder of the results; by default TABLE_imputed"
    )
    parser.add_argument("--num_samples", type=int, default=100, metavar="N", help="draws; by default 100")
    parser.add_argument(
        "--level", type=float, default=0.9, metavar="P", help="probability of the intervals; by default 0.9"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="fixes the draws; by default 0")
    parser.add_argument(
        "--minutes",
        type=float,
        default=5,
        metavar="M",
        help="train on the table first, for so long at most; by default 5. 0: the pre-trained model as it is",
    )
    parser.add_argument(
        "--support",
        default="auto",
        metavar="VALUES",
        help="real, positive, non_negative, counts, interval(a,b) or interval[a,b]; by default what it shows",
    )


def _add_report(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=_folder, metavar="RUN", help="the folder of a run, such as runs/demo")
    parser.add_argument("other", type=_folder, nargs="?", metavar="RUN", help="the folder of another run")
    parser.add_argument("--out", type=Path, metavar="FILE.html", help="the page")


def _add_compare(parser: ArgumentParser) -> None:
    parser.add_argument(
        "runs", type=_folder, nargs="+", metavar="RUN", help="the folder of a tested run, such as runs/demo"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="the folder of the results; by default runs/RUN_vs_RUN"
    )


def _add_conformal(parser: ArgumentParser) -> None:
    parser.add_argument(
        "run",
        type=_folder,
        metavar="RUN",
        help="the folder of a run that was tested twice: as usual, and with --data.test_on val",
    )
    parser.add_argument("--level", type=float, default=0.9, help="nominal coverage: 0.9 (default) or 0.5")
    parser.add_argument(
        "--unit",
        choices=("window", "entry"),
        default="window",
        help="the exchangeable unit: windows (default) or single entries, which is approximate",
    )


def _folder(word: str) -> Path:
    """Returns the path; '.' and '..' are resolved, because they have no name."""
    return Path(word).resolve() if word in (".", "..") else Path(word)


def _filled(text: str, indent: str = "") -> str:
    """Returns the text wrapped to the width of the terminal; words are not broken."""
    width = min(shutil.get_terminal_size().columns, 110) - 2
    return textwrap.fill(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _epilog() -> str:
    modules = ", ".join(DATA_MODULES + PUBLISHED * has_datamodules())
    paragraphs = (
        "`fit`, `test` and `predict` need --config NAME: a YAML file, or one of the shipped configurations:",
        ", ".join(shipped()),
        "--config may be repeated; later options override earlier ones. Fragments to add to a configuration:",
        ", ".join(fragments()),
        "A configuration may define variants. A command runs all of them, each in runs/NAME/VARIANT, unless "
        "--variant VARIANT selects some.",
        "Every option of a YAML file is also an option of the command line, such as --data.batch_size 64 or "
        "--model.encoder.hidden 128. `tsgen fit --help` shows the most used ones; --data.help CLASS "
        f"and --model.help CLASS list those of a data module ({modules}) and of a model "
        f"({', '.join(MODELS)}).",
        "A configuration may only name classes that are known to be harmless. --trusted PACKAGE adds those "
        "of a package of yours; `fit` remembers it for the `test` and `predict` of the same run.",
        "With TSGEN_TRACEBACK=1 an error shows its traceback. Tab completes words after "
        '`eval "$(register-python-argcomplete tsgen)"` (docs/command_line.md).',
    )
    return "\n\n".join(_filled(text, "  " * (i in (1, 3))) for i, text in enumerate(paragraphs))
