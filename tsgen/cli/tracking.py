"""Records a run with its loggers.

If a logger fails, the run continues: there is one warning, and the logger's record is incomplete. The CSV log
is the exception: it is a result of the run, and a run ends if its results cannot be written. Logged values
contain neither the path of the user's home nor keys of the environment.
"""

from __future__ import annotations

import io
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import wandb
import xarray as xr
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.loggers.logger import DummyExperiment, rank_zero_experiment

from tsgen.cli.interruption import is_interruption
from tsgen.cli.provenance import provenance
from tsgen.data.series import Series
from tsgen.storage.atomic import write_text
from tsgen.storage.checkpoints import read_checkpoint
from tsgen.storage.privacy import scrubbed

STEP = "trainer/global_step"

CALLS = (
    *("log_metrics", "log_hyperparams", "log_graph", "log_image", "log_table"),
    *("save", "after_save_checkpoint", "finalize"),
)
"""The methods of a logger that may fail without ending the run."""


@contextmanager
def tolerating_errors(logger: Any) -> Iterator[None]:
    """Turns errors of a logger into a single warning, so that the run continues."""
    try:
        yield
    except Exception as error:
        if not getattr(logger, "failed", False):
            logger.failed = True
            reason = scrubbed(" ".join(f"{type(error).__name__}: {error}".split()))[:200]
            warnings.warn(
                f"{type(logger).__name__} failed ({reason}); the run continues, its record is incomplete.",
                stacklevel=2,
            )


def make_tolerant(logger: Any) -> None:
    """Wraps the methods of a logger that trainer and callbacks call in :func:`tolerating_errors`."""
    for name in CALLS:
        if hasattr(logger, name):
            setattr(logger, name, partial(_call_tolerantly, logger, getattr(logger, name)))


