r"""How far back the loss of a slice reaches: gradients with respect to the state that an encoder carries.

Let :math:`L_T` be the negative log-density of the last slice of a window and :math:`h_t` what the encoder
hands from step t to step t + 1: a hidden state, the slices that it still looks back on, the keys and values
of all steps so far. By the chain rule

.. math:: \frac{\partial L_T}{\partial h_{T-k}}
    = \frac{\partial L_T}{\partial h_{T-1}} \prod_{j=T-k+1}^{T-1} \frac{\partial h_j}{\partial h_{j-1}},

so its norm falls or grows by a factor a step, about geometrically, where the same map is applied over and
over. Where it falls to nothing within a few steps, training cannot find out that anything earlier matters;
where it grows, steps of the optimiser are wild. For an encoder of a bounded past it is exactly zero from the
receptive field on.

References:
    Learning long-term dependencies with gradient descent is difficult (Bengio, Simard & Frasconi, 1994); On
    the difficulty of training recurrent neural networks (Pascanu, Mikolov & Bengio, 2013).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from torch import Tensor

from tsgen.data.series import SeriesBatch
from tsgen.encoders.base import map_state
from tsgen.encoders.propagation import Propagation
from tsgen.figures import BLUE, GREY, INK, PALE, axes_grid, in_style
from tsgen.heads.likelihood import masked_log_prob
from tsgen.protocols import ForwardModel

SHOWN = 6
"""The most earlier epochs that the figure shows beside the last one."""


def gradient_norms(model: ForwardModel, batch: SeriesBatch) -> Float[Tensor, "lags"]:
    r"""The norm of :math:`\partial L_T / \partial h_{T-k}` for k = 1, ..., T - 1, in nats per unit of state.

    Everything whose truth is known counts as visible, and the gradient goes through the whole window,
    whatever ``truncated_steps`` is. A norm is taken over all that one window's state holds, then its mean
    over the windows. No parameter's ``grad`` is touched.

    Args:
        model: A model that factorises over time.
        batch: Windows in data units.

    Raises:
        ValueError: If the windows have one step only.
    """
    if batch.values.shape[1] < 2:
        raise ValueError("gradient flow needs windows of at least 2 steps; they have 1.")
    # not in inference mode either: what is made there can have no gradient, ever
    with torch.inference_mode(False), torch.enable_grad():
        loss, carried = _stepped(model, batch._changed(context=batch.context | batch.target))
        flat = [part for state in carried for part in state]
        gradients = iter(torch.autograd.grad(loss, flat, allow_unused=True))
    norms = [_norm([next(gradients) for _ in state], len(batch.values)) for state in carried]
    return torch.stack(norms).flip(0).cpu()


def _stepped(model: ForwardModel, batch: SeriesBatch) -> tuple[Tensor, list[list[Tensor]]]:
    """The loss of the last slice, summed over windows, and the tensors of the state that each step leaves."""
    x, context = model.inputs(batch)
    before, propagation = None, Propagation(batch.graph)
    state, carried = None, []
    for t in range(x.shape[1]):
        now = batch.steps(slice(t, t + 1))
        h, state = model.advance(now, before, propagation, state)
        state = map_state(_traced, state)
        carried.append(list(_tensors(state)))
        before = x[:, t : t + 1], context[:, t : t + 1]
    law = model.predict(now, h, now.context)
    log_prob = masked_log_prob(law, now.values, now.context, model.units_of_nodes(now).loc)
    return -log_prob.sum(), carried[:-1]


def _traced(part: Tensor) -> Tensor:
    """A part of the state that its gradient can be asked for, by itself."""
    if not part.is_floating_point():
        return part
    # an alias: within a step one part may be made of another, and the way through that other is not its own
    return part.view_as(part) if part.requires_grad else part.detach().requires_grad_()


def _tensors(state: Any) -> Iterator[Tensor]:
    """The tensors of an encoder's state that have gradients."""
    if isinstance(state, Tensor):
        if state.requires_grad:
            yield state
    elif state is not None:
        for part in state:
            yield from _tensors(part)


def _norm(gradients: list[Tensor | None], windows: int) -> Float[Tensor, ""]:
    """The mean over windows of the norm of all parts together."""
    square = torch.zeros(windows, dtype=torch.float64)
    for gradient in gradients:
        if gradient is not None:
            # float64 first: the square of 1e-23 is zero in float32
            square += gradient.flatten(1).cpu().double().square().sum(dim=1)
    return square.sqrt().mean()


@in_style
def gradient_flow(curves: Mapping[int, Float[np.ndarray, " lags"]]) -> Figure:
    """Draws the norms of the last epoch, and of a few before it, against how many steps back the state lies.

    Args:
        curves: For each epoch, what :func:`gradient_norms` returned.
    """
    figure, (ax,) = axes_grid(1, 1, 6.4, 3.2)
    *earlier, last = sorted(curves)
    chosen = earlier[:: -(-len(earlier) // SHOWN) or 1]
    for epoch in chosen:
        ax.plot(*_points(curves[epoch]), color=GREY, lw=0.6, label="earlier" if epoch == chosen[0] else None)
    norms = curves[last]
    look: dict[str, Any] = {"marker": "o", "ms": 3} if len(norms) < 40 else {}
    ax.plot(*_points(norms), color=BLUE, lw=1.8, label=f"epoch {last}", **look)
    zero = 1 + int(np.flatnonzero(norms)[-1] + 1 if norms.any() else 0)
    if zero <= len(norms):
        ax.axvline(zero, color=INK, lw=1, ls=(0, (4, 3)), label=f"zero from k = {zero} on")
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda norm, _: f"{norm:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.set(xlim=(0, len(norms) + 1), xlabel="k, steps back", ylabel="gradient of the last slice's loss")
    ax.set_title("Norm of the gradient with respect to the state of step T - k")
    ax.grid(axis="y", color=PALE, lw=0.5)
    ax.legend(fontsize=8.5)
    return figure


def _points(norms: Float[np.ndarray, " lags"]) -> tuple[np.ndarray, np.ndarray]:
    """Where a line runs: a logarithmic axis has no zero."""
    return np.arange(1, len(norms) + 1), np.where(norms > 0, norms, np.nan)
