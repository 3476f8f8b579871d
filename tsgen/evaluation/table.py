"""The results of a test: scores of the model and of baselines, and data for figures and comparisons.

:class:`Evaluation` is a callback for ``Trainer.test``. It scores the model and, on the same entries of the
same batches, the baselines and, if the process is known, the exact distributions. All of these are called
*methods*. The callback writes two files: ``scores.json``, the table of scores, and ``evaluation.nc``, with
truth, masks, quantiles and scores of every window and entry. ``docs/scores.md`` defines the scores.
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

from tsgen.argument_types import check_arguments
from tsgen.counter_random import streams, uniforms
from tsgen.data.interpolation import Nearest
from tsgen.data.series import Samples, Series, SeriesBatch
from tsgen.evaluation.baselines import Baseline, fit_baselines, law_scores, median
from tsgen.evaluation.bootstrap import MIN_WINDOWS
from tsgen.evaluation.columns import (
    COLUMNS,
    NLL_HEADINGS,
    Measure,
    format_number,
    lowest_crps,
    measure_of,
    of_one_measure,
    printed_columns,
)
from tsgen.evaluation.comparison import intervals
from tsgen.evaluation.terminal import print_table
from tsgen.exact.linear import VARProcess
from tsgen.exact.markov import MarkovProcess, ParticleMixture
from tsgen.figures import drawings
from tsgen.heads.likelihood import masked_log_prob
from tsgen.metrics import (
    MAE,
    MRE,
    NLL,
    RMSE,
    EnergyScore,
    ExceedanceScores,
    FarDraws,
    GroupedScores,
    Grouping,
    LawCRPS,
    QuantileScores,
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
from tsgen.metrics.breakdown import better_baselines
from tsgen.metrics.rounding import rounded
from tsgen.models import DensityModel
from tsgen.storage.atomic import replacing, write_text
from tsgen.storage.parts import Parts

MODEL = "model"
"""The key of the tested model among the methods."""

TIE_STREAM = 3
"""Separates the random streams that break ties of ranks from those of samplers and masks."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""The levels of the quantiles in ``evaluation.nc``."""

PRINTED_INTERVALS = ("mae", "crps", "nll", "coverage_90", "energy_score")
"""The scores whose confidence intervals are printed; ``scores.json`` has the intervals of all scores."""

ENTRY = ("window", "step", "node", "channel")
"""The axes of a variable with one value per entry."""

AXES = {
    **dict.fromkeys(("truth", "context", "target", "rank", "crps", "nll", "covered_90", "gap_length"), ENTRY),
    "quantiles": ("quantile", *ENTRY),
    **dict.fromkeys(
        ("baseline_error", "baseline_crps", "baseline_nll", "baseline_covered_90"), ("baseline", *ENTRY)
    ),
    "energy_score": ENTRY[:1],
    "variogram_score": ENTRY[:1],
    "ess": ENTRY[:2],
}
"""The variables of ``evaluation.nc`` and their axes. In part files the window is the first axis."""


def summarise(
    samples: Samples,
    batch: SeriesBatch,
    log_prob: Tensor | None = None,
    baselines: Mapping[str, Distribution] | None = None,
) -> dict[str, np.ndarray]:
    """Returns quantiles, ranks and scores of a batch, for figures and comparisons (see :func:`as_dataset`).

    Args:
        samples: Draws of the batch.
        batch: The windows.
        log_prob: Log-density of each entry in nats, if known.
        baselines: The laws of each entry under the baselines, by name.
    """
    ordered = samples.values.sort(dim=0).values
    scored = batch.hidden
    truth = torch.where(batch.context | batch.target, batch.values, torch.nan)
    noise = uniforms(streams(TIE_STREAM, batch.position[:, 0]), scored.shape[1:])
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
        found = [law_scores(law, truth, scored) for law in baselines.values()]
        arrays |= {
            f"baseline_{name}": torch.stack([scores[name] for scores in found], dim=1) for name in found[0]
        }
    return {name: array.cpu().numpy() for name, array in arrays.items()}


