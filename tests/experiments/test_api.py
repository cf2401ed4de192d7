"""The Python API: it gives the results of the command line, and its public names are frozen."""

import importlib
import inspect
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import BaseModel

import agmax
from agmax import builders
from agmax.augment import Key
from agmax.config.schema import Config
from agmax.core.errors import CheckpointError, DataError, ResourceError, UsageError
from agmax.core.logs import log
from agmax.data import datasets
from agmax.experiments.model import Model, from_config
from agmax.losses import AgMaxLoss
from helpers.command import Answer
from helpers.docs import blocks
from helpers.images import write_tree
from helpers.places import GOLDEN, REPOSITORY
from helpers.released import file_of
from helpers.training import train

Run = Callable[..., Answer]


@pytest.fixture(autouse=True)
def no_handlers_of_the_command_line() -> None:
    """Leave the program's text to pytest: a handler of main() would write to what an earlier test has closed."""
    log.handlers.clear()
    log.propagate = True


def made(name: str, dataset: str, **settings: Any) -> Model:
    """Return the model of a configuration with its initial weights."""
    return from_config(agmax.load_config(name, dataset=dataset, overrides=settings))


def test_a_loaded_model_gives_the_logits_and_metrics_of_the_evaluation(run: Run) -> None:
    result = train(run, "ResNet8-cutout-agmax", "train.epochs=1")
    model = agmax.load_model(result["run_folder"])
    assert not model.training
    assert model.class_names == tuple("0123456789")
    assert model.config.objective.name == "agmax"
    digits = datasets.load("digits", "data", split="test")
    photos = [Image.fromarray(pixels[0].numpy()) for pixels in digits.images[:40]]
    with torch.inference_mode():
        logits = model(torch.stack([model.preprocess(photo) for photo in photos]))
    expected = np.load(f"{result['run_folder']}/predictions.npz")["test_logits"][:40]
    assert logits.shape == (40, 10)
    np.testing.assert_allclose(logits.numpy(), expected, rtol=2e-3, atol=2e-3)  # they are kept in half precision
    scores = {name: result[name] for name in ("top1", "top5", "nll", "ece")}
    assert agmax.evaluate(model, "digits").values == scores
    assert agmax.evaluate(model).values == agmax.evaluate(result["checkpoint"]).values == scores
    assert agmax.evaluate(model, split="train").values != scores


def test_images_are_preprocessed_as_the_evaluation_does_with_its_files(run: Run, tmp_path: Path) -> None:
    """Two classes of photographs, 60 by 44 pixels: resized and center-cropped; gray ones become RGB."""
    root = write_tree(tmp_path / "photos", ["a", "b"], {"train": 2, "test": 3}, size=(60, 44))
    settings = {"dataset.root": str(root), "dataset.num_classes": 2, "dataset.image_size": 32, "train.num_workers": 0}
    model = made("ResNet8-standard", "folder", **settings)
    data = builders.split(model.config, "test")
    source = builders.test_loader(model.config, data, torch.device("cpu"))
    (sample,) = source.batches([torch.arange(6)], epoch=0)
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in model.config.normalization)
    for path, pixels in zip(data.paths, sample.images, strict=True):
        with Image.open(path) as image:
            prepared = model.preprocess(image)
        torch.testing.assert_close(prepared, (pixels / 255 - mean) / std)
        assert prepared.shape == (3, 32, 32)
    assert model.preprocess(Image.new("L", (50, 90), 128)).shape == (3, 32, 32)


def test_another_data_set_is_read_from_its_own_root() -> None:
    model = made("ResNet8", "imagenet", **{"dataset.root": "mine"})
    with pytest.raises(DataError, match="imagenet-v2") as failure:
        agmax.evaluate(model, "imagenet-v2")
    assert "mine" not in str(failure.value)
    with pytest.raises(DataError, match="mine"):
        agmax.evaluate(model)


def test_a_folder_whose_classes_are_not_those_of_the_model_is_refused(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "photos", ["a", "b"], {"train": 1, "test": 2})
    settings = {"dataset.root": str(root), "dataset.num_classes": 2, "dataset.image_size": 32, "train.num_workers": 0}
    model = made("ResNet8", "folder", **settings)
    assert agmax.evaluate(model).top5 == 100
    model.class_names = ("b", "a")
    with pytest.raises(DataError, match=r"the data set has 2 classes \(a, b\), the weights 2 classes \(b, a\)"):
        agmax.evaluate(model)


def test_a_file_of_the_agmax_program_is_a_model_too(tmp_path: Path) -> None:
    torch.save(file_of("WideResNet40-2", hidden_units=16, classes=7), tmp_path / "a.pth")
    model = agmax.load_model(tmp_path / "a.pth")
    assert model.class_names == ()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_a_model_from_a_configuration_has_its_initial_weights() -> None:
    model = made("ResNet8-agmax", "cifar10", **{"train.seed": 3})
    assert not model.training and model.config.train.seed == 3
    expected = builders.model(model.config).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.classifier.state_dict().items())


