r"""A check of imputations on the data at hand, without a test set: hide a tenth, impute it, compare.

:func:`self_check` hides a tenth of what is observed in a series, half of it in gaps that the series has
elsewhere and half of it as single entries (:func:`hide_part`). It has the rest imputed, fits the baselines
to the rest, and scores the model and the baselines on the same hidden entries (:func:`who_wins`). The result
says which method has the lowest CRPS, and whether the intervals of the model contain as many truths as they
should. Of gaps longer than 48 steps the check knows nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from tsgen.argument_types import check_arguments
from tsgen.counter_random import streams, uniforms
from tsgen.data.masks import HistoricalMask
from tsgen.data.series import GraphSeries, SeriesBatch
from tsgen.evaluation.baselines import Fitted, fit_baselines, law_scores
from tsgen.evaluation.columns import format_number
from tsgen.metrics import RankHistogram, entry_scores, ranks

SHARE = 0.1
"""The share of the observed entries that is hidden."""

WINDOW = 48
"""Gaps are replayed within windows of this many steps."""

STREAM = 17
"""Separates the random streams of this module from others with the same seed."""

MODEL = "model"
"""The name of the imputing model among the methods."""

LOWEST_COVERAGE = 0.8
"""If fewer truths than this lie in the model's 90 % intervals, they are too narrow to be trusted."""

Impute = Callable[[GraphSeries], Tensor | xr.Dataset]
"""Returns draws ``[samples, time, nodes, channels]`` of all entries of a series, in data units, or a dataset
as :func:`tsgen.impute` returns it: ``partial(tsgen.impute, model)`` is one."""


class TooLittleObservedError(ValueError):
    """Raised if a series has so few observed entries that none of them can be hidden."""


@dataclass(frozen=True)
class SelfCheck:
    """The scores of the model and of the baselines on the same hidden entries.

    Attributes:
        entries: The number of hidden entries.
        scores: For each method ``mae``, ``crps`` and, with at least 19 draws, ``coverage_90``, in data units;
            ``crps_relative`` is the CRPS in deviations of each channel, so that channels count alike. The
            model comes first.
        excess: For each baseline by how many standard errors the relative CRPS of the model is higher than
            its own, as if entries were independent.
        rank_histogram: The ranks of the truths among the draws of the model: ``counts`` of bins, and how many
            ``ranks`` each contains. If the model is calibrated, counts are proportional to ranks.
        remarks: A remark on each baseline that was left out.
    """

    entries: int
    scores: dict[str, dict[str, float]]
    excess: dict[str, float]
    rank_histogram: dict[str, list[int]]
    remarks: list[str]

    @property
    def best(self) -> str:
        """The method with the lowest relative CRPS."""
        return min(self.scores, key=lambda name: self.scores[name]["crps_relative"])

    @property
    def warnings(self) -> list[str]:
        """What speaks against the model: the best baseline that is clearly better, and low coverage."""
        found = []
        better = {name: self.scores[name] for name, excess in self.excess.items() if excess > 2}
        own = self.scores[MODEL]
        if better:
            name = min(better, key=lambda one: better[one]["crps_relative"])
            lower, higher = format_number(better[name]["crps"]), format_number(own["crps"])
            found.append(
                f"{name} has a lower CRPS than the model on {self.entries:,} hidden entries ({lower} < "
                f"{higher})."
            )
        if own.get("coverage_90", 1.0) < LOWEST_COVERAGE:
            found.append(
                f"The model's 90 % intervals contain {100 * own['coverage_90']:.0f} % of {self.entries:,} "
                "hidden entries: they are too narrow."
            )
        return found


