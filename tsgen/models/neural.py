"""Models made of an encoder and a head: the common base of autoregressive and any-order models."""

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

from tsgen.argument_types import check_arguments, made
from tsgen.counter_random import streams
from tsgen.data.series import SeriesBatch, SeriesSpec, Sizes, Units
from tsgen.encoders import Encoder
from tsgen.heads import Head
from tsgen.heads.base import full_precision
from tsgen.heads.likelihood import count
from tsgen.models.density import DensityModel, OptimizerFactory, SchedulerFactory
from tsgen.models.finiteness import diverged, extreme, is_searching_rate
from tsgen.objectives import Objective
from tsgen.sampling import Sampler

TRAINING, LAYERS = 1, 2
"""Stream keys that separate the random numbers of training and of random layers from those of samplers."""


class NeuralModel(DensityModel):
    """An encoder of the visible entries and a head for the law of each entry.

    For each node the encoder reads the entries in standard units (zero outside the context), the context
    mask, the covariates and, optionally, an embedding of the node. The head turns the encoder's output into
    laws.

    Args:
        spec: Sizes, units and graph of the data.
        encoder: Makes the encoder from the size of a node's input.
        head: Makes the head from the size of a node's state and the sizes of a slice.
        optimizer: Makes the optimiser from the parameters; AdamW with a rate of 0.002 if not given.
        scheduler: Makes the learning-rate schedule from the optimiser; it steps once per epoch. None keeps
            the rate constant.
        sampler: How unknown entries are drawn in test and prediction.
        objective: The loss that training minimises.
        node_embedding: Size of the learned embedding of each node, which the encoder reads at every step.
            With 0 the model distinguishes nodes only by their data and their place in the graph, and runs on
            other graphs too (see :func:`~tsgen.models.load`).
        numbers_per_entry: How many numbers the encoder reads for each entry: its value, its context flag, and
            those that the subclass adds in :meth:`features`.
        options: Further constructor arguments of the subclass, saved with the hyperparameters.

    Raises:
        ValueError: If building blocks are incompatible.
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
        **options: Any,
    ) -> None:
        if node_embedding < 0:
            raise ValueError(f"node_embedding must be 0 or a size; it is {node_embedding}.")
        arguments = {
            "encoder": encoder,
            "head": head,
            "objective": objective,
            "node_embedding": node_embedding,
        }
        # not the argument's default: a partial cannot be written to a saved configuration
        optimizer = optimizer or partial(torch.optim.AdamW, lr=2e-3)
        super().__init__(spec, sampler, optimizer, scheduler, **arguments, **options)
        sizes = self.spec.sizes
        loc, scale = spec.covariate_loc, spec.covariate_scale
        self.register_units("covariate_loc", torch.zeros(sizes.covariates) if loc is None else loc)
        self.register_units("covariate_scale", torch.ones(sizes.covariates) if scale is None else scale)
        features = numbers_per_entry * sizes.channels + sizes.covariates + node_embedding
        self.encoder = made("encoder", Encoder, encoder, features)
        self.head = made("head", Head, head, self.encoder.hidden, sizes)
        if self.head.follows_support and spec.transforms is not None:
            self._set_images(spec)
        self.embedding = nn.Parameter(torch.randn(sizes.nodes, node_embedding)) if node_embedding else None
        self.objective = objective
        self._counts: list[int] = []  # target entries of the batches accumulated since the last step

    def _set_images(self, spec: SeriesSpec) -> None:
        """Takes the units of the channels' images, so that laws are those of values on the supports."""
        images = spec.image_units
        self.transforms = images.transforms
        self.register_units("loc", images.loc)
        self.register_units("scale", images.scale)

    def check_building_blocks(self) -> None:
        """Raises ``ValueError`` unless encoder, head, objective and sampler are compatible."""
        super().check_building_blocks()
        self.objective.check(self)

    def setup(self, stage: str) -> None:
        """Checks building blocks, data and precision before a run."""
        super().setup(stage)
        if stage == "fit" and self.trainer.precision == "16-true":
            raise ValueError(
                "trainer.precision must not be 16-true in training, since float16 rounds the optimiser's "
                "epsilon of 1e-8 to zero and weights become NaN. Use bf16-true, bf16-mixed or 16-mixed."
            )

    def check_data(self, data: Any, stage: str) -> None:
        """Raises ``ValueError`` unless the model and its objective can be used with the data."""
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
        """Returns the encoder's output, from which the head computes the law of each entry.

        Args:
            batch: The windows, of which graph and covariates are read.
            x: The slices in standard units, zero outside the context.
            context: 1 for entries in the context, else 0.
        """

    @check_arguments
    def forward(self, batch: SeriesBatch) -> Distribution:
        """Returns the law of each entry given the visible entries it may depend on, in data units."""
        return self.law(batch, *self.inputs(batch))

    def law(self, batch: SeriesBatch, x: Tensor, context: Tensor) -> Distribution:
        """Returns the same as :meth:`forward`, but for inputs that may differ from the batch's values.

        Args:
            batch: The windows.
            x: The slices that the encoder reads, in standard units, zero outside the context.
            context: 1 for entries in the context, else 0.
        """
        return self.predict(batch, self.encode(batch, x, context), batch.context)

    def inputs(self, batch: SeriesBatch) -> tuple[Tensor, Tensor]:
        """Returns the values in standard units, zero outside the context, and the context as 0 and 1."""
        x = torch.where(batch.context, self.units_of_nodes(batch).standardise(batch.values), 0)
        return x, batch.context.to(x.dtype)

    def features(
        self, batch: SeriesBatch, x: Tensor, context: Tensor
    ) -> Float[Tensor, "batch time nodes features"]:
        """Returns the encoder's input at each step, in the encoder's precision."""
        features, covariates = [x, context], self.covariates(batch)
        if covariates is not None:
            features.append(covariates)
        if self.embedding is not None:
            embedding = self.embedding if batch.nodes is None else self.embedding[batch.nodes]
            features.append(embedding.expand(*x.shape[:2], -1, -1))
        return torch.cat(features, dim=-1).to(self._network_dtype)

    @property
    def _network_dtype(self) -> torch.dtype:
        """The precision of the encoder, half precision included."""
        return next((weight.dtype for weight in self.encoder.parameters()), self.precision)

    def covariates(self, batch: SeriesBatch) -> Float[Tensor, "batch time nodes covariates"] | None:
        """Returns the covariates in their standard units, or None if there are none.

        Raises:
            ValueError: If the number of covariates differs from that in the model's spec.
        """
        expected = self.spec.num_covariates
        num_covariates = 0 if batch.covariates is None else batch.covariates.shape[-1]
        if num_covariates != expected:
            raise ValueError(
                f"the batch must have {expected} covariates, as in the spec of the model; "
                f"it has {num_covariates}."
            )
        if batch.covariates is None:
            return None
        units = Units(self.covariate_loc, self.covariate_scale, dtype=self.precision)
        return units.standardise(batch.covariates)

    def predict(
        self,
        batch: SeriesBatch,
        h: Float[Tensor, "batch time nodes hidden"],
        context: Bool[Tensor, "batch time nodes channels"],
    ) -> Distribution:
        """Returns the law of each entry in data units, given the encoder's output and its slice's context."""
        units = self.units(batch)
        with full_precision(h):
            return self.head(h.to(self.precision), batch.values, context, units, self.covariates(batch))

    def draw(
        self,
        batch: SeriesBatch,
        h: Float[Tensor, "batch time nodes hidden"],
        context: Bool[Tensor, "batch time nodes channels"],
        uniforms: Float[Tensor, "batch time nodes channels uniforms"],
    ) -> Float[Tensor, "batch time nodes channels"]:
        """Returns the slices in data units, with the entries outside the context drawn."""
        units = self.units(batch)
        with full_precision(h):
            return self.head.draw(
                h.to(self.precision), batch.values, context, units, uniforms, self.covariates(batch)
            )

    def proposal(
        self,
        batch: SeriesBatch,
        h: Float[Tensor, "batch time nodes hidden"],
        context: Bool[Tensor, "batch time nodes channels"],
    ) -> Distribution:
        """Returns the laws from which :meth:`draw` took the entries outside the context, in data units.

        Args:
            batch: The complete slices, the draws among their values.
            h: The encoder's output.
            context: The entries that were not drawn.
        """
        units = self.units(batch)
        with full_precision(h):
            return self.head.proposal(
                h.to(self.precision), batch.values, context, units, self.covariates(batch)
            )

    def training_step(self, batch: SeriesBatch, index: int) -> Tensor:
        """Returns the loss of a batch.

        If gradients are accumulated over several batches, each batch is weighted by its number of target
        entries, so that the step equals that of a single batch of all windows.
        """
        # this stream has one more key than the one that hides entries in training, so that the two never
        # coincide, whatever the seeds
        model, batch = self.at_hand(batch)
        purpose, epoch = (torch.full_like(batch.address, n) for n in (TRAINING, self.current_epoch))
        stream = streams(torch.initial_seed(), purpose, epoch, batch.address)
        with self._seeded(index):
            loss = self.objective.loss(model, batch, stream, self.global_step)
        name = "train/nll" if self.objective.is_nll else "train/loss"
        mean = self._mean_over_processes(loss.detach())
        self.log(name, mean, prog_bar=True, batch_size=len(batch.values))
        if not torch.isfinite(mean) and not is_searching_rate(self.own_trainer):
            raise diverged(self, name, float(mean), extreme(model, batch))
        if getattr(self.own_trainer, "accumulate_grad_batches", 1) == 1:
            return loss
        # the total is known only after the last batch: until then, weights are relative to the first batch,
        # and on_before_optimizer_step rescales the gradients
        self._counts.append(int(count(self.objective.target(model, batch, self.global_step))))
        return loss * (self._counts[-1] / max(1, self._counts[0]))

    def _mean_over_processes(self, loss: Tensor) -> Tensor:
        """Returns the mean of the loss over all processes, so that all of them judge the same number."""
        trainer = self.own_trainer
        return loss if trainer is None else trainer.strategy.reduce(loss.clone(), reduce_op="mean")

    @contextmanager
    def _seeded(self, index: int) -> Iterator[None]:
        """Seeds torch's generators, for dropout, by (seed, epoch, batch, process) inside a ``with`` block.

        Checkpoints do not hold the state of torch's generators, and the trainer seeds all processes alike.
        """
        address = (LAYERS, self.current_epoch, index, self.global_rank)
        seed = int(streams(torch.initial_seed(), *(torch.tensor(key) for key in address)))
        on_gpu = self.device.type == "cuda"
        # forked: other uses of the generators are unaffected, and torch.initial_seed() keeps its value
        with torch.random.fork_rng([self.device] if on_gpu else []):
            torch.default_generator.manual_seed(seed)
            if on_gpu:
                with torch.cuda.device(self.device):
                    torch.cuda.manual_seed(seed)
            yield

    def on_train_epoch_start(self) -> None:
        """Discards the counts of an interrupted epoch."""
        self._counts.clear()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Rescales accumulated gradients to the mean over all target entries; logs their norm and the rate.

        Lightning calls it before gradients are clipped.
        """
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        if self._counts:
            # the trainer divides by accumulate_grad_batches even if fewer batches are left in the epoch
            share = self.trainer.accumulate_grad_batches * max(1, self._counts[0]) / max(1, sum(self._counts))
            for gradient in gradients:
                gradient.mul_(share)
            self._counts.clear()
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (self.global_step + 1) % every == 0 and gradients:
            self.log("train/grad_norm", torch.nn.utils.get_total_norm(gradients))
            self.log("train/lr", optimizer.param_groups[0]["lr"])

    def at_hand(self, batch: SeriesBatch) -> tuple[NeuralModel, SeriesBatch]:
        """Returns the model and the batch with which losses of training and validation are computed."""
        return self, batch

    def validation_law(self, batch: SeriesBatch) -> Distribution | None:
        """Returns the objective's per-entry laws for validation, in data units, or None."""
        return self.objective.law(self, batch)

    def validation_log_prob(self, batch: SeriesBatch) -> Tensor:
        """Returns the objective's log-densities for validation."""
        return self.objective.log_prob(self, batch)

    @property
    def needs_all_nodes(self) -> str | None:
        """The head if it models whole slices jointly, the objective if it scores visible entries, or None."""
        if self.head.joint_entries > self.spec.sizes.channels:
            return f"{type(self.head).__name__} over the slice"
        return None if self.objective.scores_targets else type(self.objective).__name__

    @property
    def knows_its_nodes(self) -> bool:
        """Whether some parameters belong to single nodes, so that the model cannot run on other nodes."""
        return self.embedding is not None or self.head.of_nodes
