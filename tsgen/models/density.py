"""The interface of a model, its Lightning steps for training and evaluation, and loading from checkpoints."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from lightning import LightningModule, Trainer
from lightning.pytorch.plugins.precision import HalfPrecision
from lightning.pytorch.trainer.states import TrainerFn
from torch.distributions import Distribution, Independent, Normal
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch_geometric.nn import MessagePassing

from tsgen.argument_types import check_arguments
from tsgen.data.precision import raise_without_float64
from tsgen.data.series import Samples, SeriesBatch, SeriesSpec, Units
from tsgen.data.transforms import Transform, Transforms
from tsgen.encoders import Encoder
from tsgen.heads import Head, InDataUnits
from tsgen.heads.likelihood import masked_log_prob
from tsgen.metrics import NLL, LawCRPS, entries, has_closed_crps, scores
from tsgen.models.building import LimitedMemory, check_spec
from tsgen.models.finiteness import diverged, extreme, is_searching_rate
from tsgen.objectives import Objective
from tsgen.readers.regular_times import MAX_ENTRIES
from tsgen.sampling import Sampler
from tsgen.storage.checkpoints import first_nonfinite, read_checkpoint
from tsgen.storage.components import describe, restore
from tsgen.storage.display import printable

OptimizerFactory = Callable[[Iterable], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler]

logger = logging.getLogger(__name__)


@check_arguments
class DensityModel(LightningModule, ABC):
    """A joint law of the entries of a window, with the steps that train and evaluate it.

    Training, validation, test and prediction are the same for all tasks: the masks of a batch alone determine
    which entries are visible and which are scored. The hyperparameters are plain data, so that a checkpoint
    is enough to rebuild the model.

    Args:
        spec: Sizes, units and graph of the data.
        optimizer: Makes the optimiser from the parameters.
        scheduler: Makes the learning-rate schedule from the optimiser; it steps once per epoch. None keeps
            the rate constant.
        sampler: How unknown entries are drawn in test and prediction.
        options: Further constructor arguments of the subclass, saved with the hyperparameters.

    Attributes:
        window: The length in steps of the windows that the model was trained on; None if no data module was
            used.
    """

    loc: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self,
        spec: SeriesSpec,
        sampler: Sampler,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.spec, self.optimizer, self.scheduler, self.sampler = spec, optimizer, scheduler, sampler
        arguments = {"spec": spec, "sampler": sampler, **options}
        if optimizer is not None:
            arguments |= {"optimizer": optimizer, "scheduler": scheduler}
        self.hparams.update({"model": describe(partial(type(self), **arguments))})
        self.transforms: Transforms | None = None
        self.register_units("loc", spec.loc)
        self.register_units("scale", spec.scale)
        self.window: int | None = None
        self.val_nll, self.val_crps = NLL(), LawCRPS()
        self.val_constant = NLL()  # of a Gaussian with the mean and deviation of each node
        self._best: tuple[float, float] | None = None  # lowest val_nll and its val_constant in this training
        self._extreme: str | None = None  # of the first validation batch whose density is not finite
        self.test_nll, self.test_scores = NLL(), scores()

    def register_units(self, name: str, numbers: torch.Tensor) -> None:
        """Adds numbers in data units, which stay in float64 whatever the precision of the network.

        Args:
            name: The name of the buffer.
            numbers: The numbers.
        """
        self.register_buffer(name, numbers.to(torch.float64, copy=True))

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> DensityModel:
        """Moves the model to another device or precision; its units stay in float64."""
        units = dict(self._buffers)
        try:
            super()._apply(fn, recurse)
        except TypeError as error:
            raise_without_float64(error)
        for name, before in units.items():
            moved = self._buffers[name]
            if before is not None and moved is not None and moved.dtype != before.dtype:
                self._buffers[name] = before.to(moved.device)  # not the rounded numbers
        return self

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, map_location: Any = "cpu", **_: Any) -> Any:  # type: ignore[override]
        """Returns the model in a checkpoint; Lightning's name for :func:`tsgen.load`."""
        return load(checkpoint_path, map_location or "cpu")

    @abstractmethod
    def forward(self, batch: SeriesBatch) -> Distribution:
        """Returns the law of each entry given the context it may depend on, in data units.

        Its batch shape is ``[B, T, N, C]``.
        """

    @property
    def precision(self) -> torch.dtype:
        """The precision of standard units, and of laws and draws in them: float32, or float64."""
        return torch.promote_types(self.dtype, torch.float32)  # type: ignore[arg-type]

    @property
    def node_units(self) -> Units:
        """Mean and standard deviation of each node and channel: the units of the model's inputs."""
        return Units(self.loc, self.scale, dtype=self.precision, transforms=self.transforms)

    def units_of_nodes(self, batch: SeriesBatch) -> Units:
        """Returns mean and standard deviation of each node and channel of a batch."""
        if batch.nodes is None:
            return self.node_units
        chosen = self.loc[batch.nodes], self.scale[batch.nodes]
        return Units(*chosen, batch.nodes, self.precision, transforms=self.transforms)

    def units(self, batch: SeriesBatch) -> Units:
        """Returns the location and scale that define standard units for each entry of a batch."""
        return self.units_of_nodes(batch)

    @check_arguments
    def log_prob(self, batch: SeriesBatch) -> torch.Tensor:
        """Returns the log-density in nats, ``[B, T, N, C]``, of :meth:`target` entries; zero elsewhere."""
        centre = self.units_of_nodes(batch).centre
        return masked_log_prob(self(batch), batch.values, self.target(batch), centre)

    @check_arguments
    def target(self, batch: SeriesBatch) -> Bool[torch.Tensor, "batch time nodes channels"]:
        """Returns the mask of the entries that :meth:`log_prob` scores."""
        return batch.target

    @check_arguments
    def log_likelihood(self, batch: SeriesBatch) -> Float[torch.Tensor, "batch"]:
        """Returns the joint log-density of the visible entries of each window, in nats."""
        centre = self.units_of_nodes(batch).centre
        return masked_log_prob(self(batch), batch.values, batch.context, centre).sum(dim=(1, 2, 3))

    @check_arguments
    def slices(self, batch: SeriesBatch) -> Distribution:
        """Returns the joint law of each slice given the visible entries before it; batch shape ``[B, T]``.

        If a window is fully visible, the log-densities of its slices sum to :meth:`log_likelihood`. The event
        shape is that of a slice, ``[N, C]``, or of its flattened entries.
        """
        return Independent(self(batch), 2)

    def check_building_blocks(self) -> None:
        """Raises ``ValueError`` unless the building blocks are compatible; called last in constructors."""
        self.sampler.check(self)

    def setup(self, stage: str) -> None:
        """Raises ``ValueError`` unless building blocks and data are compatible and trained weights finite."""
        self.check_building_blocks()
        _keep_precision_of_data(getattr(self.trainer, "precision_plugin", None))
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            self.check_data(data, stage)
        if stage == "fit":
            self._best = None
            self.window = getattr(data, "window", None)
            self.hparams["window"] = self.window
        else:
            self.check_weights(self.state_dict())

    def check_data(self, data: Any, stage: str) -> None:
        """Raises ``ValueError`` unless the model can be used with the data.

        Args:
            data: The data module.
            stage: fit, validate, test or predict.
        """
        self.sampler.check_data(data, stage)
        difference = self.spec.difference(data.spec)
        if difference:
            raise ValueError(
                f"the model was made for other data: {difference}. Use the data it was trained on."
            )
        block = self.needs_all_nodes
        if stage == "fit" and block is not None and getattr(data, "subgraphs", None) is not None:
            raise ValueError(
                f"a model that trains on subgraphs must work with some of the nodes; {block} needs all of "
                "them. Set data.subgraphs to null."
            )

    @property
    def needs_all_nodes(self) -> str | None:
        """The building block that needs every node of the graph in each batch; None if there is none."""
        return type(self).__name__

    @property
    def horizon(self) -> int | None:
        """The forecast horizon of the trainer's data module in steps; None without a forecast."""
        return getattr(getattr(self.own_trainer, "datamodule", None), "horizon", None)

    @property
    def own_trainer(self) -> Trainer | None:
        """The trainer, or None where Lightning's :attr:`trainer` raises because there is none."""
        try:
            return self.trainer
        except RuntimeError:
            return None

    @property
    def knows_its_nodes(self) -> bool:
        """Whether some parameters belong to single nodes, so that the model cannot run on other nodes."""
        return True

    def validation_step(self, batch: SeriesBatch, index: int) -> None:
        """Updates the NLL and, if it has a closed form, the CRPS of the hidden entries."""
        model, batch = self.at_hand(batch)
        law, target, units = model.validation_law(batch), model.target(batch), model.units_of_nodes(batch)
        if law is None:
            log_prob = model.validation_log_prob(batch)
        else:
            log_prob = masked_log_prob(law, batch.values, target, units.centre)
        self.val_nll.update(log_prob, target)
        standard = Normal(torch.zeros_like(units.loc), torch.ones_like(units.loc), validate_args=False)
        constant = masked_log_prob(InDataUnits(standard, units), batch.values, target, units.centre)
        self.val_constant.update(constant, target)
        if self._extreme is None and not torch.isfinite(log_prob.sum()):
            self._extreme = extreme(model, batch)
        self.log("val/nll", self.val_nll, prog_bar=True, batch_size=len(batch.values))
        # both conditions depend on model and data, not on the batch: all processes must log the same metrics
        if law is not None and has_closed_crps(law) and self.horizon != 0:
            self.val_crps.update(law, batch.values, batch.hidden)
            self.log("val/crps", self.val_crps, batch_size=len(batch.values))

    def at_hand(self, batch: SeriesBatch) -> tuple[DensityModel, SeriesBatch]:
        """Returns the model and the batch with which losses of training and validation are computed."""
        return self, batch

    def validation_law(self, batch: SeriesBatch) -> Distribution | None:
        """Returns the per-entry laws used for validation, in data units, if one forward pass gives them.

        Otherwise it returns None, and :meth:`validation_log_prob` alone gives the densities.
        """
        return None

    def validation_log_prob(self, batch: SeriesBatch) -> torch.Tensor:
        """Returns the log-densities used for validation: :meth:`log_prob`, or those of the objective."""
        return self.log_prob(batch)

    def check_weights(self, state: Mapping[str, Any]) -> None:
        """Raises ``ValueError``, with the name of the tensor, unless all weights in a state are finite.

        Args:
            state: The state of a model of this kind, as in a checkpoint.
        """
        name = first_nonfinite(state, {name for name, _ in self.named_parameters()})
        if name is not None:
            raise ValueError(
                f"weights must be finite; {name} has entries that are NaN or infinite, as after a training "
                "that diverged. Use another checkpoint, or train again with a lower learning rate."
            )

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """Loads a state; raises ``ValueError`` unless its weights are finite."""
        self.check_weights(state_dict)
        return super().load_state_dict(state_dict, *args, **options)

    def on_validation_epoch_end(self) -> None:
        """Raises ``ValueError`` unless the scores are finite: others would select the best checkpoint."""
        if is_searching_rate(self.trainer):
            return
        for name, metric in (("val/nll", self.val_nll), ("val/crps", self.val_crps)):
            value = float(metric.compute()) if metric.update_called else 0.0
            if math.isfinite(value):
                continue
            # the few windows of the sanity check may have no entry to score
            unscored = self.trainer.strategy.reduce_boolean_decision(not metric.weight.any(), all=True)
            # without hidden entries there is no CRPS, and the NLL of visible entries is enough
            if unscored and (self.trainer.sanity_checking or metric is self.val_crps):
                continue
            if unscored:
                raise ValueError(
                    "validation must score at least one entry; its windows have none. Raise "
                    "trainer.limit_val_batches, or hold out more entries."
                )
            self._check_training(dict(self.named_parameters()))  # names the cause
            raise diverged(self, name, value, self._extreme)
        found = float(self.val_nll.compute()), float(self.val_constant.compute())
        self.val_constant.reset()
        if not self.trainer.sanity_checking:
            self._best = found if self._best is None else min(self._best, found)

    def on_train_end(self) -> None:
        """Warns if no epoch was better than the mean and deviation of each node."""
        if self._best is not None and self._best[0] >= self._best[1] and self.trainer.is_global_zero:
            logger.warning(
                "the model has learned nothing: the NLL of its best epoch, %.6g nats per entry of the "
                "validation windows, is no better than the %.6g of a Gaussian with the mean and deviation of "
                "each node. Train longer, with a lower learning rate, or another model.",
                *self._best,
            )

    def on_train_epoch_end(self) -> None:
        """Raises ``ValueError`` unless all weights are finite; Lightning saves checkpoints after this."""
        self._check_training(dict(self.named_parameters()))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises ``ValueError`` unless all weights in the checkpoint are finite."""
        if self.own_trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self._check_training(checkpoint["state_dict"])
        else:
            self.check_weights(checkpoint["state_dict"])
        checkpoint["best_validation"] = self._best

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the validation score of the best epoch."""
        self._best = checkpoint.get("best_validation")

    def _check_training(self, state: Mapping[str, Any]) -> None:
        """Ends the training, on all processes alike, if weights in a state are not finite."""
        if is_searching_rate(self.trainer):
            return
        name = first_nonfinite(state, {name for name, _ in self.named_parameters()})
        if not self.trainer.strategy.reduce_boolean_decision(name is None, all=True):
            raise diverged(self, f"the weight {name}" if name else "a weight", None, None)

    def test_step(self, batch: SeriesBatch, index: int) -> dict[str, Any]:
        """Updates the NLL and, if entries are hidden, the scores of samples.

        Returns:
            Log-densities and, if entries are hidden, samples, for use by callbacks.
        """
        log_prob = self.test_log_prob(batch)
        self.test_nll.update(log_prob, self.target(batch))
        self.log("test/nll", self.test_nll, batch_size=len(batch.values))
        # depends on the data, not on the batch: all processes must log the same metrics
        if self.horizon == 0:
            return {"log_prob": log_prob}
        samples = self.sampler(self, batch)
        self.test_scores.update(*entries(samples.values, batch))
        self.log_dict(
            {f"test/{name}": score for name, score in self.test_scores.items()}, batch_size=len(batch.values)
        )
        return {"log_prob": log_prob, "samples": samples}

    def test_log_prob(self, batch: SeriesBatch) -> torch.Tensor:
        """Returns the log-densities used for testing: those of validation unless draws follow another law."""
        return self.validation_log_prob(batch)

    def drawn_law(self, batch: SeriesBatch) -> Distribution | None:
        """Returns the marginal law of the sampler's draws for each entry, in data units, or None.

        It is available if it has a closed form; scores computed from it have no sampling noise.
        """
        return None

    def predict_step(self, batch: SeriesBatch, index: int) -> Samples:
        """Returns samples of the unknown entries."""
        return self.sampler(self, batch)

    def configure_optimizers(self) -> Any:
        """Returns the optimiser and its learning-rate schedule, made by the factories."""
        assert self.optimizer is not None  # models without an optimiser factory override this method
        optimizer = self.optimizer(self.parameters())
        if self.scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.scheduler(optimizer), "monitor": "val/nll"},
        }


