"""All settings with types, defaults and ranges; the text under each field says what it is and its unit."""

import re
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import BaseModel, Field, model_validator

from agmax.config.augmentation import SOFTENS, AugmentConfig, SofteningConfig
from agmax.config.section import (
    Channels,
    Count,
    ExtensibleSection,
    FractionOrCount,
    KeyOf,
    ModelArguments,
    NonNegative,
    Numbers,
    Positive,
    RegisteredSetting,
    Section,
    Seed,
)
from agmax.losses.objectives import OBJECTIVES
from agmax.optim.lr_schedules import SCHEDULES


class DatasetConfig(Section):
    name: str = "cifar10"
    """One of `--list datasets`."""
    root: str = "data"
    """Folder of the files, to which a missing data set is downloaded."""
    num_classes: Annotated[int, Field(ge=2)] | None = None
    """Number of classes; null counts the class folders."""
    channels: Channels = 3
    """Number of channels of the data set's images."""
    image_size: Annotated[int, Field(ge=8)] = 32
    """Side of the square training images, in pixels."""
    test_image_size: Annotated[int, Field(ge=8)] | None = None
    """Side of the square test images, in pixels; null is image_size."""
    mean: Numbers = [0.5]
    """Mean of each channel, for pixels from 0 to 1."""
    std: Annotated[list[Positive], Field(min_length=1)] = [0.5]
    """Standard deviation of each channel, for pixels from 0 to 1."""
    statistics: Literal["own", "agmax"] = "own"
    """Normalize by mean and std, or by the constants of the AgMax program (agmax_mean, agmax_std)."""
    agmax_mean: Numbers | None = None
    """Mean used by the AgMax program."""
    agmax_std: Numbers | None = None
    """Standard deviation used by the AgMax program."""
    validation: FractionOrCount = 0.0
    """Training images held out for validation, stratified by class: a fraction below 1, or a number of images."""
    extra_test: FractionOrCount = 0.0
    """Training images held out and added to the test split: a fraction below 1, or a number of images."""
    train_limit: Count | None = None
    """Number of images to train on, equally many of each class; null is all."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Fraction held out for testing if the files have no test split (data set `folder`)."""
    seed: Seed | None = None
    """Seed of the subset that train_limit samples; null is train.seed."""
    split_seed: Seed | None = None
    """Seed of the images held out for validation and extra_test; null is dataset.seed."""
    exif_rotation: bool = True
    """Rotate photographs upright by their EXIF tag."""
    on_bad_image: Literal["error", "skip"] = "error"
    """Stop a training at an unreadable image, or skip up to 1 % of the images; an evaluation always stops."""
    license: str = ""
    """License of the data, as stated by its source."""
    source: str = ""
    """Address of the data."""


class InitializationConfig(Section):
    library: Literal["timm", "torch"] = "timm"
    """Initial weights before `scope` applies: timm's for the model, or torch's default for every layer."""
    scope: Literal["none", "q_network", "all"] = "none"
    """Layers that are re-initialized from N(0, std), with biases 0 and batch-norm weights 1."""
    std: NonNegative = 0.2
    """Standard deviation of the re-initialized weights."""
    zero_last_norm: bool = False
    """With scope all or library torch: the last batch-norm weight of every residual block starts at 0."""


OTHER_ARGUMENTS = {
    "num_classes": "Write dataset.num_classes",
    "in_chans": "Write model.channels",
    "drop_rate": "Write model.dropout",
    "model_name": "Write model.backbone",
    "pretrained": "Write model.pretrained=true",
    **dict.fromkeys(
        ("checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict", "cache_dir"),
        "Weights are only read by model.pretrained and model.pretrained_file",
    ),
}
"""Arguments of timm's create_model that are other settings here, or would read weights from any place."""


class ModelConfig(Section):
    backbone: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]+$")]
    """Name in timm's registry (`--list models`)."""
    arguments: ModelArguments = {}
    """More arguments of the backbone, with timm's names."""
    channels: Channels | None = None
    """Input channels; null is the data set's number (3 with pretrained weights); gray images are repeated."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout probability (timm's drop_rate)."""
    pretrained: bool = False
    """Start from timm's pretrained weights; the classifier is re-initialized if the number of classes differs."""
    pretrained_file: str | None = None
    """With pretrained: a file of weights of timm, of this program or of AgMax's; null is timm's download."""
    initialization: InitializationConfig = InitializationConfig()
    seed: Seed | None = None
    """Seed of the initial weights; null is train.seed."""


