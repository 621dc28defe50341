"""A job store in this process's memory, for tests and the embedded mode."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from jobkit.store.base import DUE_SLACK, Finished, Held, JobKey, JobRecord, JobState, Lease, Suspect
from jobkit.time import milliseconds


@dataclass(slots=True)
class _Row:
    record: JobRecord
    owner: str = ""
    lease_until: int = 0
    sent_at: int = 0
    first_failed_at: int = 0
    expires_at: int = 0


class MemoryStore:
    """Keeps the promises of ``JobStore`` for the threads of one process.

    Args:
        record_ttl: How long a record outlives its last change.
        clock: Seconds since the epoch; tests hand in one that they can move.
    """

    def __init__(self, record_ttl: timedelta = timedelta(days=1), clock: Callable[[], float] = time.time) -> None:
        self._ttl = milliseconds(record_ttl)
        self._clock = clock
        self._rows: dict[JobKey, _Row] = {}
        self._lock = threading.Lock()

    def acquire(
        self,
        job: JobKey,
        owner: str,
        *,
        ttl: timedelta,
        sent_at: int,
        attempts_before: int = 0,
        revived: bool = False,
        alone_at: int = 0,
        alone: bool = False,
    ) -> Lease | Held | Suspect | Finished:
        with self._lock:
            now = self._now()
            row = self._row(job, now) or _Row(JobRecord(job, JobState.WAITING, 0, 0, 0))
            record = row.record
            answer = self._refusal(row, owner, now, sent_at=sent_at, revived=revived)
            if answer is not None:
                return answer
            anew = record.state is JobState.DEAD
            crashes = 0 if anew else record.crashes + (record.state is JobState.RUNNING)
            if alone_at and crashes == alone_at and not alone:
                return Suspect(crashes)
            before = max(0 if anew else record.attempt, 0 if revived else attempts_before)
            # No lower than the clock, so that it rises even over the loss or the expiry of the record.
            fence = max(record.fence + 1, now)
            first_failed_at = 0 if anew else row.first_failed_at
            failure = record.failure if first_failed_at else ""
            started = JobRecord(job, JobState.RUNNING, before + 1, crashes, fence, started_at=now, failure=failure)
            until = now + milliseconds(ttl)
            self._rows[job] = row = _Row(started, owner, until, sent_at, first_failed_at, until + self._ttl)
            return self._lease(row)

    def renew(self, leases: Sequence[Lease], ttl: timedelta) -> list[bool]:
        with self._lock:
            now = self._now()
            held = []
            for lease in leases:
                row = self._held(lease, or_lost=True)
                if row is not None:
                    row.lease_until = now + milliseconds(ttl)
                    row.expires_at = row.lease_until + self._ttl
                held.append(row is not None)
            return held

    def complete(self, lease: Lease, result: bytes) -> bool:
        return self._finish(lease, JobState.DONE, result=result)

    def bury(self, lease: Lease, *, failure: str) -> bool:
        return self._finish(lease, JobState.DEAD, failure=failure)

    def release(self, lease: Lease, *, delay: timedelta, counted: bool, failure: str = "") -> bool:
        with self._lock:
            row = self._last(lease)
            if row is None:
                return False
            now = self._now()
            if row.record.state is JobState.RUNNING:
                if failure and not row.first_failed_at:
                    row.first_failed_at = now
                row.record = replace(
                    row.record,
                    state=JobState.WAITING,
                    attempt=row.record.attempt if counted else row.record.attempt - 1,
                    due_at=now + milliseconds(delay),
                    failure=failure or row.record.failure,
                )
                row.lease_until = 0
                row.expires_at = row.record.due_at + self._ttl
            return True

    def report(self, lease: Lease, *, percent: float, step: str, note: str) -> bool:
        with self._lock:
            row = self._held(lease)
            if row is not None:
                row.record = replace(row.record, percent=percent, step=step, note=note)
            return row is not None

    def record(self, job: JobKey) -> JobRecord | None:
        with self._lock:
            row = self._row(job, self._now())
            return replace(row.record, lease_until=row.lease_until) if row else None

    def ping(self) -> None: ...

    def close(self) -> None: ...

    def _now(self) -> int:
        return int(self._clock() * 1000)

    def _row(self, job: JobKey, now: int) -> _Row | None:
        row = self._rows.get(job)
        if row is not None and row.expires_at <= now:
            del self._rows[job]
            return None
        return row

    def _refusal(
        self, row: _Row, owner: str, now: int, *, sent_at: int, revived: bool
    ) -> Lease | Held | Finished | None:
        """Why the job is not given out anew; None if it may be."""
        record = row.record
        if record.state is JobState.DONE or (record.state is JobState.DEAD and row.sent_at == sent_at and not revived):
            return Finished(record.state)
        if record.state is JobState.RUNNING and row.owner == owner:
            return self._lease(row)
        if record.state is JobState.RUNNING and row.lease_until > now:
            return Held(timedelta(milliseconds=row.lease_until - now), JobState.RUNNING)
        if record.state is JobState.WAITING and record.due_at > now + milliseconds(DUE_SLACK):
            return Held(timedelta(milliseconds=record.due_at - now), JobState.WAITING)
        return None

    def _last(self, lease: Lease) -> _Row | None:
        """The record, if nobody was given a lease after this one."""
        row = self._rows.get(lease.job)
        return row if row is not None and (row.record.fence, row.owner) == (lease.fence, lease.owner) else None

    def _held(self, lease: Lease, *, or_lost: bool = False) -> _Row | None:
        """The record, if the job still runs under this lease; one that was lost can be written anew."""
        if or_lost and self._row(lease.job, self._now()) is None:
            self._rows[lease.job] = self._written_anew(lease)
        row = self._last(lease)
        return row if row is not None and row.record.state is JobState.RUNNING else None

    def _written_anew(self, lease: Lease) -> _Row:
        record = JobRecord(lease.job, JobState.RUNNING, lease.attempt, lease.crashes, lease.fence)
        return _Row(record, lease.owner, expires_at=self._now() + self._ttl)

    def _lease(self, row: _Row) -> Lease:
        record = row.record
        return Lease(record.job, row.owner, record.fence, record.attempt, record.crashes, row.first_failed_at)

    def _finish(self, lease: Lease, state: JobState, *, result: bytes = b"", failure: str = "") -> bool:
        with self._lock:
            self._rows.setdefault(lease.job, self._written_anew(lease))
            row = self._last(lease)
            if row is None:
                return False
            if row.record.state is JobState.RUNNING:
                now = self._now()
                percent = 100.0 if state is JobState.DONE else row.record.percent
                row.record = replace(
                    row.record, state=state, finished_at=now, percent=percent, result=result, failure=failure
                )
                row.lease_until, row.expires_at = 0, now + self._ttl
            return row.record.state is state
