"""List the modes of the command line; parser, checks, dispatch and --help use this table.

To add a mode: one row here, and a file of its name in agmax/cli/commands with `run(request) -> dict`. --json prints
the dict.
"""

from typing import Any, NamedTuple


class Mode(NamedTuple):
    """One mode: `--NAME`, implemented by `run` in agmax/cli/commands/NAME.py."""

    name: str
    help: str
    words: tuple[str, ...] = ()  # possible values of the flag; the first is the default
    names: tuple[int | str | None, str | tuple[str, ...]] | None = None  # arguments of the flag: nargs and metavar
    options: tuple[str, ...] = ()  # of OPTIONS, those that the mode accepts
    needs_torch: bool = True
    trains: bool = False  # on all GPUs in one process; must not be started by torchrun
    takes_config: bool = True  # False: the configuration is that of its runs, study or checkpoint
    takes_settings: bool = True  # False: it only reads existing runs

    @property
    def module(self) -> str:
        """Return the name of the module that implements the mode."""
        return f"agmax.cli.commands.{self.name.replace('-', '_')}"


MODES = {
    mode.name: mode
    for mode in (
        Mode("train", "train, evaluating after every epoch", options=("resume", "n-runs"), trains=True),
        Mode(
            "eval",
            "evaluate a checkpoint (--checkpoint); writes no run folder",
            options=("checkpoint", "resume", "split", "predictions", "output", "force", "allow-nonfinite"),
        ),
        Mode("print-config", "show every setting and where it came from", needs_torch=False),
        Mode("summary", "show the model's layers, parameters, FLOPs and MACs"),
        Mode(
            "list",
            "list configurations, parts, models or data sets",
            words=("configs", "parts", "models", "datasets"),
            needs_torch=False,
        ),
        Mode(
            "preview",
            "draw a training batch, or the softening curves, as a PNG file (--output)",
            words=("batch", "curves"),
            options=("output", "force"),
        ),
        Mode(
            "export",
            "write the weights of --checkpoint, or initial weights of --config, for other programs (--output)",
            words=("safetensors", "onnx", "extractor"),
            options=("checkpoint", "resume", "output", "force", "normalize"),
        ),
        Mode(
            "benchmark",
            "time the augmentation or an evaluation from files beside other programs, or the saving of a checkpoint",
            words=("augment", "evaluation", "saving"),
        ),
        Mode(
            "study",
            "train the missing runs of a study (variants x seeds): a file, or a name in configs/study",
            names=(None, "FILE"),
            options=("dry-run", "fresh", "jobs", "run", "print-slurm"),
            trains=True,
            takes_config=False,
        ),
        Mode(
            "compare",
            "compare finished run folders: tables, intervals, figures, an HTML page",
            names=("+", "RUN"),
            takes_config=False,
            takes_settings=False,
        ),
        Mode(
            "download",
            "download a released checkpoint, or `all`, to checkpoints/",
            names=(None, "NAME"),
            takes_config=False,
        ),
        Mode(
            "predict",
            "classify image files, or folders of them, with the weights of --checkpoint; prints CSV, or --json",
            names=("+", "PATH"),
            options=("checkpoint", "resume", "top-k"),
            takes_config=False,
        ),
        Mode(
            "diff",
            "list the settings and metrics in which two runs differ",
            names=(2, ("A", "B")),
            takes_config=False,
            takes_settings=False,
        ),
    )
}

OPTIONS: dict[str, dict[str, Any]] = {
    "resume": {
        "nargs": "?",
        "const": "",
        "metavar": "X",
        "help": "a checkpoint, a run folder or a name; without value: the newest run of this configuration; auto: "
        "that run or, if there is none, a new one",
    },
    "checkpoint": {"metavar": "X", "help": "the same as --resume X, for --eval, --predict and --export"},
    "n-runs": {
        "type": int,
        "default": 1,
        "metavar": "N",
        "help": "train with N seeds, and report mean and standard deviation",
    },
    "split": {"choices": ("train", "validation", "test"), "help": "the split that --eval measures (test)"},
    "predictions": {"metavar": "FILE", "help": "the file to which --eval writes its predictions (.npz)"},
    "output": {"metavar": "FILE", "help": "the file that --preview, --eval or --export writes"},
    "force": {"action": "store_true", "help": "replace an existing file of --output or --predictions"},
    "normalize": {"action": "store_true", "help": "include normalization in the graph of --export onnx"},
    "top-k": {"type": int, "metavar": "K", "help": "number of classes that --predict lists for each image (5)"},
    "allow-nonfinite": {"action": "store_true", "help": "evaluate weights that contain nan or inf"},
    "dry-run": {"action": "store_true", "help": "show what --study would train, and an estimate of the time"},
    "fresh": {"action": "store_true", "help": "repeat the runs of --study that another version of the code trained"},
    "jobs": {"type": int, "metavar": "N", "help": "number of runs of --study at a time (one, or one for each GPU)"},
    "run": {"type": int, "metavar": "I", "help": "train only run I of --study, counted from 1"},
    "print-slurm": {"action": "store_true", "help": "print an array job of --study for Slurm"},
}
"""The flags that only some modes accept, as arguments of argparse; numbers are 1 or more."""
