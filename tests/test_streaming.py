"""Images from files: their pixels against torchvision's and hand-made ones, bad files, workers that die, copies."""

import logging
import os
import signal
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageFile, ImageOps
from PIL import __version__ as PILLOW_VERSION
from torch import Tensor
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from torchvision.transforms import v2
from tqdm import tqdm

from agmax import builders
from agmax.config.resolve import Setting, resolve
from agmax.config.schema import Config
from agmax.core.batch import RawBatch
from agmax.core.devices import copied_ahead
from agmax.core.errors import DataError, ResourceError
from agmax.core.rng import seed_for
from agmax.data import datasets, decode, from_files, sampler
from agmax.data.decode import cut, decoded, shrinkable_size
from agmax.data.from_files import Streaming, largest_shrink
from agmax.data.splits import Files
from agmax.training import loop
from agmax.training.loop import Trainer
from helpers.command import Answer
from helpers.images import write_images, write_tree

CPU = torch.device("cpu")
Pixels = np.ndarray[Any, Any]


def configured(dataset: str, **settings: Any) -> Config:
    """Resolve ResNet8 on a data set without workers; `dataset__root=...` sets dataset.root."""
    given = {"train__num_workers": 0, **settings}
    written = [Setting(key.replace("__", "."), value, "test") for key, value in given.items()]
    return resolve("ResNet8", dataset=dataset, settings=written).config


