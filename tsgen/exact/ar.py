r"""The Gaussian autoregression of one series, with every law in closed form.

:class:`ARProcess` is the process of order p

.. math:: y_t = c + \sum_{i=1}^{p} \phi_i y_{t-i} + \epsilon_t, \qquad \epsilon_t \sim N(0, \sigma^2).

Given the last p values the next one is Gaussian, and nothing older matters: p consecutive values are a Markov
chain. If every root of :math:`z^p - \phi_1 z^{p-1} - \dots - \phi_p` lies inside the unit circle, the chain
has a stationary law: mean :math:`\mu = c / (1 - \sum_i \phi_i)` and autocovariances that solve

.. math:: \gamma_k = \sum_{i=1}^{p} \phi_i \gamma_{|k-i|} + \sigma^2 [k = 0], \qquad k = 0, \dots, p.

A series then has two likelihoods,

.. math::
    p(y_{p+1:T} \mid y_{1:p}) = \prod_{t=p+1}^{T} N\Bigl(y_t; c + \sum_i \phi_i y_{t-i}, \sigma^2\Bigr),
    \qquad p(y_{1:T}) = p(y_{1:p}) \, p(y_{p+1:T} \mid y_{1:p}).

The *conditional* one is that of a linear regression on the lags: least squares maximise it. The *exact* one
counts the first p values too, by their stationary law. It has no closed maximum and is climbed by L-BFGS in
coordinates :math:`\theta` that cannot leave the stationary region: :math:`\phi` is a smooth one-to-one
function of the partial autocorrelations :math:`\kappa_k = \theta_k / \sqrt{1 + \theta_k^2}`. *Yule-Walker*
estimates solve the equations above with the series' own autocovariances in place of :math:`\gamma`.

Missing values, NaN in a series, are integrated out by the Kalman filter (:mod:`tsgen.exact.kalman`), and a
forecast is a series whose last values are missing.

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

from tsgen.counter_random import streams
from tsgen.exact.kalman import Smoothed, StateSpace, kalman_filter, posterior_samples, simulate, smooth


class ARProcess:
    r"""The process :math:`y_t = c + \sum_i \phi_i y_{t-i} + \epsilon_t` with Gaussian noise, in float64.

    One process, any number of series: a series is the last axis of a tensor, and leading axes count series.
    NaN is a missing value. Parameters may carry gradients: laws and densities are differentiable in them,
    draws are not.

    Args:
        coefficients: The weights of the last p values, lag 1 first.
        intercept: What is added at each step, in the unit of the series.
        variance: Variance of the noise, in the unit squared.

    Raises:
        ValueError: If a shape does not fit, a number is not finite or the variance not positive.

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
                "coefficients must be one number per lag, at least one; their shape is "
                f"{list(self.coefficients.shape)}."
            )
        for name in ("coefficients", "intercept", "variance"):
            x = getattr(self, name)
            if name != "coefficients" and x.dim():
                raise ValueError(f"{name} must be one number; its shape is {list(x.shape)}.")
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
        """Covariances of two values of the stationary process 0, 1, ..., ``lags`` steps apart.

        Args:
            lags: The largest distance.

        Raises:
            ValueError: If the process is not stationary or ``lags`` is negative.
        """
        self._check_stationary()
        if lags < 0:
            raise ValueError(f"lags must not be negative; it is {lags}.")
        p = self.order
        k = torch.arange(p + 1, device=self.coefficients.device)
        unit = torch.eye(p + 1).to(self.coefficients)
        # row k, column |k - i|: the Yule-Walker equations, p + 1 of them in as many unknowns
        distance = (k[:, None] - k[1:]).abs()
        system = unit.scatter_add(1, distance, -self.coefficients.expand(p + 1, -1))
        gamma = torch.linalg.solve(system, self.variance * unit[0])
        for _ in range(p, lags):
            gamma = torch.cat([gamma, (self.coefficients @ gamma[-p:].flip(0))[None]])
        return gamma[: lags + 1]

    def stationary(self, steps: int | None = None) -> MultivariateNormal:
        """The joint law of consecutive values of the stationary process, in the order of time.

        Args:
            steps: How many values; as many as the process has lags if not given.

        Raises:
            ValueError: If the process is not stationary or ``steps`` is below 1.
        """
        steps = self.order if steps is None else steps
        if steps < 1:
            raise ValueError(f"steps must be at least 1; it is {steps}.")
        return MultivariateNormal(self._mean().expand(steps), self._stationary_covariance(steps))

    def transition(self, history: Float[Tensor, "*batch time"]) -> Normal:
        """The law of the value that follows: its mean is linear in the last p values.

        Args:
            history: What came before, in the order of time; only the last p values are read. To leave values
                out, see :meth:`forecast`.

        Returns:
            One law for each series, of shape ``batch``.

        Raises:
            ValueError: If there are fewer than p values, or one of the last p is not finite.
        """
        if history.shape[-1] < self.order:
            raise ValueError(
                f"history must hold at least order = {self.order} values; it holds {history.shape[-1]}."
            )
        lags = history[..., -self.order :].to(self.coefficients).flip(-1)
        if not lags.isfinite().all():
            raise ValueError(
                f"the last {self.order} values of history must be finite; {int((~lags.isfinite()).sum())} "
                "are not. forecast() takes missing values."
            )
        return Normal(self.intercept + lags @ self.coefficients, self.variance.sqrt())

    # ------------------------------------------------------------------------------------------ series

    def log_prob(
        self, y: Float[Tensor, "*batch time"], method: Literal["exact", "conditional"] = "exact"
    ) -> Float[Tensor, "*batch"]:
        """The log-density of what is observed of each series, in nats; missing values are integrated out.

        Args:
            y: Series; NaN where a value is missing.
            method: ``exact`` begins with the stationary law. ``conditional`` is the density of all later
                values given the first p, which must then be observed; the process need not be stationary.

        Raises:
            ValueError: If a value is infinite or the method unknown; if the process is not stationary
                (``exact``); if one of the first p values is missing or none follows them (``conditional``).
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
                    f"the conditional density is of what follows the first {p} values; y has {steps}. Give a "
                    "longer series, or method='exact'."
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
        r"""The law of each of the next values given all that is observed.

        With nothing missing, the variance k steps ahead is :math:`\sigma^2 \sum_{j<k} \psi_j^2`, where
        :math:`\psi_0 = 1` and :math:`\psi_j = \sum_i \phi_i \psi_{j-i}`. (:meth:`impute` draws whole futures:
        append NaN.)

        Args:
            y: Series; NaN where a value is missing.
            horizon: The number of steps ahead.

        Returns:
            Laws of shape ``batch horizon``.

        Raises:
            ValueError: If ``horizon`` is below 1 or a value infinite; if the process is not stationary and
                one of the first p values missing.
        """
        if horizon < 1:
            raise ValueError(f"horizon must be at least 1; it is {horizon}.")
        values, observed = self._read(y)
        space = self._state_space(observed)
        values, observed = pad(values, (0, horizon)), pad(observed, (0, horizon))
        filtered = kalman_filter(space, values[..., None], observed[..., None])
        ahead = (*y.shape[:-1], horizon)
        return Normal(
            filtered.mean[:, -horizon:].reshape(ahead),
            filtered.covariance[:, -horizon:].sqrt().reshape(ahead),
        )

    def smooth(self, y: Float[Tensor, "*batch time"]) -> Smoothed:
        """Mean and variance of every value given all that is observed, before and after it.

        Args:
            y: Series; NaN where a value is missing.

        Returns:
            Mean and variance, of the shape of ``y``: an observed value is its own mean and has variance zero.

        Raises:
            ValueError: If a value is infinite; if the process is not stationary and one of the first p values
                missing.
        """
        values, observed = self._read(y)
        smoothed = smooth(self._state_space(observed), values[..., None], observed[..., None])
        return Smoothed(*(x.reshape(y.shape) for x in smoothed))

    def impute(
        self, y: Float[Tensor, "*batch time"], num_samples: int, seed: int = 0
    ) -> Float[Tensor, "samples *batch time"]:
        """Draws the missing values jointly, given all that is observed.

        Args:
            y: Series; NaN where a value is missing. The draws hold the observed values exactly.
            num_samples: Draws of each series.
            seed: Fixes the draws.

        Raises:
            ValueError: If ``num_samples`` is below 1 or a value infinite; if the process is not stationary
                and one of the first p values missing.
        """
        _check_number(num_samples)
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
            ValueError: If the process is not stationary, or ``steps`` or ``num_samples`` below 1.
        """
        if steps < 1:
            raise ValueError(f"steps must be at least 1; it is {steps}.")
        _check_number(num_samples)
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
        """Estimates a process from one series, or from several independent ones that share it.

        * ``conditional``: maximum of the conditional likelihood, by least squares on the lags. The variance
          is the mean squared residual. The estimate need not be stationary.
        * ``exact``: maximum of the exact likelihood, by L-BFGS; always stationary, and the only method that
          takes missing values.
        * ``yule_walker``: the process whose mean and first p + 1 autocovariances are the series'; always
          stationary.

        Args:
            y: Series; NaN where a value is missing.
            order: The number p of lags.
            method: What is maximised or solved.

        Raises:
            ValueError: If the order is below 1 or the method unknown; if a value is infinite, or missing
                where the method needs them all; if there are too few values, or all are equal; if the lags
                determine the series without noise, or no maximum is found.
        """
        if method not in _ESTIMATORS:
            raise ValueError(f"method must be one of {', '.join(map(repr, _ESTIMATORS))}; it is {method!r}.")
        if order < 1:
            raise ValueError(f"order must be at least 1; it is {order}.")
        values, observed = _flat(y.detach().double())
        _check_enough(values, observed, order, method)
        known = values[observed]
        # in standard units, so that neither a far mean nor a large unit costs digits
        centre, scale = known.mean(), known.std()
        standard = torch.where(observed, (values - centre) / scale, torch.nan)
        parameters, covariance = _ESTIMATORS[method](standard, order)
        coefficients, intercept, variance = parameters.split([order, 1, 1])
        process = cls(
            coefficients,
            (scale * intercept + centre * (1 - coefficients.sum())).squeeze(),
            (scale.square() * variance).squeeze(),
        )
        # the derivative of the parameters by those in standard units
        change = torch.eye(order + 2).to(values)
        change[order, :order] = -centre
        change[order, order], change[order + 1, order + 1] = scale, scale.square()
        log_prob = process.log_prob(values, "conditional" if method == "conditional" else "exact")
        return ARFit(
            process=process,
            standard_errors=(change @ covariance @ change.mT).diagonal().sqrt(),
            log_likelihood=log_prob.sum().item(),
            num_values=len(known) - (order * len(values) if method == "conditional" else 0),
        )

    # ------------------------------------------------------------------------------------------ inside

    def _read(self, y: Float[Tensor, "*batch time"]) -> tuple[Tensor, Tensor]:
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
                f"{radius:.6g}. Shrink the coefficients; log_prob(y, 'conditional') does without."
            )

    def _mean(self) -> Float[Tensor, ""]:
        return self.intercept / (1 - self.coefficients.sum())

    def _stationary_covariance(self, steps: int) -> Float[Tensor, "steps steps"]:
        return _toeplitz(self.autocovariance(steps - 1))

    def _state_space(self, observed: Bool[Tensor, "batch time"] | None = None) -> StateSpace:
        """The state (y_t, ..., y_{t-p+1}), from its stationary law if there is one."""
        unit = torch.eye(self.order).to(self.coefficients)
        mean, covariance = 0 * unit[0], unit
        if self.is_stationary:
            mean, covariance = self._mean().expand(self.order), self._stationary_covariance(self.order)
        elif observed is not None:
            # p observed values leave nothing of whatever law the state began with
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
    """An estimated process, and how sure and how good it is.

    Attributes:
        process: The estimate.
        standard_errors: Of the coefficients, lag 1 first, of the intercept and of the variance, in the order
            in which :class:`ARProcess` takes them. ``conditional`` and ``exact`` invert the observed
            information of their likelihood, ``yule_walker`` the expected one.
        log_likelihood: In nats, of all series together: the conditional one for ``conditional``, otherwise
            the exact one.
        num_values: The number n of values in that likelihood: those observed, for ``conditional`` without the
            first p of each series.
    """

    process: ARProcess
    standard_errors: Float[Tensor, "parameters"]
    log_likelihood: float
    num_values: int

    @property
    def aic(self) -> float:
        """Akaike's criterion, -2 log-likelihood + 2 (p + 2); comparable at equal ``num_values`` only."""
        return 2 * len(self.standard_errors) - 2 * self.log_likelihood

    @property
    def bic(self) -> float:
        """Schwarz' criterion, -2 log-likelihood + (p + 2) log n; comparable at equal ``num_values`` only."""
        return math.log(self.num_values) * len(self.standard_errors) - 2 * self.log_likelihood