def _keep_precision_of_data(plugin: object) -> None:
    """Stops a trainer in half precision from rounding batches, and new tensors outside the network.

    Only the network computes in half precision: the model rounds its input once it is standardised.

    Args:
        plugin: The trainer's precision plugin.
    """
    if isinstance(plugin, HalfPrecision):
        changed: Any = plugin
        changed.convert_input, changed.forward_context = _unchanged, nullcontext


def _unchanged(batch: SeriesBatch) -> SeriesBatch:
    """Returns the batch."""
    return batch


SHIPPED: dict[str, Callable[..., DensityModel]] = {}
"""What loads the weights that come with the package, by name; their module adds itself."""

BUILDING_BLOCKS = (
    DensityModel,
    Encoder,
    Head,
    MessagePassing,
    Objective,
    Optimizer,
    LRScheduler,
    Sampler,
    SeriesSpec,
    Transform,
)
"""The base classes of building blocks: a checkpoint may name subclasses of these alone."""


@check_arguments
def load(
    checkpoint: str | Path,
    device: str | torch.device = "cpu",
    trusted: Sequence[str] = (),
    spec: SeriesSpec | None = None,
) -> DensityModel:
    """Returns the model in a checkpoint, or the pre-trained one, in evaluation mode.

    The checkpoint alone is enough. None of its code is executed: it is read as plain data, and it may only
    name classes that are building blocks of models and come from known packages.

    Args:
        checkpoint: A file that training wrote; or ``pretrained`` for the weights that come with the
            package, a model of any network (:mod:`tsgen.models.pretrained`).
        device: The device to move the model to.
        trusted: Names of your own packages, from which the checkpoint may use encoders, heads and so on.
        spec: Spec of other data to run the model on, with its graph and units; that of the training data if
            not given.

    Raises:
        ValueError: If the file does not exist, it is not a checkpoint of a model of this library, or ``spec``
            describes other nodes and the model has parameters that belong to single nodes.
    """
    try:
        device = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device must be one of torch, such as cpu or cuda:0; it is {device!r:.60}."
        ) from error
    if checkpoint in SHIPPED:
        return SHIPPED[str(checkpoint)](device=device, spec=spec)
    path = Path(checkpoint)
    state = read_checkpoint(path)
    rebuilt = _rebuild(path, state, trusted, spec)
    weights = state["state_dict"]
    if spec is not None:
        weights = moved_weights(path, rebuilt)
    try:
        rebuilt.load_state_dict(weights)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except (RuntimeError, AttributeError, TypeError) as error:
        raise ValueError(
            f"the weights in {path} must match the model that it describes; they may come from another "
            f"version: {' '.join(str(error).split())[:200]}. Train it again."
        ) from error
    return rebuilt.to(device).eval()


