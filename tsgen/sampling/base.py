"""The interface of a sampler.

A sampler defines how the unknown entries of windows are drawn (:meth:`Sampler.draw`, one random stream per
draw), whether the draws are filtering or posterior, and how much memory one draw takes. The base class
handles portions of bounded memory, random streams, and windows that continue the draws of an earlier window.
A sampler that computes all draws of a window jointly overrides ``__call__`` instead.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, Generic, Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tsgen.argument_types import check_shapes
from tsgen.counter_random import streams
from tsgen.data.series import Samples, SeriesBatch
from tsgen.protocols import ModelT

MAX_BYTES_PER_PORTION = 2**28
"""Memory in bytes that one portion of draws may take, besides the model, the batch and the returned samples.

The memory of one draw is estimated from the sizes of the model (:meth:`Sampler.bytes_per_draw`). A single
draw is never split, even if it exceeds this limit."""

TENSORS_PER_PASS = 12
"""Approximate number of tensors of a node state's width that a forward pass holds at the same time: gates,
messages, ..."""

OTHER_SAMPLERS = "Use tsgen.sampling.AnyOrder for an AnyOrderModel, Exact for a GraphVAR."
"""A sentence for error messages of samplers that need an autoregressive model."""


def draws_per_portion(bytes_per_draw: int) -> int:
    """Returns how many draws of one window fit into :data:`MAX_BYTES_PER_PORTION`; at least one."""
    return max(1, MAX_BYTES_PER_PORTION // max(1, bytes_per_draw))


@check_shapes
class Sampler(ABC, Generic[ModelT]):
    """Draws the entries outside ``context`` jointly, in data units.

    The draws of a window depend on the seed and on the window's address (:attr:`SeriesBatch.address`: its
    position in the series, and the number of its copy in a repeated batch), but neither on the batch nor on
    the size of a portion.

    Attributes:
        num_samples: The number of draws per window.
        seed: Seed of the random streams.
    """

    num_samples: int
    seed: int

    conditioning: Literal["filtering", "posterior"]
    """Whether draws are conditioned on the past alone or on the whole context (see
    :class:`~tsgen.data.Samples`)."""

    @property
    def joint(self) -> bool:
        """Whether the unknown entries of a draw are drawn jointly rather than independently."""
        return True

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise ValueError(f"num_samples must be at least 1; it is {self.num_samples}.")

    def with_options(self, **options: Any) -> Sampler:
        """Returns the sampler with some options changed.

        Args:
            options: Fields of the sampler, such as ``num_samples`` and ``seed``.

        Raises:
            ValueError: If the sampler is not a dataclass.
        """
        if options and not dataclasses.is_dataclass(self):
            raise ValueError(
                f"{' and '.join(options)} can be set only for a sampler that is a dataclass; got "
                f"{type(self).__name__}. Leave them out."
            )
        return dataclasses.replace(self, **options) if options else self  # type: ignore[type-var]

    def jointly(self, entries: int) -> Sampler:
        """Returns the sampler with the options that make all entries of a window joint.

        Args:
            entries: The number of entries of a window.
        """
        return self

    @abstractmethod
    def check(self, model: object) -> None:
        """Raises ``ValueError`` unless the sampler can draw from the model."""

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
        """Draws each window once for each of its random streams, in a single portion.

        Args:
            model: A model that :meth:`check` accepts.
            batch: Windows in data units; entries outside ``batch.context`` are drawn.
            stream: One random stream for each draw of each window (see :mod:`tsgen.counter_random`).
            values: Values of the entries in ``batch.context`` for each draw, if they differ between draws;
                the batch's own values if not given.

        Raises:
            ValueError: If the sampler computes all draws of a window jointly.
        """
        raise ValueError(
            f"{type(self).__name__} draws all samples of a window jointly, so they cannot continue the draws "
            "of an earlier window. Set overlap to 0, or use another sampler."
        )

    def bytes_per_draw(self, model: ModelT, batch: SeriesBatch) -> int:
        """Returns the approximate memory in bytes that one draw of one window takes while it is computed."""
        return batch.values[0].numel() * batch.values.element_size()

    @property
    def extends(self) -> bool:
        """Whether draws of a window can continue the draws of an earlier window."""
        return type(self).draw is not Sampler.draw

    def __call__(self, model: ModelT, batch: SeriesBatch) -> Samples:
        """Draws ``num_samples`` samples of each window of the batch.

        Args:
            model: A model that :meth:`check` accepts.
            batch: Windows in data units; entries outside ``batch.context`` are drawn.

        Returns:
            Samples in data units.
        """
        return self.some(model, batch, range(self.num_samples))

    def some(self, model: ModelT, batch: SeriesBatch, numbers: range) -> Samples:
        """Draws the samples with the given numbers only, so that several processes can share the work.

        Args:
            model: A model that :meth:`check` accepts.
            batch: Windows in data units; entries outside ``batch.context`` are drawn.
            numbers: A contiguous range of numbers within ``range(num_samples)``.
        """
        return self._draw_in_portions(model, batch, None, numbers)

    def extend(
        self,
        model: ModelT,
        batch: SeriesBatch,
        drawn: Float[Tensor, "samples batch time nodes channels"],
        drawn_steps: Bool[Tensor, "batch time"],
        numbers: range | None = None,
    ) -> Samples:
        """Draws the remaining steps of windows, each sample given its own earlier draws of some steps.

        Args:
            model: A model that :meth:`check` accepts.
            batch: Windows in data units.
            drawn: Earlier draws of the windows; read at ``drawn_steps`` for entries outside
                ``batch.context``.
            drawn_steps: The steps that have been drawn already.
            numbers: The numbers of the samples; ``range(num_samples)`` if not given.
        """
        numbers = numbers or range(self.num_samples)
        wanted = (len(numbers), *batch.values.shape)
        if tuple(drawn.shape) != wanted:
            raise ValueError(f"drawn must have shape {list(wanted)}; its shape is {list(drawn.shape)}.")
        context = batch.context | drawn_steps[:, :, None, None]
        values = torch.where(batch.context, batch.values, drawn.to(batch.values))
        return self._draw_in_portions(model, batch._changed(context=context), values, numbers)

    @torch.no_grad()
    def _draw_in_portions(
        self, model: ModelT, batch: SeriesBatch, values: Tensor | None, numbers: range
    ) -> Samples:
        """Draws in portions of bounded memory: all samples of several windows, or some samples of one."""
        if not len(numbers) or numbers.step != 1 or numbers[0] < 0 or numbers[-1] >= self.num_samples:
            raise ValueError(
                f"numbers must be a contiguous range within range({self.num_samples}), not empty; it is "
                f"{numbers}."
            )
        max_draws = draws_per_portion(self.bytes_per_draw(model, batch))
        num_windows = min(len(batch.values), max(1, max_draws // len(numbers)))
        offsets = torch.arange(len(numbers), device=batch.position.device)
        drawn = []
        for first in range(0, len(batch.values), num_windows):
            rows = slice(first, first + num_windows)
            windows = batch.rows(rows)
            drawn.append(
                torch.cat(
                    [
                        self.draw(
                            model,
                            windows,
                            self._streams(windows.address, numbers.start + samples[:, None]),
                            None if values is None else values[samples, rows],
                        )
                        for samples in offsets.split(max(1, max_draws // num_windows))
                    ]
                )
            )
        return Samples(torch.cat(drawn, dim=1), self.conditioning)

    def _streams(self, address: Int64[Tensor, "batch"], sample: Tensor) -> Int64[Tensor, "samples batch"]:
        """Returns one random stream for each draw of each window."""
        return streams(self.seed, address, sample)


def repeated(
    batch: SeriesBatch, times: int, values: Float[Tensor, "samples batch time nodes channels"] | None
) -> SeriesBatch:
    """Returns ``times`` copies of the batch along the batch axis, each with its own values if given."""
    rows = batch.repeat(times)
    return rows if values is None else rows._changed(values=values.flatten(0, 1))
