"""Heads: from the state that an encoder gives a node to the laws of the node's entries, in data units."""

from tsgen.heads.base import Head
from tsgen.heads.conditional import ConditionalHead
from tsgen.heads.gaussian import GaussianHead
from tsgen.heads.mixture import MixtureHead
from tsgen.heads.nade import MixtureNADEHead

__all__ = ["ConditionalHead", "GaussianHead", "Head", "MixtureHead", "MixtureNADEHead"]
