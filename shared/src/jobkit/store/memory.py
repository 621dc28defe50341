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
            row = self._row(job, now) or _Row(JobRecord(job, JobState.WAITING, attempts_before, 0, 0))
            record = row.record
            if record.state is JobState.DONE:
                return Finished(JobState.DONE)
            if record.state is JobState.DEAD:
                if row.sent_at == sent_at and not revived:
                    return Finished(JobState.DEAD)
                record = JobRecord(job, JobState.WAITING, 0, 0, record.fence)
                row.first_failed_at = 0
            crashes = record.crashes
            if record.state is JobState.RUNNING:
                if row.owner == owner:
                    return self._lease(row)
                if row.lease_until > now:
                    return Held(timedelta(milliseconds=row.lease_until - now), JobState.RUNNING)
                crashes += 1
                row.record = record = replace(record, state=JobState.WAITING, crashes=crashes, due_at=now)
            elif record.due_at > now + milliseconds(DUE_SLACK):
                return Held(timedelta(milliseconds=record.due_at - now), JobState.WAITING)
            if alone_at and crashes == alone_at and not alone:
                return Suspect(crashes)
            row.record = JobRecord(
                job,
                JobState.RUNNING,
                max(record.attempt, attempts_before) + 1,
                crashes,
                record.fence + 1,
                started_at=now,
                failure=record.failure,
            )
            row.owner, row.lease_until, row.sent_at = owner, now + milliseconds(ttl), sent_at
            row.expires_at = row.lease_until + self._ttl
            self._rows[job] = row
            return self._lease(row)

    def renew(self, leases: Sequence[Lease], ttl: timedelta) -> list[bool]:
        with self._lock:
            now = self._now()
            held = []
            for lease in leases:
                row = self._held(lease)
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
                row.owner, row.lease_until = "", 0
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
            return row.record if row else None

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

    def _last(self, lease: Lease) -> _Row | None:
        row = self._rows.get(lease.job)
        return row if row is not None and row.record.fence == lease.fence else None

    def _held(self, lease: Lease) -> _Row | None:
        row = self._last(lease)
        return row if row is not None and row.owner == lease.owner else None

    def _lease(self, row: _Row) -> Lease:
        record = row.record
        return Lease(record.job, row.owner, record.fence, record.attempt, record.crashes, row.first_failed_at)

    def _finish(self, lease: Lease, state: JobState, *, result: bytes = b"", failure: str = "") -> bool:
        with self._lock:
            lost = _Row(JobRecord(lease.job, JobState.RUNNING, lease.attempt, lease.crashes, lease.fence))
            row = self._rows.setdefault(lease.job, lost)
            if row.record.fence != lease.fence:
                return False
            if row.record.state is JobState.RUNNING:
                now = self._now()
                percent = 100.0 if state is JobState.DONE else row.record.percent
                row.record = replace(
                    row.record, state=state, finished_at=now, percent=percent, result=result, failure=failure
                )
                row.owner, row.lease_until = "", 0
                row.expires_at = now + self._ttl
            return row.record.state is state
