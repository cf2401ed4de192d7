"""Augmentation of whole batches, each image by random numbers of its own: a batch in, a batch out, on CPU and GPU."""

from agmax.augment.key import Key
from agmax.augment.mixing import CutMix, Mix, MixUp
from agmax.augment.pipeline import Pipeline
from agmax.augment.targets import Softening, soften
from agmax.augment.transforms import (
    AutoAugment,
    ColorJitter,
    CutOut,
    OccludingTransform,
    PCALighting,
    RandAugment,
    RandomCrop,
    RandomErasing,
    RandomHorizontalFlip,
    SoftCrop,
    Transform,
    TrivialAugmentWide,
)

__all__ = [
    "AutoAugment",
    "ColorJitter",
    "CutMix",
    "CutOut",
    "Key",
    "Mix",
    "MixUp",
    "OccludingTransform",
    "PCALighting",
    "Pipeline",
    "RandAugment",
    "RandomCrop",
    "RandomErasing",
    "RandomHorizontalFlip",
    "SoftCrop",
    "Softening",
    "Transform",
    "TrivialAugmentWide",
    "soften",
]
