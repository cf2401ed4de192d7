"""Crops of image files against torchvision's and Pillow's, decoded in full and scaled."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import v2

from agmax import builders
from agmax.core.rng import seed_for
from agmax.data import decode, from_files
from agmax.data.decode import decode_image, resized_crop, shrinkable_size
from agmax.data.from_files import max_shrink
from agmax.data.splits import FileDataset
from helpers.datasets import CPU, configured
from helpers.streaming import CROPS, epoch_of, files_of, same, saved, scene, stream

# --- random crops --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("box", [(0, 0, 90, 61), (13, 7, 29, 23), (3, 2, 88, 60), (40, 0, 41, 61), (89, 60, 90, 61)])
def test_a_resized_crop_differs_from_pillows_by_at_most_a_gray_level(box: tuple[int, int, int, int]) -> None:
    left, upper, right, lower = box
    for mode in ("RGB", "L"):
        image = Image.fromarray(scene(90, 61)).convert(mode)
        expected = v2.functional.resized_crop(image, upper, left, lower - upper, right - left, [16, 16])
        square = resized_crop(v2.functional.pil_to_tensor(image), box, 16)
        gaps = (square.int() - v2.functional.pil_to_tensor(expected).int()).abs()
        assert square.dtype == torch.uint8
        assert gaps.max() <= 1 and (gaps > 0).float().mean() < 0.05


@pytest.mark.parametrize("turned", [False, True])
def test_each_view_is_torchvisions_random_crop_of_the_upright_photograph(
    photographs: FileDataset, turned: bool
) -> None:
    loader = stream(photographs, **CROPS, exif_rotation=turned)
    (batch,) = loader.batches([torch.arange(5)], epoch=7)
    crop = v2.RandomResizedCrop(16, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
    for position, path in enumerate(photographs.paths):
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image) if turned else image
            for view in range(2):
                torch.manual_seed(seed_for(11, "sample", 7, position, view))
                expected = crop(v2.functional.pil_to_tensor(upright))
                assert torch.equal(batch.images[position, view], expected)
        assert not torch.equal(batch.images[position, 0], batch.images[position, 1])


def test_a_step_has_the_same_batch_with_any_number_of_workers_and_from_any_start(photographs: FileDataset) -> None:
    alone = stream(photographs, **CROPS)
    expected = epoch_of(alone, epoch=4)
    assert len(expected) == 2 and expected[0].images.is_contiguous()
    assert same(epoch_of(alone, epoch=4, start=1), expected[1:])
    assert not same(epoch_of(alone, epoch=5), expected)
    for num_workers in (1, 2):
        workers = stream(photographs, num_workers=num_workers, **CROPS)
        assert same(epoch_of(workers, epoch=4), expected)
        assert same(epoch_of(workers, epoch=4, start=1), expected[1:])


def test_workers_compute_with_one_thread(photographs: FileDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_files._Views, "_center", lambda *_: torch.tensor(torch.get_num_threads()))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert [batch.images.unique().tolist() for batch in epoch_of(stream(photographs))] == [[2], [2]]
        workers = stream(photographs, num_workers=1)
        assert [batch.images.unique().tolist() for batch in epoch_of(workers)] == [[1], [1]]
    finally:
        torch.set_num_threads(before)


# --- scaled decoding -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([(0, 0, 447, 900)], 1),
        ([(0, 0, 448, 900)], 2),
        ([(5, 5, 901, 901)], 4),
        ([(0, 0, 1792, 1792)], 8),
        ([(0, 0, 9999, 9999)], 8),
        ([(0, 0, 1792, 1792), (7, 9, 455, 555)], 2),
        ([(0, 0, 1792, 1792), (7, 9, 107, 109)], 1),
    ],
)
def test_a_jpeg_is_shrunk_while_every_crop_keeps_224_pixels(boxes: list[decode.Box], expected: int) -> None:
    assert max_shrink(boxes, 224) == expected


@pytest.mark.parametrize(("orientation", "size"), [(1, (803, 601)), (3, (808, 600)), (6, (808, 600)), (8, (808, 600))])
@pytest.mark.parametrize("shrink", [2, 4, 8])
def test_crops_of_scaled_decoding_differ_little_from_those_of_the_full_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orientation: int, size: tuple[int, int], shrink: int
) -> None:
    exif = Image.Exif()
    exif[decode.ORIENTATION_TAG] = orientation
    Image.fromarray(scene(*size)).save(tmp_path / "0.jpg", quality=95, exif=exif)
    side = {2: 200, 4: 100, 8: 50}[shrink]
    options = {**CROPS, "random_resized": ([0.6, 1.0], [0.75, 4 / 3]), "image_size": side}
    decoder, shrinks = from_files.decode_pixels, []

    def spy(*arguments: Any, **given: Any) -> Tensor:
        shrinks.append(given["shrink"])
        return decoder(*arguments, **given)

    monkeypatch.setattr(from_files, "decode_pixels", spy)
    data = files_of(tmp_path / "0.jpg")
    full, scaled = (
        next(stream(data, **options, **given).batches([torch.tensor([0])], epoch=0)).images
        for given in ({}, {"scaled_decoding": True})
    )
    assert shrinks == [1, shrink]
    assert not torch.equal(full, scaled)
    difference = float((full.double() - scaled.double()).abs().mean())
    shifted = float((full.double() - full.roll(1, -1).double()).abs().mean())
    assert difference < shifted / 2  # of a pixel: edges are rounded to pixels of the shrunk image


def test_scaled_decoding_is_off_by_default_and_leaves_other_formats_and_evaluations_alone(tmp_path: Path) -> None:
    assert not configured("folder").augment.random_resized.scaled_decoding
    Image.fromarray(scene(400, 300)).save(tmp_path / "0.png")
    Image.fromarray(scene(400, 300)).save(tmp_path / "1.jpg")
    data = files_of(tmp_path / "0.png", tmp_path / "1.jpg")
    crops = {
        "augment__crop": "random_resized",
        "augment__random_resized__scale": [0.9, 1.0],
        "dataset__image_size": 16,
    }
    off, on = (
        configured("folder", train__num_workers=0, **crops, augment__random_resized__scaled_decoding=scaled)
        for scaled in (False, True)
    )
    full, scaled = (
        next(builders.training_loader(config, data, CPU).batches([torch.arange(2)], epoch=0)) for config in (off, on)
    )
    assert torch.equal(full.images[0], scaled.images[0]) and not torch.equal(full.images[1], scaled.images[1])
    full, scaled = (
        next(builders.test_loader(config, data, CPU).batches([torch.arange(2)], epoch=0)) for config in (off, on)
    )
    assert torch.equal(full.images, scaled.images)


@pytest.mark.parametrize("orientation", [1, 2, 3, 5, 6, 8])
@pytest.mark.parametrize("size", [(48, 32), (49, 32), (48, 31)])
def test_a_photograph_is_shrunk_by_its_upright_size_if_its_sides_allow_it(
    tmp_path: Path, orientation: int, size: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[decode.ORIENTATION_TAG] = orientation
    path = saved(tmp_path / "0.jpg", Image.fromarray(scene(*size)), exif=exif)
    assert shrinkable_size(path, exif_rotation=False) == size
    is_possible = orientation == 1 or size == (48, 32)
    assert shrinkable_size(path) == (decode_image(path, 3).size if is_possible else None)
    shrunk = decode.decode_pixels(path, 3, exif_rotation=False, shrink=4)
    assert shrunk.shape == (3, -(-size[1] // 4), -(-size[0] // 4))
