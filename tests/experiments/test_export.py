"""--export: other programs read the model's weights from the files, and the graph gives the model's logits."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open

import agmax
from agmax.experiments import export
from agmax.experiments.model import from_config
from helpers.command import Answer
from helpers.training import train

Run = Callable[..., Answer]


def weights_of(run: Run, name: str = "ResNet8-cutout-agmax") -> str:
    folder: str = train(run, name, "train.epochs=1")["run_folder"]
    return folder


def test_safetensors_hold_the_backbone_and_its_description(run: Run, tmp_path: Path) -> None:
    folder = weights_of(run)
    answer = run("--export", f"--resume={folder}", "--json")
    assert answer.status == 0, answer.err
    assert answer.json["file"] == "ResNet8-cutout-agmax-digits.safetensors"
    backbone = agmax.load_model(folder).classifier.backbone
    with safe_open(tmp_path / answer.json["file"], framework="pt") as file:
        about = file.metadata()
        found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  it is no mapping
    expected = backbone.state_dict()
    assert found.keys() == expected.keys() and len(found) == answer.json["num_tensors"]
    assert all(torch.equal(value, expected[key]) for key, value in found.items())
    assert json.loads(about["class_names"]) == list("0123456789")
    assert (about["backbone"], about["image_size"], about["dataset"]) == ("agmax_resnet8", "8", "digits")


def test_timm_loads_the_weights_of_its_own_networks(run: Run, tmp_path: Path) -> None:
    answer = run("--export=safetensors", "--config=RegNetX002", "--dataset=cifar10", "--output=w.safetensors", "--json")
    assert answer.status == 0, answer.err
    model = timm.create_model("regnetx_002", num_classes=10, checkpoint_path=str(tmp_path / "w.safetensors"))
    ours = from_config(agmax.load_config("RegNetX002", dataset="cifar10"))
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(images), ours(images))


@pytest.mark.parametrize("name", ["ResNet8-cutout-agmax", "WideResNet16-1-cutout"])
def test_the_extractor_is_the_backbone_without_its_classifier(run: Run, tmp_path: Path, name: str) -> None:
    folder = weights_of(run, name)
    answer = run("--export", "extractor", f"--resume={folder}", "--output=features.pth", "--json")
    assert answer.status == 0, answer.err
    found = torch.load(tmp_path / "features.pth", weights_only=True)
    backbone = agmax.load_model(folder).classifier.backbone
    backbone.reset_classifier(0)  # type: ignore[operator]
    assert found.keys() == backbone.state_dict().keys()
    assert all(torch.equal(value, found[key]) for key, value in backbone.state_dict().items())


def onnx_logits(path: Path, images: torch.Tensor) -> torch.Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@pytest.mark.parametrize("with_normalization", [False, True])
def test_the_graph_gives_the_logits_of_the_model_for_any_batch_size(
    run: Run, tmp_path: Path, with_normalization: bool
) -> None:
    folder = weights_of(run)
    more = ["--normalize"] if with_normalization else ["evaluation.precision=bf16"]  # of no matter to the graph
    answer = run("--export", "onnx", f"--resume={folder}", "--output=a.onnx", *more, "--json")
    assert answer.status == 0, answer.err
    assert answer.json["largest_difference"] < 1e-4
    assert "largest difference of logits in onnxruntime: " in answer.err
    model = agmax.load_model(folder)
    pixels = torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    (mean,), (std,) = model.config.normalization
    normalized = (pixels - mean) / std
    with torch.inference_mode():
        expected = model(normalized)
    for count in (1, 7):
        found = onnx_logits(tmp_path / "a.onnx", (pixels if with_normalization else normalized)[:count])
        difference = (found - expected[:count]).abs().amax(1) / expected[:count].std(1)
        assert difference.max() < 1e-4


@pytest.fixture
def unmade(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out making the graph, which takes seconds, where it is not looked at."""
    written = SimpleNamespace(SerializeToString=lambda: b"graph")
    made = SimpleNamespace(model=SimpleNamespace(metadata_props={}), model_proto=written)
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: made)


@pytest.mark.usefixtures("unmade")
def test_without_onnxruntime_the_graph_is_written_with_a_note_that_it_was_not_compared(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    answer = run("--export", "onnx", "--config=ResNet8", "--dataset=digits", "--output=a.onnx")
    assert answer.status == 0 and "not compared with the model's: onnxruntime is not installed" in answer.err
    assert (tmp_path / "a.onnx").read_bytes() == b"graph"


@pytest.mark.usefixtures("unmade")
@pytest.mark.parametrize("difference", [2e-4, float("nan")])
def test_a_graph_with_other_logits_is_not_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, difference: float
) -> None:
    monkeypatch.setattr(export, "_difference", lambda *_: difference)
    answer = run("--export", "onnx", "--config=ResNet8", "--dataset=digits", "--output=a.onnx")
    assert answer.status == 6 and f"its logits differ by {difference:.1e} of their standard deviation" in answer.err
    assert not (tmp_path / "a.onnx").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dataset"), [("WideResNet40-2-agmax", "cifar100"), ("ResNet50", "imagenet")])
def test_graphs_of_published_networks_give_their_logits(run: Run, name: str, dataset: str) -> None:
    answer = run("--export", "onnx", f"--config={name}", f"--dataset={dataset}", "--output=a.onnx", "--json")
    assert answer.status == 0, answer.err
    assert answer.json["largest_difference"] < 1e-4


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        (["--export"], 2, "no configuration"),
        (
            ["--export", "--config=ResNet8", "--dataset=digits", "--normalize"],
            2,
            "only --export onnx can include normalization",
        ),
        (["--export=pickle", "--config=ResNet8"], 2, "invalid choice"),
        (["--export", "--resume=none.pth"], 4, "checkpoint not found"),
        (["--export", "--config=ResNet8", "--dataset=digits", "--output=nowhere/a"], 6, "cannot write"),
        (["--train", "--config=ResNet8", "--normalize"], 2, "it belongs to --export"),
    ],
)
def test_mistakes_give_an_error_that_says_why(run: Run, words: list[str], status: int, why: str) -> None:
    answer = run(*words)
    assert answer.status == status
    assert why in answer.err


def test_a_missing_package_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    answer = run("--export", "onnx", "--config=ResNet8", "--dataset=digits")
    assert answer.status == 2 and "missing package (onnxscript)" in answer.err
    assert "pip install onnx onnxscript onnxruntime" in answer.err


def test_exported_weights_are_not_rounded_to_the_precision_of_evaluations(run: Run, tmp_path: Path) -> None:
    """What is written is what the checkpoint holds: no rounding, whatever the evaluation's precision."""
    folder = weights_of(run)
    words = ("--export", f"--resume={folder}", "evaluation.precision=bf16", "--output=w.safetensors")
    assert run(*words).status == 0
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        found: Any = file.get_tensor("conv1.weight")
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found, agmax.load_model(folder).classifier.backbone.conv1.weight.detach())
