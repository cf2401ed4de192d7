"""Parts that a user registers work by name like ours: settings, lists, messages, trainings, studies."""

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agmax.experiments import source_hash
from helpers.command import Answer
from helpers.docs import blocks, commands
from helpers.processes import run_code

Run = Callable[..., Answer]

MINE = '''
"""One of everything, in the user's own file."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import timm
import torch
from torch import nn

print('a file may print')

import agmax
from agmax.augment.mixing import Mix
from agmax.augment.transforms import OccludingTransform
from agmax.data.splits import InMemoryDataset
from agmax.losses.objectives import Objective, Term
from agmax.models.blocks import ImageNetwork


@agmax.register.transform("stripes", about="occlude the first rows", softens=True)
@dataclass(frozen=True)
class Stripes(OccludingTransform):
    size: float = 0.25
    rows: tuple[int, int] = (1, 3)

    slot: ClassVar[str] = "erase"
    stream: ClassVar[str] = "stripes"

    def draw(self, n, shape, key):
        return (torch.from_numpy(key.rng(self.stream).integers(*self.rows, n)),)

    def apply(self, images, count):
        rows = torch.arange(images.shape[-2], device=images.device)
        return images.masked_fill(rows[None, None, :, None] < count[:, None, None, None].to(images.device), 0)

    def visible(self, shape, count):
        return 1 - count / shape[-2]


@agmax.register.transform("negative")
@dataclass(frozen=True)
class Negative(agmax.augment.Transform):
    """Invert every level."""

    slot: ClassVar[str] = "policy"
    stream: ClassVar[str] = "negative"

    def draw(self, n, shape, key):
        return ()

    def apply(self, images):
        return ~images


@agmax.register.mix("halves", about="the left half of another image")
@dataclass(frozen=True)
class Halves(Mix):
    p: float = 1.0

    def draw(self, n, shape, key):
        return (torch.from_numpy(key.rng(self.stream).permutation(n)),)

    def apply(self, images, targets, partner):
        mixed, half = images.clone(), images.shape[-1] // 2
        mixed[..., :half] = images[partner][..., :half]
        return mixed, (targets + targets[partner]) / 2


def spread(logits):
    """Return the largest mean probability of a class, of logits [N, V, K]."""
    return logits.softmax(-1).mean((0, 1)).max()


agmax.register.objective("spreading", Objective({"spread": Term(spread, 0.5)}, min_views=2), about="spread out")


@agmax.register.schedule("power")
def power(now, *, exponent: float = 2.0) -> float:
    return (1 - now.progress) ** exponent


@agmax.register.metric("brier", decimals=3)
def brier(logits, labels):
    rows = torch.nn.functional.one_hot(labels, logits.shape[1])
    return float((logits.softmax(-1) - rows).square().sum(-1).mean())


@agmax.register.dataset(
    "stains", {"num_classes": 2, "channels": 1, "image_size": 8, "mean": [0.5], "std": [0.5]}, augment={"flip": False}
)
def stains(root, is_training):
    labels = torch.arange(40 if is_training else 20) % 2
    images = (labels * 200)[:, None, None, None].expand(-1, 1, 8, 8).to(torch.uint8).contiguous()
    return InMemoryDataset(images, labels, ("dark", "light"))


class Tiny(ImageNetwork):
    def __init__(self, num_classes=10, in_chans=3, drop_rate=0.0, width=4):
        super().__init__()
        self.conv = nn.Conv2d(in_chans, width, 3, padding=1)
        self.set_head(width, num_classes, drop_rate)

    def forward_features(self, images):
        return self.conv(images).relu()


@timm.models.register_model
def tiny_net(**arguments):
    known = ("num_classes", "in_chans", "drop_rate", "width")
    return Tiny(**{name: value for name, value in arguments.items() if name in known})
'''

USE = """
import contextlib, io, json
from pathlib import Path
import torch
import agmax
from main import main
flag = "--import=mine.py"
with contextlib.redirect_stdout(io.StringIO()) as output:  # without what the file itself prints
    assert main([flag, "--list=parts", "--json"]) == 0
assert "stripes" in json.loads(output.getvalue())["parts"]
name = "tiny_net-negative-stripes-halves-spreading"
words = [flag, f"--config={name}", "--dataset=stains", "--epochs=2", "train.batch_size=10", "schedule.name=power"]
words += ["augment.stripes.rows=[2, 4]", "objective.spread_weight=0.25", "schedule.exponent=3"]
words += ["model.arguments.width=6"]
assert main([*words, "--print-config"]) == 0
assert main([*words, "--train", "--json"]) == 0
run = f"runs/{name}/stains-s0"
assert main([flag, "--eval", "--resume", run, "--json"]) == 0
assert main([flag, "--list=parts"]) == 0
assert main([flag, "--list=datasets"]) == 0
for wrong in ("augment.stripes.size=text", "augment.stripes.sise=1", "schedule.exponent=fast", "augment.erase=stripe"):
    assert main([*words, wrong, "--print-config"]) == 2
Path("mine.yaml").write_text('''
base: tiny_net-standard
dataset: stains
settings: {train.epochs: 1, train.batch_size: 10}
variants: {striped: stripes}
metrics: [brier, error]
''')
assert main([flag, "--study", "./mine.yaml"]) == 0
"""

