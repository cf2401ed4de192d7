"""What the README and the pages of docs/ show is true: commands run, tables are the program's own, numbers recorded."""

import hashlib
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from agmax.cli import parser
from agmax.cli import run as modes
from agmax.config import names, reader, resolve
from agmax.core import errors
from agmax.reports import settings
from agmax.reports.formatting import MINUS
from agmax.studies import intervals, plan, spec
from helpers.command import Answer
from helpers.docs import PAGES, WRITTEN, blocks, commands, section, tables
from helpers.places import REPOSITORY

ALL = "\n".join(WRITTEN.values())
FLAGS_OF_OTHERS = {"--task", "--net", "--da", "--ra", "--loss"}  # of the Soft Augmentation program


# --- commands and examples -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", commands())
def test_every_command_is_understood_and_its_configuration_resolves(command: str) -> None:
    words = shlex.split(command)
    request = parser.parse(words[words.index("main.py") + 1 :])
    assert request.mode in modes.MODES
    if request.config_request.source and not request.config_request.source.endswith(".yaml"):
        resolve.layer_config(request.config_request).resolve()


def test_the_commands_on_digits_run_one_after_the_other(run: Callable[..., Answer]) -> None:
    """Each as printed, but for a small training set: first what trains from scratch, then what needs those runs."""
    on_digits = [
        shlex.split(command)[2:] for command in commands() if "digits" in command and "--n-runs" not in command
    ]
    assert len(on_digits) >= 8
    tiny = ["dataset.train_limit=60", "dataset.image_size=8", "train.epochs=1"]
    for words in sorted(on_digits, key=lambda words: "--train" not in words or "--resume" in words):
        has_named_run = any("runs/" in word for word in words)
        changed = ["train.epochs=2" if word.startswith("train.epochs=") else word for word in words]
        answer = run(*changed, *([] if has_named_run else tiny))
        assert answer.status == 0, (words, answer.err)


