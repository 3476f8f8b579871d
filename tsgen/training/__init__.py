"""Callbacks of the trainer: exact resumption, figures, gradient flow, compilation."""

from tsgen.training.callbacks import Compile, GradientFlow, ImputationFigure
from tsgen.training.resumption import Resumption

__all__ = ["Compile", "GradientFlow", "ImputationFigure", "Resumption"]
