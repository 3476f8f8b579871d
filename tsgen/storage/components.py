"""The building blocks of a model as plain data.

A model takes its building blocks as *factories*: a class, or a :func:`functools.partial` of one, to which the
model adds the sizes. A checkpoint describes them as nested dicts: a factory is ``{"class_path": ...,
"init_args": {...}}``, an object ``{"instance_of": ..., "init_args": {...}}``. :func:`describe` and
:func:`restore` convert between the two. A checkpoint therefore contains plain data only, whether the model
was built from YAML or in Python, and is loaded without running code from it.

Checkpoints and configurations may name only the classes that :func:`is_importable` accepts. It is called
before anything is imported.
"""

from __future__ import annotations

import dataclasses
import inspect
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
"""Modules whose public classes may be named. ``torch_geometric.nn`` as a whole would not be safe: its
``Sequential`` evaluates its arguments as code. Lightning as a whole would not be safe either: options of its
loggers can set the addresses that their keys are sent to."""

CLASSES = {
    "tsgen.data.series": ("SeriesSpec",),
    "tsgen.data.subgraphs": ("Subgraphs",),
    "tsgen.data.transforms": ("Transform",),
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
"""Classes of other modules that may be named. ``LambdaCallback`` may not: it calls any function."""

SOURCES = (
    "tsgen, datamodules, torch.nn, torch.optim, torch_geometric.nn.conv, torch_geometric.nn.aggr and "
    "lightning's trainer classes"
)
"""The packages of these classes, for error messages."""


SCALARS: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "None": (type(None),),
}
"""Annotations of arguments that are plain values, and the types of their values."""


def describe(block: Any) -> Any:
    """Returns a building block as plain data.

    Args:
        block: A class, a partial of one, a dataclass instance, or a number, text, tensor, list or dict (whose
            items are described).

    Raises:
        ValueError: If it is something else, such as a lambda, which a checkpoint cannot store.
    """
    if isinstance(block, type):
        return {"class_path": _path(block), "init_args": {}}
    if isinstance(block, partial):
        # the command line wraps the class once more: partial(instantiate, ..., Class, **arguments)
        factory = next((c for c in (block.func, *block.args) if isinstance(c, type)), None)
        if factory is not None and block.args[-1:] in ((), (factory,)):
            return {"class_path": _path(factory), "init_args": describe(block.keywords)}
    if dataclasses.is_dataclass(block):
        fields = {field.name: getattr(block, field.name) for field in dataclasses.fields(block)}
        return {"instance_of": _path(type(block)), "init_args": describe(fields)}
    if isinstance(block, Mapping):
        return {name: describe(value) for name, value in block.items()}
    if isinstance(block, (list, tuple)):
        return type(block)(describe(value) for value in block)
    if callable(block):
        raise ValueError(
            "a building block of a model must be a class or functools.partial(class, argument=...), which a "
            f"checkpoint can store; got {' '.join(repr(block).split()):.60}."
        )
    return block


def restore(description: Any, bases: tuple[type, ...], trusted: Sequence[str] = ()) -> Any:
    """Returns the factories and objects that were described; other values are returned unchanged.

    Args:
        description: The description that :func:`describe` returned.
        bases: The base classes of the classes that may be described. A known package is not enough: packages
            as large as torch have classes whose constructor can do anything.
        trusted: Further packages whose classes may be named.

    Raises:
        ValueError: If a class is not in a known or trusted package, is not derived from one of the bases, or
            does not accept the arguments.
    """
    if isinstance(description, Mapping):
        items = {name: restore(value, bases, trusted) for name, value in description.items()}
        if "class_path" in description:
            factory = find_class(description["class_path"], bases, trusted)
            _check_scalars(factory, items["init_args"])
            return partial(factory, **items["init_args"])
        if "instance_of" in description:
            described = find_class(description["instance_of"], bases, trusted)
            _check_scalars(described, items["init_args"])
            try:
                return described(**items["init_args"])
            except TypeError as error:
                raise ValueError(
                    f"{described.__name__} must accept the arguments of its description: {error}."
                ) from error
        return items
    if isinstance(description, (list, tuple)):
        return type(description)(restore(value, bases, trusted) for value in description)
    return description


