r"""An encoder of a long but bounded past: dilated causal convolutions over time, with messages in each block.

Every block looks back k times as far as the one before it, so a receptive field of :math:`k^L` steps takes L
blocks. The state carried from call to call is, for each block, the steps that it still looks back on,
:math:`k^L - 1` slices in all. A step computes one slice a block, but it copies what is carried, since a state
may be gone on from more than once: beyond some hundred steps the copies cost the more. Not causal, every
block looks as far ahead as back, and a window is read at once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tsgen.encoders.base import Encoder, refuse_state
from tsgen.encoders.propagation import GraphConvolution, Messages, Propagation


class ConvolutionEncoder(Encoder):
    r"""Residual blocks of a gated, dilated convolution over time and messages over the graph.

    With :math:`r_t` an affine map of the inputs and their messages, block l = 0, ..., L - 1 with dilation
    :math:`d = k^l` computes

    .. math::
        a, b &= W [r_t, r_{t-d}, \dots, r_{t-(k-1)d}], \qquad g = \tanh(a) \odot \sigma(b) \\
        r_t &\leftarrow r_t + V [g, \mathrm{conv}(g)].

    Steps outside the window are zeros. The last r is the state: the blocks only add to it, so a law that is
    linear in the last slice needs no gate. The receptive field is :math:`1 + (k - 1) \sum_l k^l = k^L` steps.
    An encoder that is not causal reads :math:`r_{t+d}, \dots, r_{t+(k-1)d}` too: as far ahead as back.

    Args:
        in_features: Size of a node's input.
        hidden: Size of a node's state, and of all blocks.
        kernel_size: The number k of steps that each block reads, the present one and those before it; if not
            causal, as many after it.
        layers: The number L of blocks.
        causal: Read no step later than the present one. Else the window is read both ways and no state can be
            carried.
        convolution: Any PyTorch Geometric convolution, as a factory of the sizes of its input and output.
            None for no messages.
        repeats: How often all L blocks come, one after another, each time with weights of their own. More of
            them think longer about the same steps.

    Raises:
        ValueError: If ``kernel_size`` is below 2, ``layers``, ``repeats`` or ``hidden`` below 1, or the
            convolution does not fit; at a call, if a state is given to an encoder that is not causal.

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
        for name, number in (("layers", layers), ("repeats", repeats)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1; it is {number}.")
        self.causal = causal
        dilations = repeats * [kernel_size**layer for layer in range(layers)]
        if causal:
            self.receptive_field = 1 + (kernel_size - 1) * sum(dilations)
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
        """Reads the next steps; ``state`` is what each block still looks back on."""
        if not self.causal:
            refuse_state(state)
        x = inputs.transpose(0, 1).contiguous()  # time first: shifted steps then lie in one block
        r, kept = self.entry(self.messages(x, propagation)), []
        for block, past in zip(self.blocks, state or len(self.blocks) * (None,), strict=True):
            r, past = block(r, propagation, None if past is None else past.transpose(0, 1))
            kept.append(past.transpose(0, 1))
        return r.transpose(0, 1), tuple(kept) if self.causal else None


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
        self.shifts = [tap * dilation for tap in range(0 if causal else 1 - kernel_size, kernel_size)]
        # one matrix product over all taps: on a CPU it trains in two thirds of the time of conv1d, whose axes
        # would have to be turned before and after
        self.taps = nn.Linear(len(self.shifts) * hidden, 2 * hidden)
        self.messages = Messages(convolution, hidden, hidden)
        self.out = nn.Linear(self.messages.out_features, hidden)

    def forward(self, r: Tensor, propagation: Propagation, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """The next r, and the steps of this one that the next call looks back on."""
        steps, reach = len(r), self.shifts[-1]
        past = r.new_zeros(reach, *r.shape[1:]) if past is None else past
        x = torch.cat([past, r, r.new_zeros(-self.shifts[0], *r.shape[1:])])
        taps = torch.cat([x[reach - shift : reach - shift + steps] for shift in self.shifts], dim=-1)
        a, b = self.taps(taps).chunk(2, dim=-1)
        g = self.messages(torch.tanh(a) * torch.sigmoid(b), propagation)
        return r + self.out(g), x[steps:]
