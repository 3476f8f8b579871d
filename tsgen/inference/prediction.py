"""Imputation by Lightning's trainer, on its devices and with any number of processes."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import distributed
from torch.utils.data import DataLoader

from tsgen.argument_types import check_arguments
from tsgen.data.series import Samples, SeriesBatch
from tsgen.datamodules.windows import SeriesDataModule, check_undivided
from tsgen.inference.stitching import SeriesImputation
from tsgen.models.density import DensityModel
from tsgen.storage.display import print_line

DRAWING_TIMEOUT = timedelta(hours=6)
"""The longest time that a process which has drawn its share waits for the others."""


@check_arguments
class SeriesPrediction(LightningModule):
    """Imputes the windows that a data module predicts, and writes them to one netCDF file.

    .. code-block:: python

        trainer = Trainer(use_distributed_sampler=False)
        trainer.predict(SeriesPrediction(model, data, path), return_predictions=False)

    It runs the same :class:`~tsgen.inference.stitching.SeriesImputation` as :func:`tsgen.impute`. An
    interrupted prediction can be resumed with any number of processes. The trainer loads the weights of
    ``ckpt_path`` into the model. With ``return_predictions=True``, the default, all samples are kept in
    memory as well.

    Args:
        model: The model.
        data: The data module; its ``predict_on``, ``overlap`` and ``horizon`` say what is imputed.
        path: The netCDF file.

    Raises:
        ValueError: When the trainer starts, if the model does not match the data, the trainer would leave out
            windows, or it was given a data module.
    """

    def __init__(self, model: DensityModel, data: SeriesDataModule, path: str | Path) -> None:
        super().__init__()
        self.model, self.data, self.path = model, data, Path(path)
        self.imputation: SeriesImputation | None = None

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the state of the model, without a prefix."""
        return self.model.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Loads the state of the model."""
        return self.model.load_state_dict(*args, **kwargs)

    def configure_callbacks(self) -> list[Callback]:
        """Adds the callback that unlocks the part files when a prediction fails."""
        return [_Unlocking()]

    def setup(self, stage: str) -> None:
        """Checks trainer, model and data, and assigns windows or samples to this process."""
        _check_trainer(self.trainer)
        self.model.check_data(self.data, stage)
        self.model.setup(stage)
        self.imputation = SeriesImputation(
            self.model.sampler,
            self.data.split.series,
            self.data.tiles,
            self.path,
            self.trainer.global_rank,
            self.trainer.world_size,
        )

    def predict_dataloader(self) -> DataLoader:
        """Returns the windows of this process."""
        return self.data.predict_dataloader(self._plan.batches(self.data.batch_size))

    def predict_step(self, batch: SeriesBatch, index: int) -> Samples:
        """Draws windows and writes them to part files."""
        return self._plan.draw(self.model, batch)

    def on_predict_start(self) -> None:
        """Resumes from the part files of an interrupted run."""
        plan = self._plan
        if self.trainer.is_global_zero:
            done = plan.begin(self.model, self.data.horizon, self.trainer.precision)
            if done:
                print_line(
                    f"{done} of {len(plan.tiles.starts)} windows were drawn before: {plan.parts.folder}"
                )
        self.trainer.strategy.barrier()
        plan.lock()
        # a group of its own: shares differ in size, and the timeout of the strategy's group is meant for
        # training, where no process waits long
        several = self.trainer.world_size > 1
        self._group = distributed.new_group(timeout=DRAWING_TIMEOUT, backend="gloo") if several else None

    def on_predict_batch_end(self, *_: Any) -> None:
        """Ends a run that received SIGTERM, as Lightning does in training; its windows are kept."""
        if self.trainer.received_sigterm:
            raise SIGTERMException

    def on_predict_epoch_end(self) -> None:
        """Merges the part files once all processes have drawn."""
        if self._group is not None:
            distributed.barrier(self._group)
        if self.trainer.is_global_zero:
            far_draws = self._plan.finish(type(self.model).__name__)
            print_line(f"Imputations: {self.path}")
            if far_draws is not None:
                print_line(f"Warning: {far_draws}")
        self._plan.release()

    @property
    def _plan(self) -> SeriesImputation:
        assert self.imputation is not None  # created in setup
        return self.imputation


class _Unlocking(Callback):
    """Unlocks the part files of a prediction that failed."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Unlocks them."""
        if isinstance(pl_module, SeriesPrediction) and pl_module.imputation is not None:
            pl_module.imputation.release()


def _check_trainer(trainer: Trainer) -> None:
    """Raises unless every window is drawn once, from the data of the prediction."""
    check_undivided(trainer)
    if trainer.datamodule is not None:  # type: ignore[attr-defined]
        raise ValueError(
            "a SeriesPrediction must draw the windows of its own data; predict was given a datamodule. Leave "
            "it out."
        )
    limit = trainer.limit_predict_batches
    if limit != 1 or isinstance(limit, int):  # 1 is one batch, 1.0 all of them
        raise ValueError(
            f"a prediction must draw every window; trainer.limit_predict_batches is {limit} (fast_dev_run "
            "sets it too). Leave it out, or predict from less data."
        )
