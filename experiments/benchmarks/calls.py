"""Calls every public function and method with wrong, extreme and random arguments.

    python -m experiments.benchmarks.calls --calls 10000 --seed 1

The public surface is what ``tsgen`` and its packages list in ``__all__``: functions, constructors, and the
public methods of classes. Methods of torch modules that only other modules call, in inner loops, have no
check and are not called; hooks are Lightning's to call. Each call begins with valid arguments
(:data:`EXAMPLES`, :data:`ARGUMENTS`; an argument without a recipe is an error, so that no callable is
forgotten), of which one or two are replaced. A call must return, or raise a ``TypeError`` or ``ValueError``
of one line by a ``raise`` of tsgen's own, or an ``OSError`` that names its file. Findings are

* raw tracebacks: another exception, or one that comes from Python, torch, numpy or pandas,
* calls that take longer than 10 seconds, or end their process,
* results that are not finite although all arrays among the arguments, and their squares, are: NaN gives
  NaN, and the density of a number whose square overflows is zero.

Calls run in child processes with limited memory. A call is determined by its number and the seed;
``--call 1234`` runs one and shows its traceback.
"""

from __future__ import annotations

import dataclasses
import dis
import inspect
import json
import math
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from functools import cache, partial
from importlib import import_module
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from lightning import Callback, LightningModule
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.distributions import Distribution
from torch_geometric.data import Data

import tsgen
from experiments.benchmarks.fuzz import TooLongError, in_processes
from experiments.benchmarks.harness import arguments as command_line
from experiments.benchmarks.harness import quiet_trainer
from tsgen import argument_types
from tsgen.data import GraphSeries, OneOf, PointMask, SeriesBatch, SeriesSpec, Sizes
from tsgen.data.series import Samples
from tsgen.datamodules import SimulatedDataModule, Split, SyntheticDataModule
from tsgen.encoders import Propagation, WindowEncoder
from tsgen.estimators import Pooled, pool
from tsgen.evaluation import ConformalIntervals, Evaluation
from tsgen.exact import VARProcess
from tsgen.heads import GaussianHead
from tsgen.models import AnyOrderModel, AutoregressiveModel, GraphVAR
from tsgen.models.pretrained import WEIGHTS
from tsgen.sampling import SMC, Ancestral, AnyOrder
from tsgen.simulate import NetworkPrior, Simulation, draw_network

SECONDS: float = 10
"""The time limit of a call."""

MEMORY = 3 * 2**30
"""Bytes of address space that a call may use beyond those of the process."""

PACKAGE = str(Path(tsgen.__file__).parent)

MODULES = ("", *(f".{name}" for name in tsgen._ROOMS))

# -------------------------------------------------------------------------------------------- valid arguments


@cache
def data() -> SyntheticDataModule:
    """Returns a small data module of a linear process."""
    return SyntheticDataModule(num_nodes=4, steps=200, window=12, batch_size=4, horizon=None)


@cache
def batch() -> SeriesBatch:
    """Returns four windows with hidden entries."""
    return data().dataset("test").__getitems__([(0, number) for number in range(4)])


@cache
def ones() -> SeriesBatch:
    """Returns a window whose values are ones, which are counts too."""
    window = batch().values[:1]
    mask = torch.ones_like(window, dtype=torch.bool)
    return SeriesBatch(torch.ones_like(window), mask, mask, batch().graph, batch().position[:1])


@cache
def model() -> AutoregressiveModel:
    """Returns a small autoregressive model."""
    encoder = partial(WindowEncoder, order=2, hidden=4)
    return AutoregressiveModel(data().spec, encoder, GaussianHead, sampler=Ancestral(3)).eval()


@cache
def any_order() -> AnyOrderModel:
    """Returns a small any-order model."""
    return AnyOrderModel(data().spec, head=GaussianHead, sampler=AnyOrder(3, groups=2)).eval()


@cache
def adapting() -> AnyOrderModel:
    """Returns a small any-order model that adapts to data."""
    sampler = AnyOrder(3, groups=2)
    return AnyOrderModel(data().spec, head=GaussianHead, sampler=sampler, units="linear", adapts=True).eval()


@cache
def simulated() -> SimulatedDataModule:
    """Returns a small data module of simulated networks."""
    return SimulatedDataModule(NetworkPrior((2, 6), (8,), (1, 1), windows=3), 2, 2, window=8)


@cache
def process() -> VARProcess:
    """Returns the process that the data was drawn from."""
    found = data().exact
    assert isinstance(found, VARProcess)
    return found


@cache
def exact() -> GraphVAR:
    """Returns the process of the data as a model."""
    found = GraphVAR(data().spec, order=process().order)
    found.process = process()
    return found.eval()


