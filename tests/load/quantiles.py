"""Percentiles and spread."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least ``percent`` of all do not exceed (the nearest rank)."""
    if not values:
        raise ValueError("there are no values")
    return sorted(values)[max(1, math.ceil(len(values) * percent / 100)) - 1]


@dataclass(frozen=True)
class Spread:
    """The median of some rounds, with the least and the most."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Take the rounds' values."""
        return cls(statistics.median(values), min(values), max(values))
