"""Time an evaluation from JPEG files together with timm's: the loader alone, and the complete evaluation."""

from collections.abc import Callable
from typing import Any

import torch

from agmax import builders
from agmax.augment.color import normalize
from agmax.benchmarks import other_programs
from agmax.benchmarks.files import jpeg_files
from agmax.benchmarks.timing import Work, alternate
from agmax.config.resolve import Setting, resolve
from agmax.core import devices
from agmax.data.sampler import sequential_batches
from agmax.data.splits import FileDataset

NUM_IMAGES, REPEATS = 2000, 5
NETWORK = "ResNet50"


def run(*, report: Callable[[str], None]) -> dict[str, Any]:
    """Time both programs in turn with the same files, workers, network and dtype, and return `rows`.

    `report` is called with each row as text.
    """
    typed = {"dataset.num_classes": 1000, "evaluation.precision": "auto"}
    settings = [Setting(key, value, "the benchmark") for key, value in typed.items()]
    config = resolve(NETWORK, dataset="imagenet", settings=settings).config
    device = devices.choose_device(config.train.device)
    num_workers, batch_size = devices.num_workers(config.train.num_workers), config.evaluation.batch_size
    dtype = devices.autocast_dtype(config.evaluation.precision, device)
    devices.keep_freed_memory()  # as --eval does; both programs profit
    classifier = builders.model(config).to(device)
    rows = []
    with jpeg_files(NUM_IMAGES) as paths:
        data = FileDataset(tuple(map(str, paths)), torch.zeros(len(paths), dtype=torch.int64), ("photo",))
        loader = builders.test_loader(config, data, device)
        timm_loader = other_programs.timm_loader(
            paths[0].parent,
            image_size=config.test_image_size,
            batch_size=batch_size,
            num_workers=num_workers,
            device=device,
        )
        mean, std = (torch.tensor(values, device=device) for values in config.normalization)

        def load(call: int) -> None:
            batches = loader.batches(sequential_batches(len(loader), batch_size), epoch=0)
            for raw in devices.prefetch(batches, device):
                normalize(raw.images, mean, std)

        evaluator = builders.evaluator(config, classifier, data, device)
        programs: dict[str, tuple[Work, Work]] = {
            "loader": (load, lambda call: [None for _ in timm_loader]),
            "evaluation": (
                lambda call: evaluator(),
                lambda call: other_programs.timm_evaluation(timm_loader, classifier.backbone, dtype),
            ),
        }
        for what, (ours, timms) in programs.items():
            ours(0), timms(0)  # warm-up: start the workers, allocate memory
            both = {"ours": (ours, len(paths), 1), "timm": (timms, len(paths), 1)}
            speeds = alternate(both, REPEATS, device=device)
            row = {"what": what, "images_per_second": speeds["ours"], "timm_images_per_second": speeds["timm"]}
            rows.append(row | {"ratio": speeds["ours"] / speeds["timm"]})
            report(format_row(rows[-1]))
    about = {"network": NETWORK, "num_images": NUM_IMAGES, "num_workers": num_workers, "batch_size": batch_size}
    return {
        "rows": rows,
        **about,
        "versions": other_programs.versions(),
        "device": devices.machine(device, dtype),
    }


def format_row(row: dict[str, Any]) -> str:
    """Return a row as a line of text."""
    ours, timms = row["images_per_second"], row["timm_images_per_second"]
    return f"{row['what']:<10} {ours:8.1f} images a second = {row['ratio']:.2f} x {timms:8.1f} of timm"
