r"""A linear-Gaussian process fitted to whatever is visible of a network, with shrinkage.

:func:`fit_shrunk` fits a :class:`~tsgen.exact.linear.VARProcess` of order 1 or 2 by EM, in which every node
may influence every other and the noise is correlated. A network of N nodes has more than :math:`N^2`
parameters, so both are shrunk towards a process of few parameters:

* The coefficients of node v, given those :math:`d_v` of an autoregression of the node alone, are the ridge
  regression on all nodes

  .. math:: A_v = \arg\min_a \sum_t E(x_t^v - a^\top s_{t-1})^2 + \kappa\, |a - d_v|^2.

* The noise covariance is :math:`(1 - \delta) S + \delta R`, where S is that of the residuals and R has the
  same variances and the correlation :math:`\alpha + \beta w_{uv}` between nodes, w being the weight of the
  edge between u and v. The numbers :math:`\alpha, \beta` are a regression over all pairs. A node that was
  never measured thus follows its neighbours.

The order, :math:`\kappa` and :math:`\delta` are those with the largest expected likelihood on the other half
of the windows, in two-fold cross-validation.

References:
    Honey, I shrunk the sample covariance matrix (Ledoit & Wolf, 2004);
    An approach to time series smoothing and forecasting using the EM algorithm (Shumway & Stoffer, 1982).
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tsgen.argument_types import check_shapes
from tsgen.exact.kalman import SecondMoments, smoothed_moments
from tsgen.exact.linear import VARProcess

ORDERS = (1, 2)
"""The orders to choose from."""

RIDGES = (10.0, 100.0, 1000.0, 10_000.0)
"""Strengths of the ridge to choose from, in steps of data."""

SHARES = (0.02, 0.1, 0.4)
"""Weights of the target of the noise covariance to choose from."""

LARGEST_ROOT = 0.995
"""The modulus of the largest root of a fitted process, at most."""

ITERATIONS = 3
"""Iterations of EM after the options are chosen."""

PRIOR_PAIRS = 20
"""The correlation of two nodes at the start counts as much of the target as this many common steps."""

MAX_BYTES = 2**27
"""Memory that the covariances of the states of some windows may take."""


LARGEST_VALUE = 1e6
"""The size of an observed value, in standard units, must be below this: sums of squares keep their digits."""

SMALLEST_VARIANCE = 1e-5
"""The variance of the noise of an entry, at least; the entry has variance 1."""


class _Options(NamedTuple):
    order: int
    ridge: float
    share: float


class _Regression(NamedTuple):
    coefficients: Float[Tensor, "entries state"]
    covariance: Float[Tensor, "entries entries"]


@check_shapes
def fit_shrunk(
    values: Float[Tensor, "batch time entries"],
    observed: Bool[Tensor, "batch time entries"],
    similarity: Float[Tensor, "entries entries"] | None = None,
    iterations: int = ITERATIONS,
) -> VARProcess:
    """Fits a stationary process of mean zero to windows of a series.

    Args:
        values: Windows in standard units, in which each entry has mean 0 and deviation 1; anything, NaN
            included, where nothing was observed.
        observed: Which entries were observed.
        similarity: Weights of the edges between entries of a slice, from 0 to 1 and symmetric; none if not
            given.
        iterations: Iterations of EM after the options are chosen.

    Raises:
        ValueError: If an axis is empty, an observed value is not finite, or a weight is not within 0..1.
    """
    _check(values, observed, similarity, iterations)
    z = torch.where(observed, values.double(), 0)
    size = z.shape[-1]
    weight = z.new_zeros(size, size) if similarity is None else similarity.to(z)
    process = _start(z, observed, weight)
    if z.shape[1] < 3:
        return process
    options, moments = _choose(process, z, observed, weight)
    for _ in range(iterations):
        process = _stationary(_maximise(moments, options, weight))
        moments = _expect(process, options.order, z, observed)
    return _stationary(_maximise(moments, options, weight))


def _check(values: Tensor, observed: Tensor, similarity: Tensor | None, iterations: int) -> None:
    """Raises ``ValueError`` unless a process can be fitted to these windows."""
    if not values.numel():
        raise ValueError(f"values must have windows, steps and entries; their shape is {list(values.shape)}.")
    largest = torch.where(observed, values, 0).abs().max()
    if not largest < LARGEST_VALUE:  # NaN is not below it either
        raise ValueError(
            f"observed values must be finite, in standard units and below {LARGEST_VALUE:.0e}; the largest "
            f"is {float(largest):.3g}. Set observed to False where there is no measurement."
        )
    if similarity is not None and not bool(((similarity >= 0) & (similarity <= 1)).all()):
        raise ValueError("similarity must lie within 0..1; divide the weights by the largest one.")
    if similarity is not None and not torch.equal(similarity, similarity.mT):
        raise ValueError("similarity must be symmetric; take the larger weight of both directions.")
    if iterations < 0:
        raise ValueError(f"iterations must be at least 0; it is {iterations}.")


def _choose(
    process: VARProcess, z: Tensor, observed: Tensor, weight: Tensor
) -> tuple[_Options, SecondMoments]:
    """Returns the options with the best expected likelihood, and the moments of all windows."""
    orders = [order for order in ORDERS if order < z.shape[1] - 1]
    if len(z) == 1:
        options = _Options(orders[0], RIDGES[-1], SHARES[-1])
        return options, _expect(process, orders[0], z, observed)
    halves = {
        order: [_expect(process, order, z[half::2], observed[half::2]) for half in (0, 1)] for order in orders
    }
    scores = {}
    for options in map(_Options._make, product(orders, RIDGES, SHARES)):
        first, second = halves[options.order]
        scores[options] = sum(
            _expected(_maximise(fitted, options, weight), held_out)
            for fitted, held_out in ((first, second), (second, first))
        )
    options = max(scores, key=scores.__getitem__)
    return options, halves[options.order][0] + halves[options.order][1]


def _start(z: Tensor, observed: Tensor, weight: Tensor) -> VARProcess:
    """Returns the process in which all nodes have the same memory, from pairs of observed entries."""
    flat, there = z.flatten(0, 1), observed.flatten(0, 1).double()
    count = there.mT @ there
    variance = (flat.square().sum(dim=0) + 5) / (there.sum(dim=0) + 5)
    deviation = variance.sqrt()
    correlation = (flat.mT @ flat) / count.clamp(min=1) / (deviation[:, None] * deviation)
    target = _target(correlation, weight, count)
    correlation = (count * correlation + PRIOR_PAIRS * target) / (count + PRIOR_PAIRS)
    covariance = _positive(deviation[:, None] * _unit_diagonal(correlation) * deviation, 0.02)
    memory = z.new_zeros(())
    if z.shape[1] > 1:
        both = observed[:, 1:] & observed[:, :-1]
        now, before = z[:, 1:][both], z[:, :-1][both]
        squares = (now.square().sum() + before.square().sum()) / 2
        memory = ((now @ before) / squares.clamp(min=1e-12)).clamp(0, 0.98)
    size = len(covariance)
    unit = torch.eye(size).to(z)
    return VARProcess(memory * unit[None], z.new_zeros(size), (1 - memory**2) * covariance)


def _target(correlation: Tensor, weight: Tensor, count: Tensor) -> Float[Tensor, "entries entries"]:
    """Returns the correlation alpha + beta w of each pair, from a regression over all pairs."""
    pairs = torch.where(torch.eye(len(weight), dtype=torch.bool, device=weight.device), 0, count)
    total = pairs.sum().clamp(min=1)
    mean_weight, mean = (pairs * weight).sum() / total, (pairs * correlation).sum() / total
    spread = (pairs * (weight - mean_weight).square()).sum() / total
    slope = (pairs * (weight - mean_weight) * (correlation - mean)).sum() / total
    slope = slope / (spread + 1e-3)
    target = (mean + slope * (weight - mean_weight)).clamp(-0.95, 0.95)
    return _unit_diagonal(target)


def _unit_diagonal(correlation: Tensor) -> Tensor:
    unit = torch.eye(len(correlation), dtype=torch.bool, device=correlation.device)
    return torch.where(unit, 1, correlation)


def _positive(covariance: Tensor, floor: float) -> Float[Tensor, "entries entries"]:
    """Returns the covariance with eigenvalues of at least a share of their mean."""
    eigenvalue, vector = torch.linalg.eigh((covariance + covariance.mT) / 2)
    return (vector * eigenvalue.clamp(min=floor * float(eigenvalue.mean()))) @ vector.mT


def _expect(process: VARProcess, order: int, z: Tensor, observed: Tensor) -> SecondMoments:
    """Performs the E-step for a regression of some order, in portions of bounded memory."""
    size, more = process.num_nodes, order - process.order
    lags = torch.cat([process.coefficients, process.coefficients.new_zeros(more, size, size)])
    model, steps = VARProcess(lags, process.intercept, process.covariance).state_space(), z.shape[1]
    portion = max(1, MAX_BYTES // (8 * steps * len(model.offset) ** 2))
    total = None
    for values, there in zip(z.split(portion), observed.split(portion), strict=True):
        moments = smoothed_moments(model, values, there, skip=order)
        total = moments if total is None else total + moments
    assert total is not None
    return total


def _maximise(moments: SecondMoments, options: _Options, weight: Tensor) -> _Regression:
    """Performs the M-step with shrinkage."""
    size, order = len(weight), options.order
    second = moments.second / moments.steps
    now, cross, past = second[:size, :size], second[:size, size:], second[size:, size:]
    node = torch.arange(size, device=weight.device)[:, None]
    own = node + size * torch.arange(order, device=weight.device)
    systems, right = past[own[:, :, None], own[:, None]], cross[node, own]
    # a twentieth of the mean over nodes keeps the systems regular
    systems, right = (x + 0.05 * x.mean(dim=0) for x in (systems, right))
    alone = torch.zeros_like(cross)
    alone[node, own] = torch.linalg.solve(systems, right[..., None]).squeeze(-1)
    ridge = options.ridge / moments.steps
    regular = past + ridge * torch.eye(len(past)).to(past)
    coefficients = torch.linalg.solve(regular, (cross + ridge * alone).mT).mT
    residual = now - coefficients @ cross.mT - cross @ coefficients.mT + coefficients @ past @ coefficients.mT
    return _Regression(coefficients, _shrunk(residual, weight, options.share))


def _shrunk(residual: Tensor, weight: Tensor, share: float) -> Float[Tensor, "entries entries"]:
    """Returns the noise covariance, shrunk towards correlations that depend on the edges alone."""
    deviation = residual.diagonal().clamp(min=SMALLEST_VARIANCE).sqrt()
    correlation = residual / (deviation[:, None] * deviation)
    correlation = (1 - share) * correlation + share * _target(correlation, weight, torch.ones_like(weight))
    return _positive(deviation[:, None] * _unit_diagonal(correlation) * deviation, 1e-5)


def _expected(fitted: _Regression, moments: SecondMoments) -> float:
    """Returns the expected log-likelihood per step of a regression, without constants."""
    coefficients, covariance = fitted
    size, second = len(covariance), moments.second / moments.steps
    cross = coefficients @ second[size:, :size]
    residual = second[:size, :size] - cross - cross.mT + coefficients @ second[size:, size:] @ coefficients.mT
    factor = torch.linalg.cholesky(covariance)
    return -float(factor.diagonal().log().sum() + torch.cholesky_solve(residual, factor).trace() / 2)


def _stationary(fitted: _Regression) -> VARProcess:
    """Returns the process of a regression, its roots moved inside the unit circle."""
    size = len(fitted.covariance)
    lags = fitted.coefficients.unflatten(1, (-1, size)).movedim(1, 0)
    below = torch.eye(fitted.coefficients.shape[1]).to(lags)[:-size]
    root = float(torch.linalg.eigvals(torch.cat([fitted.coefficients, below])).abs().max())
    power = torch.arange(1, len(lags) + 1, device=lags.device)[:, None, None]
    lags = lags * min(1.0, LARGEST_ROOT / max(root, 1e-12)) ** power
    return VARProcess(lags, lags.new_zeros(size), fitted.covariance)
