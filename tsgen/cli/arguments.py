"""The :mod:`argparse` parser of the command line.

It parses all arguments of ``impute``, ``report``, ``compare`` and ``conformal``. Of those of ``fit``,
``test`` and ``predict`` it parses only the options that are needed before Lightning's parser can run; the
others go to Lightning's parser unchanged (:class:`~tsgen.cli.commands.TsgenCLI`). This module does not import
torch, so that ``tsgen --help`` is fast.
"""

from __future__ import annotations

import shutil
import textwrap
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import tsgen
from tsgen.cli.clone import has_datamodules
from tsgen.cli.configs import fragments, shipped

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
"""The end of the help of ``fit``, ``test`` and ``predict``, which Lightning's parser prints."""


IMPUTE_EXAMPLES = """examples:
  tsgen impute pm25.csv                                  a wide table; the graph from correlations
  tsgen impute pm25.csv --coordinates stations.csv       columns node, latitude, longitude
  tsgen impute traffic.parquet --edges roads.csv         columns source, target, weight
  tsgen impute long.csv --node_column station --out filled --num_samples 200"""


class Parser(ArgumentParser):
    """An argument parser that allows no abbreviations and raises errors of one line."""

    def __init__(self, **options: object) -> None:
        defaults = {"allow_abbrev": False, "formatter_class": RawDescriptionHelpFormatter}
        super().__init__(**{**defaults, **options})  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Raises ``ValueError`` instead of printing the usage and exiting."""
        raise ValueError(f"{message}. See `{self.prog} --help`.")


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
    parser = _parser()
    arguments, rest = parser.parse_known_args(list(words))
    if arguments.command in RUN_COMMANDS:
        arguments.rest = rest
    elif rest:
        raise ValueError(f"unrecognized arguments: {' '.join(rest)}. See `tsgen {arguments.command} --help`.")
    return arguments


def parse_location(words: Sequence[str]) -> Namespace:
    """Parses the options that determine a run's folder: ``name``, ``runs`` and ``ckpt_path``, None if absent.

    Args:
        words: The arguments for Lightning's parser, which parses these options again.
    """
    parser = Parser(prog="tsgen", add_help=False)
    for name in ("name", "runs", "ckpt_path"):
        parser.add_argument(f"--{name}")
    return parser.parse_known_args(list(words))[0]


def _parser() -> Parser:
    parser = Parser(
        prog="tsgen",
        usage="tsgen COMMAND [options]",
        description=_filled("Probabilistic imputation, forecasting and generation of time series on graphs."),
        epilog=_epilog(),
    )
    parser.add_argument("--version", action="version", version=f"tsgen {tsgen.__version__}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", title="commands", prog="tsgen", required=True
    )
    _add_impute(
        commands.add_parser(
            "impute",
            help="fill the missing values of a table, without a configuration",
            usage="tsgen impute TABLE [--coordinates FILE | --edges FILE] [--out FOLDER] [options]",
            description=_filled(
                "Fill the missing values of a table of time series, CSV or Parquet, with a pre-trained "
                "model. The table is wide (one row per time, one column per node) or long (one row per "
                "time and node). The folder of the results has the completed table, intervals.csv, the draws "
                "in imputation.nc and report.html."
            ),
            epilog=IMPUTE_EXAMPLES,
        )
    )
    for name, text in RUN_COMMANDS.items():
        # Lightning's parser answers --help: it knows the options
        command = commands.add_parser(name, help=text, add_help=False)
        command.add_argument("--config", "-c", action="append", default=[], metavar="NAME")
        command.add_argument("--variant", action="append", default=[])
        command.add_argument("--trusted", action="append", default=[], metavar="PACKAGE")
        command.add_argument("--trainer.logger", action="append", default=[], dest="logger")
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
    return parser


def _add_impute(parser: ArgumentParser) -> None:
    parser.add_argument("table", type=Path, metavar="TABLE", help="a .csv, .csv.gz or .parquet file")
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
        "--model.encoder.hidden 128. `tsgen fit --help` lists the options of the trainer; --data.help CLASS "
        f"and --model.help CLASS list those of a data module ({modules}) and of a model "
        f"({', '.join(MODELS)}).",
        "A configuration may only name classes that are known to be harmless. --trusted PACKAGE adds those "
        "of a package of yours; `fit` remembers it for the `test` and `predict` of the same run.",
        "With TSGEN_TRACEBACK=1 an error shows its traceback.",
    )
    return "\n\n".join(_filled(text, "  " * (i in (1, 3))) for i, text in enumerate(paragraphs))
