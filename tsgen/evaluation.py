"""What a test leaves behind: scores beside baselines, and each window's quantiles for the figures.

:class:`Evaluation` listens to the test of a model. Every other answer is scored on the very entries of the
same batches. Two files come out: ``scores.json``, the table, and ``evaluation.nc``, truth, masks and
quantiles of every window.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
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
from torchmetrics import SumMetric

from tsgen.baselines import linear_interpolation, node_mean
from tsgen.counter_random import streams, uniforms
from tsgen.likelihood import masked_log_prob
from tsgen.linear import VARProcess
from tsgen.metrics import NLL, RMSE, LeadTimeScores, crps, empirical_quantiles, entries, scores
from tsgen.parts import Parts
from tsgen.report.figures import calibration, fan_chart
from tsgen.sampling import Sampler
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
    "log_likelihood": "log-lik. a window",
}
"""The table's scores and their headings. ``from_exact`` is there where the exact posterior is known: the root
mean squared distance of the median to the exact posterior mean, in exact posterior standard deviations.
``log_likelihood`` is there where nothing is hidden: the mean joint log-density of a window, in nats."""


def summarise(samples: Samples, batch: SeriesBatch) -> dict[str, np.ndarray]:
    """What the figures need of a batch, by window, step, node and channel (see :func:`as_dataset`)."""
    ordered = samples.values.sort(dim=0).values
    truth = torch.where(batch.context | batch.target, batch.values, torch.nan)
    scored = batch.hidden
    rank = torch.where(scored, (ordered < truth).sum(dim=0), -1)
    score = torch.where(scored, crps(ordered, torch.where(scored, truth, 0)), torch.nan)
    arrays = {
        "position": batch.position,
        "truth": truth,
        "context": batch.context,
        "target": scored,
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
    """The scores of one answer to the same questions.

    Args:
        name: How the answer is called.
        law: What its draws follow; None for an answer without a density.
        horizon: Steps at the end of a window whose scores are kept apart.
        module: The model under test.
        kept: Whether the model itself keeps the scores of this answer.
    """

    def __init__(
        self, name: str, law: str | None, horizon: int, module: LightningModule, kept: bool = False
    ) -> None:
        self.name, self.law, self.kept, device = name, law, kept, module.device
        own: Any = module
        self.scores = own.test_scores if kept else scores().to(device)
        self.nll = own.test_nll if kept else NLL().to(device)
        self.by_lead_time = LeadTimeScores(horizon).to(device) if horizon else None
        self.from_exact, self.windows = RMSE().to(device), NLL().to(device)
        self.counts = {name: SumMetric().to(device) for name in ("windows", "entries")}
        self.measured = False

    def update(self, batch: SeriesBatch, samples: Tensor | None, log_prob: Tensor | None) -> None:
        """Scores an answer to a batch: draws where something is hidden, densities where there are any."""
        if log_prob is not None:
            if not self.kept:
                self.nll.update(log_prob, batch.target)
            self.counts["windows"].update(len(batch.values))
            self.counts["entries"].update(batch.target.sum())
            self.windows.update(log_prob.sum(dim=(1, 2, 3)), batch.target.flatten(1).any(dim=1))
        if samples is not None:
            if not self.kept:
                self.scores.update(*entries(samples, batch))
            if self.by_lead_time is not None:
                self.by_lead_time.update(samples, batch.values, batch.hidden, log_prob)

    def compute(self, nothing_hidden: bool) -> dict[str, Any]:
        """One line of the table. An answer without a density has no NLL, coverage or width."""
        computed = {"log_likelihood": -self.windows.compute()} if nothing_hidden else self.scores.compute()
        if self.law is not None:
            computed["nll"] = self.nll.compute()
        if self.measured:
            computed["from_exact"] = self.from_exact.compute()
        row: dict[str, Any] = {"name": self.name, "law": self.law}
        for key in COLUMNS:
            value = float(computed.get(key, torch.nan))
            without = self.law is None and key.startswith(("coverage", "width"))
            row[key] = None if without or not math.isfinite(value) else round(value, 6)
        return row


class Evaluation(Callback):
    """Scores baselines beside the model and writes what the report is made of.

    Where nothing is hidden there are no draws to judge: the table then has densities alone.

    Args:
        folder: Where ``scores.json`` and ``evaluation.nc`` go.
        series: The series that the windows are cut from.
        run: The run's name.
        exact: The law that the data was drawn from, where it is known: its filtering and posterior answers
            are two more lines of the table.
        horizon: Steps at the end of a window that are forecast, for scores by lead time.
    """

    def __init__(
        self,
        folder: Path,
        series: GraphSeries,
        run: str,
        exact: VARProcess | None = None,
        horizon: int | None = None,
    ) -> None:
        self.folder, self.series, self.run, self.exact = folder, series, run, exact
        self.nothing_hidden, self.horizon = horizon == 0, horizon or 0
        self.parts = Parts(folder / "evaluation.parts")
        self.rows: dict[str, _Row] = {}

    def on_test_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Starts afresh."""
        names: dict[str, str | None] = {}
        if not self.nothing_hidden:
            names |= {"node mean": None, "linear interpolation": None}
        if self.exact is not None:
            names |= {"exact filtering": "filtering"}
            names |= {} if self.nothing_hidden else {"exact posterior": "posterior"}
        model = _Row(type(module).__name__, "filtering", self.horizon, module, kept=True)
        others = {name: _Row(name, law, self.horizon, module) for name, law in names.items()}
        self.rows = {MODEL: model, **others}
        if trainer.is_global_zero:
            self.parts.clear()
            (self.folder / "evaluation.nc").unlink(missing_ok=True)
        trainer.strategy.barrier()

    def on_test_batch_end(
        self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Scores all answers to the same batch and keeps the model's quantiles."""
        laws: dict[str, Distribution] = {}
        if self.exact is not None:
            laws["exact filtering"] = self.exact.predictive(batch)
        if self.nothing_hidden:
            self.rows[MODEL].update(batch, None, outputs["log_prob"])
            for name, law in laws.items():
                self.rows[name].update(batch, None, masked_log_prob(law, batch.values, batch.target))
            return
        samples: Samples = outputs["samples"]
        self.rows[MODEL].law = samples.law
        units = module.node_units
        drawn = {
            MODEL: samples.values,
            "node mean": node_mean(batch, units),
            "linear interpolation": linear_interpolation(batch, units),
        }
        if self.exact is not None:
            self._add_exact(batch, laws, drawn, module.sampler)
        densities = {name: masked_log_prob(law, batch.values, batch.target) for name, law in laws.items()}
        densities[MODEL] = outputs["log_prob"]
        for name, values in drawn.items():
            self.rows[name].update(batch, values, densities.get(name))
        arrays = summarise(samples, batch) | {"law": np.array(samples.law)}
        self.parts.write(trainer.global_rank, batch_idx, arrays)

    def _add_exact(
        self, batch: SeriesBatch, laws: dict[str, Distribution], drawn: dict[str, Tensor], sampler: Sampler
    ) -> None:
        """The exact answers, and how far every answer lies from the posterior."""
        assert self.exact is not None
        size, seed = sampler.num_samples, sampler.seed
        filtering: Any = laws["exact filtering"]
        posterior = laws["exact posterior"] = self.exact.posterior(batch)
        drawn["exact filtering"] = independent_draws(filtering, batch, size, seed)
        drawn["exact posterior"] = self.exact.impute(batch, size, seed).values
        for name, values in drawn.items():
            standard, _ = entries((values - posterior.mean) / posterior.stddev, batch)
            self.rows[name].from_exact.update(standard, torch.zeros_like(standard[0]))
            self.rows[name].measured = True

    def on_test_epoch_end(self, trainer: Trainer, module: Any) -> None:
        """Computes the table (all processes), writes the files and shows it (the first process)."""
        rows = [row.compute(self.nothing_hidden) for row in self.rows.values()]
        leads = {name: row.by_lead_time.table() for name, row in self.rows.items() if row.by_lead_time}
        count = {name: int(metric.compute()) for name, metric in self.rows[MODEL].counts.items()}
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        about = {
            "run": self.run,
            "model": type(module).__name__,
            "law": rows[0]["law"],
            "num_samples": module.sampler.num_samples,
        }
        data = None if self.nothing_hidden else self._written(about)
        table = {**about, **count, "rows": rows}
        if data is not None:
            table["by_node"] = by_node(data)
        if leads:
            table["by_lead_time"] = leads.pop(MODEL)
            if "exact posterior" in leads:
                table["by_lead_time_exact"] = leads["exact posterior"]
        (self.folder / "scores.json").write_text(
            json.dumps(table, indent=1, ensure_ascii=False) + "\n", "utf-8"
        )
        show(table)
        log_to_wandb(trainer, data, table)

    def _written(self, about: Mapping[str, Any]) -> xr.Dataset:
        """All windows, written to ``evaluation.nc``."""
        arrays = self.parts.read()
        law = str(arrays.pop("law"))
        data = as_dataset(arrays, self.series, **{**about, "law": law})
        data.to_netcdf(self.folder / "evaluation.nc")
        self.parts.clear()
        return data


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
    hidden = "hidden " * ("by_node" in table)
    shown = Table(
        title=f"{table['run']}: {table['entries']:,} {hidden}entries in {table['windows']:,} windows"
    )
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
    if hidden:
        console.print(
            "Filtering uses what came before an entry; interpolation and the posterior also what came after."
        )


def log_to_wandb(trainer: Trainer, data: xr.Dataset | None, table: Mapping[str, Any]) -> None:
    """The table and the figures, to every W&B logger there is."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            columns = ["name", "law", *COLUMNS]
            logger.log_table("test/scores", columns, [[row[c] for c in columns] for row in table["rows"]])
            if data is not None:
                logger.log_image("test/imputation", [fan_chart(data)])
                logger.log_image("test/calibration", [calibration(data)])
