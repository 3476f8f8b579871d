"""Exact resumption: what Lightning leaves out of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from tsgen.storage.checkpoints import is_whole


class Resumption(Callback):
    """Sees to what Lightning leaves out of a checkpoint, so that a resumed training is the uninterrupted one.

    It brings the logs up to the checkpoint; takes the step of a ``ReduceLROnPlateau`` that Lightning takes
    after the checkpoint was written; ends a training that early stopping had ended already; and knows the
    best epoch of a run whose folder was moved. It goes on where ``max_steps`` is given too, keeps the best
    epoch where a training is stopped inside one, and warns of a checkpoint from inside an epoch: the rest of
    that epoch would be left out. In Python: ``Trainer(callbacks=[Resumption(), ...])``.

    Args:
        made_of: What the training is made of besides the model, by name, such as a hash of the data. It lies
            in checkpoints as ``made_of``, so that who resumes can compare.
    """

    def __init__(self, made_of: Mapping[str, str | int | None] | None = None) -> None:
        self.made_of = dict(made_of or {})
        self._monitored: dict[str, float] = {}
        self._patience: list[int] = []
        self._max_steps: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remembers what patience was asked for: a checkpoint brings its own."""
        self._patience = [stopping.patience for stopping in trainer.early_stopping_callbacks]

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Takes up what is left to do, and says where the checkpoints of a moved run lie now."""
        self._monitored = checkpoint.get("monitored", {})
        if trainer.state.fn == TrainerFn.FITTING and not is_whole(checkpoint):
            rank_zero_warn(
                f"{trainer.ckpt_path} is from inside an epoch: training goes on with the next one, and the "
                "rest of that one is left out. Go on from a checkpoint of a whole epoch."
            )
        place = Path(trainer.ckpt_path or "").resolve().parent
        mine = [saving for saving in trainer.checkpoint_callbacks if isinstance(saving, ModelCheckpoint)]
        for saving in mine:  # Lightning writes it and does not read it
            saving.current_score = checkpoint["callbacks"].get(saving.state_key, {}).get("current_score")
        if str(place) in {str(saving.dirpath) for saving in mine}:
            for state in checkpoint["callbacks"].values():
                # one that never knew its folder has no files
                if "best_k_models" in state and state["dirpath"]:
                    _move(state, place)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hides the number of steps while the trainer takes up its loops."""
        # it would take a whole epoch for one broken off, and train no more in the next one
        if trainer.ckpt_path:
            self._max_steps, trainer.fit_loop.epoch_loop.max_steps = trainer.max_steps, -1

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leaves the trainer as it was."""
        if self._max_steps is not None:
            trainer.fit_loop.epoch_loop.max_steps, self._max_steps = self._max_steps, None

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        """Does what was left to do when the checkpoint was written."""
        self.teardown(trainer, module, "fit")
        for config in trainer.lr_scheduler_configs:
            if config.reduce_on_plateau and config.monitor in self._monitored:
                plateau: Any = config.scheduler
                plateau.step(self._monitored[config.monitor])
        for stopping, patience in zip(trainer.early_stopping_callbacks, self._patience, strict=True):
            if patience > stopping.patience:  # it is to go on
                stopping.stopping_reason = EarlyStoppingReason.NOT_STOPPED
            if stopping.stopping_reason is not EarlyStoppingReason.NOT_STOPPED:
                trainer.should_stop = True
            stopping.patience = patience

    def on_train_epoch_start(self, trainer: Trainer, module: Any) -> None:
        """Nothing is left to do."""
        self._monitored = {}

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the best epoch, where this validation is but the trainer's as it stops inside an epoch."""
        loop = trainer.fit_loop.epoch_loop
        if trainer.should_stop and loop.done and not loop.batch_progress.is_last_batch:
            for saving in trainer.checkpoint_callbacks:
                if isinstance(saving, ModelCheckpoint) and saving.monitor and saving.best_model_path:
                    saving._last_global_step_saved = trainer.global_step  # it saves once a step

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        """Brings the logs to the disk before the checkpoint of this epoch."""
        for logger in trainer.loggers:
            logger.save()
        names = {config.monitor for config in trainer.lr_scheduler_configs if config.reduce_on_plateau}
        self._monitored = {
            name: float(trainer.callback_metrics[name]) for name in names if name in trainer.callback_metrics
        }

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds what is left to do, and what the training is made of."""
        checkpoint["monitored"] = dict(self._monitored)
        checkpoint["made_of"] = self.made_of


def _move(state: dict[str, Any], new: Path) -> None:
    """Changes the folder in the state of a ModelCheckpoint, of the files that lie in it."""
    old = Path(state["dirpath"])

    def moved(path: str) -> str:
        inside = bool(path) and Path(path).is_relative_to(old)
        return str(new / Path(path).relative_to(old)) if inside else path

    for key in ("dirpath", "best_model_path", "kth_best_model_path", "last_model_path"):
        state[key] = moved(state[key])
    state["best_k_models"] = {moved(path): score for path, score in state["best_k_models"].items()}
