"""Encoders: from the context of a window to a state for each node and step.

============================= ======================================= =====================================
encoder                       reads                                   for
============================= ======================================= =====================================
:class:`WindowEncoder`        the last p slices                       few lags; a linear autoregression
:class:`ConvolutionEncoder`   a long, bounded past                    many lags, all steps at once
:class:`GraphGRUEncoder`      all the past, slice by slice            a recurrent graph network
:class:`AttentionEncoder`     all the past, or the whole window       many lags; any-order models
:class:`BidirectionalEncoder` the whole window, from both ends        any-order models
:class:`RecurrentEncoder`     the whole window, alternating with     any-order models
                              messages
============================= ======================================= =====================================

Each encoder passes messages over the graph, unless ``convolution=None``.
"""

from tsgen.encoders.attention import AttentionEncoder
from tsgen.encoders.base import Encoder
from tsgen.encoders.bidirectional import BidirectionalEncoder
from tsgen.encoders.convolution import ConvolutionEncoder
from tsgen.encoders.graph_gru import GraphGRUEncoder
from tsgen.encoders.propagation import (
    DiffusionConvolution,
    GraphAttention,
    GraphConvolution,
    Propagation,
)
from tsgen.encoders.recurrent import RecurrentEncoder
from tsgen.encoders.window import WindowEncoder

__all__ = [
    "AttentionEncoder",
    "BidirectionalEncoder",
    "ConvolutionEncoder",
    "DiffusionConvolution",
    "Encoder",
    "GraphAttention",
    "GraphConvolution",
    "GraphGRUEncoder",
    "Propagation",
    "RecurrentEncoder",
    "WindowEncoder",
]
