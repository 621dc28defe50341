"""How observations reach their observers: on one thread, behind a queue with a bound."""

import logging
import threading
import time
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Final

from jobkit import telemetry
from jobkit.observers.observer import Observation, Observer

#: Observations that wait for the thread. Further ones are dropped: a hook that hangs must not fill the memory.
MOST_WAITING: Final = 1_000

log = logging.getLogger(__name__)


class Delivery:
    """Calls the hooks of observers, one after the other. What a hook raises is logged."""

    def __init__(self) -> None:
        # It has no bound of its own, but no lock in Python either, which an interrupt on Python 3.11 could leave taken.
        self._waiting: SimpleQueue[tuple[Sequence[Observer], Observation] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_dropping = False

    def start(self) -> None:
        """Start the thread; what was told before is waiting for it."""
        if self._thread is None or not self._thread.is_alive():  # threads do not survive a fork
            self._thread = threading.Thread(target=self._run, name="jobkit-observers", daemon=True)
            self._thread.start()

    def tell(self, observers: Sequence[Observer], observation: Observation) -> None:
        """Let the observers be told, later. Drops and counts the observation if too many wait."""
        if self._waiting.qsize() < MOST_WAITING:
            self._waiting.put((observers, observation))
            return
        telemetry.observation_dropped(observation.event)
        if not self._is_dropping:
            self._is_dropping = True
            log.error("observers are too slow: %d events wait, and further ones are dropped", MOST_WAITING)

    def stop(self, limit: float) -> None:
        """Return when all that waits has been told, or after ``limit`` seconds. The rest is dropped and counted."""
        thread = self._thread
        if thread is None:
            return
        deadline = time.monotonic() + limit
        self._waiting.put(None)
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            log.error("observers did not return in %g s: the last events, up to %d, are lost", limit, self._drain())

    def _drain(self) -> int:
        """Drop what waits; return how much it was."""
        dropped = 0
        while not self._waiting.empty():
            item = self._waiting.get()
            if item is not None:
                dropped += 1
                telemetry.observation_dropped(item[1].event)
        self._waiting.put(None)
        return dropped

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            observers, observation = item
            for observer in observers:
                self._call(observer, observation)
            if self._waiting.empty():
                self._is_dropping = False

    @staticmethod
    def _call(observer: Observer, observation: Observation) -> None:
        try:
            getattr(observer, observation.event)(observation)
        except BaseException:  # somebody's code, which may raise SystemExit too; this thread goes on
            run = observation.context
            of = f" of {run.actor} {run.job_id}" if run is not None else ""
            log.exception("%s could not be told: %s%s", type(observer).__name__, observation.event, of)
