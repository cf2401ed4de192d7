"""The command line: the 74 flags of the AgMax program, overrides, modes, and what is printed where."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from agmax.cli import modes, parser
from agmax.cli.commands import list as listing
from agmax.cli.commands import preview
from agmax.cli.commands import train as training
from agmax.config import names
from agmax.experiments import export
from helpers.command import Answer
from helpers.places import REPOSITORY

Run = Callable[..., Answer]


def _words(text: str) -> list[str]:
    return text.split()


FLAGS = _words("""
--config --n-runs --best-top1 --best-top5 --best-model --adam --rmsprop --steplr --cosinelr --multisteplr --plateau
--decay-epochs --decay-rate --warmup-lr --warmup-epochs --ce-weight --mi-weight --gamma --step-size --cycle-limit
--train-imagenet-size --test-imagenet-size --dl --n-units --dl-weight --pool-size --n-channels --n-classes
--init-backbone --init-extractor --weights-std --weight-decay --batch-size --epochs --lr --dropout --nesterov
--momentum --rand-augment --rand-augment-mag --auto-augment --cutout --no-basic-augment --cutmix --mixup --cutmix-prob
--alpha --beta --feature-extractor --train --eval --fgsm --jitter --crop --corruption --save --imagenet-dir
--speech-commands-dir --bg-noise-dir --weights-dir --logs-dir --checkpoints-dir --resume --save-extractor --summary
--dataset --agmax --agmax-mse --agmax-kl --agmax-ce --seed --num-workers --results-dir --smoothing
""")
SWITCHES = _words("""
--adam --rmsprop --steplr --cosinelr --multisteplr --plateau --init-backbone --init-extractor --nesterov --rand-augment
--auto-augment --cutout --no-basic-augment --cutmix --mixup --train --eval --fgsm --jitter --crop --save
--save-extractor --summary --agmax --agmax-mse --agmax-kl --agmax-ce
""")
VALUES = {
    "--config": "ResNet8",
    "--best-model": "x.pth",
    "--dl": "l1",
    "--feature-extractor": "ResNet8",
    "--corruption": "fog",
    "--imagenet-dir": "/data",
    "--speech-commands-dir": "/data",
    "--bg-noise-dir": "/data",
    "--weights-dir": "w",
    "--logs-dir": "l",
    "--checkpoints-dir": "c",
    "--resume": "x.pth",
    "--dataset": "digits",
    "--results-dir": "r",
}
REFUSED = _words("""
--pool-size --init-backbone --init-extractor --fgsm --jitter --crop --corruption --speech-commands-dir --bg-noise-dir
--save-extractor
""")
MODES = ("--train", "--eval", "--summary")


def words_of(flag: str) -> list[str]:
    """Return a flag as its user writes it."""
    return [flag] if flag in SWITCHES else [flag, VALUES.get(flag, "1")]


def leaves(mapping: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in mapping.items():
        result |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
    return result


def printed(run: Run, *words: str) -> dict[str, Any]:
    """Return the settings by dotted key that --print-config shows."""
    answer = run("--print-config", "--json", *words)
    assert answer.status == 0, answer.err
    return leaves(answer.json)


# The 74 flags


def test_the_agmax_program_had_74_flags() -> None:
    assert len(FLAGS) == len(set(FLAGS)) == 74


@pytest.mark.parametrize("flag", FLAGS)
def test_each_flag_of_the_agmax_program_is_followed_or_answered_in_one_line(flag: str, run: Run) -> None:
    mode = [] if flag in MODES else ["--train"] if flag == "--resume" else ["--print-config"]
    if flag in REFUSED:
        answer = run(*mode, *words_of(flag))
        assert (answer.status, answer.out) == (2, "")
        assert answer.err.startswith(f"error: flag not followed ({flag}): ") and answer.err.count("\n") == 1
    else:
        request = parser.parse([*mode, *words_of(flag)])
        assert request.mode == (flag if flag in MODES else mode[0])[2:]


def test_every_flag_is_described_in_the_help(run: Run) -> None:
    answer = run("--help")
    described = {word.rstrip(",") for word in answer.out.split() if word.startswith("--")}
    assert answer.status == 0
    assert set(FLAGS) <= described
    assert all(row.to or row.remark for row in parser.FLAGS)


SETTINGS: list[tuple[str, str, dict[str, Any]]] = [  # a flag, the configuration it is given to, what it changes
    ("--adam", "ResNet50", {"optimizer.name": "adam"}),
    ("--rmsprop", "ResNet50", {"optimizer.name": "rmsprop"}),
    ("--steplr", "ResNet50", {"schedule.name": "step", "schedule.warmup_epochs": 5}),
    ("--cosinelr", "ResNet50", {"schedule.name": "cosine", "schedule.warmup_epochs": 5}),
    ("--multisteplr", "RegNetX002", {"schedule.name": "multistep", "schedule.warmup_epochs": 0}),
    ("--plateau", "RegNetX002", {"schedule.name": "plateau", "schedule.warmup_epochs": 0}),
    ("--decay-epochs=3.5", "ResNet50", {"schedule.decay_epochs": 3.5}),
    ("--decay-rate=0.9", "ResNet50", {"schedule.decay_rate": 0.9}),
    ("--warmup-lr=1e-4", "ResNet50", {"schedule.warmup_lr": 1e-4}),
    ("--warmup-epochs=3", "RegNetX002", {"schedule.warmup_epochs": 3}),
    ("--ce-weight=2", "ResNet50", {"objective.classification_weight": 2}),
    ("--mi-weight=2", "ResNet50", {"objective.agreement_weight": 2}),
    ("--train-imagenet-size=160", "ResNet50", {"dataset.image_size": 160}),
    ("--test-imagenet-size=256", "ResNet50", {"dataset.test_image_size": 256}),
    ("--n-units=2048", "ResNet50-agmax", {"objective.hidden_units": 2048}),
    ("--dl-weight=3", "ResNet50", {"objective.consistency_weight": 3}),
    ("--n-classes=100", "ResNet50", {"dataset.num_classes": 100}),
    ("--n-classes=100", "ResNet50-agmax", {"dataset.num_classes": 100, "objective.hidden_units": 512}),
    ("--weights-std=0.02", "ResNet50", {"model.initialisation.std": 0.02}),
    ("--weight-decay=1e-3", "ResNet50", {"optimizer.weight_decay": 1e-3}),
    ("--batch-size=64", "ResNet50", {"train.batch_size": 64}),
    ("--epochs=270", "ResNet50", {"train.epochs": 270}),
    ("--epochs=1e2", "ResNet50", {"train.epochs": 100}),
    ("--lr=0.05", "ResNet50", {"optimizer.lr": 0.05}),
    ("--dropout=0.3", "WideResNet40-2", {"model.dropout": 0.3}),
    ("--momentum=0.8", "ResNet50", {"optimizer.momentum": 0.8}),
    ("--rand-augment-mag=5", "ResNet50-rand_augment", {"augment.rand_augment.magnitude": 5}),
    ("--cutmix-prob=0.25", "ResNet50-cutmix", {"augment.cutmix.probability": 0.25}),
    ("--alpha=0.4", "ResNet50-mixup", {"augment.mixup.alpha": 0.4}),
    ("--beta=0.4", "ResNet50-cutmix", {"augment.cutmix.beta": 0.4}),
    ("--imagenet-dir=/images", "ResNet50", {"dataset.root": "/images"}),
    ("--weights-dir=elsewhere", "ResNet50", {"train.runs_dir": "elsewhere"}),
    ("--seed=7", "ResNet50", {"train.seed": 7}),
    ("--num-workers=2", "ResNet50", {"train.num_workers": 2}),
    ("--smoothing=0.2", "ResNet50-label_smoothing", {"objective.label_smoothing": 0.2}),
    ("--device=cpu", "ResNet50", {"train.device": "cpu"}),
]
PARTS = {
    "--rand-augment": "rand_augment",
    "--auto-augment": "auto_augment",
    "--cutout": "cutout",
    "--no-basic-augment": "no_basic_augment",
    "--cutmix": "cutmix",
    "--mixup": "mixup",
    "--agmax": "agmax",
    "--agmax-mse": "agmax_mse",
    "--agmax-kl": "agmax_kl",
    "--agmax-ce": "agmax_ce",
}
IGNORED = _words("""
--best-top1 --best-top5 --best-model --gamma --step-size --cycle-limit --dl --n-channels --save --logs-dir
--checkpoints-dir --results-dir
""")


@pytest.mark.parametrize(
    ("flag", "config", "changed"), SETTINGS, ids=lambda item: item if isinstance(item, str) else ""
)
def test_a_flag_changes_exactly_its_setting_and_wins_over_the_configuration(
    flag: str, config: str, changed: dict[str, Any], run: Run
) -> None:
    words = [f"--config={config}", "--dataset=imagenet"]
    before, after = printed(run, *words), printed(run, *words, flag)
    assert {key: after[key] for key in after if after[key] != before[key]} == changed


def test_nesterov_can_be_switched_on_over_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: ResNet8\noptimizer: {nesterov: false}\n")
    lists = [printed(run, "--config=mine.yaml", *more)["optimizer.nesterov"] for more in ([], ["--nesterov"])]
    assert lists == [False, True]


@pytest.mark.parametrize("flag", PARTS)
def test_a_flag_that_names_a_part_is_that_part_of_the_name(flag: str, run: Run) -> None:
    assert printed(run, "--config=ResNet50", flag) == printed(run, f"--config=ResNet50-{PARTS[flag]}")


def test_a_part_given_twice_counts_once(run: Run) -> None:
    assert printed(run, "--config=ResNet50-cutmix-agmax", "--cutmix", "--agmax")["name"] == "ResNet50-cutmix-agmax"


def test_another_agreement_leaves_the_path_of_a_file_alone(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "exp-agmax-1"
    folder.mkdir()
    (folder / "my.yaml").write_text("base: ResNet8-agmax\n")
    assert printed(run, f"--config={folder}/my.yaml", "--agmax-mse")["objective.name"] == "agmax_mse"


@pytest.mark.parametrize(
    "words",
    [["--config=agmax-ResNet50-cutout"], ["--config=ResNet50-agmax-cutout"], ["--config=ResNet50-cutout", "--agmax"]],
)
def test_another_agreement_replaces_that_of_agmax_as_in_the_published_program(words: list[str], run: Run) -> None:
    expected = printed(run, "--config=ResNet50-cutout-agmax_mse")
    assert printed(run, *words, "--agmax-mse") == expected
    assert printed(run, *words, "--agmax-mse", "--agmax-ce") == expected


def test_flags_alone_are_a_configuration_of_the_published_default_model(run: Run) -> None:
    assert printed(run, "--cutmix", "--agmax")["name"] == "WideResNet28-10-cutmix-agmax"
    assert printed(run, "--feature-extractor=ResNet8", "--cutmix")["name"] == "ResNet8-cutmix"


@pytest.mark.parametrize("flag", IGNORED)
def test_a_flag_that_never_acted_or_moved_changes_nothing_and_says_so(flag: str, run: Run) -> None:
    answer = run("--config=ResNet8-cutmix", "--print-config", *words_of(flag))
    assert answer.out == run("--config=ResNet8-cutmix", "--print-config").out
    assert answer.err.startswith(f"note: {flag}: ") and answer.err.count("\n") == 1


def test_the_tables_of_this_file_hold_every_flag_once() -> None:
    with_settings = {flag.partition("=")[0] for flag, _, _ in SETTINGS} - {"--device"}
    own = {"--config", "--n-runs", "--train", "--eval", "--summary", "--resume", "--dataset"}
    groups = [with_settings, set(PARTS), set(IGNORED), set(REFUSED), own, {"--nesterov", "--feature-extractor"}]
    assert sorted(flag for group in groups for flag in group) == sorted(FLAGS)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--adam", "--rmsprop"], "--adam and --rmsprop both set optimizer.name; keep one"),
        (["--cosinelr", "--multisteplr"], "--cosinelr and --multisteplr both set schedule.name; keep one"),
        (["--cutmix", "--mixup"], "'cutmix' and 'mixup' both set augment.mix; keep one"),
        (["--feature-extractor=ResNet50"], "a name needs one model part"),
    ],
    ids=lambda item: " ".join(item) if isinstance(item, list) else "",
)
def test_flags_that_contradict_are_refused(words: list[str], why: str, run: Run) -> None:
    answer = run("--config=ResNet8", "--print-config", *words)
    assert answer.status == 2
    assert answer.err.startswith(f"error: {why}") and answer.err.count("\n") == 1


@pytest.mark.parametrize("flag", [row.flag for row in parser.FLAGS if row.type in (int, float) and not row.refused])
@pytest.mark.parametrize("value", ["abc", "null", "true", "", "1,5", "010"])
def test_a_flag_that_takes_a_number_refuses_all_else(flag: str, value: str, run: Run) -> None:
    answer = run("--config=ResNet8", "--print-config", f"{flag}={value}")
    assert answer.status == 2
    assert flag in answer.err and answer.err.startswith("error: ") and answer.err.count("\n") == 1


@pytest.mark.parametrize(
    "words", [["--epochs=1.5"], ["--lr=.nan"], ["--lr=-1"], ["--epochs=0"], ["--n-runs=0"], ["--seed=-1"]]
)
def test_a_number_out_of_range_names_its_flag(words: list[str], run: Run) -> None:
    answer = run("--config=ResNet8", "--print-config", *words)
    assert answer.status == 2
    assert words[0].partition("=")[0] in answer.err


# Overrides, order, abbreviations


def test_an_override_wins_over_a_flag_and_a_particular_flag_over_a_general_one(run: Run) -> None:
    assert printed(run, "--config=ResNet8", "optimizer.lr=0.5", "--lr=0.4")["optimizer.lr"] == 0.5
    for words in (["--cosinelr", "--warmup-epochs=3"], ["--warmup-epochs=3", "--cosinelr"]):
        assert printed(run, "--config=ResNet50", *words)["schedule.warmup_epochs"] == 3


def test_overrides_and_flags_may_stand_in_any_order(run: Run) -> None:
    mixed = ["optimizer.lr=0.2", "--config", "ResNet8", "train.epochs=3", "--dataset", "digits", "model.dropout=0.1"]
    sorted_words = ["--config=ResNet8", "--dataset=digits", "optimizer.lr=0.2", "train.epochs=3", "model.dropout=0.1"]
    assert printed(run, *mixed) == printed(run, *sorted_words)


def test_a_resume_value_of_the_form_of_a_setting_is_an_override() -> None:
    request = parser.parse(["--train", "--resume", "train.epochs=5", "optimizer.lr=0.2"])
    assert request.ask.resume == ""
    assert [(setting.key, setting.value) for setting in request.ask.settings] == [
        ("train.epochs", 5),
        ("optimizer.lr", 0.2),
    ]


@pytest.mark.parametrize(
    "value", ["runs/a/b", "imagenet-agmax-79.12-mlp-2048.pth", "model.pth", "a=b.pth", "dir.d/x=1.pth"]
)
def test_any_other_resume_value_is_what_to_resume(value: str) -> None:
    assert parser.parse(["--eval", "--resume", value]).ask.resume == value


@pytest.mark.parametrize(("mode", "word"), [("--list", "configs"), ("--preview", "batch")])
def test_a_mode_without_its_word_takes_no_override_for_one(mode: str, word: str) -> None:
    request = parser.parse(["--config=ResNet8", mode, "train.epochs=5"])
    assert (request.mode, request.options["word"]) == (mode[2:], word)
    assert [(setting.key, setting.value) for setting in request.ask.settings] == [("train.epochs", 5)]


def test_resume_without_value_is_the_newest_run_and_none_is_none() -> None:
    assert parser.parse(["--train", "--resume"]).ask.resume == ""
    assert parser.parse(["--train"]).ask.resume is None


@pytest.mark.parametrize("word", ["--conf=ResNet8", "--epoch=3", "--agmax-m", "--print", "--frobnicate", "-x"])
def test_abbreviated_and_unknown_flags_are_refused_in_one_line(word: str, run: Run) -> None:
    answer = run("--config=ResNet8", "--print-config", word)
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith("error: ") and word in answer.err and answer.err.count("\n") == 1


@pytest.mark.parametrize("mode", ["--print-config", "--summary", "--list", "--preview"])
def test_what_a_mode_does_not_follow_is_refused(mode: str, run: Run) -> None:
    for flag in ("--resume", "--n-runs=2", "--split=train", "--predictions=x.npz"):
        answer = run("--config=ResNet8", mode, flag)
        assert answer.status == 2
        assert "flag not followed" in answer.err


def test_a_misspelt_flag_is_answered_with_the_nearest(run: Run) -> None:
    assert "Did you mean '--batch-size'?" in run("--config=ResNet8", "--print-config", "--bathc-size=4").err


def test_the_home_folder_is_put_in_where_no_shell_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    words = ["--eval", "--resume", "x.pth", "--output=~/seen.png", "--predictions=~/p.npz"]
    options = parser.parse(words).options
    assert options["output"] == "/home/me/seen.png" and options["predictions"] == "/home/me/p.npz"


@pytest.mark.parametrize(
    ("attempt", "why"),
    [
        (lambda: torch.empty(1 << 60), "DefaultCPUAllocator: can't allocate memory"),
        (lambda: bytearray(1 << 62), "nothing is left"),
        (lambda: _raise(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")), "CUDA out of memory"),
        (lambda: _raise(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling")), "CUBLAS_STATUS_ALLOC"),
    ],
)
def test_full_memory_is_told_in_one_line(
    attempt: Callable[[], Any], why: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "train", lambda start, remarks: attempt())
    answer = run("--config=ResNet8", "--train", "--dataset=digits")
    assert answer.status == 8 and answer.err.count("\n") == 1
    assert why in answer.err and "Lower train.batch_size and evaluation.batch_size" in answer.err


def _raise(error: Exception) -> None:
    raise error


def test_another_fault_of_torch_is_no_full_memory(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "train", lambda start, remarks: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        run("--config=ResNet8", "--train", "--dataset=digits")


def test_a_training_that_is_started_several_times_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchrun does: each process would train the whole."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    answer = run("--config=ResNet8", "--train", "--dataset=digits")
    assert answer.status == 2 and "started several times (torchrun)" in answer.err
    assert run("--config=ResNet8", "--print-config", "--dataset=digits").status == 0


@pytest.mark.parametrize("flag", ["--config", "--dataset", "--predictions", "--weights-dir", "--lr"])
def test_a_flag_whose_value_is_two_dashes_has_none(flag: str, run: Run) -> None:
    answer = run("--print-config", "--cutmix", f"{flag}=--")
    assert answer.status == 2
    assert answer.err == f"error: wrong command line: {flag} has no value. See --help\n"


# Modes


def test_every_mode_and_every_word_of_one_has_its_function() -> None:
    folder = Path(listing.__file__).parent
    assert {path.stem for path in folder.glob("*.py")} - {"__init__", "shared"} == {
        mode.module.rpartition(".")[2] for mode in modes.MODES.values()
    }
    assert all(callable(importlib.import_module(mode.module).run) for mode in modes.MODES.values())
    assert set(modes.MODES["list"].words) == set(listing.LISTINGS)
    assert set(modes.MODES["preview"].words) == set(preview.PREVIEWS)
    assert set(modes.MODES["export"].words) == set(export.FORMATS)


def test_every_flag_of_a_mode_is_in_the_table_and_goes_with_one() -> None:
    named = [option for mode in modes.MODES.values() for option in mode.options]
    assert set(named) == set(modes.OPTIONS)


@pytest.mark.parametrize("words", [[], ["--config=ResNet8"], ["--json"], ["--resume"], ["optimizer.lr=0.1"]])
def test_without_a_mode_there_is_nothing_to_do(words: list[str], run: Run) -> None:
    answer = run(*words)
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith("error: nothing to do. Give --train, --eval, --print-config")


def test_two_modes_are_refused(run: Run) -> None:
    answer = run("--train", "--eval", "--config=ResNet8")
    assert answer.status == 2
    assert answer.err.count("\n") == 1


def test_print_config_needs_a_configuration(run: Run) -> None:
    assert run("--print-config").err == "error: no configuration. Give --config NAME; see --list\n"


FIRST_AND_SOME = {
    "configs": ["ResNet50-auto_augment-cutmix-agmax", "RegNetX002-cutmix-agmax", "WideResNet40-2-standard"],
    "parts": ["ResNet8", "WideResNet28-10", "cutmix", "no_basic_augment", "agmax_mse"],
    "models": ["resnet50", "regnety_004", "efficientnet_b1", "agmax_wide_resnet", "agmax_resnet8"],
    "datasets": ["digits", "fashion_mnist", "cifar10", "imagenet-v2", "svhn-core"],
}


@pytest.mark.parametrize("what", modes.MODES["list"].words)
def test_each_list_is_printed_for_people_and_as_json(what: str, run: Run) -> None:
    as_text, as_json = run("--list", what), run("--list", what, "--json").json
    assert set(as_json) == {"mode", what}
    assert [line.split()[0] for line in as_text.out.splitlines()] == list(as_json[what])
    assert set(FIRST_AND_SOME[what]) <= set(as_json[what])


def test_list_alone_lists_the_configurations_and_refuses_another_word(run: Run) -> None:
    assert run("--list").out == run("--list", "configs").out
    answer = run("--list=recipes")
    assert answer.status == 2
    assert "invalid choice: 'recipes'" in answer.err


def test_each_part_of_the_list_is_described(run: Run) -> None:
    parts = run("--list=parts", "--json").json["parts"]
    assert all(
        text.split(": ")[0] in ("model", "augment", "method") and text.split(": ", 1)[1] for text in parts.values()
    )
    assert len(parts) == sum(len(names.files(group)) for group in ("model", "augment", "method"))


def test_json_stands_alone_on_stdout_and_notes_on_stderr(run: Run) -> None:
    answer = run("--print-config", "--json", "--config=agmax-ResNet8", "--save")
    assert json.loads(answer.out)["name"] == "ResNet8-standard-agmax"
    assert answer.out.count("\n") == 1
    assert [line.partition(": ")[0] for line in answer.err.splitlines()] == ["note", "note"]


def test_debug_shows_where_an_error_came_from(run: Run) -> None:
    quiet, loud = (run("--config=x", "--print-config", *more).err for more in ([], ["--debug"]))
    assert "Traceback" not in quiet
    assert loud.startswith("Traceback") and loud.endswith(quiet)


# The program as a process


def main_py(*words: str, code: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run main.py with `code` before it, as `python main.py WORDS` would."""
    program = "runpy.run_path('main.py', run_name='__main__')"
    start = f"import runpy, sys\nsys.argv = ['main.py', *sys.argv[1:]]\n{code}\n{program}"
    return subprocess.run(
        [sys.executable, "-c", start, *words],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def hidden(package: str) -> str:
    """Return code after which `import package` fails as if it were not installed."""
    return f"sys.modules[{package!r}] = None"


@pytest.mark.parametrize(
    "words",
    [["--config=ResNet50-cutmix-auto_augment-agmax", "--print-config", "--dataset=imagenet"], ["--list", "configs"]],
    ids=["print-config", "list"],
)
def test_printing_and_listing_import_no_torch_timm_or_numpy(words: list[str]) -> None:
    slow = "{'torch', 'torchvision', 'timm', 'numpy'}"
    report = f"import atexit\natexit.register(lambda: print(sorted({slow} & {{*sys.modules}}), file=sys.stderr))"
    done = main_py(*words, code=report)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "[]")


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("pydantic", ["--print-config", "--config=ResNet8"]),
        ("yaml", ["--list"]),
        ("torch", ["--train", "--config=ResNet8", "--dataset=digits"]),
        ("torch", ["--eval", "--resume=x.pth"]),
        ("timm", ["--list=models"]),
        ("timm", ["--print-config", "--config=resnet18"]),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(package: str, words: list[str]) -> None:
    done = main_py(*words, code=hidden(package))
    remedy = "Run python3 -m pip install -r requirements.txt"
    wanted = f"error: missing package ({package}): it is not installed. {remedy}\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", wanted)


