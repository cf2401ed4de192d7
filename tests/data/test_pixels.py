"""The pixels of training and evaluation against torchvision's."""

import itertools
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import v2

from agmax import builders
from agmax.augment.color import normalize
from agmax.core import signals
from agmax.core.errors import DataError, UsageError
from agmax.core.rng import seed_for
from agmax.data import sampler
from agmax.data.from_files import FileLoader, decode_image
from agmax.data.in_memory import InMemoryLoader
from agmax.data.splits import FileDataset, InMemoryDataset
from helpers.datasets import CPU, IMAGENET, configured, random_pixels
from helpers.images import write_images
from helpers.streaming import CROPS, epoch_of, same, stream, worker_processes

# --- pixels of evaluation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_normalized_pixels_are_torchvisions_bit_for_bit(channels: int) -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(2, channels, 1, 1)
    images[1] = torch.from_numpy(random_pixels(channels, 16, 16))
    mean, std = (numbers[:channels] for numbers in IMAGENET)
    per_image = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    expected = [per_image(np.ascontiguousarray(image.permute(1, 2, 0).numpy())) for image in images]
    assert torch.equal(normalize(images, torch.tensor(mean), torch.tensor(std)), torch.stack(expected))


def test_gray_pixels_are_repeated_for_a_model_of_three_channels() -> None:
    images = torch.from_numpy(random_pixels(2, 1, 5, 7))
    before = images.clone()
    per_image = transforms.Compose(
        [transforms.Grayscale(num_output_channels=3), transforms.ToTensor(), transforms.Normalize(*IMAGENET)]
    )
    expected = torch.stack([per_image(Image.fromarray(image[0].numpy())) for image in images])
    assert torch.equal(normalize(images, *map(torch.tensor, IMAGENET)), expected)
    assert torch.equal(images, before)


def write_files(root: Path, sizes: list[tuple[int, int]]) -> FileDataset:
    """Write one image of each size; two classes in turn."""
    paths = []
    for number, size in enumerate(sizes):
        write_images(root / str(number), 1, size=size, seed=number)
        paths.append(str(root / str(number) / "0.png"))
    return FileDataset(tuple(paths), torch.arange(len(sizes)) % 2, ("even", "odd"))


def test_streamed_test_images_are_torchvisions_bit_for_bit(tmp_path: Path) -> None:
    data = write_files(tmp_path, [(77, 53), (53, 77), (51, 51), (19, 333), (1, 1), (48, 47)])
    config = configured(
        "folder", dataset__root=str(tmp_path), dataset__image_size=16, dataset__test_image_size=24, train__num_workers=0
    )
    loader = builders.test_loader(config, data, CPU)
    (batch,) = loader.batches(sampler.sequential_batches(len(data.paths), 10), epoch=0)
    to_image = transforms.Compose([transforms.Resize(24 + 32), transforms.CenterCrop(24)])
    to_input = transforms.Compose([to_image, transforms.ToTensor(), transforms.Normalize(*IMAGENET)])
    originals = []
    for path in data.paths:
        with Image.open(path) as image:
            originals.append(image.convert("RGB"))
    assert batch.images.shape == (6, 3, 24, 24) and batch.images.dtype == torch.uint8
    mean, std = map(torch.tensor, config.normalization)
    assert torch.equal(normalize(batch.images, mean, std), torch.stack([to_input(image) for image in originals]))
    assert batch.labels.tolist() == [0, 1, 0, 1, 0, 1] and batch.indices.tolist() == list(range(6))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_every_mode_get_the_channels_of_the_data_set(tmp_path: Path, mode: str, channels: int) -> None:
    original = Image.fromarray(random_pixels(48, 48, 3)).convert(mode)
    path = tmp_path / ("image.tiff" if mode == "CMYK" else "image.png")
    original.save(path)
    loader = stream(FileDataset((str(path),) * 2, torch.tensor([0, 1]), ("a", "b")), channels=channels)
    (batch,) = loader.batches([torch.tensor([1, 0])], epoch=0)
    expected = np.asarray(original.convert("RGB" if channels == 3 else "L"))[16:32, 16:32].reshape(16, 16, channels)
    assert batch.images.shape == (2, channels, 16, 16)
    assert np.array_equal(batch.images[0].permute(1, 2, 0).numpy(), expected)  # 48 = 16 + 32: nothing is resized


# --- pixels of training ----------------------------------------------------------------------------------------------


def test_batches_in_memory_hold_the_chosen_images_at_the_configured_size() -> None:
    config = configured("digits", objective__num_views=2)
    data = builders.split(config, "train")
    assert isinstance(data, InMemoryDataset)
    loader = builders.training_loader(config, data, CPU)
    assert isinstance(loader, InMemoryLoader) and len(loader) == 1437
    chosen = torch.tensor([5, 1436, 0])
    (batch,) = loader.batches([chosen], epoch=3)
    assert batch.images.shape == (3, 1, 32, 32) and batch.images.dtype == torch.uint8
    assert torch.equal(batch.images, v2.functional.resize(data.images[chosen], [32, 32], antialias=True))
    assert torch.equal(batch.labels, data.labels[chosen]) and batch.labels.dtype == torch.int64
    assert torch.equal(batch.indices, chosen)


def test_images_in_memory_have_no_random_resized_crop() -> None:
    config = configured("digits", augment__crop="random_resized")
    with pytest.raises(UsageError, match=r"augment\.crop=standard"):
        builders.training_loader(config, builders.split(config, "train"), CPU)


