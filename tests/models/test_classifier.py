"""The classifier: gradients, views, features, half precision, and the names of backbones."""

import pytest
import torch
from torch import Tensor, nn

from agmax import builders
from agmax.core.batch import Batch
from agmax.core.errors import UsageError
from agmax.models import backbones
from agmax.models.classifier import Classifier, QNetwork
from helpers.models import FAMILIES, config_of


@pytest.mark.parametrize("method", ["", "-agmax"])
@pytest.mark.parametrize("name", FAMILIES)
def test_training_changes_every_parameter(name: str, method: str) -> None:
    """The first step opens the blocks that begin as the identity, the second reaches what lies inside them."""
    config = config_of(f"{name}-standard{method}", optimizer__lr=0.01)
    model = builders.model(config)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    optimizer, objective = builders.optimizer(config, model), builders.objective(config)
    generator = torch.Generator().manual_seed(0)
    num_views = config.objective.num_views
    size = 8 if name.startswith("WideResNet") else 32  # which takes long, and pools what is left
    for _ in range(2):
        images = torch.randn(3, num_views, 3, size, size, generator=generator)
        targets = torch.eye(10)[torch.tensor([1, 5, 7])][:, None].expand(-1, num_views, -1)
        losses = objective(model(images), Batch(images, targets, torch.ones(3, num_views)))
        optimizer.zero_grad()
        losses.total.backward()
        assert [key for key, value in model.named_parameters() if value.grad is None] == []
        optimizer.step()
    still = [key for key, value in model.named_parameters() if torch.equal(value, before[key])]
    assert still == []


def test_all_views_share_one_call_and_its_statistics() -> None:
    class Counting(nn.Module):
        calls: list[int] = []

        def forward(self, images: Tensor) -> Tensor:
            self.calls.append(len(images))
            return images.mean((2, 3))

    backbone = Counting()
    outputs = Classifier(backbone, QNetwork(2, 3, 4))(torch.randn(5, 2, 3, 8, 8))
    assert backbone.calls == [10]
    assert outputs.logits.shape == (5, 2, 3)
    assert outputs.joint_logits.shape == (5, 3)


def test_logits_belong_to_their_image_and_view() -> None:
    model = builders.model(config_of("ResNet8-standard-agmax")).eval()
    images = torch.randn(3, 2, 3, 32, 32)
    together = model(images).logits
    for index in range(3):
        for view in range(2):
            alone = model(images[index : index + 1, view : view + 1]).logits[0, 0]
            torch.testing.assert_close(together[index, view], alone, rtol=1e-4, atol=1e-5)


def test_features_are_returned_if_an_objective_needs_them() -> None:
    model = builders.model(config_of("ResNet8-standard")).eval()
    images = torch.randn(2, 1, 3, 32, 32)
    plain = model(images)
    model.returns_features = True
    outputs = model(images)
    assert plain.features is None
    assert outputs.features.shape == (2, 1, 64)
    torch.testing.assert_close(model.backbone.get_classifier()(outputs.features), plain.logits)  # type: ignore[operator]


def test_autocast_is_entered_inside_and_outputs_are_float32() -> None:
    model = builders.model(config_of("ResNet8-standard-agmax"))
    seen: list[torch.dtype] = []
    model.backbone.get_submodule("layer1").register_forward_hook(lambda *call: seen.append(call[2].dtype))
    model.autocast = torch.bfloat16
    outputs = model(torch.randn(4, 2, 3, 32, 32))
    assert seen == [torch.bfloat16]
    assert outputs.logits.dtype == outputs.joint_logits.dtype == torch.float32


def test_any_timm_model_name_is_a_model_part() -> None:
    config = config_of("vit_tiny_patch16_224-cutout-agmax", dataset="cifar10")
    assert config.optimizer.weight_decay == 1e-4  # the recipe of ResNet50
    model = builders.model(config_of("vit_tiny_patch16_224-standard", dataset__image_size=48))
    assert model(torch.randn(1, 1, 3, 48, 48)).logits.shape == (1, 1, 10)


def test_unknown_networks_and_arguments_are_refused() -> None:
    with pytest.raises(UsageError, match="resnet50"):
        backbones.create("resnet50x", num_classes=10, channels=3, image_size=32)
    with pytest.raises(UsageError, match="depth must be 6n"):
        builders.model(config_of("WideResNet29-10-standard"))
    with pytest.raises(UsageError, match="speed"):
        builders.model(config_of("ResNet8-standard", model__arguments__speed=3))
