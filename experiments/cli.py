"""Lightning's command line, with a run folder, checkpoints and W&B put in order."""

from __future__ import annotations

import logging
import netrc
import os
import re
import secrets
import warnings
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlparse

import wandb
import yaml
from jsonargparse import Namespace, set_parsing_settings
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

import datamodules  # noqa: F401 (so that its classes are known by their names)
from datamodules.base import SeriesDataModule
from experiments.configs import find
from tsgen.callbacks import ImputationFigure, ImputationWriter
from tsgen.evaluation import Evaluation
from tsgen.models import DensityModel
from tsgen.models.density import read_checkpoint
from tsgen.report import write_report
from tsgen.series import SeriesSpec

# what a model must know of its data is linked to it, not an option to spell out
set_parsing_settings(subclasses_enabled=[SeriesSpec])

COMMANDS = ("fit", "test", "predict")
MISTAKES = (ValueError, ArgumentError, MisconfigurationException, FileNotFoundError, PermissionError)
"""What a user's mistake raises: said in one line."""


MUTED = (
    ".*does not have many workers.*",  # gathering a batch is one indexing operation
    ".*number of training batches.*",
    ".*args parameter is intended to run from within Python.*",
    ".*instantiate_classes.*",
    ".*LeafSpec.*",
)
"""Warnings that a user could do nothing about."""


def one_line(error: BaseException) -> str:
    """What is wrong, in one line.

    The parser reports a wrong option of a nested class once for every type it tried; the innermost reason
    says it.
    """
    text = str(error)
    reasons = re.findall(
        r"(Option '[^']+' is not accepted|Key '[^']+' is not expected|Unrecognized arguments?: .*)", text
    )
    if reasons:
        text = f"{reasons[0]}. Check its spelling: `tsgen COMMAND --help` lists the options."
    return " ".join(text.split()) or type(error).__name__


def run(words: Sequence[str]) -> None:
    """Runs fit, test or predict."""
    # devices and tips
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for message in MUTED:
            warnings.filterwarnings("ignore", message)
        try:
            TsgenCLI(words)
        finally:
            # a run left open would be written on by the next one
            wandb.finish()


def report(words: Sequence[str]) -> int:
    """Writes the report of a run."""
    if len(words) != 1 or words[0] in ("-h", "--help"):
        print("usage: tsgen report RUN\n\nRUN is the folder of a run that was tested, such as runs/demo.")
        return 0 if words and words[0] in ("-h", "--help") else 2
    print(f"Report: {write_report(Path(words[0]))}")
    return 0


class SaveRun(SaveConfigCallback):
    """Keeps the configuration of each command in the run's folder and with the loggers."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Called by the first process when the trainer starts."""
        text = self.parser.dump(self.config, skip_none=False)
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / self.config_filename).write_text(text, "utf-8")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.config.update({"cli": yaml.safe_load(text)}, allow_val_change=True)


