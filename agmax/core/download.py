"""Download a file: check it when it is complete, then move it into place atomically."""

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from io import BufferedRandom
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from tqdm import tqdm

from agmax.core import locks, storage
from agmax.core.errors import BusyError, DownloadError, printable, without_secrets
from agmax.core.logs import log

ATTEMPTS, WAIT, MAX_REDIRECTS = 3, 1.0, 5
"""Number of attempts, seconds before the second one (twice as many before the third), and redirects per attempt."""

CONNECT_TIMEOUT, TIMEOUT = 10.0, 30.0
"""Seconds to wait for a connection, and for each read after that."""

CANNOT = "cannot write the download"
PIECE = 2**20
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def fetch(
    url: str,
    path: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    md5: str | None = None,
    magic: bytes = b"PK",
) -> Path:
    """Download a file to `path` and create its folder; an existing file stays until the new one is complete.

    An interrupted download continues where it stopped, also in a later run, if the server still has the same version.
    `size` (bytes), `sha256` and `md5` (hexadecimal) are checked if given; plain http is allowed only with a digest.
    `magic` holds the first bytes that the file must have.

    Raises:
        DownloadError: the server cannot be reached, or sends an incomplete or a different file.
        BusyError: another program is downloading the same file.
        OutputError: the file cannot be written, or `path` is not a plain file.
    """
    is_known = sha256 is not None or md5 is not None
    _check_url(url, plain=is_known)
    by_hand = f"Or download it by other means to {path}"
    part = path.with_name(f".{path.name}.part")
    origin = path.with_name(f".{path.name}.part-from")
    storage.make_folder(path.parent, what=CANNOT)
    try:
        with storage.explain(path, what=CANNOT):
            storage.refuse_special(path)
            with locks.open_locked(part, what=CANNOT) as file:
                if file is None:
                    why = "another program is writing it, or has just finished"
                    raise BusyError("download in progress", where=part, why=why)
                download = _Download(url, file, origin, size, magic, plain=is_known)
                download.fill()
                _check(file, download.total, {"sha256": sha256, "md5": md5}, magic)
                storage.sync(file)
                storage.put_in_place(part, path)
                origin.unlink(missing_ok=True)
    except _UnexpectedContent as error:
        part.unlink(missing_ok=True)
        origin.unlink(missing_ok=True)
        raise DownloadError("download refused", where=url, why=str(error), remedy=by_hand) from error
    except _ConnectionLost as error:
        if not part.stat().st_size:  # nothing to continue from
            part.unlink()
            origin.unlink(missing_ok=True)
        remedy = f"Try again. {by_hand}"
        raise DownloadError("download failed", where=url, why=str(error), remedy=remedy) from error
    return path


class _UnexpectedContent(Exception):
    """The server sends something other than the file; another attempt would not help."""


class _ConnectionLost(Exception):
    """The connection failed; another attempt may help."""


