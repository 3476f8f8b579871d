r"""Simulation-based calibration: a test of whether a sampler draws from the right law.

A window x is drawn from a known law, some of its entries are hidden, and the sampler draws them S times given
the visible ones. If the draws follow the posterior of that law, truth and draws are exchangeable given the
visible entries. For every function f of a whole window (a *test quantity*) the rank

.. math:: r = \#\{s : f(x^s) < f(x)\}

is then uniform on 0, ..., S, whatever the mask. The histogram of ranks is U-shaped for a posterior that is
too narrow, a hump for one that is too wide, and sloped for a biased one. Ranks of single entries cannot
distinguish the right joint law from independent draws with the right marginals; quantities that combine
entries can.

Windows are independent, but entries of a window are not: there is ONE rank per window and quantity. The
p-values of the quantities, which are dependent, are adjusted by Holm's method. Each p-value is that of the
graphical test, exact and without simulation: with :math:`C_i` the number of ranks below :math:`i`, binomial
with :math:`z_i = i / (S + 1)`, the statistic is the smallest two-sided binomial tail,

.. math:: \gamma = \min_i 2 \min\{P(C_i \le c_i), P(C_i \ge c_i)\},

and a forward recursion gives the probability that :math:`C_1, C_2, \dots` (a Markov chain of binomial steps)
ever leaves the band in which all tails exceed gamma.

The test cannot detect errors that affect none of the quantities. A sampler that ignores the visible entries
and draws from the prior has uniform ranks for every quantity of hidden entries alone. The quantities here
that combine hidden and visible entries, and the log-density, detect it.

References:
    Validating Bayesian inference algorithms with simulation-based calibration (Talts et al., 2018);
    Simulation-based calibration checking for Bayesian computation: the choice of test quantities shapes
        sensitivity (Modrák et al., 2023);
    Graphical test for discrete uniformity and its applications in goodness-of-fit evaluation and multiple
        sample comparison (Säilynoja, Bürkner & Vehtari, 2022).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tsgen.argument_types import check_arguments
from tsgen.counter_random import streams, uniforms
from tsgen.data.series import SeriesBatch
from tsgen.evaluation.holm import holm
from tsgen.exact.linear import VARProcess
from tsgen.metrics import ranks
from tsgen.models import DensityModel
from tsgen.protocols import ForwardModel
from tsgen.sampling import Ancestral, Sampler
from tsgen.sampling.base import draws_per_portion

TRUTH_STREAM, ENTRY_STREAM, TIE_STREAM = 11, 12, 13
"""Separate the random streams of the truth, of the chosen entries and of ties from those of samplers."""

FLOATS_PER_ENTRY = 256
"""The approximate number of floats per entry that a forward pass keeps in memory."""

MAX_POINTS = 100
"""The maximum number of points at which the empirical distribution of ranks is evaluated."""

NUMBERS_AT_ONCE = 2**24
"""The maximum number of entries, over all draws, that are processed at once."""

Quantity = Callable[[DensityModel, SeriesBatch, Tensor], Tensor]
"""A function of a model, windows and draws of them, ``[samples, batch, time, nodes, channels]``.

