"""Walks by case and seed."""

from choices import BySeed
from mistakes import MISTAKES
from simulated_workers import RIGHT
from world import CASES, Finding, explore

__all__ = ["CASES", "MISTAKES", "walk"]

#: How many things may go wrong in one walk: no more than a reader can follow.
FAULTS = (0, 1, 2, 2, 3)


def faults_of(seed: int) -> int:
    """How many faults a walk may have."""
    return FAULTS[seed % len(FAULTS)]


def walk(case: str, seed: int, mistake: str = "") -> str:
    """Take one walk; the finding and its story, or nothing."""
    wrong = MISTAKES[mistake] if mistake else RIGHT
    try:
        explore(CASES[case], BySeed(seed), faults=faults_of(seed), mistake=wrong)
    except Finding as finding:
        return "\n".join([str(finding), *finding.__notes__])
    return ""
