"""Imputations of a trainer's prediction, written to a file."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import distributed

from tsgen.data.series import Series
from tsgen.data.tiles import Tiles
from tsgen.inference.stitching import Stitched, write
from tsgen.storage.parts import Parts

PATIENCE = timedelta(hours=6)
"""How long a process that has drawn its share waits for the others."""


class ImputationWriter(Callback):
    """Writes what ``predict`` draws to one netCDF file, every step and node of the stretches once.

    Neighbouring windows are joined, sample by sample (see :mod:`tsgen.inference.stitching`). Each process
    keeps what it draws in part files beside the file. An interrupted prediction resumes from them, with any
    number of processes; another model, other data or other options start afresh. The first process merges the
    part files, one window in memory at a time.

    Args:
        path: The file.
        series: The series that the windows are cut from.
        tiles: Where the windows lie.
    """

    def __init__(self, path: Path, series: Series, tiles: Tiles) -> None:
        self.path, self.series, self.tiles = path, series, tiles

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Sees to it that windows go on from each other, before they are dealt to the processes."""
        if stage == "predict":
            _check_whole(trainer)
            parts, whose = Parts.beside(self.path), (trainer.global_rank, trainer.world_size)
            self.stitched = Stitched(pl_module.sampler, self.series, self.tiles, parts, *whose)
            pl_module.sampler = self.stitched

    def on_predict_start(self, trainer: Trainer, module: Any) -> None:
        """Takes up what an interrupted run has left."""
        if trainer.is_global_zero:
            done = self.stitched.begin(module, module.horizon, trainer.precision)
            if done:
                folder = self.stitched.parts.folder
                print(f"{done} of {len(self.tiles.starts)} windows were drawn before: {folder}")
        trainer.strategy.barrier()
        self.stitched.parts.hold(trainer.global_rank)
        # shares differ, and the strategy's own timeout is that of training, where nobody waits for long
        several = trainer.world_size > 1
        self.drawn = distributed.new_group(timeout=PATIENCE, backend="gloo") if several else None

    def on_predict_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Ends a run that was told to, as Lightning does in training; its windows are kept."""
        if trainer.received_sigterm:
            raise SIGTERMException

    def on_predict_end(self, trainer: Trainer, module: Any) -> None:
        """Puts the parts together."""
        module.sampler = self.stitched.sampler
        if self.drawn is not None:
            distributed.barrier(self.drawn)
        if trainer.is_global_zero:
            write(self.stitched, self.path, type(module).__name__)
            self.stitched.parts.clear()
            print(f"Imputations: {self.path}")
        self.stitched.parts.let_go()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Lets go of the parts and gives the model its own sampler back."""
        if hasattr(self, "stitched"):
            self.stitched.parts.let_go()
        if isinstance(pl_module.sampler, Stitched):
            pl_module.sampler = pl_module.sampler.sampler


def _check_whole(trainer: Trainer) -> None:
    """Raises unless every window is to be drawn."""
    limit = trainer.limit_predict_batches
    if limit != 1 or isinstance(limit, int):  # 1 is one batch, 1.0 all of them
        raise ValueError(
            f"a prediction must draw every window; trainer.limit_predict_batches is {limit} (fast_dev_run "
            "sets it too). Leave it out, or predict from less data."
        )
