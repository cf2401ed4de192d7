"""Pretrained weights from files: a new classifier if the classes differ, and a lower learning rate of the backbone."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from agmax import builders
from agmax.config.resolve import Setting, resolve
from agmax.core.errors import CheckpointError, DownloadError
from agmax.models import backbones
from helpers.command import Answer
from helpers.released import file_of
from helpers.training import TINY, assert_same_weights, interrupted_and_resumed, loss_log, train, weights

Run = Callable[..., Answer]


def model_of(name: str, dataset: str, path: Path, **settings: Any) -> Any:
    listed = {"model.pretrained": True, "model.pretrained_file": str(path), **settings}
    typed = [Setting(key, value, "test") for key, value in listed.items()]
    config = resolve(name, dataset=dataset, settings=typed).config
    return builders.model(config).backbone.state_dict()


def assert_taken(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], head: str, *, is_new: bool) -> None:
    """Check that all tensors equal the file's, except those of a new head."""
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if key.startswith(head) and is_new:
            assert found[key].shape != value.shape
        else:
            assert torch.equal(found[key], value), key


@pytest.mark.parametrize(("classes", "is_new"), [(10, False), (7, True)])
def test_files_of_every_origin_initialize_a_backbone(run: Run, tmp_path: Path, classes: int, is_new: bool) -> None:
    """A checkpoint, an export, a file of the AgMax program, and timm's own tensors by name."""
    more = {"dataset.num_classes": classes}
    trained = train(run, "ResNet8-cutout-agmax", "train.epochs=1")["checkpoint"]
    own = {key.removeprefix("backbone."): value for key, value in weights(trained).items() if "backbone" in key}
    assert run("--export", f"--resume={trained}", "--output=w.safetensors").status == 0
    for path in (Path(trained), tmp_path / "w.safetensors"):
        gray = {"model.channels": 1, **more}
        assert_taken(model_of("ResNet8", "digits", path, **gray), own, "head.", is_new=is_new)
    torch.save(file_of("WideResNet40-2", hidden_units=8, classes=10), tmp_path / "a.pth")
    released = file_of("WideResNet40-2", hidden_units=8, classes=10)["model_state_dict"]
    found = model_of("WideResNet40-2", "cifar10", tmp_path / "a.pth", **more)
    prefixes = {"module.backbone.feature_extractor.": "", "module.backbone.classifier.": "head."}
    expected = {
        key.replace(prefix, here): value
        for key, value in released.items()
        for prefix, here in prefixes.items()
        if key.startswith(prefix)
    }
    assert_taken(found, expected, "head.", is_new=is_new)
    torch.manual_seed(0)
    other = timm.create_model("regnetx_002", num_classes=10).state_dict()
    for name, content in (
        ("bare.pth", other),
        ("nested.pth", {"state_dict": {f"module.{k}": v for k, v in other.items()}}),
    ):
        torch.save(content, tmp_path / name)
        found = model_of("RegNetX002", "cifar10", tmp_path / name, **more)
        assert_taken(found, other, "head.fc.", is_new=is_new)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"conv1.weight": torch.zeros(3)}, "weights do not fit the model"),
        ({"conv1.weight": "text"}, "'conv1.weight' is not a named tensor"),
        ({}, "it holds no named weights"),
        ({"format": "agmax checkpoint", "version": 1}, "it holds no named weights"),
    ],
)
def test_files_of_other_networks_are_refused(tmp_path: Path, content: dict[str, Any], why: str) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=why):
        model_of("ResNet8", "digits", tmp_path / "a.pth")
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="weights not loaded"):
        model_of("ResNet8", "digits", tmp_path / "a.safetensors")
    os.mkfifo(tmp_path / "b.safetensors")
    with pytest.raises(CheckpointError, match="not a plain file"):
        model_of("ResNet8", "digits", tmp_path / "b.safetensors")


