"""Downloads from a server on this machine that behaves, and from one that does not."""

import hashlib
import http.server
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from agmax.checkpoints import agmax_format
from agmax.core import download, storage
from agmax.core.download import fetch
from agmax.core.errors import BusyError, DownloadError, OutputError, without_secrets
from agmax.data import datasets
from agmax.data.splits import Pixels
from agmax.experiments import saved as saving
from helpers.command import Answer
from helpers.datasets import without_checksums, write_cifar  # noqa: F401  a fixture
from helpers.released import file_of, small_imagenet

Run = Callable[..., Answer]

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

    def send_to_file(self, number: int) -> None:
        self.send_whole(number, status=302, length=0, Location="file:///etc/passwd?token=secret")

    def send_to_http(self, number: int) -> None:
        self.send_whole(number, status=302, length=0, Location="http://example.com/a.pth")

    def log_message(self, *words: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve on this machine; return the address without the path. Nobody waits long."""
    monkeypatch.setattr(download, "WAIT", 0.01)
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    monkeypatch.setattr(Server, "asked", [])
    monkeypatch.setattr(Server, "body", BODY)
    monkeypatch.setattr(Server, "etag", '"first"')
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as serving:
        serving.daemon_threads = True
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


@pytest.mark.parametrize("manner", ["ok", "cut-once", "cut-and-no-range", "slow", "500-then-ok", "to"])
def test_a_file_arrives_whole(server: str, tmp_path: Path, manner: str) -> None:
    path = tmp_path / "new" / "a.pth"
    assert fetch(f"{server}/{manner}/a.pth", path, sha256=SHA256.upper()) == path
    assert path.read_bytes() == BODY
    assert [each.name for each in path.parent.iterdir()] == ["a.pth"]


def test_a_download_that_breaks_off_goes_on_where_it_ended(server: str, tmp_path: Path) -> None:
    fetch(f"{server}/cut-once/a.pth", tmp_path / "a.pth")
    assert Server.asked == [("/cut-once/a.pth", None), ("/cut-once/a.pth", "bytes=5000-")]


def test_a_later_program_goes_on_with_what_is_there(server: str, tmp_path: Path) -> None:
    url = f"{server}/cut-thrice/a.pth"
    with pytest.raises(DownloadError, match="Try again"):
        fetch(url, tmp_path / "a.pth")
    assert (tmp_path / ".a.pth.part").stat().st_size == 5000
    fetch(url, tmp_path / "a.pth")
    assert Server.asked[-1] == ("/cut-thrice/a.pth", "bytes=5000-")
    assert (tmp_path / "a.pth").read_bytes() == BODY
    assert [each.name for each in tmp_path.iterdir()] == ["a.pth"]


def test_parts_of_two_versions_are_never_joined(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of another address begins anew, and so does one that has changed since."""
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
    "to-nonsense": "it is no address of a file",
    "bad-length": "does not say how long the file is",
    "silence": "timed out",
    "no-length": "does not say how long the file is",
    "reset": "closed connection",
    "hang": "timed out",
    "404": "the server answers 404",
    "page": "not the file: the server sends text/html",
    "plain-page": "not the file: it is of another kind",
    "pointer": "a pointer of Git LFS",
    "gzip": "the server sends it compressed",
    "loop": "the server answers 302 too often",
    "to-file": "or with an address that is not followed",
    "to-http": "only https is",
}


@pytest.mark.parametrize(("manner", "why"), REFUSED.items())
def test_what_is_not_the_whole_file_harms_nothing(server: str, tmp_path: Path, manner: str, why: str) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(b"what was there")
    with pytest.raises(DownloadError) as failure:
        fetch(f"{server}/{manner}/a.pth?token=secret", path)
    assert failure.value.exit_code == 5
    assert why in str(failure.value)
    assert f"{server}/{manner}/a.pth" in str(failure.value) and "secret" not in str(failure.value)
    assert str(path) in str(failure.value)  # where to put it by hand
    assert path.read_bytes() == b"what was there"
    assert len(Server.asked) <= 7


@pytest.mark.parametrize(
    ("known", "why"),
    [
        ({"sha256": "0" * 64}, f"its sha256 is {SHA256} instead of {'0' * 64}"),
        ({"size": len(BODY) + 1}, f"{len(BODY)} bytes are sent, the file has {len(BODY) + 1}"),
        ({"magic": b"\x89PNG"}, "of another kind"),
    ],
)
def test_another_file_is_refused_and_removed(server: str, tmp_path: Path, known: dict[str, Any], why: str) -> None:
    with pytest.raises(DownloadError, match=why):
        fetch(f"{server}/ok/a.pth", tmp_path / "a.pth", **known)
    assert list(tmp_path.iterdir()) == []


