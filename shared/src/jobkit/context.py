"""What a running job may ask for."""

import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, TypeVar

from jobkit.children import RESERVED, Children
from jobkit.contracts.job import Job
from jobkit.contracts.tick import Tick
from jobkit.errors import LeaseLost, StoreUnavailable
from jobkit.execution import Execution
from jobkit.interrupts import Interrupts
from jobkit.receipt import Receipt
from jobkit.store.base import JobStore, Lease

R = TypeVar("R")
T = TypeVar("T")

#: Characters.
_LONGEST_NOTE = 1_000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Context(Generic[R]):
    """Handed to every actor beside its job.

    Attributes:
        job_id: The same on every run of this job; make effects idempotent under it.
        attempt: Which run this is, from 1, since the job's last checkpoint.
        fence: Higher on every run. A database can refuse writes that carry a lower one.
        resources: What the service's lifespan has opened.
        sent_at: When the job was sent, by its sender's clock. The same for every run, redelivery and copy of the
            message, and for a dead letter that is sent back.
    """

    job_id: str
    attempt: int
    fence: int
    resources: R
    sent_at: datetime
    _execution: Execution
    _lease: Lease
    _store: JobStore
    _children: Children
    _interrupts: Interrupts
    _stopping: threading.Event

    @property
    def stopping(self) -> bool:
        """Whether the worker was told to stop: a long job saves what it has, and raises ``Snooze(0)``.

        It has until the end of the grace, like any other job.
        """
        return self._stopping.is_set()

    @property
    def tick(self) -> Tick | None:
        """The due time of a periodic job, with the name of its schedule; None for a job that somebody has sent."""
        return Tick.of(self._execution.message.options)

    def progress(self, percent: float, step: str = "", note: str = "") -> None:
        """Record how far the job is, 0 to 100, for whoever asks by its id.

        While the store is away, nothing is recorded. ``step`` and ``note`` are cut to 1,000 characters.
        """
        percent = 0.0 if math.isnan(percent) else max(0.0, min(100.0, percent))
        step, note = _storable(step), _storable(note)
        try:
            self._interrupts.shielded(lambda: self._store.report(self._lease, percent=percent, step=step, note=note))
        except StoreUnavailable as outage:
            log.warning("progress is not recorded: %s", outage)

    def remember(self, name: str, value: str) -> str:
        """Store ``value`` in the job's record, unless a run of the job has stored one before; return what is stored.

        It is durable when this returns, and lasts as long as the record. So a run can say that it is about to do what
        must not be done twice, and a later run can tell.

        Raises:
            ValueError: the name is empty, or begins with ``jobkit.``.
            StoreUnavailable: it cannot be stored now; uncaught, the job runs again and uses up no attempt.
            LeaseLost: another worker has the job by now.
        """
        stored = self._interrupts.shielded(lambda: self._store.remember(self._lease, _checked(name), value.encode()))
        if stored is None:
            raise LeaseLost("another worker holds the job's lease by now")
        return stored.decode()

    def forget(self, name: str) -> None:
        """Remove what was remembered under ``name``.

        Raises:
            StoreUnavailable: it cannot be removed now.
            LeaseLost: another worker has the job by now.
        """
        if not self._interrupts.shielded(lambda: self._store.forget(self._lease, _checked(name))):
            raise LeaseLost("another worker holds the job's lease by now")

    def checkpoint(self) -> None:
        """Say that the work so far is kept elsewhere: attempts and crashes count from here on.

        For jobs that take longer than any worker lives. Ten workers that die are too many all the same. While the store
        is away, nothing is recorded.
        """
        try:
            kept = self._interrupts.shielded(lambda: self._store.checkpoint(self._lease))
        except StoreUnavailable as outage:
            log.warning("a checkpoint is not recorded: %s", outage)
        else:
            self._execution.at_checkpoint = self._execution.at_checkpoint or kept

    def shielded(self, call: Callable[[], T], *, at_most: timedelta) -> T:
        """Return what ``call`` returns, and let no interrupt cut it in half.

        The time limit, a lost lease or the end of the worker are raised after it has returned. Keep it short, and the
        worker's grace longer than that.

        Args:
            call: Has to end by itself.
            at_most: Within this time. A job that takes longer counts as stuck from then on.
        """
        return self._interrupts.shielded(call, at_most=at_most.total_seconds())

    def send(
        self,
        job: Job,
        *,
        lane: str | None = None,
        key: str | None = None,
        child_key: str | None = None,
        delay: timedelta | None = None,
    ) -> Receipt:
        """Send a further job; returns once the broker has confirmed it, and waits while the broker is away.

        A run that repeats this one sends the same jobs, and they do not run twice: without a key, a job's id is derived
        from this job's id and from the number of the call.

        Args:
            job: What to do.
            lane: One of the contract's lanes; its default lane if none is given.
            key: What the job means in your business (``"invoice/17"``), as for ``Producer.send``: jobs and producers
                that send under one key send one job. Costs a call to the store.
            child_key: What the job means to this job alone: its id is derived from this job's id and the key. Give it
                where the order of the calls may differ between runs.
            delay: Run it no earlier than this from now, to the second.

        Raises:
            SendError: it can never be sent, being too large for one; this job fails.
            ValueError: both keys are given, one is blank, the contract has no such lane, or the delay is too long.
            LeaseLost: another worker has the job by now.
        """
        after = delay or timedelta()
        return self._children.send(self._execution, job, lane=lane, key=key, child_key=child_key, delay=after)


def _checked(name: str) -> str:
    if not name or name.startswith(RESERVED):
        raise ValueError(f"name={name[:50]!r} must be a text that does not begin with {RESERVED!r}")
    return name


def _storable(text: str) -> str:
    """The text without what UTF-8 cannot express: a file's name may hold bytes of another encoding."""
    return str(text)[:_LONGEST_NOTE].encode("utf-8", "backslashreplace").decode("utf-8")