def scene(width: int, height: int, seed: int = 0) -> Pixels:
    """Draw colours that change smoothly, with edges and a little noise [H, W, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / rng.uniform(20, 60) + y / rng.uniform(20, 60)) for _ in range(3)]
    edges = 60 * ((x // 37 + y // 53) % 2)
    values = np.stack(waves, -1) * 70 + edges[..., None] + 100 + rng.normal(0, 4, (height, width, 3))
    return values.clip(0, 255).astype(np.uint8)


def files_of(*paths: Path | str) -> Files:
    return Files(tuple(map(str, paths)), torch.arange(len(paths)) % 2, ("even", "odd"))


def stream(data: Files, *, num_workers: int = 0, **options: Any) -> Streaming:
    given = {"image_size": 16, "channels": 3, "pin_memory": False, **options}
    return Streaming(data, num_workers=num_workers, **given)


def epoch_of(source: Streaming, *, epoch: int = 0, start: int = 0, batch_size: int = 2) -> list[RawBatch]:
    batches = sampler.shuffled(len(source), batch_size, seed=3, epoch=epoch, start=start)
    return list(source.batches(batches, epoch=epoch))


def same(one: list[RawBatch], other: list[RawBatch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for left, right in zip(one, other, strict=True) for a, b in zip(left, right, strict=True)
    )


def error_of(samples: Iterator[RawBatch], kind: type[BaseException] = DataError) -> BaseException:
    """Take all samples and return the error they end with, without its traceback: a circle would keep the workers."""
    try:
        for _ in samples:
            pass
    except kind as error:
        return error.with_traceback(None)
    return pytest.fail(f"no {kind.__name__}")


def pixels_of(image: Image.Image) -> Pixels:
    return np.asarray(image)


CROPS = {"random_resized": ([0.08, 1.0], [0.75, 4 / 3]), "num_views": 2, "seed": 11}


@pytest.fixture
def photographs(tmp_path: Path) -> Files:
    """Write five JPEG files of different sizes and sampling, one of them to be turned upright."""
    sizes = [(96, 70), (60, 111), (128, 128), (200, 40), (51, 67)]
    for number, (width, height) in enumerate(sizes):
        exif = Image.Exif()
        exif[decode.ORIENTATION_TAG] = 6 if number == 1 else 1
        image = Image.fromarray(scene(width, height, seed=number))
        image.save(tmp_path / f"{number}.jpg", quality=90, subsampling=number % 3, exif=exif)
    return files_of(*(tmp_path / f"{number}.jpg" for number in range(len(sizes))))


# --- random crops --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("box", [(0, 0, 90, 61), (13, 7, 29, 23), (3, 2, 88, 60), (40, 0, 41, 61), (89, 60, 90, 61)])
def test_a_cut_square_is_pillows_but_for_a_gray_level_here_and_there(box: tuple[int, int, int, int]) -> None:
    left, upper, right, lower = box
    for mode in ("RGB", "L"):
        image = Image.fromarray(scene(90, 61)).convert(mode)
        expected = v2.functional.resized_crop(image, upper, left, lower - upper, right - left, [16, 16])
        square = cut(v2.functional.pil_to_tensor(image), box, 16)
        gaps = (square.int() - v2.functional.pil_to_tensor(expected).int()).abs()
        assert square.dtype == torch.uint8
        assert gaps.max() <= 1 and (gaps > 0).float().mean() < 0.05


@pytest.mark.parametrize("turned", [False, True])
def test_each_view_is_torchvisions_random_crop_of_the_upright_photograph(photographs: Files, turned: bool) -> None:
    source = stream(photographs, **CROPS, exif_rotation=turned)
    (sample,) = source.batches([torch.arange(5)], epoch=7)
    crop = v2.RandomResizedCrop(16, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
    for position, path in enumerate(photographs.paths):
        with Image.open(path) as image:
            whole = ImageOps.exif_transpose(image) if turned else image
            for view in range(2):
                torch.manual_seed(seed_for(11, "sample", 7, position, view))
                expected = crop(v2.functional.pil_to_tensor(whole))
                assert torch.equal(sample.images[position, view], expected)
        assert not torch.equal(sample.images[position, 0], sample.images[position, 1])


def test_a_step_has_the_same_batch_with_any_number_of_workers_and_from_any_start(photographs: Files) -> None:
    alone = stream(photographs, **CROPS)
    expected = epoch_of(alone, epoch=4)
    assert len(expected) == 2 and expected[0].images.is_contiguous()
    assert same(epoch_of(alone, epoch=4, start=1), expected[1:])
    assert not same(epoch_of(alone, epoch=5), expected)
    for num_workers in (1, 2):
        workers = stream(photographs, num_workers=num_workers, **CROPS)
        assert same(epoch_of(workers, epoch=4), expected)
        assert same(epoch_of(workers, epoch=4, start=1), expected[1:])


def test_workers_compute_with_one_thread(photographs: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_files._Views, "_centre", lambda *_: torch.tensor([torch.get_num_threads()]))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert [sample.images.tolist() for sample in epoch_of(stream(photographs))] == [[[2], [2]]] * 2
        assert [sample.images.tolist() for sample in epoch_of(stream(photographs, num_workers=1))] == [[[1], [1]]] * 2
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
    assert largest_shrink(boxes, 224) == expected


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
    decoder, shrinks = from_files.decoded_pixels, []

    def spy(*arguments: Any, **given: Any) -> Tensor:
        shrinks.append(given["shrink"])
        return decoder(*arguments, **given)

    monkeypatch.setattr(from_files, "decoded_pixels", spy)
    data = files_of(tmp_path / "0.jpg")
    full, scaled = (
        next(stream(data, **options, **given).batches([torch.tensor([0])], epoch=0)).images
        for given in ({}, {"scaled_decoding": True})
    )
    assert shrinks == [1, shrink]
    assert not torch.equal(full, scaled)
    apart = float((full.double() - scaled.double()).abs().mean())
    shifted = float((full.double() - full.roll(1, -1).double()).abs().mean())
    assert apart < shifted / 2  # of a pixel: edges are rounded to pixels of the shrunk image


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
        configured("folder", **crops, augment__random_resized__scaled_decoding=scaled) for scaled in (False, True)
    )
    full, scaled = (
        next(builders.training_source(config, data, CPU).batches([torch.arange(2)], epoch=0)) for config in (off, on)
    )
    assert torch.equal(full.images[0], scaled.images[0]) and not torch.equal(full.images[1], scaled.images[1])
    full, scaled = (
        next(builders.test_source(config, data, CPU).batches([torch.arange(2)], epoch=0)) for config in (off, on)
    )
    assert torch.equal(full.images, scaled.images)


@pytest.mark.parametrize("orientation", [1, 2, 3, 5, 6, 8])
@pytest.mark.parametrize("size", [(48, 32), (49, 32), (48, 31)])
def test_a_photograph_is_shrunk_by_its_upright_size_if_it_is_not_cut_short_at_the_near_edges(
    tmp_path: Path, orientation: int, size: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[decode.ORIENTATION_TAG] = orientation
    path = saved(tmp_path / "0.jpg", Image.fromarray(scene(*size)), exif=exif)
    assert shrinkable_size(path, exif_rotation=False) == size
    is_possible = orientation == 1 or size == (48, 32)
    assert shrinkable_size(path) == (decoded(path, 3).size if is_possible else None)
    shrunk = decode.decoded_pixels(path, 3, exif_rotation=False, shrink=4)
    assert shrunk.shape == (3, -(-size[1] // 4), -(-size[0] // 4))


# --- colours and rotation ------------------------------------------------------------------------------------------

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


def saved(path: Path, image: Image.Image, **options: Any) -> str:
    image.save(path, **options)
    return str(path)


def repeated(gray: Pixels) -> Pixels:
    return np.repeat(gray[..., None], 3, -1)


def in_8_bits(words: Pixels) -> Pixels:
    return np.rint(words / 257).astype(np.uint8)


def ink(cmyk: Pixels) -> Pixels:
    """Return the light that inks let through: what cyan leaves of red, and black of that."""
    light = 255.0 - cmyk
    return light[..., :3] * light[..., 3:] / 255


CMYK = np.concatenate([RGB, ALPHA[..., None]], -1)

COLOURS: dict[str, tuple[str, Callable[[], Image.Image], dict[str, Any], Pixels]] = {
    "gray": ("png", lambda: Image.fromarray(GRAY), {}, repeated(GRAY)),
    "gray and alpha": ("png", lambda: Image.fromarray(np.stack([GRAY, ALPHA], -1), "LA"), {}, repeated(GRAY)),
    "rgba": ("png", lambda: Image.fromarray(np.dstack([RGB, ALPHA])), {}, RGB),
    "rgba webp": ("webp", lambda: Image.fromarray(np.dstack([RGB, ALPHA])), {"lossless": True, "exact": True}, RGB),
    "rgb with a transparent colour": ("png", lambda: Image.fromarray(RGB), {"transparency": (1, 2, 3)}, RGB),
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
def test_images_of_every_kind_get_their_colours_and_lose_their_alpha(tmp_path: Path, kind: str) -> None:
    suffix, make, options, expected = COLOURS[kind]
    path = saved(tmp_path / f"image.{suffix}", make(), **options)
    rgb = decoded(path, 3)
    assert rgb.mode == "RGB" and rgb.size == (9, 7)
    np.testing.assert_allclose(pixels_of(rgb), expected, atol=1 if kind == "cmyk" else 0)
    gray = decoded(path, 1)
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
        decoded(path, 3)


LYING: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: upright[::-1, ::-1],
    4: np.flipud,
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}
"""How the pixels of an upright image lie in a file of each orientation (EXIF 2.3, Orientation)."""


@pytest.mark.parametrize("orientation", LYING)
@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_photographs_are_turned_as_their_exif_tag_says_unless_told_otherwise(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    exif = Image.Exif()
    exif[decode.ORIENTATION_TAG] = orientation
    lying = np.ascontiguousarray(LYING[orientation](RGB))
    path = saved(tmp_path / f"image.{suffix}", Image.fromarray(lying), exif=exif, lossless=True)
    assert np.array_equal(pixels_of(decoded(path, 3, exif_rotation=True)), RGB)
    assert np.array_equal(pixels_of(decoded(path, 3, exif_rotation=False)), lying)
    gray = pixels_of(Image.fromarray(RGB).convert("L"))
    assert np.array_equal(pixels_of(decoded(path, 1)), gray)


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
        assert decoded(path, 3, exif_rotation=False).size == (20, 10)
        assert decoded(path, 3).size == ((10, 20) if name == "other tag" else (20, 10)), name
        assert shrinkable_size(path, exif_rotation=False) == (20, 10)


def test_only_the_sets_with_published_numbers_leave_photographs_as_they_lie() -> None:
    turned = {name: configured(name).dataset.exif_rotation for name in ("imagenet", "imagenet-v2", "folder")}
    assert turned == {"imagenet": False, "imagenet-v2": False, "folder": True}


# --- evaluation ----------------------------------------------------------------------------------------------------


def odd_jpegs(folder: Path) -> list[Path]:
    """Write 20 JPEG files of odd sizes, kinds and qualities."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    upside_down, lying = Image.Exif(), Image.Exif()
    upside_down[decode.ORIENTATION_TAG], lying[decode.ORIENTATION_TAG] = 3, 6
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
        (131, 97, "RGB", {"exif": lying}),
        (97, 131, "RGB", {"exif": upside_down}),
        (131, 97, "RGB", {"icc_profile": profile}),
        (4111, 61, "RGB", {"restart_marker_rows": 1}),
    ]
    paths = [folder / f"{number}.jpg" for number in range(len(kinds))]
    for number, (path, (width, height, mode, options)) in enumerate(zip(paths, kinds, strict=True)):
        Image.fromarray(scene(width, height, seed=number)).convert(mode).save(path, **options)
    return paths