class ObjectiveConfig(ExtensibleSection):
    words: ClassVar[tuple[str, ...]] = ("name",)
    registered: ClassVar[dict[str, dict[str, RegisteredSetting]]] = {}

    name: Annotated[str, KeyOf(OBJECTIVES)] = "classification"
    """The loss: classification alone, or with the agreement terms of a method."""
    num_views: Annotated[int, Field(ge=1, le=8)] = 1
    """Number of views of each image in a training batch."""
    hidden_units: Annotated[int, Field(ge=0)] = 0
    """Width of the Q network; 0 is 128 below 100 classes, 512 from 100 on, 4096 from 1000 on."""
    classification_weight: NonNegative = 1.0
    """Weight of the cross-entropy with the target rows."""
    agreement_weight: NonNegative = 1.0
    """Weight of the term that compares the views; with agmax, of the negative marginal entropy. 0 disables it."""
    consistency_weight: NonNegative = 4.0
    """Weight of the difference between the Q network's probabilities and the views' (agmax). 0 disables it."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Fraction of every target that is spread evenly over classes."""
    smoothing_over: Literal["all", "others"] = "all"
    """Classes that label smoothing spreads over: all, or all but the image's own (the Soft Augmentation program)."""
    focal_gamma: Annotated[float, Field(ge=0)] = 0.0
    """Gamma of the focal loss, which reduces the weight of well-classified views; 0 disables it."""
    subtract_entropy: bool = False
    """Use the KL divergence for classification: the cross-entropy minus the entropy of the targets."""


class OptimizerConfig(Section):
    name: str = "sgd"
    """One of timm's optimizers: sgd, adam, adamw, rmsprop, lamb, lion, ..."""
    lr: Positive = 0.1
    """Base learning rate, which the schedule scales."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum, for optimizers that have one."""
    nesterov: bool = True
    """Use Nesterov momentum (sgd); other optimizers are chosen with or without it by their name."""
    backbone_lr_factor: NonNegative = 1.0
    """Factor of the learning rate of the backbone without its classifier."""
    weight_decay: NonNegative = 5e-4
    """Weight decay; the optimizer decides whether it is an L2 penalty or decoupled."""
    decay_bias_and_norm: bool = True
    """Apply weight decay to biases and normalization layers too."""


class ScheduleConfig(ExtensibleSection):
    words: ClassVar[tuple[str, ...]] = ("name",)
    registered: ClassVar[dict[str, dict[str, RegisteredSetting]]] = {}

    name: Annotated[str, KeyOf(SCHEDULES)] = "cosine"
    """How the learning rate changes during the training."""
    interval: Literal["epoch", "step"] = "epoch"
    """Change the learning rate at every epoch or every step; warm-up changes it at every step."""
    warmup_epochs: NonNegative = 0.0
    """Number of epochs in which the learning rate rises to its base."""
    warmup_lr: NonNegative = 0.0
    """Learning rate from which the warm-up rises; the first step is already above it."""
    milestones: list[Positive] | None = None
    """Epochs at which multistep multiplies by gamma; null: e.g. 10, 20 of 30, 15, 30, 40 of 60, 30, 60, 80 of 90."""
    gamma: Positive = 0.1
    """Factor of multistep at each milestone."""
    decay_epochs: Positive = 2.4
    """Number of epochs between two decays of the schedule step."""
    decay_rate: Positive = 0.97
    """Factor of the schedule step at each decay."""
    patience: Annotated[int, Field(ge=0)] = 5
    """Number of epochs without improvement before plateau reduces the learning rate."""
    factor: Positive = 0.1
    """Factor of plateau at each reduction."""


class TrainConfig(Section):
    epochs: Count = 200
    """Number of passes over the training images."""
    batch_size: Annotated[int, Field(ge=2)] = 128
    """Number of images in a step, over all devices."""
    seed: Seed = 0
    """Seed of the image order and the augmentation; also of subset and weights, unless they have their own."""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """Precision of the model in training; auto is bf16 on devices where it is fast, else fp32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device of the training; auto is all visible GPUs, or the CPU if there are none."""
    deterministic: bool = False
    """Use deterministic algorithms, so that every run on a GPU gives the same bits."""
    runs_dir: str = "runs"
    """Folder in which every run creates its own folder."""
    save_every_steps: Count | None = None
    """Number of steps between checkpoints within an epoch; the end of every epoch is always saved."""
    save_every_minutes: Positive | None = 15.0
    """Minutes between checkpoints within an epoch; null saves at the end of every epoch only."""
    keep_every_epochs: Count | None = None
    """Keep the checkpoint of every so many epochs for good; null keeps the newest two and the best."""
    fallback_dir: str | None = None
    """Folder for a checkpoint that the run folder cannot take, for instance because its disk is full."""
    time_limit: Positive | None = None
    """Minutes after the program's start at which the training saves and stops, before a queue would; null: no limit."""
    num_workers: Annotated[int, Field(ge=0)] | None = None
    """Number of processes that decode files; null is the number of cores, at most 8; data sets in memory use none."""
    log_every_steps: Count = 50
    """Number of steps between progress lines if the output is not a terminal."""


