"""Turn a configuration into objects: the only package that sees both."""

from agmax.builders.images import Splits, counted, split, splits, test_source, training_source
from agmax.builders.networks import check_fit, model, num_classes, restored
from agmax.builders.pipelines import augmentation, pipeline, softening_shares
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
    "counted",
    "description",
    "evaluator",
    "learning_rate",
    "model",
    "num_classes",
    "num_steps",
    "objective",
    "optimizer",
    "pipeline",
    "restored",
    "robustness",
    "softening_shares",
    "split",
    "splits",
    "test_source",
    "trainer",
    "training_source",
]
