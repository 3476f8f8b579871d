r"""Gaussian regression: a normal law of stacked slices of a series, fitted to data with missing entries.

The stack x of a step holds the slices up to L steps before and after it, D entries in all. Those in o are
observed, those in h are not. Under :math:`x \sim N(m, C)`

.. math:: x_h \mid x_o \sim N\bigl(m_h + C_{ho} C_{oo}^{-1} (x_o - m_o),\; C_{hh} - C_{ho} C_{oo}^{-1}
          C_{oh}\bigr) = N\bigl(m_h - K_{hh}^{-1} K_{ho} (x_o - m_o),\; K_{hh}^{-1}\bigr), \qquad K = C^{-1}.

The first form needs a factorisation of the size of o, the second one of the size of h. Each stack uses the
smaller of the two, stacks with the same pattern of observed entries share it, and patterns of similar size
are factorised together.

m and C are fitted by EM. The E-step completes each of n stacks by its conditional mean :math:`\hat x_t` and
keeps its conditional covariance; the M-step takes the moments of the completed stacks,

.. math:: m = \frac1n \sum_t \hat x_t, \qquad
          C = \frac1n \sum_t \bigl((\hat x_t - m)(\hat x_t - m)^\top + \operatorname{Cov}(x_t \mid x_{t,o})
          \bigr),

and averages them over time, since the series is taken as stationary: the mean of a slice and the covariance
of two slices depend only on their distance. Then C is shrunk towards an exchangeable network, in which all
nodes have the same autocorrelations and all pairs of nodes the same cross-correlations. With few steps
per entry of a stack the sample covariance itself is useless.

References:
    Statistical Analysis with Missing Data (Little & Rubin, 2002), section 11.2;
    Analysis of incomplete climate data: estimation of mean values and covariance matrices and imputation of
        missing values (Schneider, 2001), for EM with regularised regressions;
    Honey, I shrunk the sample covariance matrix (Ledoit & Wolf, 2004), for the target.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import pad

from tsgen.argument_types import check_arguments

NUMBERS_AT_ONCE = 2**22
"""Numbers in the matrices that are factorised together: 32 MiB in float64."""

SMALLEST_EIGENVALUE = 1e-3
"""Lower bound of the eigenvalues of a fitted covariance in standard units: means over time of covariances of
different steps need not be positive definite."""


class Conditional(NamedTuple):
    """Mean and variance of each entry given the observed entries of its stack.

    Attributes:
        mean: The conditional mean; an observed entry itself.
        variance: The conditional variance; zero for observed entries.
    """

    mean: Float[Tensor, "*rows columns"]
    variance: Float[Tensor, "*rows columns"]


class Stacks(NamedTuple):
    """Stacks of neighbouring slices, the earliest slice first.

    Attributes:
        values: The entries; zero where nothing was observed.
        observed: Where an entry was observed; False outside the series.
    """

    values: Float[Tensor, "rows entries"]
    observed: Bool[Tensor, "rows entries"]

    @classmethod
    def of(
        cls,
        values: Float[Tensor, "time columns"],
        observed: Bool[Tensor, "time columns"],
        lags: int,
        rows: Int64[Tensor, "rows"],
    ) -> Stacks:
        """Returns the stacks of some steps of a series.

        Args:
            values: The series; anything, NaN included, where nothing was observed.
            observed: Where an entry was observed.
            lags: The number L of slices before and after each step.
            rows: The steps.
        """
        place = rows[:, None] + torch.arange(2 * lags + 1, device=rows.device)
        filled = pad(torch.where(observed, values.double(), 0), (0, 0, lags, lags))
        return cls(filled[place].flatten(1), pad(observed, (0, 0, lags, lags))[place].flatten(1))

    def at(self, rows: Tensor) -> Stacks:
        """Returns some of the stacks, by their numbers or a mask."""
        return Stacks(self.values[rows], self.observed[rows])


class _Portion(NamedTuple):
    """Rows whose patterns have about equally many factorised entries.

    Attributes:
        rows: Numbers of the rows.
        pattern: Number of each row's pattern in this portion.
        places: The factorised entries of each pattern, filled up with zeros.
        used: Which of these are not filled up.
        by_observed: Whether the factorised entries are the observed ones.
    """

    rows: Int64[Tensor, "rows"]
    pattern: Int64[Tensor, "rows"]
    places: Int64[Tensor, "patterns size"]
    used: Bool[Tensor, "patterns size"]
    by_observed: bool

    def block(self, matrix: Tensor) -> Float[Tensor, "patterns size size"]:
        """Returns each pattern's block of a matrix, with the unit matrix where it is filled up."""
        blocks = matrix[self.places[:, :, None], self.places[:, None, :]]
        blocks = blocks * (self.used[:, :, None] & self.used[:, None, :])
        return blocks + torch.diag_embed((~self.used).to(blocks))

    def inverse(self, matrix: Tensor) -> Float[Tensor, "patterns size size"]:
        """Returns the inverse of each pattern's block, zero where it is filled up."""
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(self.block(matrix)))
        return inverse * (self.used[:, :, None] & self.used[:, None, :])

    def weighed(
        self, inverse: Tensor, values: Float[Tensor, "rows columns"]
    ) -> Float[Tensor, "rows columns"]:
        """Returns the product of each row's inverse with its factorised entries, zero elsewhere."""
        index, result = self.places[self.pattern], torch.zeros_like(values)
        given = values.gather(1, index) * self.used[self.pattern]
        product = torch.cat(
            [
                torch.bmm(inverse[some], part[..., None])[..., 0]
                for some, part in zip(*(x.split(self._step()) for x in (self.pattern, given)), strict=True)
            ]
        )
        # fill-up entries point to entry 0 and are zero, so that adding changes nothing
        return result.scatter_add_(1, index, product)

    def _step(self) -> int:
        return max(1, NUMBERS_AT_ONCE // max(1, self.places.shape[1] ** 2))


def _patterns(observed: Bool[Tensor, "rows entries"]) -> tuple[Tensor, Tensor]:
    """Returns the distinct rows, and the number of each row among them."""
    packed = np.ascontiguousarray(np.packbits(observed.cpu().numpy(), axis=1))
    as_bytes = packed.view(f"V{packed.shape[1]}").ravel()
    _, first, number = np.unique(as_bytes, return_index=True, return_inverse=True)
    return observed[torch.from_numpy(first).to(observed.device)], torch.from_numpy(number).to(observed.device)


def _portions(observed: Bool[Tensor, "rows entries"]) -> Iterator[_Portion]:
    """Divides rows into portions of bounded size, by the number of entries to factorise."""
    patterns, number = _patterns(observed)
    count = patterns.sum(dim=1)
    by_observed = count <= patterns.shape[1] - count
    for kind in (True, False):
        factorised = patterns if kind else ~patterns
        chosen = (by_observed == kind).nonzero()[:, 0]
        order = chosen[factorised[chosen].sum(dim=1).argsort()]
        while len(order):
            size = factorised[order].sum(dim=1)
            # the matrices of a portion have the size of its largest
            numbers = torch.arange(1, len(order) + 1, device=order.device) * size.square()
            taken = max(1, int((numbers <= NUMBERS_AT_ONCE).sum()))
            some, order = order[:taken], order[taken:]
            first = factorised[some].byte().argsort(dim=1, descending=True, stable=True)
            index = first[:, : int(size[taken - 1])]
            place = torch.full((len(patterns),), -1, device=some.device)
            place[some] = torch.arange(taken, device=some.device)
            rows = (place[number] >= 0).nonzero()[:, 0]
            yield _Portion(rows, place[number[rows]], index, factorised[some].gather(1, index), kind)


@check_arguments
@dataclass(frozen=True)
class StackedGaussian:
    """A stationary normal law of stacks of 2 L + 1 neighbouring slices.

    Args:
        mean: Mean of a slice.
        covariance: Covariance of a stack, positive definite, the earliest slice first.

    Raises:
        ValueError: If the covariance is not that of an odd number of slices.
    """

    mean: Float[Tensor, "columns"]
    covariance: Float[Tensor, "entries entries"]

    def __post_init__(self) -> None:
        entries, columns = len(self.covariance), len(self.mean)
        if self.covariance.shape != (entries, entries) or entries % columns or entries // columns % 2 == 0:
            raise ValueError(
                "covariance must be square, with an odd number of slices on each side; its shape is "
                f"{list(self.covariance.shape)}, and a slice has {columns} entries."
            )

    @property
    def lags(self) -> int:
        """The number L of slices before and after the one in the middle."""
        return len(self.covariance) // len(self.mean) // 2

    @cached_property
    def _precision(self) -> Float[Tensor, "entries entries"]:
        return torch.cholesky_inverse(torch.linalg.cholesky(self.covariance))

    @classmethod
    def fit(
        cls,
        stacks: Stacks,
        columns: int,
        iterations: int = 8,
        shrinkage: float = 0.05,
        start: StackedGaussian | None = None,
    ) -> StackedGaussian:
        """Fits the law to stacks with missing entries by EM.

        Args:
            stacks: The stacks in standard units: each entry has a mean near 0 and a deviation near 1.
            columns: The number of entries of a slice.
            iterations: The number of steps of EM.
            shrinkage: The weight of the exchangeable network in each step of EM, in 0..1. A good value is the
                number of entries of a stack per step of the series.
            start: The law that EM starts from; that of the observed pairs of entries if not given.
        """
        law = start or cls._of_pairs(stacks, columns)
        for _ in range(iterations):
            law = law._em_step(stacks, shrinkage)
        return law

    @classmethod
    def _of_pairs(cls, stacks: Stacks, columns: int) -> StackedGaussian:
        """Returns the law whose second moments are the means over the steps at which both entries exist."""
        seen = stacks.observed.double()
        moments = stacks.values.mT @ stacks.values / (seen.mT @ seen).clamp(min=1)
        unseen = stacks.observed.sum(dim=0) == 0
        moments = moments + torch.diag(unseen.double())
        law = cls(moments.new_zeros(columns), _positive_definite(_stationary(moments, columns)))
        # moments of different steps are noisy: begin nearer to an exchangeable network
        return law.shrunk(0.2)

    def _em_step(self, stacks: Stacks, shrinkage: float) -> StackedGaussian:
        columns, slices = len(self.mean), 2 * self.lags + 1
        completed, conditional = self._expected_moments(stacks)
        step = completed.mean(dim=0).view(slices, columns).mean(dim=0)
        completed = completed - step.repeat(slices)
        covariance = (completed.mT @ completed + conditional) / len(completed)
        covariance = _positive_definite(_stationary(covariance, columns))
        return StackedGaussian(self.mean + step, covariance).shrunk(shrinkage)

    def to(self, device: torch.device) -> StackedGaussian:
        """Returns the law on a device."""
        if self.mean.device == device:
            return self
        return StackedGaussian(self.mean.to(device), self.covariance.to(device))

    def shrunk(self, weight: float) -> StackedGaussian:
        """Returns the law whose correlations are nearer to those of an exchangeable network.

        Args:
            weight: The weight of the exchangeable network, in 0..1.
        """
        columns, slices = len(self.mean), 2 * self.lags + 1
        deviation = self.covariance.diagonal().sqrt()
        correlation = (self.covariance / deviation[:, None] / deviation).view(
            slices, columns, slices, columns
        )
        own = correlation.diagonal(dim1=1, dim2=3).mean(dim=-1)
        other = (correlation.sum(dim=(1, 3)) - columns * own) / max(columns * (columns - 1), 1)
        unit = torch.eye(columns).to(own)[None, :, None]
        target = other[:, None, :, None] + (own - other)[:, None, :, None] * unit
        target = target.reshape_as(self.covariance) * deviation[:, None] * deviation
        return StackedGaussian(self.mean, torch.lerp(self.covariance, target, weight))

    def conditional(
        self,
        values: Float[Tensor, "batch time columns"],
        context: Bool[Tensor, "batch time columns"],
    ) -> Conditional:
        """Returns the law of every entry of some windows given the context within L steps.

        Args:
            values: The windows in standard units; anything, NaN included, outside the context.
            context: Which entries are given.
        """
        length, columns = context.shape[1:]
        mean = torch.where(context, values.double(), 0)
        variance = torch.zeros_like(mean)
        # margins of L steps outside the context separate the windows
        joined, given = (pad(x, (0, 0, self.lags, self.lags)).flatten(0, 1) for x in (mean, context))
        wanted = (~context).any(dim=2).flatten().nonzero()[:, 0]
        step = wanted + (2 * (wanted // length) + 1) * self.lags
        mean, variance = mean.view(-1, columns), variance.view(-1, columns)
        portion = max(1, NUMBERS_AT_ONCE // len(self.covariance))
        for some, rows in zip(wanted.split(portion), step.split(portion), strict=True):
            found = self.centre(Stacks.of(joined, given, self.lags, rows))
            mean[some], variance[some] = found.mean, found.variance
        return Conditional(mean.view(context.shape), variance.view(context.shape))

    def centre(self, stacks: Stacks) -> Conditional:
        """Returns the law of every entry of the slice in the middle, given the rest of its stack.

        Args:
            stacks: The stacks in standard units.
        """
        columns, slices = len(self.mean), 2 * self.lags + 1
        middle = slice(self.lags * columns, (self.lags + 1) * columns)
        centred = torch.where(stacks.observed, stacks.values - self.mean.repeat(slices), 0)
        mean = centred[:, middle].clone()
        variance = torch.zeros_like(mean)
        across = self.covariance[:, middle].contiguous()
        for portion in _portions(stacks.observed):
            x = centred[portion.rows]
            if portion.by_observed:
                inverse = portion.inverse(self.covariance)
                mean[portion.rows] = portion.weighed(inverse, x) @ across
                cross = across[portion.places] * portion.used[..., None]
                left = self.covariance.diagonal()[middle] - ((inverse @ cross) * cross).sum(dim=1)
            else:
                inverse = portion.inverse(self._precision)
                mean[portion.rows] = (x - portion.weighed(inverse, x @ self._precision))[:, middle]
                left = torch.zeros_like(x[:1]).repeat(len(inverse), 1)
                left = left.scatter_add_(1, portion.places, inverse.diagonal(dim1=1, dim2=2))[:, middle]
            variance[portion.rows] = left[portion.pattern]
        seen = stacks.observed[:, middle]
        mean = torch.where(seen, stacks.values[:, middle], self.mean + mean)
        return Conditional(mean, torch.where(seen, 0, variance.clamp(min=0)))

    def _expected_moments(
        self, stacks: Stacks
    ) -> tuple[Float[Tensor, "rows entries"], Float[Tensor, "entries entries"]]:
        """Returns the completed stacks less the mean, and the sum of the conditional covariances."""
        mean = self.mean.repeat(2 * self.lags + 1)
        centred = torch.where(stacks.observed, stacks.values - mean, 0)
        completed, size = torch.zeros_like(centred), len(mean)
        sums, rows = {kind: mean.new_zeros(size * size) for kind in (True, False)}, 0
        for portion in _portions(stacks.observed):
            x, kind = centred[portion.rows], portion.by_observed
            inverse = portion.inverse(self.covariance if kind else self._precision)
            if kind:
                completed[portion.rows] = portion.weighed(inverse, x) @ self.covariance
                rows += len(x)
            else:
                completed[portion.rows] = x - portion.weighed(inverse, x @ self._precision)
            count = torch.bincount(portion.pattern, minlength=len(inverse)).to(inverse)
            place = portion.places[:, :, None] * size + portion.places[:, None, :]
            sums[kind].scatter_add_(0, place.flatten(), (inverse * count[:, None, None]).flatten())
        explained, left = (sums[kind].view(size, size) for kind in (True, False))
        # the first form for rows of the one kind, the second for those of the other
        return completed, rows * self.covariance - self.covariance @ explained @ self.covariance + left


def _stationary(
    covariance: Float[Tensor, "entries entries"], columns: int
) -> Float[Tensor, "entries entries"]:
    """Returns the covariance with the covariances of all pairs of slices at the same distance averaged."""
    slices = len(covariance) // columns
    blocks = covariance.view(slices, columns, slices, columns).movedim(2, 1)
    blocks = (blocks + blocks.transpose(0, 1).mT) / 2
    step = torch.arange(slices, device=covariance.device)
    apart = step[None, :] - step[:, None] + slices - 1
    mean = blocks.new_zeros(2 * slices - 1, columns, columns)
    mean.index_add_(0, apart.flatten(), blocks.flatten(0, 1))
    mean = mean / torch.bincount(apart.flatten())[:, None, None]
    return mean[apart].movedim(1, 2).reshape_as(covariance)


def _positive_definite(covariance: Float[Tensor, "size size"]) -> Float[Tensor, "size size"]:
    value, vector = torch.linalg.eigh((covariance + covariance.mT) / 2)
    return (vector * value.clamp(min=SMALLEST_EIGENVALUE)) @ vector.mT
