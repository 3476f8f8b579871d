"""Limits on what a checkpoint may ask for: its hyperparameters must fit its weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tsgen.data.graphs import check_graph
from tsgen.data.series import SeriesSpec

SLACK = 2**24
"""Bytes that any model may take while it is built, in addition to a multiple of its weights."""

ROUNDS = 16
"""How often the bytes of the weights may be allocated while a model is built: initial values and copies."""

OVERHEAD = 2**12
"""Bytes counted for each tensor in addition to its entries: a layer of a few weights takes about as many."""


class LimitedMemory(TorchDispatchMode):
    """Inside this context, torch raises before it creates more tensors than a model of some weights needs.

    A tensor that is made from sizes alone is first made without memory, on the meta device, and counted.

    Args:
        weights: The weights of the model.
    """

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()
        self.bytes_left = SLACK + ROUNDS * sum(map(_size, weights))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation of torch, if it is within the limit."""
        kwargs = kwargs or {}
        name, arguments, returns = func._schema.name, func._schema.arguments, func._schema.returns
        from_sizes = name.startswith("aten::new_") or not any(isinstance(a, Tensor) for a in args)
        if from_sizes and any(argument.name == "device" for argument in arguments):
            self._count(func(*args, **{**kwargs, "device": torch.device("meta")}))
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        if returns and returns[0].alias_info is None:  # not a view, nor in place
            self._count(result)
        return result

    def _count(self, result: Any) -> None:
        self.bytes_left -= _size(result)
        if self.bytes_left < 0:
            raise ValueError("its hyperparameters describe a larger model than its weights are for")


def _size(tensor: Any) -> int:
    return OVERHEAD + tensor.numel() * tensor.element_size() if isinstance(tensor, Tensor) else OVERHEAD


def check_spec(spec: Any) -> None:
    """Raises ``ValueError`` unless the sizes, units and graph of a stranger's spec are consistent.

    Args:
        spec: The spec in a checkpoint.
    """
    if not isinstance(spec, SeriesSpec):
        raise ValueError("its spec must be a SeriesSpec")
    for names in (spec.nodes, spec.channels):
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("the names of its nodes and channels must be text")
    if not isinstance(spec.num_covariates, int) or spec.num_covariates < 0:
        raise ValueError(f"num_covariates must be a number of covariates; it is {spec.num_covariates!r:.40}")
    sizes, covariates = spec.sizes, (spec.num_covariates,)
    for name, shape in {
        "loc": (sizes.nodes, sizes.channels),
        "scale": (sizes.nodes, sizes.channels),
        "covariate_loc": covariates,
        "covariate_scale": covariates,
    }.items():
        units = getattr(spec, name)
        if units is None and name.startswith("covariate"):
            continue
        if not isinstance(units, Tensor) or not units.is_floating_point() or units.shape != shape:
            raise ValueError(f"{name} must be a tensor of shape {list(shape)}, as the names are")
        if not units.isfinite().all() or ("scale" in name and not (units > 0).all()):
            raise ValueError(f"{name} must be finite{' and positive' * ('scale' in name)}")
    check_graph(spec.graph, sizes.nodes)
