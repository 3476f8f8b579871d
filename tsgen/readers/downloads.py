"""Files fetched from a mirror of one's own.

No data set has an address here: whoever has the right to a copy names where it lies, and the files are
fetched into the data module's folder, once. What comes over a network may break off, stall, be a page that
says something else, or be another file than the last time, so that a download

* is written beside its place and moved there whole, once its length and its SHA-256 are right; where the
  server tells no length, by which a broken connection would be seen, the SHA-256 must be given;
* goes on where it broke off, if the server can (HTTP ranges) and still has the same file (``If-Range``), and
  begins anew where not;
* is given up after :data:`ATTEMPTS` attempts, each of which ends when nothing, or almost nothing, comes.

Processes that need the same file wait for each other at a lock, and the first fetches it, or fails for all
that wait: the command line reads the data before Lightning's ``prepare_data`` would be called, on every
process. Nothing is unpacked.
The client is Python's own: it hands over bytes as they come, so that a connection which trickles is seen.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import logging
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from filelock import FileLock
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

logger = logging.getLogger(__name__)

ATTEMPTS = 5
"""How often a download is tried, with pauses of 1, 2, 4, ... seconds in between."""

SILENCE = 30.0
"""Seconds without a byte after which a connection is taken for broken."""

SLOWEST, PATIENCE = 1000, 60.0
"""So many bytes a second must come, on average over so many seconds; as long may an answer take to begin."""

MAX_BYTES = 2**32
"""A larger file (4 GiB) is refused: that of PEMS-BAY has 130 MB."""

CHUNK = 2**18
GIVE_UP = (400, 401, 403, 404, 405, 410, 451)
"""Answers that asking again does not change, beside redirections that are not followed."""


def fetch_missing(
    root: Path, names: Iterable[str], url: str | None, checksums: Mapping[str, str] | None = None
) -> None:
    """Fetches the files that a folder lacks; does nothing without an address.

    Args:
        root: The folder; made if need be.
        names: The files' names, in the folder and at the address.
        url: The address of a folder, which :func:`check_source` has seen.
        checksums: The SHA-256 of files, by name, in hexadecimal digits.

    Raises:
        ValueError: If a file cannot be had; it says which one to put where.
    """
    if url is None:
        return
    for name in names:
        if not (root / name).is_file():
            fetch(f"{url.rstrip('/')}/{quote(name)}", root / name, (checksums or {}).get(name))


def check_source(url: str | None, checksums: Mapping[str, str] | None = None) -> None:
    """Raises ``ValueError`` unless the address is one of the web and the checksums are SHA-256.

    Args:
        url: The address.
        checksums: Of files, by name.
    """
    if url is not None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            shown = url if parts.password is None else f"one with a password, of {parts.hostname}"
            raise ValueError(f"url must be http://... or https://...; it is {shown!r:.100}.")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError(
                f"url must be the plain address of a folder at {parts.hostname}, without name, password, "
                "? or #: it is kept with the run. Fetch the files by hand where they need those."
            )
    for name, digest in (checksums or {}).items():
        if not re.fullmatch(r"[0-9a-fA-F]{64}", str(digest)):
            raise ValueError(
                f"checksums must be SHA-256, 64 hexadecimal digits; that of {name} is {digest!r:.80}."
            )


def fetch(url: str, path: Path, sha256: str | None = None) -> None:
    """Fetches one file, unless another process has meanwhile.

    Args:
        url: Where it lies.
        path: Where it goes.
        sha256: What it must be; any content if not given.

    Raises:
        ValueError: If it cannot be had, in one line that says what to put where.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        arrived = time.time()
        with FileLock(f"{path}.lock"):
            if not path.is_file():
                _attempt_for_all(url, path, sha256, arrived)
    except (OSError, http.client.HTTPException, _UselessError) as error:
        raise ValueError(
            f"{url} cannot be fetched: {_reason(error)}. Put that file at {path} by hand."
        ) from error


def _reason(error: Exception) -> str:
    """What an error tells, in one line."""
    told = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    reason = " ".join(str(told).split()).rstrip(".") or type(error).__name__
    return (
        f"the server answers {error.code} {reason}" if isinstance(error, urllib.error.HTTPError) else reason
    )


