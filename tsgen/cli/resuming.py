"""Checks a checkpoint before a run uses it, and continues the logs when a training resumes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from tsgen.cli.run_folder import print_once
from tsgen.cli.tracking import TolerantWandbLogger, tolerating_errors
from tsgen.cli.training_log import TrainingLog
from tsgen.data.fingerprint import fingerprint
from tsgen.datamodules.windows import SeriesDataModule
from tsgen.models import DensityModel
from tsgen.models.density import spec_of
from tsgen.storage.checkpoints import read_checkpoint
from tsgen.storage.components import describe, difference

BUILDING_BLOCKS = ("encoder", "head", "units", "order", "noise")
"""Options of models that must equal those of the checkpoint."""


def check_checkpoint(model: DensityModel, path: Path) -> None:
    """Raises ``ValueError`` unless a checkpoint fits a model: same data, same sizes, same building blocks.

    Args:
        model: The model that will load the weights.
        path: The checkpoint.
    """
    state = read_checkpoint(path)
    difference = spec_of(state).difference(model.spec)
    if difference:
        raise ValueError(f"{path} was trained on other data: {difference}.")
    shapes = {name: tuple(x.shape) for name, x in model.state_dict().items()}
    stored = {name: tuple(x.shape) for name, x in state["state_dict"].items()}
    for name in sorted(shapes.keys() | stored.keys()):
        if shapes.get(name) != stored.get(name):
            raise ValueError(
                f"{path} was trained with other options: its {name} is {stored.get(name, 'absent')}, the "
                f"model's {shapes.get(name, 'absent')}. Use the configuration it was trained with."
            )
    check_building_blocks(model, path)
    try:
        model.check_weights(state["state_dict"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def check_building_blocks(model: DensityModel, path: Path) -> None:
    """Raises ``ValueError`` unless the checkpoint's model has the same building blocks with the same options.

    Equal sizes are not enough: some options change no size.
    """
    current, stored = model.hparams["model"], read_checkpoint(path)["hyper_parameters"]["model"]
    for block in BUILDING_BLOCKS:
        key = difference(current["init_args"].get(block), stored["init_args"].get(block), block)
        if key:
            raise ValueError(
                f"{path} was trained with another {key}. Use the configuration it was trained with."
            )


def made_of(data: SeriesDataModule, trainer: Trainer, seed: int | None) -> dict[str, str | int | None]:
    """Returns the data and options, besides the model, that a resumed training must share with the first one.

    Args:
        data: The data module.
        trainer: The trainer.
        seed: The option ``seed_everything``.
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


def check_made_of(current: Mapping[str, str | int | None], path: Path) -> None:
    """Raises ``ValueError`` if a training would resume with other data, and warns of other changed options.

    Args:
        current: The result of :func:`made_of` for this training.
        path: The checkpoint that it would resume from.
    """
    stored = read_checkpoint(path).get("made_of", {})
    if stored.get("data", current["data"]) != current["data"]:
        raise ValueError(
            f"{path} was trained on other data: values, masks, times, splits or the graph have changed. "
            "Train again, or start another run from it: --name OTHER --ckpt_path PATH."
        )
    changed = [
        f"{name} is {current[name]}, was {stored[name]}"
        for name in stored
        if current.get(name) != stored[name]
    ]
    if changed:
        print_once(
            f"Warning: training resumes with other options than it started with: {'; '.join(changed)}."
        )


def last_checkpoint(folder: str) -> ModelCheckpoint:
    """Returns the callback that saves the last epoch, validated or not, so that training can resume."""
    return ModelCheckpoint(
        folder, "last", save_top_k=1, monitor=None, enable_version_counter=False, save_on_train_epoch_end=True
    )


@rank_zero_only
def resume_logging(trainer: Trainer, checkpoint: str | None) -> None:
    """Continues the CSV logs after the checkpoint's step, and logs their earlier rows to W&B again."""
    step = read_checkpoint(Path(checkpoint))["global_step"] if checkpoint else 0
    rows: list[dict[str, str]] = []
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger):
            log = TrainingLog(logger.log_dir, step)
            logger._experiment, rows = log, log.earlier
    for logger in trainer.loggers:
        if isinstance(logger, TolerantWandbLogger):
            with tolerating_errors(logger):
                logger.repeat(rows)
