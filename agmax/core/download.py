"""Fetch a file over the network: whole and checked, then put in its place at once, or not at all."""

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

from agmax.core import storage
from agmax.core.errors import BusyError, DownloadError, printable, without_secrets
from agmax.core.logs import log

ATTEMPTS, WAIT, MAX_REDIRECTS = 3, 1.0, 5
"""Trials, seconds before the second of them (twice as many before the third), and hops of one trial."""

CONNECT_TIMEOUT, TIMEOUT = 10.0, 30.0
"""Seconds until a server must take the call, and that it may be silent then."""

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
    """Download a file to `path`, whose folder is made; what was there before stays until the new one is whole.

    A download that breaks off is continued where it ended, in this program or in the next, if the server says that it
    still has the same file. `size` in bytes, `sha256` and `md5` in hexadecimal are checked where they are known; only
    then may the address be http. `magic` is how the file must begin.

    Raises:
        DownloadError: the server cannot be reached, or what it sends is cut short or another file.
        BusyError: another program is downloading to this place.
        OutputError: the file cannot be written, or what is there is no plain file.
    """
    is_known = sha256 is not None or md5 is not None
    _safe(url, plain=is_known)
    by_hand = f"Or fetch it by other means and put it at {path}"
    part = path.with_name(f".{path.name}.part")
    origin = path.with_name(f".{path.name}.part-from")
    storage.make_folder(path.parent, what=CANNOT)
    try:
        with storage.explain(path, what=CANNOT):
            storage.refuse_special(path)
            with storage.open_locked(part, what=CANNOT) as file:
                if file is None:
                    why = "another program writes it, or has just ended it"
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
        raise DownloadError("download refused", where=without_secrets(url), why=str(error), remedy=by_hand) from error
    except _ConnectionLost as error:
        if not part.stat().st_size:  # nothing to go on from
            part.unlink()
            origin.unlink(missing_ok=True)
        remedy = f"Try again. {by_hand}"
        raise DownloadError("download failed", where=without_secrets(url), why=str(error), remedy=remedy) from error
    return path


class _UnexpectedContent(Exception):
    """What came is not the file; asking again would bring it again."""


class _ConnectionLost(Exception):
    """The connection failed; asking again may help."""


