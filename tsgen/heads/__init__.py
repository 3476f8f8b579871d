"""Heads: compute the laws of a node's entries, in data units, from the state that an encoder has computed."""

from tsgen.heads.base import Head
from tsgen.heads.conditional import ConditionalHead
from tsgen.heads.counts import NegativeBinomialHead, PoissonHead
from tsgen.heads.gaussian import GaussianHead
from tsgen.heads.in_data_units import InDataUnits
from tsgen.heads.mixture import MixtureHead
from tsgen.heads.nade import MixtureNADEHead
from tsgen.heads.student_t import StudentTHead
from tsgen.heads.zero_inflated import ZeroInflatedHead

__all__ = [
    "ConditionalHead",
    "GaussianHead",
    "Head",
    "InDataUnits",
    "MixtureHead",
    "MixtureNADEHead",
    "NegativeBinomialHead",
    "PoissonHead",
    "StudentTHead",
    "ZeroInflatedHead",
]
