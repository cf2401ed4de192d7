"""A trained model as other programs use it: it prepares images as its evaluation does, and names its classes."""

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
from agmax.experiments.saved import Saved
from agmax.models.classifier import Classifier


class Model(nn.Module):
    """A classifier with what belongs to its weights: `config`, `class_names` (empty where unknown), `preprocess`.

    `checkpoint` is where the weights came from, None where they are fresh.
    """

    def __init__(
        self, classifier: Classifier, config: Config, class_names: tuple[str, ...], checkpoint: Path | None = None
    ) -> None:
        super().__init__()
        self.classifier, self.config, self.class_names = classifier, config, class_names
        self.checkpoint = checkpoint

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits [N, K] of normalised images [N, C, H, W]."""
        logits: Tensor = self.classifier(images[:, None]).logits[:, 0]
        return logits

    def preprocess(self, image: Image.Image) -> Tensor:
        """Return an image as the model takes it, float [C, H, W] on the CPU: sized, cut and normalised as in --eval."""
        data, size = self.config.dataset, self.config.test_image_size
        whole = decode.convert_channels(image, data.channels, exif_rotation=data.exif_rotation)
        if data.name in datasets.OF_FILES:
            pixels = decode.to_tensor(decode.center_crop(whole, size))[None]
        else:
            pixels = in_memory.resize(decode.to_tensor(whole)[None], size)
        mean, std = self.config.normalization
        return normalize(pixels, torch.tensor(mean), torch.tensor(std))[0]

    def predict(self, paths: Sequence[str | Path], *, top_k: int = 5, batch_size: int = 256) -> predict.FilePredictions:
        """Return the `top_k` likeliest classes of each image file, and of those in folders.

        Raises:
            DataError: a path is not there, or there is no image in any.
        """
        files = predict.image_files([str(path) for path in paths])
        num_workers = devices.num_workers(self.config.train.num_workers)
        return predict.predict_files(self, files, top_k=top_k, batch_size=batch_size, num_workers=num_workers)


def from_checkpoint(saved: Saved, config: Config, device: str | torch.device = "cpu") -> Model:
    """Return the model of a checkpoint that was loaded, with the settings that it shall have, in evaluation mode.

    Raises:
        CheckpointError: the weights are of another network than the settings'.
        ResourceError: `device` names a GPU, and there is none.
    """
    classifier = builders.restore_model(config, saved.state["model"], where=saved.path, saved=saved.config)
    return assemble(classifier, config, tuple(saved.state["class_names"] or ()), device, saved.path)


def from_config(config: Config, device: str | torch.device = "cpu") -> Model:
    """Return the model of a configuration with the weights that its training starts from, in evaluation mode."""
    return assemble(builders.model(config), config, (), device, None)


def assemble(
    classifier: Classifier,
    config: Config,
    names: tuple[str, ...],
    device: str | torch.device,
    checkpoint: Path | None,
) -> Model:
    """Return a model on its device, in evaluation mode and in the precision of evaluations."""
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError("wrong device", where=device, why="torch has none of this name") from error
    if chosen.type == "cuda":
        devices.choose_device("cuda")  # says why there is none
    classifier.autocast = devices.autocast_dtype(config.evaluation.precision, chosen)
    return Model(classifier, config, names, checkpoint).to(chosen).eval()
