"""The model of the Python API: it preprocesses images as an evaluation does, and knows its class names."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from agmax import builders
from agmax.augment.color import normalize
from agmax.config.schema import Config
from agmax.core import devices
from agmax.core.errors import UsageError
from agmax.data import datasets, decode, in_memory
from agmax.experiments import predict
from agmax.experiments.saved import Checkpoint
from agmax.models.classifier import Classifier


class Model(nn.Module):
    """A classifier with its `config`, its `class_names` (empty if unknown) and its preprocessing.

    `checkpoint` is the file of the weights, None for initial weights.
    """

    def __init__(
        self, classifier: Classifier, config: Config, class_names: tuple[str, ...], checkpoint: Path | None = None
    ) -> None:
        super().__init__()
        self.classifier, self.config, self.class_names = classifier, config, class_names
        self.checkpoint = checkpoint

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [N, K] of normalized images [N, C, H, W]."""
        logits: Tensor = self.classifier(images[:, None]).logits[:, 0]
        return logits

    def preprocess(self, image: Image.Image) -> Tensor:
        """Resize, crop and normalize an image as `--eval` does; return float [C, H, W] on the CPU."""
        data, size = self.config.dataset, self.config.test_image_size
        image = decode.convert_channels(image, data.channels, exif_rotation=data.exif_rotation)
        if data.name in datasets.OF_FILES:
            pixels = decode.to_tensor(decode.center_crop(image, size))[None]
        else:
            pixels = in_memory.resize(decode.to_tensor(image)[None], size)
        mean, std = self.config.normalization
        return normalize(pixels, torch.tensor(mean), torch.tensor(std))[0]

    def predict(self, paths: Sequence[str | Path], *, top_k: int = 5, batch_size: int = 256) -> predict.FilePredictions:
        """Return the `top_k` most probable classes of each image file, and of each image in the folders.

        Raises:
            DataError: a path does not exist, or there are no images.
        """
        files = predict.image_files([str(path) for path in paths])
        num_workers = devices.num_workers(self.config.train.num_workers)
        return predict.predict_files(self, files, top_k=top_k, batch_size=batch_size, num_workers=num_workers)


def from_checkpoint(checkpoint: Checkpoint, config: Config, device: str | torch.device = "cpu") -> Model:
    """Return the model of a loaded checkpoint with the settings `config`, in evaluation mode.

    Raises:
        CheckpointError: the weights belong to another network than that of `config`.
        ResourceError: `device` is a GPU that does not exist.
    """
    weights, path = checkpoint.state["model"], checkpoint.path
    classifier = builders.restore_model(config, weights, where=path, saved=checkpoint.config)
    return assemble(classifier, config, tuple(checkpoint.state["class_names"] or ()), device, path)


def from_config(config: Config, device: str | torch.device = "cpu") -> Model:
    """Return the model of a configuration with its initial weights, in evaluation mode."""
    return assemble(builders.model(config), config, (), device, None)


def assemble(
    classifier: Classifier,
    config: Config,
    class_names: tuple[str, ...],
    device: str | torch.device,
    checkpoint: Path | None,
) -> Model:
    """Return a model on its device, in evaluation mode and in `evaluation.precision`."""
    try:
        torch_device = torch.device(device)
    except RuntimeError as error:
        raise UsageError(
            "wrong device", where=device, why="torch has no device of this name", remedy="Give cpu or cuda"
        ) from error
    if torch_device.type == "cuda":
        devices.choose_device("cuda")  # raises ResourceError if there is no GPU
    classifier.autocast = devices.autocast_dtype(config.evaluation.precision, torch_device)
    return Model(classifier, config, class_names, checkpoint).to(torch_device).eval()
