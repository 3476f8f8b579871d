r"""An encoder with attention over time at each node.

Positions are relative. Queries and keys are rotated by an angle that grows with the step, so that their
product depends on the distance between two steps and not on where a window begins. The state carried from
call to call holds the keys and values of all steps so far, so it grows with every step.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from tsgen.argument_types import check_arguments
from tsgen.encoders.base import MAX_LAYERS, Encoder, check_count, refuse_state
from tsgen.encoders.propagation import GraphConvolution, Messages, Propagation

ROTARY_BASE = 10_000
"""The base theta of the rotary positions; the slowest pair rotates once in about 2 pi theta steps."""


@check_arguments
class AttentionEncoder(Encoder):
    r"""Blocks of attention over time and messages over the graph.

    With r an affine map of the inputs and their messages, each block computes

    .. math::
        r &\leftarrow r + \mathrm{attention}(\mathrm{norm}(r)) \\
        r &\leftarrow r + \mathrm{MLP}[n, \mathrm{conv}(n)], \qquad n = \mathrm{norm}(r).

    The last r is the state; it is not normalised. The blocks only add to it, so a law that is linear in the
    last slice needs neither attention nor MLP. A node attends to its own steps: those up to the present one
    if causal, otherwise all.

    Args:
        in_features: Size of a node's input.
        hidden: Size of a node's state, and of all blocks.
        heads: Number of heads of the attention over time.
        layers: Number of blocks.
        causal: Read no step later than the present one. If False, the whole window is read in both directions
            and no state can be carried.
        convolution: Makes any PyTorch Geometric convolution from the sizes of its input and output.
            None for no messages. With :class:`~tsgen.encoders.GraphAttention` a node attends to all nodes.

    Raises:
        ValueError: If ``hidden`` is not a multiple of ``2 * heads``, ``heads`` or ``layers`` is below 1, or
            the convolution does not fit; in a call, if a state is given to an encoder that is not causal.

    References:
        Attention is all you need (Vaswani et al., 2017); RoFormer: enhanced transformer with rotary position
        embedding (Su et al., 2021).
    """

    node_axis = 2

    def __init__(
        self,
        in_features: int,
        hidden: int = 64,
        heads: int = 4,
        layers: int = 2,
        causal: bool = True,
        convolution: Callable[[int, int], nn.Module] | None = GraphConvolution,
    ) -> None:
        super().__init__(in_features, hidden)
        if heads < 1:
            raise ValueError(f"heads must be at least 1; it is {heads}.")
        if hidden % (2 * heads):
            raise ValueError(
                f"hidden must be a multiple of 2 * heads = {2 * heads}; it is {hidden}. "
                f"Take {hidden + -hidden % (2 * heads)}."
            )
        check_count("layers", layers, most=MAX_LAYERS)
        self.causal = causal
        self.messages = Messages(convolution, in_features, hidden)
        self.entry = nn.Linear(self.messages.out_features, hidden)
        self.blocks = nn.ModuleList(_Block(hidden, heads, causal, convolution) for _ in range(layers))

    def carried(self, steps: int) -> int:
        """Returns the size of the keys and values of all steps in every block."""
        return 2 * self.hidden * len(self.blocks) * steps

    def forward(
        self,
        inputs: Float[Tensor, "batch time nodes features"],
        propagation: Propagation,
        state: tuple[tuple[Float[Tensor, "batch past heads size"], ...], ...] | None = None,
    ) -> tuple[
        Float[Tensor, "batch time nodes hidden"],
        tuple[tuple[Float[Tensor, "batch read heads size"], ...], ...] | None,
    ]:
        """Reads the next steps; ``state`` holds the keys and values of each block."""
        if not self.causal:
            refuse_state(state)
        r, states = self.entry(self.messages(inputs, propagation)), []
        for block, past in zip(self.blocks, state or len(self.blocks) * (None,), strict=True):
            r, keys_values = block(r, propagation, past)
            states.append(keys_values)
        return r, tuple(states) if self.causal else None


class _Block(nn.Module):
    """Attention over time, followed by messages and a hidden layer."""

    def __init__(
        self, hidden: int, heads: int, causal: bool, convolution: Callable[[int, int], nn.Module] | None
    ) -> None:
        super().__init__()
        self.size, self.causal = hidden // heads, causal
        self.norm_steps, self.norm_nodes = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        # three layers, not one: their outputs can then be viewed as heads of all nodes without a copy
        self.query, self.key, self.value = (nn.Linear(hidden, hidden, bias=False) for _ in range(3))
        self.attended = nn.Linear(hidden, hidden, bias=False)
        self.messages = Messages(convolution, hidden, hidden)
        self.mlp = nn.Sequential(
            nn.Linear(self.messages.out_features, 2 * hidden), nn.SiLU(), nn.Linear(2 * hidden, hidden)
        )

    def forward(
        self, r: Tensor, propagation: Propagation, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Returns the next r, and the keys and values so far."""
        attended, keys_values = self._attend(self.norm_steps(r), past)
        r = r + self.attended(attended)
        return r + self.mlp(self.messages(self.norm_nodes(r), propagation)), keys_values

    def _attend(self, x: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Returns what each step of a node attends to, and the keys and values so far."""
        batch, steps, nodes, hidden = x.shape
        start = 0 if past is None else past[0].shape[1]
        # every node's heads are heads of one attention: [batch, time, nodes * heads, size]
        query, key, value = (
            linear(x).reshape(batch, steps, -1, self.size) for linear in (self.query, self.key, self.value)
        )
        query, key = rotate(query, start), rotate(key, start)
        if past is not None:
            key, value = torch.cat([past[0], key], dim=1), torch.cat([past[1], value], dim=1)
        mask = None
        if self.causal and start and steps > 1:
            mask = torch.ones(steps, start + steps, dtype=torch.bool, device=x.device).tril(start)
        out = scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=mask,
            is_causal=self.causal and not start,
        )
        return out.transpose(1, 2).reshape(batch, steps, nodes, hidden), (key, value)


def rotate(x: Float[Tensor, "batch time heads size"], start: int) -> Float[Tensor, "batch time heads size"]:
    r"""Returns x with rotary positions: pair j of a head's d numbers is rotated by
    :math:`s\,\theta^{-2j/d}` at step s, with theta = :data:`ROTARY_BASE`.

    Args:
        x: Queries or keys.
        start: Step of the first of them.
    """
    half = x.shape[-1] // 2
    # double precision: the angles of late steps are large
    step = torch.arange(start, start + x.shape[1], device=x.device, dtype=torch.float64)
    speed = ROTARY_BASE ** (-torch.arange(half, device=x.device, dtype=torch.float64) / half)
    angle = (step[:, None] * speed)[:, None]
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
