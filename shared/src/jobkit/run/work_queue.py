"""Dramatiq's work queue with a dispatcher in it: its consumers put deliveries in, its worker threads get them."""

import logging
import threading
import time
from collections.abc import Callable
from queue import Empty
from typing import Any, Final

from dramatiq.broker import MessageProxy

from jobkit.effects import Steps, take
from jobkit.execution import Execution
from jobkit.run.dispatcher import LONGEST_AHEAD, MOST_AHEAD, Delivery, Dispatcher, Request, claim, drain, tidy
from jobkit.run.seams import Seams

#: Seconds between two looks at what waits for too long.
_LOOK: Final = LONGEST_AHEAD / 2

log = logging.getLogger(__name__)


#: A lock that a thread waits for; freed, it wakes that thread.
_Bell = Any  # Any: what threading.Lock() makes has no name on all versions of Python


class WorkQueue:
    """Has the methods of ``queue.Queue`` that Dramatiq uses.

    Args:
        dispatcher: Decides.
        seams: Asks the store.
        begin: Takes charge of a delivery.
        request: Says how to ask for its job.
        stopping: Set when the worker takes no more.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        seams: Seams,
        begin: Callable[[MessageProxy], Execution],
        request: Request,
        stopping: threading.Event,
    ) -> None:
        self._dispatcher = dispatcher
        self._seams = seams
        self._begin = begin
        self._request = request
        self._stopping = stopping
        self._lock = threading.Lock()
        self._idle: list[_Bell] = []  # of threads that wait for work: the last that came is woken first
        self._all_done = threading.Condition(self._lock)
        self._tidies = threading.Event()
        self._thread: threading.Thread | None = None
        self._lacks_thread = False  # which was logged
        self._back_soon = set[int]()  # threads with a job that is known to wait for nothing
        self.unfinished_tasks = 0

    def put(self, item: Any) -> None:  # Any: Dramatiq's own, which is ordered
        """Take in what a consumer has received."""
        delivery = Delivery(item, self._begin(item.message))
        with self._lock:  # in one step: a thread that is quick may have it done before it is counted
            self.unfinished_tasks += 1
            self._dispatcher.put(delivery)
            many = len(self._dispatcher) >= MOST_AHEAD
        # Who brings the next one wakes a thread for both; else the next look does.
        if many or not item.message.__dict__.get("more_follow") or not self._look_soon():
            self._wake()

    def get(self, timeout: float | None = None) -> Any:
        """Return what runs next; raises ``queue.Empty`` if nothing comes in time."""
        until = None if timeout is None else time.monotonic() + timeout
        self._back_soon.discard(threading.get_ident())
        while True:
            if not self._wait(until):
                if self._dispatcher.has_to_tidy and not self._has_thread:
                    self._tidy()
                raise Empty
            delivery = self._dispatcher.take()
            batch = [delivery] if delivery is not None else self._dispatcher.choose()
            if not batch:
                continue
            needs_claim = delivery is None and self._dispatcher.needs_claim(batch)
            if not needs_claim and self._dispatcher.knows_as_instant(batch[0]):
                self._back_soon.add(threading.get_ident())
            if self._dispatcher.has_work:
                self._wake()  # one wakes the next, as long as there is something
            if not needs_claim:
                return batch[0].item
            self._do(claim(self._dispatcher, batch, self._request))

    def get_nowait(self) -> Any:
        """Return something that has not begun, as the worker stops; raises ``queue.Empty``."""
        deliveries = take(drain(self._dispatcher), self._seams)
        if not deliveries:
            self._tidies.set()  # so that its thread ends
            raise Empty
        first, *others = deliveries
        for delivery in others:
            self._dispatcher.put(delivery)
        return first.item

    def task_done(self) -> None:
        """Note that one of those that were got has been processed."""
        with self._lock:
            self.unfinished_tasks -= 1
            if not self.unfinished_tasks:
                self._all_done.notify_all()

    def join(self) -> None:
        """Return once all that was put has been processed."""
        with self._lock:
            while self.unfinished_tasks:
                self._all_done.wait()

    def qsize(self) -> int:
        """Return how many wait."""
        return len(self._dispatcher)

    def note_run(self, actor: str, queue: str, seconds: float) -> None:
        """Note how long a job of the actor, from the queue, has run."""
        self._dispatcher.note_run(actor, queue, seconds)

    def is_quick(self, queue: str) -> bool:
        """Whether each of the last jobs from a queue was short."""
        return self._dispatcher.is_quick(queue)

    def wait_elsewhere(self) -> None:
        """Note that this thread waits for something other than a delivery: others see to what there is to do."""
        thread = threading.get_ident()
        if thread in self._back_soon:
            self._back_soon.discard(thread)
            if self._dispatcher.has_work:
                self._wake()

    def _wait(self, until: float | None) -> bool:
        """Return True once there is something to do, or False at that time."""
        with self._lock:
            while not self._dispatcher.has_work or self._stopping.is_set():
                left = -1 if until is None else until - time.monotonic()
                if until is not None and left <= 0:
                    return False
                self._park(left)
        return True

    def _wake(self) -> None:
        """Wake a thread, unless one is at work that will be back in no time: each further one only takes turns with it.

        Should it not come back, others are woken by the next look.
        """
        if self._back_soon and self._dispatcher.is_instant and self._look_soon():
            return
        if self._dispatcher.has_work:
            self._unpark()

    def _park(self, seconds: float) -> None:
        """Wait for work, with the lock held before and after; for ever if the time is negative."""
        bell = threading.Lock()
        bell.acquire()
        self._idle.append(bell)
        self._lock.release()
        try:
            bell.acquire(timeout=seconds)
        finally:
            self._lock.acquire()
            if bell in self._idle:
                self._idle.remove(bell)

    def _unpark(self) -> None:
        with self._lock:
            bell = self._idle.pop() if self._idle else None
        if bell is not None:  # without the lock, which the thread takes first
            bell.release()

    def _look_soon(self) -> bool:
        """Let a thread look soon at what waits; False if there is none, and none can be started.

        Then threads that find nothing to do look, and each further call tries to start one again.
        """
        if self._tidies.is_set():
            return True
        self._tidies.set()
        if self._has_thread:
            return True
        thread = threading.Thread(target=self._run, name="jobkit-claims", daemon=True)
        try:
            thread.start()
        except RuntimeError as refusal:  # of the operating system. The thread that comes by here must not end of it
            self._tidies.clear()
            if not self._lacks_thread:
                log.warning("claims are looked after by the worker threads, less often: %s", refusal)
            self._lacks_thread = True
            return False
        self._thread, self._lacks_thread = thread, False
        return True

    @property
    def _has_thread(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _do(self, steps: Steps[None]) -> None:
        """Take steps of the dispatcher, and see to what they leave."""
        take(steps, self._seams)
        if self._dispatcher.has_to_tidy:
            self._look_soon()

    def _run(self) -> None:
        while not self._stopping.is_set() or self._dispatcher.has_to_tidy:  # a worker in a host leaves no thread
            self._tidies.wait()
            time.sleep(_LOOK)
            self._tidies.clear()
            if not self._tidy():
                self._tidies.set()
            elif self._dispatcher.has_work:
                self._back_soon.clear()  # they were not: from now on others are woken at once again
                self._unpark()
                self._tidies.set()

    def _tidy(self) -> bool:
        """Look after what waits for too long; False if that has failed."""
        try:
            self._do(tidy(self._dispatcher, self._request))
        except Exception:  # nobody else looks after what waits
            log.exception("what was claimed ahead could not be looked after now")
            return False
        return True
