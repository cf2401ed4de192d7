"""Files of the AgMax program: their networks give the same logits here, whatever the files' names."""

import io
import os
import pickle
import subprocess
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from agmax import builders
from agmax.checkpoints import agmax_format
from agmax.checkpoints.read import load_weights
from agmax.checkpoints.write import save_checkpoint
from agmax.cli.parser import parse
from agmax.config import names, resolve
from agmax.core.errors import CheckpointError
from agmax.experiments import saved as saving
from agmax.experiments import start
from helpers.command import Answer
from helpers.places import REPOSITORY
from helpers.released import EXPECTED, KEYS, file_of, small_imagenet

Run = Callable[..., Answer]


def loaded(path: Path) -> Any:
    """Return the classifier of a file, as in an evaluation."""
    saved = saving.load(path)
    classifier = builders.model(saved.config)
    load_weights(classifier, saved.state["model"], where=path, saved="the file", wanted="the model")
    return classifier.eval(), saved.config


def assert_logits(found: Tensor, expected: dict[str, Any]) -> None:
    """Compare logits [2, K] with the golden ones, to a thousandth of their standard deviation."""
    for row, first, deviation, largest, total in zip(
        found, expected["first8"], expected["std"], expected["argmax"], expected["sum"], strict=True
    ):
        assert (row[:8] - torch.tensor(first)).abs().max() < 1e-3 * deviation
        assert int(row.argmax()) == largest
        assert abs(float(row.sum()) - total) < 1e-3 * deviation * len(row)


@pytest.mark.parametrize("case", EXPECTED, ids=lambda case: case["backbone"])
@pytest.mark.parametrize("method", ["baseline", "agmax"])
def test_a_file_gives_the_logits_of_the_program_that_wrote_it(
    tmp_path: Path, case: dict[str, Any], method: str
) -> None:
    path = tmp_path / "some-file.pth"
    units = case["hidden_units"] if method == "agmax" else 0
    state = file_of(case["backbone"], hidden_units=units, classes=case["num_classes"])
    assert len(state["model_state_dict"]) == case[f"num_keys_{method}"]
    torch.save(state, path)
    classifier, config = loaded(path)
    assert (config.dataset.num_classes, config.objective.hidden_units) == (case["num_classes"], units)
    shape = (2, case["channels"], case["image_size"], case["image_size"])
    views = [torch.from_numpy(np.random.RandomState(seed).randn(*shape).astype(np.float32)) for seed in (2022, 2023)]
    with torch.inference_mode():
        if method == "baseline":
            assert_logits(classifier(views[0][:, None]).logits[:, 0], case["baseline_logits"])
            return
        outputs = classifier(torch.stack(views, dim=1))
    assert_logits(outputs.logits[:, 0], case["agmax_view1_logits"])
    assert_logits(outputs.logits[:, 1], case["agmax_view2_logits"])
    assert_logits(outputs.joint_logits, case["agmax_joint_logits"])


def test_a_file_written_without_a_gpu_holds_the_same() -> None:
    bare, wrapped = (
        agmax_format.read_contents(file_of("WideResNet40-2", hidden_units=24, prefix=prefix), Path("a.pth"))
        for prefix in ("", "module.")
    )
    assert bare.weights.keys() == wrapped.weights.keys()
    assert all(torch.equal(value, wrapped.weights[key]) for key, value in bare.weights.items())
    assert bare[:-2] == wrapped[:-2]


@pytest.mark.parametrize("part", KEYS)
@pytest.mark.parametrize("hidden_units", [0, 24])
def test_every_network_is_recognized_by_its_keys_and_shapes(part: str, hidden_units: int) -> None:
    """All tensors are used except those of the unused classifier."""
    state = file_of(part, hidden_units=hidden_units, classes=7, is_filled=False)
    found = agmax_format.read_contents(state, Path("a.pth"))
    assert (found.part, found.num_classes, found.channels) == (part, 7, 3)
    assert (found.hidden_units, found.num_views) == (hidden_units, 2 if hidden_units else 1)
    assert found.epoch == 270
    mapping = saving._from_agmax(state, Path("imagenet-standard-ResNet50.pth"))[0]["config"]
    classifier = builders.model(resolve.from_mapping(mapping, "test"))
    load_weights(classifier, found.weights, where=Path("a.pth"), saved="the file", wanted="the model")
    dead = 2 if part.startswith(("RegNet", "EfficientNet")) else 0
    assert len(classifier.state_dict()) == len(state["model_state_dict"]) - dead


