"""Looks again and again at counters that only rise, so that their growth between any two moments can be told."""

import time
from bisect import bisect_left
from collections.abc import Mapping

from cores import cores
from process_tree import ProcessTree

BUSY, ALL = "cores busy", "cores"


class Watch:
    """Counters over time: the processors' time of some process trees, and of the machine.

    Args:
        trees: By the names under which `between` tells their time.
    """

    def __init__(self, trees: Mapping[str, ProcessTree]) -> None:
        self._trees = trees
        self._moments: list[float] = []
        self._values: dict[str, list[float]] = {name: [] for name in (*trees, BUSY, ALL)}

    def look(self) -> None:
        """Note all counters as they are now."""
        machine = cores()
        seen = {name: tree.cpu_seconds() for name, tree in self._trees.items()}
        self.note(time.time(), {**seen, BUSY: machine.busy, ALL: machine.all})

    def note(self, moment: float, values: Mapping[str, float]) -> None:
        """Note values of a moment later than those before it."""
        self._moments.append(moment)
        for name, value in values.items():
            self._values[name].append(value)

    def between(self, name: str, first: float, last: float) -> float:
        """Return how much a counter grew between two moments; between two looks it grows evenly."""
        return self._at(name, last) - self._at(name, first)

    def fullness(self, first: float, last: float) -> float:
        """Return the part of the machine's cores that was busy between two moments, from 0 to 1."""
        return min(1.0, self.between(BUSY, first, last) / self.between(ALL, first, last))  # they are rounded apart

    def others(self, first: float, last: float) -> float:
        """Return the part that was busy with other processes than the trees."""
        ours = sum(self.between(name, first, last) for name in self._trees)
        return max(0.0, self.fullness(first, last) - ours / self.between(ALL, first, last))

    def _at(self, name: str, moment: float) -> float:
        if not self._moments or not self._moments[0] <= moment <= self._moments[-1]:
            raise ValueError(f"the moment {moment} is not within the looks")
        after = max(1, bisect_left(self._moments, moment))
        (start, end), values = self._moments[after - 1 : after + 1], self._values[name]
        return values[after - 1] + (values[after] - values[after - 1]) * (moment - start) / (end - start)
