"""The contract of an encoder.

Encoders follow :class:`torch.nn.GRU`: ``h, state = encoder(inputs, propagation, state)``. The same method
reads a whole window (training) or one slice with the carried state (sampling), with equal results.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from tsgen.argument_types import check_arguments
from tsgen.encoders.propagation import Propagation

MAX_LAYERS = 1000
"""The maximum number of layers of an encoder."""


def check_count(name: str, number: int, least: int = 1, most: int | None = None) -> None:
    """Raises ``ValueError`` unless a number lies in a range.

    Args:
        name: The name of the number.
        number: The number.
        least: The smallest number allowed.
        most: The largest number allowed, if any.
    """
    if number < least:
        raise ValueError(f"{name} must be at least {least}; it is {number}.")
    if most is not None and number > most:
        raise ValueError(f"{name} must be at most {most}; it is {number}.")


@check_arguments
class Encoder(nn.Module, ABC):
    """Computes a state for each node and step from the inputs.

    Args:
        in_features: Size of a node's input.
        hidden: Size of a node's state.

    Raises:
        ValueError: If ``hidden`` is below 1.
    """

    causal: bool = True
    """Whether the state of a step depends on no later input. A state can be carried only if so."""

    receptive_field: int | None = None
    """Number of steps that the state of a step depends on, including its own; None if unbounded."""

    node_axis: int | None = None
    """Node axis of the tensors of the carried state, each node with the same number of consecutive entries
    along it; None if the state has no node axis."""

    def __init__(self, in_features: int, hidden: int) -> None:
        super().__init__()
        check_count("in_features", in_features)
        check_count("hidden", hidden)
        self.in_features, self.hidden = in_features, hidden

    def carried(self, steps: int) -> int:
        """Returns approximately how many numbers per node the carried state holds.

        Args:
            steps: Number of steps read so far.
        """
        return self.hidden * (self.receptive_field or 1)

    @abstractmethod
    def forward(
        self, inputs: Float[Tensor, "batch time nodes features"], propagation: Propagation, state: Any = None
    ) -> tuple[Float[Tensor, "batch time nodes hidden"], Any]:
        """Reads the next steps.

        Args:
            inputs: Inputs of one or more steps.
            propagation: The graph.
            state: The carried state that the last call returned; None at the start of a window. It consists
                of nested tuples and lists of tensors whose first axis is the batch, so that rows can be
                repeated and selected.

        Returns:
            The state of each node at each of the steps, and the carried state for the next call: None from an
            encoder that is not causal.
        """


def map_state(change: Callable[[Tensor], Tensor], state: Any) -> Any:
    """Applies a function to every tensor of a carried state.

    Args:
        change: The function; the first axis of its argument is the batch.
        state: The carried state that an encoder returned.
    """
    if state is None:
        return None
    if isinstance(state, Tensor):
        return change(state)
    return type(state)(map_state(change, item) for item in state)


def refuse_state(state: Any) -> None:
    """Raises ``ValueError`` if a state is given to an encoder that is not causal."""
    if state is not None:
        raise ValueError(
            "an encoder that is not causal needs a whole window and no state; got a state. "
            "Pass the whole window."
        )
