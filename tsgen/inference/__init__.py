"""Imputation, forecasts and generation, for windows and for whole series."""

from tsgen.inference.imputation import forecast, generate, impute
from tsgen.inference.prediction import SeriesPrediction

__all__ = ["SeriesPrediction", "forecast", "generate", "impute"]
