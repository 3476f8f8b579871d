"""Lightning's command line for one run: its folder, its checkpoints, its loggers."""

from __future__ import annotations

import re
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace, set_parsing_settings
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, LearningRateFinder, ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from tsgen.cli import interruption, remembered_trust, run_folder
from tsgen.cli.arguments import RUN_COMMANDS, RUN_EPILOG
from tsgen.cli.loggers import configure_loggers, sweep_run
from tsgen.cli.mistakes import classes_like, parameters
from tsgen.cli.noise import use_short_summary
from tsgen.cli.resuming import (
    check_building_blocks,
    check_checkpoint,
    check_made_of,
    last_checkpoint,
    made_of,
    resume_logging,
)
from tsgen.cli.run_folder import print_once
from tsgen.cli.suggestions import did_you_mean
from tsgen.cli.tracking import Tracking, finish, use_tolerant_wandb
from tsgen.cli.trust import check_classes, restrict_imports
from tsgen.data.series import SeriesSpec
from tsgen.datamodules.windows import SeriesDataModule
from tsgen.evaluation.table import Evaluation
from tsgen.inference.prediction import SeriesPrediction
from tsgen.models import DensityModel
from tsgen.models.density import moved_weights
from tsgen.storage.atomic import write_text
from tsgen.storage.checkpoints import AtomicCheckpoints, read_checkpoint
from tsgen.storage.parts import Parts
from tsgen.storage.privacy import scrubbed
from tsgen.training.callbacks import ImputationFigure
from tsgen.training.resumption import Resumption

# the spec of the data is linked to the model, not an option of its own
set_parsing_settings(subclasses_enabled=[SeriesSpec])
restrict_imports()


class SaveRun(SaveConfigCallback):
    """Writes the configuration of each command to the run's folder and to the loggers."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes the configuration without secrets; the first process calls this when the trainer starts."""
        text = self.parser.dump(self.config, skip_unset=False)
        config = yaml.safe_load(text)
        shown = scrubbed(config)
        if shown != config:
            text = yaml.safe_dump(shown, sort_keys=False)
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / self.config_filename, text)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Tracking):
                callback.describe_run(trainer, shown)


