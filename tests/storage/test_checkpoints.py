"""A stranger's checkpoint is read, or refused in one line, in bounded time and memory."""

import io
import time
import zipfile

import pytest
import torch

from experiments.benchmarks import fuzz
from tsgen import load
from tsgen.storage.checkpoints import damage, read_checkpoint
from tsgen.storage.instructions import check_instructions


@pytest.fixture
def state():
    return torch.load(io.BytesIO(fuzz.READERS["checkpoint"].whole()), weights_only=True)


def refused(path, content, match):
    """Fails unless one line that names the file refuses a checkpoint, quickly."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    start = time.monotonic()
    with pytest.raises(ValueError, match=match) as error:
        load(path)
    assert time.monotonic() - start < 20
    message = str(error.value)
    assert str(path) in message and message.isprintable() and len(message) < 700


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_sizes_are_compared_before_anything_is_unpacked(tmp_path, method, monkeypatch):
    file = io.BytesIO(fuzz.READERS["checkpoint"].whole())
    with zipfile.ZipFile(file, "a", method) as archive:
        archive.writestr("archive/x", bytes(2**24))
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda self: pytest.fail("it was unpacked"))
    refused(tmp_path / "a.ckpt", file.getvalue(), "it is compressed")


def test_members_that_overlap_are_refused(tmp_path):
    whole = fuzz.READERS["checkpoint"].whole()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        directory, name = archive.start_dir, archive.namelist()[0].encode()
    content = bytearray(whole)
    at = content.index(name, directory) - 46  # the header of the member in the directory
    content[at + 20 : at + 28] = 2 * (len(content) - 1).to_bytes(4, "little")
    refused(tmp_path / "a.ckpt", bytes(content), "it unpacks to")


def test_bytes_before_the_archive_are_refused(tmp_path):
    refused(tmp_path / "a.ckpt", b"x" + fuzz.READERS["checkpoint"].whole(), "begin with its first member")


@pytest.mark.parametrize("window", ["x", -5, 0, 10**12, 1.5, True, [1]])
def test_a_window_is_a_number_of_steps(tmp_path, state, window):
    state["hyper_parameters"]["window"] = window
    refused(tmp_path / "a.ckpt", state, "window must be a number of steps")


@pytest.mark.parametrize(
    ("block", "class_path", "option"),
    [
        ("encoder", "tsgen.encoders.WindowEncoder", "hidden"),
        ("encoder", "tsgen.encoders.WindowEncoder", "layers"),
        ("encoder", "tsgen.encoders.WindowEncoder", "order"),
        ("encoder", "tsgen.encoders.GraphGRUEncoder", "hidden"),
        ("encoder", "tsgen.encoders.ConvolutionEncoder", "layers"),
        ("encoder", "tsgen.encoders.ConvolutionEncoder", "kernel_size"),
        ("encoder", "tsgen.encoders.ConvolutionEncoder", "repeats"),
        ("encoder", "tsgen.encoders.AttentionEncoder", "layers"),
        ("head", "tsgen.heads.MixtureHead", "components"),
    ],
)
def test_a_model_is_not_larger_than_its_weights(tmp_path, state, block, class_path, option):
    description = {"class_path": class_path, "init_args": {option: 10**9}}
    state["hyper_parameters"]["model"]["init_args"][block] = description
    refused(tmp_path / "a.ckpt", state, r"larger model than its weights|must be at most")


@pytest.mark.parametrize("option", ["node_embedding", "num_covariates"])
@pytest.mark.parametrize("value", [10**9, -1, "x", 1.5, None])
def test_other_sizes_of_a_model(tmp_path, state, option, value):
    arguments = state["hyper_parameters"]["model"]["init_args"]
    (arguments if option == "node_embedding" else arguments["spec"]["init_args"])[option] = value
    refused(tmp_path / "a.ckpt", state, "must describe a model")


@pytest.mark.parametrize(
    ("option", "value"), [("hidden", "x"), ("hidden", 1.5), ("hidden", True), ("layers", None)]
)
def test_options_have_the_types_of_their_annotations(tmp_path, state, option, value):
    state["hyper_parameters"]["model"]["init_args"]["encoder"]["init_args"] = {option: value}
    refused(tmp_path / "a.ckpt", state, f"{option} of WindowEncoder must be int")


@pytest.mark.parametrize("name", ["loc", "scale", "edge_index", "edge_weight"])
def test_tensors_have_their_entries_in_the_file(tmp_path, state, name):
    spec = state["hyper_parameters"]["model"]["init_args"]["spec"]["init_args"]
    spec[name] = torch.ones(1, dtype=spec[name].dtype).expand(2, 10**12)
    refused(tmp_path / "a.ckpt", state, "more entries than it stores")


@pytest.mark.parametrize("layout", ["meta", "sparse"])
def test_tensors_are_plain_arrays(tmp_path, state, layout):
    meta = torch.empty(10**12, device="meta")
    sparse = torch.sparse_coo_tensor(torch.zeros(1, 1, dtype=torch.int64), torch.ones(1), (10**12,))
    state["x"] = meta if layout == "meta" else sparse
    refused(tmp_path / "a.ckpt", state, "must be a checkpoint")


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("nodes", ["a"], "loc must be"),
        ("scale", torch.zeros(3, 1), "positive"),
        ("loc", torch.full((3, 1), torch.nan), "finite"),
        ("edge_index", None, "edge_index must lie in"),
    ],
)
def test_a_spec_is_consistent(tmp_path, state, name, value, match):
    spec = state["hyper_parameters"]["model"]["init_args"]["spec"]["init_args"]
    spec[name] = spec[name] + 9 if value is None else value
    refused(tmp_path / "a.ckpt", state, match)


def nested(levels):
    """Instructions for tuples of which each has the one before it twice."""
    return b")q\x00" + b"".join(b"h%c\x86q%c" % (i, i + 1) for i in range(levels))


LONG = b"\x8a\x06" + (10**13).to_bytes(6, "little")


@pytest.mark.parametrize(
    ("instructions", "match"),
    [
        (b"\x80\x02}" + nested(60) + b"K\x01s.", "a tuple as a key"),
        (b"\x80\x02}(" + nested(60) + b"K\x01u.", "a tuple as a key"),
        (b"\x80\x02c__builtin__\nset\n](" + nested(60) + b"e\x85R.", "set of tuples"),
        (b"\x80\x02c__builtin__\nbytearray\n" + LONG + b"\x85R.", "calls"),
        (b"\x80\x02ctorch\nFloatTensor\n" + LONG + b"\x85\x81.", "calls"),
        (b"\x80\x02\x8a\x09" + b"\x01" * 9 + b".", "more than 64 bits"),
    ],
)
def test_a_pickle_neither_hangs_nor_allocates(tmp_path, instructions, match):
    with pytest.raises(ValueError, match=match):
        check_instructions(instructions)
    whole = fuzz.READERS["checkpoint"].whole()
    refused(tmp_path / "a.ckpt", fuzz.with_pickle(whole, instructions), match)


def test_what_checkpoints_hold_is_read(tmp_path):
    weight = torch.nn.Parameter(torch.ones(2, 2))
    state = {
        "state_dict": {"a": weight, "tied": weight},
        "hyper_parameters": {"model": {}},
        "set": {1, 2},
        "bytes": b"x",
        "size": torch.Size([1]),
        "tuple": ((1, (2,)), {"x": (3,)}),
        "half": torch.ones(2, dtype=torch.bfloat16),
    }
    torch.save(state, tmp_path / "a.ckpt")
    assert damage(tmp_path / "a.ckpt") is None
    read = read_checkpoint(tmp_path / "a.ckpt")
    assert read["set"] == {1, 2} and read["tuple"] == state["tuple"] and read["bytes"] == b"x"


def test_containers_are_not_nested_deep(tmp_path, state):
    inner = state["x"] = []
    for _ in range(200):
        inner.append([])
        inner = inner[0]
    refused(tmp_path / "a.ckpt", state, "nests containers")
