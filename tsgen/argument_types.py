"""Checks of the arguments of public functions and classes against their annotations.

``@check_arguments`` makes a function or a class raise an :class:`ArgumentTypeError` of one line, at the call
itself, if an argument is of another type than its annotation. Without it the same mistake surfaces somewhere
inside torch, numpy or pandas, or not at all.

* A sequence or mapping is checked as a whole, and not one item at random as beartype does.
* numpy's scalars pass as Python's, an ``int`` as a ``float``, an array or an index as a ``Sequence``. A text
  does not pass as a sequence of texts: ``units="ppb"`` would be three units.
* Whole numbers are below 2**63 and not ``True``, the parts of a slice are whole numbers and its step is
  positive, and a text is one of the options of a ``Literal``. Other values of the right type are left to the
  function, which raises a ``ValueError``, for example for a negative number of samples.
* A dataset or mapping that lacks what the function reads is named, instead of a bare ``KeyError``.
* ``@check_shapes`` checks the dtype, the device and the axes of tensors too, for functions that have no
  checks of their own; an axis has the same size in all arguments of a call.
* Arguments that are too large for the memory are a :class:`SizeError`, instead of torch's ``RuntimeError``.
"""

from __future__ import annotations

import inspect
import re
import reprlib
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import Any, ForwardRef, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from jaxtyping import AbstractArray, jaxtyped
from torch import Tensor, nn

M = TypeVar("M")
T = TypeVar("T", bound=Callable)

WIDER: dict[Any, tuple[type, ...]] = {
    int: (int, np.integer),
    float: (float, int, np.floating, np.integer),
    bool: (bool, np.bool_),
    Path: (str, Path),
}
"""What passes as a type, besides its subclasses."""

LARGEST = 2**63
"""Whole numbers are below this, and at least minus this: those of torch and numpy."""

TOO_LARGE = (
    "can't allocate memory|not enough memory|size calculation overflow|array is too big|numel: .*overflow"
)
"""What torch and numpy say if there is too little memory."""

ADVICE = {"Dataset": " GraphSeries.from_xarray makes a series of a dataset."}
"""What to do with values of some types instead."""


class ArgumentTypeError(ValueError, TypeError):
    """An argument does not match its annotation."""


class SizeError(ValueError, MemoryError):
    """There is too little memory for arguments of this size."""


def check_arguments(target: T) -> T:
    """Returns the function or class, changed to check the types of its arguments whenever it is called.

    Of a class, the constructor and the public methods that it defines are checked; of a torch module the
    constructor alone, because its methods run in the inner loops of other modules. Defaults are not checked.

    Args:
        target: A function, or a class; ``@dataclass`` is applied before.
    """
    return _changed(target, shapes=False)


def check_shapes(target: T) -> T:
    """Returns a function or class as :func:`check_arguments` does, which checks dtypes and axes too."""
    return _changed(target, shapes=True)


def made(name: str, kind: Any, factory: Callable[..., M], *arguments: Any) -> M:
    """Returns what a factory among the arguments makes, after checking its class.

    Args:
        name: The name of the argument.
        kind: The class, or a union of classes.
        factory: The factory.
        arguments: What it is called with.

    Raises:
        ArgumentTypeError: If it makes something else, or cannot be called like this.
    """
    try:
        result = factory(*arguments)
    except (TypeError, ValueError) as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
            raise  # the factory itself ran
        raise ArgumentTypeError(f"{name} must make a {_in_words(kind)}: {error}.") from error
    if not isinstance(result, kind):
        raise ArgumentTypeError(f"{name} must make a {_in_words(kind)}; it made {_shown(result)}.")
    return result


