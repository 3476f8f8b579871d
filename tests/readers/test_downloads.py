"""Downloads from a local server that breaks off, stalls, lies and changes its mind."""

import errno
import hashlib
import io
import logging
import multiprocessing
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pooch
import pytest
import requests
from conftest import AQI36, METR_LA_10, needs_aqi36

from datamodules import AirQualityDataModule, TrafficDataModule
from tsgen.readers import downloads
from tsgen.readers.downloads import check_source, fetch, fetch_missing

CONTENT = bytes(range(256)) * 400
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves what it is told to, and remembers what it was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict[str, str]] = []
        self.script: list[dict] = []
        self.files = {"/file.bin": CONTENT}
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """One answer by the script; once it has ended, whole files."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Says nothing."""

    def do_GET(self):
        self.server.asked.append(dict(self.headers))
        step = self.server.script.pop(0) if self.server.script else {}
        content = step.get("content", self.server.files.get(self.path))
        status = step.get("status", 200 if content is not None else 404)
        content = content or b"gone"
        self.send_response(status)
        body = content
        for name, value in step.get("headers", {}).items():
            self.send_header(name, value)
        if step.get("length", True):
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.close_connection = True
        self.end_headers()
        cut = step.get("cut", len(body))
        self.wfile.write(body[:cut])
        self.wfile.flush()
        time.sleep(step.get("hang", 0))


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    waited: list[float] = []
    monkeypatch.setattr(pooch.core, "time", SimpleNamespace(sleep=waited.append))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return waited


@pytest.fixture
def server():
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def get(server, tmp_path):
    """Fetches the file under a script; what came, after making sure that nothing else is left."""

    def run(*script, sha256=DIGEST):
        server.script = list(script)
        path = tmp_path / "file.bin"
        fetch(f"{server.url}/file.bin", path, sha256)
        assert sorted(p.name for p in tmp_path.iterdir()) in (["file.bin"], ["file.bin", "file.bin.lock"])
        return path.read_bytes()

    return run


