"""A reader of pickles that runs nothing from the file.

Graphs of the traffic literature are published as pickles, and unpickling a file runs it: a pickle names
functions and calls them. Here :class:`pickle.Unpickler` finds only the four names that a pickled NumPy array
can refer to. They stand for functions of this module, which check their arguments; NumPy's own would allocate
an array of any shape, or change a number type for the whole process.

A pickle that calls nothing can still hang or crash the process. Its instructions are checked first against
these dangers (:func:`_check_instructions`):

* a memo entry with a number of several billion: the unpickler allocates a memo of that length;
* a tuple that contains the same tuple twice, nested like this 60 deep, as a dictionary key: hashing it takes
  years;
* tuples nested a million deep as a key: hashing them overflows the stack of the process;
* long integers with equal hashes as keys: each insertion compares the key with all earlier ones.

Everything else takes time and memory proportional to the size of the file, which is at most
:data:`MAX_BYTES`; arrays may not have more bytes than the file.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tsgen.readers.tables import first_line

MAX_BYTES = 2**23
"""Largest pickle that is read, 8 MiB. The graph of PEMS-BAY has 0.5 MB; an object of 1 byte in the file takes
about 200 in memory."""

MAX_TUPLES = 1000
"""Largest number of tuples in a pickle. An array needs about seven."""

MAX_DEPTH = 100
"""Largest depth of containers in containers."""

NUMBERS = r"[<>|=]?(b1|[iu][1248]|f[248])"
"""The types of an array's entries: booleans, integers and floating-point numbers."""

LEAVES = {
    *("NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT"),
    *("BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "EMPTY_TUPLE"),
}
TUPLES = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
CONTAINERS = {*("EMPTY_LIST", "LIST", "APPEND", "APPENDS"), *("EMPTY_DICT", "DICT", "SETITEM", "SETITEMS")}
CALLS = {"GLOBAL", "STACK_GLOBAL", "REDUCE"}
STORES, LOADS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}, {"GET", "BINGET", "LONG_BINGET"}
FRAMING = {"PROTO", "FRAME", "MARK", "STOP"}

INSTRUCTIONS = LEAVES | TUPLES | CONTAINERS | CALLS | STORES | LOADS | FRAMING | {"BUILD"}
"""Names of the instructions that a pickle may have, as :mod:`pickletools` gives them."""


def read_pickle(path: Path) -> Any:
    """Returns the lists, tuples, dictionaries, text, numbers and NumPy arrays of numbers in a pickle.

    Args:
        path: The file, written by Python 2 or 3 in one of the protocols 0 to 4. Text of Python 2 is read as
            Latin-1.

    Returns:
        The object. Arrays are read-only.

    Raises:
        ValueError: If the file cannot be read, is not a complete pickle, or contains anything else.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has {path.stat().st_size:,} bytes, more than {MAX_BYTES:,}")
        data = path.read_bytes()
        _check_instructions(data)
        return _plain(_ArrayUnpickler(data).load(), {})
    except Exception as error:  # pickle documents that damaged files may raise any exception
        reason = getattr(error, "strerror", None) or first_line(error)
        raise ValueError(
            f"{path} must be a pickle of plain containers, text and arrays of numbers; "
            f"{reason.rstrip('.')[:200]}. No code in it was run. Get the published file."
        ) from error


def _check_instructions(data: bytes) -> None:
    """Raises ``ValueError`` if a pickle has one of the dangers that the docstring of this module lists."""
    num_tuples = 0
    last = ""  # the last instruction that may have changed the top of the stack
    memo_size = 0
    tuple_entries = set[int]()
    for number, (instruction, argument, _) in enumerate(pickletools.genops(data)):
        name = instruction.name
        if name not in INSTRUCTIONS:
            raise ValueError(f"it has the instruction {name}")
        if name in STORES:
            entry = memo_size if argument is None else argument
            if entry > number:
                raise ValueError(f"it has memo entry {entry} after {number} instructions")
            # BUILD changes the top of the stack in place, which can be a tuple
            if last in TUPLES | {"BUILD"}:
                tuple_entries.add(entry)
            else:
                tuple_entries.discard(entry)
            memo_size += 1
        elif name in LOADS and argument in tuple_entries:
            raise ValueError("it uses a tuple more than once")
        elif isinstance(argument, int) and not -(2**63) <= argument < 2**64:
            raise ValueError("it has an integer of more than 64 bits")
        num_tuples += name in TUPLES
        if name not in STORES | {"PROTO", "FRAME"}:
            last = name
    if num_tuples > MAX_TUPLES:
        raise ValueError(f"it has {num_tuples:,} tuples, more than {MAX_TUPLES:,}")


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that finds the names of a pickled NumPy array and no other name.

    Args:
        data: The pickle. All its arrays together may not have more bytes.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._bytes_left = len(data)
        ndarray = _Step(_refuse_call)

        def reconstruct(kind: Any, shape: Any, _code: Any) -> _Array:
            if kind is not ndarray or shape != (0,):
                raise ValueError("it has an array that does not begin empty")
            return _Array(self._encode)

        array = _Step(reconstruct)
        self._steps = {
            "numpy.core.multiarray._reconstruct": array,
            "numpy._core.multiarray._reconstruct": array,
            "numpy.ndarray": ndarray,
            "numpy.dtype": _Step(_Type),
            "_codecs.encode": _Step(self._encode),
        }

    def find_class(self, module: str, name: str) -> Any:
        """Returns the function of that name; raises for any other name, before anything is imported."""
        try:
            return self._steps[f"{module}.{name}"]
        except KeyError:
            raise ValueError(f"it names {f'{module}.{name}'[:80]!r}") from None

    def _encode(self, text: Any, codec: Any) -> bytes:
        """Returns the bytes of an array, which Python 3 writes as text in the protocols before 3."""
        if type(text) is not str or codec != "latin1":
            raise ValueError("it encodes something other than the bytes of an array")
        # text can be loaded from the memo again and again
        self._bytes_left -= len(text)
        if self._bytes_left < 0:
            raise ValueError("its arrays have more bytes than the file")
        return text.encode("latin1")


def _refuse_call(*_: Any) -> None:
    raise ValueError("it calls numpy.ndarray")


class _Step:
    """A function that a pickle may call but not change: BUILD would set attributes of a plain function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("it changes a function")


