"""Whether the threads of a worker do their work."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dramatiq import Worker

from jobkit.broker.consumer import RabbitmqConsumer

#: A fraction of the bound. After that, an idle consumer is asked whether messages are ready, and the broker whether it
#: answers if a consumer is not subscribed.
_ASK_AFTER: Final = 0.25

#: Seconds that an answer of the broker is true for. It is asked every few seconds if there is a reason to.
_FRESH: Final = 20.0


class Reach:
    """Tells whether the broker answers. It connects in a thread of its own, because that takes its time.

    Args:
        connect: Raises if the broker cannot be reached.
    """

    def __init__(self, connect: Callable[[], None]) -> None:
        self._connect = connect
        self._thread: threading.Thread | None = None
        self._answered: bool | None = None
        self._answered_at = -math.inf

    def __call__(self) -> bool | None:
        """Return what was found out lately, None if that is nothing, and begin to find it out again."""
        if self._thread is not None and self._thread.is_alive():
            return None
        answered = self._answered if time.monotonic() - self._answered_at < _FRESH else None
        self._thread = threading.Thread(target=self._try, name="jobkit-health-probe", daemon=True)
        self._thread.start()
        return answered

    def _try(self) -> None:
        try:
            self._connect()
            self._answered = True
        except Exception:  # of whatever kind: a consumer cannot connect either
            self._answered = False
        self._answered_at = time.monotonic()


@dataclass(slots=True)
class _Queue:
    """What was seen of one queue. Times are of the monotonic clock."""

    subscribed_at: float
    taken_at: float
    full_at: float  # the last time that all which may be prefetched was running
    running: int = 0
    ready_since: float | None = None


class Vitals:
    """Watches the threads of one worker.

    A worker is unhealthy if one of its threads has died. It is unhealthy, too, if for ``stall`` seconds

    - a consumer is not subscribed, or its thread does not come by, though the broker answers;
    - messages are ready in a queue and a thread is free, but none is taken from it.

    Busy threads, outages and jobs that wait for a breaker are healthy: a restart would not help.

    Args:
        worker: Dramatiq's.
        stall: Seconds.
        answers: Whether the broker does, None while that is not known. Asked only if a consumer is not subscribed.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        worker: Worker,
        stall: float,
        answers: Callable[[], bool | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._worker = worker
        self._stall = stall
        self._answers = answers
        self._clock = clock
        self._lock = threading.Lock()
        self._busy: dict[int, str] = {}  # the queue of the job that a thread has
        self._full_at = -math.inf  # the last time that all threads had a job
        self._queues: dict[str, _Queue] = {}
        self._outage_at = -math.inf  # the last time that the broker did not answer
        self._unsubscribed: set[str] = set()  # though the broker answers

    def began(self, queue: str) -> None:
        """This thread has taken a job; called by the thread."""
        with self._lock:
            seen = self._seen(queue)
            seen.taken_at = self._clock()
            seen.running += 1
            self._busy[threading.get_ident()] = queue
            self._note_what_is_full(queue)

    def ended(self, queue: str) -> None:
        """This thread is free again; called by the thread."""
        with self._lock:
            if self._busy.get(threading.get_ident()) == queue:
                self._note_what_is_full(queue)
                self._seen(queue).running -= 1
                del self._busy[threading.get_ident()]

    def problems(self) -> list[str]:
        """Return what is wrong, a line for each."""
        consumers = self._worker.consumers
        threads = (*self._worker.workers, *consumers.values())
        dead = sorted({type(thread).__name__ for thread in threads if not thread.is_alive()})
        found = [f"a {kind} of this worker has died" for kind in dead]
        with self._lock:
            for queue, thread in consumers.items():
                self._look(queue, thread.consumer)
            found += [problem for queue in consumers if (problem := self._stalled(queue))]
            self._judge({queue: self._seen(queue).subscribed_at for queue in consumers})
        return found + [f"the consumer of {q} is not subscribed, though the broker answers" for q in self._unsubscribed]

    def _look(self, queue: str, consumer: object) -> None:
        seen, now = self._seen(queue), self._clock()
        if not isinstance(consumer, RabbitmqConsumer):  # not made yet
            return
        pulse = consumer.pulse
        seen.subscribed_at = max(seen.subscribed_at, pulse.beat_at)
        seen.taken_at = max(seen.taken_at, pulse.taken_at)
        idle = now - seen.taken_at > self._stall * _ASK_AFTER
        if idle and pulse.ready:
            seen.ready_since = seen.ready_since or now
        else:
            seen.ready_since = None
        pulse.asked = pulse.asked or idle

    def _judge(self, subscribed_at: dict[str, float]) -> None:
        """Tell consumers that do not work from an outage."""
        now = self._clock()
        suspects = {queue for queue, at in subscribed_at.items() if now - at > self._stall * _ASK_AFTER}
        answers = self._answers() if suspects else None
        if answers is False:
            self._outage_at = now
        silent = {queue for queue in suspects if now - max(subscribed_at[queue], self._outage_at) > self._stall}
        self._unsubscribed = silent if answers else self._unsubscribed & silent

    def _stalled(self, queue: str) -> str:
        seen, now = self._seen(queue), self._clock()
        if seen.ready_since is None or self._is_full(queue):
            return ""
        since = max(seen.ready_since, seen.taken_at, seen.full_at, self._full_at)
        if now - since <= self._stall:
            return ""
        return f"messages are ready in {queue} and a thread is free, but none has been taken for {self._stall:g} s"

    def _seen(self, queue: str) -> _Queue:
        if queue not in self._queues:
            now = self._clock()
            self._queues[queue] = _Queue(now, now, -math.inf)
        return self._queues[queue]

    def _note_what_is_full(self, queue: str) -> None:
        if len(self._busy) >= self._worker.worker_threads:
            self._full_at = self._clock()
        if self._seen(queue).running >= self._prefetch(queue):
            self._seen(queue).full_at = self._clock()

    def _is_full(self, queue: str) -> bool:
        return len(self._busy) >= self._worker.worker_threads or self._seen(queue).running >= self._prefetch(queue)

    def _prefetch(self, queue: str) -> float:
        thread = self._worker.consumers.get(queue)
        return thread.consumer.prefetch if thread and isinstance(thread.consumer, RabbitmqConsumer) else math.inf
