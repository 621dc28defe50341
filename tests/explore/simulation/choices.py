"""Who decides what happens next: a seed, a recorded list, or each possibility in turn."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol


class Chooser(Protocol):
    """Decides what happens next."""

    def choose(self, weights: Sequence[float]) -> int:
        """The number of one of the possibilities; the heavier, the likelier."""


class BySeed:
    """The same choices for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def choose(self, weights: Sequence[float]) -> int:
        if len(weights) == 1:
            return 0
        left = self._random.random() * sum(weights)
        for number, weight in enumerate(weights):
            left -= weight
            if left < 0:
                return number
        return len(weights) - 1


@dataclass
class InTurn:
    """Follows a list as far as it goes, then takes the first possibility; ``next`` makes the list of the next walk."""

    given: Sequence[int] = ()
    taken: list[int] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)

    def choose(self, weights: Sequence[float]) -> int:
        number = self.given[len(self.taken)] if len(self.taken) < len(self.given) else 0
        self.taken.append(number)
        self.widths.append(len(weights))
        return number

    def next(self) -> "InTurn | None":
        """The walk after this one; None if this was the last."""
        for place in reversed(range(len(self.taken))):
            if self.taken[place] + 1 < self.widths[place]:
                return InTurn([*self.taken[:place], self.taken[place] + 1])
        return None
