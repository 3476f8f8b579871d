"""Probabilistic imputation, forecasting and generation of multivariate time series on graphs.

All tasks are the same operation: compute the law of some entries of a series on a graph, given the others.
Data flows in one direction: :class:`GraphSeries` (whole, labelled) -> :class:`SeriesBatch` (windows) -> a
model -> a distribution for each entry -> a sampler -> :class:`Samples` -> scores, files, report.
``docs/design.md`` describes the design.

Names are imported when they are first used, so that ``import tsgen`` is fast.
"""

from importlib import import_module
from typing import Any

from tsgen import moved

__version__ = "0.2.0.dev0"

_HOMES = {
    "GraphSeries": "tsgen.data.series",
    "SeriesBatch": "tsgen.data.series",
    "StoredSeries": "tsgen.data.stored_series",
    "SeriesSpec": "tsgen.data.series",
    "Samples": "tsgen.data.series",
    "ARProcess": "tsgen.exact.ar",
    "Gaussian": "tsgen.exact.gaussian",
    "VARProcess": "tsgen.exact.linear",
    "ThresholdNetwork": "tsgen.exact.threshold",
    "AnyOrderModel": "tsgen.models",
    "AutoregressiveModel": "tsgen.models",
    "GraphVAR": "tsgen.models",
    "DensityModel": "tsgen.models",
    "Ancestral": "tsgen.sampling",
    "AnyOrder": "tsgen.sampling",
    "Exact": "tsgen.sampling",
    "SMC": "tsgen.sampling",
    "load": "tsgen.models",
    "Imputer": "tsgen.estimators",
    "Forecaster": "tsgen.estimators",
    "pool": "tsgen.estimators",
    "impute": "tsgen.inference.imputation",
    "forecast": "tsgen.inference.imputation",
    "generate": "tsgen.inference.imputation",
    "monte_carlo_kl": "tsgen.evaluation.divergence",
    "simulation_based_calibration": "tsgen.evaluation.calibration",
    "ConformalIntervals": "tsgen.evaluation.conformal",
}

_ROOMS = (
    *("data", "datamodules", "encoders", "estimators", "evaluation", "exact", "figures", "heads"),
    *("inference", "metrics", "models", "objectives", "protocols", "readers", "report", "sampling"),
    *("simulate", "storage", "training"),
)
"""Packages that ``tsgen.NAME`` finds without an import of their own."""

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _ROOMS:
        return import_module(f"tsgen.{name}")
    raise AttributeError(f"module 'tsgen' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_ROOMS})


# module names of 0.1.0 still work, with a DeprecationWarning
moved.install()
