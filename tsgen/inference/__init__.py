"""Draws of unknown entries: imputation, forecasts, generation, of windows or of whole series."""

from tsgen.inference.imputation import forecast, generate, impute

__all__ = ["forecast", "generate", "impute"]
