"""Parts of a model as plain data.

A model is told its parts as *factories*: a class, or a :func:`functools.partial` of one, to which the model
adds the sizes. A checkpoint tells the same as nested dicts: a factory is ``{"class_path": ..., "init_args":
{...}}``, an object ``{"instance_of": ..., "init_args": {...}}``. :func:`describe` and :func:`restore` go from
one to the other, so that a checkpoint holds plain data only, whether the model came from a YAML file or from
Python, and is loaded without running code from it.

Neither a checkpoint nor a configuration says by itself what is made of it: :func:`is_importable` has the list
of the classes that they may name, and is asked before anything is imported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from importlib import import_module
from typing import Any

from tsgen.moved import current

MODULES = (
    *("tsgen.encoders", "tsgen.heads", "tsgen.models", "tsgen.objectives", "tsgen.sampling"),
    *("tsgen.training", "tsgen.storage.checkpoints", "tsgen.data.masks", "tsgen.encoders.propagation"),
    *("torch.nn.modules", "torch.optim", "torch.optim.lr_scheduler"),
    *("torch_geometric.nn.conv", "torch_geometric.nn.aggr"),
)
"""Modules whose public classes may be named. ``torch_geometric.nn`` as a whole would be too much: its
``Sequential`` evaluates the text that it is given. So would lightning: its loggers may be told the addresses
that their keys are sent to."""

CLASSES = {
    "tsgen.data.series": ("SeriesSpec",),
    "tsgen.data.subgraphs": ("Subgraphs",),
    "lightning.pytorch.callbacks": (
        *("BatchSizeFinder", "DeviceStatsMonitor", "EMAWeightAveraging", "EarlyStopping"),
        *("GradientAccumulationScheduler", "LearningRateFinder", "LearningRateMonitor", "ModelCheckpoint"),
        *("ModelPruning", "ModelSummary", "OnExceptionCheckpoint", "RichModelSummary", "RichProgressBar"),
        *("StochasticWeightAveraging", "TQDMProgressBar", "Timer", "WeightAveraging"),
    ),
    "lightning.pytorch.loggers": ("CSVLogger", "TensorBoardLogger", "WandbLogger"),
    "lightning.pytorch.plugins": (
        *("AsyncCheckpointIO", "BitsandbytesPrecision", "DoublePrecision", "FSDPPrecision", "HalfPrecision"),
        *("MixedPrecision", "Precision", "TorchCheckpointIO", "TorchSyncBatchNorm"),
        "TransformerEnginePrecision",
    ),
    "lightning.pytorch.plugins.environments": (
        *("LightningEnvironment", "LSFEnvironment", "MPIEnvironment", "SLURMEnvironment"),
        "TorchElasticEnvironment",
    ),
    "lightning.pytorch.profilers": (
        *("AdvancedProfiler", "PassThroughProfiler", "PyTorchProfiler", "SimpleProfiler"),
    ),
    "lightning.pytorch.strategies": (
        *("DDPStrategy", "FSDPStrategy", "ModelParallelStrategy", "SingleDeviceStrategy"),
    ),
    "lightning.pytorch.accelerators": ("CPUAccelerator", "CUDAAccelerator", "MPSAccelerator"),
}
"""Classes of other modules that may be named. A ``LambdaCallback`` would call whatever is handed to it."""

SOURCES = (
    "tsgen, datamodules, torch.nn, torch.optim, torch_geometric.nn.conv, torch_geometric.nn.aggr and "
    "lightning's parts of a trainer"
)
"""Where these lie, in words."""


def describe(part: Any) -> Any:
    """A part as plain data.

    Args:
        part: A class, a partial of one, a dataclass instance, or a number, text, tensor, list or dict (whose
            items are described).

    Raises:
        ValueError: If it is something else, such as a lambda, which a checkpoint could not hold.
    """
    if isinstance(part, type):
        return {"class_path": _path(part), "init_args": {}}
    if isinstance(part, partial):
        # the command line wraps the class once more: partial(instantiate, ..., Class, **arguments)
        made = next((c for c in (part.func, *part.args) if isinstance(c, type)), None)
        if made is not None and part.args[-1:] in ((), (made,)):
            return {"class_path": _path(made), "init_args": describe(part.keywords)}
    if dataclasses.is_dataclass(part):
        fields = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
        return {"instance_of": _path(type(part)), "init_args": describe(fields)}
    if isinstance(part, Mapping):
        return {name: describe(value) for name, value in part.items()}
    if isinstance(part, (list, tuple)):
        return type(part)(describe(value) for value in part)
    if callable(part):
        raise ValueError(
            f"a part of a model must be a class or functools.partial(class, argument=...); {part!r} is "
            "neither and a checkpoint could not hold it."
        )
    return part


def restore(part: Any, bases: tuple[type, ...], trusted: Sequence[str] = ()) -> Any:
    """What was described: factories and objects from their descriptions, anything else as it is.

    Args:
        part: What :func:`describe` returned.
        bases: What a described class must descend from. Packages as large as torch have classes whose making
            does anything at all, so that a known package is not enough.
        trusted: Further packages whose classes may be named.

    Raises:
        ValueError: If a class is not one of a trusted package, not of the bases, or does not take the
            arguments.
    """
    if isinstance(part, Mapping):
        items = {name: restore(value, bases, trusted) for name, value in part.items()}
        if "class_path" in part:
            return partial(find_class(part["class_path"], bases, trusted), **items["init_args"])
        if "instance_of" in part:
            made = find_class(part["instance_of"], bases, trusted)
            try:
                return made(**items["init_args"])
            except TypeError as error:
                raise ValueError(f"{made.__name__} cannot be made of what is described: {error}.") from error
        return items
    if isinstance(part, (list, tuple)):
        return type(part)(restore(value, bases, trusted) for value in part)
    return part


def _path(made: type) -> str:
    return f"{made.__module__}.{made.__qualname__}"


@cache
def importable() -> frozenset[str]:
    """The paths of the classes that a checkpoint or a configuration may name."""
    found: set[str] = set().union(*map(classes_of, MODULES))
    for name, classes in CLASSES.items():
        for public in classes:
            found.update(_paths(getattr(import_module(name), public)))
    return frozenset(found)


def classes_of(module: str) -> frozenset[str]:
    """The paths of the public classes of a module that are defined in it or below it.

    Args:
        module: Such as ``tsgen.heads``.
    """
    found: set[str] = set()
    for name, made in vars(import_module(module)).items():
        if isinstance(made, type) and name[0] != "_" and f"{made.__module__}.".startswith(f"{module}."):
            found.update(_paths(made))
    return frozenset(found)


def _paths(made: type) -> Iterator[str]:
    """Where a class is defined, and the packages around that offer it too, such as ``torch.optim.AdamW``."""
    module = made.__module__
    yield _path(made)
    while "." in module:
        module = module.rpartition(".")[0]
        if getattr(import_module(module), made.__name__, None) is made:
            yield f"{module}.{made.__name__}"


def is_importable(path: str, trusted: Sequence[str] = ()) -> bool:
    """Whether a checkpoint or a configuration may name it.

    Args:
        path: Such as ``tsgen.heads.MixtureHead``. It is not imported.
        trusted: Packages and modules of the user's own, of which everything may be named.
    """
    return path in importable() or any(f"{path}.".startswith(f"{package}.") for package in trusted)


def find_class(class_path: str, bases: tuple[type, ...], trusted: Sequence[str] = ()) -> type:
    """The class with that path.

    Raises:
        ValueError: If it may not be named, or there is no such class of those bases.
    """
    class_path = current(str(class_path))
    package, _, name = class_path.rpartition(".")
    if not is_importable(class_path, trusted):
        raise ValueError(
            f"class_path must lie in {SOURCES}, and be known to be harmless; {class_path!r:.200} is not. "
            f"If you trust it, call tsgen.load(..., trusted=({package.split('.')[0]!r:.200},))."
        )
    try:
        found = getattr(import_module(package), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"no class {class_path!r} is to be found: {error}.") from error
    if not (isinstance(found, type) and issubclass(found, bases)):
        raise ValueError(
            f"class_path must name a {', '.join(base.__name__ for base in bases)}; {class_path!r} is none."
        )
    return found


def difference(mine: Any, its: Any, name: str = "") -> str | None:
    """The dotted name of the first option in which two descriptions differ; None if they agree.

    An option that only one of them mentions is at its default there, and is not compared.

    Args:
        mine: What :func:`describe` returned.
        its: The same of another part.
        name: What the two are called.
    """
    if not (isinstance(mine, Mapping) and isinstance(its, Mapping)):
        return None if mine == its else name
    for key in mine.keys() & its.keys():
        inner = name if key in ("init_args", "class_path", "instance_of") else f"{name}.{key}"
        if found := difference(mine[key], its[key], inner):
            return found
    return None
