"""What a model that adapts takes from data, as plain data for a checkpoint.

A checkpoint of such a model holds its weights, which belong to no data. Units, transforms and the linear
process are stored beside them, so that the adapted model is restored without the data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tsgen.data.series import SeriesSpec
from tsgen.data.transforms import Transform, Transforms
from tsgen.models.any_order import AnyOrderModel
from tsgen.models.building import check_spec
from tsgen.storage.components import describe, restore

PROCESS = ("coefficients", "covariance")
"""The numbers of the linear process."""


def adaptation_of(model: AnyOrderModel) -> dict[str, Any]:
    """Returns units, graph, transforms and linear process of an adapted model, as plain data.

    Args:
        model: A model that :meth:`~tsgen.models.AnyOrderModel.adapted` returned.
    """
    assert model.linear is not None
    transforms = model.transforms
    return {
        "spec": describe(dataclasses.replace(model.spec, loc=model.loc, scale=model.scale)),
        "transforms": None if transforms is None else [describe(one) for one in transforms.channels],
        "on_nodes": transforms is not None and transforms.on_nodes,
        "process": {name: getattr(model.linear, name) for name in PROCESS},
    }


def readapted(model: AnyOrderModel, content: Mapping[str, Any]) -> AnyOrderModel:
    """Returns an adapted model from its weights and what :func:`adaptation_of` returned.

    Args:
        model: The weights: a model that adapts.
        content: What the adapted model took from its data.

    Raises:
        ValueError: If the content does not describe an adaptation of this model.
    """
    try:
        spec = restore(content["spec"], (SeriesSpec, Transform))
        check_spec(spec)
        new = model._for_spec(spec)
        described = content["transforms"]
        if described is not None:
            channels = [restore(one, (Transform,)) for one in described]
            new.transforms = Transforms(channels, bool(content["on_nodes"]))
        new._set_units(spec.loc, spec.scale)
        for name in PROCESS:
            own, given = getattr(new.linear, name), content["process"][name]
            if own.shape != given.shape or own.dtype != given.dtype:
                raise ValueError(f"{name} has shape {list(given.shape)} and not {list(own.shape)}")
            own.copy_(given)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"the adaptation of a model must belong to its weights; {reason}.") from error
    new.adapts = False
    return new.eval()
