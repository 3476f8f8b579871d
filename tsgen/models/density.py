"""What every model promises, and the four steps of Lightning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from lightning import LightningModule
from torch.distributions import Distribution, Independent
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch_geometric.nn import MessagePassing

from tsgen.data.series import Samples, SeriesBatch, SeriesSpec, Units
from tsgen.encoders import Encoder
from tsgen.heads import Head
from tsgen.heads.likelihood import masked_log_prob
from tsgen.metrics import NLL, LawCRPS, entries, has_closed_crps, scores
from tsgen.objectives import Objective
from tsgen.sampling import Sampler
from tsgen.storage.checkpoints import read_checkpoint
from tsgen.storage.components import describe, restore

OptimizerFactory = Callable[[Iterable], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler]


class DensityModel(LightningModule, ABC):
    """A joint law of the entries of a window, with the steps that train and judge it.

    It owns training, validation, test and prediction, and nothing of any task: what is visible and what is
    scored is said by a batch's masks alone. Its hyperparameters are plain data, so that a checkpoint alone
    rebuilds it.

    Args:
        spec: Sizes, units and graph of the data.
        optimizer: Makes the optimiser from the parameters.
        scheduler: Makes the learning-rate schedule from the optimiser; it steps once an epoch. None keeps the
            rate.
        sampler: How unknown entries are drawn, in test and prediction.
        parts: The parts of the subclass, remembered beside these.

    Attributes:
        window: Steps of the windows that it was trained on, where a trainer and a data module did; else None.
    """

    loc: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self,
        spec: SeriesSpec,
        sampler: Sampler,
        optimizer: OptimizerFactory | None = None,
        scheduler: SchedulerFactory | None = None,
        **parts: Any,
    ) -> None:
        super().__init__()
        self.spec, self.optimizer, self.scheduler, self.sampler = spec, optimizer, scheduler, sampler
        made_of = {"spec": spec, "sampler": sampler, **parts}
        if optimizer is not None:
            made_of |= {"optimizer": optimizer, "scheduler": scheduler}
        self.hparams.update({"model": describe(partial(type(self), **made_of))})
        self.register_buffer("loc", spec.loc.clone())
        self.register_buffer("scale", spec.scale.clone())
        self.window: int | None = None
        self.val_nll, self.val_crps = NLL(), LawCRPS()
        self.test_nll, self.test_scores = NLL(), scores()

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, map_location: Any = "cpu", **_: Any) -> Any:  # type: ignore[override]
        """Lightning's name for :func:`tsgen.load`."""
        return load(checkpoint_path, map_location or "cpu")

    @abstractmethod
    def forward(self, batch: SeriesBatch) -> Distribution:
        """The law of each entry given what it may depend on, in data units; batch shape ``[B, T, N, C]``."""

    @property
    def node_units(self) -> Units:
        """Mean and standard deviation of each node and channel: the units of what a model reads."""
        return Units(self.loc, self.scale)

    def units_of_nodes(self, batch: SeriesBatch) -> Units:
        """Mean and standard deviation of each node and channel of a batch."""
        if batch.nodes is None:
            return self.node_units
        return Units(self.loc[batch.nodes], self.scale[batch.nodes], batch.nodes)

    def units(self, batch: SeriesBatch) -> Units:
        """What standard units mean for each entry of a batch."""
        return self.units_of_nodes(batch)

    def log_prob(self, batch: SeriesBatch) -> torch.Tensor:
        """The log-density of each entry that is scored in nats, ``[B, T, N, C]``, zero elsewhere."""
        loc = self.units_of_nodes(batch).loc
        return masked_log_prob(self(batch), batch.values, self.target(batch), loc)

    def target(self, batch: SeriesBatch) -> Bool[torch.Tensor, "batch time nodes channels"]:
        """The entries that :meth:`log_prob` scores."""
        return batch.target

    def log_likelihood(self, batch: SeriesBatch) -> Float[torch.Tensor, "batch"]:
        """The joint log-density of what is visible of each window, in nats."""
        loc = self.units_of_nodes(batch).loc
        return masked_log_prob(self(batch), batch.values, batch.context, loc).sum(dim=(1, 2, 3))

    def slices(self, batch: SeriesBatch) -> Distribution:
        """The joint law of each slice given what is visible before it, batch shape ``[B, T]``.

        Of a window that is visible whole, the log-densities of its slices sum to :meth:`log_likelihood`. The
        event is a slice ``[N, C]``, or its entries side by side.
        """
        return Independent(self(batch), 2)

    def check_building_blocks(self) -> None:
        """Raises ``ValueError`` unless the parts of the model go together; constructors end with it."""
        self.sampler.check(self)

    def setup(self, stage: str) -> None:
        """Refuses data that the model was not made for."""
        self.check_building_blocks()
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            self.check_data(data, stage)
        if stage == "fit":
            self.window = getattr(data, "window", None)
            self.hparams["window"] = self.window

    def check_data(self, data: Any, stage: str) -> None:
        """Raises ``ValueError`` unless the model goes with the data.

        Args:
            data: The data module.
            stage: What is to be done: fit, validate, test or predict.
        """
        self.sampler.check_data(data, stage)
        difference = self.spec.difference(data.spec)
        if difference:
            raise ValueError(
                f"the model was made for other data: {difference}. Use the data it was trained on."
            )
        whole = self.needs_all_nodes
        if stage == "fit" and whole is not None and getattr(data, "subgraphs", None) is not None:
            raise ValueError(
                f"a model must be able to do with some of the nodes to train on subgraphs; {whole} needs "
                "them all. Set data.subgraphs to null."
            )

    @property
    def needs_all_nodes(self) -> str | None:
        """The part of the model that needs every node of the graph in each batch; None if none does."""
        return type(self).__name__

    @property
    def horizon(self) -> int | None:
        """The horizon of the data that a trainer has at hand; None without a forecast."""
        return getattr(getattr(self._trainer, "datamodule", None), "horizon", None)

    @property
    def knows_its_nodes(self) -> bool:
        """Whether some parameters belong to single nodes, so that the model runs on no others."""
        return True

    def validation_step(self, batch: SeriesBatch, index: int) -> None:
        """Scores the densities of a batch and, where their CRPS has a closed form, the laws of what is
        hidden."""
        law = self.validation_law(batch)
        scored = self.target(batch)
        if law is None:
            log_prob = self.validation_log_prob(batch)
        else:
            log_prob = masked_log_prob(law, batch.values, scored, self.units_of_nodes(batch).loc)
        self.val_nll.update(log_prob, scored)
        self.log("val/nll", self.val_nll, prog_bar=True, batch_size=len(batch.values))
        # both known of the model and its data, not of the batch: all processes must log the same
        if law is not None and has_closed_crps(law) and self.horizon != 0:
            self.val_crps.update(law, batch.values, batch.hidden)
            self.log("val/crps", self.val_crps, batch_size=len(batch.values))

    def validation_law(self, batch: SeriesBatch) -> Distribution | None:
        """The law of each entry that validation judges by, in data units, where one pass has it; None where
        only :meth:`validation_log_prob` knows."""
        return None

    def validation_log_prob(self, batch: SeriesBatch) -> torch.Tensor:
        """What validation judges by; :meth:`log_prob` unless training has another light."""
        return self.log_prob(batch)

    def test_step(self, batch: SeriesBatch, index: int) -> dict[str, Any]:
        """Scores the densities of a batch and, where something is hidden, its samples.

        Returns:
            Log-densities and samples, for whoever listens.
        """
        log_prob = self.test_log_prob(batch)
        self.test_nll.update(log_prob, self.target(batch))
        self.log("test/nll", self.test_nll, batch_size=len(batch.values))
        # known of the data, not of the batch: all processes must log the same
        if self.horizon == 0:
            return {"log_prob": log_prob}
        samples = self.sampler(self, batch)
        self.test_scores.update(*entries(samples.values, batch))
        self.log_dict(
            {f"test/{name}": score for name, score in self.test_scores.items()}, batch_size=len(batch.values)
        )
        return {"log_prob": log_prob, "samples": samples}

    def test_log_prob(self, batch: SeriesBatch) -> torch.Tensor:
        """What a test judges by; as validation does unless draws follow another law."""
        return self.validation_log_prob(batch)

    def drawn_law(self, batch: SeriesBatch) -> Distribution | None:
        """The law of each entry that the sampler's draws of it follow, in data units, where it is known in
        closed form; else None. It scores what samples score, without their noise."""
        return None

    def predict_step(self, batch: SeriesBatch, index: int) -> Samples:
        """Draws what is unknown."""
        return self.sampler(self, batch)

    def configure_optimizers(self) -> Any:
        """The optimiser and its schedule, as the factories make them."""
        assert self.optimizer is not None  # a model that brings its own overrides this method
        optimizer = self.optimizer(self.parameters())
        if self.scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.scheduler(optimizer), "monitor": "val/nll"},
        }


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
)
"""What a model is made of: all that a checkpoint may name."""


