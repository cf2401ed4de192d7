"""Settings of a transform are the fields of its class: one name in YAML and in Python."""

import dataclasses
from typing import Any

import pytest

from agmax.augment import ColorJitter, PCALighting, Softening
from agmax.augment.mixing import MIXES
from agmax.augment.transforms import CROPS, ERASERS, POLICIES
from agmax.builders.pipelines import SHARED_SETTINGS
from agmax.config.augmentation import AugmentConfig

OTHERS = {"color_jitter": ColorJitter, "pca_lighting": PCALighting, "softening": Softening}
WORDS: dict[str, Any] = {**CROPS, **POLICIES, **ERASERS, **MIXES, **OTHERS}

FROM_ELSEWHERE = {"pca_lighting": {"image_std"}, "softening": {"occluded_by"}}
"""Fields that the builder fills from other settings."""


@pytest.mark.parametrize("word", WORDS)
def test_the_settings_of_a_transform_are_the_fields_of_its_class(word: str) -> None:
    fields = {field.name for field in dataclasses.fields(WORDS[word])} - FROM_ELSEWHERE.get(word, set())
    block = AugmentConfig.model_fields.get(SHARED_SETTINGS.get(word, word))
    settings = set(block.annotation.model_fields) if block and block.annotation else set()  # type: ignore[attr-defined]
    assert settings == fields