@contextmanager
def raw_server(pieces: list[bytes]) -> Iterator[str]:
    """The address of a server that sends some bytes, one after another in 20 ms, whatever it is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            connection = listening.accept()[0]
            with connection, suppress(OSError):
                connection.recv(4096)
                for piece in pieces:
                    connection.sendall(piece)
                    time.sleep(0.02)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/file.bin"


def told(error) -> str:
    message = str(error.value)
    assert type(error.value) is ValueError and "\n" not in message and len(message) < 400
    return message


def test_a_file_is_fetched_once(server, get):
    assert get(sha256=DIGEST.upper()) == CONTENT and get() == CONTENT
    assert len(server.asked) == 1 and server.asked[0]["Accept-Encoding"] == "identity"


def test_a_download_that_broke_off_is_tried_again(server, get, pauses):
    assert get({"cut": 30_000}, {"cut": 20_000}) == CONTENT
    assert len(server.asked) == 3 and pauses == [1, 2]


def test_a_file_that_is_cut_off_is_not_taken_for_whole(get, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "ATTEMPTS", 1)
    with pytest.raises(ValueError, match=r"30000 bytes read, 72400 more|30,000 of 102,400") as error:
        get({"cut": 30_000})
    assert str(tmp_path / "file.bin") in told(error)
    assert [p.name for p in tmp_path.iterdir() if ".lock" not in p.name] == []
    assert get() == CONTENT


@pytest.mark.parametrize("then", [{"status": 500}, {"status": 503, "cut": 0}], ids=["500", "503"])
def test_errors_that_pass_are_followed_by_another_attempt(get, then):
    assert get({"cut": 30_000}, then) == CONTENT


def test_a_file_that_changes_between_attempts_is_never_a_mixture(server, get):
    other = bytes(reversed(CONTENT))
    server.files["/file.bin"] = other
    assert get({"content": CONTENT, "cut": 30_000}, sha256=None) == other


def test_damaged_bytes_are_fetched_again_and_then_given_up(server, get, tmp_path):
    bad = {"content": CONTENT[:-1] + b"x"}
    assert get(bad, bad) == CONTENT
    (tmp_path / "file.bin").unlink()
    with pytest.raises(ValueError, match=r"SHA256 hash .* does not match") as error:
        get(*[bad] * 5)
    assert DIGEST in told(error)
    assert [p.name for p in tmp_path.iterdir() if ".lock" not in p.name] == []


@pytest.mark.parametrize(("status", "asked"), [(404, 1), (403, 1), (500, 5), (429, 5)])
def test_answers_that_are_errors(server, get, status, asked):
    with pytest.raises(ValueError, match=f"the server answers {status}") as error:
        get(*[{"status": status}] * 9)
    assert "by hand" in told(error) and len(server.asked) == asked


def test_a_page_is_not_the_file(server, get):
    page = {"content": b"<html>log in</html>", "headers": {"Content-Type": "text/html; charset=utf-8"}}
    with pytest.raises(ValueError, match="a web page") as error:
        get(page, sha256=None)
    assert told(error) and len(server.asked) == 1


def test_a_server_that_falls_silent_is_left(get, monkeypatch):
    monkeypatch.setattr(downloads, "TIMEOUT", 0.1)
    start = time.monotonic()
    assert get({"cut": 30_000, "hang": 3}) == CONTENT
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("length", [b"", b"Content-Length: many\r\n"])
@pytest.mark.parametrize("cut", [0, 1000])
def test_a_file_that_is_cut_off_without_a_length_is_not_taken_for_whole(tmp_path, monkeypatch, length, cut):
    monkeypatch.setattr(downloads, "ATTEMPTS", 1)
    answer = b"HTTP/1.0 200 OK\r\n" + length + b"\r\n" + CONTENT[:cut]
    with raw_server([answer]) as url, pytest.raises(ValueError, match="announces no length") as error:
        fetch(url, tmp_path / "file.bin")
    assert "checksums" in told(error) and not (tmp_path / "file.bin").exists()


def test_a_file_without_a_length_is_held_to_its_checksum(get):
    assert get({"length": False, "cut": 1000}, {"length": False}) == CONTENT


def test_nothing_is_no_file(get):
    with pytest.raises(ValueError, match="sent no bytes"):
        get(*[{"cut": 0, "headers": {"Content-Length": "0"}, "length": False}] * 5, sha256=None)


def test_a_file_in_chunks_tells_its_end(get, server):
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(CONTENT), CONTENT)
    step = {"content": chunked, "headers": {"Transfer-Encoding": "chunked"}, "length": False}
    assert get(step | {"cut": 50_000}, step | {"cut": len(chunked) - 5}, step, sha256=None) == CONTENT
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("announced", "message"),
    [(True, "it has 102,400 bytes, more than 50,000"), (False, "sends more than 50,000 bytes")],
)
def test_a_file_without_end_is_refused(get, monkeypatch, announced, message):
    monkeypatch.setattr(downloads, "MAX_BYTES", 50_000)
    with pytest.raises(ValueError, match=message) as error:
        get({"length": announced})
    told(error)


def test_what_comes_with_a_redirection_is_not_read(get):
    onward = {"status": 302, "headers": {"Location": "/file.bin"}, "cut": 1000, "hang": 3}
    start = time.monotonic()
    assert get(onward) == CONTENT and time.monotonic() - start < 2


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,x"])
def test_redirections_lead_to_the_web_alone(server, get, to):
    with pytest.raises(ValueError, match=r"protocol|not allowed") as error:
        get({"status": 302, "headers": {"Location": to}}, sha256=None)
    assert told(error) and len(server.asked) == 1


def test_no_redirection_leads_from_https_to_http():
    def follow(start, to):
        answer = requests.Response()
        answer.status_code, answer.url, answer.raw = 302, start, io.BytesIO()
        answer.headers["Location"] = to
        return downloads._Session().get_redirect_target(answer)

    assert follow("https://a.org/x", "https://b.org/x") == "https://b.org/x"
    assert follow("https://a.org/x", "/y") == "/y"
    assert follow("http://a.org/x", "https://b.org/x") == "https://b.org/x"
    with pytest.raises(downloads._RefusedError, match="an address with the protocol http"):
        follow("https://a.org/x", "http://b.org/x")


def test_passwords_in_netrc_are_not_sent(server, get, tmp_path, monkeypatch):
    netrc = tmp_path.parent / f"{tmp_path.name}.netrc"
    netrc.write_text("machine 127.0.0.1\nlogin me\npassword secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert requests.utils.get_netrc_auth(server.url) == ("me", "secret")
    assert get({"status": 302, "headers": {"Location": f"{server.url}/file.bin"}}) == CONTENT
    assert len(server.asked) == 2 and not any("Authorization" in asked for asked in server.asked)


def test_a_file_may_be_read_by_others_as_the_umask_says(get, tmp_path):
    before = os.umask(0o027)
    try:
        get()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.bin").stat().st_mode) == 0o640


def test_redirections_are_followed_and_end(server, get):
    onward = {"status": 302, "headers": {"Location": "/file.bin"}}
    assert get(onward, onward) == CONTENT


def test_redirections_in_a_circle_are_left(server, get):
    with pytest.raises(ValueError, match="redirects") as error:
        get(*[{"status": 302, "headers": {"Location": "/file.bin"}}] * 99)
    assert told(error) and len(server.asked) < 50


def test_without_a_network_it_says_what_to_put_where(tmp_path, pauses):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ValueError, match=r"cannot be fetched: .*refused") as error:
        fetch(f"http://127.0.0.1:{port}/a.txt", tmp_path / "a.txt")
    assert f"Download the file by hand and save it as {tmp_path / 'a.txt'}." in told(error)
    assert pauses == [1, 2, 3, 4]


def test_a_full_disk_is_not_tried_again(server, get, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(downloads.os, "fsync", full)
    with pytest.raises(ValueError, match="No space left"):
        get()
    assert len(server.asked) == 1


def test_a_file_without_a_checksum_is_told_of(get, caplog):
    with caplog.at_level(logging.WARNING):
        get(sha256=None)
    assert DIGEST in caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc",
        "ftp://host/x",
        "host/x",
        "https://",
        "http://me:secret@host/x",
        "ftp://me:secret@host/x",
        "https://host/x?token=secret",
        "",
    ],
)
def test_addresses_are_plain_ones_of_the_web(url):
    with pytest.raises(ValueError, match="url must be") as error:
        check_source(url)
    assert "secret" not in told(error)


def test_checksums_are_sha256():
    with pytest.raises(ValueError, match="64 hexadecimal digits; that of a is 'abc'"):
        check_source(None, {"a": "abc"})


def test_names_are_quoted(server, tmp_path):
    server.files["/f/a%20b%3F"] = b"x"
    fetch_missing(tmp_path, ["a b?"], server.url + "/f/")
    assert (tmp_path / "a b?").read_bytes() == b"x"


def test_two_processes_fetch_a_file_once(server, tmp_path):
    context = multiprocessing.get_context("fork")
    jobs = [
        context.Process(target=fetch, args=(f"{server.url}/file.bin", tmp_path / "file.bin", DIGEST))
        for _ in range(3)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(20)
    assert [job.exitcode for job in jobs] == [0, 0, 0] and len(server.asked) == 1
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_failure_of_before_is_tried_again(server, get, monkeypatch):
    monkeypatch.setattr(downloads, "ATTEMPTS", 1)
    with pytest.raises(ValueError, match="500"):
        get({"status": 500})
    assert get() == CONTENT


@needs_aqi36
def test_beijings_air_comes_from_a_mirror_and_is_the_published_one(server, tmp_path):
    files = {f"/aqi/{p.name}": p.read_bytes() for p in AQI36.glob("*.txt")}
    server.files = dict(files)
    data = AirQualityDataModule(str(tmp_path / "new"), url=f"{server.url}/aqi/")
    assert data.split.series.values.shape == (8759, 36, 1)
    assert len(server.asked) == 3
    server.files["/aqi/pm25_latlng.txt"] = files["/aqi/pm25_latlng.txt"].replace(b"116", b"117", 1)
    with pytest.raises(ValueError, match=r"SHA256 hash .* does not match"):
        _ = AirQualityDataModule(str(tmp_path / "other"), url=f"{server.url}/aqi").split


@pytest.mark.skipif(not METR_LA_10.is_dir(), reason=f"METR-LA's files are not at {METR_LA_10}")
def test_traffic_comes_from_a_mirror(server, tmp_path):
    graph = (METR_LA_10 / "adj_mx.pkl").read_bytes()
    server.files = {"/adj_mx.pkl": graph}
    (tmp_path / "metr_la_first10_full.npz").write_bytes(
        (METR_LA_10 / "metr_la_first10_full.npz").read_bytes()
    )
    sums = {"adj_mx.pkl": hashlib.sha256(graph).hexdigest()}
    data = TrafficDataModule(str(tmp_path), url=server.url, checksums=sums)
    assert data.split.series.values.shape[1] == 10 and len(server.asked) == 1
    with pytest.raises(ValueError, match=r"metr-la\.h5 cannot be fetched: the server answers 404"):
        _ = TrafficDataModule(str(tmp_path / "none"), url=server.url).split


def test_nothing_is_fetched_without_an_address(tmp_path):
    with pytest.raises(ValueError, match=r"data\.url"):
        _ = AirQualityDataModule(str(tmp_path)).split
    with pytest.raises(ValueError, match=r"data\.url"):
        _ = TrafficDataModule(str(tmp_path)).split
