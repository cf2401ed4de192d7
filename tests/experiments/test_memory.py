"""Long trainings do not grow."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.images import write_tree
from helpers.places import REPOSITORY
from helpers.training import TINY

MEASURED = """
import os, sys
from pathlib import Path
from agmax.training.loop import Trainer
from main import main
def resident(process):
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) + sum(map(resident, children))
original = Trainer.finish_epoch
def measured(trainer, **given):
    original(trainer, **given)
    with open("pages", "a") as file:
        print(resident(os.getpid()), file=file)
Trainer.finish_epoch = measured
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["digits", "folder"])
def test_memory_stays_within_five_percent_over_twenty_epochs(tmp_path: Path, kind: str) -> None:
    """From the third epoch on: the allocator keeps what the first ones have used. Data workers count."""
    words: tuple[str, ...] = TINY
    if kind == "folder":
        photos = write_tree(tmp_path / "photos", ["ant", "bee"], {"train": 40, "test": 20}, size=(300, 200))
        words = ("--dataset=folder", f"dataset.root={photos}", "augment.crop=random_resized", "dataset.image_size=64")
        words += ("train.batch_size=16", "train.num_workers=2")
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, "--config=ResNet8-cutmix-agmax", *words, "--train", "train.epochs=20"],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    pages = [int(line) for line in (tmp_path / "pages").read_text().splitlines()]
    assert len(pages) == 20
    print(pages)
    assert max(pages[2:]) < 1.05 * pages[2]
