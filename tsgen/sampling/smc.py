r"""Sequential Monte Carlo: whole paths from the posterior of a model that factorises over time.

A particle filter (:mod:`tsgen.sampling.particles`) draws the unknown entries slice by slice, as ancestral
sampling does, and weighs and resamples what was drawn by what turns out to be visible. Where its weighted
paths are too poor there are two remedies.

*Backward simulation.* A path is put together from its end: given its slices after t, the slice at t is that
of particle k with probability in proportion to

.. math:: W_t^k \prod_{s=t+1}^{t+p} p(x_s \mid x_{t+1:s-1}, x^k_{\le t})

for a model that looks back on p slices: later ones do not depend on the choice.

*Conditional sequential Monte Carlo.* A filter is run once more with a path as its first particle, retained
whatever its weight; a path drawn from what it finds is the next one. With any number of particles this leaves
the posterior as it is, so that repeated it converges to it (particle Gibbs). Drawn by backward simulation
instead of by ancestry, paths change in all their steps.

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

from tsgen.counter_random import streams, uniforms
from tsgen.data.graphs import partition
from tsgen.data.series import Samples, SeriesBatch
from tsgen.encoders.base import map_state
from tsgen.encoders.propagation import Propagation
from tsgen.protocols import ForwardModel, check_forward
from tsgen.sampling.base import OTHER_SAMPLERS, Sampler, draws_at_once
from tsgen.sampling.particles import ParticleFilter, choose, effective_size, systematic

ENDS, BACKWARD, SWEEP = 3, 4, 5
"""Set the random streams of final choices, of backward simulation and of sweeps apart."""

FEW = 10
"""Below so many effective particles a mean over them says little."""


class DegeneracyWarning(UserWarning):
    """So few particles carry the weight that draws are not to be trusted."""


class History(NamedTuple):
    """What a filter leaves behind.

    Attributes:
        values: The slices drawn at each step, in data units.
        ancestors: At each step the particle that each of the next step goes on from; None for itself.
        log_weight: Logarithms of the weights after each step.
        states: What the encoder carries on from each step, where it is kept.
        ess: The effective sample size of the poorest block.
        log_evidence: The logarithm of the estimate of the evidence, in nats.
    """

    values: list[Float[Tensor, "particles batch nodes channels"]]
    ancestors: list[Int64[Tensor, "particles batch blocks"] | None]
    log_weight: list[Float[Tensor, "particles batch blocks"]]
    states: list[Any]
    ess: Float[Tensor, "batch time"]
    log_evidence: Float[Tensor, "batch"]

    def trace(self, ends: Int64[Tensor, "paths batch blocks"]) -> list[Int64[Tensor, "paths batch blocks"]]:
        """The particles of every step that paths go through.

        Args:
            ends: The particles that they end in.
        """
        index = [ends]
        for ancestors in reversed(self.ancestors[:-1]):
            index.append(index[-1] if ancestors is None else ancestors.gather(0, index[-1]))
        return index[::-1]


@dataclass(frozen=True)
class SMC(Sampler[ForwardModel]):
    r"""Draws whole paths from the POSTERIOR, the unknown entries given all that is visible, by a particle
    filter.

    Particles draw what is unknown of a slice from the model and are weighed by the density of what is
    visible of it given their past. Where entries of a slice have laws of their own, or the head knows first
    what is known (``MixtureNADEHead(order="any")``), the unknown entries are drawn given the visible ones of
    their slice and the weight :math:`p(\text{visible} \mid \text{past})` does not depend on the draw: this is
    the locally optimal proposal, so that there is no other to choose. A NADE in a given order is weighed
    after its draw.

    Draws of a window come from the same particles and are not independent of each other; with ``sweeps``
    they go apart. Exact as ``particles`` grows, but the number needed grows exponentially with the number of
    visible entries of a slice that holes make uncertain (see :class:`DegeneracyWarning`). Time is that of
    ancestral sampling with as many samples as there are particles; backward simulation costs ``num_samples *
    particles`` times p steps a slice besides, and each sweep that of ``num_samples`` filters.

    Args:
        num_samples: Draws of each window.
        particles: Particles of each window's filter, and of each filter of a sweep.
        ess_threshold: Particles are resampled where their effective sample size falls below this share of
            them: 0 for never, 1 for always.
        paths: How paths are put together: from each particle's ancestors (``"genealogy"``), few of which are
            left at the early steps of a long window, or by backward simulation (``"backward"``), for encoders
            with a finite receptive field.
        sweeps: Sweeps of conditional sequential Monte Carlo that renew each drawn path.
        blocks: Parts of the graph that are weighed and resampled by themselves, for graphs too large for one
            filter. It is biased: what is visible in one block says nothing of the others at the same step.
        seed: Fixes the draws.

    Raises:
        ValueError: If a number or a word is out of range, or options do not go together.

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
                f"num_samples must be at most particles, {self.particles}, or draws are copies of each "
                f"other; it is {self.num_samples}. Take more particles, or sweeps."
            )
        if not 0 <= self.ess_threshold <= 1:
            raise ValueError(f"ess_threshold must lie in 0..1; it is {self.ess_threshold}.")
        if self.paths not in ("genealogy", "backward"):
            raise ValueError(f"paths must be 'genealogy' or 'backward'; it is {self.paths!r}.")
        if self.blocks > 1 and (self.sweeps or self.paths == "backward"):
            raise ValueError(
                "blocks must be 1 for sweeps and for backward simulation, whose weights are of whole slices; "
                f"it is {self.blocks}. Use paths: genealogy and sweeps: 0."
            )

    def check(self, model: object) -> None:
        """Raises ``ValueError`` unless the model goes forward slice by slice and its parts allow what is
        asked."""
        check_forward("sequential Monte Carlo", model, OTHER_SAMPLERS)
        assert isinstance(model, ForwardModel)
        encoder, head, sizes = model.encoder, model.head, model.spec.sizes
        if self.paths == "backward" and encoder.receptive_field is None:
            raise ValueError(
                "backward simulation needs an encoder with a finite receptive field; "
                f"{type(encoder).__name__} reads all the past. Use paths: genealogy, or "
                "a WindowEncoder or ConvolutionEncoder."
            )
        if self.paths == "backward" and head.context_first and head.joint_entries > 1:
            raise ValueError(
                "backward simulation needs a head that gives the joint density of a slice in one pass, "
                f"whatever is known; {type(head).__name__} with order: any does not. Use paths: genealogy."
            )
        if self.blocks > sizes.nodes:
            raise ValueError(
                f"blocks must lie in 1..{sizes.nodes}, the number of nodes; it is {self.blocks}."
            )
        if self.blocks > 1 and encoder.node_axis is None:
            raise ValueError(
                f"blocks need an encoder whose state is made of states of nodes; {type(encoder).__name__} "
                "says of none (Encoder.node_axis). Use blocks: 1."
            )
        if self.blocks > 1 and head.joint_entries > sizes.channels:
            raise ValueError(
                f"blocks need a head under which nodes are independent given the past; {type(head).__name__} "
                "over the slice makes them joint. Use over: channels, or blocks: 1."
            )

    @torch.no_grad()
    def __call__(self, model: ForwardModel, batch: SeriesBatch) -> Samples:
        """Draws from the posterior of each window.

        Args:
            model: A model that factorises over time.
            batch: Windows in data units; entries outside ``batch.context`` are drawn.

        Returns:
            Paths, the effective sample size of each step (of the poorest block, where there are several) and
            the log-evidence in nats (None with several blocks, whose product is biased).
        """
        stream = streams(self.seed, batch.position[:, 0])
        block = partition(batch.graph, self.blocks).to(stream.device)
        windows = torch.arange(len(stream)).split(draws_at_once(self.bytes_a_draw(model, batch)))
        found = [
            self._draw(model, batch.rows(slice(int(few[0]), int(few[-1]) + 1)), stream[few], block)
            for few in windows
        ]
        values, ess, evidence, poor = zip(*found, strict=True)
        if any(poor):
            warnings.warn(self._advice(), DegeneracyWarning, stacklevel=3)
        return Samples(
            values=torch.cat(values, dim=1),
            conditioning=self.conditioning,
            ess=torch.cat(ess) / self.particles,
            log_evidence=torch.cat(evidence) if self.blocks == 1 else None,
        )

    def bytes_a_draw(self, model: ForwardModel, batch: SeriesBatch) -> int:
        """What the particles of one window take with their history; its draws are made of them together."""
        _, steps, nodes, channels = batch.values.shape
        carried = max(64, model.encoder.carried(steps))
        kept = steps * (channels + (carried if self.paths == "backward" else 0))
        return self.particles * nodes * (carried + kept) * model.loc.element_size()

    def _draw(
        self,
        model: ForwardModel,
        batch: SeriesBatch,
        stream: Int64[Tensor, "batch"],
        block: Int64[Tensor, "nodes"],
    ) -> tuple[Tensor, Tensor, Tensor, bool]:
        """Paths, effective sample sizes, log-evidence, and whether they are too poor to be trusted."""
        moves = ParticleFilter(model, batch, self.particles, stream, block)
        history = self._filtered(moves, self.ess_threshold)
        ends = _ends(history.log_weight[-1], self.num_samples, stream)
        unknown = ~batch.context.flatten(2).all(dim=2)
        # of few particles half must carry weight; where nothing is unknown there is nothing to distrust
        few = min(FEW, self.particles / 2)
        poor = bool((history.ess < few)[unknown.any(dim=1)].any())
        if self.paths == "backward":
            paths = self._portions(model, batch, history, ends, stream)
        else:
            paths = _put_together(history, ends, block)
            sizes = _path_sizes(history)
            poor |= bool((sizes < few)[unknown].any())
        if self.sweeps:
            paths, renewed = self._swept(model, batch, paths, stream)
            # what the first filter lacked, the sweeps make good where they change what they find
            poor = bool((renewed < 1)[unknown].any())
        return paths, history.ess, history.log_evidence, poor

    def _filtered(self, moves: ParticleFilter, ess_threshold: float) -> History:
        """Runs a filter and keeps what paths are made of."""
        steps, rows = list[Any](), (self.particles, len(moves.stream))
        for moved in moves.run(ess_threshold):
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

    def _portions(
        self,
        model: ForwardModel,
        batch: SeriesBatch,
        history: History,
        ends: Int64[Tensor, "samples batch 1"],
        stream: Int64[Tensor, "batch"],
    ) -> Float[Tensor, "samples batch time nodes channels"]:
        """Paths by backward simulation, few at a time: each weighs all particles anew at every step."""
        nodes = len(stream) * self.particles * batch.values.shape[2]
        ahead = max(64, model.encoder.carried(batch.values.shape[1]))
        portion = draws_at_once(nodes * ahead * model.loc.element_size())
        samples = torch.arange(len(ends), device=stream.device)
        return torch.cat(
            [
                simulate_backwards(
                    model, batch, history, ends[few], streams(BACKWARD, stream, samples[few, None])
                )
                for few in samples.split(portion)
            ]
        )

    def _swept(
        self,
        model: ForwardModel,
        batch: SeriesBatch,
        paths: Float[Tensor, "samples batch time nodes channels"],
        stream: Int64[Tensor, "batch"],
    ) -> tuple[Tensor, Float[Tensor, "batch time"]]:
        """Paths after all sweeps, and how often each step was changed, on average over paths."""
        portion = draws_at_once(len(stream) * self.bytes_a_draw(model, batch))
        samples, done, counts = torch.arange(len(paths), device=stream.device), [], 0.0
        for few in samples.split(portion):
            rows, path = batch.repeat(len(few)), paths[few].flatten(0, 1)
            for sweep in range(self.sweeps):
                number = torch.full_like(few, sweep)
                own = streams(SWEEP, stream, few[:, None], number[:, None]).flatten()
                new = self._renewed(model, rows, path, own)
                changed = (new != path).flatten(2).any(dim=2).to(new.dtype)
                counts = counts + changed.unflatten(0, (len(few), -1)).sum(dim=0)
                path = new
            done.append(path.unflatten(0, (len(few), -1)))
        return torch.cat(done), torch.as_tensor(counts) / len(paths)

    def _renewed(
        self,
        model: ForwardModel,
        rows: SeriesBatch,
        path: Float[Tensor, "rows time nodes channels"],
        stream: Int64[Tensor, "rows"],
    ) -> Float[Tensor, "rows time nodes channels"]:
        """One more path of each row, from a filter in which the last one was retained."""
        moves = ParticleFilter(model, rows, self.particles, stream, retained=path)
        history = self._filtered(moves, self.ess_threshold)
        ends = _ends(history.log_weight[-1], 1, stream)
        if self.paths == "backward":
            return simulate_backwards(model, rows, history, ends, streams(BACKWARD, stream)[None])[0]
        return _put_together(history, ends, moves.block)[0]

    def _advice(self) -> str:
        remedies = ["more particles"]
        if self.blocks == 1:
            remedies += ["more sweeps"] if self.sweeps else ["paths: backward", "sweeps"]
        if not self.sweeps:
            remedies.append("blocks")
        what = (
            "the sweeps leave some unknown entries as they were"
            if self.sweeps
            else f"fewer than {FEW} effective particles are left at some step"
        )
        return (
            f"with {self.particles} particles {what}: these draws are not to be trusted as a posterior. Use "
            f"{', '.join(remedies)}, or an AnyOrderModel."
        )


