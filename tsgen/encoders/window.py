r"""An encoder of the last few slices: the inputs of a lagged regression, with or without hidden layers.

Without a hidden layer the state is the vector of lags itself, and an affine head makes the model a linear
autoregression on the graph. The state carried from call to call holds the last slices with their messages.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain, pairwise, repeat

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tsgen.argument_types import check_arguments
from tsgen.encoders.base import MAX_LAYERS, Encoder, check_count
from tsgen.encoders.propagation import GraphConvolution, Messages, Propagation


@check_arguments
class WindowEncoder(Encoder):
    r"""The inputs of the last p steps, each with its messages :math:`m_t = \mathrm{conv}(x_t)`, read by
    hidden layers and, in parallel, a linear map,

    .. math::
        l_t &= [x_t, m_t, \dots, x_{t-p+1}, m_{t-p+1}] \\
        h_t &= \mathrm{MLP}(l_t) + D l_t,

    so that a linear law needs no hidden unit. Steps before the window count as zeros. With ``layers=0`` the
    state is the vector of lags, :math:`h_t = l_t`.

    Args:
        in_features: Size of a node's input.
        order: The number p of steps, including the present one. It is the receptive field.
        hidden: Size of each hidden layer and of a node's state. It is ignored without a hidden layer: the
            size is then that of the vector of lags, ``order * in_features``, twice that with messages.
        layers: Number of hidden layers.
        convolution: Makes any PyTorch Geometric convolution from the sizes of its input and output; its
            messages have the size of the inputs. None for no messages.

    Raises:
        ValueError: If ``order`` or ``hidden`` is below 1, ``layers`` is negative, or the convolution does not
            fit.
    """

    node_axis = 2

    def __init__(
        self,
        in_features: int,
        order: int = 1,
        hidden: int = 64,
        layers: int = 1,
        convolution: Callable[[int, int], nn.Module] | None = GraphConvolution,
    ) -> None:
        if order < 1:
            raise ValueError(f"order must be at least 1, the present step; it is {order}.")
        check_count("layers", layers, 0, MAX_LAYERS)
        messages = Messages(convolution, in_features, in_features)
        lags = order * messages.out_features
        super().__init__(in_features, hidden if layers else lags)
        self.order = self.receptive_field = order
        self.messages = messages
        self.layers, self.skip = nn.Sequential(), None
        for size_in, size_out in pairwise(chain([lags], repeat(hidden, layers))):
            self.layers.extend([nn.Linear(size_in, size_out), nn.SiLU()])
        if layers:
            self.skip = nn.Linear(lags, hidden, bias=False)

    def forward(
        self,
        inputs: Float[Tensor, "batch time nodes features"],
        propagation: Propagation,
        state: Float[Tensor, "batch past nodes read"] | None = None,
    ) -> tuple[Float[Tensor, "batch time nodes hidden"], Float[Tensor, "batch past nodes read"]]:
        """Reads the next steps; ``state`` is the ``order - 1`` steps before them, with their messages."""
        x, past = self.messages(inputs, propagation), self.order - 1
        steps = x.shape[1]
        if state is None:
            state = x.new_zeros(len(x), past, *x.shape[2:])
        x = torch.cat([state, x], dim=1)
        lags = torch.cat([x[:, past - lag : past - lag + steps] for lag in range(self.order)], dim=-1)
        h = lags if self.skip is None else self.layers(lags) + self.skip(lags)
        return h, x[:, steps:]
