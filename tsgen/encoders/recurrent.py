"""An encoder of a whole window: bidirectional recurrences over time, alternating with messages."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from tsgen.argument_types import check_arguments
from tsgen.encoders.base import MAX_LAYERS, Encoder, check_count, refuse_state
from tsgen.encoders.propagation import GraphConvolution, Messages, Propagation


@check_arguments
class RecurrentEncoder(Encoder):
    r"""Blocks of a bidirectional gated recurrence over time at each node, and of messages over the graph.

    With r an affine map of the inputs and their messages, each block computes

    .. math::
        r &\leftarrow r + \mathrm{GRU}(\mathrm{norm}(r)) \\
        r &\leftarrow r + \mathrm{MLP}[n, \mathrm{conv}(n)], \qquad n = \mathrm{norm}(r).

    Half of a recurrence's state reads forwards, the other half backwards. Messages are computed for all steps
    at once, after the recurrence has read the whole window; in :class:`~tsgen.encoders.GraphGRUEncoder`, by
    contrast, every step waits for messages. The last r is the state; no state can be carried.

    Args:
        in_features: Size of a node's input.
        hidden: Size of a node's state, and of all blocks.
        layers: Number of blocks.
        convolution: Makes any PyTorch Geometric convolution from the sizes of its input and output.
            None for no messages.

    Raises:
        ValueError: If ``hidden`` is odd or below 2, ``layers`` is below 1, or the convolution does not fit;
            in a call, if a state is given.

    References:
        Learning phrase representations using RNN encoder-decoder (Cho et al., 2014); Bidirectional recurrent
        neural networks (Schuster & Paliwal, 1997).
    """

    causal = False

    def __init__(
        self,
        in_features: int,
        hidden: int = 64,
        layers: int = 3,
        convolution: Callable[[int, int], nn.Module] | None = GraphConvolution,
    ) -> None:
        super().__init__(in_features, hidden)
        if hidden % 2:
            raise ValueError(f"hidden must be even, one half for each direction; it is {hidden}.")
        check_count("layers", layers, most=MAX_LAYERS)
        self.messages = Messages(convolution, in_features, hidden)
        self.entry = nn.Linear(self.messages.out_features, hidden)
        self.blocks = nn.ModuleList(_Block(hidden, convolution) for _ in range(layers))

    def forward(
        self,
        inputs: Float[Tensor, "batch time nodes features"],
        propagation: Propagation,
        state: None = None,
    ) -> tuple[Float[Tensor, "batch time nodes hidden"], None]:
        """Reads a whole window."""
        refuse_state(state)
        x = inputs.transpose(0, 1).contiguous()  # time first: the memory of a step is contiguous
        r = self.entry(self.messages(x, propagation))
        for block in self.blocks:
            r = block(r, propagation)
        return r.transpose(0, 1), None


class _Block(nn.Module):
    """A recurrence, followed by messages and a hidden layer; time is the first axis."""

    def __init__(self, hidden: int, convolution: Callable[[int, int], nn.Module] | None) -> None:
        super().__init__()
        self.norm_steps, self.norm_nodes = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.recurrence = nn.GRU(hidden, hidden // 2, bidirectional=True)
        self.messages = Messages(convolution, hidden, hidden)
        self.mlp = nn.Sequential(
            nn.Linear(self.messages.out_features, hidden), nn.SiLU(), nn.Linear(hidden, hidden)
        )

    def forward(self, r: Tensor, propagation: Propagation) -> Tensor:
        """Returns the next r."""
        read, _ = self.recurrence(self.norm_steps(r).flatten(1, 2))
        r = r + read.view_as(r)
        return r + self.mlp(self.messages(self.norm_nodes(r), propagation))
