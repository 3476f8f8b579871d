"""What samplers, objectives and scores need of a model.

They are written against these protocols, not against the classes of :mod:`tsgen.models`, which know samplers
and objectives in turn. A model of your own works with every sampler and objective whose protocol it fulfils:

===================== ========================================= ========================================
protocol              a model that                              needed by
===================== ========================================= ========================================
:class:`Model`        has units and per-entry laws              all
:class:`EncoderModel` has an encoder and a head                 ``MaskedNLL``, ``AnyOrder``
:class:`ForwardModel` also goes forward in time, slice by slice ``Ancestral``, ``SMC``, ``ParticleBound``,
                                                                ``Rollout``, ``ScheduledSampling``
:class:`ExactModel`   is linear, with a known posterior         ``Exact``
===================== ========================================= ========================================
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar, runtime_checkable

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
        loc: Mean of each node and channel; its precision and device are the model's.
    """

    spec: SeriesSpec
    loc: Tensor

    @property
    def node_units(self) -> Units:
        """Mean and standard deviation of each node and channel."""

    def units_of_nodes(self, batch: SeriesBatch) -> Units:
        """Returns mean and standard deviation of each node and channel of a batch."""

    def units(self, batch: SeriesBatch) -> Units:
        """Returns what standard units mean for each entry of a batch."""

    def target(self, batch: SeriesBatch) -> Bool[Tensor, "batch time nodes channels"]:
        """Returns the entries whose density the model is scored by."""

    def __call__(self, batch: SeriesBatch) -> Distribution:
        """Returns the law of each entry given what it may depend on, in data units."""


@runtime_checkable
class EncoderModel(Model, Protocol):
    """A model made of an encoder and a head.

    Its law is ``predict(batch, encode(batch, *inputs(batch)), batch.context)``.

    Attributes:
        encoder: Turns windows into a state of each node at each step.
        head: Turns states into laws.
    """

    encoder: Encoder
    head: Head

    def inputs(self, batch: SeriesBatch) -> tuple[Tensor, Tensor]:
        """Returns the slices in standard units, zero outside the context, and the context as 0 and 1."""

    def encode(self, batch: SeriesBatch, x: Tensor, context: Tensor) -> Tensor:
        """Returns the state that the law of each slice is made of."""

    def predict(self, batch: SeriesBatch, h: Tensor, context: Tensor) -> Distribution:
        """Returns the law of each entry given states and the context of its slice, in data units."""

    def draw(self, batch: SeriesBatch, h: Tensor, context: Tensor, uniforms: Tensor) -> Tensor:
        """Returns the slices, entries outside the context drawn, in data units."""

    def law(self, batch: SeriesBatch, x: Tensor, context: Tensor) -> Distribution:
        """Returns the law of each entry for inputs that need not be the batch's own, in data units."""


@runtime_checkable
class ForwardModel(EncoderModel, Protocol):
    """A model that factorises over time: each slice given the slices before it.

    Attributes:
        truncated_steps: Steps that gradients are carried back through in training; None for all.
    """

    truncated_steps: int | None

    def read(self, batch: SeriesBatch, x: Tensor, context: Tensor) -> tuple[Tensor, Any]:
        """Returns the states of whole windows, and the encoder's state after them."""

    def advance(
        self,
        batch: SeriesBatch,
        before: tuple[Tensor, Tensor] | None,
        propagation: Propagation,
        state: Any = None,
    ) -> tuple[Float[Tensor, "batch time nodes hidden"], Any]:
        """Returns the states of the next slices, and the encoder's state after them."""


@runtime_checkable
class ExactModel(Model, Protocol):
    """A linear-Gaussian model, whose posterior is known in closed form.

    Attributes:
        process: The process, in data units; nodes and channels side by side.
    """

    process: VARProcess

    def posterior(self, batch: SeriesBatch) -> Distribution:
        """Returns the law of each entry given the whole context, in data units."""


ModelT = TypeVar("ModelT", bound=Model, contravariant=True)
"""The protocol that a sampler or an objective asks for."""


def check_forward(user: str, model: object, instead: str) -> None:
    """Raises unless a model goes forward in time.

    Args:
        user: The sampler or objective that needs it, as the subject of a sentence.
        model: The model.
        instead: What to use for other models, as a sentence.

    Raises:
        ValueError: If the model does not fulfil :class:`ForwardModel`.
    """
    if not isinstance(model, ForwardModel):
        raise ValueError(f"{user} needs an autoregressive model; got {type(model).__name__}. {instead}")
