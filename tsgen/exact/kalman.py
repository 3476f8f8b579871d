r"""Exact inference in linear-Gaussian state-space models with missing measurements.

The state evolves as :math:`s_t = F s_{t-1} + c + \eta_t` with :math:`\eta_t \sim N(0, Q)` and
:math:`s_0 \sim N(a_0, P_0)`. Its first M entries are the series, :math:`x_t = H s_t`, which is measured
without noise where ``context`` is True and not at all elsewhere. An autoregression of order p has this form
with :math:`s_t = (x_t, \dots, x_{t-p+1})`, its companion matrix F and a singular Q.

* :func:`kalman_filter`: the distribution of each slice given the context before it, and the likelihood of the
  context. With predicted mean a and covariance P, innovation :math:`v = x - H a` and innovation covariance
  :math:`S = H P H^\top`,

  .. math:: K = P H^\top S^{-1}, \quad a \leftarrow F (a + K v) + c, \quad
            P \leftarrow F (I - K H) P F^\top + Q.

  An entry that was not measured has a zero innovation, a zero column in K and a unit row in S, so that
  windows with different patterns have tensors of the same shape. At each step P is made symmetric, and
  exactly zero where an entry was measured, so that rounding errors do not accumulate over long series.
* :func:`smooth`: the distribution of each entry given the whole context, by the backward recursions of Durbin
  and Koopman,

  .. math:: r \leftarrow H^\top S^{-1} v + L^\top r, \quad N \leftarrow H^\top S^{-1} H + L^\top N L, \quad
            L = F (I - K H),

  which start from :math:`r = 0, N = 0` after the last step. The mean is :math:`a + P r`, the covariance
  :math:`P - P N P`. P is singular wherever a lag was measured, and is never inverted. The same recursions
  give the law of each measurement given all others: its precision is an entry of the diagonal of
  :math:`D = S^{-1} + K^\top F^\top N F K`, and its difference from the mean is :math:`(S^{-1} v - K^\top
  F^\top r) / D`.
* :func:`posterior_samples`: joint draws given the whole context. A path :math:`x^+` drawn from the model is
  corrected by the smoothed mean of its error on the context, :math:`x^+ + E[x - x^+ \mid x_O - x^+_O]`. Gains
  depend only on the pattern of the context, so all draws share them and each draw costs only the recursions
  for the means.

Cost and memory are linear in the number of steps. All computations run in the model's precision, which should
be float64.

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
    """A linear-Gaussian state-space model; the first entries of its state are the series.

    Attributes:
        transition: The matrix F; row i gives entry i of the next state.
        offset: The vector c added to the state at each step.
        noise_covariance: Covariance Q of the state noise. It may be singular, provided that no measured entry
            is determined by earlier measurements and the other measurements of its own step.
        initial_mean: Mean of the first state.
        initial_covariance: Covariance of the first state.
        observed_size: The number M of leading state entries that form the series.
    """

    transition: Float[Tensor, "state state"]
    offset: Float[Tensor, "state"]
    noise_covariance: Float[Tensor, "state state"]
    initial_mean: Float[Tensor, "state"]
    initial_covariance: Float[Tensor, "state state"]
    observed_size: int


class FilteredStates(NamedTuple):
    """Mean and covariance of every slice given the context before it, and the likelihood of the context.

    Attributes:
        mean: The predicted mean of each slice.
        covariance: The covariance of each slice's prediction error.
        log_likelihood: The log-density of each window's context, in nats.
    """

    mean: Float[Tensor, "batch time observed"]
    covariance: Float[Tensor, "batch time observed observed"]
    log_likelihood: Float[Tensor, "batch"]


class Smoothed(NamedTuple):
    """Mean and variance of every entry given the whole context.

    Attributes:
        mean: The posterior mean; within ``context`` the value itself.
        variance: The posterior variance; zero within ``context``.
    """

    mean: Float[Tensor, "batch time observed"]
    variance: Float[Tensor, "batch time observed"]


class _Update(NamedTuple):
    """The value-independent terms of one step's update; they depend only on the pattern of the context."""

    context: Bool[Tensor, "batch observed"]
    covariance: Float[Tensor, "batch state state"]
    """The predicted covariance P."""
    rows: Float[Tensor, "batch observed state"]
    """The rows of P that belong to the series, H P; a view."""
    cholesky: Float[Tensor, "batch observed observed"]
    """The Cholesky factor of S, with a unit row for each entry outside the context."""
    gain: Float[Tensor, "batch state observed"]
    """The gain K."""


