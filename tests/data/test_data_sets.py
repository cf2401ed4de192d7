"""Digits, CIFAR, SVHN and Fashion-MNIST, read from their files."""

import gzip
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torchvision.transforms import v2

from agmax import builders
from agmax.core.errors import DataError, DownloadError
from agmax.data import datasets
from agmax.data.splits import InMemoryDataset
from helpers.command import Answer
from helpers.datasets import (  # noqa: F401  one is a fixture
    configured,
    idx,
    random_pixels,
    without_checksums,
    write_cifar,
    write_fashion_mnist,
    write_svhn,
)
from helpers.places import skip_or_fail


def channel_statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel of uint8 images [N, C, H, W], on the scale 0 to 1."""
    values = images.double() / 255
    return values.mean((0, 2, 3)).tolist(), values.std((0, 2, 3), correction=0).tolist()


# --- digits ------------------------------------------------------------------------------------------------------


def test_the_digits_equal_scikit_learns_in_its_stratified_split() -> None:
    published = load_digits()
    train, test = train_test_split(range(1797), test_size=360, stratify=published.target, random_state=0)
    for split, rows in (("train", train), ("test", test)):
        data = datasets.load("digits", "nowhere", split=split)
        assert isinstance(data, InMemoryDataset)
        chosen = sorted(rows)
        expected = np.round(published.images[chosen] * 255 / 16).astype(np.uint8)
        np.testing.assert_array_equal(data.images[:, 0].numpy(), expected)
        np.testing.assert_array_equal(data.labels.numpy(), published.target[chosen])
        assert data.class_names == tuple("0123456789")


def test_mean_and_std_of_digits_equal_those_of_the_enlarged_training_images() -> None:
    config = configured("digits")
    data = builders.split(config, "train")
    assert isinstance(data, InMemoryDataset)
    enlarged = v2.functional.resize(data.images, [32, 32], antialias=True)
    mean, std = channel_statistics(enlarged)
    assert config.dataset.mean == pytest.approx(mean, abs=1e-3)
    assert config.dataset.std == pytest.approx(std, abs=1e-3)


# --- CIFAR and SVHN ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_checksums")
@pytest.mark.parametrize(("name", "num_train"), [("cifar10", 15), ("cifar100", 3)])
def test_cifar_is_read_from_pickled_batches_in_their_order(tmp_path: Path, name: str, num_train: int) -> None:
    written = write_cifar(tmp_path, name)
    for split, count in (("train", num_train), ("test", 3)):
        data = builders.split(configured(name, dataset__root=str(tmp_path)), split)
        pixels, labels = written[split]
        assert isinstance(data, InMemoryDataset)
        assert data.images.shape == (count, 3, 32, 32) and data.images.dtype == torch.uint8
        assert torch.equal(data.images, torch.from_numpy(pixels))
        assert data.labels.tolist() == labels
        assert data.class_names[3] == "thing 3"


@pytest.mark.usefixtures("without_checksums")
@pytest.mark.parametrize(
    ("name", "split", "parts"),
    [
        ("svhn", "train", ["train", "extra"]),
        ("svhn-core", "train", ["train"]),
        ("svhn", "test", ["test"]),
        ("svhn-core", "test", ["test"]),
    ],
)
def test_svhn_trains_on_train_and_extra_and_svhn_core_only_on_train(
    tmp_path: Path, name: str, split: str, parts: list[str]
) -> None:
    written = write_svhn(tmp_path)
    data = builders.split(configured(name, dataset__root=str(tmp_path)), split)
    assert isinstance(data, InMemoryDataset)
    assert np.array_equal(data.images.numpy(), np.concatenate([written[part][0] for part in parts]))
    assert data.labels.tolist() == [digit for part in parts for digit in written[part][1]]
    assert data.images.is_contiguous()
    assert data.class_names == tuple("0123456789")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "svhn-core", "fashion_mnist"])
def test_a_failed_download_ends_with_5_and_names_the_folder(
    run: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", tmp_path / "not installed")
    answer = run("--config=ResNet8", "--eval", f"--dataset={name}", "model.pretrained=true", "dataset.root=my data")
    assert answer.status == DownloadError.exit_code == 5
    assert str(tmp_path / "my data") in answer.err and "no network here" in answer.err
    assert not (tmp_path / "my data").exists()
    assert [text.startswith("error:") for text in answer.err.splitlines()].count(True) == 1


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil-of-agmax-tests", "cifar-10-batches-py/evil"])
def test_an_archive_that_is_not_the_published_one_is_never_unpacked(tmp_path: Path, name: str) -> None:
    """Its checksum decides: here a member lies outside of the folder, or links to there."""
    root = tmp_path / "data"
    root.mkdir()
    with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as archive:
        for member in (tarfile.TarInfo(name), tarfile.TarInfo("cifar-10-batches-py/link")):
            member.size = 4 if member.name == name else 0
            if not member.size:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc"
            archive.addfile(member, io.BytesIO(b"evil"))
    with pytest.raises(DownloadError, match="data set not found and not downloaded"):
        datasets.load("cifar10", str(root), split="train")
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "cifar-10-python.tar.gz"]
    assert not Path("/tmp/evil-of-agmax-tests").exists()


# --- Fashion-MNIST -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["root", "Debian's folder"])
def test_fashion_mnist_is_read_from_four_gzipped_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", tmp_path / "Debian's folder")
    written = write_fashion_mnist(tmp_path / place)
    (tmp_path / "root" / "FashionMNIST" / "raw").mkdir(parents=True)  # what a failed download leaves
    config = configured("fashion_mnist", dataset__root=str(tmp_path / "root"))
    for split, prefix, labels in (("train", "train", [0, 1, 2, 3, 4]), ("test", "t10k", [7, 8, 9])):
        data = builders.split(config, split)
        assert isinstance(data, InMemoryDataset)
        assert np.array_equal(data.images.numpy(), written[prefix][:, None])
        assert data.labels.tolist() == labels
    assert data.class_names[9] == "Ankle boot"


def test_fashion_mnist_in_torchvisions_layout_wins_over_other_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "DEBIAN_FASHION_MNIST", tmp_path)
    write_fashion_mnist(tmp_path)
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = random_pixels(2, 28, 28, seed=9)
    for prefix in ("train", "t10k"):
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(idx(pixels))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(np.array([4, 2], np.uint8)))
    data = datasets.load("fashion_mnist", str(tmp_path), split="train")
    assert isinstance(data, InMemoryDataset)
    assert np.array_equal(data.images.numpy(), pixels[:, None]) and data.labels.tolist() == [4, 2]
    (raw / "train-images-idx3-ubyte").write_bytes(b"")
    with pytest.raises(DataError, match="damaged file"):
        datasets.load("fashion_mnist", str(tmp_path), split="train")


def test_the_fashion_mnist_of_debians_package_has_the_statistics_of_its_configuration(tmp_path: Path) -> None:
    if not datasets.DEBIAN_FASHION_MNIST.is_dir():
        skip_or_fail("the package dataset-fashion-mnist is not installed")
    config = configured("fashion_mnist", dataset__root=str(tmp_path))
    train, test = builders.split(config, "train"), builders.split(config, "test")
    assert isinstance(train, InMemoryDataset) and isinstance(test, InMemoryDataset)
    assert train.labels.bincount().tolist() == [6000] * 10
    assert test.labels.bincount().tolist() == [1000] * 10
    mean, std = channel_statistics(train.images)
    assert config.dataset.mean == pytest.approx(mean, abs=1e-3)
    assert config.dataset.std == pytest.approx(std, abs=1e-3)


PIXELS = "train-images-idx3-ubyte.gz"
LABELS = "train-labels-idx1-ubyte.gz"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        pytest.param(PIXELS, b"", id="empty"),
        pytest.param(PIXELS, b"<html>please log in</html>", id="no gzip"),
        pytest.param(PIXELS, gzip.compress(idx(random_pixels(5, 28, 28)))[:-20], id="gzip cut off"),
        pytest.param(PIXELS, gzip.compress(b"\0\0\x08"), id="header cut off"),
        pytest.param(PIXELS, gzip.compress(idx(random_pixels(5, 28, 28))[:-1]), id="pixels cut off"),
        pytest.param(PIXELS, gzip.compress(b"\0\0\x0d\x01" + bytes(8)), id="not bytes"),
        pytest.param(PIXELS, gzip.compress(idx(random_pixels(5, 784))), id="not images"),
        pytest.param(LABELS, gzip.compress(idx(np.zeros(4, np.uint8))), id="too few labels"),
        pytest.param(LABELS, gzip.compress(idx(np.full(5, 10, np.uint8))), id="label out of range"),
    ],
)
def test_a_damaged_idx_file_is_a_data_error(tmp_path: Path, file: str, content: bytes) -> None:
    write_fashion_mnist(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(DataError, match=f"{file}|label out of range"):
        datasets.load("fashion_mnist", str(tmp_path), split="train")


def test_no_flipped_bit_of_a_gzipped_file_goes_unnoticed(tmp_path: Path) -> None:
    write_fashion_mnist(tmp_path)
    full = (tmp_path / LABELS).read_bytes()
    for position in range(10, len(full)):  # after the gzip header, whose time stamp is not checked
        damaged = bytearray(full)
        damaged[position] ^= 1 << position % 8
        (tmp_path / LABELS).write_bytes(damaged)
        with pytest.raises(DataError):
            datasets.load("fashion_mnist", str(tmp_path), split="train")


def test_a_small_file_that_unpacks_to_a_gigabyte_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "MAX_IDX_BYTES", 1000)
    write_fashion_mnist(tmp_path)
    with pytest.raises(DataError, match=r"damaged file .*: it unpacks to more than 1,000 bytes"):
        datasets.load("fashion_mnist", str(tmp_path), split="train")
