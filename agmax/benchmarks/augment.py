"""Time the augmentation pipeline, its parts and wholes, beside other programs' in the same run."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from agmax import builders
from agmax.augment import (
    AutoAugment,
    ColorJitter,
    CutOut,
    Key,
    PCALighting,
    Pipeline,
    RandAugment,
    RandomCrop,
    RandomErasing,
    RandomHorizontalFlip,
    SoftCrop,
    Softening,
    Transform,
    TrivialAugmentWide,
    color,
    transforms,
)
from agmax.augment.mixing import MIXES
from agmax.benchmarks import other_programs
from agmax.benchmarks.files import jpeg_files, photographs
from agmax.benchmarks.timing import Work, one_thread, time_programs
from agmax.config.resolve import Setting, resolve
from agmax.core import devices
from agmax.core.logs import log
from agmax.data.splits import FileDataset

SMALL = 32, 256
"""Image size and batch size of most rows: CIFAR's."""

LARGE = 224, 64
"""Those of ImageNet's rows."""

NUM_PER_IMAGE = {32: 64, 224: 16}
"""Images, by their size, for programs that take one after another; what they take does not depend on the batch."""

PARTS: dict[str, Callable[[int], Callable[..., Tensor]]] = {
    "crop": lambda size: RandomCrop(4),
    "flip": lambda size: RandomHorizontalFlip(),
    "auto_augment": lambda size: AutoAugment("cifar10" if size <= 64 else "imagenet"),
    "rand_augment": lambda size: RandAugment(),
    "trivial_augment": lambda size: TrivialAugmentWide(),
    "color_jitter": lambda size: ColorJitter(0.4, 0.4, 0.4),
    "normalize": lambda size: _normalize,
    "lighting": lambda size: PCALighting(0.1, image_std=other_programs.STD),
    "cutout": lambda size: CutOut(),
    "random_erasing": lambda size: RandomErasing(),
}
"""The parts that can be timed alone, by the words of the configuration; each is made for images of a size."""

ON_FLOATS = ("lighting", "cutout", "random_erasing")

WHOLE_ONLY: dict[str, tuple[Sequence[Transform], dict[str, Any]]] = {
    "soft_crop": ([SoftCrop()], {"softening": Softening()}),
    "soft_cutout": ([CutOut()], {"softening": Softening()}),
    "soft_random_erasing": ([RandomErasing()], {"softening": Softening()}),
    **{word: ([], {"mix": mix()}) for word, mix in MIXES.items()},
}
"""Those that change targets too, as transforms and settings of a pipeline."""

WHOLES = (
    "crop-flip-normalize",
    "crop-flip-normalize-cutout",
    "crop-flip-auto_augment-normalize",
    "crop-flip-auto_augment-normalize-cutout",
    "crop-flip-rand_augment-normalize",
    "crop-flip-trivial_augment-normalize",
)
OF_IMAGENET = ("flip-color_jitter-normalize-lighting", "flip-auto_augment-color_jitter-normalize-lighting-cutout")

Row = tuple[str, int, int]

ROWS: tuple[Row, ...] = (
    *((word, *SMALL) for word in PARTS),
    *((f"normalise-{word}", *SMALL) for word in WHOLE_ONLY),
    *((whole, *SMALL) for whole in WHOLES),
    *((whole, *LARGE) for whole in OF_IMAGENET),
)
"""Pipelines on images in memory, with image and batch size."""

ROWS_ON_GPU: tuple[Row, ...] = (
    *((pipeline, size, 1024) for pipeline, size, _ in ROWS if size == SMALL[0]),
    *((whole, LARGE[0], 256) for whole in (*WHOLES, *OF_IMAGENET)),
)
"""Those that a GPU is timed with, the batches as large as it is given them."""