def kalman_filter(
    model: StateSpace,
    values: Float[Tensor, "batch time observed"],
    context: Bool[Tensor, "batch time observed"],
) -> FilteredStates:
    """Predicts every slice from the context before it.

    Args:
        model: The state-space model of the series.
        values: Measurements in the model's units; anything, NaN included, outside the context.
        context: Which entries were measured.

    Returns:
        The predicted means and covariances, and the log-likelihood of the context.

    Raises:
        ValueError: If a shape does not fit.
    """
    values = _filled(model, values, context)
    updates = _updates(model, context)
    mean = _predicted(model, updates, values[..., None])[..., : model.observed_size, 0]
    return FilteredStates(
        mean=mean,
        covariance=_expanded(values, [update.rows[..., : model.observed_size] for update in updates]),
        log_likelihood=_log_likelihood(updates, torch.where(context, values - mean, 0)),
    )


def smooth(
    model: StateSpace,
    values: Float[Tensor, "batch time observed"],
    context: Bool[Tensor, "batch time observed"],
) -> Smoothed:
    """Returns the mean and variance of every entry given the whole context, past and future.

    Args:
        model: The state-space model of the series.
        values: Measurements in the model's units; anything, NaN included, outside the context.
        context: Which entries were measured.

    Raises:
        ValueError: If a shape does not fit.
    """
    return smooth_with_surprise(model, values, context)[0]


def smooth_with_surprise(
    model: StateSpace,
    values: Float[Tensor, "batch time observed"],
    context: Bool[Tensor, "batch time observed"],
) -> tuple[Smoothed, Float[Tensor, "batch time observed"]]:
    """Returns the same as :func:`smooth`, and how surprising each measurement is.

    The surprise is the difference of a measurement from its mean given all *other* measurements, in standard
    deviations of that law. It has unit variance under the model, and is zero outside ``context``.

    Args:
        model: The state-space model of the series.
        values: Measurements in the model's units; anything, NaN included, outside the context.
        context: Which entries were measured.

    Raises:
        ValueError: If a shape does not fit.
    """
    values = _filled(model, values, context)
    updates = _updates(model, context)
    mean, error = (x.squeeze(-1) for x in _smoothed_mean(model, updates, values[..., None]))
    variance, precision = (x.expand_as(values) for x in _smoothed_variance(model, updates))
    surprise = torch.where(context, error / precision.clamp(min=1e-300).sqrt(), 0)
    return Smoothed(torch.where(context, values, mean), variance), surprise


class SecondMoments(NamedTuple):
    """First and second posterior moments of slices and the states before them, summed over steps and windows.

    They are sufficient for a regression of a slice on the state before it. The vectors are a slice and the
    state of the step before, :math:`(x_t, s_{t-1})`.

    Attributes:
        first: Sum of the vectors' posterior means.
        second: Sum of the posterior means of each vector's outer product with itself.
        steps: The number of vectors summed.
        log_likelihood: The log-density of the context of all windows, in nats.
    """

    first: Float[Tensor, "size"]
    second: Float[Tensor, "size size"]
    steps: int
    log_likelihood: Float[Tensor, ""]

    def __add__(self, other: SecondMoments) -> SecondMoments:  # type: ignore[override]
        """Returns the moments of both sets of windows together."""
        return SecondMoments(
            self.first + other.first,
            self.second + other.second,
            self.steps + other.steps,
            self.log_likelihood + other.log_likelihood,
        )


