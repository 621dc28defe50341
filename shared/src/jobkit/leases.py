"""Keeping the leases of the running jobs of one process."""

import logging
import math
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import timedelta
from itertools import islice
from typing import Final

from jobkit.errors import LeaseLost, StoreRefused, StoreUnavailable
from jobkit.interrupts import Interrupts
from jobkit.process import Identity, take
from jobkit.refusals import Refusals
from jobkit.store.base import MOST_NAMED, JobKey, JobStore, Lease, Process, process_of

#: What refuses us, as ``Refusals`` names it.
_SOURCE: Final = "the leases of jobs"

#: Seconds until a renewal that failed is tried again: once the store is back, it should come before anybody's claim.
RETRY_RENEWAL = 0.5

#: Seconds. After an outage of the store, the owners of running jobs renew their leases before anybody asks for one.
HEAD_START = 3 * RETRY_RENEWAL

#: Seconds. A job that is interrupted, and comes back to the interpreter, has handed itself back by then.
INTERRUPT_TIME = 0.5

#: How long a process takes to end after its worker has, with telemetry to flush.
EXIT_TIME = timedelta(seconds=5)

log = logging.getLogger(__name__)


class LeaseKeeper:
    """Renews all leases of this process in one call, three times in a lease's life, and during an outage more often.

    That call is the heartbeat of the process, so it is made also when no job runs. A job whose lease has gone to
    another worker is interrupted: its result would not be recorded.

    Args:
        store: Keeps the leases.
        interrupts: Reaches the running jobs.
        ttl: How long a lease lasts without renewal.
        describe: Says what is to be known of the process.
        refusals: Told when the store refuses a renewal.
        tell: Called with each outage, as often as it is met.
        clock: Seconds that only rise.
    """

    def __init__(
        self,
        store: JobStore,
        interrupts: Interrupts,
        ttl: timedelta,
        describe: Callable[[Identity], Process],
        refusals: Refusals | None = None,
        *,
        tell: Callable[[BaseException], None] = lambda _outage: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._interrupts = interrupts
        self._ttl = ttl
        self._describe = describe
        self._refusals = refusals
        self._tell = tell
        self._clock = clock
        self._identity = Identity()
        self._kept: dict[Lease, int | None] = {}
        self._cells: dict[Lease, int] = {}  # of jobs that have begun
        self._lock = threading.Lock()
        self._lapsing: set[Lease] = set()
        self._away_until = -math.inf
        self._answered_at = clock()
        self._is_answered = True
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to beat, and renew what is kept. Whoever starts is a process of a new name."""
        with self._lock:
            runs = self._thread is not None and self._thread.is_alive()  # threads do not survive a fork
            if not runs or self._stopped.is_set():  # one that was stopped may be in its last call still
                self._identity, self._answered_at = take(), self._clock()
                self._is_answered, self._stopped = True, threading.Event()
                self._thread = threading.Thread(target=self._run, name="jobkit-leases", daemon=True)
                self._thread.start()

    def owner(self) -> str:
        """Return the name under which a delivery of this process asks for its lease."""
        return self._identity.owner()

    def recent_deaths(self) -> int:
        """How many processes beside this one have died of late."""
        return self._identity.begun.deaths if self._identity.begun is not None else 0

    def keep(self, lease: Lease, thread: int) -> None:
        """Renew ``lease``, whose job is to run in ``thread``, until it is forgotten."""
        with self._lock:
            self._kept[lease] = thread

    def run_begins(self, lease: Lease) -> None:
        """Should this process die from here on, that counts as a crash of the job."""
        begun, owner = self._identity.begun, process_of(lease.owner)
        if begun is not None and owner is not None and lease not in self._cells:
            self._cells[lease] = begun.note(owner[1])

    def run_has_ended(self, lease: Lease) -> None:
        """Renew it further, but interrupt nothing for it: its job is being recorded, which frees the lease."""
        with self._lock:
            if lease in self._kept:
                self._kept[lease] = None

    def let_lapse(self, lease: Lease) -> None:
        """Renew ``lease`` until this process is killed, whatever ``stop`` says: its job then counts a crash."""
        with self._lock:
            if lease in self._kept:
                self._lapsing.add(lease)

    def runs(self, job: JobKey) -> bool:
        """Whether this process runs the job."""
        with self._lock:
            return any(lease.job == job for lease in self._kept)

    def store_was_away(self) -> bool:
        """Whether nothing may be claimed now.

        It is away, or came back so recently that owners elsewhere may not have renewed their leases yet; or this
        process was frozen, and does not know yet which of its own are left.
        """
        now = self._clock()
        return now < self._away_until or now - self._answered_at > self._ttl.total_seconds()

    def forget(self, lease: Lease) -> None:
        """Renew it no more."""
        with self._lock:
            self._kept.pop(lease, None)
            self._lapsing.discard(lease)
            cell = self._cells.pop(lease, None)
        if cell is not None and self._identity.begun is not None:
            self._identity.begun.erase(cell)

    def stop(self) -> list[Lease]:
        """End the thread; returns the leases of jobs that still run after a moment in which an interrupt can land.

        With a lease that is to lapse, the thread goes on: nobody else may run that job before this process has ended.
        """
        if not self._lapsing:
            self._stopped.set()
        deadline = time.monotonic() + INTERRUPT_TIME
        while self._kept and time.monotonic() < deadline:
            time.sleep(0.01)
        with self._lock:
            return [lease for lease in self._kept if lease not in self._lapsing]

    def abandon(self) -> None:
        """Hand back the jobs that still run, shortly before their process ends, and say that it does.

        They are those that no interrupt reaches, as their code does not come back to the interpreter. Without this,
        they would count as crashed.
        """
        try:
            for lease in self.stop():
                self.forget(lease)
                self._store.release(lease, delay=EXIT_TIME, counted=False)
            if not self._lapsing:
                described = self._describe(self._identity)
                self._store.declare_dead(described.name, described.service, ())
        except StoreUnavailable as outage:
            log.warning("what this process holds ends by itself: %s", outage)  # the others would have to wait as long

    def beat(self) -> float:
        """Renew all leases, and say that this process lives; return the seconds until that is to be done again."""
        self._is_answered = self._renew(say_so=self._is_answered)
        steady = self._ttl.total_seconds() / 3
        return steady if self._is_answered else min(RETRY_RENEWAL, steady)

    def _run(self) -> None:
        stopped = self._stopped
        while not stopped.is_set():
            stopped.wait(self.beat())

    def _renew(self, *, say_so: bool) -> bool:
        """Whether the store has answered; ``say_so`` in the log if it does not."""
        with self._lock:
            kept = dict(self._kept)
        asked_at = self._clock()
        try:
            answers = self._store.renew(list(kept), self._ttl, self._heartbeat(kept))
        except StoreUnavailable as outage:
            self._away_until = math.inf
            self._tell(outage)
            self._announce(outage, say_so=say_so)
            return False
        except Exception:  # the leases of all jobs depend on this thread
            log.exception("leases cannot be renewed now")
            return False
        was_silent = asked_at - self._answered_at > self._ttl.total_seconds()  # frozen, maybe, through an outage
        self._answered_at = asked_at
        if self._refusals is not None:
            self._refusals.clear(_SOURCE)
        if was_silent or self._away_until == math.inf:
            self._away_until = self._clock() + HEAD_START
        for (lease, thread), held in zip(kept.items(), answers, strict=True):
            if not held and thread is not None:
                self._lose(lease, thread)
        return True

    def _heartbeat(self, kept: Collection[Lease]) -> Process:
        running = tuple(f"{lease.job.actor} {lease.job.id}" for lease in islice(kept, MOST_NAMED))
        return replace(self._describe(self._identity), running=running)

    def _announce(self, outage: StoreUnavailable, *, say_so: bool) -> None:
        if isinstance(outage, StoreRefused) and self._refusals is not None:
            self._refusals.report(_SOURCE, outage)
        elif say_so:
            level = logging.ERROR if isinstance(outage, StoreRefused) else logging.WARNING
            log.log(level, "leases cannot be renewed now: %s", outage)

    def _lose(self, lease: Lease, thread: int) -> None:
        with self._lock:  # so that the job cannot end, and the next one begin, before it is interrupted
            if self._kept.get(lease) == thread:
                log.error("the lease of %s %s has gone to another worker", lease.job.actor, lease.job.id)
                self._interrupts.interrupt(thread, LeaseLost)
