"""--compare and --diff: what is grouped, what is told apart, what is refused; and --json of every mode."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agmax.cli.commands import compare as compare_command
from agmax.config import resolve
from agmax.studies import records
from helpers.command import Answer
from main import main

Call = Callable[..., Answer]

TINY = (
    "--dataset=digits",
    "dataset.train_limit=40",
    "dataset.image_size=8",
    "augment.standard.padding=1",
    "train.batch_size=20",
    "train.epochs=1",
)

STANDARD, SMOOTHED, AGMAX = "ResNet8-standard", "ResNet8-standard-label_smoothing", "ResNet8-standard-agmax"

REPORT = ["study.csv", "study.md", "study.tex", "report.html"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with runs; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for seed in (0, 1):
            for name in (STANDARD, SMOOTHED):
                assert main([f"--config={name}", "--train", *TINY, f"--seed={seed}"]) == 0
        assert main([f"--config={STANDARD}", "--train", *TINY, "optimizer.lr=0.02"]) == 0  # digits-s0-2
        assert main([f"--config={AGMAX}", "--train", *TINY, "--seed=7"]) == 0
        unread = ("evaluation.test=false", "dataset.validation=40")
        assert main(["--config=ResNet8-cutout", "--train", *TINY, *unread]) == 0
    return folder


@pytest.fixture
def runs(trained: Path, run: Call, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """Call main() in the folder of the runs."""
    monkeypatch.chdir(trained)
    return run


@pytest.fixture
def unreported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figures, which takes seconds."""
    monkeypatch.setattr(compare_command, "report", lambda said, folder: [])


@pytest.fixture
def copy(trained: Path, tmp_path: Path, run: Call) -> Path:
    """Copy one run to the folder of this test."""
    path = tmp_path / "runs" / STANDARD / "digits-s0"
    shutil.copytree(trained / "runs" / STANDARD / "digits-s0", path)
    return path


def of(name: str, *stems: str) -> list[str]:
    return [f"runs/{name}/{stem}" for stem in stems]


def result(path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(path) / "result.json").read_text())
    return found


# --- compare -------------------------------------------------------------------------------------------------


def test_runs_that_differ_only_in_their_seeds_are_one_variant(runs: Call) -> None:
    standard, smoothed = (of(name, "digits-s0", "digits-s1") for name in (STANDARD, SMOOTHED))
    answer = runs("--compare", standard[0], smoothed[1], smoothed[0], standard[1], "--json")
    assert answer.status == 0, answer.err
    found = answer.json
    assert list(found["variants"]) == [STANDARD, SMOOTHED]
    for name, paths in ((STANDARD, standard), (SMOOTHED, smoothed)):
        errors = [100 - result(path)["top1"] for path in paths]
        assert found["variants"][name]["num_seeds"] == 2
        assert found["variants"][name]["error"] == pytest.approx(sum(errors) / 2)
    (contrast,) = found["contrasts"]
    assert (contrast["first"], contrast["second"], contrast["num_seeds"]) == (SMOOTHED, STANDARD, 2)
    first, second = (result(smoothed[seed])["top1"] - result(standard[seed])["top1"] for seed in (0, 1))
    assert contrast["difference"] == pytest.approx(-(first + second) / 2)
    half = 12.7062 * abs(first - second) / math.sqrt(2) / math.sqrt(2)  # two differences: t with 1 degree of freedom
    assert contrast["interval"][1] - contrast["interval"][0] == pytest.approx(2 * half, rel=1e-4)
    assert contrast["p_value"] is None
    assert any("the pairs were chosen after the runs" in note for note in found["notes"])
    assert {Path(file).name for file in found["files"]} >= set(REPORT)
    assert all(Path(file).is_file() for file in found["files"])
    folder = Path(found["files"][0]).parent
    assert folder.parent == Path("runs/studies") and folder.name.startswith("compare-")