def centre_rows_first(image: Image.Image, size: int) -> Image.Image:
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
            dataset__image_size=size,
            dataset__exif_rotation=turned,
            dataset__channels=channels,
            dataset__on_bad_image="skip",
            augment__random_resized__scaled_decoding=True,
            **statistics,
        )
        source = builders.test_source(config, files_of(*paths), CPU)
        (sample,) = source.batches([torch.arange(len(paths))], epoch=0)
        for path, found in zip(paths, sample.images, strict=True):
            with Image.open(path) as image:
                whole = ImageOps.exif_transpose(image) if turned else image
                expected = v2.functional.pil_to_tensor(centre_rows_first(whole.convert(mode), size))
                assert torch.equal(found, expected), (path.name, size)


def test_the_centre_is_torchvisions_and_of_tall_images_that_of_pillow_before_13() -> None:
    rng = np.random.default_rng(0)
    sides = [*rng.integers(20, 700, (120, 2)).tolist(), [500, 375], [375, 500], [224, 256], [256, 256], [300, 31]]
    tall_that_differ = 0
    for number, (width, height) in enumerate(sides):
        size, is_gray = (31, 32, 100, 224)[number % 4], number % 3 == 0
        shape = (height, width) if is_gray else (height, width, 3)
        image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
        found = np.asarray(decode.centre_crop(image, size))
        assert np.array_equal(found, centre_rows_first(image, size)), (width, height, size)
        by_torchvision = np.asarray(v2.Compose([v2.Resize(size + 32), v2.CenterCrop(size)])(image))
        difference = np.abs(found.astype(int) - by_torchvision).max()
        assert difference <= (1 if height > width else 0), (width, height, size)
        tall_that_differ += difference > 0
    assert bool(tall_that_differ) == (int(PILLOW_VERSION.split(".")[0]) >= 13)


