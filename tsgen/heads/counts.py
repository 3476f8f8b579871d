r"""Heads of counts whose mean is linked to the state: Poisson and negative binomial.

The mean is the channel's own inverse map g^{-1}, before rounding, of a softened affine number,

.. math:: \mu = g^{-1}(\mathrm{softplus}(\eta)), \qquad \eta = \eta_0 + s \, (v \cdot h + b),

which is positive for every :math:`\eta`. With the transform ``log1p`` and its width w,
:math:`g^{-1}(\mathrm{softplus}(\eta)) = w e^\eta`: the log-linear model. :math:`\eta_0` and s are such
that the mean of a zero state is that of the node's images, and that a change of one moves it by one of their
deviations.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.nn import functional

from tsgen.argument_types import check_arguments
from tsgen.data.series import Sizes, Units
from tsgen.heads.base import Head
from tsgen.heads.count_laws import CountLaw, NegativeBinomialLaw, PoissonLaw
from tsgen.storage.display import printable

SMALLEST_IMAGE = 0.01
"""The least mean image of a node with which training starts; a node without counts would start at minus
infinity."""

LARGEST = 60.0
"""The largest affine number, in units of the link, so that a mean and its square are finite."""

DISPERSIONS = (1e-4, 1e4)
"""The smallest and the largest dispersion."""


class CountHead(Head):
    """A head of counts. Subclasses say which law has a mean."""

    uniforms_per_entry = 1
    support = constraints.nonnegative_integer
    has_cdf = has_icdf = closed_crps = follows_support = True
    kinds: int

    def __init__(self, hidden: int, sizes: Sizes) -> None:
        super().__init__(hidden, sizes)
        self.linear = nn.Linear(hidden, self.kinds * sizes.channels)
        nn.init.zeros_(self.linear.bias)

    @property
    def num_parameters_per_entry(self) -> int:
        """hidden + 1 for the mean, and as many for a dispersion."""
        return self.kinds * (self.hidden + 1)

    def check_data(self, data: Any, stage: str) -> None:
        """Raises ``ValueError`` unless all channels are counts.

        Args:
            data: The data module.
            stage: What is about to run: fit, validate, test or predict.
        """
        spec = data.spec
        supports = [one.support for one in spec.transforms or []] or ["real"] * len(spec.channels)
        for name, support in zip(spec.channels, supports, strict=True):
            if support != "counts":
                raise ValueError(
                    f"{type(self).__name__} needs channels of counts; {printable(name)} is {support}. Set "
                    "data.support to counts, or use MixtureHead."
                )

    def forward(
        self,
        h: Float[Tensor, "batch time nodes hidden"],
        values: Float[Tensor, "batch time nodes channels"],
        context: Bool[Tensor, "batch time nodes channels"],
        units: Units,
        covariates: Float[Tensor, "batch time nodes covariates"] | None = None,
    ) -> Distribution:
        """Returns the law of each entry.

        Raises:
            ValueError: If the units have no transforms, those of counts.
        """
        numbers = self.linear(h).unflatten(-1, (self.sizes.channels, -1))
        return self._law(linked_mean(numbers[..., 0], units), numbers)

    def _law(self, mean: Tensor, numbers: Tensor) -> CountLaw:
        raise NotImplementedError

    def quantile(self, law: CountLaw, uniforms: Float[Tensor, "*entry uniforms"]) -> Float[Tensor, "*entry"]:
        """Turns uniform numbers into draws by the quantile function."""
        return law.icdf(uniforms[..., 0])


def linked_mean(number: Float[Tensor, "*entries"], units: Units) -> Float[Tensor, "*entries"]:
    """Returns the means of counts from affine numbers, in float64.

    Args:
        number: The affine numbers, in standard units.
        units: The units, with the transforms of counts.

    Raises:
        ValueError: If the units have no transforms.
    """
    if units.transforms is None:
        raise ValueError("a head of counts needs units with transforms of counts; they have none.")
    zero = units.transforms.forward(torch.zeros_like(units.loc))
    loc = (units.loc - zero).clamp(min=SMALLEST_IMAGE)
    # the inverse of softplus, and its slope there
    start, slope = loc + (-torch.expm1(-loc)).log(), -torch.expm1(-loc)
    eta = (start + units.scale / slope * number).clamp(-LARGEST, LARGEST)
    return units.transforms.unrounded(zero + functional.softplus(eta, threshold=LARGEST)).clamp(min=1e-26)


@check_arguments
class PoissonHead(CountHead):
    r"""A Poisson law whose mean is linked to the state (see :mod:`tsgen.heads.counts`).

    Args:
        hidden: Size of a node's state.
        sizes: Numbers of nodes, channels and covariates of a slice.
    """

    kinds = 1

    def _law(self, mean: Tensor, numbers: Tensor) -> CountLaw:
        return PoissonLaw(mean)


@check_arguments
class NegativeBinomialHead(CountHead):
    r"""A negative binomial law: its mean is linked to the state (see :mod:`tsgen.heads.counts`), its variance
    is :math:`\mu + \alpha \mu^2`, with the dispersion alpha log-affine in the state.

    Args:
        hidden: Size of a node's state.
        sizes: Numbers of nodes, channels and covariates of a slice.
    """

    kinds = 2

    def _law(self, mean: Tensor, numbers: Tensor) -> CountLaw:
        dispersion = numbers[..., 1].double().clamp(-9, 9).exp().clamp(*DISPERSIONS)
        return NegativeBinomialLaw(mean, dispersion)
