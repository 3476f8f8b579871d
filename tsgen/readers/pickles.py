"""Pickles, read without running anything.

A pickle is a program for a stack machine, and some of its instructions call whatever it names: to unpickle a
file from elsewhere is to run it. Graphs of the traffic literature come as pickles, so here is that machine
with nothing to call. Its instructions are decoded by :mod:`pickletools`. It makes lists, tuples,
dictionaries, text and numbers itself, and a NumPy array by the four steps that every pickled array is made
of: bytes, a type of numbers and a shape, which must agree. Everything else is refused, and so are sizes that
the file does not pay for in bytes, and more instructions than a graph needs: each may make an object of a
hundred bytes.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MAX_BYTES = 2**28
"""A larger pickle (256 MiB) is taken for a mistake: the graph of PEMS-BAY has 0.5 MB."""

MAX_STEPS = 2**22
"""Instructions of a pickle: about four for each node, and a matrix is one."""

RECONSTRUCT, NDARRAY, DTYPE, ENCODE = "reconstruct", "numpy.ndarray", "numpy.dtype", "_codecs.encode"

NAMES = {
    "numpy.core.multiarray _reconstruct": RECONSTRUCT,
    "numpy._core.multiarray _reconstruct": RECONSTRUCT,
    "numpy ndarray": NDARRAY,
    "numpy dtype": DTYPE,
    "_codecs encode": ENCODE,
}
"""What a pickle may name: the steps to a NumPy array, by old and new names."""

NUMBERS = r"[<>|=]?(b1|[iu][1248]|f[248])"
"""The types of an array's entries: truth values, whole numbers and floating-point numbers."""

GIVEN = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
"""Instructions that put down what they carry. Text of Python 2 is read as Latin-1."""


@dataclass
class _Named:
    """One of the steps to an array, as a pickle names it."""

    what: str


@dataclass
class _Type:
    """The type of an array's entries, perhaps before its order of bytes is known."""

    code: str


@dataclass
class _Mark:
    """Where the items of a container begin."""


class _Array:
    """An array that is announced, and filled once its state comes."""

    def __init__(self) -> None:
        self.filled: np.ndarray | None = None


