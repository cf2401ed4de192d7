"""The training loop for programs with their own data and models. This interface may still change."""

from agmax.training.checkpoint_folder import CheckpointFolder
from agmax.training.loop import Trainer, TrainingPlan, TrainingStore, TrainStep

__all__ = ["CheckpointFolder", "TrainStep", "Trainer", "TrainingPlan", "TrainingStore"]
