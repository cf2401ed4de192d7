"""The 74 flags of the AgMax program: each is followed or answered in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agmax.cli import parser
from agmax.core.errors import UsageError
from helpers.command import Answer
from helpers.command_line import printed

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


def test_the_agmax_program_had_74_flags() -> None:
    assert len(FLAGS) == len(set(FLAGS)) == 74


@pytest.mark.parametrize("flag", FLAGS)
def test_each_flag_of_the_agmax_program_is_supported_or_refused_in_one_line(flag: str, run: Run) -> None:
    mode = [] if flag in MODES else ["--train"] if flag == "--resume" else ["--print-config"]
    if flag in REFUSED:
        answer = run(*mode, *words_of(flag))
        assert (answer.status, answer.out) == (2, "")
        assert answer.err.startswith(f"error: flag not supported ({flag}): ") and answer.err.count("\n") == 1
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
    ("--weights-std=0.02", "ResNet50", {"model.initialization.std": 0.02}),
    ("--weight-decay=1e-3", "ResNet50", {"optimizer.weight_decay": 1e-3}),
    ("--batch-size=64", "ResNet50", {"train.batch_size": 64}),
    ("--epochs=270", "ResNet50", {"train.epochs": 270}),
    ("--epochs=1e2", "ResNet50", {"train.epochs": 100}),
    ("--lr=0.05", "ResNet50", {"optimizer.lr": 0.05}),
    ("--dropout=0.3", "WideResNet40-2", {"model.dropout": 0.3}),
    ("--momentum=0.8", "ResNet50", {"optimizer.momentum": 0.8}),
    ("--rand-augment-mag=5", "ResNet50-rand_augment", {"augment.rand_augment.magnitude": 5}),
    ("--cutmix-prob=0.25", "ResNet50-cutmix", {"augment.cutmix.p": 0.25}),
    ("--alpha=0.4", "ResNet50-mixup", {"augment.mixup.alpha": 0.4}),
    ("--beta=0.4", "ResNet50-cutmix", {"augment.cutmix.alpha": 0.4}),
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
def test_a_flag_without_effect_changes_nothing_and_prints_a_remark(flag: str, run: Run) -> None:
    answer = run("--config=ResNet8-cutmix", "--print-config", *words_of(flag))
    assert answer.out == run("--config=ResNet8-cutmix", "--print-config").out
    assert answer.err.startswith(f"note: {flag}: ") and answer.err.count("\n") == 1


def test_the_tables_of_this_file_list_every_flag_once() -> None:
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


@pytest.mark.parametrize("mode", ["--eval", "--export", "--predict=a.png"])
def test_checkpoint_is_another_name_of_resume_where_weights_are_used(mode: str) -> None:
    same = [parser.parse([mode, f"--{flag}=some.pth"]).config_request for flag in ("checkpoint", "resume")]
    assert same[0] == same[1] and same[0].resume == "some.pth"
    with pytest.raises(UsageError, match=r"--checkpoint and --resume are both given"):
        parser.parse([mode, "--checkpoint=a.pth", "--resume=b.pth"])


def test_a_training_is_resumed_not_given_a_checkpoint() -> None:
    with pytest.raises(
        UsageError, match=r"flag not supported \(--checkpoint\): it belongs to --eval, --export or --pred"
    ):
        parser.parse(["--config=ResNet8", "--train", "--checkpoint=a.pth"])
