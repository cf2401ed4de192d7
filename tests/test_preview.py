"""The picture of a batch: its pixels, targets, weights and texts are those that training gets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

from agmax import builders
from agmax.core.batch import Batch, Outputs
from agmax.core.errors import OutputError
from agmax.models.classifier import Classifier
from agmax.reports import preview, softening
from helpers.command import Answer
from helpers.images import write_tree

Run = Callable[..., Answer]
Array = np.ndarray[Any, Any]

NAMES = tuple("abcde")


def batch_of(
    num_images: int, num_views: int = 2, *, channels: int = 1, size: int = 8, num_classes: int = 5
) -> tuple[Batch, Tensor]:
    """Make a batch of random pixels in which image n has label n mod K and is mixed with the next class, 70 to 30."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(num_images) % num_classes
    rows = 0.7 * torch.eye(num_classes)[labels] + 0.3 * torch.eye(num_classes)[(labels + 1) % num_classes]
    images = torch.randn(num_images, num_views, channels, size, size, generator=rng)
    return Batch(images, rows[:, None].repeat(1, num_views, 1), torch.ones(num_images, num_views)), labels


def sheet(batch: Batch, labels: Tensor, names: tuple[str, ...] = NAMES) -> Figure:
    channels = batch.images.shape[2]
    mean, std = [0.5, 0.4, 0.6][:channels], [0.25, 0.3, 0.2][:channels]
    made: Figure = preview.sheet(batch, labels, names, mean=mean, std=std, title="a title")
    return made


def pictures(figure: Figure) -> list[Array]:
    return [np.asarray(image.get_array()) for image in figure.axes[0].images]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def frames(figure: Figure) -> list[Rectangle]:
    return [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle) and not patch.get_fill()]


def texts_under(figure: Figure, view: int) -> list[str]:
    """Return the lines that stand under a view, from the top, down to the end of the frame in which it is."""
    left, right, bottom, top = figure.axes[0].images[view].get_extent()
    (frame,) = [
        frame
        for frame in frames(figure)
        if frame.get_x() < left < right < frame.get_x() + frame.get_width()
        and frame.get_y() < top < bottom < frame.get_y() + frame.get_height()
    ]
    end = frame.get_y() + frame.get_height()
    placed = [(text.get_position(), text.get_text()) for text in figure.axes[0].texts]
    return [
        text for (x, y), text in sorted(placed, key=lambda item: item[0][1]) if left <= x < right and bottom < y < end
    ]


def bars_under(figure: Figure, view: int) -> list[tuple[float, str]]:
    """Return length, as a share of the view's width, and colour of each bar under a view, from the top."""
    left, right, bottom, _ = figure.axes[0].images[view].get_extent()
    colored = [bar for group in cast(list[BarContainer], figure.axes[0].containers)[1::2] for bar in group.patches]
    below = [bar for bar in colored if abs(bar.get_x() - left) < 1e-6 and 0 < bar.get_y() - bottom < 1]
    return [
        (bar.get_width() / (right - left), to_hex(bar.get_facecolor()))
        for bar in sorted(below, key=lambda bar: float(bar.get_y()))
    ]