def run(*, say: Callable[[str], None]) -> dict[str, Any]:
    """Time every row, on a GPU where one is visible, and return `rows`; `say` hears the progress."""
    device = devices.choose_device("auto")
    rows = []
    for row in _rows_on_gpu(device) if device.type == "cuda" else _rows_on_cpu():
        rows.append(row)
        say(line(row))
    return {"rows": rows, "versions": other_programs.versions(), "device": devices.machine(device, None)}


def _rows_on_cpu() -> Iterator[dict[str, Any]]:
    """Time every row on one thread and on all, files on one."""
    most = torch.get_num_threads()
    try:
        for threads in sorted({1, most}):
            torch.set_num_threads(threads)
            for pipeline, size, batch_size in ROWS:
                yield _row(pipeline, photographs(batch_size, size, size), threads)
        yield from _rows_from_files()
    finally:
        torch.set_num_threads(most)


def _rows_on_gpu(device: torch.device) -> Iterator[dict[str, Any]]:
    """Time every row on images that lie on the device already; what works per image has all threads of the CPU."""
    images = torch.empty(0)
    for pipeline, size, batch_size in ROWS_ON_GPU:
        if images.shape[-1] != size or len(images) != batch_size:
            images = photographs(batch_size, size, size).to(device)
        yield _row(pipeline, images, torch.get_num_threads())


def line(row: dict[str, Any]) -> str:
    """Return a row as text."""
    others = "  ".join(f"{name} {speed:,.0f}" for name, speed in row["others"].items())
    beside = f"{row['ratio']:6.1f} x {row['per_image_views_per_second']:9,.0f}" if row["ratio"] else " " * 18
    threads = f"{row['threads']} thread{'s' if row['threads'] > 1 else ' '}"
    where = f"{row['image_size']:>4} px  {threads if row['device'] == 'cpu' else row['device']}"
    return f"{row['pipeline']:<64} {where} {row['views_per_second']:12,.0f} = {beside}   {others}".rstrip()


def _row(pipeline: str, images: Tensor, threads: int) -> dict[str, Any]:
    words = pipeline.split("-")
    programs = {"ours": _own(words, images)} | _others(words, images)
    return time_programs(pipeline, images.shape[-1], len(images), threads, programs, device=images.device)


def _own(words: Sequence[str], images: Tensor) -> tuple[Work, int]:
    """Return the work of our pipeline: a whole one as training calls it, or one slot alone."""
    size, count = images.shape[-1], len(images)
    if len(words) == 1:
        part: Any = PARTS[words[0]](size)
        if part is _normalize:
            return lambda step: part(images), count
        given = _normalize(images) if words[0] in ON_FLOATS else images
        return lambda step: part.apply_(given, *part.draw(count, given.shape[1:], Key(0, step))), count
    make, labels = _pipeline(words, size, num_views=1), _labels(images)
    return lambda step: make(images, labels, key=Key(0, step)), count


def _pipeline(words: Sequence[str], size: int, *, num_views: int) -> Pipeline:
    parts: list[Any] = [PARTS[word](size) for word in words if word in PARTS and word != "normalize"]
    more: dict[str, Any] = {}
    for word in words:
        if word in WHOLE_ONLY:
            parts += WHOLE_ONLY[word][0]
            more |= WHOLE_ONLY[word][1]
    return Pipeline(
        *parts, mean=other_programs.MEAN, std=other_programs.STD, num_classes=10, num_views=num_views, **more
    )


