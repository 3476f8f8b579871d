r"""Linear-Gaussian processes on a graph, which answer every task exactly and serve as oracles in tests.

:class:`VARProcess` is the vector autoregression of order p

.. math:: x_t = c + \sum_{k=1}^{p} A_k x_{t-k} + \epsilon_t, \qquad \epsilon_t \sim N(0, Q),

in which row v of :math:`A_k` holds the influence of every node on node v after k steps. A graph model has
entries only on the diagonal and along the edges. The process is stationary if every root of the companion
matrix F lies inside the unit circle. The stationary covariance of :math:`s_t = (x_t, \dots, x_{t-p+1})`
solves the Lyapunov equation :math:`\Gamma = F \Gamma F^\top + Q`, here by doubling,

.. math:: \Gamma \leftarrow \Gamma + F \Gamma F^\top, \quad F \leftarrow F^2.

The laws of single entries, the likelihood and joint draws are exact for every pattern of missing values
(:mod:`tsgen.exact.kalman`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from tsgen.argument_types import check_arguments, check_shapes
from tsgen.counter_random import streams
from tsgen.data.series import Samples, SeriesBatch, check_draws
from tsgen.exact.kalman import (
    SecondMoments,
    StateSpace,
    kalman_filter,
    posterior_samples,
    simulate,
    smooth,
    smoothed_moments,
)

CONTEXT_FLOOR = 1e-6
"""Standard deviation that an entry of the context is given, relative to the stationary one of its node."""

Noise = Literal["diagonal", "full"]
"""The structure of the noise covariance."""


class Start(NamedTuple):
    """Mean and covariance of the first slice of a window and of the slices before it, latest first."""

    mean: Float[Tensor, "state"]
    covariance: Float[Tensor, "state state"]


@check_arguments
@dataclass(eq=False)
class VARProcess:
    """A vector autoregression with Gaussian noise, in data units: stationary, or with a given start.

    Computes in float64 on the device of its tensors. Laws are returned in float64, draws in the precision of
    the batch, both on its device.

    Args:
        coefficients: One matrix per lag, lag 1 first; row v, column u is the influence of node u on node v.
        intercept: The vector c added at each step.
        covariance: Covariance of the noise.
        start: Mean and covariance of the first slice of a window and of the p - 1 slices before it, latest
            first; those of the stationary process if not given.

    Raises:
        ValueError: If a shape does not fit, the covariance is not positive definite, or the process is not
            stationary and no start is given.
    """

    coefficients: Float[Tensor, "order nodes nodes"]
    intercept: Float[Tensor, "nodes"]
    covariance: Float[Tensor, "nodes nodes"]
    start: Start | None = None

    def __post_init__(self) -> None:
        self.coefficients, self.intercept = self.coefficients.double(), self.intercept.double()
        self.covariance = self.covariance.double()
        nodes = self.intercept.numel()
        for name, x, shape in (
            ("coefficients", self.coefficients, (max([*self.coefficients.shape[:1], 1]), nodes, nodes)),
            ("intercept", self.intercept, (nodes,)),
            ("covariance", self.covariance, (nodes, nodes)),
        ):
            if x.shape != shape:
                raise ValueError(
                    f"{name} must have shape {list(shape)} for {nodes} nodes; it has {list(x.shape)}."
                )
            if not torch.isfinite(x).all():
                raise ValueError(
                    f"{name} must be finite; {int((~torch.isfinite(x)).sum())} of its entries are not."
                )
        _check_positive_definite(self.covariance)
        if self.start is not None:
            size = self.order * nodes
            self.start = Start(*(x.double() for x in self.start))
            if self.start.mean.shape != (size,) or self.start.covariance.shape != (size, size):
                raise ValueError(
                    f"start must hold a mean of {size} entries ({self.order} lags of {nodes} nodes) and "
                    f"their covariance; the shapes are {[list(x.shape) for x in self.start]}."
                )
        elif not self.radius < 1:
            raise ValueError(
                "the process must be stationary: the modulus of its largest root must be below 1; it is "
                f"{self.radius:.6g}. Shrink the coefficients, or pass start."
            )

    @property
    def radius(self) -> float:
        """The modulus of the largest root; the process is stationary if it is below 1."""
        return float(torch.linalg.eigvals(self._companion()).abs().max())

    @property
    def order(self) -> int:
        """The number of lags."""
        return len(self.coefficients)

    @property
    def num_nodes(self) -> int:
        """The number of nodes."""
        return len(self.intercept)

    def _companion(self) -> Float[Tensor, "state state"]:
        top = self.coefficients.transpose(0, 1).flatten(1)
        below = torch.eye(top.shape[1]).to(top)[: -self.num_nodes]
        return torch.cat([top, below])

    def stationary(self) -> Start:
        """Returns the stationary mean and covariance of p consecutive slices, latest first."""
        total = torch.eye(self.num_nodes).to(self.intercept) - self.coefficients.sum(dim=0)
        mean = torch.linalg.solve(total, self.intercept).repeat(self.order)
        noise = torch.zeros_like(self._companion())
        noise[: self.num_nodes, : self.num_nodes] = self.covariance
        return Start(mean, _stationary_covariance(self._companion(), noise))

    def state_space(self) -> StateSpace:
        """Returns the process as a state-space model whose state is the last p slices."""
        transition, size = self._companion(), self.order * self.num_nodes
        noise = transition.new_zeros(size, size)
        noise[: self.num_nodes, : self.num_nodes] = self.covariance
        start = self.start or self.stationary()
        offset = transition.new_zeros(size)
        offset[: self.num_nodes] = self.intercept
        return StateSpace(
            transition=transition,
            offset=offset,
            noise_covariance=noise,
            initial_mean=start.mean,
            initial_covariance=start.covariance,
            observed_size=self.num_nodes,
        )

    @classmethod
    @check_shapes
    def fit(
        cls,
        values: Float[Tensor, "time nodes"],
        order: int,
        support: Bool[Tensor, "nodes nodes"] | None = None,
        noise: Noise = "full",
        iterations: int = 200,
        tolerance: float = 1e-8,
    ) -> VARFit:
        """Fits a process to a series by maximum likelihood, given its first p slices.

        Without missing values this is least squares on the support. With missing values (NaN) it is EM, whose
        E-step is the Kalman smoother. If the noise covariance is full and the support is not, coefficients
        and covariance are estimated in turn until they converge.

        Args:
            values: The series, in data units; NaN where nothing was observed.
            order: The number of lags.
            support: Row v, column u: whether node u may influence node v. The diagonal is always added; all
                pairs if not given.
            noise: Whether the covariance of the noise is diagonal or full.
            iterations: The maximum number of EM iterations.
            tolerance: EM stops when no parameter changes by more than this, in standard units.

        Raises:
            ValueError: If the series is too short, has infinite values, or a node is constant or observed
                fewer than twice.
        """
        if order < 1:
            raise ValueError(f"order must be at least 1; it is {order}.")
        if not values.shape[1]:
            raise ValueError("values must have at least one node; they have none.")
        values = values.double()
        observed = ~torch.isnan(values)
        loc, scale = _units(values, observed, order)
        standard = ((values - loc) / scale)[None]
        allowed = _support(support, len(loc))
        if noise not in ("diagonal", "full"):
            raise ValueError(f"noise must be 'diagonal' or 'full'; it is {noise!r}.")
        needed = 1 + order * int(allowed.sum(dim=1).max()) + (len(loc) if noise == "full" else 1)
        if len(values) - order < needed:
            raise ValueError(
                f"a fit of order {order} to {len(loc)} nodes needs at least {needed + order} steps; there "
                f"are {len(values)}. Lower the order or restrict the support."
            )
        process = cls.white_noise(order, torch.zeros_like(loc), torch.ones_like(scale))
        converged, iteration = False, 0
        while not converged and iteration < iterations:
            moments = process.expectation(standard, observed[None])
            updated = process.maximisation(moments, allowed, noise)
            change = max(
                float((updated.coefficients - process.coefficients).abs().max()),
                float((updated.intercept - process.intercept).abs().max()),
                float((updated.covariance - process.covariance).abs().max()),
            )
            process, iteration, converged = updated, iteration + 1, change < tolerance
        return VARFit(process.in_units(loc, scale), iteration, converged)

    @check_shapes
    def in_units(self, loc: Float[Tensor, "nodes"], scale: Float[Tensor, "nodes"]) -> VARProcess:
        """Returns the process of loc + scale * x.

        Args:
            loc: The offset added to each node.
            scale: The positive factor that multiplies each node.

        Raises:
            ValueError: If there is not one number per node, or a factor is not positive.
        """
        if not len(loc) == len(scale) == self.num_nodes:
            raise ValueError(
                f"loc and scale must have one number per node, {self.num_nodes}; they have {len(loc)} and "
                f"{len(scale)}."
            )
        if not (scale > 0).all():
            raise ValueError(f"scale must be positive; its smallest number is {float(scale.min())}.")
        loc, scale = loc.double(), scale.double()
        coefficients = scale[:, None] * self.coefficients / scale
        intercept = scale * self.intercept + loc - coefficients.sum(dim=0) @ loc
        start = self.start
        if start is not None:
            all_loc, all_scale = loc.repeat(self.order), scale.repeat(self.order)
            start = Start(all_loc + all_scale * start.mean, all_scale[:, None] * start.covariance * all_scale)
        return VARProcess(coefficients, intercept, scale[:, None] * self.covariance * scale, start)

    @classmethod
    @check_shapes
    def white_noise(
        cls, order: int, loc: Float[Tensor, "nodes"], scale: Float[Tensor, "nodes"]
    ) -> VARProcess:
        """Returns a process without memory, from which a fit starts.

        Args:
            order: The number of lags, their coefficients zero.
            loc: Mean of each node.
            scale: Standard deviation of each node.
        """
        if order < 1:
            raise ValueError(f"order must be at least 1; it is {order}.")
        coefficients = loc.new_zeros(order, len(loc), len(loc))
        return cls(coefficients, loc, torch.diag(scale.double().square()))

    @check_shapes
    def expectation(
        self, values: Float[Tensor, "batch time nodes"], context: Bool[Tensor, "batch time nodes"]
    ) -> SecondMoments:
        """Returns the moments of (x_t, x_{t-1}, .., x_{t-p}) given the whole context, summed over t > p.

        This is the E-step.

        Args:
            values: Windows in data units; anything, NaN included, outside the context.
            context: Which entries were measured.

        Raises:
            ValueError: If a shape does not fit or a window has no step after its first p.
        """
        if values.shape[1] <= self.order:
            raise ValueError(
                f"a window must be longer than the order, {self.order}; it has {values.shape[1]} steps."
            )
        return smoothed_moments(self.state_space(), values, context, skip=self.order)

    @check_shapes
    def maximisation(
        self, moments: SecondMoments, support: Bool[Tensor, "nodes nodes"], noise: Noise
    ) -> VARProcess:
        r"""Returns the process that maximises the expected likelihood, given the first p slices.

        This is the M-step. With z = (1, x_{t-1}, .., x_{t-p}), the coefficients B of each node on its support
        solve the normal equations of :math:`\sum E[(x_t - B z_t)^\top Q^{-1} (x_t - B z_t)]`, and Q is the
        mean of the residuals' outer products. If everything was observed, this is conditional least squares.
        If Q is diagonal, or the support is full, the equations of the nodes decouple and Q does not affect B;
        otherwise the Q of this process weighs them.

        Args:
            moments: The sums returned by :meth:`expectation`.
            support: Row v, column u: whether node u may influence node v.
            noise: Whether Q is diagonal or full.
        """
        nodes = self.num_nodes
        if len(support) != nodes or len(moments.first) != nodes * (self.order + 1):
            raise ValueError(
                f"support and moments must be those of {nodes} nodes and order {self.order}; they have "
                f"{len(support)} nodes and {len(moments.first)} moments."
            )
        count = self.intercept.new_tensor([[float(moments.steps)]])
        past, now = moments.first[nodes:], moments.first[:nodes]
        gram = torch.cat(
            [
                torch.cat([count, past[None]], dim=1),
                torch.cat([past[:, None], moments.second[nodes:, nodes:]], dim=1),
            ]
        )
        cross = torch.cat([now[:, None], moments.second[:nodes, nodes:]], dim=1)
        allowed = torch.cat([torch.ones_like(support[:, :1]), support.repeat(1, self.order)], dim=1)
        decoupled = noise == "diagonal" or bool(allowed.all())
        solution = (
            _solve_by_node(gram, cross, allowed)
            if decoupled
            else _solve_jointly(gram, cross, allowed, self.covariance)
        )
        residual = cross @ solution.mT
        covariance = moments.second[:nodes, :nodes] - residual - residual.mT + solution @ gram @ solution.mT
        covariance = (covariance + covariance.mT) / (2 * moments.steps)
        if noise == "diagonal":
            covariance = torch.diag(covariance.diagonal())
        coefficients = solution[:, 1:].unflatten(1, (self.order, nodes)).movedim(1, 0)
        return _with_start(coefficients, solution[:, 0], covariance, moments)

    def simulate(self, steps: int, seed: int) -> Float[Tensor, "time nodes"]:
        """Draws a series, from the given start or the stationary process.

        Args:
            steps: Length of the series.
            seed: Fixes the draw.
        """
        return simulate(self.state_space(), steps, streams(seed))

    @check_shapes
    def conditional_log_prob(self, values: Float[Tensor, "batch time nodes"]) -> Float[Tensor, "batch"]:
        """Returns the log-density of each window's slices given its first p slices, in nats.

        Args:
            values: Windows in data units, without missing values.

        Raises:
            ValueError: If the windows have other nodes, no step after the first p, or missing values.
        """
        if values.shape[-1] != self.num_nodes or values.shape[1] <= self.order or not len(values):
            raise ValueError(
                f"values must be [batch, time, {self.num_nodes}] with a window and more than {self.order} "
                f"steps; their shape is {list(values.shape)}."
            )
        if not values.isfinite().all():
            raise ValueError(f"values must be finite; {int((~values.isfinite()).sum())} are not.")
        values = values.to(self.intercept)
        past = [values[:, self.order - k : values.shape[1] - k] for k in range(1, self.order + 1)]
        mean = self.intercept + sum(x @ a.mT for x, a in zip(past, self.coefficients, strict=True))
        law = MultivariateNormal(mean, self.covariance)
        return law.log_prob(values[:, self.order :]).sum(dim=1)

    @check_shapes
    def log_prob(
        self,
        values: Float[Tensor, "batch time nodes"],
        context: Bool[Tensor, "batch time nodes"] | None = None,
    ) -> Float[Tensor, "batch"]:
        """Returns the joint log-density of the context of each window, in nats.

        Args:
            values: Windows in data units; anything, NaN included, outside the context.
            context: Which entries are in the context; those that are not NaN if not given. All others are
                integrated out.

        Raises:
            ValueError: If a shape does not fit.
        """
        context = ~values.isnan() if context is None else context
        return kalman_filter(self.state_space(), values, context).log_likelihood

    def predictive(self, batch: SeriesBatch) -> Normal:
        """Returns the law of each entry given the context at earlier steps.

        Args:
            batch: Windows in data units; the channels of a node are adjacent entries of the slice.

        Raises:
            ValueError: If the batch has other nodes or channels.
        """
        filtered = kalman_filter(self.state_space(), *self._slices(batch))
        return self._normal(filtered.mean, filtered.covariance.diagonal(dim1=-2, dim2=-1).sqrt(), batch)

    def posterior(self, batch: SeriesBatch) -> Normal:
        """Returns the law of each entry given the whole context.

        An entry of the context has zero variance, which ``Normal`` does not allow: it gets its own value as
        mean, and :data:`CONTEXT_FLOOR` times the standard deviation of its node.

        Args:
            batch: Windows in data units; the channels of a node are adjacent entries of the slice.

        Raises:
            ValueError: If the batch has other nodes or channels.
        """
        model = self.state_space()
        values, context = self._slices(batch)
        smoothed = smooth(model, values, context)
        floor = CONTEXT_FLOOR * model.initial_covariance.diagonal()[: self.num_nodes].clamp(min=1e-300).sqrt()
        return self._normal(smoothed.mean, torch.where(context, floor, smoothed.variance.sqrt()), batch)

    def impute(self, batch: SeriesBatch, num_samples: int, seed: int = 0) -> Samples:
        """Draws the entries outside the context of each window jointly from their posterior.

        Args:
            batch: Windows in data units; the channels of a node are adjacent entries of the slice.
            num_samples: Draws per window.
            seed: Fixes the draws, together with the window's position; they do not depend on the other
                windows of the batch.

        Raises:
            ValueError: If the batch has other nodes or channels, or ``num_samples`` is below 1.
        """
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1; it is {num_samples}.")
        sample = torch.arange(num_samples, device=batch.position.device)[:, None]
        return Samples(self.draw(batch, streams(seed, sample, batch.address)), "posterior")

    @check_shapes
    def draw(
        self,
        batch: SeriesBatch,
        stream: Int64[Tensor, "samples batch"],
        values: Float[Tensor, "samples batch time nodes channels"] | None = None,
    ) -> Float[Tensor, "samples batch time nodes channels"]:
        """Draws as :meth:`impute` does, from given random streams.

        Args:
            batch: Windows in data units; the channels of a node are adjacent entries of the slice.
            stream: One random stream for each draw of each window (see :mod:`tsgen.counter_random`).
            values: The context values of each draw, if draws differ in them; the values of the batch if not
                given.

        Raises:
            ValueError: If the batch has other nodes or channels, or a shape does not fit.
        """
        check_draws(batch, stream, values)
        batch_values, context = self._slices(batch)
        given = batch_values if values is None else values.flatten(3).to(batch_values)
        drawn = posterior_samples(self.state_space(), given, context, stream.to(batch_values.device))
        return drawn.unflatten(-1, batch.values.shape[2:]).to(batch.values)

    def _slices(self, batch: SeriesBatch) -> tuple[Tensor, Tensor]:
        nodes, channels = batch.values.shape[2:]
        if nodes * channels != self.num_nodes:
            raise ValueError(
                f"the batch must have {self.num_nodes} entries in a slice; it has {nodes} nodes with "
                f"{channels} channels each."
            )
        values, context = batch.values.flatten(2), batch.context.flatten(2)
        return values.to(self.intercept), context.to(self.intercept.device)

    @staticmethod
    def _normal(loc: Tensor, scale: Tensor, batch: SeriesBatch) -> Normal:
        # float64: the variance of data of size 1e-21 is zero in float32
        device, shape = batch.values.device, batch.values.shape[2:]
        loc, scale = (x.unflatten(-1, shape).to(device) for x in (loc, scale))
        return Normal(loc, scale, validate_args=False)


class VARFit(NamedTuple):
    """A fitted process, with the convergence of its fit.

    Attributes:
        process: The process.
        iterations: The number of EM iterations.
        converged: Whether the parameters settled within the allowed iterations.
    """

    process: VARProcess
    iterations: int
    converged: bool


def _support(support: Tensor | None, nodes: int) -> Bool[Tensor, "nodes nodes"]:
    """Returns which node (column) may influence which (row), the diagonal included."""
    if support is None:
        return torch.ones(nodes, nodes, dtype=torch.bool)
    if support.shape != (nodes, nodes) or support.dtype != torch.bool:
        raise ValueError(
            f"support must be a bool tensor of shape [{nodes}, {nodes}]; it is {support.dtype} of shape "
            f"{list(support.shape)}."
        )
    return support | torch.eye(nodes, dtype=torch.bool)


def _solved(systems: Tensor, right: Tensor) -> Tensor:
    try:
        return torch.linalg.solve(systems, right)
    except torch.linalg.LinAlgError as error:
        raise ValueError(
            "the regressors of each node must be linearly independent; the normal equations are singular. "
            "Leave out nodes that copy or determine each other."
        ) from error


def _units(values: Tensor, observed: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """Returns mean and standard deviation of each node; raises if a fit is impossible."""
    if order < 1:
        raise ValueError(f"order must be at least 1; it is {order}.")
    if len(values) <= order + 1:
        raise ValueError(
            f"a fit of order {order} needs more than {order + 1} steps; there are {len(values)}."
        )
    if torch.isinf(values).any():
        raise ValueError("values must be finite, or NaN where nothing was observed; some are infinite.")
    count = observed.sum(dim=0)
    if (count < 2).any():
        node = int(count.argmin())
        raise ValueError(
            f"every node must be observed at least twice; node {node} is observed {int(count[node])} times. "
            "Leave it out."
        )
    loc = values.nanmean(dim=0)
    scale = (values - loc).square().nanmean(dim=0).sqrt()
    constant = scale <= 1e-12 * loc.abs()
    if constant.any():
        raise ValueError(f"no node may be constant; node {int(constant.nonzero()[0])} is. Leave it out.")
    return loc, scale


def _solve_by_node(gram: Tensor, cross: Tensor, allowed: Tensor) -> Tensor:
    """Solves the normal equations of each row, with unit rows for regressors outside its support."""
    scale = gram.diagonal().sqrt()  # the units of regressors may differ by many orders of magnitude
    gram, cross = gram / (scale[:, None] * scale), cross / scale
    pairs = allowed[:, :, None] & allowed[:, None]
    systems = torch.where(pairs, gram, torch.diag_embed((~allowed).to(gram)))
    solved = _solved(systems, torch.where(allowed, cross, 0)[..., None]).squeeze(-1)
    return torch.where(allowed, solved, 0) / scale


def _solve_jointly(gram: Tensor, cross: Tensor, allowed: Tensor, covariance: Tensor) -> Tensor:
    """Solves the generalised least squares problem of all coefficients in the support jointly."""
    scale, row_scale = gram.diagonal().sqrt(), covariance.diagonal().sqrt()
    gram, cross = gram / (scale[:, None] * scale), cross / scale / row_scale[:, None]
    factor = torch.linalg.cholesky(covariance / (row_scale[:, None] * row_scale))
    weight = torch.cholesky_solve(torch.eye(len(factor)).to(factor), factor)
    row, column = allowed.nonzero().unbind(dim=1)
    system = weight[row][:, row] * gram[column][:, column]
    solution = torch.zeros_like(cross)
    solution[row, column] = _solved(system, (weight @ cross)[row, column])
    return solution / scale * row_scale[:, None]


def _with_start(
    coefficients: Tensor, intercept: Tensor, covariance: Tensor, moments: SecondMoments
) -> VARProcess:
    """Returns the process with its stationary start if it is stationary, else with the mean and covariance of
    the past slices in the moments."""
    size = coefficients.shape[0] * len(intercept)
    mean = moments.first[-size:] / moments.steps
    around_mean = moments.second[-size:, -size:] / moments.steps - mean[:, None] * mean
    # a ridge, as the matrix is singular if a window has fewer steps than the state has entries
    around_mean = around_mean + 1e-6 * torch.diag(around_mean.diagonal())
    process = VARProcess(coefficients, intercept, covariance, Start(mean, around_mean))
    if process.radius < 1:
        process = VARProcess(coefficients, intercept, covariance)
    return process


def _check_positive_definite(covariance: Float[Tensor, "nodes nodes"]) -> None:
    skew = float((covariance - covariance.mT).abs().max())
    if skew > 1e-9 * float(covariance.abs().max()):
        raise ValueError(f"covariance must be symmetric; it differs from its transpose by {skew:.3g}.")
    # by Cholesky: eigenvalues are unreliable if the units of nodes differ by many orders of magnitude
    if torch.linalg.cholesky_ex(covariance).info:
        smallest = float(torch.linalg.eigvalsh(covariance)[0])
        raise ValueError(
            f"covariance must be positive definite; its smallest eigenvalue is {smallest:.6g}. "
            "Check whether two nodes are copies of each other."
        )


def _stationary_covariance(transition: Tensor, noise: Tensor) -> Tensor:
    total = noise
    for _ in range(64):  # sums up to 2^64 terms, enough for any root that float64 can tell from 1
        added = transition @ total @ transition.mT
        total = total + added
        # compared per entry, each in its own unit; the variances bound the covariances off the diagonal
        if (added.diagonal() <= 1e-17 * total.diagonal()).all():
            break
        transition = transition @ transition
    return (total + total.mT) / 2
