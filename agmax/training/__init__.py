"""The training loop, for programs that bring their own data and models; it may still change."""

from agmax.training.checkpoint_folder import CheckpointFolder
from agmax.training.loop import Plan, Records, Trainer, TrainStep

__all__ = ["CheckpointFolder", "Plan", "Records", "TrainStep", "Trainer"]
