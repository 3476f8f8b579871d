r"""Sequential Monte Carlo: whole paths from the posterior of a model that factorises over time.

A particle filter (:mod:`tsgen.sampling.particles`) draws the unknown entries slice by slice, as ancestral
sampling does, and weights and resamples the paths by the density of the visible entries. If the
weight is concentrated on too few paths, there are two remedies.

*Backward simulation.* A path is built from its end: given its slices after t, the slice at t is that of
particle k with probability proportional to

.. math:: W_t^k \prod_{s=t+1}^{t+p} p(x_s \mid x_{t+1:s-1}, x^k_{\le t})

for a model that reads the last p slices; later slices do not depend on the choice.

*Conditional sequential Monte Carlo.* A filter is run again with the current path as its first particle,
retained whatever its weight; the next path is drawn from the resulting particles. This step leaves the
posterior invariant for any number of particles, so that its repetition converges to the posterior (particle
Gibbs). If paths are drawn by backward simulation instead of by ancestry, they can change at every step.

References:
    An introduction to sequential Monte Carlo (Chopin & Papaspiliopoulos, 2020), ch. 10, 12 and 16;
    Monte Carlo smoothing for nonlinear time series (Godsill, Doucet & West, 2004);
    Particle Markov chain Monte Carlo methods (Andrieu, Doucet & Holenstein, 2010);
    Backward simulation methods for Monte Carlo statistical inference (Lindsten & Schön, 2013).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tsgen.argument_types import check_shapes
from tsgen.counter_random import streams, uniforms
from tsgen.data.graphs import partition
from tsgen.data.series import Samples, SeriesBatch
from tsgen.encoders.base import map_state
from tsgen.encoders.propagation import Propagation
from tsgen.protocols import ForwardModel, check_forward
from tsgen.sampling.base import OTHER_SAMPLERS, Sampler, draws_per_portion
from tsgen.sampling.particles import ParticleFilter, choose, effective_size, systematic

ENDS, BACKWARD, SWEEP = 3, 4, 5
"""Stream keys that keep the random numbers of final choices, backward simulation and sweeps distinct."""

MIN_EFFECTIVE_PARTICLES = 10
"""Number of effective particles below which a mean over them is unreliable."""


class DegeneracyWarning(UserWarning):
    """Issued when so few particles carry the weight that the draws are not a reliable posterior."""


class History(NamedTuple):
    """The complete record of a filter's run.

    Attributes:
        values: The slices drawn at each step, in data units.
        ancestors: For each step, the particle that each particle of the next step continues; None if every
            particle continues itself.
        log_weight: Logarithms of the weights after each step.
        states: The encoder's carried state after each step; None if it was not kept.
        ess: The effective sample size of each step; the minimum over blocks.
        log_evidence: The logarithm of the estimate of the evidence, in nats.
    """

    values: list[Float[Tensor, "particles batch nodes channels"]]
    ancestors: list[Int64[Tensor, "particles batch blocks"] | None]
    log_weight: list[Float[Tensor, "particles batch blocks"]]
    states: list[Any]
    ess: Float[Tensor, "batch time"]
    log_evidence: Float[Tensor, "batch"]

    def trace(self, ends: Int64[Tensor, "paths batch blocks"]) -> list[Int64[Tensor, "paths batch blocks"]]:
        """Returns, for every step, the particles that the paths pass through.

        Args:
            ends: The particles that the paths end in.
        """
        index = [ends]
        for ancestors in reversed(self.ancestors[:-1]):
            index.append(index[-1] if ancestors is None else ancestors.gather(0, index[-1]))
        return index[::-1]


@check_shapes
@dataclass(frozen=True)
class SMC(Sampler[ForwardModel]):
    r"""Draws whole paths from the POSTERIOR by a particle filter: unknown entries given all visible ones.

    Particles draw the unknown entries of a slice from the model and are weighted by the density of its
    visible entries given their past. If the entries of a slice are independent, the weight
    :math:`p(\text{visible} \mid \text{past})` does not depend on the draw. This is the locally optimal
    proposal, so no other proposal is offered. With a NADE in a given order, unknown entries are drawn given
    those before them, and the weight depends on the draw. With ``MixtureNADEHead(order="any")`` they are
    drawn given all visible entries of their slice, and weighted by the ratio of the joint density of the
    slice to that of the draw. With every head, draws and evidence are those of one joint law: that of the
    model's ``log_likelihood`` of complete windows.

    The draws of a window come from the same particles and are not independent of each other; ``sweeps``
    reduce their dependence. The draws are exact as ``particles`` grows, but the required number grows
    exponentially with the number of visible entries of a slice that missing values make uncertain (see
    :class:`DegeneracyWarning`). The run time is that of ancestral sampling with as many samples as particles.
    Backward simulation adds ``num_samples * particles`` times p steps per slice, and each sweep adds the cost
    of ``num_samples`` filters.

    Args:
        num_samples: The number of draws per window.
        particles: The number of particles of each window's filter, and of each filter of a sweep.
        ess_threshold: Particles are resampled when their effective sample size falls below this fraction of
            their number: 0 for never, 1 for always.
        paths: How paths are built. ``"genealogy"``: from the ancestors of each particle, few of which are
            distinct at the early steps of a long window. ``"backward"``: by backward simulation, for encoders
            with a finite receptive field.
        sweeps: The number of sweeps of conditional sequential Monte Carlo that update each drawn path.
        blocks: The number of blocks of the graph that are weighted and resampled separately, for graphs too
            large for one filter. Blocks introduce a bias: the visible entries of one block do not weight the
            others at the same step.
        seed: Seed of the draws.

    Raises:
        ValueError: If a number or a string option is out of range, or options are incompatible.

    References:
        Can local particle filters beat the curse of dimensionality? (Rebeschini & van Handel, 2015), for
        blocks.
    """

    conditioning = "posterior"
    num_samples: int = 100
    particles: int = 1000
    ess_threshold: float = 0.5
    paths: Literal["genealogy", "backward"] = "genealogy"
    sweeps: int = 0
    blocks: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, number, least in (
            ("particles", self.particles, 2),
            ("sweeps", self.sweeps, 0),
            ("blocks", self.blocks, 1),
        ):
            if number < least:
                raise ValueError(f"{name} must be at least {least}; it is {number}.")
        if self.num_samples > self.particles and self.paths == "genealogy" and not self.sweeps:
            raise ValueError(
                f"num_samples must be at most particles, {self.particles}, or draws would be copies of "
                f"each other; it is {self.num_samples}. Use more particles, or sweeps."
            )
        if not 0 <= self.ess_threshold <= 1:
            raise ValueError(f"ess_threshold must lie in 0..1; it is {self.ess_threshold}.")
        if self.paths not in ("genealogy", "backward"):
            raise ValueError(f"paths must be 'genealogy' or 'backward'; it is {self.paths!r}.")
        if self.blocks > 1 and (self.sweeps or self.paths == "backward"):
            raise ValueError(
                "blocks must be 1 for sweeps and for backward simulation, which weight whole slices; "
                f"it is {self.blocks}. Use paths: genealogy and sweeps: 0."
            )

    def check(self, model: object) -> None:
        """Raises ``ValueError`` unless the model is autoregressive and supports the sampler's options."""
        check_forward("sequential Monte Carlo", model, OTHER_SAMPLERS)
        assert isinstance(model, ForwardModel)
        encoder, head, sizes = model.encoder, model.head, model.spec.sizes
        if self.paths == "backward" and encoder.receptive_field is None:
            raise ValueError(
                "backward simulation needs an encoder with a finite receptive field; "
                f"{type(encoder).__name__} reads all the past. Use paths: genealogy, or "
                "a WindowEncoder or ConvolutionEncoder."
            )
        if self.blocks > sizes.nodes:
            raise ValueError(
                f"blocks must lie in 1..{sizes.nodes}, the number of nodes; it is {self.blocks}."
            )
        if self.blocks > 1 and encoder.node_axis is None:
            raise ValueError(
                "blocks need an encoder whose state has an axis of nodes (Encoder.node_axis); "
                f"{type(encoder).__name__} has none. Use blocks: 1."
            )
        if self.blocks > 1 and head.joint_entries > sizes.channels:
            raise ValueError(
                f"blocks need a head under which nodes are independent given the past; {type(head).__name__} "
                "over the slice models them jointly. Use over: channels, or blocks: 1."
            )

    @torch.no_grad()
    def __call__(self, model: ForwardModel, batch: SeriesBatch) -> Samples:
        """Draws from the posterior of each window.

        Args:
            model: A model that factorises over time.
            batch: Windows in data units; entries outside ``batch.context`` are drawn.

        Returns:
            Paths in data units, the effective sample size of each step as a fraction of the particles (the
            minimum over blocks), and the log-evidence in nats (None with several blocks, for which the
            product of evidences is biased).
        """
        stream = streams(self.seed, batch.address)
        block = partition(batch.graph, self.blocks).to(stream.device)
        portions = torch.arange(len(stream)).split(draws_per_portion(self.bytes_per_draw(model, batch)))
        results = [
            self._draw(model, batch.rows(slice(int(rows[0]), int(rows[-1]) + 1)), stream[rows], block)
            for rows in portions
        ]
        values, ess, evidence, poor = zip(*results, strict=True)
        if any(poor):
            warnings.warn(self._advice(), DegeneracyWarning, stacklevel=3)
        return Samples(
            values=torch.cat(values, dim=1),
            conditioning=self.conditioning,
            ess=torch.cat(ess) / self.particles,
            log_evidence=torch.cat(evidence) if self.blocks == 1 else None,
        )

    def bytes_per_draw(self, model: ForwardModel, batch: SeriesBatch) -> int:
        """Counts the particles of one window with their history, from which all its draws are built."""
        _, steps, nodes, channels = batch.values.shape
        carried = max(64, model.encoder.carried(steps))
        kept = steps * (channels + (carried if self.paths == "backward" else 0))
        return self.particles * nodes * (carried + kept) * model.node_units.precision.itemsize

    def _draw(
        self,
        model: ForwardModel,
        batch: SeriesBatch,
        stream: Int64[Tensor, "batch"],
        block: Int64[Tensor, "nodes"],
    ) -> tuple[Tensor, Tensor, Tensor, bool]:
        """Returns paths, effective sample sizes, log-evidence, and whether too few particles carry weight."""
        filter_ = ParticleFilter(model, batch, self.particles, stream, block)
        history = self._run_filter(filter_, self.ess_threshold)
        ends = _draw_ends(history.log_weight[-1], self.num_samples, stream)
        unknown = ~batch.context.flatten(2).all(dim=2)
        # of fewer than 2 * MIN_EFFECTIVE_PARTICLES particles half must be effective; windows without unknown
        # entries do not count
        threshold = min(MIN_EFFECTIVE_PARTICLES, self.particles / 2)
        poor = bool((history.ess < threshold)[unknown.any(dim=1)].any())
        if self.paths == "backward":
            paths = self._simulate_backwards_in_portions(model, batch, history, ends, stream)
        else:
            paths = _follow_ancestors(history, ends, block)
            sizes = _path_sizes(history)
            poor |= bool((sizes < threshold)[unknown].any())
        if self.sweeps:
            paths, changes = self._sweep(model, batch, paths, stream)
            # sweeps remedy a poor first filter at the steps where they change each path at least once on
            # average
            poor = bool((changes < 1)[unknown].any())
        return paths, history.ess, history.log_evidence, poor

    def _run_filter(self, filter_: ParticleFilter, ess_threshold: float) -> History:
        """Runs a filter and returns its history."""
        steps, rows = list[Any](), (self.particles, len(filter_.stream))
        for moved in filter_.run(ess_threshold):
            steps.append(
                (
                    moved.step.values.squeeze(1).unflatten(0, rows),
                    moved.ancestors,
                    moved.log_weight,
                    moved.step.state if self.paths == "backward" else None,
                    moved.ess.amin(dim=1),
                    moved.log_evidence.sum(dim=1),
                )
            )
        values, ancestors, log_weight, states, ess, evidence = map(list, zip(*steps, strict=True))
        sizes, log_evidence = torch.stack(ess, dim=1), torch.stack(evidence).sum(dim=0)
        return History(values, ancestors, log_weight, states, sizes, log_evidence)

    def _simulate_backwards_in_portions(
        self,
        model: ForwardModel,
        batch: SeriesBatch,
        history: History,
        ends: Int64[Tensor, "samples batch 1"],
        stream: Int64[Tensor, "batch"],
    ) -> Float[Tensor, "samples batch time nodes channels"]:
        """Draws paths by backward simulation, in portions: each path reweights all particles per step."""
        nodes = len(stream) * self.particles * batch.values.shape[2]
        ahead = max(64, model.encoder.carried(batch.values.shape[1]))
        portion = draws_per_portion(nodes * ahead * model.node_units.precision.itemsize)
        samples = torch.arange(len(ends), device=stream.device)
        return torch.cat(
            [
                simulate_backwards(
                    model, batch, history, ends[some], streams(BACKWARD, stream, samples[some, None])
                )
                for some in samples.split(portion)
            ]
        )

    def _sweep(
        self,
        model: ForwardModel,
        batch: SeriesBatch,
        paths: Float[Tensor, "samples batch time nodes channels"],
        stream: Int64[Tensor, "batch"],
    ) -> tuple[Tensor, Float[Tensor, "batch time"]]:
        """Returns the paths after all sweeps, and how often each step was changed, on average over paths."""
        portion = draws_per_portion(len(stream) * self.bytes_per_draw(model, batch))
        samples, swept, counts = torch.arange(len(paths), device=stream.device), [], 0.0
        for some in samples.split(portion):
            rows, path = batch.repeat(len(some)), paths[some].flatten(0, 1)
            for sweep in range(self.sweeps):
                number = torch.full_like(some, sweep)
                row_stream = streams(SWEEP, stream, some[:, None], number[:, None]).flatten()
                new = self._update_path(model, rows, path, row_stream)
                changed = (new != path).flatten(2).any(dim=2).to(new.dtype)
                counts = counts + changed.unflatten(0, (len(some), -1)).sum(dim=0)
                path = new
            swept.append(path.unflatten(0, (len(some), -1)))
        return torch.cat(swept), torch.as_tensor(counts) / len(paths)

    def _update_path(
        self,
        model: ForwardModel,
        rows: SeriesBatch,
        path: Float[Tensor, "rows time nodes channels"],
        stream: Int64[Tensor, "rows"],
    ) -> Float[Tensor, "rows time nodes channels"]:
        """Returns a new path of each row, drawn from a filter that retains the given one."""
        filter_ = ParticleFilter(model, rows, self.particles, stream, retained=path)
        history = self._run_filter(filter_, self.ess_threshold)
        ends = _draw_ends(history.log_weight[-1], 1, stream)
        if self.paths == "backward":
            return simulate_backwards(model, rows, history, ends, streams(BACKWARD, stream)[None])[0]
        return _follow_ancestors(history, ends, filter_.block)[0]

    def _advice(self) -> str:
        """Returns the text of the degeneracy warning, with the remedies that the options leave open."""
        remedies = ["more particles"]
        if self.blocks == 1:
            remedies += ["more sweeps"] if self.sweeps else ["paths: backward", "sweeps"]
        if not self.sweeps:
            remedies.append("blocks")
        problem = (
            "the sweeps leave some unknown entries unchanged"
            if self.sweeps
            else f"fewer than {MIN_EFFECTIVE_PARTICLES} effective particles remain at some step"
        )
        return (
            f"with {self.particles} particles {problem}: these draws are not a reliable posterior. Use "
            f"{', '.join(remedies)}, or an AnyOrderModel."
        )


