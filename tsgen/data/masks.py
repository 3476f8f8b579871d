r"""Patterns of hidden entries: seeded, composable, drawn for many windows at once.

A pattern answers True where an entry is hidden. It is shown the values, as entries may be missing for what
they are (:class:`ValueMask`). The same classes thin what a model may read while it trains (a new draw for
each window and epoch) and hold entries out for evaluation (one draw over the whole series). What is drawn for
a window depends on its stream and its values alone (see :mod:`tsgen.counter_random`), never on the batch that
it lies in.
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

from tsgen.counter_random import streams, uniforms
from tsgen.data.series import Series, SeriesBatch

Rate = float | tuple[float, float]
"""A probability, or two between which each window draws its own."""


def _check_rate(rate: Rate, name: str = "rate") -> Rate:
    """The rate, its bounds a tuple; raises unless all of it lies in 0..1."""
    rate = rate if isinstance(rate, (int, float)) else (rate[0], rate[1])
    for bound in _bounds(rate):
        if not 0 <= bound <= 1:
            raise ValueError(f"{name} must lie in 0..1; it is {bound}.")
    return rate


def _bounds(rate: Rate) -> tuple[float, float]:
    return rate if isinstance(rate, tuple) else (rate, rate)


def _first(start: Int64[Tensor, "batch"] | None, width: int) -> int | Int64[Tensor, "batch"]:
    """Where in their streams windows begin whose first steps are given, with so many numbers in a step."""
    return 0 if start is None else start * width


def _whole(mask: Mask, start: Int64[Tensor, "batch"] | None) -> None:
    """Raises if a part is asked for of what can only be drawn as a whole."""
    if start is not None:
        raise ValueError(
            f"{type(mask).__name__} looks at all of a series at once, and cannot hide entries of one that is "
            "not held in memory. Take another pattern, such as PointMask or BlockMask."
        )


def _draw_rate(rate: Rate, stream: Int64[Tensor, "batch"]) -> Float[Tensor, "batch 1 1 1"]:
    """Each window's own rate."""
    low, high = _bounds(rate)
    return low + (high - low) * uniforms(streams(1, stream), (1, 1, 1))


class Mask(ABC):
    """A law of hidden entries."""

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
            values: The windows' values, NaN where nothing was observed. Most patterns read their shape alone.
            start: Of windows that are parts of something longer, all of it one draw, the step of that at
                which each begins; zero if not given.

        Raises:
            ValueError: If there are starts and the pattern must see all of a draw at once.
        """

    def replaying(self, series: Series, stretches: Sequence[slice]) -> Mask:
        """The pattern as it thins windows, told the data's own gaps: itself, unless it replays them.

        Args:
            series: The data.
            stretches: Those of its steps whose gaps may be replayed.

        Raises:
            ValueError: If the pattern is no law of windows.
        """
        return self

    def of_nodes(self, nodes: Int64[Tensor, "nodes"]) -> Mask:
        """The pattern as it thins windows of some of the nodes: itself, unless it knows them apart.

        Args:
            nodes: Their numbers.
        """
        return self


@dataclass
class PointMask(Mask):
    """Every entry is hidden on its own.

    Args:
        rate: The probability of being hidden; or two numbers, between which each window draws its own.
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
        drawn = uniforms(streams(2, stream), values.shape[1:], _first(start, values[0, 0].numel()))
        return drawn < _draw_rate(self.rate, stream)


@dataclass
class BlockMask(Mask):
    """Failures: runs of consecutive steps of one node and channel, or of all of them at once.

    A failure starts at each entry (or slice) with a given probability and lasts a uniformly drawn number of
    steps. Failures that began before the window reach into it, so that its first steps are hidden as often
    as its last.

    Args:
        rate: The probability that a failure starts at an entry; or two numbers, between which each window
            draws its own.
        min_length: The shortest failure, in steps.
        max_length: The longest failure, in steps.
        over: What fails as one: a single node and channel, or the whole slice (an outage).

    Raises:
        ValueError: If the rate leaves 0..1, the lengths are out of order or ``over`` is neither.
    """

    rate: float | tuple[float, float] = 0.01
    min_length: int = 4
    max_length: int = 24
    over: Literal["entry", "slice"] = "entry"

    def __post_init__(self) -> None:
        self.rate = _check_rate(self.rate)
        if not 1 <= self.min_length <= self.max_length:
            raise ValueError(
                "lengths must be 1 <= min_length <= max_length; they are "
                f"{self.min_length} and {self.max_length} steps."
            )
        if self.over not in ("entry", "slice"):
            raise ValueError(f"over must be one of entry, slice; it is {self.over!r}.")

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


