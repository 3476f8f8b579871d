r"""An encoder of a long but bounded past: dilated causal convolutions over time, with messages in each block.

Every block reads k times as far back as the one before it, so a receptive field of :math:`k^L` steps takes L
blocks. The state carried from call to call holds, for each block, the past steps that it still reads,
:math:`k^L - 1` slices in total. A step computes one slice per block, but it also copies the carried state,
because several calls may continue from the same state; beyond some hundred steps the copies cost more than
the computation. If not causal, every block reads as far ahead as back, and a window is read at once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tsgen.argument_types import check_arguments
from tsgen.encoders.base import MAX_LAYERS, Encoder, check_count, refuse_state
from tsgen.encoders.propagation import GraphConvolution, Messages, Propagation

MAX_STEPS = 2**30
"""The largest dilation in steps: no series that can be read is longer."""


@check_arguments
class ConvolutionEncoder(Encoder):
    r"""Residual blocks of a gated, dilated convolution over time and messages over the graph.

    With :math:`r_t` an affine map of the inputs and their messages, block l = 0, ..., L - 1 with dilation
    :math:`d = k^l` computes

    .. math::
        a, b &= W [r_t, r_{t-d}, \dots, r_{t-(k-1)d}], \qquad g = \tanh(a) \odot \sigma(b) \\
        r_t &\leftarrow r_t + V [g, \mathrm{conv}(g)].

    Steps outside the window count as zeros. The last r is the state. The blocks only add to it, so a law that
    is linear in the last slice needs no gate. The receptive field is :math:`1 + (k - 1) \sum_l k^l = k^L`
    steps. An encoder that is not causal also reads :math:`r_{t+d}, \dots, r_{t+(k-1)d}`, as far ahead as
    back.

    Args:
        in_features: Size of a node's input.
        hidden: Size of a node's state, and of all blocks.
        kernel_size: The number k of steps that each block reads: the present one and k - 1 before it; if not
            causal, k - 1 after it as well.
        layers: The number L of blocks.
        causal: Read no step later than the present one. If False, the window is read in both directions and
            no state can be carried.
        convolution: Makes any PyTorch Geometric convolution from the sizes of its input and output.
            None for no messages.
        repeats: How many times the L blocks are stacked, each time with their own weights. More repeats
            deepen the network without larger dilations; the receptive field is 1 + repeats (k^L - 1) steps.

    Raises:
        ValueError: If ``kernel_size`` is below 2, ``layers``, ``repeats`` or ``hidden`` below 1, or the
            convolution does not fit; in a call, if a state is given to an encoder that is not causal.

    References:
        WaveNet: a generative model for raw audio (van den Oord et al., 2016); Graph WaveNet for deep
        spatial-temporal graph modeling (Wu et al., 2019).
    """

    node_axis = 2

    def __init__(
        self,
        in_features: int,
        hidden: int = 64,
        kernel_size: int = 2,
        layers: int = 4,
        causal: bool = True,
        convolution: Callable[[int, int], nn.Module] | None = GraphConvolution,
        repeats: int = 1,
    ) -> None:
        super().__init__(in_features, hidden)
        if kernel_size < 2:
            raise ValueError(f"kernel_size must be at least 2; it is {kernel_size}.")
        check_count("layers", layers)
        check_count("repeats", repeats, most=MAX_LAYERS)
        if layers > MAX_STEPS.bit_length() or kernel_size**layers > MAX_STEPS:
            raise ValueError(
                f"kernel_size ** layers, the dilation after the last layer, must be at most {MAX_STEPS:,} "
                f"steps; it is {kernel_size} ** {layers}. Use fewer layers."
            )
        self.causal = causal
        if causal:
            self.receptive_field = 1 + repeats * (kernel_size**layers - 1)
        dilations = (kernel_size**layer for _ in range(repeats) for layer in range(layers))
        self.messages = Messages(convolution, in_features, hidden)
        self.entry = nn.Linear(self.messages.out_features, hidden)
        self.blocks = nn.ModuleList(_Block(hidden, kernel_size, d, causal, convolution) for d in dilations)

    def forward(
        self,
        inputs: Float[Tensor, "batch time nodes features"],
        propagation: Propagation,
        state: tuple[Float[Tensor, "batch _ nodes hidden"], ...] | None = None,
    ) -> tuple[
        Float[Tensor, "batch time nodes hidden"], tuple[Float[Tensor, "batch _ nodes hidden"], ...] | None
    ]:
        """Reads the next steps; ``state`` holds the past steps that each block still reads."""
        if not self.causal:
            refuse_state(state)
        x = inputs.transpose(0, 1).contiguous()  # time first: shifted steps are then contiguous in memory
        r, states = self.entry(self.messages(x, propagation)), []
        for block, past in zip(self.blocks, state or len(self.blocks) * (None,), strict=True):
            r, past = block(r, propagation, None if past is None else past.transpose(0, 1))
            states.append(past.transpose(0, 1))
        return r.transpose(0, 1), tuple(states) if self.causal else None


class _Block(nn.Module):
    """One residual block; time is the first axis."""

    def __init__(
        self,
        hidden: int,
        kernel_size: int,
        dilation: int,
        causal: bool,
        convolution: Callable[[int, int], nn.Module] | None,
    ) -> None:
        super().__init__()
        self.shifts = range((0 if causal else 1 - kernel_size) * dilation, kernel_size * dilation, dilation)
        # one matrix product over all taps: on a CPU it trains in two thirds of the time of conv1d, which
        # would need its axes transposed before and after
        self.taps = nn.Linear(len(self.shifts) * hidden, 2 * hidden)
        self.messages = Messages(convolution, hidden, hidden)
        self.out = nn.Linear(self.messages.out_features, hidden)

    def forward(self, r: Tensor, propagation: Propagation, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """Returns the next r, and the steps of this r that the next call will read."""
        steps, reach = len(r), self.shifts[-1]
        past = r.new_zeros(reach, *r.shape[1:]) if past is None else past
        x = torch.cat([past, r, r.new_zeros(-self.shifts[0], *r.shape[1:])])
        taps = torch.cat([x[reach - shift : reach - shift + steps] for shift in self.shifts], dim=-1)
        a, b = self.taps(taps).chunk(2, dim=-1)
        g = self.messages(torch.tanh(a) * torch.sigmoid(b), propagation)
        return r + self.out(g), x[steps:]
