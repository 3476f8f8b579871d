"""Scores of imputations and forecasts, as torchmetrics whose states are sums.

Sums make the result independent of the number of processes.
"""

from tsgen.metrics.density import NLL, LawCRPS, has_closed_crps, law_crps, standard_crps
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
    "FarDraws",
    "GroupedScores",
    "Grouping",
    "IntervalScore",
    "LawCRPS",
    "QuantileCRPS",
    "RankHistogram",
    "VariogramScore",
    "Width",
    "calibrated_quantiles",
    "crps",
    "empirical_quantiles",
    "energy_score",
    "entries",
    "entry_scores",
    "groupings",
    "has_closed_crps",
    "interval_score",
    "law_crps",
    "ranks",
    "scores",
    "standard_crps",
    "variogram_score",
]