def _safe(url: str, *, plain: bool) -> SplitResult:
    """Return the parts of an address that may be asked; plain http where the file is known by its digest.

    Raises:
        DownloadError: it is not https, holds a password, or is none.
    """
    try:
        parts = urlsplit(url)
        is_whole = parts.hostname is not None and (parts.port or 1) > 0 and url.isascii() and url.isprintable()
        is_whole = is_whole and " " not in url
    except ValueError:
        parts, is_whole = SplitResult("", "", "", "", ""), False
    if not is_whole:
        raise DownloadError("address not followed", where=without_secrets(url), why="it is no address of a file")
    if "@" in parts.netloc:
        raise DownloadError("address not followed", where=without_secrets(url), why="it holds a user or a password")
    if parts.scheme != "https" and not (parts.scheme == "http" and (plain or parts.hostname in LOOPBACK)):
        why = "only https is, or http of this machine"
        raise DownloadError("address not followed", where=without_secrets(url), why=why)
    return parts


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follow a few redirects, never to a less safe address."""

    max_redirections = MAX_REDIRECTS
    max_repeats = 1

    def __init__(self, *, plain: bool) -> None:
        self.plain = plain

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        try:
            _safe(newurl, plain=self.plain)
        except DownloadError as error:
            fp.close()
            raise _UnexpectedContent(f"the server points to another place: {error}") from error
        return super().redirect_request(req, fp, code, msg, headers, newurl)

    def http_error_302(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except urllib.error.HTTPError as error:  # of a scheme that urllib itself refuses, with the address in its text
            error.close()
            raise _UnexpectedContent(
                f"the server answers {code} too often, or with an address that is not followed"
            ) from error

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _DeadlineConnection(http.client.HTTPConnection):
    """Wait less for a server to take the call than for what it says."""

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
    """A file being filled: what is known of the whole, and of the version that the server has."""

    def __init__(
        self, url: str, file: BufferedRandom, origin: Path, size: int | None, magic: bytes, *, plain: bool
    ) -> None:
        self.url, self.file, self.origin, self.size, self.magic, self.plain = url, file, origin, size, magic, plain
        self.total = 0

    def fill(self) -> None:
        """Ask for what is missing, again where the connection breaks."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._ask()
                return
            except _ConnectionLost as error:
                if attempt == ATTEMPTS:
                    raise
                log.warning("warning: %s: %s; trying again", without_secrets(self.url), printable(str(error)))
                time.sleep(WAIT * 2 ** (attempt - 1))

    def _ask(self) -> None:
        start = self.file.seek(0, os.SEEK_END)
        version = self._version() if start else ""
        request = urllib.request.Request(self.url, headers={"Accept-Encoding": "identity", "User-Agent": "agmax"})
        if version:  # the server sends the whole file where it has another by now
            request.add_header("Range", f"bytes={start}-")
            request.add_header("If-Range", version)
        try:
            with urllib.request.build_opener(_Redirects(plain=self.plain), _DeadlineHandler).open(request) as answer:
                first, whole = _span(answer) if answer.status == 206 else (0, None)
                if answer.status != 206 or not version or first != start:
                    self.file.truncate(0)
                    if answer.status == 206:
                        raise _ConnectionLost("the server sends another part than was asked for")
                    start = 0
                self.total = _total(answer, whole, self.size)
                self._note_version(answer)
                self._receive(answer, start)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416:  # what is there is not the beginning of the file
                self.file.truncate(0)
            words = f"the server answers {error.code} {error.reason}".splitlines()[0]
            raise (_UnexpectedContent if error.code in (401, 403, 404, 410) else _ConnectionLost)(words) from error
        except http.client.InvalidURL as error:
            raise _UnexpectedContent("it is no address of a file") from error
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
            raise _ConnectionLost(f"{getattr(error, 'reason', error) or type(error).__name__}") from error

    def _version(self) -> str:
        """Return how the server called the version of which a part is here; nothing where it came from elsewhere."""
        try:
            url, version = self.origin.read_text(encoding="utf-8").split("\n")
        except (OSError, ValueError):
            return ""
        return version if url == _digest(self.url) else ""

    def _note_version(self, answer: Any) -> None:
        etag = str(answer.headers.get("ETag", ""))
        version = etag if etag and not etag.startswith("W/") else str(answer.headers.get("Last-Modified", ""))
        storage.write_file(self.origin, f"{_digest(self.url)}\n{version.splitlines()[0] if version else ''}")

    def _receive(self, answer: Any, start: int) -> None:
        bar = tqdm(total=self.total, initial=start, unit="B", unit_scale=True, leave=False, disable=None)
        with bar:
            received = start
            while received < self.total:
                try:
                    piece = answer.read1(min(PIECE, self.total - received))
                except OSError as error:
                    raise _ConnectionLost(f"{error.strerror or error or type(error).__name__}") from error
                if not piece:
                    raise _ConnectionLost(f"the connection ended after {received} of {self.total} bytes")
                if received == 0 and not piece.startswith(self.magic[: len(piece)]):
                    is_pointer = piece.startswith(b"version https://git-lfs")
                    raise _UnexpectedContent(
                        f"not the file: it is {'a pointer of Git LFS' if is_pointer else 'of another kind'}"
                    )
                self.file.write(piece)
                received += len(piece)
                bar.update(len(piece))


def _digest(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()


def _span(answer: Any) -> tuple[int, int | None]:
    """Return where a part begins and how long the whole is: `Content-Range: bytes 100-199/200`."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", str(answer.headers.get("Content-Range", "")).strip())
    return (int(found[1]), int(found[2])) if found else (-1, None)


def _total(answer: Any, whole: int | None, size: int | None) -> int:
    """Return the length of the whole file.

    Raises:
        _Wrong: the server sends a page, or does not say how long the file is and nobody else does.
    """
    kind = str(answer.headers.get("Content-Type", "")).partition(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml"):
        raise _UnexpectedContent(f"not the file: the server sends {kind}")
    if answer.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise _UnexpectedContent("not the file as it is: the server sends it compressed")
    length = str(answer.headers.get("Content-Length", ""))
    total = whole if whole is not None else int(length) if length.isascii() and length.isdigit() else size
    if total is None:
        raise _UnexpectedContent(
            "the server does not say how long the file is, so a whole one could not be told from a part"
        )
    if size is not None and total != size:
        raise _UnexpectedContent(f"{total} bytes are sent, the file has {size}")
    return total


def _check(file: BufferedRandom, total: int, digests: dict[str, str | None], magic: bytes) -> None:
    """Compare what has come with what is known of the file."""
    file.flush()
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    if length != total or length == 0:
        raise _UnexpectedContent(f"it has {length} bytes instead of {total}" if length else "it is empty")
    if file.read(len(magic)) != magic:
        raise _UnexpectedContent("not the file: it is of another kind")
    for name, expected in digests.items():
        file.seek(0)
        if expected is not None and (found := hashlib.file_digest(file, name).hexdigest()) != expected.lower():
            raise _UnexpectedContent(f"its {name} is {found} instead of {expected.lower()}")
