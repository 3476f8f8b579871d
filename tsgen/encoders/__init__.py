"""Encoders: from what may be read of a window to a state for each node and step."""

from tsgen.encoders.base import Encoder
from tsgen.encoders.graph_gru import GraphGRUEncoder

__all__ = ["Encoder", "GraphGRUEncoder"]
