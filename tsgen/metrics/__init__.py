"""Scores of imputations and forecasts, as torchmetrics whose states are sums: any number of processes, one
result."""

from tsgen.metrics.density import NLL, law_crps
from tsgen.metrics.ensemble import (
    CRPS,
    MAE,
    MRE,
    RMSE,
    Coverage,
    QuantileCRPS,
    Width,
    crps,
    empirical_quantiles,
    entries,
    scores,
)
from tsgen.metrics.lead_time import LeadTimeScores

__all__ = [
    "CRPS",
    "MAE",
    "MRE",
    "NLL",
    "RMSE",
    "Coverage",
    "LeadTimeScores",
    "QuantileCRPS",
    "Width",
    "crps",
    "empirical_quantiles",
    "entries",
    "law_crps",
    "scores",
]
