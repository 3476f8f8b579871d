"""Exact distributions: Gaussian algebra, autoregressive processes and a threshold network."""

from tsgen.exact.ar import ARProcess
from tsgen.exact.gaussian import Gaussian
from tsgen.exact.linear import VARProcess
from tsgen.exact.shrinkage import fit_shrunk
from tsgen.exact.threshold import ThresholdNetwork

__all__ = ["ARProcess", "Gaussian", "ThresholdNetwork", "VARProcess", "fit_shrunk"]
