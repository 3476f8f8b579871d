"""An encoder that reads a window in both directions, for models in which any entry may be hidden."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from tsgen.argument_types import check_arguments, made
from tsgen.encoders.base import Encoder, refuse_state
from tsgen.encoders.graph_gru import GraphGRUEncoder
from tsgen.encoders.propagation import Propagation


@check_arguments
class BidirectionalEncoder(Encoder):
    """Two causal encoders, one that reads forwards in time and one that reads backwards.

    The state of a step concatenates the state of the first encoder, which has read the steps up to it, and
    the state of the second, which has read the steps from it on. ``hidden`` is the sum of their sizes. No
    state can be carried.

    Args:
        in_features: Size of a node's input.
        encoder: Makes each of the two encoders from the size of a node's input.

    Raises:
        ValueError: If ``encoder`` makes one that is not causal; in a call, if a state is given.

    Example:
        >>> from functools import partial
        >>> BidirectionalEncoder(3, partial(GraphGRUEncoder, hidden=8)).hidden
        16

    References:
        Bidirectional recurrent neural networks (Schuster & Paliwal, 1997).
    """

    causal = False

    def __init__(self, in_features: int, encoder: Callable[[int], Encoder] = GraphGRUEncoder) -> None:
        forwards, backwards = (made("encoder", Encoder, encoder, in_features) for _ in range(2))
        if not forwards.causal:
            raise ValueError(
                "the encoder of a BidirectionalEncoder must be causal; the given "
                f"{type(forwards).__name__} is not. Use it by itself."
            )
        super().__init__(in_features, forwards.hidden + backwards.hidden)
        self.forwards, self.backwards = forwards, backwards

    def forward(
        self,
        inputs: Float[Tensor, "batch time nodes features"],
        propagation: Propagation,
        state: None = None,
    ) -> tuple[Float[Tensor, "batch time nodes hidden"], None]:
        """Reads a whole window."""
        refuse_state(state)
        ahead, _ = self.forwards(inputs, propagation)
        back, _ = self.backwards(inputs.flip(1), propagation)
        return torch.cat([ahead, back.flip(1)], dim=-1), None
