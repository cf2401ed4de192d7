"""The page of a study and the files beside it."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from agmax.core.errors import OutputError
from agmax.reports import figures, formatting, page, style, writers
from agmax.reports import tables as contents
from agmax.studies.analysis import Analysis, Pair
from helpers.analyses import HOSTILE, RISING, STEADY, analyzed, hostile, many, small, variant
from helpers.chromium import opened

# The page


class Strict(HTMLParser):
    """Read a page and refuse tags that do not match; keep elements, attributes and text."""

    VOID = {"meta", "link", "wbr", "br"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
            self.texts.append((tag, ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open, tag
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if self.texts:
            tag, text = self.texts[-1]
            self.texts[-1] = (tag, text + data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def said(self, tag: str) -> list[str]:
        return [text.strip() for name, text in self.texts if name == tag]


def made_page(analysis: Analysis) -> str:
    return page.page(analysis, figures.drawings(analysis))


@pytest.fixture(scope="module")
def full() -> str:
    """The page of 13 variants with 8 seeds, one of them with a single one."""
    return made_page(many(13, 8))


def test_the_page_is_well_formed_and_names_its_parts(full: str) -> None:
    read = Strict(full)
    assert full.startswith("<!DOCTYPE html>") and read.of("html") == [{"lang": "en"}]
    assert read.said("title") == ["a study"] and read.said("h1") == ["a study"]
    num_tables = len(read.of("table"))
    assert num_tables == len(read.of("caption")) == 5  # variants, contrasts, checks, others, settings
    assert {each.get("scope") for each in read.of("th")} == {"col", "row"}
    shown = read.of("svg")
    assert len(shown) == len(read.of("figcaption")) == 3
    assert all(each["role"] == "img" and len(each["aria-label"] or "") > 40 for each in shown)
    assert all(
        each["tabindex"] == "0" and "scroll" in (each["class"] or "") for each in read.of("div") if "role" in each
    )


def test_the_page_loads_no_files_and_runs_no_scripts(full: str) -> None:
    assert not re.search(r"https?:|//[a-z]|@import|<script|javascript:", full)
    for tag, attributes in Strict(full).elements:
        for key in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert (attributes.get(key) or "#").startswith(("#", "data:")), (tag, attributes)
        assert not any(key.startswith("on") for key in attributes), (tag, attributes)


def test_every_identifier_of_the_page_is_unique_and_exists_where_it_is_referenced(full: str) -> None:
    read = Strict(full)
    identifiers = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    meant = {value for each in read.of("use") for key, value in each.items() if key.endswith("href")}
    meant |= {f"#{name}" for name in re.findall(r"url\(#([^)]*)\)", full)}
    meant |= {f"#{each['aria-labelledby']}" for each in read.of("div") if "aria-labelledby" in each}
    assert meant and meant <= {f"#{name}" for name in identifiers}


def test_figures_in_the_page_have_the_text_color_of_the_page(full: str) -> None:
    assert full.count("currentColor") > 50 and style.INK not in full
    assert not re.search(r"fill: #(fff|ffffff|000|000000)\b", full)


def test_nothing_from_a_users_file_becomes_markup() -> None:
    text = made_page(hostile())
    read = Strict(text)
    assert not {"script", "b"} & {tag for tag, _ in read.elements} and "<!--" not in text
    assert "49" not in read.said("th")  # 7 * 7
    plain = [formatting.plain(name) for name in HOSTILE]
    headings = re.findall(r'<th scope="row">(.*?)</th>', text)
    for name in plain:
        assert str(page.allow_breaks(name)) in headings
    assert read.said("h1") == [plain[0]] and read.said("title") == [plain[0]]
    assert set(plain) <= set(read.said("li"))


def test_the_page_shows_conclusions_and_failed_checks() -> None:
    made = small()
    read = Strict(page.page(made, []))
    said = read.said("li")
    assert said[0].startswith("rising against steady") and "worse by the interval" in said[0]
    assert said[1].startswith("around against steady") and "not distinguishable" in said[1]
    assert "1 of 2 checks are as expected." in read.said("p")
    assert any("around against rising" in text and "NOT as expected" in text for text in read.said("p"))
    assert "a note" in said


def test_the_page_shows_the_settings_in_which_variants_differ(full: str) -> None:
    table = page.settings(many(13, 8))
    assert [column.title for column in table.columns] == ["variant", "optimizer.lr"]
    assert [row[1] for row in table.rows][:4] == ["0.01", "0.02", "0.03", "0.01"]
    assert "optimizer.<wbr>lr" in full
    assert not page.settings(analyzed([variant("a", STEADY), variant("b", STEADY)])).rows


def test_the_page_fits_a_wide_and_a_narrow_window(full: str, tmp_path: Path) -> None:
    for number, text in enumerate((full, made_page(hostile()))):
        folder = tmp_path / str(number)
        folder.mkdir()
        measures, console = opened(text, folder, widths=(1280, 400))
        assert [each["width"] for each in measures] == pytest.approx([1280, 400], abs=20)  # a scroll bar
        for each in measures:
            assert each["scroll_width"] <= each["width"]
            assert not each["beyond"]
            assert each["num_cells"] > 100 and each["font"] == "16px"
        assert not console


# Files


def test_all_files_are_written_and_equal_when_written_again(tmp_path: Path) -> None:
    made = analyzed([variant("a", STEADY), variant("b", RISING)], contrasts=[Pair("b", "a")])
    paths = page.write(made, tmp_path / "new" / "folder")
    names = ["study.csv", "study.md", "study.tex", "report.html", "points.png", "curves.png", "samples_seen.png"]
    assert [path.name for path in paths] == names
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(names)
    again = page.write(made, tmp_path)
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]
    assert (tmp_path / "study.md").read_text() == writers.markdown(made)


def test_a_folder_that_cannot_be_written_is_an_error_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    made = analyzed([variant("a", STEADY)])
    with pytest.raises(OutputError, match="cannot write"):
        page.write(made, tmp_path / "file" / "folder")
    (tmp_path / "study.tex").mkdir()
    with pytest.raises(OutputError, match=r"study\.tex"):
        page.write(made, tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_a_study_without_contrasts_or_budget_is_called_descriptive() -> None:
    made = analyzed([variant("a", STEADY)], budget=None)
    assert [table.name for table in contents.tables(made)] == ["variants"]
    assert "of the budget" not in [column.title for column in contents.variants(made).columns]
    assert "descriptive, without tests" in made_page(made)
