r"""Exact inference in linear-Gaussian state-space models with holes in what is measured.

The state moves by :math:`s_t = F s_{t-1} + c + \eta_t` with :math:`\eta_t \sim N(0, Q)` and
:math:`s_0 \sim N(a_0, P_0)`. Its first M entries are the series, :math:`x_t = H s_t`, measured without noise
where ``context`` holds and not at all elsewhere. An autoregression of order p is of this form with
:math:`s_t = (x_t, \dots, x_{t-p+1})`, F its companion matrix and a singular Q.

* :func:`kalman_filter`: the law of each slice given the context before it, and the likelihood of the context.
  With predicted mean a and covariance P, innovation :math:`v = x - H a` and its covariance
  :math:`S = H P H^\top`,

  .. math:: K = P H^\top S^{-1}, \quad a \leftarrow F (a + K v) + c, \quad
            P \leftarrow F (I - K H) P F^\top + Q.

  What was not measured has a zero innovation, zero columns in K and a unit row in S: every window of a batch
  has a pattern of its own, and none has a shape of its own. At each step P is made symmetric and exactly zero
  where an entry was measured, so that rounding errors do not gather however long the series.
* :func:`smooth`: the law of each entry given the whole context, by the backward recursions of Durbin and
  Koopman,

  .. math:: r \leftarrow H^\top S^{-1} v + L^\top r, \quad N \leftarrow H^\top S^{-1} H + L^\top N L, \quad
            L = F (I - K H),

  from :math:`r = 0, N = 0` after the last step: mean :math:`a + P r`, covariance :math:`P - P N P`. P,
  singular wherever a lag was measured, is never inverted.
* :func:`posterior_samples`: joint draws given the whole context. A path :math:`x^+` drawn from the model is
  shifted by the smoothed mean of what it misses, :math:`x^+ + E[x - x^+ \mid x_O - x^+_O]`. Gains depend on
  the pattern alone, so that all draws share them and a draw costs only the recursions of means.

Cost and memory are linear in the number of steps. Everything runs in the model's precision, meant to be
float64.

References:
    Time Series Analysis by State Space Methods (Durbin & Koopman, 2nd ed. 2012), ch. 4;
    A simple and efficient simulation smoother (Durbin & Koopman, 2002).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import pad

from tsgen.counter_random import uniforms


class StateSpace(NamedTuple):
    """A linear-Gaussian state-space model whose series is the first entries of the state.

    Attributes:
        transition: The matrix F; row i makes entry i of the next state.
        offset: What is added to the state at each step.
        noise_covariance: Covariance of the state's noise; it may be singular, as long as no measured entry is
            determined by the measured entries before it and beside it.
        initial_mean: Mean of the first state.
        initial_covariance: Covariance of the first state.
        observed_size: The number M of entries, the state's first, that are the series.
    """

    transition: Float[Tensor, "state state"]
    offset: Float[Tensor, "state"]
    noise_covariance: Float[Tensor, "state state"]
    initial_mean: Float[Tensor, "state"]
    initial_covariance: Float[Tensor, "state state"]
    observed_size: int


class FilteredStates(NamedTuple):
    """The law of every slice given the context before it.

    Attributes:
        mean: The predicted slices.
        covariance: The covariance of each slice's prediction error.
        log_likelihood: The log-density of each window's context, in nats.
    """

    mean: Float[Tensor, "batch time observed"]
    covariance: Float[Tensor, "batch time observed observed"]
    log_likelihood: Float[Tensor, "batch"]


class Smoothed(NamedTuple):
    """The law of every entry given the whole context.

    Attributes:
        mean: The posterior mean; in ``context`` the value itself.
        variance: The posterior variance; zero in ``context``.
    """

    mean: Float[Tensor, "batch time observed"]
    variance: Float[Tensor, "batch time observed"]


class _Update(NamedTuple):
    """One step's update, whatever the values: it depends on the pattern of the context alone."""

    seen: Bool[Tensor, "batch observed"]
    covariance: Float[Tensor, "batch state state"]
    """The predicted covariance P."""
    rows: Float[Tensor, "batch observed state"]
    """Its rows of the series, H P; a view."""
    cholesky: Float[Tensor, "batch observed observed"]
    """The factor of S, with a unit row for what was not seen."""
    gain: Float[Tensor, "batch state observed"]