def test_the_same_runs_in_any_order_have_one_folder(runs: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []
    monkeypatch.setattr(compare_command, "report", lambda said, folder: seen.append(folder) or [])
    first, second, third = *of(STANDARD, "digits-s0", "digits-s1"), *of(SMOOTHED, "digits-s0")
    for paths in ((first, third), (third, str(Path(first).absolute())), (first, second)):
        assert runs("--compare", *paths).status == 0
    assert seen[0] == seen[1] != seen[2]


def test_variants_of_one_name_are_distinguished_by_their_settings(runs: Call, unreported: None) -> None:
    paths = [*of(STANDARD, "digits-s0", "digits-s1", "digits-s0-2"), *of(SMOOTHED, "digits-s0")]
    answer = runs("--compare", *paths, "--json")
    names = [f"{STANDARD} (optimizer.lr=0.1)", f"{STANDARD} (optimizer.lr=0.02)", SMOOTHED]
    assert list(answer.json["variants"]) == names
    assert [variant["num_seeds"] for variant in answer.json["variants"].values()] == [2, 1, 1]
    assert [(item["first"], item["second"]) for item in answer.json["contrasts"]] == [
        (names[1], names[0]),
        (names[2], names[0]),
    ]


def test_one_run_is_a_variant_without_a_comparison(runs: Call, unreported: None) -> None:
    found = runs("--compare", *of(STANDARD, "digits-s0"), "--json").json
    assert (found["contrasts"], found["notes"]) == ([], [])
    assert found["variants"][STANDARD]["top1"] == result(*of(STANDARD, "digits-s0"))["top1"]


def test_runs_of_other_seeds_are_shown_and_noted_as_unpaired(runs: Call, unreported: None) -> None:
    found = runs("--compare", *of(STANDARD, "digits-s0"), *of(AGMAX, "digits-s7"), "--json").json
    assert list(found["variants"]) == [STANDARD, AGMAX] and found["contrasts"] == []
    assert f"{AGMAX} and {STANDARD} have no seed in common and cannot be compared" in found["notes"]


def test_runs_are_found_in_runs_dir(runs: Call, unreported: None) -> None:
    assert runs("--compare", f"{STANDARD}/digits-s0", f"{SMOOTHED}/digits-s0").status == 0
    assert runs("train.runs_dir=elsewhere", "--compare", f"{STANDARD}/digits-s0").status == 4
    assert runs("train.runs_dir=elsewhere", "--compare", f"runs/{STANDARD}/digits-s0").status == 0


def test_other_test_images_are_noted_and_not_drawn_again(
    runs: Call, unreported: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    checksums = iter(["of these", "of others"])
    monkeypatch.setattr(records, "checksum", lambda labels: next(checksums))
    found = runs("--compare", *of(STANDARD, "digits-s0"), *of(SMOOTHED, "digits-s0"), "--json").json
    assert any("the test images differ" in note for note in found["notes"])
    (contrast,) = found["contrasts"]
    assert contrast["bootstrap"] is None and contrast["num_seeds"] == 1


def test_two_runs_of_one_seed_are_refused(runs: Call) -> None:
    for paths in (
        of(STANDARD, "digits-s0") * 2,
        [*of(STANDARD, "digits-s0"), f"./runs/{STANDARD}/../{STANDARD}/digits-s0"],
    ):
        answer = runs("--compare", *paths)
        assert answer.status == 2 and answer.out == ""
        assert f"another run of {STANDARD} has seed 0. Leave one out" in answer.err


def test_an_unknown_run_is_refused_with_the_existing_runs(runs: Call) -> None:
    answer = runs("--compare", f"runs/{STANDARD}/digits-s9")
    assert answer.status == 4
    assert answer.err.startswith(
        f"error: no such run (runs/{STANDARD}/digits-s9). Did you mean 'runs/{STANDARD}/digits-s"
    )
    answer = runs("train.runs_dir=elsewhere", "--compare", "digits-s0")
    assert answer.status == 4 and answer.err == "error: no such run (digits-s0). elsewhere contains no finished run\n"


def test_an_unfinished_run_is_refused(copy: Path, run: Call) -> None:
    (copy / "result.json").unlink()
    answer = run("--compare", str(copy))
    assert answer.status == 4
    assert "not a finished run" in answer.err and "--train --resume finishes one" in answer.err


def test_a_checkpoint_is_not_a_run(runs: Call) -> None:
    (checkpoint,) = Path(f"runs/{STANDARD}/digits-s0/checkpoints").glob("step-*.pth")
    answer = runs("--compare", str(checkpoint))
    assert answer.status == 4 and "not a finished run" in answer.err and "Give finished run folders" in answer.err


def test_a_run_that_was_not_tested_is_refused(runs: Call) -> None:
    answer = runs("--compare", *of("ResNet8-cutout", "digits-s0"))
    assert answer.status == 2 and "evaluation.test=false" in answer.err


def test_an_incomplete_result_is_refused(copy: Path, run: Call) -> None:
    early = result(str(copy))
    del early["samples_seen"]
    (copy / "result.json").write_text(json.dumps(early))
    answer = run("--compare", str(copy))
    assert answer.status == 4 and "its result.json is damaged. Give finished run folders" in answer.err


@pytest.mark.parametrize("damaged", [b"", b"null", b'{"top1": 9', b"\xff\xfe\0", b"PK\x03\x04 cut", None])
@pytest.mark.parametrize(
    ("name", "said_by_compare", "said_by_diff"),
    [
        ("result.json", "error: not a finished run (", "error: damaged result ("),
        ("predictions.npz", "error: damaged predictions (", ""),
        ("metrics.jsonl", "metrics.jsonl does not have a row of every epoch", ""),
        ("environment.json", "", ""),
        ("config.yaml", "", ""),
        ("state.json", "", ""),
    ],
)
def test_a_damaged_file_of_a_run_is_named_in_one_line_or_not_needed(
    copy: Path, run: Call, unreported: None, name: str, damaged: bytes | None, said_by_compare: str, said_by_diff: str
) -> None:
    (copy / name).unlink()
    if damaged is not None:
        (copy / name).write_bytes(damaged)
    elif name == "config.yaml":
        said_by_compare = said_by_diff = "it has no config.yaml"
    elif name == "result.json":
        said_by_diff = ""  # an unfinished run has settings
    for words, said in ((("--compare", str(copy)), said_by_compare), (("--diff", str(copy), STANDARD), said_by_diff)):
        answer = run(*words)
        assert answer.status == (4 if said else 0), answer.err
        assert said in answer.err and "Traceback" not in answer.err
        assert not said or (answer.err.count("\n") == 1 and answer.out == "" and str(copy) in answer.err)


def test_rows_of_some_epochs_are_not_compared(copy: Path, run: Call) -> None:
    (row,) = (json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines())
    for rows in ([row | {"epoch": 1, "step": 1}, row | {"epoch": 3}], [row | {"step": 1}]):
        (copy / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
        answer = run("--compare", str(copy))
        assert answer.status == 4 and "metrics.jsonl does not have a row of every epoch" in answer.err


def test_predictions_with_a_wrong_byte_or_without_an_array_are_refused(copy: Path, run: Call) -> None:
    path = copy / "predictions.npz"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 3] ^= 255
    path.write_bytes(damaged)
    answer = run("--compare", str(copy))
    assert answer.status == 4 and "error: damaged predictions (" in answer.err
    assert f"--train --resume {copy}: both are then written again" in answer.err
    np.savez(path, test_labels=np.zeros(3))
    answer = run("--compare", str(copy))
    assert answer.status == 4 and "run folder is incomplete" in answer.err and "test_predicted" in answer.err


# --- diff ----------------------------------------------------------------------------------------------------


def test_two_runs_differ_in_settings_and_metrics(runs: Call) -> None:
    first, second = *of(STANDARD, "digits-s0"), *of(SMOOTHED, "digits-s1")
    found = runs("--diff", first, second, "--json").json
    assert found["settings"] == {
        "name": [STANDARD, SMOOTHED],
        "objective.label_smoothing": [0.0, 0.1],
        "train.seed": [0, 1],
    }
    for name in ("top1", "top5", "nll", "ece", "epochs"):
        assert found["metrics"][name] == [result(first)[name], result(second)[name]]
    answer = runs("--diff", first, second)
    words = [line.split(maxsplit=1) for line in answer.out.splitlines()]
    assert ["objective.label_smoothing", "0.0 -> 0.1"] in words and ["train.seed", "0 -> 1"] in words
    assert ["top1", f"{result(first)['top1']} -> {result(second)['top1']}"] in words


def test_names_and_files_of_configurations_differ_too(runs: Call, tmp_path: Path) -> None:
    found = runs("--diff", "ResNet50-cutmix", "ResNet50-cutmix-agmax", "--json").json
    first, second = (resolve.resolve(name).config for name in ("ResNet50-cutmix", "ResNet50-cutmix-agmax"))
    assert found["settings"]["objective.num_views"] == [1, 2]
    assert found["settings"]["objective.name"] == ["classification", "agmax"]
    assert len(found["settings"]) == len(resolve.differences(first, second)) and found["metrics"] == {}
    file = tmp_path / "mine.yaml"
    file.write_text("base: ResNet50-cutmix\noptimizer: {lr: 0.3}\n")
    found = runs("--diff", "ResNet50-cutmix", str(file), "--json").json
    assert found["settings"] == {"name": ["ResNet50-cutmix", "mine"], "optimizer.lr": [0.1, 0.3]}


def test_a_run_differs_from_a_name_in_what_was_typed(runs: Call) -> None:
    found = runs("--diff", *of(STANDARD, "digits-s0"), STANDARD, "--json").json
    assert found["settings"]["train.epochs"] == [1, 20] and found["settings"]["dataset.train_limit"] == [40, None]
    assert found["metrics"] == {}


def test_equal_runs_have_no_difference(runs: Call) -> None:
    answer = runs("--diff", "ResNet50-cutmix-agmax", "ResNet50-agmax-cutmix")
    assert answer.status == 0 and answer.out == "no difference\n"


def test_an_unfinished_run_has_settings_and_no_metrics(copy: Path, run: Call) -> None:
    (copy / "result.json").unlink()
    found = run("--diff", str(copy), f"{STANDARD}-agmax", "--json").json
    assert found["metrics"] == {} and found["settings"]["objective.name"] == ["classification", "agmax"]


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("ResNet50-cutmux", 2, "unknown part"),
        ("nowhere.yaml", 2, "no such configuration file (nowhere.yaml)"),
        (f"runs/{STANDARD}/digits-s8", 4, f"Did you mean 'runs/{STANDARD}/digits-s"),
        (f"runs/{STANDARD}/digits-s0/checkpoints/best.pth", 4, "not a run folder"),
    ],
)
def test_a_name_of_neither_run_nor_configuration_is_refused(runs: Call, text: str, status: int, said: str) -> None:
    answer = runs("--diff", "ResNet50-cutmix", text)
    assert answer.status == status and answer.out == "" and said in answer.err


