"""Study files: variants, seeds, layers, and where the files are found."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from agmax.config import names
from agmax.config.resolve import Setting
from agmax.core.errors import UsageError
from agmax.studies import plan, spec
from agmax.studies import study as running
from agmax.studies.plan import TypedSettings
from agmax.studies.spec import Variant
from helpers.configurations import value_of
from helpers.study_files import SMALL, TUNE, Write
from helpers.study_runs import planned_of


def test_a_minimal_study_has_one_seed_and_the_usual_metrics(write: Write) -> None:
    found = spec.read_study(write("base: ResNet8\nvariants:\n  plain:\n  cutout: cutout\nsettings:\ntune:\n"))
    assert (found.name, found.about, found.dataset, found.settings) == ("small", "", None, ())
    assert (found.metrics, found.margin, found.budget) == (("error", "nll", "ece"), 0.2, None)
    assert (found.contrasts, found.checks, found.tune_seeds, found.trials) == ((), (), (), {})
    assert found.variants == {
        "plain": Variant("plain", "", (), (), None, (0,), 0, {}),
        "cutout": Variant("cutout", "", ("cutout",), (), None, (0,), 0, {}),
    }
    assert found.records_path == found.path.parent / "results" / "small.jsonl"


@pytest.mark.parametrize(("seeds", "third", "expected"), [("3", 2, (0, 1)), ("[7, 5, 6]", 2, (7, 5)), ("[4]", 1, (4,))])
def test_seeds_are_counted_or_listed_and_a_variant_may_have_fewer(
    write: Write, seeds: str, third: int, expected: tuple[int, ...]
) -> None:
    text = SMALL.replace("seeds: 2", f"seeds: {seeds}") + f"  third: {{seeds: {third}}}\n"
    found = spec.read_study(write(text))
    assert found.variants["third"].seeds == expected
    planned_runs = plan.result_runs(found, TypedSettings(), {})
    assert {planned.seed for planned in planned_runs if planned.variant == "third"} == set(expected)
    assert {planned.seed for planned in planned_runs} == set(found.variants["plain"].seeds)


def test_a_variant_like_another_takes_its_parts_settings_and_chosen_trial_and_its_own_win(write: Write) -> None:
    text = SMALL + (
        "  tuned: {parts: cutout-agmax, train: {batch_size: 32}, optimizer.momentum: 0.5, optimizer.lr: 0.9}\n"
        "  alike: {like: tuned, parts: mixup, optimizer.momentum: 0.6, objective.agreement_weight: 9.0}\n"
        "tune:\n  seeds: [50]\n  trials:\n    tuned:\n"
        "      - {optimizer.lr: 0.2, objective: {agreement_weight: 3.0, consistency_weight: 5.0}}\n"
        "      - {optimizer.lr: 0.3}\n"
    )
    found = spec.read_study(write(text))
    planned_runs = plan.result_runs(found, TypedSettings(), {"tuned": found.trials["tuned"][0]})
    tuned, alike = planned_of(planned_runs, "tuned").config, planned_of(planned_runs, "alike").config
    assert (tuned.augment.erase, tuned.augment.mix) == ("cutout", "none")
    assert (alike.augment.erase, alike.augment.mix) == ("cutout", "mixup")
    for key, of_tuned, of_alike in (
        ("train.batch_size", 32, 32),  # the other's own setting
        ("optimizer.lr", 0.2, 0.2),  # chosen: it wins over the other's own
        ("optimizer.momentum", 0.5, 0.6),  # its own wins over the other's
        ("objective.agreement_weight", 3.0, 9.0),  # and over what was chosen
        ("objective.consistency_weight", 5.0, 5.0),
        ("train.epochs", 2, 2),
    ):
        assert (value_of(tuned, key), value_of(alike, key)) == (of_tuned, of_alike), key
    trials = plan.tuning_runs(found, TypedSettings())
    assert [(planned.trial, planned.config.optimizer.lr) for planned in trials] == [(0, 0.2), (1, 0.3)]
    assert trials[1].config.optimizer.momentum == 0.5  # a trial lies on the variant's own settings


def test_overrides_of_a_study_apply_to_every_run(write: Write) -> None:
    text = SMALL + "  slow: {optimizer.lr: 0.01}\ntune: {seeds: [50], trials: {slow: [{optimizer.lr: 0.2}, {}]}}\n"
    found = spec.read_study(write(text))
    typed = TypedSettings("fashion_mnist", ("cutout",), (Setting("optimizer.lr", 0.7, "typed"),))
    for planned in (*plan.result_runs(found, typed, {}), *plan.tuning_runs(found, typed)):
        config = planned.config
        assert (config.dataset.name, config.augment.erase, config.optimizer.lr) == ("fashion_mnist", "cutout", 0.7)
        assert config.train.epochs == 2 and config.train.seed == planned.seed


def test_the_base_may_be_a_file_beside_the_study(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text("base: ResNet20-cutout\ntrain: {epochs: 7}\n")
    path = write(SMALL.replace("ResNet8", "mine.yaml").replace("train.epochs: 2, ", ""))
    monkeypatch.chdir("/")
    config = planned_of(plan.result_runs(spec.read_study(path), TypedSettings(), {}), "agmax").config
    assert (config.model.backbone, config.augment.erase, config.train.epochs) == ("agmax_resnet20", "cutout", 7)
    assert config.objective.name == "agmax"


def test_studies_are_found_by_name_and_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits_smoke.yaml").write_text(SMALL)
    assert spec.find_study("digits_smoke") == names.CONFIGS / "study" / "digits_smoke.yaml"
    assert spec.find_study("digits_smoke.yaml") == Path("digits_smoke.yaml")
    assert spec.find_study(f"{tmp_path}/digits_smoke.yaml").parent == tmp_path
    for text, answer in (
        ("digit_smoke", "Did you mean 'digits_smoke'?"),
        ("nowhere/x.yaml", "no such study (nowhere/x.yaml). Known: agmax_cifar, "),
        ("x" * 5000, "cannot read the study"),
        ("\0", "no such study"),
    ):
        with pytest.raises(UsageError, match=re.escape(answer)):
            spec.find_study(text)


def test_variants_may_have_unequal_trials_where_the_file_says_why(write: Callable[[str], Path]) -> None:
    trials = (
        TUNE + "    plain: [{optimizer.lr: 0.1}, {optimizer.lr: 0.2}, {optimizer.lr: 0.3}]\n  unequal: plain has more\n"
    )
    of = spec.read_study(write(SMALL + trials))
    assert of.unequal_trials == "plain has more"
    assert [len(each) for each in of.trials.values()] == [2, 3]
    said = running.analyze_study(of, running.phase_of(of, TypedSettings()), {})
    assert "variants have unequal numbers of trials: plain has more" in said.notes