@check_arguments
def hide_part(
    series: GraphSeries, share: float = SHARE, seed: int = 0
) -> Bool[Tensor, "time nodes channels"]:
    """Returns which observed entries to hide: up to half of the share in gaps of the series, the rest singly.

    In randomly chosen windows of 48 steps the entries that are missing in another window are hidden. No node
    and channel loses all of its values.

    Args:
        series: The series.
        share: The expected share of the observed entries that is hidden, in 0..1.
        seed: Fixes the draw.

    Raises:
        ValueError: If the share leaves 0..1.
        TooLittleObservedError: If no entry can be hidden.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1; it is {share}.")
    observed, hidden = series.observed, torch.zeros_like(series.observed)
    window = min(WINDOW, len(series))
    starts = torch.arange(0, len(series) - window + 1, window)
    batch = series.windows(starts, window)
    replayed = HistoricalMask().replaying(series, [slice(0, len(series))])
    gaps = replayed.hidden(streams(seed, torch.tensor(STREAM), starts), batch.values) & batch.context
    budget = share / 2 * int(observed.sum())
    count = gaps.flatten(1).sum(dim=1)
    order = uniforms(streams(seed, torch.tensor(STREAM + 1), starts), (1,))[:, 0].argsort()
    order = order[count[order] <= budget]
    chosen = order[count[order].cumsum(dim=0) <= budget]
    hidden[batch.position[chosen]] = gaps[chosen]
    left = observed & ~hidden
    rate = (share * int(observed.sum()) - int(hidden.sum())) / max(1, int(left.sum()))
    noise = uniforms(streams(seed, torch.tensor([STREAM + 2])), observed.shape)[0]
    hidden |= left & (noise < rate)
    hidden &= (observed & ~hidden).any(dim=0)
    if not hidden.any():
        raise TooLittleObservedError(
            f"the series must have enough observed entries to hide some; it has {int(observed.sum())}. Use "
            "more data."
        )
    return hidden


@check_arguments
def who_wins(
    series: GraphSeries,
    hidden: Bool[Tensor, "time nodes channels"],
    draws: Float[Tensor, "..."],
) -> SelfCheck:
    """Scores draws of hidden entries beside the baselines, which are fitted to the other entries.

    Args:
        series: The series; hidden entries are observed there.
        hidden: The entries that the draws did not know.
        draws: Draws ``[samples, time, nodes, channels]`` of the series in data units, given the entries that
            are not hidden.

    Raises:
        ValueError: If a shape does not fit, a hidden entry was not observed, or nothing is hidden.
    """
    if hidden.shape != series.values.shape or draws.shape[1:] != hidden.shape or not len(draws):
        raise ValueError(
            f"hidden and draws must have the shape of the series, {list(series.values.shape)}, draws after "
            f"an axis of samples; their shapes are {list(hidden.shape)} and {list(draws.shape)}."
        )
    if not hidden.any() or (hidden & ~series.observed).any():
        raise ValueError(
            f"hidden must have entries, all of them observed; it has {int(hidden.sum())}, of which "
            f"{int((hidden & ~series.observed).sum())} were not observed."
        )
    visible = series.with_observed(series.observed & ~hidden)
    batch = _whole(series, visible.observed, hidden)
    baselines, remarks = fit_baselines(visible)
    truth = series.values[hidden]
    drawn = draws[:, hidden].to(truth.dtype)
    each = {MODEL: entry_scores(drawn, truth)}
    for name, baseline in baselines.items():
        found = law_scores(baseline.law(batch), batch.values, batch.hidden)
        each[name] = {
            "mae": found["error"][0][hidden],
            "crps": found["crps"][0][hidden],
            "coverage_90": found["covered_90"][0][hidden].to(truth.dtype),
        }
    scale = Fitted(visible).scale.mean(dim=0).expand(hidden.shape)[hidden]
    scores = {}
    for name, columns in each.items():
        columns["crps_relative"] = columns["crps"] / scale
        scores[name] = {key: float(column.double().mean()) for key, column in columns.items()}
    model = each[MODEL]["crps_relative"]
    excess = {name: _standard_errors(model - each[name]["crps_relative"]) for name in baselines}
    histogram = RankHistogram(len(drawn))
    noise = uniforms(streams(STREAM + 3, torch.zeros(1, dtype=torch.int64)), truth.shape)[0]
    histogram.update(ranks(drawn, truth, noise.to(truth.dtype)))
    return SelfCheck(len(truth), scores, excess, histogram.table(), remarks)


def _whole(series: GraphSeries, context: Tensor, target: Tensor) -> SeriesBatch:
    """Returns the series as one window."""
    batch = series.windows(torch.zeros(1, dtype=torch.int64), len(series))
    return batch._changed(context=context[None], target=target[None])


def _standard_errors(differences: Tensor) -> float:
    """Returns the mean of some differences in units of its standard error; 0 for fewer than two."""
    if len(differences) < 2:
        return 0.0
    error = differences.double().std() / len(differences) ** 0.5
    return float(differences.double().mean() / error.clamp(min=torch.finfo(torch.float64).tiny))


@check_arguments
def self_check(series: GraphSeries, impute: Impute, share: float = SHARE, seed: int = 0) -> SelfCheck:
    """Hides a part of what is observed, has it imputed, and compares the draws with the baselines.

    Args:
        series: The series.
        impute: Returns draws of all entries of a series, given what is observed of it, in data units.
        share: The share of the observed entries that is hidden.
        seed: Fixes the hidden entries.

    Raises:
        ValueError: As for :func:`hide_part` and :func:`who_wins`.

    Example:
        >>> import tsgen
        >>> series = tsgen.datamodules.SyntheticDataModule(num_nodes=3, steps=200).split.series
        >>> def noise(visible):
        ...     return 30 + 100 * torch.randn(20, *visible.values.shape)
        >>> check = self_check(series, noise)
        >>> check.best
        'Gaussian regression'
        >>> "has a lower CRPS than the model" in check.warnings[0]
        True
    """
    hidden = hide_part(series, share, seed)
    draws = impute(series.with_observed(series.observed & ~hidden))
    if isinstance(draws, xr.Dataset):
        axes = ("sample", "time", "node", "channel")
        draws = torch.from_numpy(draws["imputation"].transpose(*axes).values)
    return who_wins(series, hidden, draws)
