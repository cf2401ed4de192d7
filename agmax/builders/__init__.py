"""Build data, models, augmentation and training from a configuration; no other package knows both sides."""

from agmax.builders.images import Splits, split, splits, test_loader, training_loader, with_num_classes
from agmax.builders.networks import check_fit, model, num_classes, restore_model
from agmax.builders.pipelines import augmentation, pipeline, sample_visible_fractions
from agmax.builders.trainers import (
    check_optimizer,
    description,
    evaluator,
    learning_rate,
    num_steps,
    objective,
    optimizer,
    robustness,
    trainer,
)

__all__ = [
    "Splits",
    "augmentation",
    "check_fit",
    "check_optimizer",
    "description",
    "evaluator",
    "learning_rate",
    "model",
    "num_classes",
    "num_steps",
    "objective",
    "optimizer",
    "pipeline",
    "restore_model",
    "robustness",
    "sample_visible_fractions",
    "split",
    "splits",
    "test_loader",
    "trainer",
    "training_loader",
    "with_num_classes",
]
