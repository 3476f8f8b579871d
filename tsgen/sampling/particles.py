r"""A particle filter for models that factorise over time.

K paths of the unknown entries are drawn from the model step by step. A path is weighted by the density of the
visible entries :math:`O_t` of each slice given the path so far,

.. math:: w_t^k = \prod_{(v,c) \in O_t} p(x_{tvc} \mid x^k_{<t}, \ldots),

where the dots stand for the earlier entries of the same slice, if the head makes entries depend on each
other. If the head draws the unknown entries given all visible ones of their slice
(``MixtureNADEHead(order="any")``), their law q is not a factor of the joint law of the slice, whose order is
that of the indices, and the weight is the ratio

.. math:: w_t^k = \frac{p(x^k_t \mid x^k_{<t})}
          {q(x^k_{t,\text{unknown}} \mid x_{t,\text{visible}}, x^k_{<t})}.

When few paths carry most of the weight, paths are resampled in proportion to their weights. With
normalised weights :math:`W_{t-1}^k` before the step, equal to :math:`1/K` after resampling,

.. math:: \hat p(x_O) = \prod_t \sum_k W_{t-1}^k w_t^k

estimates the evidence without bias; its logarithm is on average a lower bound of the log-evidence, which
tightens as K grows. The density of a held-out entry given the visible entries of the slices before it is
estimated by :math:`\sum_k W_{t-1}^k p(x_{tvc} \mid x^k_{<t})`, which is consistent: exact in the limit of
large K.

The required number of paths grows exponentially with the variance of :math:`\log w_t`, and that variance
grows with the number of entries of a slice: the filter is suited to few nodes, few missing entries, or many
paths. If the nodes are divided into blocks, each block b has its own weights,

.. math:: w_t^{b,k} = \prod_{(v,c) \in O_t,\, v \in b} p(x_{tvc} \mid x^k_{<t}),

and is resampled separately; path k then continues from the concatenated ancestors of all blocks. The variance
is that of a single block, however many blocks there are. The price is a bias that no number of paths removes,
since the visible entries of one block no longer weight the paths of the others. The bias is small if nodes of
different blocks are nearly independent given the visible entries. The product of the blocks' evidences is no
longer unbiased.

Evidence and densities are differentiable in the model's parameters. Gradients pass through the draws, the
weights and each resampling, where a path keeps the gradient of the weight by which it was chosen. Therefore
the gradient of :math:`\hat p` has the mean :math:`\nabla p(x_O)`, and that of :math:`\log \hat p` tends to
:math:`\nabla \log p(x_O)`. If the ancestors were treated as constants, it would tend to a different limit,
however many paths there are.

:class:`ParticleFilter` implements the operations of a step (draw and weight, resample, predict) and the loop
over steps. :func:`particle_filter` keeps evidence and densities; :mod:`tsgen.sampling.smc` keeps whole paths.

References:
    An introduction to sequential Monte Carlo (Chopin & Papaspiliopoulos, 2020), ch. 10;
    Filtering variational objectives (Maddison et al., 2017);
    Can local particle filters beat the curse of dimensionality? (Rebeschini & van Handel, 2015);
    Differentiable particle filtering without modifying the forward pass (Ścibior & Wood, 2021).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.distributions import Distribution

from tsgen.counter_random import streams, uniforms
from tsgen.data.series import SeriesBatch
from tsgen.encoders.base import map_state
from tsgen.encoders.propagation import Propagation
from tsgen.heads.base import full_precision
from tsgen.heads.likelihood import masked_log_prob
from tsgen.protocols import ForwardModel

PATHS, CHOICES = 1, 2
"""Stream keys that keep the random numbers of paths and of resampling distinct."""


@dataclass
class ParticleEstimates:
    r"""The estimates of a particle filter.

    Attributes:
        log_evidence: The logarithm of the estimate of :math:`p(x_O)`, in nats.
        ess: The effective sample size :math:`1 / \sum_k (W_t^k)^2` after each step, before resampling; the
            minimum over blocks.
        log_prob: The log-density of each target entry given the visible entries of the slices before it, in
            nats; zero elsewhere. None if it was not requested.
    """

    log_evidence: Float[Tensor, "batch"]
    ess: Float[Tensor, "batch time"]
    log_prob: Float[Tensor, "batch time nodes channels"] | None


class Paths(NamedTuple):
    """Weighted paths up to the current step.

    Attributes:
        log_weight: Logarithms of the weights, which sum to one in each block of each window.
        before: The last slices in standard units, and a context of ones, in the form that the model's
            ``advance`` accepts; None at the start.
        state: The encoder's carried state that ``advance`` returned last.
    """

    log_weight: Float[Tensor, "particles batch blocks"]
    before: tuple[Tensor, Tensor] | None = None
    state: Any = None


class Step(NamedTuple):
    """The next slice of every path.

    Attributes:
        now: The batch's data of that slice, repeated for every path.
        h: The encoder's output for the slice, given the slices before it.
        state: The encoder's carried state after the step.
        values: The slices in data units, with the unknown entries drawn.
        log_factor: The log-density of each visible entry given its path, in nats. For each drawn entry, the
            log-ratio of its density in the joint law of the slice to that in the law it was drawn from, which
            is zero unless the head is ``context_first``. The sum is the logarithm of the factor by which the
            slice changes a path's weight.
        law: The per-entry law used for drawing and weighting, or None if the head models entries jointly.
    """

    now: SeriesBatch
    h: Float[Tensor, "rows 1 nodes hidden"]
    state: Any
    values: Float[Tensor, "rows 1 nodes channels"]
    log_factor: Float[Tensor, "rows 1 nodes channels"]
    law: Distribution | None


class Moved(NamedTuple):
    """The result of one step of a filter.

    Attributes:
        before: The paths up to the previous slice.
        step: Their next slice.
        log_weight: Logarithms of the weights including that slice, before resampling.
        log_evidence: The slice's contribution to the log-evidence, in nats.
        ess: The effective sample size.
        ancestors: The index of the path that each path of the next step continues; None if every path
            continues itself.
    """

    before: Paths
    step: Step
    log_weight: Float[Tensor, "particles batch blocks"]
    log_evidence: Float[Tensor, "batch blocks"]
    ess: Float[Tensor, "batch blocks"]
    ancestors: Int64[Tensor, "particles batch blocks"] | None


class ParticleFilter:
    """The operations of a particle filter over a batch of windows.

    Paths lie along the batch axis: row k * windows + w holds path k of window w.

    Args:
        model: A model that factorises over time.
        batch: The windows; entries outside ``batch.context`` are drawn.
        particles: The number K of paths per window.
        stream: One random stream for each window.
        block: The index of each node's block, starting at 0; a single block if not given.
        retained: Complete windows that the first path of each window follows, whatever its weight. The filter
            is then conditional on that path, and resampling is multinomial: ancestors are drawn
            independently.
    """

    def __init__(
        self,
        model: ForwardModel,
        batch: SeriesBatch,
        particles: int,
        stream: Int64[Tensor, "batch"],
        block: Int64[Tensor, "nodes"] | None = None,
        retained: Float[Tensor, "batch time nodes channels"] | None = None,
    ) -> None:
        self.model, self.batch, self.particles, self.stream = model, batch, particles, stream
        nodes = batch.values.shape[2]
        self.block = torch.zeros(nodes, dtype=torch.int64) if block is None else block
        self.block, self.retained = self.block.to(stream.device), retained
        self.num_blocks = 1 + int(self.block.max())
        self.propagation, self.dtype = Propagation(batch.graph), model.node_units.precision
        self.number = torch.arange(particles, device=stream.device)[:, None, None]
        self._noise = streams(PATHS, stream, self.number[..., 0]).flatten()

    def start(self) -> Paths:
        """Returns empty paths of equal weight."""
        shape = (self.particles, len(self.stream), self.num_blocks)
        equal = torch.full(shape, -math.log(self.particles), dtype=self.dtype, device=self.stream.device)
        return Paths(equal)

    def run(self, ess_threshold: float) -> Iterator[Moved]:
        """Runs the filter slice by slice and yields the result of each step.

        Args:
            ess_threshold: A block's paths are resampled when their effective sample size falls below this
                fraction of K.
        """
        paths, length = self.start(), self.batch.values.shape[1]
        for t in range(length):
            step, ancestors = self.draw(paths, t), None
            weighted, evidence = self.weigh(paths, step)
            size = effective_size(weighted.log_weight.detach())
            poor, resampled = size < ess_threshold * self.particles, weighted
            if t + 1 < length and poor.any():
                resampled, ancestors = self.resample(weighted, poor, t)
            yield Moved(paths, step, weighted.log_weight, evidence, size, ancestors)
            paths = self.extend(resampled, step, ancestors)

    def draw(self, paths: Paths, t: int) -> Step:
        """Draws the unknown entries of slice t from the model and computes the density of the visible ones.

        Args:
            paths: The paths up to the previous slice.
            t: The index of the slice.
        """
        now = self.batch.steps(slice(t, t + 1)).repeat(self.particles)
        h, state = self.model.advance(now, paths.before, self.propagation, paths.state)
        if self.model.head.joint_entries == 1:
            return self._draw_each(now, h, state, t)
        values = self._with_retained(self.model.draw(now, h, now.context, self._uniforms(t)), t)
        whole, loc = now._changed(values=values), self.model.units_of_nodes(now).centre
        law = self.model.predict(whole, h, torch.ones_like(now.context))
        log_factor = masked_log_prob(law, values, now.context, loc)
        if self.model.head.context_first:
            # the head's joint law has one fixed order; the draw had another, with the visible entries first
            proposal = self.model.proposal(whole, h, now.context)
            log_factor = log_factor + masked_log_prob(law, values, ~now.context, loc)
            log_factor = log_factor - masked_log_prob(proposal, values, ~now.context, loc)
        return Step(now, h, state, values, log_factor, None)

    def _draw_each(self, now: SeriesBatch, h: Tensor, state: Any, t: int) -> Step:
        """Implements :meth:`draw` for independent entries: a single law draws, weights and predicts."""
        law = self.model.predict(now, h, now.context)
        with full_precision(h):
            drawn = self.model.head.quantile(law, self._uniforms(t)).to(now.values.dtype)
        values = self._with_retained(torch.where(now.context, now.values, drawn), t)
        log_factor = masked_log_prob(law, now.values, now.context, self.model.units_of_nodes(now).centre)
        return Step(now, h, state, values, log_factor, law)

    def _with_retained(self, values: Tensor, t: int) -> Float[Tensor, "rows 1 nodes channels"]:
        """Returns the drawn slices, with those of the first paths replaced by the retained path, if any."""
        if self.retained is None:
            return values
        return torch.cat([self.retained[:, t : t + 1].to(values.dtype), values[len(self.stream) :]])

    def weigh(self, paths: Paths, step: Step) -> tuple[Paths, Float[Tensor, "batch blocks"]]:
        """Returns the paths with weights that include one more slice, and its log-evidence in nats.

        Args:
            paths: The paths up to the previous slice.
            step: Their next slice, from :meth:`draw`.

        Raises:
            ValueError: If no path has a finite weight in some window.
        """
        new = step.log_factor.sum(dim=(1, 3))
        if self.num_blocks == 1:
            new = new.sum(dim=1)
        else:
            new = new.new_zeros(len(new), self.num_blocks).index_add(1, self.block, new)
        weight = paths.log_weight + new.view_as(paths.log_weight)
        evidence = weight.logsumexp(dim=0)
        if not torch.isfinite(evidence).all():
            raise ValueError(self._impossible(step))
        return paths._replace(log_weight=weight - evidence), evidence

    def _impossible(self, step: Step) -> str:
        """Returns the error message for a slice whose visible entries have no finite density on any path."""
        bad = ~torch.isfinite(step.log_factor) & step.now.context
        where = ""
        if bad.any():
            row, _, node, channel = (int(i) for i in bad.nonzero()[0])
            where = (
                f" The first such value is {float(step.now.values[row, 0, node, channel]):.4g} at node "
                f"{self.model.spec.nodes[node]}, step {int(step.now.position[row, 0])}."
            )
        return (
            "a particle filter needs visible values with a positive density on some path; under this model "
            f"none of the {self.particles} particles gives one.{where} Check the data, or hide the value."
        )

    def predictive(self, paths: Paths, step: Step, t: int) -> Float[Tensor, "batch 1 nodes channels"]:
        """Returns the log-density of each target entry of slice t given the slices before it, in nats.

        Each path contributes the marginal law of the entry. If entries depend on others of their slice, those
        are drawn anew, even the visible ones, so that a scored entry is given no observed value of its own
        slice, including its own.

        Args:
            paths: The paths up to the previous slice, with the weights of those slices.
            step: Their next slice, from :meth:`draw`.
            t: The index of the slice.
        """
        now, model, law = step.now, self.model, step.law
        if law is None:
            redrawn = model.draw(now, step.h, torch.zeros_like(now.context), self._uniforms(t))
            law = model.predict(now._changed(values=redrawn), step.h, torch.ones_like(now.context))
        density = masked_log_prob(law, now.values, now.target, model.units_of_nodes(now).centre)
        density = density.unflatten(0, paths.log_weight.shape[:2])
        mixture = (paths.log_weight[:, :, None, self.block, None] + density).logsumexp(dim=0)
        return torch.where(now.target[: len(mixture)], mixture, 0)

    def extend(
        self, paths: Paths, step: Step, ancestors: Int64[Tensor, "particles batch blocks"] | None = None
    ) -> Paths:
        """Returns the paths with one more slice.

        Args:
            paths: The paths up to the previous slice, with the weights for the next step.
            step: Their next slice, from :meth:`draw`.
            ancestors: The index of the path that each block continues; None if every path continues itself.
        """
        values, state = step.values, step.state
        if ancestors is not None:
            windows = torch.arange(len(self.stream), device=ancestors.device)[:, None]
            row = (ancestors * len(windows) + windows).flatten(0, 1)
            values = self._gather_blocks(values, row, axis=2)
            state = map_state(lambda x: self._gather_blocks(x, row, self.model.encoder.node_axis), state)
        values = self.model.units(step.now).standardise(values)
        return Paths(paths.log_weight, (values, torch.ones_like(values)), state)

    def _gather_blocks(self, x: Tensor, row: Int64[Tensor, "rows blocks"], axis: int | None) -> Tensor:
        """Gathers rows block by block: each node's numbers come from the row chosen for its block.

        Args:
            x: Values, or a tensor of a carried state.
            row: The row that each block is taken from.
            axis: The axis of x that holds the nodes.
        """
        if self.num_blocks == 1:
            return x.index_select(0, row[:, 0])
        assert axis is not None  # SMC.check requires Encoder.node_axis
        nodes = len(self.block)
        by_node = x.movedim(axis, 1).unflatten(1, (nodes, -1))
        gathered = by_node[row[:, self.block], torch.arange(nodes, device=x.device)]
        return gathered.flatten(1, 2).movedim(1, axis)

    def resample(
        self, paths: Paths, poor: Bool[Tensor, "batch blocks"], t: int
    ) -> tuple[Paths, Int64[Tensor, "particles batch blocks"]]:
        """Resamples paths after slice t; returns them with equal weights, and the ancestor of each path.

        Args:
            paths: Paths whose weights are the resampling probabilities.
            poor: Blocks to resample; in the others each path continues itself and keeps its weight.
            t: The index of the slice.
        """
        ancestors = torch.where(poor, self._ancestors(paths.log_weight.detach(), t), self.number)
        chosen = paths.log_weight.gather(0, ancestors)
        # the difference is zero; its gradient accounts for how the choice depends on the weights
        equal = chosen - chosen.detach() - math.log(self.particles)
        return paths._replace(log_weight=torch.where(poor, equal, paths.log_weight)), ancestors

    def _ancestors(self, log_weight: Tensor, t: int) -> Int64[Tensor, "particles batch blocks"]:
        """Returns the ancestor of each path: systematic, or multinomial with a retained path."""
        stream, blocks = streams(CHOICES, self.stream), self.num_blocks
        if self.retained is None:
            return systematic(log_weight, uniforms(stream, (blocks,), t * blocks, self.dtype))
        shape = (self.particles, blocks)
        points = uniforms(stream, shape, t * math.prod(shape), self.dtype).movedim(1, 0)
        ancestors = choose(log_weight, points)
        ancestors[0] = 0  # the retained path continues itself
        return ancestors

    def _uniforms(self, t: int) -> Float[Tensor, "rows 1 nodes channels uniforms"]:
        """Returns the uniform numbers from which slice t of each path is drawn."""
        shape = (1, *self.batch.values.shape[2:], self.model.head.uniforms_per_entry)
        return uniforms(self._noise, shape, start=t * math.prod(shape), dtype=self.dtype)


def particle_filter(
    model: ForwardModel,
    batch: SeriesBatch,
    particles: int,
    stream: Int64[Tensor, "batch"],
    ess_threshold: float = 0.5,
    predictive: bool = True,
    block: Int64[Tensor, "nodes"] | None = None,
) -> ParticleEstimates:
    """Runs a particle filter over each window and returns its estimates.

    Time and memory are those of ``particles`` windows read slice by slice.

    Args:
        model: A model that factorises over time.
        batch: The windows; entries outside ``batch.context`` are drawn.
        particles: The number K of paths per window.
        stream: One random stream for each window.
        ess_threshold: A window's paths are resampled when their effective sample size falls below this
            fraction of K: 0 for never, 1 for always.
        predictive: Whether to compute the densities of the target entries.
        block: The index of each node's block, starting at 0; a single block if not given.

    Returns:
        Log-evidence in nats, effective sample sizes and, if requested, the densities of the target entries.

    Raises:
        ValueError: If ``particles`` is below 1.
    """
    if particles < 1:
        raise ValueError(f"particles must be at least 1; it is {particles}.")
    filter_ = ParticleFilter(model, batch, particles, stream, block)
    evidence, densities, sizes = [], [], []
    for t, moved in enumerate(filter_.run(ess_threshold)):
        if predictive:
            densities.append(filter_.predictive(moved.before, moved.step, t))
        evidence.append(moved.log_evidence)
        sizes.append(moved.ess.amin(dim=1))
    return ParticleEstimates(
        log_evidence=torch.stack(evidence).sum(dim=(0, 2)),
        ess=torch.stack(sizes, dim=1),
        log_prob=torch.cat(densities, dim=1) if predictive else None,
    )


def effective_size(log_weight: Float[Tensor, "particles *rows"]) -> Float[Tensor, "*rows"]:
    r"""Returns the effective sample size :math:`1 / \sum_k (W^k)^2` of weights that sum to one."""
    return (-(2 * log_weight).logsumexp(dim=0)).exp()


def systematic(
    log_weight: Float[Tensor, "particles *rows"], uniform: Float[Tensor, "*rows"], count: int | None = None
) -> Int64[Tensor, "count *rows"]:
    """Returns indices of paths chosen by systematic resampling.

    Evenly spaced points in (0, 1) are shifted by one uniform number. Each point selects the path whose share
    of the total weight it falls into. With n points, a path of weight W is selected n W times, rounded up or
    down, and n W times on average.

    Args:
        log_weight: Logarithms of weights that sum to one.
        uniform: One number in (0, 1) for each row.
        count: The number of points; as many as there are paths if not given.
    """
    count = len(log_weight) if count is None else count
    number = torch.arange(count, device=uniform.device).view(-1, *[1] * uniform.dim())
    return choose(log_weight, (number + uniform) / count)


def choose(
    log_weight: Float[Tensor, "particles *rows"], points: Float[Tensor, "count *rows"]
) -> Int64[Tensor, "count *rows"]:
    """Returns the index of the path whose share of the total weight each point falls into.

    Args:
        log_weight: Logarithms of weights that sum to one.
        points: Points in (0, 1).
    """
    cumulative = log_weight.exp().cumsum(dim=0)
    # normalised again: despite rounding, no point may lie beyond the last path with positive weight
    cumulative = (cumulative / cumulative[-1]).movedim(0, -1).contiguous()
    index = torch.searchsorted(cumulative, points.to(cumulative.dtype).movedim(0, -1).contiguous())
    return index.movedim(-1, 0)
