r"""Whether a sampler draws from the law that a model implies: simulation-based calibration.

A window x is drawn from a known law, some of its entries are hidden, and S draws of them given the visible
ones are made. If the draws follow the posterior of that law, truth and draws are exchangeable given what is
visible, so that for every function f of a whole window (a *test quantity*) the rank

.. math:: r = \#\{s : f(x^s) < f(x)\}

is uniform on 0, ..., S, whatever the mask. A posterior that is too narrow gives U-shaped ranks, one that is
too wide a hump, a biased one a slope. Ranks of one entry cannot tell a right joint law from independent right
marginals; quantities that join entries do.

Windows are independent, entries of a window are not: there is ONE rank a window and quantity, and the
p-values of the quantities, which are dependent, are adjusted by Holm's method. Each is that of the graphical
test, exact and without simulation: with :math:`C_i` the number of ranks below :math:`i`, binomial with
:math:`z_i = i / (S + 1)`, the statistic is the smallest two-sided binomial tail,

.. math:: \gamma = \min_i 2 \min\{P(C_i \le c_i), P(C_i \ge c_i)\},

and the probability that :math:`C_1, C_2, \dots` (a Markov chain of binomial steps) ever leaves the band where
all tails are above gamma follows from one forward recursion.

What a test cannot see: a law that is wrong in a way that none of the quantities shows. A sampler that ignores
the visible entries and draws from the prior has uniform ranks of every quantity that reads hidden entries
alone; those here that join hidden and visible entries, and the log-density, catch it.

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

from tsgen.counter_random import streams, uniforms
from tsgen.data.series import SeriesBatch
from tsgen.exact.linear import VARProcess
from tsgen.metrics import ranks
from tsgen.models import DensityModel
from tsgen.protocols import ForwardModel
from tsgen.sampling import Ancestral, AnyOrder, Sampler
from tsgen.sampling.base import draws_per_portion

TRUTH, CHOICE, TIES = 11, 12, 13
"""Sets the random streams of the truth, of the chosen entries and of ties apart from those of samplers."""

STATES = 256
"""Numbers that a forward pass holds of each entry, about."""

POINTS = 100
"""The most places at which ranks are counted."""

NUMBERS_AT_ONCE = 2**24
"""Entries of all draws together that are worked on at once."""

Quantity = Callable[[DensityModel, SeriesBatch, Tensor], Tensor]
"""A function of a model, windows and values ``[samples, batch, time, nodes, channels]`` that take the place
of theirs: one number for each sample and window. Visible entries are the same in truth and draws, so that
what they add does not matter."""


# ------------------------------------------------------------------------------------------- test quantities


def entry(model: DensityModel, batch: SeriesBatch, values: Tensor) -> Float[Tensor, "samples batch"]:
    """One hidden entry of each window, chosen at random."""
    stream = streams(CHOICE, batch.position[:, 0])
    place = uniforms(stream, batch.values.shape[1:], dtype=torch.float64)
    chosen = place.masked_fill(batch.context, -1).flatten(1).argmax(dim=1)
    return values.flatten(2)[:, torch.arange(len(chosen), device=chosen.device), chosen]


def mean(model: DensityModel, batch: SeriesBatch, values: Tensor) -> Float[Tensor, "samples batch"]:
    """The mean of the window, in standard units: its level."""
    return model.node_units.standardise(values).mean(dim=(2, 3, 4))


def energy(model: DensityModel, batch: SeriesBatch, values: Tensor) -> Float[Tensor, "samples batch"]:
    """The mean square of the window, in standard units: its spread."""
    return model.node_units.standardise(values).square().mean(dim=(2, 3, 4))


def roughness(model: DensityModel, batch: SeriesBatch, values: Tensor) -> Float[Tensor, "samples batch"]:
    """The sum of the squared steps in time, in standard units: how an entry goes with those before and after
    it. Zero for windows of one step."""
    return model.node_units.standardise(values).diff(dim=2).square().sum(dim=(2, 3, 4))


def coherence(model: DensityModel, batch: SeriesBatch, values: Tensor) -> Float[Tensor, "samples batch"]:
    """The sum of the products of all pairs of entries of the same slice, in standard units: how the nodes go
    together. Zero for slices of one entry."""
    slices = model.node_units.standardise(values).flatten(3)
    return (slices.sum(dim=3).square() - slices.square().sum(dim=3)).sum(dim=2)


def log_density(model: DensityModel, batch: SeriesBatch, values: Tensor) -> Float[Tensor, "samples batch"]:
    """The log-density of the whole window under the model that draws, in nats: what joins all entries."""
    everything = torch.ones_like(batch.context)
    whole = dataclasses.replace(batch, values=values[0], context=everything, target=everything)
    portion = draws_per_portion(STATES * batch.values.numel() * batch.values.element_size())
    parts = [
        model.log_likelihood(whole.repeat(len(few))._changed(values=few.flatten(0, 1)))
        for few in values.split(portion)
    ]
    return torch.cat(parts).unflatten(0, (len(values), -1))


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
    """Ranks of the truth among draws, which are uniform if the draws follow the law of the truth.

    Args:
        quantities: Name of each test quantity.
        ranks: How many draws lie below the truth; windows are independent of each other.
        num_draws: The number S of draws: ranks run from 0 to S.
    """

    quantities: tuple[str, ...]
    ranks: Int64[Tensor, "quantities windows"]
    num_draws: int

    @functools.cached_property
    def p_values(self) -> dict[str, float]:
        """Of each quantity: how probable ranks are that leave uniformity as far as these."""
        found = (ecdf_p_value(ranks, self.num_draws) for ranks in self.ranks)
        return dict(zip(self.quantities, found, strict=True))

    @property
    def adjusted(self) -> dict[str, float]:
        """The p-values by Holm's method: those below a level are significant all together at that level,
        however the quantities depend on each other."""
        result, largest = {}, 0.0
        ordered = sorted(self.p_values.items(), key=lambda item: item[1])
        for i, (name, p) in enumerate(ordered):
            largest = max(largest, min(1.0, (len(ordered) - i) * p))
            result[name] = largest
        return {name: result[name] for name in self.quantities}

    def uniform(self, level: float = 0.01) -> bool:
        """Whether nothing speaks against uniform ranks.

        Args:
            level: The probability of saying no to ranks that are uniform; at most that.
        """
        return min(self.adjusted.values()) >= level


def simulation_based_calibration(
    model: DensityModel,
    windows: SeriesBatch,
    *,
    truth: DensityModel | VARProcess | None = None,
    sampler: Sampler | None = None,
    quantities: Mapping[str, Quantity] = QUANTITIES,
    seed: int = 0,
) -> RankTest:
    """Ranks the truth among a sampler's draws, of windows that are simulated.

    With the model itself as the truth this tests the sampler alone: is it right for what the model says? With
    a known law it tests the model too.

    The draws of a window must be exchangeable. Where draws share parts, as resampled particles do, ranks are
    not uniform even if each draw alone has the right law.

    Args:
        model: The model that is sampled.
        windows: The windows' masks (``context`` is visible), graph, covariates and precision; their values
            are not read. Several hundred are needed to see a deviation that is 20 % off (see
            ``docs/calibration.md``); ``windows.repeat(k)`` has as many as one likes.
        truth: The law that windows are drawn from; the model itself if not given.
        sampler: What draws the hidden entries; the model's own if not given.
        quantities: The test quantities, by name. ``log-density`` needs a model that has one; the
            log-likelihood of an ``AnyOrderModel`` takes as many passes as a window has entries.
        seed: Fixes the truth, the choice among ties and the entries that are looked at. The sampler has a
            seed of its own.

    Returns:
        One rank for each quantity and window.

    Raises:
        ValueError: If a window hides nothing, the sampler does not go with the model, or a quantity is not a
            number.
    """
    sampler = sampler or model.sampler
    sampler.check(model)
    batch = simulated(truth or model, windows, seed)
    if not batch.target.flatten(1).any(dim=1).all():
        empty = int((~batch.target.flatten(1).any(dim=1)).sum())
        raise ValueError(
            f"every window must hide something, or there is nothing to rank; {empty} of {len(batch.values)} "
            "hide nothing. Leave them out."
        )
    portion = max(1, NUMBERS_AT_ONCE // (sampler.num_samples * batch.values[0].numel()))
    parts = [
        _ranks(model, sampler, batch.rows(slice(at, at + portion)), quantities, seed)
        for at in range(0, len(batch.values), portion)
    ]
    return RankTest(tuple(quantities), torch.cat(parts, dim=1).cpu(), sampler.num_samples)


@torch.no_grad()
def simulated(law: DensityModel | VARProcess, windows: SeriesBatch, seed: int = 0) -> SeriesBatch:
    """Windows drawn from a law, each on its own, with what is not visible as the target.

    Args:
        law: A process, or a model that can draw a window of which nothing is visible: an
            ``AutoregressiveModel`` slice by slice, any other by its own sampler.
        windows: The windows' masks, graph, covariates and precision; their values are not read.
        seed: Fixes the draw.
    """
    nothing = torch.zeros_like(windows.context)
    # draws are told apart by position: windows of one position are to have truths and draws of their own
    position = torch.arange(windows.position.numel(), device=nothing.device).view_as(windows.position)
    empty = dataclasses.replace(windows, context=nothing, target=nothing, position=position)
    # far from any seed of a sampler, whose first draw would otherwise be the truth itself
    own = int(streams(seed, torch.tensor(TRUTH)))
    if isinstance(law, VARProcess):
        drawn = law.impute(empty, 1, own)
    elif isinstance(law, ForwardModel):
        drawn = Ancestral(1, own)(law, empty)
    else:
        sampler: Any = dataclasses.replace(law.sampler, num_samples=1, seed=own)  # type: ignore[type-var]
        if isinstance(sampler, AnyOrder):  # its joint law: one entry after another
            sampler = dataclasses.replace(sampler, groups=empty.context[0].numel())
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
    drawn, place = sampler(model, batch).values, streams(seed, torch.tensor(TIES), batch.position[:, 0])
    found = []
    for number, (name, quantity) in enumerate(quantities.items()):
        truth, draws = quantity(model, batch, batch.values[None])[0], quantity(model, batch, drawn)
        if truth.isnan().any() or draws.isnan().any():
            raise ValueError(f"the test quantity {name!r} must be a number; of some windows it is NaN.")
        noise = uniforms(place, (1,), start=number, dtype=torch.float64)[:, 0]
        found.append(ranks(draws, truth, noise))
    return torch.stack(found)


# ---------------------------------------------------------------------------------------- test of uniformity


class Envelope(NamedTuple):
    """Where the empirical distribution of uniform ranks stays, all of it at once.

    Attributes:
        points: Places z in (0, 1) at which ranks are counted, as shares of S + 1.
        low: The smallest share of ranks below each place.
        high: The largest.
    """

    points: Float[Tensor, "points"]
    low: Float[Tensor, "points"]
    high: Float[Tensor, "points"]


def ecdf_p_value(ranks: Int64[Tensor, "windows"], num_draws: int) -> float:
    """The probability that uniform ranks leave the binomial bands as far as these; exact down to 1e-8, below
    that an upper bound by at most :data:`POINTS` times.

    Args:
        ranks: Independent ranks.
        num_draws: The number S of draws: ranks run from 0 to S.

    Raises:
        ValueError: If a rank is out of range or there are none.
    """
    if not ranks.numel() or ranks.min() < 0 or ranks.max() > num_draws:
        raise ValueError(f"ranks must be one or more numbers in 0..{num_draws}; they are {ranks.tolist()}.")
    places = _places(num_draws)
    counts = (ranks.cpu() < places[:, None]).sum(dim=1)
    points, total = places.double() / (num_draws + 1), len(ranks)
    tails = _tails(points, total)
    gamma = float(tails.gather(1, counts[:, None]).min())
    if gamma < 1e-10:  # 1 - P would be rounding alone
        return min(1.0, len(points) * gamma)
    return min(1.0, max(0.0, 1 - _inside(tails > gamma * (1 + 1e-9), points)))


@functools.lru_cache(maxsize=8)
def ecdf_envelope(num_ranks: int, num_draws: int, level: float = 0.95) -> Envelope:
    """The simultaneous envelope of the empirical distribution of uniform ranks.

    Args:
        num_ranks: How many independent ranks there are.
        num_draws: The number S of draws: ranks run from 0 to S.
        level: The probability that the whole of it stays inside; at least that.

    Raises:
        ValueError: If the level is out of range.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1; it is {level}.")
    points = _places(num_draws).double() / (num_draws + 1)
    tails = _tails(points, num_ranks)
    low, high = (1 - level) / (2 * len(points)), 1 - level  # by Bonferroni, and of a single point
    for _ in range(20):
        middle = (low * high) ** 0.5
        if _inside(tails > middle, points) >= level:
            low = middle
        else:
            high = middle
    allowed = (tails > low).double()
    last = allowed.shape[1] - 1 - allowed.flip(1).argmax(dim=1)
    return Envelope(points, allowed.argmax(dim=1).double() / num_ranks, last.double() / num_ranks)


