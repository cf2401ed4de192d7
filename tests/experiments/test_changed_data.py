"""A run is continued on the images that it began with, and on no others."""

import shutil
from pathlib import Path

import pytest
import torch

from agmax.builders import trainers
from agmax.checkpoints.read import load
from agmax.checkpoints.write import save_checkpoint
from agmax.data import datasets
from agmax.data.splits import InMemoryDataset
from helpers.images import write_images, write_tree
from helpers.training import TINY, Killed, Run, kill_at

FOLDER = "runs/ResNet8-standard/folder-s0"


@pytest.fixture
def words(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kill a training on twelve images in folders in its second epoch, and return its words."""
    root = write_tree(tmp_path / "images", ["cat", "dog"], {"train": 6, "test": 2}, size=(16, 16))
    sizes = ["dataset.image_size=16", "train.batch_size=4", "train.epochs=2", "train.num_workers=0"]
    found = ["--config=ResNet8-standard", "--dataset=folder", f"dataset.root={root}", *sizes]
    with monkeypatch.context() as patch:
        kill_at(patch, 4)
        with pytest.raises(Killed):
            run(*found, "--train")
    return found


def test_other_images_of_the_same_number_do_not_continue_a_run(run: Run, words: list[str], tmp_path: Path) -> None:
    cats = tmp_path / "images" / "train" / "cat"
    original = (cats / "0.png").read_bytes()
    write_images(tmp_path / "other", 1, size=(17, 16))
    shutil.copy(tmp_path / "other" / "0.png", cats / "0.png")
    answer = run(*words, "--train", "--resume")
    assert answer.status == 3 and answer.err.count("\n") == 1
    assert "the data set has changed (" in answer.err and "other sizes of the training images than at" in answer.err
    assert "or start a new run from the weights: --resume with the path of a checkpoint" in answer.err
    (cats / "0.png").rename(cats / "00.png")
    assert "other names and sizes of the training images" in run("--train", "--resume", FOLDER).err
    (cats / "00.png").unlink()
    (cats / "0.png").write_bytes(original)
    assert run(*words, "--train", "--resume").status == 0


def test_other_images_start_a_new_run_from_the_weights(run: Run, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "images" / "train" / "cat" / "0.png").rename(tmp_path / "images" / "train" / "cat" / "00.png")
    checkpoint = f"{FOLDER}/checkpoints/step-00000003.pth"
    answer = run("--train", "--resume", checkpoint, "train.epochs=3", "--json")
    assert answer.status == 0 and answer.json["run_folder"] == f"{FOLDER}-2"
    assert load(Path(answer.json["checkpoint"]))["fingerprint"] != load(Path(checkpoint))["fingerprint"]


def test_a_moved_folder_continues_its_run(run: Run, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "images").rename(tmp_path / "moved")
    (tmp_path / "images").symlink_to("moved")
    assert run(*words, "--train", "--resume").status == 0


def test_a_run_of_version_1_is_continued_by_the_number_of_its_images(
    run: Run, words: list[str], tmp_path: Path
) -> None:
    path = Path(FOLDER, "checkpoints", "step-00000003.pth")
    state = torch.load(path, weights_only=True)
    del state["fingerprint"]
    save_checkpoint(path, state | {"version": 1})
    write_images(tmp_path / "images" / "train" / "cat", 7, size=(16, 16))
    answer = run(*words, "--train", "--resume")
    assert answer.status == 3 and "13 training images, 12 at the start of the run" in answer.err
    (tmp_path / "images" / "train" / "cat" / "6.png").unlink()
    assert run(*words, "--train", "--resume").status == 0
    assert load(Path(FOLDER, "checkpoints", "step-00000006.pth"))["fingerprint"] is not None


def test_other_pixels_of_a_data_set_in_memory_do_not_continue_its_run(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, 5)
        with pytest.raises(Killed):
            run("--config=ResNet8-standard", "--train", *TINY)
    original = datasets.DATASETS["digits"]

    def inverted(root: Path, train: bool) -> InMemoryDataset:
        data = original(root, train)
        assert isinstance(data, InMemoryDataset)
        return data._replace(images=255 - data.images)

    with monkeypatch.context() as patch:
        patch.setitem(datasets.DATASETS, "digits", inverted)
        answer = run("--config=ResNet8-standard", "--train", *TINY, "--resume")
        assert answer.status == 3 and "other pixels of the training images" in answer.err
    counted = []
    fingerprint = trainers.fingerprint
    monkeypatch.setattr(trainers, "fingerprint", lambda data: counted.append(len(data.labels)) or fingerprint(data))
    assert run("--config=ResNet8-standard", "--train", *TINY, "--resume").status == 0
    assert counted == [100]  # once a start, of the images that are used
