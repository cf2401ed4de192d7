"""Rules of the architecture, as tests: who imports whom, tables that agree, a short main."""

import ast
import graphlib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from agmax.augment import mixing, transforms
from agmax.builders import pipelines
from agmax.config import names
from agmax.config.augmentation import SOFTENS, AugmentConfig
from agmax.config.schema import choices
from agmax.losses import OBJECTIVES
from helpers.places import REPOSITORY

PACKAGE = REPOSITORY / "agmax"


def imported(path: Path) -> set[str]:
    """Return the parts of agmax that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: a relative import hides its folder"
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("agmax.")}
        elif isinstance(node, ast.ImportFrom) and node.module == "agmax":
            found |= {f"agmax.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("agmax."):
            found.add(str(node.module))
    return {name.split(".")[1] for name in found}


LAYERS = (
    "core",
    "augment",
    "losses",
    "models",
    "optim",
    "data",
    "checkpoints",
    "evaluation",
    "training",
    "config",
    "builders",
    "experiments",
    "studies",
    "reports",
    "benchmarks",
    "cli",
    "__init__",
)
"""The folders of the package: each imports from those above it and from itself."""


def test_a_folder_imports_only_from_those_above_it_in_the_list() -> None:
    rank = {name: number for number, name in enumerate(LAYERS)}
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).with_suffix("").parts[0]
        assert room in rank, path
        for other in imported(path) - {room}:
            assert rank[other] < rank[room], f"{path} imports {other}"


def test_the_package_has_few_rooms_at_its_top() -> None:
    assert len([path for path in PACKAGE.iterdir() if not path.name.startswith("__pycache__")]) <= 20


def test_no_folders_import_one_another_in_a_circle() -> None:
    imports: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).with_suffix("").parts[0]
        imports.setdefault(room, set()).update(imported(path) - {room})
    graphlib.TopologicalSorter(imports).prepare()


@pytest.mark.parametrize(
    "path", [*sorted((PACKAGE / "config").glob("*.py")), *sorted((PACKAGE / "cli").glob("*.py"))], ids=lambda p: p.name
)
def test_configuration_and_command_line_import_no_torch(path: Path) -> None:
    at_top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {alias.name for node in at_top if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in at_top if isinstance(node, ast.ImportFrom)}
    assert not {module.split(".")[0] for module in modules} & {"torch", "torchvision", "timm", "numpy"}


def test_main_is_short() -> None:
    assert len((REPOSITORY / "main.py").read_text().splitlines()) < 60


@pytest.mark.parametrize(
    ("setting", "table"),
    [
        ("objective.name", OBJECTIVES),
        ("augment.policy", transforms.POLICIES),
        ("augment.erase", transforms.ERASERS),
        ("augment.mix", mixing.MIXES),
    ],
)
def test_tables_hold_exactly_the_words_of_the_schema(setting: str, table: dict[str, object]) -> None:
    assert set(choices(setting)) - {"none"} == set(table)


def test_every_crop_is_made_by_the_pipeline_or_by_the_workers() -> None:
    assert set(choices("augment.crop")) - {"none"} == {*transforms.CROPS, "random_resized"}


def test_every_word_of_a_slot_has_a_block_of_settings_or_shares_one() -> None:
    words = {*transforms.CROPS, *transforms.ERASERS, *mixing.MIXES}
    for word in words:
        assert pipelines.SHARED_SETTINGS.get(word, word) in AugmentConfig.model_fields
    assert {*pipelines.SHARED_SETTINGS, *SOFTENS} <= words


@pytest.mark.parametrize("table", [transforms.CROPS, transforms.ERASERS, transforms.POLICIES, mixing.MIXES])
def test_every_setting_of_a_word_is_a_field_of_its_class_and_has_its_default(table: dict[str, Any]) -> None:
    for word, kind in table.items():
        section = getattr(AugmentConfig(), pipelines.SHARED_SETTINGS.get(word, word), None)
        if section is not None:
            assert set(type(section).model_fields) == {field.name for field in fields(kind)}
        assert pipelines._make(kind, AugmentConfig(), word) == kind()


def test_every_word_of_a_slot_has_a_part_of_a_name_or_a_data_set() -> None:
    fragments = [item for group in ("augment", "dataset") for item in names.examples(group)]
    for slot in names.SLOTS:
        written = {item.settings.get("augment", {}).get(slot) for item in fragments}
        assert set(choices(f"augment.{slot}")) - {"none"} <= written


def test_every_objective_has_a_method_part() -> None:
    written = {item.settings.get("objective", {}).get("name") for item in names.examples("method")}
    assert set(choices("objective.name")) <= written


@pytest.mark.parametrize("group", ["dataset", "model", "augment", "method"])
def test_every_fragment_says_what_it_is(group: str) -> None:
    for item in names.examples(group):
        assert item.about, item.document.path
        assert item.part in item.document.path or "{" in item.document.path


def test_requirements_and_package_ask_for_the_same() -> None:
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == (REPOSITORY / "requirements.txt").read_text().split()
