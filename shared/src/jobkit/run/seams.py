"""Carrying out what the path asks of the real store, broker and clock."""

from collections.abc import Sequence
from datetime import timedelta

from jobkit.effects import Buried, Call, Claim, Completed, Effect, Pause, Record, Released
from jobkit.store.base import Finished, Held, JobStore, Lease, Suspect


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
                return self.claim([effect])[0]
            case Record():
                return self.record([effect])[0]
            case Call(do=do):
                return do()
            case Pause(seconds, unless):
                return unless.wait(seconds)
        raise AssertionError("the job is run by whoever walks the path")

    def claim(self, claims: Sequence[Claim]) -> list[Lease | Held | Suspect | Finished]:
        """Ask for jobs, and return an answer for each."""
        return [
            self._store.acquire(
                claim.job,
                claim.owner,
                ttl=self._ttl,
                sent_at=claim.sent_at,
                job_round=claim.round,
                attempts_before=claim.attempts_before,
                alone_at=claim.alone_at,
                alone=claim.alone,
                due_at=claim.due_at,
                delay=claim.delay,
            )
            for claim in claims
        ]

    def record(self, records: Sequence[Record]) -> list[bool]:
        """Say what became of jobs, and return for each whether its lease was still its own."""
        return [self._record(record) for record in records]

    def _record(self, record: Record) -> bool:
        lease, end = record.lease, record.end
        match end:
            case Completed(result):
                return self._store.complete(lease, result)
            case Buried(failure):
                return self._store.bury(lease, failure=failure)
            case Released(delay, counted, failure, waits_for):
                return self._store.release(lease, delay=delay, counted=counted, failure=failure, waits_for=waits_for)
