"""Protocols: the methods and attributes that samplers, objectives and scores need of a model.

Samplers, objectives and scores import these protocols instead of the classes of :mod:`tsgen.models`. Those
classes import samplers and objectives, so that the opposite import would be a cycle. Your own model works
with every sampler and objective whose protocol it implements:

===================== ========================================= ========================================
protocol              the model                                 needed by
===================== ========================================= ========================================
:class:`Model`        has units and per-entry laws              all
:class:`EncoderModel` has an encoder and a head                 ``MaskedNLL``, ``AnyOrder``
:class:`ForwardModel` also runs forward in time, slice by slice ``Ancestral``, ``SMC``, ``ParticleBound``,
                                                                ``Rollout``, ``ScheduledSampling``
:class:`ExactModel`   is linear, with a known posterior         ``Exact``
===================== ========================================= ========================================
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import Distribution

from tsgen.data.series import SeriesBatch, SeriesSpec, Units
from tsgen.encoders.base import Encoder
from tsgen.encoders.propagation import Propagation
from tsgen.exact.linear import VARProcess
from tsgen.heads.base import Head


@runtime_checkable
class Model(Protocol):
    """A joint law of the entries of a window.

    Attributes:
        spec: Sizes, units and graph of the data.
        loc: Mean of each node and channel, in float64 and on the model's device.
    """

    spec: SeriesSpec
    if TYPE_CHECKING:  # from Python 3.12 on, isinstance() finds no submodules and buffers of a module
        loc: Tensor

    @property
    def node_units(self) -> Units:
        """Mean and standard deviation of each node and channel."""

    def units_of_nodes(self, batch: SeriesBatch) -> Units:
        """Returns mean and standard deviation of each node and channel of a batch."""

    def units(self, batch: SeriesBatch) -> Units:
        """Returns the location and scale that define standard units for each entry of a batch."""

    def target(self, batch: SeriesBatch) -> Bool[Tensor, "batch time nodes channels"]:
        """Returns the mask of the entries whose density is scored."""

    def __call__(self, batch: SeriesBatch) -> Distribution:
        """Returns the law of each entry given the context it may depend on, in data units."""


@runtime_checkable
class EncoderModel(Model, Protocol):
    """A model made of an encoder and a head.

    Its law is ``predict(batch, encode(batch, *inputs(batch)), batch.context)``.

    Attributes:
        encoder: Turns windows into a state of each node at each step.
        head: Turns states into laws.
    """

    if TYPE_CHECKING:
        encoder: Encoder
        head: Head

    def inputs(self, batch: SeriesBatch) -> tuple[Tensor, Tensor]:
        """Returns the values in standard units, zero outside the context, and the context as 0 and 1."""

    def encode(self, batch: SeriesBatch, x: Tensor, context: Tensor) -> Tensor:
        """Returns the encoder's states, from which the head computes the law of each slice."""

    def predict(self, batch: SeriesBatch, h: Tensor, context: Tensor) -> Distribution:
        """Returns the law of each entry given states and the context of its slice, in data units."""

    def draw(self, batch: SeriesBatch, h: Tensor, context: Tensor, uniforms: Tensor) -> Tensor:
        """Returns the slices in data units, with the entries outside the context drawn."""

    def proposal(self, batch: SeriesBatch, h: Tensor, context: Tensor) -> Distribution:
        """Returns the laws from which ``draw`` took the entries outside the context, in data units."""

    def law(self, batch: SeriesBatch, x: Tensor, context: Tensor) -> Distribution:
        """Returns the law of each entry in data units, for inputs that may differ from the batch's values."""


@runtime_checkable
class ForwardModel(EncoderModel, Protocol):
    """A model that factorises over time: each slice given the slices before it.

    Attributes:
        truncated_steps: Number of steps through which training backpropagates gradients; None for all.
    """

    truncated_steps: int | None

    def read(self, batch: SeriesBatch, x: Tensor, context: Tensor) -> tuple[Tensor, Any]:
        """Returns the encoder's output for whole windows, and its carried state after them."""

    def advance(
        self,
        batch: SeriesBatch,
        before: tuple[Tensor, Tensor] | None,
        propagation: Propagation,
        state: Any = None,
    ) -> tuple[Float[Tensor, "batch time nodes hidden"], Any]:
        """Returns the encoder's output for the next slices, and its carried state after them."""


@runtime_checkable
class ExactModel(Model, Protocol):
    """A linear-Gaussian model, whose posterior is known in closed form.

    Attributes:
        process: The process in data units, over nodes and channels flattened into one axis.
    """

    process: VARProcess

    def posterior(self, batch: SeriesBatch) -> Distribution:
        """Returns the law of each entry given the whole context, in data units."""


ModelT = TypeVar("ModelT", bound=Model, contravariant=True)
"""The protocol that a sampler or an objective requires."""


def check_forward(user: str, model: object, instead: str) -> None:
    """Raises ``ValueError`` unless a model is autoregressive.

    Args:
        user: Name of the sampler or objective, used as the subject of the error message.
        model: The model to check.
        instead: A sentence for the error message that names an alternative for other models.

    Raises:
        ValueError: If the model does not fulfil :class:`ForwardModel`.
    """
    if not isinstance(model, ForwardModel):
        raise ValueError(f"{user} needs an autoregressive model; got {type(model).__name__}. {instead}")
