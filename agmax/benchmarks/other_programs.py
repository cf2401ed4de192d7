"""The same augmentations and evaluations in other programs."""

import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import v2

from agmax.augment import color

Change = Callable[..., Any]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class CutOut:
    """Erase a square of one normalized image [C, H, W], as both reference programs do."""

    def __init__(self, length: int) -> None:
        self.half = length // 2

    def __call__(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        y, x = int(torch.randint(height, ())), int(torch.randint(width, ()))
        mask = torch.ones(height, width)
        mask[max(y - self.half, 0) : y + self.half, max(x - self.half, 0) : x + self.half] = 0
        return image * mask


class PCALighting:
    """Add PCA lighting with ImageNet's components to one image [3, H, W]."""

    def __init__(self) -> None:
        self.directions = color.PCA_LIGHTING.float()

    def __call__(self, image: Tensor) -> Tensor:
        lighting = self.directions @ torch.normal(0.0, 0.1, (3,))
        return image + lighting[:, None, None]


def torchvision_per_image(words: Sequence[str], *, size: int, from_pil: bool) -> Change:
    """Return torchvision's transforms of one image, by the words of the configuration.

    PIL images use its transforms v1, as the reference programs do; tensors use v2.
    """
    module = transforms if from_pil else v2
    policy = module.AutoAugmentPolicy.CIFAR10 if size <= 64 else module.AutoAugmentPolicy.IMAGENET
    to_floats = transforms.ToTensor() if from_pil else v2.ToDtype(torch.float32, scale=True)
    by_word: dict[str, list[Change]] = {
        "random_resized": [module.RandomResizedCrop(size)],
        "crop": [module.RandomCrop(size, padding=4)],
        "flip": [module.RandomHorizontalFlip()],
        "auto_augment": [module.AutoAugment(policy)],
        "rand_augment": [module.RandAugment()],
        "trivial_augment": [module.TrivialAugmentWide()],
        "color_jitter": [module.ColorJitter(0.4, 0.4, 0.4)],
        "normalize": [to_floats, module.Normalize(MEAN, STD)],
        "pca_lighting": [PCALighting()],
        "cutout": [CutOut(size // 2)],
        "random_erasing": [module.RandomErasing()],
    }
    steps = [step for word in words for step in by_word[word]]
    return module.Compose(steps) if len(steps) > 1 else steps[0]


def torchvision_mixer(word: str) -> Change | None:
    """Return torchvision's mixing of a float batch and its labels, with one ratio and box for all images."""
    by_word: dict[str, Any] = {"mixup": v2.MixUp, "cutmix": v2.CutMix}
    return by_word[word](alpha=1.0, num_classes=10) if word in by_word else None


def timm_policy(word: str) -> Change | None:
    """Return timm's policy on one PIL image, with the probabilities and the interpolation of torchvision's.

    Its AutoAugment has only ImageNet's policy.
    """
    from timm.data.auto_augment import auto_augment_transform, rand_augment_transform

    arguments: dict[str, Any] = {
        "translate_const": 14,
        "img_mean": (124, 116, 104),
        "interpolation": Image.Resampling.NEAREST,
    }
    if word == "auto_augment":
        return auto_augment_transform("original", arguments)  # type: ignore[no-any-return]
    return rand_augment_transform("rand-m9-n2-p1", arguments) if word == "rand_augment" else None


def kornia_batched(words: Sequence[str], *, size: int) -> torch.nn.Module | None:
    """Return kornia's transforms of a float batch [B, C, H, W]; None if it lacks one or is not installed.

    Its policies choose operations once for the batch.
    """
    try:
        from kornia import augmentation as K
        from kornia.augmentation.auto import AutoAugment, RandAugment, TrivialAugment
    except ImportError:
        return None

    by_word: dict[str, Callable[[], Any]] = {
        "crop": lambda: K.RandomCrop((size, size), padding=4),
        "flip": lambda: K.RandomHorizontalFlip(),
        "auto_augment": lambda: AutoAugment("cifar10" if size <= 64 else "imagenet"),
        "rand_augment": lambda: RandAugment(2, 9),
        "trivial_augment": lambda: TrivialAugment(),
        "color_jitter": lambda: K.ColorJiggle(0.4, 0.4, 0.4, 0.0, p=1.0),
        "normalize": lambda: K.Normalize(MEAN, STD),
        "random_erasing": lambda: K.RandomErasing(p=0.5),
    }
    if any(word not in by_word for word in words):
        return None
    return torch.nn.Sequential(*(by_word[word]() for word in words))


def timm_loader(folder: Path, *, image_size: int, batch_size: int, num_workers: int, device: torch.device) -> Any:
    """Return timm's evaluation loader: normalized images [B, 3, H, W] and labels [B] on the device."""
    from timm.data import ImageDataset, create_loader

    return create_loader(
        ImageDataset(str(folder)),
        input_size=(3, image_size, image_size),
        batch_size=batch_size,
        crop_pct=image_size / (image_size + 32),
        mean=MEAN,
        std=STD,
        num_workers=num_workers,
        pin_memory=device.type == "cuda",
        device=device,
    )


def timm_evaluation(loader: Any, network: torch.nn.Module, autocast: torch.dtype | None) -> tuple[float, float]:
    """Return top1 in percent and the loss of a network, measured as in timm's validate.py."""
    from timm.utils import AverageMeter, accuracy

    network.eval()
    top1, loss = AverageMeter(), AverageMeter()
    with torch.inference_mode():
        for images, labels in loader:
            with torch.autocast(images.device.type, dtype=autocast, enabled=autocast is not None):
                logits = network(images)
            loss.update(torch.nn.functional.cross_entropy(logits.float(), labels).item(), len(labels))
            top1.update(accuracy(logits, labels, topk=(1, 5))[0].item(), len(labels))
    return top1.avg, loss.avg


def versions() -> dict[str, str]:
    """Return the versions of the compared packages that are installed."""
    versions_of = {}
    for package in ("torch", "torchvision", "timm", "pillow", "kornia"):
        try:
            versions_of[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions_of


def pil_images(images: Tensor) -> list[Image.Image]:
    """Convert uint8 images [B, C, H, W] to PIL images."""
    return [v2.functional.to_pil_image(image) for image in images]
