"""Heads: from what an encoder knows of an entry to the entry's law, in data units."""

from tsgen.heads.base import Head
from tsgen.heads.conditional import ConditionalHead
from tsgen.heads.gaussian import GaussianHead
from tsgen.heads.mixture import MixtureHead
from tsgen.heads.nade import MixtureNADEHead

__all__ = ["ConditionalHead", "GaussianHead", "Head", "MixtureHead", "MixtureNADEHead"]