class _Type:
    """The type of an array's entries; its byte order comes with the state."""

    def __init__(self, code: Any, *_: Any) -> None:
        # no repr of another type: that of nested lists that share their entries can take years
        if not isinstance(code, str) or not re.fullmatch(NUMBERS, code):
            shown = repr(code[:40]) if isinstance(code, str) else "an unknown type"
            raise ValueError(f"it has an array of {shown}, not of numbers")
        self.code = code

    def __setstate__(self, state: Any) -> None:
        _version, order, *structure = state
        plain = isinstance(order, str) and re.fullmatch("[<>|=]", order)
        if not plain or any(field is not None for field in structure[:3]):
            raise ValueError("it has an array of records, not of numbers")
        self.code = order + self.code.lstrip("<>|=")


class _Array:
    """An array whose content comes with the state.

    Args:
        encode: Turns text into bytes and counts them: Python 2 writes the content as text.
    """

    def __init__(self, encode: Callable[[str, str], bytes]) -> None:
        self._encode = encode
        self.filled: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _version, shape, kind, by_columns, raw = state
        raw = self._encode(raw, "latin1") if isinstance(raw, str) else raw
        if not isinstance(kind, _Type) or not isinstance(raw, bytes):
            raise ValueError("it has an array of objects, not of numbers")
        if not isinstance(shape, tuple) or len(shape) > 8 or not all(type(n) is int for n in shape):
            raise ValueError("it has an array whose shape is not a tuple of at most 8 integers")
        if not all(0 <= n < 2**32 for n in shape):
            raise ValueError("it has an array whose shape is too large or negative")
        entries = np.dtype(kind.code)
        if math.prod(shape) * entries.itemsize != len(raw):
            raise ValueError(f"it has an array of {math.prod(shape)} numbers in {len(raw)} bytes")
        self.filled = np.frombuffer(raw, entries).reshape(shape, order="F" if by_columns else "C")


def _plain(item: Any, done: dict[int, Any], depth: int = 0) -> Any:
    """Returns an unpickled object with its arrays in place; raises unless it consists of plain types.

    Args:
        item: The object.
        done: The objects returned so far, by the id of the unpickled ones, so that shared ones stay shared.
        depth: The number of containers around it.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"it nests containers more than {MAX_DEPTH} deep, or in themselves")
    if isinstance(item, (str, bytes, int, float, type(None))):
        return item
    if id(item) in done:
        return done[id(item)]
    plain: Any
    if isinstance(item, (list, tuple)):
        plain = type(item)(_plain(value, done, depth + 1) for value in item)
    elif isinstance(item, dict):
        if not all(isinstance(key, (str, int)) for key in item):
            raise ValueError("its dictionaries must have keys of text or integers")
        plain = {key: _plain(value, done, depth + 1) for key, value in item.items()}
    elif isinstance(item, _Array) and item.filled is not None:
        plain = item.filled
    else:
        raise ValueError("it holds a function or an array that is not complete")
    done[id(item)] = plain
    return plain
