"""Pixels of evaluation against torchvision's, for JPEG files of odd sizes and kinds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps
from PIL import __version__ as PILLOW_VERSION
from torch import Tensor
from torchvision.transforms import v2

from agmax import builders
from agmax.data import decode
from agmax.data.decode import decode_image
from helpers.datasets import CPU, configured
from helpers.streaming import files_of, scene


def odd_jpegs(folder: Path) -> list[Path]:
    """Write 20 JPEG files of odd sizes, kinds and qualities."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    upside_down, stored = Image.Exif(), Image.Exif()
    upside_down[decode.ORIENTATION_TAG], stored[decode.ORIENTATION_TAG] = 3, 6
    kinds: list[tuple[int, int, str, dict[str, Any]]] = [
        (225, 500, "RGB", {}),
        (500, 375, "RGB", {}),
        (33, 700, "RGB", {}),
        (700, 33, "RGB", {}),
        (1, 1, "RGB", {}),
        (1, 90, "RGB", {}),
        (57, 56, "RGB", {"subsampling": 0}),
        (56, 57, "RGB", {"subsampling": 1}),
        (55, 59, "RGB", {"subsampling": 2}),
        (131, 97, "RGB", {"progressive": True}),
        (131, 97, "RGB", {"quality": 5}),
        (131, 97, "RGB", {"quality": 100}),
        (131, 97, "RGB", {"quality": 100, "subsampling": 0, "progressive": True}),
        (131, 97, "L", {}),
        (97, 131, "L", {"progressive": True}),
        (131, 97, "CMYK", {}),
        (131, 97, "RGB", {"exif": stored}),
        (97, 131, "RGB", {"exif": upside_down}),
        (131, 97, "RGB", {"icc_profile": profile}),
        (4111, 61, "RGB", {"restart_marker_rows": 1}),
    ]
    paths = [folder / f"{number}.jpg" for number in range(len(kinds))]
    for number, (path, (width, height, mode, options)) in enumerate(zip(paths, kinds, strict=True)):
        Image.fromarray(scene(width, height, seed=number)).convert(mode).save(path, **options)
    return paths


def center_rows_first(image: Image.Image, size: int) -> Image.Image:
    """Return torchvision's Resize(size + 32) and CenterCrop(size) of every Pillow before 13: rows first, then columns.

    Pillow 13 begins images with their columns that lose more of their height than of their width.
    """
    both: tuple[int, int] = v2.Resize(size + 32)(image).size
    rows = image.resize((both[0], image.height), Image.Resampling.BILINEAR)
    square: Image.Image = v2.functional.center_crop(rows.resize(both, Image.Resampling.BILINEAR), [size, size])
    return square


@pytest.mark.parametrize("turned", [False, True])
def test_evaluated_pixels_of_odd_jpegs_are_torchvisions_rows_first_bit_for_bit(tmp_path: Path, turned: bool) -> None:
    paths = odd_jpegs(tmp_path)
    for size, channels in ((24, 3), (224, 3), (24, 1)):
        mode = "RGB" if channels == 3 else "L"
        statistics = {"dataset__mean": [0.5] * channels, "dataset__std": [0.5] * channels}
        config = configured(
            "folder",
            train__num_workers=0,
            dataset__image_size=size,
            dataset__exif_rotation=turned,
            dataset__channels=channels,
            dataset__on_bad_image="skip",
            augment__random_resized__scaled_decoding=True,
            **statistics,
        )
        loader = builders.test_loader(config, files_of(*paths), CPU)
        (batch,) = loader.batches([torch.arange(len(paths))], epoch=0)
        for path, found in zip(paths, batch.images, strict=True):
            with Image.open(path) as image:
                upright = ImageOps.exif_transpose(image) if turned else image
                expected = v2.functional.pil_to_tensor(center_rows_first(upright.convert(mode), size))
                assert torch.equal(found, expected), (path.name, size)


def test_the_center_crop_equals_torchvisions_with_pillow_before_13_for_tall_images() -> None:
    rng = np.random.default_rng(0)
    sides = [*rng.integers(20, 700, (120, 2)).tolist(), [500, 375], [375, 500], [224, 256], [256, 256], [300, 31]]
    tall_that_differ = 0
    for number, (width, height) in enumerate(sides):
        size, is_gray = (31, 32, 100, 224)[number % 4], number % 3 == 0
        shape = (height, width) if is_gray else (height, width, 3)
        image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
        found = np.asarray(decode.center_crop(image, size))
        assert np.array_equal(found, center_rows_first(image, size)), (width, height, size)
        by_torchvision = np.asarray(v2.Compose([v2.Resize(size + 32), v2.CenterCrop(size)])(image))
        difference = np.abs(found.astype(int) - by_torchvision).max()
        assert difference <= (1 if height > width else 0), (width, height, size)
        tall_that_differ += difference > 0
    assert bool(tall_that_differ) == (int(PILLOW_VERSION.split(".")[0]) >= 13)


@pytest.mark.parametrize(("channels", "plain"), [(3, 17), (1, 2)])
def test_plain_jpegs_are_decoded_directly_to_a_tensor_with_pillows_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int, plain: int
) -> None:
    """Of 20 odd files one is CMYK and two are turned; 2 of the plain ones are gray."""
    decoder, straight = decode.decode_jpeg, []

    def spy(*arguments: Any, **given: Any) -> Tensor:
        straight.append(arguments)
        return decoder(*arguments, **given)

    monkeypatch.setattr(decode, "decode_jpeg", spy)
    for path in map(str, odd_jpegs(tmp_path)):
        found = decode.decode_pixels(path, channels)
        assert torch.equal(found, v2.functional.pil_to_tensor(decode_image(path, channels))), path
    assert len(straight) == plain
