"""How much room the job store has left, and who is told."""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from jobkit.errors import StoreUnavailable

#: The share of its memory that a store may use before it is warned of, and the one below which it is as before: a store
#: that goes up and down by a little is warned of once.
SCARCE: Final = 0.80
_AMPLE: Final = 0.75

#: One in so many looks asks the store, and each look at one that was full.
_EACH: Final = 3

_TO_DO: Final = "give it memory, see docs/how-to/production.md"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Memory:
    """What a store uses of the memory that it may use, in bytes."""

    used: int
    limit: int

    @property
    def is_full(self) -> bool:
        """Whether it refuses writes."""
        return self.used >= self.limit

    @property
    def share(self) -> float:
        """Return what it uses of what it may, from 0 to about 1."""
        return self.used / self.limit

    def __str__(self) -> str:
        return f"{self.used / 2**20:,.0f} of {self.limit / 2**20:,.0f} MB"


def why_jobs_wait(memory: Memory | None = None) -> str:
    """Return what to say of a store that is full."""
    figures = "" if memory is None else f" ({memory})"
    return f"the job store is full{figures}: running jobs end, and new ones wait until it has room: {_TO_DO}"


class Room:
    """Watches the memory of the job store: warns when it gets scarce, and says why jobs wait when there is none left.

    Args:
        ask: Returns what the store uses; None if it has no limit, or does not say.
    """

    def __init__(self, ask: Callable[[], Memory | None]) -> None:
        self._ask = ask
        self._looks = 0
        self._is_warned = False
        self._note = ""
        self._lock = threading.Lock()

    def look(self, *, refused: bool) -> None:
        """Look again: now and then at what the store says of itself. An outage changes nothing.

        Args:
            refused: Whether it has just refused a write, because it is full.
        """
        asks, self._looks = self._looks % _EACH == 0 or bool(self._note), self._looks + 1
        try:
            memory = self._ask() if asks or refused else None
        except StoreUnavailable:
            memory = None
        if memory is not None:
            self._warn(memory)
        with self._lock:
            if refused or (memory is not None and memory.is_full):
                self._note = why_jobs_wait(memory)
            elif asks or memory is not None:
                self._note = ""

    def notes(self) -> list[str]:
        """Return why jobs wait, if the store was full when it was last looked at."""
        with self._lock:
            return [self._note] if self._note else []

    def _warn(self, memory: Memory) -> None:
        if memory.share >= SCARCE and not self._is_warned:
            self._is_warned = True
            log.warning(
                "the job store uses %.0f %% of its memory (%s). New jobs wait when it is full: %s",
                *(memory.share * 100, memory, _TO_DO),
            )
        elif memory.share < _AMPLE:
            self._is_warned = False
