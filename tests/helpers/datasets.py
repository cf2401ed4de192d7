"""Write the data sets' files with few images, and read them."""

import gzip
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torchvision import datasets as torchvision_datasets

from agmax.config.resolve import Setting, resolve
from agmax.config.schema import Config
from agmax.data import datasets
from agmax.data.splits import FileDataset

CPU = torch.device("cpu")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture
def without_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision read files that are not the published ones."""
    for kind in (torchvision_datasets.CIFAR10, torchvision_datasets.CIFAR100):
        for files in ("train_list", "test_list"):
            monkeypatch.setattr(kind, files, [[name, None] for name, _ in getattr(kind, files)])
        monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": None})
    splits = {split: [*row[:2], None] for split, row in torchvision_datasets.SVHN.split_list.items()}
    monkeypatch.setattr(torchvision_datasets.SVHN, "split_list", splits)


def configured(dataset: str, **settings: Any) -> Config:
    """Resolve ResNet8 on a data set; `dataset__root=...` sets dataset.root."""
    given = [Setting(key.replace("__", "."), value, "test") for key, value in settings.items()]
    return resolve("ResNet8", dataset=dataset, settings=given).config


def random_pixels(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_cifar(root: Path, name: str, count: int = 3) -> dict[str, tuple[np.ndarray[Any, Any], list[int]]]:
    """Write pickled batches of `count` images a file; return the pixels [N, 3, 32, 32] and labels of each split."""
    kind = torchvision_datasets.CIFAR100 if name == "cifar100" else torchvision_datasets.CIFAR10
    num_classes = 100 if name == "cifar100" else 10
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    key = "fine_labels" if name == "cifar100" else "labels"
    names = [f"thing {k}" for k in range(num_classes)]
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: names}))
    written = {}
    for split, files in (("train", kind.train_list), ("test", kind.test_list)):
        pixels = random_pixels(count * len(files), 3, 32, 32, seed=len(files))
        labels = [(7 * number + 3) % num_classes for number in range(count * len(files))]
        for number, (file, _) in enumerate(files):
            part = slice(count * number, count * (number + 1))
            batch = {"data": pixels[part].reshape(count, 3072), key: labels[part]}
            (folder / file).write_bytes(pickle.dumps(batch))
        written[split] = pixels, labels
    return written


def write_svhn(root: Path) -> dict[str, tuple[np.ndarray[Any, Any], list[int]]]:
    """Write .mat files, where the digit 0 has the label 10; return the pixels [N, 3, 32, 32] and digits."""
    written = {}
    for split, count in (("train", 4), ("extra", 3), ("test", 2)):
        pixels = random_pixels(count, 3, 32, 32, seed=count)
        digits = [0, 9, 1, 0][:count]
        labels = [[10 if digit == 0 else digit] for digit in digits]
        savemat(root / f"{split}_32x32.mat", {"X": pixels.transpose(2, 3, 1, 0), "y": np.array(labels, np.uint8)})
        written[split] = pixels, digits
    return written


def idx(values: np.ndarray[Any, Any]) -> bytes:
    """Write bytes as IDX: two zeros, type 8, the number of axes, their lengths with the high byte first."""
    lengths = b"".join(length.to_bytes(4, "big") for length in values.shape)
    return bytes([0, 0, 8, values.ndim]) + lengths + values.tobytes()


def write_fashion_mnist(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Write the four gzipped files, 5 images to train on and 3 to test on; the labels count up from 0 or 7."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for prefix, count, first in (("train", 5, 0), ("t10k", 3, 7)):
        pixels = random_pixels(count, 28, 28, seed=count)
        labels = np.arange(first, first + count, dtype=np.uint8)
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
        written[prefix] = pixels
    return written


def load_files(name: str, root: Path, split: str, **options: Any) -> FileDataset:
    data = datasets.load(name, str(root), split=split, **options)
    assert isinstance(data, FileDataset)
    return data


def parents(data: FileDataset) -> list[str]:
    """Return the class folder of each image."""
    return [Path(path).parent.name for path in data.paths]
