"""Downloads from a server on this machine, one that works and one that misbehaves."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agmax.core import download, locks
from agmax.core.download import fetch
from agmax.core.errors import AgmaxError, BusyError, DownloadError, OutputError, without_secrets
from helpers.server import BODY, SHA256, Server, serving


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with serving(monkeypatch) as address:
        yield address


@pytest.mark.parametrize("manner", ["ok", "cut-once", "cut-and-no-range", "slow", "500-then-ok", "to"])
def test_a_download_is_complete_in_spite_of_interruptions(server: str, tmp_path: Path, manner: str) -> None:
    path = tmp_path / "new" / "a.pth"
    assert fetch(f"{server}/{manner}/a.pth", path, sha256=SHA256.upper()) == path
    assert path.read_bytes() == BODY
    assert [each.name for each in path.parent.iterdir()] == ["a.pth"]


def test_an_interrupted_download_continues_where_it_stopped(server: str, tmp_path: Path) -> None:
    fetch(f"{server}/cut-once/a.pth", tmp_path / "a.pth")
    assert Server.asked == [("/cut-once/a.pth", None), ("/cut-once/a.pth", "bytes=5000-")]


def test_a_later_run_continues_the_partial_file(server: str, tmp_path: Path) -> None:
    url = f"{server}/cut-thrice/a.pth"
    with pytest.raises(DownloadError, match="Try again"):
        fetch(url, tmp_path / "a.pth")
    assert (tmp_path / ".a.pth.part").stat().st_size == 5000
    fetch(url, tmp_path / "a.pth")
    assert Server.asked[-1] == ("/cut-thrice/a.pth", "bytes=5000-")
    assert (tmp_path / "a.pth").read_bytes() == BODY
    assert [each.name for each in tmp_path.iterdir()] == ["a.pth"]


def test_parts_of_two_versions_are_never_combined(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The download starts again when the URL is another or when the file has changed."""
    with pytest.raises(DownloadError):
        fetch(f"{server}/cut/a.pth", tmp_path / "a.pth")
    other = b"PK" + BODY[::-1]
    monkeypatch.setattr(Server, "body", other)
    fetch(f"{server}/ok/a.pth", tmp_path / "a.pth")
    assert Server.asked[-1] == ("/ok/a.pth", None)
    assert (tmp_path / "a.pth").read_bytes() == other
    url = f"{server}/cut-thrice/b.pth"
    with pytest.raises(DownloadError):
        fetch(url, tmp_path / "b.pth")
    monkeypatch.setattr(Server, "etag", '"second"')
    monkeypatch.setattr(Server, "body", BODY)
    fetch(url, tmp_path / "b.pth")
    assert Server.asked[-1] == ("/cut-thrice/b.pth", "bytes=5000-")
    assert (tmp_path / "b.pth").read_bytes() == BODY


REFUSED = {
    "cut": "the connection ended after 5000 of 204802 bytes",
    "empty": "it is empty",
    "short-parts": "the connection ended after 5200 of",
    "wrong-part": "the connection ended after 5000 of",
    "to-nonsense": "it is not the URL of a file",
    "bad-length": "does not send the file's size",
    "silence": "timed out",
    "no-length": "does not send the file's size",
    "reset": "closed connection",
    "hang": "timed out",
    "404": "the server answers 404",
    "403": "the server answers 403",
    "page": "not the file: the server sends text/html",
    "plain-page": "not the file: it is of another type",
    "pointer": "a Git LFS pointer",
    "gzip": "the server sends it compressed",
    "loop": "the server answers 302 too often",
    "far": "the server answers 302 too often",
    "to-file": "or with a URL that is refused",
    "to-http": "only https is allowed",
}


