"""A head that adds to another one a probability of its own for the lowest value, such as no rain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.nn import functional

from tsgen.argument_types import check_arguments, made
from tsgen.data.series import Sizes, Units
from tsgen.heads.base import Head
from tsgen.heads.mixture import MixtureHead
from tsgen.storage.display import printable


class ZeroInflated(Distribution):
    r"""Laws that are zero with a probability of their own, and otherwise follow another law,
    :math:`\pi \delta_0 + (1 - \pi) p`.

    Args:
        logit: The logit of pi.
        law: The other laws; zero is their lowest value, and has a positive probability.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.nonnegative

    def __init__(self, logit: Tensor, law: Any) -> None:
        self.logit, self.law = logit, law
        super().__init__(law.batch_shape, validate_args=False)

    @property
    def probability(self) -> Tensor:
        """The probability pi."""
        return self.logit.sigmoid()

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return (1 - self.probability) * self.law.mean

    @property
    def variance(self) -> Tensor:
        """The variance."""
        share, mean = self.probability, self.law.mean
        return (1 - share) * (self.law.variance + share * mean.square())

    def log_prob(self, value: Tensor) -> Tensor:
        """Returns the log-density, or log-probability, in nats."""
        inner = self.law.log_prob(value) + functional.logsigmoid(-self.logit)
        at_zero = torch.logaddexp(inner, functional.logsigmoid(self.logit).to(inner))
        return torch.where(value == 0, at_zero, inner)

    def cdf(self, value: Tensor) -> Tensor:
        """Returns the distribution function."""
        share = self.probability
        return torch.where(value < 0, 0, share + (1 - share) * self.law.cdf(value))

    def cdf_below(self, value: Tensor) -> Tensor:
        """Returns the probability of values below some values."""
        share = self.probability
        return torch.where(value <= 0, 0, share + (1 - share) * below(self.law, value))

    def icdf(self, value: Tensor) -> Tensor:
        """Returns the quantiles of probabilities."""
        rest, positive = self._rest(value)
        return torch.where(positive, self.law.icdf(rest), 0)

    def _rest(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Returns probabilities under the other law, and where that law decides."""
        share = self.probability
        rest = (value - share) / (1 - share)
        # strictly between zero and one for a finite quantile
        edge = torch.finfo(rest.dtype).eps
        return rest.clamp(edge, 1 - edge), rest > 0

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Returns draws."""
        drawn = self.law.sample(sample_shape)
        zero = torch.rand(drawn.shape, device=drawn.device) < self.probability
        return torch.where(zero, 0, drawn)

    def crps(self, truth: Tensor) -> Tensor:
        r"""Returns the CRPS of true values.

        With p the other law and X from it, :math:`\mathrm{CRPS} = (1 - \pi)^2 \, \mathrm{CRPS}_p(y) + \pi |y|
        + (1 - \pi) \pi (E|X - y| - E|X|)`, and :math:`E|X - y| = \mathrm{CRPS}_p(y) + \frac12 E|X - X'|`.
        """
        share, truth = self.probability, truth.to(self.law.mean.dtype)
        # its own method: laws of channels whose lowest value is zero have one
        own, at_zero = self.law.crps(truth), self.law.crps(torch.zeros_like(truth))
        return (1 - share).square() * own + share * truth + (1 - share) * share * (own - at_zero)


def below(law: Any, value: Tensor) -> Tensor:
    """Returns the probability of values below some values, those excluded."""
    own = getattr(law, "cdf_below", None)
    return own(value) if callable(own) else law.cdf(value.ceil() - 1)


@check_arguments
class ZeroInflatedHead(Head):
    r"""Another head's laws with a probability of their own of the lowest value, zero.

    Its logit is affine in the state.

    Args:
        hidden: Size of a node's state.
        sizes: Numbers of nodes, channels and covariates of a slice.
        head: Makes the other head, whose entries must be independent given the states.

    Raises:
        ValueError: If the other head models entries jointly.
    """

    support = constraints.nonnegative
    follows_support = True

    def __init__(self, hidden: int, sizes: Sizes, head: Callable[[int, Sizes], Head] = MixtureHead) -> None:
        super().__init__(hidden, sizes)
        self.head = made("head", Head, head, hidden, sizes)
        if self.head.joint_entries > 1 or not self.head.follows_support:
            raise ValueError(
                "a ZeroInflatedHead needs a head of single entries that follows the support of channels; got "
                f"{type(self.head).__name__}. Use MixtureHead, NegativeBinomialHead, PoissonHead or "
                "StudentTHead."
            )
        self.uniforms_per_entry = self.head.uniforms_per_entry + 1
        self.has_mean, self.of_nodes = self.head.has_mean, self.head.of_nodes
        self.has_cdf, self.has_icdf = self.head.has_cdf, self.head.has_icdf
        self.closed_crps = self.head.closed_crps
        self.linear = nn.Linear(hidden, sizes.channels)
        nn.init.constant_(self.linear.bias, -1.0)

    @property
    def num_parameters_per_entry(self) -> int:
        """hidden + 1 for the logit, and those of the other head."""
        return self.hidden + 1 + self.head.num_parameters_per_entry

    def check_data(self, data: Any, stage: str) -> None:
        """Raises ``ValueError`` unless zero is the lowest value of every channel, and the other head fits.

        Args:
            data: The data module.
            stage: What is about to run: fit, validate, test or predict.
        """
        self.head.check_data(data, stage)
        spec = data.spec
        supports = [one.values for one in spec.transforms or []] or [None] * len(spec.channels)
        for name, support in zip(spec.channels, supports, strict=True):
            if support is None or support.low != 0 or not support.atoms[0]:
                raise ValueError(
                    f"ZeroInflatedHead needs channels whose lowest value is zero; {printable(name)} is "
                    f"{support or 'real'}. Set data.support to non_negative or counts, or use MixtureHead."
                )

    def forward(
        self,
        h: Float[Tensor, "batch time nodes hidden"],
        values: Float[Tensor, "batch time nodes channels"],
        context: Bool[Tensor, "batch time nodes channels"],
        units: Units,
        covariates: Float[Tensor, "batch time nodes covariates"] | None = None,
    ) -> Distribution:
        """Returns the law of each entry, in data units."""
        return ZeroInflated(self.linear(h), self.head(h, values, context, units, covariates))

    def quantile(
        self, law: ZeroInflated, uniforms: Float[Tensor, "*entry uniforms"]
    ) -> Float[Tensor, "*entry"]:
        """Turns uniform numbers into draws: the first decides on zero, the others are the other head's."""
        drawn = self.head.quantile(law.law, uniforms[..., 1:])
        return torch.where(uniforms[..., 0] < law.probability, 0, drawn)
