r"""A particle filter for models that factorise over time.

K paths of what is not visible are drawn from the model step by step. A path is weighted by the density of
what is visible of each slice given the path so far,

.. math:: w_t^k = \prod_{(v,c) \in O_t} p(x_{tvc} \mid x^k_{<t}, \ldots),

and where few paths carry most of the weight, paths are resampled in proportion to it. The mean weights
estimate the evidence, :math:`\hat p(x_O) = \prod_t \sum_k W_{t-1}^k w_t^k`, without bias; the logarithm of
the estimate is a lower bound on average, which tightens as K grows. The whole is differentiable in the
model's parameters but for the choice of ancestors.

References:
    An introduction to sequential Monte Carlo (Chopin & Papaspiliopoulos, 2020), ch. 10;
    Filtering variational objectives (Maddison et al., 2017).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tsgen.counter_random import streams, uniforms
from tsgen.encoders.base import map_state
from tsgen.likelihood import masked_log_prob
from tsgen.propagation import Propagation
from tsgen.series import SeriesBatch

if TYPE_CHECKING:
    from tsgen.models.autoregressive import AutoregressiveModel

PATHS, CHOICES = 1, 2
"""Set the random streams of the two apart."""


@dataclass
class Filtered:
    """What a particle filter found.

    Attributes:
        log_evidence: The logarithm of the estimate of :math:`p(x_O)`, in nats.
        log_prob: The log-density of each target entry given what was visible in the slices before, in nats;
            zero elsewhere.
        ess: The effective sample size :math:`1 / \\sum_k (W_t^k)^2` of each step, before resampling.
    """

    log_evidence: Float[Tensor, "batch"]
    log_prob: Float[Tensor, "batch time nodes channels"]
    ess: Float[Tensor, "batch time"]


def particle_filter(
    model: AutoregressiveModel,
    batch: SeriesBatch,
    particles: int,
    stream: Int64[Tensor, "batch"],
    ess_threshold: float = 0.5,
) -> Filtered:
    """Runs the filter over each window.

    Args:
        model: A model that factorises over time.
        batch: The windows; entries outside ``batch.context`` are drawn.
        particles: The number K of paths of each window.
        stream: One random stream for each window.
        ess_threshold: Paths are resampled where the effective sample size falls below this share of K.
    """
    windows, length = batch.values.shape[:2]
    number = torch.arange(particles, device=stream.device)
    noise = streams(PATHS, stream, number[:, None]).flatten()
    rows, units, propagation = batch.repeat(particles), model.units(batch), Propagation(batch.graph)
    shape = (*batch.values.shape[2:], model.head.uniforms_per_entry)
    log_weight = torch.full(
        (particles, windows), -math.log(particles), dtype=units.loc.dtype, device=stream.device
    )
    before, state, evidence, densities, sizes = None, None, [], [], []
    for t in range(length):
        now = rows.steps(slice(t, t + 1))
        h, state = model.advance(now, before, propagation, state)
        numbers = uniforms(noise, (1, *shape), start=t * math.prod(shape), dtype=units.loc.dtype)
        drawn = model.draw(now, h, now.context, numbers)
        weight, density = _densities(model, now, h, drawn)
        weight, density = weight.view(particles, windows), density.unflatten(0, (particles, windows))
        densities.append((log_weight.view(particles, windows, 1, 1, 1) + density).logsumexp(dim=0))
        evidence.append((log_weight + weight).logsumexp(dim=0))
        log_weight = log_weight + weight - evidence[-1]
        sizes.append((-(2 * log_weight.detach()).logsumexp(dim=0)).exp())
        poor = sizes[-1] < ess_threshold * particles
        if t + 1 < length and poor.any():
            choice = uniforms(streams(CHOICES, stream), (1,), start=t, dtype=units.loc.dtype)
            chosen = torch.where(poor, systematic(log_weight.detach(), choice[:, 0]), number[:, None])
            row = (chosen * windows + torch.arange(windows, device=stream.device)).flatten()
            drawn, state = drawn[row], map_state(lambda x, row=row: x[row], state)
            log_weight = torch.where(poor, -math.log(particles), log_weight)
        before = units.standardise(drawn), torch.ones_like(drawn)
    scored = batch.target
    return Filtered(
        log_evidence=torch.stack(evidence).sum(dim=0),
        log_prob=torch.where(scored, torch.cat(densities, dim=1), 0),
        ess=torch.stack(sizes, dim=1),
    )


def _densities(
    model: AutoregressiveModel, now: SeriesBatch, h: Tensor, drawn: Tensor
) -> tuple[Float[Tensor, "rows"], Float[Tensor, "rows time nodes channels"]]:
    """Of each path, the log-density of what is visible of the slice, and of each target entry."""
    law = model.predict(now, h, now.context)
    density = masked_log_prob(law, now.values, now.target)
    if not model.head.known_first:
        # what is visible is given all before it in its slice, visible or drawn
        whole = now._changed(values=drawn)
        law = model.predict(whole, h, torch.ones_like(now.context))
    weight = masked_log_prob(law, now.values, now.context)
    return weight.sum(dim=(1, 2, 3)), density


def systematic(
    log_weight: Float[Tensor, "particles batch"], uniform: Float[Tensor, "batch"]
) -> Int64[Tensor, "particles batch"]:
    """Ancestors by systematic resampling: K evenly spaced points, moved by one uniform number, each taking
    the path whose share of the total weight it falls into.

    Args:
        log_weight: Logarithms of weights that sum to one.
        uniform: One number in (0, 1) for each window.
    """
    size = len(log_weight)
    reached = log_weight.exp().cumsum(dim=0).T.contiguous()
    points = (torch.arange(size, device=uniform.device) + uniform[:, None]) / size
    # rounding may leave the sum a little below the last point
    return torch.searchsorted(reached, points.to(reached.dtype)).clamp(max=size - 1).T
