"""Our own bits, frozen: what every part makes of the same images, and what three steps of training make of the weights.

`PYTHONPATH=.:tests python tests/system/test_bits.py` writes tests/golden/bits.json anew; that is right only where
numbers are meant to change.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from agmax import builders
from agmax.augment import pipeline
from agmax.builders import Splits
from agmax.config.schema import Config
from agmax.data.splits import InMemoryDataset
from helpers.bits import CASES, SIZES, configured, samples
from helpers.command import Answer
from helpers.places import GOLDEN, golden

MODELS = ("ResNet50", "RegNetX002", "EfficientNetB0", "WideResNet16-2", "CifarResNet18", "PyramidNet272")


def sha(*values: Tensor | None) -> str:
    """Return the SHA-256 of tensors: their types, shapes and bytes."""
    digest = hashlib.sha256()
    for value in values:
        if value is not None:
            digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def sha_of_weights(weights: dict[str, Tensor]) -> str:
    return sha(*(weights[key] for key in sorted(weights)))


def augmented(config: Config) -> list[dict[str, str | None]]:
    """Return what augmentation makes of each step's images."""
    augment = builders.augmentation(config, steps_per_epoch=len(SIZES))
    found = []
    for step, sample in enumerate(samples(config)):
        batch = augment(sample, step=step)
        parts = {"images": batch.images, "targets": batch.targets, "weights": batch.weights}
        fractions = None if batch.visible is None else sha(batch.visible)
        found.append({**{name: sha(value) for name, value in parts.items()}, "visible": fractions})
    return found


def trained(config: Config) -> dict[str, str]:
    """Return the initial weights, and those after three steps."""
    classifier = builders.model(config)
    before = sha_of_weights(classifier.state_dict())
    images = torch.zeros(sum(SIZES), 1, 8, 8, dtype=torch.uint8)
    data = InMemoryDataset(images, torch.zeros(sum(SIZES), dtype=torch.int64), ("a", "b"))
    unused: Any = None
    trainer = builders.trainer(
        config,
        Splits(data, None, None),
        unused,
        classifier,
        device=torch.device("cpu"),
        metrics_log=unused,
        checkpoints=unused,
        report=unused,
        description={},
    )
    trainer.make_step.model.train()
    for sample in samples(config):
        trainer.train_step(sample)
        trainer.step += 1
    return {"initial": before, "trained": sha_of_weights(classifier.state_dict())}


def with_chunks(values: int, make: Callable[[], Any]) -> Any:
    """Call a function with another number of values augmented at a time."""
    before = dict(pipeline.CHUNK)
    try:
        pipeline.CHUNK["cpu"] = values
        return make()
    finally:
        pipeline.CHUNK.update(before)


def machine() -> dict[str, str]:
    return {"torch": torch.__version__, "cpu_capability": torch.backends.cpu.get_cpu_capability()}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Skip where other arithmetic gives other last bits, and compute with one thread."""
    if machine() != golden("bits.json")["machine"]:
        pytest.skip(f"bits.json is of {golden('bits.json')['machine']}, this is {machine()}")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("key", CASES)
def test_augmentation_makes_the_frozen_bits_in_chunks_and_whole(key: str) -> None:
    expected, config = golden("bits.json")["batches"][key], configured(*CASES[key])
    assert with_chunks(2**40, lambda: augmented(config)) == expected
    assert with_chunks(3 * config.dataset.image_size**2, lambda: augmented(config)) == expected


@pytest.mark.parametrize("key", CASES)
def test_three_steps_make_the_frozen_weights(key: str) -> None:
    assert trained(configured(*CASES[key])) == golden("bits.json")["weights"][key]


@pytest.mark.parametrize("method", ["standard", "agmax"])
@pytest.mark.parametrize("model", MODELS)
def test_networks_start_with_the_frozen_weights(model: str, method: str) -> None:
    config = configured(f"{model}-{method}", "cifar10", {})
    assert sha_of_weights(builders.model(config).state_dict()) == golden("bits.json")["networks"][f"{model}-{method}"]


def test_every_frozen_number_is_compared() -> None:
    frozen = golden("bits.json")
    assert set(frozen["batches"]) == set(frozen["weights"]) == set(CASES)
    assert len(set(frozen["networks"])) == 2 * len(MODELS)


FROZEN_RUN = GOLDEN / "version_1_run"
"""A training of version 1 (plateau, AgMax) as it was killed in the middle of its second epoch, after step 4 of 6."""


def test_a_frozen_checkpoint_goes_on_with_the_exact_loss(run: Callable[..., Answer], tmp_path: Path) -> None:
    shutil.copytree(FROZEN_RUN, tmp_path / "run")
    answer = run("--train", "--resume", "run", "--device=cpu")
    assert answer.status == 0, answer.err
    before, after, last = (
        torch.load(tmp_path / "run" / "checkpoints" / f"step-0000000{step}.pth", weights_only=True)
        if step > 4
        else torch.load(FROZEN_RUN / "checkpoints" / "step-00000004.pth", weights_only=True)
        for step in (4, 5, 6)
    )
    found = {name: (after["sums"][name] - before["sums"][name]).hex() for name in after["sums"]}
    expected = golden("bits.json")["checkpoint"]
    assert found == expected["step_5"]
    assert sha_of_weights(last["model"]) == expected["trained"]
    assert list(last["plateau"]) == expected["plateau"]
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["train_loss"] for line in lines] == expected["loss"]


def write() -> None:
    """Write bits.json anew, from the frozen checkpoint that is there."""
    torch.set_num_threads(1)
    configs = {key: configured(*case) for key, case in CASES.items()}
    both = [f"{model}-{method}" for model in MODELS for method in ("standard", "agmax")]
    frozen: dict[str, Any] = {
        "machine": machine(),
        "batches": {key: augmented(config) for key, config in configs.items()},
        "weights": {key: trained(config) for key, config in configs.items()},
        "networks": {
            name: sha_of_weights(builders.model(configured(name, "cifar10", {})).state_dict()) for name in both
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        from main import main

        shutil.copytree(FROZEN_RUN, Path(folder) / "run")
        assert main(["--train", "--resume", f"{folder}/run", "--device=cpu"]) == 0
        there = Path(folder) / "run" / "checkpoints"
        before = torch.load(FROZEN_RUN / "checkpoints" / "step-00000004.pth", weights_only=True)
        after, last = (torch.load(there / f"step-0000000{step}.pth", weights_only=True) for step in (5, 6))
        frozen["checkpoint"] = {
            "step_5": {name: (after["sums"][name] - before["sums"][name]).hex() for name in after["sums"]},
            "trained": sha_of_weights(last["model"]),
            "plateau": list(last["plateau"]),
            "loss": [
                json.loads(line)["train_loss"] for line in (there.parent / "metrics.jsonl").read_text().splitlines()
            ],
        }
    (GOLDEN / "bits.json").write_text(json.dumps(frozen, indent=1) + "\n")


if __name__ == "__main__":
    write()