class _UselessError(Exception):
    """What came is not what was asked for, and asking again would not help."""


class _BrokenError(OSError):
    """The connection broke, stalled or gave something damaged: worth another attempt."""


def _attempt_for_all(url: str, path: Path, sha256: str | None, arrived: float) -> None:
    """Tries, unless another process has failed since this one came to the lock, some time ago."""
    note, wanted = path.with_name(path.name + ".lock.failed"), {"url": url, "sha256": sha256}
    failed = _noted(note)
    if wanted.items() <= failed.items() and failed.get("time", 0) > arrived:
        raise _UselessError(failed["reason"])
    try:
        _attempt(url, path, sha256)
    except (OSError, http.client.HTTPException, _UselessError) as error:
        with suppress(OSError):  # the others then try themselves
            note.write_text(json.dumps(wanted | {"time": time.time(), "reason": _reason(error)}), "utf-8")
        raise
    note.unlink(missing_ok=True)


def _noted(note: Path) -> dict[str, Any]:
    """What a note says; nothing if there is none."""
    try:
        content = json.loads(note.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _attempt(url: str, path: Path, sha256: str | None) -> None:
    """Tries until the file is there."""
    for number in range(1, ATTEMPTS + 1):
        try:
            _download(url, path, sha256)
            return
        except (OSError, http.client.HTTPException) as error:
            final = isinstance(error, urllib.error.HTTPError) and (error.code < 400 or error.code in GIVE_UP)
            ours = isinstance(error, OSError) and error.errno is not None and not _of_network(error)
            if number == ATTEMPTS or final or ours:
                raise
            pause(2.0 ** (number - 1))


def _of_network(error: OSError) -> bool:
    """Whether it came from the connection, not from the disk."""
    return isinstance(error, (urllib.error.URLError, ConnectionError, TimeoutError, ssl.SSLError))


def pause(seconds: float) -> None:
    """Waits before another attempt."""
    time.sleep(seconds)


def _download(url: str, path: Path, sha256: str | None) -> None:
    """Fetches what is missing of the part that is there, checks the whole and puts it into its place."""
    part, note = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.json")
    have, tag = _left(part, note, url)
    headers = {"User-Agent": "tsgen", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": tag}
    try:
        answer = _opener().open(urllib.request.Request(url, headers=headers), timeout=SILENCE)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is as long as the file or longer
            _forget(part, note)
            raise _BrokenError("the file has another length than before") from error
        raise
    with answer:
        begin, total = _extent(answer, have)
        _check_kind(answer, path, total)
        if total is None and sha256 is None and not (answer.chunked and answer.status == 200):
            raise _UselessError(
                "the server does not tell its length, by which a broken connection would be seen; give its "
                "SHA-256 in data.checksums"
            )
        _remember(note, url, answer.headers)
        _receive(answer, part, begin, total, path.name)
    digest = digest_of(part)
    if sha256 is not None and digest != sha256.lower():
        _forget(part, note)
        raise _BrokenError(f"its SHA-256 is {digest}, where {sha256.lower()} was expected")
    if sha256 is None:
        logger.warning(
            "%s is what came from %s; its SHA-256 is %s. Give it in data.checksums to hold it to that.",
            path,
            urlsplit(url).hostname,
            digest,
        )
    note.unlink(missing_ok=True)
    os.replace(part, path)


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Follows at most five redirections, to the web alone, and never from https to http."""

    max_redirections = 5

    def redirect_request(self, request: Any, answer: Any, code: int, text: str, headers: Any, to: str) -> Any:
        """The request that follows one."""
        scheme = urlsplit(to).scheme
        if scheme not in ("http", "https") or (request.type == "https" and scheme == "http"):
            raise _UselessError(f"it leads to an address of {scheme or 'no'} protocol")
        answer.close()  # or what comes with it would be read whole, however much
        return super().redirect_request(request, answer, code, text, headers, to)


class _Patient(io.RawIOBase):
    """The bytes of a connection, as long as they come in time.

    The connection's own limit starts anew with each byte, so that lines which drip would be waited for.
    """

    def __init__(self, connection: Any) -> None:
        self._connection, self.until = connection, time.monotonic() + PATIENCE

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Reads what is there."""
        if time.monotonic() > self.until:
            raise TimeoutError(f"no whole line comes in {PATIENCE:g} seconds")
        return self._connection.readinto(buffer)

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    """An answer that must begin in time, and go on in time."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._patient = _Patient(self.fp.detach())
        self.fp = io.BufferedReader(self._patient)

    def read1(self, n: int = -1) -> bytes:
        """Some more bytes, none at the end."""
        self._patient.until = time.monotonic() + PATIENCE
        return super().read1(n)


class _Connection(http.client.HTTPConnection):
    response_class = _Answer


class _SecureConnection(http.client.HTTPSConnection):
    response_class = _Answer


class _Http(urllib.request.HTTPHandler):
    def http_open(self, request: Any) -> Any:
        """Asks."""
        return self.do_open(_Connection, request)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, request: Any) -> Any:
        """Asks, and makes sure who answers, as Python does by default."""
        return self.do_open(_SecureConnection, request)


def _opener() -> urllib.request.OpenerDirector:
    """A client that knows the web, and no local files or other protocols."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        _Http(),
        _Https(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _WebOnly(),
    ):
        opener.add_handler(handler)
    return opener


def _left(part: Path, note: Path, url: str) -> tuple[int, str]:
    """How many bytes an earlier attempt left, and the mark by which the server knows that file again."""
    left = _noted(note)
    size = part.stat().st_size if part.is_file() else 0
    tag = left.get("tag") if left.get("url") == url else None
    return (size, tag) if isinstance(tag, str) and tag else (0, "")


def _remember(note: Path, url: str, headers: Any) -> None:
    """Keeps the mark of the file that is being fetched; only a strong one can be asked for again."""
    tag = headers.get("ETag") or ""
    tag = "" if tag.startswith("W/") else tag or headers.get("Last-Modified") or ""
    note.write_text(json.dumps({"url": url, "tag": tag}), "utf-8")


def _forget(part: Path, note: Path) -> None:
    part.unlink(missing_ok=True)
    note.unlink(missing_ok=True)


def _extent(answer: Any, have: int) -> tuple[int, int | None]:
    """Where in the file the answer begins, and how long the file is, None if that is not told."""
    if answer.status != 206:
        return 0, answer.length
    place = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range") or "")
    if place is None or int(place[1]) != have:
        raise _BrokenError("the server sends another part than was asked for")
    return have, None if place[2] == "*" else int(place[2])


def _check_kind(answer: Any, path: Path, total: int | None) -> None:
    """Raises if the answer is a page instead of the file, or too large."""
    kind = answer.headers.get_content_type()
    if kind == "text/html" and path.suffix not in (".html", ".htm"):
        raise _UselessError("the server sends a page of the web (text/html), not the file")
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise _UselessError("the server packs the file on the way")
    if total is not None and total > MAX_BYTES:
        raise _UselessError(f"it has {total:,} bytes, more than {MAX_BYTES:,}")


def _receive(answer: Any, part: Path, begin: int, total: int | None, name: str) -> None:
    """Writes what comes to the end of the part, down to the disk."""
    got, since, then = begin, time.monotonic(), begin
    with part.open("r+b" if begin else "wb") as file, _progress(name, total) as advance:
        file.seek(begin)
        file.truncate()
        try:
            while chunk := answer.read1(CHUNK):
                file.write(chunk)
                got += len(chunk)
                advance(got)
                if got > MAX_BYTES:
                    raise _UselessError(f"more than {MAX_BYTES:,} bytes come")
                now = time.monotonic()
                if now - since > PATIENCE:
                    if got - then < SLOWEST * (now - since):
                        raise _BrokenError(f"fewer than {SLOWEST:,} bytes a second come")
                    since, then = now, got
        finally:
            file.flush()
            os.fsync(file.fileno())
    if not got:
        raise _BrokenError("nothing came")
    if total is not None and got != total:
        raise _BrokenError(f"{got:,} of {total:,} bytes came")


@contextmanager
def _progress(name: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Takes how many bytes there are, and shows a bar in a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(escape(name), total=total)
        yield lambda got: bar.update(task, completed=got)


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits.

    Args:
        path: The file.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