# --- what is drawn -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("num_views", [1, 2, 3])
def test_the_pictures_are_the_views_with_their_normalisation_undone(num_views: int, channels: int) -> None:
    batch, labels = batch_of(3, num_views, channels=channels)
    drawn = pictures(sheet(batch, labels))
    assert len(drawn) == 3 * num_views
    for place, picture in enumerate(drawn):
        pixels = batch.images[place // num_views, place % num_views].numpy()
        mean, std = (0.5, 0.4, 0.6), (0.25, 0.3, 0.2)
        wanted = [np.clip(pixels[c] * std[c] + mean[c], 0, 1) for c in range(channels)]
        assert np.allclose(picture, wanted[0] if channels == 1 else np.stack(wanted, axis=-1), atol=1e-6)


def test_the_file_shows_each_pixel_at_its_place_in_its_gray(tmp_path: Path) -> None:
    figure = sheet(*batch_of(2))
    preview.save(figure, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        shown = np.asarray(image.convert("RGB")).astype(int)
    for view, pixels in enumerate(pictures(figure)):
        left, right, _, top = figure.axes[0].images[view].get_extent()
        cell = (right - left) / 8
        for row in range(8):
            for column in range(8):
                at = (
                    round((top + (row + 0.5) * cell) * preview.DPI),
                    round((left + (column + 0.5) * cell) * preview.DPI),
                )
                assert np.abs(shown[at] - 255 * pixels[row, column]).max() < 2  # gray has 256 steps


@pytest.mark.parametrize(("num_images", "shown"), [(40, 16), (16, 16), (5, 5), (2, 2)])
def test_the_first_16_images_are_shown_or_all_that_there_are(num_images: int, shown: int) -> None:
    batch, labels = batch_of(num_images)
    figure = sheet(batch, labels)
    assert len(frames(figure)) == shown
    assert len(pictures(figure)) == 2 * shown
    titles = [text for text in texts(figure) if text.startswith("image ")]
    assert titles == [f"image {n + 1}, label {NAMES[n % 5]}" for n in range(shown)]
    assert any(text.startswith(f"The first {shown} of the {num_images} images") for text in texts(figure))


@pytest.mark.parametrize(("num_views", "across"), [(1, 8), (2, 4), (3, 3)])
def test_the_views_of_an_image_stand_side_by_side_in_a_frame(num_views: int, across: int) -> None:
    figure = sheet(*batch_of(16, num_views))
    places = [image.get_extent() for image in figure.axes[0].images]
    for n, frame in enumerate(frames(figure)):
        own = places[n * num_views : (n + 1) * num_views]
        assert len({top for *_, top in own}) == 1
        inner = [edge for left, right, *_ in own for edge in (left, right)]
        edges = [frame.get_x(), *inner, frame.get_x() + frame.get_width()]
        assert edges == sorted(set(edges))
    assert len({round(frame.get_x(), 6) for frame in frames(figure)}) == across


def test_bars_and_their_texts_are_the_target() -> None:
    batch, labels = batch_of(4)
    batch.targets[1, 1] = torch.tensor([0.25, 0.5, 0.0, 0.25, 0.0])
    figure = sheet(batch, labels)
    assert texts_under(figure, 0) == ["weight 1.00", "a: 70.0 %", "b: 30.0 %"]
    assert texts_under(figure, 3) == ["weight 1.00", "b: 50.0 %", "a: 25.0 %", "d: 25.0 %"]
    for view in range(8):
        lengths = [length for length, _ in bars_under(figure, view)]
        wanted = sorted((share for share in batch.targets[view // 2, view % 2].tolist() if share), reverse=True)
        assert lengths == pytest.approx(wanted, abs=1e-6)


def test_the_label_has_a_color_of_its_own_even_where_it_is_not_the_likeliest() -> None:
    batch, labels = batch_of(2, 1)
    batch.targets[1, 0] = torch.tensor([0.9, 0.1, 0.0, 0.0, 0.0])  # label b
    figure = sheet(batch, labels)
    assert [color for _, color in bars_under(figure, 0)] == [preview.OWN, preview.ANOTHER]
    assert [color for _, color in bars_under(figure, 1)] == [preview.ANOTHER, preview.OWN]


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ([1, 0, 0, 0, 0], ["a 100.0"]),
        ([0.6, 0.4, 0, 0, 0], ["a 60.0", "b 40.0"]),
        ([0.996, 0.004, 0, 0, 0], ["a 99.6", "others 0.4"]),
        ([0.4, 0.06, 0.3, 0.2, 0.04], ["a 40.0", "c 30.0", "d 20.0", "others 10.0"]),
        ([0.84, 0.04, 0.04, 0.04, 0.04], ["a 84.0", "others 16.0"]),  # label smoothing 0.2
        ([0.6, 0.28, 0.04, 0.04, 0.04], ["a 60.0", "b 28.0", "others 12.0"]),  # the same, mixed 70 to 30
        ([0.2, 0.2, 0.2, 0.2, 0.2], ["a 20.0", "others 80.0"]),  # a soft crop that shows nothing
        ([0.95, 0.05], ["a 95.0", "b 5.0"]),
        ([0.5, 0.5], ["a 50.0", "b 50.0"]),
        ([0, 1], ["b 100.0"]),
    ],
)
def test_classes_above_one_percent_are_named_and_an_even_share_is_that_of_the_others(
    target: list[float], wanted: list[str]
) -> None:
    made = preview.bars(torch.tensor(target, dtype=torch.float32), 0, NAMES)
    assert [f"{bar.name} {100 * bar.probability:.1f}" for bar in made] == wanted
    assert sum(bar.probability for bar in made) == pytest.approx(1)
    assert [bar.color == preview.REST for bar in made] == [bar.name == "others" for bar in made]


def test_weight_and_visible_share_stand_under_their_view() -> None:
    batch, labels = batch_of(2, 3)
    weights = torch.tensor([[1.0, 0.5, 0.25], [0.125, 0.0, 0.875]])
    visible = torch.tensor([[1.0, 0.99, 0.4], [0.123, 0.0, 0.505]])
    figure = sheet(batch._replace(weights=weights, visible=visible), labels)
    wanted = [(1.0, 100), (0.5, 99), (0.25, 40), (0.12, 12), (0.0, 0), (0.88, 50)]
    for view, (weight, percent) in enumerate(wanted):
        assert texts_under(figure, view)[0] == f"weight {weight:.2f}, visible {percent} %"
    assert "Visible:" in texts(figure)[1]


def test_without_a_visible_share_nothing_is_said_of_it() -> None:
    assert not any("isible" in text for text in texts(sheet(*batch_of(2))))


@pytest.mark.parametrize("num_views", [1, 2, 3])
def test_no_text_touches_another_or_leaves_its_frame_however_long_the_names(num_views: int) -> None:
    names = tuple(letter * 150 for letter in "WimMg")
    batch, labels = batch_of(5, num_views)
    batch.targets[:, :, :] = torch.tensor([0.4, 0.3, 0.2, 0.07, 0.03])
    figure = sheet(batch._replace(visible=torch.ones(5, num_views)), labels, names)
    boxes = np.array([text.get_window_extent().extents for text in figure.axes[0].texts])
    assert boxes[:, :2].min() >= 0 and (boxes[:, 2:] <= figure.bbox.size).all()
    low, high = np.maximum(boxes[:, None, :2], boxes[None, :, :2]), np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    overlaps = (high > low).all(axis=2) & ~np.eye(len(boxes), dtype=bool)
    assert not overlaps.any()
    sides = [(frame.get_window_extent().x0, frame.get_window_extent().x1) for frame in frames(figure)]
    for box in boxes[5:]:  # after title, legend and its three colours
        assert any(left <= box[0] and box[2] <= right for left, right in sides)
    assert sum("…" in text for text in texts(figure)) == 5 * (1 + 3 * num_views)


def test_a_name_is_cut_at_its_end_and_only_where_it_is_too_wide() -> None:
    assert preview.fitted("Ankle boot", 1.0) == "Ankle boot"
    cut = preview.fitted("golden_retriever_playing_with_a_ball", 1.0)
    assert cut.endswith("…") and "golden_retriever_playing_with_a_ball".startswith(cut[:-1]) and len(cut) > 10


def test_names_that_cannot_be_drawn_are_replaced_by_their_number() -> None:
    names = ["Zürich", "日本語", "$5 and $7", "a\nb", "\udcff"]
    assert preview.drawable(names) == ["Zürich", "class 1", "$5 and $7", "a\\nb", "\\udcff"]


def test_a_name_is_no_formula(tmp_path: Path) -> None:
    batch, labels = batch_of(2)
    names = ("$\\foo$", "$5", "_^{", "\\", "%")
    preview.save(sheet(batch, labels, names), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width == 1800


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
def test_what_is_drawn_is_what_the_model_gets_at_the_first_step_of_training(
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
    assert np.allclose(np.stack(pictures(drawn[0])), wanted, atol=1e-6)
    for place, row in enumerate(batch.targets[:16].flatten(0, 1).tolist()):
        lines = texts_under(drawn[0], place)[1:]
        shares = {name: float(value[:-1]) / 100 for name, _, value in (line.partition(": ") for line in lines)}
        named = {name: share for name, share in shares.items() if name != "others"}
        assert all(abs(row[classes.index(name)] - share) < 0.001 for name, share in named.items())
        assert sum(shares.values()) == pytest.approx(1, abs=0.002)


def test_the_mode_writes_a_picture_and_says_what_it_shows(run: Run) -> None:
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


def test_the_picture_goes_where_it_is_asked_to_and_is_the_same_each_time(run: Run) -> None:
    Path("new/folder").mkdir(parents=True)
    for name in ("one.png", "two.PNG"):
        answer = run("--preview", "batch", *TINY, "train.batch_size=3", f"--output=new/folder/{name}", "--json")
        assert (answer.status, answer.json["file"], answer.json["num_images"]) == (0, f"new/folder/{name}", 3)
    assert Path("new/folder/one.png").read_bytes() == Path("new/folder/two.PNG").read_bytes()


def test_an_output_that_cannot_be_written_is_answered_before_the_work(
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


def test_a_picture_that_cannot_be_kept_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        preview.save(sheet(*batch_of(2)), tmp_path / "nowhere" / "a.png")
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OutputError, match="cannot write"):
        preview.save(sheet(*batch_of(2)), tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == [tmp_path / "a.png"]


@pytest.mark.parametrize("mode", ["--train", "--print-config", "--summary", "--list"])
def test_output_goes_with_what_draws(mode: str, run: Run) -> None:
    answer = run(mode, "--config=ResNet8", "--output=a.png")
    assert answer.status == 2
    assert answer.err == "error: flag not followed (--output): it goes with --eval, --preview or --export\n"


# --- how targets soften ----------------------------------------------------------------------------------------------


def test_the_curves_are_those_of_the_formula_and_the_bars_the_shares_that_are_drawn() -> None:
    """With 5 classes and at most 0.9, half an image keeps 0.9 - 0.7 / 2 ** k."""
    curve, drawn = softening.Curve(5, 1.5, 0.9, "area"), torch.tensor([0.02, 0.03, 0.52, 1.0])
    figure = softening.figure(curve, drawn, window_size=4, title="a title")
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
    left, right = softening.figure(curve._replace(visibility="iou"), drawn, window_size=4, title="a title").axes[:2]
    by_union = pytest.approx(0.9 - 0.7 * (1 - 0.5 / 1.5) ** 1.5)
    assert np.asarray(right.images[0].get_array())[6, 4] == by_union
    assert np.asarray(left.lines[1].get_ydata())[100] == by_union
    assert len(softening.figure(curve, drawn, window_size=None, title="a title").axes) == 1


def test_the_preview_of_curves_draws_what_the_configuration_softens(run: Run, tmp_path: Path) -> None:
    words = ("--config=ResNet8-soft_crop", "--dataset=digits", "--preview=curves")
    answer = run(*words, "--output=curves.png", "--json")
    assert answer.status == 0, answer.err
    assert abs(answer.json["mean_visible_share"] - 0.5221) < 0.02
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > 1000
    assert run(*words).status == 0 and (tmp_path / "softening-ResNet8-soft_crop-digits.png").is_file()
    nothing = run("--config=ResNet8-wide_crop-cutout", "--dataset=digits", "--preview=curves")
    assert nothing.status == 2 and "Name soft_crop, soft_cutout or soft_random_erasing" in nothing.err


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.png.pdf", ""])
def test_a_picture_is_a_png_file(name: str, run: Run) -> None:
    answer = run("--preview", *TINY, f"--output={name}")
    assert (answer.status, answer.err.count("\n")) == (2, 1)
    assert answer.err.endswith("the picture is a PNG file. Write a name that ends in .png\n")


def test_preview_needs_a_configuration_two_images_and_a_word_that_it_knows(run: Run) -> None:
    assert run("--preview").err == "error: no configuration. Give --config NAME; see --list\n"
    answer = run("--preview", *TINY, "dataset.train_limit=1")
    assert (answer.status, answer.err) == (3, "error: too few training images (1 in the data set): a step needs two\n")
    assert "invalid choice: 'weights'" in run("--preview=weights", *TINY).err