@pytest.mark.parametrize(("channels", "plain"), [(3, 17), (1, 2)])
def test_plain_jpegs_are_decoded_straight_into_a_tensor_of_pillows_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int, plain: int
) -> None:
    """Of 20 odd files one is CMYK and two are turned; 2 of the plain ones are gray."""
    decoder, straight = decode.decode_jpeg, []

    def spy(*arguments: Any, **given: Any) -> Tensor:
        straight.append(arguments)
        return decoder(*arguments, **given)

    monkeypatch.setattr(decode, "decode_jpeg", spy)
    for path in map(str, odd_jpegs(tmp_path)):
        found = decode.decoded_pixels(path, channels)
        assert torch.equal(found, v2.functional.pil_to_tensor(decoded(path, channels))), path
    assert len(straight) == plain


# --- bad images ----------------------------------------------------------------------------------------------------


@pytest.fixture
def good(tmp_path: Path) -> Path:
    write_images(tmp_path / "good", 1, size=(20, 20))
    return tmp_path / "good" / "0.png"


def bad_files(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"bad{number}.jpg" for number in range(count)]
    for path in paths:
        path.write_bytes(b"\xff\xd8 no photograph")
    return paths


def mixed(good: Path, bad: list[Path], *, total: int) -> Files:
    """Put bad files at every tenth place of a data set."""
    paths = [good] * total
    paths[: 10 * len(bad) : 10] = bad
    return files_of(*paths)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_skipped_images_leave_their_batch_and_are_named_once(
    tmp_path: Path, good: Path, caplog: pytest.LogCaptureFixture, num_workers: int
) -> None:
    bad = bad_files(tmp_path, 2)
    data = mixed(good, bad, total=250)
    source = stream(data, num_workers=num_workers, skip_bad_images=True, **CROPS)
    alone = stream(data, skip_bad_images=True, **CROPS)
    whole = stream(data._replace(paths=(str(good),) * 250), **CROPS)
    with caplog.at_level(logging.WARNING, "agmax"):
        found = epoch_of(source, batch_size=60)
        messages = [record.getMessage() for record in caplog.records]
        again = epoch_of(source, epoch=1, batch_size=60)
    assert len(messages) == 2 == len(caplog.records)
    assert all(sum(str(path) in message for message in messages) == 1 for path in bad)
    assert same(found, epoch_of(alone, batch_size=60))
    assert sum(len(sample.labels) for sample in found) == 248 == sum(len(sample.labels) for sample in again)
    for sample, expected in zip(found, epoch_of(whole, batch_size=60), strict=True):
        kept = ~torch.isin(expected.indices, torch.tensor([0, 10]))
        assert same([sample], [RawBatch(*(column[kept] for column in expected))])


