"""What a Python program calls: the command line's modes as functions, by configuration name and dotted overrides."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from agmax import builders
from agmax.augment.pipeline import Pipeline
from agmax.config import names, resolve
from agmax.config.resolve import ConfigRequest, Setting
from agmax.config.schema import Config
from agmax.experiments import evaluate as evaluation
from agmax.experiments import model as models
from agmax.experiments import saved as saving
from agmax.experiments import train as training
from agmax.experiments.model import Model
from agmax.experiments.results import Metrics, Result
from agmax.experiments.start import find_start, find_weights
from agmax.models.classifier import Classifier

Overrides = Mapping[str, Any] | None


def load_config(name_or_path: str | Path, *, dataset: str | None = None, overrides: Overrides = None) -> Config:
    """Return the checked settings of a configuration's name or file: `load_config("ResNet20-cutmix", dataset="svhn")`.

    `overrides` maps dotted keys to values: `{"optimizer.lr": 0.2}`.

    Raises:
        UsageError: the name or a setting is wrong; all that is wrong is told together.
    """
    return resolve.layer_config(_ask(name_or_path, dataset, overrides)).resolve().config


def train(
    config: str | Path | Config | None,
    *,
    dataset: str | None = None,
    overrides: Overrides = None,
    resume: str | Path | None = None,
) -> Result:
    """Train, evaluating after every epoch, and return what `--train --json` prints (`Result.to_dict`).

    `resume` names a run folder to continue in, a checkpoint to start from or, as "", the newest run of this
    configuration; with a run or a checkpoint `config` may be None, which is as they were trained. The folder of the
    run is `train.runs_dir`, below the present folder by default.

    Raises:
        AgmaxError: as on the command line; see the classes of agmax.core.errors.
    """
    request = _ask(config, dataset, overrides, None if resume is None else str(resume))
    with find_start(request) as start:
        return training.train(start)


def evaluate(
    model_or_checkpoint: Model | str | Path,
    dataset: str | None = None,
    *,
    split: str = "test",
    root: str | Path | None = None,
    overrides: Overrides = None,
) -> Metrics:
    """Measure a model, a checkpoint or a run on its own data set or another, as `--eval` does.

    Images are sized and normalised as the weights have learnt them; the classes of another data set are matched by
    their place. `root` is the folder of the images.

    Raises:
        DataError: the images are not there, have another number of classes, or the model's data set has other classes.
        CheckpointError: there is no such checkpoint, or its weights are of another network.
    """
    if not isinstance(model_or_checkpoint, Model):
        place = {} if root is None else {"dataset.root": str(root)}
        request = _ask(None, dataset, {**place, **(overrides or {})}, str(model_or_checkpoint))
        return evaluation.evaluate(find_weights(request, split=split), split=split).metrics
    model, own = model_or_checkpoint, model_or_checkpoint.config.dataset
    name, mapping = dataset or own.name, model.config.model_dump(mode="json")
    its_root = own.root if name == own.name else names.dataset_fragment(name).settings["dataset"].get("root", "data")
    mapping["dataset"] |= {"name": name, "root": str(root or its_root)}
    config = resolve.layer_over(mapping, "the model", _ask(None, None, overrides)).resolve().config
    device, data = next(model.parameters()).device, builders.split(config, split)
    saving.check_classes(config, data.class_names, known=model.class_names, dataset=own.name)
    return evaluation.measure(config, model.classifier, data, device, split=split, checkpoint=model.checkpoint).metrics


def load_model(source: str | Path, *, device: str | torch.device = "cpu") -> Model:
    """Return the model of a checkpoint, in evaluation mode.

    `source` is a checkpoint or run folder of this program, a file of the AgMax program, an address, or the name of a
    released file; the last two are downloaded into `checkpoints/` where they are not there yet.

    Raises:
        CheckpointError: it is not there, damaged, or of another network.
        DownloadError: it could not be downloaded.
        ResourceError: `device` names a GPU, and there is none.
    """
    saved = saving.load(saving.locate(str(source), "runs"))
    return models.from_checkpoint(saved, saved.config, device)


def model_from_config(
    config: str | Path | Config, *, dataset: str | None = None, overrides: Overrides = None
) -> Classifier:
    """Return the classifier of a configuration with its initial weights, in training mode, on the CPU.

    It takes views [N, V, C, H, W] and returns `Outputs` (logits [N, V, K], and joint_logits [N, K] with a Q network).

    Raises:
        UsageError: the configuration is wrong, or leaves the number of classes to the data.
    """
    return builders.model(resolve.layer_config(_ask(config, dataset, overrides)).resolve().config).train()


def augmentation(parts: str, *, dataset: str = "cifar10", overrides: Overrides = None) -> Pipeline:
    """Return the augmentation of a configuration's parts, as training uses it: `augmentation("auto_augment-cutmix")`.

    Called with uint8 images [N, C, H, W] and labels [N] it returns a `Batch`: normalised images [N, V, C, H, W],
    target rows [N, V, K], weights [N, V]. `parts` may be empty, or hold method parts such as agmax (two views).

    Raises:
        UsageError: a part or a setting is unknown.
    """
    name = "-".join(filter(None, (ANY_MODEL, parts)))
    return builders.pipeline(resolve.layer_config(_ask(name, dataset, overrides)).resolve().config)


ANY_MODEL = "ResNet8"
"""A name needs a model part; no augmentation depends on it."""


def _ask(source: Any, dataset: str | None, overrides: Overrides, resume: str | None = None) -> ConfigRequest:
    """Put a request together; a configuration that is resolved already stands as it is, below the overrides."""
    settings = tuple(Setting(key, value, "overrides") for key, value in (overrides or {}).items())
    return ConfigRequest(str(source) if isinstance(source, str | Path) else source, dataset, (), settings, resume)