def _check_url(url: str, *, plain: bool) -> SplitResult:
    """Return the parts of a URL that may be requested; `plain` allows http, for files with a known digest.

    Raises:
        DownloadError: the URL is malformed, is not https, or contains a password.
    """
    try:
        parts = urlsplit(url)
        is_valid = parts.hostname is not None and (parts.port or 1) > 0 and url.isascii() and url.isprintable()
        is_valid = is_valid and " " not in url
    except ValueError:
        parts, is_valid = SplitResult("", "", "", "", ""), False
    if not is_valid:
        raise DownloadError("URL refused", where=url, why="it is not the URL of a file")
    if "@" in parts.netloc:
        raise DownloadError("URL refused", where=url, why="it contains a user name or a password")
    if parts.scheme != "https" and not (parts.scheme == "http" and (plain or parts.hostname in LOOPBACK)):
        why = "only https is allowed, or http on this machine"
        raise DownloadError("URL refused", where=url, why=why)
    return parts


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow a few redirects, and refuse those that `_check_url` refuses."""

    max_redirections = MAX_REDIRECTS
    max_repeats = 1

    def __init__(self, *, plain: bool) -> None:
        self.plain = plain

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        try:
            _check_url(newurl, plain=self.plain)
        except DownloadError as error:
            fp.close()
            raise _UnexpectedContent(f"the server redirects to another place: {error}") from error
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_error_302(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except urllib.error.HTTPError as error:  # urllib itself refuses some schemes, with the URL in its text
            error.close()
            raise _UnexpectedContent(f"the server answers {code} too often, or with a URL that is refused") from error

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _DeadlineConnection(http.client.HTTPConnection):
    """A connection with a shorter timeout for connecting than for reading."""

    def connect(self) -> None:
        self.timeout = CONNECT_TIMEOUT
        super().connect()
        self.sock.settimeout(TIMEOUT)


class _DeadlineHTTPSConnection(_DeadlineConnection, http.client.HTTPSConnection):
    pass


class _DeadlineHandler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    def http_open(self, req: Any) -> Any:
        return self.do_open(_DeadlineConnection, req)

    def https_open(self, req: Any) -> Any:
        return self.do_open(_DeadlineHTTPSConnection, req)


class _Download:
    """An unfinished download: the partial file, and the size and version of the complete one."""

    def __init__(
        self, url: str, file: BufferedRandom, origin: Path, size: int | None, magic: bytes, *, plain: bool
    ) -> None:
        self.url, self.file, self.origin, self.size, self.magic, self.plain = url, file, origin, size, magic, plain
        self.total = 0

    def fill(self) -> None:
        """Request the missing bytes, and try again if the connection breaks."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._request()
                return
            except _ConnectionLost as error:
                if attempt == ATTEMPTS:
                    raise
                log.warning("warning: %s: %s; trying again", without_secrets(self.url), printable(str(error)))
                time.sleep(WAIT * 2 ** (attempt - 1))

    def _request(self) -> None:
        start = self.file.seek(0, os.SEEK_END)
        version = self._version() if start else ""
        request = urllib.request.Request(self.url, headers={"Accept-Encoding": "identity", "User-Agent": "agmax"})
        if version:  # the server sends the complete file if its version has changed
            request.add_header("Range", f"bytes={start}-")
            request.add_header("If-Range", version)
        try:
            with urllib.request.build_opener(_Redirects(plain=self.plain), _DeadlineHandler).open(request) as response:
                first, total = _content_range(response) if response.status == 206 else (0, None)
                if response.status != 206 or not version or first != start:
                    self.file.truncate(0)
                    if response.status == 206:
                        raise _ConnectionLost("the server sends another part than the one requested")
                    start = 0
                self.total = _total_size(response, total, self.size)
                self._save_version(response)
                self._receive(response, start)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # the partial file is not the beginning of the file
                self.file.truncate(0)
            why = f"the server answers {error.code} {error.reason}".splitlines()[0]
            raise (_UnexpectedContent if error.code in (401, 403, 404, 410) else _ConnectionLost)(why) from error
        except http.client.InvalidURL as error:
            raise _UnexpectedContent("it is not the URL of a file") from error
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            raise _ConnectionLost(f"{getattr(error, 'reason', error) or type(error).__name__}") from error

    def _version(self) -> str:
        """Return the server's name for the version of the partial file; empty if it came from another URL."""
        try:
            url, version = self.origin.read_text(encoding="utf-8").split("\n")
        except (OSError, ValueError):
            return ""
        return version if url == _digest(self.url) else ""

    def _save_version(self, response: Any) -> None:
        etag = str(response.headers.get("ETag", ""))
        version = etag if etag and not etag.startswith("W/") else str(response.headers.get("Last-Modified", ""))
        storage.write_file(self.origin, f"{_digest(self.url)}\n{version.splitlines()[0] if version else ''}")

    def _receive(self, response: Any, start: int) -> None:
        bar = tqdm(total=self.total, initial=start, unit="B", unit_scale=True, leave=False, disable=None)
        with bar:
            received = start
            while received < self.total:
                try:
                    piece = response.read1(min(PIECE, self.total - received))
                except OSError as error:
                    raise _ConnectionLost(f"{error.strerror or error or type(error).__name__}") from error
                if not piece:
                    raise _ConnectionLost(f"the connection ended after {received} of {self.total} bytes")
                if received == 0 and not piece.startswith(self.magic[: len(piece)]):
                    is_pointer = piece.startswith(b"version https://git-lfs")
                    raise _UnexpectedContent(
                        f"not the file: it is {'a Git LFS pointer' if is_pointer else 'of another type'}"
                    )
                self.file.write(piece)
                received += len(piece)
                bar.update(len(piece))


def _digest(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()


def _content_range(response: Any) -> tuple[int, int | None]:
    """Return the first byte of a part and the file's size: `Content-Range: bytes 100-199/200`; -1 if there is none."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", str(response.headers.get("Content-Range", "")).strip())
    return (int(match[1]), int(match[2])) if match else (-1, None)


def _total_size(response: Any, total: int | None, size: int | None) -> int:
    """Return the size of the complete file: `total` of a Content-Range, or the response's, or the expected `size`.

    Raises:
        _UnexpectedContent: the server sends a page or another size, or the size is not known.
    """
    content_type = str(response.headers.get("Content-Type", "")).partition(";")[0].strip().lower()
    if content_type in ("text/html", "application/xhtml+xml"):
        raise _UnexpectedContent(f"not the file: the server sends {content_type}")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise _UnexpectedContent("not the file itself: the server sends it compressed")
    length = str(response.headers.get("Content-Length", ""))
    if total is None:
        total = int(length) if length.isascii() and length.isdigit() else size
    if total is None:
        raise _UnexpectedContent("the server does not send the file's size, so an incomplete file could not be noticed")
    if size is not None and total != size:
        raise _UnexpectedContent(f"the server sends {total} bytes, the file has {size}")
    return total


def _check(file: BufferedRandom, total: int, digests: dict[str, str | None], magic: bytes) -> None:
    """Raise _UnexpectedContent if a downloaded file has another size, type or digest than expected."""
    file.flush()
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    if length != total or length == 0:
        raise _UnexpectedContent(f"it has {length} bytes instead of {total}" if length else "it is empty")
    if file.read(len(magic)) != magic:
        raise _UnexpectedContent("not the file: it is of another type")
    for name, expected in digests.items():
        file.seek(0)
        if expected is not None and (digest := hashlib.file_digest(file, name).hexdigest()) != expected.lower():
            raise _UnexpectedContent(f"its {name} is {digest} instead of {expected.lower()}")
