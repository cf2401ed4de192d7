"""Time augmentation pipelines and single transforms, together with other programs."""

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
"""Image size and batch size of most rows, as for CIFAR."""

LARGE = 224, 64
"""Image size and batch size of the rows as for ImageNet."""

NUM_PER_IMAGE = {32: 64, 224: 16}
"""Image size -> number of images for programs that work per image; their speed does not depend on it."""

PARTS: dict[str, Callable[[int], Callable[..., Tensor]]] = {
    "crop": lambda size: RandomCrop(4),
    "flip": lambda size: RandomHorizontalFlip(),
    "auto_augment": lambda size: AutoAugment("cifar10" if size <= 64 else "imagenet"),
    "rand_augment": lambda size: RandAugment(),
    "trivial_augment": lambda size: TrivialAugmentWide(),
    "color_jitter": lambda size: ColorJitter(0.4, 0.4, 0.4),
    "normalize": lambda size: _normalize,
    "pca_lighting": lambda size: PCALighting(0.1, image_std=other_programs.STD),
    "cutout": lambda size: CutOut(),
    "random_erasing": lambda size: RandomErasing(),
}
"""Word of the configuration -> transform for an image size, for the parts that can be timed alone."""

ON_FLOATS = ("pca_lighting", "cutout", "random_erasing")
"""Parts that transform normalized images."""

PIPELINE_ONLY: dict[str, tuple[Sequence[Transform], dict[str, Any]]] = {
    "soft_crop": ([SoftCrop()], {"softening": Softening()}),
    "soft_cutout": ([CutOut()], {"softening": Softening()}),
    "soft_random_erasing": ([RandomErasing()], {"softening": Softening()}),
    **{word: ([], {"mix": mix()}) for word, mix in MIXES.items()},
}
"""Parts that also change targets -> transforms and settings of a pipeline."""

SMALL_PIPELINES = (
    "crop-flip-normalize",
    "crop-flip-normalize-cutout",
    "crop-flip-auto_augment-normalize",
    "crop-flip-auto_augment-normalize-cutout",
    "crop-flip-rand_augment-normalize",
    "crop-flip-trivial_augment-normalize",
)
LARGE_PIPELINES = (
    "flip-color_jitter-normalize-pca_lighting",
    "flip-auto_augment-color_jitter-normalize-pca_lighting-cutout",
)

Row = tuple[str, int, int]

ROWS: tuple[Row, ...] = (
    *((word, *SMALL) for word in PARTS),
    *((f"normalize-{word}", *SMALL) for word in PIPELINE_ONLY),
    *((pipeline, *SMALL) for pipeline in SMALL_PIPELINES),
    *((pipeline, *LARGE) for pipeline in LARGE_PIPELINES),
)
"""Pipelines on images in memory: words, image size, batch size."""

ROWS_ON_GPU: tuple[Row, ...] = (
    *((pipeline, size, 1024) for pipeline, size, _ in ROWS if size == SMALL[0]),
    *((pipeline, LARGE[0], 256) for pipeline in (*SMALL_PIPELINES, *LARGE_PIPELINES)),
)
"""Pipelines that are timed on a GPU, with larger batches."""


def run(*, report: Callable[[str], None]) -> dict[str, Any]:
    """Time all rows, on a GPU if one is visible, and return `rows`; `report` is called with each row as text."""
    device = devices.choose_device("auto")
    rows = []
    for row in _rows_on_gpu(device) if device.type == "cuda" else _rows_on_cpu():
        rows.append(row)
        report(format_row(row))
    return {"rows": rows, "versions": other_programs.versions(), "device": devices.machine(device, None)}


def _rows_on_cpu() -> Iterator[dict[str, Any]]:
    """Time all rows on one thread and on all threads; rows from files on one thread."""
    num_threads = torch.get_num_threads()
    try:
        for threads in sorted({1, num_threads}):
            torch.set_num_threads(threads)
            for pipeline, size, batch_size in ROWS:
                yield _row(pipeline, photographs(batch_size, size, size), threads)
        yield from _rows_from_files()
    finally:
        torch.set_num_threads(num_threads)


def _rows_on_gpu(device: torch.device) -> Iterator[dict[str, Any]]:
    """Time all rows on images on the GPU; programs that work per image use all threads of the CPU."""
    images = torch.empty(0)
    for pipeline, size, batch_size in ROWS_ON_GPU:
        if images.shape[-1] != size or len(images) != batch_size:
            images = photographs(batch_size, size, size).to(device)
        yield _row(pipeline, images, torch.get_num_threads())


def format_row(row: dict[str, Any]) -> str:
    """Return a row as a line of text."""
    others = "  ".join(f"{name} {speed:,.0f}" for name, speed in row["others"].items())
    beside = f"{row['ratio']:6.1f} x {row['per_image_views_per_second']:9,.0f}" if row["ratio"] else " " * 18
    threads = f"{row['threads']} thread{'s' if row['threads'] > 1 else ' '}"
    where = f"{row['image_size']:>4} px  {threads if row['device'] == 'cpu' else row['device']}"
    return f"{row['pipeline']:<64} {where} {row['views_per_second']:12,.0f} = {beside}   {others}".rstrip()


def _row(pipeline: str, images: Tensor, threads: int) -> dict[str, Any]:
    words = pipeline.split("-")
    programs = {"ours": _own_program(words, images)} | _other_programs(words, images)
    return time_programs(pipeline, images.shape[-1], len(images), threads, programs, device=images.device)


