"""Every setting with its type, default and range; units stand under each field."""

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
    """Folder that holds the files, or receives the download."""
    num_classes: Annotated[int, Field(ge=2)] | None = None
    """Number of classes; null counts the class folders."""
    channels: Channels = 3
    """Channels of the images as the model gets them from the data set."""
    image_size: Annotated[int, Field(ge=8)] = 32
    """Side of the square training images, in pixels."""
    test_image_size: Annotated[int, Field(ge=8)] | None = None
    """Side of the square test images, in pixels; null is image_size."""
    mean: Numbers = [0.5]
    """Mean of each channel on the scale from 0 to 1."""
    std: Annotated[list[Positive], Field(min_length=1)] = [0.5]
    """Standard deviation of each channel on the scale from 0 to 1."""
    statistics: Literal["own", "agmax"] = "own"
    """Normalize by mean and std, or by the constants of the AgMax program (agmax_mean, agmax_std)."""
    agmax_mean: Numbers | None = None
    """Mean used by the AgMax program."""
    agmax_std: Numbers | None = None
    """Standard deviation used by the AgMax program."""
    validation: FractionOrCount = 0.0
    """Training images held out for validation, of every class alike: a fraction below 1, or a number of images."""
    extra_test: FractionOrCount = 0.0
    """Training images held out and tested beside the test split: a fraction below 1, or a number of images."""
    train_limit: Count | None = None
    """Train on so many images, equally many of each class; null is all."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Fraction held out for testing where the files have no test split (data set `folder`)."""
    seed: Seed | None = None
    """Seed of the subset that train_limit draws; null is train.seed."""
    split_seed: Seed | None = None
    """Seed of what is held out for validation and extra_test; null is dataset.seed."""
    exif_rotation: bool = True
    """Turn photographs upright as their EXIF tag says."""
    on_bad_image: Literal["error", "skip"] = "error"
    """End a training at an image that cannot be read, or leave out up to 1 % of them; an evaluation always ends."""
    license: str = ""
    """Licence of the data, as its source states it."""
    source: str = ""
    """Where the data come from."""


class InitializationConfig(Section):
    library: Literal["timm", "torch"] = "timm"
    """Starting weights before `scope`: as timm makes the model, or torch's default of every layer."""
    scope: Literal["none", "q_network", "all"] = "none"
    """What is drawn anew from N(0, std), with biases 0 and batch-norm weights 1."""
    std: NonNegative = 0.2
    """Standard deviation of those weights."""
    zero_last_norm: bool = False
    """With scope all or library torch: the last batch-norm weight of every residual block starts at 0."""


class ModelConfig(Section):
    backbone: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.]+$")]
    """Name in timm's registry (`--list models`)."""
    arguments: ModelArguments = {}
    """Further arguments of that model, as timm names them."""
    channels: Channels | None = None
    """Input channels; null follows the data set (3 with pretrained weights); gray images are repeated."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Drop probability (timm's drop_rate)."""
    pretrained: bool = False
    """Start from timm's pretrained weights; a classifier of another number of classes is new."""
    pretrained_file: str | None = None
    """With pretrained: a file of such weights, of timm, of this program or of AgMax's; null is timm's download."""
    initialization: InitializationConfig = InitializationConfig()
    seed: Seed | None = None
    """Seed of the initial weights; null is train.seed."""


class ObjectiveConfig(ExtensibleSection):
    words: ClassVar[tuple[str, ...]] = ("name",)
    joined: ClassVar[dict[str, dict[str, RegisteredSetting]]] = {}

    name: Annotated[str, KeyOf(OBJECTIVES)] = "classification"
    """What is added to classification: nothing, or the agreement that a method part names."""
    num_views: Annotated[int, Field(ge=1, le=8)] = 1
    """Views of each image in a training batch."""
    hidden_units: Annotated[int, Field(ge=0)] = 0
    """Width of the Q network; 0 follows the number of classes (128, 512, 4096)."""
    classification_weight: NonNegative = 1.0
    """Weight of the cross-entropy with the target rows."""
    agreement_weight: NonNegative = 1.0
    """Weight of the term that compares the views; of agmax's entropy term. 0 leaves it out."""
    consistency_weight: NonNegative = 4.0
    """Weight of the Q network's distance to the views (agmax). 0 leaves it out."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Fraction of every target spread evenly over classes."""
    smoothing_over: Literal["all", "others"] = "all"
    """Which classes: all, the image's own too, or all others, as the Soft Augmentation program does."""
    focal_gamma: Annotated[float, Field(ge=0)] = 0.0
    """Power that makes well-classified views count less in classification; 0 leaves them as they are."""
    subtract_entropy: bool = False
    """Measure classification as KL divergence: cross-entropy less the targets' entropy."""


