"""--preview: the images are those that training receives, and the curves those of the formula."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from agmax import builders
from agmax.augment import Softening
from agmax.core.batch import Batch, Outputs
from agmax.core.errors import OutputError
from agmax.models.classifier import Classifier
from agmax.reports import preview, softening
from helpers.command import Answer
from helpers.images import write_tree
from helpers.preview import batch_of, draw, shown_images, texts_under

Run = Callable[..., Answer]


# --- the mode ------------------------------------------------------------------------------------------------------

TINY = ("--config=ResNet8-mixup-agmax", "--dataset=digits", "dataset.image_size=8", "augment.standard.padding=1")


class Stop(Exception):
    """Ends a training after its first step."""


def first_step(run: Run, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Batch]:
    """Return the images that the model is given at the first step of a training, and the batch of its losses."""
    given: list[Tensor] = []
    seen: list[Batch] = []
    forward = Classifier.forward

    def recorded(self: Classifier, images: Tensor) -> Outputs:
        given.append(images.clone())
        return forward(self, images)

    def stop(outputs: Outputs, batch: Batch) -> None:
        seen.append(batch)
        raise Stop

    with monkeypatch.context() as patched:
        patched.setattr(Classifier, "forward", recorded)
        patched.setattr(builders.trainers, "objective", lambda config: stop)
        with pytest.raises(Stop):
            run("--train", *words)
    return given[0], seen[0]


@pytest.mark.parametrize(
    "words",
    [
        ("--config=ResNet8-mixup-agmax-label_smoothing", "--dataset=digits", "train.seed=3", "dataset.validation=0.1"),
        ("--config=ResNet8-cutmix", "--dataset=folder", "dataset.image_size=32", "train.num_workers=0"),
    ],
    ids=["in memory", "from files"],
)
def test_the_preview_shows_what_the_model_receives_at_the_first_training_step(
    words: tuple[str, ...], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = ["first", "second", "third"] if "--dataset=folder" in words else list("0123456789")
    write_tree(tmp_path / "data/folder", classes[:3], {"train": 8, "test": 2})
    images, batch = first_step(run, (*words, "train.batch_size=20"), monkeypatch)
    drawn: list[Figure] = []
    monkeypatch.setattr(preview, "save", lambda figure, path, *, force: drawn.append(figure))
    answer = run("--preview", *words, "train.batch_size=20", "--json")
    assert answer.status == 0, answer.err
    num_views = images.shape[1]
    assert len(images) == 20 and answer.json["num_views"] == num_views
    mean, std = ([0.3057], [0.3235]) if num_views == 2 else ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    wanted = (images.movedim(2, -1) * torch.tensor(std) + torch.tensor(mean)).clamp(0, 1)[:16].flatten(0, 1).squeeze(-1)
    assert np.allclose(np.stack(shown_images(drawn[0])), wanted, atol=1e-6)
    for place, row in enumerate(batch.targets[:16].flatten(0, 1).tolist()):
        lines = texts_under(drawn[0], place)[1:]
        fractions = {name: float(value[:-1]) / 100 for name, _, value in (line.partition(": ") for line in lines)}
        named = {name: fraction for name, fraction in fractions.items() if name != "others"}
        assert all(abs(row[classes.index(name)] - fraction) < 0.001 for name, fraction in named.items())
        assert sum(fractions.values()) == pytest.approx(1, abs=0.002)


def test_the_mode_writes_a_figure_and_reports_its_content(run: Run) -> None:
    answer = run("--preview", *TINY, "--json")
    assert answer.status == 0, answer.err
    assert answer.json == {
        "mode": "preview",
        "config": "ResNet8-mixup-agmax",
        "dataset": "digits",
        "num_images": 16,
        "num_views": 2,
        "step": 0,
        "file": "preview-ResNet8-mixup-agmax-digits.png",
    }
    file = Path(answer.json["file"])
    with Image.open(file) as image:
        image.load()
        assert image.format == "PNG"
        assert image.width == 1800 and 1200 <= image.height <= 1500
    assert file.stat().st_size < 1_500_000
    assert list(Path().iterdir()) == [file]
    assert answer.err == f"{file} shows 16 of the 128 images of step 0\n"


def test_the_figure_is_written_to_output_and_is_the_same_each_time(run: Run) -> None:
    Path("new/folder").mkdir(parents=True)
    for name in ("one.png", "two.PNG"):
        answer = run("--preview", "batch", *TINY, "train.batch_size=3", f"--output=new/folder/{name}", "--json")
        assert (answer.status, answer.json["file"], answer.json["num_images"]) == (0, f"new/folder/{name}", 3)
    assert Path("new/folder/one.png").read_bytes() == Path("new/folder/two.PNG").read_bytes()


def test_an_output_that_cannot_be_written_is_an_error_before_the_work(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr(builders, "split", lambda *_: pytest.fail("the data were read"))
    for path in (
        "file/a.png",
        "folder.png",
        "file/new/a.png",
        "nowhere/a.png",
        f"{'a' * 300}.png",
        "~no-such-user/a.png",
    ):
        answer = run("--preview", *TINY, f"--output={path}")
        assert (answer.status, answer.out) == (6, "")
        assert answer.err.startswith(f"error: cannot write ({path}): ") and answer.err.count("\n") == 1


def test_a_figure_that_cannot_be_written_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        preview.save(draw(*batch_of(2)), tmp_path / "nowhere" / "a.png")
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        preview.save(draw(*batch_of(2)), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == [tmp_path / "a.png"]


@pytest.mark.parametrize("mode", ["--train", "--print-config", "--summary", "--list"])
def test_output_is_refused_by_modes_that_write_no_file(mode: str, run: Run) -> None:
    answer = run(mode, "--config=ResNet8", "--output=a.png")
    assert answer.status == 2
    assert answer.err == "error: flag not supported (--output): it belongs to --eval, --preview or --export\n"


# --- how targets soften ----------------------------------------------------------------------------------------------


def test_the_curves_follow_the_formula_and_the_bars_the_sampled_fractions() -> None:
    """With 5 classes and at most 0.9, half an image keeps 0.9 - 0.7 / 2 ** k."""
    draw_curve = partial(softening.draw, num_classes=5, title="a title")
    curve, drawn = Softening(power=1.5, max_confidence=0.9), torch.tensor([0.02, 0.03, 0.52, 1.0])
    figure = draw_curve(curve, drawn, crop_size=4)
    left, right = figure.axes[:2]
    powers = [1.0, 1.5, 2.0, 3.0, 4.0]
    assert [line.get_label() for line in left.lines] == [f"k = {power:g}" for power in powers]
    for line, power in zip(left.lines, powers, strict=True):
        assert np.asarray(line.get_xdata())[100] == 0.5
        assert np.asarray(line.get_ydata())[100] == pytest.approx(0.9 - 0.7 / 2**power)
    (bars,) = left.containers
    heights = [bar.get_height() for bar in cast(BarContainer, bars)]
    assert (heights[0], heights[10], heights[19], sum(heights)) == (0.5, 0.25, 0.25, 1.0)
    shown = np.asarray(right.images[0].get_array())
    assert shown.shape == (9, 9)
    assert shown[4, 4] == pytest.approx(0.9)  # nothing moved
    assert shown[0, 4] == pytest.approx(0.2)  # moved up by the whole side
    assert shown[6, 4] == pytest.approx(0.9 - 0.7 * 0.5**1.5)  # half of the side
    left, right = draw_curve(replace(curve, visibility="iou"), drawn, crop_size=4).axes[:2]
    by_union = pytest.approx(0.9 - 0.7 * (1 - 0.5 / 1.5) ** 1.5)
    assert np.asarray(right.images[0].get_array())[6, 4] == by_union
    assert np.asarray(left.lines[1].get_ydata())[100] == by_union
    assert len(draw_curve(curve, drawn, crop_size=None).axes) == 1


def test_the_preview_of_curves_draws_the_softening_of_the_configuration(run: Run, tmp_path: Path) -> None:
    words = ("--config=ResNet8-soft_crop", "--dataset=digits", "--preview=curves")
    answer = run(*words, "--output=curves.png", "--json")
    assert answer.status == 0, answer.err
    assert abs(answer.json["mean_visible_fraction"] - 0.5221) < 0.02
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > 1000
    assert run(*words).status == 0 and (tmp_path / "softening-ResNet8-soft_crop-digits.png").is_file()
    nothing = run("--config=ResNet8-wide_crop-cutout", "--dataset=digits", "--preview=curves")
    assert nothing.status == 2 and "Name soft_crop, soft_cutout or soft_random_erasing" in nothing.err


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.png.pdf", ""])
def test_a_figure_is_a_png_file(name: str, run: Run) -> None:
    answer = run("--preview", *TINY, f"--output={name}")
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert answer.err.endswith("the figure is a PNG file. Write a name that ends in .png\n")


def test_preview_needs_a_configuration_two_images_and_a_known_word(run: Run) -> None:
    assert run("--preview").err == "error: no configuration. Give --config NAME; see --list\n"
    answer = run("--preview", *TINY, "dataset.train_limit=1")
    why = "a step needs 2. Add images, or raise dataset.train_limit"
    assert (answer.status, answer.err) == (3, f"error: too few training images (1 in the data set): {why}\n")
    assert "invalid choice: 'weights'" in run("--preview=weights", *TINY).err