It returns one number per sample and window. A term that depends on visible entries alone does not change the
ranks, because visible entries are the same in truth and draws."""


# ------------------------------------------------------------------------------------------- test quantities


def entry(model: DensityModel, batch: SeriesBatch, values: Tensor) -> Float[Tensor, "samples batch"]:
    """Returns one hidden entry of each window, chosen at random."""
    stream = streams(ENTRY_STREAM, batch.position[:, 0])
    priority = uniforms(stream, batch.values.shape[1:], dtype=torch.float64)
    chosen = priority.masked_fill(batch.context, -1).flatten(1).argmax(dim=1)
    return values.flatten(2)[:, torch.arange(len(chosen), device=chosen.device), chosen]


def mean(model: DensityModel, batch: SeriesBatch, values: Tensor) -> Float[Tensor, "samples batch"]:
    """Returns the level of the window: its mean in standard units."""
    return model.node_units.standardise(values).mean(dim=(2, 3, 4))


def energy(model: DensityModel, batch: SeriesBatch, values: Tensor) -> Float[Tensor, "samples batch"]:
    """Returns the spread of the window: its mean square in standard units."""
    return model.node_units.standardise(values).square().mean(dim=(2, 3, 4))


def roughness(model: DensityModel, batch: SeriesBatch, values: Tensor) -> Float[Tensor, "samples batch"]:
    """Returns the sum of squared differences between successive steps, in standard units.

    It measures dependence in time, and is zero for windows of one step.
    """
    return model.node_units.standardise(values).diff(dim=2).square().sum(dim=(2, 3, 4))


def coherence(model: DensityModel, batch: SeriesBatch, values: Tensor) -> Float[Tensor, "samples batch"]:
    """Returns the sum over slices of the products of all pairs of different entries, in standard units.

    It measures dependence between nodes and channels, and is zero for slices of one entry. Each pair counts
    twice.
    """
    slices = model.node_units.standardise(values).flatten(3)
    return (slices.sum(dim=3).square() - slices.square().sum(dim=3)).sum(dim=2)


def log_density(model: DensityModel, batch: SeriesBatch, values: Tensor) -> Float[Tensor, "samples batch"]:
    """Returns the log-density of the whole window under the sampled model, in nats."""
    everything = torch.ones_like(batch.context)
    whole = dataclasses.replace(batch, values=values[0], context=everything, target=everything)
    size = draws_per_portion(FLOATS_PER_ENTRY * batch.values.numel() * batch.values.element_size())
    log_densities = [
        model.log_likelihood(whole.repeat(len(draws))._changed(values=draws.flatten(0, 1)))
        for draws in values.split(size)
    ]
    return torch.cat(log_densities).unflatten(0, (len(values), -1))


QUANTITIES: Mapping[str, Quantity] = {
    "entry": entry,
    "mean": mean,
    "energy": energy,
    "roughness": roughness,
    "coherence": coherence,
    "log-density": log_density,
}


# ------------------------------------------------------------------------------------------------------ ranks


@dataclass(frozen=True, eq=False)
class RankTest:
    """Ranks of the truth among draws, which are uniform if the draws follow the posterior of the true law.

    Args:
        quantities: Names of the test quantities.
        ranks: The number of draws below the truth. Windows are independent of each other.
        num_draws: The number S of draws: ranks run from 0 to S.
    """

    quantities: tuple[str, ...]
    ranks: Int64[Tensor, "quantities windows"]
    num_draws: int

    @functools.cached_property
    def p_values(self) -> dict[str, float]:
        """The p-value of each quantity: the probability that uniform ranks deviate at least as far."""
        p_values = (ecdf_p_value(ranks, self.num_draws) for ranks in self.ranks)
        return dict(zip(self.quantities, p_values, strict=True))

    @property
    def adjusted(self) -> dict[str, float]:
        """The p-values adjusted by Holm's method.

        Rejecting all quantities below a level keeps the family-wise error rate at that level, however the
        quantities depend on each other (see :func:`~tsgen.evaluation.holm.holm`).
        """
        return dict(zip(self.quantities, holm([*self.p_values.values()]), strict=True))

    def uniform(self, level: float = 0.01) -> bool:
        """Returns whether the test accepts that the ranks of all quantities are uniform.

        Args:
            level: The significance level: the maximum probability of rejecting uniform ranks.
        """
        return min(self.adjusted.values()) >= level


@check_arguments
def simulation_based_calibration(
    model: DensityModel,
    windows: SeriesBatch,
    *,
    truth: DensityModel | VARProcess | None = None,
    sampler: Sampler | None = None,
    quantities: Mapping[str, Quantity] = QUANTITIES,
    seed: int = 0,
) -> RankTest:
    """Ranks the truth of simulated windows among a sampler's draws.

    If the truth is drawn from the model itself, this tests the sampler alone: does it draw from the model's
    law? If the truth is drawn from another known law, it tests the model too.

    The draws of a window must be exchangeable. If draws share part of their path, as resampled particles do,
    ranks are not uniform even if each draw by itself has the right law.

    Args:
        model: The model that is sampled.
        windows: Windows that give the masks (``context`` is visible), graph, covariates and precision; their
            values are not read. Several hundred are needed to detect a standard deviation that is 20 % off
            (see ``docs/calibration.md``); ``windows.repeat(k)`` makes more of them.
        truth: The law that windows are drawn from; the model itself if not given.
        sampler: Draws the hidden entries; the model's own sampler if not given.
        quantities: The test quantities, by name. ``log-density`` needs a model that has one; the
            log-likelihood of an ``AnyOrderModel`` takes as many passes as a window has entries.
        seed: Fixes the truth and the breaking of ties. The sampler has its own seed.

    Returns:
        One rank for each quantity and window.

    Raises:
        ValueError: If a window hides nothing, the sampler does not accept the model, or a quantity is NaN.
    """
    if not quantities:
        raise ValueError("quantities must name at least one test quantity; there are none.")
    sampler = sampler or model.sampler
    sampler.check(model)
    batch = simulated(truth or model, windows, seed)
    if not batch.target.flatten(1).any(dim=1).all():
        empty = int((~batch.target.flatten(1).any(dim=1)).sum())
        raise ValueError(
            f"every window must have hidden entries to rank; {empty} of {len(batch.values)} have none. "
            "Remove these windows."
        )
    size = max(1, NUMBERS_AT_ONCE // (sampler.num_samples * batch.values[0].numel()))
    ranks_of_batches = [
        _ranks(model, sampler, batch.rows(slice(start, start + size)), quantities, seed)
        for start in range(0, len(batch.values), size)
    ]
    return RankTest(tuple(quantities), torch.cat(ranks_of_batches, dim=1).cpu(), sampler.num_samples)


@torch.no_grad()
def simulated(law: DensityModel | VARProcess, windows: SeriesBatch, seed: int = 0) -> SeriesBatch:
    """Draws windows independently from a law; the entries outside the context are the target.

    Args:
        law: A process, or a model that can draw a window without visible entries: an ``AutoregressiveModel``
            slice by slice, any other by its own sampler.
        windows: Windows that give the masks, graph, covariates and precision; their values are not read.
        seed: Fixes the draw.
    """
    empty = windows.blank()
    # with the sampler's own seed its first draw would be the truth itself
    truth_seed = int(streams(seed, torch.tensor(TRUTH_STREAM)))
    if isinstance(law, VARProcess):
        drawn = law.impute(empty, 1, truth_seed)
    elif isinstance(law, ForwardModel):
        drawn = Ancestral(1, truth_seed)(law, empty)
    else:
        sampler = law.sampler.with_options(num_samples=1, seed=truth_seed).jointly(empty.context[0].numel())
        drawn = sampler(law, empty)
    values = drawn.values[0].to(windows.values)
    return dataclasses.replace(empty, values=values, context=windows.context, target=~windows.context)


@torch.no_grad()
def _ranks(
    model: DensityModel,
    sampler: Sampler,
    batch: SeriesBatch,
    quantities: Mapping[str, Quantity],
    seed: int,
) -> Int64[Tensor, "quantities batch"]:
    """Returns the rank of the truth of each window, for each quantity."""
    drawn = sampler(model, batch).values
    stream = streams(seed, torch.tensor(TIE_STREAM), batch.position[:, 0])
    result = []
    for number, (name, quantity) in enumerate(quantities.items()):
        truth, draws = quantity(model, batch, batch.values[None]), quantity(model, batch, drawn)
        if not isinstance(truth, Tensor) or truth.dim() != 2:
            raise ValueError(f"the test quantity {name!r} must return a tensor [samples, batch].")
        truth = truth[0]
        if truth.isnan().any() or draws.isnan().any():
            raise ValueError(f"the test quantity {name!r} must be a number; it is NaN for some windows.")
        noise = uniforms(stream, (1,), start=number, dtype=torch.float64)[:, 0]
        result.append(ranks(draws, truth, noise))
    return torch.stack(result)


# ---------------------------------------------------------------------------------------- test of uniformity


class Envelope(NamedTuple):
    """The simultaneous envelope of the empirical distribution function of uniform ranks.

    Attributes:
        points: The points z in (0, 1) at which ranks are counted, as fractions of S + 1.
        low: The lower bound of the fraction of ranks below each point.
        high: The upper bound.
    """

    points: Float[Tensor, "points"]
    low: Float[Tensor, "points"]
    high: Float[Tensor, "points"]


def ecdf_p_value(ranks: Int64[Tensor, "windows"], num_draws: int) -> float:
    """Returns the probability that uniform ranks deviate at least as far from the binomial bands as these.

    The p-value is exact down to 1e-8; below that it is an upper bound, at most :data:`MAX_POINTS` times too
    large.

    Args:
        ranks: Independent ranks.
        num_draws: The number S of draws: ranks run from 0 to S.

    Raises:
        ValueError: If a rank is out of range or there are none.
    """
    if not ranks.numel() or ranks.min() < 0 or ranks.max() > num_draws:
        raise ValueError(f"ranks must be one or more numbers in 0..{num_draws}; they are {ranks.tolist()}.")
    thresholds = _thresholds(num_draws)
    counts = (ranks.cpu() < thresholds[:, None]).sum(dim=1)
    points, total = thresholds.double() / (num_draws + 1), len(ranks)
    tails = _tails(points, total)
    gamma = float(tails.gather(1, counts[:, None]).min())
    if gamma < 1e-10:  # 1 - P would be nothing but rounding error
        return min(1.0, len(points) * gamma)
    return min(1.0, max(0.0, 1 - _inside(tails > gamma * (1 + 1e-9), points)))


@functools.lru_cache(maxsize=8)
def ecdf_envelope(num_ranks: int, num_draws: int, level: float = 0.95) -> Envelope:
    """Returns the simultaneous envelope of the empirical distribution function of uniform ranks.

    Args:
        num_ranks: The number of independent ranks.
        num_draws: The number S of draws: ranks run from 0 to S.
        level: The minimum probability that the whole function lies inside.

    Raises:
        ValueError: If the level is out of range.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1; it is {level}.")
    points = _thresholds(num_draws).double() / (num_draws + 1)
    tails = _tails(points, num_ranks)
    low, high = (1 - level) / (2 * len(points)), 1 - level  # Bonferroni; a single point
    for _ in range(20):
        middle = (low * high) ** 0.5
        if _inside(tails > middle, points) >= level:
            low = middle
        else:
            high = middle
    allowed = (tails > low).double()
    last = allowed.shape[1] - 1 - allowed.flip(1).argmax(dim=1)
    return Envelope(points, allowed.argmax(dim=1).double() / num_ranks, last.double() / num_ranks)