def smoothed_moments(
    model: StateSpace,
    values: Float[Tensor, "batch time observed"],
    context: Bool[Tensor, "batch time observed"],
    skip: int = 1,
) -> SecondMoments:
    r"""Returns the summed moments of each slice and the state before it, given the whole context.

    This is the E-step of an EM algorithm. The covariance of neighbouring states given everything is
    :math:`P_t L_t^\top (I - N_t P_{t+1})`.

    Args:
        model: The state-space model of the series.
        values: Measurements in the model's units; anything, NaN included, outside the context.
        context: Which entries were measured.
        skip: Steps at the start of each window whose slices are left out of the sums; at least 1.

    Raises:
        ValueError: If a shape does not fit, or no step is left.
    """
    if not 1 <= skip < context.shape[1]:
        raise ValueError(f"skip must be from 1 to {context.shape[1] - 1}; it is {skip}.")
    values = _filled(model, values, context)
    updates = _updates(model, context)
    predicted = _predicted(model, updates, values[..., None]).squeeze(-1)
    size, lags = model.observed_size, len(model.offset) - model.observed_size
    innovation = torch.where(context, values - predicted[..., :size], 0)
    adjoint = torch.zeros_like(predicted[:, 0])
    count, windows = size + len(model.offset), len(values)
    first, second = values.new_zeros(count), values.new_zeros(count, count)
    information = torch.zeros_like(model.transition)
    now = None  # mean and covariance of the next slice, and its covariance with the state before
    for t, closed_loop, whitening, with_step in _backward(model, updates, skip - 1):
        covariance = updates[t].covariance
        whitened = whitening.mT @ (whitening @ innovation[:, t, :, None])
        adjoint = (closed_loop.mT @ adjoint[..., None]).squeeze(-1) + pad(whitened.squeeze(-1), (0, lags))
        mean = predicted[:, t] + (covariance @ adjoint[..., None]).squeeze(-1)
        spread = covariance - covariance @ with_step @ covariance
        if now is not None:
            next_rows, next_mean, next_spread = now
            # rows of (I - P_{t+1} N_t) L_t P_t that belong to the slice
            own = pad(torch.eye(size).to(values), (0, lags))
            cross = (own - next_rows @ information) @ closed_loop @ covariance
            vector = torch.cat([next_mean, mean], dim=1)
            first = first + vector.sum(dim=0)
            spreads = torch.cat(
                [
                    torch.cat([_total(next_spread, windows), _total(cross, windows)], dim=1),
                    torch.cat([_total(cross, windows).mT, _total(spread, windows)], dim=1),
                ]
            )
            second = second + vector.mT @ vector + spreads
        now = (updates[t].rows, mean[:, :size], spread[:, :size, :size])
        information = with_step
    steps = windows * (len(updates) - skip)
    return SecondMoments(first, (second + second.mT) / 2, steps, _log_likelihood(updates, innovation).sum())


