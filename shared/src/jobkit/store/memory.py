"""A job store in this process's memory, for tests and the embedded mode."""

import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from jobkit.errors import JobkitError
from jobkit.rounds import Rounds, round_of, with_round
from jobkit.store.base import (
    CLOCK_SKEW,
    DUE_SLACK,
    MOST_SEEN,
    RESULT_TTL,
    Answer,
    Buried,
    Claim,
    Completed,
    Finished,
    Heartbeat,
    Held,
    JobKey,
    JobRecord,
    JobState,
    Lease,
    Process,
    Record,
    Released,
    Suspect,
    process_of,
)
from jobkit.time import milliseconds


@dataclass(slots=True)
class _Row:
    record: JobRecord
    owner: str = ""
    until: int = 0  # it is leased, or waits
    span: int = 0  # for how long it was leased, or made to wait
    sent_at: int = 0
    first_failed_at: int = 0
    expires_at: int = 0
    made: dict[str, bytes] = field(default_factory=dict)  # by name, what runs have stored
    crashes_before: int | None = None  # there once the job has made a checkpoint
    seen: tuple[int, ...] = ()  # the sends that were delivered, by their sent_at
    rounds: Rounds = ()  # those above 0 that the job has run in
    ahead: bool = False  # it was leased before there was a thread for it
    spared: bool = False  # such a lease has ended by time, and counted nothing: that happens once
    result_until: int = 0  # a done job's result, and what it said of its progress

    def see(self, sent_at: int) -> None:
        """Remember a send that was delivered; the last ones of many."""
        if sent_at not in self.seen:
            self.seen = (*self.seen, sent_at)[-MOST_SEEN:]

    def has_died_of(self, sent_at: int, job_round: int) -> bool:
        """Whether this death answers a delivery: not in a higher round, nor if it was sent later, by whatever clock."""
        if job_round > round_of(self.rounds, sent_at):
            return False
        old = sent_at > 0 and self.record.finished_at - sent_at > milliseconds(CLOCK_SKEW)
        return sent_at == self.sent_at or (sent_at < self.sent_at and (sent_at in self.seen or old))

    def is_of(self, lease: Lease) -> bool:
        return (self.record.fence, self.owner) == (lease.fence, lease.owner)