def _changed(target: T, shapes: bool) -> T:
    """Returns a function, or a class with its public methods, with the check of its arguments."""
    if not inspect.isclass(target):
        return _checked(target, shapes)
    public = {"__init__"}
    if not issubclass(target, nn.Module):
        public |= {"__call__", *(name for name in vars(target) if not name.startswith("_"))}
    for name in public & vars(target).keys():
        member = vars(target)[name]
        if inspect.isfunction(member):
            setattr(target, name, _checked(member, shapes))
        elif isinstance(member, classmethod | staticmethod):
            setattr(target, name, type(member)(_checked(member.__func__, shapes)))
    return target


def _checked(function: T, shapes: bool) -> T:
    """Returns the function with the check of its arguments."""

    @cache  # at the first call, when all modules have been imported
    def hints() -> tuple[list[str], dict[str, Any]]:
        parameters = inspect.signature(function).parameters.values()
        positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        return positional, get_type_hints(inspect.unwrap(function))

    def check(given: Mapping[str, Any], hint: Mapping[str, Any]) -> None:
        for name, value in given.items():
            if name in hint and not _fits(value, hint[name], shapes):
                raise ArgumentTypeError(f"{_name(function)}: {_mismatch(name, value, hint[name])}")

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        positional, hint = hints()
        # Python itself refuses arguments without a parameter
        given = dict(zip(positional, args, strict=False)) | kwargs
        if shapes:
            with jaxtyped("context"):  # the axes of this call, not of an outer one
                check(given, hint)
            _check_devices(function, given)
        else:
            check(given, hint)
        try:
            return function(*args, **kwargs)
        except KeyError as error:
            tables = [name for name, value in given.items() if isinstance(value, Mapping)]
            if not tables:
                raise
            lacks = str(error.args[0] if error.args else "").partition(". ")[0]
            raise ArgumentTypeError(
                f"{_name(function)}: {' and '.join(tables)} must be complete; a name is missing: {lacks}."
            ) from error
        except (MemoryError, RuntimeError, OverflowError, ValueError) as error:
            too_large = isinstance(error, MemoryError) or re.search(TOO_LARGE, str(error), re.IGNORECASE)
            if "must be enough memory" in str(error) or not too_large:  # of an inner call
                raise
            reason = " ".join(str(error).split())[:150]
            raise SizeError(
                f"{_name(function)}: there must be enough memory for arguments of these sizes; {reason}."
            ) from error

    call.__dict__["checks_arguments"] = True
    return call  # type: ignore[return-value]


def _check_devices(function: Callable, given: Mapping[str, Any]) -> None:
    """Raises unless all tensors are on one device; numbers may be on another."""
    devices = {str(value.device) for value in given.values() if isinstance(value, Tensor) and value.dim()}
    if len(devices) > 1:
        raise ArgumentTypeError(
            f"{_name(function)}: all tensors must be on one device; got {', '.join(sorted(devices))}."
        )


def _fits(value: Any, hint: Any, shapes: bool) -> bool:
    """Returns whether a value matches an annotation."""
    if hint is Any:
        return True
    if hint in WIDER:
        other = hint is not bool and isinstance(value, bool)
        return isinstance(value, WIDER[hint]) and not other and not _is_too_large(value)
    if isinstance(hint, TypeVar):
        # a bound in quotes is the class of the method itself
        bound = Any if isinstance(hint.__bound__, ForwardRef) else hint.__bound__ or Any
        return _fits(value, bound, shapes)
    if hint is slice:
        return isinstance(value, slice) and _is_plain(value)
    if hint is Sequence:
        hint = Sequence[Any]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is None:
        if not (isinstance(hint, type) and issubclass(hint, AbstractArray)):
            return isinstance(value, hint)
        # a conversion would drop the imaginary parts without a word
        has_reals = not (isinstance(value, Tensor) and (value.is_meta or value.is_complex()))
        return has_reals and isinstance(value, hint if shapes else hint.array_type)
    if origin in (Union, types.UnionType):
        # an option among other types: the function knows its options
        return any(
            type(value) in map(type, get_args(argument))
            if get_origin(argument) is Literal and len(set(arguments) - {type(None)}) > 1
            else _fits(value, argument, shapes)
            for argument in sorted(arguments, key=lambda argument: get_origin(argument) is not None)
        )
    if origin is Literal:
        return type(value) in map(type, arguments) and value in arguments
    if origin is Callable:
        return callable(value)
    if origin is Sequence and getattr(value, "ndim", None) == 1 and hasattr(value, "tolist"):
        value = value.tolist()  # an array of numpy or torch, or an index or column of pandas
    if not isinstance(value, origin) or isinstance(value, str | bytes) or getattr(value, "ndim", 1) == 0:
        return False
    if issubclass(origin, Mapping):
        return _all_fit(value, arguments[0], shapes) and _all_fit(value.values(), arguments[1], shapes)
    if origin is tuple and Ellipsis not in arguments:
        pairs = zip(value, arguments, strict=False)
        return len(value) == len(arguments) and all(_fits(*pair, shapes) for pair in pairs)
    return not issubclass(origin, Collection) or _all_fit(value, arguments[0], shapes)


