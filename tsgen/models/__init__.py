"""Models: joint laws of the entries of a window, with shared training and evaluation steps."""

from tsgen.models.any_order import AnyOrderModel
from tsgen.models.autoregressive import AutoregressiveModel
from tsgen.models.density import DensityModel, load
from tsgen.models.graph_var import GraphVAR
from tsgen.models.pretrained import load_pretrained, save_pretrained

__all__ = [
    "AnyOrderModel",
    "AutoregressiveModel",
    "DensityModel",
    "GraphVAR",
    "load",
    "load_pretrained",
    "save_pretrained",
]