def _thresholds(num_draws: int) -> Int64[Tensor, "points"]:
    """Returns evenly spaced integers below which ranks are counted."""
    number = min(num_draws, MAX_POINTS)
    return torch.arange(1, number + 1) * (num_draws + 1) // (number + 1)


def _log_binomial(count: Tensor, trials: Tensor, p: Tensor) -> Tensor:
    """Returns the log-probability of a binomial count in 0..trials."""
    log_choose = torch.lgamma(trials + 1) - torch.lgamma(count + 1) - torch.lgamma(trials - count + 1)
    return log_choose + count * p.log() + (trials - count) * torch.log1p(-p)


def _tails(points: Float[Tensor, "points"], total: int) -> Float[Tensor, "points counts"]:
    """Returns the two-sided tail of each count 0..total of ranks below each point."""
    count = torch.arange(total + 1, dtype=torch.float64)
    p = _log_binomial(count, count[-1], points[:, None]).exp()
    return 2 * torch.minimum(p.cumsum(dim=1), p.flip(1).cumsum(dim=1).flip(1))


def _inside(allowed: Tensor, points: Float[Tensor, "points"]) -> float:
    """Returns the probability that the count at each point is one of the allowed counts."""
    if not allowed.any(dim=1).all():
        return 0.0
    total = allowed.new_tensor(allowed.shape[1] - 1, dtype=torch.float64)
    steps = points.diff(prepend=points.new_zeros(1)) / (1 - points.roll(1)).where(points > points[0], 1.0)
    before, probability = points.new_zeros(1), points.new_ones(1)
    for mask, step in zip(allowed, steps, strict=True):
        now = mask.nonzero()[:, 0].double()
        added, left = now - before[:, None], (total - before)[:, None]
        possible = (added >= 0) & (added <= left)
        added = torch.where(possible, added, 0)
        transition = torch.where(possible, _log_binomial(added, left, step).exp(), 0)
        before, probability = now, probability @ transition
    return float(probability.sum())
