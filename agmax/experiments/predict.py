"""Classify image files with a trained model."""

import csv
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import torch
from timm.data import ImageNetInfo
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from tqdm import tqdm

from agmax.core.errors import DataError
from agmax.data.decode import UnreadableError, open_image
from agmax.data.folders import list_images

if TYPE_CHECKING:
    from agmax.experiments.model import Model


class FilePrediction(NamedTuple):
    """The most probable classes of a file, in descending order."""

    path: str
    classes: list[str]
    probabilities: list[float]


class FilePredictions(NamedTuple):
    """The predictions for all readable files, and the unreadable ones."""

    readable: list[FilePrediction]
    unreadable: dict[str, str]  # path -> reason


def image_files(paths: Sequence[str]) -> list[Path]:
    """Return the given files, and the images in the given folders, sorted by name.

    Raises:
        DataError: a path does not exist, or there are no images.
    """
    files: list[Path] = []
    for text in paths:
        path = Path(text).expanduser()
        if not path.exists():
            raise DataError("nothing to classify", where=path, why="there is no such file or folder")
        if path.is_file():
            files.append(path)
            continue
        if not path.is_dir():
            raise DataError("nothing to classify", where=path, why="it is neither a file nor a folder")
        files += map(Path, list_images(path))
    if not files:
        raise DataError(
            "nothing to classify", where=", ".join(paths), why=f"no file ends in {' '.join(IMG_EXTENSIONS)}"
        )
    return list(dict.fromkeys(files))


@torch.inference_mode()
def predict_files(
    model: "Model", paths: Sequence[Path], *, top_k: int, batch_size: int, num_workers: int
) -> FilePredictions:
    """Return the `top_k` most probable classes of each file, at most all classes; unreadable files are listed."""
    device = next(model.parameters()).device
    names = class_names(model)

    def load(path: Path) -> Tensor | UnreadableError:
        try:
            with open_image(str(path)) as image:
                return model.preprocess(image)
        except UnreadableError as error:
            return error

    result = FilePredictions([], {})
    with (
        ThreadPoolExecutor(max(1, num_workers)) as pool,
        tqdm(total=len(paths), desc="predict", leave=False, disable=None) as bar,
    ):
        for first in range(0, len(paths), batch_size):
            part = paths[first : first + batch_size]
            images = dict(zip(part, pool.map(load, part), strict=True))
            bad = {path: image for path, image in images.items() if isinstance(image, UnreadableError)}
            good = {path: image for path, image in images.items() if isinstance(image, Tensor)}
            result.unreadable.update({str(path): str(error) for path, error in bad.items()})
            if good:
                probabilities = model(torch.stack(list(good.values())).to(device)).softmax(-1)
                top = probabilities.topk(min(top_k, len(names)))
                for path, values, classes in zip(good, top.values.tolist(), top.indices.tolist(), strict=True):
                    result.readable.append(FilePrediction(str(path), [names[k] for k in classes], values))
            bar.update(len(part))
    return result


def class_names(model: "Model") -> tuple[str, ...]:
    """Return the class names of a model: those saved with it, ImageNet's, or `class 0`, `class 1`, ..."""
    if model.class_names:
        return model.class_names
    data = model.config.dataset
    if (data.name, data.num_classes) == ("imagenet", 1000):  # files of the AgMax program hold no class names
        imagenet = ImageNetInfo()
        return tuple(imagenet.index_to_description(k) for k in range(1000))
    return tuple(f"class {k}" for k in range(data.num_classes or 0))


def as_mapping(predictions: FilePredictions) -> dict[str, Any]:
    """Return predictions in plain types, for --json."""
    return {
        "predictions": [
            {
                "file": item.path,
                "classes": [
                    {"class": name, "probability": probability}
                    for name, probability in zip(item.classes, item.probabilities, strict=True)
                ],
            }
            for item in predictions.readable
        ],
        "unreadable": predictions.unreadable,
    }


def write_csv(predictions: FilePredictions, file: TextIO) -> None:
    """Write a CSV line for each file: its path, then pairs of class and probability, the most probable first."""
    num_classes = max((len(item.classes) for item in predictions.readable), default=0)
    writer = csv.writer(file, lineterminator="\n")
    columns = [f"{word}_{k}" for k in range(1, num_classes + 1) for word in ("class", "probability")]
    writer.writerow(["file", *columns])
    for item in predictions.readable:
        pairs = zip(item.classes, item.probabilities, strict=True)
        writer.writerow([item.path, *(field for name, value in pairs for field in (name, f"{value:.6f}"))])
