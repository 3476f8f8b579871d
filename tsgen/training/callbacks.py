"""Training callbacks: figures in W&B, gradient flow, compilation of the encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.strategies import FSDPStrategy
from matplotlib.figure import Figure

from tsgen.argument_types import check_arguments
from tsgen.data.series import Series, SeriesBatch
from tsgen.evaluation.table import as_dataset, summarise
from tsgen.figures import fan_chart
from tsgen.inference.prediction import SeriesPrediction
from tsgen.protocols import check_forward
from tsgen.storage.atomic import replacing
from tsgen.training.gradient_flow import gradient_flow, gradient_norms

FIGURE_WINDOWS = 6
"""The number of validation windows in the figure."""


@check_arguments
class ImputationFigure(Callback):
    """Logs a fan chart of validation windows to W&B when training ends.

    The figure is also ``val_imputation.png`` in the run's folder. The callback does nothing with fully
    sharded models (FSDP), where no process has all weights.

    Args:
        series: The series that the windows are cut from.
    """

    def __init__(self, series: Series) -> None:
        self.series = series

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        """Draws the figure and logs it to every W&B logger."""
        loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        if not loggers or not trainer.is_global_zero or not trainer.val_dataloaders:
            return
        # one process alone cannot gather the shards of the others
        if isinstance(trainer.strategy, FSDPStrategy):
            return
        with _undisturbed(module), torch.no_grad():
            batch = _first_windows(trainer, module, FIGURE_WINDOWS)
            samples = module.sampler(module, batch)
        data = as_dataset(
            summarise(samples, batch),
            self.series,
            conditioning=samples.conditioning,
            num_samples=len(samples.values),
        )
        figure = fan_chart(data)
        with replacing(Path(trainer.default_root_dir) / "val_imputation.png") as unfinished:
            figure.savefig(unfinished, format="png")
        for logger in loggers:
            logger.log_image("val/imputation", [figure])


@check_arguments
class GradientFlow(Callback):
    """Monitors how far back the loss of a slice reaches (see :mod:`tsgen.training.gradient_flow`).

    After every n-th epoch the first process computes, for a few validation windows, the norm of the gradient
    of the last slice's loss with respect to the state carried k steps before. It writes the norms of all
    epochs to ``gradient_flow.csv`` and a figure to ``gradient_flow.png``, in the run's folder, and logs the
    figure to W&B loggers. Training is not affected. In YAML:

    .. code-block:: yaml

        trainer:
          callbacks:
            - class_path: tsgen.training.GradientFlow
              init_args: {every_n_epochs: 5}

    Args:
        every_n_epochs: The number of epochs between figures.
        windows: The number of validation windows that the norms are averaged over. Since an
            :class:`~tsgen.encoders.AttentionEncoder` keeps all previous steps at every step, memory grows
            with the square of the window's length: use few windows if they are long.

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
        """Raises ``ValueError`` if a model without a state carried from slice to slice is to be trained."""
        if stage == "fit":
            check_forward("GradientFlow", pl_module, "Remove it from trainer.callbacks.")

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        """Reads the norms of earlier epochs if a run is resumed."""
        path = Path(trainer.default_root_dir) / "gradient_flow.csv"
        self.curves = {}
        if trainer.is_global_zero and path.is_file():
            table = pd.read_csv(path)
            epochs = table[table["epoch"] < trainer.current_epoch].groupby("epoch")
            self.curves = {int(str(epoch)): rows["norm"].to_numpy() for epoch, rows in epochs}

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        """Computes the norms, writes them and logs the figure."""
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
        """Writes the norms of all epochs and the figure."""
        folder.mkdir(parents=True, exist_ok=True)
        rows = [
            (epoch, k, norm) for epoch, norms in self.curves.items() for k, norm in enumerate(norms, start=1)
        ]
        table = pd.DataFrame(rows, columns=["epoch", "steps_back", "norm"])
        with replacing(folder / "gradient_flow.csv") as unfinished:
            table.to_csv(unfinished, index=False)
        with replacing(folder / "gradient_flow.png") as unfinished:
            figure.savefig(unfinished, dpi=150, format="png")


@check_arguments
class Compile(Callback):
    """Compiles the encoder with :func:`torch.compile`, in place: the format of checkpoints does not change.

    The head is not compiled, since the compiler does not support distribution objects as results. Compiling
    takes time before the first step, and again for a batch of another size; ``docs/speed.md`` says when it
    pays off. In YAML:

    .. code-block:: yaml

        trainer:
          callbacks:
            - class_path: tsgen.training.Compile

    Args:
        backend: The compiler. ``inductor`` needs a C++ compiler on a CPU, and Triton on a GPU; ``aot_eager``
            and ``eager`` need neither and are for debugging.

    Raises:
        ValueError: If the backend does not exist; when the trainer starts, if the model has no encoder.
    """

    def __init__(self, backend: str = "inductor") -> None:
        backends = torch.compiler.list_backends(exclude_tags=())
        if backend not in backends:
            raise ValueError(f"backend must be one of {', '.join(backends)}; it is {backend!r}.")
        self.backend = backend

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Marks the encoder for compilation, which happens at the first batch."""
        model = pl_module.model if isinstance(pl_module, SeriesPrediction) else pl_module
        encoder = getattr(model, "encoder", None)
        if not isinstance(encoder, torch.nn.Module):
            raise ValueError(
                f"Compile needs a model with an encoder; {type(model).__name__} has none. Remove it from "
                "trainer.callbacks."
            )
        encoder.compile(backend=self.backend)


def _first_windows(trainer: Trainer, module: Any, count: int) -> SeriesBatch:
    """Returns the first validation windows, on the model's device."""
    loader: Any = trainer.val_dataloaders
    batch: SeriesBatch = next(iter(loader))
    return module.transfer_batch_to_device(batch.rows(slice(0, count)), module.device, 0)


@contextmanager
def _undisturbed(module: LightningModule) -> Iterator[None]:
    """Puts the model in evaluation mode; restores its modes and the random state afterwards."""
    modes = {submodule: submodule.training for submodule in module.modules()}
    devices = [module.device] if module.device.type == "cuda" else []
    module.eval()
    try:
        # a data loader draws a random number when it starts
        with torch.random.fork_rng(devices):
            yield
    finally:
        for submodule, training in modes.items():
            submodule.training = training
