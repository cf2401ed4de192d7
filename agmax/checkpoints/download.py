"""Fetch a file over the network: whole and checked, then put in its place at once, or not at all."""

import fcntl
import hashlib
import http.client
import logging
import os
import time
import urllib.error
import urllib.request
from io import BufferedRandom
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from agmax.checkpoints.save import put_in_place
from agmax.errors import BusyError, DownloadError, OutputError

log = logging.getLogger("agmax")

ATTEMPTS, WAIT, MAX_REDIRECTS = 3, 1.0, 5
"""Trials, seconds before the second of them (twice as many before the third), and hops of one trial."""

TIMEOUT = 30.0
"""Seconds that a server may be silent, when it is asked and between two pieces of the file."""

PIECE = 2**20
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def fetch(url: str, path: Path, *, size: int | None = None, sha256: str | None = None, magic: bytes = b"PK") -> Path:
    """Download a file to `path`, whose folder is made; what was there before stays until the new one is whole.

    A download that breaks off is continued where it ended, if the server can, in this program or in the next. `size` in
    bytes and `sha256` in hexadecimal are checked where they are known; `magic` is how the file must begin.

    Raises:
        DownloadError: the server cannot be reached, or what it sends is cut short or another file.
        BusyError: another program is downloading to this place.
        OutputError: the file cannot be written.
    """
    _refuse_address(url)
    part = path.with_name(f".{path.name}.part")
    by_hand = f"Or fetch it by other means and put it at {path}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("a+b") as file:
            _lock(file, part)
            _fetch_to(file, url, size, magic)
            _check(file, url, size, sha256)
            file.flush()
            os.fsync(file.fileno())
            put_in_place(part, path)
    except _Wrong as error:
        part.unlink(missing_ok=True)
        raise DownloadError("download refused", where=shown(url), why=str(error), remedy=by_hand) from error
    except _Broken as error:
        remedy = f"Try again: it goes on where it ended. {by_hand}"
        raise DownloadError("download failed", where=shown(url), why=str(error), remedy=remedy) from error
    except OSError as error:
        raise OutputError("cannot write the download", where=path, why=error.strerror or str(error)) from error
    return path


def shown(url: str) -> str:
    """Return an address without user, password and query, which may be secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"


class _Wrong(Exception):
    """What came is not the file; asking again would bring it again."""


class _Broken(Exception):
    """The connection failed; asking again may help."""


def _refuse_address(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise DownloadError("address not followed", where=shown(url), why="only https is, or http of this machine")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow a few redirects, never to a less safe address."""

    max_redirections = MAX_REDIRECTS
    max_repeats = 1

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        try:
            _refuse_address(newurl)
        except DownloadError as error:
            fp.close()
            raise _Wrong(f"the server points to another place: {error}") from error
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetch_to(file: BufferedRandom, url: str, size: int | None, magic: bytes) -> None:
    """Fill the file, asking again where the connection breaks."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _ask(file, url, size, magic)
            return
        except _Broken as error:
            if attempt == ATTEMPTS:
                raise
            log.warning("warning: %s: %s; trying again", shown(url), error)
            time.sleep(WAIT * 2 ** (attempt - 1))


def _ask(file: BufferedRandom, url: str, size: int | None, magic: bytes) -> None:
    """Ask for what is missing of the file, and append it."""
    start = file.seek(0, os.SEEK_END)
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity", "User-Agent": "agmax"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        with urllib.request.build_opener(_Redirects).open(request, timeout=TIMEOUT) as answer:
            if answer.status != 206 or _first_byte(answer) != start:
                start = 0
                file.truncate(0)
            total = _total(answer, start, size)
            _receive(answer, file, start, total, magic)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # what is there is longer than the file: begin anew
            file.truncate(0)
        if error.code in (401, 403, 404, 410) or 300 <= error.code < 400:  # the last after too many redirects
            raise _Wrong(f"the server answers {error.code} {error.reason}".splitlines()[0]) from error
        raise _Broken(f"the server answers {error.code} {error.reason}".splitlines()[0]) from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        raise _Broken(f"{getattr(error, 'reason', error) or type(error).__name__}") from error


def _first_byte(answer: Any) -> int:
    """Return where the part of a file begins that a server sends: `Content-Range: bytes 100-199/200`."""
    words = str(answer.headers.get("Content-Range", "")).removeprefix("bytes ").partition("-")
    return int(words[0]) if words[0].isdigit() else -1


def _total(answer: Any, start: int, size: int | None) -> int:
    """Return the length of the whole file.

    Raises:
        _Wrong: the server sends a page, or does not say how long the file is and nobody else does.
    """
    kind = str(answer.headers.get("Content-Type", "")).partition(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml"):
        raise _Wrong(f"not the file: the server sends {kind}")
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise _Wrong(f"not the file as it is: the server sends it as {answer.headers['Content-Encoding']}")
    length = answer.headers.get("Content-Length")
    if length is None and size is None:
        raise _Wrong("the server does not say how long the file is, so a whole one could not be told from a part")
    total = size if length is None else start + int(length)
    assert total is not None
    if size is not None and total != size:
        raise _Wrong(f"{total} bytes are sent, the file has {size}")
    return total


def _receive(answer: Any, file: BufferedRandom, start: int, total: int, magic: bytes) -> None:
    bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, leave=False, disable=None)
    with bar:
        received = start
        while received < total:
            piece = answer.read(min(PIECE, total - received))
            if not piece:
                raise _Broken(f"the connection ended after {received} of {total} bytes")
            if received == 0 and not piece.startswith(magic[: len(piece)]):
                is_pointer = piece.startswith(b"version https://git-lfs")
                raise _Wrong(f"not the file: it is {'a pointer of Git LFS' if is_pointer else 'of another kind'}")
            file.write(piece)
            received += len(piece)
            bar.update(len(piece))


def _check(file: BufferedRandom, url: str, size: int | None, sha256: str | None) -> None:
    """Compare what has come with what is known of the file."""
    file.flush()
    length = file.seek(0, os.SEEK_END)
    if size is not None and length != size:
        raise _Wrong(f"it has {length} bytes instead of {size}")
    if sha256 is not None:
        file.seek(0)
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256.lower():
            raise _Wrong(f"its sha256 is {found} instead of {sha256.lower()}")


def _lock(file: BufferedRandom, part: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BusyError("download in progress", where=part, why="another program writes it") from error