def simulate_backwards(
    model: ForwardModel,
    batch: SeriesBatch,
    history: History,
    ends: Int64[Tensor, "samples batch 1"],
    stream: Int64[Tensor, "samples batch"],
) -> Float[Tensor, "samples batch time nodes channels"]:
    """Paths put together from their ends by backward simulation.

    Args:
        model: A model that looks back on a bounded number of slices.
        batch: The windows.
        history: What a filter found, in one block, with the encoder's states.
        ends: The particles that the paths end in.
        stream: One random stream for each path.
    """
    reach = model.encoder.receptive_field
    assert reach is not None  # checked with the model
    length, propagation = batch.values.shape[1], Propagation(batch.graph)
    point = uniforms(stream, (length,), dtype=history.log_weight[-1].dtype)
    path = [_at(history.values[-1], ends[..., 0])]  # latest first
    for t in reversed(range(length - 1)):
        log_weight = history.log_weight[t][..., 0].expand(len(ends), -1, -1)
        # where all that the next slices look back on is visible, all particles agree on it
        if not batch.context[:, max(0, t + 1 - reach) : t + 1].all():
            ahead = torch.stack(path[-reach:][::-1], dim=2)
            log_weight = log_weight + _density_ahead(model, batch, history, t, ahead, propagation)
        index = choose(log_weight.log_softmax(dim=1).movedim(1, 0), point[None, ..., t])[0]
        path.append(_at(history.values[t], index))
    return torch.stack(path[::-1], dim=2)