@cache
def run() -> Path:
    """Returns the folder of a tested run."""
    folder = Path(tempfile.mkdtemp())
    series = data().split.series
    evaluation = Evaluation(folder, series, "run", data().split.train, data().exact, horizon=4)
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        tested = AutoregressiveModel(data().spec, WindowEncoder, GaussianHead, sampler=SMC(3, particles=8))
        quiet_trainer(callbacks=[evaluation]).test(tested, data(), verbose=False)
    logs = folder / "logs" / "fit"
    logs.mkdir(parents=True)
    (logs / "metrics.csv").write_text("epoch,step,train/loss,val/loss\n0,1,2.5,\n0,1,,2.4\n1,2,2.2,2.1\n")
    return folder


@cache
def other_run() -> Path:
    """Returns the folder of a copy of the tested run."""
    return Path(shutil.copytree(run(), f"{run()}_2"))


@cache
def evaluation() -> xr.Dataset:
    """Returns the content of ``evaluation.nc``."""
    return xr.load_dataset(run() / "evaluation.nc")


@cache
def scores() -> dict[str, Any]:
    """Returns the content of ``scores.json``."""
    return json.loads((run() / "scores.json").read_text())


@cache
def stored() -> Path:
    """Returns the path of a series in a file."""
    path = run() / "series.nc"
    data().split.series.to_xarray().to_netcdf(path)
    return path


@cache
def table() -> Path:
    """Returns the path of a CSV file of measurements."""
    path = run() / "data.csv"
    rows = [f"2024-01-0{1 + t // 24}T{t % 24:02},{v},{t + 0.5}" for t in range(96) for v in "ab"]
    path.write_text("\n".join(["time,node,pm", *rows]))
    return path


@cache
def edges() -> Path:
    """Returns the path of a CSV file of edges."""
    path = run() / "edges.csv"
    path.write_text("source,target,weight\na,b,1.5\nb,a,2\n")
    return path


@cache
def checkpoint() -> Path:
    """Returns the path of a checkpoint."""
    path = run() / "a.ckpt"
    torch.save({"state_dict": model().state_dict(), "hyper_parameters": dict(model().hparams)}, path)
    return path


@cache
def adapting_checkpoint() -> Path:
    """Returns the path of a checkpoint of a model that adapts."""
    path, hyperparameters = run() / "adapting.ckpt", {**adapting().hparams, "window": 12}
    torch.save({"state_dict": adapting().state_dict(), "hyper_parameters": hyperparameters}, path)
    return path


@cache
def frame() -> pd.DataFrame:
    """Returns a data frame of measurements, with gaps."""
    values = numbers(60, 3).numpy().astype(float)
    values[10:14, 0] = np.nan
    return pd.DataFrame(values, index=pd.date_range("2024-01-01", periods=60, freq="h"), columns=list("abc"))


@cache
def forecaster() -> tsgen.Forecaster:
    """Returns a forecaster that was fitted to the data frame."""
    return tsgen.Forecaster(horizon=4, num_samples=3).fit(frame())


@cache
def imputer() -> tsgen.Imputer:
    """Returns an imputer that was fitted to the data frame."""
    return tsgen.Imputer(num_samples=3).fit(frame())


def saved(estimator: tsgen.Imputer | tsgen.Forecaster) -> Path:
    """Returns the path of a checkpoint of an estimator."""
    path = run() / f"{type(estimator).__name__}.ckpt"
    estimator.save(path)
    return path


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Returns standard normal numbers, the same at every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def covariance(size: int) -> Tensor:
    """Returns a covariance matrix."""
    return torch.eye(size) + 0.5


