"""Samplers: draw the entries outside the context from a model."""

from tsgen.sampling.ancestral import Ancestral
from tsgen.sampling.any_order import AnyOrder
from tsgen.sampling.base import Sampler
from tsgen.sampling.exact import Exact
from tsgen.sampling.smc import SMC, DegeneracyWarning

__all__ = ["SMC", "Ancestral", "AnyOrder", "DegeneracyWarning", "Exact", "Sampler"]