@dataclass
class NodeMask(Mask):
    """Whole nodes, hidden for as long as the window: places that nobody measures (virtual sensing).

    Args:
        rate: The probability that a node is hidden, with all its channels; or two numbers, between which each
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


@dataclass
class ValueMask(Mask):
    r"""Entries that are hidden for what they are: missing not at random.

    Every observed entry is hidden on its own, with a probability that depends on its value x alone,

    .. math:: p = \frac{1}{1 + e^{-(s z + b)}}, \qquad z = (x - \mu) / \sigma,

    where :math:`\mu` and :math:`\sigma` are mean and deviation of the node and channel in what is drawn for
    at once, a window or a whole series, and b is solved for there: so many are hidden, in expectation.

    Args:
        rate: The share of the observed entries that is hidden, in expectation; or two numbers, between which
            each window draws its own.
        slope: The s of the formula. Above zero high values are hidden more often than low ones (a sensor that
            saturates), below zero low ones (a limit of detection). With 0 it is :class:`PointMask`'s law.

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
        _whole(self, start)
        known = values.isfinite()
        rate = _draw_rate(self.rate, stream).double()
        logit = self.slope * _standardised(values.double(), known)
        drawn = uniforms(streams(9, stream), values.shape[1:])
        return (drawn < (logit + _offset(logit, known, rate)).sigmoid()) & known


def _standardised(
    values: Float[Tensor, "batch time nodes channels"], known: Bool[Tensor, "batch time nodes channels"]
) -> Float[Tensor, "batch time nodes channels"]:
    """What is known in deviations of its node and channel from their mean, over time; zero elsewhere."""
    count = known.sum(dim=1, keepdim=True).clamp(min=1)
    mean = values.where(known, 0).sum(dim=1, keepdim=True) / count
    apart = (values - mean).where(known, 0)
    deviation = (apart.square().sum(dim=1, keepdim=True) / count).sqrt()
    # a constant's deviation is rounding error, not zero
    return torch.where(deviation > 1e-9 * mean.abs(), apart / deviation, 0)


def _offset(
    logit: Float[Tensor, "batch time nodes channels"],
    known: Bool[Tensor, "batch time nodes channels"],
    rate: Float[Tensor, "batch 1 1 1"],
) -> Float[Tensor, "batch 1 1 1"]:
    """What to add to the logits so that the mean of the known entries' probabilities is the rate."""
    count = known.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1)
    widest = logit.abs().amax(dim=(1, 2, 3), keepdim=True)
    low, high = rate.logit() - widest, rate.logit() + widest
    for _ in range(50):  # halvings, to the precision of float64
        middle = (low + high) / 2
        share = (logit + middle).sigmoid().where(known, 0).sum(dim=(1, 2, 3), keepdim=True) / count
        low, high = torch.where(share < rate, middle, low), torch.where(share < rate, high, middle)
    return (low + high) / 2


@dataclass
class GRINMask(Mask):
    r"""The entries that GRIN and its successors hide of METR-LA and PEMS-BAY, bit for bit.

    Every entry is hidden on its own, and failures start at random: from NumPy's generator with the published
    seed, over a whole series, so that every method is judged on the same entries. The papers describe a
    length for each failure. The code, which is followed here, draws one for each sensor that fails at all,
    uniform on 12..47 steps, and all failures of the sensor last as long; ``AnyOf([PointMask(0.05),
    BlockMask(0.0015, 12, 47)])`` is the law as described. On METR-LA's size either hides 9.1 % in runs that
    last two steps on average; but sensors differ more by the code's, which hides 6.3 to 13.6 % of each (a
    deviation of 1.6 against 0.6 %). Nodes and channels are the columns of one table.

    This is a fixed answer for a series, whatever the stream: it holds entries out, and thins no windows.

    Args:
        point_rate: The probability that an entry is hidden on its own. Published: 0.25 (point missing) and
            0.05 (block missing).
        failure_rate: The probability that a failure starts at an entry. Published: 0 and 0.0015.
        seed: Of NumPy's generator. Published: 9101112 for METR-LA, 56789 for PEMS-BAY.

    Raises:
        ValueError: If a rate leaves 0..1; when asked to thin windows.

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
        _whole(self, start)
        steps, columns = values.shape[1], values[0, 0].numel()
        # the order of the draws is GRIN's: starts, lengths, points
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
            "GRINMask is drawn once over a whole series and cannot thin windows; give data.thinning another "
            "pattern, such as tsgen.data.PointMask or tsgen.data.BlockMask."
        )


@dataclass
class HistoricalMask(Mask):
    """The data's own gaps: what was missing in some other stretch as long as the window is hidden.

    The stretches come from the data module, by :meth:`replaying`; a stretch begins at any step from which a
    whole window follows, each as likely as any other.

    Raises:
        ValueError: When drawn from before it knows the data, or where no stretch is as long as a window.
    """

    def __post_init__(self) -> None:
        self.series: Series | None = None
        self.stretches: list[tuple[int, int]] = []
        self.nodes: Tensor | None = None

    def replaying(self, series: Series, stretches: Sequence[slice]) -> Mask:
        """The pattern that replays these gaps."""
        mask = copy.copy(self)
        mask.series, mask.stretches = series, [s.indices(len(series))[:2] for s in stretches]
        return mask

    def of_nodes(self, nodes: Int64[Tensor, "nodes"]) -> Mask:
        """The pattern that replays the gaps of these nodes."""
        mask = copy.copy(self)
        mask.nodes = nodes
        return mask

    def hidden(
        self,
        stream: Int64[Tensor, "batch"],
        values: Float[Tensor, "batch time nodes channels"],
        start: Int64[Tensor, "batch"] | None = None,
    ) -> Bool[Tensor, "batch time nodes channels"]:
        _whole(self, start)
        window = values.shape[1]
        firsts = [torch.arange(a, max(a, b - window + 1)) for a, b in self.stretches]
        first = torch.cat(firsts) if firsts else torch.arange(0)
        if self.series is None or not len(first):
            raise ValueError(
                f"HistoricalMask needs a stretch of at least {window} steps to replay; it knows "
                f"{len(self.stretches)} stretches, of {sum(b - a for a, b in self.stretches)} steps in all. "
                "Choose a shorter window; only data.thinning is told the data's gaps."
            )
        chosen = (uniforms(streams(6, stream), (1,), dtype=torch.float64) * len(first)).long()
        return ~self.series.observed_in(first[chosen[:, 0]], window, self.nodes)


@dataclass
class AnyOf(Mask):
    """An entry is hidden where any of several patterns hides it.

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
        """The patterns once the data's own gaps are known."""
        return replace(self, masks=[mask.replaying(series, stretches) for mask in self.masks])

    def of_nodes(self, nodes: Int64[Tensor, "nodes"]) -> Mask:
        """The patterns of these nodes."""
        return replace(self, masks=[mask.of_nodes(nodes) for mask in self.masks])


