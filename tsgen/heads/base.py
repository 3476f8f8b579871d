r"""What every head promises.

A head reads the state h of each node and returns a :class:`torch.distributions.Distribution` whose batch
shape is that of the entries. It works in standard units; the :class:`~tsgen.data.Units` it is handed say
what those mean, so that densities come out in data units and compare between models. Draws are made from
given uniform numbers, :attr:`Head.uniforms_per_entry` of them an entry: the same numbers, the same draw, on
any device and in any batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Distribution

from tsgen.data.series import Sizes, Units

SCALE_FLOOR = 1e-3
"""The least scale of a component, in standard units: none can collapse onto one value."""


class Head(nn.Module, ABC):
    """The law of each entry of a slice given the state of its node.

    Args:
        hidden: Size of a node's state.
        sizes: How many numbers a slice holds.
    """

    uniforms_per_entry: int
    """Uniform numbers that decide the draw of an entry."""

    of_nodes: bool = False
    """Whether some parameters belong to single nodes."""

    joint_entries: int = 1
    """Entries of a slice, side by side, that are given each other; 1 where each has a law of its own."""

    context_first: bool = False
    """Whether what is known of a slice comes before what is not, rather than each entry in its place."""

    def __init__(self, hidden: int, sizes: Sizes) -> None:
        super().__init__()
        self.hidden, self.sizes = hidden, sizes

    @property
    @abstractmethod
    def num_parameters_per_entry(self) -> int:
        """Parameters that one entry's law has of its own."""

    @abstractmethod
    def forward(
        self,
        h: Float[Tensor, "batch time nodes hidden"],
        values: Float[Tensor, "batch time nodes channels"],
        context: Bool[Tensor, "batch time nodes channels"],
        units: Units,
        covariates: Float[Tensor, "batch time nodes covariates"] | None = None,
    ) -> Distribution:
        """The law of each entry given what is known of its slice, in data units.

        An entry that is itself known is given those known entries alone that come before it in the head's
        order, so that the log-densities of a slice that is known whole sum to its joint log-density.

        Args:
            h: State of each node.
            values: The slices' values, in data units: a head may let what is known of a slice inform the rest
                of it.
            context: Which of them it may read.
            units: What standard units mean.
            covariates: The slices' own covariates; most heads have no use for them, since the encoder has
                read them.
        """

    @abstractmethod
    def quantile(self, law: Any, uniforms: Float[Tensor, "*entry uniforms"]) -> Float[Tensor, "*entry"]:
        """Turns uniform numbers, :attr:`uniforms_per_entry` an entry, into draws from the law; with one more
        axis in front, into several draws of each entry."""

    def draw(
        self,
        h: Float[Tensor, "batch time nodes hidden"],
        values: Float[Tensor, "batch time nodes channels"],
        context: Bool[Tensor, "batch time nodes channels"],
        units: Units,
        uniforms: Float[Tensor, "batch time nodes channels uniforms"],
        covariates: Float[Tensor, "batch time nodes covariates"] | None = None,
    ) -> Float[Tensor, "batch time nodes channels"]:
        """The slices with their unknown entries drawn jointly, in data units.

        The draws are differentiable in the parameters of the laws.

        Args:
            h: State of each node.
            values: The slices' values, in data units.
            context: Which of them are kept as they are.
            units: What standard units mean.
            uniforms: Uniform numbers in (0, 1) that decide the draw.
            covariates: The slices' own covariates.
        """
        law = self(h, values, context, units, covariates)
        return torch.where(context, values, self.quantile(law, uniforms))


def full_precision(h: Tensor) -> torch.autocast:
    """Densities and draws are computed in full precision, whatever the encoder was run in."""
    return torch.autocast(h.device.type, enabled=False)


def positive(log_scale: Tensor) -> Tensor:
    """A scale from an unbounded number: its exponential over a floor."""
    # beyond exp(10) standard units nothing is meant, and float32 would overflow
    return SCALE_FLOOR + log_scale.clamp(max=10).exp()
