"""Models: joint laws of a window's entries, trained by Lightning."""

from tsgen.models.autoregressive import AutoregressiveModel
from tsgen.models.density import DensityModel, load
from tsgen.models.graph_var import GraphVAR

__all__ = ["AutoregressiveModel", "DensityModel", "GraphVAR", "load"]
