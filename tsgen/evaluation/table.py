"""The results of a test: scores of the model and of baselines, and data for figures and comparisons.

:class:`Evaluation` is a callback of the test of a model. It scores baselines and exact answers on the same
entries of the same batches. It writes two files: ``scores.json``, the table of scores, and ``evaluation.nc``,
with truth, masks, quantiles and scores of every window and entry. ``docs/scores.md`` defines the scores.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor
from torch.distributions import Distribution, Normal
from torchmetrics import MetricCollection, SumMetric

from tsgen.counter_random import streams, uniforms
from tsgen.data.interpolation import Nearest
from tsgen.data.series import Samples, Series, SeriesBatch
from tsgen.evaluation.baselines import linear_interpolation, node_mean
from tsgen.evaluation.columns import COLUMNS, formatted, printed_columns
from tsgen.evaluation.comparison import intervals
from tsgen.evaluation.terminal import print_table
from tsgen.exact.linear import VARProcess
from tsgen.figures import drawings
from tsgen.heads.likelihood import masked_log_prob
from tsgen.metrics import (
    NLL,
    RMSE,
    EnergyScore,
    GroupedScores,
    Grouping,
    LawCRPS,
    RankHistogram,
    VariogramScore,
    calibrated_quantiles,
    energy_score,
    entries,
    entry_scores,
    groupings,
    has_closed_crps,
    ranks,
    scores,
    variogram_score,
)
from tsgen.metrics.rounding import rounded
from tsgen.models import DensityModel
from tsgen.sampling import Sampler
from tsgen.storage.atomic import replacing, write_text
from tsgen.storage.parts import Parts

MODEL = "model"
"""The name of the tested model among the other answers."""

RANKS = 3
"""Separates the random streams that break ties of ranks from those of samplers and masks."""

BASELINES = {"node mean": node_mean, "linear interpolation": linear_interpolation}
"""Baselines by name; they need no training."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
WITH_INTERVALS = ("mae", "crps", "nll", "coverage_90", "energy_score")
"""Scores whose confidence intervals are printed; the file has those of others too."""

ENTRY = ("window", "step", "node", "channel")
AXES = {
    **dict.fromkeys(("truth", "context", "target", "rank", "crps", "nll", "covered_90", "gap_length"), ENTRY),
    "quantiles": ("quantile", *ENTRY),
    "baseline_error": ("baseline", *ENTRY),
    "energy_score": ENTRY[:1],
    "variogram_score": ENTRY[:1],
    "ess": ENTRY[:2],
}
"""The variables of an evaluation and their axes. In part files the window comes first."""


def summarise(
    samples: Samples,
    batch: SeriesBatch,
    log_prob: Tensor | None = None,
    baselines: Mapping[str, Tensor] | None = None,
) -> dict[str, np.ndarray]:
    """Returns quantiles, ranks and scores of a batch, for figures and comparisons (see :func:`as_dataset`).

    Args:
        samples: Draws of the batch.
        batch: The windows.
        log_prob: Log-density of each entry in nats, if known.
        baselines: Baselines of one draw each, by name.
    """
    ordered = samples.values.sort(dim=0).values
    scored = batch.hidden
    truth = torch.where(batch.context | batch.target, batch.values, torch.nan)
    noise = uniforms(streams(RANKS, batch.position[:, 0]), scored.shape[1:])
    each = entry_scores(*entries(samples.values, batch), None if log_prob is None else log_prob[scored])

    def scattered(score: Tensor | None) -> Tensor:
        full = torch.full_like(truth, torch.nan)
        return full if score is None else full.masked_scatter(scored, score.to(full.dtype))

    arrays = {
        "position": batch.position,
        "truth": truth,
        "context": batch.context,
        "target": scored,
        "quantiles": calibrated_quantiles(ordered, QUANTILES).movedim(0, 1),
        "rank": torch.where(scored, ranks(ordered, truth, noise), -1).int(),
        "crps": scattered(each["crps"]),
        "nll": scattered(each.get("nll")),
        "gap_length": torch.where(scored, Nearest.of(batch.context).gap, 0).int(),
        "energy_score": energy_score(samples.values, batch.values, scored),
        "variogram_score": variogram_score(samples.values, batch.values, scored),
    }
    if "coverage_90" in each:
        arrays["covered_90"] = scattered(each["coverage_90"]) == 1
    if samples.ess is not None:
        arrays["ess"] = samples.ess
    if baselines:
        errors = [(answer[0] - truth).abs().where(scored, torch.nan) for answer in baselines.values()]
        arrays["baseline_error"] = torch.stack(errors, dim=1).float()
    return {name: array.cpu().numpy() for name, array in arrays.items()}