def simulate_backwards(
    model: ForwardModel,
    batch: SeriesBatch,
    history: History,
    ends: Int64[Tensor, "samples batch 1"],
    stream: Int64[Tensor, "samples batch"],
) -> Float[Tensor, "samples batch time nodes channels"]:
    """Draws paths by backward simulation from the given last particles.

    Args:
        model: A model whose encoder has a finite receptive field.
        batch: The windows.
        history: The history of a filter with one block, including the encoder's states.
        ends: The particles that the paths end in.
        stream: One random stream for each path.

    Returns:
        Paths in data units.
    """
    reach = model.encoder.receptive_field
    assert reach is not None  # SMC.check requires a finite receptive field
    length, propagation = batch.values.shape[1], Propagation(batch.graph)
    point = uniforms(stream, (length,), dtype=history.log_weight[-1].dtype)
    path = [_select_particle(history.values[-1], ends[..., 0])]  # latest slice first
    for t in reversed(range(length - 1)):
        log_weight = history.log_weight[t][..., 0].expand(len(ends), -1, -1)
        # skipped if the next slices read visible entries alone: these are the same in all particles
        if not batch.context[:, max(0, t + 1 - reach) : t + 1].all():
            ahead = torch.stack(path[-reach:][::-1], dim=2)
            log_weight = log_weight + _density_ahead(model, batch, history, t, ahead, propagation)
        index = choose(log_weight.log_softmax(dim=1).movedim(1, 0), point[None, ..., t])[0]
        path.append(_select_particle(history.values[t], index))
    return torch.stack(path[::-1], dim=2)