def test_mistakes_raise_the_errors_of_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean"):
        agmax.load_config("ResNet8", dataset="cifar10", overrides={"model.dropuot": 0.1})
    with pytest.raises(CheckpointError, match="checkpoint not found"):
        agmax.load_model(tmp_path / "none.pth")
    with pytest.raises(AttributeError, match="no attribute 'load_modle'"):
        agmax.load_modle  # type: ignore[attr-defined]  # noqa: B018


def test_the_model_is_on_the_given_device(monkeypatch: pytest.MonkeyPatch) -> None:
    config = agmax.load_config("ResNet8", dataset="digits")
    for device in ("cpu", torch.device("cpu")):
        assert next(from_config(config, device).parameters()).device.type == "cpu"
    with pytest.raises(UsageError, match="torch has no device of this name"):
        from_config(config, "cdua")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda", "cuda:0"):
        with pytest.raises(ResourceError, match="torch finds none"):
            from_config(config, device)


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, agmax; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0


def test_the_example_of_the_readme_runs(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = [text for text in blocks("python") if "load_model" in text]
    answer = run(
        "--config=ResNet8-cutout-agmax", "--train", "--dataset=digits", "--epochs=1", "dataset.train_limit=100"
    )
    assert answer.status == 0, answer.err
    digits = datasets.load("digits", "data", split="test")
    Image.fromarray(digits.images[0, 0].numpy()).save(tmp_path / "digit.png")
    exec(compile(example, "README.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 and printed[0].split()[0] in "0123456789" and "'top1'" in printed[1]


# --- what is public ----------------------------------------------------------------------------------------------


def signatures(place: Any, names: list[str]) -> dict[str, str]:
    """Return the signatures of names, as a reader of the documentation sees them."""
    found = {}
    for name in names:
        item = getattr(place, name)
        if inspect.isclass(item) and issubclass(item, BaseModel):
            found[name] = f"settings {', '.join(item.model_fields)}"
        elif callable(item) and not isinstance(item, dict):
            try:
                text = str(inspect.signature(item)).replace("'", "").replace("agmax.", "")
                found[name] = text.replace("pathlib._local.", "pathlib.")
            except ValueError:
                found[name] = ""
        else:
            found[name] = type(item).__name__
    return found


PLACES = ("agmax", "agmax.augment", "agmax.losses", "agmax.models", "agmax.training", "agmax.builders.register")


def public_names() -> dict[str, dict[str, str]]:
    return {
        place: signatures(module, sorted(getattr(module, "__all__", None) or own_names(module)))
        for place in PLACES
        for module in [importlib.import_module(place)]
    }


def own_names(module: Any) -> list[str]:
    return [
        name
        for name, item in vars(module).items()
        if inspect.isfunction(item) and item.__module__ == module.__name__ and not name.startswith("_")
    ]


def test_every_public_name_has_the_signature_that_was_reviewed() -> None:
    """Where one is meant to change: `PYTHONPATH=.:tests python tests/experiments/test_api.py` writes them
    anew, and the difference is reviewed."""
    assert public_names() == json.loads((GOLDEN / "public_names.json").read_text())


def test_the_public_modules_are_available_after_importing_only_the_package() -> None:
    for name in agmax.__all__:
        assert agmax.__getattr__(name) is getattr(agmax, name) and name in dir(agmax)
    for name in ("augment", "losses", "models", "training"):
        assert agmax.__getattr__(name) is sys.modules[f"agmax.{name}"]


def test_every_public_name_has_a_docstring() -> None:
    for place in PLACES:
        module = importlib.import_module(place)
        for name in getattr(module, "__all__", None) or own_names(module):
            item = getattr(module, name)
            if inspect.isclass(item) or inspect.isfunction(item):
                assert (item.__doc__ or "").strip() and item.__doc__ != f"{name}()", (place, name)


def test_training_from_python_returns_what_the_command_line_returns(run: Run) -> None:
    typed = ["--config=ResNet8-cutout-agmax", "--train", "--dataset=digits", "train.epochs=1", *TINY_DATA]
    answer = run(*typed, "train.runs_dir=typed", "--json").json
    overrides = {"train.epochs": 1, "train.runs_dir": "called"} | dict(_pairs(TINY_DATA))
    result = agmax.train("ResNet8-cutout-agmax", dataset="digits", overrides=overrides)
    timed = {"images_per_second", "seconds"}
    called = json.loads(json.dumps(result.to_dict()))
    differing = {key for key in answer.keys() | called.keys() if answer.get(key) != called.get(key)}
    assert differing <= timed | {"run_folder", "checkpoint"}
    assert result.top1 == answer["top1"] and Path(result.checkpoint).is_file()
    assert (Path(result.run_folder) / "train.log").read_text().count("epoch 1/1") == 1


def test_training_from_python_resumes_runs_and_takes_a_config_object(run: Run) -> None:
    config = agmax.load_config("ResNet8-standard", dataset="digits", overrides=dict(_pairs(TINY_DATA)))
    first = agmax.train(config, overrides={"train.epochs": 1})
    longer = agmax.train(config, overrides={"train.epochs": 2}, resume=first.run_folder)
    assert (longer.epochs, longer.steps) == (2, 2 * first.steps) and longer.run_folder != first.run_folder
    assert agmax.train(config, overrides={"train.epochs": 1}, resume="").run_folder == first.run_folder
    assert agmax.evaluate(longer.run_folder).values == longer.values


TINY_DATA = ("dataset.train_limit=60", "dataset.image_size=8", "augment.standard.padding=1", "train.batch_size=20")


def _pairs(words: tuple[str, ...]) -> list[tuple[str, int]]:
    return [(key, int(value)) for key, _, value in (word.partition("=") for word in words)]


def test_a_plain_loop_trains_with_our_augmentation_and_the_loss_of_agmax() -> None:
    """The loop of docs/own_loop.md, with the data that it makes."""
    (loop,) = [text for text in blocks("python") if "AgMaxLoss" in text]
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(compile(loop, "docs/own_loop.md", "exec"), names)
    assert names["losses"].total.isfinite() and set(names["losses"].terms) == {
        "classification",
        "agreement",
        "consistency",
    }
    history = names["history"]
    assert len(history) == 30 and sum(history[-5:]) < sum(history[:5])
    assert (names["logits"].argmax(1) == names["labels"]).float().mean() > 0.9
    assert len([line for line in loop.splitlines() if line.strip()]) <= 35


def test_our_augmentation_and_loss_train_in_a_lightning_module() -> None:
    lightning = pytest.importorskip("lightning", reason="Lightning is not installed")
    digits = datasets.load("digits", "data", split="train")
    augment = agmax.augmentation("cutout-agmax", dataset="digits")
    criterion = AgMaxLoss()

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.classifier = agmax.model_from_config("ResNet8-agmax", dataset="digits")
            self.seen: list[float] = []

        def training_step(self, pair: Any, number: int) -> Any:
            batch = augment(*pair, key=Key(0, number))
            outputs = self.classifier(batch.images)
            losses = criterion(outputs.logits, outputs.joint_logits, batch.targets, weights=batch.weights)
            self.seen.append(losses.terms["classification"].item())
            return losses.total

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    images = torch.nn.functional.interpolate(digits.images[:256], size=32)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, digits.labels[:256]), batch_size=64)
    module = Module()
    trainer = lightning.Trainer(max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(module, loader)
    assert module.seen[-1] < module.seen[0]


def test_continuing_a_run_reads_its_checkpoint_once_and_validates_the_configuration_twice(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("--config=ResNet8-cutout-agmax", "--train", "--dataset=digits", "--epochs=1", *TINY_DATA).status == 0
    folder = Path("runs/ResNet8-cutout-agmax/digits-s0")
    (folder / "result.json").unlink()  # as if it had been killed before its end
    counts: Counter[str] = Counter()

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*words: Any, **more: Any) -> Any:
            counts[name] += 1
            return function(*words, **more)

        return counted

    monkeypatch.setattr(torch, "load", counting("read", torch.load))
    monkeypatch.setattr(Config, "model_validate", counting("validated", Config.model_validate))
    answer = run("--train", "--resume", str(folder))
    assert answer.status == 0 and "continuing after step 3 of 3" in answer.err
    assert counts["read"] == 1 and 1 <= counts["validated"] <= 2, counts


if __name__ == "__main__":
    (GOLDEN / "public_names.json").write_text(json.dumps(public_names(), indent=1, sort_keys=True) + "\n")


def test_wrong_shapes_and_types_of_a_loop_of_ones_own_say_what_to_give() -> None:
    model = agmax.model_from_config("ResNet8-agmax", dataset="digits")
    augment = agmax.augmentation("cutmix", dataset="digits")
    images, labels = torch.zeros(4, 1, 32, 32, dtype=torch.uint8), torch.arange(4)
    outputs = model(torch.zeros(4, 2, 1, 32, 32))
    assert outputs.joint_logits is not None
    with pytest.raises(ValueError, match=r"Give \[N, V, C, H, W\]; for one view of each image, images\[:, None\]"):
        model(torch.zeros(4, 1, 32, 32))
    with pytest.raises(ValueError, match="Give a row of K probabilities for each row of logits"):
        AgMaxLoss()(outputs.logits, outputs.joint_logits, labels)
    with pytest.raises(ValueError, match="Give class numbers as int64"):
        augment(images, labels.float())
    with pytest.raises(UsageError, match=r"it is a Classifier. Give what agmax.load_model returns"):
        agmax.evaluate(model, "digits")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"in Python overrides=\{'dataset.num_classes': 10\}"):
        agmax.augmentation("cutmix", dataset="folder")
