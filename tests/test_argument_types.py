"""Arguments of a wrong type are refused at the call, in one line, and nothing that works is refused."""

import inspect
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar, get_type_hints

import numpy as np
import pandas as pd
import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from tests.conftest import directed_graph, make_series
from tsgen import SMC, Ancestral, GraphSeries, impute
from tsgen.argument_types import ArgumentTypeError, SizeError, check_arguments, check_shapes
from tsgen.data import BlockMask
from tsgen.encoders import ConvolutionEncoder

pytestmark = pytest.mark.usefixtures("as_a_user")
Item = TypeVar("Item", bound=Path)


def accepted(hint, value, check=check_arguments) -> bool:
    def function(x):
        return x

    function.__annotations__["x"] = hint
    try:
        check(function)(value)
    except ArgumentTypeError as error:
        if not str(error).isprintable() or "x must be" not in str(error):
            raise
        return False
    return True


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (int, [3, -1, np.int64(2), 2**63 - 1], ["3", 3.0, None, [3], True, 2**63, torch.tensor(3)]),
        (float, [3, 0.5, np.float32(1), np.int8(1), math.inf], ["3", None, 1j, True, [1.0]]),
        (bool, [True, np.bool_(False)], [1, None, "yes"]),
        (str | None, ["a", "", None], [3, b"a", ["a"]]),
        (str | Path, ["a", Path("a")], [3, None]),
        (Path, ["a", Path("a")], [3, None]),
        (Sequence[str], [[], ["a"], ("a",), np.array(["a"]), pd.Index(["a"])], ["a", ["a", 1], 3, {"a": 1}]),
        (Sequence, [[1], pd.date_range("2024", periods=3), range(3)], ["abc", 3, None, np.ones((2, 2))]),
        (Sequence[float], [[1, 0.5], torch.ones(3)], [["a"], 1.0, [1.0, None]]),
        (list[int], [[1], []], [(1,), [1.5], [2**70]]),
        (tuple[float, float], [(1, 2.0)], [(1.0,), [1.0, 2.0], (1, "a"), (1, 2, 3)]),
        (Sequence[slice], [[slice(0, 3)], []], [[slice("a", 2)], [slice(0, 3, 0)], slice(0, 3)]),
        (slice, [slice(None), slice(-3, None), slice(0, np.int64(3))], [slice(0.5), slice(0, 3, -1), 3]),
        (Mapping[str, int], [{}, {"a": 1}], [{1: 1}, {"a": "b"}, [("a", 1)]]),
        (Literal["a", "b"], ["a"], ["c", 3, None, []]),
        (Literal["a", "b"] | float, ["a", "c", 0.5], [[], None]),  # the function knows its options
        (Callable[[int], int], [len], [3, "len"]),
        (Item, [Path("a")], [3]),
        (type(None), [None], [0]),
        (
            Float[Tensor, "a b"],
            [torch.ones(2, 3), torch.ones(3), torch.arange(3)],
            [np.ones((2, 3)), None, 3],
        ),
        (Float[Tensor, "a"] | float, [torch.ones(2), 0.5], ["a", torch.ones(2, device="meta")]),
    ],
    ids=str,
)
def test_types(hint, good, bad):
    assert [value for value in good if not accepted(hint, value)] == []
    assert [value for value in bad if accepted(hint, value)] == []


def test_every_item_is_looked_at():
    items: list[object] = [1.0] * 1000
    items[617] = "a"
    assert not accepted(list[float], items) and not accepted(dict[str, float], {"a": 1.0, "b": "c"})


