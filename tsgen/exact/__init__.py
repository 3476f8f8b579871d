"""Exact distributions: Gaussian algebra, autoregressive processes, and networks of values of other kinds."""

from tsgen.exact.ar import ARProcess
from tsgen.exact.counts import INARNetwork, LogLinearPoissonNetwork
from tsgen.exact.gaussian import Gaussian
from tsgen.exact.linear import VARProcess
from tsgen.exact.markov import MarkovProcess
from tsgen.exact.rain import ZeroInflatedGammaNetwork
from tsgen.exact.shrinkage import fit_shrunk
from tsgen.exact.threshold import ThresholdNetwork
from tsgen.exact.transformed import LogitNormalNetwork, LogNormalNetwork, TobitNetwork

__all__ = [
    "ARProcess",
    "Gaussian",
    "INARNetwork",
    "LogLinearPoissonNetwork",
    "LogNormalNetwork",
    "LogitNormalNetwork",
    "MarkovProcess",
    "ThresholdNetwork",
    "TobitNetwork",
    "VARProcess",
    "ZeroInflatedGammaNetwork",
    "fit_shrunk",
]