@pytest.mark.parametrize("name", agmax_format.RELEASED)
def test_the_released_files_are_configurations_of_this_program(name: str) -> None:
    release = agmax_format.RELEASED[name]
    parsed = names.parse(release.config)
    assert parsed.canonical == release.config
    assert parsed.model.part in name and str(release.top1) in name
    assert ("agmax" in name) == ("agmax" in parsed.parts)


@pytest.mark.parametrize(
    ("name", "classes", "expected"),
    [
        ("imagenet-agmax-ResNet50-79.12.pth", 1000, "imagenet"),
        ("cifar100-standard-WideResNet40-2-77.pth", 100, "cifar100"),
        ("svhn-core-standard-WideResNet40-2.pth", 10, "svhn-core"),
        ("svhn-standard-WideResNet40-2.pth", 10, "svhn"),
        ("what.pth", 10, "cifar10"),
        ("what.pth", 100, "cifar100"),
        ("what.pth", 1000, "imagenet"),
        ("folder-of-mine.pth", 3, "imagenet"),
    ],
)
def test_the_name_of_a_file_determines_the_default_data_set(name: str, classes: int, expected: str) -> None:
    state = file_of("WideResNet40-2", classes=classes)
    _, config = saving._from_agmax(state, Path(name))
    assert config.dataset.name == expected
    assert config.dataset.num_classes == classes
    assert config.dataset.statistics == "agmax"  # as the weights have learnt


@pytest.mark.parametrize(
    ("dataset", "size", "mean"),
    [("imagenet", 224, 0.485), ("svhn", 32, 0.4309803921568628), ("svhn-core", 32, 0.4914), ("cifar100", 32, 0.4914)],
)
@pytest.mark.parametrize("is_named", [False, True])
def test_a_given_data_set_determines_image_size_and_normalization(
    tmp_path: Path, dataset: str, size: int, mean: float, is_named: bool
) -> None:
    """The name of the file suggests CIFAR-10; the constants are the AgMax program's for the given data set."""
    torch.save(file_of("WideResNet40-2", hidden_units=8, classes=10), tmp_path / "what.pth")
    words = ["--eval", f"--resume={tmp_path / 'what.pth'}", f"--dataset={dataset}", "dataset.num_classes=10"]
    words += ["--config=WideResNet40-2-cutmix-agmax"] if is_named else []
    found = start.find_weights(parse(words).config_request)
    config = found.resolved.config
    assert found.checkpoint is not None
    assert (config.dataset.name, config.dataset.image_size, config.test_image_size) == (dataset, size, size)
    assert config.normalization[0][0] == pytest.approx(mean)
    assert (config.objective.hidden_units, config.objective.num_views) == (8, 2)
    assert config.model.arguments == {"depth": 40, "width": 2}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda weights: weights.clear(), "it holds no named weights"),
        (lambda weights: weights.pop("module.classifier.weight"), "no ResNet, WideResNet, RegNet or EfficientNet"),
        (lambda weights: weights.pop("module.feature_extractor.conv.weight"), "no ResNet, WideResNet"),
        (lambda weights: weights.update({"module.classifier.bias": "text"}), "is not a named tensor"),
    ],
)
def test_a_file_of_another_network_is_refused(change: Callable[[dict[str, Any]], Any], why: str) -> None:
    state = file_of("WideResNet40-2")
    change(state["model_state_dict"])
    with pytest.raises(CheckpointError, match=why):
        agmax_format.read_contents(state, Path("a.pth"))


def test_a_resnet_of_another_depth_is_named() -> None:
    state = file_of("ResNet50")
    weights = state["model_state_dict"]
    for key in [key for key in weights if ".layer4.2." in key]:
        del weights[key]
    with pytest.raises(CheckpointError, match="a ResNet of 15 blocks"):
        agmax_format.read_contents(state, Path("a.pth"))