def test_every_target_of_make_exists() -> None:
    targets = set(re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:`|^|=\w+ )make (\w+)", ALL, re.MULTILINE)
    assert {"demo", "test", "gpu", "slow"} <= set(named) <= targets


@pytest.mark.parametrize("command", [command for command in commands() if "--print-config" in command])
def test_the_commands_that_print_a_configuration_run(command: str, run: Callable[..., Answer]) -> None:
    answer = run(*shlex.split(command)[2:])
    assert answer.status == 0
    assert "milestones" in answer.out


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_yaml_example_resolves(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    if "variants:" in text:
        read = spec.read_study(path)
        assert plan.tuning_runs(read, plan.TypedSettings()) and plan.result_runs(read, plan.TypedSettings(), {})
        return
    assert resolve.resolve(str(path)).config.model.backbone


RUN_ELSEWHERE = {"AgMaxLoss": 1, "load_model": 1, "agmax.register": 2, "run_a": 1}
"""Words of the examples that other tests run, and look at more closely, and how many examples have each."""


def test_the_examples_that_others_run_are_as_many_as_those_run() -> None:
    for word, number in RUN_ELSEWHERE.items():
        assert len([text for text in blocks("python") if word in text]) == number, word


@pytest.mark.parametrize("text", [text for text in blocks("python") if not any(word in text for word in RUN_ELSEWHERE)])
def test_every_python_example_runs(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    found: dict[str, Any] = {"images": images, "labels": torch.arange(8)}
    exec(compile(text, "docs", "exec"), found)
    if "batch" in found:
        shape = found["batch"].images.shape
        assert shape == (8, 2 if "agmax-" in text or "-agmax" in text else 1, 3, 32, 32)
        assert found["batch"].targets.shape == (*shape[:2], 10)
    elif "visible" in found:
        assert found["again"].shape == images.shape and found["visible"].shape == (8,)
    else:
        assert Path(found["result"].run_folder).is_dir()


def test_the_recipe_that_compares_two_runs_tells_equal_weights_from_others(
    run: Callable[..., Answer], capsys: pytest.CaptureFixture[str]
) -> None:
    (recipe,) = (text for text in blocks("python", "docs/runs.md") if "run_a" in text)
    words = ["--config=ResNet8-cutout-agmax", "--train", "--dataset=digits", "--epochs=2", "dataset.train_limit=60"]
    folders = [
        Path(
            run(*words, "dataset.image_size=8", f"train.seed={seed}", f"train.runs_dir={place}", "--json").json[
                "run_folder"
            ]
        )
        for seed, place in ((0, "first"), (0, "second"), (1, "third"))
    ]
    capsys.readouterr()
    for other in folders[1:]:
        exec(compile(recipe, "docs/runs.md", "exec"), {"run_a": folders[0], "run_b": other})
    assert capsys.readouterr().out.split() == ["True", "False"]
    first, second, third = (hashlib.sha256((path / "predictions.npz").read_bytes()).hexdigest() for path in folders)
    assert first == second != third


# --- names, settings, flags ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["model", "augment", "method", "dataset"])
def test_the_tables_name_every_part(group: str) -> None:
    for item in names.examples(group):
        assert re.search(rf"^\|[^|]*`{re.escape(item.part)}`", ALL, re.MULTILINE), item.part


def test_exit_codes_are_documented() -> None:
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.AgmaxError) and kind.exit_code > 1:
            assert f"| {kind.exit_code} |" in section("docs/runs.md", "Exit codes")


@pytest.mark.parametrize("page", WRITTEN)
def test_settings_in_the_text_exist(page: str) -> None:
    sections = "dataset|model|augment|objective|optimizer|schedule|train|evaluation"
    for key in re.findall(rf"`(?:[^`\n]* )?((?:{sections})\.[a-z_.]+)[=`]", WRITTEN[page]):
        is_open = key.startswith((*resolve.OPEN_KEYS, "augment.blinds.", "augment.word", "objective.spread_weight"))
        assert is_open or key in resolve.KEYS | resolve.SECTIONS | {"train.log"}, key


@pytest.mark.parametrize("page", WRITTEN)
def test_flags_in_the_text_exist(page: str, run: Callable[..., Answer]) -> None:
    known = set(re.findall(r"--[a-z][a-z0-9-]*", run("--help").out))
    for flag in re.findall(r"`(?:[^`\n]*[ (])?(--[a-z][a-z0-9-]*)", WRITTEN[page]):
        assert flag in FLAGS_OF_OTHERS | known, flag


def test_the_page_of_settings_is_up_to_date() -> None:
    assert PAGES["docs/settings.md"] == settings.page() + "\n", (
        "run python -m agmax.reports.settings > docs/settings.md"
    )


def test_every_setting_has_a_meaning() -> None:
    rows = [row for table in tables(PAGES["docs/settings.md"]) for row in table[1:]]
    assert {row[0].strip("`") for row in rows} == resolve.KEYS
    assert [row[0] for row in rows if len(row) != 4 or not all(row)] == []


# --- form ------------------------------------------------------------------------------------------------------------


def test_the_readme_is_a_front_door() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 200


@pytest.mark.parametrize("page", PAGES)
def test_every_table_has_its_head_and_equal_columns(page: str) -> None:
    """A blank line would cut a table in two, the second without a head."""
    for table in re.findall(r"(?:^\|.*\n)+", PAGES[page], flags=re.MULTILINE):
        rows = table.splitlines()
        assert len(rows) > 2 and re.fullmatch(r"\|(?:-+\|)+", rows[1]), rows[0]
        assert len({row.count("|") for row in rows}) == 1, rows[0]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_to_a_file_leads_somewhere(page: str) -> None:
    """The build of the site looks at the links among pages alone; a heading's place is its words in lower case."""
    for target, _, place in (link.partition("#") for link in re.findall(r"\]\(([^)]+)\)", PAGES[page])):
        if target.startswith("https://"):
            continue
        path = (REPOSITORY / page).parent / target if target else REPOSITORY / page
        assert path.is_file(), target
        if place:
            text = path.read_text()
            headings = [re.sub(r"[^\w\- ]", "", line.lower()) for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
            places = {heading.replace(" ", "-") for heading in headings} | set(re.findall(r'<a id="([^"]+)"', text))
            assert place in places, (target, place)


def test_the_tests_that_the_page_of_faults_names_exist() -> None:
    rows = [line for line in PAGES["docs/faults.md"].splitlines() if line.startswith("| ") and "<br>" in line]
    named = {"test_" + row.rpartition("<br>*")[2].removesuffix("* |").replace(" ", "_") for row in rows}
    text = "".join(path.read_text() for path in (REPOSITORY / "tests").rglob("test_*.py"))
    assert len(rows) == 66 and [name for name in sorted(named) if f"\ndef {name}(" not in text] == []


def test_every_page_stands_in_the_navigation() -> None:
    listed = (REPOSITORY / "mkdocs.yml").read_text()
    assert [page for page in PAGES if page != "README.md" and f" {Path(page).name}\n" not in listed] == []


# --- published numbers -----------------------------------------------------------------------------------------------


def published(title: str) -> dict[str, list[float]]:
    """Return a table of the page by the first value of its rows."""
    text = PAGES["docs/published.md"].partition(f"### {title}\n")[2].partition("\n#")[0]
    return {row[0]: [float(value) for value in row[1:]] for row in tables(text)[0][1:]}


def test_the_mean_gain_of_the_published_tables_is_quoted_right() -> None:
    """ImageNet, ResNet50: mean gain of AgMax over the eight rows at 90 and at 270 epochs, as the text says."""
    short = [row[2] - row[0] for row in published("ImageNet, ResNet-50, 90 epochs").values()]
    rows = published("ImageNet, ResNet-50, 270 epochs, top-1").values()
    long = [gain for row in rows for gain in (row[1] - row[0], row[3] - row[2])]
    assert len(short) == len(long) == 8
    for gain in (sum(short) / 8, sum(long) / 8):
        assert f"{gain:+.2f}" in PAGES["docs/published.md"]


def test_the_published_tables_are_those_of_the_studies() -> None:
    """What the study files quote was typed by other hands from the same sources."""
    folder = REPOSITORY / "configs" / "study"
    rows = published("CIFAR-10, Wide ResNet 40-2, 200 epochs")
    quoted = {
        name: variant["paper"]["top1"]
        for name, variant in yaml.safe_load((folder / "agmax_cifar.yaml").read_text())["variants"].items()
    }
    words = {"Standard": "standard", "CutOut": "cutout", "MixUp": "mixup", "CutMix": "cutmix"}
    for label, word in words.items():
        with_policy = "auto_augment" if word == "standard" else f"auto_augment_{word}"
        variants = (word, f"{word}_agmax", with_policy, f"{with_policy}_agmax")
        assert rows[label] == [quoted[variant] for variant in variants], label
    imagenet = yaml.safe_load((folder / "agmax_imagenet_resnet50.yaml").read_text())["variants"]
    numbers = sorted(variant["paper"]["top1"] for variant in imagenet.values() if "paper" in variant)
    first = published("ImageNet, ResNet-50, 90 epochs").values()
    assert numbers == sorted(value for row in first for value in row[:3])


# --- measured numbers ------------------------------------------------------------------------------------------------


class Recorded:
    """The test metrics of a study's finished runs, as the pages write them."""

    def __init__(self, name: str) -> None:
        self.records: dict[str, dict[int, Any]] = {}
        path = REPOSITORY / "configs" / "study" / "results" / f"{name}.jsonl"
        for record in map(json.loads, path.read_text().splitlines()):
            if record["phase"] == "results":
                self.records.setdefault(record["variant"], {})[record["seed"]] = record

    def values(self, variant: str, metric: str = "error") -> dict[int, float]:
        """Return a metric of every seed, or the error in percent at a place, such as `offsets 10`."""
        name, _, place = metric.partition(" ")
        if not place:
            return {seed: record["metrics"]["test"][metric] for seed, record in self.records[variant].items()}
        curves = {seed: record["robustness"][name] for seed, record in self.records[variant].items()}
        return {seed: 100 - curve["top1"][curve["at"].index(float(place))] for seed, curve in curves.items()}

    def mean(self, variant: str, metric: str = "error", decimals: int = 2) -> str:
        """Write the mean and half of its interval."""
        mean = intervals.mean_interval(np.array(list(self.values(variant, metric).values())))
        assert mean.interval is not None
        return f"{mean.mean:.{decimals}f} ± {(mean.interval.high - mean.interval.low) / 2:.{decimals}f}"

    def paired(self, first: str, second: str, metric: str = "error") -> intervals.PairedDifference:
        """Compare two variants by the seeds that both have."""
        values = [self.values(variant, metric) for variant in (first, second)]
        seeds = sorted(values[0].keys() & values[1].keys())
        return intervals.paired_difference(*(np.array([each[seed] for seed in seeds]) for each in values))

    def difference(self, first: str, second: str, metric: str = "error") -> str:
        """Write the mean difference of the pairs and its interval."""
        found = self.paired(first, second, metric)
        assert found.interval is not None
        return f"{found.mean:+.2f} [{found.interval.low:+.2f}, {found.interval.high:+.2f}]".replace("-", MINUS)


def rows_of(text: str) -> list[list[str]]:
    """Return the values of the table rows that begin with a word in code; the word itself is the first."""
    found = re.findall(r"^\| `(\w+)`([^|]*)\|(.*)\|$", text, flags=re.MULTILINE)
    return [[variant, about, *(value.strip() for value in values.split("|"))] for variant, about, values in found]


def joined(text: str) -> str:
    """Return a text in one line, in which a number may have stood at the end of one."""
    return " ".join(text.split())


def test_the_study_of_agmax_is_quoted_right() -> None:
    """Every mean, interval and difference of the section is that of the recorded runs."""
    recorded, text = Recorded("fashion_mnist_agmax"), section("docs/measured.md", "AgMax at equal compute")
    rows = rows_of(text)
    assert len(rows) == len(recorded.records) - 3  # all but the checks
    for variant, about, _, _, error, against in rows:
        assert error == recorded.mean(variant), variant
        assert against == (recorded.difference(variant, "baseline_longer") if variant != "baseline_longer" else "")
        assert ("³" in about) == (len(recorded.records[variant]) == 6)
    text = joined(text)
    for first, second in (
        ("agmax", "baseline_wider_batch"),
        ("agmax", "two_views"),
        ("agmax_identical_views", "two_views"),
        ("two_views_13000_images", "two_views"),
        ("two_views_again", "two_views"),
    ):
        quoted = recorded.difference(first, second)
        assert quoted in text or quoted.replace(" [", " points [") in text, (first, second)
    for second in ("baseline_longer", "agmax_same_class"):
        quoted = re.sub("[+]", "", recorded.difference("agmax", second)).replace(" [", " points [")
        assert quoted in text
    readme = joined(PAGES["README.md"])
    assert f"+{re.sub('[+]', '', recorded.difference('agmax', 'baseline_longer')).replace(' [', ' points [')}" in readme
    means = [recorded.mean(variant).split()[0] for variant in ("agmax", "baseline_longer")]
    assert f"{means[0]} against {means[1]} % test error" in readme


def test_the_study_of_soft_augmentation_is_quoted_right() -> None:
    """Every number of its two tables is that of the recorded runs, and every difference of the text too."""
    recorded = Recorded("fashion_mnist_soft")
    text = section("docs/measured.md", "Soft Augmentation at equal compute")
    rows = rows_of(text)
    assert {variant for variant, *_ in rows} == recorded.records.keys()
    for variant, about, error, nll, ece, occluded, off_center, against in rows:
        assert len(recorded.records[variant]) == {"³": 6, "⁴": 3}.get(about.strip()[-1], 8), variant
        assert error == recorded.mean(variant), variant
        assert nll == recorded.mean(variant, "nll", 3), variant
        assert ece == recorded.mean(variant, "ece", 4), variant
        assert occluded == recorded.mean(variant, "occlusion 28.699", 1), variant
        assert off_center == recorded.mean(variant, "offsets 10", 1), variant
        assert against == (recorded.difference(variant, "wide_crop") if variant != "wide_crop" else ""), variant
    one_view, two_views, brings = (
        line.split("|") for line in re.findall("^\\| (?:one view|AgMax).*", text, re.MULTILINE)
    )
    pairs = [("standard_crop", "target_and_weight"), ("agmax", "agmax_soft_crop")]
    for (first, second), line in zip(pairs, (one_view, two_views), strict=True):
        expected = [recorded.mean(first), recorded.mean(second), recorded.difference(second, first)]
        assert [value.strip() for value in line[2:5]] == expected
    expected = [recorded.difference(*variants[::-1]) for variants in zip(*pairs, strict=True)]
    assert [value.strip() for value in brings[2:4]] == expected
    text = joined(text)
    contrasts = [("target_and_weight", "wide_crop"), ("target_and_weight", "shuffled_confidence")]
    contrasts += [("agmax_soft_crop", "target_and_weight"), ("agmax_soft_crop", "agmax")]
    p_values = intervals.holm([recorded.paired(*pair).p_value for pair in contrasts])
    assert f"hard targets (p {p_values[0]:.3g} after Holm" in text and f"soft crop too (p {p_values[2]:.3g})" in text
    for first, second, metric in DIFFERENCES_OF_SOFT_AUGMENTATION:
        assert recorded.difference(first, second, metric) in text, (first, second, metric)


DIFFERENCES_OF_SOFT_AUGMENTATION = [
    ("target_and_weight", "shuffled_confidence", "error"),
    ("target_and_weight", "shuffled_confidence", "offsets 10"),
    ("soft_crop_as_published", "wide_crop_as_published", "error"),
    ("wide_crop", "standard_crop", "offsets 10"),
    ("target_and_weight", "wide_crop", "offsets 10"),
    ("agmax_soft_crop", "agmax", "offsets 10"),
    ("agmax_soft_crop", "target_and_weight", "offsets 10"),
]


def test_what_the_last_epoch_of_soft_augmentation_brings_is_quoted_right() -> None:
    """The gains over hard targets of four offsets at the end and at epoch 30, and the errors before the last epoch."""
    recorded = Recorded("fashion_mnist_soft")
    text = joined(section("docs/measured.md", "Soft Augmentation at equal compute"))
    chosen = reader.read_yaml(REPOSITORY / "configs/study/results/fashion_mnist_soft.chosen.yaml").mapping["chosen"]
    soft, hard = (chosen[variant]["of_trials"] for variant in ("target_and_weight", "wide_crop"))
    assert listed(first - second for first, second in zip(soft, hard, strict=False))[:4] == quoted_gains(text)[0]
    variants = ("soft_crop_as_published", "wide_crop_as_published")
    before = [
        np.mean([at_epoch(record, "test", 30) for record in recorded.records[each].values()]) for each in variants
    ]
    assert "stand at {:.2f} and {:.2f} %".format(*(100 - top1 for top1 in before)) in text
    path = REPOSITORY / "configs/study/results/fashion_mnist_soft.jsonl"
    trials: dict[tuple[str, int], list[float]] = {}
    for record in map(json.loads, path.read_text().splitlines()):
        if record["phase"] == "tuning":
            trials.setdefault((record["variant"], record["trial"]), []).append(at_epoch(record, "validation", 30))
    means = [[np.mean(trials[each, trial]) for trial in range(4)] for each in ("target_and_weight", "wide_crop")]
    assert listed(first - second for first, second in zip(*means, strict=True)) == quoted_gains(text)[1]


def listed(gains: Any) -> list[str]:
    return [f"{gain:+.2f}".replace("-", MINUS) for gain in gains]


def quoted_gains(text: str) -> list[list[str]]:
    """Return the two lists of four gains that the text has, at the end and at epoch 30."""
    number = rf"[+{MINUS}]\d\.\d\d"
    found = re.findall(rf"by ({number}), ({number}), ({number}) and ({number})", text)
    assert len(found) == 2
    return [list(gains) for gains in found]


def at_epoch(record: dict[str, Any], split: str, epoch: int) -> float:
    curve = record["curves"][f"{split}_top1"]
    return float(curve["values"][curve["epochs"].index(epoch)])
