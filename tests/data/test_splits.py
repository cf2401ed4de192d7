"""The images of training, validation and test."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agmax import builders
from agmax.core.errors import AgmaxError, DataError, UsageError
from agmax.data import datasets
from agmax.data.splits import FileDataset, InMemoryDataset, partition
from helpers.datasets import CPU, configured, load_files, parents
from helpers.images import write_tree


def stratified_by_hand(labels: list[int], total: int) -> list[int]:
    """Split `total` over the classes by largest remainder, in integers."""
    counts = [labels.count(k) for k in range(max(labels) + 1)]
    fractions = [total * count // len(labels) for count in counts]
    rest = sorted(range(len(counts)), key=lambda k: (-(total * counts[k] % len(labels)), k))
    for k in rest[: total - sum(fractions)]:
        fractions[k] += 1
    return fractions


@settings(deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=4, max_size=60),
    fraction=st.integers(0, 7).map(lambda eighths: eighths / 8),
    limit_fraction=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_training_and_validation_images_are_disjoint_and_spread_evenly_over_the_classes(
    labels: list[int], fraction: float, limit_fraction: float, seed: int
) -> None:
    tensor = torch.tensor(labels)
    everything, held_out, _ = partition(tensor, validation=fraction, seed=seed)
    assert sorted(everything.tolist() + held_out.tolist()) == list(range(len(labels)))
    total = round(fraction * len(labels))
    assert tensor[held_out].bincount(minlength=max(labels) + 1).tolist() == stratified_by_hand(labels, total)

    limit = max(1, round(limit_fraction * len(everything))) if len(everything) else None
    if limit is None:
        return
    chosen, same, _ = partition(tensor, limit=limit, validation=fraction, seed=seed)
    assert torch.equal(same, held_out)  # the limit does not change it
    assert len(chosen) == limit and set(chosen.tolist()) <= set(everything.tolist())
    left = tensor[everything].bincount(minlength=max(labels) + 1).tolist()
    counts = tensor[chosen].bincount(minlength=max(labels) + 1).tolist()
    largest = max(counts)
    for count, available in zip(counts, left, strict=True):
        assert count >= largest - 1 or count == available  # fewer only where there are no more


@settings(deadline=None)
@given(per_class=st.integers(0, 10), other=st.integers(0, 10), seed=st.integers(0, 9))
def test_the_training_images_do_not_change_with_the_size_of_the_validation_set(
    per_class: int, other: int, seed: int
) -> None:
    labels = torch.arange(3).repeat(20)
    limit = 3 * per_class + 1
    one, *_ = partition(labels, limit=limit, validation=0.0, seed=seed)
    two, held_out, _ = partition(labels, limit=limit, validation=3 * min(other, 9) / 60, seed=seed)
    assert torch.equal(one, two)
    assert not set(two.tolist()) & set(held_out.tolist())


def test_another_seed_chooses_other_images() -> None:
    labels = torch.arange(3).repeat(20)
    chosen = [partition(labels, limit=30, validation=0.2, seed=seed) for seed in (0, 0, 1)]
    for part in (0, 1):
        assert torch.equal(chosen[0][part], chosen[1][part])
        assert not torch.equal(chosen[0][part], chosen[2][part])


def test_train_limit_and_validation_reach_the_splits_of_a_configuration() -> None:
    data = builders.splits(configured("digits", dataset__train_limit=100, dataset__validation=0.1))
    full = datasets.load("digits", "nowhere", split="train")
    assert isinstance(data.train, InMemoryDataset) and isinstance(data.validation, InMemoryDataset)
    assert data.train.labels.bincount().tolist() == [10] * 10
    assert data.validation.labels.bincount().tolist() == stratified_by_hand(full.labels.tolist(), 144)
    assert len(data.test.labels) == 360
    assert builders.splits(configured("digits")).validation is None


@pytest.mark.parametrize(
    ("split", "settings"),
    [
        ("train", {"dataset__train_limit": 1437, "dataset__validation": 0.001}),
        ("train", {"dataset__train_limit": 1438}),
        ("train", {"dataset__validation": 0.9999}),
        ("validation", {"dataset__validation": 0.0001}),
        ("train", {"dataset__validation": 1000, "dataset__extra_test": 437}),
        ("test", {"dataset__extra_test": 0.0001}),
        ("test", {"dataset__extra_test": 1438}),
    ],
)
def test_a_split_without_images_or_with_too_many_is_a_data_error(split: str, settings: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        builders.split(configured("digits", **settings), split)


@settings(deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=8, max_size=60),
    fractions=st.tuples(st.integers(0, 4), st.integers(0, 4)).map(lambda eighths: (eighths[0] / 8, eighths[1] / 8)),
    limit_fraction=st.floats(0, 1),
    seeds=st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
def test_images_held_out_for_validation_and_testing_are_the_same_for_all_seeds(
    labels: list[int], fractions: tuple[float, float], limit_fraction: float, seeds: tuple[int, int]
) -> None:
    tensor, sizes = torch.tensor(labels), [round(fraction * len(labels)) for fraction in fractions]
    left = len(labels) - sum(sizes)
    if left < 0:
        return  # halves of an odd number can ask for one too many
    limit = max(1, round(limit_fraction * left)) if left else None
    held = {"validation": fractions[0], "extra_test": fractions[1], "split_seed": 5}
    one, two = (partition(tensor, limit=limit, seed=seed, **held) for seed in seeds)
    everything = partition(tensor, seed=seeds[0], **held)
    for part in (one, two, everything):
        chosen = [position for positions in part for position in positions.tolist()]
        assert len(set(chosen)) == len(chosen)
        assert torch.equal(part.validation, one.validation) and torch.equal(part.extra_test, one.extra_test)
        assert [positions.tolist() for positions in part] == [sorted(positions.tolist()) for positions in part]
    assert sorted(torch.cat(everything).tolist()) == list(range(len(labels)))
    num_classes = max(labels) + 1
    counts = tensor[one.validation].bincount(minlength=num_classes).tolist()
    assert counts == stratified_by_hand(labels, sizes[0])
    rest = sorted(set(range(len(labels))) - set(one.validation.tolist()))
    if rest:
        wanted = stratified_by_hand([labels[k] for k in rest], sizes[1])
        assert tensor[one.extra_test].bincount(minlength=len(wanted)).tolist()[: len(wanted)] == wanted


def test_with_a_split_seed_the_subset_follows_the_other_seed_and_stays_balanced() -> None:
    labels = torch.arange(4).repeat(50)
    held = {"limit": 40, "validation": 30, "extra_test": 20}
    parts = [partition(labels, seed=seed, split_seed=7, **held) for seed in range(3)]
    for part in parts:
        assert [len(positions) for positions in part] == [40, 30, 20]
        assert labels[part.train].bincount().tolist() == [10] * 4
    assert not any(torch.equal(parts[0].train, part.train) for part in parts[1:])
    other = partition(labels, seed=0, split_seed=8, **held)
    assert not torch.equal(other.validation, parts[0].validation)
    assert not torch.equal(other.extra_test, parts[0].extra_test)
    follows, given = (partition(labels, seed=7, split_seed=seed, **held) for seed in (None, 7))
    assert all(torch.equal(one, two) for one, two in zip(follows, given, strict=True))


def test_a_number_of_images_equals_the_same_fraction() -> None:
    labels = torch.arange(3).repeat(20)
    by_fraction = partition(labels, limit=12, validation=0.25, extra_test=0.1, seed=3)
    by_number = partition(labels, limit=12, validation=15, extra_test=6, seed=3)
    assert all(torch.equal(one, two) for one, two in zip(by_fraction, by_number, strict=True))
    assert [len(positions) for positions in partition(labels, validation=1, extra_test=1, seed=3)] == [58, 1, 1]


def test_the_validation_images_do_not_change_with_the_extra_test_images() -> None:
    labels = torch.arange(3).repeat(40)
    for split_seed in (None, 2):
        parts = [
            partition(labels, limit=30, validation=24, extra_test=extra, seed=1, split_seed=split_seed)
            for extra in (0, 6, 60)
        ]
        assert all(torch.equal(part.validation, parts[0].validation) for part in parts)
        assert set(parts[1].extra_test.tolist()) < set(parts[2].extra_test.tolist())
    with pytest.raises(DataError, match="30 to train on and 91 to hold out are more than the 120 images"):
        partition(labels, limit=30, validation=24, extra_test=67, seed=1)


HELD = {"dataset__validation": 100, "dataset__extra_test": 0.1, "dataset__train_limit": 200, "dataset__split_seed": 0}


def test_images_held_out_for_testing_follow_those_of_the_test_split() -> None:
    test, train = (datasets.load("digits", "nowhere", split=split) for split in ("test", "train"))
    assert isinstance(test, InMemoryDataset) and isinstance(train, InMemoryDataset)
    measured = []
    for seed in (0, 1):
        config = configured("digits", train__seed=seed, **HELD)
        data = builders.splits(config)
        assert isinstance(data.test, InMemoryDataset) and data.test.indices is not None
        extra = data.test.indices[360:] - 360  # positions in the training file
        assert data.test.indices[:360].tolist() == list(range(360)) and len(extra) == 144
        assert torch.equal(data.test.images, torch.cat([test.images, train.images[extra]]))
        assert torch.equal(data.test.labels, torch.cat([test.labels, train.labels[extra]]))
        (batch,) = builders.test_loader(config, data.test, CPU).batches([torch.arange(359, 361)], epoch=0)
        assert batch.indices.tolist() == [359, 360 + int(extra[0])]
        alone = builders.split(config, "test")
        assert isinstance(alone, InMemoryDataset) and alone.indices is not None
        assert torch.equal(alone.images, data.test.images) and torch.equal(alone.indices, data.test.indices)
        measured.append(data.test.indices)
        for name, part in (("train", data.train), ("validation", data.validation)):
            assert part is not None and part.indices is not None
            assert not set(part.indices.tolist()) & set(extra.tolist())
            split = builders.split(config, name)
            assert split.indices is not None and torch.equal(split.indices, part.indices)
    assert torch.equal(*measured)


def test_files_held_out_for_testing_follow_those_of_the_test_folder(tmp_path: Path) -> None:
    write_tree(tmp_path, ["a", "b"], {"train": 10, "test": 3}, size=(8, 8))
    config = configured("folder", dataset__root=str(tmp_path), dataset__extra_test=4, dataset__seed=2)
    data = builders.splits(config)
    assert isinstance(data.test, FileDataset) and isinstance(data.train, FileDataset) and data.test.indices is not None
    full = load_files("folder", tmp_path, "train")
    assert parents(data.test) == ["a"] * 3 + ["b"] * 3 + ["a"] * 2 + ["b"] * 2
    assert data.test.labels.tolist() == [0] * 3 + [1] * 3 + [0] * 2 + [1] * 2
    assert [full.paths[index - 6] for index in data.test.indices[6:].tolist()] == list(data.test.paths[6:])
    assert sorted(data.train.paths + data.test.paths[6:]) == sorted(full.paths)


def fail_on_test_images(monkeypatch: pytest.MonkeyPatch) -> None:
    load = datasets.load

    def guarded(name: str, root: str, *, split: str, **options: Any) -> Any:
        assert split != "test", "the test images are read"
        return load(name, root, split=split, **options)

    monkeypatch.setattr(datasets, "load", guarded)


def test_without_an_evaluation_on_them_the_test_images_are_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_on_test_images(monkeypatch)
    data = builders.splits(configured("digits", evaluation__test=False, **HELD))
    assert data.test is None
    assert data.validation is not None and len(data.validation.labels) == 100
    with pytest.raises(AssertionError, match="the test images are read"):
        builders.splits(configured("digits", **HELD))


def test_an_evaluation_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"evaluation\.test.*dataset\.validation=0\.1"):
        configured("digits", evaluation__test=False)
    write_tree(tmp_path, ["a", "b"], {"train": 4, "val": 2, "test": 2}, size=(8, 8))
    config = configured("folder", dataset__root=str(tmp_path), evaluation__test=False)
    data = builders.splits(config)  # the folder brings its own
    assert data.test is None and data.validation is not None and len(data.validation.labels) == 4
    (tmp_path / "test").rename(tmp_path / "other")  # now val is the test set
    with pytest.raises(DataError, match="no validation images"):
        builders.splits(config)


@pytest.mark.parametrize("key", ["dataset__validation", "dataset__extra_test"])
@pytest.mark.parametrize("size", [1.5, 100.25])
def test_a_held_out_part_is_a_fraction_or_an_integer(key: str, size: float) -> None:
    with pytest.raises(UsageError, match=f"{size:g} is neither a fraction below 1 nor a whole number of images"):
        configured("digits", **{key: size})


def test_the_agmax_statistics_are_the_old_constants() -> None:
    own, agmax = configured("cifar10"), configured("cifar10", dataset__statistics="agmax")
    assert own.normalization == (own.dataset.mean, own.dataset.std)
    assert agmax.normalization == ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])
    repeated = configured("digits", model__channels=3).normalization
    assert repeated == ([0.3057] * 3, [0.3235] * 3)
    with pytest.raises(AgmaxError, match="no constants for digits"):
        configured("digits", dataset__statistics="agmax")
