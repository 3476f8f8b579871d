r"""The contract of a head.

A head reads the state h of each node and returns a :class:`torch.distributions.Distribution` with one law per
entry: its batch shape is that of the entries. A head computes in standard units and returns laws in data
units, so that the densities of different models can be compared; its argument ``units``
(:class:`~tsgen.data.Units`) converts between the two. :class:`~tsgen.heads.InDataUnits` makes the law in data
units from one in standard units: it evaluates densities in standard units, in the precision of the network,
and does the rest in float64, so that neither an offset of 2e8 nor units of 1e-21 cost digits.

The parameters of a head stay in float32 at least, whatever the precision of the trainer.

A draw is a function of given uniform numbers, :attr:`Head.uniforms_per_entry` per entry: the same numbers
give the same draw, on any device and in any batch.

A head states as attributes what its laws offer: their :attr:`~Head.support`, and whether they have a finite
mean, a distribution function, a quantile function and a CRPS in closed form. An objective with a CRPS term
and sampling in the order of confidence rely on these statements; the contract tests verify them for every
head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from tsgen.argument_types import check_arguments
from tsgen.data.precision import at_least
from tsgen.data.series import Sizes, Units

SCALE_FLOOR = 1e-3
"""The smallest scale of a component, in standard units, so that no component collapses onto one value."""


@check_arguments
class Head(nn.Module, ABC):
    """The laws of the entries of a slice given the states of its nodes.

    Args:
        hidden: Size of a node's state.
        sizes: Numbers of nodes, channels and covariates of a slice.
    """

    uniforms_per_entry: int
    """Number of uniform numbers that determine the draw of one entry."""

    support: constraints.Constraint = constraints.real
    """Where the values of an entry may lie, in data units."""

    has_mean: bool = True
    """Whether every law has a finite mean, as ``law.mean``."""

    has_cdf: bool = False
    """Whether the laws have a distribution function, ``law.cdf``."""

    has_icdf: bool = False
    """Whether the laws have a quantile function, ``law.icdf``, the inverse of ``law.cdf``."""

    closed_crps: bool = False
    """Whether :func:`tsgen.metrics.law_crps` has a closed form for the laws (see
    :func:`tsgen.metrics.density.has_closed_crps`)."""

    of_nodes: bool = False
    """Whether some parameters belong to single nodes; such a head runs only on its training graph."""

    follows_support: bool = False
    """Whether the laws are those of values on the support of their channel, because the head returns
    :class:`~tsgen.heads.InDataUnits`. The values of other heads are real numbers, whatever the data."""

    joint_entries: int = 1
    """Number of consecutive entries of a slice that are modelled jointly; 1 if entries are independent given
    the states."""

    context_first: bool = False
    """Whether entries outside the context are drawn given all context entries of their slice. If False, each
    entry is given only those that precede it in the head's order. If True, the head defines
    :meth:`proposal`."""

    def __init__(self, hidden: int, sizes: Sizes) -> None:
        super().__init__()
        numbers = {"hidden": hidden, "sizes.nodes": sizes.nodes, "sizes.channels": sizes.channels}
        for name, number in numbers.items():
            if number < 1:
                raise ValueError(f"{name} must be at least 1; it is {number}.")
        if sizes.covariates < 0:
            raise ValueError(f"sizes.covariates must not be negative; it is {sizes.covariates}.")
        self.hidden, self.sizes = hidden, sizes

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Head:
        """Moves the head to another device or precision, of which the lowest is float32."""
        return super()._apply(at_least(torch.float32, fn), recurse)

    @property
    @abstractmethod
    def num_parameters_per_entry(self) -> int:
        """Number of parameters that determine the law of one entry."""

    def check_data(self, data: Any, stage: str) -> None:
        """Raises ``ValueError`` if the head cannot model the data, such as values outside its support.

        Args:
            data: The data module.
            stage: What is about to run: fit, validate, test or predict.
        """

    @abstractmethod
    def forward(
        self,
        h: Float[Tensor, "batch time nodes hidden"],
        values: Float[Tensor, "batch time nodes channels"],
        context: Bool[Tensor, "batch time nodes channels"],
        units: Units,
        covariates: Float[Tensor, "batch time nodes covariates"] | None = None,
    ) -> Distribution:
        """Returns the law of each entry given the entries of its slice in the context, in data units.

        The law of an entry that is itself in the context is conditional only on the context entries that
        precede it in the head's order. The log-densities of a slice that is wholly in the context
        therefore sum to its joint log-density.

        Args:
            h: State of each node.
            values: Values of the slices, in data units. Entries outside the context may have any value,
                including NaN.
            context: The entries that the head may read.
            units: Mean and scale of the standard units.
            covariates: Covariates of the slices. Most heads ignore them, since the encoder has read them.
        """

    @abstractmethod
    def quantile(self, law: Any, uniforms: Float[Tensor, "*entry uniforms"]) -> Float[Tensor, "*entry"]:
        """Turns uniform numbers into draws from the law, in data units.

        Args:
            law: Laws that :meth:`forward` returned.
            uniforms: Numbers in (0, 1), :attr:`uniforms_per_entry` per entry. Additional axes in front
                give several draws of each entry.
        """

    def draw(
        self,
        h: Float[Tensor, "batch time nodes hidden"],
        values: Float[Tensor, "batch time nodes channels"],
        context: Bool[Tensor, "batch time nodes channels"],
        units: Units,
        uniforms: Float[Tensor, "batch time nodes channels uniforms"],
        covariates: Float[Tensor, "batch time nodes covariates"] | None = None,
    ) -> Float[Tensor, "batch time nodes channels"]:
        """Draws the entries outside the context jointly, in data units; the others keep their values.

        The draws are differentiable in the parameters of the laws.

        Args:
            h: State of each node.
            values: Values of the slices, in data units.
            context: The entries that keep their values.
            units: Mean and scale of the standard units.
            uniforms: Numbers in (0, 1) that determine the draws.
            covariates: Covariates of the slices.
        """
        law = self(h, values, context, units, covariates)
        return torch.where(context, values, self.quantile(law, uniforms).to(values.dtype))

    def proposal(
        self,
        h: Float[Tensor, "batch time nodes hidden"],
        values: Float[Tensor, "batch time nodes channels"],
        context: Bool[Tensor, "batch time nodes channels"],
        units: Units,
        covariates: Float[Tensor, "batch time nodes covariates"] | None = None,
    ) -> Distribution:
        """Returns the laws from which :meth:`draw` took the entries outside the context, in data units.

        With ``context_first``, these laws are given the whole context and the draws before the entry. Their
        product may differ from the head's joint law, whose order is fixed.

        Args:
            h: State of each node.
            values: Values of the complete slices: the context and the draws.
            context: The entries that were not drawn. Their own laws have no meaning here.
            units: Mean and scale of the standard units.
            covariates: Covariates of the slices.
        """
        return self(h, values, torch.ones_like(context), units, covariates)


def full_precision(h: Tensor) -> torch.autocast:
    """Returns a context manager that disables autocast, for densities and draws in full precision.

    Args:
        h: A tensor on the device of the computation.
    """
    return torch.autocast(h.device.type, enabled=False)


def positive(log_scale: Tensor) -> Tensor:
    """Returns the scale of an unbounded log-scale, which is always above :data:`SCALE_FLOOR`."""
    # no scale above exp(10) standard units makes sense, and float32 would overflow
    return SCALE_FLOOR + log_scale.clamp(max=10).exp()


def limited(mean: Tensor, scale: Tensor, units: Units) -> tuple[Tensor, Tensor]:
    """Returns means and scales that are at most as far from zero, and as wide, as the units allow.

    Args:
        mean: The means, in standard units; those of the components of an entry on a further axis.
        scale: The scales, in standard units.
        units: The units.
    """
    if units.widest is None:
        return mean, scale
    widest = units.widest.to(mean.dtype)
    widest = widest if widest.dim() == mean.dim() else widest[..., None]
    return mean.clamp(-widest, widest), scale.minimum(widest)