def _density_ahead(
    model: ForwardModel,
    batch: SeriesBatch,
    history: History,
    t: int,
    ahead: Float[Tensor, "samples batch ahead nodes channels"],
    propagation: Propagation,
) -> Float[Tensor, "samples particles batch"]:
    """Returns the log-density in nats of each path's slices after t, given each particle's slices up to t."""
    samples, shape = len(ahead), history.log_weight[t].shape[:2]
    rows = ahead[:, None].expand(-1, shape[0], *[-1] * (ahead.dim() - 1)).flatten(0, 2)
    now = batch.steps(slice(t + 1, t + 1 + rows.shape[1])).repeat(samples * shape[0])
    now = now._changed(values=rows)
    current = history.values[t].flatten(0, 1).repeat(samples, 1, 1)[:, None]
    units = model.units(now)
    before = units.standardise(torch.cat([current, rows[:, :-1]], dim=1))
    state = map_state(lambda x: x.repeat(samples, *[1] * (x.dim() - 1)), history.states[t])
    h, _ = model.advance(now, (before, torch.ones_like(before)), propagation, state)
    law = model.predict(now, h, torch.ones_like(now.context))
    return law.log_prob(rows).sum(dim=(1, 2, 3)).unflatten(0, (samples, *shape))


def _select_particle(
    values: Float[Tensor, "particles batch nodes channels"], index: Int64[Tensor, "samples batch"]
) -> Float[Tensor, "samples batch nodes channels"]:
    """Returns the slice of one particle for each path."""
    return values[index, torch.arange(values.shape[1], device=values.device)]


