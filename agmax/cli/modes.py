"""The modes of the command line, one row each: parser, checks, dispatch and --help follow from it.

To add one: a row here, and a file of its name in agmax/cli/commands with `run(request) -> dict`, which --json prints.
"""

from typing import Any, NamedTuple


class Mode(NamedTuple):
    """One mode: `--NAME`, done by `run` of agmax/cli/commands/NAME.py."""

    name: str
    help: str
    words: tuple[str, ...] = ()  # the words it can take; the first is meant where none is given
    names: tuple[int | str | None, str | tuple[str, ...]] | None = None  # how many names it takes (nargs), called what
    options: tuple[str, ...] = ()  # those of OPTIONS that go with it
    needs_torch: bool = True
    trains: bool = False  # by itself, on all GPUs: several processes would each train the whole
    takes_config: bool = True  # False: what it works on names its own
    takes_settings: bool = True  # False: it looks at what is there

    @property
    def module(self) -> str:
        """Return the module that does it."""
        return f"agmax.cli.commands.{self.name.replace('-', '_')}"


MODES = {
    mode.name: mode
    for mode in (
        Mode("train", "train, evaluating after every epoch", options=("resume", "n-runs"), trains=True),
        Mode(
            "eval",
            "evaluate a checkpoint (--checkpoint); writes nothing",
            options=("checkpoint", "resume", "split", "predictions", "output", "force", "allow-nonfinite"),
        ),
        Mode("print-config", "show every setting and where it came from", needs_torch=False),
        Mode("summary", "show the model's layers, parameters, FLOPs and MACs"),
        Mode("list", "list what there is", words=("configs", "parts", "models", "datasets"), needs_torch=False),
        Mode(
            "preview",
            "draw what the model is trained on, as a PNG picture (--output)",
            words=("batch", "curves"),
            options=("output", "force"),
        ),
        Mode(
            "export",
            "write the weights of --checkpoint, or initial ones of --config, for other programs (--output)",
            words=("safetensors", "onnx", "extractor"),
            options=("checkpoint", "resume", "output", "force", "normalize"),
        ),
        Mode(
            "benchmark",
            "time the augmentation, or an evaluation from files, beside other programs', in one run on this machine",
            words=("augment", "evaluation"),
        ),
        Mode(
            "study",
            "run what is missing of a study: variants x seeds from one file, or a name of configs/study",
            names=(None, "FILE"),
            options=("dry-run", "fresh", "jobs", "run", "print-slurm"),
            trains=True,
            takes_config=False,
        ),
        Mode(
            "compare",
            "compare finished run folders: tables, intervals, figures, a page",
            names=("+", "RUN"),
            takes_config=False,
            takes_settings=False,
        ),
        Mode(
            "download",
            "fetch a released checkpoint into checkpoints/, or `all` of them",
            names=(None, "NAME"),
            takes_config=False,
        ),
        Mode(
            "predict",
            "classify image files, or all in folders, with the weights of --checkpoint: CSV, or --json",
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
        "help": "a checkpoint, a run folder or a name; without value the newest run of this configuration",
    },
    "checkpoint": {"metavar": "X", "help": "the same as --resume X, for --eval, --predict and --export"},
    "n-runs": {"type": int, "default": 1, "metavar": "N", "help": "train with N seeds and summarise"},
    "split": {"choices": ("train", "validation", "test"), "help": "what --eval measures (test)"},
    "predictions": {"metavar": "FILE", "help": "where --eval writes its predictions (.npz)"},
    "output": {"metavar": "FILE", "help": "where --preview or --eval draws, or --export writes"},
    "force": {"action": "store_true", "help": "replace the file that --output or --predictions names"},
    "normalize": {"action": "store_true", "help": "let the graph of --export onnx normalize its images"},
    "top-k": {"type": int, "metavar": "K", "help": "classes that --predict names for each image (5)"},
    "allow-nonfinite": {"action": "store_true", "help": "let --eval take weights that are nan or inf"},
    "dry-run": {"action": "store_true", "help": "show what --study would train, and for how long"},
    "fresh": {"action": "store_true", "help": "repeat the runs of --study that other code has made"},
    "jobs": {"type": int, "metavar": "N", "help": "runs of --study at a time (one, or one a GPU)"},
    "run": {"type": int, "metavar": "I", "help": "train run I of --study alone, counted from 1"},
    "print-slurm": {"action": "store_true", "help": "write the array job of --study for Slurm"},
}
"""The flags that go with some modes, as argparse takes them; numbers are 1 or more."""