def test_the_axes_of_a_call_are_its_own():
    @check_shapes
    def product(x: Float[Tensor, "rows columns"], y: Float[Tensor, "columns"]):
        return x @ y

    assert product(torch.ones(2, 3), torch.ones(3)).tolist() == [3, 3]
    assert product(torch.ones(4, 5), torch.ones(5)).shape == (4,)
    with pytest.raises(
        ArgumentTypeError, match=r"y must be .*got a Tensor .* \[2\]\. An axis must have the same"
    ):
        product(torch.ones(2, 3), torch.ones(2))
    with pytest.raises(ArgumentTypeError, match=r"x must be Float\[Tensor, 'rows columns'\]; got .*int64"):
        product(torch.arange(3), torch.ones(3))


def test_messages_are_one_line_that_names_the_call():
    def message(call) -> str:
        with pytest.raises(ArgumentTypeError) as caught:
            call()
        return str(caught.value)

    assert message(lambda: SMC(particles="many")) == "SMC: particles must be int; got 'many' (str)."
    assert message(lambda: BlockMask(over="x")) == "BlockMask: over must be 'entry' or 'slice'; it is 'x'."
    assert message(lambda: impute(None, None)).startswith("impute: model must be DensityModel; got None")
    assert len(message(lambda: Ancestral("\x1b[2J\n" * 10_000))) < 200


@pytest.mark.parametrize(
    "changes",
    [{"graph": None}, {"units": 3}, {"units": "ab"}, {"nodes": 5}, {"time": "x"}, {"values": [1.0]}],
)
def test_a_series_of_wrong_types_is_refused(changes):
    series = make_series(steps=8)
    arguments = {"values": series.values, "observed": series.observed, "graph": directed_graph()}
    with pytest.raises(ArgumentTypeError, match=f"GraphSeries: {next(iter(changes))} must be"):
        GraphSeries(**(arguments | changes))


def test_what_is_too_large_for_the_memory_is_refused():
    with pytest.raises(SizeError, match="GraphConvolution: there must be enough memory"):
        ConvolutionEncoder(3, hidden=2**40)


def test_a_table_that_lacks_a_name_is_refused_but_other_key_errors_stay():
    @check_arguments
    def read(x: Mapping[str, int], key: str):
        return x[key]

    assert read({"a": 1}, "a") == 1
    with pytest.raises(ArgumentTypeError, match="read: x must be complete; a name is missing: b"):
        read({"a": 1}, "b")

    @check_arguments
    def fail(key: str):
        return {}[key]

    with pytest.raises(KeyError):
        fail("a")


@check_arguments
@dataclass
class Point:
    x: float
    y: float = 0.0

    def moved(self, by: float) -> "Point":
        return Point(self.x + by, self.y)

    @classmethod
    def origin(cls, x: float = 0.0) -> "Point":
        return cls(x)

    def _private(self, x: int) -> int:
        return x


@check_arguments
class Layer(nn.Module):
    """A layer."""

    def __init__(self, size: int, **options: int) -> None:
        super().__init__()

    def forward(self, x: int) -> int:
        return x


def test_classes_keep_what_they_are():
    assert pickle.loads(pickle.dumps(Point(1))) == Point(1.0) and Point.origin(2).moved(1) == Point(3.0)
    for call in (
        lambda: Point("a"),
        lambda: Point(1).moved("a"),
        lambda: Point.origin("a"),
        lambda: Layer(2.5),
    ):
        with pytest.raises(ArgumentTypeError):
            call()
    assert Point(1)._private("a") == "a" and Layer(2)("a") == "a"  # not public; in inner loops
    assert str(inspect.signature(Layer)) == "(size: int, **options: int) -> None"
    assert get_type_hints(Layer.__init__) == {"size": int, "options": int, "return": type(None)}
    assert Layer.__doc__ == "A layer."
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        Layer()


def test_a_check_costs_microseconds():
    import timeit

    @check_arguments
    def function(a: int, b: float, c: str | None, d: Sequence[str]) -> None: ...

    def call():
        function(1, 2.0, "a", ["a", "b"])

    call()
    # measured: 5 microseconds; a busy machine takes several times as long
    assert min(timeit.repeat(call, number=1000, repeat=5)) / 1000 < 50e-6