# --- json ----------------------------------------------------------------------------------------------------

STUDY = """
base: ResNet8
dataset: digits
settings: {dataset: {train_limit: 40, image_size: 8}, augment.standard.padding: 1, train: {epochs: 1, batch_size: 20}}
variants: {plain: , smooth: label_smoothing}
"""


@pytest.mark.parametrize(
    "words",
    [
        ("--study", "mine.yaml", "--dry-run"),
        ("--study", "mine.yaml", "--print-slurm"),
        ("--study", "digits_smoke", "--dry-run"),
        ("--diff", "ResNet8", "ResNet8-agmax"),
        ("--compare", f"runs/{STANDARD}/digits-s0"),
        ("--config=ResNet8", "--print-config"),
        ("--config=ResNet8", "--summary"),
        ("--config=ResNet8", "--dataset=digits", "--preview"),
        ("--list",),
        ("--eval", f"--resume=runs/{STANDARD}/digits-s0"),
        ("--config=ResNet8", "--train", *TINY),
    ],
    ids=lambda words: " ".join(words[:3]),
)
def test_every_mode_prints_one_json_object_alone(copy: Path, run: Call, words: tuple[str, ...]) -> None:
    Path("mine.yaml").write_text(STUDY)
    answer = run(*words, "--json")
    assert answer.status == 0, answer.err
    assert answer.out.count("\n") == 1 and isinstance(answer.json, dict)
