"""The classifier of a configuration, with its initial weights."""

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
        UsageError: it is neither given nor counted yet.
    """
    if config.dataset.num_classes is None:
        raise UsageError(
            "number of classes unknown", where="dataset.num_classes", remedy="Write it, e.g. --n-classes 10"
        )
    return config.dataset.num_classes


def model(config: Config, *, with_pretrained: bool = True) -> Classifier:
    """Make the classifier with its initial weights, on the CPU; equal rules give equal weights whatever the method.

    Without `with_pretrained` no weights are fetched, because a checkpoint's will take their place.

    Raises:
        UsageError: there is no such network, or it cannot take the images.
    """
    settings, rule = config.model, config.model.initialization
    is_pretrained = settings.pretrained and with_pretrained
    if config.test_image_size != config.dataset.image_size and backbones.has_fixed_input_size(settings.backbone):
        why = f"{settings.backbone} is built for images of {config.dataset.image_size} pixels"
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
    """Make the classifier of a configuration with weights from a file, which were saved with other settings perhaps.

    Raises:
        CheckpointError: they are those of another network, or not finite.
    """
    classifier = model(config, with_pretrained=False)
    read.check_fit(classifier, weights, where=where, saved=_describe(saved), wanted=_describe(config))
    if not allow_nonfinite:
        read.check_finite(weights, where)
    classifier.load_state_dict(weights)
    return classifier


def check_fit(config: Config, weights: dict[str, Tensor], *, where: Path) -> None:
    """Compare weights, whose numbers need not be there, with the network of a configuration, which takes no memory.

    Raises:
        CheckpointError: they are those of another network.
    """
    with torch.device("meta"):
        blank = model(config, with_pretrained=False)
    read.check_fit(blank, weights, where=where, saved="its weights", wanted=_describe(config))


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
    """Say whether the objective compares features; the logits must then be made of them by one linear layer."""
    if "features" not in OBJECTIVES[config.objective.name].needs:
        return False
    if not isinstance(backbone.get_classifier(), nn.Linear):  # type: ignore[operator]
        why = f"{config.model.backbone} has no one linear layer between its features and its logits"
        remedy = "Compare the logits: write objective.name=agmax_mse"
        raise UsageError(
            "no features to compare", where=f"objective.name={config.objective.name}", why=why, remedy=remedy
        )
    return True
