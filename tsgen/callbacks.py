"""Callbacks: imputations to a file, exact resumption, figures to W&B while training, how far back gradients
reach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from matplotlib.figure import Figure
from torch import distributed

from tsgen.checkpoints import is_whole
from tsgen.evaluation import as_dataset, summarise
from tsgen.files import replacing
from tsgen.gradient_flow import gradient_flow, gradient_norms
from tsgen.models import AutoregressiveModel
from tsgen.parts import Parts
from tsgen.report.figures import fan_chart
from tsgen.series import GraphSeries, SeriesBatch
from tsgen.stitching import Stitched, Tiles, write

PATIENCE = timedelta(hours=6)
"""How long a process that has drawn its share waits for the others."""


class ImputationWriter(Callback):
    """Writes what ``predict`` draws to one netCDF file, every step and node of the stretches once.

    Neighbouring windows are joined, sample by sample (see :mod:`tsgen.stitching`). Each process keeps what it
    draws in parts beside the file; a prediction that was interrupted goes on from them, by any number of
    processes, and one of another model, of other data or options begins anew. The first process puts them
    together, one window in memory at a time.

    Args:
        path: The file.
        series: The series that the windows are cut from.
        tiles: Where the windows lie.
    """

    def __init__(self, path: Path, series: GraphSeries, tiles: Tiles) -> None:
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


FIGURE_WINDOWS = 6
"""Validation windows that the figure is made of."""


class ImputationFigure(Callback):
    """A fan chart of validation windows to W&B when training ends, where a process has the whole model.

    Args:
        series: The series that the windows are cut from.
    """

    def __init__(self, series: GraphSeries) -> None:
        self.series = series

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        """Draws and logs the figure, where a W&B logger listens."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        if not loggers or not trainer.is_global_zero or not trainer.val_dataloaders:
            return
        if isinstance(trainer.strategy, FSDPStrategy):  # the others' shards are not to be had by one alone
            return
        with _undisturbed(module), torch.no_grad():
            batch = _first_windows(trainer, module, FIGURE_WINDOWS)
            samples = module.sampler(module, batch)
        data = as_dataset(
            summarise(samples, batch), self.series, law=samples.law, num_samples=len(samples.values)
        )
        for logger in loggers:
            logger.log_image("val/imputation", [fan_chart(data)])


class GradientFlow(Callback):
    """How far back the loss of a slice reaches, seen while training: see :mod:`tsgen.gradient_flow`.

    After every n-th epoch the first process takes a few validation windows, computes the norm of the gradient
    of the last slice's loss with respect to the state carried k steps before, and writes all epochs' norms to
    ``gradient_flow.csv`` and a figure to ``gradient_flow.png``, in the run's folder; the figure goes to W&B
    too, where a W&B logger listens. Training is not touched. In YAML:

    .. code-block:: yaml

        trainer:
          callbacks:
            - class_path: tsgen.callbacks.GradientFlow
              init_args: {every_n_epochs: 5}

    Args:
        every_n_epochs: Epochs from one figure to the next.
        windows: Validation windows that the norms are the mean over. An
            :class:`~tsgen.encoders.AttentionEncoder` keeps all steps at every step, so that memory grows with
            the square of the window: take few of long ones.

    Raises:
        ValueError: If a number is below 1; when training starts, if the model does not factorise over time.
    """

    def __init__(self, every_n_epochs: int = 1, windows: int = 4) -> None:
        for name, number in (("every_n_epochs", every_n_epochs), ("windows", windows)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1; it is {number}.")
        self.every_n_epochs, self.windows = every_n_epochs, windows
        self.curves: dict[int, np.ndarray] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuses a model that carries no state from slice to slice."""
        if not isinstance(pl_module, AutoregressiveModel):
            raise ValueError(
                f"GradientFlow needs an AutoregressiveModel; {type(pl_module).__name__} is none. Take it out "
                "of trainer.callbacks."
            )

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        """Takes up the norms of the epochs before, where a run is resumed."""
        path = Path(trainer.default_root_dir) / "gradient_flow.csv"
        self.curves = {}
        if trainer.is_global_zero and path.is_file():
            table = pd.read_csv(path)
            epochs = table[table["epoch"] < trainer.current_epoch].groupby("epoch")
            self.curves = {int(str(epoch)): rows["norm"].to_numpy() for epoch, rows in epochs}

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        """Computes the norms, writes and logs them."""
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if not due or not trainer.is_global_zero or not trainer.val_dataloaders:
            return
        with _undisturbed(module):
            norms = gradient_norms(module, _first_windows(trainer, module, self.windows))
        self.curves[trainer.current_epoch] = norms.numpy()
        figure = gradient_flow(self.curves)
        self._write(Path(trainer.default_root_dir), figure)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("val/gradient_flow", [figure])

    def _write(self, folder: Path, figure: Figure) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        rows = [
            (epoch, k, norm) for epoch, norms in self.curves.items() for k, norm in enumerate(norms, start=1)
        ]
        table = pd.DataFrame(rows, columns=["epoch", "steps_back", "norm"])
        with replacing(folder / "gradient_flow.csv") as unfinished:
            table.to_csv(unfinished, index=False)
        with replacing(folder / "gradient_flow.png") as unfinished:
            figure.savefig(unfinished, dpi=150, format="png")


class Compile(Callback):
    """Compiles the encoder by :func:`torch.compile`, in place: checkpoints are those of any other run.

    The head stays as it is, since its laws are objects that the compiler does not keep. Compiling takes time
    before the first step, once more for a batch of another size; ``docs/speed.md`` tells when it pays. In
    YAML:

    .. code-block:: yaml

        trainer:
          callbacks:
            - class_path: tsgen.callbacks.Compile

    Args:
        backend: The compiler. ``inductor`` needs a C++ compiler on a CPU, and Triton on a GPU; ``aot_eager``
            and ``eager`` need neither and are for finding faults.

    Raises:
        ValueError: If there is no such backend; when the trainer starts, if the model has no encoder.
    """

    def __init__(self, backend: str = "inductor") -> None:
        known = torch.compiler.list_backends(exclude_tags=())
        if backend not in known:
            raise ValueError(f"backend must be one of {', '.join(known)}; it is {backend!r}.")
        self.backend = backend

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compiles the encoder; nothing is done before the first batch."""
        encoder = getattr(pl_module, "encoder", None)
        if not isinstance(encoder, torch.nn.Module):
            raise ValueError(
                f"Compile needs a model with an encoder; {type(pl_module).__name__} has none. Take it out of "
                "trainer.callbacks."
            )
        encoder.compile(backend=self.backend)


def _first_windows(trainer: Trainer, module: Any, count: int) -> SeriesBatch:
    """The first validation windows, on the model's device."""
    loader: Any = trainer.val_dataloaders
    batch: SeriesBatch = next(iter(loader))
    return module.transfer_batch_to_device(batch.rows(slice(0, count)), module.device, 0)


@contextmanager
def _undisturbed(module: LightningModule) -> Iterator[None]:
    """The model in evaluation mode for a while; afterwards its modes and the random numbers are as before."""
    modes = {part: part.training for part in module.modules()}
    devices = [module.device] if module.device.type == "cuda" else []
    module.eval()
    try:
        # a loader draws a number when it starts
        with torch.random.fork_rng(devices):
            yield
    finally:
        for part, training in modes.items():
            part.training = training
