"""Weights with which a training starts: those in the package, or those of another run.

A model on other data may read more than the weights were trained for: embeddings of nodes, covariates,
further channels. The columns of the first layer that read them start at zero, so that the laws before
training are those of the weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tsgen.models.density import spec_of
from tsgen.models.neural import NeuralModel
from tsgen.moved import current
from tsgen.storage.checkpoints import read_checkpoint
from tsgen.storage.components import describe

WEIGHTS = Path(__file__).parent / "weights" / "pretrained.safetensors"
"""The weights in the package."""

BUILDING_BLOCKS = ("units", "encoder", "head")
"""Options of a model that must equal those of the weights from which it starts."""


class InitialWeights(NamedTuple):
    """The weights of a model and what they were trained for.

    Attributes:
        name: Where they come from, for messages.
        model: The description of the model.
        channels: The number of channels.
        covariates: The number of covariates.
        state: The tensors by name.
    """

    name: str
    model: Mapping[str, Any]
    channels: int
    covariates: int
    state: Mapping[str, Tensor]


def read_weights(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns the description and the tensors in a file of weights.

    Args:
        path: The file.

    Raises:
        ValueError: If the file does not exist or is not one of weights of this library.
    """
    try:
        with safe_open(path, framework="pt") as file:
            description = json.loads((file.metadata() or {})["tsgen"])
            return description, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path} must be a file of weights of tsgen; {error}.") from error


def start_from(model: NeuralModel, source: str) -> None:
    """Sets encoder and head of a new model to weights; what reads further inputs is set to zero.

    With further channels, the first channel has the law of the weights, and the others that of a new head.

    Args:
        model: The model.
        source: ``pretrained`` for the weights in the package, or a file of weights (``.safetensors``), or the
            checkpoint of a run.

    Raises:
        ValueError: If the source cannot be read, or its model has other building blocks.
    """
    weights = _read(source)
    _check(model, weights)
    columns = _columns(model, weights)
    with torch.no_grad():
        for name, own in model.named_parameters():
            if name != "embedding":
                own.copy_(_grafted(name, own, weights, columns, model.encoder.in_features))


def _read(source: str) -> InitialWeights:
    """Returns the weights that a source names."""
    path = WEIGHTS if source == "pretrained" else Path(source)
    if path.suffix == WEIGHTS.suffix:
        description, state = read_weights(path)
        return InitialWeights(source, description["model"], description["channels"], 0, state)
    checkpoint = read_checkpoint(path)
    model, spec = checkpoint["hyper_parameters"]["model"], spec_of(checkpoint)
    return InitialWeights(source, model, len(spec.channels), spec.num_covariates, checkpoint["state_dict"])


def _check(model: NeuralModel, weights: InitialWeights) -> None:
    """Raises ``ValueError`` unless a model has the building blocks and the inputs of the weights."""
    own, theirs = model.hparams["model"], weights.model
    difference = _difference(theirs["class_path"], own["class_path"], "class")
    for block in BUILDING_BLOCKS:
        given, needed = own["init_args"].get(block), theirs["init_args"].get(block)
        difference = difference or _difference(needed, given, block)
    if difference:
        raise ValueError(
            f"the model must have the building blocks of the weights {weights.name!r} to start from them: "
            f"{difference}."
        )
    if theirs["init_args"].get("node_embedding"):
        raise ValueError(
            f"weights to start from must not belong to single nodes; the model of {weights.name!r} has a "
            "node_embedding. Use other weights."
        )
    sizes = model.spec.sizes
    if weights.channels not in (1, sizes.channels) or weights.covariates not in (0, sizes.covariates):
        raise ValueError(
            f"the data must have the {weights.channels} channels and {weights.covariates} covariates of the "
            f"weights {weights.name!r} to start from them; it has {sizes.channels} and {sizes.covariates}."
        )


def _difference(theirs: Any, own: Any, name: str) -> str | None:
    """Describes the first option in which two descriptions differ, defaults included; None if they agree."""
    if not (isinstance(theirs, Mapping) and isinstance(own, Mapping) and "class_path" in own):
        theirs, own = (current(x) if isinstance(x, str) else x for x in (theirs, own))
        return None if theirs == own else f"set {name} to {_short(theirs)}; it is {_short(own)}"
    path = current(own["class_path"])
    if current(theirs.get("class_path", "")) != path:
        return f"set {name} to {_short(theirs)}; it is {_short(own)}"
    module, _, attribute = path.rpartition(".")
    parameters = signature(getattr(import_module(module), attribute)).parameters.values()
    defaults = {p.name: describe(p.default) for p in parameters if p.default is not Parameter.empty}
    theirs, own = ({**defaults, **description["init_args"]} for description in (theirs, own))
    found = (_difference(theirs.get(key), own.get(key), f"{name}.{key}") for key in own)
    return next(filter(None, found), None)


def _short(description: Any) -> str:
    """Returns the name of a class, or the value of an option."""
    if isinstance(description, Mapping) and "class_path" in description:
        return str(description["class_path"]).rpartition(".")[2]
    return repr(description)


def _columns(model: NeuralModel, weights: InitialWeights) -> Tensor:
    """Returns the places of the numbers that the weights read among those that the model reads.

    Both read values, context, covariates, the embedding and then further numbers, all but covariates and
    embedding once for each channel.
    """
    channels, covariates = model.spec.sizes.channels, model.spec.sizes.covariates
    entries = model.encoder.in_features - covariates
    entries -= 0 if model.embedding is None else model.embedding.shape[1]
    places = torch.arange(entries).view(-1, channels)[:, : weights.channels].clone()
    places[2:] += model.encoder.in_features - entries
    of_covariates = 2 * channels + torch.arange(weights.covariates)
    return torch.cat([places[:2].flatten(), of_covariates, places[2:].flatten()])


def _grafted(name: str, own: Tensor, weights: InitialWeights, columns: Tensor, inputs: int) -> Tensor:
    """Returns a parameter with the numbers of the weights in it.

    Columns of inputs that the weights do not read are zero; rows of further channels stay as they are.
    """
    given = weights.state.get(name)
    if given is not None:
        given, read = given.to(own), len(columns)
        if given.shape == own.shape:
            return given
        if name.startswith("head.") and given.shape[1:] == own.shape[1:] and len(given) < len(own):
            return torch.cat([given, own[len(given) :]])
        if given.shape[:-1] == own.shape[:-1] and given.shape[-1] - read == own.shape[-1] - inputs:
            new = torch.zeros_like(own)
            new[..., columns], new[..., inputs:] = given[..., :read], given[..., read:]
            return new
    shape = "absent" if given is None else list(given.shape)
    raise ValueError(
        f"the model must have the sizes of the weights {weights.name!r} to start from them, except for its "
        f"inputs and channels; {name} is {shape} in the weights and {list(own.shape)} in the model."
    )
