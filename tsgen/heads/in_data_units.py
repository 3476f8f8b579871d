"""Laws in data units that are computed in standard units."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Normal, constraints, kl_divergence, register_kl

from tsgen.data.series import Units


class InDataUnits(Distribution):
    r"""The law of :math:`y = \text{loc} + \text{scale} \cdot z` with z from a law in standard units.

    .. math:: \log p(y) = \log p_z((y - \text{loc}) / \text{scale}) - \log \text{scale}

    The law of z has the precision of the network. The affine map and the logarithm of its Jacobian are
    computed in the precision of the units, which in a model is float64; results in data units have it too.

    Args:
        law: One law per entry, in standard units.
        units: Location and scale of the entries, which define the standard units.

    Example:
        >>> from torch.distributions import Normal
        >>> meter = Units(torch.tensor(2e8, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64))
        >>> law = InDataUnits(Normal(torch.tensor(0.5), 1.0), meter)
        >>> float(law.mean), round(float(law.log_prob(torch.tensor(200_000_000.5, dtype=torch.float64))), 4)
        (200000000.5, -0.9189)
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real

    def __init__(self, law: Distribution, units: Units) -> None:
        self.law, self.units = law, units
        super().__init__(law.batch_shape, law.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws are differentiable in the parameters of the law."""
        return self.law.has_rsample

    def expand(self, batch_shape: Any, _instance: Any = None) -> InDataUnits:
        """Returns the law expanded to a batch shape."""
        return InDataUnits(self.law.expand(batch_shape), self.units)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return self.units.unstandardise(self.law.mean)

    @property
    def variance(self) -> Tensor:
        """The variance."""
        return self.units.scale.square() * self.law.variance

    @property
    def stddev(self) -> Tensor:
        """The standard deviation."""
        return self.units.scale * self.law.stddev

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the log-density of values in data units, in nats."""
        return self.law.log_prob(self.units.standardise(value)) - self.units.scale.log()

    def cdf(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the distribution function at values in data units."""
        return self.law.cdf(self.units.standardise(value))

    def icdf(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the quantiles of probabilities, in data units."""
        return self.units.unstandardise(self.law.icdf(value))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Returns differentiable draws, in data units."""
        return self.units.unstandardise(self.law.rsample(sample_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Returns draws, in data units."""
        with torch.no_grad():
            return self.units.unstandardise(self.law.sample(sample_shape))

    def entropy(self) -> Tensor:
        """Returns the differential entropy, in nats."""
        return self.law.entropy() + self.units.scale.log()


@register_kl(InDataUnits, InDataUnits)
def _kl(p: InDataUnits, q: InDataUnits) -> Tensor:
    """Returns the KL divergence in nats: that in standard units if both have the same, else of Gaussians."""
    if all(torch.equal(*pair) for pair in zip(p.units[:2], q.units[:2], strict=True)):
        return kl_divergence(p.law, q.law)
    if isinstance(p.law, Normal) and isinstance(q.law, Normal):
        return kl_divergence(Normal(p.mean, p.stddev), Normal(q.mean, q.stddev))
    raise NotImplementedError("the KL divergence of mixtures in different units has no closed form.")
