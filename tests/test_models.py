"""The networks: sizes, initial weights, gradients, and how they travel over devices."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn.parallel import scatter_gather

from agmax import builders
from agmax.config.resolve import Setting, resolve
from agmax.core import devices
from agmax.core.batch import Batch, Outputs
from agmax.core.errors import ResourceError, UsageError
from agmax.core.rng import seed_for
from agmax.models import backbones
from agmax.models.classifier import Classifier, QNetwork
from agmax.models.pyramid_net import PyramidNet, ShakeDrop
from agmax.optim.lr_schedules import learning_rate

FAMILIES = [
    "ResNet50",
    "ResNet101",
    "WideResNet28-10",
    "WideResNet40-2",
    "RegNetX002",
    "RegNetY004",
    "EfficientNetB0",
    "EfficientNetB1",
]


def config_of(name: str, dataset: str = "cifar10", **settings: Any) -> Any:
    typed = [Setting(key.replace("__", "."), value, "test") for key, value in settings.items()]
    return resolve(name, dataset=dataset, settings=typed).config


def size_of(model: nn.Module | None) -> int:
    assert model is not None
    return sum(parameter.numel() for parameter in model.parameters())


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


def test_networks_of_soft_augmentation_start_from_he_s_normal() -> None:
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


def test_training_moves_every_parameter_of_a_pyramid_that_is_shaken() -> None:
    model = PyramidNet(29, 24.0)
    model(torch.randn(4, 3, 16, 16)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize("depth", [28, 2, 271])
def test_a_pyramid_of_another_depth_is_answered(depth: int) -> None:
    with pytest.raises(UsageError, match="it must be 9n"):
        backbones.create(
            "agmax_pyramid_net", num_classes=10, channels=3, image_size=32, arguments={"depth": depth, "alpha": 24}
        )


def test_shake_drop_disturbs_whole_batches_as_often_as_it_says_by_factors_of_each_image() -> None:
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


def test_shake_drop_rises_from_block_to_block_and_can_be_left_out() -> None:
    shaken = [module.probability for module in PyramidNet(29, 24.0).modules() if isinstance(module, ShakeDrop)]
    assert shaken == pytest.approx([0.5 * number / 9 for number in range(1, 10)])
    settings = config_of("PyramidNet272", model__arguments__shake_drop=0.0).model
    assert settings.arguments["shake_drop"] == 0
    assert not any(isinstance(module, ShakeDrop) for module in PyramidNet(29, 24.0, shake_drop=0.0).modules())


@pytest.mark.parametrize(("depth", "expected"), [(8, 78_042), (20, 272_474)])
def test_small_networks_have_the_size_worked_out_by_hand(depth: int, expected: int) -> None:
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


def weights_of(model: nn.Module, kind: type[nn.Module]) -> Tensor:
    return torch.cat([module.weight.detach().flatten() for module in model.modules() if isinstance(module, kind)])  # type: ignore[arg-type, operator]


def last_norms(model: nn.Module) -> Tensor:
    names = {"ResNet": "bn3.weight", "RegNet": "conv3.bn.weight"}[type(model).__name__]
    return torch.cat([value.detach() for key, value in model.named_parameters() if key.endswith(names)])


@pytest.mark.parametrize("method", ["agmax", "agmax_mse"])
@pytest.mark.parametrize("name", ["ResNet50", "RegNetX002", "EfficientNetB0"])
def test_agmax_draws_every_convolution_and_linear_weight_from_one_normal(name: str, method: str) -> None:
    model = builders.model(config_of(f"{name}-standard-{method}"))
    for kind in (nn.Conv2d, nn.Linear):
        weights = weights_of(model, kind)
        assert weights.std().item() == pytest.approx(0.2, rel=0.02)
        assert abs(weights.mean().item()) < 0.01
    norms = weights_of(model, nn.BatchNorm2d)
    if name == "ResNet50" and method == "agmax":
        assert torch.equal(last_norms(model.backbone), torch.zeros_like(last_norms(model.backbone)))
        assert set(norms.unique().tolist()) == {0.0, 1.0}
    else:
        assert torch.equal(norms, torch.ones_like(norms))


def test_baseline_resnet_starts_from_torchs_default_weights_with_closed_blocks() -> None:
    model = builders.model(config_of("ResNet50-standard"))
    first = model.backbone.get_submodule("conv1").weight.detach()  # type: ignore[union-attr]
    assert isinstance(first, Tensor)
    bound = (3 * 7 * 7) ** -0.5  # torch draws from U(-bound, bound), timm from a normal twice as narrow
    assert first.abs().max().item() <= bound
    assert first.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert not last_norms(model.backbone).any()


def test_baseline_regnet_starts_as_timm_makes_it() -> None:
    import timm

    config = config_of("RegNetX002-standard")
    with torch.random.fork_rng():
        torch.manual_seed(seed_for(0, "init", "backbone"))
        expected = timm.create_model("regnetx_002", num_classes=10).state_dict()
    ours = builders.model(config).backbone.state_dict()
    assert all(torch.equal(ours[key], value) for key, value in expected.items())


@pytest.mark.parametrize("method", ["agmax", "agmax_mse", "two_views"])
@pytest.mark.parametrize("name", ["ResNet8", "WideResNet16-1"])
def test_equal_rules_give_equal_backbones_whatever_the_method(name: str, method: str) -> None:
    plain, other = (builders.model(config_of(f"{name}-standard{part}")).backbone for part in ("", f"-{method}"))
    for key, value in plain.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])


def test_the_q_network_alone_is_drawn_where_the_scope_says_so() -> None:
    drawn = builders.model(config_of("ResNet8-standard-agmax"))
    assert drawn.q_network is not None
    assert weights_of(drawn.q_network, nn.Linear).std().item() == pytest.approx(0.2, rel=0.1)
    left = builders.model(config_of("WideResNet16-1-standard-agmax"))
    assert left.q_network is not None
    assert weights_of(left.q_network, nn.Linear).abs().max().item() <= 20**-0.5  # torch's uniform bound


def test_the_q_network_has_a_seed_of_its_own() -> None:
    small, large = (builders.model(config_of(f"{name}-standard-agmax")).q_network for name in ("ResNet8", "ResNet20"))
    assert small is not None and large is not None
    with torch.random.fork_rng():
        torch.manual_seed(seed_for(0, "init", "q_network"))
        expected = QNetwork(2, 10, 128)
        backbones.reset_normal(expected, 0.2)
    for key, value in expected.state_dict().items():
        assert torch.equal(small.state_dict()[key], value)
        assert torch.equal(large.state_dict()[key], value)


def test_seeds_change_the_weights() -> None:
    first, second, model_seed = (
        builders.model(config_of("ResNet8-standard", **settings)).backbone.state_dict()["conv1.weight"]
        for settings in ({}, {"train__seed": 1}, {"train__seed": 1, "model__seed": 0})
    )
    assert not torch.equal(first, second)
    assert torch.equal(first, model_seed)


def test_making_a_model_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    builders.model(config_of("ResNet8-standard-agmax"))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("method", ["", "-agmax"])
@pytest.mark.parametrize("name", FAMILIES)
def test_training_moves_every_parameter(name: str, method: str) -> None:
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


def test_features_come_with_the_logits_when_an_objective_asks() -> None:
    model = builders.model(config_of("ResNet8-standard")).eval()
    images = torch.randn(2, 1, 3, 32, 32)
    plain = model(images)
    model.returns_features = True
    asked = model(images)
    assert plain.features is None
    assert asked.features.shape == (2, 1, 64)
    torch.testing.assert_close(model.backbone.get_classifier()(asked.features), plain.logits)  # type: ignore[operator]


def test_half_precision_is_entered_inside_and_comes_back_as_float32() -> None:
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


def test_unknown_networks_and_arguments_are_answered() -> None:
    with pytest.raises(UsageError, match="resnet50"):
        backbones.create("resnet50x", num_classes=10, channels=3, image_size=32)
    with pytest.raises(UsageError, match="depth must be 6n"):
        builders.model(config_of("WideResNet29-10-standard"))
    with pytest.raises(UsageError, match="speed"):
        builders.model(config_of("ResNet8-standard", model__arguments__speed=3))


# --- devices -----------------------------------------------------------------------------------------------------


def test_batches_and_outputs_are_cut_and_joined_along_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """DataParallel's scatter and gather on the CPU, with a gather that only concatenates."""
    batch = Batch(torch.randn(4, 2, 3, 8, 8), torch.randn(4, 2, 10), torch.ones(4, 2))
    halves = scatter_gather.scatter(batch, [-1, -1])
    assert [type(half) for half in halves] == [Batch, Batch]
    assert torch.equal(halves[1].images, batch.images[2:])

    class Joined:
        @staticmethod
        def apply(device: object, dim: int, *parts: Tensor) -> Tensor:
            return torch.cat(parts, dim)

    monkeypatch.setattr(scatter_gather, "Gather", Joined)
    outputs = [Outputs(torch.ones(2, 2, 10) * k, torch.ones(2, 10) * k) for k in range(2)]
    joined = scatter_gather.gather(outputs, "cpu")
    assert isinstance(joined, Outputs)
    assert joined.logits.shape == (4, 2, 10)
    assert joined.joint_logits[:, 0].tolist() == [0, 0, 1, 1]
    assert joined.features is None