USE_PAGE = """
import torch
import agmax
from main import main
assert main([*WORDS, "train.epochs=1", "dataset.train_limit=60"]) == 0
batch = agmax.augmentation("blinds")(torch.full((2, 3, 32, 32), 9, dtype=torch.uint8), torch.arange(2))
assert batch.images.shape == (2, 1, 3, 32, 32)
"""

USE_THREE = """
import torch
import agmax
from main import main
words = ["--import=three.py", "--config=ResNet8-curtain-spreading", "--dataset=stains", "--epochs=1"]
assert main([*words, "--train", "objective.spread_weight=0.25"]) == 0
batch = agmax.augmentation("curtain", dataset="stains")(torch.full((2, 1, 8, 8), 9, dtype=torch.uint8), torch.arange(2))
assert torch.equal(batch.visible, torch.full((2, 1), 0.75))
assert (batch.images[..., :2] == 0).all() and (batch.images[..., 2:] != 0).all()
assert (batch.targets.amax(-1) < 1).all() and (batch.weights < 1).all()
"""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> "tuple[Path, str, str]":
    """Use everything in a process of its own, so that nothing stays registered; return folder, stdout and stderr."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "mine.py").write_text(MINE)
    first, second = (text for text in blocks("python", "docs/own_parts.md") if "register" in text)
    (folder / "page").mkdir()
    (folder / "page" / "mine.py").write_text(first)
    (folder / "three.py").write_text(second)
    (command,) = commands(with_import=True)  # of the page
    use_page = f"WORDS = {shlex.split(command)[2:]}{USE_PAGE}"
    done, *others = (
        run_code(code, folder=place)
        for code, place in ((USE, folder), (use_page, folder / "page"), (USE_THREE, folder))
    )
    for each in (done, *others):
        assert each.returncode == 0, each.stderr
    return folder, done.stdout, done.stderr


def test_registered_parts_form_a_name_and_their_settings_are_resolved(outputs: "tuple[Path, str, str]") -> None:
    config = (outputs[0] / "runs/tiny_net-negative-stripes-halves-spreading/stains-s0/config.yaml").read_text()
    for line in ("size: 0.25", "rows: [2, 4]", "spread_weight: 0.25", "exponent: 3.0", "width: 6", "num_views: 2"):
        assert line in config, line


def test_a_training_has_registered_terms_and_metrics(outputs: "tuple[Path, str, str]") -> None:
    row = (outputs[0] / "runs/tiny_net-negative-stripes-halves-spreading/stains-s0/metrics.jsonl").read_text()
    assert '"spread": ' in row and '"test_brier": ' in row
    assert '"brier": ' in outputs[1] and "brier" in outputs[2]


def test_registered_parts_are_listed(outputs: "tuple[Path, str, str]") -> None:
    for line in ("stripes", "augment: occlude the first rows", "method: spread out", "augment: Invert every level."):
        assert line in outputs[1], line
    assert "stains" in outputs[1]


def test_mistakes_in_registered_settings_give_one_line_each(outputs: "tuple[Path, str, str]") -> None:
    errors = [line for line in outputs[2].splitlines() if line.startswith("error: ")]
    assert len(errors) == 4
    assert "augment.stripes.size" in errors[0] and "Did you mean 'augment.stripes.size'?" in errors[1]
    assert "schedule.exponent" in errors[2] and "Did you mean 'stripes'?" in errors[3]


def test_the_error_for_a_checkpoint_with_registered_parts_says_what_it_needs(
    outputs: "tuple[Path, str, str]", run: Run
) -> None:
    folder = next((outputs[0] / "runs").glob("tiny_net-negative*/stains-s0"))
    answer = run("--eval", f"--resume={folder}")
    assert answer.status == 4 and "give --import FILE" in answer.err and answer.err.count("\n") == 1


def test_a_study_imports_the_file_in_every_run_and_shows_the_metric(outputs: "tuple[Path, str, str]") -> None:
    assert "brier" in (outputs[0] / "runs/studies/mine/study.md").read_text()
    (record,) = map(json.loads, (outputs[0] / "results/mine.jsonl").read_text().splitlines())
    assert record["code"] != source_hash.source_hash()  # the file is part of the code


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such Python file"),
        ("import nothing_of_this_name", "mine.py:1): ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("\nraise ValueError('no')", "mine.py:2): ValueError: no"),
        (
            "import agmax\n@agmax.register.metric('top1')\ndef top1(logits, labels): ...",
            "ValueError: there is a metric top1 already",
        ),
        (
            "import agmax\n@agmax.register.transform('x')\nclass X: ...",
            "ValueError: slot (X): '' is none of crop, soft_crop, policy, erase",
        ),
    ],
)
def test_the_error_for_a_file_that_cannot_be_imported_names_its_line(
    tmp_path: Path, text: str | None, message: str, run: Run
) -> None:
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    answer = run("--import=mine.py", "--list")
    assert answer.status == 2 and answer.err.count("\n") == 1 and message in answer.err
    assert "mine" not in sys.modules


def test_a_file_with_the_name_of_another_module_is_refused(tmp_path: Path, run: Run) -> None:
    (tmp_path / "json.py").write_text("")
    answer = run("--import=json.py", "--list")
    assert answer.status == 2 and "another module has the name json. Rename the file" in answer.err
