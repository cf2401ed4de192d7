"""Command lines of the Soft Augmentation program are answered with commands that train here what they mean."""

import shlex
from collections.abc import Callable
from typing import Any

import pytest

from agmax.cli.parser import parse
from agmax.cli.soft_flags import EQUIVALENTS, command
from agmax.config import resolve
from helpers.command import Answer

Run = Callable[..., Answer]

RECIPES = {
    "--task cifar100 --net resnet18 --da 0 --loss ce --ra 0": "CifarResNet18-standard",
    "--task cifar100 --net resnet18 --da 0 --loss ce --ra 1": "CifarResNet18-rand_augment",
    "--task cifar100 --da 2 --loss st --ra 0 --pcrop 2 --crop 12": "CifarResNet18-soft_crop",
    "--task cifar100 --da 2 --loss st --ra 1 --pcrop 2 --crop 12": "CifarResNet18-soft_crop-rand_augment",
    "--task=cifar100 --net=pyramidnet272 --da=2 --loss=st": "PyramidNet272-soft_crop",
    "--task cifar100 --net wideresnet28 --da -1": "CifarWideResNet28-10-no_basic_augment",
}


@pytest.mark.parametrize(("old", "name"), RECIPES.items())
def test_the_published_recipes_are_names(old: str, name: str) -> None:
    assert command(shlex.split(old)) == f"python3 main.py --config={name} --train --dataset=cifar100"


def config_of(text: str) -> Any:
    """Resolve the command as it would be typed."""
    python, program, *words = shlex.split(text)
    assert (python, program) == ("python3", "main.py")
    return resolve.layer_config(parse(words).config_request).resolve().config


def test_other_numbers_become_settings() -> None:
    old = "--task cifar10 --net resnet50 --da 2 --loss st --crop 8 --pcrop 3 --max_p 0.9 --bgcrop 0.5 --sch 1 --b 64"
    config = config_of(command(shlex.split(old + " --lr 0.05 --momentum 0.8 --wd 1e-4 --seed 7 --ft 10 --no-soften")))
    assert config.dataset.name == "cifar10" and config.model.backbone == "agmax_cifar_resnet50"
    assert (config.augment.soft.sigma, config.augment.soft.background) == (8 / 32, 0.5)
    softening = config.augment.softening
    assert (softening.power, softening.max_confidence, softening.applies_to) == (3, 0.9, "weight")
    assert (config.train.epochs, config.train.batch_size, config.train.seed) == (200, 64, 7)
    assert (config.optimizer.lr, config.optimizer.momentum, config.optimizer.weight_decay) == (0.05, 0.8, 1e-4)
    assert config.num_weak_epochs == 10


def test_losses_and_schedules_have_their_parts() -> None:
    focal = config_of(command(shlex.split("--task cifar10 --loss fl --g 3 --no-nag --decay l")))
    assert focal.objective.focal_gamma == 3 and not focal.optimizer.nesterov and focal.schedule.name == "linear"
    smooth = config_of(command(shlex.split("--task cifar10 --loss sce --max_p 0.8 --decay s --mixup 1 --a 0.4")))
    assert smooth.objective.label_smoothing == pytest.approx(0.2) and smooth.objective.smoothing_over == "others"
    assert (smooth.schedule.milestones, smooth.schedule.gamma) == ([250, 375, 450], 0.2)
    assert (smooth.augment.mix, smooth.augment.mixup.alpha) == ("mixup", 0.4)
    hard = config_of(command(shlex.split("--task cifar10 --da 2 --loss ce --crop 6")))
    assert (hard.augment.crop, hard.augment.soft.sigma) == ("wide", 6 / 32)
    holes = config_of(command(shlex.split("--task cifar10 --da 1 --l 8")))
    assert (holes.augment.erase, holes.augment.cutout.size) == ("cutout", 0.25)
    for length in ("", "--l 0", "--l -4"):  # its default is 0
        assert config_of(command(shlex.split(f"--task cifar10 --da 1 {length}"))).augment.erase == "none"


@pytest.mark.parametrize(
    "flag", ["--task=cifar10", "--net=resnet18", "--da=0", "--ra=1", "--loss=st", "--pcrop=2", "--crop=12"]
)
def test_each_of_its_flags_is_translated_to_a_command(run: Run, flag: str) -> None:
    for words in ([flag], flag.split("=")):
        answer = run(*words)
        assert answer.status == 2
        assert f"flags not supported ({flag.partition('=')[0]})" in answer.err
        assert "Type: python3 main.py --config=CifarResNet18" in answer.err


