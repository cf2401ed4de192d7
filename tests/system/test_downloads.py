"""Data sets and released files are downloaded whole, compared with their published digests, and kept."""

import hashlib
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from agmax.checkpoints import agmax_format
from agmax.core.errors import DownloadError
from agmax.data import datasets
from agmax.data.splits import InMemoryDataset
from agmax.experiments import saved as saving
from helpers.command import Answer
from helpers.datasets import without_checksums, write_cifar  # noqa: F401  a fixture
from helpers.released import file_of, small_imagenet
from helpers.server import Server, serving

Run = Callable[..., Answer]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with serving(monkeypatch) as address:
        yield address


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
    assert isinstance(data, InMemoryDataset)
    assert np.array_equal(data.images.numpy(), written["test"][0])


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
        top1 = answer.json["top1"]
        assert last.startswith(f"top1 published 78.50, measured {top1:.2f} on 8 test images of imagenet")
        assert last.endswith(f"resized to 64 (Pillow, bilinear), center crop of 32; sha256 {answer.json['sha256']}")
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
    assert answer.err.strip().endswith(f"sha256 {digest}, not verified: no checksum is known")
    assert "\r" not in answer.err  # no progress bar without a terminal
    found = run("--download=all", "--json").json["files"]
    assert [file["path"] for file in found] == [f"checkpoints/{name}" for name in agmax_format.RELEASED]
    assert len(Server.asked) == 4  # the first was there
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == set(agmax_format.RELEASED)
    wrong = run("--download=imagenet-standard-ResNet50-cutmix-auto_augment-78")
    assert wrong.status == 2 and f"Did you mean '{NAME}'?" in wrong.err


@pytest.mark.parametrize("command", ["--download", "--eval"])
def test_a_released_file_that_was_changed_on_its_way_is_removed_and_both_digests_are_shown(
    run: Run, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    torch.save(file_of("WideResNet40-2", classes=10), tmp_path / "made.pth")
    body = (tmp_path / "made.pth").read_bytes()
    known = hashlib.sha256(body).hexdigest()
    changed = bytearray(body)
    changed[len(body) // 2] ^= 1
    monkeypatch.setattr(Server, "body", bytes(changed))
    monkeypatch.setattr(agmax_format, "URL", f"{server}/ok/")
    monkeypatch.setitem(agmax_format.RELEASED, NAME, agmax_format.RELEASED[NAME]._replace(sha256=known))
    answer = run(*(("--download", NAME) if command == "--download" else ("--eval", f"--resume={NAME}")))
    assert (answer.status, answer.out, answer.err.count("\n")) == (5, "", 1)
    assert f"its sha256 is {hashlib.sha256(changed).hexdigest()} instead of {known}" in answer.err
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_recorded_digest_is_a_complete_sha256() -> None:
    for release in agmax_format.RELEASED.values():
        assert release.sha256 is None or re.fullmatch("[0-9a-f]{64}", release.sha256)


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
        assert answer.status == 0 and answer.err.strip().endswith(f"sha256 {known}, as expected")
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
    assert answer.err.splitlines()[-1].startswith(f"error: some files were not downloaded ({missing})")
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
    assert f"Or download it by other means to checkpoints/{NAME}" in answer.err
    assert not (tmp_path / "checkpoints" / NAME).exists()


def test_nothing_secret_of_an_address_or_the_environment_is_printed_or_written(
    run: Run, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(file_of("WideResNet40-2", classes=10), tmp_path / "made.pth")
    monkeypatch.setattr(Server, "body", (tmp_path / "made.pth").read_bytes())
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY"):
        monkeypatch.setenv(name, "SECRET")
    data = ("--dataset=digits", "dataset.train_limit=20", "dataset.image_size=16", "model.channels=3", "train.epochs=1")
    address = f"{server}/ok/svhn-WideResNet40-2.pth?token=SECRET#SECRET"
    hidden = address.replace("://", "://me:SECRET@")
    commands = [
        (0, ("--train", "--config=WideResNet40-2", f"--resume={address}", *data, "train.batch_size=20")),
        (0, ("--eval", f"--resume={address}", *data, "--json", "--predictions=p.npz")),
        (5, ("--eval", f"--resume={address.replace('/ok/', '/404/')}", *data)),
        (5, ("--eval", f"--resume={address.replace('/ok/', '/to-http/')}", *data)),
        (5, ("--eval", "--resume", hidden, *data)),
        (5, ("--eval", "--resume", hidden, *data, "--debug")),
        (2, ("--eval", f"--resum={hidden}")),
        (2, ("--eval", "--resume=a.pth", hidden)),
        (2, ("--train", f"--config={hidden}")),
        (2, ("--print-config", "--config=ResNet8", f"dataset.name={hidden}")),
        (3, ("--predict", hidden, f"--checkpoint={address}")),
    ]
    for status, words in commands:
        monkeypatch.setattr("sys.argv", ["main.py", *words])
        answer = run(*words)
        assert answer.status == status, answer.err
        assert "SECRET" not in answer.out + answer.err, words
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"environment.json", "train.log", "config.yaml", "state.json", "p.npz"} <= {path.name for path in files}
    assert [path for path in files if b"SECRET" in path.read_bytes() or "SECRET" in path.name] == []
    assert "/ok/svhn-WideResNet40-2.pth" in next(tmp_path.rglob("environment.json")).read_text()