def test_a_gpu_that_is_not_there_is_an_error_and_an_empty_variable_no_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for value in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert devices.choose_device("auto").type == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert devices.choose_device("cpu").type == "cpu"
    with pytest.raises(ResourceError, match="CUDA_VISIBLE_DEVICES=0,1"):
        devices.choose_device("auto")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with pytest.raises(ResourceError, match="--device cpu"):
        devices.choose_device("cuda")


def test_auto_precision_is_bf16_exactly_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for has in (False, True):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"avx512_bf16": has})
        assert devices.autocast_format("auto", cpu) == (torch.bfloat16 if has else None)
    assert devices.autocast_format("fp32", cpu) is None
    assert devices.autocast_format("bf16", cpu) == torch.bfloat16


# --- optimizers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("sgd", torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        ("adam", torch.optim.Adam, {"betas": (0.9, 0.999)}),
        ("adamw", torch.optim.AdamW, {"betas": (0.9, 0.999)}),
        ("rmsprop", torch.optim.RMSprop, {"momentum": 0.9, "alpha": 0.9, "eps": 1e-3}),
    ],
)
def test_optimizers_have_the_reference_programs_constants(
    name: str, kind: type[torch.optim.Optimizer], expected: dict[str, Any]
) -> None:
    config = config_of("ResNet8-standard-agmax", optimizer__name=name, optimizer__weight_decay=0.01)
    model = builders.model(config)
    made = builders.optimizer(config, model)
    assert type(made) is kind
    (group,) = made.param_groups
    assert len(group["params"]) == len(list(model.parameters()))
    assert {key: group[key] for key in expected} == expected
    assert group["weight_decay"] == 0.01


def test_biases_and_norms_can_be_left_out_of_weight_decay() -> None:
    config = config_of("ResNet8-standard", optimizer__decay_bias_and_norm=False)
    groups = builders.optimizer(config, builders.model(config)).param_groups
    for group in groups:
        is_flat = [parameter.ndim <= 1 for parameter in group["params"]]
        assert all(is_flat) if group["weight_decay"] == 0 else not any(is_flat)
    assert {group["weight_decay"] for group in groups} == {0.0, 5e-4}


def test_the_configured_schedule_reaches_the_learning_rate() -> None:
    config = config_of("RegNetX002-standard")
    made = builders.learning_rate(config, steps_per_epoch=10)
    for step in (0, 30, 49, 50, 600, 999):
        expected = learning_rate(step, name="cosine", base=0.1, epochs=100, steps_per_epoch=10, warmup_epochs=5)
        assert made(step, num_reductions=0) == expected
