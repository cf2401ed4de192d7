"""What the README shows is true: its commands resolve, its tables are the program's own."""

import json
import re
import shlex
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from agmax.cli import parser
from agmax.cli import run as modes
from agmax.config import names, reader, resolve
from agmax.reports.formatting import MINUS
from agmax.studies import intervals, plan, spec
from helpers.command import Answer
from helpers.places import REPOSITORY
from helpers.readme import README, blocks


def commands() -> list[str]:
    """Return every `python3 main.py` line of the README, continued lines joined."""
    text = "\n".join(blocks("sh")).replace("\\\n", " ")
    lines = [re.split("#| > ", line)[0].strip() for line in text.splitlines()]
    return [line for line in lines if "main.py" in line and not line.startswith("tensorboard")]


@pytest.mark.parametrize("command", commands())
def test_every_command_is_understood_and_its_configuration_resolves(command: str) -> None:
    words = shlex.split(command)
    request = parser.parse(words[words.index("main.py") + 1 :])
    assert request.mode in modes.MODES
    if request.config_request.source and not request.config_request.source.endswith(".yaml"):
        resolve.layer_config(request.config_request).resolve()


def test_the_commands_on_digits_run_one_after_the_other(run: Callable[..., Answer]) -> None:
    """Each as printed, but for a small training set; runs are then found by the folders the README names."""
    on_digits = [command for command in commands() if "digits" in command]
    assert len(on_digits) >= 5
    tiny = ["dataset.train_limit=60", "dataset.image_size=8"]
    for command in on_digits:
        words = shlex.split(command)[2:]
        if "--train" in words and "--resume" in words and "--config=ResNet8-cutmix-agmax" in words:
            assert run(*words[: words.index("--resume")], *tiny, "--epochs=2").status == 0  # what is resumed
            words.append("--epochs=2")
        named = any("runs/" in word for word in words)
        changed = ["train.epochs=3" if word == "train.epochs=40" else word for word in words]
        epochs = [] if named or "--epochs=2" in words else ["train.epochs=1"]
        answer = run(*changed, *([] if named else tiny), *epochs)
        assert answer.status == 0, (command, answer.err)


@pytest.mark.parametrize("command", [command for command in commands() if "--print-config" in command])
def test_the_commands_that_print_a_configuration_run(command: str, run: Callable[..., Answer]) -> None:
    answer = run(*shlex.split(command)[2:])
    assert answer.status == 0
    assert "milestones" in answer.out


@pytest.mark.parametrize("text", blocks("yaml"))
def test_every_yaml_example_resolves(text: str, tmp_path: Any) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    if "variants:" in text:
        read = spec.read_study(path)
        assert plan.tuning(read, plan.TypedSettings()) and plan.results(read, plan.TypedSettings(), {})
        return
    assert resolve.resolve(str(path)).config.model.backbone


@pytest.mark.parametrize("group", ["model", "augment", "method", "dataset"])
def test_the_tables_name_every_part(group: str) -> None:
    for item in names.examples(group):
        shown = item.part.replace("28-10", "&lt;depth&gt;-&lt;width&gt;")
        assert re.search(rf"^\|[^|]*`({re.escape(item.part)}|{re.escape(shown)})`", README, re.MULTILINE), item.part


def test_the_published_table_is_quoted_right() -> None:
    """ImageNet, ResNet50: mean gain of AgMax over the eight rows at 90 and at 270 epochs, as the text says."""
    rows = re.findall(r"^\| (?:Standard|CutOut|MixUp|CutMix|AutoAugment)[^|]*\|(.*)\|$", README, flags=re.MULTILINE)[:8]
    numbers = [[float(planned) for planned in row.split("|")] for row in rows]
    assert len(numbers) == 8
    gains = [sum(row[k + 1] - row[k] for row in numbers) / 8 for k in (0, 2)]
    assert [f"{gain:+.2f}" for gain in gains] == ["+1.01", "+0.29"]
    for gain in gains:
        assert f"{gain:+.2f}" in README


class Recorded:
    """The test metrics of a study's finished runs, as the README writes them."""

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


def section(title: str) -> str:
    return README.partition(f"## {title}")[2].partition("\n## ")[0]


def rows_of(text: str) -> list[list[str]]:
    """Return the runs of the table rows that begin with a word in code; the word itself is the first."""
    found = re.findall(r"^\| `(\w+)`([^|]*)\|(.*)\|$", text, flags=re.MULTILINE)
    return [
        [variant, about, *(planned.strip() for planned in planned_runs.split("|"))]
        for variant, about, planned_runs in found
    ]


def test_the_study_at_equal_compute_is_quoted_right() -> None:
    """Every mean, interval and difference of the section is that of the recorded runs."""
    recorded, text = Recorded("fashion_mnist_agmax"), section("AgMax at equal compute")
    rows = rows_of(text)
    assert len(rows) == len(recorded.records) - 3  # all but the checks
    for variant, about, _, _, error, against in rows:
        assert error == recorded.mean(variant), variant
        assert against == (recorded.difference(variant, "baseline_longer") if variant != "baseline_longer" else "")
        assert ("³" in about) == (len(recorded.records[variant]) == 6)
    for first, second in (
        ("agmax", "baseline_wider_batch"),
        ("agmax", "two_views"),
        ("agmax_identical_views", "two_views"),
        ("two_views_13000_images", "two_views"),
    ):
        assert recorded.difference(first, second) in text
    for second in ("baseline_longer", "agmax_same_class"):
        assert re.sub("[+]", "", recorded.difference("agmax", second)).replace(" [", " points [") in text


