"""What one part of the demo does: prepare its inputs, send its jobs, and look up what came out."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from board import Board


@dataclass(frozen=True)
class Finding:
    """One expected result, looked up where it should be.

    Attributes:
        text: What was expected, with the figures that were found.
        holds: Whether it is so.
    """

    text: str
    holds: bool


class Stage(Protocol):
    """One part of the demo. Its methods are called once each, in this order."""

    @property
    def title(self) -> str:
        """What the report calls it."""

    @property
    def place(self) -> Path | None:
        """Where its results are for a person to look at; None if they are nowhere but in the broker."""

    def prepare(self) -> None:
        """Put the inputs where the service finds them. Nothing is up yet."""

    def run(self, board: Board) -> None:
        """Send the jobs and wait for them, in a thread of its own; raises ``board.Unexpected``."""

    def headline(self) -> str:
        """What came out, in a few words, as the jobs' recorded results tell it."""

    def findings(self) -> Iterator[Finding]:
        """Look up every expected result by other means than the service's. The workers have ended."""
