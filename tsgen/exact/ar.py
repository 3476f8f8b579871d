r"""The Gaussian autoregression of a single series, with every distribution in closed form.

:class:`ARProcess` is the process of order p

.. math:: y_t = c + \sum_{i=1}^{p} \phi_i y_{t-i} + \epsilon_t, \qquad \epsilon_t \sim N(0, \sigma^2).

Given the last p values, the next value is Gaussian and independent of all older values, so blocks of p
consecutive values form a Markov chain. If every root of :math:`z^p - \phi_1 z^{p-1} - \dots - \phi_p` lies
inside the unit circle, the chain has a stationary distribution, with mean
:math:`\mu = c / (1 - \sum_i \phi_i)` and autocovariances that solve

.. math:: \gamma_k = \sum_{i=1}^{p} \phi_i \gamma_{|k-i|} + \sigma^2 [k = 0], \qquad k = 0, \dots, p.

Two likelihoods are in use,

.. math::
    p(y_{p+1:T} \mid y_{1:p}) = \prod_{t=p+1}^{T} N\Bigl(y_t; c + \sum_i \phi_i y_{t-i}, \sigma^2\Bigr),
    \qquad p(y_{1:T}) = p(y_{1:p}) \, p(y_{p+1:T} \mid y_{1:p}).

The *conditional* likelihood is that of a linear regression on the lags; least squares maximises it. The
*exact* likelihood also includes the stationary density of the first p values. Its maximum has no closed form;
it is found by L-BFGS in coordinates :math:`\theta` that cannot leave the stationary region: :math:`\phi` is a
smooth one-to-one function of the partial autocorrelations
:math:`\kappa_k = \theta_k / \sqrt{1 + \theta_k^2}`. *Yule-Walker* estimates solve the equations above with
the sample autocovariances of the series in place of :math:`\gamma`.

Missing values are NaN in a series; the Kalman filter (:mod:`tsgen.exact.kalman`) integrates them out. A
forecast treats the next values as missing values at the end of the series.

References:
    Time Series Analysis (Hamilton, 1994), ch. 3 to 5;
    On the parametrization of autoregressive models by partial autocorrelations (Barndorff-Nielsen & Schou,
    1973); A note on enforcing stationarity in autoregressive-moving average models (Monahan, 1984).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal
from torch.nn.functional import pad

from tsgen.argument_types import check_arguments
from tsgen.counter_random import streams
from tsgen.exact.kalman import Smoothed, StateSpace, kalman_filter, posterior_samples, simulate, smooth


@check_arguments
class ARProcess:
    r"""The process :math:`y_t = c + \sum_i \phi_i y_{t-i} + \epsilon_t` with Gaussian noise, in float64.

    One process describes any number of series: time is the last axis of a tensor, and the leading axes are
    batch axes. NaN marks a missing value. Parameters may carry gradients: laws and densities are
    differentiable in them, draws are not.

    Args:
        coefficients: The weights of the last p values, lag 1 first.
        intercept: The constant c added at each step, in the unit of the series.
        variance: Variance of the noise, in the unit squared.

    Raises:
        ValueError: If a shape does not fit, a number is not finite or the variance is not positive.

    Example:
        >>> process = ARProcess([0.5], intercept=1.0, variance=3.0)
        >>> process.stationary().mean, process.stationary().variance
        (tensor([2.], dtype=torch.float64), tensor([4.], dtype=torch.float64))
        >>> process.forecast(torch.tensor([4.0, 6.0]), horizon=2).mean
        tensor([4., 3.], dtype=torch.float64)
    """

    def __init__(
        self,
        coefficients: Float[Tensor, "order"] | Sequence[float],
        intercept: Float[Tensor, ""] | float,
        variance: Float[Tensor, ""] | float,
    ) -> None:
        self.coefficients = torch.as_tensor(coefficients, dtype=torch.float64)
        device = self.coefficients.device
        self.intercept = torch.as_tensor(intercept, dtype=torch.float64, device=device)
        self.variance = torch.as_tensor(variance, dtype=torch.float64, device=device)
        if self.coefficients.dim() != 1 or not len(self.coefficients):
            raise ValueError(
                "coefficients must be a vector with one number per lag, at least one; got shape "
                f"{list(self.coefficients.shape)}."
            )
        for name in ("coefficients", "intercept", "variance"):
            x = getattr(self, name)
            if name != "coefficients" and x.dim():
                raise ValueError(f"{name} must be a single number; got shape {list(x.shape)}.")
            if not x.isfinite().all():
                raise ValueError(
                    f"{name} must be finite; {int((~x.isfinite()).sum())} of its entries are not."
                )
        if not self.variance > 0:
            raise ValueError(f"variance must be positive; it is {self.variance.item():.6g}.")

    def __repr__(self) -> str:
        coefficients = ", ".join(f"{phi:.6g}" for phi in self.coefficients.tolist())
        return (
            f"ARProcess([{coefficients}], intercept={self.intercept.item():.6g}, "
            f"variance={self.variance.item():.6g})"
        )

    @property
    def order(self) -> int:
        """The number of lags."""
        return len(self.coefficients)

    # -------------------------------------------------------------------------------------------- laws

    @property
    def is_stationary(self) -> bool:
        """Whether every root of the companion matrix lies inside the unit circle."""
        return self._radius() < 1

    def autocovariance(self, lags: int) -> Float[Tensor, "{lags}+1"]:
        """Returns the autocovariances of the stationary process at lags 0, 1, ..., ``lags``.

        Args:
            lags: The largest lag, in steps.

        Raises:
            ValueError: If the process is not stationary or ``lags`` is negative.
        """
        self._check_stationary()
        if lags < 0:
            raise ValueError(f"lags must not be negative; it is {lags}.")
        p = self.order
        k = torch.arange(p + 1, device=self.coefficients.device)
        unit = torch.eye(p + 1).to(self.coefficients)
        # row k, column |k - i|: the Yule-Walker equations, p + 1 of them in p + 1 unknowns
        distance = (k[:, None] - k[1:]).abs()
        system = unit.scatter_add(1, distance, -self.coefficients.expand(p + 1, -1))
        gamma = torch.linalg.solve(system, self.variance * unit[0])
        found = gamma.new_empty(max(lags, p) + 1)
        found[: p + 1] = gamma
        for lag in range(p + 1, lags + 1):
            found[lag] = self.coefficients @ found[lag - p : lag].flip(0)
        return found[: lags + 1]

    def stationary(self, steps: int | None = None) -> MultivariateNormal:
        """Returns the joint law of consecutive values of the stationary process, in time order.

        Args:
            steps: The number of values; the order p if not given.

        Raises:
            ValueError: If the process is not stationary or ``steps`` is below 1.
        """
        steps = self.order if steps is None else steps
        if steps < 1:
            raise ValueError(f"steps must be at least 1; it is {steps}.")
        return MultivariateNormal(self._mean().expand(steps), self._stationary_covariance(steps))

    def transition(self, history: Float[Tensor, "*batch time"]) -> Normal:
        """Returns the law of the next value, whose mean is linear in the last p values.

        Args:
            history: The preceding values, in time order; only the last p are read. :meth:`forecast` accepts
                missing values.

        Returns:
            One law for each series, of shape ``batch``.

        Raises:
            ValueError: If there are fewer than p values, or one of the last p is not finite.
        """
        held = history.shape[-1] if history.dim() else 0
        if held < self.order:
            raise ValueError(f"history must hold at least order = {self.order} values; it holds {held}.")
        lags = history[..., -self.order :].to(self.coefficients).flip(-1)
        if not lags.isfinite().all():
            raise ValueError(
                f"the last {self.order} values of history must be finite; {int((~lags.isfinite()).sum())} "
                "are not. Use forecast(), which accepts missing values."
            )
        return Normal(self.intercept + lags @ self.coefficients, self.variance.sqrt())

    # ------------------------------------------------------------------------------------------ series

    def log_prob(
        self, y: Float[Tensor, "*batch time"], method: Literal["exact", "conditional"] = "exact"
    ) -> Float[Tensor, "*batch"]:
        """Returns the log-density of the observed values of each series, in nats.

        Missing values are integrated out.

        Args:
            y: Series; NaN where a value is missing.
            method: ``exact`` starts from the stationary distribution. ``conditional`` is the density of all
                later values given the first p, which must be observed; the process need not be stationary.

        Raises:
            ValueError: If a value is infinite or the method is unknown; if the process is not stationary
                (``exact``); if one of the first p values is missing or no value follows them
                (``conditional``).
        """
        if method not in ("exact", "conditional"):
            raise ValueError(f"method must be 'exact' or 'conditional'; it is {method!r}.")
        (values, observed), p = self._read(y), self.order
        steps = values.shape[-1]
        if method == "exact":
            self._check_stationary()
        else:
            _check_start(observed, p)
            if steps == p:
                raise ValueError(
                    f"y must have more than {p} steps, as the conditional density is that of values after "
                    f"the first {p}; y has {steps}. Give a longer series, or use method='exact'."
                )
        if observed.all() and steps > p:  # no recursion is needed
            total = self.transition(values[:, :-1].unfold(-1, p, 1)).log_prob(values[:, p:]).sum(dim=-1)
            if method == "exact":
                total = total + self.stationary().log_prob(values[:, :p])
        else:
            filtered = kalman_filter(self._state_space(observed), values[..., None], observed[..., None])
            law = Normal(filtered.mean[..., 0], filtered.covariance[..., 0, 0].sqrt())
            log_density = torch.where(observed, law.log_prob(values), 0)
            total = log_density[:, 0 if method == "exact" else p :].sum(dim=-1)
        return total.reshape(y.shape[:-1])

    def forecast(self, y: Float[Tensor, "*batch time"], horizon: int) -> Normal:
        r"""Returns the law of each future value given all observed values.

        If no value is missing, the variance k steps ahead is :math:`\sigma^2 \sum_{j<k} \psi_j^2`, where
        :math:`\psi_0 = 1` and :math:`\psi_j = \sum_i \phi_i \psi_{j-i}`. To draw joint futures, append NaN
        and call :meth:`impute`.

        Args:
            y: Series; NaN where a value is missing.
            horizon: The number of steps ahead.

        Returns:
            Laws of shape ``batch horizon``.

        Raises:
            ValueError: If ``horizon`` is below 1 or a value is infinite; if the process is not stationary
                and one of the first p values is missing.
        """
        if horizon < 1:
            raise ValueError(f"horizon must be at least 1; it is {horizon}.")
        values, observed = self._read(y)
        space = self._state_space(observed)
        values, observed = pad(values, (0, horizon)), pad(observed, (0, horizon))
        filtered = kalman_filter(space, values[..., None], observed[..., None])
        shape = (*y.shape[:-1], horizon)
        return Normal(
            filtered.mean[:, -horizon:].reshape(shape),
            filtered.covariance[:, -horizon:].sqrt().reshape(shape),
        )

    def smooth(self, y: Float[Tensor, "*batch time"]) -> Smoothed:
        """Returns the mean and variance of every value given all observed values, past and future.

        Args:
            y: Series; NaN where a value is missing.

        Returns:
            Mean and variance, in the shape of ``y``: an observed value is its own mean and has variance zero.

        Raises:
            ValueError: If a value is infinite; if the process is not stationary and one of the first p values
                is missing.
        """
        values, observed = self._read(y)
        smoothed = smooth(self._state_space(observed), values[..., None], observed[..., None])
        return Smoothed(*(x.reshape(y.shape) for x in smoothed))

    def impute(
        self, y: Float[Tensor, "*batch time"], num_samples: int, seed: int = 0
    ) -> Float[Tensor, "samples *batch time"]:
        """Draws the missing values jointly, given all observed values.

        Args:
            y: Series; NaN where a value is missing. The draws repeat the observed values exactly.
            num_samples: Draws per series.
            seed: Fixes the draws.

        Raises:
            ValueError: If ``num_samples`` is below 1 or a value is infinite; if the process is not stationary
                and one of the first p values is missing.
        """
        _check_num_samples(num_samples)
        values, observed = self._read(y)
        sample, row = (torch.arange(n, device=values.device) for n in (num_samples, len(values)))
        drawn = posterior_samples(
            self._state_space(observed),
            values[..., None],
            observed[..., None],
            streams(seed, sample[:, None], row),
        )
        return drawn.reshape(num_samples, *y.shape)

    def sample(self, steps: int, num_samples: int = 1, seed: int = 0) -> Float[Tensor, "samples time"]:
        """Draws series of the stationary process.

        Args:
            steps: Length of a series.
            num_samples: The number of series.
            seed: Fixes the draws.

        Raises:
            ValueError: If the process is not stationary, or ``steps`` or ``num_samples`` is below 1.
        """
        if steps < 1:
            raise ValueError(f"steps must be at least 1; it is {steps}.")
        _check_num_samples(num_samples)
        self._check_stationary()
        sample = torch.arange(num_samples, device=self.coefficients.device)
        return simulate(self._state_space(), steps, streams(seed, sample))[..., 0]

    @classmethod
    def fit(
        cls,
        y: Float[Tensor, "*batch time"],
        order: int,
        method: Literal["conditional", "exact", "yule_walker"] = "conditional",
    ) -> ARFit:
        """Estimates a process from one series, or from several independent series of the same process.

        * ``conditional``: maximum of the conditional likelihood, by least squares on the lags. The variance
          is the mean squared residual. The estimate need not be stationary.
        * ``exact``: maximum of the exact likelihood, by L-BFGS; always stationary, and the only method that
          accepts missing values.
        * ``yule_walker``: the process whose mean and first p + 1 autocovariances equal those of the series;
          always stationary.

        Args:
            y: Series; NaN where a value is missing.
            order: The number p of lags.
            method: The estimator.

        Raises:
            ValueError: If the order is below 1 or the method is unknown; if a value is infinite, or missing
                where the method needs all values; if there are too few values, or all are equal; if the lags
                determine the series without noise, or no maximum is found.
        """
        if order < 1:
            raise ValueError(f"order must be at least 1; it is {order}.")
        values, observed = _flat(y.detach().double())
        _check_enough(values, observed, order, method)
        observations = values[observed]
        # in standard units: a mean far from zero or a large unit would cost precision
        centre, scale = observations.mean(), observations.std()
        standard = torch.where(observed, (values - centre) / scale, torch.nan)
        parameters, covariance = _ESTIMATORS[method](standard, order)
        coefficients, intercept, variance = parameters.split([order, 1, 1])
        process = cls(
            coefficients,
            (scale * intercept + centre * (1 - coefficients.sum())).squeeze(),
            (scale.square() * variance).squeeze(),
        )
        # the Jacobian of the parameters with respect to those in standard units
        jacobian = torch.eye(order + 2).to(values)
        jacobian[order, :order] = -centre
        jacobian[order, order], jacobian[order + 1, order + 1] = scale, scale.square()
        log_prob = process.log_prob(values, "conditional" if method == "conditional" else "exact")
        return ARFit(
            process=process,
            standard_errors=(jacobian @ covariance @ jacobian.mT).diagonal().sqrt(),
            log_likelihood=log_prob.sum().item(),
            num_values=len(observations) - (order * len(values) if method == "conditional" else 0),
        )

    # --------------------------------------------------------------------------------------- internals

    def _read(self, y: Float[Tensor, "*batch time"]) -> tuple[Tensor, Tensor]:
        if 0 in y.shape[:-1]:
            raise ValueError(f"y must hold at least one series; its shape is {list(y.shape)}.")
        values, observed = _flat(y.to(self.coefficients))
        # fill first: where() alone leaves NaN in the gradient
        return torch.where(observed, values, 0), observed

    def _companion(self) -> Float[Tensor, "order order"]:
        shift = torch.eye(self.order).to(self.coefficients)[:-1]
        return torch.cat([self.coefficients[None], shift])

    def _radius(self) -> float:
        return torch.linalg.eigvals(self._companion()).abs().max().item()

    def _check_stationary(self) -> None:
        radius = self._radius()
        if not radius < 1:
            raise ValueError(
                "the process must be stationary: the modulus of its largest root must be below 1; it is "
                f"{radius:.6g}. Shrink the coefficients, or use log_prob(y, 'conditional'), which does not "
                "need stationarity."
            )

    def _mean(self) -> Float[Tensor, ""]:
        return self.intercept / (1 - self.coefficients.sum())

    def _stationary_covariance(self, steps: int) -> Float[Tensor, "steps steps"]:
        return _toeplitz(self.autocovariance(steps - 1))

    def _state_space(self, observed: Bool[Tensor, "batch time"] | None = None) -> StateSpace:
        """Returns the model of the state (y_t, ..., y_{t-p+1}), started from its stationary distribution if
        it has one."""
        unit = torch.eye(self.order).to(self.coefficients)
        mean, covariance = 0 * unit[0], unit
        if self.is_stationary:
            mean, covariance = self._mean().expand(self.order), self._stationary_covariance(self.order)
        elif observed is not None:
            # once the first p values are observed, the initial distribution of the state no longer matters
            _check_start(observed, self.order)
        return StateSpace(
            transition=self._companion(),
            offset=self.intercept * unit[0],
            noise_covariance=self.variance * torch.outer(unit[0], unit[0]),
            initial_mean=mean,
            initial_covariance=covariance,
            observed_size=1,
        )


class ARFit(NamedTuple):
    """An estimated process, with its standard errors and its likelihood.

    Attributes:
        process: The estimate.
        standard_errors: Standard errors of the coefficients (lag 1 first), the intercept and the variance,
            in the order of the arguments of :class:`ARProcess`. ``conditional`` and ``exact`` invert the
            observed information of their likelihood, ``yule_walker`` the expected information.
        log_likelihood: Log-likelihood of all series together, in nats: the conditional likelihood for
            ``conditional``, otherwise the exact one.
        num_values: The number n of values in that likelihood: all observed values, without the first p of
            each series for ``conditional``.
    """

    process: ARProcess
    standard_errors: Float[Tensor, "parameters"]
    log_likelihood: float
    num_values: int

    @property
    def aic(self) -> float:
        """Akaike's criterion, -2 log-likelihood + 2 (p + 2); comparable only at equal ``num_values``."""
        return 2 * len(self.standard_errors) - 2 * self.log_likelihood

    @property
    def bic(self) -> float:
        """Schwarz' criterion, -2 log-likelihood + (p + 2) log n; comparable only at equal ``num_values``."""
        return math.log(self.num_values) * len(self.standard_errors) - 2 * self.log_likelihood


