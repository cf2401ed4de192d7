"""The networks: numbers of parameters against the reference programs', and ShakeDrop."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from agmax import builders
from agmax.core.errors import UsageError
from agmax.models import backbones
from agmax.models.classifier import QNetwork
from agmax.models.pyramid_net import PyramidNet, ShakeDrop
from helpers.models import config_of, size_of


@pytest.mark.parametrize(
    ("name", "num_classes", "expected"),
    [
        ("WideResNet28-10", 10, 36_489_290),
        ("WideResNet28-10", 100, 36_546_980),
        ("WideResNet40-2", 10, 2_246_474),
        ("WideResNet40-2", 100, 2_258_084),
        ("ResNet50", 1000, 25_557_032),
        ("ResNet101", 1000, 44_549_160),
        ("RegNetX002", 1000, 2_684_792),
        ("RegNetY004", 1000, 4_344_144),
        ("EfficientNetB0", 1000, 5_288_548),
        ("EfficientNetB1", 1000, 7_794_184),
        ("CifarResNet18", 10, 11_173_962),
        ("CifarResNet18", 100, 11_220_132),
        ("CifarResNet50", 10, 23_520_842),
        ("CifarResNet50", 100, 23_705_252),
        ("CifarResNet101", 10, 42_512_970),
        ("CifarResNet101", 100, 42_697_380),
        ("CifarWideResNet28-10", 10, 36_479_194),
        ("CifarWideResNet28-10", 100, 36_536_884),
        ("PyramidNet272", 10, 26_210_842),
        ("PyramidNet272", 100, 26_288_692),
    ],
)
def test_networks_have_as_many_parameters_as_the_reference(name: str, num_classes: int, expected: int) -> None:
    settings = config_of(name, dataset__num_classes=num_classes).model
    with torch.device("meta"):
        backbone = backbones.create(
            settings.backbone, num_classes=num_classes, channels=3, image_size=32, arguments=settings.arguments
        )
    assert size_of(backbone) == expected


def test_pyramid_net_has_as_many_tensors_and_features_as_the_reference() -> None:
    with torch.device("meta"):
        backbone = backbones.create(
            "agmax_pyramid_net", num_classes=10, channels=3, image_size=32, arguments={"depth": 272, "alpha": 200}
        )
    assert len(backbone.state_dict()) == 2083
    assert backbone.num_features == 864


def test_networks_of_soft_augmentation_have_he_initialization() -> None:
    """The deviation of a k x k convolution with `out` channels is sqrt(2 / (k k out)); the classifier has no bias."""
    networks = {"agmax_pyramid_net": {"depth": 29, "alpha": 24}, "agmax_cifar_wide_resnet": {"depth": 16, "width": 2}}
    for name, arguments in networks.items():
        model = backbones.create(name, num_classes=10, channels=3, image_size=32, arguments=dict(arguments))
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module.weight.numel() > 2000:
                fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
                assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.08)
                assert module.bias is None
        head = model.get_classifier()  # type: ignore[operator]
        assert isinstance(head, nn.Linear) and not head.bias.any() and head.weight.any()


def test_the_pyramid_grows_evenly_and_pads_its_shortcuts_with_zeros() -> None:
    """Depth 29, alpha 24: 9 blocks, 16 + 24 n / 9 channels before the expansion by 4."""
    model = PyramidNet(29, 24.0, shake_drop=0.0).eval()
    widths = [block.conv2.out_channels for stage in (model.layer1, model.layer2, model.layer3) for block in stage]
    assert widths == [19, 21, 24, 27, 29, 32, 35, 37, 40]
    block = model.layer2[0]
    for norm in (block.bn1, block.bn2, block.bn3, block.bn4):
        nn.init.uniform_(norm.running_mean)
    relu, images = nn.ReLU(), torch.randn(2, 96, 7, 7)
    layers = [block.bn1, block.conv1, block.bn2, relu, block.conv2, block.bn3, relu, block.conv3, block.bn4]
    branch = nn.Sequential(*layers)(images)
    shortcut = nn.functional.avg_pool2d(images, 2, ceil_mode=True)
    out = block(images)
    assert out.shape == (2, 108, 4, 4)
    torch.testing.assert_close(out[:, :96], branch[:, :96] + shortcut)
    torch.testing.assert_close(out[:, 96:], branch[:, 96:])
    images = torch.randn(2, 3, 8, 8)
    stages = nn.Sequential(model.conv, model.bn1, model.layer1, model.layer2, model.layer3, model.bn2, relu)
    torch.testing.assert_close(model(images), model.head(stages(images).mean((2, 3))))


def test_training_changes_every_parameter_of_a_pyramid_net_with_shake_drop() -> None:
    model = PyramidNet(29, 24.0)
    model(torch.randn(4, 3, 16, 16)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("depth", [28, 2, 271])
def test_a_pyramid_net_of_an_invalid_depth_is_refused(depth: int) -> None:
    with pytest.raises(UsageError, match="the depth must be 9n"):
        backbones.create(
            "agmax_pyramid_net", num_classes=10, channels=3, image_size=32, arguments={"depth": depth, "alpha": 24}
        )


def test_shake_drop_acts_on_complete_batches_with_its_probability_and_a_factor_for_each_image() -> None:
    """The mean factor is 1 - p: alpha is even in [-1, 1], beta in [0, 1] for the gradient."""
    torch.manual_seed(0)
    shake, num_steps, num_images = ShakeDrop(0.4), 2000, 8
    factors, slopes = [], []
    for _ in range(num_steps):
        images = torch.ones(num_images, 2, 3, 3, requires_grad=True)
        out = shake(images)
        out.sum().backward()
        assert images.grad is not None
        assert torch.equal(out, out[:, :1, :1, :1].expand_as(out))  # one factor an image
        factors.append(out.detach()[:, 0, 0, 0])
        slopes.append(images.grad[:, 0, 0, 0])
    alpha, beta = torch.stack(factors), torch.stack(slopes)
    is_disturbed = (alpha != 1).any(1)
    assert stats.binomtest(int(is_disturbed.sum()), num_steps, 0.4).pvalue > 1e-3
    assert torch.equal(alpha[~is_disturbed], torch.ones_like(alpha[~is_disturbed]))
    assert torch.equal(beta[~is_disturbed], torch.ones_like(beta[~is_disturbed]))
    assert stats.kstest(alpha[is_disturbed].flatten(), stats.uniform(-1, 2).cdf).pvalue > 1e-3
    assert stats.kstest(beta[is_disturbed].flatten(), stats.uniform(0, 1).cdf).pvalue > 1e-3
    for first, second in (
        (alpha[is_disturbed][:, 0], alpha[is_disturbed][:, 1]),
        (alpha[is_disturbed], beta[is_disturbed]),
    ):
        assert abs(np.corrcoef(first.flatten(), second.flatten())[0, 1]) < 4 / first.numel() ** 0.5
    images = torch.randn(3, 2, 4, 4)
    assert abs(alpha.mean() - 0.6) < 4 * alpha.mean(1).std() / num_steps**0.5
    torch.testing.assert_close(shake.eval()(images), 0.6 * images)


def test_shake_drop_grows_from_block_to_block_and_can_be_left_out() -> None:
    shaken = [module.probability for module in PyramidNet(29, 24.0).modules() if isinstance(module, ShakeDrop)]
    assert shaken == pytest.approx([0.5 * number / 9 for number in range(1, 10)])
    settings = config_of("PyramidNet272", model__arguments__shake_drop=0.0).model
    assert settings.arguments["shake_drop"] == 0
    assert not any(isinstance(module, ShakeDrop) for module in PyramidNet(29, 24.0, shake_drop=0.0).modules())


@pytest.mark.parametrize(("depth", "expected"), [(8, 78_042), (20, 272_474)])
def test_small_networks_have_the_size_computed_by_hand(depth: int, expected: int) -> None:
    """Sum up 3x3 convolutions, batch-norms, two 1x1 projections and the classifier, for 3 channels and 10 classes."""
    total = 27 * 16 + 32
    for width, before in ((16, 16), (32, 16), (64, 32)):
        blocks = (depth - 2) // 6
        total += 9 * before * width + 9 * width * width * (2 * blocks - 1) + 2 * width * 2 * blocks
        total += before * width + 2 * width if width != before else 0
    assert total + 65 * 10 == expected
    assert size_of(builders.model(config_of(f"ResNet{depth}-standard")).backbone) == expected


@pytest.mark.parametrize(
    ("num_classes", "hidden_units", "expected"),
    [(10, 128, 3_978), (31, 128, 12_063), (100, 512, 154_212), (1000, 2048, 6_147_048), (1000, 4096, 12_293_096)],
)
def test_q_networks_have_as_many_parameters_as_the_reference(
    num_classes: int, hidden_units: int, expected: int
) -> None:
    assert size_of(QNetwork(2, num_classes, hidden_units)) == expected