class OptimizerConfig(Section):
    name: str = "sgd"
    """One of timm's: sgd, adam, adamw, rmsprop, lamb, lion, ..."""
    lr: Positive = 0.1
    """Base learning rate, which the schedule scales."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of those that have one."""
    nesterov: bool = True
    """Use Nesterov momentum (sgd); for other optimizers the name decides."""
    backbone_lr_factor: NonNegative = 1.0
    """Factor of the learning rate of the backbone without its classifier."""
    weight_decay: NonNegative = 5e-4
    """L2 penalty of the weights, as the optimizer applies it."""
    decay_bias_and_norm: bool = True
    """Apply weight decay to biases and normalization layers too."""


class ScheduleConfig(ExtensibleSection):
    words: ClassVar[tuple[str, ...]] = ("name",)
    joined: ClassVar[dict[str, dict[str, RegisteredSetting]]] = {}

    name: Annotated[str, KeyOf(SCHEDULES)] = "cosine"
    """How the learning rate changes over the training."""
    interval: Literal["epoch", "step"] = "epoch"
    """Where the learning rate changes; warm-up changes it at every step."""
    warmup_epochs: NonNegative = 0.0
    """Epochs in which the learning rate rises to its base."""
    warmup_lr: NonNegative = 0.0
    """Learning rate from which the warm-up rises; its first step lies above."""
    milestones: list[Positive] | None = None
    """Epochs at which multistep divides; null follows the number of epochs (30, 60, 120 or more)."""
    gamma: Positive = 0.1
    """Factor of multistep."""
    decay_epochs: Positive = 2.4
    """Epochs between two decays of step."""
    decay_rate: Positive = 0.97
    """Factor of step."""
    patience: Annotated[int, Field(ge=0)] = 5
    """Epochs without improvement that plateau waits."""
    factor: Positive = 0.1
    """Factor of plateau."""


class TrainConfig(Section):
    epochs: Count = 200
    """Passes over the training images."""
    batch_size: Annotated[int, Field(ge=2)] = 128
    """Images of a step, over all devices."""
    seed: Seed = 0
    """Seed of the order of the images, of the augmentation and, unless they have their own, of subset and weights."""
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """Arithmetic of the model; auto is bf16 where the device does it fast."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the visible GPUs, else the CPU."""
    deterministic: bool = False
    """Choose algorithms that give the same bits at every run on a GPU."""
    runs_dir: str = "runs"
    """Folder in which every run gets a folder of its own."""
    save_every_steps: Count | None = None
    """Save in the middle of epochs too; the end of every epoch is always saved."""
    num_workers: Annotated[int, Field(ge=0)] | None = None
    """Processes that decode files, null as many as there are cores, at most 8; data sets in memory use none."""
    log_every_steps: Count = 50
    """Steps between two progress lines where the output is no terminal."""


class EvaluationConfig(Section):
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """Arithmetic of the model while it is evaluated; auto is bf16 where the device does it fast."""
    batch_size: Count = 256
    """Images that are evaluated at a time."""
    every_epochs: Count = 1
    """Epochs from one evaluation of a training to the next; the last epoch is always evaluated."""
    occlusion: bool = False
    """Measure the accuracy on occluded images, with --eval and on the test images after a training."""
    offsets: bool = False
    """Measure the accuracy on off-centre crops, with --eval and on the test images after a training."""
    robustness_limit: Count | None = None
    """Images that these two measure, equally many of each class; null is all of the split."""
    test: bool = True
    """Evaluate on the test images; false leaves them unread, so that settings can be chosen by the validation ones."""


