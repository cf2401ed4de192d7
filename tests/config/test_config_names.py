"""Names of configurations: the published ones, their canonical order, other combinations, and invalid ones."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agmax.builders.trainers import learning_rate
from agmax.config import resolve
from agmax.config.resolve import Setting
from agmax.config.schema import Config
from agmax.core.errors import ConfigErrors
from helpers.command import Answer
from helpers.configurations import PUBLISHED, config_of, errors_of, fuzz, value_of

Run = Callable[..., Answer]
NETWORKS = {
    "ResNet50": "resnet50",
    "ResNet101": "resnet101",
    "WideResNet28-10": "agmax_wide_resnet",
    "WideResNet40-2": "agmax_wide_resnet",
    "RegNetX002": "regnetx_002",
    "RegNetY004": "regnety_004",
    "EfficientNetB0": "efficientnet_b0",
    "EfficientNetB1": "efficientnet_b1",
}


# Names: the published ones


def permutations(name: str, backbone: str) -> Iterator[str]:
    rest = name.removeprefix(backbone).strip("-").split("-")
    return ("-".join(words) for words in itertools.permutations([backbone, *rest]))


def initialization_rule(config: Config) -> tuple[bool, float | None]:
    """Return whether the complete network is re-initialized, and with which standard deviation."""
    rule = config.model.initialization
    return rule.scope == "all", rule.std if rule.scope == "all" else None


@pytest.mark.parametrize("backbone", NETWORKS)
def test_every_published_name_in_every_order_resolves_to_its_published_settings(backbone: str) -> None:
    """All 94 names over the eight backbones, every permutation of their parts, all 16 fields."""
    published = {name: fields for name, fields in PUBLISHED.items() if fields["backbone"] == backbone}
    for name, fields in published.items():
        for written in permutations(name, backbone):
            config = config_of(written)
            augment, optimizer = config.augment, config.optimizer
            found = {
                "backbone": config.model.backbone,
                "agmax": (config.objective.name, config.objective.num_views),
                "cutout": augment.erase == "cutout",
                "auto_augment": augment.policy == "auto_augment",
                "cutmix": augment.mix == "cutmix",
                "mixup": augment.mix == "mixup",
                "no_basic_augment": augment.crop == "none",
                "lr": optimizer.lr,
                "epochs": config.train.epochs,
                "weight_decay": optimizer.weight_decay,
                "batch_size": config.train.batch_size,
                "nesterov": optimizer.nesterov,
                "dropout": config.model.dropout,
                # init_backbone, init_extractor and weights_std act together, with agmax alone:
                "initialization": initialization_rule(config),
                "name": config.name,
            }
            is_initialized = fields["agmax"] and fields["init_backbone"] and fields["init_extractor"]
            wanted = fields | {
                "backbone": NETWORKS[backbone],
                "agmax": ("agmax", 2) if fields["agmax"] else ("classification", 1),
                "dropout": 0.0,  # 0.2 of the RegNets reaches no layer in the published program
                "initialization": (is_initialized, fields["weights_std"] if is_initialized else None),
                "name": name,
            }
            assert found == {key: wanted[key] for key in found}, written
            together = {"init_backbone", "init_extractor", "weights_std"}
            assert found.keys() - {"initialization", "name"} | together == fields.keys()


def test_the_published_names_are_94_over_these_eight_backbones() -> None:
    assert len(PUBLISHED) == 94
    assert {fields["backbone"] for fields in PUBLISHED.values()} == set(NETWORKS)
    assert all(len(fields) == 16 for fields in PUBLISHED.values())


def test_depth_and_width_of_a_wide_resnet_are_read_from_its_name() -> None:
    assert config_of("WideResNet40-2-cutmix").model.arguments == {"depth": 40, "width": 2}
    assert config_of("cutmix-WideResNet16-8").model.arguments == {"depth": 16, "width": 8}


@pytest.mark.parametrize(
    ("name", "published", "key", "here"),
    [
        ("RegNetX002-standard", {"dropout": 0.2}, "model.dropout", 0.0),
        ("RegNetY004-cutmix", {"dropout": 0.2}, "model.dropout", 0.0),
        ("ResNet50-standard", {"weights_std": 0.01, "init_extractor": True}, "model.initialization.scope", "none"),
        (
            "RegNetX002-auto_augment-mixup",
            {"weights_std": 0.01, "init_extractor": True},
            "model.initialization.scope",
            "none",
        ),
        (
            "WideResNet28-10-cutmix-agmax",
            {"weights_std": 0.2, "init_extractor": False},
            "model.initialization.scope",
            "none",
        ),
    ],
)
def test_values_that_never_acted_in_the_published_program_do_not_act_here(
    name: str, published: dict[str, Any], key: str, here: Any
) -> None:
    assert {field: PUBLISHED[name][field] for field in published} == published
    assert value_of(config_of(name), key) == here


@pytest.mark.parametrize(
    ("name", "library", "scope", "zero_last_norm"),
    [
        ("ResNet50-standard", "torch", "none", True),
        ("ResNet101-standard-agmax", "torch", "all", True),
        ("ResNet50-agmax_mse", "torch", "all", False),
        ("ResNet101-agmax_kl", "torch", "all", False),
        ("RegNetX002-standard", "timm", "none", False),
        ("RegNetY004-agmax", "timm", "all", False),
        ("EfficientNetB1-agmax", "timm", "all", False),
        ("EfficientNetB0-agmax_ce", "timm", "all", False),
        ("WideResNet40-2-agmax", "timm", "none", False),
        ("WideResNet40-2-agmax_mse", "timm", "none", False),
        ("ResNet8-agmax", "timm", "q_network", False),
        ("ResNet8-cutout", "timm", "none", False),
        ("CifarResNet18-agmax", "timm", "q_network", False),
    ],
)
def test_each_family_starts_from_the_weights_it_was_published_with(
    name: str, library: str, scope: str, zero_last_norm: bool
) -> None:
    rule = config_of(name).model.initialization
    assert (rule.library, rule.scope, rule.zero_last_norm, rule.std) == (library, scope, zero_last_norm, 0.2)


def test_pretrained_weights_are_never_reinitialized() -> None:
    config = config_of("ResNet50-cutmix-agmax", "model.pretrained=true")
    assert config.model.initialization.scope == "q_network"


@pytest.mark.parametrize(
    ("name", "schedule", "warmup"),
    [
        ("ResNet50", "multistep", 0),
        ("RegNetX002", "cosine", 5),
        ("EfficientNetB1", "cosine", 5),
        ("ResNet8", "cosine", 0),
    ],
)
def test_each_family_has_the_schedule_of_its_training_scripts(name: str, schedule: str, warmup: float) -> None:
    config = config_of(name)
    assert (config.schedule.name, config.schedule.warmup_epochs) == (schedule, warmup)


@pytest.mark.parametrize(
    "name", ["CifarResNet18", "CifarResNet50", "CifarResNet101", "CifarWideResNet28-10", "PyramidNet272"]
)
def test_the_networks_of_soft_augmentation_have_its_recipe(name: str) -> None:
    """Its program, 391 steps an epoch: 0.05 half-way, about 4.3e-4 where the last 20 epochs begin, 0 at the end."""
    config = config_of(name, dataset="cifar100")
    assert (config.train.epochs, config.train.batch_size, config.schedule.interval) == (500, 128, "step")
    sgd = config.optimizer
    assert (sgd.name, sgd.lr, sgd.momentum, sgd.nesterov, sgd.weight_decay) == ("sgd", 0.1, 0.9, True, 5e-4)
    assert not config.objective.label_smoothing and config.augment.weak_fraction == 0

    rate = learning_rate(config, 391)
    assert rate(250 * 391) == pytest.approx(0.05) and rate(480 * 391) == pytest.approx(4.3e-4, rel=0.1)
    assert 0 < rate(500 * 391 - 1) < 1e-9


# Names: what the published grid lacks


def test_a_combination_that_the_published_grid_lacks_is_composed() -> None:
    config = config_of("RegNetX002-cutmix-agmax")
    assert "RegNetX002-cutmix-agmax" not in PUBLISHED
    assert (config.model.backbone, config.augment.mix, config.objective.name) == ("regnetx_002", "cutmix", "agmax")


def test_no_basic_augment_disables_crop_and_flip() -> None:
    with_both, without = (
        config_of(f"ResNet50-{part}", dataset="imagenet") for part in ("standard", "no_basic_augment")
    )
    assert (with_both.augment.crop, with_both.augment.flip) == ("random_resized", True)
    assert (without.augment.crop, without.augment.flip) == ("none", False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ResNet50-cutmix-mixup", "'cutmix' and 'mixup' both set augment.mix; keep one (ResNet50-cutmix-mixup)"),
        (
            "ResNet8-label_smoothing-label_smoothing_others",
            "'label_smoothing' and 'label_smoothing_others' both set objective.smoothing_over; keep one "
            "(ResNet8-label_smoothing-label_smoothing_others)",
        ),
        ("mixup-ResNet50-cutmix", "'mixup' and 'cutmix' both set augment.mix; keep one (mixup-ResNet50-cutmix)"),
        (
            "ResNet8-auto_augment-rand_augment",
            "'auto_augment' and 'rand_augment' both set augment.policy; keep one (ResNet8-auto_augment-rand_augment)",
        ),
        (
            "ResNet8-soft_crop-no_basic_augment",
            "'soft_crop' and 'no_basic_augment' both set augment.crop; keep one (ResNet8-soft_crop-no_basic_augment)",
        ),
        ("ResNet8-agmax-agmax_kl", "'agmax' and 'agmax_kl' both set objective.name; keep one (ResNet8-agmax-agmax_kl)"),
        (
            "ResNet8-ResNet50",
            "a name needs one model part (ResNet8-ResNet50): it has 'ResNet8' and 'ResNet50'. See --list parts",
        ),
        ("cutmix-agmax", "a name needs one model part (cutmix-agmax): it has none. See --list parts"),
        ("ResNet8-cutmx", "unknown part 'cutmx' (ResNet8-cutmx). Did you mean 'cutmix'?"),
        ("ResNet8-AGMAX", "unknown part 'AGMAX' (ResNet8-AGMAX). Did you mean 'agmax'?"),
        ("ResNet8--cutmix", "unknown part '' (ResNet8--cutmix). Known: "),
    ],
)
def test_the_error_for_an_invalid_name_says_which_part_to_change(name: str, message: str) -> None:
    [line] = errors_of(name)
    assert line == message or (message.endswith("Known: ") and line.startswith(message))


def test_the_error_for_a_misspelt_model_suggests_the_nearest_one() -> None:
    assert errors_of("RestNet50-cutmix") == ["unknown part 'RestNet50' (RestNet50-cutmix). Did you mean 'ResNet50'?"]


def test_a_network_of_timm_is_a_model_part_with_the_recipe_of_resnet50() -> None:
    config, recipe = config_of("resnet18-cutmix"), config_of("ResNet50-cutmix")
    assert (config.name, config.model.backbone) == ("resnet18-cutmix", "resnet18")
    assert (config.optimizer, config.schedule, config.train) == (recipe.optimizer, recipe.schedule, recipe.train)
    assert config.model.initialization.library == "timm"


# Names: the canonical order


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("agmax-cutmix-cutout-soft_crop-auto_augment-ResNet8", "ResNet8-auto_augment-soft_crop-cutout-cutmix-agmax"),
        ("label_smoothing-agmax-ResNet8-cutout", "ResNet8-cutout-agmax-label_smoothing"),
        ("ResNet8", "ResNet8-standard"),
        ("ResNet8-agmax", "ResNet8-standard-agmax"),
        ("standard-ResNet8-cutmix", "ResNet8-cutmix"),
        ("ResNet8-cutmix-cutmix", "ResNet8-cutmix"),
        ("agmax-no_basic_augment-WideResNet40-2", "WideResNet40-2-no_basic_augment-agmax"),
    ],
)
def test_a_name_is_written_model_policy_crop_erase_mix_methods(written: str, canonical: str) -> None:
    assert config_of(written).name == canonical
    assert config_of(written) == config_of(canonical)


def test_another_order_is_noted_and_the_canonical_one_is_not(run: Run) -> None:
    answer = run("--config=ResNet101-cutmix-auto_augment-agmax", "--print-config")
    canonical = "ResNet101-auto_augment-cutmix-agmax"
    wanted = f"note: the canonical name of ResNet101-cutmix-auto_augment-agmax is {canonical}\n"
    assert (answer.status, answer.err) == (0, wanted)
    assert run(f"--config={canonical}", "--print-config").err == ""


def test_every_listed_composition_is_its_own_canonical_name(run: Run) -> None:
    listed = run("--list", "--json").json["configs"]
    assert set(PUBLISHED) <= set(listed)
    assert [name for name, file in listed.items() if not file and config_of(name).name != name] == []


# Names: odd ones


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/passwd",
        "configs/../../x",
        "..",
        ".",
        "a\0b",
        "x" * 5000,
        "x" * 201,
        "x/" * 200 + "y.yaml",
        "y" * 300 + ".yaml",
        "~nobody-here/x.yaml",
        "~",
        "",
        " ",
        "ResNet8 ",
        "ResNet8\n",
        "Rés",
        "file:///x.yaml",
        "https://host/x.yaml",
        "/dev/null",
        ".yaml",
        "/",
    ],
    ids=lambda name: repr(name)[:20],
)
def test_a_name_that_is_a_path_or_odd_is_refused_in_one_line(name: str, run: Run, tmp_path: Path) -> None:
    answer = run(f"--config={name}", "--print-config")
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.startswith("error: ") and answer.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["a\0b", "a/\0b.yaml", "x" * 5000, "x" * 201, "", " ", "Rés", "ResNet8\n"], ids=lambda name: repr(name)[:9]
)
def test_a_name_of_other_characters_is_no_configuration_name(name: str) -> None:
    [line] = errors_of(name)
    assert line.startswith("not a configuration name") and len(line) < 200


def test_a_link_out_of_configs_is_refused(fragments: Callable[[dict[str, str]], None], tmp_path: Path) -> None:
    (tmp_path / "outside.yaml").write_text("base: ResNet8\n")
    fragments({})
    (tmp_path / "configs" / "inside.yaml").symlink_to(tmp_path / "outside.yaml")
    assert errors_of("inside")[0].startswith("configuration is a link out of configs/")
    assert config_of(str(tmp_path / "configs" / "inside.yaml")).model == config_of("ResNet8").model


@pytest.mark.parametrize("name", ["..", ".hidden", "a/b", "../../x", "a b", "", "x" * 201, "a\n"])
def test_no_setting_moves_a_run_folder_out_of_runs_dir(name: str) -> None:
    with pytest.raises(ConfigErrors, match="wrong value name="):
        resolve.resolve("ResNet8", settings=[Setting("name", name, "test")])


@pytest.mark.parametrize("file", ["mine with blanks.yaml", "ünï 类.yaml", "a'b.yml", "....yaml"])
def test_a_run_is_named_after_its_file_in_plain_letters(file: str, write: Callable[[str, str], str]) -> None:
    name = config_of(write(file, "base: ResNet8\n")).name
    assert name.isascii() and "/" not in name and " " not in name and not name.startswith(".")


@fuzz
@given(name=st.text(max_size=40) | st.text("ResNt58-cutmixag/.~_{}\\ ", max_size=25))
def test_no_configuration_name_makes_the_program_fail_in_any_other_way(name: str, run: Run) -> None:
    answer = run(f"--config={name}", "--print-config")
    assert answer.status in (0, 2)
    assert all(line.startswith(("error: ", "note: ")) for line in answer.err.splitlines())


@pytest.mark.parametrize(
    "backbone", ["hf-hub:evil/x", "local-dir:/x", "hf_hub:x", "../x", "a/b", "x y", "", "5", "[x]"]
)
def test_a_network_from_elsewhere_is_refused_before_anything_is_built(backbone: str) -> None:
    assert errors_of("ResNet8", f"model.backbone={backbone}")[0].startswith("wrong value model.backbone=")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("checkpoint_path=weights.pth", "Weights are only read by model.pretrained and model.pretrained_file"),
        ("pretrained_cfg=a1_in1k", "Weights are only read by"),
        ("pretrained_cfg_overlay=x", "Weights are only read by"),
        ("pretrained_strict=false", "Weights are only read by"),
        ("cache_dir=/x", "Weights are only read by"),
        ("pretrained=true", "Write model.pretrained=true"),
        ("model_name=resnet18", "Write model.backbone"),
        ("num_classes=7", "Write dataset.num_classes"),
        ("in_chans=1", "Write model.channels"),
        ("drop_rate=0.5", "Write model.dropout"),
        ("stem_type=hf-hub:evil/x", "hf-hub:evil/x is an address"),
        ("stem_type=hf_hub:evil/x", "hf_hub:evil/x is an address"),
        ("stem_type=local-dir:/x", "local-dir:/x is an address"),
        ("stem_type=https://host/x.pth", "https://host/x.pth is an address"),
    ],
)
def test_arguments_of_a_network_name_no_weights_and_no_other_setting(argument: str, message: str) -> None:
    [line] = errors_of("ResNet8", f"model.arguments.{argument}")
    key = argument.partition("=")[0]
    assert line.startswith(f"settings do not fit: model.arguments.{key} ") and message in line
    [same] = errors_of("ResNet8", f"model.arguments={{{argument.replace('=', ': ')}}}")
    assert same == line  # where it was typed too


@pytest.mark.parametrize("word", ["hf-hub:evil/x", "hf_hub:evil/x", "local-dir:/x"])
def test_no_flag_takes_a_network_from_elsewhere(word: str, run: Run, tmp_path: Path) -> None:
    for words in ([f"--config={word}"], [f"--feature-extractor={word}"], ["--config=ResNet8", f"--resume={word}"]):
        answer = run("--train", "--dataset=digits", *words)
        assert answer.status == (4 if "--resume" in words[-1] else 2) and answer.err.count("\n") == 1, answer.err
    assert list(tmp_path.iterdir()) == []