def _rebuild(
    path: Path, state: dict[str, Any], trusted: Sequence[str], spec: SeriesSpec | None
) -> DensityModel:
    """Returns the model that a checkpoint describes, before its weights are loaded."""
    hyperparameters = state["hyper_parameters"]
    try:
        model = restore(hyperparameters["model"], BUILDING_BLOCKS, trusted)
        model_class: Any = getattr(model, "func", None)
        if not (isinstance(model_class, type) and issubclass(model_class, DensityModel)):
            raise ValueError(f"{path} must hold a DensityModel; it holds something else.")
        check_spec(model.keywords["spec"])
        with LimitedMemory([*state["state_dict"].values(), *([] if spec is None else [spec.loc])]):
            rebuilt = model() if spec is None else model(spec=spec)
        rebuilt.window = _checked_window(hyperparameters.get("window"))
    except ValueError as error:
        reason = printable(error).rstrip(".")
        named = f"{path} must describe a model; " * (str(path) not in reason)
        raise ValueError(f"{named}{reason}.") from error
    except Exception as error:  # constructors may raise any exception on arguments of a wrong type
        reason = printable(error, 200) or type(error).__name__
        raise ValueError(f"{path} must describe a model; building it failed ({reason}).") from error
    return rebuilt


def _checked_window(window: Any) -> int | None:
    """Returns the length of the windows that a model was trained on, after checking it."""
    if window is not None and (type(window) is not int or not 1 <= window <= MAX_ENTRIES):
        raise ValueError(f"window must be a number of steps from 1 to {MAX_ENTRIES:,}; it is {window!r:.40}")
    return window


