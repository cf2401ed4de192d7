"""The README and the pages of docs/, and what a test looks for in them: commands, examples, tables."""

import re

from helpers.places import REPOSITORY

GENERATED = ("settings.md",)
"""Pages that the program writes."""

PAGES = {
    path.relative_to(REPOSITORY).as_posix(): path.read_text()
    for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
}
"""The text of each page, by its place in the repository."""

WRITTEN = {name: text for name, text in PAGES.items() if not name.endswith(GENERATED)}
"""The pages that somebody writes."""


def blocks(language: str, page: str | None = None) -> list[str]:
    """Return the examples of a language on one page or on all; those inside a list lose their indent."""
    texts = PAGES.values() if page is None else [PAGES[page]]
    found = [
        (indent, body)
        for text in texts
        for indent, body in re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text, flags=re.MULTILINE | re.DOTALL)
    ]
    return [re.sub(rf"^{indent}", "", body, flags=re.MULTILINE) for indent, body in found]


def commands(*, with_import: bool = False) -> list[str]:
    """Return every different `python3 main.py` or `agmax` line of all pages as the first, continued lines joined.

    Those with --import need a file beside them: they are listed alone.
    """
    lines = [
        re.split("#| > ", line)[0].strip() for text in blocks("sh") for line in text.replace("\\\n", " ").splitlines()
    ]
    lines = [re.sub("^agmax ", "python3 main.py ", " ".join(line.split())) for line in lines]
    return list(dict.fromkeys(line for line in lines if "main.py" in line and ("--import" in line) == with_import))


def section(page: str, title: str) -> str:
    """Return the text below a heading of the second level."""
    return PAGES[page].partition(f"\n## {title}")[2].partition("\n## ")[0]


def tables(text: str) -> list[list[list[str]]]:
    """Return the tables of a text: of each, the rows of stripped values, the head first and without the rule."""
    found = [text.splitlines() for text in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)]
    return [[[value.strip() for value in row.strip("|").split("|")] for row in (rows[0], *rows[2:])] for rows in found]
