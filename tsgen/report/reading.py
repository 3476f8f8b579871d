"""Reads and checks ``evaluation.nc`` and ``scores.json``; every error message is one line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from tsgen.readers.tables import first_line
from tsgen.storage.netcdf import open_netcdf

REMEDY = "Write it with: tsgen test --config EXPERIMENT.yaml"
CONDITIONING = ("filtering", "posterior")
_ENTRY = ("window", "step", "node", "channel")
_VARIABLES = {
    "truth": _ENTRY,
    "context": _ENTRY,
    "target": _ENTRY,
    "rank": _ENTRY,
    "crps": _ENTRY,
    "quantiles": ("quantile", *_ENTRY),
    "quantile": ("quantile",),
    "node": ("node",),
    "channel": ("channel",),
    "unit": ("channel",),
    "time": ("window", "step"),
    "share_missing": ("node",),
    "edge_source": ("edge",),
    "edge_target": ("edge",),
    "edge_weight": ("edge",),
}
_OPTIONAL = {"gap_length": _ENTRY, "ess": ("window", "step"), "covered_90": _ENTRY}


def require_run(run: Path) -> None:
    """Raises ``ValueError`` unless the folder of a run exists."""
    if not run.is_dir():
        raise ValueError(f"{run} must be the folder of a run; it does not exist. {REMEDY}")


def read_evaluation(path: Path, *also: str) -> xr.Dataset:
    """Reads ``evaluation.nc``. Optional variables may be missing.

    Args:
        path: The file.
        also: Variables that are required in addition to those that every page needs.

    Raises:
        ValueError: If the file is missing, damaged or incomplete.
    """
    evaluation = _open(path)
    _check_variables(path, evaluation, also)
    for name, dims in _OPTIONAL.items():
        if name in evaluation and evaluation[name].dims != dims:
            evaluation = evaluation.drop_vars(name)
    _check_quantiles(path, evaluation)
    _check_attributes(path, evaluation)
    # a fill value has turned integers into floats
    evaluation["rank"] = evaluation["rank"].fillna(-1).astype(np.int64)
    _check_numbers(path, evaluation)
    for mask in {"context", "target", "covered_90"} & set(evaluation):
        evaluation[mask] = evaluation[mask].astype(bool)
    if "gap_length" in evaluation:
        evaluation["gap_length"] = evaluation["gap_length"].fillna(0).astype(np.int64)
    return evaluation


def _open(path: Path) -> xr.Dataset:
    if not path.is_file():
        raise ValueError(f"{path} is missing. {REMEDY}")
    try:
        with open_netcdf(path) as evaluation:
            return evaluation.load()
    except Exception as error:  # a damaged file may raise any kind of error
        raise unreadable(path, error, REMEDY) from error


def unreadable(path: Path, error: Exception, remedy: str) -> ValueError:
    """Returns the error for a netCDF file that cannot be read.

    Args:
        path: The file.
        error: What reading it raised.
        remedy: What to do, a sentence.
    """
    return ValueError(f"{path} cannot be read as netCDF: {first_line(error)}. {remedy}")


def _check_variables(path: Path, evaluation: xr.Dataset, also: Sequence[str]) -> None:
    for name, dims in _VARIABLES.items():
        if name not in evaluation.variables:
            raise ValueError(f"{path} must have a variable {name!r}; got none. {REMEDY}")
        if evaluation[name].dims != dims:
            actual = ", ".join(map(str, evaluation[name].dims))
            raise ValueError(
                f"{name!r} in {path} must have the dimensions {', '.join(dims)}; got {actual}. {REMEDY}"
            )
    missing = [name for name in also if name not in evaluation.variables]
    if missing:
        raise ValueError(f"{path} must have a variable {missing[0]!r}; got none. {REMEDY}")
    empty = [dim for dim in _ENTRY if evaluation.sizes[dim] == 0]
    if empty:
        raise ValueError(f"{path} must have at least one {empty[0]}; got none. {REMEDY}")


def _check_quantiles(path: Path, evaluation: xr.Dataset) -> None:
    levels = evaluation["quantile"].values
    if levels.shape != (5,) or not np.allclose(levels, [0.05, 0.25, 0.5, 0.75, 0.95], atol=1e-6):
        raise ValueError(f"{path} must have the quantiles 0.05, 0.25, 0.5, 0.75 and 0.95. {REMEDY}")


def _check_attributes(path: Path, evaluation: xr.Dataset) -> None:
    if "law" in evaluation.attrs:  # its name in 0.1.0
        evaluation.attrs.setdefault("conditioning", evaluation.attrs["law"])
    conditioning, samples = evaluation.attrs.get("conditioning"), evaluation.attrs.get("num_samples", 0)
    if conditioning not in CONDITIONING:
        raise ValueError(
            f"conditioning in {path} must be filtering or posterior; got {str(conditioning)[:40]!r}. {REMEDY}"
        )
    if not isinstance(samples, (int, np.integer)) or samples < 1:
        raise ValueError(
            f"num_samples in {path} must be an integer of at least 1; got {str(samples)[:40]}. {REMEDY}"
        )


def _check_numbers(path: Path, evaluation: xr.Dataset) -> None:
    """Raises ``ValueError`` unless ranks and the ends of edges are in range."""
    samples, highest = evaluation.attrs["num_samples"], int(evaluation["rank"].max())
    if highest > samples:
        raise ValueError(f"ranks in {path} must not exceed num_samples = {samples}; got {highest}. {REMEDY}")
    for end in ("edge_source", "edge_target"):
        if not np.isin(evaluation[end].values, np.arange(evaluation.sizes["node"])).all():
            raise ValueError(f"{end!r} in {path} must contain numbers of nodes, counted from 0. {REMEDY}")


def read_scores(path: Path) -> dict[str, Any]:
    """Reads ``scores.json``. Optional tables may be missing.

    Raises:
        ValueError: If the file is missing, damaged or incomplete.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing. {REMEDY}")
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: it cannot be read as JSON. {REMEDY}") from error
    if isinstance(scores, dict) and "by_node" not in scores:
        raise ValueError(
            f"{path} must have scores by node; got none, because the test hid no entries and scored "
            "densities only. To hide the last steps: "
            "tsgen test --config EXPERIMENT.yaml --data.horizon STEPS"
        )
    for key, label in (("rows", "name"), ("by_node", "node")):
        rows = scores.get(key) if isinstance(scores, dict) else None
        valid = isinstance(rows, list) and all(isinstance(row, dict) and label in row for row in rows)
        if not valid or (key == "rows" and not rows):
            raise ValueError(f"{path} must have a list {key!r} whose items have a {label!r}. {REMEDY}")
    for row in scores["rows"]:
        row.setdefault("conditioning", row.get("law"))  # its name in 0.1.0
    for key, label in (("by_gap_length", "gap"), ("by_lead_time", "lead"), ("by_lead_time_exact", "lead")):
        rows = scores.get(key)
        if not isinstance(rows, list) or not all(isinstance(row, dict) and label in row for row in rows):
            scores.pop(key, None)
    return scores