class MemoryStore:
    """Keeps the promises of ``JobStore`` for the threads of one process.

    Args:
        record_ttl: How long a record outlives its last change.
        clock: Seconds since the epoch; tests hand in one that they can move.
        is_open: Whether a breaker is open. Without it, leases do not say so, and the breakers themselves are asked.
        result_ttl: How long the result of a done job is kept, and its progress; at most as long as the record.
    """

    def __init__(
        self,
        record_ttl: timedelta = timedelta(days=1),
        clock: Callable[[], float] = time.time,
        is_open: Callable[[str], bool] | None = None,
        result_ttl: timedelta = RESULT_TTL,
    ) -> None:
        self._ttl, self._result_ttl = milliseconds(record_ttl), milliseconds(result_ttl)
        self._clock = clock
        self._is_open = is_open
        self._rows: dict[JobKey, _Row] = {}
        self._beats: dict[str, tuple[Process, int, int]] = {}  # the last one, when, and for how long it lends
        self._dead: dict[str, frozenset[int]] = {}  # by process, the numbers of the owners that had begun
        self._lock = threading.Lock()

    def acquire(
        self,
        job: JobKey,
        owner: str,
        *,
        ttl: timedelta,
        sent_at: int,
        job_round: int = 0,
        attempts_before: int = 0,
        alone_at: int = 0,
        alone: bool = False,
        due_at: int = 0,
        delay: timedelta = timedelta(),
        instead_of: str = "",
        ahead: bool = False,
        breaker: str = "",
    ) -> Lease | Held | Suspect | Finished:
        with self._lock:
            now = self._now()
            row = self._row(job) or _Row(JobRecord(job, JobState.WAITING, 0, 0, 0))
            is_new = job not in self._rows or row.record.state is JobState.DEAD
            record = row.record
            if record.state is JobState.RUNNING and row.owner == owner:
                self._lend(row, ttl, now)  # it is told of its lease only now
                row.ahead = row.ahead and ahead  # else by the thread that runs the job
                return self._lease(row, breaker)
            begun = False if self._was_given_to(row, instead_of) else self._begun(row)
            refusal = self._refusal(row, now, sent_at=sent_at, job_round=job_round, lapsed=begun is not None)
            if refusal is not None:
                return refusal
            anew = record.state is JobState.DEAD
            is_spared = record.state is JobState.RUNNING and begun is None and row.ahead
            stalled = record.state is JobState.RUNNING and begun is not False and not is_spared
            crashes = 0 if anew else record.crashes + stalled
            if alone_at and crashes == alone_at and not alone:
                return Suspect(crashes)
            row.see(sent_at)
            rounds = with_round(row.rounds, sent_at, job_round, MOST_SEEN)
            latest = max(row.sent_at, sent_at)
            early = min(due_at - now, milliseconds(delay))
            if early > milliseconds(DUE_SLACK) and is_new:
                waiting = JobRecord(job, JobState.WAITING, 0, 0, record.fence, waits_for="its delay")
                self._rows[job] = row = _Row(waiting, sent_at=latest, made=row.made, seen=row.seen, rounds=rounds)
                self._make_wait(row, early, now)
                return Held(timedelta(milliseconds=early), JobState.WAITING)
            crashes_before = None if anew else row.crashes_before
            made = 0 if anew else record.attempt - (begun is False or is_spared)
            before = max(made, 0 if crashes_before is not None else attempts_before)
            # No lower than the clock, so that it rises even over the loss or the expiry of the record.
            fence = max(record.fence + 1, now)
            first_failed_at = 0 if anew else row.first_failed_at
            spared = not anew and (row.spared or is_spared)
            failure = record.failure if first_failed_at else ""
            started = JobRecord(job, JobState.RUNNING, before + 1, crashes, fence, started_at=now, failure=failure)
            self._rows[job] = row = _Row(
                started,
                owner,
                sent_at=latest,
                first_failed_at=first_failed_at,
                made=row.made,
                crashes_before=crashes_before,
                seen=row.seen,
                rounds=rounds,
                ahead=ahead and not spared,
                spared=spared,
            )
            self._lend(row, ttl, now)
            return replace(self._lease(row, breaker), stalled=stalled)

    def acquire_all(self, claims: Sequence[Claim], ttl: timedelta) -> list[Answer | JobkitError]:
        return [self._acquire(claim, ttl) for claim in claims]

    def _acquire(self, claim: Claim, ttl: timedelta) -> Answer:
        return self.acquire(
            claim.job,
            claim.owner,
            ttl=ttl,
            sent_at=claim.sent_at,
            job_round=claim.job_round,
            attempts_before=claim.attempts_before,
            alone_at=claim.alone_at,
            alone=claim.alone,
            due_at=claim.due_at,
            delay=claim.delay,
            instead_of=claim.instead_of,
            ahead=claim.ahead,
            breaker=claim.breaker,
        )

    def end_all(self, records: Sequence[Record]) -> list[bool | JobkitError]:
        return [self._end(record.lease, record.end) for record in records]

    def _end(self, lease: Lease, end: Completed | Released | Buried) -> bool:
        match end:
            case Completed(result):
                return self.complete(lease, result)
            case Buried(failure):
                return self.bury(lease, failure=failure)
            case Released(delay, counted, failure, waits_for):
                return self.release(lease, delay=delay, counted=counted, failure=failure, waits_for=waits_for)

    def renew(self, leases: Sequence[Lease], ttl: timedelta, process: Process | None = None) -> list[bool]:
        with self._lock:
            now = self._now()
            if process is not None:
                self._beats[process.name] = process, now, milliseconds(ttl)
            held = []
            for lease in leases:
                row = self._row_of(lease)
                runs = row is not None and row.record.state is JobState.RUNNING
                if row and runs:
                    self._lend(row, ttl, now)
                held.append(runs)
            return held

    def declare_dead(self, process: str, service: str, begun: Collection[int]) -> None:
        with self._lock:
            self._dead[process] = frozenset(begun)

    def processes(self, service: str) -> list[Heartbeat]:
        with self._lock:
            now = self._now()
            return [
                Heartbeat(process, beat_at, now < beat_at + span and process.name not in self._dead)
                for process, beat_at, span in self._beats.values()
                if process.service == service
            ]

    def complete(self, lease: Lease, result: bytes) -> bool:
        return self._finish(lease, JobState.DONE, result=result)

    def bury(self, lease: Lease, *, failure: str) -> bool:
        return self._finish(lease, JobState.DEAD, failure=failure)

    def release(self, lease: Lease, *, delay: timedelta, counted: bool, failure: str = "", waits_for: str = "") -> bool:
        with self._lock:
            row = self._row_of(lease)
            if row and row.record.state is JobState.RUNNING:
                now = self._now()
                if failure and not row.first_failed_at:
                    row.first_failed_at = now
                row.record = replace(
                    row.record,
                    state=JobState.WAITING,
                    attempt=row.record.attempt if counted else row.record.attempt - 1,
                    failure=failure or row.record.failure,
                    waits_for=waits_for,
                )
                self._make_wait(row, milliseconds(delay), now)
            return row is not None

    def report(self, lease: Lease, *, percent: float, step: str, note: str) -> bool:
        with self._lock:
            row = self._running(lease)
            if row is not None:
                row.record = replace(row.record, percent=percent, step=step, note=note)
            return row is not None

    def remember(self, lease: Lease, name: str, value: bytes) -> bytes | None:
        with self._lock:
            row = self._running(lease)
            return row.made.setdefault(name, value) if row is not None else None

    def forget(self, lease: Lease, name: str) -> bool:
        with self._lock:
            row = self._running(lease)
            if row is not None:
                row.made.pop(name, None)
            return row is not None

    def checkpoint(self, lease: Lease) -> bool:
        with self._lock:
            row = self._running(lease)
            if row is not None:
                row.crashes_before = (row.crashes_before or 0) + row.record.crashes
                row.ahead = False  # it has begun
                row.record = replace(row.record, attempt=1, crashes=0)
            return row is not None

    def record(self, job: JobKey) -> JobRecord | None:
        with self._lock:
            row = self._row(job)
            if row is None:
                return None
            state = row.record.state
            if state is JobState.DONE and row.result_until <= self._now():
                row.record = replace(row.record, step="", note="", result=b"")
            return replace(
                row.record,
                lease_until=row.until if state is JobState.RUNNING else 0,
                due_at=row.until if state is JobState.WAITING else 0,
                round=round_of(row.rounds, row.sent_at),
            )

    def ping(self) -> None: ...

    def close(self) -> None: ...

    def _now(self) -> int:
        return round(self._clock() * 1000)

    def _row(self, job: JobKey) -> _Row | None:
        row = self._rows.get(job)
        if row is not None and row.expires_at <= self._now():
            del self._rows[job]
            return None
        return row

    def _row_of(self, lease: Lease) -> _Row | None:
        """The record, if it is this lease's. One that was lost, or is from before the lease, is written again."""
        row = self._row(lease.job)
        if row is None or (row.record.fence < lease.fence and row.record.state is not JobState.DONE):
            record = JobRecord(lease.job, JobState.RUNNING, lease.attempt, lease.crashes, lease.fence)
            row = _Row(
                record,
                lease.owner,
                sent_at=lease.sent_at,
                first_failed_at=lease.first_failed_at,
                seen=(lease.sent_at,),
                rounds=lease.rounds,
            )
            self._rows[lease.job] = row
        return row if row.is_of(lease) else None

    def _running(self, lease: Lease) -> _Row | None:
        """The record, if the job runs under this lease."""
        row = self._row(lease.job)
        runs = row is not None and row.is_of(lease) and row.record.state is JobState.RUNNING
        return row if runs else None

    def _lend(self, row: _Row, ttl: timedelta, now: int) -> None:
        row.span = milliseconds(ttl)
        row.until = now + row.span
        row.expires_at = row.until + self._ttl

    def _make_wait(self, row: _Row, span: int, now: int) -> None:
        row.span = span
        row.until = now + span
        row.expires_at = row.until + self._ttl

    def _was_given_to(self, row: _Row, owner: str) -> bool:
        return bool(owner) and row.owner == owner and row.record.state is JobState.RUNNING

    def _begun(self, row: _Row) -> bool | None:
        """Whether the job had begun when its process was declared dead; None if its lease has not ended so."""
        owner = process_of(row.owner)
        if row.record.state is not JobState.RUNNING or owner is None or owner[0] not in self._dead:
            return None
        return owner[1] in self._dead[owner[0]]

    def _refusal(self, row: _Row, now: int, *, sent_at: int, job_round: int, lapsed: bool) -> Held | Finished | None:
        """Return why the job is not given out; None if it may be."""
        record = row.record
        if record.state is JobState.DONE:
            return Finished(record.state)
        if record.state is JobState.DEAD:
            return Finished(record.state) if row.has_died_of(sent_at, job_round) else None
        if row.until:
            row.see(sent_at)
        # More than there was at first means that the clock went back: nobody knows how much has passed, so it begins
        # again, and is over when that much has passed from now.
        row.until = min(row.until, now + row.span)
        slack = milliseconds(DUE_SLACK) if record.state is JobState.WAITING else 0
        if row.until > now + slack and not lapsed:
            return Held(timedelta(milliseconds=row.until - now), record.state)
        return None

    def _lease(self, row: _Row, breaker: str) -> Lease:
        record = row.record
        return Lease(
            record.job,
            row.owner,
            record.fence,
            record.attempt,
            record.crashes,
            row.first_failed_at,
            row.sent_at,
            row.crashes_before or 0,
            rounds=row.rounds,
            breaker_open=self._is_open(breaker) if self._is_open is not None and breaker else None,
        )

    def _finish(self, lease: Lease, state: JobState, *, result: bytes = b"", failure: str = "") -> bool:
        with self._lock:
            row = self._row_of(lease)
            # Waiting, if its worker has handed the job back on its behalf, and it came to an end after all.
            if row and row.record.state in {JobState.RUNNING, JobState.WAITING}:
                now = self._now()
                row.record = replace(row.record, state=state, finished_at=now, result=result, failure=failure)
                row.expires_at = now + self._ttl
                if state is JobState.DONE:
                    row.record = replace(row.record, percent=100.0, waits_for="")
                    row.result_until = now + min(self._result_ttl, self._ttl)
                    row.made, row.seen = {}, ()  # it never runs again
            return row is not None and row.record.state is state