def _call_tolerantly(logger: Any, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with tolerating_errors(logger):
        return call(*args, **kwargs)


class TolerantWandbLogger(WandbLogger):
    """Lightning's W&B logger that tolerates a failing start and adds aliases to checkpoints.

    If W&B cannot start, the run is recorded offline or, if that fails too, not at all. The artifact
    ``model-ID`` has the alias ``best`` for the best checkpoint and ``last`` for the last one.
    """

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run."""
        if self._experiment is not None:
            return self._experiment
        if self._wandb_init.get("anonymous") is None:  # Lightning's default, of which W&B warns
            self._wandb_init.pop("anonymous", None)
        for mode in (None, "offline", "disabled"):
            if mode:
                self._wandb_init["mode"] = mode
            with tolerating_errors(self):
                return super().experiment
            wandb.teardown()  # otherwise W&B's service would keep the run's id in use
        return DummyExperiment()

    def repeat(self, rows: Sequence[Mapping[str, str]]) -> None:
        """Logs the rows of a CSV log again: W&B may have lost them when an earlier session was killed.

        Args:
            rows: The rows of the CSV log.
        """
        for row in rows:
            metrics = {name: float(text) for name, text in row.items() if text and name != "step"}
            self.log_metrics(metrics, int(row["step"]))

    def _scan_and_log_checkpoints(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Logs a checkpoint as an artifact.

        Lightning calls this after a checkpoint was written or, with ``log_model: true``, when training has
        ended.
        """
        path, monitor = Path(checkpoint_callback.best_model_path), checkpoint_callback.monitor
        if not path.is_file():
            return
        score = checkpoint_callback.best_model_score if monitor else None
        metadata = {"monitor": monitor, "score": None if score is None else float(score)}
        artifact = wandb.Artifact(f"model-{self.experiment.id}", type="model", metadata=metadata)
        with TemporaryDirectory() as folder:
            # the states of callbacks hold the paths of checkpoints
            shown = read_checkpoint(path)
            shown["callbacks"] = scrubbed(shown.get("callbacks", {}))
            torch.save(shown, f"{folder}/model.ckpt")
            artifact.add_file(f"{folder}/model.ckpt", name="model.ckpt")
        self.experiment.log_artifact(artifact, aliases=["best" if monitor else "last"])

    def log_results(self, path: Path) -> None:
        """Logs imputations as the artifact ``imputation-ID``, if checkpoints are logged as artifacts too."""
        if not self._log_model or not path.is_file():
            return
        with xr.open_dataset(path) as data:
            observed = int(data["observed"].sum())
            metadata: dict[str, Any] = {
                **{str(name): int(size) for name, size in data.sizes.items()},
                "observed_entries": observed,
                "imputed_entries": int(data["observed"].size) - observed,
                "conditioning": data.attrs["conditioning"],
            }
        artifact = wandb.Artifact(f"imputation-{self.experiment.id}", type="imputation", metadata=metadata)
        artifact.add_file(str(path), name=path.name)
        self.experiment.log_artifact(artifact)


def use_tolerant_wandb(loggers: Sequence[Logger]) -> None:
    """Turns each ``WandbLogger`` of a list into a :class:`TolerantWandbLogger`."""
    for logger in loggers:
        if type(logger) is WandbLogger:
            logger.__class__ = TolerantWandbLogger


def finish() -> None:
    """Finishes the W&B run, if one is open; a failing upload only causes a warning."""
    # an interrupted command prints only what it has kept
    silent = redirect_stderr(io.StringIO()) if is_interruption(sys.exception()) else nullcontext()
    try:
        with silent:
            wandb.finish()
    except Exception as error:
        reason = scrubbed(" ".join(str(error).split()))[:200]
        warnings.warn(f"W&B could not finish the run ({reason}); its record may be incomplete.", stacklevel=2)


# ------------------------------------------------------------------------------------------------ callback


class Tracking(Callback):
    """Logs the configuration and provenance of a run to W&B, and rejects monitors that are never logged.

    Args:
        series: The data.
        imputation: The file that a prediction writes.
    """

    def __init__(self, series: Series, imputation: Path) -> None:
        self.series, self.imputation, self.started = series, imputation, False

    def describe_run(self, trainer: Trainer, config: Mapping[str, Any]) -> None:
        """Makes the loggers tolerant, and records the provenance, in the run's folder and in W&B.

        The first process calls this when the trainer starts. W&B gets the configuration, too.

        Args:
            trainer: The trainer.
            config: The resolved configuration without secrets.
        """
        command = str(trainer.state.fn and trainer.state.fn.value)
        origin = provenance(self.series)
        path = Path(trainer.default_root_dir) / f"provenance_{command}.json"
        write_text(path, json.dumps(origin, indent=1) + "\n")
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger):  # its file is a result: on a full disk the run ends
                make_tolerant(logger)
            if isinstance(logger, WandbLogger):
                with tolerating_errors(logger):
                    # a test or a prediction has other options than the training: they get their own key
                    key = "cli" if command == "fit" else f"cli_{command}"
                    described = {key: config, **origin}
                    logger.experiment.config.update(described, allow_val_change=True)
                    for name, best in _summaries(trainer).items():
                        # without the step the summary would lose its axis
                        logger.experiment.define_metric(name, step_metric=STEP, summary=f"{best},last")

    def on_sanity_check_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Raises ``ValueError`` if validation does not log a monitor ``val/...``."""
        _check_monitors(trainer, "val/")

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Raises ``ValueError`` if any other monitor was not logged in the first epoch."""
        if self.started:
            _check_monitors(trainer, "")
        self.started = True

    def on_predict_end(self, trainer: Trainer, module: LightningModule) -> None:
        """Logs the imputations as an artifact."""
        for logger in trainer.loggers:
            if isinstance(logger, TolerantWandbLogger) and trainer.is_global_zero:
                with tolerating_errors(logger):
                    logger.log_results(self.imputation)


def _monitors(trainer: Trainer) -> dict[str, tuple[str, str]]:
    """Returns for each option that sets a monitor the monitor and its mode, ``min`` or ``max``."""
    found: dict[str, tuple[str, str]] = {}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping):
            found["early_stopping.monitor"] = callback.monitor, callback.mode
        if isinstance(callback, ModelCheckpoint) and callback.monitor:
            found["checkpoint.monitor"] = callback.monitor, callback.mode
    return found


def _summaries(trainer: Trainer) -> dict[str, str]:
    """Returns the metrics whose best value a run's summary shows, and which is best: ``min`` or ``max``."""
    known = dict.fromkeys(("train/loss", "train/nll", "val/nll", "val/crps"), "min")
    return known | dict(_monitors(trainer).values())


def _check_monitors(trainer: Trainer, prefix: str) -> None:
    """Raises ``ValueError`` unless all monitors with the prefix are logged."""
    logged = trainer.callback_metrics
    for option, (monitor, _) in _monitors(trainer).items():
        unknown = monitor.startswith(prefix) and monitor not in logged
        # a validation may be due in a later epoch
        if unknown and (prefix or not monitor.startswith("val/")):
            raise ValueError(f"{option} must be one of {', '.join(sorted(logged))}; got {monitor!r}.")