def _places(num_draws: int) -> Int64[Tensor, "points"]:
    """Whole ranks, evenly spread, below which ranks are counted."""
    number = min(num_draws, POINTS)
    return torch.arange(1, number + 1) * (num_draws + 1) // (number + 1)


def _log_binomial(count: Tensor, trials: Tensor, p: Tensor) -> Tensor:
    """The log-probability of a count in 0..trials."""
    ways = torch.lgamma(trials + 1) - torch.lgamma(count + 1) - torch.lgamma(trials - count + 1)
    return ways + count * p.log() + (trials - count) * torch.log1p(-p)


def _tails(points: Float[Tensor, "points"], total: int) -> Float[Tensor, "points counts"]:
    """The two-sided tail of each count 0..total of ranks below each place."""
    count = torch.arange(total + 1, dtype=torch.float64)
    p = _log_binomial(count, count[-1], points[:, None]).exp()
    return 2 * torch.minimum(p.cumsum(dim=1), p.flip(1).cumsum(dim=1).flip(1))


def _inside(allowed: Tensor, points: Float[Tensor, "points"]) -> float:
    """The probability that the counts at all places are allowed: each place allows a range of counts."""
    if not allowed.any(dim=1).all():
        return 0.0
    total = allowed.new_tensor(allowed.shape[1] - 1, dtype=torch.float64)
    steps = points.diff(prepend=points.new_zeros(1)) / (1 - points.roll(1)).where(points > points[0], 1.0)
    before, chance = points.new_zeros(1), points.new_ones(1)
    for at, step in zip(allowed, steps, strict=True):
        now = at.nonzero()[:, 0].double()
        added, left = now - before[:, None], (total - before)[:, None]
        possible = (added >= 0) & (added <= left)
        added = torch.where(possible, added, 0)
        moved = torch.where(possible, _log_binomial(added, left, step).exp(), 0)
        before, chance = now, chance @ moved
    return float(chance.sum())