# Each estimator takes series in standard units and returns coefficients, intercept and variance in one vector
# and the covariance of its error.


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
    # in standard units, this is what rounding leaves of zero
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
    # the series' mean is zero, so that the constant is orthogonal to the lags
    inverse = torch.block_diag(torch.cholesky_inverse(factor), torch.ones(1, 1).to(y)) / y.numel()
    return _with_error(torch.cat([coefficients, gamma.new_zeros(1)]), variance, inverse, y.numel())


def _with_error(
    weights: Float[Tensor, "weights"],
    variance: Float[Tensor, ""],
    inverse: Float[Tensor, "weights weights"],
    count: int,
) -> tuple[Float[Tensor, "parameters"], Float[Tensor, "parameters parameters"]]:
    """Appends the variance; at the maximum of a Gaussian regression its error has no part in the others'."""
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
    # tolerances below what rounding lets through: it ends where no step improves any more
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
        # the search has left what float64 can tell from a unit root or from no noise
        raise ValueError(_NO_MAXIMUM.format(order)) from error
    # what a step of Newton's method would still gain, in nats
    if not 0.5 * torch.linalg.solve_triangular(factor, slope[:, None], upper=False).square().sum() < 1e-6:
        raise ValueError(_NO_MAXIMUM.format(order))
    return parameters, torch.cholesky_inverse(factor)


