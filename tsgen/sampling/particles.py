r"""A particle filter for models that factorise over time.

K paths of what is not visible are drawn from the model step by step. A path is weighted by the density of
what is visible of each slice, :math:`O_t`, given the path so far,

.. math:: w_t^k = \prod_{(v,c) \in O_t} p(x_{tvc} \mid x^k_{<t}, \ldots),

where the dots are what comes before the entry in its own slice, if the head lets entries hear of each other.
Where few paths carry most of the weight, paths are resampled in proportion to it. With normalised weights
:math:`W_{t-1}^k` before the step, :math:`1/K` after resampling,

.. math:: \hat p(x_O) = \prod_t \sum_k W_{t-1}^k w_t^k

estimates the evidence without bias; its logarithm is a lower bound on average, which tightens as K grows. An
entry that is held out has the density :math:`\sum_k W_{t-1}^k p(x_{tvc} \mid x^k_{<t})` given what is visible
in the slices before it: a consistent estimate, exact as K grows.

The number of paths that it takes grows exponentially with the variance of :math:`\log w_t`, and that variance
with the number of entries of a slice: a filter for few nodes, few missing entries, or many paths. With nodes
in blocks, each block b has weights of its own,

.. math:: w_t^{b,k} = \prod_{(v,c) \in O_t,\, v \in b} p(x_{tvc} \mid x^k_{<t}),

and is resampled by itself; path k then goes on from the ancestors of all blocks side by side. The variance is
that of one block, however many there are. The price is a bias that no number of paths removes, since what is
visible in one block no longer weighs the others: it is small where nodes of different blocks are nearly
independent given what is visible, and the product of the blocks' evidences is no longer unbiased.

Evidence and densities are differentiable in the model's parameters: through the draws, through the weights,
and past each resampling, where a path keeps the gradient of the weight that it was chosen by. So the gradient
of :math:`\hat p` has the mean :math:`\nabla p(x_O)`, and that of :math:`\log \hat p` tends to :math:`\nabla
\log p(x_O)`; with ancestors taken as given it would tend to something else, however many paths there are.

:class:`ParticleFilter` has the moves, draw and weigh, resample, predict, and strings them together;
:func:`particle_filter` keeps evidence and densities, :mod:`tsgen.sampling.smc` whole paths.

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
"""Set the random streams of the two apart."""


@dataclass
class ParticleEstimates:
    r"""What a particle filter found.

    Attributes:
        log_evidence: The logarithm of the estimate of :math:`p(x_O)`, in nats.
        ess: The effective sample size :math:`1 / \sum_k (W_t^k)^2` after each step, before resampling; of the
            poorest block.
        log_prob: The log-density of each target entry given what is visible in the slices before it, in nats;
            zero elsewhere. None if it was not asked for.
    """

    log_evidence: Float[Tensor, "batch"]
    ess: Float[Tensor, "batch time"]
    log_prob: Float[Tensor, "batch time nodes channels"] | None


class Paths(NamedTuple):
    """Weighted paths, as far as they have come.

    Attributes:
        log_weight: Logarithms of the weights, which sum to one in each block of each window.
        before: The last slices in standard units and ones, as the model's ``advance`` takes them; None at the
            start.
        state: What ``advance`` returned last.
    """

    log_weight: Float[Tensor, "particles batch blocks"]
    before: tuple[Tensor, Tensor] | None = None
    state: Any = None


class Step(NamedTuple):
    """One more slice of every path.

    Attributes:
        now: The slice of every path's window.
        h: The encoder's state before it.
        state: What the encoder carries on.
        values: The slices, in data units, with what is not visible drawn.
        log_prob: The log-density of each visible entry given its path, in nats; zero elsewhere. Their sum is
            the logarithm of a path's new weight.
        law: What they were drawn from and weighed by, where each entry has a law of its own; else None.
    """

    now: SeriesBatch
    h: Float[Tensor, "rows 1 nodes hidden"]
    state: Any
    values: Float[Tensor, "rows 1 nodes channels"]
    log_prob: Float[Tensor, "rows 1 nodes channels"]
    law: Distribution | None


class Moved(NamedTuple):
    """What a filter knows after a step.

    Attributes:
        before: Paths of the slices before.
        step: Their next slice.
        log_weight: Logarithms of the weights with that slice, before resampling.
        log_evidence: What the slice adds to the log-evidence, in nats.
        ess: The effective sample size.
        ancestors: The number of the path that each path of the next step goes on from; None for itself.
    """

    before: Paths
    step: Step
    log_weight: Float[Tensor, "particles batch blocks"]
    log_evidence: Float[Tensor, "batch blocks"]
    ess: Float[Tensor, "batch blocks"]
    ancestors: Int64[Tensor, "particles batch blocks"] | None


class ParticleFilter:
    """The moves of a filter over a batch of windows.

    A path is a row of the batch axis: row k * windows + w holds path k of window w.

    Args:
        model: A model that factorises over time.
        batch: The windows; entries outside ``batch.context`` are drawn.
        particles: The number K of paths of each window.
        stream: One random stream for each window.
        block: The number of the block that each node is in, from 0 on; all in one if not given.
        retained: Windows without holes that the first path of each follows, whatever its weight: the filter
            is then conditional on that path, and resamples by independent choices.
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
        self.propagation, self.dtype = Propagation(batch.graph), model.units(batch).loc.dtype
        self.number = torch.arange(particles, device=stream.device)[:, None, None]
        self._noise = streams(PATHS, stream, self.number[..., 0]).flatten()

    def start(self) -> Paths:
        """Paths of no slice yet, of equal weight."""
        shape = (self.particles, len(self.stream), self.num_blocks)
        equal = torch.full(shape, -math.log(self.particles), dtype=self.dtype, device=self.stream.device)
        return Paths(equal)

    def run(self, ess_threshold: float) -> Iterator[Moved]:
        """Reads the windows slice by slice.

        Args:
            ess_threshold: A block's paths are resampled where their effective sample size falls below this
                share of K.
        """
        paths, length = self.start(), self.batch.values.shape[1]
        for t in range(length):
            step, ancestors = self.draw(paths, t), None
            weighted, evidence = self.weigh(paths, step)
            size = effective_size(weighted.log_weight.detach())
            poor, further = size < ess_threshold * self.particles, weighted
            if t + 1 < length and poor.any():
                further, ancestors = self.resample(weighted, poor, t)
            yield Moved(paths, step, weighted.log_weight, evidence, size, ancestors)
            paths = self.extend(further, step, ancestors)

    def draw(self, paths: Paths, t: int) -> Step:
        """Draws what is not visible of slice t from the model and weighs what is visible.

        Args:
            paths: Paths of the slices before.
            t: The slice's number.
        """
        now = self.batch.steps(slice(t, t + 1)).repeat(self.particles)
        h, state = self.model.advance(now, paths.before, self.propagation, paths.state)
        if self.model.head.joint_entries == 1:
            return self._draw_each(now, h, state, t)
        values = self._followed(self.model.draw(now, h, now.context, self._uniforms(t)), t)
        # what is visible was drawn first, or is given all before it in its slice, visible or drawn
        context = now.context if self.model.head.context_first else torch.ones_like(now.context)
        law = self.model.predict(now._changed(values=values), h, context)
        log_prob = masked_log_prob(law, now.values, now.context, self.model.units_of_nodes(now).loc)
        return Step(now, h, state, values, log_prob, None)

    def _draw_each(self, now: SeriesBatch, h: Tensor, state: Any, t: int) -> Step:
        """As :meth:`draw`, where entries hear of no other: one law draws, weighs and predicts."""
        law = self.model.predict(now, h, now.context)
        with full_precision(h):
            drawn = self.model.head.quantile(law, self._uniforms(t))
        values = self._followed(torch.where(now.context, now.values, drawn), t)
        log_prob = masked_log_prob(law, now.values, now.context, self.model.units_of_nodes(now).loc)
        return Step(now, h, state, values, log_prob, law)

    def _followed(self, values: Tensor, t: int) -> Float[Tensor, "rows 1 nodes channels"]:
        """The slices drawn, those of the first paths replaced where a path is retained."""
        if self.retained is None:
            return values
        return torch.cat([self.retained[:, t : t + 1].to(values.dtype), values[len(self.stream) :]])

    def weigh(self, paths: Paths, step: Step) -> tuple[Paths, Float[Tensor, "batch blocks"]]:
        """The paths with the weights that one more slice gives them, and its log-evidence in nats.

        Args:
            paths: Paths of the slices before.
            step: What :meth:`draw` made of them.
        """
        new = step.log_prob.sum(dim=(1, 3))
        if self.num_blocks == 1:
            new = new.sum(dim=1)
        else:
            new = new.new_zeros(len(new), self.num_blocks).index_add(1, self.block, new)
        weight = paths.log_weight + new.view_as(paths.log_weight)
        evidence = weight.logsumexp(dim=0)
        return paths._replace(log_weight=weight - evidence), evidence

    def predictive(self, paths: Paths, step: Step, t: int) -> Float[Tensor, "batch 1 nodes channels"]:
        """The log-density of each target entry of slice t given the slices before it, in nats.

        Each path's law is that of the entry by itself. Where entries hear of others of their slice, those
        are drawn, visible or not: what is scored is given nothing of its own slice, itself least of all.

        Args:
            paths: Paths of the slices before, with the weights that those have given them.
            step: What :meth:`draw` made of them.
            t: The slice's number.
        """
        now, model, law = step.now, self.model, step.law
        if law is None:
            anew = model.draw(now, step.h, torch.zeros_like(now.context), self._uniforms(t))
            law = model.predict(now._changed(values=anew), step.h, torch.ones_like(now.context))
        density = masked_log_prob(law, now.values, now.target, model.units_of_nodes(now).loc)
        density = density.unflatten(0, paths.log_weight.shape[:2])
        mixed = (paths.log_weight[:, :, None, self.block, None] + density).logsumexp(dim=0)
        return torch.where(now.target[: len(mixed)], mixed, 0)

    def extend(
        self, paths: Paths, step: Step, ancestors: Int64[Tensor, "particles batch blocks"] | None = None
    ) -> Paths:
        """The paths with one more slice.

        Args:
            paths: Paths of the slices before, with the weights that they go on with.
            step: What :meth:`draw` made of them.
            ancestors: The number of the path that each block goes on from; None for itself.
        """
        values, state = step.values, step.state
        if ancestors is not None:
            windows = torch.arange(len(self.stream), device=ancestors.device)[:, None]
            row = (ancestors * len(windows) + windows).flatten(0, 1)
            values = self._chosen(values, row, axis=2)
            state = map_state(lambda x: self._chosen(x, row, self.model.encoder.node_axis), state)
        values = self.model.units(step.now).standardise(values)
        return Paths(paths.log_weight, (values, torch.ones_like(values)), state)

    def _chosen(self, x: Tensor, row: Int64[Tensor, "rows blocks"], axis: int | None) -> Tensor:
        """Rows put together block by block: of each node, the numbers that the row of its block has.

        Args:
            x: Values, or a tensor of a carried state.
            row: The row that each block is taken from.
            axis: Where in x the nodes lie.
        """
        if self.num_blocks == 1:
            return x.index_select(0, row[:, 0])
        assert axis is not None  # the sampler has seen to it
        nodes = len(self.block)
        by_node = x.movedim(axis, 1).unflatten(1, (nodes, -1))
        put = by_node[row[:, self.block], torch.arange(nodes, device=x.device)]
        return put.flatten(1, 2).movedim(1, axis)

    def resample(
        self, paths: Paths, poor: Bool[Tensor, "batch blocks"], t: int
    ) -> tuple[Paths, Int64[Tensor, "particles batch blocks"]]:
        """Weights made even after slice t, and the number of the path that each goes on from.

        Args:
            paths: Paths with the weights to choose by.
            poor: Blocks to be resampled; in the others each path goes on from itself.
            t: The slice's number.
        """
        ancestors = torch.where(poor, self._ancestors(paths.log_weight.detach(), t), self.number)
        chosen = paths.log_weight.gather(0, ancestors)
        # the difference is zero; its gradient is what the choice would have changed
        even = chosen - chosen.detach() - math.log(self.particles)
        return paths._replace(log_weight=torch.where(poor, even, paths.log_weight)), ancestors

    def _ancestors(self, log_weight: Tensor, t: int) -> Int64[Tensor, "particles batch blocks"]:
        stream, blocks = streams(CHOICES, self.stream), self.num_blocks
        if self.retained is None:
            return systematic(log_weight, uniforms(stream, (blocks,), t * blocks, self.dtype))
        shape = (self.particles, blocks)
        points = uniforms(stream, shape, t * math.prod(shape), self.dtype).movedim(1, 0)
        ancestors = choose(log_weight, points)
        ancestors[0] = 0  # the retained path goes on from itself
        return ancestors

    def _uniforms(self, t: int) -> Float[Tensor, "rows 1 nodes channels uniforms"]:
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
    """Runs the filter over each window.

    Time and memory are those of ``particles`` windows read slice by slice.

    Args:
        model: A model that factorises over time.
        batch: The windows; entries outside ``batch.context`` are drawn.
        particles: The number K of paths of each window.
        stream: One random stream for each window.
        ess_threshold: A window's paths are resampled where their effective sample size falls below this share
            of K: 0 for never, 1 for always.
        predictive: Whether the densities of the target entries are wanted.
        block: The number of the block that each node is in, from 0 on; all in one if not given.

    Raises:
        ValueError: If ``particles`` is below 1.
    """
    if particles < 1:
        raise ValueError(f"particles must be at least 1; it is {particles}.")
    moves = ParticleFilter(model, batch, particles, stream, block)
    evidence, densities, sizes = [], [], []
    for t, moved in enumerate(moves.run(ess_threshold)):
        if predictive:
            densities.append(moves.predictive(moved.before, moved.step, t))
        evidence.append(moved.log_evidence)
        sizes.append(moved.ess.amin(dim=1))
    return ParticleEstimates(
        log_evidence=torch.stack(evidence).sum(dim=(0, 2)),
        ess=torch.stack(sizes, dim=1),
        log_prob=torch.cat(densities, dim=1) if predictive else None,
    )


