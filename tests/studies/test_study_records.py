"""Records of runs: whole lines, damaged ones, and what is packed in them."""

import base64
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agmax.core.errors import DataError
from agmax.studies import records
from helpers.command import Answer
from helpers.processes import start_code
from helpers.studies import lines, until

Call = Callable[..., Answer]


def entry(key: str, **more: Any) -> dict[str, Any]:
    return {"key": key, "code": "c", **more}


def test_a_line_cut_short_is_left_out_and_mended_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "results" / "tiny.jsonl"
    for key in ("a", "b"):
        records.append_record(path, entry(key, padding="x" * 50))
    whole = path.read_bytes()
    for length in range(len(whole) // 2 + 1, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert list(records.read_records(path)) == ["a"]
        records.append_record(path, entry("c"))
        assert list(records.read_records(path)) == ["a", "c"] and path.read_bytes().endswith(b"}\n")


def test_a_complete_line_without_a_line_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "tiny.jsonl"
    path.write_text(json.dumps(entry("a")) + "\n" + json.dumps(entry("b")))  # as some editors save
    assert list(records.read_records(path)) == ["a", "b"]
    records.append_record(path, entry("c"))
    assert list(records.read_records(path)) == ["a", "b", "c"]


@pytest.mark.parametrize("damaged", [b'{"key": "b", "co', b"<<<<<<< HEAD", b"[]", b"{}", b'{"key": "\xff\xfe"}', b"3"])
def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(tmp_path: Path, damaged: bytes) -> None:
    path = tmp_path / "tiny.jsonl"
    path.write_bytes(b"\n".join([json.dumps(entry("a")).encode(), damaged, json.dumps(entry("c")).encode(), b""]))
    with pytest.raises(DataError, match=r"damaged record \(.*tiny\.jsonl:2\)"):
        records.read_records(path)
    path.write_bytes(json.dumps(entry("a")).encode() + b"\n" + damaged + b"\n")  # it has its end: nothing cut it short
    with pytest.raises(DataError, match=r"damaged record \(.*tiny\.jsonl:2\)"):
        records.read_records(path)


def test_a_study_with_damaged_records_ends_with_3(copy: Path, run: Call, untrained: None) -> None:
    path = Path("results/tiny.jsonl")
    path.write_text(path.read_text().replace('"study"', '"study', 1))
    before = path.read_bytes()
    answer = run("--study", "./tiny.yaml")
    assert answer.status == 3 and path.read_bytes() == before
    assert answer.err.startswith("error: damaged record (results/tiny.jsonl:1). Restore the file, or remove the line")


def test_of_one_run_the_last_record_counts_and_the_same_is_not_written_twice(tmp_path: Path) -> None:
    path = tmp_path / "tiny.jsonl"
    records.append_record(path, entry("a", value=1))
    records.append_record(path, entry("a", value=2))
    assert records.read_records(path)["a"]["value"] == 1
    records.append_record(path, {"key": "a", "code": "other code", "value": 3})
    assert records.read_records(path)["a"]["value"] == 3 and len(path.read_text().splitlines()) == 2


APPENDING = """
import sys
from pathlib import Path
from agmax.studies import records
for number in range(40):
    records.append_record(Path(sys.argv[2]), {"key": f"{sys.argv[1]}-{number}", "code": "c", "right": "x" * 3000})
"""


def test_no_line_is_lost_where_many_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "tiny.jsonl"
    processes = [start_code(APPENDING, f"process{number}", str(path), folder=tmp_path) for number in range(2)]

    def write(thread: int) -> None:
        for number in range(40):
            records.append_record(path, entry(f"thread{thread}-{number}", right="x" * 3000))

    until(path.exists)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    written = [
        f"{who}{each}-{number}"
        for who, count in (("process", 2), ("thread", 4))
        for each in range(count)
        for number in range(40)
    ]
    assert sorted(each["key"] for each in lines(path)) == sorted(written)
    assert all(len(each["right"]) == 3000 for each in lines(path))


@given(st.lists(st.booleans(), max_size=70))
def test_packed_bits_are_unpacked_unchanged(bits: list[bool]) -> None:
    right = np.array(bits, dtype=bool)
    text = records.pack_bits(right)
    assert json.loads(json.dumps(text)) == text and len(base64.b64decode(text)) == (len(bits) + 7) // 8
    assert records.unpack_bits({"right": text, "num_test_images": len(bits)}).tolist() == bits


def test_twenty_thousand_images_take_two_and_a_half_kilobytes() -> None:
    assert len(base64.b64decode(records.pack_bits(np.ones(20_000, dtype=bool)))) == 2500


@given(st.lists(st.integers(0, 999), min_size=2, max_size=40))
def test_the_checksum_depends_on_labels_and_their_order_and_not_on_their_type(labels: list[int]) -> None:
    found = records.checksum(np.array(labels))
    assert len(found) == 16
    for kind in (np.int16, np.int32, np.uint64, ">i8"):
        assert records.checksum(np.array(labels).astype(kind)) == found
    assert records.checksum(np.array([*labels, 0])) != found
    if labels != labels[::-1]:
        assert records.checksum(np.array(labels[::-1])) != found