def _density_ahead(
    model: ForwardModel,
    batch: SeriesBatch,
    history: History,
    t: int,
    ahead: Float[Tensor, "samples batch ahead nodes channels"],
    propagation: Propagation,
) -> Float[Tensor, "samples particles batch"]:
    """The log-density of the slices after t of every path, had it gone through each particle, in nats."""
    samples, shape = len(ahead), history.log_weight[t].shape[:2]
    rows = ahead[:, None].expand(-1, shape[0], *[-1] * (ahead.dim() - 1)).flatten(0, 2)
    now = batch.steps(slice(t + 1, t + 1 + rows.shape[1])).repeat(samples * shape[0])
    now = now._changed(values=rows)
    here = history.values[t].flatten(0, 1).repeat(samples, 1, 1)[:, None]
    units = model.units(now)
    before = units.standardise(torch.cat([here, rows[:, :-1]], dim=1))
    state = map_state(lambda x: x.repeat(samples, *[1] * (x.dim() - 1)), history.states[t])
    h, _ = model.advance(now, (before, torch.ones_like(before)), propagation, state)
    law = model.predict(now, h, torch.ones_like(now.context))
    return law.log_prob(rows).sum(dim=(1, 2, 3)).unflatten(0, (samples, *shape))


def _at(
    values: Float[Tensor, "particles batch nodes channels"], index: Int64[Tensor, "samples batch"]
) -> Float[Tensor, "samples batch nodes channels"]:
    """The slices of one particle for each path."""
    return values[index, torch.arange(values.shape[1], device=values.device)]