def _others(words: Sequence[str], images: Tensor) -> dict[str, tuple[Work, int]]:
    """Return what other programs can do of the same."""
    size, found = images.shape[-1], {}
    if set(words) <= set(PARTS):
        few = images[: NUM_PER_IMAGE[size]].cpu()
        on_floats = len(words) == 1 and words[0] in ON_FLOATS
        given: list[Any] = list(_normalize(few)) if on_floats else other_programs.pil_images(few)
        found["torchvision PIL per image"] = _each(
            other_programs.torchvision_per_image(words, size=size, from_pil=True), given
        )
        if not on_floats:
            change = other_programs.torchvision_per_image(words, size=size, from_pil=False)
            found["torchvision tensors per image"] = _each(change, list(few))
        policy = other_programs.timm_policy(words[0]) if len(words) == 1 else None
        if policy is not None:
            table = " (ImageNet's table)" if words[0] == "auto_augment" else ""
            found[f"timm PIL per image{table}"] = _each(policy, given)
    mix = other_programs.torchvision_mixer(words[-1])
    if mix is not None:
        labels = _labels(images)
        found["torchvision batched"] = (lambda step: mix(_normalize(images), labels), len(images))
    floats = images.float() / 255
    batched = other_programs.kornia_batched(words, size=size)
    if batched is not None and _runs_on(batched, floats):
        one = ", one choice a batch" if any(word in transforms.POLICIES for word in words) else ""
        found[f"kornia batched{one}"] = (lambda step: batched(floats), len(images))
    return found


def _each(change: other_programs.Change, images: list[Any]) -> tuple[Work, int]:
    return (lambda step: [change(image) for image in images]), len(images)


def _runs_on(program: torch.nn.Module, images: Tensor) -> bool:
    """Tell whether another program can do its work on the images' device, saying why not."""
    try:
        program.to(images.device)(images)
    except (RuntimeError, TypeError, ValueError) as error:
        log.warning("left out: %s: %s", program, error)
        return False
    return True


def _labels(images: Tensor) -> Tensor:
    return torch.arange(len(images), device=images.device) % 10


def _normalize(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values, device=images.device) for values in (other_programs.MEAN, other_programs.STD))
    return color.normalize(images, mean, std)


# --- from files -----------------------------------------------------------------------------------------------------


def _rows_from_files() -> Iterator[dict[str, Any]]:
    """Time JPEG files of 500x375 pixels, of each two views of 224x224, on one thread as a data worker has it.

    First what the workers do, beside what whole pipelines take in PIL; then whole pipelines, the device's part too.
    """
    size, start = LARGE[0], "decode-random_resized"
    with jpeg_files(16) as paths, one_thread():
        data = FileDataset(tuple(map(str, paths)), torch.zeros(len(paths), dtype=torch.int64), ("photo",))
        typed = [("train.num_workers", 0), ("dataset.num_classes", 2)]
        settings = [Setting(key, value, "the benchmark") for key, value in typed]
        config = resolve("ResNet50-two_views", dataset="imagenet", settings=settings).config
        source = builders.training_loader(config, data, torch.device("cpu"))
        positions, num_views = [torch.arange(len(paths))], 2 * len(paths)

        def ours(make: Pipeline | None) -> Work:
            def work(step: int) -> None:
                for sample in source.batches(positions, epoch=step):
                    if make is not None:
                        make(sample.images, sample.labels, key=Key(0, step))

            return work

        wholes = [pipeline.split("-") for pipeline, image_size, _ in ROWS if image_size == size]
        in_pil = {
            "-".join([start, *words]): _two_views(
                other_programs.torchvision_per_image(("random_resized", *words), size=size, from_pil=True), paths
            )
            for words in ([], *wholes)
        }
        beside = {f"torchvision PIL per image, {name}": program for name, program in in_pil.items() if name != start}
        programs = {"ours": (ours(None), num_views), "torchvision PIL per image": in_pil[start], **beside}
        yield time_programs(start, size, len(paths), 1, programs)
        for words in wholes:
            name = "-".join([start, *words])
            whole = (ours(_pipeline(words, size, num_views=2)), num_views)
            yield time_programs(name, size, len(paths), 1, {"ours": whole, "torchvision PIL per image": in_pil[name]})


def _two_views(change: other_programs.Change, paths: Sequence[Path]) -> tuple[Work, int]:
    """Return the work of a data set that decodes a file once and transforms the image twice."""

    def work(step: int) -> None:
        for path in paths:
            with Image.open(path) as file:
                image = file.convert("RGB")
            change(image), change(image)

    return work, 2 * len(paths)