def as_dataset(
    arrays: Mapping[str, np.ndarray], series: Series, baselines: Sequence[str] = (), **attributes: Any
) -> xr.Dataset:
    """Returns windows as a labelled dataset, the content of ``evaluation.nc``.

    It has ``truth``, the masks ``context`` and ``target``, ``quantiles``, the ``rank`` of the truth among the
    samples, and ``gap_length`` in steps (zero where not scored). The scores per entry are ``crps``, ``nll``
    and, with 19 samples or more, ``covered_90``; the scores per window are ``energy_score`` and
    ``variogram_score``. If there are baselines, ``baseline_error``, ``baseline_crps``, ``baseline_nll`` and
    ``baseline_covered_90`` are the scores of their laws in closed form; ``baseline_error`` is the absolute
    error of the median. ``ess`` exists for weighted particles.

    Args:
        arrays: The arrays that :func:`summarise` returned, windows in order.
        series: The series that the windows are cut from.
        baselines: The names of the baselines whose errors are among the arrays.
        attributes: Attributes of the dataset.
    """
    labels = series.labels()
    data = xr.Dataset(
        {
            name: (axes, np.moveaxis(arrays[name], 0, axes.index("window")))
            for name, axes in AXES.items()
            if name in arrays
        },
        coords={name: labels[name] for name in ("node", "channel", "unit")},
        attrs=attributes,
    )
    time = np.asarray(series.time)[arrays["position"]]
    data = data.assign_coords(quantile=list(QUANTILES), time=(ENTRY[:2], time))
    if "baseline" in data.dims:
        data = data.assign_coords(baseline=list(baselines))
    observed = torch.stack([chunk.observed.sum(dim=(0, 2)) for chunk in series.chunks()]).sum(dim=0)
    data["share_missing"] = ("node", 1 - (observed / (len(series) * len(series.channels))).numpy())
    kept = [name for name in ("position", "edge_source", "edge_target", "edge_weight") if name in labels]
    return data.merge(labels[kept].drop_vars("time", errors="ignore"))


def independent_draws(
    law: Normal | ParticleMixture, batch: SeriesBatch, num_samples: int, seed: int
) -> Tensor:
    """Draws each entry from its law, independently of other steps; visible entries keep their values."""
    window = batch.position[:, 0]
    stream = streams(seed, window, torch.arange(num_samples, device=window.device)[:, None])
    if isinstance(law, ParticleMixture):
        drawn = law.draw(stream)
        return torch.where(batch.context, batch.values.to(drawn.dtype), drawn)
    noise = torch.special.ndtri(uniforms(stream, batch.values.shape[1:], dtype=law.mean.dtype))
    return torch.where(batch.context, batch.values.to(noise.dtype), law.mean + law.stddev * noise)