def test_without_a_length_a_known_size_tells_the_whole(server: str, tmp_path: Path) -> None:
    fetch(f"{server}/no-length/a.pth", tmp_path / "a.pth", size=len(BODY), sha256=SHA256)
    assert (tmp_path / "a.pth").read_bytes() == BODY


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://example.com/a.pth?secret", "only https is"),
        ("ftp://example.com/a.pth", "only https is"),
        ("file://host/etc/passwd", "only https is"),
        ("https://me:secret@example.com/a.pth", "it holds a user or a password"),
        ("https://example.com:99999/a.pth", "it is no address"),
        ("https://example.com:secret/a.pth", "it is no address"),
        ("https://example.com/a b.pth?secret", "it is no address"),
        ("https:///a.pth", "it is no address"),
    ],
)
def test_only_safe_addresses_are_followed(tmp_path: Path, url: str, why: str) -> None:
    with pytest.raises(DownloadError, match=why) as failure:
        fetch(url, tmp_path / "a.pth")
    assert "secret" not in str(failure.value).replace("com:secret/", "")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "WAIT", 0.0)
    with pytest.raises(DownloadError, match=r"download failed \(http://127.0.0.1:9/a.pth\): .*refused"):
        fetch("http://127.0.0.1:9/a.pth", tmp_path / "a.pth")


def test_a_server_that_never_takes_the_call_is_given_up_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "WAIT", 0.0)
    monkeypatch.setattr(download, "CONNECT_TIMEOUT", 0.2)
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen(0)
        with socket.create_connection(busy.getsockname()):  # the only call that waits to be taken
            started = time.monotonic()
            with pytest.raises(DownloadError, match="timed out"):
                fetch(f"http://127.0.0.1:{busy.getsockname()[1]}/a.pth", tmp_path / "a.pth")
            assert time.monotonic() - started < download.TIMEOUT / 2


def test_two_programs_do_not_write_one_file(server: str, tmp_path: Path) -> None:
    with storage.open_alone(tmp_path / ".a.pth.part") as held:
        assert held is not None
        with pytest.raises(BusyError, match="another program writes it"):
            fetch(f"{server}/ok/a.pth", tmp_path / "a.pth")
    assert Server.asked == []


