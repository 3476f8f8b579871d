"""Callbacks: imputations to a file, figures to W&B while training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import torch
import xarray as xr
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from tsgen.evaluation import as_dataset, summarise
from tsgen.parts import Parts
from tsgen.report.figures import fan_chart
from tsgen.series import GraphSeries, Samples, SeriesBatch

CHUNK_STEPS = 16
"""Steps in one compressed chunk of the file: windows are written, and read again, without touching others."""


class ImputationWriter(Callback):
    """Writes what ``predict`` draws to one netCDF file, every step and node of the stretches once.

    The file holds ``imputation (sample, time, node, channel)``, in which observed entries are the data's own
    in every sample, and ``observed (time, node, channel)``; names, units and what law the draws follow are
    with them. Each process keeps its windows in parts; the first one puts them together, one part in memory
    at a time. Where windows overlap, the earlier one counts.

    Args:
        path: The file.
        series: The series that the windows are cut from.
        stretches: The stretches of steps that are imputed.
    """

    def __init__(self, path: Path, series: GraphSeries, stretches: list[slice]) -> None:
        self.path, self.series = path, series
        self.steps = np.unique(np.concatenate([np.arange(s.start, s.stop) for s in stretches]))
        self.parts = Parts(path.with_suffix(".parts"))

    def on_predict_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Starts afresh."""
        if trainer.is_global_zero:
            self.parts.clear()
        trainer.strategy.barrier()

    def on_predict_batch_end(
        self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keeps the windows of a batch."""
        samples: Samples = outputs
        arrays = {
            "position": batch.position.cpu().numpy(),
            "values": samples.values.movedim(0, 1).cpu().numpy(),
            "law": np.array(samples.law),
        }
        self.parts.write(trainer.global_rank, batch_idx, arrays)

    def on_predict_end(self, trainer: Trainer, module: Any) -> None:
        """Puts the parts together."""
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            self._merge(type(module).__name__, module.sampler.num_samples, module.sampler.seed)
            self.parts.clear()
            print(f"Imputations: {self.path}")

    def _merge(self, model: str, num_samples: int, seed: int) -> None:
        written = self.path.with_suffix(".partial")
        self._skeleton(num_samples).assign_attrs(model=model, seed=seed).to_netcdf(written)
        owner = self._owners()
        covered = np.zeros(len(self.series.values), dtype=bool)
        with netCDF4.Dataset(written, "a") as file:
            shape = ("sample", "time", "node", "channel")
            chunks = (num_samples, min(CHUNK_STEPS, len(self.steps)), *self.series.values.shape[1:])
            variable = file.createVariable(
                "imputation", "f4", shape, zlib=True, complevel=1, fill_value=np.nan, chunksizes=chunks
            )
            variable.coordinates = "unit"
            variable.long_name = "draws of the series; observed entries are the data's own"
            for part in self.parts:
                file.law = str(part["law"])
                for position, values in zip(part["position"], part["values"], strict=True):
                    mine = owner[position] == position[0]
                    at = np.searchsorted(self.steps, position[mine])
                    variable[:, at] = values[:, mine]
                    covered[position[mine]] = True
        if not covered[self.steps].all():
            raise RuntimeError(f"{int((~covered[self.steps]).sum())} steps were never imputed.")
        written.replace(self.path)

    def _owners(self) -> np.ndarray:
        """For each step of the series the start of the first window that covers it."""
        owner = np.full(len(self.series.values), np.iinfo(np.int64).max)
        for part in self.parts:
            for position in part["position"]:
                owner[position] = np.minimum(owner[position], position[0])
        return owner

    def _skeleton(self, num_samples: int) -> xr.Dataset:
        whole = self.series.to_xarray().isel(time=self.steps)
        return xr.Dataset({"observed": whole["observed"]}).assign_coords(sample=np.arange(num_samples))


FIGURE_WINDOWS = 6
"""Validation windows that the figure is made of."""


class ImputationFigure(Callback):
    """A fan chart of validation windows to W&B when training ends.

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
        batch: SeriesBatch = next(iter(trainer.val_dataloaders))
        batch = module.transfer_batch_to_device(batch.rows(slice(0, FIGURE_WINDOWS)), module.device, 0)
        was_training = module.training
        module.eval()
        with torch.no_grad():
            samples = module.sampler(module, batch)
        module.train(was_training)
        data = as_dataset(
            summarise(samples, batch), self.series, law=samples.law, num_samples=len(samples.values)
        )
        for logger in loggers:
            logger.log_image("val/imputation", [fan_chart(data)])
