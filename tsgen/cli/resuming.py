"""Checks before a run resumes or uses a checkpoint, and what a resumed training continues."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from tsgen.cli.run_folder import say
from tsgen.cli.tracking import TolerantWandbLogger, forgiving
from tsgen.cli.training_log import TrainingLog
from tsgen.data.fingerprint import fingerprint
from tsgen.datamodules.windows import SeriesDataModule
from tsgen.models import DensityModel
from tsgen.models.density import spec_of
from tsgen.storage.checkpoints import read_checkpoint
from tsgen.storage.components import describe, difference

BUILDING_BLOCKS = ("encoder", "head", "units", "order", "noise")
"""Options of models that must be those of the checkpoint."""


def check_checkpoint(model: DensityModel, path: Path) -> None:
    """Raises ``ValueError`` unless a checkpoint is of a model for the same data and of the same sizes.

    Args:
        model: The model that is to take the weights.
        path: The checkpoint.
    """
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
    check_building_blocks(model, path)


def check_building_blocks(model: DensityModel, path: Path) -> None:
    """Raises ``ValueError`` unless the checkpoint's model has the same building blocks with the same options.

    Options may differ where sizes do not.
    """
    mine, its = model.hparams["model"], read_checkpoint(path)["hyper_parameters"]["model"]
    for block in BUILDING_BLOCKS:
        key = difference(mine["init_args"].get(block), its["init_args"].get(block), block)
        if key:
            raise ValueError(
                f"{path} was trained with another {key}. Use the configuration it was trained with."
            )


def made_of(data: SeriesDataModule, trainer: Trainer, seed: int | None) -> dict[str, str | int | None]:
    """Returns what a training depends on besides the model; a resumed one should have the same.

    Args:
        data: The data module.
        trainer: The trainer.
        seed: ``seed_everything``.
    """
    split = data.split
    return {
        "data": fingerprint(torch.nn.Module(), split.series, split.train, split.val, split.test),
        "seed_everything": seed,
        **{f"data.{name}": getattr(data, name) for name in ("seed", "window", "stride", "horizon")},
        "data.thinning": repr(describe(data.thinning)),
        "data.subgraphs": repr(describe(data.subgraphs)),
        "windows in a step": data.batch_size * trainer.world_size * trainer.accumulate_grad_batches,
    }


def check_made_of(mine: Mapping[str, str | int | None], path: Path) -> None:
    """Raises ``ValueError`` if a training would resume with other data; warns of other changed options.

    Args:
        mine: What :func:`made_of` returned for this training.
        path: The checkpoint that it would resume from.
    """
    its = read_checkpoint(path).get("made_of", {})
    if its.get("data", mine["data"]) != mine["data"]:
        raise ValueError(
            f"{path} was trained on other data: values, masks, times, splits or the graph have changed. "
            "Train again, or start another run from it: --name OTHER --ckpt_path and its path."
        )
    changed = [f"{name} is {mine[name]}, was {its[name]}" for name in its if mine.get(name) != its[name]]
    if changed:
        say(f"Warning: training resumes with other options than it started with: {'; '.join(changed)}.")


def last_checkpoint(folder: str) -> ModelCheckpoint:
    """Returns the callback that saves the last epoch, from which training can resume."""
    # whether or not it ends with a validation
    return ModelCheckpoint(
        folder, "last", save_top_k=1, monitor=None, enable_version_counter=False, save_on_train_epoch_end=True
    )


@rank_zero_only
def resume_logging(trainer: Trainer, checkpoint: str | None) -> None:
    """Continues the CSV logs after the checkpoint's step, and repeats to W&B what was logged before it."""
    step = read_checkpoint(Path(checkpoint))["global_step"] if checkpoint else 0
    rows: list[dict[str, str]] = []
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger):
            log = TrainingLog(logger.log_dir, step)
            logger._experiment, rows = log, log.earlier
    for logger in trainer.loggers:
        if isinstance(logger, TolerantWandbLogger):
            with forgiving(logger):
                logger.repeat(rows)