class _Row:
    """Accumulates the scores of one method: a row of the table.

    Args:
        name: The name of the method.
        conditioning: ``"filtering"`` or ``"posterior"``; None for a baseline.
        groupings: Groups of entries that are also scored separately.
        module: The tested model.
        is_model: Whether the method is the tested model, which accumulates its own entry scores and NLL.
        joint: Whether its draws are joint, so that scores of whole windows apply.
        by_law: Whether the errors of the median and the CRPS are those of the law rather than of the draws.
    """

    def __init__(
        self,
        name: str,
        conditioning: str | None,
        groupings: Sequence[Grouping],
        module: DensityModel,
        is_model: bool = False,
        joint: bool = True,
        by_law: bool = False,
    ) -> None:
        self.name, self.conditioning, self.is_model, device = name, conditioning, is_model, module.device
        self.scores = module.test_scores if is_model else scores().to(device)
        self.nll = module.test_nll if is_model else NLL().to(device)
        joint_scores = {"energy_score": EnergyScore(), "variogram_score": VariogramScore()} if joint else {}
        self.joint_scores = MetricCollection(dict(joint_scores), compute_groups=False).to(device)
        self.law_crps, self.law_is_known, self.groupings = LawCRPS().to(device), False, groupings
        self.grouped = [GroupedScores(grouping.labels).to(device) for grouping in groupings]
        self.from_exact, self.window_nll = RMSE().to(device), NLL().to(device)
        self.counts = {name: SumMetric().to(device) for name in ("windows", "entries")}
        self.exact_is_known = False
        errors = {"mae": MAE(), "rmse": RMSE(), "mre": MRE()} if by_law else {}
        self.errors = MetricCollection(dict(errors), compute_groups=False).to(device)

    def update(
        self,
        batch: SeriesBatch,
        samples: Tensor | None,
        log_prob: Tensor | None,
        law: Distribution | None = None,
    ) -> None:
        """Adds the scores of a batch.

        Args:
            batch: The windows.
            samples: Draws; None if no entry is hidden.
            log_prob: Log-density of each entry in nats, if known.
            law: The law of the draws, if known.
        """
        if log_prob is not None:
            if not self.is_model:
                self.nll.update(log_prob, batch.target)
            self.counts["windows"].update(len(batch.values))
            self.counts["entries"].update(batch.target.sum())
            self.window_nll.update(log_prob.sum(dim=(1, 2, 3)), batch.target.flatten(1).any(dim=1))
        if samples is not None:
            self._update_draws(batch, samples, log_prob)
        if law is not None and has_closed_crps(law):
            self.law_crps.update(law, batch.values, batch.hidden)
            self.law_is_known = True
        if law is not None and self.errors:
            self.errors.update(*entries(median(law)[None], batch))

    def _update_draws(self, batch: SeriesBatch, samples: Tensor, log_prob: Tensor | None) -> None:
        drawn, truth = entries(samples, batch)
        if not self.is_model:
            self.scores.update(drawn, truth)
        if self.joint_scores:
            self.joint_scores.update(samples, batch.values, batch.hidden)
        if self.grouped:
            each = entry_scores(drawn, truth, None if log_prob is None else log_prob[batch.hidden])
            for grouping, metric in zip(self.groupings, self.grouped, strict=True):
                metric.update(each, grouping.of(batch)[batch.hidden])

    def add_distance(self, batch: SeriesBatch, samples: Tensor, posterior: Normal) -> None:
        """Adds the distance of the median of the draws to the exact posterior mean."""
        standard, _ = entries((samples - posterior.mean) / posterior.stddev, batch)
        self.from_exact.update(standard, torch.zeros_like(standard[0]))
        self.exact_is_known = True

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        """Returns the scores by groups of entries."""
        return {g.key: metric.table() for g, metric in zip(self.groupings, self.grouped, strict=True)}

    def compute(self, nothing_hidden: bool) -> dict[str, Any]:
        """Returns the row of the table; a score is None if it is undefined for the method."""
        if nothing_hidden:
            computed = {"log_likelihood": -self.window_nll.compute()}
        else:
            computed = dict(self.scores.compute())
            computed |= {"crps_law": self.law_crps.compute()} if self.law_is_known else {}
            computed |= self.joint_scores.compute() if self.joint_scores else {}
            if self.errors:
                computed |= {**self.errors.compute(), "crps": computed["crps_law"]}
        computed["nll"] = self.nll.compute()
        if self.exact_is_known:
            computed["from_exact"] = self.from_exact.compute()
        row: dict[str, Any] = {"name": self.name, "conditioning": self.conditioning}
        for key in COLUMNS:
            value = float(computed.get(key, torch.nan))
            row[key] = rounded(value) if math.isfinite(value) else None
        return row