@dataclass
class OneOf(Mask):
    """Each window draws one of several patterns.

    Args:
        masks: The patterns; each draws from a stream of its own.
        weights: How often each is drawn, as shares of their sum; all alike if not given.
    """

    masks: list[Mask]
    weights: list[float] | None = None

    def __post_init__(self) -> None:
        if not self.masks:
            raise ValueError("masks must name at least one pattern; the list is empty.")
        weights = self._weights()
        if len(weights) != len(self.masks) or min(weights) < 0 or not 0 < sum(weights) < math.inf:
            raise ValueError(
                f"weights must be {len(self.masks)} numbers, one for each mask, none negative and not all "
                f"zero; they are {weights}."
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
        """The patterns once the data's own gaps are known."""
        return replace(self, masks=[mask.replaying(series, stretches) for mask in self.masks])

    def of_nodes(self, nodes: Int64[Tensor, "nodes"]) -> Mask:
        """The patterns of these nodes."""
        return replace(self, masks=[mask.of_nodes(nodes) for mask in self.masks])


@dataclass
class PartOf(Mask):
    """A random part of what another pattern hides: each of its entries on its own.

    What an any-order model meets while it fills a gap in groups: the gap, some of it filled already.

    Args:
        mask: The pattern.
        share: The probability that an entry which it hides stays hidden; or two numbers, between which each
            window draws its own.

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
        drawn = uniforms(streams(7, stream), values.shape[1:], _first(start, values[0, 0].numel()))
        part = drawn < _draw_rate(self.share, stream)
        return self.mask.hidden(streams(10, stream), values, start) & part

    def replaying(self, series: Series, stretches: Sequence[slice]) -> Mask:
        """The pattern once the data's own gaps are known."""
        return replace(self, mask=self.mask.replaying(series, stretches))

    def of_nodes(self, nodes: Int64[Tensor, "nodes"]) -> Mask:
        """The pattern of these nodes."""
        return replace(self, mask=self.mask.of_nodes(nodes))


def hold_out(
    mask: Mask,
    values: Float[Tensor, "time nodes channels"],
    observed: Bool[Tensor, "time nodes channels"],
    seed: int,
) -> Bool[Tensor, "time nodes channels"]:
    """The observed entries of a whole series that a pattern hides, to be scored later.

    Args:
        mask: The pattern, drawn once over the whole series.
        values: The series; anything where nothing was observed.
        observed: Which entries are known.
        seed: Fixes the draw.
    """
    stream = streams(seed, torch.zeros(1, dtype=torch.int64))
    return mask.hidden(stream, values.where(observed, torch.nan)[None])[0] & observed


@dataclass
class HeldOut:
    """What :func:`hold_out` answers, drawn window by window, for a series that is not held in memory.

    Args:
        mask: The pattern.
        seed: Fixes the draw.

    Raises:
        ValueError: If the pattern must see the whole series.
    """

    mask: Mask
    seed: int

    def __post_init__(self) -> None:
        # one entry tells whether parts can be drawn at all: now, not in the midst of a validation
        first = torch.zeros(1, dtype=torch.int64)
        self.mask.hidden(first, torch.zeros(1, 1, 1, 1), first)

    def of(self, windows: SeriesBatch) -> Bool[Tensor, "batch time nodes channels"]:
        """The visible entries of windows that are held out.

        Args:
            windows: Windows of the series, in which everything observed is visible.
        """
        start, seen = windows.position[:, 0], windows.context
        stream = streams(self.seed, torch.zeros_like(start))
        return self.mask.hidden(stream, windows.values.where(seen, torch.nan), start) & seen
