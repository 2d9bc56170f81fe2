"""How much a lesson computes: everything on small bags; less where a bag is as large as a real slide's.

The course trains dozens of models. On some hundred patches a slide that is a matter of seconds. Slides of patients have
some 20 000 patches each, and all six notebooks are to end within minutes on a laptop with two cores, in 2 GB of memory.
So lessons ask a `Budget` how many epochs, seeds and patches they may take, and print it where it says "less".
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from mil_tutorial.errors import require_integer

LARGE = 10**8  # bytes of the training features; a lesson takes less of more
MEMORY = 2**28  # bytes of large bags' features that a lesson keeps, so that it runs in 2 GB; others are read each time

Item = TypeVar("Item")


@dataclass(frozen=True)
class Budget:
    """How much a lesson computes; `DataRoot.budget` gives the one of a data root.

    Attributes:
        large: whether the training features are larger than 100 MB.

    >>> Budget(large=False).epochs(20), list(Budget(large=False).seeds(5))
    (20, [0, 1, 2, 3, 4])
    >>> Budget(large=True).epochs(20), list(Budget(large=True).seeds(5))
    (6, [0, 1])
    >>> print(Budget(large=False))
    small bags: a lesson takes all of them, all epochs and all seeds
    """

    large: bool

    @property
    def patches(self) -> int | None:
        """Most patches of a bag where the lesson is about training itself, see `bags_in_memory`; None: all."""
        return 2000 if self.large else None

    @property
    def batch_size(self) -> int:
        """Bags in a batch. One where they are large: no padding, and more steps an epoch, so that fewer epochs do."""
        return 1 if self.large else 4

    @property
    def px(self) -> int:
        """Side of a patch on a canvas in pixels."""
        return 16 if self.large else 50

    def epochs(self, full: int) -> int:
        """Epochs in place of `full`: three of ten, at least two, where bags are large.

        Raises:
            ParameterError: `full` is not a whole number of at least 1.
        """
        require_integer("full", full, low=1)
        return min(full, max(2, math.ceil(0.3 * full))) if self.large else full

    def seeds(self, full: int) -> range:
        """Seeds in place of `full`: at most two where bags are large.

        Raises:
            ParameterError: `full` is not a whole number of at least 1.
        """
        require_integer("full", full, low=1)
        return range(min(full, 2) if self.large else full)

    def first(self, items: Iterable[Item], n: int) -> list[Item]:
        """All items; the first `n` where bags are large.

        Raises:
            ParameterError: `n` is not a whole number of at least 1.
        """
        require_integer("n", n, low=1)
        return list(islice(items, n) if self.large else items)

    def __str__(self) -> str:
        if not self.large:
            return "small bags: a lesson takes all of them, all epochs and all seeds"
        return (
            "bags of real size: fewer epochs and seeds, one bag in a batch,"
            f" at most {self.patches} patches of a bag where training is the lesson"
        )
