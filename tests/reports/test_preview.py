"""The preview of a batch: its pixels, targets, weights and texts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from agmax.reports import preview
from helpers.preview import NAMES, bars_under, batch_of, draw, frames, shown_images, texts, texts_under


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("num_views", [1, 2, 3])
def test_the_images_are_the_denormalized_views(num_views: int, channels: int) -> None:
    batch, labels = batch_of(3, num_views, channels=channels)
    drawn = shown_images(draw(batch, labels))
    assert len(drawn) == 3 * num_views
    for place, image in enumerate(drawn):
        pixels = batch.images[place // num_views, place % num_views].numpy()
        mean, std = (0.5, 0.4, 0.6), (0.25, 0.3, 0.2)
        wanted = [np.clip(pixels[c] * std[c] + mean[c], 0, 1) for c in range(channels)]
        assert np.allclose(image, wanted[0] if channels == 1 else np.stack(wanted, axis=-1), atol=1e-6)


def test_the_file_shows_each_pixel_at_its_place_in_its_gray(tmp_path: Path) -> None:
    figure = draw(*batch_of(2))
    preview.save(figure, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        shown = np.asarray(image.convert("RGB")).astype(int)
    for view, pixels in enumerate(shown_images(figure)):
        left, right, _, top = figure.axes[0].images[view].get_extent()
        planned = (right - left) / 8
        for row in range(8):
            for column in range(8):
                at = (
                    round((top + (row + 0.5) * planned) * preview.DPI),
                    round((left + (column + 0.5) * planned) * preview.DPI),
                )
                assert np.abs(shown[at] - 255 * pixels[row, column]).max() < 2  # gray has 256 steps


@pytest.mark.parametrize(("num_images", "shown"), [(40, 16), (16, 16), (5, 5), (2, 2)])
def test_the_first_16_images_are_shown_or_all_of_a_smaller_batch(num_images: int, shown: int) -> None:
    batch, labels = batch_of(num_images)
    figure = draw(batch, labels)
    assert len(frames(figure)) == shown
    assert len(shown_images(figure)) == 2 * shown
    titles = [text for text in texts(figure) if text.startswith("image ")]
    assert titles == [f"image {n + 1}, label {NAMES[n % 5]}" for n in range(shown)]
    assert any(text.startswith(f"The first {shown} of the {num_images} images") for text in texts(figure))


@pytest.mark.parametrize(("num_views", "across"), [(1, 8), (2, 4), (3, 3)])
def test_the_views_of_an_image_are_side_by_side_in_a_frame(num_views: int, across: int) -> None:
    figure = draw(*batch_of(16, num_views))
    places = [image.get_extent() for image in figure.axes[0].images]
    for n, frame in enumerate(frames(figure)):
        own = places[n * num_views : (n + 1) * num_views]
        assert len({top for *_, top in own}) == 1
        inner = [edge for left, right, *_ in own for edge in (left, right)]
        edges = [frame.get_x(), *inner, frame.get_x() + frame.get_width()]
        assert edges == sorted(set(edges))
    assert len({round(frame.get_x(), 6) for frame in frames(figure)}) == across


def test_bars_and_their_texts_show_the_target() -> None:
    batch, labels = batch_of(4)
    batch.targets[1, 1] = torch.tensor([0.25, 0.5, 0.0, 0.25, 0.0])
    figure = draw(batch, labels)
    assert texts_under(figure, 0) == ["weight 1.00", "a: 70.0 %", "b: 30.0 %"]
    assert texts_under(figure, 3) == ["weight 1.00", "b: 50.0 %", "a: 25.0 %", "d: 25.0 %"]
    for view in range(8):
        lengths = [length for length, _ in bars_under(figure, view)]
        wanted = sorted(
            (fraction for fraction in batch.targets[view // 2, view % 2].tolist() if fraction), reverse=True
        )
        assert lengths == pytest.approx(wanted, abs=1e-6)


def test_the_label_has_its_own_color_even_if_another_class_is_more_likely() -> None:
    batch, labels = batch_of(2, 1)
    batch.targets[1, 0] = torch.tensor([0.9, 0.1, 0.0, 0.0, 0.0])  # label b
    figure = draw(batch, labels)
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
def test_classes_above_one_percent_are_named_and_evenly_spread_probability_is_in_others(
    target: list[float], wanted: list[str]
) -> None:
    made = preview.bars(torch.tensor(target, dtype=torch.float32), 0, NAMES)
    assert [f"{bar.name} {100 * bar.probability:.1f}" for bar in made] == wanted
    assert sum(bar.probability for bar in made) == pytest.approx(1)
    assert [bar.color == preview.REST for bar in made] == [bar.name == "others" for bar in made]


def test_weight_and_visible_fraction_are_below_their_view() -> None:
    batch, labels = batch_of(2, 3)
    weights = torch.tensor([[1.0, 0.5, 0.25], [0.125, 0.0, 0.875]])
    visible = torch.tensor([[1.0, 0.99, 0.4], [0.123, 0.0, 0.505]])
    figure = draw(batch._replace(weights=weights, visible=visible), labels)
    wanted = [(1.0, 100), (0.5, 99), (0.25, 40), (0.12, 12), (0.0, 0), (0.88, 50)]
    for view, (weight, percent) in enumerate(wanted):
        assert texts_under(figure, view)[0] == f"weight {weight:.2f}, visible {percent} %"
    assert "Visible:" in texts(figure)[1]


def test_an_unknown_visible_fraction_is_not_mentioned() -> None:
    assert not any("isible" in text for text in texts(draw(*batch_of(2))))


@pytest.mark.parametrize("num_views", [1, 2, 3])
def test_no_text_touches_another_or_leaves_its_frame_however_long_the_names(num_views: int) -> None:
    names = tuple(letter * 150 for letter in "WimMg")
    batch, labels = batch_of(5, num_views)
    batch.targets[:, :, :] = torch.tensor([0.4, 0.3, 0.2, 0.07, 0.03])
    figure = draw(batch._replace(visible=torch.ones(5, num_views)), labels, names)
    boxes = np.array([text.get_window_extent().extents for text in figure.axes[0].texts])
    assert boxes[:, :2].min() >= 0 and (boxes[:, 2:] <= figure.bbox.size).all()
    low, high = np.maximum(boxes[:, None, :2], boxes[None, :, :2]), np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    overlaps = (high > low).all(axis=2) & ~np.eye(len(boxes), dtype=bool)
    assert not overlaps.any()
    sides = [(frame.get_window_extent().x0, frame.get_window_extent().x1) for frame in frames(figure)]
    for box in boxes[5:]:  # after title, legend and its three colors
        assert any(left <= box[0] and box[2] <= right for left, right in sides)
    assert sum("…" in text for text in texts(figure)) == 5 * (1 + 3 * num_views)


def test_a_name_is_shortened_at_its_end_only_if_it_is_too_wide() -> None:
    assert preview.fit_text("Ankle boot", 1.0) == "Ankle boot"
    cut = preview.fit_text("golden_retriever_playing_with_a_ball", 1.0)
    assert cut.endswith("…") and "golden_retriever_playing_with_a_ball".startswith(cut[:-1]) and len(cut) > 10


def test_names_that_cannot_be_drawn_are_replaced_by_their_number() -> None:
    names = ["Zürich", "日本語", "$5 and $7", "a\nb", "\udcff"]
    assert preview.drawable_names(names) == ["Zürich", "class 1", "$5 and $7", "a\\nb", "\\udcff"]


def test_a_name_is_not_read_as_a_formula(tmp_path: Path) -> None:
    batch, labels = batch_of(2)
    names = ("$\\foo$", "$5", "_^{", "\\", "%")
    preview.save(draw(batch, labels, names), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.width == 1800