def _follow_ancestors(
    history: History, ends: Int64[Tensor, "samples batch blocks"], block: Int64[Tensor, "nodes"]
) -> Float[Tensor, "samples batch time nodes channels"]:
    """Returns the paths that end in the given particles, following their ancestors block by block."""
    windows, nodes = (torch.arange(n, device=ends.device) for n in history.values[0].shape[1:3])
    slices = [
        values[index[..., block], windows[:, None], nodes]
        for values, index in zip(history.values, history.trace(ends), strict=True)
    ]
    return torch.stack(slices, dim=2)


def _path_sizes(history: History) -> Float[Tensor, "batch time"]:
    """Returns the effective number of distinct particles at each step on the weighted paths.

    The weight of a path is counted for the particle that it passes through; the result is the minimum over
    blocks.
    """
    weight, sizes = history.log_weight[-1].exp(), []
    itself = torch.arange(len(weight), device=weight.device)[:, None, None].expand_as(weight)
    for index in history.trace(itself):
        share = torch.zeros_like(weight).scatter_add(0, index, weight)
        sizes.append(effective_size(share.log()).amin(dim=1))
    return torch.stack(sizes, dim=1)


def _draw_ends(
    log_weight: Float[Tensor, "particles batch blocks"], count: int, stream: Int64[Tensor, "batch"]
) -> Int64[Tensor, "count batch blocks"]:
    """Returns the particles that paths end in, chosen by systematic resampling.

    Each block is shuffled separately, so that any subset of the paths is representative.
    """
    blocks, end_stream = log_weight.shape[2], streams(ENDS, stream)
    ends = systematic(log_weight, uniforms(end_stream, (blocks,), dtype=log_weight.dtype), count)
    order = uniforms(end_stream, (count, blocks), start=blocks, dtype=log_weight.dtype).argsort(dim=1)
    return ends.gather(0, order.movedim(0, 1))
