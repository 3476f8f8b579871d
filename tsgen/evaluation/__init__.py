"""Evaluation of imputations: scores of a test, baselines, comparisons, calibration, divergences."""

from tsgen.evaluation.calibration import simulation_based_calibration
from tsgen.evaluation.conformal import ConformalIntervals
from tsgen.evaluation.divergence import monte_carlo_kl
from tsgen.evaluation.selfcheck import self_check
from tsgen.evaluation.table import Evaluation

__all__ = ["ConformalIntervals", "Evaluation", "monte_carlo_kl", "self_check", "simulation_based_calibration"]
