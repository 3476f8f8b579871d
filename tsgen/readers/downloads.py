"""Downloads of published files from a mirror that the user names.

tsgen contains no addresses of data sets. A user who has the right to a copy gives the address of the folder
on the web that holds it, and the data module downloads the files that are missing from its local folder. A
connection may break off or stall, and a server may send an error page or another version of the file.
Therefore

* a file is moved into place only when its length and its SHA-256 are right. Where the server announces no
  length, a broken connection looks like the end of the file, so the SHA-256 is required;
* a download is attempted up to :data:`ATTEMPTS` times, and one attempt ends after :data:`TIMEOUT` seconds
  without a byte. Errors that another attempt cannot change, such as 404, are reported at once;
* processes that need the same file wait at a lock while one of them downloads it. The command line reads the
  data in every process before Lightning would call ``prepare_data``, so the lock replaces that call.

`pooch` downloads to a temporary file, compares the SHA-256, retries and moves the file into place; `requests`
speaks HTTP. Nothing is unpacked.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, urljoin, urlsplit

import pooch
import requests
from filelock import FileLock
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

logger = logging.getLogger(__name__)

ATTEMPTS = 5
"""Number of attempts per file; pooch waits 1, 2, 3, ... seconds between them."""

TIMEOUT = 30.0
"""Seconds to wait for a connection, and then for each next byte."""

MAX_BYTES = 2**32
"""Largest file that is downloaded, 4 GiB. PEMS-BAY has 130 MB."""

CHUNK = 2**18
"""Bytes that are read from the connection at a time."""

TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
"""HTTP status codes after which another attempt may succeed."""


def fetch_missing(
    root: Path, names: Iterable[str], url: str | None, checksums: Mapping[str, str] | None = None
) -> None:
    """Downloads the files that a folder lacks; does nothing if ``url`` is None.

    Args:
        root: The folder; created if necessary.
        names: Names of the files, in the folder and below the address.
        url: Address of the folder on the web, checked by :func:`check_source`.
        checksums: SHA-256 of files, by name, as hexadecimal digits.

    Raises:
        ValueError: If a file cannot be downloaded; the message says where to put it by hand.
    """
    if url is None:
        return
    for name in names:
        if not (root / name).is_file():
            fetch(f"{url.rstrip('/')}/{quote(name)}", root / name, (checksums or {}).get(name))


def check_source(url: str | None, checksums: Mapping[str, str] | None = None) -> None:
    """Raises ``ValueError`` unless the address is plain http or https and the checksums are SHA-256.

    Args:
        url: Address of a folder on the web, or None.
        checksums: SHA-256 of files, by name.
    """
    if url is not None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            shown = url if parts.password is None else f"one with a password, of {parts.hostname}"
            raise ValueError(f"url must be http://... or https://...; got {shown!r:.100}.")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError(
                f"url must be the plain address of a folder at {parts.hostname}, without user name, "
                "password, ? or #, because it is stored with the run. If the server needs those, download "
                "the files by hand."
            )
    for name, digest in (checksums or {}).items():
        if not re.fullmatch(r"[0-9a-fA-F]{64}", str(digest)):
            raise ValueError(
                f"checksums must be SHA-256, 64 hexadecimal digits; that of {name} is {digest!r:.80}."
            )


def fetch(url: str, path: Path, sha256: str | None = None) -> None:
    """Downloads one file, unless another process has done so in the meantime.

    Args:
        url: Address of the file.
        path: Where to put the file.
        sha256: Expected SHA-256; any content is accepted if not given.

    Raises:
        ValueError: If the file cannot be downloaded: one line that says where to put it by hand.
    """
    source = pooch.create(
        path.parent.absolute(),
        base_url="",
        registry={path.name: sha256},
        urls={path.name: url},
        retry_if_failed=ATTEMPTS - 1,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if path.is_file():
                return
            source.fetch(path.name, downloader=_Download(has_checksum=sha256 is not None))
    except (OSError, ValueError, _RefusedError) as error:  # an exception of requests is an OSError
        raise ValueError(
            f"{url} cannot be fetched: {_reason(error)}. Download the file by hand and save it as {path}."
        ) from error
    if sha256 is None:
        logger.warning(
            "%s was downloaded from %s without a checksum; its SHA-256 is %s. Set it in data.checksums to "
            "check the next download.",
            path,
            urlsplit(url).hostname,
            digest_of(path),
        )


def digest_of(path: Path) -> str:
    """Returns the SHA-256 of a file as hexadecimal digits.

    Args:
        path: The file.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _RefusedError(Exception):
    """A response that another attempt would not change; pooch retries only after a ``ValueError``."""


