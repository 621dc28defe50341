"""Carrying out what the path asks of the real store, broker and clock."""

from collections.abc import Sequence
from datetime import timedelta
from typing import TypeVar

from jobkit.effects import Call, Claim, Effect, Pause, Record, Records
from jobkit.errors import JobkitError
from jobkit.store.base import Answer, JobStore

T = TypeVar("T")


class Seams:
    """Claims and records come as lists, so that they can be asked for in groups.

    Args:
        store: Keeps the records.
        ttl: How long a lease lasts without renewal.
    """

    def __init__(self, store: JobStore, ttl: timedelta) -> None:
        self._store = store
        self._ttl = ttl

    def __call__(self, effect: Effect) -> object:
        """Return the answer to an effect, or raise what the seam raises."""
        match effect:
            case Claim():
                return _only(self.claim([effect]))
            case Record():
                return _only(self.record([effect]))
            case Records(records):
                return self.record(records)
            case Call(do=do):
                return do()
            case Pause(seconds, unless):
                return unless.wait(seconds)
        raise AssertionError("the job is run by whoever walks the path")

    def claim(self, claims: Sequence[Claim]) -> list[Answer | JobkitError]:
        """Ask for jobs, and return an answer for each, or the error that its own record has met."""
        return self._store.acquire_all(claims, self._ttl)

    def record(self, records: Sequence[Record]) -> list[bool | JobkitError]:
        """Say what became of jobs; return for each whether its lease was still its own, or the error that it met."""
        return self._store.end_all(records)


def _only(answers: Sequence[T | JobkitError]) -> T:
    (answer,) = answers
    if isinstance(answer, JobkitError):
        raise answer
    return answer
