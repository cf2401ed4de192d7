"""Tables that carry their facts: what is entered in one of them is known everywhere else."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from agmax.config import names, reader, resolve
from agmax.config.resolve import Setting
from agmax.config.schema import ScheduleConfig, choices
from agmax.core.errors import ConfigErrors, DataError, UsageError
from agmax.evaluation.metrics import METRICS, Metric, add_complements, computed_metrics, metrics
from agmax.experiments.run_folder import RunFolder
from agmax.losses import OBJECTIVES, Objective, Term
from agmax.optim.lr_schedules import SCHEDULES, TrainingProgress, learning_rate, settings_of
from agmax.reports import tables, writers
from agmax.studies import records, spec_file
from agmax.studies.analysis import Pair, VariantRuns, analyze
from helpers.command import Answer
from helpers.places import REPOSITORY
from helpers.training import rows

Run = Callable[..., Answer]

TINY = (
    "--train",
    "--json",
    "--dataset=digits",
    "dataset.train_limit=64",
    "dataset.image_size=8",
    "augment.standard.padding=1",
    "train.batch_size=32",
    "train.epochs=2",
)


@pytest.fixture
def with_certainty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enter a metric: the mean of the highest probability, in percent, to one decimal."""

    def certainty(logits: Tensor, labels: Tensor) -> float:
        return 100 * float(logits.double().softmax(-1).amax(-1).mean())

    monkeypatch.setitem(METRICS, "certainty", Metric(certainty, "%", 1, higher_is_better=True))


# --- metrics -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("with_certainty")
def test_a_metric_of_the_table_is_in_rows_results_records_and_reports(run: Run) -> None:
    answer = run("--config=ResNet8", *TINY)
    result = answer.json
    row = rows(result["run_folder"])[-1]
    assert 10 < result["certainty"] == row["test_certainty"] < 100
    assert f"certainty {result['certainty']:.1f} %" in answer.err
    assert run("--eval", "--json", "--resume", result["checkpoint"]).json["certainty"] == result["certainty"]
    other = run("--config=ResNet8", *TINY, "optimizer.lr=0.2").json
    found = run("--diff", result["run_folder"], other["run_folder"], "--json").json
    assert found["metrics"]["certainty"] == [result["certainty"], other["certainty"]]
    both = run("--config=ResNet8", *TINY, "--n-runs=2").json
    assert both["certainty_spread"]["max"] == max(made["certainty"] for made in both["runs"])

    variants = [variant_of(one["run_folder"]) for one in (result, other)]
    pair = Pair(variants[0].name, variants[1].name)
    said = analyze("a study", variants, metrics=["certainty", "nll"], contrasts=[pair])
    assert said.variants[0].means["final"]["certainty"].mean == row["test_certainty"]
    table = tables.variants(said)
    assert [column.title for column in table.columns][1:3] == ["certainty (%)", "nll (nats)"]
    assert table.rows[0][1] == f"{row['test_certainty']:.1f}"
    assert "Certainty (%) (higher is better), nll (nats) (lower is better)" in table.caption
    assert "Difference in certainty (points)" in tables.contrasts(said).caption
    assert f"certainty,%,{row['test_certainty']}" in writers.csv(said)


def variant_of(folder: str) -> VariantRuns:
    """Make the variant of one run."""
    record = records.record_of_run(RunFolder(Path(folder)))
    config = resolve.resolve(f"{folder}/config.yaml").config
    return VariantRuns(Path(folder).name, "", config, {0: record}, 1, {})


@pytest.mark.usefixtures("with_certainty")
def test_a_study_may_show_a_metric_of_the_table(tmp_path: Path) -> None:
    assert checked(tmp_path, "metrics: [certainty, error]").metrics == ["certainty", "error"]
    assert checked(tmp_path, "metrics: [nll]", paper="{certainty: 93.1}").variants["one"].paper == {"certainty": 93.1}
    with pytest.raises(ConfigErrors, match=r"'ece' or 'certainty'\. Did you mean 'certainty'\?"):
        checked(tmp_path, "metrics: [certain]")


def checked(folder: Path, line: str, paper: str = "{}") -> spec_file.StudyFile:
    path = folder / "study.yaml"
    path.write_text(f"base: ResNet8\nvariants: {{one: {{paper: {paper}}}}}\n{line}\n")
    return spec_file.validate(reader.read_yaml(path))


@pytest.mark.usefixtures("with_certainty")
def test_records_from_before_a_metric_was_entered_show_the_others_and_are_not_compared_by_it() -> None:
    text = (REPOSITORY / "configs/study/results/fashion_mnist_agmax.jsonl").read_text()
    record = next(record for record in map(json.loads, text.splitlines()) if "test" in record["metrics"])
    variant = VariantRuns("old", "", resolve.resolve("ResNet8", dataset="fashion_mnist").config, {0: record}, 1, {})
    said = analyze("a study", [variant], metrics=["error", "certainty"])
    assert said.variants[0].means["final"]["error"].mean == record["metrics"]["test"]["error"]
    assert "certainty (%)" not in [column.title for column in tables.variants(said).columns]
    with pytest.raises(DataError, match=r"variants cannot be compared \(certainty\): records of old lack it"):
        analyze("a study", [variant], metrics=["certainty", "error"])


