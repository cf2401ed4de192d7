"""The training loop for programs with their own data and models. This interface may still change."""

from agmax.training.checkpoint_folder import CheckpointFolder
from agmax.training.loop import Records, Trainer, TrainingPlan, TrainStep

__all__ = ["CheckpointFolder", "Records", "TrainStep", "Trainer", "TrainingPlan"]