def read_pickle(path: Path) -> Any:
    """What a pickle holds: lists, tuples, dictionaries, text, numbers and NumPy arrays of numbers.

    Args:
        path: The file, by Python 2 or 3: of the protocols 0 to 4.

    Returns:
        The object. Arrays can be read only.

    Raises:
        ValueError: If the file cannot be read, is no whole pickle, or holds or does anything else.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has {path.stat().st_size:,} bytes, more than {MAX_BYTES:,}")
        return _run(path.read_bytes())
    except (OSError, ValueError, OverflowError) as error:
        told = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path} must be a pickle of plain containers, text and arrays of numbers; "
            f"{told.rstrip('.')[:200]}. Nothing of it was run. Get the published file."
        ) from error


def _run(data: bytes) -> Any:
    machine = _Machine(len(data))
    for number, (instruction, argument, _) in enumerate(pickletools.genops(data)):
        if number == MAX_STEPS:
            raise ValueError(f"it has more than {MAX_STEPS:,} instructions")
        try:
            machine.step(instruction.name, argument)
        except (IndexError, KeyError) as error:
            raise ValueError(f"{instruction.name} finds nothing to work on") from error
    # genops ends at STOP, or raises
    return machine.result()


class _Machine:
    """The stack, and what was put aside to be fetched again.

    Args:
        size: The bytes of the pickle: so many may its arrays have in all.
    """

    def __init__(self, size: int) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.left = size

    def step(self, name: str, argument: Any) -> None:
        """Carries out one instruction."""
        if name in GIVEN:
            self.stack.append(argument)
        elif name in ("PROTO", "FRAME", "STOP"):
            pass
        elif name in MAKES:
            self.stack.append(MAKES[name]())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            again = self.memo[argument]
            self.stack.append(again.filled if isinstance(again, _Array) else again)
        elif name in CONTAINERS:
            CONTAINERS[name](self)
        elif name == "GLOBAL":
            self._name(argument)
        elif name == "STACK_GLOBAL":
            member, module = self.stack.pop(), self.stack.pop()
            self._name(f"{module} {member}" if isinstance(module, str) and isinstance(member, str) else "")
        elif name == "REDUCE":
            arguments, called = self.stack.pop(), self.stack.pop()
            self.stack.append(self._call(called, arguments))
        elif name == "BUILD":
            self._build(self.stack.pop())
        else:
            raise ValueError(f"it has the instruction {name}")

    def result(self) -> Any:
        """What is left at the end."""
        if len(self.stack) != 1:
            raise ValueError(f"it leaves {len(self.stack)} objects")
        _check(self.stack[0])
        return self.stack[0]

    # ------------------------------------------------------------------------------------ containers

    def marked(self) -> list[Any]:
        """The items down to the last mark, taken off with it."""
        at = len(self.stack) - 1
        while not isinstance(self.stack[at], _Mark):
            at -= 1
            if at < 0:
                raise IndexError
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def last(self, count: int) -> list[Any]:
        """The last few items, taken off."""
        if len(self.stack) < count:
            raise IndexError
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def extend(self, items: list[Any]) -> None:
        """Puts items into the list below them."""
        if not isinstance(self.stack[-1], list):
            raise ValueError("it appends to what is no list")
        self.stack[-1].extend(items)

    def dictionary(self, items: list[Any]) -> None:
        """Puts down a dictionary of keys and values."""
        self.stack.append({})
        self.update(items)

    def update(self, items: list[Any]) -> None:
        """Puts keys and values into the dictionary below them."""
        keys, values = items[::2], items[1::2]
        # hashes of nested tuples can take forever
        if not isinstance(self.stack[-1], dict) or not all(isinstance(key, (str, int)) for key in keys):
            raise ValueError("its dictionaries must have keys of text or whole numbers")
        if len(keys) != len(values):
            raise ValueError("a key of a dictionary has no value")
        self.stack[-1].update(zip(keys, values, strict=True))

    # ---------------------------------------------------------------------------------------- arrays

    def _name(self, name: str) -> None:
        if name not in NAMES:
            raise ValueError(f"it names {name.replace(' ', '.')[:80]!r}")
        self.stack.append(_Named(NAMES[name]))

    def _call(self, called: Any, arguments: Any) -> Any:
        """The steps to an array that look like calls."""
        what = called.what if isinstance(called, _Named) else type(called).__name__
        if what == ENCODE and _are(arguments, str, str) and arguments[1] == "latin1":
            self._pay(len(arguments[0]))
            return arguments[0].encode("latin1")
        if what == DTYPE and isinstance(arguments, tuple) and arguments and isinstance(arguments[0], str):
            if not re.fullmatch(NUMBERS, arguments[0]):
                raise ValueError(f"it has an array of {arguments[0][:40]!r}, not of numbers")
            return _Type(arguments[0])
        if (
            what == RECONSTRUCT
            and isinstance(arguments, tuple)
            and _are(arguments[:2], _Named, tuple)
            and arguments[0].what == NDARRAY
        ):
            return _Array()
        raise ValueError(f"it calls {what} in a way that makes no array")

    def _build(self, state: Any) -> None:
        """Completes the array, or the type of its entries, that lies on the stack."""
        made = self.stack[-1]
        if isinstance(made, _Type) and isinstance(state, tuple) and len(state) == 8:
            if not re.fullmatch("[<>|=]", str(state[1])) or any(part is not None for part in state[2:5]):
                raise ValueError("it has an array of records, not of numbers")
            made.code = state[1] + made.code.lstrip("<>|=")
        elif isinstance(made, _Array) and isinstance(state, tuple) and len(state) == 5:
            self.stack[-1] = made.filled = self._filled(*state[1:])
        else:
            raise ValueError(f"it sets the state of {type(made).__name__.lstrip('_').lower()}")

    def _filled(self, shape: Any, kind: Any, by_columns: Any, raw: Any) -> np.ndarray:
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        if not isinstance(kind, _Type) or not isinstance(raw, bytes):
            raise ValueError("it has an array of objects, not of numbers")
        if not isinstance(shape, tuple) or len(shape) > 8 or not all(type(n) is int for n in shape):
            raise ValueError("it has an array whose shape is none")
        if not all(0 <= n < 2**32 for n in shape):
            raise ValueError("it has an array whose shape is too large or negative")
        entries = np.dtype(kind.code)
        if math.prod(shape) * entries.itemsize != len(raw):
            raise ValueError(f"it has an array of {math.prod(shape)} numbers in {len(raw)} bytes")
        self._pay(len(raw))
        return np.frombuffer(raw, entries).reshape(shape, order="F" if by_columns else "C")

    def _pay(self, size: int) -> None:
        """Counts bytes of arrays: twice those of the file, as text and as numbers, and no more."""
        self.left -= size / 2
        if self.left < 0:
            raise ValueError("its arrays have more bytes than the file")


def _are(arguments: Any, *kinds: type) -> bool:
    """Whether these are arguments of just these types."""
    return isinstance(arguments, tuple) and tuple(map(type, arguments)) == kinds


def _check(found: Any) -> None:
    """Raises unless all that an object holds is complete and plain."""
    waiting, seen = [found], set[int]()
    while waiting:  # a loop, as a pickle may nest as deep as it likes, and each object once
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, (list, tuple)):
            waiting.extend(item)
        elif isinstance(item, dict):
            waiting.extend(item.values())
        elif not isinstance(item, (str, bytes, int, float, np.ndarray, type(None))):
            raise ValueError("it holds an array that is not complete")


MAKES: dict[str, Callable[[], Any]] = {
    "MARK": _Mark,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}
"""Instructions that put down something of their own."""

CONTAINERS: dict[str, Callable[[_Machine], None]] = {
    "TUPLE1": lambda m: m.stack.append(tuple(m.last(1))),
    "TUPLE2": lambda m: m.stack.append(tuple(m.last(2))),
    "TUPLE3": lambda m: m.stack.append(tuple(m.last(3))),
    "TUPLE": lambda m: m.stack.append(tuple(m.marked())),
    "LIST": lambda m: m.stack.append(m.marked()),
    "DICT": lambda m: m.dictionary(m.marked()),
    "APPEND": lambda m: m.extend(m.last(1)),
    "APPENDS": lambda m: m.extend(m.marked()),
    "SETITEM": lambda m: m.update(m.last(2)),
    "SETITEMS": lambda m: m.update(m.marked()),
}
"""Instructions that put what lies on the stack into containers."""