def kalman_filter(
    model: StateSpace,
    values: Float[Tensor, "batch time observed"],
    context: Bool[Tensor, "batch time observed"],
) -> FilteredStates:
    """Predicts every slice from the context before it.

    Args:
        model: The law of the series.
        values: Measurements in the model's units; anything, NaN included, outside the context.
        context: What was measured.

    Returns:
        The predicted laws and the log-likelihood of the context.

    Raises:
        ValueError: If a shape does not fit.
    """
    values = _filled(model, values, context)
    updates = _updates(model, context)
    mean = _predicted(model, updates, values[..., None])[..., : model.observed_size, 0]
    return FilteredStates(
        mean=mean,
        covariance=_of_all(values, [update.rows[..., : model.observed_size] for update in updates]),
        log_likelihood=_log_likelihood(updates, torch.where(context, values - mean, 0)),
    )


def smooth(
    model: StateSpace,
    values: Float[Tensor, "batch time observed"],
    context: Bool[Tensor, "batch time observed"],
) -> Smoothed:
    """The mean and variance of every entry given the whole context, before and after it.

    Args:
        model: The law of the series.
        values: Measurements in the model's units; anything, NaN included, outside the context.
        context: What was measured.

    Raises:
        ValueError: If a shape does not fit.
    """
    values = _filled(model, values, context)
    updates = _updates(model, context)
    mean = _smoothed_mean(model, updates, values[..., None]).squeeze(-1)
    variance = _smoothed_variance(model, updates)
    return Smoothed(torch.where(context, values, mean), variance.expand_as(values))


class SecondMoments(NamedTuple):
    """What the smoothed states of some windows sum up to: all that a regression on them needs.

    Attributes:
        first: Sum of the states' posterior means.
        second: Sum of the posterior means of each state's outer product with itself.
        steps: How many states were summed.
        log_likelihood: The log-density of the windows' context, in nats.
    """

    first: Float[Tensor, "state"]
    second: Float[Tensor, "state state"]
    steps: int
    log_likelihood: Float[Tensor, ""]


def smoothed_moments(
    model: StateSpace,
    values: Float[Tensor, "batch time observed"],
    context: Bool[Tensor, "batch time observed"],
    skip: int = 0,
) -> SecondMoments:
    """Sums of the states' first and second moments given the whole context, the E-step of an EM algorithm.

    Args:
        model: The law of the series.
        values: Measurements in the model's units; anything, NaN included, outside the context.
        context: What was measured.
        skip: Steps at the start of each window whose states are left out.

    Raises:
        ValueError: If a shape does not fit.
    """
    values = _filled(model, values, context)
    updates = _updates(model, context)
    predicted = _predicted(model, updates, values[..., None]).squeeze(-1)
    size, lags = model.observed_size, len(model.offset) - model.observed_size
    innovation = torch.where(context, values - predicted[..., :size], 0)
    adjoint = torch.zeros_like(predicted[:, 0])
    first, second = torch.zeros_like(model.offset), torch.zeros_like(model.transition)
    for t, kept, whitening, information in _backward(model, updates, skip):
        whitened = whitening.mT @ (whitening @ innovation[:, t, :, None])
        adjoint = (kept.mT @ adjoint[..., None]).squeeze(-1) + pad(whitened.squeeze(-1), (0, lags))
        covariance = updates[t].covariance
        mean = predicted[:, t] + (covariance @ adjoint[..., None]).squeeze(-1)
        left = covariance - covariance @ information @ covariance
        first = first + mean.sum(dim=0)
        second = second + mean.mT @ mean + left.expand(len(mean), -1, -1).sum(dim=0)
    steps = len(values) * (len(updates) - skip)
    return SecondMoments(first, (second + second.mT) / 2, steps, _log_likelihood(updates, innovation).sum())