@pytest.mark.parametrize(
    ("num_bad", "total", "is_refused"), [(1, 30, False), (2, 200, False), (2, 199, True), (3, 250, True)]
)
def test_more_than_one_percent_of_bad_images_ends_a_training(
    tmp_path: Path, good: Path, num_bad: int, total: int, is_refused: bool
) -> None:
    bad = bad_files(tmp_path, num_bad)
    source = stream(mixed(good, bad, total=total), skip_bad_images=True)
    batches = sampler.in_order(total, 50)
    if not is_refused:
        assert sum(len(sample.labels) for sample in source.batches(batches, epoch=0)) == total - num_bad
        return
    message = str(error_of(source.batches(batches, epoch=0)))
    assert f"too many images cannot be read ({num_bad} of {total}" in message
    assert all(str(path) in message for path in bad)


@pytest.mark.parametrize(("batch", "left"), [([0], 0), ([0, 5], 1), ([0, 5, 6], 2), ([5], 1)])
def test_of_a_batch_one_image_is_left_twice_and_none_is_an_error(
    tmp_path: Path, good: Path, batch: list[int], left: int
) -> None:
    source = stream(mixed(good, bad_files(tmp_path, 1), total=20), skip_bad_images=True)
    samples = source.batches([torch.tensor(batch)], epoch=0)
    if left:
        sample = next(samples)
        expected = [5, 5] if batch == [0, 5] else [position for position in batch if position]
        assert sample.indices.tolist() == expected and len(sample.images) == len(sample.labels) == len(expected)
        return
    with pytest.raises(DataError, match=r"batch without images .*bad0\.jpg"):
        next(samples)


def test_without_skipping_and_in_evaluations_a_bad_image_is_an_error(tmp_path: Path, good: Path) -> None:
    data = mixed(good, bad_files(tmp_path, 1), total=20)
    skipping = configured("folder", dataset__on_bad_image="skip", dataset__image_size=16)
    assert configured("folder").dataset.on_bad_image == "error"
    for source in (
        builders.training_source(configured("folder", dataset__image_size=16), data, CPU),
        builders.test_source(skipping, data, CPU),
    ):
        with pytest.raises(DataError, match=r"image cannot be read .*bad0\.jpg"):
            list(source.batches([torch.arange(20)], epoch=0))
    (sample,) = builders.training_source(skipping, data, CPU).batches([torch.arange(20)], epoch=0)
    assert len(sample.labels) == 19


SMALL = ("dataset.image_size=8", "train.batch_size=5", "train.epochs=2", "train.num_workers=0", "augment.crop=none")


def test_a_training_counts_the_images_it_has_seen_and_logs_a_bad_one_once(
    run: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path / "data", ["a", "b"], {"train": 5, "val": 2}, size=(9, 9))
    (tmp_path / "data" / "train" / "b" / "3.png").write_bytes(b"")
    seen, finish = [], Trainer.finish_epoch

    def spy(self: Trainer, *, seconds: float, num_images: int) -> None:
        seen.append((num_images, self.sums["num_images"]))
        finish(self, seconds=seconds, num_images=num_images)

    monkeypatch.setattr(Trainer, "finish_epoch", spy)
    words = ("--config=ResNet8", "--train", "--dataset=folder", "dataset.root=data", *SMALL)
    answer = run(*words, "dataset.on_bad_image=skip", "--json")
    assert answer.status == 0, answer.err
    assert seen == [(9, 9), (9, 9)]
    log = (tmp_path / answer.json["run_folder"] / "train.log").read_text()
    assert log.count("skipped: image cannot be read") == 1 and str(Path("b") / "3.png") in log
    failed = run(*words)
    assert failed.status == 3 and str(Path("train") / "b" / "3.png") in failed.err


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize("side", [20_000, 10_000])
def test_a_small_file_of_a_huge_image_is_refused_by_its_header(tmp_path: Path, side: int) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    content = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )
    assert len(content) < 200
    (tmp_path / "bomb.png").write_bytes(content)
    source = stream(files_of(tmp_path / "bomb.png"), **CROPS, scaled_decoding=True)
    with pytest.raises(DataError, match=r"bomb\.png.*decompression bomb"):
        next(source.batches([torch.tensor([0])], epoch=0))