def _free_start(y: Float[Tensor, "batch time"], order: int) -> Float[Tensor, "parameters"]:
    """The Yule-Walker estimate, always stationary, in coordinates that may take any value."""
    gamma = _sample_autocovariance(y, order)
    # the k-th partial autocorrelation is the last coefficient of order k
    partial = torch.stack(
        [torch.linalg.solve(_toeplitz(gamma[:k]), gamma[1 : k + 1])[-1] for k in range(1, order + 1)]
    )
    left = 1 - partial.square()
    return torch.cat([partial / left.sqrt(), y.new_zeros(1), (gamma[0] * left.prod()).log()[None]])


def _from_free(free: Float[Tensor, "parameters"]) -> Float[Tensor, "parameters"]:
    """Coefficients, intercept and variance from free partial autocorrelations, mean and log-variance."""
    theta, mean, log_variance = free[:-2], free[-2], free[-1]
    partial = theta / (1 + theta.square()).sqrt()
    coefficients = partial[:1]
    for last in partial[1:]:  # the recursion of Durbin and Levinson
        coefficients = torch.cat([coefficients - last * coefficients.flip(0), last[None]])
    intercept = mean * (1 - coefficients.sum())
    return torch.cat([coefficients, intercept[None], log_variance.exp()[None]])


