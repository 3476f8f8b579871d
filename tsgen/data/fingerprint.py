"""A hash of a model, its data and options, by which a run checks whether partial output belongs to it."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

from tsgen.data.series import Series


def fingerprint(model: torch.nn.Module, series: Series, *options: Any) -> str:
    """Returns the SHA-256 of a model's weights, a series and options.

    Args:
        model: The model; an empty module where only the data matters.
        series: The series; a series in a file is read once, in chunks.
        options: Objects whose ``repr`` shows their content.
    """
    digest = hashlib.sha256()
    graph = {"edges": series.graph.edge_index, "weights": series.graph.edge_weight}
    for name, tensor in (model.state_dict() | graph).items():
        _add(digest, name, tensor)
    for chunk in series.chunks():
        _add(digest, "values", chunk.values.where(chunk.observed, 0))
        _add(digest, "observed", chunk.observed)
        if chunk.covariates is not None:
            _add(digest, "covariates", chunk.covariates)
    labels = (np.asarray(series.time).tobytes(), series.nodes, series.channels)
    described = getattr(model, "hparams", {}).get("model")
    digest.update(repr((type(model).__name__, described, labels, options)).encode())
    return digest.hexdigest()


def _add(digest: Any, name: str, tensor: torch.Tensor) -> None:
    digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
    # the stride of a tensor of one entry may be zero, and only a copy can be viewed as bytes
    contiguous = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    digest.update(contiguous.reshape(-1).view(torch.uint8).numpy().tobytes())