@pytest.mark.parametrize(("manner", "why"), REFUSED.items())
def test_a_failed_download_leaves_the_existing_file_unchanged(
    server: str, tmp_path: Path, manner: str, why: str
) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(b"existing")
    with pytest.raises(DownloadError) as failure:
        fetch(f"{server}/{manner}/a.pth?token=secret", path)
    assert failure.value.exit_code == 5
    assert why in str(failure.value)
    assert f"{server}/{manner}/a.pth" in str(failure.value) and "secret" not in str(failure.value)
    assert str(path) in str(failure.value)  # where to put it by hand
    assert path.read_bytes() == b"existing"
    if manner in ("cut", "short-parts", "wrong-part", "silence", "reset", "hang"):
        assert len(Server.asked) == 3  # attempts
    else:
        assert len(Server.asked) == {"loop": 2, "far": 6}.get(manner, 1)


@pytest.mark.parametrize(
    ("known", "why"),
    [
        ({"sha256": "0" * 64}, f"its sha256 is {SHA256} instead of {'0' * 64}"),
        ({"sha256": SHA256[:8] + "0" * 56}, f"its sha256 is {SHA256} instead of {SHA256[:8]}{'0' * 56}"),
        ({"size": len(BODY) + 1}, f"the server sends {len(BODY)} bytes, the file has {len(BODY) + 1}"),
        ({"magic": b"\x89PNG"}, "of another type"),
    ],
)
def test_another_file_is_refused_and_removed(server: str, tmp_path: Path, known: dict[str, Any], why: str) -> None:
    with pytest.raises(DownloadError, match=why):
        fetch(f"{server}/ok/a.pth", tmp_path / "a.pth", **known)
    assert list(tmp_path.iterdir()) == []


def test_without_a_content_length_the_given_size_is_used(server: str, tmp_path: Path) -> None:
    fetch(f"{server}/no-length/a.pth", tmp_path / "a.pth", size=len(BODY), sha256=SHA256)
    assert (tmp_path / "a.pth").read_bytes() == BODY


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://example.com/a.pth?secret", "only https is allowed"),
        ("ftp://example.com/a.pth", "only https is allowed"),
        ("file://host/etc/passwd", "only https is allowed"),
        ("https://me:secret@example.com/a.pth", "it contains a user name or a password"),
        ("https://example.com:99999/a.pth", "it is not the URL"),
        ("https://example.com:secret/a.pth", "it is not the URL"),
        ("https://example.com/a b.pth?secret", "it is not the URL"),
        ("https:///a.pth", "it is not the URL"),
    ],
)
def test_only_safe_urls_are_requested(tmp_path: Path, url: str, why: str) -> None:
    with pytest.raises(DownloadError, match=why) as failure:
        fetch(url, tmp_path / "a.pth")
    assert "secret" not in str(failure.value).replace("com:secret/", "")
    assert list(tmp_path.iterdir()) == []


def without_names(patch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    patch.setattr(socket, "getaddrinfo", unknown)


@pytest.mark.parametrize(
    ("url", "prepare", "why"),
    [
        ("http://127.0.0.1:9/a.pth", lambda patch: None, "refused"),
        ("https://example.com/a.pth", without_names, "Temporary failure in name resolution"),
        ("https://example.com/a.pth", lambda patch: patch.setenv("https_proxy", "http://127.0.0.1:9"), "refused"),
    ],
    ids=["closed port", "no name server", "no proxy"],
)
def test_an_unreachable_server_is_named_and_where_to_put_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, prepare: Any, why: str
) -> None:
    monkeypatch.setattr(download, "WAIT", 0.0)
    prepare(monkeypatch)
    with pytest.raises(DownloadError) as failure:
        fetch(url, tmp_path / "a.pth")
    text = str(failure.value)
    assert failure.value.exit_code == 5 and "\n" not in text
    assert text.startswith(f"download failed ({url}): ") and why in text
    assert text.endswith(f"Try again. Or download it by other means to {tmp_path / 'a.pth'}")
    assert list(tmp_path.iterdir()) == []