# Each estimator takes series in standard units and returns coefficients, intercept and variance in one
# vector, with the covariance of its error.


def _least_squares(
    y: Float[Tensor, "batch time"], order: int
) -> tuple[Float[Tensor, "parameters"], Float[Tensor, "parameters parameters"]]:
    window = y.unfold(-1, order + 1, 1).flatten(0, 1)
    target = window[:, -1]
    design = torch.cat([window[:, :-1].flip(-1), torch.ones_like(target)[:, None]], dim=1)
    q, r = torch.linalg.qr(design)
    pivot = r.diagonal().abs()
    weights = torch.linalg.solve_triangular(r, (q.mT @ target)[:, None], upper=True)[:, 0]
    variance = (target - design @ weights).square().mean()
    # in standard units, these are zero up to rounding
    if pivot.min() < 1e-10 * pivot.max() or variance < 1e-20:
        raise ValueError(_NOISELESS.format(order))
    return _with_error(weights, variance, torch.cholesky_inverse(r, upper=True), len(target))


def _yule_walker(
    y: Float[Tensor, "batch time"], order: int
) -> tuple[Float[Tensor, "parameters"], Float[Tensor, "parameters parameters"]]:
    gamma = _sample_autocovariance(y, order)
    factor = torch.linalg.cholesky(_toeplitz(gamma[:-1]))
    coefficients = torch.cholesky_solve(gamma[1:, None], factor)[:, 0]
    variance = gamma[0] - coefficients @ gamma[1:]
    # the series have mean zero, so the constant is orthogonal to the lags
    inverse = torch.block_diag(torch.cholesky_inverse(factor), torch.ones(1, 1).to(y)) / y.numel()
    return _with_error(torch.cat([coefficients, gamma.new_zeros(1)]), variance, inverse, y.numel())


