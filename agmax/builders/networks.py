"""Build the classifier of a configuration, with its initial or loaded weights."""

from pathlib import Path

import torch
from torch import Tensor, nn

from agmax.checkpoints import read
from agmax.checkpoints.backbone import load_backbone
from agmax.config.schema import Config
from agmax.core.errors import UsageError
from agmax.core.rng import seed_for
from agmax.losses import OBJECTIVES
from agmax.models import backbones
from agmax.models.classifier import Classifier, QNetwork


def num_classes(config: Config) -> int:
    """Return the number of classes.

    Raises:
        UsageError: the number is null and has not been counted.
    """
    if config.dataset.num_classes is None:
        raise UsageError(
            "number of classes unknown",
            where="dataset.num_classes",
            remedy="Write dataset.num_classes=10, in Python overrides={'dataset.num_classes': 10}",
        )
    return config.dataset.num_classes


def model(config: Config, *, with_pretrained: bool = True) -> Classifier:
    """Build the classifier with its initial weights, on the CPU.

    The same seed and initialization rule give the same weights for every method. `with_pretrained=False` downloads no
    weights, for a classifier whose weights come from a checkpoint.

    Raises:
        UsageError: there is no such network, or it does not fit the images.
    """
    settings, rule = config.model, config.model.initialization
    is_pretrained = settings.pretrained and with_pretrained
    if config.test_image_size != config.dataset.image_size and backbones.has_fixed_input_size(settings.backbone):
        why = f"{settings.backbone} only takes images of dataset.image_size={config.dataset.image_size} pixels"
        raise UsageError("settings do not fit: dataset.test_image_size", why=why, remedy="Leave it out")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(config.model_seed, "init", "backbone"))
        backbone = backbones.create(
            settings.backbone,
            num_classes=num_classes(config),
            channels=config.input_channels,
            image_size=config.dataset.image_size,
            dropout=settings.dropout,
            pretrained=is_pretrained and settings.pretrained_file is None,
            arguments=settings.arguments,
        )
        if is_pretrained and settings.pretrained_file is not None:
            load_backbone(backbone, Path(settings.pretrained_file).expanduser())
        if rule.library == "torch" and not is_pretrained:
            backbones.reset_as_torch(backbone)
        if rule.scope == "all":
            backbones.reset_normal(backbone, rule.std)
        if rule.zero_last_norm and not is_pretrained:
            backbones.zero_last_norms(backbone)
        torch.manual_seed(seed_for(config.model_seed, "init", "q_network"))
        q_network = _q_network(config)
    classifier = Classifier(backbone, q_network)
    classifier.returns_features = _returns_features(config, backbone)
    return classifier.to(memory_format=torch.channels_last)


def restore_model(
    config: Config, weights: dict[str, Tensor], *, where: Path, saved: Config, allow_nonfinite: bool = False
) -> Classifier:
    """Build the classifier of a configuration with the weights of a checkpoint, which `saved` describes.

    Raises:
        CheckpointError: the weights belong to another network, or are not finite.
    """
    classifier = model(config, with_pretrained=False)
    read.check_fit(classifier, weights, where=where, saved=_describe(saved), wanted=_describe(config))
    if not allow_nonfinite:
        read.check_finite(weights, where)
    classifier.load_state_dict(weights)
    return classifier


def check_fit(config: Config, weights: dict[str, Tensor], *, where: Path) -> None:
    """Compare names and shapes of `weights` with the configured model, built on the meta device.

    Raises:
        CheckpointError: the weights belong to another network.
    """
    with torch.device("meta"):
        classifier = model(config, with_pretrained=False)
    read.check_fit(classifier, weights, where=where, saved="its weights", wanted=_describe(config))


def _describe(config: Config) -> str:
    data, objective = config.dataset, config.objective.name
    return f"{config.model.backbone}, {config.input_channels} channels, {data.num_classes} classes, {objective}"


def _q_network(config: Config) -> QNetwork | None:
    objective = config.objective
    if "joint_logits" not in OBJECTIVES[objective.name].needs:
        return None
    q_network = QNetwork(objective.num_views, num_classes(config), objective.hidden_units)
    if config.model.initialization.scope in ("all", "q_network"):
        backbones.reset_normal(q_network, config.model.initialization.std)
    return q_network


def _returns_features(config: Config, backbone: nn.Module) -> bool:
    """Return whether the objective compares features.

    Raises:
        UsageError: it does, and the backbone's classifier is not a linear layer.
    """
    if "features" not in OBJECTIVES[config.objective.name].needs:
        return False
    if not isinstance(backbone.get_classifier(), nn.Linear):  # type: ignore[operator]
        where = f"objective.name={config.objective.name}"
        why = f"the classifier of {config.model.backbone} is not one linear layer"
        remedy = "Compare the logits: write objective.name=agmax_mse"
        raise UsageError("no features to compare", where=where, why=why, remedy=remedy)
    return True
