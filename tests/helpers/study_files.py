"""A small study file, and a tuning to write behind it."""

from collections.abc import Callable
from pathlib import Path

SMALL = """\
about: small
base: ResNet8
dataset: digits
settings: {train.epochs: 2, dataset.validation: 0.1}
seeds: 2
variants:
  plain: {}
  agmax: {parts: agmax}
"""

Write = Callable[[str], Path]

TUNE = "tune:\n  seeds: [50]\n  trials:\n    agmax: [{optimizer.lr: 0.1}, {optimizer.lr: 0.2}]\n"