def as_dataset(
    arrays: Mapping[str, np.ndarray], series: Series, baselines: Sequence[str] = (), **attributes: Any
) -> xr.Dataset:
    """Returns windows as a labelled dataset, the content of ``evaluation.nc``.

    It has ``truth``, the masks ``context`` and ``target``, ``quantiles``, the ``rank`` of the truth among the
    samples, and ``gap_length`` in steps (zero where not scored). Scores of entries are ``crps``, ``nll`` and,
    with 19 samples or more, ``covered_90``; those of windows are ``energy_score`` and ``variogram_score``.
    ``baseline_error`` is there if there are baselines, and ``ess`` for weighted particles.

    Args:
        arrays: The arrays that :func:`summarise` returned, windows in order.
        series: The series that the windows are cut from.
        baselines: The names of the baselines whose errors are among the arrays.
        attributes: Attributes of the dataset.
    """
    whole = series.labels()
    data = xr.Dataset(
        {
            name: (axes, np.moveaxis(arrays[name], 0, axes.index("window")))
            for name, axes in AXES.items()
            if name in arrays
        },
        coords={name: whole[name] for name in ("node", "channel", "unit")},
        attrs=attributes,
    )
    time = np.asarray(series.time)[arrays["position"]]
    data = data.assign_coords(quantile=list(QUANTILES), time=(ENTRY[:2], time))
    if "baseline" in data.dims:
        data = data.assign_coords(baseline=list(baselines))
    observed = torch.stack([chunk.observed.sum(dim=(0, 2)) for chunk in series.chunks()]).sum(dim=0)
    data["share_missing"] = ("node", 1 - (observed / (len(series) * len(series.channels))).numpy())
    kept = [name for name in ("position", "edge_source", "edge_target", "edge_weight") if name in whole]
    return data.merge(whole[kept].drop_vars("time", errors="ignore"))


def independent_draws(law: Normal, batch: SeriesBatch, num_samples: int, seed: int) -> Tensor:
    """Draws each entry independently from a Gaussian law; visible entries keep their values."""
    window = batch.position[:, 0]
    stream = streams(seed, window, torch.arange(num_samples, device=window.device)[:, None])
    noise = torch.special.ndtri(uniforms(stream, batch.values.shape[1:], dtype=law.mean.dtype))
    return torch.where(batch.context, batch.values.to(noise.dtype), law.mean + law.stddev * noise)