def test_the_shadow_files_of_a_mac_are_not_listed(tmp_path: Path) -> None:
    write_tree(tmp_path, ["a", "b"], {"train": 2, "val": 1}, size=(8, 8))
    (tmp_path / "train" / "a" / "._0.jpg").write_bytes(b"\0\5\x16\7 Mac OS X")
    data = datasets.load("folder", str(tmp_path), split="train", test_share=0.2)
    assert isinstance(data, Files)
    assert [Path(path).name for path in data.paths] == ["0.png", "1.png"] * 2


# --- errors of our own ---------------------------------------------------------------------------------------------


def raising(error: BaseException) -> Callable[..., Any]:
    def broken(*_: object, **__: object) -> None:
        raise error

    return broken


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("skip", [False, True])
def test_a_bug_in_the_cutting_names_the_file_and_the_operation_and_is_never_skipped(
    photographs: Files, monkeypatch: pytest.MonkeyPatch, num_workers: int, skip: bool
) -> None:
    monkeypatch.setattr(from_files, "cut", raising(ZeroDivisionError("by\nzero")))
    source = stream(photographs, num_workers=num_workers, skip_bad_images=skip, **CROPS)
    error = error_of(source.batches([torch.tensor([3, 1])], epoch=0))
    why = r"crop raised ZeroDivisionError: by\nzero"
    assert str(error) == f"image cannot be cut ({photographs.paths[3]}): {why}"
    assert error.__notes__ == [f"raised in {__file__}, line {raising.__code__.co_firstlineno + 2}, broken"]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bug_in_the_decoding_names_the_file_and_the_operation(
    photographs: Files, monkeypatch: pytest.MonkeyPatch, num_workers: int
) -> None:
    monkeypatch.setattr(decode, "_in_8_bits", raising(KeyError("plug-in")))
    source = stream(photographs, num_workers=num_workers)
    error = error_of(source.batches([torch.tensor([2])], epoch=0))
    why = "decode raised KeyError: 'plug-in'"
    assert str(error).startswith(f"image cannot be read ({photographs.paths[2]}): {why}. Replace or remove it")
    assert error.__notes__ == [f"raised in {__file__}, line {raising.__code__.co_firstlineno + 2}, broken"]


def test_a_bug_in_a_worker_is_one_message_and_with_debug_one_traceback(
    run: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path / "data", ["a", "b"], {"train": 4, "val": 1}, size=(9, 9))
    monkeypatch.setattr(from_files, "centre_crop", raising(ValueError("a bug")))
    words = ("--config=ResNet8", "--train", "--dataset=folder", "dataset.root=data", *SMALL, "train.num_workers=2")
    for debug in ((), ("--debug",)):
        answer = run(*words, *debug)
        assert answer.status == 3
        assert answer.err.count("error: image cannot be cut") == 1
        assert answer.err.count("Traceback") == len(debug) == answer.err.count(f"raised in {__file__}")


@pytest.mark.parametrize(
    ("raised", "seen"),
    [(MemoryError, ResourceError), (KeyboardInterrupt, KeyboardInterrupt)],
    ids=lambda kind: kind.__name__,
)
@pytest.mark.parametrize("operation", ["decode", "crop"])
def test_a_full_memory_and_an_interrupt_are_not_taken_for_bad_images(
    photographs: Files,
    monkeypatch: pytest.MonkeyPatch,
    raised: type[BaseException],
    seen: type[BaseException],
    operation: str,
) -> None:
    module, name = (decode, "decode_jpeg") if operation == "decode" else (from_files, "cut")
    monkeypatch.setattr(module, name, raising(raised()))
    for num_workers in (0, 1) if raised is MemoryError else (0,):
        source = stream(photographs, num_workers=num_workers, skip_bad_images=True, **CROPS)
        assert type(error_of(source.batches([torch.tensor([0])], epoch=0), seen)) is seen


