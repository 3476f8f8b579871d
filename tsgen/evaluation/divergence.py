r"""The Kullback-Leibler divergence between two models' laws of a window.

.. math:: KL(p \| q) = E_{x \sim p} \Big[ \log \frac{p(x)}{q(x)} \Big]
          = E_{x \sim p} \Big[ \sum_t KL\big(p(x_t \mid x_{<t}) \,\|\, q(x_t \mid x_{<t})\big) \Big].

The first expectation is estimated from paths drawn from p. The second is equal to it by the chain rule. It
replaces the log-ratio of each step by its mean over that step's draw, where this has a closed form
(Rao-Blackwell). Its variance is smaller, and every term is nonnegative. Models with covariates are compared
given the same covariates.

The windows are fixed, and the draws of different windows are independent, so that with n draws per window and
the sample variance :math:`s_w^2` over the draws of window w the mean over W windows has the standard error

.. math:: \sqrt{\frac{1}{n W^2} \sum_{w=1}^W s_w^2}.

Draws that stop at a wanted standard error would stop too early if few of them happened to agree. The error is
therefore first estimated from a pilot of :data:`PILOT` paths, and then only each time their number has
doubled: few looks, each at an error estimated from many draws, keep the coverage of intervals.

References:
    On the asymptotic theory of fixed-width sequential confidence intervals for the mean (Chow & Robbins,
    1965); The asymptotic validity of sequential stopping rules for stochastic simulations (Glynn & Whitt,
    1992), on the need of a pilot.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, kl_divergence

from tsgen.argument_types import check_arguments
from tsgen.data.series import SeriesBatch
from tsgen.heads import InDataUnits
from tsgen.models import DensityModel
from tsgen.protocols import EncoderModel, ForwardModel
from tsgen.sampling import Ancestral, AnyOrder, Sampler

PATHS_AT_ONCE = 256
"""The maximum number of paths, over all windows, that are drawn and scored at once."""

PILOT = 256
"""The number of paths, over all windows, before the standard error is first compared with the wanted one."""


class KLEstimate(NamedTuple):
    """A Monte Carlo estimate of a divergence.

    Attributes:
        value: The divergence per window, in nats; the mean over the windows.
        standard_error: The Monte Carlo standard error of the estimate for these windows, in nats.
        draws: The number of paths per window.
    """

    value: float
    standard_error: float
    draws: int


@check_arguments
def monte_carlo_kl(
    p: DensityModel,
    q: DensityModel,
    windows: SeriesBatch,
    *,
    rao_blackwell: bool = False,
    standard_error: float = 0.0,
    max_draws: int = 1024,
    seed: int = 0,
) -> KLEstimate:
    """Estimates KL(p || q) of whole windows.

    Paths are drawn from the joint law that ``p.log_likelihood`` scores, whatever the sampler of p.

    Args:
        p: The model that paths are drawn from.
        q: The other model, for the same data.
        windows: Windows that give the shape, graph, covariates and precision; their values are not read.
        rao_blackwell: Use the closed-form divergence between the laws of each slice along the paths.
        standard_error: Stop when the standard error, in nats, is at most this; with 0 all paths are drawn. It
            is compared after a pilot of 256 paths over all windows, and at each doubling of their number.
        max_draws: The maximum number of paths per window; at least 2.
        seed: Fixes the paths.

    Raises:
        ValueError: If the models are for different data, ``max_draws`` is below 2, or ``rao_blackwell`` is
            set for slices that are not Gaussian.
    """
    difference = p.spec.difference(q.spec)
    if difference:
        raise ValueError(f"p and q must be models for the same data; of p {difference} (of q).")
    if max_draws < 2:
        raise ValueError(f"max_draws must be at least 2 for a standard error; it is {max_draws}.")
    score = _closed_form if rao_blackwell else _log_ratio
    count = len(windows.values)
    terms, checked = torch.empty(0, count, dtype=torch.float64), max(2, math.ceil(PILOT / count))
    while len(terms) < max_draws:
        if len(terms) >= checked:
            if _error(terms) <= standard_error:
                break
            checked *= 2
        more = min(max(1, PATHS_AT_ONCE // count), max_draws - len(terms))
        paths = _paths(p, windows, more, seed, len(terms))
        with torch.no_grad():
            terms = torch.cat([terms, score(p, q, paths).double().cpu().unflatten(0, (more, -1))])
    return KLEstimate(float(terms.mean()), _error(terms), len(terms))


def _error(terms: Float[Tensor, "draws windows"]) -> float:
    """Returns the standard error of the mean of independent draws, each window with its own variance."""
    return float((terms.var(dim=0).mean() / terms.numel()).sqrt())


def _paths(p: DensityModel, windows: SeriesBatch, draws: int, seed: int, drawn: int) -> SeriesBatch:
    """Returns paths of every window drawn from p, as one batch in which every entry is visible."""
    blank = windows.blank()
    # a different seed for each round, so that no path repeats
    options = {"num_samples": draws, "seed": seed + 1_000_003 * drawn}
    sampler = _joint_sampler(p, blank.context[0].numel()).with_options(**options)
    values = sampler(p, blank).values.flatten(0, 1)
    everything = torch.ones_like(values, dtype=torch.bool)
    # the positions of the draw: the order in which an AnyOrderModel scores a window depends on them
    return dataclasses.replace(blank.repeat(draws), values=values, context=everything, target=everything)


def _joint_sampler(p: DensityModel, entries: int) -> Sampler:
    """Returns a sampler whose draws of whole windows have the density ``p.log_likelihood``.

    Args:
        p: The model.
        entries: The number of entries of a window.
    """
    if isinstance(p, ForwardModel):
        return Ancestral()
    if isinstance(p, EncoderModel):
        return AnyOrder(groups=entries, order="window")
    return p.sampler.jointly(entries)


def _log_ratio(p: DensityModel, q: DensityModel, paths: SeriesBatch) -> Float[Tensor, "paths"]:
    """Returns the log-ratio of the densities of each path, in nats."""
    return p.log_likelihood(paths) - q.log_likelihood(paths)


def _closed_form(p: DensityModel, q: DensityModel, paths: SeriesBatch) -> Float[Tensor, "paths"]:
    """Returns the sum over each path of the divergences of its slices, in nats."""
    first, second = _gaussian(p.slices(paths)), _gaussian(q.slices(paths))
    if type(first) is not type(second):
        first, second = _full(first), _full(second)
    return kl_divergence(first, second).sum(dim=1)


def _gaussian(law: Distribution) -> Distribution:
    """Returns the law if it is Gaussian, so that a closed form is known; raises otherwise."""
    if isinstance(law, Independent) and isinstance(law.base_dist, InDataUnits):
        each = law.base_dist
        if isinstance(each.law, Normal):
            return Independent(Normal(each.mean, each.stddev), law.reinterpreted_batch_ndims)
        return _gaussian(Independent(each.law, law.reinterpreted_batch_ndims))
    if isinstance(law, MultivariateNormal) or (
        isinstance(law, Independent) and isinstance(law.base_dist, Normal)
    ):
        return law
    name = type(law.base_dist if isinstance(law, Independent) else law).__name__
    raise ValueError(f"a closed form needs Gaussian slices; got {name}. Use rao_blackwell=False.")


def _full(law: Distribution) -> MultivariateNormal:
    """Returns a Gaussian slice as one multivariate normal law of its flattened entries."""
    if isinstance(law, MultivariateNormal):
        return MultivariateNormal(law.loc.double(), scale_tril=law.scale_tril.double())
    return MultivariateNormal(
        law.mean.flatten(2).double(), scale_tril=torch.diag_embed(law.stddev.flatten(2).double())
    )
