"""A server on this machine that sends a file in the manner that the path names."""

import hashlib
import http.server
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from agmax.core import download

BODY = b"PK" + bytes(range(256)) * 800
SHA256 = hashlib.sha256(BODY).hexdigest()


class Server(http.server.BaseHTTPRequestHandler):
    """Sends BODY in the manner that the path names; `asked` keeps every path with its Range."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, str | None]] = []
    body = BODY
    etag = '"first"'

    def do_GET(self) -> None:
        manner = self.path.partition("?")[0].strip("/").partition("/")[0]
        number = sum(path == self.path for path, _ in self.asked)
        self.asked.append((self.path, self.headers.get("Range")))
        self.close_connection = True
        getattr(self, f"send_{manner.replace('-', '_')}")(number)

    def send_whole(self, number: int, *, status: int = 200, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("ETag", self.etag)
        self.send_header("Content-Length", str(len(self.body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def send_ok(self, number: int) -> None:
        self.send_whole(number)
        self.wfile.write(self.body)

    def send_cut(self, number: int) -> None:
        self.send_whole(number)
        self.wfile.write(self.body[:5000])

    def send_cut_thrice(self, number: int) -> None:
        self.send_cut_once(0 if number < 3 else number)

    def send_cut_once(self, number: int) -> None:
        """End early at first, then send the range asked for, of a changed file too where nobody asks about that."""
        if number == 0 or self.headers["Range"] is None or self.headers.get("If-Range", self.etag) != self.etag:
            (self.send_cut if number == 0 else self.send_ok)(number)
            return
        start = int(str(self.headers["Range"]).removeprefix("bytes=").rstrip("-"))
        rest = self.body[start:]
        span = f"bytes {start}-{len(self.body) - 1}/{len(self.body)}"
        self.send_whole(number, status=206, length=len(rest), Content_Range=span)
        self.wfile.write(rest)

    def send_cut_and_no_range(self, number: int) -> None:
        (self.send_cut if number == 0 else self.send_ok)(number)

    def send_empty(self, number: int) -> None:
        self.send_whole(number, length=0)

    def send_short_parts(self, number: int) -> None:
        """Send a hundred bytes at a time, of which one answer alone is not the rest."""
        if self.headers["Range"] is None:
            self.send_cut(number)
            return
        start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        self.send_whole(number, status=206, length=100, Content_Range=f"bytes {start}-{start + 99}/{len(self.body)}")
        self.wfile.write(self.body[start : start + 100])

    def send_wrong_part(self, number: int) -> None:
        if self.headers["Range"] is None:
            self.send_cut(number)
            return
        self.send_whole(number, status=206, length=100, Content_Range=f"bytes 7-106/{len(self.body)}")
        self.wfile.write(self.body[7:107])

    def send_to_nonsense(self, number: int) -> None:
        self.send_whole(number, status=302, length=0, Location="http://evil:abc/x?token=secret")

    def send_bad_length(self, number: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "12x")
        self.end_headers()

    def send_silence(self, number: int) -> None:
        time.sleep(1.0)

    def send_no_length(self, number: int) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.body)

    def send_reset(self, number: int) -> None:
        self.connection.close()

    def send_slow(self, number: int) -> None:
        self.send_whole(number)
        for first in range(0, len(self.body), len(self.body) // 5):
            self.wfile.write(self.body[first : first + len(self.body) // 5])
            self.wfile.flush()
            time.sleep(0.05)

    def send_hang(self, number: int) -> None:
        self.send_whole(number)
        self.wfile.write(self.body[:100])
        self.wfile.flush()
        time.sleep(1.0)

    def send_500_then_ok(self, number: int) -> None:
        if number == 0:
            self.send_whole(number, status=500, length=0)
        else:
            self.send_ok(number)

    def send_404(self, number: int) -> None:
        self.send_whole(number, status=404, length=0)

    def send_403(self, number: int) -> None:
        self.send_whole(number, status=403, length=0)

    def send_page(self, number: int) -> None:
        page = b"<!doctype html>please log in"
        self.send_whole(number, length=len(page), Content_Type="text/html; charset=utf-8")
        self.wfile.write(page)

    def send_plain_page(self, number: int) -> None:
        page = b"<!doctype html>please log in"
        self.send_whole(number, length=len(page))
        self.wfile.write(page)

    def send_pointer(self, number: int) -> None:
        pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"
        self.send_whole(number, length=len(pointer))
        self.wfile.write(pointer)

    def send_gzip(self, number: int) -> None:
        self.send_whole(number, Content_Encoding="gzip")
        self.wfile.write(self.body)

    def send_to(self, number: int) -> None:
        self.send_whole(number, status=302, length=0, Location=f"/ok/{self.path.rpartition('/')[2]}")

    def send_loop(self, number: int) -> None:
        self.send_whole(number, status=302, length=0, Location=f"/loop/{number}")

    def send_far(self, number: int) -> None:
        self.send_whole(number, status=302, length=0, Location=f"/far/{len(self.asked)}")

    def send_to_file(self, number: int) -> None:
        self.send_whole(number, status=302, length=0, Location="file:///etc/passwd?token=secret")

    def send_to_http(self, number: int) -> None:
        self.send_whole(number, status=302, length=0, Location="http://example.com/a.pth")

    def log_message(self, *words: Any) -> None:
        pass


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve on this machine; give the address without the path. Nobody waits long."""
    monkeypatch.setattr(download, "WAIT", 0.01)
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    monkeypatch.setattr(Server, "asked", [])
    monkeypatch.setattr(Server, "body", BODY)
    monkeypatch.setattr(Server, "etag", '"first"')
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
