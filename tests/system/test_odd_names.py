"""Names that no terminal can show, in every mode that prints or writes them, on a machine that knows only ASCII."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agmax.checkpoints.read import load
from agmax.core.errors import printable
from helpers.images import write_tree
from helpers.places import REPOSITORY

NAMES = ["a b'c", 'quo"te, <b>', "two\nlines", "ünï 类", os.fsdecode(b"caf\xe9")]  # the last is not UTF-8

PROGRAM = """
import json, os, sys
from main import main
commands = json.loads(sys.stdin.read())
for name, words in commands.items():
    print(f"\\n=== {name}", flush=True)
    print(f"\\n=== {name}", file=sys.stderr, flush=True)
    status = main([os.fsdecode(word.encode()) for word in words])  # as in sys.argv
    print(f"status {status}", file=sys.stderr, flush=True)
"""


def outputs(stream: bytes) -> dict[str, str]:
    """Return the text of each command, which is ASCII."""
    parts = stream.decode("ascii").split("\n=== ")[1:]
    return {name: text for name, _, text in (part.partition("\n") for part in parts)}


@pytest.mark.slow
def test_odd_names_go_through_every_mode_of_a_program_that_speaks_ascii(tmp_path: Path) -> None:
    """All commands run in one process, with the folders of images, runs and outputs and the classes oddly named."""
    base = tmp_path / "ünï 'x'" / "two\nlines"
    photos = write_tree(base / NAMES[1], NAMES, {"train": 3, "test": 2}, size=(8, 8))
    root, runs_dir = json.dumps(str(photos)), json.dumps(str(base))  # as YAML, which needs quotes for a line break
    data = ("--dataset=folder", f"dataset.root={root}", "dataset.image_size=8", "dataset.num_classes=5")
    config = ("--config=ResNet8-cutmix", *data, f"train.runs_dir={runs_dir}", "train.epochs=1", "train.num_workers=0")
    first, second = (f"{base}/ResNet8-cutmix/folder-s{seed}" for seed in (0, 1))
    commands = {
        "train": ("--train", *config, "--json"),
        "second": ("--train", *config, "--seed=1"),
        "resume": ("--train", *config, "--resume"),
        "eval": ("--eval", "--json", f"--resume={first}", f"--predictions={base}/ü.npz"),
        "predict": ("--predict", str(photos / "test"), f"--checkpoint={first}"),
        "predict json": ("--predict", str(photos / "test"), f"--checkpoint={first}", "--json"),
        "preview": ("--preview", *config, f"--output={base}/ü.png"),
        "compare": ("--compare", first, second, "--json"),
        "diff": ("--diff", first, second),
        "export": ("--export", f"--checkpoint={first}", f"--output={base}/ü.safetensors", "--json"),
        "summary": ("--summary", *config),
        "print": ("--print-config", *config),
        "missing": ("--eval", f"--resume={base}/no ü\n.pth"),
    }
    ascii_only = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(commands).encode(),
        cwd=tmp_path,
        env={**os.environ, **ascii_only, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        timeout=200,
    )
    out, err = outputs(done.stdout), outputs(done.stderr)
    statuses = {name: int(text.strip().splitlines()[-1].removeprefix("status ")) for name, text in err.items()}
    assert statuses == {name: 4 if name == "missing" else 0 for name in commands}, done.stderr.decode()

    trained, evaluated = json.loads(out["train"]), json.loads(out["eval"])
    assert list(trained["per_class"]) == sorted(NAMES) and evaluated["top1"] == trained["top1"]
    assert load(Path(trained["checkpoint"]))["class_names"] == sorted(NAMES)
    log = (Path(first) / "train.log").read_text(encoding="utf-8")
    assert "run folder " + printable(first) in log and "two\nlines" not in log
    assert np.load(base / "ü.npz")["test_labels"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    events = EventAccumulator(f"{first}/tensorboard")
    events.Reload()
    assert len(events.Scalars("train_loss")) == 1

    rows = list(csv.DictReader(io.StringIO(out["predict"].strip())))
    found = json.loads(out["predict json"])["predictions"]
    assert [Path(item["file"]).parent.name for item in found] == [name for name in sorted(NAMES) for _ in range(2)]
    assert all(Path(item["file"]).is_file() for item in found)
    escaped = {name: name.encode("ascii", "backslashreplace").decode() for name in NAMES}
    assert [row["class_1"] for row in rows] == [escaped[item["classes"][0]["class"]] for item in found]
    assert Path(base / "ü.png").read_bytes().startswith(b"\x89PNG")
    files = [tmp_path / name for name in json.loads(out["compare"])["files"]]
    assert "report.html" in [path.name for path in files] and all(path.stat().st_size for path in files)
    assert json.loads(out["export"])["file"] == f"{base}/ü.safetensors" and (base / "ü.safetensors").is_file()
    assert yaml.safe_load(out["print"])["dataset"]["root"] == str(photos)
    last = err["missing"].strip().splitlines()[0]
    assert last.startswith("error: checkpoint not found (") and r"no \xfc\n.pth" in last
