r"""Random patterns of hidden entries: seeded, composable, and drawn for many windows at once.

A pattern draws a mask that is True where an entry is hidden. It receives the values because the probability
of being hidden may depend on them (:class:`ValueMask`). The same classes serve two purposes: they thin the
context in training (a new draw for each window and epoch), and they hold out entries for evaluation (one draw
over the whole series). The draw of a window depends only on its stream and its values (see
:mod:`tsgen.counter_random`), never on the rest of the batch.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tsgen.argument_types import check_shapes
from tsgen.counter_random import streams, uniforms
from tsgen.data.series import Series, SeriesBatch

Rate = float | tuple[float, float]
"""A probability, or two bounds between which each window draws its own probability uniformly."""


def _check_rate(rate: Rate, name: str = "rate") -> Rate:
    """Returns the rate, with bounds as a tuple; raises unless it lies in 0..1."""
    rate = (rate[0], rate[1]) if isinstance(rate, (tuple, list)) else float(rate)
    for bound in _bounds(rate):
        if not 0 <= bound <= 1:
            raise ValueError(f"{name} must lie in 0..1; it is {bound}.")
    return rate


def _bounds(rate: Rate) -> tuple[float, float]:
    return rate if isinstance(rate, tuple) else (rate, rate)


def _first(start: Int64[Tensor, "batch"] | None, width: int) -> int | Int64[Tensor, "batch"]:
    """Returns the positions in their streams at which windows begin, given ``width`` numbers per step."""
    return 0 if start is None else start * width


def _require_whole(mask: Mask, start: Int64[Tensor, "batch"] | None) -> None:
    """Raises if a window is requested of a pattern that can only be drawn for a whole series."""
    if start is not None:
        raise ValueError(
            f"{type(mask).__name__} needs a series that is held in memory, as it reads all of it at once; "
            "this one is read window by window. Use another pattern, such as PointMask or BlockMask."
        )


def _draw_rate(rate: Rate, stream: Int64[Tensor, "batch"]) -> Float[Tensor, "batch 1 1 1"]:
    """Draws the rate of each window."""
    low, high = _bounds(rate)
    return low + (high - low) * uniforms(streams(1, stream), (1, 1, 1))


@check_shapes
class Mask(ABC):
    """A random pattern of hidden entries."""

    @abstractmethod
    def hidden(
        self,
        stream: Int64[Tensor, "batch"],
        values: Float[Tensor, "batch time nodes channels"],
        start: Int64[Tensor, "batch"] | None = None,
    ) -> Bool[Tensor, "batch time nodes channels"]:
        """Draws which entries are hidden.

        Args:
            stream: One random stream for each window.
            values: The values of the windows, NaN where nothing was observed. Most patterns use only their
                shape.
            start: If the windows are cut from one draw over a longer series, the step at which each begins;
                zero if not given.

        Raises:
            ValueError: If ``start`` is given and the pattern can only be drawn for a whole series.
        """

    def replaying(self, series: Series, stretches: Sequence[slice]) -> Mask:
        """Returns the pattern with access to the gaps of the data, to thin training windows.

        Patterns that do not replay gaps return themselves.

        Args:
            series: The data.
            stretches: The steps whose gaps may be replayed.

        Raises:
            ValueError: If the pattern cannot be drawn for windows.
        """
        return self

    def of_nodes(self, nodes: Int64[Tensor, "nodes"]) -> Mask:
        """Returns the pattern for windows that hold only some nodes.

        Patterns that treat all nodes alike return themselves.

        Args:
            nodes: Numbers of the nodes.
        """
        return self


@check_shapes
@dataclass
class PointMask(Mask):
    """Hides every entry independently.

    Args:
        rate: The probability of being hidden, or two bounds between which each window draws its own.

    Raises:
        ValueError: If the rate leaves 0..1.
    """

    rate: float | tuple[float, float] = 0.25

    def __post_init__(self) -> None:
        self.rate = _check_rate(self.rate)

    def hidden(
        self,
        stream: Int64[Tensor, "batch"],
        values: Float[Tensor, "batch time nodes channels"],
        start: Int64[Tensor, "batch"] | None = None,
    ) -> Bool[Tensor, "batch time nodes channels"]:
        drawn = uniforms(streams(2, stream), values.shape[1:], _first(start, values.shape[2:].numel()))
        return drawn < _draw_rate(self.rate, stream)


@check_shapes
@dataclass
class BlockMask(Mask):
    """Hides runs of consecutive steps (failures) of one node and channel, or of all of them at once.

    A failure starts at each entry (or slice) with a given probability and lasts a uniformly drawn number of
    steps. Failures that began before the window reach into it, so its first steps are hidden as often as its
    last.

    Args:
        rate: The probability that a failure starts at an entry, or two bounds between which each window draws
            its own.
        min_length: The shortest failure, in steps.
        max_length: The longest failure, in steps.
        over: The unit that fails: ``entry`` for a single node and channel, ``slice`` for all of them at once
            (an outage).

    Raises:
        ValueError: If the rate leaves 0..1, the lengths are out of order or ``over`` is unknown.
    """

    rate: float | tuple[float, float] = 0.01
    min_length: int = 4
    max_length: int = 24
    over: Literal["entry", "slice"] = "entry"

    def __post_init__(self) -> None:
        self.rate = _check_rate(self.rate)
        if not 1 <= self.min_length <= self.max_length:
            raise ValueError(
                "lengths must satisfy 1 <= min_length <= max_length; they are "
                f"{self.min_length} and {self.max_length} steps."
            )

    def hidden(
        self,
        stream: Int64[Tensor, "batch"],
        values: Float[Tensor, "batch time nodes channels"],
        start: Int64[Tensor, "batch"] | None = None,
    ) -> Bool[Tensor, "batch time nodes channels"]:
        shape, before = values.shape[1:], self.max_length - 1
        width = shape[1:] if self.over == "entry" else (1, 1)
        padded = (shape[0] + before, *width)
        first = _first(start, math.prod(width))
        starts = uniforms(streams(3, stream), padded, first) < _draw_rate(self.rate, stream)
        spread = self.max_length - self.min_length + 1
        length = self.min_length + (uniforms(streams(4, stream), padded, first) * spread).long()
        step = torch.arange(padded[0], device=stream.device)[:, None, None]
        end = torch.where(starts, step + length, 0).cummax(dim=1).values
        return (end > step)[:, before:].expand(-1, *shape)


@check_shapes
@dataclass
class NodeMask(Mask):
    """Hides whole nodes for the entire window, as at places without a sensor (virtual sensing).

    Args:
        rate: The probability that a node is hidden, with all its channels, or two bounds between which each
            window draws its own.

    Raises:
        ValueError: If the rate leaves 0..1.
    """

    rate: float | tuple[float, float] = 0.1

    def __post_init__(self) -> None:
        self.rate = _check_rate(self.rate)

    def hidden(
        self,
        stream: Int64[Tensor, "batch"],
        values: Float[Tensor, "batch time nodes channels"],
        start: Int64[Tensor, "batch"] | None = None,
    ) -> Bool[Tensor, "batch time nodes channels"]:
        nodes = uniforms(streams(8, stream), (1, values.shape[2], 1)) < _draw_rate(self.rate, stream)
        return nodes.expand(values.shape)


@check_shapes
@dataclass
class ValueMask(Mask):
    r"""Hides entries depending on their values: missing not at random.

    Every observed entry is hidden independently, with a probability that depends on its value x alone,

    .. math:: p = \frac{1}{1 + e^{-(s z + b)}}, \qquad z = (x - \mu) / \sigma,

    where :math:`\mu` and :math:`\sigma` are mean and standard deviation of the node and channel over the
    window or series that the mask is drawn for. The offset b is solved for, once per window or series, so
    that the expected share of hidden entries equals the rate.

    Args:
        rate: The expected share of the observed entries that is hidden, or two bounds between which each
            window draws its own.
        slope: The s of the formula. If positive, high values are hidden more often (a sensor that saturates);
            if negative, low values (a limit of detection). With 0 the distribution is that of
            :class:`PointMask`.

    Raises:
        ValueError: If the rate leaves 0..1 or the slope is not finite.

    References:
        Inference and missing data (Rubin, 1976).
    """

    rate: float | tuple[float, float] = 0.25
    slope: float = 2.0

    def __post_init__(self) -> None:
        self.rate = _check_rate(self.rate)
        if not math.isfinite(self.slope):
            raise ValueError(f"slope must be finite; it is {self.slope}.")

    def hidden(
        self,
        stream: Int64[Tensor, "batch"],
        values: Float[Tensor, "batch time nodes channels"],
        start: Int64[Tensor, "batch"] | None = None,
    ) -> Bool[Tensor, "batch time nodes channels"]:
        _require_whole(self, start)
        observed = values.isfinite()
        rate = _draw_rate(self.rate, stream).double()
        logit = self.slope * _standardised(values.double(), observed)
        drawn = uniforms(streams(9, stream), values.shape[1:])
        return (drawn < (logit + _offset(logit, observed, rate)).sigmoid()) & observed


def _standardised(
    values: Float[Tensor, "batch time nodes channels"], observed: Bool[Tensor, "batch time nodes channels"]
) -> Float[Tensor, "batch time nodes channels"]:
    """Returns observed values standardised over time, per node and channel; zero elsewhere."""
    count = observed.sum(dim=1, keepdim=True).clamp(min=1)
    mean = values.where(observed, 0).sum(dim=1, keepdim=True) / count
    centred = (values - mean).where(observed, 0)
    deviation = (centred.square().sum(dim=1, keepdim=True) / count).sqrt()
    # the deviation of a constant is rounding error rather than zero
    return torch.where(deviation > 1e-14 * mean.abs(), centred / deviation, 0)


def _offset(
    logit: Float[Tensor, "batch time nodes channels"],
    observed: Bool[Tensor, "batch time nodes channels"],
    rate: Float[Tensor, "batch 1 1 1"],
) -> Float[Tensor, "batch 1 1 1"]:
    """Returns the offset of the logits for which the mean probability of the observed entries is the rate."""
    count = observed.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1)
    widest = logit.abs().amax(dim=(1, 2, 3), keepdim=True)
    low, high = rate.logit() - widest, rate.logit() + widest
    for _ in range(50):  # bisection to the precision of float64
        middle = (low + high) / 2
        share = (logit + middle).sigmoid().where(observed, 0).sum(dim=(1, 2, 3), keepdim=True) / count
        low, high = torch.where(share < rate, middle, low), torch.where(share < rate, high, middle)
    return (low + high) / 2


@check_shapes
@dataclass
class GRINMask(Mask):
    r"""Hides the entries that GRIN and its successors hide in METR-LA and PEMS-BAY, bit for bit.

    Every entry is hidden independently, and failures start at random. Both come from NumPy's generator with
    the published seed, drawn over a whole series, so that every method is evaluated on the same entries. The
    papers describe a separate length for each failure. The published code, which this class follows, draws
    one length, uniform on 12..47 steps, for each sensor that fails at all, and uses it for all failures of
    the sensor. ``AnyOf([PointMask(0.05), BlockMask(0.0015, 12, 47)])`` has the distribution that the papers
    describe. On data of the size of METR-LA both hide 9.1 % of the entries, in runs of two steps on average.
    The code hides shares that vary more between sensors, from 6.3 to 13.6 % (a standard deviation of 1.6 %
    instead of 0.6 %). Nodes and channels are the columns of one table.

    The result is fixed for a series and ignores the stream: use it to hold entries out, not to thin windows.

    Args:
        point_rate: The probability that an entry is hidden independently of failures. Published: 0.25 (point
            missing) and 0.05 (block missing).
        failure_rate: The probability that a failure starts at an entry. Published: 0 and 0.0015.
        seed: Seed of NumPy's generator. Published: 9101112 for METR-LA, 56789 for PEMS-BAY.

    Raises:
        ValueError: If a rate leaves 0..1, or the pattern is used to thin windows.

    References:
        Filling the g_ap_s: multivariate time series imputation by graph neural networks (Cini et al., 2022),
        and its code.
    """

    point_rate: float = 0.25
    failure_rate: float = 0.0
    seed: int = 9101112

    def __post_init__(self) -> None:
        _check_rate(self.point_rate, "point_rate")
        _check_rate(self.failure_rate, "failure_rate")

    def hidden(
        self,
        stream: Int64[Tensor, "batch"],
        values: Float[Tensor, "batch time nodes channels"],
        start: Int64[Tensor, "batch"] | None = None,
    ) -> Bool[Tensor, "batch time nodes channels"]:
        _require_whole(self, start)
        steps, columns = values.shape[1], values.shape[2:].numel()
        # the same order of draws as in GRIN's code: starts, lengths, points
        random = np.random.default_rng(self.seed)
        starts = random.random((steps, columns)) < self.failure_rate
        failing = starts.any(axis=0)
        length = np.zeros(columns, dtype=np.int64)
        length[failing] = 12 + random.integers(36, size=int(failing.sum()))
        points = random.random((steps, columns)) < self.point_rate
        step = np.arange(steps)[:, None]
        end = np.maximum.accumulate(np.where(starts, step + length, 0), axis=0)
        hidden = torch.from_numpy((end > step) | points).to(values.device)
        return hidden.reshape(values.shape[1:]).expand(values.shape)

    def replaying(self, series: Series, stretches: Sequence[slice]) -> Mask:
        raise ValueError(
            "data.thinning must be a pattern that can be drawn for windows; GRINMask is drawn once over a "
            "whole series. Use another pattern, such as tsgen.data.PointMask or tsgen.data.BlockMask."
        )


@check_shapes
@dataclass
class HistoricalMask(Mask):
    """Replays gaps of the data: hides the entries that were missing in another window of the same length.

    The data module provides the data by :meth:`replaying`. The replayed window starts at a step drawn
    uniformly from all steps at which a whole window fits into a stretch.

    Raises:
        ValueError: When a mask is drawn, if the pattern has no data, or no stretch is as long as a window.
    """

    def __post_init__(self) -> None:
        self.series: Series | None = None
        self.stretches: list[tuple[int, int]] = []
        self.nodes: Tensor | None = None

    def replaying(self, series: Series, stretches: Sequence[slice]) -> Mask:
        """Returns the pattern that replays the gaps of these stretches."""
        mask = copy.copy(self)
        mask.series, mask.stretches = series, [s.indices(len(series))[:2] for s in stretches]
        return mask

    def of_nodes(self, nodes: Int64[Tensor, "nodes"]) -> Mask:
        """Returns the pattern that replays the gaps of these nodes."""
        mask = copy.copy(self)
        mask.nodes = nodes
        return mask

    def hidden(
        self,
        stream: Int64[Tensor, "batch"],
        values: Float[Tensor, "batch time nodes channels"],
        start: Int64[Tensor, "batch"] | None = None,
    ) -> Bool[Tensor, "batch time nodes channels"]:
        _require_whole(self, start)
        window = values.shape[1]
        ranges = [torch.arange(a, max(a, b - window + 1)) for a, b in self.stretches]
        starts = torch.cat(ranges) if ranges else torch.arange(0)
        if self.series is None or not len(starts):
            raise ValueError(
                f"HistoricalMask needs a stretch of at least {window} steps to replay; it has "
                f"{len(self.stretches)} stretches, of {sum(b - a for a, b in self.stretches)} steps in all. "
                "Choose a shorter window, and use the pattern only as data.thinning, which gives it data."
            )
        chosen = (uniforms(streams(6, stream), (1,), dtype=torch.float64) * len(starts)).long()
        return ~self.series.observed_in(starts[chosen[:, 0]], window, self.nodes)


@check_shapes
@dataclass
class AnyOf(Mask):
    """Hides an entry if any of several patterns hides it.

    Args:
        masks: The patterns; each draws from a stream of its own.
    """

    masks: list[Mask]

    def __post_init__(self) -> None:
        if not self.masks:
            raise ValueError("masks must name at least one pattern; the list is empty.")

    def hidden(
        self,
        stream: Int64[Tensor, "batch"],
        values: Float[Tensor, "batch time nodes channels"],
        start: Int64[Tensor, "batch"] | None = None,
    ) -> Bool[Tensor, "batch time nodes channels"]:
        drawn = [mask.hidden(streams(10 + i, stream), values, start) for i, mask in enumerate(self.masks)]
        return torch.stack(drawn).any(dim=0)

    def replaying(self, series: Series, stretches: Sequence[slice]) -> Mask:
        """Returns the pattern with access to the gaps of the data."""
        return replace(self, masks=[mask.replaying(series, stretches) for mask in self.masks])

    def of_nodes(self, nodes: Int64[Tensor, "nodes"]) -> Mask:
        """Returns the pattern for these nodes."""
        return replace(self, masks=[mask.of_nodes(nodes) for mask in self.masks])


@check_shapes
@dataclass
class OneOf(Mask):
    """Draws one of several patterns for each window.

    Args:
        masks: The patterns; each draws from a stream of its own.
        weights: Relative frequencies of the patterns; equal if not given.

    Raises:
        ValueError: If there is no pattern, or the weights are not one non-negative number per pattern with a
            positive sum.
    """

    masks: list[Mask]
    weights: list[float] | None = None

    def __post_init__(self) -> None:
        if not self.masks:
            raise ValueError("masks must name at least one pattern; the list is empty.")
        weights = self._weights()
        if len(weights) != len(self.masks) or min(weights) < 0 or not 0 < sum(weights) < math.inf:
            raise ValueError(
                f"weights must be {len(self.masks)} finite numbers, one for each mask, none negative and not "
                f"all zero; they are {weights}."
            )

    def _weights(self) -> list[float]:
        return len(self.masks) * [1.0] if self.weights is None else self.weights

    def hidden(
        self,
        stream: Int64[Tensor, "batch"],
        values: Float[Tensor, "batch time nodes channels"],
        start: Int64[Tensor, "batch"] | None = None,
    ) -> Bool[Tensor, "batch time nodes channels"]:
        share = torch.tensor(self._weights()).cumsum(dim=0)
        chosen = (uniforms(streams(5, stream), (1,)) * share[-1] >= share[:-1]).sum(dim=1)
        drawn = [mask.hidden(streams(10 + i, stream), values, start) for i, mask in enumerate(self.masks)]
        return torch.stack(drawn)[chosen, torch.arange(len(stream))]

    def replaying(self, series: Series, stretches: Sequence[slice]) -> Mask:
        """Returns the pattern with access to the gaps of the data."""
        return replace(self, masks=[mask.replaying(series, stretches) for mask in self.masks])

    def of_nodes(self, nodes: Int64[Tensor, "nodes"]) -> Mask:
        """Returns the pattern for these nodes."""
        return replace(self, masks=[mask.of_nodes(nodes) for mask in self.masks])


@check_shapes
@dataclass
class PartOf(Mask):
    """Hides a random subset of the entries that another pattern hides, each independently.

    This is the situation of an any-order model that fills a gap group by group: part of the gap is already
    filled.

    Args:
        mask: The pattern.
        share: The probability that an entry hidden by the pattern stays hidden, or two bounds between which
            each window draws its own.

    Raises:
        ValueError: If the share leaves 0..1.
    """

    mask: Mask
    share: float | tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        self.share = _check_rate(self.share, "share")

    def hidden(
        self,
        stream: Int64[Tensor, "batch"],
        values: Float[Tensor, "batch time nodes channels"],
        start: Int64[Tensor, "batch"] | None = None,
    ) -> Bool[Tensor, "batch time nodes channels"]:
        drawn = uniforms(streams(7, stream), values.shape[1:], _first(start, values.shape[2:].numel()))
        kept = drawn < _draw_rate(self.share, stream)
        return self.mask.hidden(streams(10, stream), values, start) & kept

    def replaying(self, series: Series, stretches: Sequence[slice]) -> Mask:
        """Returns the pattern with access to the gaps of the data."""
        return replace(self, mask=self.mask.replaying(series, stretches))

    def of_nodes(self, nodes: Int64[Tensor, "nodes"]) -> Mask:
        """Returns the pattern for these nodes."""
        return replace(self, mask=self.mask.of_nodes(nodes))


def hold_out(
    mask: Mask,
    values: Float[Tensor, "time nodes channels"],
    observed: Bool[Tensor, "time nodes channels"],
    seed: int,
) -> Bool[Tensor, "time nodes channels"]:
    """Returns which observed entries of a whole series a pattern hides, so that they can be scored.

    Args:
        mask: The pattern, drawn once over the whole series.
        values: The series; anything where nothing was observed.
        observed: Where a measurement exists.
        seed: Fixes the draw.
    """
    stream = streams(seed, torch.zeros(1, dtype=torch.int64))
    return mask.hidden(stream, values.where(observed, torch.nan)[None])[0] & observed


@dataclass
class HeldOut:
    """The entries that :func:`hold_out` selects, drawn window by window for a series not held in memory.

    Args:
        mask: The pattern.
        seed: Fixes the draw.

    Raises:
        ValueError: If the pattern can only be drawn for a whole series.
    """

    mask: Mask
    seed: int

    def __post_init__(self) -> None:
        # draw one entry, so that a pattern that needs the whole series raises here, not during validation
        first = torch.zeros(1, dtype=torch.int64)
        self.mask.hidden(first, torch.zeros(1, 1, 1, 1), first)

    def of(self, windows: SeriesBatch) -> Bool[Tensor, "batch time nodes channels"]:
        """Returns the held-out entries of some windows.

        Args:
            windows: Windows of the series whose context is everything observed.
        """
        start, observed = windows.position[:, 0], windows.context
        stream = streams(self.seed, torch.zeros_like(start))
        return self.mask.hidden(stream, windows.values.where(observed, torch.nan), start) & observed
