"""Scores of imputations and forecasts, as torchmetrics whose states are sums.

Sums make the result independent of the number of processes.
"""

from tsgen.metrics.bounded import censored_crps, truncated_crps
from tsgen.metrics.density import NLL, LawCRPS, has_closed_crps, law_crps, pit
from tsgen.metrics.ensemble import (
    CRPS,
    MAE,
    MRE,
    RMSE,
    Coverage,
    IntervalScore,
    QuantileCRPS,
    RankHistogram,
    Width,
    calibrated_quantiles,
    crps,
    empirical_quantiles,
    entries,
    entry_scores,
    interval_score,
    ranks,
    scores,
)
from tsgen.metrics.exceedance import (
    ExceedanceScores,
    QuantileScores,
    brier_score,
    threshold_weighted_crps,
)
from tsgen.metrics.far_draws import FarDraws
from tsgen.metrics.grouped import GroupedScores, Grouping, groupings
from tsgen.metrics.joint import EnergyScore, VariogramScore, energy_score, variogram_score

__all__ = [
    "CRPS",
    "MAE",
    "MRE",
    "NLL",
    "RMSE",
    "Coverage",
    "EnergyScore",
    "ExceedanceScores",
    "FarDraws",
    "GroupedScores",
    "Grouping",
    "IntervalScore",
    "LawCRPS",
    "QuantileCRPS",
    "QuantileScores",
    "RankHistogram",
    "VariogramScore",
    "Width",
    "brier_score",
    "calibrated_quantiles",
    "censored_crps",
    "crps",
    "empirical_quantiles",
    "energy_score",
    "entries",
    "entry_scores",
    "groupings",
    "has_closed_crps",
    "interval_score",
    "law_crps",
    "pit",
    "ranks",
    "scores",
    "threshold_weighted_crps",
    "truncated_crps",
    "variogram_score",
]