@check_arguments
class Evaluation(Callback):
    """Scores the model and baselines in a test, and writes the files that the report is made from.

    If no entry is hidden there are no draws to score, and the table has log-densities only.

    Args:
        folder: The folder for ``scores.json`` and ``evaluation.nc``.
        series: The series that the windows are cut from.
        run: The run's name.
        train: The stretches of the series that the baselines are fitted on: those of the training split.
        exact: The process that the data was drawn from, if known. Its exact filtering and posterior
            distributions are two more rows of the table; for a process that is known one step ahead, only the
            first.
        horizon: The number of steps at the end of a window that are forecast, for scores by lead time; 0 if
            no entry is hidden; None if there is no forecast.
        exceedance: Thresholds x in data units, of any channel, for scores of "more than x" in
            ``scores.json``.

    Raises:
        ValueError: If a threshold is not finite.
    """

    def __init__(
        self,
        folder: Path,
        series: Series,
        run: str,
        train: Sequence[slice],
        exact: VARProcess | MarkovProcess | None = None,
        horizon: int | None = None,
        exceedance: Sequence[float] = (),
    ) -> None:
        self.quantile_scores = QuantileScores()
        self.exceedance = ExceedanceScores(exceedance) if exceedance else None
        self.train, self.baselines, self.remarks = train, dict[str, Baseline](), list[str]()
        self.folder, self.series, self.run, self.exact = Path(folder), series, run, exact
        self.linear = exact if isinstance(exact, VARProcess) else None
        self.nothing_hidden, self.horizon = horizon == 0, horizon or 0
        self.parts = Parts(self.folder / "evaluation.parts")
        self.rows: dict[str, _Row] = {}

    def on_test_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Fits the baselines, creates the rows of the table and removes part files of an earlier test."""
        if not isinstance(module, DensityModel):
            raise ValueError(f"Evaluation needs a DensityModel; got {type(module).__name__}.")
        names: dict[str, str | None] = {}
        if not self.nothing_hidden:
            self.baselines, self.remarks = fit_baselines(self.series, self.train)
            names |= dict.fromkeys(self.baselines)
        if self.exact is not None:
            names |= {"exact filtering": "filtering"}
        if self.linear is not None and not self.nothing_hidden:
            names |= {"exact posterior": "posterior"}
        of_model = [] if self.nothing_hidden else groupings(self.series, self.horizon)
        leads = [grouping for grouping in of_model if grouping.key == "by_lead_time"]
        self.rows = {MODEL: _Row(type(module).__name__, "filtering", of_model, module, is_model=True)}
        for name, conditioning in names.items():
            of_exact = leads if name == "exact posterior" else []
            # the others draw entries independently, so that joint scores do not apply
            joint, by_law = name == "exact posterior", name in self.baselines
            self.rows[name] = _Row(name, conditioning, of_exact, module, joint=joint, by_law=by_law)
        self.ranks = RankHistogram(module.sampler.num_samples).to(module.device)
        self.quantile_scores.to(module.device).reset()
        if self.exceedance is not None:
            self.exceedance.to(module.device).reset()
        self.far_draws = FarDraws(module.node_units).to(module.device)
        if not self.nothing_hidden:
            self.far_draws.observe_series(self.series)
        if trainer.is_global_zero:
            self.parts.clear()
        trainer.strategy.barrier()

    def on_test_batch_end(
        self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Scores all methods on a batch and writes the model's quantiles and scores to a part file."""
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
        baselines = {name: baseline.law(batch) for name, baseline in self.baselines.items()}
        laws |= baselines
        drawn = {MODEL: samples.values}
        if self.linear is not None:
            laws["exact posterior"] = self.linear.posterior(batch)
            exact_draws = self.linear.impute(batch, module.sampler.num_samples, module.sampler.seed)
            drawn["exact posterior"] = exact_draws.values
        densities = {name: masked_log_prob(law, batch.values, batch.target) for name, law in laws.items()}
        densities[MODEL] = outputs["log_prob"]
        laws[MODEL] = module.drawn_law(batch)
        self.far_draws.update(samples.values, ~batch.context)
        self.quantile_scores.update(*entries(samples.values, batch))
        if self.exceedance is not None:
            self.exceedance.update(*entries(samples.values, batch))
        for name, row in self.rows.items():
            values = drawn.get(name)
            if values is None:
                values = independent_draws(laws[name], batch, module.sampler.num_samples, module.sampler.seed)
            row.update(batch, values, densities.get(name), laws.get(name))
            if self.linear is not None:
                row.add_distance(batch, values, laws["exact posterior"])
        arrays = summarise(samples, batch, densities[MODEL], baselines) | {
            "conditioning": np.array(samples.conditioning)
        }
        self.ranks.update(torch.from_numpy(arrays["rank"]).to(self.ranks.device).long())
        self.parts.write(f"{trainer.global_rank:04d}-{batch_idx:06d}", arrays)

    def on_test_epoch_end(self, trainer: Trainer, module: Any) -> None:
        """Computes the table (all processes), writes the files and prints the table (the first process)."""
        rows = [row.compute(self.nothing_hidden) for row in self.rows.values()]
        grouped = {name: row.tables() for name, row in self.rows.items() if row.grouped}
        histogram = {} if self.nothing_hidden else self.ranks.table()
        far_draws = self.far_draws.warning(self.series.nodes, self.series.channels)
        quantile_scores = [] if self.nothing_hidden else self.quantile_scores.table()
        exceedance = [] if self.nothing_hidden or self.exceedance is None else self.exceedance.table()
        for name, row in zip(self.rows, rows, strict=True):
            row |= self._measure(name, module)
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
            "support": module.node_units.supports,
        }
        if hasattr(module.sampler, "particles"):
            attributes["particles"] = module.sampler.particles
        # remove both first: scores.json must never lie beside the evaluation.nc of another test
        (self.folder / "scores.json").unlink(missing_ok=True)
        (self.folder / "evaluation.nc").unlink(missing_ok=True)
        data = None if self.nothing_hidden else self._write_evaluation(attributes)
        table = {**attributes, **count, "rows": rows}
        if data is not None:
            table["far_draws"] = far_draws
            table["baselines"] = [*self.remarks, *_warnings(data)]
            table["quantile_scores"] = quantile_scores
            table |= {"exceedance": exceedance} if exceedance else {}
            table |= {"intervals": intervals(data), "rank_histogram": histogram, **grouped[MODEL]}
        if "exact posterior" in grouped:
            table["by_lead_time_exact"] = grouped["exact posterior"]["by_lead_time"]
        write_text(self.folder / "scores.json", json.dumps(table, indent=1, ensure_ascii=False) + "\n")
        print_scores(table)
        log_to_wandb(trainer, data, table)

    def _measure(self, name: str, module: Any) -> dict[str, Measure]:
        """Returns the measure of a row's NLL, unless it is a density on the real line.

        The laws of the model and of the exact process are on the supports of the channels, those of the
        baselines on the real line.
        """
        on_support = module.transforms is not None if name == MODEL else name.startswith("exact")
        measure = measure_of(one.values for one in module.spec.transforms or () if on_support)
        return {} if measure == "density" else {"measure": measure}

    def _write_evaluation(self, attributes: Mapping[str, Any]) -> xr.Dataset:
        """Writes all windows to ``evaluation.nc`` and returns them."""
        arrays = self.parts.read()
        conditioning = str(arrays.pop("conditioning"))
        attributes = {**attributes, "conditioning": conditioning}
        data = as_dataset(arrays, self.series, list(self.baselines), **attributes)
        with replacing(self.folder / "evaluation.nc") as unfinished:
            data.to_netcdf(unfinished)
        self.parts.clear()
        return data