def _total(covariance: Float[Tensor, "rows size other"], windows: int) -> Float[Tensor, "size other"]:
    """Returns the sum over windows, of which all share the covariance if it has a single row."""
    return covariance.sum(dim=0) * (windows // len(covariance))


def posterior_samples(
    model: StateSpace,
    values: Float[Tensor, "*samples batch time observed"],
    context: Bool[Tensor, "batch time observed"],
    stream: Int64[Tensor, "samples batch"],
) -> Float[Tensor, "samples batch time observed"]:
    """Draws whole windows jointly given the whole context.

    Args:
        model: The state-space model of the series.
        values: Measurements in the model's units, either shared by all draws or one set per draw; anything,
            NaN included, outside the context.
        context: Which entries were measured; the draws repeat these values exactly.
        stream: One random stream for each draw of each window (see :mod:`tsgen.counter_random`).

    Raises:
        ValueError: If a shape does not fit.
    """
    values = _filled(model, values, context)
    drawn = simulate(model, context.shape[1], stream)
    centred = model._replace(
        offset=torch.zeros_like(model.offset), initial_mean=torch.zeros_like(model.initial_mean)
    )
    # the draws are columns, so that one product with a gain serves them all
    error = torch.where(context, values - drawn, 0).movedim(0, -1)
    correction = _smoothed_mean(centred, _updates(model, context), error)[0].movedim(-1, 0)
    return torch.where(context, values, drawn + correction)


def simulate(
    model: StateSpace, steps: int, stream: Int64[Tensor, "*rows"]
) -> Float[Tensor, "*rows time observed"]:
    """Draws series from the model, one for each random stream.

    Args:
        model: The state-space model of the series.
        steps: Length of each series.
        stream: One random stream for each series.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1; it is {steps}.")
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
    """Returns a matrix whose product with its own transpose is the covariance, which may be singular."""
    scale = covariance.diagonal().clamp(min=0).sqrt()
    # units may differ by many orders of magnitude, so eigenvalues are compared to zero on the correlations
    safe = torch.where(scale > 0, scale, 1)
    eigenvalue, vector = torch.linalg.eigh(covariance / (safe[:, None] * safe))
    noise_floor = len(scale) * torch.finfo(scale.dtype).eps
    root = torch.where(eigenvalue > noise_floor, eigenvalue, 0).sqrt()
    # the symmetric root is unique, whereas the signs of eigenvectors are arbitrary
    return scale[:, None] * ((vector * root) @ vector.mT)


def _filled(model: StateSpace, values: Tensor, context: Tensor) -> Tensor:
    """Returns the values in the model's precision, zero outside the context; raises if a shape does not
    fit."""
    if context.dim() != 3 or values.shape[-3:] != context.shape or values.shape[-1] != model.observed_size:
        raise ValueError(
            f"values and context must both be [batch, time, {model.observed_size}]; their shapes are "
            f"{list(values.shape)} and {list(context.shape)}."
        )
    # fill first: NaN times zero is NaN
    return torch.where(context, values.to(model.offset), 0)


def _expanded(values: Tensor, steps: list[Tensor]) -> Tensor:
    """Returns the stacked tensors of all steps, expanded to all windows if these share them."""
    stacked = torch.stack(steps, dim=1)
    return stacked.expand(len(values), *stacked.shape[1:])


def _updates(model: StateSpace, context: Bool[Tensor, "batch time observed"]) -> list[_Update]:
    size, transition = model.observed_size, model.transition
    if len(context) > 1 and bool((context == context[:1]).all()):
        context = context[:1]  # windows with the same pattern share the updates, which depend on it alone
    unit = torch.eye(size).to(transition)
    covariance = model.initial_covariance.expand(len(context), -1, -1)
    updates = []
    for measured in context.unbind(dim=1):
        rows = covariance[:, :size]
        cholesky = torch.linalg.cholesky(
            torch.where(measured[:, :, None] & measured[:, None], rows[..., :size], unit)
        )
        gain = torch.cholesky_solve(rows * measured[:, :, None], cholesky).mT
        updates.append(_Update(measured, covariance, rows, cholesky, gain))
        filtered = covariance - gain @ rows
        # a measured entry has no variance left: remove the rounding error too
        uncertain = pad(~measured, (0, len(transition) - size), value=True)
        filtered = filtered * (uncertain[:, :, None] & uncertain[:, None])
        covariance = transition @ filtered @ transition.mT + model.noise_covariance
        covariance = (covariance + covariance.mT) / 2
    return updates


def _log_likelihood(
    updates: list[_Update], innovation: Float[Tensor, "batch time observed"]
) -> Float[Tensor, "batch"]:
    cholesky = torch.stack([update.cholesky for update in updates], dim=1)
    whitened = torch.linalg.solve_triangular(cholesky, innovation[..., None], upper=False).squeeze(-1)
    density = -0.5 * (whitened.square() + math.log(2 * math.pi)) - cholesky.diagonal(dim1=-2, dim2=-1).log()
    context = torch.stack([update.context for update in updates], dim=1)
    return torch.where(context, density, 0).sum(dim=(1, 2))


def _predicted(
    model: StateSpace, updates: list[_Update], values: Float[Tensor, "batch time observed draws"]
) -> Float[Tensor, "batch time state draws"]:
    size, predicted = model.observed_size, []
    mean = model.initial_mean[:, None].expand(len(values), -1, values.shape[-1])
    for update, value in zip(updates, values.unbind(dim=1), strict=True):
        predicted.append(mean)
        innovation = (value - mean[:, :size]) * update.context[..., None]
        mean = model.transition @ (mean + update.gain @ innovation) + model.offset[:, None]
    return torch.stack(predicted, dim=1)


def _smoothed_mean(
    model: StateSpace, updates: list[_Update], values: Float[Tensor, "batch time observed draws"]
) -> tuple[Float[Tensor, "batch time observed draws"], Float[Tensor, "batch time observed draws"]]:
    r"""Returns the smoothed means, and the smoothing errors :math:`u = S^{-1} v - K^\top F^\top r`."""
    predicted = _predicted(model, updates, values)[:, :, : model.observed_size]
    smoothed, errors = [], []
    adjoint = values.new_zeros(len(values), len(model.offset), values.shape[-1])
    for t in reversed(range(len(updates))):
        _, _, rows, cholesky, gain = update = updates[t]
        innovation = (values[:, t] - predicted[:, t]) * update.context[..., None]
        adjoint = model.transition.mT @ adjoint
        error = torch.cholesky_solve(innovation, cholesky) - gain.mT @ adjoint
        adjoint = adjoint + pad(error, (0, 0, 0, len(model.offset) - model.observed_size))
        smoothed.append(predicted[:, t] + rows @ adjoint)
        errors.append(error)
    return torch.stack(smoothed[::-1], dim=1), torch.stack(errors[::-1], dim=1)


def _smoothed_variance(
    model: StateSpace, updates: list[_Update]
) -> tuple[Float[Tensor, "batch time observed"], Float[Tensor, "batch time observed"]]:
    r"""Returns the smoothed variances, and the variances of the smoothing errors.

    The latter, the diagonal of :math:`S^{-1} + K^\top F^\top N F K`, are the precisions of the measurements
    given all others.
    """
    variance, precision = [], []
    later = torch.zeros_like(model.transition)
    for t, _, whitening, information in _backward(model, updates):
        context, _, rows, _, gain = updates[t]
        posterior = rows.diagonal(dim1=-2, dim2=-1) - ((rows @ information) * rows).sum(dim=-1)
        variance.append(torch.where(context, 0, posterior.clamp(min=0)))
        moved = model.transition @ gain
        precision.append(whitening.square().sum(dim=-2) + ((later @ moved) * moved).sum(dim=-2))
        later = information
    return torch.stack(variance[::-1], dim=1), torch.stack(precision[::-1], dim=1)


def _backward(
    model: StateSpace, updates: list[_Update], skip: int = 0
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Yields, from the last step back to the first not skipped: its number, L, a root of H' S^-1 H, and N."""
    lags = len(model.offset) - model.observed_size
    unit = torch.eye(len(model.offset)).to(model.offset)
    information = torch.zeros_like(unit)
    for t in reversed(range(skip, len(updates))):
        context, _, _, cholesky, gain = updates[t]
        closed_loop = model.transition @ (unit - pad(gain, (0, lags)))
        whitening = torch.linalg.solve_triangular(cholesky, torch.diag_embed(context.to(gain)), upper=False)
        measured = pad(whitening.mT @ whitening, (0, lags, 0, lags))
        information = measured + closed_loop.mT @ information @ closed_loop
        yield t, closed_loop, whitening, information
