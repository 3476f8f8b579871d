"""Pickles, read without being run: what is admitted comes out whole, and nothing else does anything."""

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from conftest import METR_LA_10
from hypothesis import given, settings
from hypothesis import strategies as st

from tsgen.readers.pickles import read_pickle

ARRAYS = [
    np.arange(6.0).reshape(2, 3),
    np.asfortranarray(np.arange(6, dtype=">i4").reshape(2, 3)),
    np.array([[True, False]]),
    np.linspace(0, 1, 5, dtype="f2"),
    np.array(2.5),
]


def graph(protocol: int = 2) -> bytes:
    """A graph as the traffic literature pickles it."""
    weight = np.array([[1, 0.5], [0, 1]], dtype=np.float32)
    return pickle.dumps([["a", "b"], {"a": 0, "b": 1}, weight], protocol)


def read(folder: Path, content: bytes):
    path = folder / "adj_mx.pkl"
    path.write_bytes(content)
    return read_pickle(path)


def refused(folder: Path, content: bytes) -> str:
    """What is told of a pickle that is not admitted: one line, which names the file."""
    with pytest.raises(ValueError, match=r"adj_mx\.pkl must be a pickle of plain containers") as error:
        read(folder, content)
    assert type(error.value) is ValueError and "\n" not in str(error.value) and len(str(error.value)) < 500
    return str(error.value)


@pytest.mark.parametrize("protocol", range(5))
def test_containers_text_numbers_and_arrays_come_out_as_they_went_in(tmp_path, protocol):
    plain = [
        ["ä", "b\n"],
        {"a": 0, 7: (1, 2.5, -(2**40))},
        (),
        [],
        {},
        None,
        True,
        False,
        b"\x00\xff",
        (1, 2, 3, 4),
        2**63,
    ]
    found = read(tmp_path, pickle.dumps([plain, *ARRAYS, ARRAYS[0]], protocol))
    assert found[0] == plain
    for array, back in zip([*ARRAYS, ARRAYS[0]], found[1:], strict=True):
        assert (back.dtype, back.shape) == (array.dtype, array.shape) and np.array_equal(back, array)


def test_a_graph_as_python_2_wrote_it(tmp_path):
    # text and the array's bytes are strings of bytes, the module has its old name
    raw = np.array([[1, 0.5], [0, 1]], "<f4").tobytes()
    content = (
        b"\x80\x02]q\x00(]q\x01(U\x01aq\x02U\x01bq\x03e}q\x04(h\x02K\x00h\x03K\x01ucnumpy.core.multiarray\n"
    )
    content += b"_reconstruct\nq\x05cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87Rq\x07"
    content += b"(K\x01K\x02K\x02\x86cnumpy\ndtype\n"
    content += (
        b"U\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x10"
        + raw
        + b"tbe."
    )
    ids, rows, weight = read(tmp_path, content)
    assert (ids, rows) == (["a", "b"], {"a": 0, "b": 1})
    assert weight.tolist() == [[1, 0.5], [0, 1]]
    old = pickle.loads(content, encoding="latin1")
    assert old[:2] == [ids, rows] and np.array_equal(old[2], weight)


@pytest.mark.skipif(not METR_LA_10.is_dir(), reason=f"METR-LA's files are not at {METR_LA_10}")
def test_the_published_form(tmp_path):
    ids, rows, weight = read_pickle(METR_LA_10 / "adj_mx.pkl")
    assert rows == {name: i for i, name in enumerate(ids)} and weight.shape == (10, 10)
    assert np.count_nonzero(weight) == 18


