"""Augmentation of batches on CPU and GPU, with separate random parameters for each image."""

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