def _is_too_large(value: Any) -> bool:
    """Returns whether a value is a whole number that torch and numpy cannot hold."""
    return isinstance(value, int) and not -LARGEST <= value < LARGEST


def _is_plain(steps: slice) -> bool:
    """Returns whether the parts of a slice are whole numbers or absent, and its step is positive."""
    parts = (steps.start, steps.stop, steps.step)
    return all(part is None or _fits(part, int, False) for part in parts) and (
        steps.step is None or steps.step > 0
    )


def _all_fit(items: Collection[Any], hint: Any, shapes: bool) -> bool:
    """Returns whether all items match an annotation."""
    if get_origin(hint) is None and hint not in (int, slice):  # one item of each type is enough
        items = {type(item): item for item in items}.values()
    return all(_fits(item, hint, shapes) for item in items)


def _name(function: Callable) -> str:
    """Returns the name of a function or class in error messages."""
    return function.__qualname__.removesuffix(".__init__").rpartition("<locals>.")[2]


def _mismatch(name: str, value: Any, hint: Any) -> str:
    """Returns what must hold of an argument that does not match its annotation, and what came."""
    if hint is slice and isinstance(value, slice):
        return f"{name} must be a slice of whole numbers with a positive step; it is {value}."
    if _is_too_large(value):
        return f"{name} must be below 2**63; it is {reprlib.repr(value)}."
    options = get_args(hint) if get_origin(hint) is Literal else ()
    if type(value) in map(type, options):
        *others, last = map(repr, options)
        return f"{name} must be {', '.join(others)} or {last}; it is {value!r:.60}."
    with jaxtyped("context"):
        alone = isinstance(value, Tensor | np.ndarray) and _fits(value, hint, shapes=True)
    rest = " An axis must have the same size in all arguments." * alone
    return (
        f"{name} must be {_in_words(hint)}; got {_shown(value)}.{rest}{ADVICE.get(type(value).__name__, '')}"
    )


def _in_words(hint: Any) -> str:
    """Returns an annotation as it is written, without the names of modules."""
    text = hint.__name__ if inspect.isclass(hint) and get_origin(hint) is None else str(hint)
    return re.sub(r"(?<![\w'])(?:[A-Za-z_]\w*\.)+(?=[A-Za-z_])", "", text).replace("NoneType", "None")


def _shown(value: Any) -> str:
    """Returns a short description of a value: the type and shape of an array, else its text and type."""
    kind = type(value).__name__
    if isinstance(value, Tensor | np.ndarray):
        return f"a {kind} of {value.dtype} and shape {list(value.shape)}"
    if isinstance(value, (str, bytes, int, float, complex, list, tuple, dict, set)):
        text = " ".join(reprlib.repr(value).split())
        return f"{''.join(c if c.isprintable() else '?' for c in text)} ({kind})"
    return "None" if value is None else kind
