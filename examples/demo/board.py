"""The jobs of the demo and where each stands, as the job store tells it."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from jobkit.contracts import Job
from jobkit.deadletters import Failure
from jobkit.producer import Producer
from jobkit.receipt import Receipt
from jobkit.store.base import JobKey, JobRecord, JobState, JobStore

POLL_SECONDS = 0.1  #: Fast enough to see a short job run, slow enough to leave the processors to the workers.


class Unexpected(Exception):
    """Something did not go as it should have; the message says what."""


@dataclass(frozen=True)
class Letter:
    """A dead letter, as whoever lists the dead-letter queue sees it."""

    actor: str
    job_id: str
    failure: Failure


class ListsDeadLetters(Protocol):
    """Where dead letters are looked up."""

    def dead_letters(self, service: str) -> Sequence[Letter]:
        """The dead letters of a service, oldest first; they stay where they are."""


@dataclass
class Entry:
    """One job that was sent.

    Attributes:
        record: What the store knew of it when it was last asked; None as long as it waits in its queue.
        seconds: From the sending until now, or until the job ended.
    """

    title: str
    receipt: Receipt
    sent_at: float
    record: JobRecord | None = None
    seconds: float = 0.0

    @property
    def service(self) -> str:
        """The service that runs it."""
        return self.receipt.queue.partition(".")[0]

    @property
    def state(self) -> str:
        """Where it stands, in a word."""
        return "queued" if self.record is None else self.record.state.value

    @property
    def ended(self) -> bool:
        """Whether it is done or dead."""
        return self.record is not None and self.record.state in (JobState.DONE, JobState.DEAD)


class Board:
    """Sends jobs and follows them by their ids. The stages use it from their threads, the main thread keeps it fresh.

    Args:
        producer: Sends.
        store: Is asked for the records.
        dead: Is asked for dead letters.
        run: Sets this run's business keys apart from those of the run before, whose records the store may still hold.
    """

    def __init__(self, producer: Producer, store: JobStore, dead: ListsDeadLetters, run: str) -> None:
        self.started_at = time.monotonic()
        self._producer = producer
        self._store = store
        self._dead = dead
        self._run = run
        self._entries: list[Entry] = []
        self._changed = threading.Condition()
        self._aborted = ""

    @property
    def entries(self) -> list[Entry]:
        """Every job that is followed, in the order of sending."""
        with self._changed:
            return list(self._entries)

    def send(self, title: str, job: Job, *, key: str | None = None, again: bool = False) -> Entry:
        """Send a job; returns once the broker has confirmed it.

        Args:
            title: What the screen calls it.
            job: What to do.
            key: What the job means; the same key is the same job.
            again: A job of this key is on the board already, so that the second message gets no line of its own.
        """
        receipt = self._producer.send(job, key=None if key is None else f"{self._run}/{key}")
        if again:
            return next(entry for entry in self.entries if entry.receipt.job_id == receipt.job_id)
        return self.follow(title, receipt)

    def follow(self, title: str, receipt: Receipt) -> Entry:
        """Follow a job that somebody else has sent."""
        entry = Entry(title, receipt, time.monotonic())
        with self._changed:
            self._entries.append(entry)
        return entry

    def done(self, entry: Entry) -> JobRecord:
        """Wait until the job is done, and return its record.

        Raises:
            Unexpected: it died, or the demo was stopped.
        """
        record = self.ended(entry)
        if record.state is not JobState.DONE:
            raise Unexpected(f"{entry.service}: {entry.title}: the job died: {record.failure}")
        return record

    def ended(self, entry: Entry) -> JobRecord:
        """Wait until the job is done or dead, and return its record."""
        self.until(lambda: entry.ended)
        if entry.record is None:
            raise Unexpected(f"{entry.service}: {entry.title}: the record is gone")
        return entry.record

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for the condition; it is checked again each time the board changes. The main thread bounds the wait."""
        with self._changed:
            while not condition():
                if self._aborted:
                    raise Unexpected(self._aborted)
                self._changed.wait(1.0)

    def dead_letters(self, service: str) -> Sequence[Letter]:
        """The dead letters of a service."""
        return self._dead.dead_letters(service)

    def refresh(self) -> None:
        """Ask the store for every job that has not ended."""
        for entry in self.entries:
            if not entry.ended:
                record = self._store.record(JobKey.of(entry.receipt.queue, entry.receipt.actor, entry.receipt.job_id))
                entry.seconds = time.monotonic() - entry.sent_at
                entry.record = record
        with self._changed:
            self._changed.notify_all()

    def abort(self, reason: str) -> None:
        """End every wait with ``Unexpected``, unless the reason is empty. The first reason stays."""
        with self._changed:
            self._aborted = self._aborted or reason
            self._changed.notify_all()
