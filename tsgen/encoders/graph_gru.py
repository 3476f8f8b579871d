"""The autoregressive graph neural network: a gated recurrence that passes messages at every step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tsgen.argument_types import check_arguments
from tsgen.encoders.base import Encoder
from tsgen.encoders.propagation import GraphConvolution, Messages, Propagation


@check_arguments
class GraphGRUEncoder(Encoder):
    r"""A gated recurrent unit over the graph: :math:`h_t^v = \mathrm{GNN}(h_{t-1}^v, \{h_{t-1}^u : u \to
    v\})`, with the inputs :math:`x_t` of the node and of its neighbours.

    With messages :math:`m_t = \mathrm{conv}(x_t)` and :math:`n_t = \mathrm{conv}'(h_{t-1})`,

    .. math::
        r, z &= \sigma(A [x_t, m_t] + B [h_{t-1}, n_t]) \\
        c &= \tanh(A_c [x_t, m_t] + r \odot B_c [h_{t-1}, n_t]) \\
        h_t &= z \odot h_{t-1} + (1 - z) \odot c.

    The terms of the inputs are computed for all steps at once; only the recurrence proceeds step by step. The
    state returned for step t is :math:`h_t + D [x_t, m_t]`, so a law that is linear in the last slice needs
    no gate.

    Args:
        in_features: Size of a node's input.
        hidden: Size of a node's state.
        convolution: Makes any PyTorch Geometric convolution from the sizes of its input and output.
            None for no messages, an independent gated recurrent unit at each node.

    Raises:
        ValueError: If ``hidden`` is below 1, or the convolution does not fit.

    References:
        Structured sequence modeling with graph convolutional recurrent networks (Seo et al., 2018);
        Diffusion convolutional recurrent neural network (Li et al., 2018).
    """

    causal = True
    node_axis = 1

    def __init__(
        self,
        in_features: int,
        hidden: int = 64,
        convolution: Callable[[int, int], nn.Module] | None = GraphConvolution,
    ) -> None:
        super().__init__(in_features, hidden)
        self.input_messages = Messages(convolution, in_features, hidden)
        self.state_messages = Messages(convolution, hidden, hidden)
        self.gates_from_inputs = nn.Linear(self.input_messages.out_features, 3 * hidden)
        self.gates_from_state = nn.Linear(self.state_messages.out_features, 3 * hidden)
        self.skip = nn.Linear(self.input_messages.out_features, hidden)

    def forward(
        self,
        inputs: Float[Tensor, "batch time nodes features"],
        propagation: Propagation,
        state: Float[Tensor, "batch nodes hidden"] | None = None,
    ) -> tuple[Float[Tensor, "batch time nodes hidden"], Float[Tensor, "batch nodes hidden"]]:
        """Reads the next steps; ``state`` is h of the previous step."""
        batch, _, nodes, _ = inputs.shape
        x = inputs.transpose(0, 1).contiguous()  # time first: the memory of a step is contiguous
        x = self.input_messages(x, propagation)
        gates, states = self.gates_from_inputs(x), []
        h = gates.new_zeros(batch, nodes, self.hidden) if state is None else state
        for gates_t in gates.unbind():
            h = self._step(gates_t, h, propagation)
            states.append(h)
        return (torch.stack(states) + self.skip(x)).transpose(0, 1), h

    def _step(self, gates: Tensor, h: Tensor, propagation: Propagation) -> Tensor:
        recurrent = self.gates_from_state(self.state_messages(h, propagation))
        (a_r, a_z, a_c), (b_r, b_z, b_c) = gates.chunk(3, dim=-1), recurrent.chunk(3, dim=-1)
        candidate = torch.tanh(a_c + torch.sigmoid(a_r + b_r) * b_c)
        return torch.lerp(candidate, h, torch.sigmoid(a_z + b_z))
