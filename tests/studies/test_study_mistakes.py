"""Mistakes in a study file are named with their line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agmax.config import reader
from agmax.core.errors import UsageError
from agmax.studies import plan, spec
from agmax.studies.plan import TypedSettings
from helpers.command import Answer
from helpers.study_files import SMALL, TUNE, Write

Run = Callable[..., Answer]
THIRD = "  third: "  # the ninth line

MISTAKES: dict[str, tuple[str, list[str]]] = {
    "an unknown key": (SMALL + "metric: [error]\n", ["unknown key metric (small.yaml:9). Did you mean 'metrics'?"]),
    "an unknown key of a contrast": (
        SMALL + "contrasts:\n  - {of: agmax, against: [plain], agianst: [plain]}\n",
        ["unknown key agianst in entry 1 of contrasts (small.yaml:9). Did you mean 'against'?"],
    ),
    "an unknown key of a check": (
        SMALL + "checks:\n  - {of: agmax, against: plain, expect: no gain, expects: no}\n",
        ["unknown key expects in entry 1 of checks (small.yaml:9). Did you mean 'expect'?"],
    ),
    "an unknown key of the tuning": (
        SMALL + TUNE + "  trial: 3\n",
        ["unknown key tune.trial (small.yaml:13). Did you mean 'trials'?"],
    ),
    "an unknown setting of a variant": (
        SMALL + THIRD + "{optimzer.lr: 0.1}\n",
        ["unknown key optimzer.lr (small.yaml:9). Did you mean 'optimizer.lr'?"],
    ),
    "an unknown setting of the study": (
        SMALL.replace("train.epochs", "train.epoch"),
        ["unknown key train.epoch (small.yaml:4). Did you mean 'train.epochs'?"],
    ),
    "an unknown setting of a trial": (
        SMALL + TUNE.replace("optimizer.lr: 0.2", "optimizer.rl: 0.2"),
        ["unknown key optimizer.rl (small.yaml:12). Did you mean 'optimizer.lr'?"],
    ),
    "a wrong value of a variant": (
        SMALL + THIRD + "\n    optimizer:\n      lr: fast\n",
        ["wrong value optimizer.lr='fast' (small.yaml:11): it must be a valid number"],
    ),
    "settings of a variant that do not fit": (
        SMALL + THIRD + "{parts: agmax, objective.num_views: 1}\n",
        [
            "settings do not fit: objective.num_views (small.yaml:9): agmax needs at least 2 views. "
            "Write objective.num_views=2"
        ],
    ),
    "an unknown part": (
        SMALL + THIRD + "{parts: mixup-cutot}\n",
        ["unknown part cutot (small.yaml:9). Did you mean 'cutout'?"],
    ),
    "an unknown part on a line of its own": (
        SMALL + THIRD + "\n    about: it\n    parts: agmx\n",
        ["unknown part agmx (small.yaml:11). Did you mean 'agmax'?"],
    ),
    "a model as part": (
        SMALL + THIRD + "ResNet20\n",
        ["unknown part ResNet20 (small.yaml:9). The model is the study's base"],
    ),
    "parts that clash": (
        SMALL + THIRD + "cutmix-mixup\n",
        ["variant third (small.yaml:9): 'cutmix' and 'mixup' both set augment.mix; keep one (ResNet8-cutmix-mixup)"],
    ),
    "an unknown base": (
        SMALL.replace("ResNet8", "ResNt8"),
        ["wrong base (small.yaml:2): unknown part 'ResNt8' (ResNt8). Did you mean 'ResNet8'?"],
    ),
    "an unknown data set": (
        SMALL.replace("digits", "digit"),
        ["unknown data set digit (small.yaml:3). Did you mean 'digits'?"],
    ),
    "unknown variants of a contrast": (
        SMALL + "contrasts:\n  - {of: agmx, against: [plan]}\n",
        [
            "unknown variant agmx (small.yaml:9). Did you mean 'agmax'?",
            "unknown variant plan (small.yaml:9). Did you mean 'plain'?",
        ],
    ),
    "an unknown variant of a check": (
        SMALL + "checks:\n  - {of: agmax, against: plane, expect: no gain}\n",
        ["unknown variant plane (small.yaml:9). Did you mean 'plain'?"],
    ),
    "an unknown variant to be like": (
        SMALL + THIRD + "\n    like: agmx\n",
        ["unknown variant agmx (small.yaml:10). Did you mean 'agmax'?"],
    ),
    "an unknown variant to tune": (
        SMALL + TUNE.replace("agmax:", "agmx:"),
        ["unknown variant agmx (small.yaml:12). Did you mean 'agmax'?"],
    ),
    "a variant like itself": (
        SMALL + THIRD + "{like: third}\n",
        [
            "variant third cannot be like third (small.yaml:9): "
            "a variant with `like` has no trials, and names a variant without `like`"
        ],
    ),
    "a variant like one that is like another": (
        SMALL + THIRD + "{like: agmax}\n  fourth: {like: third}\n",
        [
            "variant fourth cannot be like third (small.yaml:10): "
            "a variant with `like` has no trials, and names a variant without `like`"
        ],
    ),
    "trials of a variant like another": (
        SMALL + THIRD + "{like: plain}\n" + TUNE.replace("agmax:", "third:"),
        [
            "variant third cannot be like plain (small.yaml:9): "
            "a variant with `like` has no trials, and names a variant without `like`"
        ],
    ),
    "a variant compared with itself": (
        SMALL + "contrasts:\n  - {of: agmax, against: [agmax]}\n",
        ["agmax is compared with itself (small.yaml:9)"],
    ),
    "a contrast with nothing": (
        SMALL + "contrasts:\n  - {of: agmax, against: []}\n",
        ["wrong value against=[] in entry 1 of contrasts (small.yaml:9): it must have 1 or more entries"],
    ),
    "an expectation that is none": (
        SMALL + "checks:\n  - {of: agmax, against: plain, expect: gain}\n",
        [
            "wrong value expect='gain' in entry 1 of checks (small.yaml:9): "
            "it must be 'no difference', 'a difference' or 'no gain'. Did you mean 'no gain'?"
        ],
    ),
    "unequal numbers of trials": (
        SMALL + TUNE + "    plain: [{}, {}, {}]\n",
        [
            "variants have unequal numbers of trials (small.yaml:11): a fair tuning has the same number for each: "
            "agmax 2, plain 3. Add trials, or write the reason in tune.unequal"
        ],
    ),
    "a single trial": (
        SMALL + TUNE.replace(", {optimizer.lr: 0.2}", ""),
        ["wrong value tune.trials.agmax=[{'optimizer.lr': 0.1}] (small.yaml:12): it must have 2 or more entries"],
    ),
    "a trial that is no section": (
        SMALL + TUNE.replace("{optimizer.lr: 0.2}", "0.2"),
        ["wrong value 0.2 in entry 2 of tune.trials.agmax (small.yaml:12): it must be a section, `key: value`"],
    ),
    "a tuning of nothing": (
        SMALL + "tune: {seeds: [50], trials: {}}\n",
        ["wrong value tune.trials={} (small.yaml:9): it must have 1 or more entries"],
    ),
    "a tuning without seeds": (
        SMALL + TUNE.replace("  seeds: [50]\n", ""),
        ["tune.seeds is missing (small.yaml:9). See configs/study for examples"],
    ),
    "seeds shared by tuning and results": (
        SMALL + TUNE.replace("[50]", "[50, 1, 0]"),
        ["seeds [0, 1] are seeds of the study too (small.yaml:10): settings must be chosen on other seeds"],
    ),
    "a seed twice": (
        SMALL.replace("seeds: 2", "seeds: [4, 4]") + TUNE.replace("[50]", "[50, 50]"),
        ["a seed is listed twice (small.yaml:5)", "a seed is listed twice (small.yaml:10)"],
    ),
    "more seeds of a variant than there are": (
        SMALL + THIRD + "{seeds: 9}\n",
        ["variant third has more seeds than the study (small.yaml:9): 9, of 2"],
    ),
    "the best of several without trials": (
        SMALL + THIRD + "cutout\n" + TUNE + "contrasts:\n  - {of: agmax, against: [plain, third]}\n",
        [
            "no trials of plain, third (small.yaml:14): the best of several comparators is chosen by the tuning. "
            "Name one variant, or add trials"
        ],
    ),
    "seeds that are no number": (
        SMALL.replace("seeds: 2", "seeds: many"),
        ["wrong value seeds='many' (small.yaml:5): it must be a number of seeds, or a list of seeds"],
    ),
    "true for one seed": (
        SMALL.replace("seeds: 2", "seeds: true"),
        ["wrong value seeds=True (small.yaml:5): it must be a number of seeds, or a list of seeds"],
    ),
    "no seeds": (
        SMALL.replace("seeds: 2", "seeds: 0"),
        ["wrong value seeds=0 (small.yaml:5): it must be a number of seeds, or a list of seeds"],
    ),
    "a negative seed": (
        SMALL.replace("seeds: 2", "seeds: [3, -1]"),
        ["wrong value -1 in entry 2 of seeds (small.yaml:5): it must be greater than or equal to 0"],
    ),
    "a setting that the study makes": (
        SMALL.replace("{train.epochs: 2,", "{train.seed: 2, name: mine,") + THIRD + "{evaluation.test: false}\n",
        [
            "train.seed is the study's to set (small.yaml:4). Write seeds: [5, 6, 7] in the study",
            "name is the study's to set (small.yaml:4). Leave it out",
            "evaluation.test is the study's to set (small.yaml:9). Leave it out",
        ],
    ),
    "an unknown metric": (
        SMALL + "metrics: [error, top_1]\n",
        [
            "wrong value 'top_1' in entry 2 of metrics (small.yaml:9): "
            "it must be 'error', 'top1', 'top5', 'nll' or 'ece'. Did you mean 'top1'?"
        ],
    ),
    "a published number of no metric": (
        SMALL + THIRD + "{paper: {accuracy: 76.4}}\n",
        ["wrong name variants.third.paper.accuracy (small.yaml:9): it must be 'error', 'top1', 'top5', 'nll' or 'ece'"],
    ),
    "a published number that is none": (
        SMALL + THIRD + "{paper: {top1: high}}\n",
        ["wrong value variants.third.paper.top1='high' (small.yaml:9): it must be a number"],
    ),
    "a margin below zero": (
        SMALL + "margin: -0.1\n",
        ["wrong value margin=-0.1 (small.yaml:9): it must be greater than 0"],
    ),
    "a variant that is a list": (
        SMALL + THIRD + "[cutout]\n",
        [
            "wrong value variants.third=['cutout'] (small.yaml:9): "
            "it must be parts of a configuration name, or a section of settings"
        ],
    ),
    "a variant that is a number": (
        SMALL + THIRD + "3\n",
        [
            "wrong value variants.third=3 (small.yaml:9): "
            "it must be parts of a configuration name, or a section of settings"
        ],
    ),
    "a variant whose name is no word": (
        SMALL + "  'a+b': cutout\n",
        ["wrong name variants.a+b (small.yaml:9): a name consists of letters, digits and _ . -"],
    ),
    "no variants": (
        "base: ResNet8\nvariants: {}\n",
        ["wrong value variants={} (small.yaml:2): it must have 1 or more entries"],
    ),
    "nothing behind variants": (
        "base: ResNet8\nvariants:\n",
        ["variants is missing (small.yaml:2). See configs/study for examples"],
    ),
    "a list of variants": (
        "base: ResNet8\nvariants: [a]\n",
        ["wrong value variants=['a'] (small.yaml:2): it must be a section, `key: value`"],
    ),
    "an empty file": (
        "",
        [
            "base is missing (small.yaml). See configs/study for examples",
            "variants is missing (small.yaml). See configs/study for examples",
        ],
    ),
    "no YAML": (
        SMALL + THIRD + "{parts: [}\n",
        ["not valid YAML (small.yaml:9): expected the node content, but found '}'"],
    ),
    "a list": ("- a\n", ["configuration is not a mapping (small.yaml). Write lines of the form `section:`"]),
    "a key twice": (SMALL + "about: again\n", ["duplicate key about (small.yaml:9): first on line 1"]),
    "several of one kind, wrong words": (
        SMALL + "  third: {seeds: x}\n  fourth: {like: 3}\nmargin: -1\nmetric: 3\n",
        [
            "wrong value variants.third.seeds='x' (small.yaml:9): it must be a whole number",
            "wrong value variants.fourth.like=3 (small.yaml:10): it must be text",
            "wrong value margin=-1 (small.yaml:11): it must be greater than 0",
            "unknown key metric (small.yaml:12). Did you mean 'metrics'?",
        ],
    ),
    "wrong values of variants, trials and what they are like": (
        SMALL.replace("train.epochs: 2", "train.epochs: 0")
        + "  third: {parts: cutout, optimizer.lr: -1}\n  fourth: {like: agmax, objective.num_views: 1}\n"
        + TUNE.replace("optimizer.lr: 0.2", "optimizer.lr: soon"),
        [
            "wrong value train.epochs=0 (small.yaml:4): it must be greater than or equal to 1",
            "wrong value optimizer.lr='soon' (small.yaml:14): it must be a valid number",
            "wrong value optimizer.lr=-1 (small.yaml:9): it must be greater than 0",
        ],
    ),
    "a variant that does not fit what it is like": (
        SMALL + "  third: {like: agmax, objective.num_views: 1}\n",
        [
            "settings do not fit: objective.num_views (small.yaml:9): agmax needs at least 2 views. "
            "Write objective.num_views=2"
        ],
    ),
    "several of one kind, wrong variants": (
        SMALL
        + "  third: {like: agmx, optimzer.lr: 1}\n  fourth: cutot\ncontrasts:\n  - {of: agmx, against: [plain]}\n",
        [
            "unknown variant agmx (small.yaml:9). Did you mean 'agmax'?",
            "unknown variant agmx (small.yaml:11). Did you mean 'agmax'?",
            "unknown key optimzer.lr (small.yaml:9). Did you mean 'optimizer.lr'?",
            "unknown part cutot (small.yaml:10). Did you mean 'cutout'?",
        ],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_study_file_ends_with_2_and_names_its_line(run: Run, write: Write, mistake: str) -> None:
    text, expected = MISTAKES[mistake]
    write(text)
    answer = run("--study", "small.yaml", "--dry-run")
    assert answer.status == 2
    assert answer.err.splitlines() == [f"error: {line}" for line in expected]
    assert answer.out == ""
    with pytest.raises(UsageError):  # no variant has to come to its training
        spec.read_study(Path("small.yaml"))


def test_the_file_that_the_mistakes_are_made_in_has_none(write: Write) -> None:
    for more in ("", TUNE, "contrasts:\n  - {of: agmax, against: [plain]}\n"):
        spec.read_study(write(SMALL + more))


def test_a_file_whose_name_could_name_no_run_folder_is_refused(tmp_path: Path) -> None:
    for name in ("my study", "ünï", "a" * 101):
        path = tmp_path / f"{name}.yaml"
        path.write_text(SMALL)
        with pytest.raises(UsageError, match="wrong name of a study"):
            spec.read_study(path)


@settings(
    deadline=None,
    max_examples=150,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-3, 3)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.sampled_from(["agmax", "plain", "x", "top1", "ResNet8"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["plain", "of", "against", "like", "parts", "trials", "seeds", "optimizer.lr"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ),
    st.sampled_from(["base", "dataset", "settings", "variants", "seeds", "contrasts", "checks", "tune", "about"]),
)
def test_any_value_of_a_key_is_read_or_refused_with_its_line(tmp_path: Path, value: Any, key: str) -> None:
    lines = {"base": "ResNet8", "variants": "{plain: {}, agmax: agmax}"} | {key: reader.format_value(value)}
    path = tmp_path / "small.yaml"
    path.write_text("".join(f"{word}: {text}\n" for word, text in lines.items()))
    try:
        found = spec.read_study(path)
    except UsageError as error:
        assert all(str(path) in line for line in error.lines)
    else:
        assert plan.result_runs(found, TypedSettings(), {})