def test_a_proxy_that_refuses_is_quoted(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of this test has no method CONNECT, which a proxy needs for https."""
    monkeypatch.setenv("https_proxy", server)
    with pytest.raises(DownloadError, match="Tunnel connection failed: 501"):
        fetch("https://example.com/a.pth", tmp_path / "a.pth")


def test_connecting_has_a_shorter_timeout_than_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "WAIT", 0.0)
    monkeypatch.setattr(download, "CONNECT_TIMEOUT", 0.2)
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen(0)
        with socket.create_connection(busy.getsockname()):  # the one connection that the queue holds
            started = time.monotonic()
            socket.setdefaulttimeout(6)  # else nothing would end the wait of a connection without a timeout
            try:
                with pytest.raises(DownloadError, match="timed out"):
                    fetch(f"http://127.0.0.1:{busy.getsockname()[1]}/a.pth", tmp_path / "a.pth")
            finally:
                socket.setdefaulttimeout(None)
            assert time.monotonic() - started < download.TIMEOUT / 2


def test_two_programs_do_not_write_one_file(server: str, tmp_path: Path) -> None:
    with locks.open_locked(tmp_path / ".a.pth.part") as file:
        assert file is not None
        with pytest.raises(BusyError, match="another program is writing it"):
            fetch(f"{server}/ok/a.pth", tmp_path / "a.pth")
    assert Server.asked == []


def test_a_folder_that_cannot_be_written_is_an_output_error(server: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write the download"):
        fetch(f"{server}/ok/a.pth", tmp_path / "file" / "a.pth")


def test_secrets_of_a_url_are_not_shown() -> None:
    assert without_secrets("https://me:pass@host.org:8080/a/b.pth?token=secret#x") == "https://host.org:8080/a/b.pth"
    assert without_secrets("--resume=https://host/a?b") == "--resume=https://host/a"
    assert without_secrets("train.epochs=3?") == "train.epochs=3?"
    error = AgmaxError(
        "no (https://me:pass@host/a.pth?token=s#x)", where="http:/me:s@host/b", why="see 'ftp://h/c?s', a?b"
    )
    assert str(error) == "no (https://host/a.pth) (http:/host/b): see 'ftp://h/c', a?b"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h/a b?c=SECRET", "https://h/a b"),
        ("https://h/a?c=SECRET", "https://h/a"),
        ("https://h/a(1)?c=SECRET", "https://h/a(1)"),
        ("https://me:SECRET@SECRET@h/a", "https://h/a"),
        ("HTTPS://h/a#SECRET", "HTTPS://h/a"),
    ],
)
def test_an_address_is_shown_the_same_wherever_it_stands(url: str, shown: str) -> None:
    assert without_secrets(url) == shown
    assert without_secrets(f"train.fallback_dir={url}") == f"train.fallback_dir={shown}"
    assert without_secrets(f"see {url} and {url} or more") == f"see {shown} and {shown} or more"
    error = AgmaxError(f"no {url}", where=url, why=f"{shown} is for all", remedy=f"Copy {url} by hand")
    assert str(error) == f"no {shown} ({shown}): {shown} is for all. Copy {shown} by hand"
    assert error.summary == f"no {shown} ({shown}): {shown} is for all"


def test_each_of_two_addresses_in_a_text_loses_its_password() -> None:
    assert without_secrets("of https://h/a and https://me:SECRET@g/b?c=SECRET") == "of https://h/a and https://g/b"


def test_an_address_with_spaces_and_quotes_in_its_query_is_shown_without_it() -> None:
    assert str(AgmaxError("no file", where="https://h/a?c='SECRET' (SECRET)\nSECRET")) == "no file (https://h/a)"


def test_http_is_allowed_only_with_a_known_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert download._check_url("http://example.com/a.mat", plain=True)
    with pytest.raises(DownloadError, match="only https is allowed"):
        download._check_url("http://example.com/a.mat", plain=False)


def test_the_proxy_of_the_environment_is_used(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy gets the complete URL; here it is the loopback server, which acts on the first word of a path."""
    monkeypatch.setenv("http_proxy", server)
    monkeypatch.setattr(Server, "send_http:", Server.send_ok, raising=False)
    fetch("http://example.com/a.pth", tmp_path / "a.pth", sha256=SHA256)
    assert (tmp_path / "a.pth").read_bytes() == BODY
    assert Server.asked == [("http://example.com/a.pth", None)]