def test_the_study_of_soft_augmentation_is_quoted_right() -> None:
    """Every number of its two tables is that of the recorded runs, and every difference of the text too."""
    recorded, text = Recorded("fashion_mnist_soft"), section("Soft Augmentation at equal compute")
    rows = rows_of(text)
    assert {variant for variant, *_ in rows} == recorded.records.keys()
    for variant, about, error, nll, ece, hidden, off_center, against in rows:
        assert len(recorded.records[variant]) == {"³": 6, "⁴": 3}.get(about.strip()[-1], 8), variant
        assert error == recorded.mean(variant), variant
        assert nll == recorded.mean(variant, "nll", 3), variant
        assert ece == recorded.mean(variant, "ece", 4), variant
        assert hidden == recorded.mean(variant, "occlusion 28.699", 1), variant
        assert off_center == recorded.mean(variant, "offsets 10", 1), variant
        assert against == (recorded.difference(variant, "wide_crop") if variant != "wide_crop" else ""), variant
    one_view, two_views, brings = (
        line.split("|") for line in re.findall("^\\| (?:one view|AgMax).*", text, re.MULTILINE)
    )
    pairs = [("standard_crop", "target_and_weight"), ("agmax", "agmax_soft_crop")]
    for (first, second), line in zip(pairs, (one_view, two_views), strict=True):
        expected = [recorded.mean(first), recorded.mean(second), recorded.difference(second, first)]
        assert [planned.strip() for planned in line[2:5]] == expected
    expected = [recorded.difference(*variants[::-1]) for variants in zip(*pairs, strict=True)]
    assert [planned.strip() for planned in brings[2:4]] == expected
    text = " ".join(text.split())
    contrasts = [("target_and_weight", "wide_crop"), ("target_and_weight", "shuffled_confidence")]
    contrasts += [("agmax_soft_crop", "target_and_weight"), ("agmax_soft_crop", "agmax")]
    p_values = intervals.holm([recorded.paired(*pair).p_value for pair in contrasts])
    assert f"hard targets (p {p_values[0]:.3g} after Holm" in text and f"soft crop too (p {p_values[2]:.3g})" in text
    for first, second, metric in DIFFERENCES_OF_SOFT_AUGMENTATION:
        assert recorded.difference(first, second, metric) in text, (first, second, metric)
    chosen = reader.read_yaml(REPOSITORY / "configs/study/results/fashion_mnist_soft.chosen.yaml").mapping["chosen"]
    soft, hard = (chosen[variant]["of_trials"] for variant in ("target_and_weight", "wide_crop"))
    gains = [f"{first - second:+.2f}".replace("-", MINUS) for first, second in zip(soft, hard, strict=False)]
    assert f"{', '.join(gains[:3])} and {gains[3]}" in text
    variants = ("soft_crop_as_published", "wide_crop_as_published")
    before = [
        np.mean([at_epoch(record, "test", 30) for record in recorded.records[variant].values()]) for variant in variants
    ]
    assert "stand at {:.2f} and {:.2f} %".format(*(100 - before_the_last for before_the_last in before)) in text
    path = REPOSITORY / "configs/study/results/fashion_mnist_soft.jsonl"
    trials: dict[tuple[str, int], list[float]] = {}
    for record in map(json.loads, path.read_text().splitlines()):
        if record["phase"] == "tuning":
            trials.setdefault((record["variant"], record["trial"]), []).append(at_epoch(record, "validation", 30))
    means = [[np.mean(trials[variant, trial]) for trial in range(4)] for variant in ("target_and_weight", "wide_crop")]
    gains = [f"{first - second:+.2f}".replace("-", MINUS) for first, second in zip(*means, strict=True)]
    assert f"{', '.join(gains[:3])} and {gains[3]} at epoch 30" in text


def at_epoch(record: dict[str, Any], split: str, epoch: int) -> float:
    curve = record["curves"][f"{split}_top1"]
    return float(curve["values"][curve["epochs"].index(epoch)])


DIFFERENCES_OF_SOFT_AUGMENTATION = [
    ("target_and_weight", "shuffled_confidence", "error"),
    ("target_and_weight", "shuffled_confidence", "offsets 10"),
    ("soft_crop_as_published", "wide_crop_as_published", "error"),
    ("wide_crop", "standard_crop", "offsets 10"),
    ("target_and_weight", "wide_crop", "offsets 10"),
    ("agmax_soft_crop", "agmax", "offsets 10"),
    ("agmax_soft_crop", "target_and_weight", "offsets 10"),
]


def test_exit_codes_are_documented() -> None:
    from agmax.core import errors

    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.AgmaxError) and kind.exit_code > 1:
            assert f"| {kind.exit_code} |" in README


def test_settings_in_the_text_exist() -> None:
    for key in re.findall(
        r"`((?:dataset|model|augment|objective|optimizer|schedule|train|evaluation)\.[a-z_.]+)", README
    ):
        is_open = key.startswith(resolve.OPEN_KEYS)
        assert is_open or key in resolve.KEYS | resolve.SECTIONS | {"train.log"}, key


def test_every_table_has_its_head_and_equal_columns() -> None:
    """A blank line would cut a table in two, the second without a head."""
    tables = re.findall(r"(?:^\|.*\n)+", README, flags=re.MULTILINE)
    assert len(tables) >= 8
    for table in tables:
        rows = table.splitlines()
        assert re.fullmatch(r"\|(?:-+\|)+", rows[1]), rows[0]
        assert len({row.count("|") for row in rows}) == 1, rows[0]