def _with_error(
    weights: Float[Tensor, "weights"],
    variance: Float[Tensor, ""],
    inverse: Float[Tensor, "weights weights"],
    count: int,
) -> tuple[Float[Tensor, "parameters"], Float[Tensor, "parameters parameters"]]:
    """Returns the weights and the variance in one vector, with the covariance of their errors.

    At the maximum of a Gaussian regression the errors of weights and variance are uncorrelated.
    """
    error = torch.block_diag(variance * inverse, (2 * variance.square() / count)[None, None])
    return torch.cat([weights, variance[None]]), error


def _exact_maximum(
    y: Float[Tensor, "batch time"], order: int
) -> tuple[Float[Tensor, "parameters"], Float[Tensor, "parameters parameters"]]:
    count = int(y.isfinite().sum())

    def loss(parameters: Float[Tensor, "parameters"]) -> Float[Tensor, ""]:
        process = ARProcess(parameters[:order], parameters[order], parameters[order + 1])
        return -process.log_prob(y).sum() / count

    free = _free_start(torch.nan_to_num(y), order).requires_grad_()
    # tolerances below the rounding error: the search ends when no step improves the loss any more
    optimiser = torch.optim.LBFGS(
        [free],
        max_iter=500,
        tolerance_grad=1e-10,
        tolerance_change=1e-14,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Float[Tensor, ""]:
        optimiser.zero_grad()
        value = loss(_from_free(free))
        value.backward()
        return value

    try:
        optimiser.step(closure)
        parameters = _from_free(free).detach()
        information = count * torch.autograd.functional.hessian(loss, parameters)
        slope = count * torch.autograd.functional.jacobian(loss, parameters)
        factor = torch.linalg.cholesky(information)
    except (ValueError, torch.linalg.LinAlgError) as error:
        # the search came too close to a unit root or to zero noise for float64
        raise ValueError(_NO_MAXIMUM.format(order)) from error
    # the gain that one more Newton step would bring, in nats
    if not 0.5 * torch.linalg.solve_triangular(factor, slope[:, None], upper=False).square().sum() < 1e-6:
        raise ValueError(_NO_MAXIMUM.format(order))
    return parameters, torch.cholesky_inverse(factor)


def _free_start(y: Float[Tensor, "batch time"], order: int) -> Float[Tensor, "parameters"]:
    """Returns the Yule-Walker estimate, which is always stationary, in unconstrained coordinates."""
    gamma = _sample_autocovariance(y, order)
    # the k-th partial autocorrelation is the last coefficient of order k
    partial = torch.stack(
        [torch.linalg.solve(_toeplitz(gamma[:k]), gamma[1 : k + 1])[-1] for k in range(1, order + 1)]
    )
    unexplained = 1 - partial.square()
    log_variance = (gamma[0] * unexplained.prod()).log()
    return torch.cat([partial / unexplained.sqrt(), y.new_zeros(1), log_variance[None]])


def _from_free(free: Float[Tensor, "parameters"]) -> Float[Tensor, "parameters"]:
    """Returns coefficients, intercept and variance, given unconstrained partial autocorrelations, mean and
    log-variance."""
    theta, mean, log_variance = free[:-2], free[-2], free[-1]
    partial = theta / (1 + theta.square()).sqrt()
    coefficients = partial[:1]
    for last in partial[1:]:  # the Durbin-Levinson recursion
        coefficients = torch.cat([coefficients - last * coefficients.flip(0), last[None]])
    intercept = mean * (1 - coefficients.sum())
    return torch.cat([coefficients, intercept[None], log_variance.exp()[None]])


def _sample_autocovariance(y: Float[Tensor, "batch time"], lags: int) -> Float[Tensor, "{lags}+1"]:
    """Returns the autocovariances of series with mean zero, divided by the number of all values, which makes
    their Toeplitz matrix positive definite."""
    products = [(y[:, k:] * y[:, : y.shape[1] - k]).sum() for k in range(lags + 1)]
    return torch.stack(products) / y.numel()


def _toeplitz(gamma: Float[Tensor, "size"]) -> Float[Tensor, "size size"]:
    k = torch.arange(len(gamma), device=gamma.device)
    return gamma[(k[:, None] - k).abs()]


_ESTIMATORS = {"conditional": _least_squares, "exact": _exact_maximum, "yule_walker": _yule_walker}
_NOISELESS = (
    "the series must contain noise; here the last {} values determine the next one, or each other, without "
    "error. Check whether the series is a line, a cycle or almost constant."
)
_NO_MAXIMUM = (
    "the exact likelihood of order {} has no maximum that float64 can find: the series probably has a trend "
    "or almost no noise. Remove the trend, lower the order, or use method='conditional' or 'yule_walker'."
)


def _flat(y: Float[Tensor, "*batch time"]) -> tuple[Float[Tensor, "rows time"], Bool[Tensor, "rows time"]]:
    """Returns the series as rows, and the mask of observed values."""
    if not y.dim() or not y.shape[-1]:
        raise ValueError(f"y must hold series of at least one value; got shape {list(y.shape)}.")
    if y.isinf().any():
        raise ValueError(
            f"y must be finite, or NaN where a value is missing; {int(y.isinf().sum())} values are infinite."
        )
    rows = y.reshape(y.shape[:-1].numel(), y.shape[-1])
    return rows, ~rows.isnan()


def _check_num_samples(num_samples: int) -> None:
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1; it is {num_samples}.")


def _check_start(observed: Bool[Tensor, "batch time"], order: int) -> None:
    start = observed[:, :order]
    if start.shape[1] < order or not start.all():
        raise ValueError(
            f"the first {order} values of each series must be observed, both for the conditional density and "
            f"for a process that is not stationary; y has {observed.shape[1]} values per series, and "
            f"{int((~start).sum())} of the first {order} are missing. Cut each series so that it begins with "
            f"{order} observed values."
        )


def _check_enough(
    values: Float[Tensor, "batch time"], observed: Bool[Tensor, "batch time"], order: int, method: str
) -> None:
    observations = values[observed]
    count = len(observations)
    if not count:
        raise ValueError(f"y must hold observed values; all {values.numel()} are missing.")
    if method != "exact" and count < values.numel():
        raise ValueError(
            f"method={method!r} needs every value; {values.numel() - count} of {values.numel()} are missing. "
            "Use method='exact', which accepts missing values."
        )
    beyond_start = count - order * len(values)
    if beyond_start < order + 2:
        raise ValueError(
            f"a fit of order {order} needs at least {order + 2} observed values beyond the first {order} of "
            f"each series; y has {max(beyond_start, 0)}. Lower the order, or give a longer series."
        )
    if (observations == observations[0]).all():
        raise ValueError(f"y must vary; all of its {count} observed values are {observations[0].item():.6g}.")