def test_weights_are_converted_as_timm_converts_its_downloads(tmp_path: Path) -> None:
    """From RGB and 224 pixels to a gray stem and to position embeddings of 32 pixels."""
    torch.manual_seed(0)
    for backbone, name, stem in (
        ("regnetx_002", "RegNetX002", "stem.conv.weight"),
        ("vit_tiny_patch16_224", "vit_tiny_patch16_224", "patch_embed.proj.weight"),
    ):
        published = timm.create_model(backbone, num_classes=5).state_dict()
        torch.save(published, tmp_path / "a.pth")
        gray = model_of(name, "digits", tmp_path / "a.pth", **{"dataset.image_size": 32, "model.channels": 1})
        torch.testing.assert_close(gray[stem], published[stem].sum(1, keepdim=True))
    assert gray["pos_embed"].shape == (1, 5, 192)
    torch.save({**published, "pos_embed": torch.zeros(3)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="weights do not fit the model"):
        model_of("vit_tiny_patch16_224", "digits", tmp_path / "a.pth", **{"dataset.image_size": 32})


def test_without_a_network_the_error_comes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> Any:
        raise OSError(113, "No route to host")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    for name, why in (("resnet50", "cannot be reached: No route to host"), ("agmax_resnet8", "timm has none for it")):
        with pytest.raises(DownloadError, match=why) as failure:
            backbones.create(name, num_classes=10, channels=3, image_size=32, pretrained=True)
        assert "model.pretrained_file=FILE" in str(failure.value)


def test_fine_tuning_has_a_lower_learning_rate_for_the_backbone(run: Run) -> None:
    """At factor 0 the backbone's parameters do not change, while the classifier and the Q network learn."""
    start = train(run, "ResNet8-cutout", "train.epochs=1")["checkpoint"]
    words = [f"model.pretrained_file={start}", "model.channels=1"]
    words += ["optimizer.backbone_lr_factor=0.0", "optimizer.weight_decay=0.0"]
    end = train(run, "ResNet8-cutout-agmax-fine_tune", "train.epochs=1", *words)["checkpoint"]
    before, after = weights(start), weights(end)
    parameters = [key for key in before if "running" not in key and "num_batches" not in key]
    moved = {key for key in parameters if not torch.equal(before[key], after[key])}
    assert moved == {"backbone.head.weight", "backbone.head.bias"}
    assert after["q_network.model.0.weight"].any()


@pytest.mark.parametrize("decays_all", [True, False])
def test_learning_rates_and_weight_decays_of_the_groups(decays_all: bool) -> None:
    values = {
        "model.pretrained": False,
        "optimizer.backbone_lr_factor": 0.1,
        "optimizer.decay_bias_and_norm": decays_all,
        "optimizer.weight_decay": 0.5,
    }
    typed = [Setting(key, value, "test") for key, value in values.items()]
    config = resolve("ResNet8-agmax", dataset="digits", settings=typed).config
    model = builders.model(config)
    groups = builders.optimizer(config, model).param_groups
    place = {id(value): group for group in groups for value in group["params"]}
    assert len(place) == len(list(model.parameters()))
    for name, value in model.named_parameters():
        is_head = name.startswith(("backbone.head.", "q_network."))
        assert place[id(value)]["lr_factor"] == (1.0 if is_head else 0.1)
        assert place[id(value)]["weight_decay"] == (0.5 if decays_all or value.ndim > 1 else 0.0)


def test_fine_tuning_resumes_bit_for_bit(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    start = train(run, "ResNet8-cutout", "train.epochs=1")["checkpoint"]
    words = ("--config=ResNet8-cutout-fine_tune", *TINY, f"model.pretrained_file={start}", "model.channels=1")
    words += ("train.save_every_steps=1",)
    full = run(*words, "--train", "--json", "train.runs_dir=full").json
    again = interrupted_and_resumed(run, monkeypatch, 6, *words)
    assert loss_log(again["run_folder"]) == loss_log(full["run_folder"])
    assert_same_weights(again["checkpoint"], full["checkpoint"])


def test_a_file_without_pretrained_is_a_mistake(run: Run) -> None:
    answer = run("--print-config", "--config=ResNet8", "model.pretrained_file=a.pth")
    assert answer.status == 2 and "Write model.pretrained=true" in answer.err
