"""The study of a minute, from its file to its page."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from agmax.studies import spec
from helpers.chromium import opened
from helpers.command import Answer
from helpers.places import REPOSITORY
from helpers.studies import InThisProcess, stand_in


@pytest.mark.parametrize("jobs", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_the_study_of_a_minute_tunes_measures_and_its_page_opens(
    jobs: int, run: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With processes of their own for its runs, `jobs` at a time, or all in this one."""
    if not jobs:
        stand_in(monkeypatch, InThisProcess)
    file = tmp_path / "digits_smoke.yaml"
    shutil.copy(REPOSITORY / "configs/study/digits_smoke.yaml", file)
    words = ("--study", str(file), f"--jobs={jobs or 1}", "--json")
    tuned = run(*words)
    assert (tuned.status, tuned.json["phase"]) == (0, "tuning"), tuned.err
    assert not (tmp_path / "runs/studies/digits_smoke/report.html").exists()  # no test image is read yet

    measured = run(*words)
    assert (measured.status, measured.json["phase"]) == (0, "results"), measured.err
    assert measured.json["variants"].keys() == spec.read_study(file).variants.keys()
    assert {variant["samples_seen"] for variant in measured.json["variants"].values()} == {spec.read_study(file).budget}
    again = run(*words)
    assert again.json == measured.json and "0 to run" in again.err

    folder = tmp_path / "runs/studies/digits_smoke"
    assert {"study.csv", "study.md", "study.tex", "report.html"} <= {path.name for path in folder.iterdir()}
    rows = list(csv.DictReader((folder / "study.csv").read_text().splitlines()))
    final = {
        row["variant"]: float(row["mean"]) for row in rows if (row["protocol"], row["metric"]) == ("final", "error")
    }
    assert final == {name: variant["error"] for name, variant in measured.json["variants"].items()}

    shown, console = opened((folder / "report.html").read_text(), tmp_path, widths=(1280, 400))
    assert not console
    for page in shown:
        assert page["scroll_width"] <= page["width"] and not page["beyond"] and page["num_cells"] > 40
