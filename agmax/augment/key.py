"""The key that determines all random numbers of an augmentation."""

from dataclasses import dataclass

import numpy as np
import torch

from agmax.core.rng import generator


@dataclass(frozen=True, init=False)
class Key:
    """A key for the random numbers of one batch: a seed, a path such as the step, and optionally a view.

    Every purpose and every view has its own random stream, so that no transform affects another.
    """

    seed: int
    path: tuple[str | int, ...]
    view: int | None

    def __init__(self, seed: int, *path: str | int, view: int | None = None) -> None:
        object.__setattr__(self, "seed", seed)
        object.__setattr__(self, "path", path)
        object.__setattr__(self, "view", view)

    @classmethod
    def fresh(cls) -> "Key":
        """Draw a key from torch's default generator, which `torch.manual_seed` seeds."""
        return cls(int(torch.randint(2**63 - 1, ())))

    def of_view(self, view: int) -> "Key":
        """Return the key of one view of the batch."""
        return Key(self.seed, *self.path, view=view)

    def rng(self, purpose: str) -> np.random.Generator:
        """Return a new generator for one purpose.

        Raises:
            TypeError: the seed or a part of the path is neither str nor int.
        """
        return generator(self.seed, "augment", *self.path, purpose, *(() if self.view is None else (self.view,)))