def load(
    checkpoint: str | Path,
    device: str | torch.device = "cpu",
    trusted: Sequence[str] = (),
    spec: SeriesSpec | None = None,
) -> DensityModel:
    """The model in a checkpoint, rebuilt from nothing else, in evaluation mode.

    No code of the checkpoint runs: it is read as plain data, and the classes that it names are parts of
    models, of known packages.

    Args:
        checkpoint: A file that training wrote.
        device: Where the model goes.
        trusted: Packages of your own whose encoders, heads, ... the checkpoint may name.
        spec: Other data that the model is to run on, with a graph and units of its own; those it was trained
            on if not given.

    Raises:
        ValueError: If there is no such file, it is no checkpoint of a model of this library, or the model has
            parameters of its own nodes and cannot run on others.
    """
    path = Path(checkpoint)
    state = read_checkpoint(path)
    rebuilt = _rebuild(path, state, trusted, spec)
    weights = state["state_dict"]
    if spec is not None:
        weights = moved_weights(path, rebuilt)
    try:
        rebuilt.load_state_dict(weights)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise ValueError(
            f"the weights in {path} must fit the model that it describes; they do not, as of another "
            f"version: {' '.join(str(error).split())[:200]}. Train it again."
        ) from error
    return rebuilt.to(device).eval()