class Calls:
    """Pickled, it calls a function when it is read."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def global_call(module: str, name: str, argument: str) -> bytes:
    return f"c{module}\n{name}\n(S'{argument}'\ntR.".encode()


EMPTY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tS'b'\ntR"
# 60 lists, each of the one before twice
DOUBLED = b"]q\x00" + b"".join(b"(h%ch%clq%c" % (i - 1, i - 1, i) for i in range(1, 60))
TOUCH = "touch {folder}/ran"
HOSTILE = {
    "os.system": lambda f: pickle.dumps(Calls(os.system, TOUCH.format(folder=f))),
    "posix.system": lambda f: global_call("posix", "system", TOUCH.format(folder=f)),
    "nt.system": lambda f: global_call("nt", "system", "x"),
    "eval": lambda f: global_call("builtins", "eval", f"open(r'{f}/ran', 'w')".replace("'", '"')),
    "eval of Python 2": lambda f: global_call("__builtin__", "eval", "1"),
    "getattr": lambda f: pickle.dumps(Calls(getattr, [], "append")),
    "numpy.load": lambda f: pickle.dumps(Calls(np.load, f"{f}/adj_mx.pkl")),
    "numpy.ctypeslib": lambda f: global_call("numpy.ctypeslib", "load_library", "libc.so.6"),
    "numpy.testing": lambda f: global_call("numpy.testing._private.utils", "runstring", "1"),
    "numpy.f2py": lambda f: global_call("numpy.f2py.crackfortran", "myeval", "1"),
    "an attribute of an admitted name": lambda f: b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.",
    "names out of parts": lambda f: b"\x80\x04]\x8c\x07ndarray\x93.",
    "importing": lambda f: global_call("importlib", "import_module", "antigravity"),
    "nested": lambda f: pickle.dumps([["a"], {"a": (1, [Calls(os.system, TOUCH.format(folder=f))])}, 1], 2),
    "a key": lambda f: b"}" + global_call("posix", "system", TOUCH.format(folder=f))[:-1] + b"K\x01s.",
    "a class": lambda f: pickle.dumps(Path),
    "an instance": lambda f: pickle.dumps(Path(f)),
    "INST": lambda f: b"(S'touch x'\nios\nsystem\n.",
    "OBJ": lambda f: b"(cnumpy\nndarray\nK\x01o.",
    "NEWOBJ": lambda f: b"\x80\x02cnumpy\nndarray\nK\x05\x85\x81.",
    "persistent id": lambda f: b"Pname\n.",
    "persistent id on the stack": lambda f: b"K\x01Q.",
    "extension registry": lambda f: b"\x80\x02\x82\x01.",
    "a set": lambda f: pickle.dumps({1, 2}, 4),
    "buffers outside": lambda f: pickle.dumps(bytearray(9), 5),
    "array of objects": lambda f: pickle.dumps(
        np.array([Calls(os.system, TOUCH.format(folder=f))], dtype=object)
    ),
    "array of text": lambda f: pickle.dumps(np.array(["a"])),
    "array of records": lambda f: pickle.dumps(np.zeros(2, [("a", "f4")])),
    "array of dates": lambda f: pickle.dumps(np.zeros(2, "M8[s]")),
    "matrix class": lambda f: pickle.dumps(np.matrix([[1.0]])),
    "a number of NumPy": lambda f: pickle.dumps(np.float64(1)),
    "an array that never is filled": lambda f: EMPTY + b".",
    "an array that is a key and never filled": lambda f: b"}" + EMPTY + b"K\x01s.",
    "an array as a state": lambda f: graph().replace(b"b\x89", b"0\x89"),
    "another codec": lambda f: b"c_codecs\nencode\n(S'a'\nS'rot13'\ntR.",
    "state of a list": lambda f: b"]}b.",
    "state of a name": lambda f: b"cnumpy\ndtype\n}(S'__reduce__'\nK\x01ub.",
    "calling a string": lambda f: b"S'a'\n)R.",
    "an array called": lambda f: b"cnumpy\nndarray\n(K\x05tR.",
    "empty": lambda f: b"",
    "only an end": lambda f: b".",
    "garbage": lambda f: b"\xff\xfe garbage \n" * 9,
    "a type of nested lists": lambda f: DOUBLED + b"cnumpy\ndtype\n(h;I00\nI01\ntR.",
    "mark left": lambda f: b"(.",
    "marks wanting": lambda f: b"K\x01e.",
    "memo wanting": lambda f: b"h\x07.",
    "append to a number": lambda f: b"K\x01K\x02a.",
    "odd items": lambda f: b"}(K\x01u.",
    "key of a list": lambda f: b"}]K\x01s.",
    "json": lambda f: b'{"a": 1}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_not_plain_is_refused_in_one_line_and_never_run(tmp_path, name):
    refused(tmp_path, HOSTILE[name](tmp_path))
    assert not (tmp_path / "ran").exists()


def test_the_message_names_what_was_asked_for(tmp_path):
    assert "'posix.system'" in refused(tmp_path, HOSTILE["os.system"](tmp_path))
    assert "instruction BINPERSID" in refused(tmp_path, HOSTILE["persistent id on the stack"](tmp_path))
    assert "an array of 'O8'" in refused(tmp_path, HOSTILE["array of objects"](tmp_path))


def array_of(shape: str, size: int, kind: str = "f4") -> bytes:
    """A pickle of an array that says it has this shape, with so many bytes."""
    announced = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tS'b'\ntR"
    dtype = f"cnumpy\ndtype\n(S'{kind}'\nI00\nI01\ntR".encode()
    return announced + b"(K\x01" + shape.encode() + dtype + b"I00\nU" + bytes([size]) + bytes(size) + b"tb."


def test_arrays_hold_what_their_bytes_do(tmp_path):
    assert read(tmp_path, array_of("(K\x02K\x01t", 8)).tolist() == [[0.0], [0.0]]


BOMBS = {
    "shape larger than its bytes": array_of("(I99999999999\nI99999999999\nt", 8),
    "shape that overflows to its bytes": array_of("(I4611686018427387904\nI4\nt", 0),
    "negative shape": array_of("(I-1\nI-2\nt", 8),
    "very many axes": array_of("(" + "K\x01" * 60 + "t", 4),
    "shape of text": array_of("(S'2'\nt", 8),
    "wide type": array_of("(K\x01t", 4, "V2000000000"),
    "type of types": array_of("(K\x01t", 4, "(9999,9999)f4"),
    "long announced, short given": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc.",
    "long text announced": b"X\xff\xff\xff\x7fabc.",
    "a number of many digits": b"L" + b"9" * 100_000 + b"L\n.",
    "far memo": b"Nr\xff\xff\xff\xff0.",
    "tuples of tuples as a key": b"})" + b"q\x00h\x00\x86" * 5000 + b"K\x01s.",
    "the same past a state": b"})" + b"\x85Nbq\x00h\x00\x86" * 50 + b"K\x01s.",
    "tuples nested deep as a key": b"})" + b"\x85" * 2_000_000 + b"K\x01s.",
    "long integers as keys": b"}(" + b"\x8a\x09" + bytes(8) + b"\x01K\x01u.",
    "an array that begins with a shape": array_of("(K\x02t", 8).replace(b"(K\x00t", b"(I9999999999\nt"),
    "ndarray called with a shape": b"cnumpy\nndarray\n(I99999999999\ntR.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_sizes_that_the_file_does_not_pay_for_are_refused(tmp_path, name):
    refused(tmp_path, BOMBS[name])


TEXT = b"T\x00\x10\x00\x00" + b"a" * 4096 + b"q\x01"
AGAIN = {
    "text as bytes": b"(c_codecs\nencode\nq\x00" + TEXT + b"h\x00h\x01S'latin1'\n\x86R" * 900 + b"l.",
    "text of Python 2 as an array": b"("
    + TEXT
    + (EMPTY + b"(K\x01(I4096\ntcnumpy\ndtype\n(S'u1'\nI00\nI01\ntRI00\nh\x01tb") * 180
    + b"l.",
}


@pytest.mark.parametrize("name", AGAIN)
def test_what_is_fetched_again_is_paid_for_again(tmp_path, name):
    assert "more bytes than the file" in refused(tmp_path, AGAIN[name])


@pytest.mark.parametrize(
    "content",
    [
        b"]" * 20_000 + b"a" * 19_999 + b".",
        b"]q\x00h\x00a.",
        b"]" + b"q\x00]h\x00ah\x00a" * 200 + b".",
    ],
    ids=["deep", "in itself", "doubled"],
)
def test_deep_nesting_is_refused(tmp_path, content):
    assert "more than 100 deep" in refused(tmp_path, content)


def test_what_is_shared_stays_shared(tmp_path):
    shared = ["a"]
    first, second = read(tmp_path, pickle.dumps([shared, shared]))
    assert first is second and first == shared


def test_a_file_that_is_too_large_or_not_there(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"adj_mx\.pkl must be a pickle .* No such file"):
        read_pickle(tmp_path / "adj_mx.pkl")
    monkeypatch.setattr("tsgen.readers.pickles.MAX_BYTES", 9)
    assert "more than 9" in refused(tmp_path, graph())


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_truncated_pickle_is_refused_wherever_it_ends(tmp_path, protocol):
    whole = graph(protocol)
    for end in range(len(whole)):
        refused(tmp_path, whole[:end])


def plain(found) -> bool:
    """Whether something is made of the admitted kinds alone."""
    if isinstance(found, (list, tuple)):
        return all(map(plain, found))
    if isinstance(found, dict):
        return all(map(plain, found.values()))
    return type(found) in (str, bytes, int, float, bool, type(None), np.ndarray)


pieces = st.sampled_from(
    [bytes([i]) for i in range(256)] + [b"cos\nsystem\n", b"cnumpy\nndarray\n", b"S'x'\n", b"K\x01"]
)


@settings(max_examples=400, deadline=None)
@given(
    protocol=st.sampled_from([0, 2, 4]),
    edits=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3), pieces), min_size=1, max_size=6),
)
def test_a_graph_with_random_edits_is_plain_or_refused(tmp_path_factory, protocol, edits):
    content = graph(protocol)
    for at, length, piece in edits:
        content = content[:at] + piece + content[at + length :]
    judge(tmp_path_factory, content)


@settings(max_examples=300, deadline=None)
@given(content=st.one_of(st.binary(max_size=60), st.lists(pieces, max_size=30).map(b"".join)))
def test_random_bytes_are_plain_or_refused(tmp_path_factory, content):
    judge(tmp_path_factory, content)


def judge(factory, content: bytes) -> None:
    """Fails unless the pickle is plain, or refused in one line."""
    folder = factory.getbasetemp()
    try:
        assert plain(read(folder, content))
    except ValueError:
        refused(folder, content)
