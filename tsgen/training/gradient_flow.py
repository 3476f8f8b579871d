r"""Gradient flow: how far back in time the loss of a slice has a gradient.

The gradients are those with respect to the state that an encoder carries from step to step.

Let :math:`L_T` be the negative log-density of the last slice of a window and :math:`h_t` the state that the
encoder carries from step t to step t + 1: a hidden state, the slices in its receptive field, or the keys and
values of all steps so far. By the chain rule

.. math:: \frac{\partial L_T}{\partial h_{T-k}}
    = \frac{\partial L_T}{\partial h_{T-1}} \prod_{j=T-k+1}^{T-1} \frac{\partial h_j}{\partial h_{j-1}},

so that its norm decays or grows approximately geometrically with k if the same map is applied at every step.
If it vanishes within a few steps, training cannot learn from anything earlier; if it explodes, optimiser
steps become unstable. For an encoder with a bounded past it is exactly zero from the receptive field on.

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
"""The most earlier epochs that the figure shows in addition to the last one."""


def gradient_norms(model: ForwardModel, batch: SeriesBatch) -> Float[Tensor, "lags"]:
    r"""Returns the norm of :math:`\partial L_T / \partial h_{T-k}` for k = 1, ..., T - 1.

    The unit is nats per unit of the state. All entries with a known truth are visible to the model, and the
    gradient flows through the whole window, regardless of ``truncated_steps``. The norm is over the complete
    state of a window, and is then averaged over the windows. The ``grad`` of parameters does not change.

    Args:
        model: A model that factorises over time.
        batch: Windows in data units.

    Raises:
        ValueError: If the windows have only one step.
    """
    if batch.values.shape[1] < 2:
        raise ValueError("gradient flow needs windows of at least 2 steps; they have 1.")
    # leave inference mode too: tensors created in it can never have gradients
    with torch.inference_mode(False), torch.enable_grad():
        loss, carried = _stepped(model, batch._changed(context=batch.context | batch.target))
        flat = [tensor for state in carried for tensor in state]
        gradients = iter(torch.autograd.grad(loss, flat, allow_unused=True))
    norms = [_norm([next(gradients) for _ in state], len(batch.values)) for state in carried]
    return torch.stack(norms).flip(0).cpu()


def _stepped(model: ForwardModel, batch: SeriesBatch) -> tuple[Tensor, list[list[Tensor]]]:
    """Returns the loss of the last slice, summed over windows, and the state's tensors after each step."""
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
    log_prob = masked_log_prob(law, now.values, now.context, model.units_of_nodes(now).centre)
    return -log_prob.sum(), carried[:-1]


def _traced(tensor: Tensor) -> Tensor:
    """Returns an alias of a tensor of the state, with respect to which a gradient can be computed."""
    if not tensor.is_floating_point():
        return tensor
    # alias: if one tensor of a step is computed from another, the path through the other must not count
    return tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_()


def _tensors(state: Any) -> Iterator[Tensor]:
    """Iterates over the tensors of an encoder's state that require gradients."""
    if isinstance(state, Tensor):
        if state.requires_grad:
            yield state
    elif state is not None:
        for item in state:
            yield from _tensors(item)


def _norm(gradients: list[Tensor | None], windows: int) -> Float[Tensor, ""]:
    """Returns the mean over windows of the norm over all tensors of the state."""
    square = torch.zeros(windows, dtype=torch.float64)
    for gradient in gradients:
        if gradient is not None:
            # float64 first: the square of 1e-23 is zero in float32
            square += gradient.flatten(1).cpu().double().square().sum(dim=1)
    return square.sqrt().mean()


@in_style
def gradient_flow(curves: Mapping[int, Float[np.ndarray, " lags"]]) -> Figure:
    """Draws the norms of the last epoch, and of a few earlier ones, against the number of steps back.

    Args:
        curves: The norms that :func:`gradient_norms` returned, by epoch.
    """
    figure, (ax,) = axes_grid(1, 1, 6.4, 3.2)
    *earlier, last = sorted(curves)
    chosen = earlier[:: -(-len(earlier) // SHOWN) or 1]
    for epoch in chosen:
        ax.plot(*_points(curves[epoch]), color=GREY, lw=0.6, label="earlier" if epoch == chosen[0] else None)
    norms = curves[last]
    marks: dict[str, Any] = {"marker": "o", "ms": 3} if len(norms) < 40 else {}
    ax.plot(*_points(norms), color=BLUE, lw=1.8, label=f"epoch {last}", **marks)
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
    """Returns the points of a line; zeros become NaN, since the axis is logarithmic."""
    return np.arange(1, len(norms) + 1), np.where(norms > 0, norms, np.nan)
