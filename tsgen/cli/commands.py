"""Lightning's command line, with a run folder, checkpoints and W&B put in order."""

from __future__ import annotations

import logging
import re
import signal
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace, set_parsing_settings
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from tsgen.cli import run_folder
from tsgen.cli.tracking import (
    TolerantWandbLogger,
    Tracking,
    finish,
    forgiving,
    settle,
    spelled_out,
    sweep_run,
    tolerate,
)
from tsgen.cli.training_log import TrainingLog
from tsgen.cli.trust import check_classes, guard, refusal, take_trusted, trusting
from tsgen.cli.variants import Study, read_study, summarise
from tsgen.data.fingerprint import fingerprint
from tsgen.data.series import SeriesSpec
from tsgen.datamodules.windows import SeriesDataModule
from tsgen.evaluation.table import Evaluation
from tsgen.inference.prediction import SeriesPrediction
from tsgen.models import DensityModel
from tsgen.models.density import moved_weights, spec_of
from tsgen.report import write_comparison, write_report
from tsgen.storage.atomic import write_text
from tsgen.storage.checkpoints import AtomicCheckpoints, read_checkpoint
from tsgen.storage.components import describe, difference
from tsgen.storage.parts import Parts
from tsgen.storage.privacy import scrubbed
from tsgen.training.callbacks import ImputationFigure
from tsgen.training.resumption import Resumption

# what a model must know of its data is linked to it, not an option to spell out
set_parsing_settings(subclasses_enabled=[SeriesSpec])
guard()

COMMANDS = ("fit", "test", "predict")
MISTAKES = (ValueError, ArgumentError, MisconfigurationException, OSError)
"""What a user's mistake raises: said in one line."""


MUTED = (
    ".*does not have many workers.*",  # gathering a batch is one indexing operation
    ".*number of training batches.*",
    ".*args parameter is intended to run from within Python.*",
    ".*instantiate_classes.*",
    ".*LeafSpec.*",
    ".*using the WeightAveraging callback, but.*outside.*",  # a checkpoint's weights are the averaged ones
    ".*callbacks used to create the checkpoint need.*",  # they do, to go on training
    ".*Checkpoint directory .* exists and is not empty.*",  # a resumed training's is not
    ".*dirpath has changed from.*",  # a run that was moved knows its best epoch nevertheless
    ".*Dynamo does not know how to trace.*",  # it runs what it cannot compile
    ".*Previous log files.*",  # a test repeated replaces its own log
)
"""Warnings that a user could do nothing about."""


NO_REASON = r"Does not validate|Subtypes:|Errors:|Problem with given|Expected a NoneType|Expected a path but"
"""Lines of the parser's messages that say nothing."""


def one_line(error: BaseException) -> str:
    """What is wrong, in one line.

    The parser tells of a wrong option by a tree of all the types that it tried. What says something are the
    keys on the way and the reasons at the leaves, up to where it begins to quote what it was given.
    """
    keys, reasons = [], []
    for line in str(error).splitlines():
        key = re.search(r'Parser key "([^"]+)":', line)
        told, *quoted = re.split(
            r"(?:\. )?Got value: |Given value", line.strip().removeprefix("- "), maxsplit=1
        )
        told = re.sub(r"^Type .* expects a function or a callable class: |<class '([^']+)'>", r"\1", told)
        if key:
            keys.append(key[1])
        elif told and not re.match(NO_REASON, told):
            reasons.append(told)
        if quoted:
            break
    path = ".".join(keys)
    denied = re.search(r"Importing '([^']+)' is not allowed", str(error))
    if denied:
        reasons = [refusal(denied[1])]
    return " ".join((f"{path}: " * bool(path) + "; ".join(reasons)).split()) or type(error).__name__


def run(words: Sequence[str]) -> None:
    """Runs fit, test or predict, once or for each variant of a study."""
    # devices and tips
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    words, packages = take_trusted(words)
    with trusting(packages):
        _run_study(read_study(spelled_out(words)))


def _run_study(study: Study) -> None:
    with warnings.catch_warnings():
        for message in MUTED:
            warnings.filterwarnings("ignore", message)
        if not study.variants:
            _run_one(study.command(), study.name)
            return
        folder = _rehearse(study)
        for variant in study.chosen:
            with _naming(variant):
                _run_one(study.command(variant), study.name, variant)
        if study.words[0] == "test":
            rank_zero_only(summarise)(folder, list(study.variants), study.replicates)


def _run_one(words: Sequence[str], name: str, variant: str | None = None) -> None:
    """Runs a command to its end."""
    try:
        TsgenCLI(words, name, variant)
    except SIGTERMException:
        # it would exit with 0; whoever sent the signal must learn that the run is not done
        sys.exit(128 + signal.SIGTERM)