def _own_program(words: Sequence[str], images: Tensor) -> tuple[Work, int]:
    """Return our pipeline, called as in training, or a single transform, with the number of images."""
    size, count = images.shape[-1], len(images)
    if len(words) == 1:
        part: Any = PARTS[words[0]](size)
        if part is _normalize:
            return lambda step: part(images), count
        inputs = _normalize(images) if words[0] in ON_FLOATS else images
        return lambda step: part.apply_(inputs, *part.draw(count, inputs.shape[1:], Key(0, step))), count
    pipeline, labels = _pipeline(words, size, num_views=1), _labels(images)
    return lambda step: pipeline(images, labels, key=Key(0, step)), count


def _pipeline(words: Sequence[str], size: int, *, num_views: int) -> Pipeline:
    parts: list[Any] = [PARTS[word](size) for word in words if word in PARTS and word != "normalize"]
    settings: dict[str, Any] = {}
    for word in words:
        if word in PIPELINE_ONLY:
            parts += PIPELINE_ONLY[word][0]
            settings |= PIPELINE_ONLY[word][1]
    return Pipeline(
        *parts, mean=other_programs.MEAN, std=other_programs.STD, num_classes=10, num_views=num_views, **settings
    )


def _other_programs(words: Sequence[str], images: Tensor) -> dict[str, tuple[Work, int]]:
    """Return the other programs that can do the same, with their numbers of images."""
    size, programs = images.shape[-1], {}
    if set(words) <= set(PARTS):
        few = images[: NUM_PER_IMAGE[size]].cpu()
        on_floats = len(words) == 1 and words[0] in ON_FLOATS
        inputs: list[Any] = list(_normalize(few)) if on_floats else other_programs.pil_images(few)
        programs["torchvision PIL per image"] = _each(
            other_programs.torchvision_per_image(words, size=size, from_pil=True), inputs
        )
        if not on_floats:
            change = other_programs.torchvision_per_image(words, size=size, from_pil=False)
            programs["torchvision tensors per image"] = _each(change, list(few))
        policy = other_programs.timm_policy(words[0]) if len(words) == 1 else None
        if policy is not None:
            note = " (ImageNet's policy)" if words[0] == "auto_augment" else ""
            programs[f"timm PIL per image{note}"] = _each(policy, inputs)
    mix = other_programs.torchvision_mixer(words[-1])
    if mix is not None:
        labels = _labels(images)
        programs["torchvision batched"] = (lambda step: mix(_normalize(images), labels), len(images))
    floats = images.float() / 255
    batched = other_programs.kornia_batched(words, size=size)
    if batched is not None and _runs_on(batched, floats):
        note = ", one choice a batch" if any(word in transforms.POLICIES for word in words) else ""
        programs[f"kornia batched{note}"] = (lambda step: batched(floats), len(images))
    return programs


def _each(change: other_programs.Change, images: list[Any]) -> tuple[Work, int]:
    return (lambda step: [change(image) for image in images]), len(images)


def _runs_on(program: torch.nn.Module, images: Tensor) -> bool:
    """Return whether another program runs on the images' device; log why not."""
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
    """Time two views of 224x224 pixels of each JPEG file (500x375), on one thread as in a data worker.

    The first row is the work of the data workers, with the full pipelines of PIL for comparison. The other rows are
    full pipelines, with the part that training runs on the device.
    """
    size, start = LARGE[0], "decode-random_resized"
    with jpeg_files(16) as paths, one_thread():
        data = FileDataset(tuple(map(str, paths)), torch.zeros(len(paths), dtype=torch.int64), ("photo",))
        typed = [("train.num_workers", 0), ("dataset.num_classes", 2)]
        settings = [Setting(key, value, "the benchmark") for key, value in typed]
        config = resolve("ResNet50-two_views", dataset="imagenet", settings=settings).config
        loader = builders.training_loader(config, data, torch.device("cpu"))
        batches, num_views = [torch.arange(len(paths))], 2 * len(paths)

        def own_program(pipeline: Pipeline | None) -> Work:
            def work(step: int) -> None:
                for raw in loader.batches(batches, epoch=step):
                    if pipeline is not None:
                        pipeline(raw.images, raw.labels, key=Key(0, step))

            return work

        pipelines = [pipeline.split("-") for pipeline, image_size, _ in ROWS if image_size == size]
        in_pil = {
            "-".join([start, *words]): _two_views(
                other_programs.torchvision_per_image(("random_resized", *words), size=size, from_pil=True), paths
            )
            for words in ([], *pipelines)
        }
        others = {f"torchvision PIL per image, {name}": program for name, program in in_pil.items() if name != start}
        programs = {"ours": (own_program(None), num_views), "torchvision PIL per image": in_pil[start], **others}
        yield time_programs(start, size, len(paths), 1, programs)
        for words in pipelines:
            name = "-".join([start, *words])
            ours = (own_program(_pipeline(words, size, num_views=2)), num_views)
            yield time_programs(name, size, len(paths), 1, {"ours": ours, "torchvision PIL per image": in_pil[name]})


def _two_views(change: other_programs.Change, paths: Sequence[Path]) -> tuple[Work, int]:
    """Return the work of a data set that decodes each file once and transforms the image twice."""

    def work(step: int) -> None:
        for path in paths:
            with Image.open(path) as file:
                image = file.convert("RGB")
            change(image), change(image)

    return work, 2 * len(paths)
