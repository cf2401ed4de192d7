"""The defaults of the schema are frozen: a study's finished runs are known by the settings that differ from them."""

from agmax.config import schema
from helpers.places import golden


def test_every_default_of_the_schema_is_the_frozen_one() -> None:
    """To add a setting, add its default here, which must be what was done before; never change one that stands here.

    A changed default would give finished runs of studies, and old run folders, another meaning under the same key.
    """
    _, keys = schema.sections_and_keys()
    assert {key: schema.default(key) for key in keys} == golden("defaults.json")