def _rehearse(study: Study) -> Path:
    """Parses the options of all variants, so that a mistake in the last one costs no night; their folder."""
    folder = Path()
    for variant in study.chosen:
        with _naming(variant):
            folder = Rehearsal(study.command(variant), study.name, variant).folder.parent
    if (folder / "checkpoints").exists():
        raise ValueError(
            f"{folder} must be free for a study's variants; it holds a run. Give another --name."
        )
    return folder


@contextmanager
def _naming(variant: str) -> Iterator[None]:
    """A mistake inside is said to be the variant's."""
    try:
        yield
    except MISTAKES as error:
        raise ValueError(f"variant {variant}: {one_line(error)}") from error


REPORT_USAGE = """usage: tsgen report RUN [RUN] [--out FILE.html]

RUN is the folder of a run that was tested or that imputed, such as runs/demo. Of one the page is
RUN/report.html; of two that scored the same entries, FIRST_vs_SECOND.html beside the first."""


def report(words: Sequence[str]) -> int:
    """Writes the report of a run, or of two side by side."""
    words, out = list(words), None
    asked = bool({"-h", "--help"} & set(words))
    if "--out" in words[:-1] and not asked:
        at = words.index("--out")
        out = Path(words[at + 1])
        del words[at : at + 2]
    if asked or len(words) not in (1, 2) or any(word.startswith("-") for word in words):
        print(REPORT_USAGE)
        return 0 if asked else 2
    folders = [_one_run(Path(word)) for word in words]
    if out is not None and not out.parent.is_dir():
        raise ValueError(f"--out must lie in a folder that is there; {out.parent} is none.")
    written = write_report(folders[0], out) if len(folders) == 1 else write_comparison(*folders, out)
    print(f"Report: {written}")
    return 0


def _one_run(folder: Path) -> Path:
    """The folder, unless it is that of a study."""
    left = ("evaluation.nc", "imputation.nc")
    variants = sorted({str(path.parent) for name in left for path in folder.glob(f"*/{name}")})
    if variants and not any((folder / name).exists() for name in left):
        raise ValueError(
            f"{folder} must be the folder of one run; it is a study's. Name one of {', '.join(variants)}."
        )
    return folder


class SaveRun(SaveConfigCallback):
    """Keeps the configuration of each command in the run's folder and with the loggers."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Called by the first process when the trainer starts."""
        text = self.parser.dump(self.config, skip_unset=False)
        config = yaml.safe_load(text)
        shown = scrubbed(config)
        if shown != config:
            text = yaml.safe_dump(shown, sort_keys=False)
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / self.config_filename, text)
        for callback in trainer.callbacks:
            if isinstance(callback, Tracking):
                callback.tell(trainer, shown)