class Config(Section):
    """All settings of a training, checked and frozen."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}$")] = "unnamed"
    """Name of the run folders."""
    dataset: DatasetConfig = DatasetConfig()
    model: ModelConfig
    augment: AugmentConfig = AugmentConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _settings_agree(self) -> "Config":
        problems = [text for is_wrong, text in self._rules() if is_wrong]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _rules(self) -> list[tuple[bool, str]]:
        """Return (broken, message) for every rule that spans several settings; messages start with a key."""
        data, objective, optimizer, schedule = self.dataset, self.objective, self.optimizer, self.schedule
        compared = OBJECTIVES[objective.name]
        crops, erasing, softening = self.augment.random_resized, self.augment.random_erasing, self.augment.softening
        spans = {
            "random_resized.scale": crops.scale,
            "random_resized.ratio": crops.ratio,
            "random_erasing.scale": erasing.scale,
            "random_erasing.ratio": erasing.ratio,
        }
        milestones = schedule.milestones or []
        return [
            (
                not compared.is_for(objective.num_views),
                f"objective.num_views: {objective.name} {compared.views}. "
                f"Write objective.num_views={compared.min_views}",
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
                (size >= 1 and not size.is_integer(), f"dataset.{key}: {size:g} is neither a share nor a number")
                for key, size in (("validation", data.validation), ("extra_test", data.extra_test))
            ),
            (
                data.channels != len(data.mean) or data.channels != len(data.std),
                f"dataset.mean: mean and std need {data.channels} numbers each, one a channel",
            ),
            (
                not self.evaluation.test and not data.validation and data.name != "folder",
                "evaluation.test: nothing is left to evaluate on. Write dataset.validation=0.1 too",
            ),
            (
                self.model.pretrained_file is not None and not self.model.pretrained,
                "model.pretrained_file: it is read with pretrained weights alone. Write model.pretrained=true",
            ),
            (
                self.model.channels == 1 and data.channels == 3,
                "model.channels: colour images do not fit a model with 1 channel. Write model.channels=3",
            ),
            (
                self.augment.pca_lighting.std > 0 and self.input_channels == 1,
                "augment.pca_lighting.std: the images are gray and have no color. Write augment.pca_lighting.std=0",
            ),
            *(
                (
                    low > high or high == 0,
                    f"augment.{name}: [{low:g}, {high:g}] is no range. Write the smaller first, the larger above 0",
                )
                for name, (low, high) in spans.items()
            ),
            (
                softening.reweight == "batch_mean" and softening.applies_to == "target",
                "augment.softening.reweight: no view is weighted where targets alone soften. "
                "Write augment.softening.applies_to=target_and_weight",
            ),
            (
                data.num_classes is not None and softening.max_confidence < 1 / data.num_classes,
                f"augment.softening.max_confidence: {softening.max_confidence:g} is below chance, so that no target "
                f"tells its class. Write more than 1 / {data.num_classes}",
            ),
            (milestones != sorted(milestones), "schedule.milestones: write them in rising order"),
            (
                0 < self.train.epochs <= schedule.warmup_epochs,
                f"schedule.warmup_epochs: {schedule.warmup_epochs:g} epochs of warm-up leave nothing of "
                f"{self.train.epochs}. Write fewer, or more train.epochs",
            ),
        ]

    @property
    def remarks(self) -> list[str]:
        """Return what is set and has no effect."""
        augment = self.augment
        softens = bool({augment.crop, augment.erase} & SOFTENS)
        found = []
        if not softens and augment.softening != SofteningConfig():
            found.append("augment.softening: nothing softens here; soft_crop, soft_cutout and soft_random_erasing do")
        if augment.weak_fraction and not self.num_weak_epochs:
            found.append(f"augment.weak_fraction: {augment.weak_fraction:g} of {self.train.epochs} epochs is not one")
        if (self.evaluation.occlusion or self.evaluation.offsets) and not self.evaluation.test:
            found.append("evaluation.occlusion and .offsets: a training measures them on the test images it leaves out")
        return found

    @property
    def normalization(self) -> tuple[list[float], list[float]]:
        """Return mean and std of each channel of the model's input."""
        data = self.dataset
        mean, std = data.mean, data.std
        if data.statistics == "agmax":
            assert data.agmax_mean is not None and data.agmax_std is not None
            mean, std = data.agmax_mean, data.agmax_std
        repeat = self.input_channels // len(mean)
        return mean * repeat, std * repeat

    @property
    def even_smoothing(self) -> float:
        """Return the share of every target spread over all classes that label smoothing comes to.

        Spreading s over the other classes is spreading s K / (K - 1) over all.
        """
        smoothing, num_classes = self.objective.label_smoothing, self.dataset.num_classes
        if self.objective.smoothing_over == "all" or not num_classes:
            return smoothing
        return smoothing * num_classes / (num_classes - 1)

    @property
    def num_weak_epochs(self) -> int:
        """Return the epochs at the end that train with hardly any of what hides or mixes images."""
        return int(self.augment.weak_fraction * self.train.epochs + 1e-9)  # 0.29 of 100 is 29

    @property
    def input_channels(self) -> int:
        """Return the channels of the model's input."""
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
"""Sections whose keys are the user's own."""


def sections_and_keys(model: type[BaseModel] = Config, prefix: str = "") -> tuple[set[str], set[str]]:
    """Return the dotted names of all sections and of all settings."""
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
    """Return the default of a setting, None where it has none."""
    model: Any = Config
    *path, last = key.split(".")
    for name in path:
        model = model.model_fields[name].annotation
    field = model.model_fields[last]
    return None if field.is_required() else field.get_default()


def choices(key: str) -> tuple[str, ...]:
    """Return the words a setting can take, empty where it is no choice."""
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