def _put_together(
    history: History, ends: Int64[Tensor, "samples batch blocks"], block: Int64[Tensor, "nodes"]
) -> Float[Tensor, "samples batch time nodes channels"]:
    """Paths by their ancestors, block by block."""
    windows, nodes = (torch.arange(n, device=ends.device) for n in history.values[0].shape[1:3])
    slices = [
        values[index[..., block], windows[:, None], nodes]
        for values, index in zip(history.values, history.trace(ends), strict=True)
    ]
    return torch.stack(slices, dim=2)


def _path_sizes(history: History) -> Float[Tensor, "batch time"]:
    """The effective number of different slices of each step that all weighted paths go through, in the
    poorest block."""
    weight, sizes = history.log_weight[-1].exp(), []
    itself = torch.arange(len(weight), device=weight.device)[:, None, None].expand_as(weight)
    for index in history.trace(itself):
        share = torch.zeros_like(weight).scatter_add(0, index, weight)
        sizes.append(effective_size(share.log()).amin(dim=1))
    return torch.stack(sizes, dim=1)


def _ends(
    log_weight: Float[Tensor, "particles batch blocks"], count: int, stream: Int64[Tensor, "batch"]
) -> Int64[Tensor, "count batch blocks"]:
    """The particles that paths end in, by systematic choice, in an order of each block's own: the first few
    are as good as any."""
    blocks, own = log_weight.shape[2], streams(ENDS, stream)
    ends = systematic(log_weight, uniforms(own, (blocks,), dtype=log_weight.dtype), count)
    order = uniforms(own, (count, blocks), start=blocks, dtype=log_weight.dtype).argsort(dim=1)
    return ends.gather(0, order.movedim(0, 1))
