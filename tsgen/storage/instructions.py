"""Checks the instructions of a checkpoint's pickle before torch follows them.

``torch.load(weights_only=True)`` runs no code of the file. But some of the functions that it may call
allocate any number of bytes (``bytearray``, ``torch.FloatTensor``), and a dictionary key of nested tuples
that share their entries takes years to hash. A checkpoint needs neither: here a pickle may call
:data:`CALLABLE` only, and tuples may not be hashed.
"""

from __future__ import annotations

import pickletools
from collections.abc import Sequence
from typing import Any

CALLABLE = {
    *("collections.OrderedDict", "collections.Counter", "__builtin__.set", "builtins.set"),
    *("_codecs.encode", "torch.Size", "torch.device", "__builtin__.complex", "builtins.complex"),
    *("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"),
    *("torch._utils._rebuild_parameter_with_state", "torch.nn.parameter.Parameter"),
}
"""The functions that a checkpoint may call: containers, and tensors whose entries lie in the file."""

HASHING = {"collections.OrderedDict", "collections.Counter", "__builtin__.set", "builtins.set"}

STORES, LOADS = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}
TUPLES = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE"}
ADDITIONS = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD"}
"""Instructions that change the object below their arguments."""


class _Object:
    """What is known of an object on the unpickler's stack.

    Args:
        name: The name of a function; empty for other objects.
        is_tuple: Whether the object is a tuple.
        has_tuples: Whether it contains tuples.
    """

    def __init__(self, name: str = "", is_tuple: bool = False, has_tuples: bool = False) -> None:
        self.name, self.is_tuple, self.has_tuples = name, is_tuple, has_tuples

    def add(self, items: Sequence[_Object]) -> None:
        """Adds items to a container."""
        self.has_tuples |= any(item.is_tuple or item.has_tuples for item in items)


def check_instructions(data: bytes) -> None:
    """Raises ``ValueError`` if following the instructions of a pickle might not end, or exhaust the memory.

    Args:
        data: The pickle. A damaged one may raise any exception.
    """
    stack: list[_Object] = []
    marks: list[int] = []
    memo: dict[int, _Object] = {}
    argument: Any
    for instruction, argument, _ in pickletools.genops(data):
        name = instruction.name
        if name.startswith("LONG") and name not in STORES | LOADS and argument.bit_length() > 64:
            raise ValueError("it has an integer of more than 64 bits")
        if name == "MARK":
            marks.append(len(stack))
        elif name in STORES:
            memo[int(argument)] = stack[-1]
        elif name in LOADS:
            stack.append(memo[int(argument)])
        elif name == "GLOBAL":
            stack.append(_Object(name=argument.replace(" ", ".")))
        else:
            items = _pop(stack, marks, instruction)
            stack += _result(name, items, len(instruction.stack_after))


def _pop(stack: list[_Object], marks: list[int], instruction: pickletools.OpcodeInfo) -> list[_Object]:
    """Removes the arguments of an instruction from the stack and returns them."""
    before = [kind.name for kind in instruction.stack_before]
    size = before.index("mark") if "mark" in before else len(before)
    start = (marks.pop() if "mark" in before else len(stack)) - size
    if start < 0:
        raise ValueError("it is damaged")
    items = stack[start:]
    del stack[start:]
    return items


def _result(name: str, items: list[_Object], size: int) -> list[_Object]:
    """Returns what an instruction leaves on the stack; raises if it is not harmless."""
    if name in TUPLES:
        made = _Object(is_tuple=True)
        made.add(items)
        return [made]
    if name in ADDITIONS:
        if name.startswith("SETITEM") and any(key.is_tuple for key in items[1::2]):
            raise ValueError("it has a dictionary with a tuple as a key")
        items[0].add(items[1:])
        return items[:1]
    if name in ("REDUCE", "NEWOBJ"):
        function, arguments = items
        if function.name not in CALLABLE:
            raise ValueError(f"it calls {function.name!r:.80}")
        if function.name in HASHING and arguments.has_tuples:
            raise ValueError(f"it has a {function.name} of tuples")
    return [_Object() for _ in range(size)]
