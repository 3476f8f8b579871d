"""Estimators as scikit-learn has them: data in, completed or continued data of the same kind out."""

from tsgen.estimators.datatree import to_datatree
from tsgen.estimators.forecaster import Forecaster
from tsgen.estimators.imputer import Imputer
from tsgen.estimators.pooling import Pooled, pool

__all__ = ["Forecaster", "Imputer", "Pooled", "pool", "to_datatree"]
