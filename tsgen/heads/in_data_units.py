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
from tsgen.heads.intervals import Reach, log_mass, quantile, reach

CRPS_NODES = 256
"""Nodes of the quadrature of a CRPS, on either side of the truth."""

LOSS_NODES = 24
"""Nodes of the quadrature of a CRPS that is part of a loss, on either side of the truth."""

MOMENT_NODES = 512
"""Nodes of the quadrature of a mean and a variance."""

INFINITE = 1e12
"""Numbers in standard units beyond this have no probability."""

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
        # in the precision of the units: cells may be narrow
        low, high = ((end - self.units.loc) / self.units.scale for end in (low, high))
        # the mass of a point is never asked for, and its logarithm would have no gradient
        mass = log_mass(self.law, torch.where(single, low, -1), torch.where(single, high, 1))
        return mass if bool(single.all()) else torch.where(single, mass, self._log_density(value))

    def _log_density(self, value: Tensor) -> Tensor:
        assert self.units.transforms is not None
        slope = self.units.transforms.log_derivative(value) - self.units.scale.log()
        return self.law.log_prob(self.units.standardise(value)) + slope

    def _standard(self, image: Tensor) -> Tensor:
        # an infinite end has no gradient in the scale of the law, and would give NaN
        z = ((image - self.units.loc) / self.units.scale).clamp(-INFINITE, INFINITE)
        return z.to(self.units.precision)

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
        return self.law.cdf(self._standard(transforms.lower(value.to(self.units.loc.dtype))))

    def icdf(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the quantiles of probabilities, in data units."""
        return self.units.unstandardise(quantile(self.law, value))

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
        r"""Returns mean and variance from the distribution function, with c the centre of the units:

        .. math:: E[(y - c)^k] = \int ((y > c) - F(y)) \, d(y - c)^k
        """
        centre, around = self.units.centre, reach(self.law)
        zero = torch.zeros_like(around.low)
        moments: list[Any] = [0.0, 0.0]
        for ends, above in ((around.part(around.low, zero), 0.0), (around.part(zero, around.high), 1.0)):
            for left, right, at_left, at_right in self._pieces(ends, MOMENT_NODES):
                share = above - (at_left + at_right) / 2
                for power in (1, 2):
                    change = (right - centre) ** power - (left - centre) ** power
                    moments[power - 1] = moments[power - 1] + (share * change).sum(dim=0)
        return centre + moments[0], (moments[1] - moments[0].square()).clamp(min=0)

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
        with torch.no_grad():
            around = reach(self.law)
            image = self.units.standardise(truth)
            inside = image.maximum(around.low).minimum(around.high)
        total: Any = (self._value(image, in_standard_units) - self._value(inside, in_standard_units)).abs()
        for ends, after in ((around.part(around.low, inside), 0.0), (around.part(inside, around.high), 1.0)):
            for left, right, at_left, at_right in self._pieces(ends, nodes):
                if in_standard_units:
                    left, right = self.units.standardise(left), self.units.standardise(right)
                squares = (at_left - after).square() + (at_right - after).square()
                total = total + (squares / 2 * (right - left)).sum(dim=0)
        return total

    def _value(self, z: Tensor, in_standard_units: bool) -> Tensor:
        """Returns values of numbers in standard units, or the images of these values."""
        value = self.units.unstandardise(z)
        return self.units.standardise(value) if in_standard_units else value

    def _pieces(self, ends: Reach, nodes: int) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Yields values at the ends of pieces of the support, and the distribution function in between.

        These are the probabilities of values up to the left end, and of those below the right end, which is
        exact for pieces of at most two steps.
        """
        transforms = self.units.transforms
        stepped = transforms is not None and transforms.has_steps
        for some in torch.arange(nodes, device=ends.low.device).split(AT_ONCE):
            places = torch.cat([some, some[-1:] + 1]) / nodes
            z = ends.at(places.view(-1, *[1] * ends.low.dim()).to(ends.low))
            values = self.units.unstandardise(z)
            if stepped:
                yield values[:-1], values[1:], self.cdf(values[:-1]), self.cdf_below(values[1:])
            else:
                cdf = self.law.cdf(z)
                yield values[:-1], values[1:], cdf[:-1], cdf[1:]


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
