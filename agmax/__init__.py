"""Train and evaluate image classifiers with AgMax and Soft Augmentation, from configuration files."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agmax import augment, losses, models, training
    from agmax.builders import register
    from agmax.config.schema import Config
    from agmax.core.errors import AgmaxError
    from agmax.experiments.api import augmentation, evaluate, load_config, load_model, model_from_config, train
    from agmax.experiments.model import Model
    from agmax.experiments.results import Metrics, Result

__version__ = "0.1.0"
__all__ = [
    "AgmaxError",
    "Config",
    "Metrics",
    "Model",
    "Result",
    "augment",
    "augmentation",
    "evaluate",
    "load_config",
    "load_model",
    "losses",
    "model_from_config",
    "models",
    "register",
    "train",
    "training",
]

_MODULE_OF_NAME = {
    "AgmaxError": "core.errors",
    "Config": "config.schema",
    "Metrics": "experiments.results",
    "Model": "experiments.model",
    "Result": "experiments.results",
}
"""The modules that define the public names; all other names are defined in experiments/api.py."""

_MODULES = {
    "augment": "augment",
    "losses": "losses",
    "models": "models",
    "register": "builders.register",
    "training": "training",
}
"""The public modules."""


def __getattr__(name: str) -> Any:
    """Import a public name on first access: importing torch is slow, and not every command needs it."""
    if name not in __all__:
        raise AttributeError(f"module 'agmax' has no attribute {name!r}")
    if name in _MODULES:
        return import_module(f"agmax.{_MODULES[name]}")
    return getattr(import_module(f"agmax.{_MODULE_OF_NAME.get(name, 'experiments.api')}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
