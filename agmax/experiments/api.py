"""The Python API: the modes of the command line as functions of a configuration name and dotted overrides."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from agmax import builders
from agmax.augment.pipeline import Pipeline
from agmax.config import names, resolve
from agmax.config.resolve import ConfigRequest, Setting
from agmax.config.schema import Config
from agmax.core.errors import UsageError
from agmax.experiments import evaluate as evaluation
from agmax.experiments import model as models
from agmax.experiments import saved as checkpoints
from agmax.experiments import train as training
from agmax.experiments.model import Model
from agmax.experiments.results import Metrics, Result
from agmax.experiments.start import find_start, find_weights
from agmax.models.classifier import Classifier

Overrides = Mapping[str, Any] | None


def load_config(name_or_path: str | Path, *, dataset: str | None = None, overrides: Overrides = None) -> Config:
    """Return the settings of a configuration by name or path: `load_config("ResNet20-cutmix", dataset="svhn")`.

    `overrides` maps dotted keys to values: `{"optimizer.lr": 0.2}`.

    Raises:
        UsageError: the name or settings are wrong; all errors are reported.
    """
    return resolve.layer_config(_request(name_or_path, dataset, overrides)).resolve().config


def train(
    config: str | Path | Config | None,
    *,
    dataset: str | None = None,
    overrides: Overrides = None,
    resume: str | Path | None = None,
) -> Result:
    """Train, evaluating after every epoch, and return what `--train --json` prints (`Result.to_dict`).

    `resume` is a run folder to continue, a checkpoint to start from or "" for the newest run of this configuration.
    With a run or a checkpoint `config` may be None, for the settings that it was trained with. A new run gets a folder
    in `train.runs_dir`, by default `runs/` in the current directory.

    Raises:
        AgmaxError: as on the command line; see the classes of agmax.core.errors.
    """
    began = time.perf_counter()
    request = _request(config, dataset, overrides, None if resume is None else str(resume))
    with find_start(request) as start:
        return training.train(start, began=began)


def evaluate(
    model_or_checkpoint: Model | str | Path,
    dataset: str | None = None,
    *,
    split: str = "test",
    root: str | Path | None = None,
    overrides: Overrides = None,
) -> Metrics:
    """Evaluate a model, a checkpoint or a run on its own data set or another, as `--eval` does.

    Images have the size and normalization of the model's training. The classes of another data set are matched by
    their index. `root` is the folder of the images.

    Raises:
        DataError: the images are missing, or their classes are not those of the model.
        CheckpointError: there is no such checkpoint, or its weights belong to another network.
        UsageError: what is given is neither.
    """
    if not isinstance(model_or_checkpoint, Model | str | Path):
        why = f"it is a {type(model_or_checkpoint).__name__}"
        raise UsageError("nothing to evaluate", why=why, remedy="Give what agmax.load_model returns, or a checkpoint")
    if not isinstance(model_or_checkpoint, Model):
        root_override = {} if root is None else {"dataset.root": str(root)}
        request = _request(None, dataset, {**root_override, **(overrides or {})}, str(model_or_checkpoint))
        return evaluation.evaluate(find_weights(request, split=split), split=split).metrics
    model, trained_on = model_or_checkpoint, model_or_checkpoint.config.dataset
    name, mapping = dataset or trained_on.name, model.config.model_dump(mode="json")
    default_root = trained_on.root
    if name != trained_on.name:
        default_root = names.dataset_fragment(name).settings["dataset"].get("root", "data")
    mapping["dataset"] |= {"name": name, "root": str(root or default_root)}
    config = resolve.layer_over(mapping, "the model", _request(None, None, overrides)).resolve().config
    device, data = next(model.parameters()).device, builders.split(config, split)
    checkpoints.check_classes(config, data.class_names, known=model.class_names, dataset=trained_on.name)
    return evaluation.measure(config, model.classifier, data, device, split=split, checkpoint=model.checkpoint).metrics


def load_model(source: str | Path, *, device: str | torch.device = "cpu") -> Model:
    """Return the model of a checkpoint, in evaluation mode.

    `source` is a checkpoint or run folder of this program, a file of the AgMax program, a URL, or the name of a
    released file. Files from a URL and released files are downloaded to `checkpoints/` once.

    Raises:
        CheckpointError: the checkpoint is missing or damaged, or belongs to another network.
        DownloadError: the download failed.
        ResourceError: `device` is a GPU that does not exist.
    """
    checkpoint = checkpoints.load(checkpoints.locate(str(source), "runs"))
    return models.from_checkpoint(checkpoint, checkpoint.config, device)


def model_from_config(
    config: str | Path | Config, *, dataset: str | None = None, overrides: Overrides = None
) -> Classifier:
    """Return the classifier of a configuration with its initial weights, in training mode, on the CPU.

    It takes views [N, V, C, H, W] and returns `Outputs` (logits [N, V, K], and joint_logits [N, K] with a Q network).

    Raises:
        UsageError: the configuration is wrong, or `dataset.num_classes` is null.
    """
    return builders.model(resolve.layer_config(_request(config, dataset, overrides)).resolve().config).train()


def augmentation(parts: str, *, dataset: str = "cifar10", overrides: Overrides = None) -> Pipeline:
    """Return the training augmentation of name parts: `augmentation("auto_augment-cutmix")`.

    Called with uint8 images [N, C, H, W] and labels [N], it returns a `Batch`: normalized images [N, V, C, H, W],
    target rows [N, V, K], weights [N, V]. `parts` may be empty or contain method parts such as agmax (two views).

    Raises:
        UsageError: a part or a setting is unknown.
    """
    name = "-".join(filter(None, (ANY_MODEL, parts)))
    return builders.pipeline(resolve.layer_config(_request(name, dataset, overrides)).resolve().config)


ANY_MODEL = "ResNet8"
"""A model part, which every name needs; the augmentation does not depend on it."""


def _request(source: Any, dataset: str | None, overrides: Overrides, resume: str | None = None) -> ConfigRequest:
    """Return the request for a configuration (a name, a path or a Config) with overrides."""
    settings = tuple(Setting(key, value, "overrides") for key, value in (overrides or {}).items())
    return ConfigRequest(str(source) if isinstance(source, str | Path) else source, dataset, (), settings, resume)
