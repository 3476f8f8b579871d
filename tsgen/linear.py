r"""Linear-Gaussian processes on a graph: the exact answer to every task, that all else is tested on.

:class:`GraphVAR` is the vector autoregression of order p

.. math:: x_t = c + \sum_{k=1}^{p} A_k x_{t-k} + \epsilon_t, \qquad \epsilon_t \sim N(0, Q),

in which row v of :math:`A_k` says what node v hears from whom k steps later: a graph model has entries only
on the diagonal and along the edges. The process is stationary if every root of the companion matrix F lies
inside the unit circle; the stationary covariance of :math:`s_t = (x_t, \dots, x_{t-p+1})` solves the Lyapunov
equation :math:`\Gamma = F \Gamma F^\top + Q`, here by doubling,

.. math:: \Gamma \leftarrow \Gamma + F \Gamma F^\top, \quad F \leftarrow F^2.

Whatever is missing, the laws of single entries, the likelihood and joint draws are exact
(:mod:`tsgen.kalman`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import Normal

from tsgen.counter_random import streams
from tsgen.kalman import StateSpace, kalman_filter, posterior_samples, simulate, smooth
from tsgen.series import Samples, SeriesBatch

CONTEXT_FLOOR = 1e-6
"""Standard deviation of an entry that is known, in stationary standard deviations of its node."""


@dataclass(eq=False)
class GraphVAR:
    """A stationary vector autoregression with Gaussian noise, in data units.

    Computes in float64 where its tensors lie, and answers in a batch's own precision and on its device.

    Args:
        coefficients: One matrix per lag, lag 1 first; row v, column u is what node v hears from node u.
        intercept: What is added at each step.
        covariance: Covariance of the noise.

    Raises:
        ValueError: If a shape does not fit, the covariance is not positive definite or the process not
            stationary.
    """

    coefficients: Float[Tensor, "order nodes nodes"]
    intercept: Float[Tensor, "nodes"]
    covariance: Float[Tensor, "nodes nodes"]

    def __post_init__(self) -> None:
        self.coefficients, self.intercept = self.coefficients.double(), self.intercept.double()
        self.covariance = self.covariance.double()
        nodes = self.intercept.numel()
        for name, x, shape in (
            ("coefficients", self.coefficients, (max(len(self.coefficients), 1), nodes, nodes)),
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
        radius = float(torch.linalg.eigvals(self._companion()).abs().max())
        if not radius < 1:
            raise ValueError(
                "the process must be stationary: the modulus of its largest root must be below 1; it is "
                f"{radius:.6g}. Shrink the coefficients."
            )

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

    def state_space(self) -> StateSpace:
        """The process as a state-space model that starts from its stationary law."""
        transition, size = self._companion(), self.order * self.num_nodes
        noise = transition.new_zeros(size, size)
        noise[: self.num_nodes, : self.num_nodes] = self.covariance
        total = torch.eye(self.num_nodes).to(transition) - self.coefficients.sum(dim=0)
        offset = transition.new_zeros(size)
        offset[: self.num_nodes] = self.intercept
        return StateSpace(
            transition=transition,
            offset=offset,
            noise_covariance=noise,
            initial_mean=torch.linalg.solve(total, self.intercept).repeat(self.order),
            initial_covariance=_stationary_covariance(transition, noise),
            observed_size=self.num_nodes,
        )

    def simulate(self, steps: int, seed: int) -> Float[Tensor, "time nodes"]:
        """A series of the stationary process.

        Args:
            steps: Its length.
            seed: Fixes the draw.
        """
        return simulate(self.state_space(), steps, streams(seed))

    def log_prob(
        self,
        values: Float[Tensor, "batch time nodes"],
        context: Bool[Tensor, "batch time nodes"] | None = None,
    ) -> Float[Tensor, "batch"]:
        """The joint log-density of what is known of each window, in nats.

        Args:
            values: Windows in data units; anything, NaN included, outside the context.
            context: What is known; everything if not given. The rest is integrated out.

        Raises:
            ValueError: If a shape does not fit.
        """
        context = torch.ones_like(values, dtype=torch.bool) if context is None else context
        return kalman_filter(self.state_space(), values, context).log_likelihood

    def predictive(self, batch: SeriesBatch) -> Normal:
        """The law of each entry given the context at earlier steps.

        Args:
            batch: Windows in data units, of one channel.

        Raises:
            ValueError: If the batch has other nodes or more than one channel.
        """
        filtered = kalman_filter(self.state_space(), *self._one_channel(batch))
        return self._normal(filtered.mean, filtered.covariance.diagonal(dim1=-2, dim2=-1).sqrt(), batch)

    def posterior(self, batch: SeriesBatch) -> Normal:
        """The law of each entry given the whole context.

        An entry of the context is known, which no normal law can say: it gets its own value as mean and a
        standard deviation of :data:`CONTEXT_FLOOR` of its node's.

        Args:
            batch: Windows in data units, of one channel.

        Raises:
            ValueError: If the batch has other nodes or more than one channel.
        """
        model = self.state_space()
        values, context = self._one_channel(batch)
        smoothed = smooth(model, values, context)
        floor = CONTEXT_FLOOR * model.initial_covariance.diagonal()[: self.num_nodes].sqrt()
        return self._normal(smoothed.mean, torch.where(context, floor, smoothed.variance.sqrt()), batch)

    def impute(self, batch: SeriesBatch, num_samples: int, seed: int = 0) -> Samples:
        """Draws the unknown entries of each window jointly from their posterior.

        Args:
            batch: Windows in data units, of one channel.
            num_samples: Draws of each window.
            seed: Fixes the draws, with each window's position; they do not depend on the batch that it lies
                in.

        Raises:
            ValueError: If the batch has other nodes or more than one channel, or ``num_samples`` is below 1.
        """
        if num_samples < 1:
            raise ValueError(f"num_samples must be at least 1; it is {num_samples}.")
        values, context = self._one_channel(batch)
        window = batch.position[:, 0].to(values.device)
        stream = streams(seed, torch.arange(num_samples, device=values.device)[:, None], window)
        drawn = posterior_samples(self.state_space(), values, context, stream)
        return Samples(drawn[..., None].to(batch.values), "posterior")

    def _one_channel(self, batch: SeriesBatch) -> tuple[Tensor, Tensor]:
        nodes, channels = batch.values.shape[2:]
        if (nodes, channels) != (self.num_nodes, 1):
            raise ValueError(
                f"the batch must have {self.num_nodes} nodes and 1 channel; it has {nodes} and {channels}."
            )
        return batch.values[..., 0].to(self.intercept), batch.context[..., 0].to(self.intercept.device)

    @staticmethod
    def _normal(loc: Tensor, scale: Tensor, batch: SeriesBatch) -> Normal:
        return Normal(loc[..., None].to(batch.values), scale[..., None].to(batch.values))


def _check_positive_definite(covariance: Float[Tensor, "nodes nodes"]) -> None:
    skew = float((covariance - covariance.mT).abs().max())
    if skew > 1e-9 * float(covariance.abs().max()):
        raise ValueError(f"covariance must be symmetric; it differs from its transpose by {skew:.3g}.")
    # Cholesky decides: unlike eigenvalues, it does not mind nodes whose units differ by many orders
    if torch.linalg.cholesky_ex(covariance).info:
        smallest = float(torch.linalg.eigvalsh(covariance)[0])
        raise ValueError(
            f"covariance must be positive definite; its smallest eigenvalue is {smallest:.6g}. "
            "Are two nodes copies of each other?"
        )


def _stationary_covariance(transition: Tensor, noise: Tensor) -> Tensor:
    total = noise
    for _ in range(64):  # of up to 2^64 terms, enough for any root that float64 can tell from 1
        more = transition @ total @ transition.mT
        total = total + more
        # each entry's own unit; off the diagonal a covariance is bounded by its variances
        if (more.diagonal() <= 1e-17 * total.diagonal()).all():
            break
        transition = transition @ transition
    return (total + total.mT) / 2