class TsgenCLI(LightningCLI):
    """The three commands over any model and any data.

    Args:
        words: The command and its options.
        name: The run's name, unless the options give one.
        variant: Which one of a study it is, if any: its folder lies in the study's.
    """

    def __init__(self, words: Sequence[str], name: str, variant: str | None = None) -> None:
        self.name, self.variant = name, variant
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
            parser_kwargs={"exit_on_error": False, "allow_abbrev": False},
            args=list(words),
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """fit, test and predict."""
        return {name: skipped for name, skipped in LightningCLI.subcommands().items() if name in COMMANDS}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The run's name, and the two callbacks that every training has."""
        parser.add_argument(
            "--name", type=str | None, default=None, help="the run's name; by default the configs'"
        )
        parser.add_argument("--runs", type=str, default="runs", help="the folder of all runs")
        parser.add_argument(
            "--transfer",
            type=bool,
            default=False,
            help="test or predict with a checkpoint that was trained on another graph",
        )
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(EarlyStopping, "early_stopping")
        parser.set_defaults(
            {
                "checkpoint.monitor": "val/nll",
                "checkpoint.filename": "best",
                "checkpoint.enable_version_counter": False,
                "early_stopping.monitor": "val/nll",
                "early_stopping.patience": 10,
                "early_stopping.strict": False,  # a short training may end before its first validation
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
        check_classes(options)
        study = options.name or self.name
        # the runs of a sweep have one name, and may run at the same time
        options.name, self.folder = run_folder.place(options.runs, study, self.variant or sweep_run())
        # a test on the validation split lies apart, and the run's record stays that of the test split
        apart = self.subcommand == "test" and options.data.init_args.get("test_on") == "val"
        self.results = self.folder / "val" if apart else self.folder
        if apart:
            options.trainer.logger = False
        options.trainer.default_root_dir = str(self.results)
        options.checkpoint.dirpath = str(self.folder / "checkpoints")
        options.weights_only = True
        if options.checkpoint.save_top_k != 1:
            raise ValueError(
                "checkpoint.save_top_k must be 1: a run keeps its best checkpoint and its last one; it is "
                f"{options.checkpoint.save_top_k}."
            )
        options.checkpoint.filename = "best"
        if options.checkpoint.monitor is None:  # nothing is chosen: it is the last epoch, validated or not
            options.checkpoint.save_on_train_epoch_end = True
        options.checkpoint.save_last = None  # Lightning's would be of the best epoch too
        if options.trainer.accelerator == "auto" and torch.backends.mps.is_available():
            options.trainer.accelerator = "cpu"  # Apple's GPUs have no float64, in which scores are summed
        if self.subcommand == "predict":
            options.return_predictions = False
        if self.subcommand == "test":
            options.verbose = False  # the evaluation shows the scores
        self.goes_on = self.subcommand == "fit" and options.get("ckpt_path") == "last"
        options.ckpt_path = self._checkpoint(options.get("ckpt_path"))
        self.run_id = run_folder.run_id(self.folder, new=self._is_new)
        # what an earlier command logged is kept, but for the folder that is set aside whole
        log = self.folder / "logs" / str(self.subcommand)
        group = study if self.variant else None
        log = log if self.subcommand == "fit" else run_folder.free(log)
        settle(options, self.folder, log, self.run_id, group)

    @property
    def _is_new(self) -> bool:
        """Whether a new run begins: a fit that does not go on with what is in the run's own folder."""
        start = self._options.ckpt_path
        own = start is not None and self.folder.resolve() in Path(start).resolve().parents
        return self.subcommand == "fit" and not own and not self.goes_on

    def _checkpoint(self, asked: str | None) -> str | None:
        """The checkpoint's path; ``best`` and ``last`` are the run's own, ``best`` unless asked otherwise."""
        if self.subcommand == "fit" and asked is None:
            return None
        if self.goes_on:
            return run_folder.newest_checkpoint(self.folder)
        name = asked or "best"
        path = self.folder / "checkpoints" / f"{name}.ckpt" if name in ("best", "last") else Path(name)
        last = path.with_name("last.ckpt")
        if asked is None and not path.is_file() and last.is_file():  # it ended before its first validation
            run_folder.say(f"{path} was never written; {last} is used.")
            path = last
        if asked is None and not path.is_file():
            raise ValueError(
                f"{path} must be a checkpoint; there is no such file. `tsgen fit` writes one, and "
                "--ckpt_path names that of another run."
            )
        state = read_checkpoint(path)
        if self.subcommand == "fit" and not state.get("optimizer_states"):
            raise ValueError(
                f"{path} must hold the optimiser's state to go on from; it holds weights alone. Name another."
            )
        return str(path)

    def after_instantiate_classes(self) -> None:
        """Holds the checkpoint against the model and adds what writes the results."""
        self.model.check_data(self.datamodule, str(self.subcommand))
        if self.subcommand == "fit":  # before anything makes room for the run
            self.datamodule.dataset("train"), self.datamodule.dataset("val")
        if self._options.transfer:
            self._transfer()
        elif self._options.ckpt_path:
            _check_fit(self.model, Path(self._options.ckpt_path))
        series = self.datamodule.split.series
        imputation = self.folder / "imputation.nc"
        callbacks = {
            "fit": lambda: ImputationFigure(series),
            "test": lambda: Evaluation(
                self.results,
                series,
                self._options.name,
                self.datamodule.exact,
                self.datamodule.horizon,
            ),
        }
        tolerate(self.trainer.loggers)
        if self.subcommand in callbacks:
            self.trainer.callbacks.append(callbacks[self.subcommand]())
        self.trainer.callbacks.append(Tracking(series, imputation))
        if self.subcommand == "fit":
            made_of = self._made_of()
            if self._options.ckpt_path and not self._is_new:
                _check_made_of(made_of, Path(self._options.ckpt_path))
            # first what is not a checkpoint: the trainer has put those last already
            self.trainer.callbacks.insert(0, Resumption(made_of))
            self.trainer.callbacks.append(_last_checkpoint(self._options.checkpoint.dirpath))
            if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:
                self.trainer.strategy.checkpoint_io = AtomicCheckpoints()

    def _made_of(self) -> dict[str, str | int | None]:
        """What a training is made of besides the model: what a resumed one should have again."""
        data, trainer, split = self.datamodule, self.trainer, self.datamodule.split
        return {
            "data": fingerprint(torch.nn.Module(), split.series, split.train, split.val, split.test),
            "seed_everything": self._options.seed_everything,
            **{f"data.{name}": getattr(data, name) for name in ("seed", "window", "stride", "horizon")},
            "data.thinning": repr(describe(data.thinning)),
            "data.subgraphs": repr(describe(data.subgraphs)),
            "windows in a step": data.batch_size * trainer.world_size * trainer.accumulate_grad_batches,
        }

    def _transfer(self) -> None:
        """Gives the model the weights of one that was trained on another graph."""
        if self.subcommand == "fit" or not self._options.ckpt_path:
            raise ValueError("transfer must go with test or predict, and --ckpt_path.")
        path = Path(self._options.ckpt_path)
        self.model.load_state_dict(moved_weights(path, self.model))
        _check_parts(self.model, path)
        # nothing is left for the trainer to load
        self.config_init[self.subcommand].ckpt_path = None

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs the command, and no other one in the same folder."""
        with run_folder.held(self.folder, subcommand):
            try:
                super()._run_subcommand(subcommand)
            finally:
                # a run of W&B that is left open would be written on by the next one
                finish()

    def before_fit(self) -> None:
        """Makes room for the run and says where it goes."""
        if self._is_new:
            run_folder.set_aside(self.folder)
        run_folder.forget_requeued(self.folder)
        run_folder.remember(self.folder, self.run_id)
        _go_on_logging(self.trainer, self._options.ckpt_path)
        run_folder.say(f"Run: {self.folder}")

    def predict(self, model: DensityModel, datamodule: SeriesDataModule, **options: Any) -> None:
        """Runs ``trainer.predict``; LightningCLI calls it for the subcommand of this name."""
        self.trainer.predict(SeriesPrediction(model, datamodule, self.folder / "imputation.nc"), **options)

    def before_predict(self) -> None:
        """Refuses to draw beside what a killed prediction has left alive, before processes are started."""
        rank_zero_only(Parts.beside(self.folder / "imputation.nc").check_free)()


class Rehearsal(TsgenCLI):
    """Parses a command, settles its run and stops before anything is built or written."""

    def _set_seed(self) -> None:
        """Draws nothing."""

    def instantiate_classes(self) -> None:
        """Builds nothing."""

    def after_instantiate_classes(self) -> None:
        """Has nothing to check."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs nothing."""


def _last_checkpoint(folder: str) -> ModelCheckpoint:
    """Keeps the last epoch, beside the best one, so that training can go on from there."""
    # whether or not it ends with a validation
    return ModelCheckpoint(
        folder, "last", save_top_k=1, monitor=None, enable_version_counter=False, save_on_train_epoch_end=True
    )


@rank_zero_only
def _go_on_logging(trainer: Trainer, checkpoint: str | None) -> None:
    """Lets the CSV logs go on behind what was logged up to the checkpoint, and tells W&B of that again."""
    step = read_checkpoint(Path(checkpoint))["global_step"] if checkpoint else 0
    rows: list[dict[str, str]] = []
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger):
            log = TrainingLog(logger.log_dir, step)
            logger._experiment, rows = log, log.taken_up
    for logger in trainer.loggers:
        if isinstance(logger, TolerantWandbLogger):
            with forgiving(logger):
                logger.repeat(rows)


def _check_fit(model: DensityModel, path: Path) -> None:
    """Raises unless the checkpoint is one of a model of the same data and the same sizes."""
    state = read_checkpoint(path)
    difference = spec_of(state).difference(model.spec)
    if difference:
        raise ValueError(f"{path} was trained on other data: {difference}.")
    mine = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    its = {name: tuple(x.shape) for name, x in state["state_dict"].items()}
    for name in sorted(mine.keys() | its.keys()):
        if mine.get(name) != its.get(name):
            raise ValueError(
                f"{path} was trained with other options: its {name} is {its.get(name, 'absent')}, the "
                f"model's {mine.get(name, 'absent')}. Use the configuration it was trained with."
            )
    _check_parts(model, path)


def _check_made_of(mine: Mapping[str, str | int | None], path: Path) -> None:
    """Raises if a run would go on with other data, and warns if it would with other options."""
    its = read_checkpoint(path).get("made_of", {})
    if its.get("data", mine["data"]) != mine["data"]:
        raise ValueError(
            f"{path} was trained on other data: values, masks, times, splits or the graph have changed. "
            "Train anew, or begin another run from it: --name OTHER --ckpt_path and its path."
        )
    changed = [f"{name} is {mine[name]}, was {its[name]}" for name in its if mine.get(name) != its[name]]
    if changed:
        run_folder.say(f"Warning: training goes on with other options than it began: {'; '.join(changed)}.")


def _check_parts(model: DensityModel, path: Path) -> None:
    """Raises unless the checkpoint's model has the same parts: options may differ where sizes do not."""
    mine, its = model.hparams["model"], read_checkpoint(path)["hyper_parameters"]["model"]
    for part in ("encoder", "head", "units", "order", "noise"):
        key = difference(mine["init_args"].get(part), its["init_args"].get(part), part)
        if key:
            raise ValueError(
                f"{path} was trained with another {key}. Use the configuration it was trained with."
            )