class TsgenCLI(LightningCLI):
    """Runs ``fit``, ``test`` or ``predict`` with any model and any data.

    Args:
        words: The command and its options.
        name: The run's name, unless the options give one.
        variant: The name of the variant if the run is part of a study; its folder lies in that of the study.
        trusted: The packages whose classes the options may name; ``fit`` remembers them for the run.
        configuration: The text of the configurations, to which the remembered trust is bound.
    """

    def __init__(
        self,
        words: Sequence[str],
        name: str,
        variant: str | None = None,
        trusted: Sequence[str] = (),
        configuration: str = "",
    ) -> None:
        self.name, self.variant, self.trusted, self.configuration = name, variant, trusted, configuration
        self.words = words
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
            parser_kwargs={"prog": "tsgen", "exit_on_error": False, "allow_abbrev": False},
            args=list(words),
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Returns ``fit``, ``test`` and ``predict``, each with the parameters that are not options."""
        return {name: skipped for name, skipped in LightningCLI.subcommands().items() if name in RUN_COMMANDS}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds the options of the run's folder and of the two callbacks that every training has."""
        parser.epilog = RUN_EPILOG
        parser.add_argument(
            "--name",
            type=str | None,
            default=None,
            help="the run's name; by default that of the configuration",
        )
        parser.add_argument("--runs", type=str, default="runs", help="the folder of all runs")
        parser.add_argument(
            "--transfer",
            type=bool,
            default=False,
            help="test or predict with a checkpoint that was trained on another graph",
        )
        parser.add_argument(
            "--exceedance",
            type=list[float],
            default=[],
            help="thresholds x of a test's scores of 'more than x', such as [0.4, 10]",
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

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parses the arguments; the error for an unknown option names similar ones.

        Raises:
            ValueError: If an option does not exist.
        """
        try:
            super().parse_arguments(parser, args)
        except (ArgumentError, KeyError) as error:
            unknown = re.search(
                r"unrecognized arguments: (--[^\s=]+)|does not accept option '(.+)'", str(error)
            )
            if unknown is None:
                raise
            option = unknown[1] or f"--{unknown[2]}"
            known = list(self._parser(self.words[0])._option_string_actions)
            for group, base in (("data", SeriesDataModule), ("model", DensityModel)):  # depend on the class
                known += [f"--{group}.{name}" for cls in classes_like(base) for name in parameters(cls)]
            hint = did_you_mean(option, known)
            raise ValueError(
                f"unrecognized arguments: {option}.{hint} See `tsgen {self.words[0]} --help-all`."
            ) from error

    def _parse_ckpt_path(self) -> None:
        """Does nothing: a checkpoint's hyperparameters never override the command line."""

    @property
    def _options(self) -> Namespace:
        return self.config[self.subcommand]

    def before_instantiate_classes(self) -> None:
        """Determines the run's folder and the checkpoint that it starts from."""
        options = self._options
        check_classes(options)
        study = options.name or self.name
        # the runs of a sweep share a name and may run at the same time: each has its own folder
        options.name, self.folder = run_folder.locate(options.runs, study, self.variant or sweep_run())
        # a test on the validation split has its own folder, so that it does not replace the test results
        on_validation = self.subcommand == "test" and options.data.init_args.get("test_on") == "val"
        self.results = self.folder / "val" if on_validation else self.folder
        if on_validation:
            options.trainer.logger = False
        options.trainer.default_root_dir = str(self.results)
        options.checkpoint.dirpath = str(self.folder / "checkpoints")
        options.weights_only = True
        if options.checkpoint.save_top_k != 1:
            raise ValueError(
                "checkpoint.save_top_k must be 1, because a run keeps only its best and its last checkpoint; "
                f"got {options.checkpoint.save_top_k}."
            )
        options.checkpoint.filename = "best"
        if options.checkpoint.monitor is None:  # keep the last epoch, validated or not
            options.checkpoint.save_on_train_epoch_end = True
        options.checkpoint.save_last = None  # Lightning's last.ckpt would hold the best epoch
        if options.trainer.accelerator == "auto" and torch.backends.mps.is_available():
            options.trainer.accelerator = "cpu"  # Apple's GPUs have no float64, which units need
        if self.subcommand == "predict":
            options.return_predictions = False
        if self.subcommand == "test":
            options.verbose = False  # the evaluation prints the scores
        self.resumes = self.subcommand == "fit" and options.get("ckpt_path") == "last"
        options.ckpt_path = self._checkpoint(options.get("ckpt_path"))
        self.run_id = run_folder.run_id(self.folder, new=self._is_new)
        # a new training sets the whole folder aside; other commands keep the logs of earlier ones
        log = self.folder / "logs" / str(self.subcommand)
        group = study if self.variant else None
        log = log if self.subcommand == "fit" else run_folder.unused(log)
        configure_loggers(options, self.folder, log, self.run_id, group)

    @property
    def _is_new(self) -> bool:
        """Whether the command is a fit that does not resume from the run's own folder."""
        start = self._options.ckpt_path
        own = start is not None and self.folder.resolve() in Path(start).resolve().parents
        return self.subcommand == "fit" and not own and not self.resumes

    def _checkpoint(self, requested: str | None) -> str | None:
        """Returns the path of the checkpoint to start from; None for a new training.

        ``best`` and ``last`` are those of the run; ``test`` and ``predict`` use ``best`` by default.
        """
        if self.subcommand == "fit" and requested is None:
            return None
        if self.resumes:
            return run_folder.newest_checkpoint(self.folder)
        name = requested or "best"
        path = self.folder / "checkpoints" / f"{name}.ckpt" if name in ("best", "last") else Path(name)
        last = path.with_name("last.ckpt")
        if requested is None and not path.is_file() and last.is_file():
            # training ended before its first validation
            print_once(f"{path} was never written; {last} is used.")
            path = last
        if requested is None and not path.is_file():
            raise ValueError(
                f"{path} must be a checkpoint; there is no such file. Run `tsgen fit` first, or give the "
                "checkpoint of another run by --ckpt_path."
            )
        state = read_checkpoint(path)
        if self.subcommand == "fit" and not state.get("optimizer_states"):
            raise ValueError(
                f"{path} must contain the optimiser's state to resume from; it contains only weights. "
                "Give another."
            )
        return str(path)

    def instantiate_classes(self) -> None:
        """Creates model, data and trainer; weights to start from are not read if there is a checkpoint."""
        arguments = self._options.model.init_args
        init = arguments.get("init")
        if init is not None and self._options.ckpt_path:
            arguments.init = None
        super().instantiate_classes()
        if init is not None:
            arguments.init = init  # for the saved configuration

    def after_instantiate_classes(self) -> None:
        """Checks the checkpoint against the model and adds the callbacks that write the results."""
        self.model.check_data(self.datamodule, str(self.subcommand))
        if any(isinstance(c, LearningRateFinder) for c in self.trainer.callbacks):  # type: ignore[attr-defined]
            raise ValueError(
                "LearningRateFinder needs a model with an attribute lr; here the optimiser has it. Remove it "
                "from trainer.callbacks, and compare rates with variants or a sweep."
            )
        if self.subcommand == "fit":  # errors of the data must come before an earlier run is set aside
            self.datamodule.dataset("train"), self.datamodule.dataset("val")
        if self._options.transfer:
            self._transfer()
        elif self._options.ckpt_path:
            check_checkpoint(self.model, Path(self._options.ckpt_path))
        series = self.datamodule.split.series
        imputation = self.folder / "imputation.nc"
        callbacks = {
            "fit": lambda: ImputationFigure(series),
            "test": lambda: Evaluation(
                self.results,
                series,
                self._options.name,
                self.datamodule.split.train,
                self.datamodule.exact,
                self.datamodule.horizon,
                self._options.exceedance,
            ),
        }
        use_tolerant_wandb(self.trainer.loggers)
        use_short_summary(self.trainer.callbacks)  # type: ignore[attr-defined]
        attached: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        if self.subcommand == "test" or (self.subcommand == "fit" and self.datamodule.one_series):
            attached.append(callbacks[self.subcommand]())
        attached.append(Tracking(series, imputation))
        if self.subcommand == "fit":
            current = made_of(self.datamodule, self.trainer, self._options.seed_everything)
            if self._options.ckpt_path and not self._is_new:
                check_made_of(current, Path(self._options.ckpt_path))
            # the trainer has put checkpoint callbacks last: keep them there
            attached.insert(0, Resumption(current))
            attached.append(last_checkpoint(self._options.checkpoint.dirpath))
            if type(self.trainer.strategy.checkpoint_io) is TorchCheckpointIO:
                self.trainer.strategy.checkpoint_io = AtomicCheckpoints()

    def _transfer(self) -> None:
        """Loads the weights of a model that was trained on another graph."""
        if self.subcommand == "fit" or not self._options.ckpt_path:
            raise ValueError("transfer must be used with test or predict, and with --ckpt_path.")
        path = Path(self._options.ckpt_path)
        self.model.load_state_dict(moved_weights(path, self.model))
        check_building_blocks(self.model, path)
        # the trainer must not load the checkpoint again
        self.config_init[self.subcommand].ckpt_path = None

    def _run_subcommand(self, subcommand: str) -> None:
        """Runs the command while it holds the lock of the run's folder."""
        with run_folder.locked(self.folder, subcommand):
            if subcommand != "fit":
                interruption.begin(self.results)
            try:
                super()._run_subcommand(subcommand)
            finally:
                # the next run would write to a W&B run that is left open
                finish()

    def before_fit(self) -> None:
        """Sets an earlier run aside, prepares the folder and prints its path."""
        if self._is_new:
            run_folder.set_aside(self.folder)
        run_folder.remove_requeued(self.folder)
        run_folder.prepare(self.folder, self.run_id)
        remembered_trust.remember(self.folder, self.trusted, self.configuration)
        resume_logging(self.trainer, self._options.ckpt_path)
        interruption.begin(self.folder)
        print_once(f"Run: {self.folder}")

    def after_fit(self) -> None:
        """Prints the best score, the checkpoint of this epoch and the folder of the logs."""
        best = next(c for c in self.trainer.checkpoint_callbacks if type(c) is ModelCheckpoint)
        path = self.folder / "checkpoints" / Path(best.best_model_path).name
        if best.monitor and best.best_model_score is not None:
            print_once(f"Best {best.monitor}: {float(best.best_model_score):.4g}, of {path}")
        print_once(f"Scores of each epoch: {self.folder / 'logs' / 'fit'}")

    def predict(self, model: DensityModel, datamodule: SeriesDataModule, **options: Any) -> None:
        """Runs ``trainer.predict``; LightningCLI calls it for the subcommand of this name."""
        self.trainer.predict(SeriesPrediction(model, datamodule, self.folder / "imputation.nc"), **options)

    def before_predict(self) -> None:
        """Raises ``ValueError`` if processes of a killed prediction are still drawing.

        Lightning calls this before it starts processes.
        """
        rank_zero_only(Parts.beside(self.folder / "imputation.nc").check_free)()


class Rehearsal(TsgenCLI):
    """Parses the options of a command and determines its folder, without running anything."""

    def _set_seed(self) -> None:
        """Does nothing."""

    def instantiate_classes(self) -> None:
        """Does nothing."""

    def after_instantiate_classes(self) -> None:
        """Does nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Does nothing."""