def posterior_samples(
    model: StateSpace,
    values: Float[Tensor, "*samples batch time observed"],
    context: Bool[Tensor, "batch time observed"],
    stream: Int64[Tensor, "samples batch"],
) -> Float[Tensor, "samples batch time observed"]:
    """Draws whole windows jointly given the whole context.

    Args:
        model: The law of the series.
        values: Measurements in the model's units, the same for all draws or each draw's own; anything, NaN
            included, outside the context.
        context: What was measured; the draws hold these values exactly.
        stream: One random stream for each draw of each window (see :mod:`tsgen.counter_random`).

    Raises:
        ValueError: If a shape does not fit.
    """
    values = _filled(model, values, context)
    drawn = simulate(model, context.shape[1], stream)
    centred = model._replace(
        offset=torch.zeros_like(model.offset), initial_mean=torch.zeros_like(model.initial_mean)
    )
    # the draws side by side as columns, so that one product with a gain serves them all
    missed = torch.where(context, values - drawn, 0).movedim(0, -1)
    shift = _smoothed_mean(centred, _updates(model, context), missed).movedim(-1, 0)
    return torch.where(context, values, drawn + shift)


def simulate(
    model: StateSpace, steps: int, stream: Int64[Tensor, "*rows"]
) -> Float[Tensor, "*rows time observed"]:
    """Draws series from the model, one for each random stream.

    Args:
        model: The law of the series.
        steps: Length of a series.
        stream: One random stream for each series.
    """
    size = len(model.offset)
    normal = torch.special.ndtri(uniforms(stream, (steps, size), dtype=torch.float64)).to(model.offset)
    state = model.initial_mean + normal[..., 0, :] @ _factor(model.initial_covariance).mT
    series = [state[..., : model.observed_size]]
    shocks = model.offset + normal[..., 1:, :] @ _factor(model.noise_covariance).mT
    for shock in shocks.unbind(-2):
        state = state @ model.transition.mT + shock
        series.append(state[..., : model.observed_size])
    return torch.stack(series, dim=-2)


def _factor(covariance: Float[Tensor, "state state"]) -> Float[Tensor, "state state"]:
    """A matrix whose product with its own transpose is the covariance, which may be singular."""
    scale = covariance.diagonal().clamp(min=0).sqrt()
    # entries may differ in unit by many orders: what counts as zero is decided among correlations
    safe = torch.where(scale > 0, scale, 1)
    eigenvalue, vector = torch.linalg.eigh(covariance / (safe[:, None] * safe))
    noise_floor = len(scale) * torch.finfo(scale.dtype).eps
    root = torch.where(eigenvalue > noise_floor, eigenvalue, 0).sqrt()
    # the symmetric root: eigenvectors have no sign of their own
    return scale[:, None] * ((vector * root) @ vector.mT)


def _filled(model: StateSpace, values: Tensor, context: Tensor) -> Tensor:
    """The values in the model's precision, zero outside the context; raises if a shape does not fit."""
    if context.dim() != 3 or values.shape[-3:] != context.shape or values.shape[-1] != model.observed_size:
        raise ValueError(
            f"values and context must both be [batch, time, {model.observed_size}]; their shapes are "
            f"{list(values.shape)} and {list(context.shape)}."
        )
    # fill first: NaN times zero is NaN
    return torch.where(context, values.to(model.offset), 0)


def _of_all(values: Tensor, steps: list[Tensor]) -> Tensor:
    """Something of each step, side by side, for every window even if all share it."""
    stacked = torch.stack(steps, dim=1)
    return stacked.expand(len(values), *stacked.shape[1:])