def test_too_many_open_files_are_named(photographs: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    message = "Too many open files. Communication with the workers is no longer possible."
    monkeypatch.setattr(from_files, "_collate", raising(RuntimeError(message)))
    source = stream(photographs, **CROPS)
    assert "ulimit -n" in str(error_of(source.batches([torch.tensor([0])], epoch=0), ResourceError))


@pytest.mark.parametrize("orientation", [0, 9, 300])
def test_an_exif_orientation_that_does_not_exist_is_upright_with_and_without_scaled_decoding(
    tmp_path: Path, orientation: int
) -> None:
    exif = Image.Exif()
    exif[decode.ORIENTATION_TAG] = orientation
    path = saved(tmp_path / "0.jpg", Image.new("RGB", (160, 40), "white"), exif=exif, quality=100)
    assert shrinkable_size(path) == decoded(path, 3).size == (160, 40)
    views = next(
        stream(files_of(Path(path)), **{**CROPS, "num_views": 8}, scaled_decoding=True).batches(
            [torch.tensor([0])], epoch=0
        )
    )
    assert views.images.min() == 255


def test_a_file_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow looks for the EXIF data of a PNG behind its pixels."""
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
        source = stream(files_of(Path(path)), **CROPS, scaled_decoding=scaled)
        next(source.batches([torch.tensor([0])], epoch=0))
        assert len(loads) == 1, name


@pytest.fixture
def soon_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the loader look for dead workers every 0.2 seconds instead of every five."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.2,))


@pytest.mark.usefixtures("soon_noticed")
def test_an_image_that_kills_its_worker_ends_with_8(
    run: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path / "data", ["a", "b"], {"train": 4, "val": 1}, size=(9, 9))
    main_process = os.getpid()

    def deadly(image: Image.Image, size: int) -> None:
        assert os.getpid() != main_process
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(from_files, "centre_crop", deadly)
    words = ("--config=ResNet8", "--train", "--dataset=folder", "dataset.root=data", *SMALL, "train.num_workers=2")
    answer = run(*words)
    assert answer.status == ResourceError.exit_code == 8
    assert "error: a data worker was killed (often out of memory)" in answer.err
    assert "Lower train.num_workers" in answer.err and "Traceback" not in answer.err


@pytest.mark.usefixtures("soon_noticed")
def test_a_worker_that_dies_is_told_where_a_batch_is_taken_and_nowhere_else(photographs: Files) -> None:
    source = stream(photographs, num_workers=1)
    samples = source.batches([torch.arange(5)] * 9, epoch=0)
    next(samples)
    (worker,) = source._loader._iterator._workers
    os.kill(worker.pid, signal.SIGKILL)
    time.sleep(0.2)  # here the main process computes or saves
    with pytest.raises(ResourceError, match=rf"a data worker was killed.*{worker.pid}"):
        list(samples)


def test_another_runtime_error_keeps_its_type(photographs: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_files, "default_collate", raising(RuntimeError("no space left")))
    with pytest.raises(RuntimeError, match="no space left"):
        epoch_of(stream(photographs))


# --- copies ahead --------------------------------------------------------------------------------------------------


def samples_of(closed: list[bool], count: int = 4) -> Iterator[RawBatch]:
    try:
        for number in range(count):
            images = torch.full((2, 3, 4, 4), number, dtype=torch.uint8)
            yield RawBatch(images, torch.tensor([number, 7]), torch.tensor([number, number]))
    finally:
        closed.append(True)


def test_a_cpu_gets_the_very_samples_in_their_order() -> None:
    given = list(samples_of([]))
    assert [id(sample) for sample in copied_ahead(iter(given), CPU)] == [id(sample) for sample in given]


def test_who_stops_early_ends_the_samples_too() -> None:
    closed: list[bool] = []
    with closing(copied_ahead(samples_of(closed), CPU)) as samples:
        assert next(samples).indices.tolist() == [0, 0]
        assert not closed
    assert closed == [True]


def test_a_training_that_fails_ends_its_samples_while_the_error_is_still_on_its_way(
    run: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[bool] = []

    class Failed(Exception):
        pass

    def closable(self: object, batches: list[Tensor], *, epoch: int) -> Iterator[RawBatch]:
        return samples_of(closed)

    monkeypatch.setattr(builders.images.Resident, "batches", closable)
    monkeypatch.setattr(Trainer, "train_step", raising(Failed()))
    monkeypatch.setattr(loop, "tqdm", lambda *words, **options: tqdm(*words, **{**options, "disable": False}))
    with pytest.raises(Failed) as failure:
        run("--config=ResNet8", "--train", "--dataset=digits", "dataset.train_limit=20", "dataset.image_size=8")
    assert failure.value.__traceback__ is not None and closed == [True]
