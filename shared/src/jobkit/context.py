"""What a running job may ask for."""

import logging
import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar

from jobkit.children import Children
from jobkit.contracts.job import Job
from jobkit.contracts.tick import Tick
from jobkit.errors import StoreUnavailable
from jobkit.execution import Execution
from jobkit.interrupts import Interrupts
from jobkit.receipt import Receipt
from jobkit.store.base import JobStore, Lease

R = TypeVar("R")

#: Characters.
_LONGEST_NOTE = 1_000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Context(Generic[R]):
    """Handed to every actor beside its job.

    Attributes:
        job_id: The same on every run of this job; make effects idempotent under it.
        attempt: Which run this is, from 1.
        fence: Higher on every run. A database can refuse writes that carry a lower one.
        resources: What the service's lifespan has opened.
    """

    job_id: str
    attempt: int
    fence: int
    resources: R
    _execution: Execution
    _lease: Lease
    _store: JobStore
    _children: Children
    _interrupts: Interrupts

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

    def send(
        self, job: Job, *, lane: str | None = None, key: str | None = None, delay: timedelta | None = None
    ) -> Receipt:
        """Send a further job; returns once the broker has confirmed it, and waits while the broker is away.

        Its id is derived from this job's: from ``key`` if one is given, else from the number of the call. So a run that
        repeats this one sends the same jobs, and they do not run twice. Give a key where the order of calls may differ.

        Raises:
            SendError: it can never be sent, being too large for one; this job fails.
        """
        return self._children.send(self._execution, job, lane=lane, key=key, delay=delay or timedelta())


def _storable(text: str) -> str:
    """The text without what UTF-8 cannot express: a file's name may hold bytes of another encoding."""
    return str(text)[:_LONGEST_NOTE].encode("utf-8", "backslashreplace").decode("utf-8")
