"""What a test leaves behind: scores beside baselines, and each window's quantiles for the figures.

:class:`Evaluation` listens to the test of a model. Every other answer is scored on the very entries of the
same batches. Two files come out: ``scores.json``, the table, and ``evaluation.nc``, truth, masks and
quantiles of every window.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.distributions import Distribution, Normal

from tsgen.baselines import linear_interpolation, node_mean
from tsgen.counter_random import streams, uniforms
from tsgen.linear import VARProcess
from tsgen.metrics import NLL, RMSE, crps, empirical_quantiles, entries, scores
from tsgen.objectives import masked_log_prob
from tsgen.parts import Parts
from tsgen.report.figures import calibration, fan_chart
from tsgen.series import GraphSeries, Samples, SeriesBatch

MODEL = "model"
"""How the model under test is called among the other answers."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
COLUMNS = {
    "mae": "MAE",
    "rmse": "RMSE",
    "mre": "MRE",
    "crps": "CRPS",
    "crps_quantile": "CRPS (norm.)",
    "nll": "NLL",
    "coverage_50": "in 50 %",
    "coverage_90": "in 90 %",
    "width_50": "width 50",
    "width_90": "width 90",
    "from_exact": "from exact",
}
"""The table's scores and their headings. ``from_exact`` is there where the exact posterior is known: the root
mean squared distance of the median to the exact posterior mean, in exact posterior standard deviations."""


def summarise(samples: Samples, batch: SeriesBatch) -> dict[str, np.ndarray]:
    """What the figures need of a batch, by window, step, node and channel (see :func:`as_dataset`)."""
    ordered = samples.values.sort(dim=0).values
    truth = torch.where(batch.context | batch.target, batch.values, torch.nan)
    rank = torch.where(batch.target, (ordered < truth).sum(dim=0), -1)
    score = torch.where(batch.target, crps(ordered, torch.where(batch.target, truth, 0)), torch.nan)
    arrays = {
        "position": batch.position,
        "truth": truth,
        "context": batch.context,
        "target": batch.target,
        "quantiles": empirical_quantiles(ordered, torch.tensor(QUANTILES)).movedim(0, 1),
        "rank": rank.int(),
        "crps": score,
    }
    return {name: array.cpu().numpy() for name, array in arrays.items()}


def as_dataset(arrays: Mapping[str, np.ndarray], series: GraphSeries, **attributes: Any) -> xr.Dataset:
    """Labelled windows: ``truth``, the two masks, ``quantiles``, ``rank`` of the truth among the samples,
    ``crps``.

    Args:
        arrays: What :func:`summarise` returned, windows in order.
        series: Whose windows they are.
        attributes: What else is to be remembered.
    """
    axes = ("window", "step", "node", "channel")
    whole = series.to_xarray()
    data = xr.Dataset(
        {name: (axes, arrays[name]) for name in ("truth", "context", "target", "rank", "crps")},
        coords={name: whole[name] for name in ("node", "channel", "unit")},
        attrs=attributes,
    )
    data["quantiles"] = (("quantile", *axes), np.moveaxis(arrays["quantiles"], 1, 0))
    time = np.asarray(series.time)[arrays["position"]]
    data = data.assign_coords(quantile=list(QUANTILES), time=(axes[:2], time))
    data["share_missing"] = ("node", 1 - series.observed.float().mean(dim=(0, 2)).numpy())
    kept = [name for name in ("position", "edge_source", "edge_target", "edge_weight") if name in whole]
    return data.merge(whole[kept].drop_vars("time", errors="ignore"))


def independent_draws(law: Normal, batch: SeriesBatch, num_samples: int, seed: int) -> Tensor:
    """Draws of each entry on its own from Gaussian laws; visible entries keep their values."""
    window = batch.position[:, 0]
    stream = streams(seed, window, torch.arange(num_samples, device=window.device)[:, None])
    noise = torch.special.ndtri(uniforms(stream, batch.values.shape[1:], dtype=law.mean.dtype))
    return torch.where(batch.context, batch.values.to(noise.dtype), law.mean + law.stddev * noise)


class _Row:
    """The scores of one answer to the same questions."""

    def __init__(self, name: str, law: str | None, device: torch.device) -> None:
        self.name, self.law = name, law
        self.scores, self.nll = scores().to(device), NLL().to(device)

    def update(self, batch: SeriesBatch, samples: Tensor, density: Distribution | None = None) -> None:
        self.scores.update(*entries(samples, batch))
        if density is not None:
            self.nll.update(masked_log_prob(density, batch.values, batch.target), batch.target)

    def compute(self, more: Mapping[str, Tensor]) -> dict[str, Any]:
        nll = None if self.law is None else self.nll.compute()
        return as_row(self.name, self.law, {**self.scores.compute(), **more}, nll)


def as_row(name: str, law: str | None, computed: Mapping[str, Tensor], nll: Tensor | None) -> dict[str, Any]:
    """One line of the table. An answer without a density has no NLL, coverage or width."""
    row: dict[str, Any] = {"name": name, "law": law}
    for key in COLUMNS:
        value = nll if key == "nll" else computed.get(key)
        without = nll is None and key.startswith(("nll", "coverage", "width"))
        row[key] = None if without or value is None or not torch.isfinite(value) else round(float(value), 6)
    return row


