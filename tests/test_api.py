"""What other programs use: models that answer as an evaluation does."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import REPOSITORY, Answer, write_tree
from PIL import Image
from test_readme import blocks
from test_released import file_of
from test_training import train

import agmax
from agmax import builders
from agmax.core.errors import CheckpointError, DataError, ResourceError, UsageError
from agmax.data import datasets
from agmax.experiments.model import Model, with_initial_weights

Run = Callable[..., Answer]


def made(name: str, dataset: str, **settings: Any) -> Model:
    """Return the model of a configuration with its initial weights."""
    return with_initial_weights(agmax.load_config(name, dataset=dataset, overrides=settings))


def test_a_loaded_model_answers_as_the_evaluation_did(run: Run) -> None:
    result = train(run, "ResNet8-cutout-agmax", "train.epochs=1")
    model = agmax.load_model(result["run_folder"])
    assert not model.training
    assert model.class_names == tuple("0123456789")
    assert model.config.objective.name == "agmax"
    digits = datasets.load("digits", "data", split="test")
    pictures = [Image.fromarray(pixels[0].numpy()) for pixels in digits.images[:40]]
    with torch.inference_mode():
        logits = model(torch.stack([model.preprocess(picture) for picture in pictures]))
    expected = np.load(f"{result['run_folder']}/predictions.npz")["test_logits"][:40]
    assert logits.shape == (40, 10)
    np.testing.assert_allclose(logits.numpy(), expected, rtol=2e-3, atol=2e-3)  # they are kept in half precision
    scores = {name: result[name] for name in ("top1", "top5", "nll", "ece")}
    assert agmax.evaluate(model, "digits").scores == scores
    assert agmax.evaluate(model).scores == agmax.evaluate(result["checkpoint"]).scores == scores
    assert agmax.evaluate(model, split="train").scores != scores


def test_images_are_prepared_as_the_evaluation_prepares_its_files(run: Run, tmp_path: Path) -> None:
    """Two classes of photographs 60 wide and 44 high: the centre of a resized image, or of a gray one in colour."""
    root = write_tree(tmp_path / "photos", ["a", "b"], {"train": 2, "test": 3}, size=(60, 44))
    settings = {"dataset.root": str(root), "dataset.num_classes": 2, "dataset.image_size": 32, "train.num_workers": 0}
    model = made("ResNet8-standard", "folder", **settings)
    data = builders.split(model.config, "test")
    source = builders.test_source(model.config, data, torch.device("cpu"))
    (sample,) = source.batches([torch.arange(6)], epoch=0)
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in model.config.normalisation)
    for path, pixels in zip(data.paths, sample.images, strict=True):
        with Image.open(path) as image:
            prepared = model.preprocess(image)
        torch.testing.assert_close(prepared, (pixels / 255 - mean) / std)
        assert prepared.shape == (3, 32, 32)
    assert model.preprocess(Image.new("L", (50, 90), 128)).shape == (3, 32, 32)


def test_another_data_set_is_looked_for_where_it_lies() -> None:
    model = made("ResNet8", "imagenet", **{"dataset.root": "mine"})
    with pytest.raises(DataError, match="imagenet-v2") as failure:
        agmax.evaluate(model, "imagenet-v2")
    assert "mine" not in str(failure.value)
    with pytest.raises(DataError, match="mine"):
        agmax.evaluate(model)


def test_a_folder_whose_classes_have_other_names_is_not_what_the_model_knows(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "photos", ["a", "b"], {"train": 1, "test": 2})
    settings = {"dataset.root": str(root), "dataset.num_classes": 2, "dataset.image_size": 32, "train.num_workers": 0}
    model = made("ResNet8", "folder", **settings)
    assert agmax.evaluate(model).top5 == 100
    model.class_names = ("b", "a")
    with pytest.raises(DataError, match=r"2 classes \(a, b\), the weights know 2 classes \(b, a\)"):
        agmax.evaluate(model)


def test_a_file_of_the_agmax_program_is_a_model_too(tmp_path: Path) -> None:
    torch.save(file_of("WideResNet40-2", hidden_units=16, classes=7), tmp_path / "a.pth")
    model = agmax.load_model(tmp_path / "a.pth")
    assert model.class_names == ()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_a_model_of_a_name_has_the_weights_that_its_training_starts_from() -> None:
    model = made("ResNet8-agmax", "cifar10", **{"train.seed": 3})
    assert not model.training and model.config.train.seed == 3
    expected = builders.model(model.config).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.classifier.state_dict().items())


def test_mistakes_are_answered_as_on_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean"):
        agmax.load_config("ResNet8", dataset="cifar10", overrides={"model.dropuot": 0.1})
    with pytest.raises(CheckpointError, match="checkpoint not found"):
        agmax.load_model(tmp_path / "none.pth")
    with pytest.raises(AttributeError, match="no attribute 'load_modle'"):
        agmax.load_modle  # type: ignore[attr-defined]  # noqa: B018


def test_the_device_is_the_one_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    config = agmax.load_config("ResNet8", dataset="digits")
    for device in ("cpu", torch.device("cpu")):
        assert next(with_initial_weights(config, device).parameters()).device.type == "cpu"
    with pytest.raises(UsageError, match="torch has none of this name"):
        with_initial_weights(config, "cdua")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda", "cuda:0"):
        with pytest.raises(ResourceError, match="torch finds none"):
            with_initial_weights(config, device)


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, agmax; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


def test_the_example_of_the_readme_runs(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks("python")
    answer = run(
        "--config=ResNet8-cutout-agmax", "--train", "--dataset=digits", "--epochs=1", "dataset.train_limit=100"
    )
    assert answer.status == 0, answer.err
    digits = datasets.load("digits", "data", split="test")
    Image.fromarray(digits.images[0, 0].numpy()).save(tmp_path / "digit.png")
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 and printed[0].split()[0] in "0123456789" and "'top1'" in printed[1]