def _rebuild(
    path: Path, state: dict[str, Any], trusted: Sequence[str], spec: SeriesSpec | None
) -> DensityModel:
    """The model that a checkpoint describes, with weights yet to be loaded."""
    try:
        model = restore(state["hyper_parameters"]["model"], BUILDING_BLOCKS, trusted)
        made: Any = getattr(model, "func", None)
        if not (isinstance(made, type) and issubclass(made, DensityModel)):
            raise ValueError(f"{path} must hold a DensityModel; it holds something else.")
        rebuilt = model() if spec is None else model(spec=spec)
        rebuilt.window = state["hyper_parameters"].get("window")
    except ValueError as error:
        told = " ".join(str(error).split())
        raise ValueError("".join(c if c.isprintable() else "\ufffd" for c in told)) from error
    except Exception as error:  # classes raise whatever arguments of the wrong kind provoke
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path} must describe a model; none can be made of it ({reason}).") from error
    return rebuilt


def moved_weights(path: Path, model: DensityModel) -> dict[str, Any]:
    """The weights in a checkpoint for a model of the same parts on other data, with that data's units.

    Args:
        path: The checkpoint.
        model: The model on the other data.

    Raises:
        ValueError: If channels or covariates differ, or the weights include some of nodes.
    """
    state, own = read_checkpoint(path), model.state_dict()
    trained = spec_of(state)
    if (trained.channels, trained.num_covariates) != (model.spec.channels, model.spec.num_covariates):
        raise ValueError(
            f"the model in {path} can only run on data of the same channels and as many covariates, "
            f"{', '.join(trained.channels)} and {trained.num_covariates}; the data has "
            f"{', '.join(model.spec.channels)} and {model.spec.num_covariates}."
        )
    if model.knows_its_nodes and trained.difference(model.spec):
        raise ValueError(
            f"the model in {path} must have no parameters of its own nodes to run on other data; it has. "
            "Train one without node_embedding, scales of nodes or a head over the slice."
        )
    moved = {**state["state_dict"], "loc": own["loc"], "scale": own["scale"]}
    if moved.keys() != own.keys():
        name = sorted(moved.keys() ^ own.keys())[0]
        raise ValueError(f"the model in {path} must have the same parts; only one of the two has {name}.")
    for name, weight in own.items():
        if moved[name].shape != weight.shape:
            raise ValueError(
                f"the model in {path} must have the same sizes; its {name} is of shape "
                f"{list(moved[name].shape)}, here it would be {list(weight.shape)}."
            )
    return moved


def spec_of(checkpoint: Mapping[str, Any]) -> SeriesSpec:
    """The spec of the model in a checkpoint.

    Args:
        checkpoint: What :func:`read_checkpoint` returned.
    """
    return restore(checkpoint["hyper_parameters"]["model"]["init_args"]["spec"], (SeriesSpec,))