def _reason(error: BaseException) -> str:
    """Returns the innermost cause of an error, which requests wraps, without the advice that pooch adds."""
    while cause := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = cause
    text = " ".join(str(getattr(error, "strerror", None) or error).split())
    return text.partition(". ")[0].rstrip(".") or type(error).__name__


class _Session(requests.Session):
    """An HTTP session without credentials, with at most 5 redirections and none from https to http."""

    def __init__(self) -> None:
        super().__init__()
        self.max_redirects = 5
        # a file compressed in transit would not have the announced length
        self.headers["Accept-Encoding"] = "identity"
        # requests would send the password that ~/.netrc has for the host
        self.auth = lambda request: request

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """Adds no password from ``~/.netrc`` for the host that a redirection leads to."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Returns where a redirection leads, or None if the response is not a redirection."""
        target = super().get_redirect_target(resp)
        if target is not None:
            scheme = urlsplit(urljoin(resp.url, target)).scheme
            if scheme not in ("http", "https") or (scheme == "http" and resp.url.startswith("https")):
                raise _RefusedError(f"the server redirects to an address with the protocol {scheme}")
            resp.close()  # otherwise requests reads the body, of any size, into memory
        return target


class _Download:
    """Downloads one file for pooch, which calls it; checks the status, kind and length of the response.

    Args:
        has_checksum: Whether pooch compares the SHA-256 afterwards, so that no length is needed.
    """

    def __init__(self, has_checksum: bool) -> None:
        self.has_checksum = has_checksum

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        with _Session() as session, session.get(url, stream=True, timeout=TIMEOUT) as response:
            length = self._announced_length(response, Path(urlsplit(url).path))
            os.remove(output_file)  # pooch makes it readable by its owner only; open() follows the umask
            with open(output_file, "wb") as file:
                size = _receive(response, file, Path(urlsplit(url).path).name, length)
                file.flush()
                os.fsync(file.fileno())
        if not size:
            raise ValueError("the server sent no bytes")
        if length is not None and size != length:
            raise ValueError(f"only {size:,} of {length:,} bytes were received")

    def _announced_length(self, response: requests.Response, path: Path) -> int | None:
        """Returns the announced length; raises if the response is not the whole file or is too long."""
        if response.status_code != 200:
            error_class = ValueError if response.status_code in TEMPORARY else _RefusedError
            raise error_class(f"the server answers {response.status_code} {response.reason}")
        if response.headers.get("Content-Type", "").startswith("text/html") and path.suffix not in (
            ".html",
            ".htm",
        ):
            raise _RefusedError("the server sends a web page (text/html), not the file")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise _RefusedError("the server compresses the file in transit, which hides its length")
        chunked = response.headers.get("Transfer-Encoding", "").lower() == "chunked"
        announced = response.headers.get("Content-Length", "")
        length = int(announced) if re.fullmatch(r"\d{1,18}", announced) and not chunked else None
        if length is None and not chunked and not self.has_checksum:
            raise _RefusedError(
                "the server announces no length, without which a broken connection goes unnoticed; give the "
                "SHA-256 in data.checksums"
            )
        if length is not None and length > MAX_BYTES:
            raise _RefusedError(f"it has {length:,} bytes, more than {MAX_BYTES:,}")
        return length


def _receive(response: requests.Response, file: BinaryIO, name: str, length: int | None) -> int:
    """Writes the body of a response to a file and returns its size; shows progress in a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    size = 0
    with Progress(*columns, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(escape(name), total=length)
        for chunk in response.iter_content(CHUNK):
            size += len(chunk)
            if size > MAX_BYTES:
                raise _RefusedError(f"the server sends more than {MAX_BYTES:,} bytes")
            file.write(chunk)
            bar.update(task, completed=size)
    return size
