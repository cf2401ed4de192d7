"""What the README shows is true: its commands resolve, its tables are the program's own."""

import json
import re
import shlex
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY, Answer

from agmax import cli, modes
from agmax.config import names, resolve, study
from agmax.reports.words import MINUS
from agmax.studies import plan, statistics

README = (REPOSITORY / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Return every `python3 main.py` line of the README, continued lines joined."""
    text = "\n".join(blocks("sh")).replace("\\\n", " ")
    lines = [re.split("#| > ", line)[0].strip() for line in text.splitlines()]
    return [line for line in lines if "main.py" in line and not line.startswith("tensorboard")]


@pytest.mark.parametrize("command", commands())
def test_every_command_is_understood_and_its_configuration_resolves(command: str) -> None:
    words = shlex.split(command)
    request = cli.parse(words[words.index("main.py") + 1 :])
    assert request.mode in modes.MODES
    if request.source and not request.source.endswith(".yaml"):
        resolve.resolve(request.source, dataset=request.dataset, parts=request.parts, settings=request.settings)


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
        read = study.read(path)
        assert plan.tuning(read, plan.Typed()) and plan.results(read, plan.Typed(), {})
        return
    assert resolve.resolve(str(path)).config.model.backbone


@pytest.mark.parametrize("group", ["model", "augment", "method", "dataset"])
def test_the_tables_name_every_part(group: str) -> None:
    for item in names.examples(group):
        shown = item.part.replace("28-10", "&lt;depth&gt;-&lt;width&gt;")
        assert f"| `{item.part}` |" in README or f"| `{shown}` |" in README or f"`{item.part}`" in README, item.part


def test_the_published_table_is_quoted_right() -> None:
    """ImageNet, ResNet50: mean gain of AgMax over the eight rows at 90 and at 270 epochs, as the text says."""
    rows = re.findall(r"^\| (?:Standard|CutOut|MixUp|CutMix|AutoAugment)[^|]*\|(.*)\|$", README, flags=re.MULTILINE)[:8]
    numbers = [[float(cell) for cell in row.split("|")] for row in rows]
    assert len(numbers) == 8
    gains = [sum(row[k + 1] - row[k] for row in numbers) / 8 for k in (0, 2)]
    assert [f"{gain:+.2f}" for gain in gains] == ["+1.01", "+0.29"]
    for gain in gains:
        assert f"{gain:+.2f}" in README


def test_the_study_at_equal_compute_is_quoted_right() -> None:
    """Every mean, interval and difference of the section is that of the recorded cells."""
    path = REPOSITORY / "configs" / "study" / "results" / "fashion_mnist_agmax.jsonl"
    errors: dict[str, dict[int, float]] = {}
    for record in map(json.loads, path.read_text().splitlines()):
        if record["phase"] == "results":
            errors.setdefault(record["variant"], {})[record["seed"]] = record["metrics"]["test"]["error"]

    def difference(first: str, second: str) -> str:
        seeds = sorted(errors[first].keys() & errors[second].keys())
        pairs = [np.array([errors[arm][seed] for seed in seeds]) for arm in (first, second)]
        found = statistics.paired_difference(*pairs)
        assert found.interval is not None
        return f"{found.mean:+.2f} [{found.interval.low:+.2f}, {found.interval.high:+.2f}]".replace("-", MINUS)

    section = README.partition("## AgMax at equal compute")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)`([^|]*)\|(.*)\|$", section, flags=re.MULTILINE)
    assert len(rows) == len(errors) - 3  # all but the checks
    for arm, words, cells in rows:
        _, _, error, against = (cell.strip() for cell in cells.split("|"))
        mean = statistics.mean_interval(np.array(list(errors[arm].values())))
        assert mean.interval is not None
        assert error == f"{mean.mean:.2f} ± {(mean.interval.high - mean.interval.low) / 2:.2f}", arm
        assert against == (difference(arm, "baseline_longer") if arm != "baseline_longer" else "")
        assert ("³" in words) == (len(errors[arm]) == 6)
    for second in ("baseline_wider_batch", "two_views"):
        assert difference("agmax", second) in section
    assert difference("agmax_identical_views", "two_views") in section
    assert difference("two_views_13000_images", "two_views") in section
    for second in ("baseline_longer", "agmax_same_class"):
        assert re.sub("[+]", "", difference("agmax", second)).replace(" [", " points [") in section


def test_exit_codes_are_documented() -> None:
    from agmax import errors

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
