"""Models made of an encoder and a head: what the two factorisations share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.optim import Optimizer

from tsgen.counter_random import streams
from tsgen.data.series import SeriesBatch, SeriesSpec, Sizes
from tsgen.encoders import Encoder
from tsgen.heads import Head
from tsgen.heads.base import full_precision
from tsgen.heads.likelihood import count
from tsgen.models.density import DensityModel, OptimizerFactory, SchedulerFactory
from tsgen.objectives import Objective
from tsgen.sampling import Sampler

TRAINING, LAYERS = 1, 2
"""Set the random streams of training, and of layers that are random, apart from those of samplers."""


class NeuralModel(DensityModel):
    """An encoder of what is visible and a head for the law of each entry.

    The encoder reads of each node, in standard units, the entries (zero where not visible), which of them are
    visible, the covariates and, if asked for, an embedding of the node. The head turns its state into laws.

    Args:
        spec: Sizes, units and graph of the data.
        encoder: Makes the encoder from the size of a node's input.
        head: Makes the head from the size of a node's state and the sizes of a slice.
        optimizer: Makes the optimiser from the parameters; AdamW with a rate of 0.002 if not given.
        scheduler: Makes the learning-rate schedule from the optimiser; it steps once an epoch. None keeps the
            rate.
        sampler: How unknown entries are drawn, in test and prediction.
        objective: What training makes small.
        node_embedding: Numbers that are learned of each node and read at every step. With 0 the model knows
            its nodes by their data and their place in the graph alone, and runs on other graphs too (see
            :func:`~tsgen.models.load`).
        numbers_per_entry: Numbers that the encoder reads of each entry: itself, whether it is visible, and
            what the subclass adds in :meth:`features`.
        parts: The parts of the subclass, remembered beside these.

    Raises:
        ValueError: If parts do not go together.
    """

    covariate_loc: Tensor
    covariate_scale: Tensor

    def __init__(
        self,
        spec: SeriesSpec,
        encoder: Callable[[int], Encoder],
        head: Callable[[int, Sizes], Head],
        optimizer: OptimizerFactory | None,
        scheduler: SchedulerFactory | None,
        sampler: Sampler,
        objective: Objective,
        node_embedding: int,
        numbers_per_entry: int = 2,
        **parts: Any,
    ) -> None:
        if node_embedding < 0:
            raise ValueError(f"node_embedding must be 0 or a size; it is {node_embedding}.")
        made_of = {"encoder": encoder, "head": head, "objective": objective, "node_embedding": node_embedding}
        # not a default of the argument: a configuration that is written out could not name it
        optimizer = optimizer or partial(torch.optim.AdamW, lr=2e-3)
        super().__init__(spec, sampler, optimizer, scheduler, **made_of, **parts)
        sizes = self.spec.sizes
        self.register_buffer("covariate_loc", _given(spec.covariate_loc, torch.zeros(sizes.covariates)))
        self.register_buffer("covariate_scale", _given(spec.covariate_scale, torch.ones(sizes.covariates)))
        self.encoder = encoder(numbers_per_entry * sizes.channels + sizes.covariates + node_embedding)
        self.head = head(self.encoder.hidden, sizes)
        self.embedding = nn.Parameter(torch.randn(sizes.nodes, node_embedding)) if node_embedding else None
        self.objective = objective
        self._counts: list[int] = []  # entries scored by the batches accumulated since the last step

    def check_building_blocks(self) -> None:
        """Raises ``ValueError`` unless encoder, head, objective and sampler go together."""
        super().check_building_blocks()
        self.objective.check(self)

    def check_data(self, data: Any, stage: str) -> None:
        """Raises ``ValueError`` unless the model and its parts go with the data."""
        super().check_data(data, stage)
        self.head.check_data(data, stage)
        self.objective.check_data(data, stage)

    @abstractmethod
    def encode(
        self,
        batch: SeriesBatch,
        x: Float[Tensor, "batch time nodes channels"],
        context: Float[Tensor, "batch time nodes channels"],
    ) -> Float[Tensor, "batch time nodes hidden"]:
        """The state that the law of each entry is made of.

        Args:
            batch: The windows: graph and covariates.
            x: The slices in standard units, zero where not visible.
            context: 1 where they are visible, else 0.
        """

    def forward(self, batch: SeriesBatch) -> Distribution:
        """The law of each entry given what is visible and may inform it, in data units."""
        return self.law(batch, *self.inputs(batch))

    def law(self, batch: SeriesBatch, x: Tensor, context: Tensor) -> Distribution:
        """As :meth:`forward`, but with inputs that need not be the batch's own.

        Args:
            batch: The windows.
            x: The slices that the encoder reads, in standard units, zero where not visible.
            context: 1 where they are visible, else 0.
        """
        return self.predict(batch, self.encode(batch, x, context), batch.context)

    def inputs(self, batch: SeriesBatch) -> tuple[Tensor, Tensor]:
        """What may be read of each slice: its entries in standard units, zero where not visible, and 1 where
        they are visible, else 0."""
        x = torch.where(batch.context, self.units_of_nodes(batch).standardise(batch.values), 0)
        return x, batch.context.to(x.dtype)

    def features(
        self, batch: SeriesBatch, x: Tensor, context: Tensor
    ) -> Float[Tensor, "batch time nodes features"]:
        """What the encoder reads at each step."""
        parts, covariates = [x, context], self.covariates(batch)
        if covariates is not None:
            parts.append(covariates.to(x.dtype))
        if self.embedding is not None:
            own = self.embedding if batch.nodes is None else self.embedding[batch.nodes]
            parts.append(own.expand(*x.shape[:2], -1, -1))
        return torch.cat(parts, dim=-1)

    def covariates(self, batch: SeriesBatch) -> Float[Tensor, "batch time nodes covariates"] | None:
        """The covariates in their own standard units.

        Raises:
            ValueError: If the batch has not the covariates that the model was made for.
        """
        promised = self.spec.num_covariates
        there = 0 if batch.covariates is None else batch.covariates.shape[-1]
        if there != promised:
            raise ValueError(
                f"the batch must have {promised} covariates, as the model was told; it has {there}."
            )
        if batch.covariates is None:
            return None
        return (batch.covariates - self.covariate_loc) / self.covariate_scale

    def predict(
        self,
        batch: SeriesBatch,
        h: Float[Tensor, "batch time nodes hidden"],
        context: Bool[Tensor, "batch time nodes channels"],
    ) -> Distribution:
        """The law of each entry given the encoder's state and what is known of its slice, in data units."""
        units = self.units(batch)
        with full_precision(h):
            return self.head(h.to(units.loc.dtype), batch.values, context, units, self.covariates(batch))

    def draw(
        self,
        batch: SeriesBatch,
        h: Float[Tensor, "batch time nodes hidden"],
        context: Bool[Tensor, "batch time nodes channels"],
        uniforms: Float[Tensor, "batch time nodes channels uniforms"],
    ) -> Float[Tensor, "batch time nodes channels"]:
        """The slices with what is not known of them drawn, in data units."""
        units = self.units(batch)
        with full_precision(h):
            return self.head.draw(
                h.to(units.loc.dtype), batch.values, context, units, uniforms, self.covariates(batch)
            )

    def training_step(self, batch: SeriesBatch, index: int) -> Tensor:
        """The loss of a batch.

        Where gradients are accumulated over some batches, each counts by the entries that it scores, so that
        the step is that of one batch of all of them.
        """
        # one key more than what training hides has: the two never share a stream, whatever their seeds
        purpose, epoch = (torch.full_like(batch.position[:, 0], n) for n in (TRAINING, self.current_epoch))
        stream = streams(torch.initial_seed(), purpose, epoch, batch.position[:, 0])
        with self._numbers_of(index):
            loss = self.objective.loss(self, batch, stream, self.global_step)
        name = "train/nll" if self.objective.is_nll else "train/loss"
        self.log(name, loss.detach(), prog_bar=True, sync_dist=True, batch_size=len(batch.values))
        if getattr(self._trainer, "accumulate_grad_batches", 1) == 1:
            return loss
        # all counts are known with the last of the batches: weights relative to the first are mended then
        self._counts.append(int(count(self.objective.target(self, batch, self.global_step))))
        return loss * (self._counts[-1] / max(1, self._counts[0]))

    @contextmanager
    def _numbers_of(self, index: int) -> Iterator[None]:
        """Random numbers of torch's own, which dropout draws, by (seed, epoch, batch, process) for a while.

        No checkpoint holds the state of torch's generators, and the trainer seeds every process alike.
        """
        address = (LAYERS, self.current_epoch, index, self.global_rank)
        seed = int(streams(torch.initial_seed(), *(torch.tensor(key) for key in address)))
        on_gpu = self.device.type == "cuda"
        # forked: what is drawn elsewhere goes on, and so does the seed that every address begins with
        with torch.random.fork_rng([self.device] if on_gpu else []):
            torch.default_generator.manual_seed(seed)
            if on_gpu:
                with torch.cuda.device(self.device):
                    torch.cuda.manual_seed(seed)
            yield

    def on_train_epoch_start(self) -> None:
        """Forgets batches of an epoch that was broken off."""
        self._counts.clear()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Makes accumulated gradients those of the mean over all entries, before they are clipped, and logs
        their norm and the learning rate."""
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        if self._counts:
            # the trainer has divided by the number of batches that it meant to accumulate
            share = self.trainer.accumulate_grad_batches * max(1, self._counts[0]) / max(1, sum(self._counts))
            torch._foreach_mul_(gradients, share)
            self._counts.clear()
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (self.global_step + 1) % every == 0 and gradients:
            self.log("train/grad_norm", torch.nn.utils.get_total_norm(gradients))
            self.log("train/lr", optimizer.param_groups[0]["lr"])

    def validation_law(self, batch: SeriesBatch) -> Distribution | None:
        """The laws by the light of the objective, where it has any."""
        return self.objective.law(self, batch)

    def validation_log_prob(self, batch: SeriesBatch) -> Tensor:
        """What validation judges by: the densities by the light of the objective."""
        return self.objective.log_prob(self, batch)

    @property
    def needs_all_nodes(self) -> str | None:
        """The head, if it makes whole slices joint; the objective, if it scores whatever is visible."""
        if self.head.joint_entries > self.spec.sizes.channels:
            return f"{type(self.head).__name__} over the slice"
        return None if self.objective.scores_targets else type(self.objective).__name__

    @property
    def knows_its_nodes(self) -> bool:
        """Whether some parameters belong to single nodes, so that the model runs on no others."""
        return self.embedding is not None or self.head.of_nodes


def _given(units: Tensor | None, default: Tensor) -> Tensor:
    return default if units is None else units.clone()
