"""List the flags that set settings or add parts: those of the AgMax program, and a few of our own."""

from typing import Any, NamedTuple


class Flag(NamedTuple):
    """One flag: the settings or the part of a name that it stands for, or a remark."""

    flag: str
    to: str = ""  # `key` or `key=value` of settings (several separated by spaces), or `part:NAME`
    type: Any = None  # None: the flag takes no value
    remark: str = ""  # printed when the flag is given; without `to`, the flag has no other effect
    refused: bool = False  # True: an error, since ignoring the flag would change the result


_NEVER = "has no effect in the AgMax program"
_LATER = "is not part of this version"
_SPEECH = "Speech Commands is not supported"
_RUNS = "every run has its own folder in train.runs_dir"

FLAGS = (
    # The 74 flags of the AgMax program. --config, --n-runs, --train, --eval, --summary, --resume and --dataset
    # are in agmax/cli/parser.py.
    Flag("--best-top1", type=float, remark="the best result is in the run folder; runs do not depend on each other"),
    Flag("--best-top5", type=float, remark="the best result is in the run folder; runs do not depend on each other"),
    Flag("--best-model", type=str, remark="the best weights are <run folder>/checkpoints/best.pth"),
    Flag("--adam", "optimizer.name=adam"),
    Flag("--rmsprop", "optimizer.name=rmsprop"),
    Flag("--steplr", "schedule.name=step schedule.warmup_epochs=5"),
    Flag("--cosinelr", "schedule.name=cosine schedule.warmup_epochs=5"),
    Flag("--multisteplr", "schedule.name=multistep schedule.warmup_epochs=0"),
    Flag("--plateau", "schedule.name=plateau schedule.warmup_epochs=0"),
    Flag("--decay-epochs", "schedule.decay_epochs", float),
    Flag("--decay-rate", "schedule.decay_rate", float),
    Flag("--warmup-lr", "schedule.warmup_lr", float),
    Flag("--warmup-epochs", "schedule.warmup_epochs", float),
    Flag("--ce-weight", "objective.classification_weight", float),
    Flag("--mi-weight", "objective.agreement_weight", float),
    Flag("--gamma", type=float, remark=_NEVER),
    Flag("--step-size", type=int, remark=_NEVER),
    Flag("--cycle-limit", type=int, remark="the cosine schedule has one cycle"),
    Flag("--train-imagenet-size", "dataset.image_size", int),
    Flag("--test-imagenet-size", "dataset.test_image_size", int),
    Flag("--dl", type=str, remark="the distance of the Q network is always L1"),
    Flag("--n-units", "objective.hidden_units", int),
    Flag("--dl-weight", "objective.consistency_weight", float),
    Flag("--pool-size", type=int, remark="features are always averaged over the full image", refused=True),
    Flag("--n-channels", type=int, remark=f"{_NEVER}; see model.channels"),
    Flag("--n-classes", "dataset.num_classes", int),
    Flag("--init-backbone", remark="write model.initialization.scope=all", refused=True),
    Flag("--init-extractor", remark="write model.initialization.scope=all", refused=True),
    Flag("--weights-std", "model.initialization.std", float),
    Flag("--weight-decay", "optimizer.weight_decay", float),
    Flag("--batch-size", "train.batch_size", int),
    Flag("--epochs", "train.epochs", int),
    Flag("--lr", "optimizer.lr", float),
    Flag("--dropout", "model.dropout", float),
    Flag("--nesterov", "optimizer.nesterov=true"),
    Flag("--momentum", "optimizer.momentum", float),
    Flag("--rand-augment", "part:rand_augment"),
    Flag("--rand-augment-mag", "augment.rand_augment.magnitude", int),
    Flag("--auto-augment", "part:auto_augment"),
    Flag("--cutout", "part:cutout"),
    Flag("--no-basic-augment", "part:no_basic_augment"),
    Flag("--cutmix", "part:cutmix"),
    Flag("--mixup", "part:mixup"),
    Flag("--cutmix-prob", "augment.cutmix.p", float),
    Flag("--alpha", "augment.mixup.alpha", float),
    Flag("--beta", "augment.cutmix.alpha", float),
    Flag("--feature-extractor", "part:", str),
    Flag("--fgsm", remark=_LATER, refused=True),
    Flag("--jitter", remark=_LATER, refused=True),
    Flag("--crop", remark=_LATER, refused=True),
    Flag("--corruption", type=str, remark=_LATER, refused=True),
    Flag("--save", remark="checkpoints are always kept: the newest two and the best"),
    Flag("--imagenet-dir", "dataset.root", str),
    Flag("--speech-commands-dir", type=str, remark=_SPEECH, refused=True),
    Flag("--bg-noise-dir", type=str, remark=_SPEECH, refused=True),
    Flag("--weights-dir", "train.runs_dir", str, remark=_RUNS),
    Flag("--logs-dir", type=str, remark=f"{_RUNS}, logs included"),
    Flag("--checkpoints-dir", type=str, remark=f"{_RUNS}; --resume takes any path"),
    Flag("--save-extractor", remark="write --export extractor --checkpoint RUN after the training", refused=True),
    Flag("--agmax", "part:agmax"),
    Flag("--agmax-mse", "part:agmax_mse"),
    Flag("--agmax-kl", "part:agmax_kl"),
    Flag("--agmax-ce", "part:agmax_ce"),
    Flag("--seed", "train.seed", int),
    Flag("--num-workers", "train.num_workers", int),
    Flag("--results-dir", type=str, remark=f"{_NEVER}; {_RUNS}"),
    Flag("--smoothing", "objective.label_smoothing", float),
    # Ours.
    Flag("--device", "train.device", str),
    Flag("--occlusion", "evaluation.occlusion=true"),
    Flag("--offsets", "evaluation.offsets=true"),
)