@pytest.mark.parametrize(("flag", "here"), EQUIVALENTS.items())
def test_beside_a_configuration_each_flag_is_translated_to_its_equivalent(run: Run, flag: str, here: str) -> None:
    for words in (["--config=ResNet8-soft_crop", "--train", flag, "2"], [f"{flag}=2", "--dataset=digits"]):
        answer = run(*words)
        assert answer.status == 2 and answer.err.count("\n") == 1
        assert answer.err.endswith(f"Here {flag} is {here}\n") and "Type:" not in answer.err


def test_omissions_and_differences_of_the_command_are_named(run: Run) -> None:
    answer = run("--task", "cifar100", "--da", "2", "--loss", "st", "--epochs=100", "dataset.root=/a b")
    assert answer.err.endswith("; left out: --epochs=100 'dataset.root=/a b'\n")
    assert "add augment.softening.reweight=batch_mean for the weights" in answer.err
    answer = run("--task", "cifar100", "--da", "2")
    assert answer.err.endswith("Type: python3 main.py --config=CifarResNet18-wide_crop --train --dataset=cifar100 "
                               "augment.weak_fraction=0.04\n")  # fmt: skip


def test_flags_of_agmax_are_not_read_as_its_flags(run: Run) -> None:
    answer = run("--config=ResNet8", "--eval", "--crop")
    assert "(--crop): is not part of this version" in answer.err and "Soft Augmentation" not in answer.err


def test_settings_equal_to_the_recipe_are_left_out() -> None:
    assert command(["--task", "cifar10", "--sch", "2.5", "--seed", "0", "--b", "128"]) == command(["--task", "cifar10"])
    assert command(["--task", "cifar10", "--sch", "0.5"]).endswith("--dataset=cifar10 --epochs=100")


@pytest.mark.parametrize(
    ("old", "expected"),
    [
        ("--da 2 --loss st", 20),
        ("--da 2 --loss st --sch 1", 20),
        ("--da 2 --loss ce --sch 1", 20),
        ("--da 2 --loss st --sch 1.5 --ft 10", 10),
        ("--da 1 --l 16", 20),
        ("--mixup 1 --sch 0.5", 20),
        ("--da 2 --loss st --ft 0", 0),
        ("--da 2 --loss st --sch 0.05 --ft 15", 9),  # there it begins after 5 % of the training
        ("--da 0", 0),
        ("--da 0 --ra 1 --sch 1", 0),
    ],
)
def test_the_number_of_weak_augmentation_epochs_is_equal(old: str, expected: int) -> None:
    assert config_of(command(shlex.split(f"--task cifar10 {old}"))).num_weak_epochs == expected


def test_numbers_keep_all_their_digits() -> None:
    config = config_of(command(shlex.split("--task cifar10 --seed 1234567 --lr 0.0123456789 --da 2 --loss st --r 10")))
    assert (config.train.seed, config.optimizer.lr) == (1234567, 0.0123456789)
    assert config.augment.weak_divisor == 10


@pytest.mark.parametrize(
    ("old", "why"),
    [
        ("--net vgg", "invalid choice: 'vgg'"),
        ("--da 3", "invalid choice: 3"),
        ("--da much", "invalid int value: 'much'"),
        ("--da 0 --loss ols", "invalid choice: 'ols'"),
        ("--da 0 --optimizer adam", "invalid choice: 'adam'"),
        ("--da 0 --other", "missing probability is broken"),
        ("--da 0 --sch 0", "epochs, which is 0"),
        ("--da 0 --sch inf", "epochs, which is 0"),
        ("--da 1 --l 40", "augment.cutout.size"),
        ("--da 2 --loss st --pcrop 0", "augment.softening.power"),
        ("--da 2 --r 0.5", "augment.weak_divisor"),
        ("--da 2 --loss st --max_p 0.05", "augment.softening.max_confidence"),
        ("--da 0 --decay s --sch 0.005", "schedule.milestones"),
        ("--da 0 --sch nan", "epochs, which is 0"),
    ],
)
def test_unsupported_trainings_are_named(run: Run, old: str, why: str) -> None:
    answer = run(*shlex.split(old))
    assert answer.status == 2
    assert why in answer.err and answer.err.count("\n") == 1 and "Type:" not in answer.err