@pytest.fixture
def six_files(tmp_path: Path) -> FileDataset:
    return write_files(tmp_path, [(40, 31), (31, 40), (64, 64), (20, 50), (33, 33), (48, 25)])


def test_training_crops_equal_torchvisions_with_the_seed_of_each_view(six_files: FileDataset) -> None:
    config = configured(
        "folder",
        objective__num_views=2,
        dataset__image_size=16,
        train__num_workers=0,
        train__seed=11,
        augment__crop="random_resized",
    )
    loader = builders.training_loader(config, six_files, CPU)
    assert isinstance(loader, FileLoader)
    crop = v2.RandomResizedCrop(16, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
    for epoch in (0, 5):
        for batch in epoch_of(loader, epoch):
            assert batch.images.shape == (2, 2, 3, 16, 16) and batch.images.dtype == torch.uint8
            assert batch.labels.dtype == batch.indices.dtype == torch.int64
            for views, label, index in zip(batch.images, batch.labels.tolist(), batch.indices.tolist(), strict=True):
                assert label == index % 2
                for view, pixels in enumerate(views):
                    with Image.open(six_files.paths[index]) as image:
                        torch.manual_seed(seed_for(11, "sample", epoch, index, view))
                        assert torch.equal(pixels, crop(v2.functional.pil_to_tensor(image)))


def test_training_crops_differ_between_views_epochs_and_seeds(six_files: FileDataset) -> None:
    first = epoch_of(stream(six_files, **CROPS), 0)
    assert not any(torch.equal(views[0], views[1]) for batch in first for views in batch.images)
    loader, other_seed = stream(six_files, **CROPS), stream(six_files, **{**CROPS, "seed": 12})
    everything = torch.arange(6)
    (zero,), (one,) = (list(loader.batches([everything], epoch=epoch)) for epoch in (0, 1))
    (other,) = other_seed.batches([everything], epoch=0)
    for changed in (one, other):
        assert not any(torch.equal(a, b) for a, b in zip(zero.images, changed.images, strict=True))


def test_persistent_workers_give_the_batches_of_the_main_process_from_any_step_on(six_files: FileDataset) -> None:
    alone, workers = stream(six_files, **CROPS), stream(six_files, num_workers=2, **CROPS)
    for epoch, start in ((0, 0), (1, 2), (0, 1)):
        assert same(epoch_of(workers, epoch, start), epoch_of(alone, epoch, start))
    assert same(epoch_of(alone, 1, 2), epoch_of(alone, 1)[2:])
    processes = worker_processes(workers)
    assert same(epoch_of(workers, 2), epoch_of(alone, 2))
    assert worker_processes(workers) == processes and all(process.is_alive() for process in processes)


def test_workers_outlive_stop_signals_for_a_while_and_end_with_the_main_process(
    six_files: FileDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "GRACE_SECONDS", 2)
    loader, alone = stream(six_files, num_workers=2), stream(six_files)
    epoch_of(loader, 0)
    workers = worker_processes(loader)
    for worker, number in itertools.product(workers, signals.STOP_SIGNALS):
        os.kill(worker.pid, number)
    assert same(epoch_of(loader, 1), epoch_of(alone, 1))
    assert all(worker.is_alive() for worker in workers)
    for worker in workers:
        worker.join(30)
        assert not worker.is_alive()  # else Python would wait for it for ever


@pytest.mark.parametrize("num_workers", [0, 2])
def test_all_views_share_one_center_crop_without_random_resized_crop(six_files: FileDataset, num_workers: int) -> None:
    loader = stream(six_files, num_workers=num_workers, num_views=2)
    for epoch in (0, 1):
        (batch,) = loader.batches([torch.arange(6)], epoch=epoch)
        with Image.open(six_files.paths[5]) as image:
            center = transforms.CenterCrop(16)(transforms.Resize(48)(image))
        assert batch.images.shape == (6, 3, 16, 16)
        assert torch.equal(batch.images[5], v2.functional.pil_to_tensor(center))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_unreadable_image_is_named_and_the_next_epoch_still_works(six_files: FileDataset, num_workers: int) -> None:
    loader = stream(six_files, num_workers=num_workers)
    path = Path(six_files.paths[4])
    full = path.read_bytes()
    path.write_bytes(full[:-30])
    with pytest.raises(DataError, match=re.escape(f"image cannot be read ({path})")):
        epoch_of(loader, 0)
    path.write_bytes(full)
    assert sorted(index for batch in epoch_of(loader, 0) for index in batch.indices.tolist()) == list(range(6))


def truncated(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("<html>"),
        lambda path: path.unlink(),
        lambda path: os.replace(path, path.with_suffix(".gone")) or path.mkdir(),
    ],
    ids=["truncated", "empty", "text", "gone", "a folder"],
)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp"])
def test_a_damaged_image_file_is_a_data_error(tmp_path: Path, damage: Callable[[Path], None], suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    Image.fromarray(random_pixels(40, 40, 3)).save(path)
    assert decode_image(str(path), 3).size == (40, 40)
    damage(path)
    with pytest.raises(DataError, match=path.name):
        decode_image(str(path), 3)


def test_an_image_of_a_hundred_million_pixels_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    Image.new("1", (10_000, 10_000)).save(path)
    assert path.stat().st_size < 100_000
    with pytest.raises(DataError, match=r"bomb\.png"):
        decode_image(str(path), 3)
