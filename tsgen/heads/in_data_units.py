"""Laws in data units that are computed in standard units."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Normal, constraints, kl_divergence, register_kl

from tsgen.data.series import Units
from tsgen.data.transforms import same_maps
from tsgen.heads.intervals import log_mass, reach

CRPS_NODES = 256
"""Nodes of the quadrature of a CRPS, on either side of the truth."""

LOSS_NODES = 12
"""Nodes of the quadrature of a CRPS that is part of a loss, on either side of the truth."""

MOMENT_NODES = 512
"""Nodes of the quadrature of a mean and a variance."""

AT_ONCE = 32
"""Nodes of a quadrature that are computed at a time."""


class InDataUnits(Distribution):
    r"""The law of a value y whose image under the transform g of its channel has a law in standard units.

    With z from that law, :math:`g(y) = \text{loc} + \text{scale} \cdot z`; g is the identity where values
    are real numbers. For values of a continuum,

    .. math:: \log p(y) = \log p_z((g(y) - \text{loc}) / \text{scale}) - \log \text{scale} + \log g'(y)

    A value with a positive probability (zero rain, a count) has that of the z that it stands for, and
    ``log_prob`` is the logarithm of the probability.

    The law of z has the precision of the network. The maps and the logarithms of their Jacobians are
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
        if self.units.transforms is None:
            return self.units.unstandardise(self.law.mean)
        return self._moments()[0]

    @property
    def variance(self) -> Tensor:
        """The variance."""
        if self.units.transforms is None:
            return self.units.scale.square() * self.law.variance
        return self._moments()[1]

    @property
    def stddev(self) -> Tensor:
        """The standard deviation."""
        if self.units.transforms is None:
            return self.units.scale * self.law.stddev
        return self._moments()[1].sqrt()

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the log-density, or log-probability, of values in data units, in nats."""
        transforms = self.units.transforms
        if transforms is None:
            return self.law.log_prob(self.units.standardise(value)) - self.units.scale.log()
        value = value.to(self.units.loc.dtype)
        if not transforms.has_atoms:
            return self._log_density(value)
        low, high, single = transforms.cell(value)
        low, high = self._standard(low), self._standard(high)
        # the mass of a point is never asked for, and its logarithm would have no gradient
        mass = log_mass(self.law, torch.where(single, low, -1), torch.where(single, high, 1))
        return mass if bool(single.all()) else torch.where(single, mass, self._log_density(value))

    def _log_density(self, value: Tensor) -> Tensor:
        assert self.units.transforms is not None
        slope = self.units.transforms.log_derivative(value) - self.units.scale.log()
        return self.law.log_prob(self.units.standardise(value)) + slope

    def _standard(self, image: Tensor) -> Tensor:
        return ((image - self.units.loc) / self.units.scale).to(self.units.precision)

    def cdf(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the distribution function at values in data units."""
        transforms = self.units.transforms
        if transforms is None:
            return self.law.cdf(self.units.standardise(value))
        return self.law.cdf(self._standard(transforms.upper(value.to(self.units.loc.dtype))))

    def cdf_below(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the probability of values below some values in data units, those values excluded."""
        transforms = self.units.transforms
        if transforms is None:
            return self.cdf(value)
        return self.law.cdf(self._standard(transforms.cell(value.to(self.units.loc.dtype)).low))

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
        if self.units.transforms is not None:
            raise NotImplementedError("the entropy of a law of transformed values has no closed form.")
        return self.law.entropy() + self.units.scale.log()

    @torch.no_grad()
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Returns mean and variance by quadrature over the distribution function in standard units."""
        low, high = reach(self.law)
        total: list[Any] = [0.0, 0.0, 0.0]
        for left, right in _grid(low, high, MOMENT_NODES):
            mass = self.law.cdf(right) - self.law.cdf(left)
            value = self.units.unstandardise((left + right) / 2)
            for power in range(3):
                total[power] = total[power] + (mass * (value - self.units.centre) ** power).sum(dim=0)
        mean = total[1] / total[0]
        variance = (total[2] / total[0] - mean.square()).clamp(min=0)
        return self.units.centre + mean, variance

    def crps(self, truth: Float[Tensor, "*entries"], in_standard_units: bool = False) -> Tensor:
        r"""Returns the CRPS of values whose transform is no identity, by quadrature.

        .. math:: \int (F(y) - 1\{y \ge \text{truth}\})^2 dy

        Args:
            truth: The true values, in data units.
            in_standard_units: Whether to integrate over standard units instead of data units, with fewer
                nodes, for use in a loss. This is the CRPS of the images of truth and value: proper too.
        """
        transforms, nodes = self.units.transforms, CRPS_NODES
        assert transforms is not None
        if in_standard_units:
            if not transforms.has_atoms:
                raise ValueError("without atoms the CRPS in standard units is that of the law in them.")
            nodes = LOSS_NODES
        image = self.units.standardise(truth)
        low, high = (x.detach() for x in reach(self.law))
        low, high = torch.minimum(low, image), torch.maximum(high, image)
        total: Any = 0.0
        for ends, after in (((low, image), 0.0), ((image, high), 1.0)):
            for left, right in _grid(*ends, nodes):
                cdf = self._cdf_of_image(left if transforms.has_steps else (left + right) / 2)
                total = total + ((cdf - after).square() * self._widths(left, right, in_standard_units)).sum(0)
        return total

    def _cdf_of_image(self, z: Tensor) -> Tensor:
        """Returns the probability of values up to that of a number in standard units."""
        transforms = self.units.transforms
        assert transforms is not None
        if not transforms.has_steps:
            return self.law.cdf(z)
        return self.cdf(self.units.unstandardise(z))

    def _widths(self, left: Tensor, right: Tensor, in_standard_units: bool) -> Tensor:
        """Returns the differences between the values, or the images of the values, of two numbers."""
        values = self.units.unstandardise(left), self.units.unstandardise(right)
        if in_standard_units:
            values = self.units.standardise(values[0]), self.units.standardise(values[1])
        return values[1] - values[0]


def _grid(low: Tensor, high: Tensor, nodes: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields the ends of the subintervals of intervals of equal width, some at a time, on a first axis."""
    for some in torch.arange(nodes, device=low.device).split(AT_ONCE):
        place = some.view(-1, *[1] * low.dim()).to(low)
        yield low + (high - low) * (place / nodes), low + (high - low) * ((place + 1) / nodes)


@register_kl(InDataUnits, InDataUnits)
def _kl(p: InDataUnits, q: InDataUnits) -> Tensor:
    """Returns the KL divergence in nats: that in standard units if both have the same, else of Gaussians."""
    transforms = p.units.transforms, q.units.transforms
    if any(one is not None and one.has_atoms for one in transforms) or not same_maps(*transforms):
        raise NotImplementedError("the KL divergence of laws with atoms, or other maps, has no closed form.")
    if all(torch.equal(*pair) for pair in zip(p.units[:2], q.units[:2], strict=True)):
        return kl_divergence(p.law, q.law)
    if isinstance(p.law, Normal) and isinstance(q.law, Normal):
        images = (
            Normal(law.units.loc + law.units.scale * law.law.mean, law.units.scale * law.law.stddev)
            for law in (p, q)
        )
        return kl_divergence(*images)
    raise NotImplementedError("the KL divergence of mixtures in different units has no closed form.")