def mean_of(completed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns estimates and their variances."""
    return completed.mean(axis=0), np.ones(completed.shape[1:])


ESTIMATORS = ("Imputer", "Forecaster")
"""Classes whose methods take data of several kinds."""

OF_DATA = (
    *("fit", "fit_transform", "transform", "predict", "interval", "quantiles", "sample", "score"),
    "series",
)
"""Those methods."""

EXAMPLES: dict[type, Callable[[], Any]] = {
    GraphSeries: lambda: data().split.series.chunk(slice(0, 30)),
    SeriesBatch: batch,
    SeriesSpec: lambda: data().spec,
    Split: lambda: data().split,
    Samples: lambda: Ancestral(3)(model(), batch()),
    VARProcess: process,
    Simulation: lambda: simulated().prior.draw(0, 0),
    Pooled: lambda: pool(mean_of, [np.ones((3, 2)), np.zeros((3, 2))]),
    ConformalIntervals: lambda: ConformalIntervals.fit(evaluation(), level=0.5, gaps=(1,)),
}
"""An object of each container; its fields are valid arguments of its constructor."""

ARGUMENTS: dict[str, Callable[[], Any]] = {
    # of every callable with an argument of this name
    "batch": batch,
    "windows": batch,
    "model": model,
    "p": model,
    "q": exact,
    "series": EXAMPLES[GraphSeries],
    "spec": EXAMPLES[SeriesSpec],
    "graph": lambda: data().spec.graph,
    "propagation": lambda: Propagation(data().spec.graph),
    "sizes": lambda: Sizes(4, 1, 0),
    "hidden": lambda: 4,
    "in_features": lambda: 3,
    "in_channels": lambda: 3,
    "out_channels": lambda: 3,
    "num_samples": lambda: 3,
    "steps": lambda: 24,
    "horizon": lambda: 4,
    "seed": lambda: 1,
    "stage": lambda: "test",
    "order": lambda: 2,
    "window": lambda: 12,
    "level": lambda: 0.8,
    "levels": lambda: [0.1, 0.5, 0.9],
    "columns": lambda: 2,
    "stream": lambda: torch.arange(4),
    "path": lambda: Path("result.nc"),
    "evaluation": evaluation,
    "adjusted": lambda: EXAMPLES[ConformalIntervals]()(evaluation()),
    "scores": scores,
    "metrics": lambda: run() / "logs" / "fit" / "metrics.csv",
    "num_nodes": lambda: 4,
    "latitude": lambda: np.array([50.0, 51.0, 52.0, 53.0]),
    "longitude": lambda: np.array([10.0, 11.0, 12.0, 13.0]),
    "mask": lambda: PointMask(),
    "masks": lambda: [PointMask(), OneOf([PointMask()])],
    "clusters": lambda: 2,
    "stretches": lambda: [slice(0, 10), slice(12, 20)],
    "observed": lambda: EXAMPLES[GraphSeries]().observed,
    "other": EXAMPLES[SeriesSpec],
    "starts": lambda: torch.tensor([0, 3]),
    "nodes": lambda: torch.tensor([0, 2]),
    "law": lambda: model()(batch()),
    "truth": lambda: numbers(6),
    "samples": lambda: numbers(3, 6),
    "ordered": lambda: numbers(3, 6).sort(dim=0).values,
    "coefficients": lambda: torch.tensor([0.5, 0.2]),
    "intercept": lambda: 0.1,
    "variance": lambda: 1.5,
    "lags": lambda: 3,
    "y": lambda: numbers(2, 20),
    "history": lambda: numbers(2, 20),
    "loc": lambda: numbers(3),
    "covariance": lambda: covariance(3),
    "matrix": lambda: numbers(2, 3),
    "offset": lambda: numbers(2),
    "indices": lambda: [0, 2],
    "values": lambda: batch().values,
    "scale": lambda: torch.ones(4),
    "entries": lambda: 12,
    "drawn": lambda: numbers(3, 4, 12, 4, 1),
    "drawn_steps": lambda: torch.zeros(4, 12, dtype=torch.bool),
    "numbers": lambda: range(2),
    "times": lambda: 2,
    "chosen": lambda: slice(0, 2),
    "step": lambda: 3,
    "rank": lambda: evaluation()["rank"].values,
    "runs": lambda: {"a": (evaluation(), scores()), "b": (evaluation(), scores())},
    "rng": lambda: np.random.default_rng(0),
    "network": lambda: draw_network(np.random.default_rng(0), 4),
    # of one callable
    "Evaluation.train": lambda: data().split.train,
    "self_check.impute": lambda: lambda visible: numbers(20, *visible.values.shape),
    "AnyOrderModel.adapted.data": batch,
    "Gaps.draw.values": lambda: np.random.default_rng(0).standard_normal((3, 12, 4, 1)),
    "Network.position": lambda: np.arange(8.0).reshape(4, 2),
    "Network.distance": lambda: np.ones((4, 4)) - np.eye(4),
    "NetworkPrior.draw.number": lambda: 0,
    "draw.windows": lambda: 3,
    "scale.windows": lambda: 3,
    "draw_network.nodes": lambda: 4,
    "fit_shrunk.values": lambda: numbers(4, 12, 3),
    "fit_shrunk.observed": lambda: numbers(4, 12, 3) < 0.5,
    "fit_shrunk.similarity": lambda: torch.ones(3, 3) - torch.eye(3),
    "check_data.data": data,
    "impute.data": batch,
    "forecast.data": EXAMPLES[GraphSeries],
    "generate.data": lambda: 12,
    "from_xarray.data": lambda: EXAMPLES[GraphSeries]().to_xarray(),
    "SeriesPrediction.data": data,
    "load.checkpoint": checkpoint,
    "save_pretrained.checkpoint": adapting_checkpoint,
    "save_pretrained.path": lambda: run() / "w.safetensors",
    "load_pretrained.path": lambda: WEIGHTS,
    "StoredSeries.path": stored,
    "StoredSeries.with_observed.observed": lambda: data().split.series.chunk(slice(None)).observed,
    "FilesDataModule.path": table,
    "FilesDataModule.edges": edges,
    **{f"{owner}.{method}.data": frame for owner in ESTIMATORS for method in OF_DATA},
    "Imputer.save.path": lambda: run() / "imputer.ckpt",
    "Forecaster.save.path": lambda: run() / "forecaster.ckpt",
    "Imputer.load.path": lambda: saved(imputer()),
    "Forecaster.load.path": lambda: saved(forecaster()),
    "pool.fit": lambda: mean_of,
    "pool.draws": lambda: [np.ones((3, 2)), np.zeros((3, 2))],
    "to_datatree.draws": lambda: imputer().sample(frame()),
    "from_correlations.values": lambda: EXAMPLES[GraphSeries]().values,
    "from_correlations.common": lambda: 5,
    "from_edges.source": lambda: [0, 1, 2, 3],
    "from_edges.target": lambda: [1, 2, 3, 0],
    "from_edges.weight": lambda: [1.0, 2.0, 3.0, 4.0],
    "from_distances.distances": lambda: np.abs(np.subtract.outer(np.arange(4.0), np.arange(4.0))),
    "nearest_neighbours.k": lambda: 2,
    "Gaussian.expand.batch_shape": lambda: [2],
    "Gaussian.log_prob.value": lambda: numbers(5, 3),
    "Gaussian.joint.covariance": lambda: covariance(2),
    "Gaussian.observe.covariance": lambda: covariance(2),
    "Gaussian.observe.values": lambda: numbers(2),
    "Gaussian.predict.covariance": lambda: covariance(2),
    "Gaussian.condition.values": lambda: numbers(2),
    "VARProcess.conditional_log_prob.values": lambda: numbers(2, 12, 4, dtype=torch.float64),
    "VARProcess.expectation.values": lambda: numbers(2, 12, 4, dtype=torch.float64),
    "VARProcess.expectation.context": lambda: torch.ones(2, 12, 4, dtype=torch.bool),
    "VARProcess.log_prob.values": lambda: numbers(2, 12, 4, dtype=torch.float64),
    "VARProcess.fit.values": lambda: numbers(60, 4, dtype=torch.float64),
    "VARProcess.fit.order": lambda: 1,
    "VARProcess.in_units.loc": lambda: numbers(4, dtype=torch.float64),
    "VARProcess.in_units.scale": lambda: torch.ones(4, dtype=torch.float64),
    "VARProcess.white_noise.loc": lambda: numbers(4),
    "VARProcess.maximisation.moments": lambda: process().expectation(
        numbers(2, 30, 4, dtype=torch.float64), torch.ones(2, 30, 4, dtype=torch.bool)
    ),
    "VARProcess.maximisation.support": lambda: torch.ones(4, 4, dtype=torch.bool),
    "VARProcess.maximisation.noise": lambda: "full",
    "VARProcess.draw.stream": lambda: torch.arange(12).view(3, 4),
    "conditional.previous": lambda: torch.ones(2, 4),
    "Ancestral.draw.stream": lambda: torch.arange(12).view(3, 4),
    "AnyOrder.draw.stream": lambda: torch.arange(12).view(3, 4),
    "Exact.draw.stream": lambda: torch.arange(12).view(3, 4),
    "SMC.draw.stream": lambda: torch.arange(12).view(3, 4),
    "SMC.particles": lambda: 16,
    "SMC.num_samples": lambda: 3,
    "Ancestral.num_samples": lambda: 3,
    "AnyOrder.num_samples": lambda: 3,
    "Exact.num_samples": lambda: 3,
    "chunk.steps": lambda: slice(3, 9),
    "FilesDataModule.window": lambda: 6,
    "ConformalIntervals.fit.level": lambda: 0.5,
    "ConformalIntervals.fit.validation": evaluation,
    "ConditionalHead.sizes": lambda: Sizes(4, 1, 2),
    "MixtureNADEHead.over": lambda: "slice",
    "Propagation.average.x": lambda: numbers(2, 4, 3),
    "Propagation.tiled.copies": lambda: 3,
    "Evaluation.folder": run,
    "Evaluation.run": lambda: "run",
    "FarDraws.units": lambda: model().node_units,
    "Split.held_out_of.windows": lambda: data().split.series.windows(torch.tensor([0, 3]), 12),
    "GraphVAR.sampler": lambda: tsgen.Exact(3),
    "axes_grid.panels": lambda: 3,
    "axes_grid.width": lambda: 3.0,
    "axes_grid.height": lambda: 2.0,
    "by_gap.scores": lambda: {"a": scores(), "b": scores()},
    "in_style.draw": lambda: lambda: Figure(),
    "is_exact.row": lambda: scores()["rows"][0],
    "network_difference.difference": lambda: np.arange(4.0),
    "node_scores.crps": lambda: evaluation()["crps"].values,
    "number.value": lambda: 0.5,
    "printable.text": lambda: "text",
    "NLL.update.log_prob": lambda: numbers(6),
    "NLL.update.mask": lambda: torch.ones(6, dtype=torch.bool),
    "LawCRPS.update.truth": lambda: batch().values,
    "LawCRPS.update.mask": lambda: batch().target,
    "law_crps.truth": lambda: batch().values,
    "GroupedScores.labels": lambda: [{"node": "a"}, {"node": "b"}],
    "GroupedScores.update.scores": lambda: {"mae": numbers(4)},
    "GroupedScores.update.group": lambda: torch.tensor([0, 1, 1, 0]),
    "RankHistogram.update.rank": lambda: torch.tensor([0, 1, 3]),
    "interval_score.low": lambda: numbers(6),
    "interval_score.high": lambda: numbers(6) + 1,
    "ranks.noise": lambda: torch.rand(6),
    "pit.truth": lambda: batch().values,
    "pit.noise": lambda: torch.rand(batch().values.shape),
    "threshold": lambda: 0.5,
    "thresholds": lambda: [0.0, 1.5],
    "low": lambda: -1.0,
    "high": lambda: 1.0,
    "censored_crps.loc": lambda: numbers(6),
    "censored_crps.scale": lambda: torch.ones(6),
    "truncated_crps.loc": lambda: numbers(6),
    "truncated_crps.scale": lambda: torch.ones(6),
    "empirical_quantiles.levels": lambda: torch.tensor([0.1, 0.9]),
    "write_report.run": run,
    "write_report.path": lambda: Path("report.html"),
    "write_comparison.first": run,
    "write_comparison.second": other_run,
    "write_comparison.path": lambda: Path("report.html"),
    "VariogramScore.order": lambda: 0.5,
    "variogram_score.order": lambda: 0.5,
}
for joint in ("energy_score", "variogram_score", "EnergyScore.update", "VariogramScore.update"):
    ARGUMENTS |= {
        f"{joint}.samples": lambda: numbers(3, 4, 12, 4, 1),
        f"{joint}.truth": lambda: batch().values,
        f"{joint}.mask": lambda: batch().target,
    }
ARGUMENTS["entries.samples"] = ARGUMENTS["energy_score.samples"]
for encoder in (
    "AttentionEncoder",
    "ConvolutionEncoder",
    "GraphGRUEncoder",
    "RecurrentEncoder",
    "WindowEncoder",
):
    ARGUMENTS[f"{encoder}.hidden"] = lambda: 4

for network in (name for name in tsgen.exact.__all__ if name.endswith("Network")):
    ARGUMENTS[f"{network}.predictive.batch"] = ones

INNER = ("Propagation.average", "Propagation.tiled", "InDataUnits", "printable")
"""Methods that only convolutions call, and the law that heads return: both in inner loops."""

NOT_DEFINED = (
    *("number", "node_scores", "central_coverage", "energy_score", "variogram_score"),
    *("ConformalIntervals.fit", "ConformalIntervals.table"),
)
"""Functions that return NaN where there is nothing to score, or intervals without end where there are too few
windows, as their docstrings say."""

SAMPLERS: dict[str, Callable[[], Any]] = {"AnyOrder": any_order, "Exact": exact}
"""The model of each sampler that does not take an autoregressive one."""

# ----------------------------------------------------------------------------------------- public surface


class Public(NamedTuple):
    """A public function, constructor or method.

    Attributes:
        name: Its name, such as ``SMC.check``.
        owner: The class of a constructor or method.
        method: The name of a method.
        function: What is called, before a method is bound.
    """

    name: str
    owner: type | None
    method: str | None
    function: Callable


@cache
def surface() -> dict[str, Public]:
    """Returns everything that is public, by name."""
    found: dict[str, Public] = {}
    for module_name in MODULES:
        module = import_module(f"tsgen{module_name}")
        for name in getattr(module, "__all__", ()):
            item = getattr(module, name)
            if inspect.isclass(item):
                found |= {public.name: public for public in _members(item)}
            elif callable(item) and name not in INNER:
                found[name] = Public(name, None, None, item)
    return found


def _members(owner: type) -> Iterator[Public]:
    """Iterates over the constructor and the public methods of a class."""
    abstract = any(getattr(getattr(owner, name), "__isabstractmethod__", False) for name in dir(owner))
    if abstract or issubclass(owner, (BaseException, tuple)) or owner.__name__ in INNER:
        return
    yield Public(owner.__name__, owner, None, owner)
    if issubclass(owner, (Callback, LightningModule)) and not issubclass(owner, tsgen.DensityModel):
        return
    for name in dir(owner):
        member = getattr(owner, name)
        home = next((base for base in owner.__mro__ if name in vars(base)), object)
        ours = home.__module__.startswith("tsgen") and (
            inspect.isfunction(member) or inspect.ismethod(member)
        )
        public = name == "__call__" or not name.startswith("_")
        if f"{owner.__name__}.{name}" in INNER:
            continue
        if ours and public and (not issubclass(owner, nn.Module) or hasattr(member, "checks_arguments")):
            yield Public(f"{owner.__name__}.{name}", owner, name, member)


def prepared(public: Public) -> tuple[Callable, dict[str, Any]]:
    """Returns what is called, bound to an object, and valid arguments.

    Raises:
        LookupError: If there is no recipe for an argument without a default.
    """
    function = public.function
    if public.method is not None and public.owner is not None:
        static = inspect.getattr_static(public.owner, public.method)
        if not isinstance(static, classmethod | staticmethod):
            made = MODELS.get(public.name) or partial(instance, public.owner)
            function = getattr(made(), public.method)
    if public.method is None and public.owner in EXAMPLES:
        example = EXAMPLES[public.owner]()
        return function, {field.name: getattr(example, field.name) for field in dataclasses.fields(example)}
    arguments = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        recipe = _recipe(public, parameter)
        if recipe is not None:
            arguments[parameter.name] = recipe()
        elif parameter.default is parameter.empty:
            raise LookupError(f"{public.name} needs a recipe for {parameter.name!r} in ARGUMENTS.")
    return function, arguments


def _recipe(public: Public, parameter: inspect.Parameter) -> Callable[[], Any] | None:
    """Returns the function that makes a valid argument, if there is a recipe; by its name, for no default."""
    if parameter.name == "model" and public.owner is not None and public.owner.__name__ in SAMPLERS:
        return SAMPLERS[public.owner.__name__]
    names = [f"{public.name}.{parameter.name}", f"{public.method}.{parameter.name}"]
    for name in names if parameter.default is not parameter.empty else [*names, parameter.name]:
        if name in ARGUMENTS:
            return ARGUMENTS[name]
    return None


def instance(owner: type) -> Any:
    """Returns an object of a class, made from valid arguments."""
    if owner in EXAMPLES:
        return EXAMPLES[owner]()
    if owner.__name__ in MODELS:
        return MODELS[owner.__name__]()
    function, arguments = prepared(Public(owner.__name__, owner, None, owner))
    return function(**arguments)


MODELS: dict[str, Callable[[], Any]] = {
    "Imputer": imputer,
    "Forecaster": forecaster,
    "AutoregressiveModel": model,
    "AnyOrderModel": any_order,
    "GraphVAR": exact,
    "AnyOrderModel.adapted": adapting,
    "SyntheticDataModule": data,
    "SimulatedDataModule": simulated,
    "NetworkPrior": lambda: simulated().prior,
}
"""An object of a class, or for the calls of one method."""

# ---------------------------------------------------------------------------------------- wrong arguments

WRONG: list[Callable[[], Any]] = [
    *(partial(lambda value: value, value) for value in (None, "", "x", b"x", True, 3, -1, 2.5, 1j, math.nan)),
    *(list, dict, tuple, set, object, lambda: [None], lambda: ["x"], lambda: [[1]], lambda: {"x": 1}),
    *(lambda: print, lambda: dict, lambda: Path("/nonexistent/x"), lambda: slice(None), lambda: range(3)),
    *(lambda: np.zeros(0), lambda: np.array(["x"]), lambda: np.ones((2, 3)), lambda: np.array([None])),
    *(
        lambda: torch.zeros(0),
        lambda: torch.ones(2, 3),
        lambda: torch.tensor(1),
        lambda: torch.arange(3),
    ),
    *(lambda: pd.Timestamp("2024"), lambda: pd.DataFrame({"x": [1]}), lambda: xr.Dataset(), lambda: Data()),
    *(lambda: iter([1]), batch, model, EXAMPLES[GraphSeries], EXAMPLES[SeriesSpec], lambda: PointMask()),
]
"""Values of many types."""

WHOLE = [0, -1, 1, 2, 7, 2**31, -(2**31), 2**62, 2**63, -(2**63), 2**64, 10**30]
REAL = [0.0, -0.0, -1.0, 0.5, 1.0, 1 + 1e-12, 2.0, 1e-300, 1e300, -1e300, math.nan, math.inf, -math.inf]
TEXT = ["", " ", "x", "\x00", "\x1b[2J", "a" * 300, "é\u202e", "nan", "../..", "val"]


def changed(value: Any, chance: random.Random) -> Any:
    """Returns an extreme or random value of the same type, or one of another type where there is none."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return chance.choice([*WHOLE, chance.randrange(-3, 40), np.int64(chance.randrange(5))])
    if isinstance(value, float):
        return chance.choice([*REAL, chance.uniform(-1, 2), np.float32(chance.random())])
    if isinstance(value, str):
        return chance.choice(TEXT)
    if isinstance(value, Path):
        return chance.choice([Path(), Path("/"), Path("/nonexistent/x"), Path("x" * 300), Path("/dev/null")])
    if isinstance(value, Tensor):
        return _changed_tensor(value, chance)
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "biuf":
            return value[:0]
        other = _changed_tensor(torch.from_numpy(value), chance)
        return value[:0] if other.is_meta else other.numpy()
    if isinstance(value, list | tuple):
        items = list(value)
        if items:
            at = chance.randrange(len(items))
            kinds = [
                items[:at],
                items + items[:1],
                items[::-1],
                [*items[:at], None],
                [changed(items[at], chance)],
            ]
            items = chance.choice([*kinds, [*items[:at], changed(items[at], chance), *items[at + 1 :]]])
        return tuple(items) if type(value) is tuple else items
    if isinstance(value, xr.Dataset):
        name, dimension = chance.choice(list(map(str, value.variables))), chance.choice(list(value.sizes))
        shorter = [value.isel({dimension: []}), value.isel({dimension: [0]})]
        return chance.choice([*shorter, value.drop_vars(name), value.rename({name: "x"}), xr.Dataset()])
    if isinstance(value, Mapping) and value:
        key = chance.choice(list(value))
        rest = {name: item for name, item in value.items() if name != key}
        return chance.choice([{}, rest, {**rest, key: None}, {**value, key: changed(value[key], chance)}])
    if isinstance(value, slice):
        ends = [None, 0, 3, -2, 10**9, 2.5, "x"]
        return slice(chance.choice(ends), chance.choice(ends), chance.choice([None, 1, 2, -1, 0]))
    if isinstance(value, range):
        return chance.choice([range(0), range(5, 2), range(-3, 2), range(0, 9, 4), range(10**9, 10**9 + 2)])
    if isinstance(value, Data):
        return _changed_graph(value, chance)
    if isinstance(value, Sizes):
        return Sizes(*(chance.choice([0, -1, 1, 3, 2**31, 2**63]) for _ in value))
    return chance.choice(WRONG)()


def _changed_tensor(value: Tensor, chance: random.Random) -> Tensor:
    """Returns a tensor with other numbers, another type or another shape."""
    axis = chance.randrange(value.dim()) if value.dim() else 0
    kinds: list[Callable[[], Tensor]] = [
        *(lambda: value.double(), value.half, value.long, value.bool, lambda: value.to(torch.complex64)),
        *(
            lambda: value[None],
            lambda: value.reshape(-1),
            lambda: value.reshape(-1)[0],
            lambda: value.flip(0),
        ),
        *(lambda: torch.zeros_like(value), lambda: torch.ones_like(value), lambda: value.to("meta")),
        *(lambda: value.narrow(axis, 0, 0), lambda: value.narrow(axis, 0, 1), lambda: value.transpose(0, -1)),
        lambda: torch.cat([value, value], axis),
    ]
    if value.is_floating_point():
        extreme = [math.nan, math.inf, -math.inf, 1e30, -1e30, 1e-30, 3e38]
        kinds += [lambda: value * chance.choice(extreme[3:]), lambda: -value, lambda: torch.rand_like(value)]
        kinds += [lambda: value.index_fill(axis, torch.tensor([0]), chance.choice(extreme))]
    elif value.dtype == torch.bool:
        kinds += [lambda: ~value]
    else:
        kinds += [lambda: value - 100, lambda: value + 100, lambda: value + 2**62, lambda: -value]
    try:
        return chance.choice(kinds)()
    except (RuntimeError, IndexError):  # a tensor without axes
        return value[None, None]


def _changed_graph(graph: Data, chance: random.Random) -> Data:
    """Returns a graph that lacks something, or has other edges, weights or nodes."""
    graph = graph.clone()
    name = chance.choice(["edge_index", "edge_weight", "num_nodes"])
    graph[name] = chance.choice([None, "x", changed(graph[name], chance)])
    return graph


class Case(NamedTuple):
    """A call with wrong arguments.

    Attributes:
        public: What is called.
        function: The same, bound to an object.
        arguments: The arguments.
        wrong: The names of those that were replaced.
    """

    public: Public
    function: Callable
    arguments: dict[str, Any]
    wrong: list[str]


def case(number: int, seed: int) -> Case:
    """Returns a call, determined by its number and the seed."""
    chance = random.Random(f"{seed}/{number}")
    publics = list(surface().values())
    public = publics[number % len(publics)]
    function, arguments = prepared(public)
    parameters = [
        p
        for p in inspect.signature(function).parameters.values()
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    wrong = chance.sample(parameters, min(len(parameters), chance.choice([1, 1, 2])))
    for parameter in wrong:
        value = arguments.get(parameter.name, parameter.default)
        other = changed(value, chance) if chance.random() < 0.6 else chance.choice(WRONG)()
        arguments[parameter.name] = other
    return Case(public, function, arguments, [parameter.name for parameter in wrong])


# -------------------------------------------------------------------------------------------------- judgement


def is_finite(result: Any, depth: int = 0) -> bool:
    """Returns whether all numbers of a result are finite; entries that no mask contains are not looked at."""
    if isinstance(result, Tensor | np.ndarray):
        numbers = (
            torch.as_tensor(result) if isinstance(result, Tensor) or result.dtype.kind in "iufb" else None
        )
        return numbers is None or numbers.is_meta or bool(torch.isfinite(numbers).all())
    if isinstance(result, float):
        return math.isfinite(result)
    if isinstance(result, Distribution):
        return is_finite(result.mean)
    if isinstance(result, SeriesBatch):
        return is_finite(result.values[result.context | result.target])
    if isinstance(result, GraphSeries):
        return is_finite(result.values[result.observed])
    if isinstance(result, xr.Dataset):
        return "imputation" not in result or is_finite(result["imputation"].values)
    if isinstance(result, Mapping):
        result = list(result.values())
    if isinstance(result, list | tuple):
        return all(is_finite(item, depth + 1) for item in result)
    if dataclasses.is_dataclass(result) and not isinstance(result, type) and depth < 3:
        return all(is_finite(getattr(result, field.name), depth + 1) for field in dataclasses.fields(result))
    return True


def _overflows(arguments: Mapping[str, Any]) -> bool:
    """Returns whether an array among the arguments has a number, or a square, that is not finite."""
    tensors = [value for value in arguments.values() if isinstance(value, Tensor) and not value.is_meta]
    arrays = [value for value in arguments.values() if isinstance(value, np.ndarray)]
    floats: list[Any] = [
        *(x for x in tensors if x.is_floating_point()),
        *(x for x in arrays if x.dtype.kind == "f"),
    ]
    with np.errstate(all="ignore"):
        return any(not is_finite(x * x) for x in floats)


def is_ours(error: BaseException) -> bool:
    """Returns whether an exception is a refusal: one line, raised by a ``raise`` of tsgen, or of a file."""
    text = str(error)
    if not text.isprintable() or not 0 < len(text) < 1500:
        return False
    if isinstance(error, OSError):
        return error.filename is not None
    last = error.__traceback__
    while isinstance(last, TracebackType) and last.tb_next is not None:
        last = last.tb_next
    if not isinstance(error, TypeError | ValueError) or last is None:
        return False
    code = last.tb_frame.f_code
    raised = dis.opname[code.co_code[last.tb_lasti]] == "RAISE_VARARGS"
    return raised and code.co_filename.startswith(PACKAGE)


def outcome(number: int, seed: int) -> tuple[str, str]:
    """Makes one call; returns ``returned``, ``refused`` or ``found``, and what happened."""
    made = case(number, seed)
    label = (
        f"{made.public.name}({', '.join(f'{name}={_short(made.arguments[name])}' for name in made.wrong)})"
    )
    signal.signal(signal.SIGPROF, signal.getsignal(signal.SIGALRM))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of this process: others may share the machine
    try:
        result = made.function(**made.arguments)
        if inspect.isgenerator(result):
            result = [item for item, _ in zip(result, range(100), strict=False)]
        nan_is_an_answer = made.public.name in NOT_DEFINED or _overflows(made.arguments)
        if not nan_is_an_answer and not is_finite(result):
            return "found", f"not finite: {label} returned {_short(result)}"
        return "returned", ""
    except TooLongError:
        return "found", f"hang: {label}"
    except Exception as error:
        if is_ours(error):
            return "refused", str(error)
        frames = traceback.extract_tb(error.__traceback__)
        place = next((f for f in reversed(frames) if f.filename.startswith(PACKAGE)), frames[-1])
        at = f"{Path(place.filename).name}:{place.lineno}"
        return "found", f"raw: {label}: {type(error).__name__}: {' '.join(str(error)[:150].split())} at {at}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _short(value: Any) -> str:
    """Returns a short description of a value."""
    return argument_types._shown(value)[:80]


def run_calls(calls: Sequence[int], seed: int) -> tuple[Counter[str], list[tuple[int, str]]]:
    """Makes calls in child processes; returns counts of outcomes, and the findings with their numbers."""
    for public in surface().values():
        prepared(public)  # made here once, and not in every child
    counts: Counter[str] = Counter()
    findings = []
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            outcomes = in_processes(partial(outcome, seed=seed), calls, 6 * SECONDS, MEMORY)
            for number, (kind, message) in zip(calls, outcomes, strict=True):
                if kind == "found":
                    findings.append((number, message))
                    kind = message.partition(":")[0] if ":" in message else "crash"
                counts[kind] += 1
        finally:
            os.chdir(here)
    return counts, findings


def main() -> None:
    """Makes the calls, and prints the table and the findings."""
    parser = command_line(__doc__)
    parser.add_argument("--calls", type=int, default=1000, help="the number of calls")
    parser.add_argument("--first", type=int, default=0, help="the number of the first call")
    parser.add_argument("--seed", type=int, default=1, help="the seed of all calls")
    parser.add_argument("--call", type=int, help="run one call, with its traceback")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.call is not None:
        made = case(options.call, options.seed)
        print(made.public.name, {name: _short(made.arguments[name]) for name in made.wrong})
        print(made.function(**made.arguments))
        return
    calls = range(options.first, options.first + options.calls)
    counts, findings = run_calls(calls, options.seed)
    kinds = ("returned", "refused", "raw", "hang", "crash", "not finite")
    print(f"| calls | {' | '.join(kinds)} |\n{'| --- ' * (1 + len(kinds))}|")
    print(f"| {len(calls):,} | {' | '.join(f'{counts[kind]:,}' for kind in kinds)} |")
    for number, message in findings:
        print(f"{number}: {message}")
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