def test_the_error_is_what_top1_leaves_of_100_and_is_kept_in_records_alone(run: Run) -> None:
    assert add_complements({"nll": 1.5, "top1": 91.34}) == {"error": 100 - 91.34, "top1": 91.34, "nll": 1.5}
    assert list(add_complements({"nll": 1.5, "top1": 91.34})) == ["error", "top1", "nll"]
    assert add_complements({"nll": 1.5}) == {"nll": 1.5}
    found = metrics(torch.eye(3), torch.tensor([0, 1, 1]))
    assert list(found) == computed_metrics() == ["top1", "top5", "nll", "ece"]
    assert found["top1"] == pytest.approx(200 / 3) and found["top5"] == 100


# --- schedules -----------------------------------------------------------------------------------------------------


def test_a_schedule_of_the_table_trains_by_its_name(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def square(now: TrainingProgress, *, gamma: float = 0.5) -> float:
        return (1 - now.progress) ** 2 * gamma

    words = ("--config=ResNet8", "schedule.name=square", "schedule.gamma=0.25", "schedule.interval=step")
    assert "one of constant, cosine" in run(*words, "--print-config").err
    monkeypatch.setitem(SCHEDULES, "square", square)
    assert run(*words, "--print-config", "--json").json["schedule"]["name"] == "square"
    result = run(*words, *TINY, "optimizer.lr=0.4").json
    assert [row["lr"] for row in rows(result["run_folder"])] == pytest.approx([0.1 * 0.75**2, 0.1 * 0.25**2])
    assert "'square'" in str(wrong("schedule.name", "squarre"))


def wrong(key: str, value: Any) -> UsageError:
    with pytest.raises(UsageError) as caught:
        resolve.resolve("ResNet8", settings=[Setting(key, value, "test")])
    return caught.value


@pytest.mark.parametrize("name", SCHEDULES)
def test_what_a_schedule_asks_for_is_a_setting_with_the_same_default(name: str) -> None:
    config = ScheduleConfig()
    defaults = SCHEDULES[name].__kwdefaults__ or {}
    assert defaults.keys() == set(settings_of(name))
    assert defaults == {key: getattr(config, key) for key in settings_of(name)}


def test_every_setting_of_the_schedule_is_asked_for() -> None:
    of_all = {"name", "interval", "warmup_epochs", "warmup_lr"}
    of_one = {key for name in SCHEDULES for key in settings_of(name)}
    assert of_all | of_one | {"patience"} == set(ScheduleConfig.model_fields)


def test_a_setting_of_another_schedule_is_refused() -> None:
    with pytest.raises(TypeError, match="gamma"):
        learning_rate(5, name="cosine", base=0.1, epochs=3, steps_per_epoch=2, gamma=0.3)


# --- objectives ----------------------------------------------------------------------------------------------------


def test_an_objective_of_the_table_trains_by_its_name(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that needs the Q network and three views: the mean of its logits' squares, of a weight of its own."""
    row = Objective({"smallness": Term(lambda joint: joint.square().mean(), 0.5, ("joint_logits",))}, min_views=3)
    monkeypatch.setitem(OBJECTIVES, "small", row)
    words = ("--config=ResNet8", "objective.name=small")
    refused = run(*words, "objective.num_views=2", "--print-config")
    assert refused.status == 2
    assert "objective.num_views" in refused.err
    assert "small needs at least 3 views. Write objective.num_views=3" in refused.err
    printed = run(*words, "objective.num_views=3", "--print-config", "--json").json
    assert printed["objective"]["hidden_units"] == 128
    result = run(*words, "objective.num_views=3", *TINY).json
    row_of_2 = rows(result["run_folder"])[-1]
    assert row_of_2["smallness"] > 0
    assert row_of_2["train_loss"] == pytest.approx(row_of_2["classification"] + row_of_2["smallness"])


def test_settings_are_checked_against_the_tables_without_torch() -> None:
    code = "import sys; from agmax.config import resolve; from agmax.studies import spec; import agmax.losses;"
    code += "resolve.resolve('ResNet8-cutmix-agmax'); spec.read_study(spec.find_study('fashion_mnist_agmax'));"
    code += "assert not {'torch', 'timm'} & sys.modules.keys()"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


def test_choices_follow_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choices("schedule.name") == tuple(SCHEDULES)
    monkeypatch.setitem(OBJECTIVES, "mine", Objective({}))
    assert choices("objective.name")[-1] == "mine"
    assert {item.part for item in names.examples("method")} > {*OBJECTIVES} - {"classification", "mine"}


# --- optimizers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "lamp",
            "wrong value optimizer.name='lamp' (the command line): timm has no such optimizer. Did you mean 'lamb'?",
        ),
        ("SGD", "wrong value optimizer.name='SGD' (the command line): timm has no such optimizer. Did you mean 'sgd'?"),
        ("zzzz", "timm has no such optimizer. Usual ones are sgd, adamw, adam, rmsprop"),
        ("fusedadam", "wrong value optimizer.name='fusedadam': "),
        ("sgdw optimizer.momentum=0", "wrong value optimizer.name='sgdw': Nesterov momentum requires a momentum"),
        ("adahessian", "wrong value optimizer.name='adahessian': it needs second-order gradients"),
    ],
)
def test_an_optimizer_that_cannot_train_is_refused_before_there_is_a_run_folder(
    run: Run, name: str, expected: str
) -> None:
    answer = run("--config=ResNet8", *TINY, *f"optimizer.name={name}".split())
    assert answer.status == 2
    assert expected in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert not Path("runs").exists()
