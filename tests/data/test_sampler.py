"""The order of an epoch, and views that show other images of a class."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agmax.data import sampler
from helpers.command import Answer
from helpers.images import write_images


@pytest.mark.parametrize("num_images", range(1, 6))
@pytest.mark.parametrize("batch_size", range(2, 9))
def test_an_epoch_has_every_image_once_except_a_single_last_one(num_images: int, batch_size: int) -> None:
    alone = num_images % batch_size == 1
    epochs = [sampler.shuffle_batches(num_images, batch_size, seed=0, epoch=epoch) for epoch in range(20)]
    for batches in epochs:
        assert len(batches) == sampler.num_steps(num_images, batch_size)
        seen = [index for batch in batches for index in batch.tolist()]
        assert len(seen) == len(set(seen)) == num_images - alone
        assert set(seen) <= set(range(num_images))
        assert all(len(batch) == batch_size for batch in batches[:-1])
        assert all(len(batch) > 1 for batch in batches)
    if num_images > 2 and epochs[0]:
        assert len({str(batches) for batches in epochs}) > 1  # epochs differ
    tested = [index for batch in sampler.sequential_batches(num_images, batch_size) for index in batch.tolist()]
    assert tested == list(range(num_images))  # an evaluation drops none


def test_an_epoch_continues_where_it_was_interrupted() -> None:
    full = sampler.shuffle_batches(10, 3, seed=1, epoch=4)
    for start in range(5):
        rest = sampler.shuffle_batches(10, 3, seed=1, epoch=4, start=start)
        assert [batch.tolist() for batch in rest] == [batch.tolist() for batch in full[start:]]
    assert str(sampler.shuffle_batches(10, 3, seed=2, epoch=4)) != str(full)


@pytest.mark.parametrize(("num_images", "steps"), [(1, 0), (2, 1), (4, 1), (5, 1), (8, 2)])
def test_a_training_of_few_images_has_complete_steps_or_ends_with_3(
    run: Callable[..., Answer], tmp_path: Path, num_images: int, steps: int
) -> None:
    for split in ("train", "val"):
        write_images(tmp_path / split / "a", (num_images + 1) // 2, size=(8, 8))
        write_images(tmp_path / split / "b", max(1, num_images // 2), size=(8, 8))
    settings = ["train.epochs=1", "train.batch_size=4", "train.num_workers=0", "dataset.image_size=8"]
    limit = f"dataset.train_limit={num_images}"
    answer = run("--config=ResNet8", "--train", "--dataset=folder", "dataset.root=.", limit, *settings, "--json")
    assert answer.status == (0 if steps else 3)
    assert (f"1 epochs of {steps} steps" if steps else "too few training images") in answer.err


@settings(deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=2, max_size=50),
    num_views=st.integers(1, 5),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
)
def test_each_view_shows_every_image_of_a_class_once_and_none_shows_itself(
    labels: list[int], num_views: int, seed: int, epoch: int
) -> None:
    tensor = torch.tensor(labels)
    shown = sampler.same_class_views(tensor, epoch, num_views=num_views, seed=seed)
    assert shown.shape == (len(labels), num_views)
    assert shown[:, 0].tolist() == list(range(len(labels)))
    for view in range(num_views):
        assert sorted(shown[:, view].tolist()) == list(range(len(labels)))
        assert torch.equal(tensor[shown[:, view]], tensor)
    for image, row in enumerate(shown.tolist()):
        size = labels.count(labels[image])
        assert len(set(row)) == min(num_views, size)  # all of a class before any twice


def test_same_class_views_depend_only_on_the_epoch_and_the_seed() -> None:
    labels = torch.arange(3).repeat(20)
    drawn = {
        (seed, epoch): sampler.same_class_views(labels, epoch, num_views=2, seed=seed)[:, 1]
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len({tuple(shown.tolist()) for shown in drawn.values()}) == 4
    assert torch.equal(sampler.same_class_views(labels, 1, num_views=3, seed=1)[:, 1], drawn[1, 1])


def test_partners_of_a_class_are_uniform() -> None:
    """Image 0 of a class of 6 meets each of the five others in 400 of 2000 epochs: four deviations are 72."""
    labels = torch.tensor([0, 1] * 6)
    met = [int(sampler.same_class_views(labels, epoch, num_views=2, seed=0)[0, 1]) for epoch in range(2000)]
    counts = torch.tensor(met).bincount(minlength=12)
    assert counts[1::2].sum() == 0 and counts[0] == 0
    assert all(abs(int(count) - 400) < 72 for count in counts[2::2])
