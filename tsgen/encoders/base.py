"""What every encoder promises.

Encoders follow :class:`torch.nn.GRU`: ``h, state = encoder(inputs, propagation, state)``. The same method
reads a whole window (training) or one slice with the carried state (sampling), and the two are equal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from tsgen.propagation import Propagation


class Encoder(nn.Module, ABC):
    """A state for each node and step from the inputs up to that step.

    Args:
        in_features: Size of a node's input.
        hidden: Size of a node's state.
    """

    causal: ClassVar[bool]
    """Whether the state of a step depends on no later input."""

    def __init__(self, in_features: int, hidden: int) -> None:
        super().__init__()
        if hidden < 1:
            raise ValueError(f"hidden must be at least 1; it is {hidden}.")
        self.in_features, self.hidden = in_features, hidden

    @abstractmethod
    def forward(
        self, inputs: Float[Tensor, "batch time nodes features"], propagation: Propagation, state: Any = None
    ) -> tuple[Float[Tensor, "batch time nodes hidden"], Any]:
        """Reads the next steps.

        Args:
            inputs: Inputs of one or more steps.
            propagation: The graph.
            state: What the last call returned; None at the start of a window.

        Returns:
            The state of each node at each of the steps, and what the next call must be given.
        """
