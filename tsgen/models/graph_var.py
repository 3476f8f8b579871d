r"""A linear-Gaussian model on a graph, with exact inference.

The model is :math:`x_t = c + \sum_k A_k x_{t-k} + \epsilon_t` with :math:`A_k` supported on the graph's edges
and the diagonal. The likelihood, the laws of missing entries and joint draws are computed by the Kalman
filter and smoother. The model is fitted by conditional least squares, or by EM if values are missing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

from tsgen.argument_types import check_arguments
from tsgen.data.precision import at_least
from tsgen.data.series import SeriesBatch, SeriesSpec
from tsgen.exact.kalman import SecondMoments, kalman_filter
from tsgen.exact.linear import Noise, Start, VARProcess
from tsgen.heads.likelihood import masked_log_prob
from tsgen.models.density import DensityModel
from tsgen.sampling import Exact, Sampler


class IterationCount(torch.optim.Optimizer):
    """An optimiser that only counts steps for the trainer; the closure performs the update.

    Args:
        parameters: The parameters being fitted.
    """

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})

    def step(self, closure: Any = None) -> Any:
        """Calls the closure and returns its result."""
        return closure()


@check_arguments
class GraphVAR(DensityModel):
    """A vector autoregression on the graph, in float64.

    Each epoch of training is one iteration of EM over the training windows: an E-step for each batch, and an
    M-step after the last batch. If no values are missing, the first epoch is conditional least squares. Later
    epochs then give the same result, unless full noise couples the nodes. Each channel of a node depends on
    all channels of the node itself and of the nodes with an edge to it.

    Args:
        spec: Sizes, units and graph of the data.
        order: The number of lags.
        noise: Whether the covariance of the noise is diagonal or full.
        sampler: How unknown entries are drawn in test and prediction.

    Raises:
        ValueError: If an option is out of range or the data has covariates.
    """

    coefficients: Tensor
    intercept: Tensor
    covariance: Tensor
    start_mean: Tensor
    start_covariance: Tensor

    def __init__(
        self,
        spec: SeriesSpec,
        order: int = 1,
        noise: Noise = "diagonal",
        sampler: Sampler = Exact(),
    ) -> None:
        super().__init__(spec, sampler, order=order, noise=noise)
        if order < 1:
            raise ValueError(f"order must be at least 1; it is {order}.")
        if noise not in ("diagonal", "full"):
            raise ValueError(f"noise must be 'diagonal' or 'full'; it is {noise!r}.")
        if spec.num_covariates:
            raise ValueError(
                f"a GraphVAR reads no covariates; the data has {spec.num_covariates}. Leave them out, or "
                "use an AutoregressiveModel."
            )
        self.automatic_optimization = False
        self.order, self.noise = order, noise
        self._moments: SecondMoments | None = None
        self._range: Tensor | None = None  # lowest and negated highest value of each entry of a slice
        size = spec.loc.numel()
        for name, shape in (
            ("coefficients", (order, size, size)),
            ("intercept", (size,)),
            ("covariance", (size, size)),
            ("start_mean", (order * size,)),
            ("start_covariance", (order * size, order * size)),
        ):
            # parameters, so that they follow the model to devices and checkpoints; fitted without gradients
            self.register_parameter(
                name, nn.Parameter(torch.zeros(shape, dtype=torch.float64), requires_grad=False)
            )
        self.process = VARProcess.white_noise(
            order, spec.loc.flatten().double(), spec.scale.flatten().double()
        )
        self.check_building_blocks()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GraphVAR:
        """Moves the model to another device; it stays in float64."""
        super()._apply(at_least(torch.float64, fn), recurse)
        return self

    @property
    def process(self) -> VARProcess:
        """The process in data units, over flattened nodes and channels: a copy, unaffected by later fits."""
        names = ("coefficients", "intercept", "covariance", "start_mean", "start_covariance")
        coefficients, intercept, covariance, *start = (getattr(self, n).detach().clone() for n in names)
        return VARProcess(coefficients, intercept, covariance, Start(*start) if start[1].any() else None)

    @process.setter
    def process(self, process: VARProcess) -> None:
        start = process.start or Start(
            torch.zeros_like(self.start_mean), torch.zeros_like(self.start_covariance)
        )
        for parameter, new in (
            (self.coefficients, process.coefficients),
            (self.intercept, process.intercept),
            (self.covariance, process.covariance),
            (self.start_mean, start.mean),
            (self.start_covariance, start.covariance),
        ):
            parameter.copy_(new)

    @property
    def support(self) -> Bool[Tensor, "entries entries"]:
        """Mask in which row v, column u says whether entry v of a slice may depend on earlier entries u."""
        nodes, channels = self.spec.loc.shape
        source, target = self.spec.edge_index
        connected = torch.eye(nodes, dtype=torch.bool)
        connected[target.cpu(), source.cpu()] = True
        all_channels = torch.ones(channels, channels, dtype=torch.bool)
        return torch.kron(connected, all_channels).bool().to(self.intercept.device)

    @check_arguments
    def forward(self, batch: SeriesBatch) -> Normal:
        """Returns the law of each entry given the visible entries of the slices before it, in data units."""
        return self.process.predictive(batch)

    @check_arguments
    def posterior(self, batch: SeriesBatch) -> Normal:
        """Returns the law of each entry given all visible entries, in data units."""
        return self.process.posterior(batch)

    def validation_law(self, batch: SeriesBatch) -> Normal:
        """Returns the law of each entry given the visible entries of the slices before it, in data units."""
        return self(batch)

    def drawn_law(self, batch: SeriesBatch) -> Normal | None:
        """Returns the posterior laws if the sampler draws from the posterior, or None."""
        return self.posterior(batch) if self.sampler.conditioning == "posterior" else None

    def test_log_prob(self, batch: SeriesBatch) -> Tensor:
        """Returns the log-density of each target entry given all visible ones: the law that draws follow.

        If no entry is hidden, it returns :meth:`log_prob`.
        """
        if not batch.hidden.any():
            return self.log_prob(batch)
        return masked_log_prob(self.posterior(batch), batch.values, batch.target)

    @check_arguments
    def log_likelihood(self, batch: SeriesBatch) -> Float[Tensor, "batch"]:
        """Returns the joint log-density of each window's visible entries in nats; others are marginalised."""
        return self.process.log_prob(batch.values.flatten(2), batch.context.flatten(2))

    @check_arguments
    def slices(self, batch: SeriesBatch) -> MultivariateNormal:
        """Returns the joint law of each slice given the visible entries before it, over flattened entries."""
        values, context = batch.values.flatten(2), batch.context.flatten(2)
        filtered = kalman_filter(self.process.state_space(), values, context)
        return MultivariateNormal(filtered.mean, filtered.covariance)

    def setup(self, stage: str) -> None:
        """Raises ``ValueError`` unless data and number of processes are supported."""
        super().setup(stage)
        if stage == "fit" and self.trainer.world_size > 1:
            raise ValueError(
                f"a GraphVAR is fitted by one process; there are {self.trainer.world_size}. Set "
                "trainer.devices to 1; test and predict may use more."
            )

    def training_step(self, batch: SeriesBatch, index: int) -> None:
        """Performs the E-step of a batch and, after the last batch of an epoch, the M-step."""
        density, count = self._expect(batch.values.flatten(2), batch.target.flatten(2)), batch.target.sum()
        self.log("train/nll", (-density / count).float(), prog_bar=True, batch_size=len(batch.values))
        if self.trainer.is_last_batch:
            counter: Any = self.optimizers()
            counter.step(self._maximise)

    def _expect(self, values: Tensor, context: Tensor) -> Tensor:
        """Performs the E-step of a batch; returns the log-density of its values in nats, in data units."""
        values, context = values.to(self.intercept.device), context.to(self.intercept.device)
        loc, scale = (x.flatten() for x in (self.loc, self.scale))
        standard = (values.double() - loc) / scale
        self._track_range(standard, context)
        moments = self._standard.expectation(standard, context)
        self._moments = moments if self._moments is None else self._moments + moments
        return moments.log_likelihood - (context.sum(dim=(0, 1)) * scale.log()).sum()

    @property
    def _standard(self) -> VARProcess:
        """The process in standard units, in which second moments of all nodes have similar magnitude."""
        loc, scale = (x.flatten() for x in (self.loc, self.scale))
        return self.process.in_units(-loc / scale, 1 / scale)

    def _maximise(self) -> None:
        """Performs the M-step on the second moments of the epoch."""
        loc, scale = (x.flatten() for x in (self.loc, self.scale))
        assert self._moments is not None
        self._check_variation()
        self.process = self._standard.maximisation(self._moments, self.support, self.noise).in_units(
            loc, scale
        )
        self._moments = None

    def _track_range(self, standard: Tensor, context: Tensor) -> None:
        """Adds the values of a batch, in standard units, to the range of each entry of a slice."""
        low, high = standard.where(context, torch.inf), -standard.where(context, -torch.inf)
        batch = torch.stack([low.amin(dim=(0, 1)), high.amin(dim=(0, 1))])
        self._range = batch if self._range is None else torch.minimum(self._range, batch)

    def _check_variation(self) -> None:
        """Raises ``ValueError`` with the names of nodes whose values are constant in the training windows."""
        assert self._range is not None
        low, high = self._range[0], -self._range[1]
        # an entry without a value has the range inf..-inf
        constant = (high >= low) & (high - low <= 1e-6 * (1 + high.abs()))
        names = [self.spec.nodes[int(n)] for n in constant.view(self.loc.shape).any(dim=1).nonzero()]
        self._range = None
        if names:
            raise ValueError(
                f"a GraphVAR needs nodes whose values vary; those of {', '.join(names[:3])}"
                f"{', ...' if len(names) > 3 else ''} are constant in the training windows, as of a stuck "
                "sensor. Leave them out, or mark the values as missing."
            )

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Returns a counter of iterations, since each fit has a closed form."""
        return IterationCount(self.parameters())
