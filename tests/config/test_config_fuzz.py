"""Random text, and files with a random value in any place, give a configuration or an error message."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agmax.config import names, reader, resolve
from helpers.command import Answer
from helpers.configurations import FRAGMENTS, fuzz, outcome

Run = Callable[..., Answer]


@fuzz
@given(text=st.text(max_size=60) | st.text("ab:-[]{},#&*!|>'\"%@\n \t01.", max_size=40))
def test_the_reader_fails_on_no_text_without_an_error_message(text: str) -> None:
    lines = outcome(reader.parse_yaml, text, "text") + outcome(reader.parse_value, text)
    assert all(line.isprintable() for line in lines)


WRONG: list[Any] = [[], [[1]], {}, {"x": 1}, "word", -1.5, True, None]


@functools.cache
def fragment_documents() -> dict[Path, reader.Document]:
    return {path: reader.read_yaml(path) for path in FRAGMENTS}


NULLABLE = ("dataset.num_classes", "dataset.agmax_mean", "dataset.agmax_std")


def key_paths(mapping: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    for key, value in mapping.items():
        yield (key,)
        if isinstance(value, dict):
            yield from ((key, *rest) for rest in key_paths(value))


def mutated(
    mapping: dict[str, Any], path: tuple[str, ...], change: Callable[[str, Any], dict[str, Any]]
) -> dict[str, Any]:
    """Return a mapping in which `change` has replaced one entry."""
    result: dict[str, Any] = {}
    for key, value in mapping.items():
        if key != path[0]:
            result[key] = value
        else:
            result |= change(key, value) if len(path) == 1 else {key: mutated(value, path[1:], change)}
    return result


def misspelt(key: str, value: Any) -> dict[str, Any]:
    return {f"{key}x": value}


def user_of(path: Path, key: tuple[str, ...] = ()) -> dict[str, str]:
    """Return a name and data set whose configuration reads this key of this fragment, not overridden by others."""
    part = path.stem.format(depth=28, width=10)
    if path.parent.name == "dataset":
        return {"source": "ResNet8", "dataset": part}
    if path.parent.name == "model":
        return {"source": "-".join([part, *key[1:2]] if key[:1] == ("with",) else [part])}
    return {"source": f"ResNet8-{part}"}


def may_stand(key: str, old: Any, new: Any) -> bool:
    """Return whether `new` may be valid in place of `old`: a word for a word, null where null is allowed."""
    if isinstance(old, dict):
        return new in ({}, None) or (key == "model.arguments" and isinstance(new, dict))
    if key.startswith("model.arguments."):  # the network's own: any word, any value
        return not isinstance(new, list | dict)
    return (new is None and key in NULLABLE) or (type(new) is type(old) and not isinstance(new, list))


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: path.stem)
def test_every_key_misspelt_and_every_value_of_another_type_is_an_error_that_names_its_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = dict(fragment_documents())
    whole = documents[path]
    monkeypatch.setattr(reader, "read_yaml", lambda path: documents[path])
    accepted = []
    try:
        for keys in key_paths(whole.mapping):
            key = (
                ".".join(keys)
                .removeprefix("with.")
                .removeprefix(f"{keys[1]}." if keys[0] == "with" and keys[1:] else "")
            )
            for wrong in ["misspelt", *WRONG]:
                old: list[Any] = []

                def change(word: str, value: Any, wrong: Any = wrong, old: list[Any] = old) -> dict[str, Any]:
                    old.append(value)
                    return misspelt(word, value) if wrong == "misspelt" else {word: wrong}

                documents[path] = whole._replace(mapping=mutated(whole.mapping, keys, change))
                names._read_fragment.cache_clear()
                lines = outcome(resolve.resolve, **user_of(path, keys))
                is_wrong = not may_stand(key, old[0], wrong)
                if wrong == "misspelt":
                    is_wrong = not key.startswith("model.arguments.")
                if is_wrong and not any(path.name in line for line in lines):
                    accepted.append((keys, wrong))
    finally:
        names._read_fragment.cache_clear()
    assert accepted == []


@fuzz
@given(data=st.data())
def test_a_shipped_file_with_a_random_value_in_one_place_is_valid_or_gives_an_error_message(
    data: st.DataObject, run: Run, tmp_path: Path
) -> None:
    """A mutated fragment, as a user's own file: exit 0 or 2, nothing written, no traceback."""
    path = data.draw(st.sampled_from(FRAGMENTS))
    mapping = {key: value for key, value in fragment_documents()[path].mapping.items() if key not in ("about", "with")}
    keys = data.draw(st.sampled_from([("base",), *key_paths(mapping)]))
    anything = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
        max_leaves=4,
    )
    value = data.draw(anything)
    changed = mutated({"base": "ResNet8", **mapping}, keys, lambda key, _: {key: value})
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(changed, sort_keys=False), encoding="utf-8")
    answer = run("--config=mine.yaml", "--print-config")
    assert answer.status in (0, 2)
    assert all(line.startswith(("error: ", "note: ")) for line in answer.err.splitlines())
    assert [file.name for file in tmp_path.iterdir()] == ["mine.yaml"]
