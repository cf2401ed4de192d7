"""The trainable networks."""

from agmax.models.classifier import Classifier, QNetwork

__all__ = ["Classifier", "QNetwork"]
