"""What other programs use: models by name or from a checkpoint, ready to answer."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from agmax import builders
from agmax.augment.color import normalised
from agmax.config import names, resolve
from agmax.config.resolve import Setting
from agmax.config.schema import Config
from agmax.core import devices
from agmax.core.errors import UsageError
from agmax.data import datasets, decode, in_memory
from agmax.experiments import saved as loading
from agmax.models.classifier import Classifier


class Model(nn.Module):
    """A classifier with what belongs to its weights: `config`, `class_names` (empty where unknown), `preprocess`."""

    def __init__(self, classifier: Classifier, config: Config, class_names: tuple[str, ...]) -> None:
        super().__init__()
        self.classifier, self.config, self.class_names = classifier, config, class_names

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [N, K] of normalised images [N, C, H, W]."""
        logits: Tensor = self.classifier(images[:, None]).logits[:, 0]
        return logits

    def preprocess(self, image: Image.Image) -> Tensor:
        """Return an image as the model takes it, float [C, H, W] on the CPU: sized, cut and normalised as in --eval."""
        data, size = self.config.dataset, self.config.test_image_size
        whole = decode.in_colours(image, data.channels, exif_rotation=data.exif_rotation)
        if data.name in datasets.OF_FILES:
            pixels = decode.pixels_of(decode.centre_crop(whole, size))[None]
        else:
            pixels = in_memory.resized(decode.pixels_of(whole)[None], size)
        mean, std = self.config.normalisation
        return normalised(pixels, torch.tensor(mean), torch.tensor(std))[0]


def load_model(source: str | Path, device: str | torch.device = "cpu") -> Model:
    """Return the model of a checkpoint, in evaluation mode.

    `source` is a checkpoint or run folder of this program, a file of the AgMax program, an address, or the name of a
    released file; the last two are downloaded into `checkpoints/` where they are not there yet.

    Raises:
        CheckpointError: it is not there, damaged, or of another network.
        DownloadError: it could not be downloaded.
        ResourceError: `device` names a GPU, and there is none.
    """
    saved = loading.loaded(loading.located(str(source), "runs"))
    return of_saved(saved, saved.config, device)


def from_config(name: str, dataset: str | None = None, device: str | torch.device = "cpu", **settings: Any) -> Model:
    """Return the model of a configuration's name or file with its initial weights, in evaluation mode.

    Settings are named as on the command line: `from_config("ResNet20", "cifar10", **{"model.dropout": 0.1})`.

    Raises:
        UsageError: the name or a setting is wrong.
    """
    typed = [Setting(key, value, "from_config") for key, value in settings.items()]
    config = resolve.resolve(name, dataset=dataset, settings=typed).config
    return from_resolved(config, device)


def from_resolved(config: Config, device: str | torch.device = "cpu") -> Model:
    """Return the model of a configuration with its initial weights."""
    return _ready(builders.model(config), config, (), device)


def evaluate(
    model: Model, dataset: str | None = None, *, split: str = "test", root: str | None = None
) -> dict[str, float]:
    """Return top1 and top5 in percent, nll in nats and ece as a share, on the model's data set or another.

    Images are sized and normalised as the model's own; the classes of another data set are matched by their place.

    Raises:
        DataError: the images are not there, have another number of classes, or the model's data set has other classes.
    """
    mapping, own = model.config.model_dump(), model.config.dataset
    name = dataset or own.name
    its_root = own.root if name == own.name else names.dataset_fragment(name).settings["dataset"].get("root", "data")
    mapping["dataset"] |= {"name": name, "root": root or its_root}
    config = Config.model_validate(mapping)
    device, data = next(model.parameters()).device, builders.split(config, split)
    loading.check_classes(config, data.class_names, known=model.class_names, dataset=own.name)
    return builders.evaluator(config, model.classifier, data, device)()


def of_saved(saved: loading.Saved, config: Config, device: str | torch.device = "cpu") -> Model:
    """Return the model of a checkpoint that was loaded, with the settings that it shall have.

    Raises:
        CheckpointError: the weights are of another network than the settings'.
    """
    classifier = builders.restored(config, saved.state["model"], where=saved.path, saved=saved.config)
    return _ready(classifier, config, tuple(saved.state["class_names"] or ()), device)


def _ready(classifier: Classifier, config: Config, names: tuple[str, ...], device: str | torch.device) -> Model:
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError("wrong device", where=device, why="torch has none of this name") from error
    if chosen.type == "cuda":
        devices.choose_device("cuda")  # says why there is none
    classifier.autocast = devices.autocast_format(config.evaluation.precision, chosen)
    return Model(classifier, config, names).to(chosen).eval()
