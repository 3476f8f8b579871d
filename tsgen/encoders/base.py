"""What every encoder promises.

Encoders follow :class:`torch.nn.GRU`: ``h, state = encoder(inputs, propagation, state)``. The same method
reads a whole window (training) or one slice with the carried state (sampling), and the two are equal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from tsgen.encoders.propagation import Propagation


class Encoder(nn.Module, ABC):
    """A state for each node and step from the inputs.

    Args:
        in_features: Size of a node's input.
        hidden: Size of a node's state.

    Raises:
        ValueError: If ``hidden`` is below 1.
    """

    causal: bool = True
    """Whether the state of a step depends on no later input. Only then can a state be carried."""

    receptive_field: int | None = None
    """Steps that the state of a step depends on, its own among them; None where there is no bound."""

    node_axis: int | None = None
    """Axis of the carried state's tensors along which the nodes lie, each with as many numbers side by side;
    None where a state is not made of states of nodes."""

    def __init__(self, in_features: int, hidden: int) -> None:
        super().__init__()
        if hidden < 1:
            raise ValueError(f"hidden must be at least 1; it is {hidden}.")
        self.in_features, self.hidden = in_features, hidden

    def carried(self, steps: int) -> int:
        """Numbers of a node that the state holds after so many steps, about."""
        return self.hidden * (self.receptive_field or 1)

    @abstractmethod
    def forward(
        self, inputs: Float[Tensor, "batch time nodes features"], propagation: Propagation, state: Any = None
    ) -> tuple[Float[Tensor, "batch time nodes hidden"], Any]:
        """Reads the next steps.

        Args:
            inputs: Inputs of one or more steps.
            propagation: The graph.
            state: What the last call returned; None at the start of a window. Nested tuples and lists of
                tensors whose first axis is the batch, so that rows can be repeated and chosen.

        Returns:
            The state of each node at each of the steps, and what the next call must be given: None from an
            encoder that is not causal.
        """


def map_state(change: Callable[[Tensor], Tensor], state: Any) -> Any:
    """An encoder's state with every tensor changed.

    Args:
        change: What is done to a tensor, whose first axis is the batch.
        state: What an encoder returned.
    """
    if state is None:
        return None
    if isinstance(state, Tensor):
        return change(state)
    return type(state)(map_state(change, part) for part in state)


def refuse_state(state: Any) -> None:
    """Raises ``ValueError`` if a state is given to an encoder that is not causal."""
    if state is not None:
        raise ValueError(
            "an encoder that is not causal reads a window at once; a state was given. Pass the whole window."
        )
