"""Draws of unknown entries: imputation, forecasts, generation, of windows or of whole series."""

from tsgen.inference.imputation import forecast, generate, impute
from tsgen.inference.prediction import SeriesPrediction

__all__ = ["SeriesPrediction", "forecast", "generate", "impute"]