class EvaluationConfig(Section):
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """Precision of the model in evaluations; auto is bf16 on devices where it is fast, else fp32."""
    batch_size: Count = 256
    """Number of images in a batch of an evaluation."""
    every_epochs: Count = 1
    """Number of epochs between evaluations in a training; the last epoch is always evaluated."""
    occlusion: bool = False
    """Measure the accuracy on occluded images, with --eval and on the test images after a training."""
    offsets: bool = False
    """Measure the accuracy on off-center crops, with --eval and on the test images after a training."""
    robustness_limit: Count | None = None
    """Number of images for occlusion and offsets, equally many of each class; null is the complete split."""
    test: bool = True
    """Evaluate on the test images; false never reads them, so that settings are chosen on the validation images."""


class Config(Section):
    """All settings of a training, validated and immutable."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}$")] = "unnamed"
    """Name of the configuration, and of the folder of its runs."""
    dataset: DatasetConfig = DatasetConfig()
    model: ModelConfig
    augment: AugmentConfig = AugmentConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _check_rules(self) -> "Config":
        problems = [message for is_broken, message in self._rules() if is_broken]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _rules(self) -> list[tuple[bool, str]]:
        """Return (is broken, message) for every rule about several settings; each message starts with a key."""
        data, objective, optimizer, schedule = self.dataset, self.objective, self.optimizer, self.schedule
        method = OBJECTIVES[objective.name]
        crops, erasing, softening = self.augment.random_resized, self.augment.random_erasing, self.augment.softening
        ranges = {
            "random_resized.scale": crops.scale,
            "random_resized.ratio": crops.ratio,
            "random_erasing.scale": erasing.scale,
            "random_erasing.ratio": erasing.ratio,
        }
        milestones = schedule.milestones or []
        return [
            (
                not method.is_for(objective.num_views),
                f"objective.num_views: {objective.name} {method.views}. Write objective.num_views={method.min_views}",
            ),
            (
                optimizer.name == "sgd" and optimizer.nesterov and optimizer.momentum == 0,
                "optimizer.nesterov: needs momentum. Write optimizer.nesterov=false or a momentum above 0",
            ),
            (
                data.statistics == "agmax" and (data.agmax_mean is None or data.agmax_std is None),
                f"dataset.statistics: the AgMax program has no constants for {data.name}. Write dataset.statistics=own",
            ),
            *(
                (
                    size >= 1 and not size.is_integer(),
                    f"dataset.{key}: {size:g} is neither a fraction below 1 nor a whole number of images",
                )
                for key, size in (("validation", data.validation), ("extra_test", data.extra_test))
            ),
            (
                data.channels != len(data.mean) or data.channels != len(data.std),
                f"dataset.mean: mean and std need {data.channels} numbers each, one for each channel",
            ),
            (
                not self.evaluation.test and not data.validation and data.name != "folder",
                "evaluation.test: there are no images to evaluate on. Write dataset.validation=0.1 too",
            ),
            (
                self.model.pretrained_file is not None and not self.model.pretrained,
                "model.pretrained_file: it needs model.pretrained. Write model.pretrained=true",
            ),
            *(
                (key in self.model.arguments, f"model.arguments.{key}: it is not an argument of the network. {remedy}")
                for key, remedy in OTHER_ARGUMENTS.items()
            ),
            *(
                (
                    isinstance(value, str) and re.match(r"[\w+.-]+:\S", value) is not None,
                    f"model.arguments.{key}: {value} is an address; weights are only read from model.pretrained_file",
                )
                for key, value in self.model.arguments.items()
            ),
            (
                self.model.channels == 1 and data.channels == 3,
                "model.channels: a model with 1 channel cannot take color images. Write model.channels=3",
            ),
            (
                self.augment.pca_lighting.std > 0 and self.input_channels == 1,
                "augment.pca_lighting.std: the images are gray. Write augment.pca_lighting.std=0",
            ),
            *(
                (
                    low > high or high == 0,
                    f"augment.{name}: [{low:g}, {high:g}] is not a range. Write the smaller first, the larger above 0",
                )
                for name, (low, high) in ranges.items()
            ),
            (
                softening.reweight == "batch_mean" and softening.applies_to == "target",
                "augment.softening.reweight: views have no weights if only the targets soften. "
                "Write augment.softening.applies_to=target_and_weight",
            ),
            (
                data.num_classes is not None and softening.max_confidence < 1 / data.num_classes,
                f"augment.softening.max_confidence: {softening.max_confidence:g} is below chance, so targets would "
                f"not favor their class. Write more than 1 / {data.num_classes}",
            ),
            (milestones != sorted(milestones), "schedule.milestones: write them in ascending order"),
            (
                0 < self.train.epochs <= schedule.warmup_epochs,
                f"schedule.warmup_epochs: {schedule.warmup_epochs:g} epochs of warm-up leave no other epoch of "
                f"{self.train.epochs}. Write fewer, or more train.epochs",
            ),
        ]

    @property
    def remarks(self) -> list[str]:
        """Return a message for each setting that has no effect."""
        augment = self.augment
        softens = bool({augment.crop, augment.erase} & SOFTENS)
        messages = []
        if not softens and augment.softening != SofteningConfig():
            messages.append("augment.softening: no effect without soft_crop, soft_cutout or soft_random_erasing")
        if augment.weak_fraction and not self.num_weak_epochs:
            product = f"{augment.weak_fraction:g} of {self.train.epochs} epochs"
            messages.append(f"augment.weak_fraction: no effect, because {product} is less than one")
        if (self.evaluation.occlusion or self.evaluation.offsets) and not self.evaluation.test:
            messages.append("evaluation.occlusion, evaluation.offsets: no effect in a training without test images")
        return messages

    @property
    def normalization(self) -> tuple[list[float], list[float]]:
        """Return mean and std of each channel of the model's input, for pixels from 0 to 1."""
        data = self.dataset
        mean, std = data.mean, data.std
        if data.statistics == "agmax":
            assert data.agmax_mean is not None and data.agmax_std is not None
            mean, std = data.agmax_mean, data.agmax_std
        repeat = self.input_channels // len(mean)
        return mean * repeat, std * repeat

    @property
    def even_smoothing(self) -> float:
        """Return the label smoothing as a fraction that is spread over all K classes.

        Spreading s over the other classes equals spreading s K / (K - 1) over all.
        """
        smoothing, num_classes = self.objective.label_smoothing, self.dataset.num_classes
        if self.objective.smoothing_over == "all" or not num_classes:
            return smoothing
        return smoothing * num_classes / (num_classes - 1)

    @property
    def num_weak_epochs(self) -> int:
        """Return the number of weak-augmentation epochs at the end of the training."""
        return int(self.augment.weak_fraction * self.train.epochs + 1e-9)  # 0.29 of 100 is 29, despite rounding

    @property
    def input_channels(self) -> int:
        """Return the number of channels of the model's input."""
        return self.model.channels or (3 if self.model.pretrained else self.dataset.channels)

    @property
    def dataset_seed(self) -> int:
        return self.train.seed if self.dataset.seed is None else self.dataset.seed

    @property
    def split_seed(self) -> int:
        return self.dataset_seed if self.dataset.split_seed is None else self.dataset.split_seed

    @property
    def model_seed(self) -> int:
        return self.train.seed if self.model.seed is None else self.model.seed

    @property
    def test_image_size(self) -> int:
        return self.dataset.test_image_size or self.dataset.image_size


