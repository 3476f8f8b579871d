"""Exact resumption: saves and restores the training state that Lightning's checkpoints leave out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from tsgen.argument_types import check_arguments
from tsgen.storage.checkpoints import is_whole


@check_arguments
class Resumption(Callback):
    """Makes a resumed training identical to an uninterrupted one.

    It adds what Lightning leaves out:

    * It writes the logs to disk before each checkpoint, so that they are complete up to it.
    * It takes the step of ``ReduceLROnPlateau`` that Lightning takes after the checkpoint is written.
    * It ends a training that early stopping had already ended.
    * It updates the paths of the best checkpoints if the folder of the run was moved.
    * It resumes correctly with ``max_steps``, also from inside an epoch.
    * It keeps the best checkpoint if training is stopped inside an epoch.
    * It warns about a checkpoint from inside an epoch, since the rest of that epoch is skipped.

    In Python: ``Trainer(callbacks=[Resumption(), ...])``.

    Args:
        made_of: What determines the training besides the model, by name, such as a hash of the data. It is
            stored in checkpoints as ``made_of``, for comparison when a training is resumed.
    """

    def __init__(self, made_of: Mapping[str, str | int | None] | None = None) -> None:
        self.made_of = dict(made_of or {})
        self._monitored: dict[str, float] = {}
        self._patience: list[int] = []
        self._max_steps: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remembers the patience of early stopping, which loading a checkpoint overwrites."""
        self._patience = [stopping.patience for stopping in trainer.early_stopping_callbacks]

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Reads the values for the pending scheduler step; updates the checkpoints' paths in a moved run."""
        self._monitored = checkpoint.get("monitored", {})
        if trainer.state.fn == TrainerFn.FITTING and not is_whole(checkpoint):
            rank_zero_warn(
                f"{trainer.ckpt_path} is from inside an epoch: training resumes with the next epoch, and the "
                "rest of this one is skipped. Resume from a checkpoint of a complete epoch instead."
            )
        folder = Path(trainer.ckpt_path or "").resolve().parent
        callbacks = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        for callback in callbacks:  # Lightning writes current_score but does not read it
            callback.current_score = checkpoint["callbacks"].get(callback.state_key, {}).get("current_score")
        if str(folder) in {str(callback.dirpath) for callback in callbacks}:
            for state in checkpoint["callbacks"].values():
                # a callback without a folder has written no files
                if "best_k_models" in state and state["dirpath"]:
                    _move(state, folder)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hides ``max_steps`` while the trainer restores its loops."""
        # otherwise it takes a complete epoch for an interrupted one, and skips training in the next
        if trainer.ckpt_path:
            self._max_steps, trainer.fit_loop.epoch_loop.max_steps = trainer.max_steps, -1

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restores ``max_steps``."""
        if self._max_steps is not None:
            trainer.fit_loop.epoch_loop.max_steps, self._max_steps = self._max_steps, None

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        """Takes the scheduler step that was pending in the checkpoint; stops if the training had ended."""
        self.teardown(trainer, module, "fit")
        for config in trainer.lr_scheduler_configs:
            if config.reduce_on_plateau and config.monitor in self._monitored:
                plateau: Any = config.scheduler
                plateau.step(self._monitored[config.monitor])
        for stopping, patience in zip(trainer.early_stopping_callbacks, self._patience, strict=True):
            if patience > stopping.patience:  # it was raised to continue training
                stopping.stopping_reason = EarlyStoppingReason.NOT_STOPPED
            if stopping.stopping_reason is not EarlyStoppingReason.NOT_STOPPED:
                trainer.should_stop = True
            stopping.patience = patience

    def on_train_epoch_start(self, trainer: Trainer, module: Any) -> None:
        """Clears the monitored values: no scheduler step is pending."""
        self._monitored = {}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the best checkpoint in the validation that the trainer adds when it stops inside an epoch."""
        loop = trainer.fit_loop.epoch_loop
        if trainer.should_stop and loop.done and not loop.batch_progress.is_last_batch:
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, ModelCheckpoint) and callback.monitor and callback.best_model_path:
                    callback._last_global_step_saved = trainer.global_step  # it saves once per step

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        """Writes the logs to disk before the checkpoint of this epoch, and keeps the monitored values."""
        for logger in trainer.loggers:
            logger.save()
        names = {config.monitor for config in trainer.lr_scheduler_configs if config.reduce_on_plateau}
        self._monitored = {
            name: float(trainer.callback_metrics[name]) for name in names if name in trainer.callback_metrics
        }

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds the values for the pending scheduler step, and what determines the training."""
        checkpoint["monitored"] = dict(self._monitored)
        checkpoint["made_of"] = self.made_of


def _move(state: dict[str, Any], new: Path) -> None:
    """Changes the folder in the state of a ``ModelCheckpoint``, for the files that lie in it."""
    old = Path(state["dirpath"])

    def moved(path: str) -> str:
        inside = bool(path) and Path(path).is_relative_to(old)
        return str(new / Path(path).relative_to(old)) if inside else path

    for key in ("dirpath", "best_model_path", "kth_best_model_path", "last_model_path"):
        state[key] = moved(state[key])
    state["best_k_models"] = {moved(path): score for path, score in state["best_k_models"].items()}
