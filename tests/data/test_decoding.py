"""Image files of every mode: their colors against those computed by hand, and photographs turned upright."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from agmax.core.errors import DataError
from agmax.data import decode
from agmax.data.decode import decode_image, shrinkable_size
from helpers.datasets import configured
from helpers.streaming import CROPS, Pixels, files_of, pixels_of, saved, scene, stream

RGB = scene(9, 7)
GRAY = RGB[..., 0]
ALPHA = np.arange(63, dtype=np.uint8).reshape(7, 9) * 4
PALETTE = np.random.default_rng(5).integers(0, 256, (63, 3), dtype=np.uint8)
NUMBERS = np.arange(63, dtype=np.uint8).reshape(7, 9)
BITS = GRAY > 120
WORDS = np.random.default_rng(6).integers(0, 65536, (7, 9)).astype(np.uint16)
WORDS[0, :6] = [0, 128, 129, 255, 257, 65535]


def with_palette() -> Image.Image:
    image = Image.fromarray(NUMBERS)
    image.putpalette(PALETTE.tobytes())
    return image


def repeated(gray: Pixels) -> Pixels:
    return np.repeat(gray[..., None], 3, -1)


def in_8_bits(words: Pixels) -> Pixels:
    return np.rint(words / 257).astype(np.uint8)


def ink(cmyk: Pixels) -> Pixels:
    """Return RGB of CMYK: each color is reduced by its ink and by black."""
    light = 255.0 - cmyk
    return light[..., :3] * light[..., 3:] / 255


CMYK = np.concatenate([RGB, ALPHA[..., None]], -1)

COLOURS: dict[str, tuple[str, Callable[[], Image.Image], dict[str, Any], Pixels]] = {
    "gray": ("png", lambda: Image.fromarray(GRAY), {}, repeated(GRAY)),
    "gray and alpha": ("png", lambda: Image.fromarray(np.stack([GRAY, ALPHA], -1), "LA"), {}, repeated(GRAY)),
    "rgba": ("png", lambda: Image.fromarray(np.dstack([RGB, ALPHA])), {}, RGB),
    "rgba webp": ("webp", lambda: Image.fromarray(np.dstack([RGB, ALPHA])), {"lossless": True, "exact": True}, RGB),
    "rgb with a transparent color": ("png", lambda: Image.fromarray(RGB), {"transparency": (1, 2, 3)}, RGB),
    "palette": ("png", with_palette, {}, PALETTE[NUMBERS]),
    "palette with a transparent entry": ("png", with_palette, {"transparency": 3}, PALETTE[NUMBERS]),
    "palette with alpha": ("png", with_palette, {"transparency": bytes(range(63))}, PALETTE[NUMBERS]),
    "cmyk": ("tiff", lambda: Image.fromarray(CMYK, "CMYK"), {}, ink(CMYK)),
    "1 bit": ("png", lambda: Image.fromarray(BITS), {}, repeated(BITS * np.uint8(255))),
    "16 bits png": ("png", lambda: Image.fromarray(WORDS), {}, repeated(in_8_bits(WORDS))),
    "16 bits tiff": ("tiff", lambda: Image.fromarray(WORDS), {}, repeated(in_8_bits(WORDS))),
    "16 bits high byte first": (
        "tiff",
        lambda: Image.frombytes("I;16B", (9, 7), WORDS.astype(">u2").tobytes()),
        {},
        repeated(in_8_bits(WORDS)),
    ),
    "16 bits pgm": ("pgm", lambda: Image.fromarray(WORDS), {}, repeated(in_8_bits(WORDS))),
    "32 bits tiff": ("tiff", lambda: Image.fromarray(WORDS.astype(np.int32)), {}, repeated(in_8_bits(WORDS))),
}


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
@pytest.mark.parametrize("kind", COLOURS)
def test_images_of_every_mode_keep_their_colors_and_lose_their_alpha(tmp_path: Path, kind: str) -> None:
    suffix, make, options, expected = COLOURS[kind]
    path = saved(tmp_path / f"image.{suffix}", make(), **options)
    rgb = decode_image(path, 3)
    assert rgb.mode == "RGB" and rgb.size == (9, 7)
    np.testing.assert_allclose(pixels_of(rgb), expected, atol=1 if kind == "cmyk" else 0)
    gray = decode_image(path, 1)
    assert gray.mode == "L" and gray.size == (9, 7)
    np.testing.assert_allclose(pixels_of(gray), expected @ [0.299, 0.587, 0.114], atol=1.01)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.linspace(0, 1, 63, dtype=np.float32), "floating-point"),
        (np.full(63, 65536, np.int32), "more than 16 bits"),
        (np.full(63, -1, np.int32), "more than 16 bits"),
    ],
)
def test_pixels_without_a_known_range_are_refused(tmp_path: Path, values: Pixels, why: str) -> None:
    path = saved(tmp_path / "image.tiff", Image.fromarray(values.reshape(7, 9)))
    with pytest.raises(DataError, match=rf"image\.tiff.*{why}"):
        decode_image(path, 3)


STORED: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: upright[::-1, ::-1],
    4: np.flipud,
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}
"""The stored pixels of an upright image for each orientation (EXIF 2.3, Orientation)."""


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_photographs_are_turned_by_their_exif_tag_unless_switched_off(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    exif = Image.Exif()
    exif[decode.ORIENTATION_TAG] = orientation
    stored = np.ascontiguousarray(STORED[orientation](RGB))
    path = saved(tmp_path / f"image.{suffix}", Image.fromarray(stored), exif=exif, lossless=True)
    assert np.array_equal(pixels_of(decode_image(path, 3, exif_rotation=True)), RGB)
    assert np.array_equal(pixels_of(decode_image(path, 3, exif_rotation=False)), stored)
    gray = pixels_of(Image.fromarray(RGB).convert("L"))
    assert np.array_equal(pixels_of(decode_image(path, 1)), gray)


def test_damaged_exif_data_do_not_make_a_photograph_unreadable(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[decode.ORIENTATION_TAG] = 6
    exif[272] = "the name of a camera"
    content = exif.tobytes()
    start = content.index(b"MM\0*")
    type_of_name = content.index(struct.pack(">HH", 272, 2)) + 2
    damages = {
        "header": content[:start] + b"??" + content[start + 2 :],
        "end": content[: start + 12],
        "other tag": content[:type_of_name] + b"\0\7" + content[type_of_name + 2 :],
    }
    for name, damaged in damages.items():
        path = saved(tmp_path / f"{name}.jpg", Image.fromarray(scene(20, 10)), exif=damaged, dpi=(72, 72))
        assert decode_image(path, 3, exif_rotation=False).size == (20, 10)
        assert decode_image(path, 3).size == ((10, 20) if name == "other tag" else (20, 10)), name
        assert shrinkable_size(path, exif_rotation=False) == (20, 10)


def test_only_data_sets_with_published_numbers_do_not_turn_photographs() -> None:
    turned = {name: configured(name).dataset.exif_rotation for name in ("imagenet", "imagenet-v2", "folder")}
    assert turned == {"imagenet": False, "imagenet-v2": False, "folder": True}


@pytest.mark.parametrize("orientation", [0, 9, 300])
def test_an_exif_orientation_that_does_not_exist_is_upright_with_and_without_scaled_decoding(
    tmp_path: Path, orientation: int
) -> None:
    exif = Image.Exif()
    exif[decode.ORIENTATION_TAG] = orientation
    path = saved(tmp_path / "0.jpg", Image.new("RGB", (160, 40), "white"), exif=exif, quality=100)
    assert shrinkable_size(path) == decode_image(path, 3).size == (160, 40)
    views = next(
        stream(files_of(Path(path)), **{**CROPS, "num_views": 8}, scaled_decoding=True).batches(
            [torch.tensor([0])], epoch=0
        )
    )
    assert views.images.min() == 255


def test_a_file_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow looks for the EXIF data of a PNG after its pixels."""
    loads: list[str] = []
    original = ImageFile.ImageFile.load

    def counted(image: ImageFile.ImageFile) -> Any:
        if image.tile:
            loads.append(str(image.filename))
        return original(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", counted)
    for name, scaled in (("0.png", False), ("1.png", True), ("2.tif", False), ("3.webp", True)):
        path = saved(tmp_path / name, Image.fromarray(scene(50, 40)))
        loads.clear()
        loader = stream(files_of(Path(path)), **CROPS, scaled_decoding=scaled)
        next(loader.batches([torch.tensor([0])], epoch=0))
        assert len(loads) == 1, name