OPEN_KEYS = ("model.arguments.",)
"""Sections in which the user may choose any keys."""


def sections_and_keys(model: type[BaseModel] = Config, prefix: str = "") -> tuple[set[str], set[str]]:
    """Return the dotted names of all sections, and of all settings."""
    sections: set[str] = set()
    keys: set[str] = set()
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            sections.add(prefix + name)
            inner = sections_and_keys(field.annotation, f"{prefix}{name}.")
            sections |= inner[0]
            keys |= inner[1]
        else:
            keys.add(prefix + name)
    return sections, keys


def default(key: str) -> Any:
    """Return the default of a setting, None if it has none."""
    model: Any = Config
    *path, last = key.split(".")
    for name in path:
        model = model.model_fields[name].annotation
    field = model.model_fields[last]
    return None if field.is_required() else field.get_default()


def choices(key: str) -> tuple[str, ...]:
    """Return the words that a setting accepts, empty if it is not a choice."""
    model: Any = Config
    *path, last = key.split(".")
    for name in path:
        model = model.model_fields[name].annotation if name in model.model_fields else Section
    field = model.model_fields.get(last)
    for mark in field.metadata if field else ():
        if isinstance(mark, KeyOf):
            return tuple(mark.table)
    annotation = field.annotation if field else None
    return tuple(str(value) for value in get_args(annotation)) if get_origin(annotation) is Literal else ()