def test_a_folder_that_cannot_be_written_is_an_error_of_the_output(server: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write the download"):
        fetch(f"{server}/ok/a.pth", tmp_path / "file" / "a.pth")


def test_secrets_of_an_address_are_not_shown() -> None:
    assert without_secrets("https://me:pass@host.org:8080/a/b.pth?token=secret#x") == "https://host.org:8080/a/b.pth"
    assert without_secrets("--resume=https://host/a?b") == "--resume=https://host/a"
    assert without_secrets("train.epochs=3?") == "train.epochs=3?"


# --- data sets -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_checksums")
@pytest.mark.parametrize(
    ("manner", "why"),
    [("ok", ""), ("cut-once", ""), ("page", "the server sends text/html"), ("hang", "timed out"), ("ok", "its md5 is")],
)
def test_a_data_set_is_downloaded_whole_or_not_at_all(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manner: str, why: str
) -> None:
    written = write_cifar(tmp_path / "made", "cifar10")
    with tarfile.open(tmp_path / "made.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "made" / CIFAR10.base_folder, CIFAR10.base_folder)
    body = (tmp_path / "made.tar.gz").read_bytes()
    monkeypatch.setattr(Server, "body", body)
    monkeypatch.setattr(CIFAR10, "url", f"{server}/{manner}/{CIFAR10.filename}")
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(body).hexdigest() if why != "its md5 is" else "0" * 32)
    if why:
        with pytest.raises(DownloadError, match=why) as failure:
            datasets.load("cifar10", str(tmp_path / "data"), split="test")
        assert "data set not found and not downloaded" in str(failure.value)
        assert not list((tmp_path / "data").glob(f"{CIFAR10.base_folder}*"))
        return
    data = datasets.load("cifar10", str(tmp_path / "data"), split="test")
    assert isinstance(data, Pixels)
    assert np.array_equal(data.images.numpy(), written["test"][0])


def test_what_no_digest_is_known_of_comes_over_https_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert download._safe("http://example.com/a.mat", plain=True)
    with pytest.raises(DownloadError, match="only https is"):
        download._safe("http://example.com/a.mat", plain=False)


def test_the_proxy_of_the_environment_is_asked(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets the whole address; it is the loopback server, which answers by the first word of a path."""
    monkeypatch.setenv("http_proxy", server)
    monkeypatch.setattr(Server, "send_http:", Server.send_ok, raising=False)
    fetch("http://example.com/a.pth", tmp_path / "a.pth", sha256=SHA256)
    assert (tmp_path / "a.pth").read_bytes() == BODY
    assert Server.asked == [("http://example.com/a.pth", None)]


# --- from the command line -------------------------------------------------------------------------------------------

NAME = "imagenet-standard-ResNet50-cutmix-auto_augment-78.5.pth"


def test_a_released_file_is_downloaded_once_and_compared_with_its_published_number(
    run: Run, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agmax_format, "URL", f"{server}/ok/")
    torch.save(file_of("RegNetX002", classes=4), tmp_path / "made.pth")  # smaller; its name is not looked at
    body = (tmp_path / "made.pth").read_bytes()
    monkeypatch.setattr(Server, "body", body)
    words = ("--eval", *small_imagenet(tmp_path / "photos"), "dataset.image_size=32")
    for name in (NAME, NAME.removesuffix(".pth"), f"checkpoints/{NAME}", f"{server}/ok/{NAME}"):
        answer = run(*words, f"--resume={name}", "--json")
        assert answer.status == 0, answer.err
        assert answer.json["published_top1"] == 78.5
        assert answer.json["sha256"] == hashlib.sha256(body).hexdigest()
        last = answer.err.strip().splitlines()[-1]
        assert last.startswith(f"published 78.50, here {answer.json['top1']:.2f}: top1 on 8 test images of imagenet")
        assert last.endswith(
            f"resized to 64 (Pillow, bilinear), the centre of 32 cut out; sha256 {answer.json['sha256']}"
        )
    assert len(Server.asked) == 1
    assert (tmp_path / "checkpoints" / NAME).read_bytes() == body


def test_released_files_are_fetched_by_name(
    run: Run, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agmax_format, "URL", f"{server}/ok/")
    torch.save({}, tmp_path / "made.pth")
    body = (tmp_path / "made.pth").read_bytes()
    monkeypatch.setattr(Server, "body", body)
    digest = hashlib.sha256(body).hexdigest()
    answer = run("--download", NAME.removesuffix(".pth"), "--json")
    expected = {"path": f"checkpoints/{NAME}", "size": len(body), "sha256": digest, "is_verified": False}
    assert (answer.status, answer.json["files"]) == (0, [expected])
    assert answer.err.strip().endswith(f"sha256 {digest}, not verified: none is recorded")
    found = run("--download=all", "--json").json["files"]
    assert [file["path"] for file in found] == [f"checkpoints/{name}" for name in agmax_format.RELEASED]
    assert len(Server.asked) == 4  # the first was there
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == set(agmax_format.RELEASED)
    wrong = run("--download=imagenet-standard-ResNet50-cutmix-auto_augment-78")
    assert wrong.status == 2 and f"Did you mean '{NAME}'?" in wrong.err


@pytest.mark.parametrize("digest", ["as it is", "of another file"])
def test_a_released_file_that_is_there_is_compared_with_its_record(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digest: str
) -> None:
    path = tmp_path / "checkpoints" / NAME
    path.parent.mkdir()
    torch.save({}, path)
    whole = path.read_bytes()
    known = hashlib.sha256(whole).hexdigest() if digest == "as it is" else "0" * 64
    monkeypatch.setitem(agmax_format.RELEASED, NAME, agmax_format.RELEASED[NAME]._replace(sha256=known))
    answer = run("--download", NAME)
    if digest == "as it is":
        assert answer.status == 0 and answer.err.strip().endswith(f"sha256 {known}, as recorded")
        path.write_bytes(whole[:-30])
        answer = run("--download", NAME)
        assert answer.status == 4 and "damaged checkpoint" in answer.err
        return
    assert answer.status == 4 and f"instead of {known}. Remove it to download it again" in answer.err
    assert path.read_bytes() == whole


def test_all_other_files_are_fetched_where_one_cannot_be_had(
    run: Run, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({}, tmp_path / "made.pth")
    monkeypatch.setattr(Server, "body", (tmp_path / "made.pth").read_bytes())
    monkeypatch.setattr(agmax_format, "URL", f"{server}/ok/")
    missing = list(agmax_format.RELEASED)[1]
    monkeypatch.setattr(
        Server,
        "send_ok",
        lambda self, number: self.send_404(number) if missing in self.path else self.send_slow(number),
    )
    answer = run("--download=all")
    assert answer.status == 5
    assert answer.err.splitlines()[-1].startswith(f"error: not all files are there ({missing})")
    assert {path.name for path in (tmp_path / "checkpoints").iterdir() if path.name[0] != "."} == {
        *agmax_format.RELEASED
    } - {missing}


def test_a_file_keeps_its_name_which_suggests_its_data(
    run: Run, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An address of svhn weights; another of a released file, changed on the way."""
    torch.save(file_of("WideResNet40-2", classes=10), tmp_path / "made.pth")
    monkeypatch.setattr(Server, "body", (tmp_path / "made.pth").read_bytes())
    saved = saving.load(saving.locate(f"{server}/ok/svhn-standard-WideResNet40-2.pth", "runs"))
    assert saved.config.dataset.name == "svhn"
    monkeypatch.setitem(agmax_format.RELEASED, NAME, agmax_format.RELEASED[NAME]._replace(sha256="0" * 64))
    answer = run("--eval", f"--resume={server}/ok/{NAME}")
    assert answer.status == 4 and "not the released file" in answer.err


@pytest.mark.parametrize("manner", ["cut", "page", "404"])
def test_a_failed_download_ends_the_evaluation(
    run: Run, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manner: str
) -> None:
    monkeypatch.setattr(agmax_format, "URL", f"{server}/{manner}/")
    answer = run("--eval", f"--resume={NAME}", "--dataset=imagenet")
    assert answer.status == 5
    assert f"put it at checkpoints/{NAME}" in answer.err
    assert not (tmp_path / "checkpoints" / NAME).exists()