def moved_weights(path: Path, model: DensityModel) -> dict[str, Any]:
    """Returns the weights in a checkpoint for a model of the same building blocks on other data.

    The location and scale of each node come from the other data.

    Args:
        path: The checkpoint.
        model: The model on the other data.

    Raises:
        ValueError: If channels or covariates differ, or some weights belong to single nodes.
    """
    state, expected = read_checkpoint(path), model.state_dict()
    trained = spec_of(state)
    if (trained.channels, trained.num_covariates) != (model.spec.channels, model.spec.num_covariates):
        raise ValueError(
            f"the model in {path} must run on data with its channels ({_names(trained)}) and "
            f"number of covariates ({trained.num_covariates}); the data has "
            f"{_names(model.spec)} and {model.spec.num_covariates}."
        )
    if model.knows_its_nodes and trained.difference(model.spec):
        raise ValueError(
            f"the model in {path} must have no parameters of single nodes to run on other nodes; it has "
            "some. Train a model without node_embedding, scales of nodes or a head over the slice."
        )
    # units, and a linear process in them, are those of the other data
    own = {name for name in expected if name in ("loc", "scale") or name.startswith("linear.")}
    moved = {**state["state_dict"], **{name: expected[name] for name in own}}
    if moved.keys() != expected.keys():
        name = sorted(moved.keys() ^ expected.keys())[0]
        raise ValueError(
            f"the model in {path} must have the same building blocks; only one of the two has {name}."
        )
    for name, weight in expected.items():
        if moved[name].shape != weight.shape:
            raise ValueError(
                f"the model in {path} must have the same sizes; its {name} has shape "
                f"{list(moved[name].shape)}, the new model's has {list(weight.shape)}."
            )
    return moved


def _names(spec: SeriesSpec) -> str:
    return printable(", ".join(spec.channels))


def spec_of(checkpoint: Mapping[str, Any]) -> SeriesSpec:
    """Returns the spec of the model in a checkpoint.

    Args:
        checkpoint: The checkpoint, as returned by :func:`read_checkpoint`.
    """
    return restore(checkpoint["hyper_parameters"]["model"]["init_args"]["spec"], (SeriesSpec, Transform))