# --- from the command line -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden_units", [0, 16])
def test_an_evaluation_of_a_released_file_needs_only_the_file(
    run: Run, tmp_path: Path, hidden_units: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ResNet50 on the CPU with weights saved on a GPU, without --n-units; the data set has four classes."""
    state = file_of("ResNet50", hidden_units=hidden_units, classes=4)
    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        torch.save(state, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        assert b"cuda:0" in archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    words = ("--eval", "--resume", "a.pth", *small_imagenet(tmp_path / "photos"), "dataset.image_size=32")
    plain = run(*words, "--json")
    assert plain.status == 0, plain.err
    assert plain.json["num_images"] == 8
    assert plain.json["config"] == f"ResNet50-standard{'-agmax' if hidden_units else ''}"
    named = run("--config=ResNet50-cutmix-auto_augment-agmax", *words, "--json")
    assert named.status == 0, named.err
    assert named.json["nll"] == plain.json["nll"]
    other = run("--config=ResNet101-standard", *words)
    assert other.status == 4 and "weights do not fit the model" in other.err


class Opens:
    """An object that runs code when a file is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ("PWNED", "w")


def crafted(kind: str, path: Path) -> None:
    """Write a manipulated file of a kind."""
    state = file_of("WideResNet40-2", classes=10)
    weights = state["model_state_dict"]
    if kind == "a program":
        state["best_model"] = Opens()
        torch.save(state, path)
    elif kind.startswith("a bare program"):
        path.write_bytes(pickle.dumps(Opens(), protocol=int(kind[-1])))
    elif kind == "a legacy file":
        state["best_model"] = Opens()
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif kind == "a legacy archive":
        with tarfile.open(path, "w") as archive:
            archive.addfile(tarfile.TarInfo("../PWNED"), io.BytesIO())
    elif kind == "TorchScript":
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # torch is giving it up
            torch.jit.script(torch.nn.Linear(2, 2)).save(path)
    elif kind == "a bomb":
        torch.save(state, path.with_suffix(".whole"))
        with zipfile.ZipFile(path.with_suffix(".whole")) as full, zipfile.ZipFile(path, "w") as bomb:
            for entry in full.infolist():
                bomb.writestr(entry.filename, full.read(entry), compress_type=zipfile.ZIP_DEFLATED)
            bomb.writestr("archive/data/999", bytes(2**28), compress_type=zipfile.ZIP_DEFLATED)
    elif kind == "zeros inside":
        torch.save(state, path)
        content, middle = path.read_bytes(), path.stat().st_size // 2
        path.write_bytes(content[:middle] + bytes(4096) + content[middle + 4096 :])
    elif kind == "one entry many times":
        torch.save(state, path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.filelist += [max(archive.infolist(), key=lambda entry: entry.file_size)] * 50
            archive.comment = b"so that the list is written again"
    elif kind == "a hole of a tebibyte":
        torch.save(state, path)
        os.truncate(path, 2**40)
    elif kind == "a view of too much":
        weights["module.classifier.weight"] = torch.zeros(1).expand(10, 2**36)
        torch.save(state, path)
    elif kind == "a network of terabytes":  # its width is read from one tensor of a few megabytes
        weights["module.feature_extractor.layer1.0.conv1.weight"] = torch.zeros(100_000, 1, 3, 3)
        torch.save(state, path)
    elif kind == "a large tensor beside the weights":
        state["optimizer_state_dict"]["state"][0]["momentum_buffer"] = torch.zeros(2**27)
        torch.save(state, path)
    elif kind == "a tensor of another shape":
        weights["module.classifier.weight"] = torch.zeros(2**27)
        torch.save(state, path)
    elif kind == "a list that holds itself":
        state["best_model"] = [None]
        state["best_model"][0] = state["best_model"]
        del weights["module.classifier.weight"]
        torch.save(state, path)
    elif kind == "a first convolution without axes":
        weights["module.feature_extractor.layer1.0.conv1.weight"] = torch.zeros(())
        torch.save(state, path)
    elif kind == "a network of nine views":
        weights["module.qnet.model.0.weight"] = torch.zeros(8, 90)
        torch.save(state, path)
    elif kind == "another dtype":
        weights["module.classifier.bias"] = weights["module.classifier.bias"].to(torch.float8_e4m3fn)
        torch.save(state, path)
    elif kind == "no numbers":
        weights["module.classifier.bias"][3] = torch.nan
        torch.save(state, path)


CRAFTED = {
    "a program": "it contains code, which is never run: io.open",
    **{f"a bare program, protocol {protocol}": "it is not a zip file" for protocol in range(6)},
    "a legacy file": "it is not a zip file, the format of torch since release 1.6",
    "a legacy archive": "it is not a zip file",
    "TorchScript": "it holds compressed entries",
    "a bomb": "it holds compressed entries",
    "zeros inside": "wrong checksum in",
    "one entry many times": "its entries are larger than the file",
    "a hole of a tebibyte": "the limit is",
    "a view of too much": "it holds a tensor of (10, 68719476736) without enough values",
    "a network of terabytes": "weights do not fit the model",
    "a large tensor beside the weights": "its tensors take 54",
    "a tensor of another shape": "no ResNet, WideResNet, RegNet or EfficientNet is among its",
    "a list that holds itself": "no ResNet, WideResNet, RegNet or EfficientNet is among its",
    "a first convolution without axes": "a WideResNet of 18 blocks",
    "a network of nine views": "num_views",
    "another dtype": "backbone.head.bias torch.float8_e4m3fn instead of torch.float32",
    "no numbers": "backbone.head.bias hold values that are not finite",
}

OPEN_ALL = """
import json, resource, sys
from main import main
import agmax.cli.commands.eval
in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + 2**28, -1))
for path in sys.argv[1:]:
    status = main(["--eval", f"--resume={path}", "--config=WideResNet40-2", "--dataset=digits", "model.channels=3"])
    print(status, file=sys.stderr)
"""


def test_crafted_files_are_refused_in_little_memory_and_no_code_of_them_runs(tmp_path: Path) -> None:
    """All are loaded in one process, with a limit of 256 MiB above its initial memory."""
    paths = [tmp_path / f"{number}.pth" for number in range(len(CRAFTED))]
    for kind, path in zip(CRAFTED, paths, strict=True):
        crafted(kind, path)
    words = [sys.executable, "-c", OPEN_ALL, *map(str, paths)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("note")]
    assert ended.returncode == 0 and len(lines) == 2 * len(CRAFTED), ended.stderr
    for (kind, why), path, message, status in zip(CRAFTED.items(), paths, lines[::2], lines[1::2], strict=True):
        assert status == "4" and why in message and str(path) in message, (kind, message)
    assert not list(tmp_path.rglob("PWNED")) and not (tmp_path.parent / "PWNED").exists()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model": [1]}, "it holds no named weights"),
        ({"model": {"a": "text"}}, "'a' is not a named tensor"),
        ({"model": {1: torch.zeros(1), "a": torch.zeros(1)}}, "1 is not a named tensor"),
        ({"class_names": 5}, "class_names of the wrong type"),
        ({"class_names": [5]}, "class_names of the wrong type"),
        ({"step": "5", "sums": []}, "step, sums of the wrong type"),
        ({"optimizer": {"more": torch.zeros(2**20)}}, "its tensors take 4,"),
    ],
)
def test_a_checkpoint_with_invalid_entries_is_refused(
    run: Run, tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    config = resolve.resolve("ResNet8", dataset="digits").config
    config = builders.with_num_classes(config, lambda: builders.split(config, "train"))
    weights = builders.model(config).state_dict()
    kept = {"config": config.model_dump(mode="json"), "model": weights, "step": 3, "class_names": None}
    kept |= {"num_images": None, "fingerprint": None, "optimizer": None, "plateau": [], "sums": {}}
    save_checkpoint(tmp_path / "a.pth", kept)
    assert run("--eval", "--resume=a.pth").status == 0
    save_checkpoint(tmp_path / "a.pth", kept | change)
    answer = run("--eval", "--resume=a.pth")
    assert answer.status == 4 and why in answer.err and answer.err.count("\n") == 1
    del kept["num_images"]
    save_checkpoint(tmp_path / "a.pth", kept)
    assert "num_images missing" in run("--eval", "--resume=a.pth").err


def test_nonfinite_weights_can_be_evaluated_on_request(run: Run, tmp_path: Path) -> None:
    crafted("no numbers", tmp_path / "a.pth")
    words = ("--config=WideResNet40-2", "--dataset=digits", "model.channels=3", "--resume=a.pth", "--json")
    Image.new("L", (32, 32)).save("a.png")
    for mode in (["--eval"], ["--train"], ["--predict", "a.png"], ["--export"]):
        refused = run(*mode, *(words if mode[0] in ("--eval", "--train") else words[-2:]))
        assert refused.status == 4 and "weights not finite (a.pth): backbone.head.bias hold" in refused.err, refused.err
    answer = run("--eval", "--allow-nonfinite", *words, "--occlusion", "evaluation.robustness_limit=20")
    assert answer.status == 0, answer.err
    assert answer.json["nll"] is None and answer.json["top1"] < 20
    assert answer.json["occlusion"]["nll"] == [None] * 10 and answer.json["occlusion"]["num_images"] == 20
    refused = run("--train", "--allow-nonfinite", *words)
    assert refused.status == 2 and "it belongs to --eval" in refused.err


def test_a_training_can_start_from_such_a_file_and_says_what_is_not_used(run: Run, tmp_path: Path) -> None:
    torch.save(file_of("WideResNet40-2", classes=10), tmp_path / "a.pth")
    words = ("--dataset=digits", "dataset.train_limit=40", "dataset.image_size=16", "model.channels=3", "--epochs=1")
    answer = run("--config=WideResNet40-2", "--train", "--resume=a.pth", *words, "--json")
    assert answer.status == 0, answer.err
    assert "starting from the weights of the AgMax program after its epoch 270" in answer.err
    assert "optimizer, schedule and epoch of that program are not used" in answer.err
    assert answer.json["steps"] >= 1