class _Row:
    """Accumulates the scores of one answer, the model's or another's: a row of the table.

    Args:
        name: The name of the answer.
        conditioning: What its draws are conditioned on; None for an answer without a density.
        groupings: Groups of entries that are also scored separately.
        module: The tested model.
        kept: Whether the model itself accumulates the scores of this answer.
        joint: Whether its draws are joint.
    """

    def __init__(
        self,
        name: str,
        conditioning: str | None,
        groupings: Sequence[Grouping],
        module: DensityModel,
        kept: bool = False,
        joint: bool = True,
    ) -> None:
        self.name, self.conditioning, self.kept, device = name, conditioning, kept, module.device
        self.scores = module.test_scores if kept else scores().to(device)
        self.nll = module.test_nll if kept else NLL().to(device)
        of_windows = {"energy_score": EnergyScore(), "variogram_score": VariogramScore()} if joint else {}
        self.of_windows = MetricCollection(dict(of_windows), compute_groups=False).to(device)
        self.of_law, self.law_is_known, self.groupings = LawCRPS().to(device), False, groupings
        self.grouped = [GroupedScores(grouping.labels).to(device) for grouping in groupings]
        self.from_exact, self.windows = RMSE().to(device), NLL().to(device)
        self.counts = {name: SumMetric().to(device) for name in ("windows", "entries")}
        self.measured = False

    def update(
        self,
        batch: SeriesBatch,
        samples: Tensor | None,
        log_prob: Tensor | None,
        law: Distribution | None = None,
    ) -> None:
        """Scores an answer to a batch.

        Args:
            batch: The windows.
            samples: Draws; None if no entry is hidden.
            log_prob: Log-density of each entry in nats, if known.
            law: The law of the draws, if known.
        """
        if log_prob is not None:
            if not self.kept:
                self.nll.update(log_prob, batch.target)
            self.counts["windows"].update(len(batch.values))
            self.counts["entries"].update(batch.target.sum())
            self.windows.update(log_prob.sum(dim=(1, 2, 3)), batch.target.flatten(1).any(dim=1))
        if samples is not None:
            self._update_draws(batch, samples, log_prob)
        if law is not None and has_closed_crps(law):
            self.of_law.update(law, batch.values, batch.hidden)
            self.law_is_known = True

    def _update_draws(self, batch: SeriesBatch, samples: Tensor, log_prob: Tensor | None) -> None:
        drawn, truth = entries(samples, batch)
        if not self.kept:
            self.scores.update(drawn, truth)
        if self.of_windows:
            self.of_windows.update(samples, batch.values, batch.hidden)
        if self.grouped:
            each = entry_scores(drawn, truth, None if log_prob is None else log_prob[batch.hidden])
            for grouping, metric in zip(self.groupings, self.grouped, strict=True):
                metric.update(each, grouping.of(batch)[batch.hidden])

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Returns the scores by groups of entries."""
        return {g.key: metric.table() for g, metric in zip(self.groupings, self.grouped, strict=True)}

    def compute(self, nothing_hidden: bool) -> dict[str, Any]:
        """Returns a row of the table; NLL, coverage, width and interval scores need a density."""
        if nothing_hidden:
            computed = {"log_likelihood": -self.windows.compute()}
        else:
            computed = dict(self.scores.compute())
            computed |= {"crps_law": self.of_law.compute()} if self.law_is_known else {}
            computed |= self.of_windows.compute() if self.of_windows else {}
        if self.conditioning is not None:
            computed["nll"] = self.nll.compute()
        if self.measured:
            computed["from_exact"] = self.from_exact.compute()
        row: dict[str, Any] = {"name": self.name, "conditioning": self.conditioning}
        for key in COLUMNS:
            value = float(computed.get(key, torch.nan))
            undefined = self.conditioning is None and key.startswith(("coverage", "width", "interval"))
            row[key] = None if undefined or not math.isfinite(value) else rounded(value)
        return row


class Evaluation(Callback):
    """Scores the model and baselines in a test, and writes the files that the report is made from.

    If no entry is hidden there are no draws to score, and the table has log-densities only.

    Args:
        folder: The folder for ``scores.json`` and ``evaluation.nc``.
        series: The series that the windows are cut from.
        run: The run's name.
        exact: The process that the data was drawn from, if known. Its exact filtering and posterior answers
            are two more rows of the table.
        horizon: Steps at the end of a window that are forecast, for scores by lead time; 0 if no entry is
            hidden.
    """

    def __init__(
        self,
        folder: Path,
        series: Series,
        run: str,
        exact: VARProcess | None = None,
        horizon: int | None = None,
    ) -> None:
        self.folder, self.series, self.run, self.exact = folder, series, run, exact
        self.nothing_hidden, self.horizon = horizon == 0, horizon or 0
        self.parts = Parts(folder / "evaluation.parts")
        self.rows: dict[str, _Row] = {}

    def on_test_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Creates the rows of the table and removes part files of an earlier test."""
        if not isinstance(module, DensityModel):
            raise ValueError(f"Evaluation needs a DensityModel; got {type(module).__name__}.")
        names: dict[str, str | None] = {}
        if not self.nothing_hidden:
            names |= dict.fromkeys(BASELINES)
        if self.exact is not None:
            names |= {"exact filtering": "filtering"}
            names |= {} if self.nothing_hidden else {"exact posterior": "posterior"}
        of_model = [] if self.nothing_hidden else groupings(self.series, self.horizon)
        leads = [grouping for grouping in of_model if grouping.key == "by_lead_time"]
        self.rows = {MODEL: _Row(type(module).__name__, "filtering", of_model, module, kept=True)}
        for name, conditioning in names.items():
            of_exact = leads if name == "exact posterior" else []
            # exact filtering draws entries independently, so that joint scores do not apply
            self.rows[name] = _Row(name, conditioning, of_exact, module, joint=name != "exact filtering")
        self.ranks = RankHistogram(module.sampler.num_samples).to(module.device)
        if trainer.is_global_zero:
            self.parts.clear()
        trainer.strategy.barrier()

    def on_test_batch_end(
        self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Scores all answers to a batch and writes the model's quantiles and scores to a part file."""
        laws: dict[str, Any] = {}
        if self.exact is not None:
            laws["exact filtering"] = self.exact.predictive(batch)
        if self.nothing_hidden:
            self.rows[MODEL].update(batch, None, outputs["log_prob"])
            for name, law in laws.items():
                self.rows[name].update(batch, None, masked_log_prob(law, batch.values, batch.target))
            return
        samples: Samples = outputs["samples"]
        self.rows[MODEL].conditioning = samples.conditioning
        baselines = {name: answer(batch, module.node_units) for name, answer in BASELINES.items()}
        drawn = {MODEL: samples.values, **baselines}
        if self.exact is not None:
            self._add_exact(batch, laws, drawn, module.sampler)
        densities = {name: masked_log_prob(law, batch.values, batch.target) for name, law in laws.items()}
        densities[MODEL] = outputs["log_prob"]
        laws[MODEL] = module.drawn_law(batch)
        for name, values in drawn.items():
            self.rows[name].update(batch, values, densities.get(name), laws.get(name))
        arrays = summarise(samples, batch, densities[MODEL], baselines) | {
            "conditioning": np.array(samples.conditioning)
        }
        self.ranks.update(torch.from_numpy(arrays["rank"]).to(self.ranks.device).long())
        self.parts.write(f"{trainer.global_rank:04d}-{batch_idx:06d}", arrays)

    def _add_exact(
        self, batch: SeriesBatch, laws: dict[str, Any], drawn: dict[str, Tensor], sampler: Sampler
    ) -> None:
        """Adds the exact laws and draws, and scores the distance of every answer to the exact posterior."""
        assert self.exact is not None
        size, seed = sampler.num_samples, sampler.seed
        filtering = laws["exact filtering"]
        posterior = laws["exact posterior"] = self.exact.posterior(batch)
        drawn["exact filtering"] = independent_draws(filtering, batch, size, seed)
        drawn["exact posterior"] = self.exact.impute(batch, size, seed).values
        for name, values in drawn.items():
            standard, _ = entries((values - posterior.mean) / posterior.stddev, batch)
            self.rows[name].from_exact.update(standard, torch.zeros_like(standard[0]))
            self.rows[name].measured = True

    def on_test_epoch_end(self, trainer: Trainer, module: Any) -> None:
        """Computes the table (all processes), writes the files and prints the table (the first process)."""
        rows = [row.compute(self.nothing_hidden) for row in self.rows.values()]
        grouped = {name: row.tables() for name, row in self.rows.items() if row.grouped}
        histogram = {} if self.nothing_hidden else self.ranks.table()
        count = {name: int(metric.compute()) for name, metric in self.rows[MODEL].counts.items()}
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        attributes = {
            "run": self.run,
            "model": type(module).__name__,
            "conditioning": rows[0]["conditioning"],
            "num_samples": module.sampler.num_samples,
            "horizon": self.horizon,
        }
        if hasattr(module.sampler, "particles"):
            attributes["particles"] = module.sampler.particles
        # remove both first: scores must never lie beside the windows of another test
        (self.folder / "scores.json").unlink(missing_ok=True)
        (self.folder / "evaluation.nc").unlink(missing_ok=True)
        data = None if self.nothing_hidden else self._written(attributes)
        table = {**attributes, **count, "rows": rows}
        if data is not None:
            table |= {"intervals": intervals(data), "rank_histogram": histogram, **grouped[MODEL]}
        if "exact posterior" in grouped:
            table["by_lead_time_exact"] = grouped["exact posterior"]["by_lead_time"]
        write_text(self.folder / "scores.json", json.dumps(table, indent=1, ensure_ascii=False) + "\n")
        show(table)
        log_to_wandb(trainer, data, table)

    def _written(self, attributes: Mapping[str, Any]) -> xr.Dataset:
        """Writes all windows to ``evaluation.nc`` and returns them."""
        arrays = self.parts.read()
        conditioning = str(arrays.pop("conditioning"))
        attributes = {**attributes, "conditioning": conditioning}
        data = as_dataset(arrays, self.series, list(BASELINES), **attributes)
        with replacing(self.folder / "evaluation.nc") as unfinished:
            data.to_netcdf(unfinished)
        self.parts.clear()
        return data


def show(table: Mapping[str, Any]) -> None:
    """Prints the table of scores."""
    columns = printed_columns(table["rows"])
    rows = [(_named(row), *(formatted(row[key]) for key in columns)) for row in table["rows"]]
    hidden, remarks = "hidden " * ("by_node" in table), []
    if hidden:
        remarks.append(_said(table["intervals"]))
        if "filtering" in {row["conditioning"] for row in table["rows"]}:
            remarks.append(
                "Filtering uses what came before an entry; interpolation and the posterior also use what "
                "came after it."
            )
    title = f"{table['run']}: {table['entries']:,} {hidden}entries in {table['windows']:,} windows"
    print_table(title, ["", *columns.values()], rows, remarks=remarks)


def _named(row: Mapping[str, Any]) -> str:
    """Returns the name of an answer, with its conditioning where the name does not say it."""
    if row["conditioning"] is None or row["name"].startswith("exact"):
        return str(row["name"])
    return f"{row['name']} ({row['conditioning']})"


def _said(spans: Mapping[str, Sequence[float]]) -> str:
    """Returns the intervals of the model's scores as one sentence."""
    shown = [
        f"{COLUMNS[key]} {' to '.join(map(formatted, spans[key]))}" for key in WITH_INTERVALS if key in spans
    ]
    if not shown:
        return "Too few windows for intervals of the scores."
    return f"The model's 95 % intervals over windows: {', '.join(shown)}."


def log_to_wandb(trainer: Trainer, data: xr.Dataset | None, table: Mapping[str, Any]) -> None:
    """Logs the table and the figures of the report to every W&B logger."""
    loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
    if not loggers:
        return
    figures = {name: draw(3) for name, draw in drawings(data, table).items()} if data is not None else {}
    columns = ["name", "conditioning", *COLUMNS]
    for logger in loggers:
        logger.log_table("test/scores", columns, [[row[c] for c in columns] for row in table["rows"]])
        for key in ("by_node", "by_gap_length", "by_lead_time"):
            if rows := table.get(key):
                names = list(rows[0])
                cells = [[row.get(name) for name in names] for row in rows]
                logger.log_table(f"test/scores_{key}", names, cells)
        for name, figure in figures.items():
            logger.log_image(f"test/{name}", [figure])