class TsgenCLI(LightningCLI):
    """The three commands over any model and any data.

    Args:
        words: The command and its options.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words, self.stem = _with_configs(words)
        super().__init__(
            DensityModel,
            SeriesDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveRun,
            save_config_kwargs={"config_filename": f"config_{words[0]}.yaml", "save_to_log_dir": False},
            trainer_defaults={"use_distributed_sampler": False},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs={"exit_on_error": False},
            args=self.words,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """fit, test and predict."""
        return {name: skipped for name, skipped in LightningCLI.subcommands().items() if name in COMMANDS}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The run's name, and the two callbacks that every training has."""
        parser.add_argument(
            "--name", type=str | None, default=None, help="the run's name; by default the config's"
        )
        parser.add_argument("--runs", type=str, default="runs", help="the folder of all runs")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.set_defaults(
            {
                "checkpoint.monitor": "val/nll",
                "checkpoint.filename": "best",
                "checkpoint.save_last": True,
                "checkpoint.enable_version_counter": False,
                "early_stopping.monitor": "val/nll",
                "early_stopping.patience": 10,
            }
        )
        parser.link_arguments("data.spec", "model.init_args.spec", apply_on="instantiate")

    def _parse_ckpt_path(self) -> None:
        """Keeps the command line in force: a checkpoint's hyperparameters never override it."""

    @property
    def _options(self) -> Namespace:
        return self.config[self.subcommand]

    def before_instantiate_classes(self) -> None:
        """Settles where the run lives and which checkpoint it starts from."""
        options = self._options
        options.name = options.name or self.stem
        self.folder = Path(options.runs) / options.name
        options.trainer.default_root_dir = str(self.folder)
        options.checkpoint.dirpath = str(self.folder / "checkpoints")
        options.weights_only = True
        if self.subcommand == "predict":
            options.return_predictions = False
        if self.subcommand == "test":
            options.verbose = False  # the evaluation shows the scores
        options.ckpt_path = self._checkpoint(options.get("ckpt_path"))
        if self.subcommand == "fit" and options.ckpt_path is None:
            _set_aside(self.folder)
        _settle_loggers(options, self.folder, str(self.subcommand))

    def _checkpoint(self, asked: str | None) -> str | None:
        """The checkpoint's path; ``best`` and ``last`` are the run's own, ``best`` unless asked otherwise."""
        if self.subcommand == "fit" and asked is None:
            return None
        name = asked or "best"
        path = self.folder / "checkpoints" / f"{name}.ckpt" if name in ("best", "last") else Path(name)
        read_checkpoint(path)
        return str(path)

    def after_instantiate_classes(self) -> None:
        """Adds what writes the results."""
        series = self.datamodule.split.series
        callbacks = {
            "fit": lambda: ImputationFigure(series),
            "test": lambda: Evaluation(self.folder, series, self._options.name, self.datamodule.exact),
            "predict": lambda: ImputationWriter(
                self.folder / "imputation.nc", series, self.datamodule.predicted()
            ),
        }
        self.trainer.callbacks.append(callbacks[self.subcommand]())

    def before_fit(self) -> None:
        """Says where the run goes."""
        _say(f"Run: {self.folder}")


def _with_configs(words: Sequence[str]) -> tuple[list[str], str]:
    """The words with each --config's bare name made a path, and the name of the last one."""
    settled, stem = list(words), "run"
    for i, word in enumerate(settled):
        flag, equals, value = word.partition("=")
        if flag not in ("--config", "-c"):
            continue
        if not equals and i + 1 == len(settled):
            raise ValueError(
                "--config must be followed by a YAML file or the name of a shipped configuration."
            )
        path = find(value if equals else settled[i + 1])
        stem = path.stem
        if equals:
            settled[i] = f"{flag}={path}"
        else:
            settled[i + 1] = str(path)
    return settled, stem


@rank_zero_only
def _say(text: str) -> None:
    print(text, flush=True)


@rank_zero_only
def _set_aside(folder: Path) -> None:
    """Renames the folder of an earlier run of the same name: nothing of it is overwritten."""
    if not folder.exists():
        return
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    folder.rename(aside)
    _say(f"{folder} held an earlier run: it is now {aside}.")


def _settle_loggers(options: Namespace, folder: Path, command: str) -> None:
    """Gives every logger the run's folder, and W&B the run's name, its id and a mode that never asks."""
    loggers = options.trainer.logger
    if not isinstance(loggers, (list, Namespace)):
        return
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        arguments = logger.init_args
        # a later test must not delete what training logged
        arguments.save_dir = str(folder / "logs" / command)
        if logger.class_path.endswith("WandbLogger"):
            folder.mkdir(parents=True, exist_ok=True)
            arguments.save_dir = str(folder)
            arguments.name = arguments.name or folder.name
            arguments.id = arguments.id or _run_id(folder)
            if not (os.environ.get("WANDB_MODE") or _has_wandb_account()):
                os.environ["WANDB_MODE"] = "offline"


def _run_id(folder: Path) -> str:
    """The id under which W&B knows the run, the same for training, test and prediction."""
    path = folder / "wandb_id"
    if not path.is_file():
        path.write_text(secrets.token_hex(4), "utf-8")
    return path.read_text("utf-8").strip()


def _has_wandb_account() -> bool:
    """Whether W&B could log in without asking."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