def _updates(model: StateSpace, context: Bool[Tensor, "batch time observed"]) -> list[_Update]:
    size, transition = model.observed_size, model.transition
    if len(context) > 1 and bool((context == context[:1]).all()):
        context = context[:1]  # windows of one pattern share everything that depends on it
    unit = torch.eye(size).to(transition)
    covariance = model.initial_covariance.expand(len(context), -1, -1)
    updates = []
    for seen in context.unbind(dim=1):
        rows = covariance[:, :size]
        cholesky = torch.linalg.cholesky(
            torch.where(seen[:, :, None] & seen[:, None], rows[..., :size], unit)
        )
        gain = torch.cholesky_solve(rows * seen[:, :, None], cholesky).mT
        updates.append(_Update(seen, covariance, rows, cholesky, gain))
        left = covariance - gain @ rows
        # what was seen has no variance left, not even rounding error
        open_ = pad(~seen, (0, len(transition) - size), value=True)
        left = left * (open_[:, :, None] & open_[:, None])
        covariance = transition @ left @ transition.mT + model.noise_covariance
        covariance = (covariance + covariance.mT) / 2
    return updates


def _log_likelihood(
    updates: list[_Update], innovation: Float[Tensor, "batch time observed"]
) -> Float[Tensor, "batch"]:
    cholesky = torch.stack([update.cholesky for update in updates], dim=1)
    whitened = torch.linalg.solve_triangular(cholesky, innovation[..., None], upper=False).squeeze(-1)
    density = -0.5 * (whitened.square() + math.log(2 * math.pi)) - cholesky.diagonal(dim1=-2, dim2=-1).log()
    seen = torch.stack([update.seen for update in updates], dim=1)
    return torch.where(seen, density, 0).sum(dim=(1, 2))


def _predicted(
    model: StateSpace, updates: list[_Update], values: Float[Tensor, "batch time observed draws"]
) -> Float[Tensor, "batch time state draws"]:
    size, predicted = model.observed_size, []
    mean = model.initial_mean[:, None].expand(len(values), -1, values.shape[-1])
    for update, value in zip(updates, values.unbind(dim=1), strict=True):
        predicted.append(mean)
        innovation = (value - mean[:, :size]) * update.seen[..., None]
        mean = model.transition @ (mean + update.gain @ innovation) + model.offset[:, None]
    return torch.stack(predicted, dim=1)


def _smoothed_mean(
    model: StateSpace, updates: list[_Update], values: Float[Tensor, "batch time observed draws"]
) -> Float[Tensor, "batch time observed draws"]:
    predicted = _predicted(model, updates, values)[:, :, : model.observed_size]
    smoothed = []
    adjoint = values.new_zeros(len(values), len(model.offset), values.shape[-1])
    for t in reversed(range(len(updates))):
        _, _, rows, cholesky, gain = update = updates[t]
        innovation = (values[:, t] - predicted[:, t]) * update.seen[..., None]
        adjoint = model.transition.mT @ adjoint
        change = torch.cholesky_solve(innovation, cholesky) - gain.mT @ adjoint
        adjoint = adjoint + pad(change, (0, 0, 0, len(model.offset) - model.observed_size))
        smoothed.append(predicted[:, t] + rows @ adjoint)
    return torch.stack(smoothed[::-1], dim=1)


def _smoothed_variance(model: StateSpace, updates: list[_Update]) -> Float[Tensor, "batch time observed"]:
    variance = []
    for t, _, _, information in _backward(model, updates):
        seen, rows = updates[t].seen, updates[t].rows
        left = rows.diagonal(dim1=-2, dim2=-1) - ((rows @ information) * rows).sum(dim=-1)
        variance.append(torch.where(seen, 0, left.clamp(min=0)))
    return torch.stack(variance[::-1], dim=1)


def _backward(
    model: StateSpace, updates: list[_Update], skip: int = 0
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """From the last step to the first that is not skipped: its number, L, a root of H' S^-1 H, and N."""
    lags = len(model.offset) - model.observed_size
    unit = torch.eye(len(model.offset)).to(model.offset)
    information = torch.zeros_like(unit)
    for t in reversed(range(skip, len(updates))):
        seen, _, _, cholesky, gain = updates[t]
        kept = model.transition @ (unit - pad(gain, (0, lags)))
        whitening = torch.linalg.solve_triangular(cholesky, torch.diag_embed(seen.to(gain)), upper=False)
        information = pad(whitening.mT @ whitening, (0, lags, 0, lags)) + kept.mT @ information @ kept
        yield t, kept, whitening, information
