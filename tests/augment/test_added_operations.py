"""An added pixel operation does not change the random draws of the policies."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from agmax.augment import policies
from agmax.augment.operations import NAMES
from helpers.places import REPOSITORY

DRAWS = """
import json, sys
import numpy as np
from agmax.augment import operations, policies
def drawn():
    for policy in policies.AUTO_AUGMENT:
        for magnitudes in policies.MAGNITUDES:
            rng = np.random.default_rng(0)
            yield policies.auto_augment(200, 32, 24, policy=policy, magnitudes=magnitudes, rng=rng)
    for definition in policies.RAND_AUGMENT:
        rng = np.random.default_rng(0)
        yield policies.rand_augment(200, 32, 24, definition=definition, num_ops=3, magnitude=9, rng=rng)
    yield policies.trivial_augment(200, 32, 24, rng=np.random.default_rng(0))
    yield policies.color_jitter(200, brightness=.4, contrast=.4, saturation=.4, rng=np.random.default_rng(0))
found = [[[operations.NAMES[code] for code in codes.flat], values.tolist()] for codes, values in drawn()]
print(json.dumps([list(operations.NAMES), found]))
"""


def test_an_added_operation_changes_no_draw_of_any_policy(tmp_path: Path) -> None:
    """Operations are added to a copy of the package, one line each: first, last and between the others."""
    shutil.copytree(REPOSITORY / "agmax", tmp_path / "agmax", ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "agmax" / "augment" / "operations.py"
    text = path.read_text()
    for number, before in enumerate(('    "Identity"', '    "Rotate"', "}\n")):
        place = text.index(before, text.index("OPERATIONS"))
        text = f'{text[:place]}    "Darken{number}": lambda images, _: images // 2,\n{text[place:]}'
    path.write_text(text)
    answers = []
    for folder in (REPOSITORY, tmp_path):
        program = [sys.executable, "-c", DRAWS]
        answer = subprocess.run(program, cwd=folder, capture_output=True, text=True, check=True)
        answers.append(json.loads(answer.stdout))
    (names, found), (new_names, new_found) = answers
    assert names == list(NAMES)
    added = [new_names.index(f"Darken{number}") for number in range(3)]
    assert added == [0, names.index("Rotate") + 1, len(names) + 2]
    assert new_found == found
    assert len(found) == 3 * 2 + 2 + 2


def test_the_lists_of_the_random_policies_hold_fourteen_operations_each() -> None:
    for names in (policies.TRIVIAL_AUGMENT, *policies.RAND_AUGMENT.values()):
        assert len(set(names)) == len(names) == 14
        assert set(names) <= set(NAMES)
