"""Samplers: draw the entries that are not visible from what a model implies."""

from tsgen.sampling.ancestral import Ancestral
from tsgen.sampling.any_order import AnyOrder
from tsgen.sampling.base import Sampler
from tsgen.sampling.exact import Exact
from tsgen.sampling.smc import SMC, DegeneracyWarning

__all__ = ["SMC", "Ancestral", "AnyOrder", "DegeneracyWarning", "Exact", "Sampler"]
