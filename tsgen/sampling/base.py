"""What every sampler promises.

A sampler says how the unknown entries of some windows are drawn (:meth:`Sampler.draw`, one random stream a
draw), what law such draws follow and how much memory one takes. Portions of bounded memory, random streams
and windows that go on from draws of an earlier one are the same for all. A sampler whose draws of a window
come from one joint computation brings its own ``__call__``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tsgen.counter_random import streams
from tsgen.data.series import Samples, SeriesBatch
from tsgen.protocols import ModelT

BYTES_AT_ONCE = 2**28
"""Memory that the draws worked on at once may take, beside the model, the batch and what is returned. What
one takes is estimated from the sizes of the model (:meth:`Sampler.bytes_a_draw`); one draw is always made
whole."""

LAYERS_AT_ONCE = 12
"""Tensors as wide as a node's state that a forward pass holds at once, about: gates, messages, ..."""


OTHER_SAMPLERS = "Use tsgen.sampling.AnyOrder for an AnyOrderModel, Exact for a GraphVAR."
"""What to do about a sampler that needs an autoregressive model, as a sentence."""


def draws_at_once(bytes_a_draw: int) -> int:
    """How many draws of one window fit into :data:`BYTES_AT_ONCE`; at least one."""
    return max(1, BYTES_AT_ONCE // max(1, bytes_a_draw))


class Sampler(ABC, Generic[ModelT]):
    """Draws the entries outside ``context``, jointly, in data units.

    What is drawn for a window depends on the seed and the window's position in its series, not on the batch,
    nor on how many draws are made at once.
    """

    num_samples: int
    seed: int

    conditioning: Literal["filtering", "posterior"]
    """What the draws follow: see :class:`~tsgen.data.Samples`."""

    @property
    def joint(self) -> bool:
        """Whether unknown entries of a draw go together, rather than each being drawn by itself."""
        return True

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise ValueError(f"num_samples must be at least 1; it is {self.num_samples}.")

    @abstractmethod
    def check(self, model: object) -> None:
        """Raises ``ValueError`` unless the model can be sampled in this way."""

    def check_data(self, data: Any, stage: str) -> None:
        """Raises ``ValueError`` unless the sampler can be used with the data.

        Args:
            data: The data module.
            stage: fit, validate, test or predict.
        """

    def draw(
        self,
        model: ModelT,
        batch: SeriesBatch,
        stream: Int64[Tensor, "samples batch"],
        values: Float[Tensor, "samples batch time nodes channels"] | None = None,
    ) -> Float[Tensor, "samples batch time nodes channels"]:
        """Draws each window once for each of its random streams, all at once.

        Args:
            model: A model that :meth:`check` accepts.
            batch: Windows in data units; entries outside ``batch.context`` are drawn.
            stream: One random stream for each draw of each window (see :mod:`tsgen.counter_random`).
            values: What each draw holds in ``batch.context``, where draws differ in that too; the batch's own
                values if not given.

        Raises:
            ValueError: If all draws of a window come from one joint computation.
        """
        raise ValueError(
            f"{type(self).__name__} draws all samples of a window together, and none can go on from a draw "
            "of an earlier window. Set overlap to 0, or use another sampler."
        )

    def bytes_a_draw(self, model: ModelT, batch: SeriesBatch) -> int:
        """Memory that one draw of one window takes while it is made, about."""
        return batch.values[0].numel() * batch.values.element_size()

    @property
    def extends(self) -> bool:
        """Whether draws of a window can go on from draws of an earlier one."""
        return type(self).draw is not Sampler.draw

    def __call__(self, model: ModelT, batch: SeriesBatch) -> Samples:
        """Draws from what the model implies for each window of the batch.

        Args:
            model: A model that :meth:`check` accepts.
            batch: Windows in data units; entries outside ``batch.context`` are drawn.
        """
        return self.some(model, batch, range(self.num_samples))

    def some(self, model: ModelT, batch: SeriesBatch, numbers: range) -> Samples:
        """Those of the draws that have these numbers, as another process may make the others.

        Args:
            model: A model that :meth:`check` accepts.
            batch: Windows in data units; entries outside ``batch.context`` are drawn.
            numbers: Some of ``range(num_samples)``.
        """
        return self._in_portions(model, batch, None, numbers)

    def extend(
        self,
        model: ModelT,
        batch: SeriesBatch,
        drawn: Float[Tensor, "samples batch time nodes channels"],
        known: Bool[Tensor, "batch time"],
        numbers: range | None = None,
    ) -> Samples:
        """Draws the rest of windows that were begun: each sample given its own draws of some steps.

        Args:
            model: A model that :meth:`check` accepts.
            batch: Windows in data units.
            drawn: Draws of them; read at the steps that are known and not in ``batch.context``.
            known: The steps that are drawn already.
            numbers: The draws' numbers; ``range(num_samples)`` if not given.
        """
        context = batch.context | known[:, :, None, None]
        values = torch.where(batch.context, batch.values, drawn.to(batch.values))
        return self._in_portions(
            model, batch._changed(context=context), values, numbers or range(self.num_samples)
        )

    @torch.no_grad()
    def _in_portions(
        self, model: ModelT, batch: SeriesBatch, values: Tensor | None, numbers: range
    ) -> Samples:
        """Draws in portions of bounded memory: all of some windows, or some of one."""
        at_once = draws_at_once(self.bytes_a_draw(model, batch))
        windows = min(len(batch.values), max(1, at_once // len(numbers)))
        place = torch.arange(len(numbers), device=batch.position.device)
        drawn = []
        for first in range(0, len(batch.values), windows):
            chosen = slice(first, first + windows)
            few = batch.rows(chosen)
            drawn.append(
                torch.cat(
                    [
                        self.draw(
                            model,
                            few,
                            self._streams(few.position[:, 0], numbers.start + some[:, None]),
                            None if values is None else values[some, chosen],
                        )
                        for some in place.split(max(1, at_once // windows))
                    ]
                )
            )
        return Samples(torch.cat(drawn, dim=1), self.conditioning)

    def _streams(self, position: Int64[Tensor, "batch"], sample: Tensor) -> Int64[Tensor, "samples batch"]:
        """One random stream for each draw of each window."""
        return streams(self.seed, position, sample)


def repeated(
    batch: SeriesBatch, times: int, values: Float[Tensor, "samples batch time nodes channels"] | None
) -> SeriesBatch:
    """The batch ``times`` over along the batch axis, each time with values of its own if any are given."""
    rows = batch.repeat(times)
    return rows if values is None else rows._changed(values=values.flatten(0, 1))
