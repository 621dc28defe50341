"""Keeping the leases of the running jobs of one process."""

import logging
import math
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from jobkit.errors import LeaseLost, StoreRefused, StoreUnavailable
from jobkit.interrupts import Interrupts
from jobkit.refusals import Refusals
from jobkit.store.base import JobStore, Lease

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

    A job whose lease has gone to another worker is interrupted: its result would not be recorded. It asks the
    store also when no job runs, so that it knows of every outage that is long enough for leases to run out.
    """

    def __init__(
        self,
        store: JobStore,
        interrupts: Interrupts,
        ttl: timedelta,
        refusals: Refusals | None = None,
        *,
        tell: Callable[[BaseException], None] = lambda _outage: None,
    ) -> None:
        self._tell = tell  # called with each outage, as often as it is met
        self._store = store
        self._interrupts = interrupts
        self._ttl = ttl
        self._refusals = refusals
        self._kept: dict[Lease, int | None] = {}
        self._lock = threading.Lock()
        self._lapsing: set[Lease] = set()
        self._away_until = 0.0  # by the monotonic clock
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Watch the store, and renew what is kept."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():  # threads do not survive a fork
                self._thread = threading.Thread(target=self._run, name="jobkit-leases", daemon=True)
                self._thread.start()

    def keep(self, lease: Lease, thread: int) -> None:
        """Renew ``lease``, whose job runs in ``thread``, until it is forgotten."""
        with self._lock:
            self._kept[lease] = thread
        self.start()

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

    def store_was_away(self) -> bool:
        """Whether it is away, or came back so recently that owners elsewhere may not have renewed their leases yet."""
        return time.monotonic() < self._away_until

    def forget(self, lease: Lease) -> None:
        """Renew it no more."""
        with self._lock:
            self._kept.pop(lease, None)
            self._lapsing.discard(lease)

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
        """Hand back the jobs that still run, shortly before their process ends.

        They are those that no interrupt reaches, as their code does not come back to the interpreter. Without this,
        they would count as crashed.
        """
        for lease in self.stop():
            self.forget(lease)
            try:
                self._store.release(lease, delay=EXIT_TIME, counted=False)
            except StoreUnavailable as outage:
                log.warning("the lease of a job that is handed back ends by itself: %s", outage)
                return  # the others would have to wait as long

    def _run(self) -> None:
        steady, answered = self._ttl.total_seconds() / 3, True
        while not self._stopped.wait(steady if answered else min(RETRY_RENEWAL, steady)):
            answered = self._renew(say_so=answered)

    def _renew(self, *, say_so: bool) -> bool:
        """Whether the store has answered; ``say_so`` in the log if it does not."""
        with self._lock:
            kept = dict(self._kept)
        try:
            if not kept:
                self._store.ping()
            answers = self._store.renew(list(kept), self._ttl)
        except StoreUnavailable as outage:
            self._away_until = math.inf
            self._tell(outage)
            self._announce(outage, say_so=say_so)
            return False
        except Exception:  # the leases of all jobs depend on this thread
            log.exception("leases cannot be renewed now")
            return False
        if self._refusals is not None:
            self._refusals.clear(_SOURCE)
        if self._away_until == math.inf:
            self._away_until = time.monotonic() + HEAD_START
        for (lease, thread), held in zip(kept.items(), answers, strict=True):
            if not held and thread is not None:
                self._lose(lease, thread)
        return True

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