class Evaluation(Callback):
    """Scores baselines beside the model and writes what the report is made of.

    Args:
        folder: Where ``scores.json`` and ``evaluation.nc`` go.
        series: The series that the windows are cut from.
        run: The run's name.
        exact: The law that the data was drawn from, where it is known: its filtering and posterior answers
            are two more lines of the table.
    """

    def __init__(self, folder: Path, series: GraphSeries, run: str, exact: VARProcess | None = None) -> None:
        self.folder, self.series, self.run, self.exact = folder, series, run, exact
        self.parts = Parts(folder / "evaluation.parts")
        self.rows: dict[str, _Row] = {}
        self.distances: dict[str, RMSE] = {}

    def on_test_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Starts afresh."""
        names: dict[str, str | None] = {"node mean": None, "linear interpolation": None}
        if self.exact is not None:
            names |= {"exact filtering": "filtering", "exact posterior": "posterior"}
        self.rows = {name: _Row(name, law, module.device) for name, law in names.items()}
        self.distances = {name: RMSE().to(module.device) for name in (MODEL, *names)} if self.exact else {}
        if trainer.is_global_zero:
            self.parts.clear()
        trainer.strategy.barrier()

    def on_test_batch_end(
        self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Scores the other answers to the same batch and keeps the model's quantiles."""
        answers: dict[str, Callable[..., Tensor]] = {
            "node mean": node_mean,
            "linear interpolation": linear_interpolation,
        }
        samples: Samples = outputs["samples"]
        drawn = {name: answer(batch, module.units(batch)) for name, answer in answers.items()}
        laws: dict[str, Normal] = {}
        if self.exact is not None:
            size, seed = module.sampler.num_samples, module.sampler.seed
            laws = {
                "exact filtering": self.exact.predictive(batch),
                "exact posterior": self.exact.posterior(batch),
            }
            drawn["exact filtering"] = independent_draws(laws["exact filtering"], batch, size, seed)
            drawn["exact posterior"] = self.exact.impute(batch, size, seed).values
        for name, values in drawn.items():
            self.rows[name].update(batch, values, laws.get(name))
        for name, distance in self.distances.items():
            values, truth = drawn.get(name, samples.values), laws["exact posterior"]
            standard, _ = entries((values - truth.mean) / truth.stddev, batch)
            distance.update(standard, torch.zeros_like(standard[0]))
        arrays = summarise(samples, batch) | {"law": np.array(samples.law)}
        self.parts.write(trainer.global_rank, batch_idx, arrays)

    def on_test_epoch_end(self, trainer: Trainer, module: Any) -> None:
        """Computes the table (all processes), writes the files and shows it (the first process)."""
        distances = {name: {"from_exact": metric.compute()} for name, metric in self.distances.items()}
        own = ({**module.test_scores.compute(), **distances.get(MODEL, {})}, module.test_nll.compute())
        others = [row.compute(distances.get(name, {})) for name, row in self.rows.items()]
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        arrays = self.parts.read()
        law = str(arrays.pop("law"))
        model = type(module).__name__
        about = {"run": self.run, "model": model, "law": law, "num_samples": module.sampler.num_samples}
        data = as_dataset(arrays, self.series, **about)
        data.to_netcdf(self.folder / "evaluation.nc")
        self.parts.clear()
        table = {
            **about,
            "windows": data.sizes["window"],
            "entries": int(data["target"].sum()),
            "rows": [as_row(model, law, *own), *others],
            "by_node": by_node(data),
        }
        (self.folder / "scores.json").write_text(
            json.dumps(table, indent=1, ensure_ascii=False) + "\n", "utf-8"
        )
        show(table)
        log_to_wandb(trainer, data, table)


def by_node(data: xr.Dataset) -> list[dict[str, Any]]:
    """Number of scored entries, MAE of the median and CRPS of each node, in data units."""
    over = ("window", "step", "channel")
    error = abs(data["quantiles"].sel(quantile=0.5) - data["truth"]).where(data["target"]).mean(over)
    columns = {
        "node": data["node"].values.tolist(),
        "entries": data["target"].sum(over).values.tolist(),
        "mae": error.values.tolist(),
        "crps": data["crps"].mean(over).values.tolist(),
    }
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return [{k: None if isinstance(v, float) and v != v else v for k, v in row.items()} for row in rows]


def show(table: Mapping[str, Any]) -> None:
    """Prints the table of scores."""
    console = Console()
    shown = Table(title=f"{table['run']}: {table['entries']:,} hidden entries in {table['windows']} windows")
    shown.add_column("")
    columns = {
        key: heading for key, heading in COLUMNS.items() if any(row[key] is not None for row in table["rows"])
    }
    for heading in columns.values():
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in table["rows"]:
        name = (
            row["name"]
            if row["law"] is None or row["name"].startswith("exact")
            else f"{row['name']} ({row['law']})"
        )
        shown.add_row(name, *("–" if row[key] is None else f"{row[key]:.4g}" for key in columns))
    if not console.is_terminal:
        console.width = 150
    console.print(shown)
    console.print(
        "Filtering uses what came before an entry; interpolation and the posterior also what came after."
    )


def log_to_wandb(trainer: Trainer, data: xr.Dataset, table: Mapping[str, Any]) -> None:
    """The table and the figures, to every W&B logger there is."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            columns = ["name", "law", *COLUMNS]
            logger.log_table("test/scores", columns, [[row[c] for c in columns] for row in table["rows"]])
            logger.log_image("test/imputation", [fan_chart(data)])
            logger.log_image("test/calibration", [calibration(data)])
