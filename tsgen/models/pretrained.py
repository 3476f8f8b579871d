"""The weights that come with the package: a model of any network, trained on simulated ones alone.

They lie in a file of plain tensors (safetensors), whose header holds the model's description. The card beside
it says what they were trained on and where they hold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tsgen.argument_types import check_arguments
from tsgen.data.series import SeriesSpec
from tsgen.models.any_order import AnyOrderModel
from tsgen.models.density import BUILDING_BLOCKS, SHIPPED, spec_of
from tsgen.models.initial_weights import WEIGHTS, read_weights
from tsgen.storage.atomic import replacing
from tsgen.storage.checkpoints import read_checkpoint
from tsgen.storage.components import restore


@check_arguments
def load_pretrained(
    path: str | Path = WEIGHTS, device: str | torch.device = "cpu", spec: SeriesSpec | None = None
) -> AnyOrderModel:
    """Returns the model of any network, in evaluation mode, before it has adapted to data.

    :func:`tsgen.impute` adapts it to what it is given; :meth:`~tsgen.models.AnyOrderModel.adapted` does so
    once for several calls.

    Args:
        path: The weights; those of the package if not given.
        device: The device to move the model to.
        spec: Spec of the data to run the model on; a network of one node if not given.

    Raises:
        ValueError: If the file does not exist or does not hold such weights.
    """
    description, state = read_weights(Path(path))
    try:
        spec = spec or _any_network(description["channels"])
        model = restore(description["model"], BUILDING_BLOCKS)(spec=spec)
        model.load_state_dict(state)
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path} must hold the weights of a model that adapts; {error}.") from error
    model.window = description["window"]
    return model.to(device).eval()


@check_arguments
def save_pretrained(checkpoint: str | Path, path: str | Path) -> None:
    """Writes the weights in the checkpoint of a model that adapts, without the state of its training.

    Args:
        checkpoint: The checkpoint, such as ``runs/pretrain/checkpoints/last.ckpt``.
        path: The file to write.

    Raises:
        ValueError: If the checkpoint is not one of a model that adapts.
    """
    state = read_checkpoint(Path(checkpoint))
    hyperparameters = state["hyper_parameters"]
    model = json.loads(json.dumps({**hyperparameters["model"], "init_args": _without_spec(hyperparameters)}))
    if not model["init_args"].get("adapts"):
        raise ValueError(f"{checkpoint} must hold a model that adapts (adapts: true); it does not.")
    description = {
        "model": model,
        "window": hyperparameters["window"],
        "channels": len(spec_of(state).channels),
    }
    with replacing(Path(path)) as unfinished:
        save_file(
            {name: tensor.contiguous() for name, tensor in sorted(state["state_dict"].items())},
            unfinished,
            metadata={"tsgen": json.dumps(description)},
        )


def _without_spec(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    arguments = hyperparameters["model"]["init_args"]
    return {name: value for name, value in arguments.items() if name != "spec"}


def _any_network(channels: int) -> SeriesSpec:
    """Returns a spec of a single node, which stands for that of the data to come."""
    return SeriesSpec(
        loc=torch.zeros(1, channels),
        scale=torch.ones(1, channels),
        edge_index=torch.empty(2, 0, dtype=torch.int64),
        edge_weight=torch.empty(0),
        num_covariates=0,
        nodes=["0"],
        channels=[f"channel {channel}" for channel in range(channels)],
    )


SHIPPED["pretrained"] = load_pretrained
