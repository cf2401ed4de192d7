"""The networks that are trained."""

from agmax.models.classifier import Classifier, QNetwork

__all__ = ["Classifier", "QNetwork"]