def print_scores(table: Mapping[str, Any]) -> None:
    """Prints the table of scores."""
    scored, remarks = of_one_measure(table["rows"])
    columns = printed_columns(scored)
    if "nll" in columns:
        columns["nll"] = NLL_HEADINGS[scored[0].get("measure", "density")]
    rows = [(_label(row), *(format_number(row[key]) for key in columns)) for row in scored]
    hidden = "hidden " * ("by_node" in table)
    if hidden:
        remarks.append(_interval_remark(table["intervals"]))
        if "filtering" in {row["conditioning"] for row in table["rows"]}:
            remarks.append(
                "Filtering uses only earlier observations; baselines and the posterior also use later ones."
            )
        remarks += [remark] if (remark := lowest_crps(table["rows"])) else []
        remarks += table.get("baselines", [])
    if table["entries"] and table["rows"][0]["nll"] is None:
        remarks.append(
            "Warning: the model's NLL is not finite: some scored entries have no density under it. Look at "
            "the data for extreme values."
        )
    if table.get("far_draws"):
        remarks.append(f"Warning: {table['far_draws']}")
    title = f"{table['run']}: {table['entries']:,} {hidden}entries in {table['windows']:,} windows"
    print_table(title, ["", *columns.values()], rows, remarks=remarks)
    if table.get("exceedance"):
        print_exceedance(table["exceedance"])


def print_exceedance(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints the model's scores of "more than x"."""
    columns = {"frequency": "share", "probability": "predicted", "brier": "Brier", "crps_above": "CRPS above"}
    cells = [(f"> {row['threshold']:g}", *(format_number(row[key]) for key in columns)) for row in rows]
    print_table("Values above a threshold", ["", *columns.values()], cells)


def _warnings(data: xr.Dataset) -> list[str]:
    """Returns a warning that names the best of the baselines that are better than the model, if any."""
    better = better_baselines(data)
    if not better:
        return []
    lower, higher = format_number(better[0].baseline), format_number(better[0].model)
    advice = "train longer, or choose another model."
    if data.attrs["conditioning"] == "filtering" and not data.attrs["horizon"]:
        advice = "it also uses later observations, as a posterior sampler or an AnyOrderModel would."
    return [
        f"Warning: {better[0].name} has a lower CRPS than the model ({lower} < {higher}): {advice}",
    ]


def _label(row: Mapping[str, Any]) -> str:
    """Returns the name of a method, with its conditioning unless the name contains it."""
    if row["conditioning"] is None or row["name"].startswith("exact"):
        return str(row["name"])
    return f"{row['name']} ({row['conditioning']})"


def _interval_remark(ends: Mapping[str, Sequence[float]]) -> str:
    """Returns the confidence intervals of the model's scores as one sentence."""
    shown = [
        f"{COLUMNS[key]} {' to '.join(map(format_number, ends[key]))}"
        for key in PRINTED_INTERVALS
        if key in ends
    ]
    if not shown:
        return f"Intervals of the scores need at least {MIN_WINDOWS} windows."
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