def effective_size(log_weight: Float[Tensor, "particles *rows"]) -> Float[Tensor, "*rows"]:
    r"""The effective sample size :math:`1 / \sum_k (W^k)^2` of weights that sum to one."""
    return (-(2 * log_weight).logsumexp(dim=0)).exp()


def systematic(
    log_weight: Float[Tensor, "particles *rows"], uniform: Float[Tensor, "*rows"], count: int | None = None
) -> Int64[Tensor, "count *rows"]:
    """Numbers of paths by systematic resampling: evenly spaced points, moved by one uniform number, each
    taking the path whose share of the total weight it falls into.

    Of n points a path of weight W takes n W, rounded up or down, on average n W.

    Args:
        log_weight: Logarithms of weights that sum to one.
        uniform: One number in (0, 1) for each row.
        count: How many points; as many as there are paths if not given.
    """
    count = len(log_weight) if count is None else count
    number = torch.arange(count, device=uniform.device).view(-1, *[1] * uniform.dim())
    return choose(log_weight, (number + uniform) / count)


def choose(
    log_weight: Float[Tensor, "particles *rows"], points: Float[Tensor, "count *rows"]
) -> Int64[Tensor, "count *rows"]:
    """The path whose share of the total weight each point of (0, 1) falls into.

    Args:
        log_weight: Logarithms of weights that sum to one.
        points: Where to look.
    """
    reached = log_weight.exp().cumsum(dim=0)
    # whatever rounding has made of the sum: no point may lie beyond the last path that has weight
    reached = (reached / reached[-1]).movedim(0, -1).contiguous()
    found = torch.searchsorted(reached, points.to(reached.dtype).movedim(0, -1).contiguous())
    return found.movedim(-1, 0)
