"""Write small image files in folders of classes."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def write_images(
    folder: Path, count: int, *, size: tuple[int, int] = (40, 40), seed: int = 0, mode: str = "RGB"
) -> None:
    """Write `count` PNG files of random pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(folder / f"{number}.png")


def write_tree(root: Path, classes: list[str], splits: dict[str, int], **options: Any) -> Path:
    """Write <root>/<split>/<class>/<n>.png; `splits` maps a split to its images in each class."""
    for split, count in splits.items():
        for label, name in enumerate(classes):
            write_images(root / split / name, count, seed=label + 100 * len(split), **options)
    return root
