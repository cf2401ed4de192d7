"""Train and evaluate image classifiers with AgMax and Soft Augmentation, from configuration files."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agmax.experiments.model import evaluate, from_config, load_model

__version__ = "0.1.0"
__all__ = ["evaluate", "from_config", "load_model"]


def __getattr__(name: str) -> Any:
    """Import what other programs use when they ask for it: it needs torch, and the command line often does not."""
    if name not in __all__:
        raise AttributeError(f"module 'agmax' has no attribute {name!r}")
    from agmax.experiments import model

    return getattr(model, name)