def _sample_autocovariance(y: Float[Tensor, "batch time"], lags: int) -> Float[Tensor, "{lags}+1"]:
    """Of series with mean zero; divided by the number of all values, which makes it positive definite."""
    products = [(y[:, k:] * y[:, : y.shape[1] - k]).sum() for k in range(lags + 1)]
    return torch.stack(products) / y.numel()


def _toeplitz(gamma: Float[Tensor, "size"]) -> Float[Tensor, "size size"]:
    k = torch.arange(len(gamma), device=gamma.device)
    return gamma[(k[:, None] - k).abs()]


_ESTIMATORS = {"conditional": _least_squares, "exact": _exact_maximum, "yule_walker": _yule_walker}
_NOISELESS = (
    "the series must be noisy; in this one, values follow from the {} before them, or these from each other, "
    "without error. Is it a line, a cycle, or almost constant?"
)
_NO_MAXIMUM = (
    "the exact likelihood of order {} has no maximum that float64 can find: the series seems to have a trend "
    "or almost no noise. Take out the trend, lower the order, or use method='conditional' or 'yule_walker'."
)


def _flat(y: Float[Tensor, "*batch time"]) -> tuple[Float[Tensor, "rows time"], Bool[Tensor, "rows time"]]:
    """The series one below the other, and what is observed of them."""
    if not y.dim() or not y.shape[-1]:
        raise ValueError(f"y must be series of at least one value; its shape is {list(y.shape)}.")
    if y.isinf().any():
        raise ValueError(
            f"y must be finite, or NaN where a value is missing; {int(y.isinf().sum())} values are infinite."
        )
    rows = y.reshape(y.shape[:-1].numel(), y.shape[-1])
    return rows, ~rows.isnan()


def _check_number(num_samples: int) -> None:
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1; it is {num_samples}.")


def _check_start(observed: Bool[Tensor, "batch time"], order: int) -> None:
    start = observed[:, :order]
    if start.shape[1] < order or not start.all():
        raise ValueError(
            f"the first {order} values of each series must be observed, for the conditional density and for "
            f"a process that is not stationary; y has {observed.shape[1]} values a series and "
            f"{int((~start).sum())} of the first are missing. Cut each series so that it begins with {order} "
            "observed values."
        )


def _check_enough(
    values: Float[Tensor, "batch time"], observed: Bool[Tensor, "batch time"], order: int, method: str
) -> None:
    known = values[observed]
    if not len(known):
        raise ValueError(f"y must hold observed values; all {values.numel()} are missing.")
    if method != "exact" and len(known) < values.numel():
        raise ValueError(
            f"method={method!r} needs every value; {values.numel() - len(known)} of {values.numel()} are "
            "missing. method='exact' takes missing values."
        )
    scored = len(known) - order * len(values)
    if scored < order + 2:
        raise ValueError(
            f"a fit of order {order} needs at least {order + 2} observed values beyond the first {order} of "
            f"each series; y has {max(scored, 0)}. Lower the order, or give a longer series."
        )
    if (known == known[0]).all():
        raise ValueError(f"y must vary; all of its {len(known)} observed values are {known[0].item():.6g}.")
