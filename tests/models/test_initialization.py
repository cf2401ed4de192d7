"""The initial weights of networks, and the random streams that they are drawn from."""

import pytest
import torch
from torch import Tensor, nn

from agmax import builders
from agmax.core.rng import seed_for
from agmax.models import backbones
from agmax.models.classifier import QNetwork
from helpers.models import config_of, weights_of


def last_norms(model: nn.Module) -> Tensor:
    names = {"ResNet": "bn3.weight", "RegNet": "conv3.bn.weight"}[type(model).__name__]
    return torch.cat([value.detach() for key, value in model.named_parameters() if key.endswith(names)])


@pytest.mark.parametrize("method", ["agmax", "agmax_mse"])
@pytest.mark.parametrize("name", ["ResNet50", "RegNetX002", "EfficientNetB0"])
def test_agmax_initializes_convolution_and_linear_weights_from_one_normal_distribution(name: str, method: str) -> None:
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


def test_baseline_resnet_has_torchs_default_weights_and_zero_last_norms() -> None:
    model = builders.model(config_of("ResNet50-standard"))
    first = model.backbone.get_submodule("conv1").weight.detach()  # type: ignore[union-attr]
    assert isinstance(first, Tensor)
    bound = (3 * 7 * 7) ** -0.5  # torch draws from U(-bound, bound), timm from a normal twice as narrow
    assert first.abs().max().item() <= bound
    assert first.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert not last_norms(model.backbone).any()


def test_baseline_regnet_has_timms_initial_weights() -> None:
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


def test_scope_can_limit_initialization_to_the_q_network() -> None:
    drawn = builders.model(config_of("ResNet8-standard-agmax"))
    assert drawn.q_network is not None
    assert weights_of(drawn.q_network, nn.Linear).std().item() == pytest.approx(0.2, rel=0.1)
    left = builders.model(config_of("WideResNet16-1-standard-agmax"))
    assert left.q_network is not None
    assert weights_of(left.q_network, nn.Linear).abs().max().item() <= 20**-0.5  # torch's uniform bound


def test_the_q_network_has_its_own_random_stream() -> None:
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


def test_creating_a_model_does_not_change_the_callers_random_state() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    builders.model(config_of("ResNet8-standard-agmax"))
    assert torch.equal(torch.rand(1), expected)