def _check_scalars(cls: type, arguments: Mapping[str, Any]) -> None:
    """Raises ``ValueError`` if an argument that must be a number, a bool or text is of another type."""
    parameters = inspect.signature(cls).parameters
    for name, value in arguments.items():
        kinds = str(parameters[name].annotation).split(" | ") if name in parameters else []
        if kinds and SCALARS.keys() >= set(kinds) and not any(type(value) in SCALARS[kind] for kind in kinds):
            raise ValueError(f"{name} of {cls.__name__} must be {' or '.join(kinds)}; got {value!r:.40}.")


def _path(cls: type) -> str:
    """Returns the path of the module that defines a class, with the name of the class."""
    return f"{cls.__module__}.{cls.__qualname__}"


@cache
def importable() -> frozenset[str]:
    """Returns the paths of the classes that a checkpoint or a configuration may name."""
    paths: set[str] = set().union(*map(classes_of, MODULES))
    for name, classes in CLASSES.items():
        for public in classes:
            paths.update(_paths(getattr(import_module(name), public)))
    return frozenset(paths)


def classes_of(module: str) -> frozenset[str]:
    """Returns the paths of the public classes of a module that are defined in it or in its submodules.

    Args:
        module: Path of the module, such as ``tsgen.heads``.
    """
    paths: set[str] = set()
    for name, value in vars(import_module(module)).items():
        if isinstance(value, type) and name[0] != "_" and f"{value.__module__}.".startswith(f"{module}."):
            paths.update(_paths(value))
    return frozenset(paths)


def _paths(cls: type) -> Iterator[str]:
    """Iterates over the paths of a class: where it is defined, and the parent packages that also export it.

    ``torch.optim.AdamW`` is an example of the latter.
    """
    module = cls.__module__
    yield _path(cls)
    while "." in module:
        module = module.rpartition(".")[0]
        if getattr(import_module(module), cls.__name__, None) is cls:
            yield f"{module}.{cls.__name__}"


def is_importable(path: str, trusted: Sequence[str] = ()) -> bool:
    """Returns whether a checkpoint or a configuration may name a class.

    Args:
        path: Path of the class, such as ``tsgen.heads.MixtureHead``. It is not imported.
        trusted: The user's own packages and modules, in which everything may be named.
    """
    return path in importable() or any(f"{path}.".startswith(f"{package}.") for package in trusted)


def find_class(class_path: str, bases: tuple[type, ...], trusted: Sequence[str] = ()) -> type:
    """Returns the class of a path, after checking that it may be named.

    Args:
        class_path: Path of the class.
        bases: The class must be derived from one of these.
        trusted: Further packages whose classes may be named.

    Raises:
        ValueError: If the class may not be named, does not exist, or is not derived from one of the bases.
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
        raise ValueError(f"the class {class_path!r} must exist; {error}.") from error
    if not (isinstance(found, type) and issubclass(found, bases)):
        raise ValueError(
            f"class_path must name a {' or '.join(base.__name__ for base in bases)}; got {class_path!r}."
        )
    return found


def _current(option: Any) -> Any:
    """Returns an option; if it is a class path, the one that the class has now."""
    return current(option) if isinstance(option, str) else option


def difference(first: Any, second: Any, name: str = "") -> str | None:
    """Returns the dotted name of the first option in which two descriptions differ; None if they agree.

    An option that only one of them mentions is assumed to be at its default in the other, and is not
    compared.

    Args:
        first: A description that :func:`describe` returned.
        second: Another description.
        name: The dotted name of the option that the two describe; empty for a whole model.
    """
    if not (isinstance(first, Mapping) and isinstance(second, Mapping)):
        return None if _current(first) == _current(second) else name
    for key in (key for key in first if key in second):
        inner = name if key in ("init_args", "class_path", "instance_of") else f"{name}.{key}"
        if option := difference(first[key], second[key], inner):
            return option
    return None