@pytest.mark.parametrize("mode", ["--train", "--eval", "--summary", "--preview"])
def test_a_torch_that_loads_checkpoints_unsafely_is_refused(
    mode: str, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("torch.__version__", "2.9.1")
    answer = run(mode, "--config=ResNet8", "--dataset=digits")
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith("error: torch is too old (2.9.1): 2.10 or newer is needed. Run python3 -m pip install")
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_without_unicode_gets_escaped_text() -> None:
    done = main_py("--print-config", "--config=ünï-类\n", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (2, "")
    assert "\\xfcn\\xef-\\u7c7b\\n" in done.stderr and done.stderr.count("\n") == 1


def test_a_folder_without_unicode_in_the_terminal_is_printed_escaped() -> None:
    done = main_py("--print-config", "--config=ResNet8", "dataset.root=类", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr.count("\n")) == (0, 1)
    assert "root: \\u7c7b  # the command line" in done.stdout


def test_a_reader_that_leaves_early_is_no_fault() -> None:
    words = [sys.executable, str(REPOSITORY / "main.py"), "--list", "models"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as listing:
        assert listing.stdout is not None and listing.stderr is not None
        listing.stdout.close()
        assert listing.stderr.read() == ""
    assert listing.returncode == 141


def test_a_bug_of_ours_is_not_called_a_missing_package(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    def broken(request: parser.Request) -> None:
        raise ModuleNotFoundError("No module named 'agmax.gone'", name="agmax.gone")

    monkeypatch.setattr(listing, "run", broken)
    with pytest.raises(ModuleNotFoundError, match=r"agmax\.gone"):
        run("--list")
