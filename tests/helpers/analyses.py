"""Analyses of made-up records: a small one, one of many variants, one whose names are hostile."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from agmax.config import resolve
from agmax.config.resolve import Setting
from agmax.config.schema import Config
from agmax.reports import tables as contents
from agmax.studies import records
from agmax.studies.analysis import Analysis, Pair, VariantRuns, analyze
from agmax.studies.records import Record

NUM_TEST_IMAGES = 400
BUDGET = 8000

HOSTILE = (
    "<script>alert(1)</script>",
    "</svg></style><b onclick='x'>bold",
    "a|b`c` *d* _e_ ~f~",
    r"$\x_1{$ & 100 % #1 {y} \input{z} ~^",
    '"quoted" --- [link](//evil.example)',
    "{{ 7 * 7 }} {% raw %}",
    "[first] of a row",
    "* starred",
    "two\nlines \u202e &amp; 猫",
    "n" * 150,
)


def config(**settings: Any) -> Config:
    """Return the settings of a run."""
    listed = [Setting(key.replace("__", "."), value, "test") for key, value in settings.items()]
    return resolve.resolve("ResNet8-standard", dataset="digits", settings=listed).config


PLAIN = config()


def record(seed: int, error: float, *, of: Config = PLAIN, samples_seen: int = BUDGET, epochs: int = 4) -> Record:
    """Make the record of a finished run, as records.record_of_run does; error in percent, a multiple of 0.25."""
    labels = np.arange(NUM_TEST_IMAGES) % 10
    right = np.random.default_rng(seed).permutation(NUM_TEST_IMAGES) >= error * NUM_TEST_IMAGES / 100
    listed = list(range(1, epochs + 1))
    test = [100 - error - 5 * (epochs - epoch) for epoch in listed]

    def metrics(better: float = 0.0) -> dict[str, float]:
        return {"error": error - better, "top1": 100 - error + better, "top5": 99.0, "nll": error / 40, "ece": 0.02}

    return {
        "seed": seed,
        "config": of.name,
        "split": "test",
        "metrics": {"validation": metrics(), "test": metrics()},
        "best": {
            "best_on_validation": {"epoch": epochs, **metrics(0.25)},
            "best_on_test": {"epoch": epochs, **metrics(0.5)},
        },
        "curves": {
            "train_loss": {"epochs": listed, "values": [1 / epoch for epoch in listed]},
            "validation_top1": {"epochs": listed, "values": [value - 1 for value in test]},
            "test_top1": {"epochs": listed, "values": test},
        },
        "epochs": epochs,
        "steps": 1600,
        "samples_seen": samples_seen,
        "num_training_images": 1000,
        "seconds": 90.0,
        "environment": {**dict.fromkeys(records.ENVIRONMENT_KEYS), "torch": "2.14", "precision": "bf16", "threads": 2},
        "code": "0123456789abcdef",
        "num_test_images": NUM_TEST_IMAGES,
        "labels": records.checksum(labels),
        "right": records.pack_bits(right),
    }


def variant(
    name: str, errors: Sequence[float], *, paper: dict[str, float] | None = None, **options: Any
) -> VariantRuns:
    made = {seed: record(seed, error, **options) for seed, error in enumerate(errors)}
    return VariantRuns(name, f"what {name} is for", options.get("of", PLAIN), made, len(errors), paper or {})


def analyzed(variants: Sequence[VariantRuns], **options: Any) -> Analysis:
    return analyze("a study", variants, **{"metrics": ("error", "nll", "ece"), "budget": BUDGET, **options})


STEADY = [10.0] * 6
RISING = [10.25, 10.5, 10.75, 11.0, 11.25, 11.5]  # above STEADY by 0.25 to 1.5: mean 0.875, t interval -+ 0.4908
AROUND = [9.75, 10.25, 9.5, 10.5, 10.0, 10.25]


@functools.cache
def small(**options: Any) -> Analysis:
    """Two contrasts, a check that holds and one that does not, one other variant."""
    variants = [
        variant("steady", STEADY),
        variant("rising", RISING, paper={"error": 9.5}),
        variant("around", AROUND),
        variant("half", [11.0] * 6, samples_seen=BUDGET // 2),
        variant("alone", [9.0]),
    ]
    contrasts = [Pair("rising", "steady", "the best on validation"), Pair("around", "steady")]
    checks = [Pair("around", "rising", "", "no difference"), Pair("half", "steady", "", "a difference")]
    return analyzed(variants, contrasts=contrasts, checks=checks, notes=["a note"], **options)


@functools.cache
def many(num_variants: int, num_seeds: int, *, name: str = "variant_number_{}") -> Analysis:
    """Variants with names of their own, the last with one seed, every fourth with a published number."""
    rng = np.random.default_rng(0)
    variants = [
        variant(
            name.format(number),
            (np.round(4 * rng.normal(10 + number / 10, 0.5, num_seeds)) / 4)[
                : None if number < num_variants - 1 else 1
            ],
            of=config(optimizer__lr=0.01 * (1 + number % 3)),
            samples_seen=BUDGET if number else BUDGET // 2,
            paper={} if number % 4 else {"top1": 89.5},
        )
        for number in range(num_variants)
    ]
    names = [each.name for each in variants]
    return analyzed(
        variants,
        contrasts=[Pair(names[2], names[1], "the best on validation"), Pair(names[2], names[3])],
        checks=[Pair(names[4], names[1], "", "no gain")],
        about="does it help?",
    )


@functools.cache
def hostile() -> Analysis:
    """Everything that comes from a user's file says something nasty."""
    variants = [variant(name, STEADY)._replace(about=name) for name in HOSTILE]
    variants[0] = variant(HOSTILE[0], RISING, of=config(dataset__train_limit=100))._replace(about="two\nlines | <b>")
    pairs = [Pair(HOSTILE[0], name, name) for name in HOSTILE[1:5]]
    made = analyzed(variants, contrasts=pairs, checks=[Pair(HOSTILE[5], HOSTILE[6], "", "no gain")], notes=HOSTILE)
    environment = {"torch": list(HOSTILE), HOSTILE[0]: ["x"]}
    return made._replace(title=HOSTILE[0], about=HOSTILE[1], environment=environment)


def entries(table: contents.Table, row: int) -> dict[str, str]:
    return {column.title: cell for column, cell in zip(table.columns, table.rows[row], strict=True)}
